//! ICMP errors from one family to the other (RFC 7915 §4.2, §5.2), for sessions whose client and server
//! differ in it.

use super::icmp::adjust_quoted;
use super::ipv6::upper;
use super::protocol::{ICMP, ICMPV6};
use super::{
    ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Packet, Translation, be16, be32, checksum, icmp6, put16, put32,
};
use crate::drop::DropReason;
use crate::flow::{FlowKey, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use arrayvec::ArrayVec;

const ICMP_LEN: usize = 8;
/// Most of a quoted packet's transport header and data that goes on: with all headers no more than 548
/// bytes, which every link of both families carries.
const QUOTE_MAX: usize = 460;
/// What headers of IPv6 are longer than those of IPv4.
const LONGER: u32 = (IPV6_LEN - IPV4_LEN) as u32;
/// RFC 8200 §5.
const LEAST_MTU6: u32 = 1_280;

/// The bytes of a quoted transport header and what follows, as far as they go on.
type Quote = ArrayVec<u8, QUOTE_MAX>;

/// [`Wire::cross_error`](super::Wire::cross_error) from IPv4 to IPv6.
pub(super) fn four_to_six(
    frame: &mut Frame<'_>,
    packet: &Packet<FlowKey>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
    moved: u32,
) -> Result<(), DropReason> {
    let icmp = &frame.bytes()[usize::from(packet.l4)..];
    let (kind, code, rest) = match (icmp[0], icmp[1]) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, 0),
        // The protocol is named by the seventh byte of IPv6's header.
        (3, 2) => (4, 1, 6),
        (3, 3) => (1, 4, 0),
        (3, 4) => (2, 0, (u32::from(be16(icmp, 6)) + LONGER).max(LEAST_MTU6)),
        (3, 9 | 10 | 13 | 15) => (1, 1, 0),
        (11, code) => (3, code, 0),
        _ => return Err(DropReason::IcmpUnsupported),
    };
    let inner = &icmp[ICMP_LEN..];
    let header_len = usize::from(inner[0] & 0x0f) * 4;
    let (class, len, ttl) = (inner[1], be16(inner, 2), inner[8]);
    let mut quote: Quote = inner[header_len..].iter().copied().take(QUOTE_MAX).collect();
    let original = to.key.reversed();
    adjust_quoted(&mut quote, protocol, original.port_word(), to.l4_difference, moved);
    let hop_limit = packet.ttl - 1;

    let total = ETHERNET_LEN + IPV6_LEN + ICMP_LEN + IPV6_LEN + quote.len();
    if let Some(more) = total.checked_sub(frame.bytes().len())
        && !frame.prepend(more)
    {
        return Err(DropReason::NoHeadroom);
    }
    frame.truncate(total);
    let ip = &mut frame.bytes_mut()[ETHERNET_LEN..];
    put32(ip, 0, 6 << 28);
    put16(ip, 4, (total - ETHERNET_LEN - IPV6_LEN) as u16);
    (ip[6], ip[7]) = (ICMPV6, hop_limit);
    let addresses = to.key.address_bytes();
    ip[8..IPV6_LEN].copy_from_slice(&addresses);
    let icmp = &mut ip[IPV6_LEN..];
    (icmp[0], icmp[1]) = (kind, code);
    put32(icmp, 4, rest);
    let inner = &mut icmp[ICMP_LEN..];
    put32(inner, 0, 6 << 28 | u32::from(class) << 20);
    put16(inner, 4, len.saturating_sub(header_len as u16));
    (inner[6], inner[7]) = (protocol as u8, ttl);
    inner[8..IPV6_LEN].copy_from_slice(&original.address_bytes());
    inner[IPV6_LEN..].copy_from_slice(&quote);
    icmp6::set_checksum(icmp, &addresses);
    Ok(())
}

/// [`Wire::cross_error`](super::Wire::cross_error) from IPv6 to IPv4.
pub(super) fn six_to_four(
    frame: &mut Frame<'_>,
    packet: &Packet<FlowKey6>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
    moved: u32,
) -> Result<(), DropReason> {
    let new = to.key.narrow().ok_or(DropReason::IcmpUnsupported)?;
    let icmp = &frame.bytes()[usize::from(packet.l4)..];
    let (kind, code, rest) = match (icmp[0], icmp[1]) {
        (1, 0 | 2 | 3) => (3, 1, 0),
        (1, 1) => (3, 10, 0),
        (1, 4) => (3, 3, 0),
        (2, _) => (3, 4, be32(icmp, 4).min(u32::from(u16::MAX)).saturating_sub(LONGER)),
        (3, code) => (11, code, 0),
        (4, 1) => (3, 2, 0),
        _ => return Err(DropReason::IcmpUnsupported),
    };
    let (inner, body) = icmp[ICMP_LEN..].split_at(IPV6_LEN);
    let (class, len, ttl) = ((be16(inner, 0) >> 4) as u8, be16(inner, 4), inner[7]);
    let upper = upper(inner[6], body).map_err(|_| DropReason::IcmpQuote)?;
    let mut quote: Quote = body[upper.offset..].iter().copied().take(QUOTE_MAX).collect();
    let original = new.reversed();
    adjust_quoted(&mut quote, protocol, original.port_word(), to.l4_difference, moved);
    let ttl_left = packet.ttl - 1;

    let total = ETHERNET_LEN + IPV4_LEN + ICMP_LEN + IPV4_LEN + quote.len();
    // Both headers become shorter.
    frame.truncate(total);
    let ip = &mut frame.bytes_mut()[ETHERNET_LEN..];
    let header = |ip: &mut [u8], class: u8, total_len: u16, ttl: u8, protocol: u8, addresses: u64| {
        ip[..IPV4_LEN].fill(0);
        (ip[0], ip[1]) = (0x45, class);
        put16(ip, 2, total_len);
        // What says that a packet was too big must be about one that asked not to be cut.
        put16(ip, 6, 0x4000);
        (ip[8], ip[9]) = (ttl, protocol);
        ip[12..IPV4_LEN].copy_from_slice(&addresses.to_be_bytes());
        let header_checksum = !checksum::sum(&ip[..IPV4_LEN]);
        put16(ip, 10, header_checksum);
    };
    let new_len = (total - ETHERNET_LEN) as u16;
    header(ip, 0, new_len, ttl_left, ICMP, new.address_word());
    let icmp = &mut ip[IPV4_LEN..];
    (icmp[0], icmp[1]) = (kind, code);
    put32(icmp, 4, rest);
    let inner = &mut icmp[ICMP_LEN..];
    let inner_len = (len.saturating_sub(upper.offset as u16)).saturating_add(IPV4_LEN as u16);
    header(inner, class, inner_len, ttl, protocol as u8, original.address_word());
    inner[IPV4_LEN..].copy_from_slice(&quote);
    put16(icmp, 2, 0);
    let icmp_checksum = !checksum::sum(icmp);
    put16(icmp, 2, icmp_checksum);
    Ok(())
}
