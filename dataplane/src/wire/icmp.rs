//! ICMP messages that the director makes out of the frame it is looking at (RFC 792).

use super::ipv6::upper;
use super::{
    ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Packet, Translation, be16, be32, checksum, echo, put16, put32,
};
use crate::flow::{Family, FlowKey, Key, Protocol};
use crate::frame::Frame;

/// The TTL of packets that Sluice makes.
pub(super) const INITIAL_TTL: u8 = 64;
/// RFC 1812 §4.3.2.3: as much of the packet as fits without exceeding 576 bytes.
const ERROR_LEN_MAX: usize = 576;
const ICMP_LEN: usize = 8;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Type 11 code 0: the time to live ended in transit.
    TtlExceeded,
    /// Type 3 code 4: fragmentation needed and forbidden, with the next hop's MTU (RFC 1191).
    FragmentationNeeded {
        /// Largest IP packet that would pass, in bytes.
        mtu: u16,
    },
}

/// Turns an echo request into its reply, in place; Ethernet addresses are left to the caller.
pub(super) fn answer_echo(frame: &mut [u8], packet: &Packet<FlowKey>) {
    let (ip, icmp) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);
    ip[12..20].copy_from_slice(&packet.key.reversed().address_word().to_be_bytes());
    ip[8] = INITIAL_TTL;
    put16(ip, 10, 0);
    let header_checksum = !checksum::sum(ip);
    put16(ip, 10, header_checksum);

    // Type 8 becomes 0; the type is the high octet of its word.
    let adjusted = checksum::adjust(be16(icmp, 2), !0x0800);
    icmp[0] = 0;
    put16(icmp, 2, adjusted);
}

/// Turns the frame into an ICMP error about itself, with the source and destination of `addresses`.
/// Ethernet addresses are left to the caller.
///
/// False when the buffer's headroom has no place for it; the frame is then unchanged.
pub(super) fn make_error(frame: &mut Frame<'_>, addresses: u64, error: IcmpError) -> bool {
    if !frame.prepend(IPV4_LEN + ICMP_LEN) {
        return false;
    }
    frame.truncate(ETHERNET_LEN + ERROR_LEN_MAX);
    let ip = &mut frame.bytes_mut()[ETHERNET_LEN..];
    let total_len = ip.len() as u16;
    let (kind, code, rest) = match error {
        IcmpError::TtlExceeded => (11, 0, 0),
        IcmpError::FragmentationNeeded { mtu } => (3, 4, u32::from(mtu)),
    };

    ip[..IPV4_LEN].fill(0);
    ip[0] = 0x45;
    // RFC 1812 §4.3.2.5: precedence 6, internetwork control.
    ip[1] = 0xc0;
    put16(ip, 2, total_len);
    ip[8] = INITIAL_TTL;
    ip[9] = 1;
    ip[12..20].copy_from_slice(&addresses.to_be_bytes());
    let header_checksum = !checksum::sum(&ip[..IPV4_LEN]);
    put16(ip, 10, header_checksum);

    let icmp = &mut ip[IPV4_LEN..];
    icmp[0] = kind;
    icmp[1] = code;
    put16(icmp, 2, 0);
    put32(icmp, 4, rest);
    let icmp_checksum = !checksum::sum(icmp);
    put16(icmp, 2, icmp_checksum);
    true
}

/// Lowers the MTU that an ICMP error of either family tells, if it tells one; its checksum is left to
/// who passes it on.
///
/// # Panics
/// When `packet` is no ICMP error parsed from this frame.
pub fn lower_told_mtu<K: Key>(frame: &mut [u8], packet: &Packet<K>, by: u16) {
    let icmp = &mut frame[usize::from(packet.l4)..];
    match (K::FAMILY, icmp[0], icmp[1]) {
        (Family::V4, 3, 4) => {
            let mtu = be16(icmp, 6).saturating_sub(by);
            put16(icmp, 6, mtu);
        }
        (Family::V6, 2, _) => {
            let mtu = be32(icmp, 4).saturating_sub(by.into());
            put32(icmp, 4, mtu);
        }
        _ => {}
    }
}

/// The MTU that an ICMP error of either family tells, if it tells one.
///
/// # Panics
/// When `packet` is no ICMP error parsed from this frame.
pub fn told_mtu<K: Key>(frame: &[u8], packet: &Packet<K>) -> Option<u32> {
    let icmp = &frame[usize::from(packet.l4)..];
    match (K::FAMILY, icmp[0], icmp[1]) {
        (Family::V4, 3, 4) => Some(be16(icmp, 6).into()),
        (Family::V6, 2, _) => Some(be32(icmp, 4)),
        _ => None,
    }
}

/// The sequence number of the TCP segment that an ICMP error of either family quotes.
///
/// # Panics
/// When `packet` is no ICMP error parsed from this frame.
pub fn quoted_sequence<K: Key>(frame: &[u8], packet: &Packet<K>) -> Option<u32> {
    let quote = &frame[usize::from(packet.l4) + ICMP_LEN..];
    let transport = match K::FAMILY {
        Family::V4 => &quote[usize::from(quote[0] & 0x0f) * 4..],
        Family::V6 => {
            let (inner, body) = quote.split_at(IPV6_LEN);
            &body[upper(inner[6], body).ok()?.offset..]
        }
    };
    (transport.len() >= 8).then(|| be32(transport, 4))
}

/// [`Wire::relay_error`](super::Wire::relay_error) for IPv4.
pub(super) fn relay_error(
    frame: &mut [u8],
    packet: &Packet<FlowKey>,
    protocol: Protocol,
    to: &Translation<FlowKey>,
    moved: u32,
    keep_source: bool,
) {
    let (ip, icmp) = frame[ETHERNET_LEN..].split_at_mut(usize::from(packet.l4) - ETHERNET_LEN);
    let addresses = to.key.address_word().to_be_bytes();
    let new = if keep_source { 4.. } else { 0.. };
    ip[12..20][new.clone()].copy_from_slice(&addresses[new]);
    ip[8] -= 1;
    put16(ip, 10, 0);
    let header_checksum = !checksum::sum(ip);
    put16(ip, 10, header_checksum);

    let quote = &mut icmp[ICMP_LEN..];
    let original = to.key.reversed();
    let (inner, transport) = quote.split_at_mut(usize::from(quote[0] & 0x0f) * 4);
    inner[12..20].copy_from_slice(&original.address_word().to_be_bytes());
    let adjusted = checksum::adjust(be16(inner, 10), to.l3_difference);
    put16(inner, 10, adjusted);
    let difference = if protocol == Protocol::Icmp { echo::difference(to) } else { to.l4_difference };
    adjust_quoted(transport, protocol, original.port_word(), difference, moved);
    put16(icmp, 2, 0);
    let icmp_checksum = !checksum::sum(icmp);
    put16(icmp, 2, icmp_checksum);
}

/// Gives a quoted transport header, of which there are at least eight bytes, its first ports again.
/// `moved` is what was added to its sequence number.
pub(super) fn adjust_quoted(
    transport: &mut [u8],
    protocol: Protocol,
    ports: u32,
    mut difference: u16,
    moved: u32,
) {
    let field = match protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        // A checksum over more than is quoted cannot be mended, and nobody looks at it.
        Protocol::Sctp => return put32(transport, 0, ports),
        Protocol::Icmp => return echo::set_identifier(transport, ports, difference),
    };
    put32(transport, 0, ports);
    if protocol == Protocol::Tcp && moved != 0 {
        let (old, new) = (be32(transport, 4), be32(transport, 4).wrapping_sub(moved));
        put32(transport, 4, new);
        let [old, new] = [old, new].map(|word| checksum::fold(u64::from(word)));
        difference = checksum::add(difference, checksum::difference(old, new));
    }
    // A quote may end before the checksum, and UDP's may be none.
    if transport.len() >= field + 2 && (protocol == Protocol::Tcp || be16(transport, field) != 0) {
        let adjusted = checksum::adjust(be16(transport, field), difference);
        put16(transport, field, adjusted);
    }
}
