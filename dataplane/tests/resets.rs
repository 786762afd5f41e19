//! Both ends of a connection that is forgotten are told, if the service wants that.

mod support;

use dataplane::director::Verdict;
use dataplane::session::ForwardMode;
use dataplane::snapshot::{ClientAddress, ServiceOptions};
use dataplane::wire::{Proxy, ProxyVersion};
use pktgen_tests::frames::{ETHERNET, Route, endpoints, tcp, udp_frame, upper_layer};
use std::sync::Arc;
use std::time::Duration;
use support::segments::{numbers, parts, segment, set_sequence};
use support::{A, B, Lab, Plan, answer_to, inbound, inbound6};

fn lab(plan: Plan, client_address: Option<ClientAddress>) -> Lab {
    let options = ServiceOptions { reset_on_expiry: true, client_address, ..ServiceOptions::default() };
    Lab::new(&Plan { options: Arc::new(options), ..plan })
}

/// The resets that are to be sent: where, and the frame.
fn resets(lab: &mut Lab) -> Vec<(Verdict, Vec<u8>)> {
    let world = lab.world.clone();
    std::iter::from_fn(|| lab.director.next_reset(&world))
        .map(|(verdict, frame)| (verdict, frame.to_vec()))
        .collect()
}

/// A connection in which the client has got 500 bytes and the server 70; returns what the server saw of
/// the last segment.
fn talk(lab: &mut Lab, route: &Route) -> Vec<u8> {
    let syn = lab.send(A, &segment(route, tcp::SYN, 0, &[], &[])).frame().to_vec();
    let back = answer_to(&syn);
    let next = |seen: &[u8]| numbers(seen).0.wrapping_add(parts(seen).1.len() as u32);
    let say = |lab: &mut Lab, sequence, acknowledged, payload: &[u8]| {
        let mut frame = segment(&back, tcp::ACK, acknowledged, &[], payload);
        set_sequence(&mut frame, sequence);
        lab.send(B, &frame).frame();
    };
    let mut answer = segment(&back, tcp::SYN | tcp::ACK, next(&syn).wrapping_add(1), &[], &[]);
    set_sequence(&mut answer, 8_999);
    lab.send(B, &answer).frame();
    let client = |lab: &mut Lab, sequence, acknowledged, payload: &[u8]| {
        let mut frame = segment(route, tcp::ACK, acknowledged, &[], payload);
        set_sequence(&mut frame, sequence);
        lab.send(A, &frame).frame().to_vec()
    };
    client(lab, 1_001, 9_000, &[]);
    let request = client(lab, 1_001, 9_000, &[7; 70]);
    say(lab, 9_000, next(&request), &[1; 500]);
    client(lab, 1_071, 9_500, &[])
}

#[test]
fn both_ends_of_a_silent_connection_are_reset() {
    let modes = [ForwardMode::FullNat, ForwardMode::Nat];
    for (mode, across) in [(modes[0], false), (modes[0], true), (modes[1], false)] {
        for (proxy, earlier) in [(false, 0), (false, 70), (true, 70)] {
            if proxy && mode == ForwardMode::Nat {
                continue;
            }
            let how = proxy.then_some(ClientAddress::Proxy(Proxy {
                version: ProxyVersion::One,
                unique_id: false,
                vip: false,
            }));
            for route in [inbound(4000), inbound6(4000)] {
                let mut lab = lab(Plan { mode, across, ..Plan::default() }, how);
                // After so many the client's numbers are shifted.
                for port in 0..earlier {
                    talk(&mut lab, &Route { source: (route.source.0, 5000 + port), ..route });
                }
                let last = talk(&mut lab, &route);
                lab.wait(Duration::from_secs(890));
                assert_eq!(resets(&mut lab), []);
                lab.wait(Duration::from_secs(20));
                let sent = resets(&mut lab);
                assert_eq!(sent.len(), 2 * (usize::from(earlier) + 1));
                assert_eq!(lab.stats.resets_sent.value(), sent.len() as u64);
                let to = |port, from: (_, u16), to: (_, u16), sequence: u32| {
                    let found = sent.iter().find(|(_, frame)| endpoints(frame) == Some((from, to)));
                    let (verdict, frame) = found.unwrap_or_else(|| panic!("{mode:?} {from:?} -> {to:?}"));
                    assert_eq!(*verdict, Verdict::Transmit(port));
                    assert_eq!(numbers(frame).0, sequence);
                    let (options, payload) = parts(frame);
                    assert!(options.is_empty() && payload.is_empty());
                    let l4 = ETHERNET + upper_layer(&frame[ETHERNET..]).unwrap().0;
                    assert_eq!(frame[l4 + 13], tcp::RST);
                };
                to(A, route.destination, route.source, 9_500);
                let (local, server) = endpoints(&last).unwrap();
                to(B, local, server, numbers(&last).0);
            }
        }
    }
}

#[test]
fn nobody_is_told_of_what_did_not_begin_or_has_ended() {
    let mut lab = lab(Plan::default(), None);
    // Never answered; ended by the client; a datagram; and a service that does not want it.
    lab.send(A, &segment(&inbound(4000), tcp::SYN, 0, &[], &[])).frame();
    talk(&mut lab, &inbound(4001));
    lab.send(A, &segment(&inbound(4001), tcp::RST | tcp::ACK, 9_500, &[], &[])).frame();
    lab.send(A, &udp_frame(&inbound(4002), b"question")).frame();
    lab.wait(Duration::from_secs(1_000));
    assert_eq!((lab.sessions(), resets(&mut lab)), (0, vec![]));
    let mut silent = Lab::new(&Plan::default());
    talk(&mut silent, &inbound(4000));
    silent.wait(Duration::from_secs(1_000));
    assert_eq!(resets(&mut silent), []);
}

#[test]
fn what_sessions_lasted_and_carried_is_counted_when_they_end_if_that_is_asked() {
    let modes = [(ForwardMode::FullNat, false), (ForwardMode::FullNat, true), (ForwardMode::Nat, false)];
    for (mode, across) in modes {
        // The lab's services for datagrams have the same servers, and are taken for theirs.
        for (route, service) in [(inbound(4000), 1), (inbound6(4000), 3)] {
            let options = Arc::new(ServiceOptions { session_histograms: true, ..ServiceOptions::default() });
            let mut lab = Lab::new(&Plan { mode, across, options, ..Plan::default() });
            talk(&mut lab, &route);
            lab.wait(Duration::from_secs(7));
            lab.send(A, &segment(&route, tcp::ACK, 9_500, &[], b"later")).frame();
            let (durations, sizes) = {
                let id = dataplane::ids::ServiceId(service);
                (lab.stats.session_durations(id), lab.stats.session_sizes(id))
            };
            assert_eq!((durations.read().sum, sizes.read().sum), (0, 0));
            let server = |id: u32| {
                let server = lab.stats.server(dataplane::ids::ServerId(id));
                server.bytes_in.value() + server.bytes_out.value()
            };
            let carried = server(0) + server(support::FIRST_SERVER6 as u32);
            assert!(carried > 570, "{carried}");
            let stats = Arc::clone(&lab.stats);
            lab.wait(Duration::from_secs(1_000));
            let id = dataplane::ids::ServiceId(service);
            let (durations, sizes) = (stats.session_durations(id).read(), stats.session_sizes(id).read());
            assert_eq!(
                (durations.sum, durations.buckets[6]),
                (7_000, 1),
                "the time without packets is none of it"
            );
            assert_eq!((sizes.sum, sizes.buckets.iter().sum::<u64>()), (carried, 1), "{mode:?} {across}");
            assert_eq!(resets(&mut lab), [], "nobody asked for resets");
        }
    }
}

#[test]
fn a_connection_of_a_server_that_is_taken_away_is_reset_at_its_next_packet() {
    let options = Arc::new(ServiceOptions {
        reset_on_expiry: true,
        expire_quiescent: true,
        ..ServiceOptions::default()
    });
    let plan = Plan { options, ..Plan::default() };
    let mut lab = Lab::new(&plan);
    talk(&mut lab, &inbound(4000));
    lab.world = support::world(&Plan { weights: vec![0], ..plan });
    lab.world.routing_epoch += 1;
    lab.send(A, &segment(&inbound(4000), tcp::ACK, 9_500, &[], b"more"));
    let sent = resets(&mut lab);
    let receivers: Vec<_> = sent.iter().map(|(_, frame)| endpoints(frame).unwrap().1).collect();
    assert_eq!(receivers, [inbound(4000).source, (support::SERVER, 8080)]);
}
