//! Questions to a resolver, over UDP and, where an answer is cut, over TCP (RFC 1035, RFC 7766).

use crate::dns;
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const PAYLOAD: u16 = 1_232;

/// The answer to one question; an error for whatever is no good answer, and for names that are not there.
pub(super) async fn ask(resolver: SocketAddr, name: &Name, kind: RecordType) -> Result<Message, String> {
    let says = |error: &dyn std::fmt::Display| format!("resolver {resolver}: {error}");
    let mut question = dns::question(name.clone(), kind);
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    question.set_edns(edns);
    let any = if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.map_err(|error| says(&error))?;
    socket.connect(resolver).await.map_err(|error| says(&error))?;
    let answer = dns::ask(&socket, &question).await.map_err(|error| says(&error))?;
    let answer = if answer.metadata.truncation {
        by_stream(resolver, &question).await.map_err(|error| says(&error))?
    } else {
        answer
    };
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(answer),
        code => Err(format!("resolver {resolver}: {name}: {code}")),
    }
}

async fn by_stream(resolver: SocketAddr, question: &Message) -> std::io::Result<Message> {
    let question = question.to_vec().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    stream.write_u16(question.len() as u16).await?;
    stream.write_all(&question).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(std::io::Error::other)
}
