//! What a service may want of its sessions: persistence, limits, timeouts of its own, ends.

mod support;

use dataplane::drop::DropReason;
use dataplane::scheduler::Scheduler;
use dataplane::session::{ForwardMode, Persistence, State, Timeouts};
use dataplane::snapshot::ServiceOptions;
use pktgen_tests::frames::{Route, endpoints, tcp, tcp_frame, udp_frame};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{A, CLIENT, Fate, Lab, Plan, inbound, inbound6, nth};

fn plan(options: ServiceOptions) -> Plan {
    let options = Arc::new(options);
    Plan { options, weights: vec![1; 4], scheduler: Scheduler::RoundRobin, ..Plan::default() }
}

/// The server that a datagram of a client reaches.
fn server_of(lab: &mut Lab, route: &Route) -> IpAddr {
    let seen = lab.send(A, &udp_frame(route, b"x")).frame().to_vec();
    endpoints(&seen).unwrap().1.0
}

fn persistent(prefix4: u8) -> ServiceOptions {
    let persistence = Persistence { timeout: 60_000, prefix4, prefix6: 64 };
    ServiceOptions { persistence: Some(persistence), ..ServiceOptions::default() }
}

#[test]
fn a_client_stays_on_its_server_while_it_is_remembered() {
    for route in [inbound, inbound6] {
        let mut timeouts = Timeouts::default();
        timeouts.set(State::UdpOneWay, 5_000);
        let mut lab = Lab::new(&Plan { timeouts, sessions: 64, sessions6: 64, ..plan(persistent(32)) });
        let first = server_of(&mut lab, &route(4000));
        for l4_port in 4001..4009 {
            assert_eq!(server_of(&mut lab, &route(l4_port)), first);
        }
        // All sessions are gone, the time of the template is not.
        lab.wait(Duration::from_secs(30));
        assert_eq!(lab.sessions() + lab.director.sessions6().len(), 0);
        assert_eq!(server_of(&mut lab, &route(4100)), first);
        // Now it is.
        lab.wait(Duration::from_secs(75));
        assert_ne!(server_of(&mut lab, &route(4200)), first, "rounds go on");
    }
}

#[test]
fn a_client_is_remembered_as_long_as_it_has_sessions() {
    let mut lab = Lab::new(&Plan { sessions: 64, ..plan(persistent(32)) });
    let first = server_of(&mut lab, &inbound(4000));
    // The session lives for 300 s, the template would for 60.
    lab.wait(Duration::from_secs(200));
    assert_eq!(server_of(&mut lab, &inbound(4001)), first);
}

#[test]
fn tcp_and_udp_of_one_service_share_what_is_remembered_of_a_client() {
    for route in [inbound, inbound6] {
        let mut lab = Lab::new(&Plan { joined: true, ..plan(persistent(32)) });
        let first = server_of(&mut lab, &route(4000));
        for l4_port in 4001..4009 {
            let seen = lab.send(A, &tcp_frame(&route(l4_port), tcp::SYN, &[])).frame().to_vec();
            assert_eq!(endpoints(&seen).unwrap().1.0, first, "the rounds would give the next");
        }
    }
}

#[test]
fn a_netmask_joins_the_clients_of_a_network() {
    let mut lab = Lab::new(&plan(persistent(24)));
    let neighbor = |n| Route { source: (nth(CLIENT, n), 4000), ..inbound(0) };
    let first = server_of(&mut lab, &neighbor(0));
    assert!((1..5).all(|n| server_of(&mut lab, &neighbor(n)) == first));
    let elsewhere = Route { source: (nth(CLIENT, 65_536), 4000), ..inbound(0) };
    assert_ne!(server_of(&mut lab, &elsewhere), first);
}

#[test]
fn a_persistent_client_leaves_a_server_of_weight_zero_only_when_asked_to() {
    for expire_quiescent in [false, true] {
        let options = ServiceOptions { expire_quiescent, ..persistent(32) };
        let mut lab = Lab::new(&plan(options.clone()));
        let first = server_of(&mut lab, &inbound(4000));
        let at = (0..4).find(|at| nth(support::SERVER, *at) == first).unwrap();
        let mut weights = vec![1; 4];
        weights[at] = 0;
        lab.world = support::world(&Plan { weights, ..plan(options) });
        lab.world.routing_epoch = 1;
        assert_eq!(server_of(&mut lab, &inbound(4001)) == first, !expire_quiescent);
    }
}

#[test]
fn sessions_of_a_quiescent_server_end_when_asked_to() {
    for expire_quiescent in [false, true] {
        let options = ServiceOptions { expire_quiescent, ..ServiceOptions::default() };
        let mut lab = Lab::new(&Plan { weights: vec![1], ..plan(options.clone()) });
        lab.send(A, &tcp_frame(&inbound(4000), tcp::SYN, &[])).frame();
        lab.world = support::world(&Plan { weights: vec![0], ..plan(options) });
        lab.world.routing_epoch = 1;
        let fate = lab.send(A, &tcp_frame(&inbound(4000), tcp::ACK, b"more"));
        if expire_quiescent {
            assert_eq!(fate, Fate::Dropped(DropReason::NoSession));
            assert_eq!(lab.sessions(), 0);
        } else {
            fate.frame();
        }
    }
}

#[test]
fn sessions_of_a_removed_server_end_when_its_time_to_drain_is_over() {
    for is_over in [false, true] {
        let mut lab = Lab::new(&Plan { weights: vec![1], ..plan(ServiceOptions::default()) });
        lab.send(A, &tcp_frame(&inbound(4000), tcp::SYN, &[])).frame();
        let server = lab.world.services.iter().next().unwrap().servers[0].id;
        lab.world = support::world(&Plan { weights: vec![], ..plan(ServiceOptions::default()) });
        lab.world.routing_epoch = 1;
        if is_over {
            lab.world.ended = [server].into();
        }
        let fate = lab.send(A, &tcp_frame(&inbound(4000), tcp::ACK, b"more"));
        let is_dropped = fate == Fate::Dropped(DropReason::NoSession);
        assert_eq!(is_dropped, is_over, "{fate:?}");
        assert_eq!(lab.sessions(), usize::from(!is_over));
    }
}

#[test]
fn a_full_server_takes_no_more_until_it_is_below_its_lower_threshold() {
    let mut timeouts = Timeouts::default();
    timeouts.set(State::UdpOneWay, 5_000);
    let limited = Plan {
        thresholds: (3, 2),
        weights: vec![1, 1],
        sessions: 64,
        timeouts,
        ..plan(ServiceOptions::default())
    };
    let mut lab = Lab::new(&limited);
    for l4_port in 4000..4006 {
        server_of(&mut lab, &inbound(l4_port));
    }
    let refused = lab.send(A, &udp_frame(&inbound(4006), b"x"));
    assert_eq!(refused, Fate::Dropped(DropReason::ServersFull), "three and three are all");
    // Four of the six go on, two on each: not below two yet.
    lab.wait(Duration::from_secs(3));
    for l4_port in 4002..4006 {
        server_of(&mut lab, &inbound(l4_port));
    }
    lab.wait(Duration::from_secs(4));
    assert_eq!(lab.sessions(), 4);
    assert_eq!(lab.send(A, &udp_frame(&inbound(4007), b"x")), Fate::Dropped(DropReason::ServersFull));
    lab.wait(Duration::from_secs(5));
    server_of(&mut lab, &inbound(4008));
}

#[test]
fn a_service_keeps_to_its_limit() {
    let mut lab = Lab::new(&plan(ServiceOptions { session_limit: 5, ..ServiceOptions::default() }));
    for l4_port in 4000..4005 {
        server_of(&mut lab, &inbound(l4_port));
    }
    assert_eq!(lab.send(A, &udp_frame(&inbound(4005), b"x")), Fate::Dropped(DropReason::ServiceLimit));
    // Sessions that exist go on.
    server_of(&mut lab, &inbound(4000));
}

#[test]
fn a_service_has_timeouts_of_its_own() {
    let mut own = Timeouts::default();
    own.set(State::UdpOneWay, 10_000);
    let options = ServiceOptions { timeouts: Some(own), ..ServiceOptions::default() };
    let mut lab = Lab::new(&Plan { sessions: 64, ..plan(options) });
    server_of(&mut lab, &inbound(4000));
    lab.wait(Duration::from_secs(8));
    assert_eq!(lab.sessions(), 1);
    lab.wait(Duration::from_secs(4));
    assert_eq!(lab.sessions(), 0);
}

#[test]
fn one_packet_scheduling_spreads_every_datagram_and_keeps_nothing() {
    for mode in [ForwardMode::DirectRoute, ForwardMode::Tunnel] {
        for route in [inbound, inbound6] {
            let options = ServiceOptions { one_packet: true, ..ServiceOptions::default() };
            let mut lab = Lab::new(&Plan { mode, ..plan(options) });
            for _ in 0..8 {
                lab.send(A, &udp_frame(&route(4000), b"x")).frame();
            }
            let first = if route(0).source.0.is_ipv4() { 0 } else { support::FIRST_SERVER6 };
            let packets = |at: usize| {
                let id = dataplane::ids::ServerId((first + at) as u32);
                lab.stats.server(id).packets_in.value()
            };
            assert_eq!([0, 1, 2, 3].map(packets), [2; 4], "{mode:?}");
            assert_eq!(lab.sessions() + lab.director.sessions6().len(), 0);
        }
    }
}

#[test]
fn a_sloppy_service_adopts_connections_in_mid_stream() {
    let segment = tcp_frame(&inbound(4000), tcp::ACK, b"in the middle");
    let mut strict = Lab::new(&plan(ServiceOptions::default()));
    assert_eq!(strict.send(A, &segment), Fate::Dropped(DropReason::NoSession));

    let mut lab = Lab::new(&plan(ServiceOptions { sloppy: true, ..ServiceOptions::default() }));
    let seen = lab.send(A, &segment).frame().to_vec();
    assert_eq!(seen[seen.len() - 13..], *b"in the middle");
    assert_eq!(lab.states(), [State::Established]);
    let reset = tcp_frame(&inbound(4001), tcp::RST, &[]);
    assert_eq!(lab.send(A, &reset), Fate::Dropped(DropReason::NoSession), "a reset opens nothing");
}

#[test]
fn a_client_in_the_servers_own_network_is_served_by_fullnat() {
    let mut lab = Lab::new(&plan(ServiceOptions::default()));
    // One of the servers asks the VIP: the answer must come back through the appliance.
    let client = Route {
        source_mac: pktgen_tests::conformance::SERVER_MAC,
        destination_mac: pktgen_tests::conformance::DIRECTOR_B,
        source: (support::SERVER, 4000),
        ..inbound(0)
    };
    let Fate::Sent(support::B, seen) = lab.send(support::B, &udp_frame(&client, b"x")) else { panic!() };
    assert_eq!(endpoints(&seen).unwrap().0.0, support::LOCAL);
    let Fate::Sent(support::B, heard) = lab.send(support::B, &udp_frame(&support::answer_to(&seen), b"y"))
    else {
        panic!()
    };
    assert_eq!(endpoints(&heard), Some(((support::VIP, 8080), (support::SERVER, 4000))));
}
