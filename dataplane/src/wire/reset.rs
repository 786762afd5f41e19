//! A TCP segment that ends a connection, made from nothing.

use super::icmp::INITIAL_TTL;
use super::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, checksum, put16, put32};
use crate::flow::{FlowKey6, Key, Protocol};
use arrayvec::ArrayVec;

const TCP_LEN: usize = 20;
const RST: u8 = 0x04;

/// A frame with nothing but headers.
pub type ResetFrame = ArrayVec<u8, { ETHERNET_LEN + IPV6_LEN + TCP_LEN }>;

/// The reset of `flow` with this sequence number, which must be the very one that its receiver expects
/// (RFC 5961 §3.2). The station addresses are left to the caller.
pub fn reset_frame(flow: FlowKey6, sequence: u32) -> ResetFrame {
    let narrow = flow.narrow();
    let header_len = if narrow.is_some() { IPV4_LEN } else { IPV6_LEN };
    let mut frame: ResetFrame = std::iter::repeat_n(0, ETHERNET_LEN + header_len + TCP_LEN).collect();
    let (ip, tcp) = frame[ETHERNET_LEN..].split_at_mut(header_len);
    let ethertype = match narrow {
        Some(flow) => {
            ip[0] = 0x45;
            put16(ip, 2, (IPV4_LEN + TCP_LEN) as u16);
            // Never in pieces.
            put16(ip, 6, 0x4000);
            (ip[8], ip[9]) = (INITIAL_TTL, Protocol::Tcp as u8);
            ip[12..].copy_from_slice(&flow.address_word().to_be_bytes());
            let header_checksum = !checksum::sum(ip);
            put16(ip, 10, header_checksum);
            ETHERTYPE_IPV4
        }
        None => {
            put32(ip, 0, 6 << 28);
            put16(ip, 4, TCP_LEN as u16);
            (ip[6], ip[7]) = (Protocol::Tcp as u8, INITIAL_TTL);
            ip[8..].copy_from_slice(&flow.address_bytes());
            ETHERTYPE_IPV6
        }
    };
    put32(tcp, 0, flow.port_word());
    put32(tcp, 4, sequence);
    (tcp[12], tcp[13]) = ((TCP_LEN / 4 * 16) as u8, RST);
    let addresses = narrow.map_or(flow.address_sum(), Key::address_sum);
    let pseudo = checksum::fold(addresses + Protocol::Tcp as u64 + TCP_LEN as u64);
    let segment_checksum = !checksum::add(checksum::sum(tcp), pseudo);
    put16(tcp, 16, segment_checksum);
    put16(&mut frame, 12, ethertype);
    frame
}
