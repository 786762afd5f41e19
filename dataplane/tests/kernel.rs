//! The kernel path: what goes to the host's kernel, what never does, and how frames get there and back.

mod support;

use dataplane::drop::DropReason;
use dataplane::flow::{Endpoint, FlowKey6, Key, Protocol};
use dataplane::wire::connection_of_host;
use pktgen_tests::frames::{Route, ip_frame, tcp, tcp_frame, udp_frame};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{A, B, CLIENT, CLIENT6, Fate, LOCAL, Lab, Plan, SERVER, VIP, inbound};

const OWN: &str = "10.0.0.1";

fn lab() -> Lab {
    Lab::new(&Plan { kernel: true, ..Plan::default() })
}

fn to(destination: IpAddr, l4_port: u16) -> Route {
    let source = if destination.is_ipv4() { CLIENT } else { CLIENT6 };
    Route { source: (source, 4_000), destination: (destination, l4_port), ..inbound(0) }
}

/// From the first server's side.
fn from_server(destination: IpAddr, l4_port: u16) -> Route {
    Route {
        source_mac: pktgen_tests::conformance::SERVER_MAC,
        destination_mac: pktgen_tests::conformance::DIRECTOR_B,
        source: (SERVER, 80),
        destination: (destination, l4_port),
    }
}

#[test]
fn what_comes_for_the_appliance_itself_is_the_kernels() {
    let mut lab = lab();
    let own = to(OWN.parse().unwrap(), 22);
    let own6 = to("2001:db8:a::1".parse().unwrap(), 179);
    let group =
        |address: &str, mac: [u8; 6]| Route { destination_mac: mac, ..to(address.parse().unwrap(), 0) };
    let ospf = group("224.0.0.5", [1, 0, 0x5e, 0, 0, 5]);
    let ospf6 = group("ff02::5", [0x33, 0x33, 0, 0, 0, 5]);
    let frames = [
        ("a connection", tcp_frame(&own, tcp::SYN, &[])),
        ("its segments", tcp_frame(&own, tcp::ACK, b"ssh")),
        ("a datagram", udp_frame(&own, b"dns")),
        ("another protocol", ip_frame(&own, 89, 1, &[0; 24])),
        ("an answer to its ping", ip_frame(&own, 1, 64, &[0, 0, 0xff, 0xfe, 0, 1, 0, 0])),
        ("IPv6", tcp_frame(&own6, tcp::SYN, &[])),
        ("OSPF's group", ip_frame(&ospf, 89, 1, &[0; 24])),
        ("OSPF's group of IPv6", ip_frame(&ospf6, 89, 1, &[0; 24])),
    ];
    for (what, frame) in frames {
        assert_eq!(lab.send(A, &frame), Fate::Kernel, "{what}");
    }
}

#[test]
fn the_kernel_never_gets_what_comes_for_vips_local_addresses_or_others() {
    let mut lab = lab();
    let frames = [
        (tcp_frame(&to(VIP, 22), tcp::SYN, &[]), DropReason::NoService),
        (udp_frame(&to(VIP, 53), b"x"), DropReason::NoService),
        (ip_frame(&to(VIP, 0), 89, 64, &[0; 24]), DropReason::ProtocolUnsupported),
        (tcp_frame(&to(LOCAL, 1_024), tcp::SYN, &[]), DropReason::LocalNoSession),
        (tcp_frame(&to("10.9.9.9".parse().unwrap(), 22), tcp::SYN, &[]), DropReason::NotForUs),
    ];
    for (frame, reason) in frames {
        assert_eq!(lab.send(A, &frame), Fate::Dropped(reason));
    }
    let mut bad = tcp_frame(&to(OWN.parse().unwrap(), 22), tcp::SYN, &[]);
    bad[24] ^= 1;
    assert_eq!(lab.send(A, &bad), Fate::Dropped(DropReason::Ipv4Checksum), "nor what is broken");
}

#[test]
fn answers_to_checks_from_local_addresses_are_the_kernels() {
    let mut lab = lab();
    let answer = tcp_frame(&from_server(LOCAL, 700), tcp::SYN | tcp::ACK, &[]);
    assert_eq!(lab.send(B, &answer), Fate::Kernel);
    // ICMP: port unreachable about a check's datagram.
    let sent = udp_frame(
        &Route { source: (LOCAL, 700), destination: (SERVER, 53), ..from_server(SERVER, 53) },
        b"q",
    );
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend_from_slice(&sent[14..]);
    let sum = pktgen_tests::frames::ones_sum(&error, 0);
    error[2..4].copy_from_slice(&(!sum).to_be_bytes());
    let fate = lab.send(B, &ip_frame(&from_server(LOCAL, 0), 1, 64, &error));
    assert_eq!(fate, Fate::Kernel);
    // A server's late data stays what it was.
    let late = tcp_frame(&from_server(LOCAL, 2_000), tcp::ACK, b"late");
    assert_eq!(lab.send(B, &late), Fate::Dropped(DropReason::LocalNoSession));
}

#[test]
fn a_flood_for_the_kernel_is_cut_and_counted() {
    let mut lab = lab();
    let flood = udp_frame(&to(OWN.parse().unwrap(), 53), b"flood");
    let fates: Vec<_> = (0..5_000).map(|_| lab.send(A, &flood)).collect();
    assert_eq!(fates.iter().filter(|fate| **fate == Fate::Kernel).count(), 2_000);
    assert_eq!(lab.drops(DropReason::KernelLimit), 3_000);
    let bgp = tcp_frame(&to(OWN.parse().unwrap(), 179), tcp::ACK, b"keepalive");
    assert_eq!(lab.send(A, &bgp), Fate::Kernel, "what the host has already goes on");
}

#[test]
fn a_connection_that_the_host_has_lives_through_a_flood_of_segments_that_pretend_to_be_of_it() {
    let own: IpAddr = OWN.parse().unwrap();
    let bgp = to(own, 179);
    // The host's own segment of a connection tells its peer's flow; a SYN and ACK tells none.
    let back = Route { source: bgp.destination, destination: bgp.source, ..bgp };
    let (flow, ends) = connection_of_host(&tcp_frame(&back, tcp::ACK, b"open")).unwrap();
    assert!(!ends);
    assert_eq!((flow.source(), flow.destination()), (Endpoint::new(CLIENT, 4_000), Endpoint::new(own, 179)));
    for flags in [tcp::SYN, tcp::SYN | tcp::ACK, tcp::RST] {
        assert_eq!(connection_of_host(&tcp_frame(&back, flags, &[])), None);
    }
    for flags in [tcp::RST | tcp::ACK, tcp::FIN | tcp::ACK] {
        assert_eq!(connection_of_host(&tcp_frame(&back, flags, &[])), Some((flow, true)));
    }
    assert_eq!(connection_of_host(&udp_frame(&back, b"x")), None);
    let mut lab = lab();
    let other = FlowKey6::new(Protocol::Tcp, Endpoint::new(CLIENT, 5_000), Endpoint::new(own, 22));
    lab.world.host_flows = Arc::new([(flow, 7), (other, 8)].into_iter().collect());
    let (mut flooded, mut own_lost) = (0, 0);
    for second in 0..3 {
        for n in 0..50_000_u32 {
            // From the peer's address too, but for its port.
            let source = if n % 2 == 0 { (CLIENT, 1_024 + (n % 2_000) as u16) } else { (SERVER, n as u16) };
            let forged = Route { source, ..bgp };
            flooded += u32::from(lab.send(A, &tcp_frame(&forged, tcp::ACK, &[])) == Fate::Kernel);
            if n % 5_000 == 0 {
                own_lost += u32::from(lab.send(A, &tcp_frame(&bgp, tcp::ACK, b"keepalive")) != Fate::Kernel);
            }
        }
        assert!(flooded <= 20_000 * (second + 1) + 2_000, "{flooded}");
        lab.wait(Duration::from_secs(1));
    }
    assert_eq!(own_lost, 0);
    // Who has a connection himself, or knows the ports of one, takes nothing from the others' own part.
    let ssh = Route { source: (CLIENT, 5_000), ..to(own, 22) };
    let segment = tcp_frame(&ssh, tcp::ACK, b"x");
    let through = (0..50_000).filter(|_| lab.send(A, &segment) == Fate::Kernel).count();
    assert!((1_900..=2_150).contains(&through), "{through}");
    assert_eq!(lab.send(A, &tcp_frame(&bgp, tcp::ACK, b"keepalive")), Fate::Kernel);
    assert_eq!(lab.send(A, &tcp_frame(&Route { source: (CLIENT, 9), ..bgp }, tcp::ACK, &[])), Fate::Kernel);
}
