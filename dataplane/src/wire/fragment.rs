//! Pieces of datagrams (RFC 791 §3.2, RFC 8200 §4.5).

use super::packet::{Packet, Payload, TcpFlags};
use super::{ETHERNET_LEN, be16, be32};
use crate::drop::DropReason;
use crate::flow::{Key, Protocol};

/// Where a piece stands in its datagram; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The identification that the sender gave the datagram.
    pub identification: u32,
    /// Where the piece begins.
    pub offset: u32,
    /// How long it is.
    pub len: u32,
    /// Whether others follow.
    pub more: bool,
}

/// Reads an IPv4 header's part.
pub(super) fn of_ipv4(frame: &[u8], l4: usize) -> Fragment {
    let field = be16(frame, ETHERNET_LEN + 6);
    Fragment {
        identification: u32::from(be16(frame, ETHERNET_LEN + 4)),
        offset: u32::from(field & 0x1fff) * 8,
        len: (frame.len() - l4) as u32,
        more: field & 0x2000 != 0,
    }
}

/// Reads an IPv6 fragment header, which stands before `l4`.
pub(super) fn of_ipv6(frame: &[u8], l4: usize) -> Fragment {
    let field = be16(frame, l4 - 6);
    Fragment {
        identification: be32(frame, l4 - 4),
        offset: u32::from(field & 0xfff8),
        len: (frame.len() - l4) as u32,
        more: field & 1 != 0,
    }
}

/// The packet of a first piece, whose transport header begins at `l4`: as if it were whole, but
/// for what lies in the other pieces.
pub(super) fn first<K: Key>(
    frame: &[u8],
    piece: &Packet<K>,
    protocol: u8,
    l4: usize,
    key: impl Fn(u32) -> K,
) -> Result<Packet<K>, DropReason> {
    let segment = &frame[l4..];
    let (protocol, flags) = match (protocol, segment) {
        (6, [_, _, _, _, _, _, _, _, _, _, _, _, offset, flags, ..]) => {
            let header_len = usize::from(offset >> 4) * 4;
            if header_len < 20 || header_len > segment.len() {
                return Err(DropReason::FragmentTiny);
            }
            (Protocol::Tcp, TcpFlags::from_octet(*flags))
        }
        (17, [_, _, _, _, _, _, _, _, ..]) => (Protocol::Udp, TcpFlags::NONE),
        (6 | 17, _) => return Err(DropReason::FragmentTiny),
        _ => return Err(DropReason::ProtocolUnsupported),
    };
    if protocol == Protocol::Tcp && !flags.is_valid() {
        return Err(DropReason::TcpFlags);
    }
    Ok(Packet {
        key: key(be32(segment, 0)),
        l4: l4 as u16,
        flags,
        payload: Payload::Transport(protocol),
        ..*piece
    })
}
