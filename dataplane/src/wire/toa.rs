//! The client's address in a TCP option (TOA): what a server behind FullNAT reads instead of the
//! source address.
//!
//! Kind, length (8 or 20), port, address; directly behind the fixed header. Lengths are multiples of
//! four, so nothing needs padding.

use super::insert::lengthen;
use super::packet::Packet;
use super::sequence::edit_options;
use super::{ETHERNET_LEN, be16, checksum, put16};
use crate::flow::{Endpoint, Family};
use crate::frame::Frame;
use std::net::IpAddr;

/// The kind that DPVS and its module use.
pub const TOA_KIND: u8 = 254;
const FIXED: usize = 20;
const HEADER_MAX: usize = 60;
const NO_OPERATION: u8 = 1;

/// Bytes of the option for a client.
pub const fn toa_len(client: IpAddr) -> usize {
    match client {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 20,
    }
}

/// Blanks what a client sent of this kind: nobody but Sluice says where a client is. Returns whether
/// there was any.
pub fn strip_toa<K>(frame: &mut [u8], packet: &Packet<K>, kind: u8) -> bool {
    let mut found = false;
    edit_options(&mut frame[usize::from(packet.l4)..], |option| {
        if option[0] == kind {
            option.fill(NO_OPERATION);
            found = true;
        }
    });
    found
}

/// Puts the option into a TCP segment of `family` whose header begins at `l4`. Both checksums and the
/// lengths follow; a wrong checksum stays wrong. False, and nothing changed, when the header or the
/// buffer has no room.
pub fn insert_toa(frame: &mut Frame<'_>, family: Family, l4: usize, kind: u8, client: Endpoint) -> bool {
    let len = toa_len(client.address);
    let header_len = usize::from(frame.bytes()[l4 + 12] >> 4) * 4;
    if header_len + len > HEADER_MAX || !frame.prepend(len) {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(len..len + l4 + FIXED, 0);
    let option = &mut bytes[l4 + FIXED..l4 + FIXED + len];
    (option[0], option[1]) = (kind, len as u8);
    option[2..4].copy_from_slice(&client.l4_port.to_be_bytes());
    match client.address {
        IpAddr::V4(address) => option[4..].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => option[4..].copy_from_slice(&address.octets()),
    }
    // What is new under the checksum: the option, a longer header, and a longer segment in the
    // pseudo-header.
    let longer = ((len / 4) << 12) as u16;
    let difference = checksum::add(checksum::add(checksum::sum(option), longer), len as u16);
    let segment = &mut bytes[l4..];
    segment[12] += ((len / 4) as u8) << 4;
    let adjusted = checksum::adjust(be16(segment, 16), difference);
    put16(segment, 16, adjusted);
    lengthen(&mut bytes[ETHERNET_LEN..l4], family, len as u16);
    true
}
