//! Frames for the kernel of the appliance's host: what a worker must know of a frame that nobody else claims.
//!
//! These frames may be anything, and nothing of them was checked but that some parser refused them or no
//! session had them; the kernel checks them again. So this looks at as little as possible.

use super::protocol::{ICMP, ICMPV6, TCP, UDP};
use super::{ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, Mac, be16};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType of LLDP (IEEE 802.1AB).
const ETHERTYPE_LLDP: u16 = 0x88cc;
const SYN: u8 = 0x02;
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
            ETHERTYPE_IPV4 => {
                let header_len = usize::from(ip.first()? & 0x0f) * 4;
                let header = ip.get(..header_len.max(IPV4_LEN))?;
                let source = Some(Ipv4Addr::from(*header[12..].first_chunk()?).into());
                let destination = Some(Ipv4Addr::from(*header[16..].first_chunk()?).into());
                // Later fragments have no layer-4 header.
                let is_first = be16(header, 6) & 0x1fff == 0;
                let (l4_port, continues) =
                    if is_first { read_l4(header[9], ip.get(header_len..)?) } else { (0, false) };
                Some(Self { source, destination, unicast, l4_port, continues })
            }
            ETHERTYPE_IPV6 => {
                let header = ip.get(..IPV6_LEN)?;
                let source = Some(Ipv6Addr::from(*header[8..].first_chunk()?).into());
                let destination = Some(Ipv6Addr::from(*header[24..].first_chunk()?).into());
                let (l4_port, continues) = read_l4(header[6], &ip[IPV6_LEN..]);
                Some(Self { source, destination, unicast, l4_port, continues })
            }
            ETHERTYPE_LLDP => {
                Some(Self { source: None, destination: None, unicast, l4_port: 0, continues: false })
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

/// The port of the appliance that a packet is for, or that an error is about, and whether it is a segment
/// that opens nothing.
fn read_l4(protocol: u8, body: &[u8]) -> (u16, bool) {
    let port = |at: usize| if body.len() >= at + 2 { be16(body, at) } else { 0 };
    match protocol {
        TCP => (port(2), body.get(13).is_some_and(|flags| flags & (SYN | ACK) != SYN)),
        UDP => (port(2), false),
        // The quoted packet is one that the appliance sent: its source port is ours.
        ICMP => {
            let len = body.get(ICMP_LEN).map_or(0, |first| usize::from(first & 0x0f) * 4);
            (port(ICMP_LEN + len), false)
        }
        ICMPV6 => (port(ICMP_LEN + IPV6_LEN), false),
        _ => (0, false),
    }
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
        error.extend([0x02, 0x58, 0, 53, 0, 8, 0, 0]);
        assert_eq!(Unclaimed::read(&ipv4(ICMP, [10, 0, 0, 2], &error), MAC).unwrap().l4_port, 600);
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
