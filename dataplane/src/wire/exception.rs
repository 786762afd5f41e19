//! Frames for the kernel of the appliance's host: what a worker must know of a frame that nobody else claims.
//!
//! These frames may be anything, and nothing of them was checked but that some parser refused them or no
//! session had them; the kernel checks them again. So this looks at as little as possible.

use super::protocol::{ICMP, ICMPV6, TCP, UDP};
use super::{ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, Mac, be16};
use crate::flow::{Endpoint, FlowKey6, Key, Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType of LLDP (IEEE 802.1AB).
const ETHERTYPE_LLDP: u16 = 0x88cc;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Bytes of an ICMP error before the packet that it quotes.
const ICMP_LEN: usize = 8;
const ARP_REPLY: u16 = 2;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// What a frame is that nobody claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclaimed {
    /// Where its packet comes from; `None` for a protocol of the link itself (LLDP).
    pub source: Option<IpAddr>,
    /// Where its packet goes; `None` for a protocol of the link itself (LLDP).
    pub destination: Option<IpAddr>,
    /// Whether it is addressed to this station alone.
    pub unicast: bool,
    /// The appliance's own port that it is for, or is about; 0 where there is none.
    pub l4_port: u16,
    /// Whether it is a TCP segment that opens no connection.
    pub continues: bool,
    /// The flow of such a segment.
    pub flow: Option<FlowKey6>,
}

impl Unclaimed {
    /// Reads a frame for the station `mac`, for all, or for a group; `None` for others, and for what no kernel
    /// would take.
    pub fn read(frame: &[u8], mac: Mac) -> Option<Self> {
        let header = frame.get(..ETHERNET_LEN)?;
        let unicast = header[..6] == mac;
        if !unicast && header[0] & 1 == 0 {
            return None;
        }
        let ip = &frame[ETHERNET_LEN..];
        match be16(header, 12) {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {
                let packet = Datagram::read(ip)?;
                let (source, destination) = (Some(packet.source), Some(packet.destination));
                let continues = packet.protocol == TCP
                    && packet.body().get(13).is_some_and(|flags| flags & (SYN | ACK) != SYN);
                // The quoted packet is one that the appliance sent: its source port is ours.
                let l4_port = match packet.quoted() {
                    Some(quoted) => quoted.ports().map_or(0, |(source, _)| source),
                    None => packet.ports().map_or(0, |(_, destination)| destination),
                };
                let flow = packet.flow().filter(|_| continues);
                Some(Self { source, destination, unicast, l4_port, continues, flow })
            }
            ETHERTYPE_LLDP => {
                let (source, destination, flow) = (None, None, None);
                Some(Self { source, destination, unicast, l4_port: 0, continues: false, flow })
            }
            _ => None,
        }
    }

    /// Whether it is for a group on the link (RFC 5771 §4, RFC 4291 §2.7), as routing protocols use them.
    pub fn is_for_link(&self) -> bool {
        match self.destination {
            None => true,
            Some(IpAddr::V4(address)) => address.octets()[..3] == [224, 0, 0],
            Some(IpAddr::V6(address)) => address.segments()[0] == 0xff02,
        }
    }
}

/// An IP packet of which nothing was checked, and which may be cut off.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The protocol of what it carries; extension headers are not passed over.
    pub protocol: u8,
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// What it carries, from the first byte on; `None` in later fragments.
    body: Option<&'a [u8]>,
}

impl<'a> Datagram<'a> {
    /// Reads the header of a packet; `None` when it is not there whole.
    pub fn read(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header_len = usize::from(packet[0] & 0x0f) * 4;
                let header = packet.get(..header_len.max(IPV4_LEN))?;
                let is_first = be16(header, 6) & 0x1fff == 0;
                Some(Self {
                    protocol: header[9],
                    source: Ipv4Addr::from(*header[12..].first_chunk()?).into(),
                    destination: Ipv4Addr::from(*header[16..].first_chunk()?).into(),
                    body: packet.get(header_len..).filter(|_| is_first),
                })
            }
            6 => {
                let header = packet.get(..IPV6_LEN)?;
                Some(Self {
                    protocol: header[6],
                    source: Ipv6Addr::from(*header[8..].first_chunk()?).into(),
                    destination: Ipv6Addr::from(*header[24..].first_chunk()?).into(),
                    body: packet.get(IPV6_LEN..),
                })
            }
            _ => None,
        }
    }

    fn body(&self) -> &'a [u8] {
        self.body.unwrap_or_default()
    }

    /// Source and destination port of a TCP segment or UDP datagram.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let ports = self.body().get(..4).filter(|_| matches!(self.protocol, TCP | UDP))?;
        Some((be16(ports, 0), be16(ports, 2)))
    }

    /// The flow of a TCP segment.
    fn flow(&self) -> Option<FlowKey6> {
        let (source, destination) = self.ports().filter(|_| self.protocol == TCP)?;
        let (source, destination) =
            (Endpoint::new(self.source, source), Endpoint::new(self.destination, destination));
        Some(FlowKey6::new(Protocol::Tcp, source, destination))
    }

    /// The packet that an ICMP error is about (RFC 792, RFC 4443 §2.1); `None` in everything else, pings too.
    pub fn quoted(&self) -> Option<Self> {
        let body = self.body();
        let is_error = match (self.protocol, body.first()?) {
            (ICMP, kind) => matches!(kind, 3..=5 | 11 | 12),
            (ICMPV6, kind) => *kind < 128,
            _ => false,
        };
        Self::read(body.get(ICMP_LEN..).filter(|_| is_error)?)
    }
}

/// The flow of the peer's segments, if a frame of the host's kernel is a segment of a connection that it has, and whether that
/// ends: it acknowledges something, and begins no connection.
pub fn connection_of_host(frame: &[u8]) -> Option<(FlowKey6, bool)> {
    let packet = Datagram::read(frame.get(ETHERNET_LEN..)?)?;
    let flow = packet.flow()?;
    let flags = *packet.body().get(13)?;
    (flags & (SYN | ACK) == ACK).then(|| (flow.reversed(), flags & (RST | FIN) != 0))
}

/// Whether a frame about neighbours is one that the kernel must see too, because it waits for the answer, or
/// because nobody else answers for its link-local address.
pub fn concerns_kernel(frame: &[u8]) -> bool {
    let Some(header) = frame.get(..ETHERNET_LEN) else { return false };
    let body = &frame[ETHERNET_LEN..];
    match be16(header, 12) {
        ETHERTYPE_ARP => body.len() >= 8 && be16(body, 6) == ARP_REPLY,
        ETHERTYPE_IPV6 => match body.get(IPV6_LEN) {
            Some(&NEIGHBOR_ADVERTISEMENT) => true,
            Some(&NEIGHBOR_SOLICITATION) => {
                body.get(IPV6_LEN + 8..IPV6_LEN + 10).is_some_and(|target| be16(target, 0) & 0xffc0 == 0xfe80)
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn ipv4(protocol: u8, destination: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut frame = super::super::ethernet_header(MAC, [2; 6], ETHERTYPE_IPV4).to_vec();
        let mut header = [0_u8; IPV4_LEN];
        header[0] = 0x45;
        header[9] = protocol;
        header[16..].copy_from_slice(&destination);
        frame.extend(header);
        frame.extend(body);
        frame
    }

    fn tcp(l4_port: u16, flags: u8) -> Vec<u8> {
        let mut body = vec![0; 20];
        body[2..4].copy_from_slice(&l4_port.to_be_bytes());
        body[13] = flags;
        body
    }

    #[test]
    fn segments_are_told_apart_by_whether_they_open() {
        for (flags, continues) in [(SYN, false), (SYN | ACK, true), (ACK, true), (0x04, true)] {
            let read = Unclaimed::read(&ipv4(TCP, [10, 0, 0, 2], &tcp(22, flags)), MAC).unwrap();
            assert_eq!((read.l4_port, read.continues), (22, continues), "flags {flags:#x}");
            assert!(read.unicast && !read.is_for_link());
        }
    }

    #[test]
    fn an_error_is_about_the_port_that_the_quoted_packet_left() {
        let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0, 0x45];
        error.resize(ICMP_LEN + IPV4_LEN, 0);
        error[ICMP_LEN + 9] = UDP;
        error.extend([0x02, 0x58, 0, 53, 0, 8, 0, 0]);
        assert_eq!(Unclaimed::read(&ipv4(ICMP, [10, 0, 0, 2], &error), MAC).unwrap().l4_port, 600);
    }

    #[test]
    fn a_ping_has_no_port_whatever_it_carries() {
        for kind in [0, 8] {
            for filler in 0..=255 {
                let mut ping = vec![filler; 24];
                ping[0] = kind;
                let read = Unclaimed::read(&ipv4(ICMP, [10, 0, 0, 2], &ping), MAC).unwrap();
                assert_eq!(read.l4_port, 0, "type {kind}, {filler:#x}");
            }
        }
    }

    #[test]
    fn groups_of_the_link_are_known_and_other_stations_are_not_ours() {
        let mut frame = ipv4(89, [224, 0, 0, 5], &[]);
        frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 5]);
        assert!(Unclaimed::read(&frame, MAC).unwrap().is_for_link());
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        assert_eq!(Unclaimed::read(&frame, MAC), None);
    }

    #[test]
    fn short_frames_are_nobodys() {
        let whole = ipv4(TCP, [10, 0, 0, 2], &tcp(22, SYN));
        for len in 0..ETHERNET_LEN + IPV4_LEN {
            assert_eq!(Unclaimed::read(&whole[..len], MAC), None);
        }
        for len in ETHERNET_LEN + IPV4_LEN..whole.len() {
            assert!(Unclaimed::read(&whole[..len], MAC).is_some());
        }
    }
}
