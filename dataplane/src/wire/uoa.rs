//! The client's address beside a UDP datagram (UOA, as DPVS and its module speak it): a record of kind
//! 31, its length (8 or 20), port and address, as an IPv4 option or in a header of its own.

use super::insert::lengthen;
use super::packet::Packet;
use super::sequence::for_each_option;
use super::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, be16, checksum, put16};
use crate::flow::{Endpoint, Family, Protocol};
use crate::frame::Frame;
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// Where the record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uoa {
    /// In an option of the IPv4 header; routers may be slow with it.
    Option,
    /// Between the IP and the UDP header, as protocol 248.
    Header,
}

const RECORD: u8 = 31;
const NO_OPERATION: u8 = 1;
const PROTOCOL: u8 = 248;
const IPV4_HEADER_MAX: usize = 60;
/// A header of four bytes and the record of an IPv6 client.
const UOA_MAX: usize = 24;

/// Bytes that the record and what belongs to it add to a datagram.
pub const fn uoa_len(uoa: Uoa, client: IpAddr) -> usize {
    let record = match client {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 20,
    };
    match uoa {
        Uoa::Option => record,
        Uoa::Header => 4 + record,
    }
}

/// Blanks the records that a client wrote into the options of its IPv4 header. Returns whether there
/// were any.
///
/// # Panics
/// When `packet` was not parsed from this frame.
pub fn strip_uoa<K>(frame: &mut [u8], packet: &Packet<K>) -> bool {
    let header = &mut frame[ETHERNET_LEN..usize::from(packet.l4)];
    if header.len() == IPV4_LEN {
        return false;
    }
    let old = checksum::sum(&header[IPV4_LEN..]);
    let mut found = false;
    for_each_option(&mut header[IPV4_LEN..], |option| {
        if option[0] == RECORD {
            option.fill(NO_OPERATION);
            found = true;
        }
    });
    let new = checksum::sum(&header[IPV4_LEN..]);
    let adjusted = checksum::adjust(be16(header, 10), checksum::difference(old, new));
    put16(header, 10, adjusted);
    found
}

/// Puts the record into a datagram of `family` whose UDP header begins at `l4`. False, and nothing
/// changed, when the IP header or the buffer has no room.
pub fn insert_uoa(frame: &mut Frame<'_>, family: Family, l4: usize, uoa: Uoa, client: Endpoint) -> bool {
    let len = uoa_len(uoa, client.address);
    let header_len = l4 - ETHERNET_LEN;
    let at = match (uoa, family) {
        (Uoa::Option, Family::V4) if header_len + len <= IPV4_HEADER_MAX => ETHERNET_LEN + IPV4_LEN,
        (Uoa::Header, Family::V4) => l4,
        // Behind other headers nobody would look for it.
        (Uoa::Header, Family::V6) if header_len == IPV6_LEN => l4,
        _ => return false,
    };
    let mut record = ArrayVec::<u8, UOA_MAX>::new();
    if uoa == Uoa::Header {
        let version = if client.address.is_ipv4() { 0x10 } else { 0x20 };
        record.extend([version, Protocol::Udp as u8, 0, len as u8]);
    }
    record.extend([RECORD, (len - record.len()) as u8]);
    record.extend(client.l4_port.to_be_bytes());
    match client.address {
        IpAddr::V4(address) => record.extend(address.octets()),
        IpAddr::V6(address) => record.extend(address.octets()),
    }
    if !frame.prepend(len) {
        return false;
    }
    let all = frame.bytes_mut();
    all.copy_within(len..len + at, 0);
    all[at..at + len].copy_from_slice(&record);
    let ip = &mut all[ETHERNET_LEN..at + len];
    lengthen(ip, family, len as u16);
    let changed = match (uoa, family) {
        (Uoa::Option, _) => {
            let longer = (len / 4) as u8;
            ip[0] += longer;
            checksum::add(u16::from(longer) << 8, checksum::sum(&record))
        }
        (Uoa::Header, Family::V4) => {
            ip[9] = PROTOCOL;
            u16::from(PROTOCOL - Protocol::Udp as u8)
        }
        (Uoa::Header, Family::V6) => {
            ip[6] = PROTOCOL;
            return true;
        }
    };
    let adjusted = checksum::adjust(be16(ip, 10), changed);
    put16(ip, 10, adjusted);
    true
}
