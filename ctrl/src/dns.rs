//! Questions for names (RFC 1035), and what of an answer is about the name that was asked for.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;

/// More than anybody asks for by datagram.
const ANSWER_MAX: usize = 4_096;

/// The question for a name, with recursion.
pub(crate) fn question(name: Name, kind: RecordType) -> Message {
    let mut question = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    question
}

/// Sends a question by a connected socket, with `preface` before it, and waits for its answer.
///
/// # Errors
/// Those of the socket; the answer may say one of its own.
pub(crate) async fn ask(socket: &UdpSocket, question: &Message, preface: &[u8]) -> io::Result<Message> {
    let question_bytes = question.to_vec().map_err(io::Error::other)?;
    socket.send(&[preface, &question_bytes].concat()).await?;
    hear(socket, question).await
}

/// Waits for the answer to a question.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn hear(socket: &UdpSocket, question: &Message) -> io::Result<Message> {
    let mut room = [0; ANSWER_MAX];
    loop {
        let len = socket.recv(&mut room).await?;
        match Message::from_vec(&room[..len]) {
            Ok(answer)
                if answer.metadata.id == question.metadata.id
                    && answer.metadata.message_type == MessageType::Response =>
            {
                return Ok(answer);
            }
            _ => {}
        }
    }
}

/// Sends a question over a stream (RFC 7766), and waits for its answer.
///
/// # Errors
/// Those of the stream, or when what comes is no message.
pub(crate) async fn ask_by_stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    question: &Message,
) -> io::Result<Message> {
    let bytes = question.to_vec().map_err(io::Error::other)?;
    // In one segment: some servers want that.
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(io::Error::other)
}

/// The records of a kind that an answer has of `name`, or of the name that its own chain of CNAMEs leads to; no other's
/// (RFC 2181 §5.4.1). With the time for which all of that holds, in seconds.
pub(crate) fn records<'a>(answer: &'a Message, name: &Name, kind: RecordType) -> (Vec<&'a Record>, u32) {
    /// Longer chains lead nowhere.
    const CHAIN_MAX: usize = 16;
    let (mut owner, mut ttl) = (name, u32::MAX);
    for _ in 0..CHAIN_MAX {
        let next = answer.answers.iter().filter(|record| record.name == *owner).find_map(|record| {
            match &record.data {
                RData::CNAME(alias) => Some((&alias.0, record.ttl)),
                _ => None,
            }
        });
        let Some((alias, of_alias)) = next else { break };
        (owner, ttl) = (alias, ttl.min(of_alias));
    }
    let is_wanted = |record: &&Record| {
        record.name == *owner && record.record_type() == kind && record.dns_class == DNSClass::IN
    };
    let found = answer.answers.iter().filter(is_wanted);
    let found: Vec<_> = found.collect();
    let ttl = found.iter().fold(ttl, |ttl, record| ttl.min(record.ttl));
    (found, ttl)
}

/// [`records`] that are addresses.
pub(crate) fn addresses(answer: &Message, name: &Name, kind: RecordType) -> (Vec<IpAddr>, u32) {
    let (found, ttl) = records(answer, name, kind);
    (found.into_iter().filter_map(address).collect(), ttl)
}

/// The address that a record has, if it is an A or AAAA.
pub(crate) fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::{A, CNAME};
    use std::str::FromStr;

    #[test]
    fn only_what_the_names_own_chain_leads_to_is_the_names() {
        let name = |text: &str| Name::from_str(text).unwrap();
        let mut answer = question(name("www.lab."), RecordType::A);
        let a = |owner: &str, last: u8, ttl| {
            Record::from_rdata(name(owner), ttl, RData::A(A::new(10, 0, 0, last)))
        };
        let cname =
            |owner: &str, to: &str, ttl| Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(to))));
        answer.answers = vec![
            a("other.lab.", 66, 5),
            cname("WWW.lab.", "two.lab.", 300),
            cname("two.lab.", "three.lab.", 20),
            a("three.lab.", 1, 60),
            a("Three.lab.", 2, 60),
            a("www.lab.", 67, 60),
            cname("loop.lab.", "loop.lab.", 60),
        ];
        let of = |owner: &str| addresses(&answer, &name(owner), RecordType::A);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert_eq!(of("www.lab."), (vec![address(1), address(2)], 20));
        assert!(of("nobody.lab.").0.is_empty() && of("loop.lab.").0.is_empty());
    }
}
