//! Whether a server answers a question for a name.

use super::socket::{self, Aim};
use crate::dns;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use std::net::IpAddr;
use std::str::FromStr;

/// Asks once. Good is an answer without error, and with `expect` one that has that address.
pub(super) async fn ask(
    aim: &Aim<'_>,
    (name, wants_ipv6): (&str, bool),
    expect: Option<IpAddr>,
) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    let name = Name::from_str(name).map_err(|error| format!("`{name}` is no name: {error}"))?;
    let question = dns::question(name, if wants_ipv6 { RecordType::AAAA } else { RecordType::A });
    let (socket, _pass) = socket::datagrams(aim).await.map_err(says)?;
    let answer = dns::ask(&socket, &question).await.map_err(says)?;
    if answer.metadata.response_code != ResponseCode::NoError {
        return Err(format!("it answered {}", answer.metadata.response_code));
    }
    match expect {
        Some(wanted) if !answer.answers.iter().filter_map(dns::address).any(|address| address == wanted) => {
            Err(format!("{wanted} is not among its answers"))
        }
        _ => Ok(()),
    }
}
