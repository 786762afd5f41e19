//! Pings as flows: an echo request's identifier (RFC 792, RFC 4443 §4) stands for a client's port, and the server
//! has none.

use super::packet::{Payload, TcpFlags};
use super::rewrite::Translation;
use super::transport::Transport;
use super::{be16, checksum, put16};
use crate::flow::{Family, Key, Protocol};

const CHECKSUM_AT: usize = 2;
const IDENTIFIER_AT: usize = 4;

/// What an echo request of at least eight bytes says.
pub(super) fn request(message: &[u8]) -> Transport {
    (Payload::EchoRequest, TcpFlags::NONE, u32::from(be16(message, IDENTIFIER_AT)) << 16)
}

/// What an echo reply of at least eight bytes says.
pub(super) fn reply(message: &[u8]) -> Transport {
    (Payload::Transport(Protocol::Icmp), TcpFlags::NONE, be16(message, IDENTIFIER_AT).into())
}

/// The ports of an echo request that an error quotes; `message` has at least eight bytes.
pub(super) fn quoted(message: &[u8]) -> u32 {
    u32::from(be16(message, IDENTIFIER_AT)) << 16
}

/// Gives a request or a reply the identifier that `to` has as its one port.
pub(super) fn translate<K: Key>(message: &mut [u8], to: &Translation<K>) {
    set_identifier(message, to.key.port_word(), difference(to));
}

/// What a translation adds to the checksum: ICMPv6's covers the addresses too.
pub(super) fn difference<K: Key>(to: &Translation<K>) -> u16 {
    match K::FAMILY {
        Family::V4 => checksum::add(to.l4_difference, !to.l3_difference),
        Family::V6 => to.l4_difference,
    }
}

/// Gives a message of at least eight bytes the identifier that is one of `ports`; the other is zero.
pub(super) fn set_identifier(message: &mut [u8], ports: u32, difference: u16) {
    let adjusted = checksum::adjust(be16(message, CHECKSUM_AT), difference);
    put16(message, CHECKSUM_AT, adjusted);
    put16(message, IDENTIFIER_AT, (ports >> 16 | ports) as u16);
}
