//! Transport headers, as both families carry them.

use super::packet::{Payload, TcpFlags};
use super::{be16, be32};
use crate::drop::DropReason;
use crate::flow::Protocol;

/// What a transport header says: the payload's kind, flags, and both ports in one word.
pub(super) type Transport = (Payload, TcpFlags, u32);

#[inline]
pub(super) fn tcp(body: &[u8]) -> Result<Transport, DropReason> {
    let Some(header) = body.first_chunk::<20>() else {
        return Err(DropReason::TcpShort);
    };
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 || header_len > body.len() {
        return Err(DropReason::TcpHeaderLength);
    }
    let flags = TcpFlags::from_octet(header[13]);
    if !flags.is_valid() {
        return Err(DropReason::TcpFlags);
    }
    Ok((Payload::Transport(Protocol::Tcp), flags, be32(header, 0)))
}

#[inline]
pub(super) fn udp(body: &[u8]) -> Result<Transport, DropReason> {
    let Some(header) = body.first_chunk::<8>() else {
        return Err(DropReason::UdpShort);
    };
    let len = usize::from(be16(header, 4));
    if len < 8 || len > body.len() {
        return Err(DropReason::UdpLength);
    }
    Ok((Payload::Transport(Protocol::Udp), TcpFlags::NONE, be32(header, 0)))
}
