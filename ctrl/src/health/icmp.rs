//! Pings (RFC 792, RFC 4443 §4).

use super::{Fault, socket};
use std::net::IpAddr;

const LEN: usize = 16;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Waits for the answer to one ping.
pub(super) async fn ping(target: IpAddr, source: Option<IpAddr>) -> Result<(), Fault> {
    let socket = socket::pings(target, source)?;
    let (request, reply) =
        if target.is_ipv4() { (ECHO_REQUEST, ECHO_REPLY) } else { (ECHO_REQUEST_V6, ECHO_REPLY_V6) };
    let mut message = [0; LEN];
    message[0] = request;
    // Identifier, sequence number and payload: whose answer it is.
    fastrand::fill(&mut message[4..]);
    if target.is_ipv4() {
        smoltcp::wire::Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
    }
    socket.send(&message).await?;
    let mut room = [0; 256];
    loop {
        let len = socket.recv(&mut room).await?;
        // An IPv4 raw socket gives the header too.
        let header = if target.is_ipv4() { usize::from(room[0] & 0x0f) * 4 } else { 0 };
        let Some(answer) = room.get(header..len) else { continue };
        if answer.len() >= LEN && answer[0] == reply && answer[4..LEN] == message[4..] {
            return Ok(());
        }
    }
}
