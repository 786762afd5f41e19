//! Putting a packet whole inside another: IP in IP (RFC 2003, 2473, 4213), GRE (RFC 2784) and GUE
//! (draft-ietf-intarea-gue, variant 0, as Linux speaks it).

use super::checksum::TTL_DIFFERENCE;
use super::{
    ETHERNET_LEN, EthernetHeader, IPV4_LEN, IPV6_LEN, be16, checksum, le64, put16, put32, set_ethernet,
};
use crate::flow::Family;
use crate::frame::Frame;
use std::net::IpAddr;

/// What stands between the outer IP header and the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// Nothing.
    Ipip,
    /// Four bytes of GRE, without key or checksum.
    Gre,
    /// A UDP header to this port, and four bytes of GUE.
    Gue(u16),
}

/// The port that IANA gave to GUE.
pub const GUE_PORT: u16 = 6_080;
const UDP_LEN: usize = 8;
const GRE_LEN: usize = 4;
const GUE_LEN: usize = 4;

impl Encapsulation {
    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gre => "gre",
            Self::Gue(_) => "gue",
        }
    }

    /// A number that stands for it where an endpoint's port would.
    pub const fn number(self) -> u16 {
        match self {
            Self::Ipip => 0,
            Self::Gre => 1,
            Self::Gue(l4_port) => l4_port,
        }
    }

    /// What [`number`](Self::number) gave.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Ipip,
            1 => Self::Gre,
            l4_port => Self::Gue(l4_port),
        }
    }

    /// Bytes that it adds to a packet, with an outer header of `outer`.
    const fn overhead(self, outer: Family) -> u16 {
        let header = match outer {
            Family::V4 => IPV4_LEN,
            Family::V6 => IPV6_LEN,
        };
        let between = match self {
            Self::Ipip => 0,
            Self::Gre => GRE_LEN,
            Self::Gue(_) => UDP_LEN + GUE_LEN,
        };
        (header + between) as u16
    }
}

/// The outer side of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Who sends; of the receiver's family.
    pub source: IpAddr,
    /// Who unpacks.
    pub destination: IpAddr,
    /// What stands between.
    pub encapsulation: Encapsulation,
    /// What tells flows apart in GUE's source port; the receiver's RSS looks at it.
    pub entropy: u16,
}

impl Outer {
    /// Bytes that it adds to a packet.
    pub fn overhead(&self) -> u16 {
        self.encapsulation.overhead(Family::of(self.destination))
    }
}

/// Puts the IP packet in `frame`, of family `inner`, inside another. TTL, traffic class and the
/// prohibition to fragment are the inner packet's (RFC 2003 §3.1, RFC 6040 §4.1). The Ethernet header
/// is left to the caller.
///
/// False when the buffer's headroom has no place for it, or when the addresses are of two families; the
/// frame is then unchanged.
pub fn encapsulate(frame: &mut Frame<'_>, inner: Family, outer: &Outer) -> bool {
    let family = Family::of(outer.destination);
    if Family::of(outer.source) != family {
        return false;
    }
    let ip = &frame.bytes()[ETHERNET_LEN..];
    let (class, ttl, keep_whole) = match inner {
        Family::V4 => (ip[1], ip[8], be16(ip, 6) & 0x4000 != 0),
        Family::V6 => ((be16(ip, 0) >> 4) as u8, ip[7], true),
    };
    if !frame.prepend(usize::from(outer.overhead())) {
        return false;
    }
    let ip = &mut frame.bytes_mut()[ETHERNET_LEN..];
    let (protocol_of_inner, ethertype_of_inner) = match inner {
        Family::V4 => (4, super::ETHERTYPE_IPV4),
        Family::V6 => (41, super::ETHERTYPE_IPV6),
    };
    let protocol = match outer.encapsulation {
        Encapsulation::Ipip => protocol_of_inner,
        Encapsulation::Gre => 47,
        Encapsulation::Gue(_) => 17,
    };
    let total_len = ip.len();
    let (header, rest) = match (outer.source, outer.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (header, rest) = ip.split_at_mut(IPV4_LEN);
            let first = 0x4500_0000 | u32::from(class) << 16 | total_len as u32;
            let third = u32::from(ttl) << 24 | u32::from(protocol) << 16;
            let addresses = [source.to_bits(), destination.to_bits()];
            put_ipv4(header, [first, if keep_whole { DONT_FRAGMENT } else { 0 }, third], addresses);
            (&header[12..20], rest)
        }
        (source, destination) => {
            let (header, rest) = ip.split_at_mut(IPV6_LEN);
            put32(header, 0, 6 << 28 | u32::from(class) << 20);
            put16(header, 4, (total_len - IPV6_LEN) as u16);
            (header[6], header[7]) = (protocol, ttl);
            for (place, address) in header[8..].chunks_exact_mut(16).zip([source, destination]) {
                if let IpAddr::V6(address) = address {
                    place.copy_from_slice(&address.octets());
                }
            }
            (&header[8..40], rest)
        }
    };
    match outer.encapsulation {
        Encapsulation::Ipip => {}
        Encapsulation::Gre => {
            put16(rest, 0, 0);
            put16(rest, 2, ethertype_of_inner);
        }
        Encapsulation::Gue(l4_port) => {
            let len = rest.len();
            put16(rest, 0, outer.entropy);
            put16(rest, 2, l4_port);
            put16(rest, 4, len as u16);
            put16(rest, 6, 0);
            rest[UDP_LEN..UDP_LEN + GUE_LEN].copy_from_slice(&[0, protocol_of_inner, 0, 0]);
            // Over IPv4 the checksum may be none; over IPv6 receivers insist (RFC 8200 §8.1).
            if family == Family::V6 {
                let pseudo = checksum::fold(17 + len as u64);
                let sum = checksum::add(checksum::add(checksum::sum(header), pseudo), checksum::sum(rest));
                put16(rest, 6, if sum == 0xffff { 0xffff } else { !sum });
            }
        }
    }
    true
}

/// In the second word of an IPv4 header.
const DONT_FRAGMENT: u32 = 0x4000;

/// Writes an IPv4 header of these words, whose third lacks the checksum, and addresses.
#[inline(always)]
fn put_ipv4(header: &mut [u8], words: [u32; 3], [source, destination]: [u32; 2]) {
    let [first, second, third] = words;
    // Summed before they are stored: a load of what was just stored in pieces costs a dozen cycles.
    let words = [first, second, third, source, destination].map(u64::from);
    let header_checksum = !checksum::fold(words.iter().sum());
    put32(header, 0, first);
    put32(header, 4, second);
    put32(header, 8, third | u32::from(header_checksum));
    put32(header, 12, source);
    put32(header, 16, destination);
}

/// [`encapsulate`] for the most common tunnel, IPv4 in IPv4 without anything between, after one was taken from
/// the packet's TTL, with its Ethernet header: 75 instructions less than one after the other. `addresses` are source and destination as they stand on
/// the wire, and so is all else here: sums do not depend on the order of bytes (RFC 1071 §2 B).
///
/// False, and the frame unchanged, when the headroom has no place for the header, or the frame holds no IPv4 header.
#[inline(always)]
pub(super) fn encapsulate_ipip4(frame: &mut Frame<'_>, addresses: u64, ethernet: &EthernetHeader) -> bool {
    const OUTER: usize = ETHERNET_LEN;
    const INNER: usize = OUTER + IPV4_LEN;
    if frame.len() < INNER || !frame.prepend(IPV4_LEN) {
        return false;
    }
    let Some(head) = frame.head_mut::<{ INNER + IPV4_LEN }>() else { return false };
    let (first, second) = (le64(head, INNER), le64(head, INNER + 8));
    let ttl = (second & 0xff).wrapping_sub(1) & 0xff;
    let inner_sum = checksum::adjust((second >> 16) as u16, TTL_DIFFERENCE.swap_bytes());
    let inner = ttl | second & 0xff00 | u64::from(inner_sum) << 16;
    head[INNER + 8..INNER + 12].copy_from_slice(&(inner as u32).to_le_bytes());

    let total_len = ((first >> 16) as u16).swap_bytes().wrapping_add(IPV4_LEN as u16);
    let kept = first & (0xff00 | u64::from(DONT_FRAGMENT.swap_bytes()) << 32);
    let first = 0x45 | kept | u64::from(total_len.swap_bytes()) << 16;
    let third = ttl | 4 << 8;
    let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
    let sum = !checksum::fold(halves(first) + halves(addresses) + third);
    head[OUTER..OUTER + 8].copy_from_slice(&first.to_le_bytes());
    let second = third | u64::from(sum) << 16 | addresses << 32;
    head[OUTER + 8..OUTER + 16].copy_from_slice(&second.to_le_bytes());
    head[OUTER + 16..INNER].copy_from_slice(&((addresses >> 32) as u32).to_le_bytes());
    set_ethernet(head, ethernet);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const ETHERNET: EthernetHeader = [7; ETHERNET_LEN];

    proptest! {
        /// Of any header with a TTL above one, whatever its checksum.
        #[test]
        fn the_short_tunnel_is_the_general_one(
            mut bytes in prop::collection::vec(any::<u8>(), 54..90),
            ttl in 2..=255_u8,
            source in any::<u32>(),
            destination in any::<u32>(),
        ) {
            const HEADROOM: usize = 32;
            bytes[14] = 0x45;
            let total_len = (bytes.len() - 14) as u16;
            bytes[16..18].copy_from_slice(&total_len.to_be_bytes());
            bytes[22] = ttl;
            let mut rooms = [[vec![0; HEADROOM], bytes].concat(), Vec::new()];
            rooms[1] = rooms[0].clone();
            let [short, general] = &mut rooms;
            let window = HEADROOM..short.len();
            let (mut short, mut general) = (Frame::new(short, window.clone()), Frame::new(general, window));
            let outer = Outer {
                source: Ipv4Addr::from_bits(source).into(),
                destination: Ipv4Addr::from_bits(destination).into(),
                encapsulation: Encapsulation::Ipip,
                entropy: 0,
            };
            let addresses = u64::from(destination.swap_bytes()) << 32 | u64::from(source.swap_bytes());

            prop_assert!(encapsulate_ipip4(&mut short, addresses, &ETHERNET));
            ipv4::hop(general.bytes_mut());
            prop_assert!(encapsulate(&mut general, Family::V4, &outer));

            prop_assert_eq!(short.window(), general.window());
            set_ethernet(general.bytes_mut(), &ETHERNET);
            prop_assert_eq!(short.bytes(), general.bytes());
        }
    }

    #[test]
    fn a_tunnel_needs_headroom() {
        let mut bytes = [0; 60];
        let mut frame = Frame::new(&mut bytes, 19..60);

        assert!(!encapsulate_ipip4(&mut frame, 0, &ETHERNET));
        assert_eq!(frame.window(), 19..60);
    }
}
