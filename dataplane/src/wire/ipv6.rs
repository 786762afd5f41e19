//! Reading IPv6 frames (RFC 8200): every check that a header needs, once.

use super::packet::{LinkTraits, Packet, Payload, Plain, Station, TcpFlags, Unfit};
use super::protocol::{ICMPV6, SCTP, TCP, UDP};
use super::{ETHERNET_LEN, ETHERTYPE_IPV6, IPV6_LEN, be16, be32, checksum, echo, sctp, transport};
use crate::drop::DropReason;
use crate::flow::{FlowKey6, Key, Protocol};
use crate::frame::Frame;

/// As [`ipv4::parse_plain`](super::ipv4::parse_plain): no extension headers.
#[inline(always)]
pub(super) fn parse_plain(
    frame: &Frame<'_>,
    station: &Station,
    longest: u16,
) -> Option<(FlowKey6, u16, Plain)> {
    const L4: usize = ETHERNET_LEN + IPV6_LEN;
    // What follows asks for so many bytes of the frame itself.
    let head: &[u8; L4 + 8] = frame.head()?;
    let total_len = usize::from(be16(head, ETHERNET_LEN + 4)) + IPV6_LEN;
    let (next_header, hop_limit) = (head[ETHERNET_LEN + 6], head[ETHERNET_LEN + 7]);
    let addresses = head[ETHERNET_LEN + 8..].first_chunk()?;
    let key = FlowKey6::from_bytes(addresses, next_header, be32(head, L4));
    // Joined without branches, of which a packet has enough.
    let plain = (u32::from_le_bytes([head[12], head[13], head[14], head[15]]) & 0x00f0_ffff == 0x0060_dd86)
        & station.is_receiver_of(head)
        & (total_len + ETHERNET_LEN <= frame.len())
        & (total_len <= usize::from(longest))
        & (hop_limit > 1)
        & key.may_surely_be_forwarded();
    if !plain {
        return None;
    }
    let plain = match next_header {
        UDP => {
            let len = usize::from(be16(head, L4 + 4));
            let fits = len >= 8 && len + IPV6_LEN <= total_len;
            fits.then_some(Plain::ARRIVED)?
        }
        TCP => {
            let head: &[u8; L4 + 20] = frame.head()?;
            let header_len = usize::from(head[L4 + 12] >> 4) * 4;
            let fits = header_len >= 20 && header_len + IPV6_LEN <= total_len;
            fits.then_some(Plain::of_segment(head[L4 + 13])).filter(|plain| plain.is_some())?
        }
        _ => return None,
    };
    Some((key, total_len as u16, plain))
}

/// Where the transport header of a plain packet begins.
pub(super) const PLAIN_L4: u16 = (ETHERNET_LEN + IPV6_LEN) as u16;

/// What [`parse`] says about a frame that [`parse_plain`] says this about.
pub(super) fn packet_of_plain(frame: &[u8], key: FlowKey6, total_len: u16) -> Packet<FlowKey6> {
    let protocol = key.protocol();
    let is_segment = protocol == Protocol::Tcp;
    let flags =
        if is_segment { TcpFlags::from_octet(frame[usize::from(PLAIN_L4) + 13]) } else { TcpFlags::NONE };
    let (ttl, payload) = (frame[ETHERNET_LEN + 7], Payload::Transport(protocol));
    Packet { key, l4: PLAIN_L4, total_len, ttl, flags, payload }
}

/// Reads and checks any frame.
///
/// # Errors
/// Why it is no packet for us.
#[inline(never)]
pub(super) fn parse(bytes: &[u8], link: &LinkTraits) -> Result<Packet<FlowKey6>, Unfit> {
    let Some((ethernet, ip)) = bytes.split_first_chunk::<ETHERNET_LEN>() else {
        return Err(DropReason::EthernetShort.into());
    };
    if be16(ethernet, 12) != ETHERTYPE_IPV6 {
        return Err(Unfit::OtherFamily);
    }
    Ok(parse_ipv6(ethernet, ip, link)?)
}

fn parse_ipv6(
    ethernet: &[u8; ETHERNET_LEN],
    ip: &[u8],
    link: &LinkTraits,
) -> Result<Packet<FlowKey6>, DropReason> {
    let header: &[u8; IPV6_LEN] = ip.first_chunk().ok_or(DropReason::Ipv6Short)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::Ipv6Version);
    }
    let total_len = usize::from(be16(header, 4)) + IPV6_LEN;
    if total_len > usize::from(link.mtu) && link.kernel_peer {
        return Err(DropReason::SuperFrame);
    }
    if total_len > ip.len() {
        return Err(DropReason::Ipv6Truncated);
    }
    let (addresses, _) = header[8..].as_chunks::<32>();
    let addresses = &addresses[0];
    let is_for_us = ethernet[..6] == link.mac;
    if header[6] == ICMPV6
        && header[7] == HOP_LIMIT_OF_NEIGHBORS
        && is_about_neighbors(&ip[IPV6_LEN..total_len])
    {
        // Here, because control gets the first bytes only.
        check_icmp(addresses, &ip[IPV6_LEN..total_len])?;
        return if is_for_us || ethernet[..2] == MULTICAST_STATION {
            Ok(Packet::NEIGHBOR)
        } else {
            Err(DropReason::EthernetNotOurs)
        };
    }
    if !is_for_us {
        return Err(DropReason::EthernetNotOurs);
    }
    check_addresses(addresses)?;
    let body = &ip[IPV6_LEN..total_len];
    let Upper { protocol, offset, is_piece } = upper(header[6], body)?;
    let segment = &body[offset..];
    let outer = |(payload, flags, ports)| (payload, flags, FlowKey6::from_bytes(addresses, protocol, ports));
    let ping = |(payload, flags, ports)| {
        (payload, flags, FlowKey6::from_bytes(addresses, Protocol::Icmp as u8, ports))
    };
    let (payload, flags, key) = match protocol {
        _ if is_piece => outer((Payload::Fragment, TcpFlags::NONE, 0)),
        TCP => outer(transport::tcp(segment)?),
        UDP => outer(transport::udp(segment)?),
        SCTP => outer(sctp::sctp(segment)?),
        ICMPV6 => {
            check_icmp(addresses, segment)?;
            match segment[..2] {
                [ECHO_REQUEST, 0] => ping(echo::request(segment)),
                [ECHO_REPLY, 0] => ping(echo::reply(segment)),
                [UNREACHABLE..=PARAMETER_PROBLEM, _] => {
                    let (protocol, key) = quoted(&segment[ICMP_LEN..], &addresses[16..])?;
                    (Payload::Error(protocol), TcpFlags::NONE, key)
                }
                _ => return Err(DropReason::IcmpUnsupported),
            }
        }
        _ => return Err(DropReason::ProtocolUnsupported),
    };
    Ok(Packet {
        key,
        l4: (ETHERNET_LEN + IPV6_LEN + offset) as u16,
        total_len: total_len as u16,
        ttl: header[7],
        flags,
        payload,
    })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that are walked, at most; senders use one or two.
const HEADERS_MAX: usize = 8;

/// Where the upper layer's header begins, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper {
    /// Its protocol number.
    pub(super) protocol: u8,
    /// Where it begins, behind the fixed header.
    pub(super) offset: usize,
    /// Whether it is a piece of a datagram, which begins there behind its fragment header.
    pub(super) is_piece: bool,
}

/// Walks the extension headers that stand in `body`, of which the first is a `next`.
pub(super) fn upper(next: u8, body: &[u8]) -> Result<Upper, DropReason> {
    let (mut next, mut offset) = (next, 0);
    for place in 0..=HEADERS_MAX {
        match next {
            HOP_BY_HOP if place > 0 => return Err(DropReason::Ipv6Extension),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let header = body.get(offset..offset + 8).ok_or(DropReason::Ipv6Extension)?;
                // RFC 5095: what asks to be sent elsewhere is dropped.
                if next == ROUTING && header[3] != 0 {
                    return Err(DropReason::Ipv6Routing);
                }
                offset += (usize::from(header[1]) + 1) * 8;
                if offset > body.len() {
                    return Err(DropReason::Ipv6Extension);
                }
                next = header[0];
            }
            FRAGMENT => {
                let header = body.get(offset..offset + 8).ok_or(DropReason::Ipv6Extension)?;
                offset += 8;
                next = header[0];
                // RFC 6946: a fragment may be the whole packet.
                if be16(header, 2) & 0xfff9 != 0 {
                    return Ok(Upper { protocol: next, offset, is_piece: true });
                }
            }
            NO_NEXT_HEADER => return Err(DropReason::ProtocolUnsupported),
            protocol => return Ok(Upper { protocol, offset, is_piece: false }),
        }
    }
    Err(DropReason::Ipv6Extension)
}

/// RFC 4291 §2.5 and §2.7: addresses that no packet to be forwarded has.
fn check_addresses(addresses: &[u8; 32]) -> Result<(), DropReason> {
    let (source, destination) = addresses.split_at(16);
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    // ::, ::1 and IPv4-mapped ones.
    let is_special = |address: &[u8]| {
        is_zero(&address[..10])
            && (address[10..12] == [0xff; 2] || is_zero(&address[10..15]) && address[15] <= 1)
    };
    let is_link_local = source[0] == 0xfe && source[1] & 0xc0 == 0x80;
    if source[0] == 0xff || is_link_local && !is_link_local_to(destination) || is_special(source) {
        return Err(DropReason::SourceInvalid);
    }
    if destination[0] == 0xff || is_special(destination) {
        return Err(DropReason::NotForUs);
    }
    Ok(())
}

/// Whether an address is link-local too.
fn is_link_local_to(destination: &[u8]) -> bool {
    destination[0] == 0xfe && destination[1] & 0xc0 == 0x80
}

/// Types of RFC 4443.
const UNREACHABLE: u8 = 1;
const PARAMETER_PROBLEM: u8 = 4;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const ICMP_LEN: usize = 8;
/// RFC 4861: a message that was forwarded has less.
const HOP_LIMIT_OF_NEIGHBORS: u8 = 255;
/// Multicast stations of IPv6 (RFC 2464 §7).
const MULTICAST_STATION: [u8; 2] = [0x33, 0x33];

/// Whether an ICMPv6 message is of neighbour discovery, routers' included (RFC 4861 §4).
fn is_about_neighbors(message: &[u8]) -> bool {
    matches!(message.first(), Some(133..=137))
}

/// RFC 4443 §2.3: the checksum covers the addresses too.
fn check_icmp(addresses: &[u8; 32], message: &[u8]) -> Result<(), DropReason> {
    if message.len() < ICMP_LEN {
        return Err(DropReason::IcmpShort);
    }
    let pseudo = checksum::fold(message.len() as u64 + u64::from(ICMPV6));
    let sum = checksum::add(checksum::add(checksum::sum(addresses), pseudo), checksum::sum(message));
    if sum == 0xffff { Ok(()) } else { Err(DropReason::IcmpChecksum) }
}

/// The protocol of the packet that an error quotes, and the key of an answer to it. What was sent to
/// us must quote what we sent, and at least eight bytes of its upper header.
fn quoted(packet: &[u8], receiver: &[u8]) -> Result<(Protocol, FlowKey6), DropReason> {
    let quote = || DropReason::IcmpQuote;
    let header: &[u8; IPV6_LEN] = packet.first_chunk().ok_or_else(quote)?;
    let upper = upper(header[6], &packet[IPV6_LEN..]).map_err(|_| quote())?;
    if upper.is_piece {
        return Err(quote());
    }
    if header[0] >> 4 != 6 || header[8..24] != *receiver {
        return Err(quote());
    }
    let at = IPV6_LEN + upper.offset;
    let transport = packet.get(at..at + 8).ok_or_else(quote)?;
    let (protocol, ports) = match upper.protocol {
        ICMPV6 if transport[0] == ECHO_REQUEST => (Protocol::Icmp, echo::quoted(transport)),
        number => (Protocol::from_number(number).ok_or_else(quote)?, be32(transport, 0)),
    };
    let (addresses, _) = header[8..].as_chunks::<32>();
    Ok((protocol, FlowKey6::from_bytes(&addresses[0], protocol as u8, ports).reversed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pktgen_tests::frames::{Route, tcp_frame, udp_frame};
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn frame(tcp: bool, payload: &[u8]) -> Vec<u8> {
        let route = Route {
            source_mac: [2; 6],
            destination_mac: MAC,
            source: ("2001:db8:1::7".parse().unwrap(), 4000),
            destination: ("2001:db8::10".parse().unwrap(), 80),
        };
        if tcp { tcp_frame(&route, 0x10, payload) } else { udp_frame(&route, payload) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn what_the_short_way_says_the_long_way_says_too(
            tcp in any::<bool>(),
            kernel_peer in any::<bool>(),
            payload in 0usize..80,
            padding in 0usize..20,
            damage in prop::collection::vec((0usize..80, prop::sample::select(&[0u8, 1, 2, 0x60, 0x80, 0xfe, 0xff][..])), 0..4),
            // Addresses that begin as special ones do.
            begins in prop::option::of((prop::sample::select(&[22usize, 38][..]), prop::sample::select(&[[0u8; 8], [0xfe, 0x80, 0, 0, 0, 0, 0, 0], [0xff, 2, 0, 0, 0, 0, 0, 0]][..]))),
            cut in prop::option::of(0usize..120),
        ) {
            let link = LinkTraits { mac: MAC, mtu: 100, kernel_peer };
            let mut frame = frame(tcp, &vec![0x5a; payload]);
            frame.resize(frame.len() + padding, 0);
            for (at, value) in damage {
                let at = at % frame.len();
                frame[at] = value;
            }
            if let Some((at, begin)) = begins {
                frame[at..at + 8].copy_from_slice(&begin);
            }
            frame.truncate(cut.unwrap_or(usize::MAX));

            let whole = parse(&frame, &link);
            let window = 0..frame.len();
            if let Some((key, total_len, _)) = parse_plain(&Frame::new(&mut frame, window), &Station::new(MAC), 100) {
                prop_assert_eq!(Ok(packet_of_plain(&frame, key, total_len)), whole);
            } else if let Ok(packet) = whole {
                // What is left to the long way is unusual.
                let goes_on = packet.ttl > 1 && packet.total_len <= 100 && !packet.flags.opens();
                let is_usual = packet.key.may_surely_be_forwarded() && packet.l4 == PLAIN_L4;
                prop_assert!(!is_usual || !matches!(packet.payload, Payload::Transport(_)) || !goes_on);
            }
        }
    }

    fn whole(protocol: u8, offset: usize) -> Upper {
        Upper { protocol, offset, is_piece: false }
    }

    fn extension(next: u8, units: u8) -> Vec<u8> {
        let mut header = vec![0; (usize::from(units) + 1) * 8];
        (header[0], header[1]) = (next, units);
        header
    }

    #[test]
    fn extension_headers_are_walked_to_the_upper_layer() {
        let chain = [extension(DESTINATION_OPTIONS, 0), extension(TCP, 2), vec![0; 20]].concat();

        assert_eq!(upper(HOP_BY_HOP, &chain), Ok(whole(TCP, 32)));
        assert_eq!(upper(TCP, &chain), Ok(whole(TCP, 0)));
    }

    #[test]
    fn chains_that_lead_nowhere_are_refused() {
        let endless = [extension(DESTINATION_OPTIONS, 0)].concat().repeat(HEADERS_MAX + 1);
        assert_eq!(upper(DESTINATION_OPTIONS, &endless), Err(DropReason::Ipv6Extension));
        let twelve = [extension(DESTINATION_OPTIONS, 0).repeat(11), extension(TCP, 0), vec![0; 20]].concat();
        assert_eq!(
            upper(DESTINATION_OPTIONS, &twelve),
            Err(DropReason::Ipv6Extension),
            "nobody sends twelve"
        );
        assert_eq!(upper(DESTINATION_OPTIONS, &extension(TCP, 1)[..8]), Err(DropReason::Ipv6Extension));
        assert_eq!(upper(DESTINATION_OPTIONS, &extension(HOP_BY_HOP, 0)), Err(DropReason::Ipv6Extension));
        assert_eq!(upper(NO_NEXT_HEADER, &[]), Err(DropReason::ProtocolUnsupported));
        let mut source_route = extension(TCP, 0);
        source_route[3] = 1;
        assert_eq!(upper(ROUTING, &source_route), Err(DropReason::Ipv6Routing));
    }

    #[test]
    fn a_fragment_that_is_the_whole_packet_is_none() {
        let mut header = extension(UDP, 0);
        assert_eq!(upper(FRAGMENT, &header), Ok(whole(UDP, 8)));
        header[3] = 1;
        assert_eq!(upper(FRAGMENT, &header), Ok(Upper { is_piece: true, ..whole(UDP, 8) }));
    }
}
