//! Messages of IPv6's neighbour discovery (RFC 4861), with smoltcp's wire formats.

use dataplane::wire::Mac;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};
use std::net::Ipv6Addr;
use std::time::Duration;

/// What a message about a neighbour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who has this address? From a sender that tells its station, unless it looks for its own doubles
    /// (RFC 4862 §5.4).
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Who asks; `::` when it has no address yet.
        sender: Ipv6Addr,
        /// Where it is, if it says so.
        station: Option<Mac>,
        /// The station that sent the frame.
        from: Mac,
    },
    /// A router is there for so long; for no time when it leaves, or is no default router.
    Router {
        /// Its link-local address.
        router: Ipv6Addr,
        /// For how long.
        lifetime: Duration,
        /// Where it is, if it says so.
        station: Option<Mac>,
    },
    /// This address is at this station.
    Advertisement {
        /// The address.
        target: Ipv6Addr,
        /// Where it is, if it says so.
        station: Option<Mac>,
        /// Whether it answers a question.
        solicited: bool,
        /// Whether it replaces what was known.
        overrides: bool,
    },
}

/// Everybody on the link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Every router on the link.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// RFC 4861: a message that was forwarded has less.
const HOP_LIMIT: u8 = 255;

/// Reads a frame; `None` when it is no well-formed message about a neighbour, or was forwarded.
pub fn parse(frame: &[u8]) -> Option<Message> {
    if let Some(router) = router_advertisement(frame) {
        return Some(router);
    }
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv6 {
        return None;
    }
    let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
    let header = Ipv6Repr::parse(&ip).ok()?;
    if header.next_header != IpProtocol::Icmpv6 || header.hop_limit != HOP_LIMIT {
        return None;
    }
    let packet = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    if packet.msg_code() != 0 {
        return None;
    }
    let capabilities = ChecksumCapabilities::default();
    let message = Icmpv6Repr::parse(&header.src_addr, &header.dst_addr, &packet, &capabilities).ok()?;
    match message {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
            // RFC 4861 §7.1.1: one that looks for its own doubles asks a group, and does not say where it is.
            let is_nameless = header.src_addr.is_unspecified();
            let looks_for_doubles = header.dst_addr == solicited_node(target_addr) && lladdr.is_none();
            let is_valid = !target_addr.is_multicast() && (!is_nameless || looks_for_doubles);
            let from = ethernet.src_addr().0;
            (is_valid && is_station(from)).then(|| Message::Solicitation {
                target: target_addr,
                sender: header.src_addr,
                station: lladdr.and_then(station_of),
                from,
            })
        }
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) => {
            let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
            // RFC 4861 §7.1.2: nobody answers a question through a group.
            let is_valid = !(target_addr.is_multicast() || solicited && header.dst_addr.is_multicast());
            let overrides = flags.contains(NdiscNeighborFlags::OVERRIDE);
            let station = lladdr.map(station_of);
            (is_valid && station != Some(None)).then_some(Message::Advertisement {
                target: target_addr,
                station: station.flatten(),
                solicited,
                overrides,
            })
        }
        _ => None,
    }
}

/// Reads a router's advertisement (RFC 4861 §4.2, §6.1.2), of which the end may be cut off: workers, who
/// have checked the checksum, pass on the first bytes only, and prefixes and the like are not looked at.
fn router_advertisement(frame: &[u8]) -> Option<Message> {
    const ETHERNET_LEN: usize = 14;
    const ADVERTISEMENT: u8 = 134;
    const SOURCE_STATION: u8 = 1;
    let ip = frame.get(ETHERNET_LEN..)?;
    let (header, message) = ip.split_first_chunk::<40>()?;
    let (fixed, mut options) = message.split_first_chunk::<16>()?;
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    let is_one = frame[12..14] == [0x86, 0xdd]
        && (header[6], header[7]) == (u8::from(IpProtocol::Icmpv6), HOP_LIMIT)
        && (fixed[0], fixed[1]) == (ADVERTISEMENT, 0)
        && source.is_unicast_link_local();
    if !is_one {
        return None;
    }
    let mut station = None;
    while let [kind, length, ..] = *options {
        // Lengths count eight bytes; one of zero makes the message invalid.
        let len = usize::from(length) * 8;
        if len == 0 {
            return None;
        }
        if let (SOURCE_STATION, Some(mac)) = (kind, options.get(2..8)) {
            station = mac.try_into().ok().filter(|mac| is_station(*mac));
        }
        options = options.get(len..).unwrap_or_default();
    }
    let lifetime = Duration::from_secs(u16::from_be_bytes([fixed[6], fixed[7]]).into());
    Some(Message::Router { router: source, lifetime, station })
}

fn station_of(address: RawHardwareAddress) -> Option<Mac> {
    address.as_bytes().try_into().ok().filter(|mac| is_station(*mac))
}

fn is_station(mac: Mac) -> bool {
    EthernetAddress(mac).is_unicast()
}

/// The question for `target`, from an address of ours: to one station, or to all that may have it.
pub fn solicitation(own: (Mac, Ipv6Addr), target: Ipv6Addr, station: Option<Mac>) -> Vec<u8> {
    let (mac, sender) = own;
    let group = solicited_node(target);
    let (destination, to) = match station {
        Some(station) => (target, station),
        None => (group, multicast_station(group)),
    };
    let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(hardware(mac)) };
    frame((mac, sender), (to, destination), message)
}

/// The question whether anybody else has `address` (RFC 4862 §5.4.2).
pub fn probe(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node(address);
    let message = NdiscRepr::NeighborSolicit { target_addr: address, lladdr: None };
    frame((mac, Ipv6Addr::UNSPECIFIED), (multicast_station(group), group), message)
}

/// The question for routers (RFC 4861 §4.1).
pub fn router_solicitation(own: (Mac, Ipv6Addr)) -> Vec<u8> {
    let message = NdiscRepr::RouterSolicit { lladdr: Some(hardware(own.0)) };
    frame(own, (multicast_station(ALL_ROUTERS), ALL_ROUTERS), message)
}

/// The answer to a solicitation for `target`, which is ours (RFC 4861 §7.2.4): to the asker at its station, or through
/// everybody to one that has no address yet.
pub fn advertisement(mac: Mac, target: Ipv6Addr, asker: Ipv6Addr, station: Mac) -> Vec<u8> {
    let is_known = !asker.is_unspecified();
    let (destination, to) = match is_known {
        true => (asker, station),
        false => (ALL_NODES, multicast_station(ALL_NODES)),
    };
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, is_known);
    let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(hardware(mac)) };
    frame((mac, target), (to, destination), message)
}

/// An unsolicited advertisement for everybody (RFC 4861 §7.2.6).
pub fn announcement(mac: Mac, target: Ipv6Addr) -> Vec<u8> {
    let flags = NdiscNeighborFlags::OVERRIDE;
    let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(hardware(mac)) };
    frame((mac, target), (multicast_station(ALL_NODES), ALL_NODES), message)
}

fn hardware(mac: Mac) -> RawHardwareAddress {
    RawHardwareAddress::from(EthernetAddress(mac))
}

/// The group that whoever has an address listens to (RFC 4291 §2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// RFC 2464 §7.
fn multicast_station(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn frame(from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), message: NdiscRepr<'_>) -> Vec<u8> {
    let message = Icmpv6Repr::Ndisc(message);
    let header = Ipv6Repr {
        src_addr: from.1,
        dst_addr: to.1,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(from.0),
        dst_addr: EthernetAddress(to.0),
        ethertype: EthernetProtocol::Ipv6,
    };
    let len = EthernetFrame::<&[u8]>::header_len() + header.buffer_len() + message.buffer_len();
    let mut bytes = vec![0; len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    let mut ip = Ipv6Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut ip);
    let capabilities = ChecksumCapabilities::default();
    message.emit(&from.1, &to.1, &mut Icmpv6Packet::new_unchecked(ip.payload_mut()), &capabilities);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

    #[test]
    fn messages_say_what_they_were_made_of() {
        let question = solicitation((MAC, OWN), OTHER, None);
        assert_eq!(question[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let said = Message::Solicitation { target: OTHER, sender: OWN, station: Some(MAC), from: MAC };
        assert_eq!(parse(&question), Some(said));

        let answer = advertisement(MAC, OWN, OTHER, [2, 0, 0, 0, 0, 9]);
        assert_eq!(answer[..6], [2, 0, 0, 0, 0, 9]);
        let said = |solicited| Message::Advertisement {
            target: OWN,
            station: Some(MAC),
            solicited,
            overrides: true,
        };
        assert_eq!(parse(&answer), Some(said(true)));
        assert_eq!(parse(&announcement(MAC, OWN)), Some(said(false)));

        // Someone who makes sure that nobody has the address is answered through everybody.
        let to_all = advertisement(MAC, OWN, Ipv6Addr::UNSPECIFIED, [2, 0, 0, 0, 0, 9]);
        assert_eq!(to_all[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(parse(&to_all), Some(said(false)));
    }

    #[test]
    fn messages_that_break_the_rules_of_validation_are_ignored() {
        let of = |from: Ipv6Addr, to: (Mac, Ipv6Addr), message| parse(&frame((MAC, from), to, message));
        let group = solicited_node(OTHER);
        let to_group = (multicast_station(group), group);
        let question = |lladdr| NdiscRepr::NeighborSolicit { target_addr: OTHER, lladdr };
        // RFC 4861 §7.1.1: from nobody, and with a station all the same, or not to the group.
        assert!(of(Ipv6Addr::UNSPECIFIED, to_group, question(None)).is_some());
        assert_eq!(of(Ipv6Addr::UNSPECIFIED, to_group, question(Some(hardware(MAC)))), None);
        assert_eq!(of(Ipv6Addr::UNSPECIFIED, (MAC, OTHER), question(None)), None);
        // §7.1.2: an answer that everybody hears.
        let answer = |flags, target_addr| NdiscRepr::NeighborAdvert {
            flags,
            target_addr,
            lladdr: Some(hardware(MAC)),
        };
        let to_all = (multicast_station(ALL_NODES), ALL_NODES);
        assert_eq!(of(OWN, to_all, answer(NdiscNeighborFlags::SOLICITED, OWN)), None);
        assert!(of(OWN, to_all, answer(NdiscNeighborFlags::OVERRIDE, OWN)).is_some());
        assert_eq!(of(OWN, (MAC, OTHER), answer(NdiscNeighborFlags::SOLICITED, ALL_NODES)), None);
        // Of one who asks a single station without saying where it is, the frame says it.
        assert_eq!(
            of(OWN, (MAC, OTHER), question(None)),
            Some(Message::Solicitation { target: OTHER, sender: OWN, station: None, from: MAC })
        );
    }

    #[test]
    fn routers_are_read_from_the_first_bytes_of_what_they_say() {
        const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        let whole = |source: Ipv6Addr, hop_limit: u8, options: &[u8]| {
            let message = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], options].concat();
            let len = message.len() as u8;
            let ip = [&[0x60, 0, 0, 0, 0, len, 58, hop_limit][..], &source.octets(), &ALL_NODES.octets()];
            [&multicast_station(ALL_NODES)[..], &MAC, &[0x86, 0xdd], &ip.concat(), &message].concat()
        };
        let said =
            |station| Message::Router { router: ROUTER, lifetime: Duration::from_secs(0x708), station };
        let station = [&[1, 1][..], &MAC].concat();
        let prefix = [&[3, 4][..], &[0; 30]].concat();
        let frame = whole(ROUTER, 255, &[&prefix[..], &station].concat());
        assert_eq!(parse(&frame), Some(said(Some(MAC))));
        // Cut off within the prefix, and without any option.
        assert_eq!(parse(&frame[..96]), Some(said(None)));
        assert_eq!(parse(&whole(ROUTER, 255, &[])), Some(said(None)));
        assert_eq!(parse(&whole(ROUTER, 255, &[1, 0, 0, 0, 0, 0, 0, 0])), None, "an option of no length");
        assert_eq!(parse(&whole(ROUTER, 254, &station)), None, "forwarded");
        assert_eq!(parse(&whole(OTHER, 255, &station)), None, "not from the link");
        assert_eq!(parse(&frame[..69]), None, "too short");
        assert_eq!(router_solicitation((MAC, OWN))[..6], [0x33, 0x33, 0, 0, 0, 2]);
    }

    #[test]
    fn truncated_forwarded_and_damaged_messages_are_ignored() {
        let frame = announcement(MAC, OWN);
        for len in 0..frame.len() {
            assert_eq!(parse(&frame[..len]), None, "{len} bytes");
        }
        for at in [21, 60] {
            let mut damaged = frame.clone();
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged), None, "byte {at}");
        }
    }
}
