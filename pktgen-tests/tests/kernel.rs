//! The running daemon beside the running kernel: the same frames to both, and what comes out of them.
//! For what the conformance files do not have: IPv6, and SNAT. nftables does NAT, FullNAT and SNAT.

use pktgen_tests::conformance::{CLIENT_MAC, DIRECTOR_A, DIRECTOR_B, SERVER_MAC, Side};
use pktgen_tests::frames::{
    ETHERNET, Route, be16, be32, checksum_field, endpoints, fill_checksums, ip_frame, ones_sum, pseudo_sum,
    tcp, tcp_frame, udp_frame, upper_layer,
};
use pktgen_tests::process::wait_until;
use pktgen_tests::raw_lab::{RawLab, Uplink};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    FullNat,
    Nat,
    Snat,
}

/// A mode in a family, with its addresses.
#[derive(Clone, Copy, Debug)]
struct Case {
    mode: Mode,
    six: bool,
}

impl Case {
    fn pick(self, four: &str, six: &str) -> String {
        if self.six { six.to_owned() } else { four.to_owned() }
    }

    fn address(self, four: &str, six: &str) -> IpAddr {
        self.pick(four, six).parse().unwrap()
    }

    /// Whom the client asks: the VIP, or the server itself.
    fn asked(self) -> IpAddr {
        match self.mode {
            Mode::Snat => self.address("172.16.0.50", "2001:db8:b::50"),
            _ => self.address("207.175.44.110", "2001:db8:f::110"),
        }
    }

    fn services(self) -> String {
        let mut text = String::new();
        let vip = self.pick("207.175.44.110", "[2001:db8:f::110]");
        let server = self.pick("172.16.0.50:8080", "[2001:db8:b::50]:8080");
        let local = self.pick("172.16.0.100", "2001:db8:b::100");
        for protocol in ["tcp", "udp"] {
            let _ = write!(text, "[[service]]\nname = \"{protocol}\"\nprotocol = \"{protocol}\"\n");
            let _ = match self.mode {
                Mode::FullNat => write!(
                    text,
                    "forward = \"fullnat\"\nlisten = \"{vip}:8080\"\nlocal_addresses = [\"{local}\"]\n[[service.server]]\naddress = \"{server}\"\n"
                ),
                Mode::Nat => write!(
                    text,
                    "forward = \"nat\"\nlisten = \"{vip}:8080\"\n[[service.server]]\naddress = \"{server}\"\n"
                ),
                Mode::Snat => write!(
                    text,
                    "forward = \"snat\"\nsources = [\"{}\"]\nlocal_addresses = [\"{local}\"]\n",
                    self.pick("10.0.0.0/24", "2001:db8:a::/64")
                ),
            };
        }
        text
    }

    /// nftables' rules for the same.
    fn rules(self) -> String {
        let ip = self.pick("ip", "ip6");
        let (vip, server) = (self.asked(), self.pick("172.16.0.50:8080", "[2001:db8:b::50]:8080"));
        let local = self.pick("172.16.0.100", "2001:db8:b::100");
        let dnat = format!(
            "chain pre {{ type nat hook prerouting priority dstnat; {ip} daddr {vip} tcp dport 8080 dnat {ip} to {server}; {ip} daddr {vip} udp dport 8080 dnat {ip} to {server}; }}"
        );
        let snat = format!(
            "chain post {{ type nat hook postrouting priority srcnat; oifname b snat {ip} to {local}; }}"
        );
        match self.mode {
            Mode::FullNat => format!("table inet lb {{ {dnat}\n{snat}\n }}"),
            Mode::Nat => format!("table inet lb {{ {dnat}\n }}"),
            Mode::Snat => format!("table inet lb {{ {snat}\n }}"),
        }
    }

    fn client(self, l4_port: u16) -> Route {
        Route {
            source_mac: CLIENT_MAC,
            destination_mac: DIRECTOR_A,
            source: (self.address("10.0.0.50", "2001:db8:a::50"), l4_port),
            destination: (self.asked(), 8080),
        }
    }
}

/// The last frame that the server saw of each of the client's ports.
type Seen = HashMap<u16, Vec<u8>>;
type Make = Box<dyn Fn(Case, &Seen) -> (Side, Vec<u8>)>;

/// The answer to what the server saw of a client's port.
fn back(seen: &Seen, l4_port: u16) -> Route {
    let (source, destination) = endpoints(&seen[&l4_port]).unwrap();
    Route { source_mac: SERVER_MAC, destination_mac: DIRECTOR_B, source: destination, destination: source }
}

fn error_about(frame: &[u8], route: &Route, kind: u8, code: u8, rest: u32) -> Vec<u8> {
    let message = [&[kind, code, 0, 0][..], &rest.to_be_bytes(), &frame[ETHERNET..]].concat();
    ip_frame(route, if route.source.0.is_ipv4() { 1 } else { 58 }, 64, &message)
}

/// What is sent, in this order.
fn probes() -> Vec<(&'static str, Make)> {
    fn make(f: impl Fn(Case, &Seen) -> (Side, Vec<u8>) + 'static) -> Make {
        Box::new(f)
    }
    fn from_client(f: impl Fn(&Route) -> Vec<u8> + 'static, l4_port: u16) -> Make {
        make(move |case, _| (Side::A, f(&case.client(l4_port))))
    }
    fn from_server(f: impl Fn(&Route) -> Vec<u8> + 'static, l4_port: u16) -> Make {
        make(move |_, seen| (Side::B, f(&back(seen, l4_port))))
    }
    const TCP: u16 = 40_000;
    const UDP: u16 = 40_001;
    let numbered = |flags: u8, sequence: u32, acknowledged: u32, payload: &'static [u8]| {
        move |route: &Route| {
            let mut frame = tcp_frame(route, flags, payload);
            let l4 = ETHERNET + upper_layer(&frame[ETHERNET..]).unwrap().0;
            frame[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
            frame[l4 + 8..l4 + 12].copy_from_slice(&acknowledged.to_be_bytes());
            fill_checksums(&mut frame);
            frame
        }
    };
    // A datagram whose hop limit, first header or extensions are others.
    let limited = |ttl: u8| {
        move |route: &Route| {
            let plain = udp_frame(route, b"far");
            let (l4, _) = upper_layer(&plain[ETHERNET..]).unwrap();
            ip_frame(route, 17, ttl, &plain[ETHERNET + l4..])
        }
    };
    let behind = |first: u8, extension: &'static [u8]| {
        move |route: &Route| {
            let plain = udp_frame(route, b"behind extensions");
            if route.source.0.is_ipv4() {
                return plain;
            }
            let (l4, _) = upper_layer(&plain[ETHERNET..]).unwrap();
            ip_frame(route, first, 64, &[extension, &plain[ETHERNET + l4..]].concat())
        }
    };
    let damaged = |change: fn(&mut [u8], usize)| {
        move |route: &Route| {
            let mut frame = udp_frame(route, b"damaged");
            let l4 = upper_layer(&frame[ETHERNET..]).unwrap().0;
            change(&mut frame[ETHERNET..], l4);
            if frame[ETHERNET] == 0x45 {
                frame[ETHERNET + 10..ETHERNET + 12].fill(0);
                let sum = !ones_sum(&frame[ETHERNET..ETHERNET + 20], 0);
                frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
            }
            frame
        }
    };
    let from = |four: &'static str, six: &'static str| {
        make(move |case, _| {
            let route = Route { source: (case.address(four, six), 40_050), ..case.client(0) };
            (Side::A, udp_frame(&route, b"spoofed"))
        })
    };
    vec![
        ("syn", from_client(numbered(tcp::SYN, 999, 0, b""), TCP)),
        ("syn_again", from_client(numbered(tcp::SYN, 999, 0, b""), TCP)),
        ("syn_ack", from_server(numbered(tcp::SYN | tcp::ACK, 4_999, 1_000, b""), TCP)),
        ("ack", from_client(numbered(tcp::ACK, 1_000, 5_000, b""), TCP)),
        ("request", from_client(numbered(tcp::ACK | tcp::PSH, 1_000, 5_000, b"GET /"), TCP)),
        ("response", from_server(numbered(tcp::ACK | tcp::PSH, 5_000, 1_005, b"200 OK"), TCP)),
        ("query", from_client(|route| udp_frame(route, b"question"), UDP)),
        ("reply", from_server(|route| udp_frame(route, b"answer"), UDP)),
        ("empty", from_client(|route| udp_frame(route, b""), UDP)),
        ("one_byte", from_client(|route| udp_frame(route, b"x"), UDP)),
        ("last_hop_but_one", from_client(limited(2), UDP)),
        ("last_hop", from_client(limited(1), UDP)),
        ("last_hop_back", from_server(limited(1), UDP)),
        ("no_hop", from_client(limited(0), UDP)),
        ("padded_options", from_client(behind(0, &[17, 0, 1, 4, 0, 0, 0, 0]), 40_010)),
        ("destination_options", from_client(behind(60, &[17, 0, 1, 4, 0, 0, 0, 0]), 40_011)),
        (
            "two_extensions",
            from_client(behind(0, &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]), 40_012),
        ),
        (
            "port_unreachable",
            make(|case, seen| {
                let (kind, code) = if case.six { (1, 4) } else { (3, 3) };
                (Side::B, error_about(&seen[&UDP], &back(seen, UDP), kind, code, 0))
            }),
        ),
        (
            "too_big_from_a_router_behind",
            make(|case, seen| {
                let (kind, code) = if case.six { (2, 0) } else { (3, 4) };
                let router = (case.address("172.16.0.9", "2001:db8:b::9"), 0);
                let route = Route { source: router, ..back(seen, UDP) };
                (Side::B, error_about(&seen[&UDP], &route, kind, code, 1_400))
            }),
        ),
        (
            "too_big_from_a_router_in_front",
            make(|case, _| {
                let (kind, code) = if case.six { (2, 0) } else { (3, 4) };
                let router = (case.address("10.0.0.9", "2001:db8:a::9"), 0);
                let client = case.client(UDP);
                let answer = Route { source: client.destination, destination: client.source, ..client };
                let route = Route { source: router, ..client };
                (Side::A, error_about(&udp_frame(&answer, b"answer"), &route, kind, code, 1_400))
            }),
        ),
        ("bad_version", from_client(damaged(|ip, _| ip[0] ^= 0x10), 40_020)),
        (
            "longer_than_the_frame",
            from_client(
                damaged(|ip, _| {
                    let at = if ip[0] >> 4 == 4 { 2 } else { 4 };
                    ip[at] = 0x05;
                }),
                40_021,
            ),
        ),
        ("udp_length_4", from_client(damaged(|ip, l4| ip[l4 + 5] = 4), 40_022)),
        ("from_loopback", from("127.0.0.1", "::1")),
        ("from_multicast", from("224.0.0.1", "ff02::1")),
        ("from_nobody", from("0.0.0.0", "::")),
        ("fin", from_client(numbered(tcp::FIN | tcp::ACK, 1_005, 5_006, b""), TCP)),
        ("fin_back", from_server(numbered(tcp::FIN | tcp::ACK, 5_006, 1_006, b""), TCP)),
        ("last_ack", from_client(numbered(tcp::ACK, 1_006, 5_007, b""), TCP)),
        ("syn_refused", from_client(numbered(tcp::SYN, 99, 0, b""), 40_002)),
        ("refusal", from_server(numbered(tcp::RST | tcp::ACK, 0, 100, b""), 40_002)),
    ]
}

/// Where the daemon differs from the kernel on purpose.
const DELIBERATE: &[(&str, &str)] =
    &[("udp_length_4", "a malformed header is dropped in every mode; the kernel leaves it to the server")];

/// A packet in words. `ports` has the client's port behind each local one. Senders of errors are left
/// out, because the appliance speaks for the VIP.
fn words(side: Side, frame: &[u8], ports: &HashMap<u16, u16>) -> String {
    let station = match &frame[..6] {
        mac if *mac == CLIENT_MAC => "client",
        mac if *mac == SERVER_MAC => "server",
        _ => "?",
    };
    let nothing = HashMap::new();
    let ports = if side == Side::B { ports } else { &nothing };
    format!("{side:?} to {station}: {}", ip_words(&frame[ETHERNET..], ports, false))
}

/// Where the transport header begins, its protocol, and the IPv6 extensions before it.
fn transport(ip: &[u8]) -> (usize, u8, Vec<u8>) {
    let (mut l4, mut protocol) = upper_layer(ip).unwrap_or((ip.len(), 255));
    let mut extensions = Vec::new();
    while matches!(protocol, 0 | 60) && ip[0] >> 4 == 6 && l4 + 2 <= ip.len() {
        extensions.push(protocol);
        (protocol, l4) = (ip[l4], l4 + 8 + usize::from(ip[l4 + 1]) * 8);
    }
    (l4, protocol, extensions)
}

/// Source port of a TCP segment or a datagram.
fn source_port(frame: &[u8]) -> Option<u16> {
    let ip = &frame[ETHERNET..];
    let (l4, protocol, _) = transport(ip);
    (matches!(protocol, 6 | 17) && ip.len() >= l4 + 2).then(|| be16(ip, l4))
}

fn ip_words(ip: &[u8], ports: &HashMap<u16, u16>, quoted: bool) -> String {
    let four = ip[0] >> 4 == 4;
    let (l4, protocol, extensions) = transport(ip);
    let mut text = String::new();
    if four {
        let header = if ones_sum(&ip[..l4], 0) == 0xffff { "ok" } else { "BAD" };
        let _ = write!(text, "ttl {} tos {} flags {:#x} header {header} ", ip[8], ip[1], be16(ip, 6));
    } else {
        // The kernel gives its own packets a random flow label.
        let _ = write!(text, "hop limit {} class {:#x} extensions {extensions:?} ", ip[7], be32(ip, 0) >> 20);
    }
    // Addresses in front of the transport header are what `endpoints` reads.
    let addresses = if four { (&ip[12..16], &ip[16..20]) } else { (&ip[8..24], &ip[24..40]) };
    let body = &ip[l4.min(ip.len())..];
    let field = checksum_field(protocol);
    let checksum = match field {
        Some(at) if body.len() >= at + 2 && !quoted => {
            let mut plain = ip[..if four { l4 } else { 40 }].to_vec();
            plain.extend(body);
            if !four {
                plain[6] = protocol;
                plain[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
            }
            let pseudo = if protocol == 1 { 0 } else { pseudo_sum(&plain) };
            if ones_sum(body, pseudo) == 0xffff { "ok" } else { "BAD" }
        }
        _ => "?",
    };
    let port = |at: usize| {
        let port = be16(body, at);
        *ports.get(&port).unwrap_or(&port)
    };
    match protocol {
        6 | 17 if body.len() >= 8 => {
            let _ = write!(
                text,
                "{:?} {} > {:?} {} protocol {protocol} checksum {checksum} {:x?}",
                addresses.0,
                port(0),
                addresses.1,
                port(2),
                // Without checksums, which follow from the ports.
                if protocol == 6 && body.len() >= 20 {
                    [&body[4..16], &body[18..]].concat()
                } else {
                    body[8..].to_vec()
                },
            );
        }
        1 | 58 if body.len() >= 8 => {
            let mtu = if matches!((protocol, body[0], body[1]), (1, 3, 4)) {
                be16(body, 6).into()
            } else {
                be32(body, 4)
            };
            let _ = write!(
                text,
                "to {:?} icmp {} {} {mtu} checksum {checksum} about {}",
                addresses.1,
                body[0],
                body[1],
                ip_words(&body[8..], ports, true)
            );
        }
        other => {
            let _ = write!(text, "protocol {other} {body:x?}");
        }
    }
    text
}

/// What came out for each probe.
fn run_probes(case: Case, lab: &RawLab, taken: impl Fn() -> u64) -> Vec<(&'static str, Vec<String>)> {
    let (mut seen, mut ports) = (Seen::new(), HashMap::new());
    let mut results = Vec::new();
    for (name, make) in probes() {
        let (side, frame) = make(case, &seen);
        let before = taken();
        lab.wire(side).send(&frame).unwrap();
        wait_until(Duration::from_secs(5), || taken() != before || before == u64::MAX);
        let quiet = Duration::from_millis(40);
        let mut out: Vec<_> = lab.a.receive_ip(quiet).into_iter().map(|frame| (Side::A, frame)).collect();
        out.extend(lab.b.receive_ip(quiet).into_iter().map(|frame| (Side::B, frame)));
        if let (Side::A, [(Side::B, came)], Some(client)) = (side, &out[..], source_port(&frame))
            && let Some(local) = source_port(came)
        {
            ports.insert(local, client);
            seen.insert(client, came.clone());
        }
        results.push((name, out.iter().map(|(side, frame)| words(*side, frame, &ports)).collect()));
    }
    results
}

#[test]
fn the_daemon_does_what_the_kernel_does_in_ipv6_and_snat() {
    let mut agreeing = 0;
    for (mode, six) in [
        (Mode::FullNat, false),
        (Mode::FullNat, true),
        (Mode::Nat, true),
        (Mode::Snat, false),
        (Mode::Snat, true),
    ] {
        let case = Case { mode, six };
        let kernel = RawLab::new(&format!("k{mode:?}{six}").to_lowercase()).unwrap();
        kernel.start_kernel(&case.rules()).unwrap();
        let expected = run_probes(case, &kernel, || u64::MAX);
        drop(kernel);
        let mut lab = RawLab::new(&format!("d{mode:?}{six}").to_lowercase()).unwrap();
        lab.start_sluiced(&case.services(), if six { Uplink::Static } else { Uplink::Ipv4 }).unwrap();
        let known = || {
            let neighbors = lab.sluice(&["neighbor", "list"]).unwrap();
            let all = neighbors.as_array().unwrap();
            all.len() >= 2 && all.iter().all(|neighbor| neighbor["state"] == "REACHABLE")
        };
        // Who answers questions about neighbours is the wire, when it is read.
        wait_until(Duration::from_secs(5), || {
            lab.a.receive_ip(Duration::from_millis(20));
            lab.b.receive_ip(Duration::from_millis(20));
            known()
        });
        let received = || {
            let ports = lab.sluice(&["port", "list"]).unwrap();
            ports.as_array().unwrap().iter().map(|port| port["rx_packets"].as_u64().unwrap()).sum()
        };
        let came = run_probes(case, &lab, received);
        let mut complaints = String::new();
        for ((name, kernel), (_, sluice)) in expected.iter().zip(&came) {
            let deliberate = DELIBERATE.iter().any(|(probe, _)| probe == name);
            if (kernel == sluice) == deliberate {
                let _ = write!(complaints, "\n{name}:\n  kernel {kernel:?}\n  sluice {sluice:?}");
            }
            agreeing += usize::from(kernel == sluice);
        }
        assert!(complaints.is_empty(), "{case:?}:{complaints}");
    }
    println!("{agreeing} answers agree with the kernel's");
}
