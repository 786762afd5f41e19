//! SCTP associations in every mode and family, from INIT to SHUTDOWN COMPLETE.

#[path = "support/mod.rs"]
mod support;

use dataplane::drop::DropReason;
use dataplane::session::{ForwardMode, State};
use dataplane::snapshot::ServiceOptions;
use pktgen_tests::frames::{ETHERNET, Route, be16, crc32c_bit_by_bit, endpoints, sctp_frame, upper_layer};
use std::net::IpAddr;
use std::sync::Arc;
use support::{
    A, B, CLIENT, CLIENT6, Fate, LOCAL, LOCAL6, Lab, Plan, SERVER, SERVER6, VIP, VIP6, answer_to, inbound,
    inbound6,
};

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

fn packet(route: &Route, kind: u8) -> Vec<u8> {
    let body: &[u8] = match kind {
        // What stands first, and an address of the sender.
        INIT | INIT_ACK => &[0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 5, 0, 8, 10, 9, 8, 7],
        DATA => &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'w', b'o', b'r', b'd'],
        COOKIE_ECHO => b"cookie..",
        SHUTDOWN => &[0, 0, 0, 1],
        _ => &[],
    };
    let chunk = [&[kind, 0, 0, 4 + body.len() as u8], body].concat();
    sctp_frame(route, if kind == INIT { 0 } else { 7 }, &chunk)
}

/// The SCTP packet of a frame; its checksum is right.
fn whole(frame: &[u8]) -> &[u8] {
    let ip = &frame[ETHERNET..];
    let (header, protocol) = upper_layer(ip).unwrap();
    assert_eq!(protocol, 132);
    let packet = &ip[header..];
    let mut bare = packet.to_vec();
    bare[8..12].fill(0);
    assert_eq!(crc32c_bit_by_bit(&bare).to_le_bytes(), packet[8..12], "the checksum");
    packet
}

fn hides_addresses(packet: &[u8]) -> bool {
    packet.len() > 33 && be16(packet, 32) == 0x8005
}

struct Ends {
    route: fn(u16) -> Route,
    client: IpAddr,
    vip: IpAddr,
    local: IpAddr,
    server: IpAddr,
}

const FAMILIES: [Ends; 2] = [
    Ends { route: inbound, client: CLIENT, vip: VIP, local: LOCAL, server: SERVER },
    Ends { route: inbound6, client: CLIENT6, vip: VIP6, local: LOCAL6, server: SERVER6 },
];

fn state(lab: &Lab) -> State {
    let of6 = lab.director.sessions6();
    let six = (0..of6.capacity()).filter_map(|line| of6.line(line)).map(|(_, session)| session.state());
    lab.states().into_iter().chain(six).next().unwrap()
}

#[test]
fn an_association_lives_and_ends_behind_a_translated_address() {
    for (mode, across) in
        [(ForwardMode::FullNat, false), (ForwardMode::FullNat, true), (ForwardMode::Nat, false)]
    {
        for (at, this) in FAMILIES.iter().enumerate() {
            let there = if across { &FAMILIES[1 - at] } else { this };
            let mut lab = Lab::new(&Plan { mode, across, ..Plan::default() });
            let route = (this.route)(4000);
            let seen = lab.send(A, &packet(&route, INIT)).frame().to_vec();
            let (source, destination) = endpoints(&seen).unwrap();
            let shown = if mode == ForwardMode::Nat { this.client } else { there.local };
            assert_eq!((source.0, destination), (shown, (there.server, 8080)));
            assert!(hides_addresses(whole(&seen)));
            let back = answer_to(&seen);
            for (from_client, kind, then) in [
                (false, INIT_ACK, State::SynRecv),
                (true, COOKIE_ECHO, State::Established),
                (false, COOKIE_ACK, State::Established),
                (true, DATA, State::Established),
                (false, DATA, State::Established),
                (true, SHUTDOWN, State::CloseWait),
                (false, SHUTDOWN_ACK, State::TimeWait),
                (true, SHUTDOWN_COMPLETE, State::Close),
            ] {
                let (port, route) = if from_client { (A, &route) } else { (B, &back) };
                let sent = lab.send(port, &packet(route, kind)).frame().to_vec();
                let (from, to) = endpoints(&sent).unwrap();
                if from_client {
                    assert_eq!((from, to), (source, destination));
                } else {
                    assert_eq!((from, to), ((this.vip, 8080), (this.client, 4000)));
                }
                assert!(hides_addresses(whole(&sent)) || kind != INIT_ACK);
                assert_eq!(state(&lab), then, "{mode:?} after {kind}");
            }
        }
    }
}

#[test]
fn servers_that_have_the_vip_get_the_packet_as_it_was() {
    for mode in [ForwardMode::DirectRoute, ForwardMode::Tunnel] {
        for this in &FAMILIES {
            let mut lab = Lab::new(&Plan { mode, ..Plan::default() });
            for kind in [INIT, COOKIE_ECHO, DATA] {
                let opener = packet(&(this.route)(4000), kind);
                let sent = lab.send(A, &opener).frame().to_vec();
                assert!(sent.ends_with(whole(&opener)), "{mode:?}");
            }
            assert_eq!(state(&lab), State::Established);
        }
    }
}

#[test]
fn hosts_behind_the_appliance_reach_servers_outside() {
    let sources = vec!["10.0.0.0/24".parse().unwrap()];
    let options = Arc::new(ServiceOptions { sources, ..ServiceOptions::default() });
    let mut lab = Lab::new(&Plan { mode: ForwardMode::Snat, options, ..Plan::default() });
    let route = Route { destination: (SERVER, 8080), ..inbound(4000) };
    let seen = lab.send(A, &packet(&route, INIT)).frame().to_vec();
    assert_eq!(endpoints(&seen).unwrap().0.0, LOCAL);
    let got = lab.send(B, &packet(&answer_to(&seen), INIT_ACK)).frame().to_vec();
    assert_eq!(endpoints(&got), Some(((SERVER, 8080), (CLIENT, 4000))));
    whole(&got);
}

#[test]
fn an_abort_ends_an_association_and_its_port_may_be_used_again_at_once() {
    let mut lab = Lab::new(&Plan::default());
    let route = inbound(4000);
    lab.send(A, &packet(&route, INIT));
    lab.send(A, &packet(&route, COOKIE_ECHO));
    lab.send(A, &packet(&route, ABORT));
    assert_eq!(state(&lab), State::Close);

    let again = lab.send(A, &packet(&route, INIT)).frame().to_vec();

    whole(&again);
    assert_eq!((lab.sessions(), state(&lab)), (1, State::SynRecv));
}

#[test]
fn what_belongs_to_no_association_or_is_damaged_is_dropped() {
    let mut lab = Lab::new(&Plan::default());
    let mut tagged = packet(&inbound(4000), INIT);
    tagged[ETHERNET + 20 + 7] = 1;
    let mut long = packet(&inbound(4000), DATA);
    long[ETHERNET + 20 + 15] = 200;
    let short = sctp_frame(&inbound(4000), 7, &[0, 0]);
    let mut fragment = packet(&inbound(4000), INIT);
    fragment[ETHERNET + 6] = 0x20;
    pktgen_tests::frames::fill_checksums(&mut fragment);
    for (frame, reason) in [
        (packet(&inbound(4000), DATA), DropReason::NoSession),
        (tagged, DropReason::SctpChunk),
        (long, DropReason::SctpChunk),
        (short, DropReason::SctpShort),
        (fragment, DropReason::ProtocolUnsupported),
    ] {
        let before = lab.drops(reason);
        assert_eq!(lab.send(A, &frame), Fate::Dropped(reason));
        assert_eq!(lab.drops(reason), before + 1);
    }
    assert_eq!(lab.sessions(), 0);
}

/// A server's host that has no SCTP says so; the client's host is told about its own packet.
#[test]
fn icmp_errors_find_the_client() {
    let mut lab = Lab::new(&Plan::default());
    let opener = packet(&inbound(4000), INIT);
    let seen = lab.send(A, &opener).frame().to_vec();
    let quote = &seen[ETHERNET..ETHERNET + 28];
    let message = [&[3, 2, 0, 0, 0, 0, 0, 0][..], quote].concat();
    let back = Route { source: (SERVER, 0), destination: (LOCAL, 0), ..answer_to(&seen) };
    let error = pktgen_tests::frames::ip_frame(&back, 1, 64, &message);

    let told = lab.send(B, &error).frame().to_vec();

    let quoted = &told[ETHERNET + 28..];
    assert_eq!(quoted[12..20], opener[ETHERNET + 12..ETHERNET + 20]);
    assert_eq!(quoted[20..28], opener[ETHERNET + 20..ETHERNET + 28]);
}
