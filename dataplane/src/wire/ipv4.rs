//! Reading IPv4 frames: every check that a header needs, once.

use super::packet::{LinkTraits, Packet, Payload, Plain, Station, TcpFlags, Unfit};
use super::protocol::{ICMP, SCTP, TCP, UDP};
use super::tag::TAG as ETHERTYPE_TAG;
use super::{ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader, IPV4_LEN};
use super::{be16, be32, checksum, echo, le64, put16, put32, sctp, set_ethernet, transport};
use crate::drop::DropReason;
use crate::flow::{FlowKey, Key, Protocol};
use crate::frame::Frame;

/// The packet of a plain frame for `station`: a datagram, or a segment that opens nothing, of at most `longest` bytes,
/// without options, no fragment, nothing wrong. `None` for all others, of which [`parse`] knows more.
///
/// It asks the questions of `parse` in one go, at fixed offsets: 50 instructions less.
#[inline(always)]
pub(super) fn parse_plain(
    frame: &Frame<'_>,
    station: &Station,
    longest: u16,
) -> Option<(FlowKey, u16, Plain)> {
    const L4: usize = ETHERNET_LEN + IPV4_LEN;
    // What follows asks for so many bytes of the frame itself.
    let head: &[u8; L4 + 8] = frame.head()?;
    // As the machine reads them; from the second on also the key.
    let words = [0, 8, 16].map(|at| le64(head, ETHERNET_LEN + at));
    let [first, second, third] = words;
    let total_len = ((first >> 16) as u16).swap_bytes();
    // EtherType, version and header length; no fragment; a source that RFC 1812 lets pass.
    let plain = station.is_receiver_of_plain(head)
        && first >> 48 & 0xff3f == 0
        && second as u8 > 1
        && MAY_BE_SOURCE[usize::from((second >> 32) as u8)]
        && checksum::words_are_right(first, second, third as u32)
        && total_len <= longest
        && usize::from(total_len) + ETHERNET_LEN <= frame.len();
    if !plain {
        return None;
    }
    let plain = match (second >> 8) as u8 {
        UDP => {
            let len = be16(head, L4 + 4);
            let fits = len >= 8 && usize::from(len) + IPV4_LEN <= usize::from(total_len);
            fits.then_some(Plain::ARRIVED)?
        }
        TCP => {
            let head: &[u8; L4 + 20] = frame.head()?;
            let header_len = usize::from(head[L4 + 12] >> 4) * 4;
            let fits = header_len >= 20 && header_len + IPV4_LEN <= usize::from(total_len);
            fits.then_some(Plain::of_segment(head[L4 + 13])).filter(|plain| plain.is_some())?
        }
        _ => return None,
    };
    Some((FlowKey::from_wire(second, third), total_len, plain))
}

/// What [`parse`] says about a frame that [`parse_plain`] says this about.
pub(super) fn packet_of_plain(frame: &[u8], key: FlowKey, total_len: u16) -> Packet<FlowKey> {
    const L4: usize = ETHERNET_LEN + IPV4_LEN;
    let protocol = key.protocol();
    let flags = if protocol == Protocol::Tcp { TcpFlags::from_octet(frame[L4 + 13]) } else { TcpFlags::NONE };
    let (ttl, payload) = (frame[ETHERNET_LEN + 8], Payload::Transport(protocol));
    Packet { key, l4: L4 as u16, total_len, ttl, flags, payload }
}

/// By its first octet, whether packets from an address may be forwarded (RFC 1812 §5.3.7): not from "this
/// network", loopback, multicast and reserved ones.
const MAY_BE_SOURCE: [bool; 256] = {
    let mut may = [false; 256];
    let mut octet = 1;
    while octet < 224 {
        may[octet] = octet != 127;
        octet += 1;
    }
    may
};

/// Reads and checks any frame.
///
/// # Errors
/// Why it is no packet for us.
#[inline(never)]
pub(super) fn parse(bytes: &[u8], link: &LinkTraits) -> Result<Packet<FlowKey>, Unfit> {
    let Some((ethernet, ip)) = bytes.split_first_chunk::<ETHERNET_LEN>() else {
        return Err(DropReason::EthernetShort.into());
    };
    match be16(ethernet, 12) {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_IPV6 => return Err(Unfit::OtherFamily),
        ETHERTYPE_ARP if is_arp(ip) => return Ok(Packet::NEIGHBOR),
        ETHERTYPE_ARP => return Err(DropReason::ArpMalformed.into()),
        ETHERTYPE_TAG => return Err(DropReason::VlanUnknown.into()),
        _ => return Err(DropReason::EthertypeUnsupported.into()),
    }
    if ethernet[..6] != link.mac {
        return Err(DropReason::EthernetNotOurs.into());
    }
    Ok(parse_ipv4(ip, link)?)
}

/// Whether it is a request or a reply for IPv4 over Ethernet, from a station that there can be (RFC 826).
fn is_arp(body: &[u8]) -> bool {
    /// Hardware type Ethernet, protocol IPv4, addresses of six and of four bytes.
    const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let Some(body) = body.first_chunk::<28>() else { return false };
    body[..6] == KIND && matches!(be16(body, 6), 1 | 2) && body[8] & 1 == 0
}

/// RFC 791 §3.1, and RFC 1812 §5.2.2 for what a router must check.
#[inline]
fn parse_ipv4(ip: &[u8], link: &LinkTraits) -> Result<Packet<FlowKey>, DropReason> {
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
    if !MAY_BE_SOURCE[usize::from(fixed[12])] {
        return Err(DropReason::SourceInvalid);
    }
    let body = &ip[header_len..total_len];
    let addresses = u64::from(be32(fixed, 12)) << 32 | u64::from(be32(fixed, 16));
    let outer = |(payload, flags, ports)| (payload, flags, FlowKey::from_words(addresses, fixed[9], ports));
    // More fragments, or an offset.
    let is_piece = be16(fixed, 6) & 0x3fff != 0;
    let (payload, flags, key) = match fixed[9] {
        TCP | UDP if is_piece => outer((Payload::Fragment, TcpFlags::NONE, 0)),
        _ if is_piece => return Err(DropReason::ProtocolUnsupported),
        TCP => outer(transport::tcp(body)?),
        UDP => outer(transport::udp(body)?),
        SCTP => outer(sctp::sctp(body)?),
        ICMP => {
            check_icmp(body)?;
            match body[..2] {
                [ECHO_REQUEST, 0] => outer(echo::request(body)),
                [ECHO_REPLY, 0] => outer(echo::reply(body)),
                [UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM, _] => {
                    let (protocol, key) = quoted(&body[ICMP_LEN..], be32(fixed, 16))?;
                    (Payload::Error(protocol), TcpFlags::NONE, key)
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

/// Types of RFC 792.
const ECHO_REPLY: u8 = 0;
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
    let first = be16(ip, 6) & 0x1fff == 0;
    if ip[0] >> 4 != 4 || header_len < IPV4_LEN || !first || be32(ip, 12) != receiver {
        return Err(DropReason::IcmpQuote);
    }
    let transport = packet.get(header_len..header_len + 8).ok_or(DropReason::IcmpQuote)?;
    let (protocol, ports) = match ip[9] {
        ICMP if transport[0] == ECHO_REQUEST => (Protocol::Icmp, echo::quoted(transport)),
        number => (Protocol::from_number(number).ok_or(DropReason::IcmpQuote)?, be32(transport, 0)),
    };
    let addresses = u64::from(be32(ip, 12)) << 32 | u64::from(be32(ip, 16));
    Ok((protocol, FlowKey::from_words(addresses, ip[9], ports).reversed()))
}

/// Takes one from the TTL of a packet.
///
/// # Panics
/// When the frame holds no IPv4 header.
#[inline]
pub(super) fn hop(frame: &mut [u8]) {
    let Some(header) = frame[ETHERNET_LEN..].first_chunk_mut::<IPV4_LEN>() else { return };
    let word = be32(header, 8);
    let adjusted = checksum::adjust(word as u16, checksum::TTL_DIFFERENCE);
    put32(header, 8, ((word >> 16) - 0x0100) << 16 | u32::from(adjusted));
}

/// [`hop`] for a plain packet, which gets another Ethernet header too: in the wire's order of bytes.
#[inline(always)]
pub(super) fn hop_plain(frame: &mut Frame<'_>, ethernet: &EthernetHeader) {
    const TTL: usize = ETHERNET_LEN + 8;
    let Some(head) = frame.head_mut::<{ ETHERNET_LEN + IPV4_LEN }>() else { return };
    let [ttl, protocol, sum @ ..] = [0, 1, 2, 3].map(|at| head[TTL + at]);
    let sum = checksum::adjust(u16::from_le_bytes(sum), checksum::TTL_DIFFERENCE.swap_bytes()).to_le_bytes();
    head[TTL..TTL + 4].copy_from_slice(&[ttl.wrapping_sub(1), protocol, sum[0], sum[1]]);
    set_ethernet(head, ethernet);
}

/// Gives a piece of a datagram new addresses, and takes one from its TTL.
///
/// # Panics
/// When the frame holds no IPv4 header.
pub(super) fn translate_fragment(frame: &mut [u8], new: FlowKey, l3_difference: u16) {
    hop(frame);
    let header = &mut frame[ETHERNET_LEN..];
    let adjusted = checksum::adjust(be16(header, 10), l3_difference);
    put16(header, 10, adjusted);
    header[12..20].copy_from_slice(&new.address_word().to_be_bytes());
}

/// Whether the packet forbids fragmentation.
///
/// # Panics
/// When the frame holds no IPv4 header.
pub(super) fn dont_fragment(frame: &[u8]) -> bool {
    be16(frame, ETHERNET_LEN + 6) & 0x4000 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use pktgen_tests::frames::{Route, ones_sum, tcp_frame, udp_frame};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn frame(tcp: bool, payload: &[u8]) -> Vec<u8> {
        let route = Route {
            source_mac: [2; 6],
            destination_mac: MAC,
            source: (Ipv4Addr::new(198, 51, 100, 7).into(), 4000),
            destination: (Ipv4Addr::new(192, 0, 2, 10).into(), 80),
        };
        if tcp { tcp_frame(&route, 0x10, payload) } else { udp_frame(&route, payload) }
    }

    #[test]
    fn common_frames_take_the_short_way() {
        for tcp in [false, true] {
            for payload in [&[][..], &[0x5a; 1400]] {
                let mut bytes = frame(tcp, payload);
                let window = 0..bytes.len();
                assert!(parse_plain(&Frame::new(&mut bytes, window), &Station::new(MAC), 1500).is_some());
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

            let whole = parse(&frame, &link);
            let window = 0..frame.len();
            if let Some((key, total_len, _)) = parse_plain(&Frame::new(&mut frame, window), &Station::new(MAC), 80) {
                prop_assert_eq!(Ok(packet_of_plain(&frame, key, total_len)), whole);
            } else if let Ok(packet) = whole {
                // What is left to the long way is unusual.
                let goes_on = packet.ttl > 1 && packet.total_len <= 80 && !packet.flags.opens();
                prop_assert!(packet.l4 > 34 || !matches!(packet.payload, Payload::Transport(_)) || !goes_on);
            }
        }
    }

    proptest! {
        #[test]
        fn a_plain_hop_is_a_hop(mut bytes in prop::collection::vec(any::<u8>(), 34..60), ttl in 1..=255_u8) {
            bytes[22] = ttl;
            let mut other = bytes.clone();
            let window = 0..bytes.len();

            hop_plain(&mut Frame::new(&mut bytes, window), &[9; ETHERNET_LEN]);

            hop(&mut other);
            set_ethernet(&mut other, &[9; ETHERNET_LEN]);
            prop_assert_eq!(bytes, other);
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
