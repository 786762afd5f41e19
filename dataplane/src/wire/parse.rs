//! From bytes to a [`Packet`]: every check that a header needs, once.

use super::{ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, IPV4_LEN, Mac, be16, be32, checksum};
use crate::drop::DropReason;
use crate::flow::{FlowKey, Protocol};
use crate::frame::Frame;
use std::net::Ipv4Addr;

/// What a port's link lets through, as far as parsing must know.
#[derive(Clone, Copy, Debug)]
pub struct LinkTraits {
    /// The station address that frames for us carry.
    pub mac: Mac,
    /// Largest IP packet of the link, in bytes.
    pub mtu: u16,
    /// True where a kernel may hand over super-frames and partial checksums (af_packet, tap).
    pub kernel_peer: bool,
}

/// One checked packet. Flat and small, because it waits between the director's stages.
/// Offsets are from the frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its flow; an echo request has zero ports.
    pub key: FlowKey,
    /// Where the layer-4 header begins.
    pub l4: u16,
    /// The IPv4 total length, in bytes; the frame was cut to it.
    pub total_len: u16,
    /// Time to live, as it came.
    pub ttl: u8,
    /// TCP's flags, a valid combination; none for what is not TCP.
    pub flags: TcpFlags,
    /// What the packet carries.
    pub payload: Payload,
}

/// What an IPv4 packet carries, as far as Sluice looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A TCP segment or a UDP datagram.
    Transport(Protocol),
    /// An ICMP echo request with a right checksum.
    EchoRequest,
    /// An ICMP error with a right checksum about a packet of this protocol that we sent. The
    /// packet's key is that of an answer to the quoted one: the session's own.
    Error(Protocol),
    /// An ARP frame; all other fields of the packet are zero.
    Arp,
}

impl Packet {
    /// Any ARP frame: control reads the rest.
    pub const ARP: Self =
        Self { key: FlowKey::NONE, l4: 0, total_len: 0, ttl: 0, flags: TcpFlags(0), payload: Payload::Arp };

    /// The sender's address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        self.key.source().address
    }

    /// The receiver's address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        self.key.destination().address
    }
}

/// The control bits of a TCP header (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const URG: u8 = 0x20;

    /// Flags from their octet on the wire.
    pub const fn from_octet(octet: u8) -> Self {
        Self(octet)
    }

    /// The flags that decide about a connection's state: FIN, SYN, RST and ACK, and PSH, which
    /// does not; below 32.
    pub(crate) const fn deciding(self) -> u8 {
        self.0 & 0x1f
    }

    /// Whether the sender has no more data.
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether the segment synchronises sequence numbers.
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether the segment resets the connection.
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether the acknowledgement field is significant.
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether the segment opens a connection: SYN and nothing that contradicts it.
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// Whether RFC 9293 allows the combination. PSH, ECE and CWR say nothing here.
    const fn is_valid(self) -> bool {
        let urgent_aside = self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK);
        match urgent_aside {
            Self::SYN | Self::ACK => true,
            _ if urgent_aside == Self::SYN | Self::ACK => self.0 & Self::URG == 0,
            _ if urgent_aside == Self::RST || urgent_aside == Self::RST | Self::ACK => {
                self.0 & Self::URG == 0
            }
            _ => urgent_aside == Self::FIN | Self::ACK,
        }
    }
}

/// Reads and checks `frame`, and cuts off its Ethernet padding. What it finds is written to
/// `packet`, its place between the stages: packets that are returned are taken apart and put together.
///
/// # Errors
/// The reason why a malformed frame, or one that is not for us, must be dropped; `packet` is left
/// as it was.
#[inline(always)]
pub fn parse(frame: &mut Frame<'_>, link: &LinkTraits, packet: &mut Packet) -> Result<(), DropReason> {
    if let Some(plain) = parse_plain(frame.bytes(), link) {
        *packet = plain;
    } else {
        *packet = parse_any(frame.bytes(), link)?;
        if packet.payload == Payload::Arp {
            return Ok(());
        }
    }
    frame.truncate(ETHERNET_LEN + usize::from(packet.total_len));
    Ok(())
}

/// The packet of a frame of the common kind: TCP or UDP, for us, no options, no fragment,
/// nothing wrong. `None` for all others, of which [`parse_any`] knows more.
///
/// It asks the questions of `parse_any` in one go, at fixed offsets: 50 instructions less.
#[inline(always)]
fn parse_plain(bytes: &[u8], link: &LinkTraits) -> Option<Packet> {
    const L4: usize = ETHERNET_LEN + IPV4_LEN;
    let head: &[u8; L4 + 8] = bytes.first_chunk()?;
    let ip: &[u8; IPV4_LEN] = head[ETHERNET_LEN..].first_chunk()?;
    let transport = &head[L4..];
    let total_len = be16(ip, 2);
    // EtherType, version and header length; no fragment; a source that RFC 1812 lets pass.
    let plain = be32(head, 12) & 0xffff_ff00 == 0x0800_4500
        && head[..6] == link.mac
        && be16(ip, 6) & 0x3fff == 0
        && !matches!(ip[12], 0 | 127 | 224..)
        && checksum::header_is_right(ip)
        && usize::from(total_len) + ETHERNET_LEN <= bytes.len()
        && !(link.kernel_peer && total_len > link.mtu);
    if !plain {
        return None;
    }
    let (payload, flags) = match ip[9] {
        UDP => {
            let len = be16(transport, 4);
            let fits = len >= 8 && usize::from(len) + IPV4_LEN <= usize::from(total_len);
            fits.then_some((Payload::Transport(Protocol::Udp), TcpFlags(0)))?
        }
        TCP => {
            let flags = TcpFlags(*bytes.get(L4 + 13)?);
            let header_len = usize::from(bytes[L4 + 12] >> 4) * 4;
            let fits = header_len >= 20 && header_len + IPV4_LEN <= usize::from(total_len);
            (fits && VALID_FLAGS[usize::from(flags.0)])
                .then_some((Payload::Transport(Protocol::Tcp), flags))?
        }
        _ => return None,
    };
    let addresses = u64::from(be32(ip, 12)) << 32 | u64::from(be32(ip, 16));
    Some(Packet {
        key: FlowKey::from_words(addresses, ip[9], be32(transport, 0)),
        l4: L4 as u16,
        total_len,
        ttl: ip[8],
        flags,
        payload,
    })
}

/// [`TcpFlags::is_valid`] of every octet.
const VALID_FLAGS: [bool; 256] = {
    let mut valid = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        valid[octet] = TcpFlags(octet as u8).is_valid();
        octet += 1;
    }
    valid
};

/// [`parse`] for every frame, whatever it is.
#[inline(never)]
fn parse_any(bytes: &[u8], link: &LinkTraits) -> Result<Packet, DropReason> {
    let Some((ethernet, ip)) = bytes.split_first_chunk::<ETHERNET_LEN>() else {
        return Err(DropReason::EthernetShort);
    };
    match be16(ethernet, 12) {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_ARP => return Ok(Packet::ARP),
        _ => return Err(DropReason::EthertypeUnsupported),
    }
    if ethernet[..6] != link.mac {
        return Err(DropReason::EthernetNotOurs);
    }
    parse_ipv4(ip, link)
}

const TCP: u8 = Protocol::Tcp as u8;
const UDP: u8 = Protocol::Udp as u8;
const ICMP: u8 = 1;

/// RFC 791 §3.1, and RFC 1812 §5.2.2 for what a router must check.
#[inline]
fn parse_ipv4(ip: &[u8], link: &LinkTraits) -> Result<Packet, DropReason> {
    let Some(fixed) = ip.first_chunk::<IPV4_LEN>() else {
        return Err(DropReason::Ipv4Short);
    };
    if fixed[0] >> 4 != 4 {
        return Err(DropReason::Ipv4Version);
    }
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    if header_len < IPV4_LEN || header_len > ip.len() {
        return Err(DropReason::Ipv4HeaderLength);
    }
    let total_len = usize::from(be16(fixed, 2));
    if total_len < header_len {
        return Err(DropReason::Ipv4TotalLength);
    }
    if total_len > usize::from(link.mtu) && link.kernel_peer {
        return Err(DropReason::SuperFrame);
    }
    if total_len > ip.len() {
        return Err(DropReason::Ipv4Truncated);
    }
    if header_len == IPV4_LEN {
        if !checksum::header_is_right(fixed) {
            return Err(DropReason::Ipv4Checksum);
        }
    } else {
        check_long_header(&ip[..header_len])?;
    }
    // RFC 1812 §5.3.7: packets from such sources must not be forwarded.
    if matches!(fixed[12], 0 | 127 | 224..) {
        return Err(DropReason::SourceInvalid);
    }
    // More fragments, or an offset.
    if be16(fixed, 6) & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    let body = &ip[header_len..total_len];
    let addresses = u64::from(be32(fixed, 12)) << 32 | u64::from(be32(fixed, 16));
    let outer = |(payload, flags, ports)| (payload, flags, FlowKey::from_words(addresses, fixed[9], ports));
    let (payload, flags, key) = match fixed[9] {
        TCP => outer(parse_tcp(body)?),
        UDP => outer(parse_udp(body)?),
        ICMP => {
            check_icmp(body)?;
            match body[..2] {
                [ECHO_REQUEST, 0] => outer((Payload::EchoRequest, TcpFlags(0), 0)),
                [UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM, _] => {
                    let (protocol, key) = quoted(&body[ICMP_LEN..], be32(fixed, 16))?;
                    (Payload::Error(protocol), TcpFlags(0), key)
                }
                _ => return Err(DropReason::IcmpUnsupported),
            }
        }
        _ => return Err(DropReason::ProtocolUnsupported),
    };
    Ok(Packet {
        key,
        l4: (ETHERNET_LEN + header_len) as u16,
        total_len: total_len as u16,
        ttl: fixed[8],
        flags,
        payload,
    })
}

/// The checksum and the options of a header that has some.
#[cold]
fn check_long_header(header: &[u8]) -> Result<(), DropReason> {
    if checksum::sum(header) != 0xffff {
        return Err(DropReason::Ipv4Checksum);
    }
    check_options(&header[IPV4_LEN..])
}

/// RFC 791 §3.1 options: well formed, and no source route (RFC 7126 §4.3, §4.4).
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    loop {
        match options {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, rest @ ..] => options = rest,
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(DropReason::Ipv4SourceRoute),
            [_, len, ..] if (2..=options.len()).contains(&usize::from(*len)) => {
                options = &options[usize::from(*len)..];
            }
            _ => return Err(DropReason::Ipv4Options),
        }
    }
}

/// What a transport header says: the payload's kind, flags, and both ports in one word.
type Transport = (Payload, TcpFlags, u32);

#[inline]
fn parse_tcp(body: &[u8]) -> Result<Transport, DropReason> {
    let Some(header) = body.first_chunk::<20>() else {
        return Err(DropReason::TcpShort);
    };
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 || header_len > body.len() {
        return Err(DropReason::TcpHeaderLength);
    }
    let flags = TcpFlags(header[13]);
    if !flags.is_valid() {
        return Err(DropReason::TcpFlags);
    }
    Ok((Payload::Transport(Protocol::Tcp), flags, be32(header, 0)))
}

#[inline]
fn parse_udp(body: &[u8]) -> Result<Transport, DropReason> {
    let Some(header) = body.first_chunk::<8>() else {
        return Err(DropReason::UdpShort);
    };
    let len = usize::from(be16(header, 4));
    if len < 8 || len > body.len() {
        return Err(DropReason::UdpLength);
    }
    Ok((Payload::Transport(Protocol::Udp), TcpFlags(0), be32(header, 0)))
}

/// Types of RFC 792.
const ECHO_REQUEST: u8 = 8;
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
const ICMP_LEN: usize = 8;

/// RFC 792.
fn check_icmp(body: &[u8]) -> Result<(), DropReason> {
    if body.len() < ICMP_LEN {
        return Err(DropReason::IcmpShort);
    }
    if checksum::sum(body) != 0xffff {
        return Err(DropReason::IcmpChecksum);
    }
    Ok(())
}

/// The protocol of the packet that an error quotes, and the key of an answer to it. What was sent to
/// us must quote what we sent, and at least eight bytes behind its header.
fn quoted(packet: &[u8], receiver: u32) -> Result<(Protocol, FlowKey), DropReason> {
    let Some(ip) = packet.first_chunk::<IPV4_LEN>() else { return Err(DropReason::IcmpQuote) };
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    let protocol = match ip[9] {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return Err(DropReason::IcmpQuote),
    };
    let first = be16(ip, 6) & 0x1fff == 0;
    if ip[0] >> 4 != 4 || header_len < IPV4_LEN || !first || be32(ip, 12) != receiver {
        return Err(DropReason::IcmpQuote);
    }
    let transport = packet.get(header_len..header_len + 8).ok_or(DropReason::IcmpQuote)?;
    let addresses = u64::from(be32(ip, 12)) << 32 | u64::from(be32(ip, 16));
    Ok((protocol, FlowKey::from_words(addresses, ip[9], be32(transport, 0)).reversed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pktgen_tests::frames::{Route, ones_sum, tcp_frame, udp_frame};
    use proptest::prelude::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn frame(tcp: bool, payload: &[u8]) -> Vec<u8> {
        let route = Route {
            source_mac: [2; 6],
            destination_mac: MAC,
            source: (Ipv4Addr::new(198, 51, 100, 7), 4000),
            destination: (Ipv4Addr::new(192, 0, 2, 10), 80),
        };
        if tcp { tcp_frame(&route, 0x10, payload) } else { udp_frame(&route, payload) }
    }

    #[test]
    fn common_frames_take_the_short_way() {
        let link = LinkTraits { mac: MAC, mtu: 1500, kernel_peer: true };
        for tcp in [false, true] {
            for payload in [&[][..], &[0x5a; 1400]] {
                assert!(parse_plain(&frame(tcp, payload), &link).is_some());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn what_the_short_way_says_the_long_way_says_too(
            tcp in any::<bool>(),
            kernel_peer in any::<bool>(),
            payload in 0usize..80,
            padding in 0usize..20,
            damage in prop::collection::vec((0usize..60, any::<u8>()), 0..4),
            cut in prop::option::of(0usize..100),
            mend in any::<bool>(),
        ) {
            let link = LinkTraits { mac: MAC, mtu: 80, kernel_peer };
            let mut frame = frame(tcp, &vec![0x5a; payload]);
            frame.resize(frame.len() + padding, 0);
            for (at, value) in damage {
                let at = at % frame.len();
                frame[at] = value;
            }
            if mend {
                frame[24..26].fill(0);
                let checksum = !ones_sum(&frame[14..34], 0);
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            }
            frame.truncate(cut.unwrap_or(usize::MAX));

            if let Some(plain) = parse_plain(&frame, &link) {
                prop_assert_eq!(Ok(plain), parse_any(&frame, &link));
            } else if let Ok(packet) = parse_any(&frame, &link) {
                // What is left to the long way has options, or is no TCP or UDP.
                prop_assert!(packet.l4 > 34 || !matches!(packet.payload, Payload::Transport(_)));
            }
        }
    }

    #[test]
    fn tcp_flags_are_valid_in_the_combinations_of_rfc_9293() {
        // (octet without PSH, ECE, CWR; valid)
        let cases = [
            (0x00, false), // null
            (0x02, true),  // SYN
            (0x22, true),  // SYN URG
            (0x12, true),  // SYN ACK
            (0x10, true),  // ACK
            (0x30, true),  // ACK URG
            (0x11, true),  // FIN ACK
            (0x31, true),  // FIN ACK URG
            (0x04, true),  // RST
            (0x14, true),  // RST ACK
            (0x01, false), // FIN alone
            (0x03, false), // SYN FIN
            (0x06, false), // SYN RST
            (0x21, false), // FIN URG, as in a "christmas tree" with PSH
            (0x3f, false), // everything
            (0x20, false), // URG alone
        ];
        for (octet, valid) in cases {
            for ignored in [0x00, 0x08, 0x40, 0x80, 0xc8] {
                assert_eq!(TcpFlags(octet | ignored).is_valid(), valid, "{:#04x}", octet | ignored);
            }
        }
    }

    #[test]
    fn options_are_walked_to_their_end() {
        assert_eq!(check_options(&[1, 1, 1, 0]), Ok(()));
        assert_eq!(check_options(&[7, 7, 4, 0, 0, 0, 0, 0]), Ok(())); // record route
        assert_eq!(check_options(&[1, 131, 3, 4]), Err(DropReason::Ipv4SourceRoute));
        assert_eq!(check_options(&[137, 3, 4, 0]), Err(DropReason::Ipv4SourceRoute));
        assert_eq!(check_options(&[7, 0, 4, 0]), Err(DropReason::Ipv4Options));
        assert_eq!(check_options(&[7, 5, 4, 0]), Err(DropReason::Ipv4Options));
        assert_eq!(check_options(&[1, 1, 1, 7]), Err(DropReason::Ipv4Options));
    }
}
