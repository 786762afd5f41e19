//! Questions for names (RFC 1035) over datagrams.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io;
use std::net::IpAddr;
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

/// Sends a question by a connected socket, and waits for its answer.
///
/// # Errors
/// Those of the socket; the answer may say one of its own.
pub(crate) async fn ask(socket: &UdpSocket, question: &Message) -> io::Result<Message> {
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
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

/// The address that a record has, if it is an A or AAAA.
pub(crate) fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}
