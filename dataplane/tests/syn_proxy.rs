//! Clients that have to prove by a SYN cookie that they are where they say.

mod support;

use dataplane::clock::Instant;
use dataplane::director::Verdict;
use dataplane::drop::DropReason;
use dataplane::ids::{ServerId, ServiceId};
use dataplane::session::{ForwardMode, State};
use dataplane::snapshot::{ClientAddress, Proofs, ServiceOptions, SynProxy};
use dataplane::wire::{Proxy, ProxyVersion, TOA_KIND};
use pktgen_tests::frames::{ETHERNET, Route, be16, be32, tcp, upper_layer};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use support::segments::{numbers, parts, segment, set_sequence};
use support::{A, B, Fate, Lab, Plan, answer_to, inbound, inbound6};

fn lab(plan: Plan) -> Lab {
    lab_of(SynProxy::Always, plan)
}

fn lab_of(syn_proxy: SynProxy, plan: Plan) -> Lab {
    let options = ServiceOptions { syn_proxy, ..(*plan.options).clone() };
    Lab::new(&Plan { options: Arc::new(options), ..plan })
}

/// MSS 1460, SACK, timestamps of value 1000 that give nothing back, window scale 5.
const OFFER: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 3, 232, 0, 0, 0, 0, 1, 3, 3, 5];
const FIRST: u32 = 999;

fn says(
    route: &Route,
    flags: u8,
    (sequence, acknowledged): (u32, u32),
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut frame = segment(route, flags, acknowledged, options, data);
    set_sequence(&mut frame, sequence);
    frame
}

/// The options of a segment that has timestamps and nothing else.
fn clocks(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

/// The timestamps among options.
fn clocks_of(options: &[u8]) -> Option<(u32, u32)> {
    let at = options.windows(2).position(|pair| pair == [8, 10])?;
    Some((be32(options, at + 2), be32(options, at + 6)))
}

fn header(frame: &[u8]) -> (u8, u16) {
    let l4 = ETHERNET + upper_layer(&frame[ETHERNET..]).unwrap().0;
    (frame[l4 + 13], be16(frame, l4 + 14))
}

/// A client's SYN and what it is answered: the cookie, and the clock that came with it.
fn ask(lab: &mut Lab, route: &Route, options: &[u8]) -> (u32, Vec<u8>) {
    let fate = lab.send(A, &says(route, tcp::SYN, (FIRST, 0), options, &[]));
    let Fate::Sent(port, answer) = &fate else { panic!("{fate:?}") };
    assert_eq!(*port, A, "back to where it came from");
    assert_eq!(answer_to(answer).source, route.source, "from the VIP to the client");
    let (cookie, acknowledged) = numbers(answer);
    assert_eq!((header(answer), acknowledged), ((tcp::SYN | tcp::ACK, 0), FIRST + 1), "the window is closed");
    (cookie, parts(answer).0)
}

#[test]
fn a_syn_costs_nothing_and_the_answer_opens_a_session() {
    for (mode, route) in [
        (ForwardMode::FullNat, inbound(4_000)),
        (ForwardMode::FullNat, inbound6(4_000)),
        (ForwardMode::Nat, inbound(4_000)),
    ] {
        let mut lab = lab(Plan { mode, ..Plan::default() });
        let (cookie, told) = ask(&mut lab, &route, &OFFER);
        assert_eq!(told.len(), 20, "{told:?}");
        let largest = if route.source.0.is_ipv4() { 1_460 } else { 1_440 };
        assert_eq!(be16(&told, 2), largest);
        let (clock, echo) = clocks_of(&told).unwrap();
        assert_eq!((echo, &told[16..]), (1_000, &[1, 3, 3, 7][..]));
        assert_eq!(lab.stats.sessions_live.value(), 0, "nothing is kept");

        let ack = says(&route, tcp::ACK, (FIRST + 1, cookie.wrapping_add(1)), &clocks(1_001, clock), &[]);
        let fate = lab.send(A, &ack);
        let syn = fate.frame().to_vec();
        assert_eq!(header(&syn), (tcp::SYN, u16::MAX), "the client's window, no longer scaled");
        assert_eq!(lab.stats.sessions_live.value(), 1);
        let offered = parts(&syn).0;
        assert_eq!((&offered[..2], &offered[16..]), (&[2, 4][..], &[1, 3, 3, 5][..]));
        let their_clock = clocks_of(&offered).unwrap().0;

        // The client may not send yet, and what it sends all the same comes again.
        let early =
            says(&route, tcp::ACK, (FIRST + 1, cookie.wrapping_add(1)), &clocks(1_002, clock), b"GET");
        assert_eq!(lab.send(A, &early), Fate::Dropped(DropReason::HandshakePending));

        let theirs =
            [&OFFER[..8], &70_000_u32.to_be_bytes(), &their_clock.to_be_bytes(), &[1, 3, 3, 9]].concat();
        let first = numbers(&syn).0;
        let answer =
            says(&answer_to(&syn), tcp::SYN | tcp::ACK, (4_999, first.wrapping_add(1)), &theirs, &[]);
        let heard = lab.send(B, &answer).frame().to_vec();
        assert_eq!(numbers(&heard), (cookie.wrapping_add(1), FIRST + 1));
        assert_eq!(header(&heard).0, tcp::ACK);
        assert_eq!(clocks_of(&parts(&heard).0), Some((clock, 1_001)), "both clocks go on");
        let completed = lab.replay();
        let [completing] = &completed[..] else { panic!("{completed:?}") };
        assert_eq!(numbers(completing.frame()), (first.wrapping_add(1), 5_000));
        assert_eq!(clocks_of(&parts(completing.frame()).0), Some((their_clock, 70_000)));

        // Both ways, with selective acknowledgements and another window scale.
        let at_server = answer_to(&syn);
        let reply = says(
            &at_server,
            tcp::ACK,
            (5_000, first.wrapping_add(1)),
            &clocks(70_009, their_clock),
            b"SSH-2.0",
        );
        let heard = lab.send(B, &reply).frame().to_vec();
        assert_eq!(numbers(&heard), (cookie.wrapping_add(1), FIRST + 1));
        assert_eq!(clocks_of(&parts(&heard).0), Some((clock.wrapping_add(9), 1_001)));
        assert_eq!((header(&heard).1, parts(&heard).1), (header(&reply).1 << 2, b"SSH-2.0".to_vec()));
        let sack = [1, 1, 5, 10].into_iter().chain(cookie.wrapping_add(101).to_be_bytes());
        let sack: Vec<u8> = sack.chain(cookie.wrapping_add(201).to_be_bytes()).collect();
        let request = says(&route, tcp::ACK, (FIRST + 1, cookie.wrapping_add(8)), &sack, b"GET /");
        let heard = lab.send(A, &request).frame().to_vec();
        assert_eq!(numbers(&heard), (first.wrapping_add(1), 5_007));
        assert_eq!((be32(&parts(&heard).0, 4), be32(&parts(&heard).0, 8)), (5_100, 5_200));
    }
}

#[test]
fn what_proves_nothing_leaves_no_trace() {
    let mut lab = lab(Plan::default());
    let route = inbound(4_000);
    let (cookie, told) = ask(&mut lab, &route, &OFFER);
    let clock = clocks_of(&told).unwrap().0;
    let right = (FIRST + 1, cookie.wrapping_add(1));
    for (numbers, options, other) in [
        ((right.0, right.1.wrapping_add(1_000)), clocks(1, clock), route),
        ((right.0 + 5, right.1), clocks(1, clock), route),
        (right, clocks(1, clock.wrapping_sub(200_000)), route),
        (right, clocks(1, clock), inbound(4_001)),
    ] {
        let fate = lab.send(A, &says(&other, tcp::ACK, numbers, &options, &[]));
        assert_eq!(fate, Fate::Dropped(DropReason::NoSession));
    }
    for flags in [tcp::RST, tcp::RST | tcp::ACK, tcp::SYN | tcp::ACK] {
        let fate = lab.send(A, &says(&route, flags, right, &clocks(1, clock), &[]));
        assert_eq!(fate, Fate::Dropped(DropReason::NoSession));
    }
    let mut broken = says(&route, tcp::SYN, (FIRST, 0), &OFFER, &[]);
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(lab.send(A, &broken), Fate::Dropped(DropReason::TcpChecksum));
    assert_eq!(
        (lab.stats.sessions_live.value(), lab.stats.syn_proxy(ServiceId(0)).cookies_wrong.value()),
        (0, 4)
    );
    // A client that found the window closed asks with the number before its first byte.
    let probe = says(&route, tcp::ACK, (FIRST, right.1), &clocks(1, clock), &[]);
    assert_eq!(header(lab.send(A, &probe).frame()).0, tcp::SYN);
    // Two minutes later the cookie is worth nothing.
    let mut late = self::lab(Plan::default());
    let (cookie, _) = ask(&mut late, &route, &[]);
    late.now = Instant::from_millis(140_000);
    let ack = says(&route, tcp::ACK, (FIRST + 1, cookie.wrapping_add(1)), &[], &[]);
    assert_eq!(late.send(A, &ack), Fate::Dropped(DropReason::NoSession));
}

#[test]
fn by_need_it_asks_while_control_says_so_and_takes_late_cookies() {
    let mut lab = lab_of(SynProxy::Auto, Plan::default());
    let route = inbound(4_000);
    // In peace connections go their way, and are counted.
    let syn = says(&route, tcp::SYN, (FIRST, 0), &OFFER, &[]);
    let to_server = lab.send(A, &syn).frame().to_vec();
    assert_eq!(header(&to_server).0, tcp::SYN);
    let count = |lab: &Lab| {
        let counters = lab.stats.syn_proxy(ServiceId(0));
        (counters.unasked.value(), counters.cookies_sent.value(), counters.cookies_accepted.value())
    };
    let back = answer_to(&to_server);
    lab.send(B, &says(&back, tcp::SYN | tcp::ACK, (70_000, FIRST + 1), &[], &[]));
    assert_eq!(lab.stats.connects(ServerId(0)).finished.value(), 0);
    lab.send(A, &says(&route, tcp::ACK, (FIRST + 1, 70_001), &[], &[]));
    assert_eq!((count(&lab), lab.stats.connects(ServerId(0)).finished.value()), ((1, 0, 0), 1));
    // In need they are asked.
    lab.world.proofs = Arc::new(Proofs::new([ServiceId(0)], []));
    let (early, late) = (inbound(4_001), inbound(4_002));
    let first = ask(&mut lab, &early, &[]).0;
    let second = ask(&mut lab, &late, &[]).0;
    let proof = |cookie: u32| (FIRST + 1, cookie.wrapping_add(1));
    assert_eq!(header(lab.send(A, &says(&early, tcp::ACK, proof(first), &[], &[])).frame()).0, tcp::SYN);
    // Afterwards new ones are not, and the one that was asked still proves itself.
    lab.world.proofs = Arc::new(Proofs::new([], [ServiceId(0)]));
    let fate = lab.send(A, &says(&inbound(4_003), tcp::SYN, (FIRST, 0), &OFFER, &[]));
    assert_eq!(header(fate.frame()).0, tcp::SYN);
    assert_eq!(header(lab.send(A, &says(&late, tcp::ACK, proof(second), &[], &[])).frame()).0, tcp::SYN);
    assert_eq!(count(&lab), (2, 2, 2));
    lab.world.proofs = Arc::default();
    let fate = lab.send(A, &says(&inbound(4_004), tcp::ACK, proof(second), &[], &[]));
    assert_eq!(fate, Fate::Dropped(DropReason::NoSession));
    assert_eq!(lab.stats.syn_proxy(ServiceId(0)).cookies_wrong.value(), 0, "nobody looked");
}

#[test]
fn it_can_be_explained_and_nobody_is_looked_for() {
    for neighbors_known in [true, false] {
        let mut lab = lab(Plan { neighbors_known, ..Plan::default() });
        for route in [inbound(4_000), inbound6(4_000)] {
            let syn = says(&route, tcp::SYN, (FIRST, 0), &OFFER, &[]);
            let said = lab.director.explain(A, &syn, &lab.world, lab.now);
            assert!(said.is_answered, "{said:?}");
            assert_eq!(said.verdict, Verdict::Transmit(A));
            let fate = lab.send(A, &syn);
            assert!(matches!(fate, Fate::Sent(A, _)), "{fate:?}");
            assert_eq!(fate.frame()[..6], syn[6..12], "back to the station");
        }
    }
}

#[test]
fn a_session_that_waits_for_its_server_ends_by_nothing_blind() {
    let mut lab = lab(Plan::default());
    let route = inbound(4_000);
    let (_, _, syn) = proven(&mut lab, &route);
    let pending = Fate::Dropped(DropReason::HandshakePending);
    for number in [0, FIRST, FIRST + 2, 0x8000_0000] {
        assert_eq!(lab.send(A, &says(&route, tcp::RST, (number, 0), &[], &[])), pending);
    }
    // The client's own SYN may say what it was not granted.
    assert_eq!(lab.send(A, &says(&route, tcp::SYN, (FIRST, 0), &OFFER, &[])), pending);
    assert_eq!(lab.states(), [State::SynSent]);
    // A client that goes away takes the session along, whatever its server says then.
    let abort = lab.send(A, &says(&route, tcp::RST, (FIRST + 1, 0), &[], &[]));
    assert_eq!((header(abort.frame()).0, lab.states()), (tcp::RST, vec![State::Close]));
    let acknowledged = numbers(&syn).0.wrapping_add(1);
    let late = says(&answer_to(&syn), tcp::SYN | tcp::ACK, (4_999, acknowledged), &OFFER, &[]);
    assert_eq!((lab.send(B, &late), lab.states()), (pending, vec![State::Close]));
}

/// A server's answer to a SYN, with its clock.
fn answered(syn: &[u8], clock: u32) -> Vec<u8> {
    let theirs = clocks_of(&parts(syn).0).map_or(0, |(value, _)| value);
    let options = [&OFFER[..8], &clock.to_be_bytes(), &theirs.to_be_bytes(), &[1, 3, 3, 7]].concat();
    says(&answer_to(syn), tcp::SYN | tcp::ACK, (4_999, numbers(syn).0.wrapping_add(1)), &options, &[])
}

#[test]
fn a_second_answer_of_the_server_s_leaves_its_clock_where_it_is() {
    let mut lab = lab(Plan::default());
    let (_, clock, syn) = proven(&mut lab, &inbound(4_000));
    let heard = lab.send(B, &answered(&syn, 70_000)).frame().to_vec();
    assert_eq!(clocks_of(&parts(&heard).0).unwrap().0, clock);
    assert_eq!(lab.replay().len(), 1);
    let heard = lab.send(B, &answered(&syn, 71_500)).frame().to_vec();
    assert_eq!(clocks_of(&parts(&heard).0).unwrap().0, clock.wrapping_add(1_500), "it went on");
    assert_eq!(lab.replay().len(), 1, "and is acknowledged again");
}

#[test]
fn only_a_server_that_was_asked_for_timestamps_teaches_that_it_has_none() {
    let mut lab = lab(Plan { sessions: 100, joined: true, ..Plan::default() });
    let told_clock = |lab: &mut Lab, l4_port| clocks_of(&ask(lab, &inbound(l4_port), &OFFER).1).is_some();
    let (_, _, syn) = proven(&mut lab, &inbound(4_000));
    let mut asked = Vec::new();
    while asked.len() < 3 {
        lab.wait(Duration::from_secs(1));
        asked.extend(lab.replay());
    }
    let without = says(
        &answer_to(&syn),
        tcp::SYN | tcp::ACK,
        (4_999, numbers(&syn).0.wrapping_add(1)),
        &OFFER[..4],
        &[],
    );
    let _ = lab.send(B, &without).frame();
    assert!(told_clock(&mut lab, 4_001), "the last question had none");
    let (_, _, syn) = proven(&mut lab, &inbound(4_002));
    let without = says(
        &answer_to(&syn),
        tcp::SYN | tcp::ACK,
        (4_999, numbers(&syn).0.wrapping_add(1)),
        &OFFER[..4],
        &[],
    );
    let _ = lab.send(B, &without).frame();
    assert!(!told_clock(&mut lab, 4_003), "now it is known");
}

/// Lets a client prove itself; returns what the server gets.
fn proven(lab: &mut Lab, route: &Route) -> (u32, u32, Vec<u8>) {
    let (cookie, told) = ask(lab, route, &OFFER);
    let clock = clocks_of(&told).unwrap().0;
    let ack = says(route, tcp::ACK, (FIRST + 1, cookie.wrapping_add(1)), &clocks(1_001, clock), &[]);
    (cookie, clock, lab.send(A, &ack).frame().to_vec())
}

#[test]
fn a_server_that_is_silent_is_asked_again_and_one_that_refuses_is_believed() {
    let mut lab = lab(Plan { sessions: 100, ..Plan::default() });
    let route = inbound(4_000);
    let (cookie, _, syn) = proven(&mut lab, &route);
    assert_eq!(lab.states(), [State::SynSent]);
    let mut asked = Vec::new();
    for _ in 0..20 {
        lab.wait(Duration::from_secs(1));
        asked.extend(lab.replay());
    }
    assert_eq!(asked.len(), 3, "{asked:?}");
    for again in &asked {
        assert_eq!((header(again.frame()).0, numbers(again.frame())), (tcp::SYN, numbers(&syn)));
    }
    assert!(clocks_of(&parts(asked[2].frame()).0).is_none(), "the last time without timestamps");
    assert_eq!((lab.sessions(), lab.stats.server(dataplane::ids::ServerId(0)).failures.value()), (0, 1));
    let (_, reset) = lab.director.next_reset(&lab.world).unwrap();
    assert_eq!((header(&reset).0, numbers(&reset).0), (tcp::RST, cookie.wrapping_add(1)));

    let (cookie, _, syn) = proven(&mut lab, &inbound(4_001));
    let refusal = says(&answer_to(&syn), tcp::RST | tcp::ACK, (0, numbers(&syn).0.wrapping_add(1)), &[], &[]);
    let heard = lab.send(B, &refusal).frame().to_vec();
    assert_eq!(numbers(&heard), (cookie.wrapping_add(1), FIRST + 1));
    assert_eq!(
        (lab.states(), lab.stats.server(dataplane::ids::ServerId(0)).failures.value()),
        (vec![State::Close], 2)
    );

    // One that still has the port's last connection is told that it is gone.
    let (_, _, syn) = proven(&mut lab, &inbound(4_002));
    let challenge = says(&answer_to(&syn), tcp::ACK, (77, 88_888), &[], &[]);
    assert_eq!(lab.send(B, &challenge), Fate::Dropped(DropReason::HandshakePending));
    let (_, reset) = lab.director.next_reset(&lab.world).unwrap();
    assert_eq!((header(&reset).0, numbers(&reset).0), (tcp::RST, 88_888));
}

#[test]
fn servers_are_told_where_clients_are_with_our_acknowledgement() {
    let proxy = Proxy { version: ProxyVersion::One, unique_id: false, vip: false };
    for how in [ClientAddress::Proxy(proxy), ClientAddress::Toa(TOA_KIND)] {
        let options = ServiceOptions { client_address: Some(how), ..ServiceOptions::default() };
        let mut lab = lab(Plan { options: Arc::new(options), ..Plan::default() });
        let (_, _, syn) = proven(&mut lab, &inbound(4_000));
        let answer = says(
            &answer_to(&syn),
            tcp::SYN | tcp::ACK,
            (4_999, numbers(&syn).0.wrapping_add(1)),
            &OFFER,
            &[],
        );
        let _ = lab.send(B, &answer).frame();
        let completed = lab.replay();
        let (options, data) = parts(completed[0].frame());
        match how {
            ClientAddress::Proxy(_) => assert!(data.starts_with(b"PROXY TCP4 10.0.0.50 "), "{data:?}"),
            _ => assert_eq!(options[..4], [TOA_KIND, 8, 0x0f, 0xa0], "{options:?}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// A client and a server that send again what was not answered, behind a link that loses half of everything for a while:
    /// the connection stands in the end, and each has all bytes of the other in their order.
    #[test]
    fn every_segment_of_a_handshake_may_be_lost(losses in prop::collection::vec(any::<bool>(), 40), speaks_first: bool) {
        let mut lab = lab(Plan { sessions: 100, ..Plan::default() });
        let route = inbound(4_000);
        let mut losses = losses.into_iter();
        let mut lost = || losses.next().unwrap_or(false);
        // What each end knows: (its own next number, the other's next number, whether it is open).
        let (mut client, mut server) = ((FIRST, 0_u32, false), (50_000_u32, 0_u32, false));
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut seen: Option<Vec<u8>> = None;
        let mut window = 0;
        for _ in 0..60 {
            // Each end says once more what it has to say.
            match client {
                (_, _, false) => to_client.push((Side::Client, says(&route, tcp::SYN, (FIRST, 0), &OFFER[..4], &[]))),
                // Like Linux: a probe of the closed window with an old number is of no use without timestamps, so data.
                (own, other, true) => {
                    let data: &[u8] = if window > 0 && !speaks_first { b"hello" } else { b"" };
                    to_client.push((Side::Client, says(&route, tcp::ACK, (own, other), &[], data)));
                }
            }
            if let Some(syn) = &seen {
                let (flags, own) = if server.2 { (tcp::ACK, server.0) } else { (tcp::SYN | tcp::ACK, 50_000) };
                let data: &[u8] = if server.2 && speaks_first { b"SSH-2.0" } else { b"" };
                to_server.push((Side::Server, says(&answer_to(syn), flags, (own, server.1), if server.2 { &[] } else { &OFFER[..4] }, data)));
            }
            let mut out = Vec::new();
            for (from, frame) in to_client.drain(..).chain(to_server.drain(..)) {
                if lost() { continue; }
                let port = if from == Side::Client { A } else { B };
                out.push(lab.send(port, &frame));
            }
            out.extend(lab.replay());
            for fate in out {
                let Fate::Sent(port, frame) = fate else { continue };
                if lost() { continue; }
                let ((flags, size), (sequence, acknowledged)) = (header(&frame), numbers(&frame));
                prop_assert_eq!(flags & tcp::RST, 0);
                if port == A {
                    if flags & tcp::SYN != 0 {
                        if !client.2 { client = (FIRST + 1, sequence.wrapping_add(1), true); }
                    } else if client.2 {
                        prop_assert_eq!(sequence, client.1, "the server's bytes come where the cookie said");
                        window = window.max(size);
                    }
                } else if flags == tcp::SYN {
                    if seen.is_none() { server = (50_001, sequence.wrapping_add(1), false); seen = Some(frame.clone()); }
                    prop_assert_eq!(sequence.wrapping_add(1), server.1, "the same SYN");
                } else if flags & tcp::ACK != 0 {
                    prop_assert_eq!((sequence, acknowledged), (server.1, 50_001));
                    server.2 = true;
                }
            }
            lab.wait(Duration::from_millis(500));
            let again = lab.replay();
            for fate in again {
                if let Fate::Sent(B, frame) = fate && seen.is_none() && !lost() {
                    server = (50_001, numbers(&frame).0.wrapping_add(1), false);
                    seen = Some(frame);
                }
            }
        }
        prop_assert!(client.2 && server.2, "{:?} {:?} {:?}", client, server, lab.states());
        prop_assert!(window > 0);
        prop_assert_eq!(lab.states(), vec![State::Established]);
    }
}
