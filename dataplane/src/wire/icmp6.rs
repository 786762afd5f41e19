//! ICMPv6 messages that the director makes out of the frame it is looking at (RFC 4443).

use super::icmp::{INITIAL_TTL, IcmpError, adjust_quoted};
use super::ipv6::upper;
use super::protocol::ICMPV6;
use super::{ETHERNET_LEN, IPV6_LEN, Packet, Translation, be16, checksum, put16, put32};
use crate::flow::{FlowKey6, Key, Protocol};
use crate::frame::Frame;

const ICMP_LEN: usize = 8;
/// RFC 4443 §2.4 (c): as much of the packet as fits into the least MTU.
const ERROR_LEN_MAX: usize = 1_280;

/// Turns an echo request into its reply, in place; Ethernet addresses are left to the caller.
pub(super) fn answer_echo(frame: &mut [u8], packet: &Packet<FlowKey6>) {
    let (ip, icmp) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);
    ip[8..IPV6_LEN].copy_from_slice(&packet.key.reversed().address_bytes());
    ip[7] = INITIAL_TTL;
    // Type 128 becomes 129; the type is the high octet of its word.
    let adjusted = checksum::adjust(be16(icmp, 2), 0x0100);
    icmp[0] = 129;
    put16(icmp, 2, adjusted);
}

/// Turns the frame into an ICMPv6 error about itself, from `addresses`' first to its second.
/// Ethernet addresses are left to the caller.
///
/// False when the buffer's headroom has no place for it; the frame is then unchanged.
pub(super) fn make_error(frame: &mut Frame<'_>, addresses: &[u8; 32], error: IcmpError) -> bool {
    if !frame.prepend(IPV6_LEN + ICMP_LEN) {
        return false;
    }
    frame.truncate(ETHERNET_LEN + ERROR_LEN_MAX);
    let ip = &mut frame.bytes_mut()[ETHERNET_LEN..];
    let len = ip.len() - IPV6_LEN;
    let (kind, rest) = match error {
        IcmpError::TtlExceeded => (3, 0),
        IcmpError::FragmentationNeeded { mtu } => (2, u32::from(mtu)),
    };
    put32(ip, 0, 6 << 28);
    put16(ip, 4, len as u16);
    (ip[6], ip[7]) = (ICMPV6, INITIAL_TTL);
    ip[8..IPV6_LEN].copy_from_slice(addresses);

    let icmp = &mut ip[IPV6_LEN..];
    (icmp[0], icmp[1]) = (kind, 0);
    put32(icmp, 4, rest);
    set_checksum(icmp, addresses);
    true
}

/// [`super::icmp::relay_error`] for IPv6.
pub(super) fn relay_error(
    frame: &mut [u8],
    packet: &Packet<FlowKey6>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
    moved: u32,
    keep_source: bool,
) {
    let (ip, icmp) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);
    let mut addresses = to.key.address_bytes();
    if keep_source {
        addresses[..16].copy_from_slice(&ip[8..24]);
    }
    ip[8..IPV6_LEN].copy_from_slice(&addresses);
    ip[7] -= 1;

    let (inner, body) = icmp[ICMP_LEN..].split_at_mut(IPV6_LEN);
    let original = to.key.reversed();
    inner[8..].copy_from_slice(&original.address_bytes());
    if let Ok(upper) = upper(inner[6], body) {
        adjust_quoted(&mut body[upper.offset..], protocol, original.port_word(), to.l4_difference, moved);
    }
    set_checksum(icmp, &addresses);
}

/// RFC 4443 §2.3.
pub(super) fn set_checksum(icmp: &mut [u8], addresses: &[u8; 32]) {
    put16(icmp, 2, 0);
    let pseudo = checksum::fold(icmp.len() as u64 + u64::from(ICMPV6));
    let sum = checksum::add(checksum::add(checksum::sum(addresses), pseudo), checksum::sum(icmp));
    put16(icmp, 2, !sum);
}
