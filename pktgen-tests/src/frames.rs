//! Frames: built for sending, and read independently of the dataplane's own parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Destination, source and EtherType.
pub const ETHERNET: usize = 14;

/// TCP control bits.
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledge.
    pub const ACK: u8 = 0x10;
}

/// Who sends to whom: station addresses and endpoints, which are of one family.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The sender's station.
    pub source_mac: [u8; 6],
    /// The receiver's station.
    pub destination_mac: [u8; 6],
    /// The sender's address and port.
    pub source: (IpAddr, u16),
    /// The receiver's address and port.
    pub destination: (IpAddr, u16),
}

/// A TCP segment with right checksums, sequence number 1000 and `payload`.
pub fn tcp_frame(route: &Route, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&route.source.1.to_be_bytes());
    segment[2..4].copy_from_slice(&route.destination.1.to_be_bytes());
    segment[4..8].copy_from_slice(&1000u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&8192u16.to_be_bytes());
    segment.extend_from_slice(payload);
    ip_frame(route, 6, 64, &segment)
}

/// A UDP datagram with right checksums.
pub fn udp_frame(route: &Route, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; 8];
    datagram[..2].copy_from_slice(&route.source.1.to_be_bytes());
    datagram[2..4].copy_from_slice(&route.destination.1.to_be_bytes());
    datagram[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    datagram.extend_from_slice(payload);
    ip_frame(route, 17, 64, &datagram)
}

/// An SCTP packet with a right checksum.
pub fn sctp_frame(route: &Route, tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet[..2].copy_from_slice(&route.source.1.to_be_bytes());
    packet[2..4].copy_from_slice(&route.destination.1.to_be_bytes());
    packet[4..8].copy_from_slice(&tag.to_be_bytes());
    packet.extend_from_slice(chunks);
    let sum = crc32c_bit_by_bit(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    ip_frame(route, 132, 64, &packet)
}

/// CRC32c as RFC 9260 appendix A defines it, slow and obvious.
pub fn crc32c_bit_by_bit(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
        }
    }
    !sum
}

/// An ICMP echo request.
pub fn echo_request(route: &Route, payload: &[u8]) -> Vec<u8> {
    let (kind, protocol) = if route.source.0.is_ipv4() { (8, 1) } else { (128, 58) };
    let mut message = vec![kind, 0, 0, 0, 0, 7, 0, 1];
    message.extend_from_slice(payload);
    ip_frame(route, protocol, 64, &message)
}

/// An IP packet in a frame; the header's checksum and the one of TCP, UDP or ICMP are filled in.
///
/// # Panics
/// When the route's addresses are of two families.
pub fn ip_frame(route: &Route, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + 40 + body.len());
    frame.extend_from_slice(&route.destination_mac);
    frame.extend_from_slice(&route.source_mac);
    match (route.source.0, route.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
            frame.extend_from_slice(&(20 + body.len() as u16).to_be_bytes());
            frame.extend_from_slice(&[0, 1, 0x40, 0, ttl, protocol, 0, 0]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&(body.len() as u16).to_be_bytes());
            frame.extend_from_slice(&[protocol, ttl]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&destination.octets());
        }
        _ => panic!("addresses of two families: {route:?}"),
    }
    frame.extend_from_slice(body);
    fill_checksums(&mut frame);
    frame
}

/// Where the upper layer begins behind an IP header (without IPv6 extensions), and its protocol.
/// `None` for what is cut short or no IP.
pub fn upper_layer(ip: &[u8]) -> Option<(usize, u8)> {
    let (header, protocol) = match ip.first()? >> 4 {
        4 => (usize::from(ip[0] & 15) * 4, *ip.get(9)?),
        6 => (40, *ip.get(6)?),
        _ => return None,
    };
    (header >= 20 && ip.len() >= header).then_some((header, protocol))
}

/// Computes the checksums of a frame whose IP header is whole anew, as far as their fields are there.
/// What is no IP is left as it is.
pub fn fill_checksums(frame: &mut [u8]) {
    let Some((header, protocol)) = frame.get(ETHERNET..).and_then(upper_layer) else { return };
    if frame[ETHERNET] >> 4 == 4 {
        frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        let ip_sum = !ones_sum(&frame[ETHERNET..ETHERNET + header], 0);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&ip_sum.to_be_bytes());
    }
    let Some(field) = checksum_field(protocol) else { return };
    let l4 = ETHERNET + header;
    if frame.len() < l4 + field + 2 {
        return;
    }
    frame[l4 + field..l4 + field + 2].fill(0);
    let pseudo = if protocol == 1 { 0 } else { pseudo_sum(&frame[ETHERNET..]) };
    let sum = !ones_sum(&frame[l4..], pseudo);
    frame[l4 + field..l4 + field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Where a protocol's checksum stands in its header.
pub fn checksum_field(protocol: u8) -> Option<usize> {
    match protocol {
        1 | 58 => Some(2),
        6 => Some(16),
        17 => Some(6),
        _ => None,
    }
}

/// The sum over the pseudo-header of an IP packet without IPv6 extensions, taken from its length.
pub fn pseudo_sum(ip: &[u8]) -> u32 {
    if ip[0] >> 4 == 6 {
        return u32::from(ones_sum(&ip[8..40], u32::from(ip[6]) + u32::from(be16(ip, 4))));
    }
    let header = u32::from(ip[0] & 15) * 4;
    let total = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
    u32::from(ones_sum(&ip[12..20], u32::from(ip[9]) + total.saturating_sub(header)))
}

/// The one's-complement sum of `bytes`, begun with `start`.
pub fn ones_sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A two-byte number.
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A four-byte number.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The source and destination of an unfragmented TCP or UDP frame.
pub fn endpoints(frame: &[u8]) -> Option<((IpAddr, u16), (IpAddr, u16))> {
    let ip = frame.get(ETHERNET..)?;
    let (header, _) = upper_layer(ip)?;
    let ports = ip.get(header..header + 4)?;
    let (source, destination): (IpAddr, IpAddr) = match ip[0] >> 4 {
        4 => (Ipv4Addr::from_bits(be32(ip, 12)).into(), Ipv4Addr::from_bits(be32(ip, 16)).into()),
        _ => {
            let address = |at: usize| {
                let words: [u16; 8] = std::array::from_fn(|word| be16(ip, at + 2 * word));
                IpAddr::from(Ipv6Addr::from(words))
            };
            (address(8), address(24))
        }
    };
    Some(((source, be16(ports, 0)), (destination, be16(ports, 2))))
}
