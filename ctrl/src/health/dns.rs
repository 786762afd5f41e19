//! Questions for names (RFC 1035) over UDP.

use super::socket::{self, Aim};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::net::IpAddr;
use std::str::FromStr;

/// As much as a datagram without EDNS has, and some.
const ANSWER_MAX: usize = 4_096;

/// Asks once. Good is an answer without error, and with `expect` one that has that address.
pub(super) async fn ask(
    aim: &Aim<'_>,
    (name, wants_ipv6): (&str, bool),
    expect: Option<IpAddr>,
) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    let name = Name::from_str(name).map_err(|error| format!("`{name}` is no name: {error}"))?;
    let kind = if wants_ipv6 { RecordType::AAAA } else { RecordType::A };
    let mut question = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    let bytes = question.to_vec().map_err(|error| error.to_string())?;
    let (socket, _pass) = socket::datagrams(aim).await.map_err(says)?;
    socket.send(&bytes).await.map_err(says)?;
    let mut room = vec![0; ANSWER_MAX];
    loop {
        let len = socket.recv(&mut room).await.map_err(says)?;
        let Ok(answer) = Message::from_vec(&room[..len]) else { continue };
        if answer.metadata.id != question.metadata.id || answer.metadata.message_type != MessageType::Response
        {
            continue;
        }
        if answer.metadata.response_code != ResponseCode::NoError {
            return Err(format!("it answered {}", answer.metadata.response_code));
        }
        let mut addresses = answer.answers.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        });
        return match expect {
            Some(wanted) if !addresses.any(|address| address == wanted) => {
                Err(format!("{wanted} is not among its answers"))
            }
            _ => Ok(()),
        };
    }
}
