//! Bytes on the wire: offsets, byte order and checksums appear here and nowhere else.
//!
//! [`Wire::parse`] reads a frame once, checks it, and gives a [`Packet`] after which
//! there is nothing left to check. [`Wire::translate`] changes addresses in place,
//! [`shift_sequence`] moves sequence numbers, [`icmp`] and its twin for IPv6 turn a frame into an
//! answer, [`checksum`] has the arithmetic.

pub mod checksum;
mod cross;
mod cross_error;
mod cut;
mod echo;
mod exception;
mod family;
mod fragment;
mod heads;
pub mod icmp;
mod icmp6;
mod insert;
mod ipv4;
mod ipv6;
mod lanes;
mod made;
mod packet;
pub mod protocol;
mod proxy;
mod rewrite;
mod sctp;
mod sequence;
mod syn;
mod tag;
mod toa;
mod transport;
mod tunnel;
mod uoa;

pub use cross::FRAGMENT_LEN;
pub use cut::{TAIL_MAX, Tail, cut_ipv4, cut_ipv6};
pub use exception::{Datagram, Unclaimed, concerns_kernel, connection_of_host};
pub use family::Wire;
pub use fragment::Fragment;
pub use heads::Heads;
pub use icmp::{lower_told_mtu, quoted_sequence, told_mtu};
pub use insert::{cut_payload, insert_payload};
pub use made::{Handshake, MadeFrame, handshake_frame, imagined_frame, reset_frame};
pub use packet::{LinkTraits, Packet, Payload, Plain, Station, TcpFlags, Unfit};
pub use proxy::{Proxy, ProxyHeader, ProxyVersion};
pub use rewrite::{Translation, differences, finish_partial_checksum};
pub use sequence::{
    Segment, advance_sequence, lower_segment_size, numbers, segment, sequence_number, shift_acknowledgement,
    shift_sacks, shift_sequence,
};
pub use syn::{
    ServerShift, SynOptions, make_window_update, scaled, segment_is_right, shift_to_other_side, syn_options,
    window,
};
pub use tag::{add_tag, strip_tag, vlan_of};
pub use toa::{TOA_KIND, insert_toa, strip_toa, toa_len};
pub use tunnel::{Encapsulation, GUE_PORT, Outer, encapsulate};
pub use uoa::{Uoa, insert_uoa, strip_uoa, uoa_len};

/// Six octets that name a station on an Ethernet link.
pub type Mac = [u8; 6];

/// Destination, source and EtherType of a frame.
pub type EthernetHeader = [u8; ETHERNET_LEN];

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options (RFC 791 §3.1).
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header without extensions (RFC 8200 §3).
pub const IPV6_LEN: usize = 40;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;

/// The header of a frame of `ethertype` from `source` to `destination`.
pub fn ethernet_header(destination: Mac, source: Mac, ethertype: u16) -> EthernetHeader {
    let mut header = [0; ETHERNET_LEN];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

/// Whether a frame says that it is IPv6.
#[inline]
pub fn is_ipv6(frame: &[u8]) -> bool {
    frame.get(12..14).is_some_and(|ethertype| *ethertype == ETHERTYPE_IPV6.to_be_bytes())
}

/// Writes `header` over the frame's own.
///
/// # Panics
/// When the frame is shorter than an Ethernet header; a parsed frame never is.
#[inline]
pub fn set_ethernet(frame: &mut [u8], header: &EthernetHeader) {
    frame[..ETHERNET_LEN].copy_from_slice(header);
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Eight bytes in the wire's order: nothing is turned round on the machines that this is made for.
#[inline(always)]
fn le64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline]
fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
