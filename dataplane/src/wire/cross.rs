//! From one family to the other (RFC 7915), for sessions whose client and server differ in it.

use super::rewrite::{Translation, translate_transport};
use super::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Packet, be16, checksum, put16, put32};
use crate::flow::{FlowKey, FlowKey6, Key, Protocol};
use crate::frame::Frame;

/// RFC 7915 §5.1: what is larger than this after translation is not to be fragmented any more.
const FRAGMENTABLE_MAX: usize = 1_260;

/// Turns an IPv6 packet into an IPv4 one with the addresses and ports of `to`, which must be those of
/// an IPv4 flow; false, and nothing changed, when they are not. Takes one from its TTL. The Ethernet header is left to the caller.
pub(super) fn six_to_four(
    frame: &mut Frame<'_>,
    packet: &Packet<FlowKey6>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
) -> bool {
    let Some(new) = to.key.narrow() else { return false };
    let class = (be16(frame.bytes(), ETHERNET_LEN) >> 4) as u8;
    frame.advance(usize::from(packet.l4) - ETHERNET_LEN - IPV4_LEN);
    let total_len = frame.bytes().len() - ETHERNET_LEN;
    let (ip, l4) = frame.bytes_mut()[ETHERNET_LEN..].split_at_mut(IPV4_LEN);
    translate_transport(l4, protocol, to);
    (ip[0], ip[1]) = (0x45, class);
    put16(ip, 2, total_len as u16);
    let (identification, flags) = if total_len > FRAGMENTABLE_MAX {
        (0, 0x4000)
    } else {
        // Differs from packet to packet, and that is all it has to (RFC 6864 §4).
        (checksum::fold(u64::from(be16(l4, 4)) + u64::from(be16(l4, 6)) + u64::from(to.key.port_word())), 0)
    };
    put16(ip, 4, identification);
    put16(ip, 6, flags);
    (ip[8], ip[9]) = (packet.ttl - 1, protocol as u8);
    put16(ip, 10, 0);
    ip[12..20].copy_from_slice(&new.address_word().to_be_bytes());
    let header_checksum = !checksum::sum(ip);
    put16(ip, 10, header_checksum);
    true
}

/// Turns an IPv4 packet into an IPv6 one with the addresses and ports of `to`. Takes one from its TTL.
/// False, and nothing changed, when the buffer's headroom has no place for it. The Ethernet header is
/// left to the caller.
pub(super) fn four_to_six(
    frame: &mut Frame<'_>,
    packet: &Packet<FlowKey>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
) -> bool {
    let class = frame.bytes()[ETHERNET_LEN + 1];
    let header_len = usize::from(packet.l4) - ETHERNET_LEN;
    if header_len < IPV6_LEN {
        if !frame.prepend(IPV6_LEN - header_len) {
            return false;
        }
    } else {
        frame.advance(header_len - IPV6_LEN);
    }
    let (ip, l4) = frame.bytes_mut()[ETHERNET_LEN..].split_at_mut(IPV6_LEN);
    let without_checksum = protocol == Protocol::Udp && be16(l4, 6) == 0;
    translate_transport(l4, protocol, to);
    put32(ip, 0, 6 << 28 | u32::from(class) << 20);
    put16(ip, 4, l4.len() as u16);
    (ip[6], ip[7]) = (protocol as u8, packet.ttl - 1);
    ip[8..IPV6_LEN].copy_from_slice(&to.key.address_bytes());
    if without_checksum {
        // IPv6 has no datagrams without (RFC 7915 §4.5).
        let pseudo = checksum::fold(to.key.address_sum() + protocol as u64 + u64::from(be16(l4, 4)));
        let covered = usize::from(be16(l4, 4)).min(l4.len());
        let sum = checksum::add(checksum::sum(&l4[..covered]), pseudo);
        put16(l4, 6, if sum == 0xffff { 0xffff } else { !sum });
    }
    true
}
