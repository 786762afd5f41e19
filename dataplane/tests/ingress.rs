//! Packets that claim to be somebody's, by a port that does not lead there (RFC 2827, RFC 3704).

mod support;

use dataplane::drop::DropReason;
use dataplane::ids::PortId;
use dataplane::session::{ForwardMode, State};
use dataplane::snapshot::{Admits, Network, ServiceOptions, SourceCheck};
use pktgen_tests::conformance::{DIRECTOR_A, DIRECTOR_B};
use pktgen_tests::frames::{Route, tcp, tcp_frame, udp_frame};
use std::sync::Arc;
use support::{A, B, Fate, Lab, Plan, SERVER, answer_to, error_about, inbound, inbound6, pieces};

/// Labs of every way in which answers come back, with the openers of each family.
fn labs(source_check: SourceCheck) -> Vec<(Lab, [Route; 2])> {
    let cases = [(ForwardMode::FullNat, false), (ForwardMode::FullNat, true), (ForwardMode::Nat, false)];
    let lab = |(mode, across)| {
        let plan = Plan { mode, across, source_check, ..Plan::default() };
        (Lab::new(&plan), [inbound(4000), inbound6(4000)])
    };
    cases.map(lab).into()
}

/// Sends a frame by a port, to the station that the port has.
fn by(lab: &mut Lab, port: PortId, frame: &[u8]) -> Fate {
    lab.send(port, &to_station(port, frame))
}

fn to_station(port: PortId, frame: &[u8]) -> Vec<u8> {
    let station = if port == A { DIRECTOR_A } else { DIRECTOR_B };
    [&station[..], &frame[6..]].concat()
}

fn states(lab: &Lab) -> Vec<State> {
    let wide = lab.director.sessions6();
    let wide = (0..wide.capacity()).filter_map(|line| wide.line(line)).map(|(_, session)| session.state());
    lab.states().into_iter().chain(wide).collect()
}

#[test]
fn a_server_speaks_only_by_the_port_that_leads_to_it() {
    for (mut lab, routes) in labs(SourceCheck::Loose) {
        assert_eq!((lab.world.admits(A), lab.world.admits(B)), (Admits::Clients, Admits::All));
        for route in routes {
            let seen = by(&mut lab, A, &udp_frame(&route, b"question")).frame().to_vec();
            let answer = udp_frame(&answer_to(&seen), b"answer");
            // Alone, among others, as a connection's, and as what a router says about it.
            let before = lab.drops(DropReason::SourceElsewhere);
            assert_eq!(by(&mut lab, A, &answer), Fate::Dropped(DropReason::SourceElsewhere));
            let all = lab
                .burst(A, &[udp_frame(&route, b"more"), to_station(A, &answer), udp_frame(&route, b"more")]);
            assert!(matches!(all[..], [Fate::Sent(..), Fate::Dropped(_), Fate::Sent(..)]), "{all:?}");
            let (kind, code) = if answer_to(&seen).source.0.is_ipv4() { (3, 3) } else { (1, 4) };
            let error = error_about(&seen, &answer_to(&seen), kind, code, 0);
            assert_eq!(by(&mut lab, A, &error), Fate::Dropped(DropReason::SourceElsewhere));
            assert_eq!(lab.drops(DropReason::SourceElsewhere), before + 3);
            let opener = by(&mut lab, A, &tcp_frame(&route, tcp::SYN, b"")).frame().to_vec();
            let reset = tcp_frame(&answer_to(&opener), tcp::RST | tcp::ACK, b"");
            assert_eq!(by(&mut lab, A, &reset), Fate::Dropped(DropReason::SourceElsewhere));

            assert!(matches!(by(&mut lab, B, &answer), Fate::Sent(..)));
        }
        assert!(states(&lab).iter().all(|state| matches!(state, State::SynRecv | State::UdpTwoWay)));
    }
}

#[test]
fn pieces_of_a_server_s_datagrams_come_by_its_port_too() {
    for (mut lab, routes) in labs(SourceCheck::Loose) {
        for route in routes {
            let seen = by(&mut lab, A, &udp_frame(&route, b"question")).frame().to_vec();
            let long = udp_frame(&answer_to(&seen), &[7; 2_000]);
            for piece in pieces::cut(&long, 7, 1_208) {
                assert_eq!(by(&mut lab, A, &piece), Fate::Dropped(DropReason::SourceElsewhere));
            }
            for piece in pieces::cut(&long, 8, 1_208) {
                assert!(matches!(by(&mut lab, B, &piece), Fate::Sent(..)));
            }
        }
    }
}

#[test]
fn a_client_comes_by_the_port_that_leads_to_it_if_that_is_asked() {
    for (mut lab, routes) in labs(SourceCheck::Strict) {
        let by_route = Admits::ByRoute { clients: true };
        assert_eq!((lab.world.admits(A), lab.world.admits(B)), (by_route, by_route));
        for route in routes {
            let opener = udp_frame(&route, b"question");
            assert_eq!(by(&mut lab, B, &opener), Fate::Dropped(DropReason::SourceElsewhere));
            let seen = by(&mut lab, A, &opener).frame().to_vec();
            let answer = udp_frame(&answer_to(&seen), b"answer");
            for _ in 0..3 {
                assert!(matches!(by(&mut lab, B, &answer), Fate::Sent(..)));
                assert_eq!(by(&mut lab, B, &opener), Fate::Dropped(DropReason::SourceElsewhere));
                assert_eq!(by(&mut lab, A, &answer), Fate::Dropped(DropReason::SourceElsewhere));
                assert!(matches!(by(&mut lab, A, &opener), Fate::Sent(..)));
            }
        }
    }
}

#[test]
fn answers_to_hidden_hosts_come_by_any_port_unless_that_is_strict() {
    for (source_check, is_refused) in [(SourceCheck::Loose, false), (SourceCheck::Strict, true)] {
        let sources = vec!["10.0.0.0/24".parse::<Network>().unwrap()];
        let options = Arc::new(ServiceOptions { sources, ..ServiceOptions::default() });
        let mut lab = Lab::new(&Plan { mode: ForwardMode::Snat, source_check, options, ..Plan::default() });
        let route = Route { destination: (SERVER, 8080), ..inbound(4000) };
        let seen = by(&mut lab, A, &udp_frame(&route, b"question")).frame().to_vec();
        let answer = udp_frame(&answer_to(&seen), b"answer");
        let fate = by(&mut lab, A, &answer);
        assert_eq!(fate == Fate::Dropped(DropReason::SourceElsewhere), is_refused, "{fate:?}");
        assert!(matches!(by(&mut lab, B, &answer), Fate::Sent(..)));
    }
}

#[test]
fn without_a_check_everything_comes_by_every_port() {
    for (mut lab, routes) in labs(SourceCheck::Off) {
        assert_eq!((lab.world.admits(A), lab.world.admits(B)), (Admits::All, Admits::All));
        for route in routes {
            let seen = by(&mut lab, B, &udp_frame(&route, b"question")).frame().to_vec();
            assert!(matches!(by(&mut lab, A, &udp_frame(&answer_to(&seen), b"answer")), Fate::Sent(..)));
        }
    }
}

#[test]
fn where_servers_are_behind_several_ports_each_is_looked_at() {
    let mut lab = Lab::new(&Plan { weights: vec![1, 1], ..Plan::default() });
    let mut routes = dataplane::snapshot::Routes::default();
    let network = |text: &str| text.parse::<Network>().unwrap();
    routes.add_link(network("10.0.0.0/24"), A);
    routes.add_link(network("172.16.0.50/32"), B);
    routes.add_link(network("172.16.0.51/32"), A);
    lab.world.routes = Arc::new(routes);
    lab.world.follow_servers();
    let by_route = Admits::ByRoute { clients: false };
    assert_eq!((lab.world.admits(A), lab.world.admits(B)), (by_route, by_route));
    let (mut by_a, mut by_b) = (0, 0);
    for client_port in 4000..4010 {
        let seen = match by(&mut lab, A, &udp_frame(&inbound(client_port), b"question")) {
            Fate::Sent(_, seen) => seen,
            // The neighbour is known on the other port only.
            Fate::Waits(hop) => {
                assert_eq!(hop.port, A);
                continue;
            }
            other => panic!("{other:?}"),
        };
        let answer = udp_frame(&answer_to(&seen), b"answer");
        for port in [A, B, A, B] {
            match by(&mut lab, port, &answer) {
                Fate::Sent(..) => {
                    if port == A {
                        by_a += 1
                    } else {
                        by_b += 1
                    }
                }
                other => assert_eq!((other, port), (Fate::Dropped(DropReason::SourceElsewhere), A)),
            }
        }
    }
    assert!(by_a == 0 && by_b == 10, "{by_a} {by_b}");
}
