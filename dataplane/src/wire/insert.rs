//! Putting bytes into a packet, in front of its payload or behind its IP header.

use super::checksum;
use super::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, be16, put16};
use crate::flow::{Family, Protocol};
use crate::frame::Frame;

const PUSH: u8 = 0x08;
const URGENT: u8 = 0x20;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const TCP_URGENT_POINTER: usize = 18;
const UDP_LEN: usize = 4;
const UDP_CHECKSUM: usize = 6;

/// Puts `bytes` in front of the payload of a packet of `family` whose layer-4 header begins at `l4`; a
/// TCP segment is pushed. Checksums and lengths follow; a wrong checksum stays wrong, and none stays none.
/// False, and nothing changed, when the buffer's headroom has no place for it, and for other protocols.
pub fn insert_payload(
    frame: &mut Frame<'_>,
    family: Family,
    l4: usize,
    protocol: Protocol,
    bytes: &[u8],
) -> bool {
    let len = bytes.len();
    let is_tcp = match protocol {
        Protocol::Tcp => true,
        Protocol::Udp => false,
        // Streams without a beginning, and no streams.
        Protocol::Sctp | Protocol::Icmp => return false,
    };
    let header_len = if is_tcp { usize::from(frame.bytes()[l4 + 12] >> 4) * 4 } else { 8 };
    let payload = l4 + header_len;
    let old = checksum::sum(&frame.bytes()[payload..]);
    if !frame.prepend(len) {
        return false;
    }
    let all = frame.bytes_mut();
    all.copy_within(len..len + payload, 0);
    all[payload..payload + len].copy_from_slice(bytes);
    // Behind an odd number of bytes the payload's own change places in their pairs.
    let new = if len % 2 == 1 { old.swap_bytes() } else { old };
    let inserted = checksum::add(checksum::sum(bytes), len as u16);
    let mut difference = checksum::add(checksum::difference(old, new), inserted);
    let upper = &mut all[l4..];
    if is_tcp {
        if upper[TCP_FLAGS] & PUSH == 0 {
            upper[TCP_FLAGS] |= PUSH;
            difference = checksum::add(difference, u16::from(PUSH));
        }
        if upper[TCP_FLAGS] & URGENT != 0 {
            let further = be16(upper, TCP_URGENT_POINTER);
            put16(upper, TCP_URGENT_POINTER, further.wrapping_add(len as u16));
            let change = checksum::difference(further, be16(upper, TCP_URGENT_POINTER));
            difference = checksum::add(difference, change);
        }
        let adjusted = checksum::adjust(be16(upper, TCP_CHECKSUM), difference);
        put16(upper, TCP_CHECKSUM, adjusted);
    } else {
        let longer = be16(upper, UDP_LEN) + len as u16;
        put16(upper, UDP_LEN, longer);
        // The length is in the pseudo-header too.
        let adjusted = checksum::adjust(be16(upper, UDP_CHECKSUM), checksum::add(difference, len as u16));
        match (be16(upper, UDP_CHECKSUM), adjusted) {
            (0, _) => {}
            (_, 0) => put16(upper, UDP_CHECKSUM, 0xffff),
            (_, adjusted) => put16(upper, UDP_CHECKSUM, adjusted),
        }
    }
    lengthen(&mut all[ETHERNET_LEN..l4], family, len as u16);
    true
}

/// Cuts off what a TCP segment of `family` carries behind its header, which begins at `l4`.
pub fn cut_payload(frame: &mut Frame<'_>, family: Family, l4: usize) {
    let payload = l4 + usize::from(frame.bytes()[l4 + 12] >> 4) * 4;
    let len = frame.bytes().len() - payload;
    if len == 0 {
        return;
    }
    let gone = checksum::add(checksum::sum(&frame.bytes()[payload..]), len as u16);
    frame.truncate(payload);
    let all = frame.bytes_mut();
    let adjusted = checksum::adjust(be16(all, l4 + TCP_CHECKSUM), !gone);
    put16(all, l4 + TCP_CHECKSUM, adjusted);
    let ip = &mut all[ETHERNET_LEN..l4];
    match family {
        Family::V4 => {
            let total_len = be16(ip, 2) - len as u16;
            put16(ip, 2, total_len);
            let adjusted = checksum::adjust(be16(ip, 10), !(len as u16));
            put16(ip, 10, adjusted);
        }
        Family::V6 => {
            let payload_len = be16(ip, 4) - len as u16;
            put16(ip, 4, payload_len);
        }
    }
}

/// Makes an IP header say that its packet is longer.
pub(super) fn lengthen(ip: &mut [u8], family: Family, by: u16) {
    match family {
        Family::V4 => {
            debug_assert!(ip.len() >= IPV4_LEN);
            let total_len = be16(ip, 2) + by;
            put16(ip, 2, total_len);
            let adjusted = checksum::adjust(be16(ip, 10), by);
            put16(ip, 10, adjusted);
        }
        Family::V6 => {
            debug_assert!(ip.len() >= IPV6_LEN);
            let payload_len = be16(ip, 4) + by;
            put16(ip, 4, payload_len);
        }
    }
}
