//! Whether a server answers a question for a name.

use super::Fault;
use super::socket::{self, Aim};
use crate::dns;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use std::net::IpAddr;
use std::str::FromStr;
use tokio::io::AsyncWriteExt;

/// Asks once, with `preface` before the question. Good is an answer without error, and with `expect` one that has that address.
pub(super) async fn ask(
    aim: &Aim<'_>,
    (name, wants_ipv6): (&str, bool),
    expect: Option<IpAddr>,
    preface: &[u8],
) -> Result<(), Fault> {
    let mut name =
        Name::from_str(name).map_err(|error| Fault::Here(format!("`{name}` is not a name: {error}")))?;
    name.set_fqdn(true);
    let kind = if wants_ipv6 { RecordType::AAAA } else { RecordType::A };
    let question = dns::question(name.clone(), kind);
    let (socket, _held) = socket::datagrams(aim).await?;
    let mut answer = dns::ask(&socket, &question, preface).await?;
    if answer.metadata.truncation && expect.is_some() {
        // RFC 7766 §5: the whole answer is had by TCP.
        let (mut stream, _held) = socket::connect(aim).await?;
        stream.write_all(preface).await?;
        answer = dns::ask_by_stream(&mut stream, &question).await?;
    }
    if answer.metadata.response_code != ResponseCode::NoError {
        return Err(Fault::Server(format!("it answered {}", answer.metadata.response_code)));
    }
    match expect {
        Some(wanted) if !dns::addresses(&answer, &name, kind).0.contains(&wanted) => {
            Err(Fault::Server(format!("{wanted} is not among its answers")))
        }
        _ => Ok(()),
    }
}
