//! Questions to a resolver, over UDP and, where an answer is cut, over TCP (RFC 1035, RFC 7766).

use crate::dns;
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};

const PAYLOAD: u16 = 1_232;
/// How often a question is sent before there is no answer: datagrams are lost (RFC 1035 §4.2.1).
const TRIES: u32 = 3;
/// How long each is waited for.
const PAUSE: Duration = Duration::from_secs(1);

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
    let mut answer = persist(&socket, &question).await.map_err(|error| says(&error))?;
    // A server that is older than EDNS (RFC 6891 §7).
    if matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp) {
        question = dns::question(name.clone(), kind);
        answer = persist(&socket, &question).await.map_err(|error| says(&error))?;
    }
    if answer.metadata.truncation {
        let whole = async { dns::ask_by_stream(&mut TcpStream::connect(resolver).await?, &question).await };
        let whole = tokio::time::timeout(PAUSE * TRIES, whole).await;
        answer = whole.map_err(|_| says(&"no answer by TCP"))?.map_err(|error| says(&error))?;
    }
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(answer),
        code => Err(format!("resolver {resolver}: {name} {kind}: {code}")),
    }
}

/// Asks again while there is no answer.
async fn persist(socket: &UdpSocket, question: &Message) -> std::io::Result<Message> {
    for _ in 1..TRIES {
        if let Ok(answer) = tokio::time::timeout(PAUSE, dns::ask(socket, question, b"")).await {
            return answer;
        }
    }
    let last = tokio::time::timeout(PAUSE, dns::ask(socket, question, b"")).await;
    let silence = || std::io::Error::other(format!("no answer to {TRIES} questions"));
    last.unwrap_or_else(|_| Err(silence()))
}
