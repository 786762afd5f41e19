//! Changing addresses and ports in place, checksums by difference.

use super::{ETHERNET_LEN, be16, be32, checksum, put16, put32};
use crate::flow::{Endpoint, FlowKey, Protocol};
use crate::wire::Packet;

/// The addresses that a packet gets, and what that does to its checksums.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// The new source.
    pub source: Endpoint,
    /// The new destination.
    pub destination: Endpoint,
    /// Difference of the IPv4 header checksum: addresses only.
    pub l3_difference: u16,
    /// Difference of the TCP or UDP checksum: addresses and ports.
    pub l4_difference: u16,
}

impl Translation {
    /// The differences between `old` and a flow from `source` to `destination`: (layer 3, layer 4).
    pub fn differences(old: FlowKey, source: Endpoint, destination: Endpoint) -> (u16, u16) {
        let addresses = |a: Endpoint, b: Endpoint| {
            checksum::fold(u64::from(a.address.to_bits()) + u64::from(b.address.to_bits()))
        };
        let ports = |a: Endpoint, b: Endpoint| checksum::fold(u64::from(a.l4_port) + u64::from(b.l4_port));
        let (old_source, old_destination) = (old.source(), old.destination());
        let l3 = checksum::difference(addresses(old_source, old_destination), addresses(source, destination));
        let l4 = checksum::difference(ports(old_source, old_destination), ports(source, destination));
        (l3, checksum::add(l3, l4))
    }
}

/// Gives the packet in `frame` new addresses and ports and takes one from its TTL.
///
/// A wrong TCP or UDP checksum stays wrong, and a UDP checksum of zero ("none",
/// RFC 768) stays zero: Sluice never repairs what a sender got wrong.
///
/// # Panics
/// When `packet` was not parsed from this frame.
#[inline]
pub fn translate(frame: &mut [u8], packet: &Packet, protocol: Protocol, to: &Translation) {
    let (ip, l4) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);

    // The TTL is the high octet of its 16-bit word, so one less is a difference of -0x0100.
    const TTL_DIFFERENCE: u16 = !0x0100;
    let header_checksum = checksum::adjust(be16(ip, 10), checksum::add(to.l3_difference, TTL_DIFFERENCE));
    ip[8] = packet.ttl - 1;
    put16(ip, 10, header_checksum);
    put32(ip, 12, to.source.address.to_bits());
    put32(ip, 16, to.destination.address.to_bits());

    put32(l4, 0, u32::from(to.source.l4_port) << 16 | u32::from(to.destination.l4_port));
    match protocol {
        Protocol::Tcp => {
            let adjusted = checksum::adjust(be16(l4, 16), to.l4_difference);
            put16(l4, 16, adjusted);
        }
        Protocol::Udp => {
            let field = be16(l4, 6);
            if field != 0 {
                let adjusted = checksum::adjust(field, to.l4_difference);
                // RFC 768: a computed zero is sent as all ones.
                put16(l4, 6, if adjusted == 0 { 0xffff } else { adjusted });
            }
        }
    }
}

/// Completes a partial checksum: a kernel that leaves checksums to a device puts
/// only the pseudo-header's sum in the field. Returns whether it was one.
///
/// The field of a finished packet equals that sum once in 65,536, so the full
/// checksum decides before anything is written.
///
/// # Panics
/// When `packet` was not parsed from this frame.
pub fn finish_partial_checksum(frame: &mut [u8], packet: &Packet, protocol: Protocol) -> bool {
    let field_at = match protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
    };
    let (ip, l4) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);
    let l4_len = match protocol {
        Protocol::Tcp => l4.len(),
        Protocol::Udp => usize::from(be16(l4, 4)),
    };
    let addresses = checksum::fold(u64::from(be32(ip, 12)) + u64::from(be32(ip, 16)));
    let pseudo = checksum::add(addresses, checksum::fold(protocol as u64 + l4_len as u64));
    if be16(l4, field_at) != pseudo {
        return false;
    }
    let covered = checksum::sum(&l4[..l4_len]);
    if checksum::add(covered, pseudo) == 0xffff {
        return false;
    }
    // The field holds the pseudo-header's sum, so the sum over the segment already covers it.
    let finished = !covered;
    put16(l4, field_at, if finished == 0 && protocol == Protocol::Udp { 0xffff } else { finished });
    true
}
