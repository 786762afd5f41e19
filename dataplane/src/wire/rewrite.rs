//! Changing addresses and ports in place, checksums by difference.

use super::{
    ETHERNET_LEN, EthernetHeader, IPV4_LEN, IPV6_LEN, be16, be32, checksum, echo, le64, put16, put32, sctp,
    set_ethernet,
};
use crate::flow::{FlowKey, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use crate::wire::Packet;

/// The addresses that a packet gets, and what that does to its checksums.
#[derive(Clone, Copy, Debug)]
pub struct Translation<K> {
    /// The new source and destination.
    pub key: K,
    /// Difference of the IPv4 header checksum: addresses only.
    pub l3_difference: u16,
    /// Difference of the TCP or UDP checksum: addresses and ports.
    pub l4_difference: u16,
}

impl<K: Key> Translation<K> {
    /// The same for packets that come from, or go to, the other family.
    pub fn widen(&self) -> Translation<FlowKey6> {
        let Self { key, l3_difference, l4_difference } = *self;
        Translation { key: key.widen(), l3_difference, l4_difference }
    }
}

/// The differences between flows `old` and `new`: (layer 3, layer 4).
pub fn differences<K: Key>(old: K, new: K) -> (u16, u16) {
    let addresses = |key: K| checksum::fold(key.address_sum());
    let ports = |key: K| checksum::fold(u64::from(key.port_word()));
    let l3 = checksum::difference(addresses(old), addresses(new));
    (l3, checksum::add(l3, checksum::difference(ports(old), ports(new))))
}

/// Gives the packet in `frame` new addresses and ports and takes one from its TTL.
///
/// A wrong TCP or UDP checksum stays wrong, and a UDP checksum of zero ("none",
/// RFC 768) stays zero: Sluice never repairs what a sender got wrong.
///
/// Each field is loaded once and stored in as few pieces as can be: a load of what was just
/// stored in another width costs a dozen cycles.
///
/// # Panics
/// When `packet` was not parsed from this frame.
#[inline(always)]
pub(super) fn translate4(
    frame: &mut [u8],
    packet: &Packet<FlowKey>,
    protocol: Protocol,
    to: &Translation<FlowKey>,
) {
    let (ip, l4) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);
    let Some(header) = ip.first_chunk_mut::<20>() else { return };

    let word = be32(header, 8);
    let adjusted = checksum::adjust(word as u16, checksum::add(to.l3_difference, checksum::TTL_DIFFERENCE));
    put32(header, 8, ((word >> 16) - 0x0100) << 16 | u32::from(adjusted));
    header[12..20].copy_from_slice(&to.key.address_word().to_be_bytes());

    translate_transport(l4, protocol, to);
}

/// [`translate4`] for a plain packet, which gets its Ethernet header too: fixed offsets, the wire's order of bytes.
#[inline(always)]
pub(super) fn translate_plain4(
    frame: &mut Frame<'_>,
    is_segment: bool,
    (key, l3, l4): (FlowKey, u16, u16),
    ethernet: &EthernetHeader,
    acknowledged: &mut [u8; 2],
) {
    const L4: usize = ETHERNET_LEN + IPV4_LEN;
    match is_segment {
        false => {
            let Some(head) = frame.head_mut::<{ L4 + 8 }>() else { return };
            translate_head(head, key, l3, ethernet);
            let field = u16::from_le_bytes([head[L4 + 6], head[L4 + 7]]);
            if field != 0 {
                // RFC 768: a computed zero is sent as all ones. This sum is never zero, where that of RFC 1624
                // equation 3 would be.
                head[L4 + 6..L4 + 8].copy_from_slice(&checksum::add(field, !l4).to_le_bytes());
            }
        }
        true => {
            let Some(head) = frame.head_mut::<{ L4 + 20 }>() else { return };
            *acknowledged = [head[L4 + 8], head[L4 + 9]];
            translate_head(head, key, l3, ethernet);
            let field = u16::from_le_bytes([head[L4 + 16], head[L4 + 17]]);
            head[L4 + 16..L4 + 18].copy_from_slice(&checksum::adjust(field, l4).to_le_bytes());
        }
    }
}

/// Everything from the Ethernet header to the ports.
#[inline(always)]
fn translate_head<const N: usize>(head: &mut [u8; N], key: FlowKey, l3: u16, ethernet: &EthernetHeader) {
    const TTL: usize = ETHERNET_LEN + 8;
    let old = le64(head, TTL);
    let sum = checksum::adjust((old >> 16) as u16, checksum::add(l3, checksum::TTL_DIFFERENCE.swap_bytes()));
    let [first, second] = key.reversed_to_wire(u64::from(sum) << 16 | (old & 0xff).wrapping_sub(1));
    head[TTL..TTL + 8].copy_from_slice(&first.to_le_bytes());
    head[TTL + 8..TTL + 16].copy_from_slice(&second.to_le_bytes());
    head[..ETHERNET_LEN].copy_from_slice(ethernet);
}

/// [`translate4`] for IPv6, whose header has no checksum (RFC 8200 §3).
#[inline(always)]
pub(super) fn translate6(
    frame: &mut [u8],
    packet: &Packet<FlowKey6>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
) {
    let (ip, l4) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);
    ip[7] -= 1;
    ip[8..IPV6_LEN].copy_from_slice(&to.key.address_bytes());
    translate_transport(l4, protocol, to);
}

/// [`translate6`] for a plain packet, which gets its Ethernet header too: fixed offsets, as [`translate_plain4`] has.
#[inline(always)]
pub(super) fn translate_plain6(
    frame: &mut Frame<'_>,
    is_segment: bool,
    (key, l4): (FlowKey6, u16),
    ethernet: &EthernetHeader,
    acknowledged: &mut [u8; 2],
) {
    const L4: usize = ETHERNET_LEN + IPV6_LEN;
    match is_segment {
        false => {
            let Some(head) = frame.head_mut::<{ L4 + 8 }>() else { return };
            translate_head6(head, key, ethernet);
            let field = u16::from_le_bytes([head[L4 + 6], head[L4 + 7]]);
            // RFC 8200 §8.1: there is always one. One that says none all the same is left as it is.
            if field != 0 {
                head[L4 + 6..L4 + 8].copy_from_slice(&checksum::add(field, !l4).to_le_bytes());
            }
        }
        true => {
            let Some(head) = frame.head_mut::<{ L4 + 20 }>() else { return };
            *acknowledged = [head[L4 + 8], head[L4 + 9]];
            translate_head6(head, key, ethernet);
            let field = u16::from_le_bytes([head[L4 + 16], head[L4 + 17]]);
            head[L4 + 16..L4 + 18].copy_from_slice(&checksum::adjust(field, l4).to_le_bytes());
        }
    }
}

/// Everything from the Ethernet header to the ports.
#[inline(always)]
fn translate_head6<const N: usize>(head: &mut [u8; N], key: FlowKey6, ethernet: &EthernetHeader) {
    const L4: usize = ETHERNET_LEN + IPV6_LEN;
    const ADDRESSES: usize = ETHERNET_LEN + 8;
    let key = key.reversed();
    head[ADDRESSES - 1] = head[ADDRESSES - 1].wrapping_sub(1);
    head[ADDRESSES..L4].copy_from_slice(&key.address_bytes());
    head[L4..L4 + 4].copy_from_slice(&key.ports_on_wire());
    set_ethernet(head, ethernet);
}

/// New ports, and the checksum that follows from new addresses and ports.
#[inline(always)]
pub(super) fn translate_transport<K: Key>(l4: &mut [u8], protocol: Protocol, to: &Translation<K>) {
    let ports = to.key.port_word();
    match protocol {
        Protocol::Tcp => {
            put32(l4, 0, ports);
            let adjusted = checksum::adjust(be16(l4, 16), to.l4_difference);
            put16(l4, 16, adjusted);
        }
        Protocol::Udp => {
            put32(l4, 0, ports);
            let field = be16(l4, 6);
            if field != 0 {
                let adjusted = checksum::adjust(field, to.l4_difference);
                // RFC 768: a computed zero is sent as all ones.
                put16(l4, 6, if adjusted == 0 { 0xffff } else { adjusted });
            }
        }
        Protocol::Sctp => sctp::translate(l4, ports),
        Protocol::Icmp => echo::translate(l4, to),
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
pub fn finish_partial_checksum<K: Key>(frame: &mut [u8], packet: &Packet<K>, protocol: Protocol) -> bool {
    let l4 = &mut frame[usize::from(packet.l4)..];
    let (field_at, l4_len) = match protocol {
        Protocol::Tcp => (16, l4.len()),
        Protocol::Udp => (6, usize::from(be16(l4, 4))),
        Protocol::Sctp => return sctp::finish_checksum(l4),
        // Nobody leaves it to a device, and it was checked.
        Protocol::Icmp => return false,
    };
    let pseudo = checksum::fold(packet.key.address_sum() + protocol as u64 + l4_len as u64);
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
