//! What each forwarding mode makes of a packet, in both families: readable documentation that runs.

#[path = "support/mod.rs"]
mod support;

use dataplane::director::Sequences;
use dataplane::drop::DropReason;
use dataplane::flow::FlowHasher;
use dataplane::session::ForwardMode;
use dataplane::snapshot::{ServiceOptions, Tunnel};
use dataplane::wire::Encapsulation;
use pktgen_tests::frames::{
    ETHERNET, Route, be16, be32, checksum_field, echo_request, endpoints, fill_checksums, ip_frame, ones_sum,
    pseudo_sum, tcp, tcp_frame, udp_frame, upper_layer,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{
    A, B, CLIENT, CLIENT6, Fate, LOCAL, LOCAL6, Lab, Plan, SERVER, SERVER6, VIP, VIP6, answer_to,
    error_about, inbound, inbound6,
};

/// One family's addresses.
struct Family {
    from_client: fn(u16) -> Route,
    client: IpAddr,
    vip: IpAddr,
    local: IpAddr,
    server: IpAddr,
}

const FAMILIES: [Family; 2] = [
    Family { from_client: inbound, client: CLIENT, vip: VIP, local: LOCAL, server: SERVER },
    Family { from_client: inbound6, client: CLIENT6, vip: VIP6, local: LOCAL6, server: SERVER6 },
];

fn lab(mode: ForwardMode) -> Lab {
    Lab::new(&Plan { mode, ..Plan::default() })
}

/// A TCP SYN and a datagram.
fn openers(route: &Route) -> [Vec<u8>; 2] {
    [tcp_frame(route, tcp::SYN, &[]), udp_frame(route, b"question")]
}

/// Time to live, or hop limit.
fn ttl(frame: &[u8]) -> u8 {
    if frame[ETHERNET] >> 4 == 4 { frame[ETHERNET + 8] } else { frame[ETHERNET + 7] }
}

/// Every checksum of a frame is right, and its length is the packet's.
fn assert_whole(frame: &[u8]) {
    let ip = &frame[ETHERNET..];
    let (header, protocol) = upper_layer(ip).unwrap();
    if ip[0] >> 4 == 4 {
        assert_eq!(ones_sum(&ip[..header], 0), 0xffff, "the header's checksum");
        assert_eq!(usize::from(be16(ip, 2)), ip.len());
    } else {
        assert_eq!(usize::from(be16(ip, 4)) + 40, ip.len());
    }
    if checksum_field(protocol).is_some() {
        let pseudo = if protocol == 1 { 0 } else { pseudo_sum(ip) };
        assert_eq!(ones_sum(&ip[header..], pseudo), 0xffff, "the checksum of protocol {protocol}");
    }
}

fn payload(frame: &[u8]) -> &[u8] {
    let ip = &frame[ETHERNET..];
    let (header, protocol) = upper_layer(ip).unwrap();
    &ip[header + if protocol == 6 { 20 } else { 8 }..]
}

/// Sends what opens a session, and the server's answer; returns what the server and the client saw.
fn there_and_back(lab: &mut Lab, opener: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let seen = lab.send(A, opener).frame().to_vec();
    assert_whole(&seen);
    assert_eq!(ttl(&seen), 63);
    let answer = if upper_layer(&seen[ETHERNET..]).unwrap().1 == 6 {
        tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, &[])
    } else {
        udp_frame(&answer_to(&seen), b"answer")
    };
    let got = lab.send(B, &answer).frame().to_vec();
    assert_whole(&got);
    assert_eq!(ttl(&got), 63);
    assert_eq!(payload(&got), payload(&answer));
    (seen, got)
}

#[test]
fn fullnat_shows_the_server_a_local_address() {
    let mut lab = lab(ForwardMode::FullNat);
    for Family { from_client, client, vip, local, server } in FAMILIES {
        for opener in openers(&from_client(4000)) {
            let (seen, got) = there_and_back(&mut lab, &opener);
            let (source, destination) = endpoints(&seen).unwrap();
            assert_eq!((source.0, destination), (local, (server, 8080)));
            assert_eq!(endpoints(&got), Some(((vip, 8080), (client, 4000))));
        }
    }
}

#[test]
fn nat_shows_the_server_the_client() {
    let mut lab = lab(ForwardMode::Nat);
    for Family { from_client, client, vip, server, .. } in FAMILIES {
        for opener in openers(&from_client(4000)) {
            let (seen, got) = there_and_back(&mut lab, &opener);
            assert_eq!(endpoints(&seen), Some(((client, 4000), (server, 8080))));
            assert_eq!(endpoints(&got), Some(((vip, 8080), (client, 4000))));
        }
    }
    assert_eq!(lab.sessions() + lab.director.sessions6().len(), 4);
}

#[test]
fn after_a_restart_sequence_numbers_are_new_where_local_ports_are_ours_and_nowhere_else() {
    // The TCP header's, after one IP header (in a tunnel after two).
    let sequence = |mode: ForwardMode, frame: &[u8]| {
        let outer = if mode == ForwardMode::Tunnel { 20 } else { 0 };
        be32(frame, ETHERNET + outer + 20 + 4)
    };
    let syn = tcp_frame(&inbound(4000), tcp::SYN, &[]);
    let since_epoch = Duration::from_secs(1_800_000_000);
    let hasher = FlowHasher::new([1, 2, 3, 4]);
    let sent = sequence(ForwardMode::Nat, &syn);
    for mode in [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRoute, ForwardMode::Tunnel] {
        for is_first in [true, false] {
            let mut lab = lab(mode);
            lab.director.continue_sequences(match is_first {
                true => Sequences::first(hasher, since_epoch),
                false => Sequences::continued(hasher, since_epoch),
            });
            let seen = lab.send(A, &syn).frame().to_vec();
            let is_new = sequence(mode, &seen) != sent;
            assert_eq!(is_new, mode == ForwardMode::FullNat && !is_first, "{mode:?}, the first: {is_first}");
        }
    }
}

#[test]
fn one_service_of_tcp_and_udp_does_in_every_mode_what_two_do() {
    let sources = vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:a::/64".parse().unwrap()];
    let modes = [
        ForwardMode::FullNat,
        ForwardMode::Nat,
        ForwardMode::DirectRoute,
        ForwardMode::Tunnel,
        ForwardMode::Snat,
    ];
    for mode in modes {
        let fates = |joined| {
            let options = match mode {
                ForwardMode::Snat => ServiceOptions { sources: sources.clone(), ..ServiceOptions::default() },
                _ => ServiceOptions::default(),
            };
            let mut lab = Lab::new(&Plan { mode, joined, options: Arc::new(options), ..Plan::default() });
            let mut fates = Vec::new();
            for Family { from_client, server, vip, .. } in FAMILIES {
                let outside = if mode == ForwardMode::Snat { server } else { vip };
                let route = Route { destination: (outside, 8080), ..from_client(4000) };
                for opener in openers(&route) {
                    if mode.sees_answers() {
                        let (seen, got) = there_and_back(&mut lab, &opener);
                        fates.extend([seen, got]);
                    } else {
                        fates.push(lab.send(A, &opener).frame().to_vec());
                    }
                    // The session, not the service, knows what to do with the second.
                    fates.push(lab.send(A, &opener).frame().to_vec());
                }
            }
            let ping = echo_request(&bare(Route { destination: (SERVER, 0), ..inbound(0) }), b"x");
            let hidden_ping = matches!(lab.send(A, &ping), Fate::Sent(..));
            assert_eq!(hidden_ping, mode == ForwardMode::Snat, "{mode:?}");
            (fates, lab.sessions(), lab.director.sessions6().len())
        };
        assert_eq!(fates(true), fates(false), "{mode:?}");
    }
}

#[test]
fn fullnat_joins_clients_and_servers_of_two_families() {
    let mut lab = Lab::new(&Plan { across: true, ..Plan::default() });
    let [four, six] = FAMILIES;
    for (this, other) in [(&four, &six), (&six, &four)] {
        for opener in openers(&(this.from_client)(4000)) {
            let (seen, got) = there_and_back(&mut lab, &opener);
            let (source, destination) = endpoints(&seen).unwrap();
            assert_eq!((source.0, destination), (other.local, (other.server, 8080)));
            assert_eq!(endpoints(&got), Some(((this.vip, 8080), (this.client, 4000))));
            assert_eq!(payload(&seen), payload(&opener));
        }
    }
    // The client's next packet belongs to the same session.
    let again = lab.send(A, &udp_frame(&inbound(4000), b"more")).frame().to_vec();
    assert_eq!(endpoints(&again).unwrap().1, (SERVER6, 8080));
    assert_eq!((lab.sessions(), lab.director.sessions6().len()), (0, 4));
}

#[test]
fn a_datagram_without_checksum_gets_one_on_its_way_to_ipv6() {
    let mut lab = Lab::new(&Plan { across: true, ..Plan::default() });
    let mut datagram = udp_frame(&inbound(4000), b"odd");
    datagram[ETHERNET + 26..ETHERNET + 28].fill(0);
    assert_whole(lab.send(A, &datagram).frame());
}

#[test]
fn dr_changes_nothing_but_the_station_and_the_ttl() {
    let mut lab = lab(ForwardMode::DirectRoute);
    for Family { from_client, .. } in FAMILIES {
        for opener in openers(&from_client(4000)) {
            let fate = lab.send(A, &opener);
            let Fate::Sent(B, seen) = fate else { panic!("{fate:?}") };
            assert_whole(&seen);
            assert_eq!(endpoints(&seen), endpoints(&opener));
            assert_eq!((ttl(&seen), payload(&seen)), (63, payload(&opener)));
            assert_eq!(seen[..6], pktgen_tests::conformance::SERVER_MAC);
        }
    }
    assert_eq!(lab.sessions() + lab.director.sessions6().len(), 4);
}

#[test]
fn snat_hides_hosts_behind_an_address_of_the_pool() {
    let sources = vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:a::/64".parse().unwrap()];
    let options = Arc::new(ServiceOptions { sources, ..ServiceOptions::default() });
    let mut lab = Lab::new(&Plan { mode: ForwardMode::Snat, options, ..Plan::default() });
    for Family { from_client, client, local, server, .. } in FAMILIES {
        // Towards whomever is outside: here a host on the other link.
        for l4_port in [8080, 9001] {
            let route = Route { destination: (server, l4_port), ..from_client(4000) };
            for opener in openers(&route) {
                let (seen, got) = there_and_back(&mut lab, &opener);
                assert_eq!(endpoints(&seen), Some(((local, 4000), (server, l4_port))), "the port is kept");
                assert_eq!(endpoints(&got), Some(((server, l4_port), (client, 4000))));
                // A new world does not end the session.
                lab.world.routing_epoch += 1;
                assert_eq!(endpoints(lab.send(A, &opener).frame()), endpoints(&seen));
            }
        }
        // Another host with the same port, to the same server: answers must be told apart.
        let neighbor = support::nth(client, 1);
        let route = Route { source: (neighbor, 4000), destination: (server, 8080), ..from_client(0) };
        let seen = lab.send(A, &udp_frame(&route, b"x")).frame().to_vec();
        let (source, _) = endpoints(&seen).unwrap();
        assert!(source.0 == local && source.1 != 4000 && source.1 >= 1024, "{source:?}");

        // Whose packets are not to be hidden, and where not to go.
        let foreign: IpAddr = if client.is_ipv4() { "10.9.0.1" } else { "2001:db8:9::1" }.parse().unwrap();
        let route = Route { source: (foreign, 4000), destination: (server, 8080), ..from_client(0) };
        assert_eq!(lab.send(A, &udp_frame(&route, b"x")), Fate::Dropped(DropReason::NotForUs));
        let route = Route { destination: (server, 443), ..from_client(4000) };
        assert_eq!(lab.send(A, &udp_frame(&route, b"x")), Fate::Dropped(DropReason::NotForUs));
    }
}

#[test]
fn a_hidden_host_hears_from_routers_outside_and_is_traced_through_the_appliance() {
    let sources = vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:a::/64".parse().unwrap()];
    let options = Arc::new(ServiceOptions { sources, ..ServiceOptions::default() });
    let mut lab = Lab::new(&Plan { mode: ForwardMode::Snat, options, ..Plan::default() });
    for Family { from_client, client, server, local, .. } in FAMILIES {
        let four = client.is_ipv4();
        let header = if four { 20 } else { 40 };
        let route = Route { destination: (server, 8080), ..from_client(4000) };
        let probe = udp_frame(&route, b"trace");
        // The first hop is the appliance, by its address on the host's link.
        let dying = ip_frame(&route, 17, 1, &probe[ETHERNET + header..]);
        let Fate::Sent(A, error) = lab.send(A, &dying) else { panic!() };
        let own: IpAddr = if four { "10.0.0.1" } else { "2001:db8:a::1" }.parse().unwrap();
        let expected = [support::octets(own), support::octets(client)].concat();
        assert_eq!(error[ETHERNET + header - expected.len()..ETHERNET + header], expected);

        // The second is a router outside, by its own.
        let seen = lab.send(A, &probe).frame().to_vec();
        let router: IpAddr = if four { "172.16.0.9" } else { "2001:db8:b::9" }.parse().unwrap();
        let from_router = Route { source: (router, 0), destination: (local, 0), ..answer_to(&seen) };
        let error = error_about(&seen, &from_router, if four { 11 } else { 3 }, 0, 0);
        let Fate::Sent(A, heard) = lab.send(B, &error) else { panic!() };
        assert_whole(&heard);
        let expected = [support::octets(router), support::octets(client)].concat();
        assert_eq!(heard[ETHERNET + header - expected.len()..ETHERNET + header], expected);
        let inner = [&heard[..ETHERNET], &heard[ETHERNET + header + 8..]].concat();
        assert_eq!(endpoints(&inner), Some(((client, 4000), (server, 8080))));
    }
}

/// An echo reply to a request that was sent.
fn pong(seen: &[u8], payload: &[u8]) -> Vec<u8> {
    let route = bare(answer_to(seen));
    let mut reply = echo_request(&route, payload);
    let (header, protocol) = upper_layer(&reply[ETHERNET..]).unwrap();
    let icmp = ETHERNET + header;
    reply[icmp] = if protocol == 1 { 0 } else { 129 };
    reply[icmp + 4..icmp + 6].copy_from_slice(&identifier(seen).to_be_bytes());
    fill_checksums(&mut reply);
    reply
}

/// The same way between hosts: ICMP has no ports.
fn bare(route: Route) -> Route {
    Route { source: (route.source.0, 0), destination: (route.destination.0, 0), ..route }
}

fn identifier(frame: &[u8]) -> u16 {
    let ip = &frame[ETHERNET..];
    be16(ip, upper_layer(ip).unwrap().0 + 4)
}

/// Who sends to whom, whatever it carries.
fn hosts(frame: &[u8]) -> (IpAddr, IpAddr) {
    let ip = &frame[ETHERNET..];
    if ip[0] >> 4 == 4 {
        (be32(ip, 12).to_be_bytes().into(), be32(ip, 16).to_be_bytes().into())
    } else {
        let half = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
        (half(8), half(24))
    }
}

#[test]
fn hidden_hosts_ping_what_is_outside() {
    let sources = vec!["10.0.0.0/24".parse().unwrap(), "2001:db8:a::/64".parse().unwrap()];
    let options = Arc::new(ServiceOptions { sources, ..ServiceOptions::default() });
    let mut lab = Lab::new(&Plan { mode: ForwardMode::Snat, options, ..Plan::default() });
    for Family { from_client, client, server, local, vip, .. } in FAMILIES {
        let out = bare(Route { destination: (server, 0), ..from_client(0) });
        let ping = echo_request(&out, b"are you there");
        let seen = lab.send(A, &ping).frame().to_vec();
        assert_whole(&seen);
        assert_eq!((hosts(&seen), ttl(&seen)), ((local, server), 63));
        assert_eq!(payload(&seen), payload(&ping));
        assert_eq!(identifier(&seen), identifier(&ping), "kept while nobody else has it");
        let got = lab.send(B, &pong(&seen, b"I am")).frame().to_vec();
        assert_whole(&got);
        assert_eq!((hosts(&got), identifier(&got)), ((server, client), identifier(&ping)));

        // Another host with the same number gets answers of its own.
        let other = support::nth(client, 1);
        let twin = echo_request(&Route { source: (other, 0), ..out }, b"me too");
        let twin_seen = lab.send(A, &twin).frame().to_vec();
        assert_ne!(identifier(&twin_seen), identifier(&seen));
        // Where such hosts are is known by routes; here nobody has told the director its station.
        assert_eq!(
            lab.send(B, &pong(&twin_seen, b"you too")),
            Fate::Waits(dataplane::snapshot::NextHop { port: A, address: other })
        );

        // A router outside says that the ping went no further.
        let four = client.is_ipv4();
        let router: IpAddr = if four { "172.16.0.9" } else { "2001:db8:b::9" }.parse().unwrap();
        let from_router = Route { source: (router, 0), destination: (local, 0), ..answer_to(&seen) };
        let heard = lab.send(B, &error_about(&seen, &from_router, if four { 11 } else { 3 }, 0, 0));
        let heard = heard.frame().to_vec();
        assert_whole(&heard);
        let header = if four { 20 } else { 40 };
        let quoted = [&heard[..ETHERNET], &heard[ETHERNET + header + 8..]].concat();
        assert_eq!((hosts(&heard), hosts(&quoted)), ((router, client), (client, server)));
        assert_eq!(identifier(&quoted), identifier(&ping));
        let message = ETHERNET + header;
        let pseudo = if four { 0 } else { pseudo_sum(&quoted[ETHERNET..]) };
        assert_eq!(ones_sum(&quoted[message..], pseudo), 0xffff, "the quoted ping's checksum");

        // The appliance's own addresses answer themselves; a reply that nobody asked for goes nowhere.
        let own = bare(Route { destination: (vip, 0), ..out });
        assert_eq!(hosts(lab.send(A, &echo_request(&own, b"x")).frame()), (vip, client));
        let mut stray = pong(&seen, b"x");
        let at = ETHERNET + header + 4;
        stray[at..at + 2].copy_from_slice(&9u16.to_be_bytes());
        fill_checksums(&mut stray);
        assert_eq!(lab.send(B, &stray), Fate::Dropped(DropReason::IcmpNoSession));
    }
    assert_eq!(lab.sessions() + lab.director.sessions6().len(), 4);
}

/// What a server takes out of a tunnel: the outer protocol, addresses and TTL, what stands between,
/// and the packet.
fn unpack(frame: &[u8]) -> (u8, IpAddr, IpAddr, Vec<u8>, Vec<u8>) {
    let ip = &frame[ETHERNET..];
    let (header, protocol) = upper_layer(ip).unwrap();
    let between = match protocol {
        4 | 41 => 0,
        47 => 4,
        17 => 12,
        other => panic!("protocol {other}"),
    };
    // Addresses only: no ports stand behind an outer header.
    let (source, destination) = match ip[0] >> 4 {
        4 => (IpAddr::from(be32(ip, 12).to_be_bytes()), IpAddr::from(be32(ip, 16).to_be_bytes())),
        _ => {
            let ((source, _), (destination, _)) = endpoints(frame).unwrap();
            (source, destination)
        }
    };
    let inner = [&frame[..ETHERNET], &ip[header + between..]].concat();
    (protocol, source, destination, ip[header..header + between].to_vec(), inner)
}

#[test]
fn tunnels_carry_the_packet_whole() {
    let [four, six] = FAMILIES;
    for encapsulation in [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue(6080)] {
        for across in [false, true] {
            let tunnel = Tunnel { encapsulation, sources: Vec::new() };
            let options = Arc::new(ServiceOptions { tunnel, ..ServiceOptions::default() });
            let mut lab = Lab::new(&Plan { mode: ForwardMode::Tunnel, options, across, ..Plan::default() });
            for (this, other) in [(&four, &six), (&six, &four)] {
                let outer = if across { other } else { this };
                for opener in openers(&(this.from_client)(4000)) {
                    let seen = lab.send(A, &opener).frame().to_vec();
                    let (protocol, source, destination, between, inner) = unpack(&seen);
                    let inner_protocol = if this.client.is_ipv4() { 4 } else { 41 };
                    match encapsulation {
                        Encapsulation::Ipip => assert_eq!(protocol, inner_protocol),
                        Encapsulation::Gre => {
                            let ethertype = if this.client.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
                            assert_eq!(
                                (protocol, &between[..]),
                                (47, &[&[0, 0][..], &ethertype].concat()[..])
                            );
                        }
                        Encapsulation::Gue(_) => {
                            assert_eq!((protocol, be16(&between, 2)), (17, 6080));
                            assert!(be16(&between, 0) >= 49_152, "{between:?}");
                            assert_eq!(between[8..], [0, inner_protocol, 0, 0]);
                        }
                    }
                    assert_eq!(destination, outer.server);
                    let own: IpAddr =
                        if outer.server.is_ipv4() { "172.16.0.1" } else { "2001:db8:b::1" }.parse().unwrap();
                    assert_eq!((source, ttl(&seen)), (own, 63));
                    if !matches!(encapsulation, Encapsulation::Gue(_)) || outer.server.is_ipv6() {
                        assert_whole(&seen);
                    }
                    assert_whole(&inner);
                    assert_eq!((endpoints(&inner), ttl(&inner)), (endpoints(&opener), 63));
                    assert_eq!(payload(&inner), payload(&opener));
                }
            }
        }
    }
}

#[test]
fn flows_differ_in_a_tunnel_s_outer_header_and_each_keeps_its_own() {
    let sources = vec!["198.18.0.0/16".parse().unwrap(), "2001:db8:e::/64".parse().unwrap()];
    for encapsulation in [Encapsulation::Ipip, Encapsulation::Gue(6080)] {
        let tunnel = Tunnel { encapsulation, sources: sources.clone() };
        let options = Arc::new(ServiceOptions { tunnel, ..ServiceOptions::default() });
        let mut lab = Lab::new(&Plan { mode: ForwardMode::Tunnel, options, ..Plan::default() });
        for Family { from_client, .. } in FAMILIES {
            let mut outer = std::collections::HashSet::new();
            for flow in 0..50 {
                let opener = udp_frame(&from_client(4000 + flow), b"x");
                let look = |frame: &[u8]| {
                    let (_, source, _, between, _) = unpack(frame);
                    (source, between.first_chunk::<2>().copied())
                };
                let first = look(lab.send(A, &opener).frame());
                assert_eq!(look(lab.send(A, &opener).frame()), first);
                assert!(sources.iter().any(|network| network.contains(first.0)), "{first:?}");
                outer.insert(first);
            }
            assert!(outer.len() > 45, "{} of 50 flows can be told apart", outer.len());
            // What RSS sees of GUE are its ports.
            let ports: std::collections::HashSet<_> = outer.iter().filter_map(|(_, port)| *port).collect();
            assert!(ports.len() > 45 || encapsulation == Encapsulation::Ipip, "{} ports", ports.len());
        }
    }
}

#[test]
fn who_sends_too_much_is_told_what_fits() {
    // (mode, across, MTU of the servers' link, what a client may send over IPv4 and IPv6)
    let cases = [
        (ForwardMode::FullNat, false, 1400, [1400, 1400]),
        (ForwardMode::Nat, false, 1400, [1400, 1400]),
        (ForwardMode::DirectRoute, false, 1400, [1400, 1400]),
        (ForwardMode::Tunnel, false, 1500, [1480, 1460]),
        (ForwardMode::FullNat, true, 1400, [1380, 1420]),
    ];
    for (mode, across, server_mtu, fits) in cases {
        let mut lab = Lab::new(&Plan { mode, across, server_mtu, ..Plan::default() });
        for (Family { from_client, client, vip, .. }, fits) in FAMILIES.iter().zip(fits) {
            let header = if client.is_ipv4() { 28 } else { 48 };
            let datagram = |len: usize| udp_frame(&from_client(4000), &vec![7; len - header]);
            let passed = lab.send(A, &datagram(fits));
            assert!(matches!(passed, Fate::Sent(B, _)), "{mode:?}: {passed:?}");
            let fate = lab.send(A, &datagram(fits + 1));
            let Fate::Sent(A, error) = fate else { panic!("{mode:?}: {fate:?}") };
            assert_whole(&error);
            let ip = &error[ETHERNET..];
            let (header, _) = upper_layer(ip).unwrap();
            let (kind, code, mtu) = (ip[header], ip[header + 1], be32(ip, header + 4));
            let expected = if client.is_ipv4() { (3, 4) } else { (2, 0) };
            assert_eq!(((kind, code), mtu), (expected, fits as u32), "{mode:?}");
            let octets = [support::octets(*vip), support::octets(*client)].concat();
            assert_eq!(ip[header - octets.len()..header], octets);
        }
    }
}

#[test]
fn the_end_of_the_time_to_live_is_told_in_both_families() {
    for mode in [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRoute, ForwardMode::Tunnel] {
        let mut lab = lab(mode);
        for Family { from_client, client, vip, .. } in FAMILIES {
            let dying = ip_frame(
                &from_client(4000),
                17,
                1,
                &udp_frame(&from_client(4000), b"x")[ETHERNET + if client.is_ipv4() { 20 } else { 40 }..],
            );
            let error = lab.send(A, &dying).frame().to_vec();
            assert_whole(&error);
            let (header, _) = upper_layer(&error[ETHERNET..]).unwrap();
            let kind = if client.is_ipv4() { 11 } else { 3 };
            assert_eq!(error[ETHERNET + header..ETHERNET + header + 2], [kind, 0]);
            let octets = [support::octets(vip), support::octets(client)].concat();
            assert_eq!(error[ETHERNET + header - octets.len()..ETHERNET + header], octets);
            assert_eq!(lab.sessions() + lab.director.sessions6().len(), 0, "it opened nothing");
        }
    }
}

#[test]
fn pings_of_ipv6_addresses_are_answered() {
    let mut lab = lab(ForwardMode::FullNat);
    for ours in [VIP6, LOCAL6, "2001:db8:a::1".parse().unwrap()] {
        let ping = echo_request(&Route { destination: (ours, 0), ..inbound6(0) }, b"abc");
        let pong = lab.send(A, &ping).frame().to_vec();
        assert_whole(&pong);
        assert_eq!((pong[ETHERNET + 40], &pong[ETHERNET + 48..]), (129, &b"abc"[..]));
    }
}

#[test]
fn errors_about_sessions_reach_whom_they_concern() {
    for mode in [ForwardMode::FullNat, ForwardMode::Nat] {
        let mut lab = lab(mode);
        for Family { from_client, client, vip, server, .. } in FAMILIES {
            let four = client.is_ipv4();
            let opener = udp_frame(&from_client(4000), b"question");
            let (seen, got) = there_and_back(&mut lab, &opener);
            let (unreachable, too_big): ((u8, u8), (u8, u8)) =
                if four { ((3, 3), (3, 4)) } else { ((1, 4), (2, 0)) };

            // The server has closed its port: the client hears it from the VIP, about its own packet.
            let from_server = error_about(&seen, &answer_to(&seen), unreachable.0, unreachable.1, 0);
            let Fate::Sent(A, heard) = lab.send(B, &from_server) else { panic!("{mode:?}") };
            assert_whole(&heard);
            let header = if four { 20 } else { 40 };
            let inner = [&heard[..ETHERNET], &heard[ETHERNET + header + 8..]].concat();
            assert_eq!(endpoints(&inner), Some(((client, 4000), (vip, 8080))));
            assert_whole(&inner);

            // A router on the client's side has a smaller link: the server hears it about what it sent.
            let router: IpAddr = if four { "10.0.0.9" } else { "2001:db8:a::9" }.parse().unwrap();
            let from_router = Route { source: (router, 0), ..from_client(0) };
            let error = error_about(&got, &from_router, too_big.0, too_big.1, 1280);
            let Fate::Sent(B, heard) = lab.send(A, &error) else { panic!("{mode:?}") };
            assert_whole(&heard);
            let inner = [&heard[..ETHERNET], &heard[ETHERNET + header + 8..]].concat();
            let (from, to) = endpoints(&inner).unwrap();
            assert_eq!((from, to), ((server, 8080), endpoints(&seen).unwrap().0));
            let sender = support::octets(if mode == ForwardMode::Nat { router } else { to.0 });
            let at = ETHERNET + header - 2 * sender.len();
            assert_eq!(heard[at..at + sender.len()], sender, "{mode:?}: who told");
        }
    }
}

#[test]
fn errors_cross_between_the_families() {
    // What a router or a server says in one family, and what is heard of it in the other (RFC 7915).
    // (type, code, the last word) as said about what we sent to the server; then as the client hears it.
    type Said = (u8, u8, u32);
    let from_four: [(Said, Option<Said>); 8] = [
        ((3, 0, 0), Some((1, 0, 0))),
        ((3, 2, 0), Some((4, 1, 6))),
        ((3, 3, 0), Some((1, 4, 0))),
        ((3, 4, 1400), Some((2, 0, 1420))),
        ((3, 4, 576), Some((2, 0, 1280))),
        ((3, 13, 0), Some((1, 1, 0))),
        ((11, 0, 0), Some((3, 0, 0))),
        ((12, 0, 0), None),
    ];
    let from_six: [(Said, Option<Said>); 6] = [
        ((1, 0, 0), Some((3, 1, 0))),
        ((1, 1, 0), Some((3, 10, 0))),
        ((1, 4, 0), Some((3, 3, 0))),
        ((2, 0, 1400), Some((3, 4, 1380))),
        ((3, 0, 0), Some((11, 0, 0))),
        ((4, 0, 0), None),
    ];
    let mut lab = Lab::new(&Plan { across: true, ..Plan::default() });
    for Family { from_client, client, vip, .. } in FAMILIES {
        let six = !client.is_ipv4();
        let opener = udp_frame(&from_client(4000), b"question");
        let (seen, got) = there_and_back(&mut lab, &opener);
        let both: [(_, _, &[u8], bool); 2] = [
            // About what went to the server, heard by the client; and the other way round.
            (B, answer_to(&seen), &seen, !six),
            (A, Route { source: (client, 0), ..from_client(0) }, &got, six),
        ];
        for (port, route, about, told_in_six) in both {
            let cases: &[_] = if told_in_six { &from_six } else { &from_four };
            for ((kind, code, rest), expected) in cases {
                let fate = lab.send(port, &error_about(about, &route, *kind, *code, *rest));
                let Some(expected) = expected else {
                    assert_eq!(fate, Fate::Dropped(DropReason::IcmpUnsupported));
                    continue;
                };
                let heard = fate.frame();
                assert_whole(heard);
                let header = if told_in_six { 20 } else { 40 };
                let message = &heard[ETHERNET + header..];
                assert_eq!((message[0], message[1], be32(message, 4)), *expected);
                let inner = [&heard[..ETHERNET], &message[8..]].concat();
                assert_whole(&inner);
                let about_client = (client, 4000);
                let (from, to) = endpoints(&inner).unwrap();
                if port == B {
                    assert_eq!((from, to), (about_client, (vip, 8080)));
                    assert!(inner.ends_with(b"question"));
                } else {
                    assert_eq!((from, to), (endpoints(&seen).unwrap().1, endpoints(&seen).unwrap().0));
                }
            }
        }
    }
    // A large quote is cut.
    let opener = udp_frame(&inbound6(4001), &[7; 1_300]);
    let (seen, _) = there_and_back(&mut lab, &opener);
    let heard = lab.send(B, &error_about(&seen, &answer_to(&seen), 3, 3, 0)).frame().to_vec();
    assert_eq!(heard.len(), ETHERNET + 40 + 8 + 40 + 460);
    // Through a tunnel of the other family the error goes as it is, to the server that has the VIP.
    let mut lab = Lab::new(&Plan { mode: ForwardMode::Tunnel, across: true, ..Plan::default() });
    for Family { from_client, client, vip, .. } in FAMILIES {
        lab.send(A, &udp_frame(&from_client(4000), b"question")).frame();
        let answer = Route { source: (vip, 8080), destination: (client, 4000), ..from_client(0) };
        let kind = if client.is_ipv4() { 3 } else { 1 };
        let error = error_about(&udp_frame(&answer, b"answer"), &from_client(0), kind, 3, 0);
        let sent = lab.send(A, &error).frame().to_vec();
        assert_eq!(sent[ETHERNET] >> 4 == 4, !client.is_ipv4(), "the outer side");
        assert!(sent.ends_with(b"answer"));
    }
}

#[test]
fn answers_of_servers_that_nobody_asked_stay_inside() {
    let mut lab = lab(ForwardMode::Nat);
    for (server, client) in [(SERVER, CLIENT), (SERVER6, CLIENT6)] {
        let route = Route {
            source: (server, 8080),
            destination: (client, 4000),
            ..answer_to(&udp_frame(&inbound(1), b""))
        };
        assert_eq!(lab.send(B, &udp_frame(&route, b"leak")), Fate::Dropped(DropReason::NotForUs));
    }
}

#[test]
fn a_nat_client_that_uses_a_port_twice_meets_its_server_by_two() {
    let mut lab = lab(ForwardMode::Nat);
    for Family { from_client, client, vip, server, .. } in FAMILIES {
        for l4_port in [8080, 9000, 9009] {
            // Three listeners of one service, one server: its answers must be told apart.
            let route = Route { destination: (vip, l4_port), ..from_client(4000) };
            let (seen, got) = there_and_back(&mut lab, &udp_frame(&route, b"a"));
            let (source, destination) = endpoints(&seen).unwrap();
            assert_eq!((source.0, destination), (client, (server, 8080)));
            assert_eq!(source.1 == 4000, l4_port == 8080, "{source:?}");
            assert_eq!(endpoints(&got), Some(((vip, l4_port), (client, 4000))));
        }
        let outside = Route { destination: (vip, 9010), ..from_client(4000) };
        assert_eq!(lab.send(A, &udp_frame(&outside, b"b")), Fate::Dropped(DropReason::NoService));
    }
}
