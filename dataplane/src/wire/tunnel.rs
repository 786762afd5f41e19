//! Putting a packet whole inside another: IP in IP (RFC 2003, 2473, 4213), GRE (RFC 2784) and GUE
//! (draft-ietf-intarea-gue, variant 0, as Linux speaks it).

use super::ipv4::TTL_DIFFERENCE;
use super::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, be16, be32, checksum, put16, put32};
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
#[derive(Clone, Copy, Debug)]
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
/// the packet's TTL: 60 instructions less than both one by one. `addresses` are source and destination.
///
/// False, and the frame unchanged, when the headroom has no place for the header.
///
/// # Panics
/// When the frame holds no IPv4 header.
#[inline(always)]
pub(super) fn encapsulate_ipip4(frame: &mut Frame<'_>, addresses: u64) -> bool {
    const BOTH: usize = ETHERNET_LEN + 2 * IPV4_LEN;
    if !frame.prepend(IPV4_LEN) {
        return false;
    }
    let both: Option<&mut [u8; BOTH]> = frame.bytes_mut().first_chunk_mut();
    let (outer, inner) = both.expect("two headers")[ETHERNET_LEN..].split_at_mut(IPV4_LEN);
    let (first, second, third) = (be32(inner, 0), be32(inner, 4), be32(inner, 8));
    let ttl = (third - 0x0100_0000) & 0xff00_0000;
    let adjusted = checksum::adjust(third as u16, TTL_DIFFERENCE);
    put32(inner, 8, ttl | third & 0x00ff_0000 | u32::from(adjusted));
    let class_and_len = (first & 0x00ff_ffff) + IPV4_LEN as u32;
    let words = [0x4500_0000 | class_and_len, second & DONT_FRAGMENT, ttl | 4 << 16];
    put_ipv4(outer, words, [(addresses >> 32) as u32, addresses as u32]);
    true
}
