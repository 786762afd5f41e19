//! Packets made from nothing: a TCP segment that ends a connection, and one that stands for a client's or a server's
//! when somebody asks what would become of it.

use super::icmp::INITIAL_TTL;
use super::sctp::CHECKSUM_AT;
use super::syn::SynOptions;
use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, Mac, TcpFlags, checksum, put16, put32,
};
use crate::flow::{FlowKey6, Key, Protocol};
use arrayvec::ArrayVec;

const TCP_LEN: usize = 20;
const RST: u8 = 0x04;
/// The common header, and an INIT without parameters or the header of another chunk.
const SCTP_LEN: usize = 32;

/// The longest header of TCP.
const TCP_LEN_MAX: usize = 60;

/// A frame with nothing but headers.
pub type MadeFrame = ArrayVec<u8, MADE_LEN_MAX>;

const MADE_LEN_MAX: usize = ETHERNET_LEN + IPV6_LEN + TCP_LEN_MAX;

/// A segment without data, of a connection that begins.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// Its sequence number.
    pub sequence: u32,
    /// What it acknowledges; 0 without ACK.
    pub acknowledged: u32,
    /// Its flags.
    pub flags: TcpFlags,
    /// Its window, as it stands there.
    pub window: u16,
    /// Its options.
    pub options: SynOptions,
}

/// The segment of `flow` that says so. The station addresses are left to the caller.
pub fn handshake_frame(flow: FlowKey6, segment: &Handshake) -> MadeFrame {
    let mut options = [0; TCP_LEN_MAX - TCP_LEN];
    let len = segment.options.write(&mut options);
    let (mut frame, tcp, pseudo) = begin(flow, Protocol::Tcp as u8, TCP_LEN + len);
    let tcp = &mut frame[tcp..];
    put32(tcp, 0, flow.port_word());
    put32(tcp, 4, segment.sequence);
    put32(tcp, 8, segment.acknowledged);
    (tcp[12], tcp[13]) = (((TCP_LEN + len) / 4 * 16) as u8, segment.flags.octet());
    put16(tcp, 14, segment.window);
    tcp[TCP_LEN..].copy_from_slice(&options[..len]);
    let segment_checksum = !checksum::add(checksum::sum(tcp), pseudo);
    put16(tcp, 16, segment_checksum);
    frame
}

/// The reset of `flow` with this sequence number, which must be the very one that its receiver expects
/// (RFC 5961 §3.2). The station addresses are left to the caller.
pub fn reset_frame(flow: FlowKey6, sequence: u32) -> MadeFrame {
    let (mut frame, tcp, pseudo) = begin(flow, Protocol::Tcp as u8, TCP_LEN);
    write_tcp(&mut frame[tcp..], flow, sequence, RST, pseudo);
    frame
}

/// The packet of `flow` that somebody imagines, for a station. `flags` are TCP's, in their octet on the wire; SYN alone
/// stands for an SCTP INIT, and what else there is for a chunk of data. ICMP is an echo request whose identifier is the
/// flow's source port.
pub fn imagined_frame(flow: FlowKey6, flags: u8, station: Mac) -> MadeFrame {
    const SYN: u8 = 0x02;
    let is_ipv4 = flow.narrow().is_some();
    let mut frame = match flow.protocol() {
        Protocol::Tcp => {
            let (mut frame, tcp, pseudo) = begin(flow, Protocol::Tcp as u8, TCP_LEN);
            write_tcp(&mut frame[tcp..], flow, 0, flags, pseudo);
            frame
        }
        Protocol::Udp => {
            const UDP_LEN: usize = 8;
            let (mut frame, udp, pseudo) = begin(flow, Protocol::Udp as u8, UDP_LEN);
            let udp = &mut frame[udp..];
            put32(udp, 0, flow.port_word());
            put16(udp, 4, UDP_LEN as u16);
            let sum = !checksum::add(checksum::sum(udp), pseudo);
            put16(udp, 6, if sum == 0 { 0xffff } else { sum });
            frame
        }
        Protocol::Sctp => {
            let opens = flags == SYN;
            let (mut frame, sctp, _) = begin(flow, Protocol::Sctp as u8, SCTP_LEN);
            let sctp = &mut frame[sctp..];
            put32(sctp, 0, flow.port_word());
            // RFC 9260 §3.3.2 and §3.3.1; only what begins an association has no tag.
            (sctp[12], sctp[15]) = (u8::from(opens), (SCTP_LEN - 12) as u8);
            put32(sctp, 4, u32::from(!opens));
            let sum = crc32c::crc32c(sctp);
            sctp[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
            frame
        }
        Protocol::Icmp => {
            const ECHO_LEN: usize = 8;
            const ICMPV6: u8 = 58;
            let number = if is_ipv4 { Protocol::Icmp as u8 } else { ICMPV6 };
            let (mut frame, icmp, pseudo) = begin(flow, number, ECHO_LEN);
            let icmp = &mut frame[icmp..];
            // RFC 792 and RFC 4443 §4.1.
            icmp[0] = if is_ipv4 { 8 } else { 128 };
            put16(icmp, 4, flow.source().l4_port);
            let sum = checksum::add(checksum::sum(icmp), if is_ipv4 { 0 } else { pseudo });
            put16(icmp, 2, !sum);
            frame
        }
    };
    frame[..6].copy_from_slice(&station);
    // A station of nobody's: locally administered, and no group.
    frame[6] = 0x02;
    frame
}

/// A frame whose payload of `len` bytes is still to be written, where that begins, and the sum of the pseudo-header.
fn begin(flow: FlowKey6, number: u8, len: usize) -> (MadeFrame, usize, u16) {
    let narrow = flow.narrow();
    let header_len = if narrow.is_some() { IPV4_LEN } else { IPV6_LEN };
    // Zeroed whole: one octet after the other takes longer than all the rest.
    let mut frame = MadeFrame::from([0; MADE_LEN_MAX]);
    frame.truncate(ETHERNET_LEN + header_len + len);
    let ip = &mut frame[ETHERNET_LEN..ETHERNET_LEN + header_len];
    let ethertype = match narrow {
        Some(flow) => {
            ip[0] = 0x45;
            put16(ip, 2, (IPV4_LEN + len) as u16);
            // Never in pieces.
            put16(ip, 6, 0x4000);
            (ip[8], ip[9]) = (INITIAL_TTL, number);
            ip[12..].copy_from_slice(&flow.address_word().to_be_bytes());
            let header_checksum = !checksum::sum(ip);
            put16(ip, 10, header_checksum);
            ETHERTYPE_IPV4
        }
        None => {
            put32(ip, 0, 6 << 28);
            put16(ip, 4, len as u16);
            (ip[6], ip[7]) = (number, INITIAL_TTL);
            ip[8..].copy_from_slice(&flow.address_bytes());
            ETHERTYPE_IPV6
        }
    };
    put16(&mut frame, 12, ethertype);
    let addresses = narrow.map_or(flow.address_sum(), Key::address_sum);
    let pseudo = checksum::fold(addresses + u64::from(number) + len as u64);
    (frame, ETHERNET_LEN + header_len, pseudo)
}

fn write_tcp(tcp: &mut [u8], flow: FlowKey6, sequence: u32, flags: u8, pseudo: u16) {
    put32(tcp, 0, flow.port_word());
    put32(tcp, 4, sequence);
    (tcp[12], tcp[13]) = ((TCP_LEN / 4 * 16) as u8, flags);
    let segment_checksum = !checksum::add(checksum::sum(tcp), pseudo);
    put16(tcp, 16, segment_checksum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Endpoint;
    use pktgen_tests::frames::{crc32c_bit_by_bit, endpoints, fill_checksums};

    #[test]
    fn every_kind_of_packet_has_right_checksums_and_its_endpoints() {
        for (source, destination) in
            [("198.51.100.7:4000", "192.0.2.10:80"), ("[2001:db8:c::7]:4000", "[2001:db8::10]:80")]
        {
            let end = |text: &str| {
                let socket: std::net::SocketAddr = text.parse().unwrap();
                Endpoint::new(socket.ip(), socket.port())
            };
            for protocol in Protocol::ALL {
                for flags in [0x02, 0x10] {
                    let flow = FlowKey6::new(protocol, end(source), end(destination));
                    let frame = imagined_frame(flow, flags, [2, 0, 0, 0, 0, 9]);
                    let mut right = frame.to_vec();
                    fill_checksums(&mut right);
                    if protocol == Protocol::Sctp {
                        let sctp = right.len() - SCTP_LEN;
                        right[sctp + 8..sctp + 12].fill(0);
                        let sum = crc32c_bit_by_bit(&right[sctp..]);
                        right[sctp + 8..sctp + 12].copy_from_slice(&sum.to_le_bytes());
                    }
                    assert_eq!(frame[..], right, "{protocol:?} {flags}");
                    let (from, to) = endpoints(&frame).unwrap();
                    assert_eq!((from.0, to.0), (end(source).address, end(destination).address));
                }
            }
        }
    }
}
