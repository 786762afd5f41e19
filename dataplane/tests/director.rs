//! What the director does with packets, behaviour by behaviour, on a clock that only the
//! test moves.

mod support;

use dataplane::director::Verdict;
use dataplane::drop::DropReason;
use dataplane::flow::{Endpoint, Protocol};
use dataplane::ids::{NeighborId, ServerId};
use dataplane::scheduler::Scheduler;
use dataplane::session::{ForwardMode, PORTS_PER_PAIR, State, Timeouts};
use dataplane::snapshot::{Listen, Neighbors, NextHop, Services};
use pktgen_tests::conformance::SERVER_MAC;
use pktgen_tests::frames::{
    self, ETHERNET, Route, be16, echo_request, endpoints, fill_checksums, ones_sum, pseudo_sum, tcp,
    tcp_frame, udp_frame,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use support::{A, B, CLIENT, Fate, LOCAL, Lab, Plan, SERVER, VIP, answer_to, inbound, nth, octets};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn syn(client_port: u16) -> Vec<u8> {
    tcp_frame(&inbound(client_port), tcp::SYN, &[])
}

/// Opens a connection and gives the SYN as the server sees it.
fn establish(lab: &mut Lab, client_port: u16) -> Vec<u8> {
    let seen = lab.send(A, &syn(client_port)).frame().to_vec();
    lab.send(B, &tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, &[])).frame();
    lab.send(A, &tcp_frame(&inbound(client_port), tcp::ACK, &[])).frame();
    seen
}

fn assert_checksums(frame: &[u8]) {
    let ip = &frame[ETHERNET..];
    let header = usize::from(ip[0] & 15) * 4;
    assert_eq!(ones_sum(&ip[..header], 0), 0xffff, "IPv4 checksum");
    assert_eq!(ones_sum(&ip[header..], pseudo_sum(ip)), 0xffff, "layer-4 checksum");
}

#[test]
fn fullnat_rewrites_both_addresses_in_both_directions() {
    let mut lab = Lab::new(&Plan::default());

    let seen = lab.send(A, &tcp_frame(&inbound(4000), tcp::SYN, b"x")).frame().to_vec();
    let (local, real) = endpoints(&seen).unwrap();
    assert_eq!((local.0, real), (LOCAL, (SERVER, 8080)));
    assert_checksums(&seen);

    let answer = lab.send(B, &tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, b"answer"));
    let answer = answer.frame();
    assert_eq!(endpoints(answer), Some(((VIP, 8080), (CLIENT, 4000))));
    assert_checksums(answer);
    assert_eq!(answer[ETHERNET + 8], 63, "the TTL is one less");
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut lab = Lab::new(&Plan::default());
    let mut frame = udp_frame(&inbound(4000), b"query");
    frame[ETHERNET + 26..ETHERNET + 28].fill(0);

    let seen = lab.send(A, &frame);

    assert_eq!(be16(seen.frame(), ETHERNET + 26), 0);
}

#[test]
fn a_connection_ends_after_its_timeout_and_gives_everything_back() {
    let mut lab = Lab::new(&Plan::default());
    let seen = establish(&mut lab, 4000);
    assert_eq!(lab.states(), [State::Established]);
    assert_eq!(lab.stats.server(ServerId(0)).sessions_active.value(), 1);

    lab.send(A, &tcp_frame(&inbound(4000), tcp::FIN | tcp::ACK, &[]));
    assert_eq!(lab.states(), [State::CloseWait]);
    lab.send(B, &tcp_frame(&answer_to(&seen), tcp::FIN | tcp::ACK, &[]));
    assert_eq!(lab.states(), [State::TimeWait]);
    lab.wait(seconds(119));
    assert_eq!(lab.sessions(), 1);

    lab.wait(seconds(3));

    assert_eq!(lab.sessions(), 0);
    let server = lab.stats.server(ServerId(0));
    assert_eq!((server.sessions_active.value(), server.sessions_inactive.value()), (0, 0));
    assert_eq!(lab.stats.local_ports_used(dataplane::ids::LocalId(0)).value(), 0);
}

#[test]
fn every_timeout_up_to_a_day_fires_within_a_second() {
    for timeout in [1, 600, 3_600, 86_400] {
        let mut timeouts = Timeouts::default();
        timeouts.set(State::UdpOneWay, timeout * 1000);
        let mut lab = Lab::new(&Plan { timeouts, sessions: 64, ..Plan::default() });
        lab.send(A, &udp_frame(&inbound(4000), b"x"));
        // The clock jumps to shortly before; a sweep takes a second at most.
        lab.now = lab.now + (seconds(u64::from(timeout)) - Duration::from_millis(30));
        lab.wait(Duration::from_millis(20));
        assert_eq!(lab.sessions(), 1, "{timeout} s fired early");

        lab.wait(Duration::from_millis(1_100));

        assert_eq!(lab.sessions(), 0, "{timeout} s");
    }
}

#[test]
fn traffic_in_either_direction_keeps_a_session() {
    let mut lab = Lab::new(&Plan::default());
    let seen = lab.send(A, &udp_frame(&inbound(4000), b"q")).frame().to_vec();
    for _ in 0..4 {
        lab.wait(seconds(200));
        lab.send(B, &udp_frame(&answer_to(&seen), b"a")).frame();
    }
    assert_eq!(lab.states(), [State::UdpTwoWay]);
}

#[test]
fn a_retransmitted_syn_finds_its_session_also_within_one_burst() {
    let mut lab = Lab::new(&Plan { weights: vec![1, 1], ..Plan::default() });

    let fates = lab.burst(A, &[syn(4000), syn(4000), syn(4001), syn(4000)]);

    assert_eq!(lab.sessions(), 2);
    assert_eq!(endpoints(fates[0].frame()), endpoints(fates[1].frame()));
    assert_eq!(endpoints(fates[0].frame()), endpoints(fates[3].frame()));
    assert_ne!(endpoints(fates[0].frame()), endpoints(fates[2].frame()));
}

#[test]
fn a_client_that_uses_its_port_again_gets_a_new_session_at_once() {
    let mut lab = Lab::new(&Plan { weights: vec![1, 1], ..Plan::default() });
    let first = establish(&mut lab, 4000);
    lab.send(A, &tcp_frame(&inbound(4000), tcp::FIN | tcp::ACK, &[]));
    lab.send(B, &tcp_frame(&answer_to(&first), tcp::FIN | tcp::ACK, &[]));

    let second = lab.send(A, &syn(4000)).frame().to_vec();

    assert_eq!(lab.sessions(), 1);
    assert_eq!(lab.states(), [State::SynRecv]);
    assert_ne!(endpoints(&first).unwrap().1, endpoints(&second).unwrap().1, "it was scheduled anew");
}

#[test]
fn a_syn_on_a_live_connection_does_not_disturb_it() {
    let mut lab = Lab::new(&Plan { weights: vec![1, 1], ..Plan::default() });
    let first = establish(&mut lab, 4000);

    let again = lab.send(A, &syn(4000)).frame().to_vec();

    assert_eq!(endpoints(&again), endpoints(&first));
    assert_eq!(lab.states(), [State::Established]);
}

#[test]
fn wrr_spreads_by_weight() {
    let mut lab = Lab::new(&Plan {
        weights: vec![5, 3, 1],
        scheduler: Scheduler::WeightedRoundRobin,
        ..Plan::default()
    });
    let mut counts: HashMap<_, usize> = HashMap::new();
    for client_port in 0..90 {
        let seen = lab.send(A, &syn(4000 + client_port)).frame().to_vec();
        *counts.entry(endpoints(&seen).unwrap().1.0).or_default() += 1;
    }
    let count = |at| counts[&nth(SERVER, at)];
    assert_eq!([count(0), count(1), count(2)], [50, 30, 10]);
}

#[test]
fn wlc_prefers_the_server_with_fewer_sessions() {
    let mut lab = Lab::new(&Plan {
        weights: vec![1, 1],
        scheduler: Scheduler::WeightedLeastConnection,
        ..Plan::default()
    });
    let first = endpoints(&establish(&mut lab, 4000)).unwrap().1;
    // One active session weighs more than 255 that are not.
    for client_port in 0..5 {
        let seen = lab.send(A, &syn(5000 + client_port)).frame().to_vec();
        assert_ne!(endpoints(&seen).unwrap().1, first);
    }
}

#[test]
fn connections_that_are_not_open_yet_count_for_lc_and_wlc_too() {
    for scheduler in [Scheduler::LeastConnection, Scheduler::WeightedLeastConnection] {
        let mut lab = Lab::new(&Plan { weights: vec![1, 1], scheduler, ..Plan::default() });
        let servers: Vec<_> =
            (0..6).map(|n| endpoints(lab.send(A, &syn(4000 + n)).frame()).unwrap().1).collect();
        assert!(servers.windows(2).all(|pair| pair[0] != pair[1]), "{scheduler:?}: {servers:?}");
    }
}

#[test]
fn mh_keeps_a_client_on_its_server() {
    let mut lab = Lab::new(&Plan { weights: vec![1; 8], scheduler: Scheduler::Maglev, ..Plan::default() });
    let servers: std::collections::HashSet<_> =
        (0..20).map(|n| endpoints(lab.send(A, &syn(4000 + n)).frame()).unwrap().1).collect();
    assert_eq!(servers.len(), 1);
}

#[test]
fn no_weight_means_no_session_and_a_counter() {
    let mut lab = Lab::new(&Plan { weights: vec![0], ..Plan::default() });

    assert_eq!(lab.send(A, &syn(4000)), Fate::Dropped(DropReason::NoRealServer));

    assert_eq!(lab.drops(DropReason::NoRealServer), 1);
    assert_eq!(lab.stats.service(dataplane::ids::ServiceId(0)).no_real_server.value(), 1);
    assert_eq!(lab.sessions(), 0);
}

#[test]
fn a_full_table_refuses_new_sessions_and_keeps_old_ones() {
    let mut lab = Lab::new(&Plan { sessions: 3, ..Plan::default() });
    let first = establish(&mut lab, 4000);
    establish(&mut lab, 4001);
    establish(&mut lab, 4002);

    assert_eq!(lab.send(A, &syn(4003)), Fate::Dropped(DropReason::SessionTableFull));

    let data = tcp_frame(&inbound(4000), tcp::PSH | tcp::ACK, b"still here");
    assert_eq!(endpoints(lab.send(A, &data).frame()), endpoints(&first));
    assert_eq!(
        lab.stats.local_ports_used(dataplane::ids::LocalId(0)).value(),
        3,
        "the refused one gave its port back"
    );
}

/// From one of many clients.
fn client(number: usize) -> Route {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 51, 100, 0).to_bits() + (number / 60_000) as u32);
    Route { source: (address.into(), 1024 + (number % 60_000) as u16), ..inbound(0) }
}

/// A connection of a client that answers what the server says. Returns its SYN as the server sees it.
fn connect(lab: &mut Lab, client: &Route) -> Vec<u8> {
    let seen = lab.send(A, &tcp_frame(client, tcp::SYN, &[])).frame().to_vec();
    lab.send(B, &tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, &[])).frame();
    lab.send(A, &tcp_frame(client, tcp::ACK, &[])).frame();
    seen
}

#[test]
fn exhausted_local_ports_refuse_cleanly_and_another_server_is_not_touched() {
    let mut lab = Lab::new(&Plan { sessions: 140_000, ..Plan::default() });
    for number in 0..PORTS_PER_PAIR {
        connect(&mut lab, &client(number));
    }

    let refused = lab.send(A, &tcp_frame(&client(PORTS_PER_PAIR), tcp::SYN, &[]));
    assert_eq!(refused, Fate::Dropped(DropReason::LocalPortsExhausted));

    // UDP towards the same server has ports of its own.
    lab.send(A, &udp_frame(&client(0), b"x")).frame();
    // And a second local address doubles the room.
    let locals = vec![LOCAL, nth(LOCAL, 1)];
    lab.world = support::world(&Plan { locals, ..Plan::default() });
    lab.send(A, &tcp_frame(&client(PORTS_PER_PAIR), tcp::SYN, &[])).frame();
}

#[test]
fn when_ports_run_out_the_oldest_closed_session_makes_room() {
    let mut lab = Lab::new(&Plan { sessions: 70_000, ..Plan::default() });
    let mut first = Vec::new();
    for number in 0..PORTS_PER_PAIR {
        let seen = connect(&mut lab, &client(number));
        if number == 0 {
            first = seen;
        }
    }
    let next = tcp_frame(&client(PORTS_PER_PAIR), tcp::SYN, &[]);
    let explain = |lab: &Lab| lab.director.explain(A, &next, &lab.world, lab.now);
    assert_eq!(explain(&lab).verdict, Verdict::Drop(DropReason::LocalPortsExhausted));
    lab.send(B, &tcp_frame(&answer_to(&first), tcp::RST | tcp::ACK, &[])).frame();

    let said = explain(&lab).leaving.unwrap().source;
    let seen = lab.send(A, &next).frame().to_vec();

    assert_eq!(endpoints(&seen).unwrap().0, endpoints(&first).unwrap().0, "its port was used again");
    assert_eq!((said.address, said.l4_port), endpoints(&seen).unwrap().0, "as it was said");
    assert_eq!(lab.sessions(), PORTS_PER_PAIR);
    assert_eq!(lab.stats.sessions_recycled.value(), 1);
}

#[test]
fn half_open_connections_have_a_quarter_of_the_table_and_the_oldest_go_first() {
    let mut lab = Lab::new(&Plan { sessions: 1_000, ..Plan::default() });
    for number in 0..300 {
        connect(&mut lab, &client(number));
    }
    let half_open = |lab: &Lab| lab.stats.sessions_half_open.value();
    assert_eq!(half_open(&lab), 0);
    for number in 300..5_300 {
        lab.now = lab.now + Duration::from_millis(1);
        lab.send(A, &tcp_frame(&client(number), tcp::SYN, &[])).frame();
    }
    assert_eq!((half_open(&lab), lab.sessions()), (250, 550));
    assert_eq!(lab.stats.sessions_displaced.value(), 4_750);
    // Those who answered the server are all there, and so are the youngest of the others, of which no server said anything.
    for number in (0..300).chain(5_050..5_300) {
        lab.send(A, &tcp_frame(&client(number), tcp::ACK, b"x")).frame();
    }
    assert_eq!((half_open(&lab), lab.sessions()), (250, 550));
    let lost = lab.send(A, &tcp_frame(&client(5_049), tcp::ACK, b"x"));
    assert_eq!(lost, Fate::Dropped(DropReason::NoSession));
}

#[test]
fn unanswered_datagrams_have_a_quarter_of_the_table_and_those_that_go_on_speaking_stay() {
    let mut lab = Lab::new(&Plan { sessions: 1_000, ..Plan::default() });
    for number in 0..100 {
        let seen = lab.send(A, &udp_frame(&client(number), b"x")).frame().to_vec();
        lab.send(B, &udp_frame(&answer_to(&seen), b"y")).frame();
    }
    let talker = client(100);
    let heard = endpoints(lab.send(A, &udp_frame(&talker, b"x")).frame());
    for number in 101..3_000 {
        lab.now = lab.now + Duration::from_millis(1);
        lab.send(A, &udp_frame(&client(number), b"x")).frame();
        assert_eq!(endpoints(lab.send(A, &udp_frame(&talker, b"x")).frame()), heard, "at {number}");
    }
    assert_eq!((lab.stats.sessions_unanswered.value(), lab.sessions()), (250, 350));
    // Where the server's answers do not pass, nobody can know.
    let mode = ForwardMode::DirectRoute;
    let mut lab = Lab::new(&Plan { sessions: 1_000, mode, ..Plan::default() });
    for number in 0..1_000 {
        lab.send(A, &udp_frame(&client(number), b"x")).frame();
    }
    assert_eq!((lab.stats.sessions_unanswered.value(), lab.sessions()), (0, 1_000));
    assert_eq!(lab.send(A, &udp_frame(&client(1_000), b"x")), Fate::Dropped(DropReason::SessionTableFull));
}

#[test]
fn a_full_table_gives_up_a_half_open_connection_for_a_new_client() {
    let mut lab = Lab::new(&Plan { sessions: 100, ..Plan::default() });
    (0..80).for_each(|number| drop(connect(&mut lab, &client(number))));
    for number in 80..100 {
        lab.send(A, &tcp_frame(&client(number), tcp::SYN, &[])).frame();
    }
    for number in 100..120 {
        let seen = connect(&mut lab, &client(number));
        lab.send(B, &tcp_frame(&answer_to(&seen), tcp::ACK, b"y")).frame();
    }
    let next = tcp_frame(&client(120), tcp::SYN, &[]);
    let said = lab.director.explain(A, &next, &lab.world, lab.now);
    assert_eq!(said.verdict, Verdict::Drop(DropReason::SessionTableFull));
    assert_eq!(lab.send(A, &next), Fate::Dropped(DropReason::SessionTableFull), "nobody can go");
    assert_eq!((lab.sessions(), lab.stats.sessions_displaced.value()), (100, 20));
}

#[test]
fn a_pair_whose_ports_nobody_answered_on_gives_the_oldest_to_a_new_client() {
    let mut lab = Lab::new(&Plan { sessions: 300_000, ..Plan::default() });
    let answered = lab.send(A, &udp_frame(&client(0), b"x")).frame().to_vec();
    lab.send(B, &udp_frame(&answer_to(&answered), b"y")).frame();
    let mut oldest = Vec::new();
    for number in 1..PORTS_PER_PAIR {
        let seen = lab.send(A, &udp_frame(&client(number), b"x")).frame().to_vec();
        if number == 1 {
            oldest = seen;
        }
    }
    let next = udp_frame(&client(PORTS_PER_PAIR), b"x");
    let said = lab.director.explain(A, &next, &lab.world, lab.now).leaving.unwrap().source;
    let seen = lab.send(A, &next).frame().to_vec();
    assert_eq!(endpoints(&seen).unwrap().0, endpoints(&oldest).unwrap().0, "that of the oldest");
    assert_eq!((said.address, said.l4_port), endpoints(&seen).unwrap().0, "as it was said");
    assert_eq!(lab.stats.sessions_displaced.value(), 1);
    let again = lab.send(A, &udp_frame(&client(0), b"x")).frame().to_vec();
    assert_eq!(endpoints(&again), endpoints(&answered), "one that was answered stays");
}

#[test]
fn half_open_connections_are_kept_for_a_shorter_time_as_the_table_fills() {
    for (established, seconds) in [(300, 60), (600, 30), (800, 15), (940, 10)] {
        let mut lab = Lab::new(&Plan { sessions: 1_000, ..Plan::default() });
        (0..established).for_each(|number| drop(connect(&mut lab, &client(number))));
        for number in established..established + 20 {
            lab.send(A, &tcp_frame(&client(number), tcp::SYN, &[])).frame();
        }
        let begin = lab.now;
        // The sweep takes a second for the whole table.
        for (millis, left) in [(seconds * 1_000 - 1, 20), (seconds * 1_000 + 1_100, 0)] {
            lab.now = begin + Duration::from_millis(millis);
            (0..4).for_each(|_| lab.director.expire(&lab.world, lab.now));
            let half_open = lab.stats.sessions_half_open.value();
            assert_eq!((half_open, lab.sessions()), (left, established + left as usize), "{seconds} s");
        }
    }
}

#[test]
fn tcp_sessions_outlive_their_server_s_removal_and_datagrams_do_not_follow_it() {
    let mut lab = Lab::new(&Plan { weights: vec![1], ..Plan::default() });
    let connection = establish(&mut lab, 4000);
    lab.send(A, &udp_frame(&inbound(4000), b"x")).frame();

    // Another server, in another slot; the first is gone.
    let mut world = support::world(&Plan { first_server: 1, ..Plan::default() });
    world.neighbors = support::world(&Plan { weights: vec![1, 1], ..Plan::default() }).neighbors;
    world.routing_epoch = 1;
    lab.world = world;

    let data = lab.send(A, &tcp_frame(&inbound(4000), tcp::ACK, b"more")).frame().to_vec();
    assert_eq!(endpoints(&data), endpoints(&connection));
    let datagram = lab.send(A, &udp_frame(&inbound(4000), b"y")).frame().to_vec();
    assert_eq!(endpoints(&datagram).unwrap().1.0, nth(SERVER, 1));
}

#[test]
fn a_new_routing_epoch_makes_sessions_look_up_their_next_hops_again() {
    let mut lab = Lab::new(&Plan::default());
    let seen = establish(&mut lab, 4000);
    let mut world = support::world(&Plan::default());
    let moved = dataplane::snapshot::Neighbor {
        hop: NextHop { port: B, address: SERVER },
        header: Some(dataplane::wire::ethernet_header([2, 9, 9, 9, 9, 9], [2, 0, 0, 0, 0x0d, 0x0b], 0x0800)),
    };
    // The server's neighbour now stands where the client's was.
    world.neighbors = std::sync::Arc::new(Neighbors::new(vec![Some(moved)]));
    world.routing_epoch = 1;
    lab.world = world;

    let data = lab.send(A, &tcp_frame(&inbound(4000), tcp::ACK, b"x"));
    assert_eq!(data.frame()[..6], [2, 9, 9, 9, 9, 9]);

    let answer = lab.send(B, &tcp_frame(&answer_to(&seen), tcp::ACK, b"x"));
    assert_eq!(answer, Fate::Waits(NextHop { port: A, address: CLIENT }));
}

#[test]
fn packets_for_nobody_do_no_harm_after_services_went() {
    let mut lab = Lab::new(&Plan::default());
    let datagram = |client_port, to| {
        let route = inbound(client_port);
        udp_frame(&Route { destination: (to, 8080), ..route }, &[])
    };
    // In the second place of a group stands a packet for the last service.
    lab.burst(A, &[syn(4000), datagram(4001, VIP)]);
    let first =
        lab.world.services.iter().find(|service| service.protocols.has(Protocol::Tcp)).unwrap().clone();
    let listen = Listen::one(Endpoint::new(VIP, 8080));
    lab.world.services = Arc::new(Services::new(vec![(vec![listen], first)]));

    let fates = lab.burst(A, &[syn(4002), datagram(4003, Ipv4Addr::new(203, 0, 113, 9).into())]);

    assert!(matches!(fates[0], Fate::Sent(..)));
    assert_eq!(fates[1], Fate::Dropped(DropReason::NotForUs));
}

#[test]
fn packets_for_unknown_neighbours_wait_with_everything_but_their_ethernet_header() {
    let mut lab = Lab::new(&Plan { neighbors_known: false, ..Plan::default() });

    assert_eq!(lab.send(A, &syn(4000)), Fate::Waits(NextHop { port: B, address: SERVER }));
    assert_eq!(lab.sessions(), 1);
}

#[test]
fn pings_of_our_addresses_are_answered_and_others_are_not() {
    let mut lab = Lab::new(&Plan::default());
    for ours in [VIP, Ipv4Addr::new(10, 0, 0, 1).into(), LOCAL] {
        let answer = lab.send(A, &echo_request(&Route { destination: (ours, 0), ..inbound(0) }, b"abc"));
        let frame = answer.frame();
        assert_eq!(&frame[ETHERNET + 12..ETHERNET + 20], [octets(ours), octets(CLIENT)].concat());
        assert_eq!(frame[ETHERNET + 20], 0);
        assert_eq!(ones_sum(&frame[ETHERNET + 20..], 0), 0xffff);
        assert_eq!(ones_sum(&frame[ETHERNET..ETHERNET + 20], 0), 0xffff);
    }
    let other =
        echo_request(&Route { destination: (Ipv4Addr::new(10, 0, 0, 9).into(), 0), ..inbound(0) }, b"abc");
    assert_eq!(lab.send(A, &other), Fate::Dropped(DropReason::NotForUs));
}

#[test]
fn icmp_errors_are_limited_in_rate() {
    let mut lab = Lab::new(&Plan::default());
    let mut dying = syn(4000);
    dying[ETHERNET + 8] = 1;
    fill_checksums(&mut dying);

    let sent = (0..1_000).filter(|_| matches!(lab.send(A, &dying), Fate::Sent(..))).count();

    assert_eq!(sent, 50);
    assert_eq!(lab.drops(DropReason::TtlExceeded), 1_000);
    assert_eq!(lab.sessions(), 0, "a dying packet costs no session");
    lab.now = lab.now + Duration::from_millis(10);
    assert_eq!((0..100).filter(|_| matches!(lab.send(A, &dying), Fate::Sent(..))).count(), 10);
}

#[test]
fn what_does_not_fit_is_answered_with_the_mtu_that_would() {
    let mut lab = Lab::new(&Plan { server_mtu: 1400, ..Plan::default() });
    let big = tcp_frame(&inbound(4000), tcp::SYN, &[0; 1_420]);

    let answer = lab.send(A, &big);

    let ip = &answer.frame()[ETHERNET..];
    assert_eq!(ip.len(), 576, "as much of the packet as RFC 1812 allows");
    assert_eq!((ip[9], ip[20], ip[21], be16(ip, 26)), (1, 3, 4, 1400));
    assert_eq!(lab.drops(DropReason::ExceedsMtu), 1);

    // A sender that allowed fragmentation gets no answer.
    let mut fragmentable = big;
    fragmentable[ETHERNET + 6] = 0;
    fill_checksums(&mut fragmentable);
    assert_eq!(lab.send(A, &fragmentable), Fate::Dropped(DropReason::ExceedsMtu));
}

/// Puts what a kernel with checksum offload leaves in the field: the pseudo-header's sum.
fn make_partial(frame: &mut [u8]) {
    let field = ETHERNET + 20 + frames::checksum_field(frame[ETHERNET + 9]).unwrap();
    let pseudo = ones_sum(&[], pseudo_sum(&frame[ETHERNET..]));
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
}

#[test]
fn partial_checksums_are_finished_where_a_kernel_is_the_peer() {
    let mut lab = Lab::new(&Plan { kernel_peer: true, ..Plan::default() });
    for mut frame in [tcp_frame(&inbound(4000), tcp::SYN, b"odd"), udp_frame(&inbound(4000), b"payload")] {
        make_partial(&mut frame);
        assert_checksums(lab.send(A, &frame).frame());
    }
    assert_eq!(lab.stats.port(A).partial_checksums.value(), 2);
    assert_checksums(lab.send(A, &tcp_frame(&inbound(4001), tcp::SYN, b"whole")).frame());
    assert_eq!(lab.stats.port(A).partial_checksums.value(), 2);
}

#[test]
fn a_wrong_checksum_is_never_repaired() {
    for kernel_peer in [false, true] {
        let mut lab = Lab::new(&Plan { kernel_peer, ..Plan::default() });
        let mut frame = syn(4000);
        frame[ETHERNET + 36] ^= 0x55;

        let seen = lab.send(A, &frame);

        let ip = &seen.frame()[ETHERNET..];
        assert_ne!(ones_sum(&ip[20..], pseudo_sum(ip)), 0xffff);
    }
}

#[test]
fn super_frames_have_a_reason_of_their_own() {
    let mut lab = Lab::new(&Plan { kernel_peer: true, ..Plan::default() });
    let mut whole = tcp_frame(&inbound(4000), tcp::SYN, &[0; 1_900]);
    let mut cut = tcp_frame(&inbound(4000), tcp::SYN, &[0; 9_000]);
    make_partial(&mut whole);
    cut.truncate(1_982);

    assert_eq!(lab.send(A, &whole), Fate::Dropped(DropReason::SuperFrame));
    assert_eq!(lab.send(A, &cut), Fate::Dropped(DropReason::SuperFrame));

    assert_eq!(lab.stats.port(A).super_frames.value(), 2);
    assert_eq!(lab.sessions(), 0);
}

/// A SYN, changed in some bytes; checksums are computed anew unless the change is about them.
fn changed(mut change: impl FnMut(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = syn(4000);
    change(&mut frame);
    if frame.len() >= ETHERNET + 40 && frame[ETHERNET] == 0x45 {
        fill_checksums(&mut frame);
    }
    frame
}

fn with_ip_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let header = usize::from(frame[ETHERNET] & 15) * 4;
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = !ones_sum(&frame[ETHERNET..ETHERNET + header.min(frame.len() - ETHERNET)], 0);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Every kind of malformed packet in the list of kernel answers, and some more.
/// From the VIP to the client.
fn to_client(client_port: u16) -> Route {
    let Route { source, destination, .. } = inbound(client_port);
    Route { source: destination, destination: source, ..inbound(client_port) }
}

fn malformed() -> Vec<(&'static str, Vec<u8>, DropReason)> {
    let source = |address: [u8; 4]| changed(|f| f[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&address));
    let flags = |octet: u8| changed(|f| f[ETHERNET + 33] = octet);
    let udp = |len: u16| {
        let mut frame = udp_frame(&inbound(4000), b"12345678");
        frame[ETHERNET + 24..ETHERNET + 26].copy_from_slice(&len.to_be_bytes());
        fill_checksums(&mut frame);
        frame
    };
    let options = |options: &[u8]| {
        let mut frame = syn(4000);
        frame.splice(ETHERNET + 20..ETHERNET + 20, options.iter().copied());
        frame[ETHERNET] = 0x45 + (options.len() / 4) as u8;
        let total = (frame.len() - ETHERNET) as u16;
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
        with_ip_checksum(frame)
    };
    let ip = |change: fn(&mut Vec<u8>)| {
        let mut frame = syn(4000);
        change(&mut frame);
        with_ip_checksum(frame)
    };
    let to = |address: IpAddr, port: u16| {
        tcp_frame(&Route { destination: (address, port), ..inbound(4000) }, tcp::SYN, &[])
    };
    let raw = |protocol: u8, body: &[u8]| frames::ip_frame(&inbound(0), protocol, 64, body);
    vec![
        ("no Ethernet header", vec![2; 13], DropReason::EthernetShort),
        ("no bytes at all", vec![], DropReason::EthernetShort),
        (
            "a tag of an unknown VLAN",
            changed(|f| f[12..14].copy_from_slice(&[0x81, 0x00])),
            DropReason::VlanUnknown,
        ),
        (
            "IPv4 that says it is IPv6",
            changed(|f| f[12..14].copy_from_slice(&[0x86, 0xdd])),
            DropReason::Ipv6Version,
        ),
        ("another station", changed(|f| f[5] ^= 1), DropReason::EthernetNotOurs),
        ("broadcast station", changed(|f| f[..6].fill(0xff)), DropReason::EthernetNotOurs),
        ("cut IPv4 header", changed(|f| f.truncate(ETHERNET + 19)), DropReason::Ipv4Short),
        ("version 5", ip(|f| f[ETHERNET] = 0x55), DropReason::Ipv4Version),
        ("header of 16 bytes", ip(|f| f[ETHERNET] = 0x44), DropReason::Ipv4HeaderLength),
        ("header past the end", ip(|f| f[ETHERNET] = 0x4f), DropReason::Ipv4HeaderLength),
        ("total length past the frame", ip(|f| f[ETHERNET + 3] = 200), DropReason::Ipv4Truncated),
        ("total length below the header", ip(|f| f[ETHERNET + 3] = 19), DropReason::Ipv4TotalLength),
        (
            "bad header checksum",
            {
                let mut f = syn(4000);
                f[ETHERNET + 10] ^= 1;
                f
            },
            DropReason::Ipv4Checksum,
        ),
        ("loose source route", options(&[131, 7, 4, 1, 2, 3, 4, 0]), DropReason::Ipv4SourceRoute),
        ("strict source route", options(&[137, 7, 4, 1, 2, 3, 4, 0]), DropReason::Ipv4SourceRoute),
        ("option past the header", options(&[7, 40, 4, 0]), DropReason::Ipv4Options),
        ("source 0.0.0.0", source([0, 0, 0, 0]), DropReason::SourceInvalid),
        ("source 127.0.0.1", source([127, 0, 0, 1]), DropReason::SourceInvalid),
        ("multicast source", source([224, 0, 0, 5]), DropReason::SourceInvalid),
        ("broadcast source", source([255, 255, 255, 255]), DropReason::SourceInvalid),
        ("reserved source", source([241, 0, 0, 1]), DropReason::SourceInvalid),
        ("our network's broadcast as source", source([10, 0, 0, 255]), DropReason::SourceInvalid),
        ("land: the VIP as source", source([207, 175, 44, 110]), DropReason::SourceOurs),
        ("our own address as source", source([10, 0, 0, 1]), DropReason::SourceOurs),
        ("cut TCP header", raw(6, &[0; 19]), DropReason::TcpShort),
        ("TCP data offset 0", changed(|f| f[ETHERNET + 32] = 0), DropReason::TcpHeaderLength),
        ("TCP data offset past the end", changed(|f| f[ETHERNET + 32] = 0xf0), DropReason::TcpHeaderLength),
        ("TCP without flags", flags(0), DropReason::TcpFlags),
        ("SYN FIN", flags(0x03), DropReason::TcpFlags),
        ("SYN RST", flags(0x06), DropReason::TcpFlags),
        ("christmas tree", flags(0x29), DropReason::TcpFlags),
        ("ACK without session", flags(0x10), DropReason::NoSession),
        ("SYN ACK without session", flags(0x12), DropReason::NoSession),
        ("RST without session", flags(0x04), DropReason::NoSession),
        ("FIN without session", flags(0x11), DropReason::NoSession),
        ("cut UDP header", raw(17, &[0; 7]), DropReason::UdpShort),
        ("UDP length 7", udp(7), DropReason::UdpLength),
        ("UDP length past the packet", udp(17), DropReason::UdpLength),
        ("cut ICMP", raw(1, &[8, 0, 0, 0]), DropReason::IcmpShort),
        (
            "bad ICMP checksum",
            {
                let mut f = echo_request(&inbound(0), b"x");
                f[ETHERNET + 22] ^= 1;
                f
            },
            DropReason::IcmpChecksum,
        ),
        ("ICMP echo reply to nobody", raw(1, &[0, 0, 0, 0, 0, 0, 0, 0]), DropReason::IcmpNoSession),
        ("ICMP error that quotes nothing", raw(1, &[3, 4, 0, 0, 0, 0, 5, 0]), DropReason::IcmpQuote),
        (
            "ICMP error about another's packet",
            raw(1, &[&[3, 4, 0, 0, 0, 0, 5, 0][..], &udp_frame(&inbound(1), &[])[ETHERNET..]].concat()),
            DropReason::IcmpQuote,
        ),
        (
            "ICMP error about a packet of no session",
            raw(1, &[&[3, 4, 0, 0, 0, 0, 5, 0][..], &udp_frame(&to_client(1), &[])[ETHERNET..]].concat()),
            DropReason::IcmpNoSession,
        ),
        ("protocol 253", raw(253, &[0; 8]), DropReason::ProtocolUnsupported),
        ("SCTP without a chunk", raw(132, &[0; 12]), DropReason::SctpShort),
        ("a stranger's address", to(Ipv4Addr::new(203, 0, 113, 9).into(), 8080), DropReason::NotForUs),
        ("our own address", to(Ipv4Addr::new(10, 0, 0, 1).into(), 22), DropReason::NotForUs),
        ("a port without service", to(VIP, 8081), DropReason::NoService),
        ("port 0", to(VIP, 0), DropReason::NoService),
        ("the local address from outside", to(LOCAL, 5000), DropReason::LocalNoSession),
    ]
}

#[test]
fn malformed_packets_are_dropped_for_their_own_reason_and_change_nothing() {
    let mut lab = Lab::new(&Plan::default());
    let live = establish(&mut lab, 5000);
    for (what, frame, reason) in malformed() {
        let before = lab.drops(reason);
        assert_eq!(lab.send(A, &frame), Fate::Dropped(reason), "{what}");
        assert_eq!(lab.drops(reason), before + 1, "{what}");
        assert_eq!(lab.states(), [State::Established], "{what}");
    }
    let data = tcp_frame(&inbound(5000), tcp::ACK, b"still here");
    assert_eq!(endpoints(lab.send(A, &data).frame()), endpoints(&live));
}

#[test]
fn a_record_route_option_passes_and_padding_does_not() {
    let mut lab = Lab::new(&Plan::default());
    let mut frame = syn(4000);
    frame.splice(ETHERNET + 20..ETHERNET + 20, [7, 7, 4, 0, 0, 0, 0, 0]);
    frame[ETHERNET] = 0x47;
    frame[ETHERNET + 3] += 8;
    let mut frame = with_ip_checksum(frame);
    let len = frame.len();
    frame.extend_from_slice(&[0xaa; 18]);

    let seen = lab.send(A, &frame);

    assert_eq!(seen.frame().len(), len);
    assert_checksums(seen.frame());
}

#[test]
fn arp_goes_to_the_control_thread() {
    let mut lab = Lab::new(&Plan::default());
    let arp = support::arp_request();

    assert_eq!(lab.send(A, &arp), Fate::Punted);
    // Another protocol's, an operation that is none, a group as the sender, one that is cut short.
    for (at, octet) in [(16, 0x86), (21, 3), (22, 1)] {
        let mut wrong = arp.clone();
        wrong[at] = octet;
        assert_eq!(lab.send(A, &wrong), Fate::Dropped(DropReason::ArpMalformed), "octet {at}");
    }
    assert_eq!(lab.send(A, &arp[..41]), Fate::Dropped(DropReason::ArpMalformed));
}

/// A TCP segment with these numbers and options.
fn segment(route: &Route, flags: u8, sequence: u32, acknowledged: u32, options: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 20];
    body[..2].copy_from_slice(&route.source.1.to_be_bytes());
    body[2..4].copy_from_slice(&route.destination.1.to_be_bytes());
    body[4..8].copy_from_slice(&sequence.to_be_bytes());
    body[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    body[12] = ((5 + options.len() / 4) << 4) as u8;
    body[13] = flags;
    body.extend_from_slice(options);
    frames::ip_frame(route, 6, 64, &body)
}

#[test]
fn a_local_port_that_is_used_again_gets_later_sequence_numbers_and_no_timestamp() {
    const TIMESTAMPED: [u8; 16] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0];
    let sequence = |frame: &[u8]| frames::be32(frame, ETHERNET + 24);
    let acknowledged = |frame: &[u8]| frames::be32(frame, ETHERNET + 28);
    let mut lab = Lab::new(&Plan { sessions: 70_000, ..Plan::default() });

    // Every port once, each connection reset. The first few keep the client's numbers, all keep
    // their timestamps.
    let mut last: HashMap<u16, u32> = HashMap::new();
    for number in 0..PORTS_PER_PAIR {
        let syn = segment(&client(number), tcp::SYN, 4_000_000_000, 0, &TIMESTAMPED);
        let seen = lab.send(A, &syn).frame().to_vec();
        assert_eq!(sequence(&seen) == 4_000_000_000, number < 64);
        assert_eq!(seen[ETHERNET + 40..], TIMESTAMPED);
        assert_checksums(&seen);
        if number >= 64 {
            last.insert(endpoints(&seen).unwrap().0.1, sequence(&seen));
        }
        lab.send(B, &tcp_frame(&answer_to(&seen), tcp::RST | tcp::ACK, &[])).frame();
    }

    // The same ports again, for other clients: each time later than the time before.
    for round in 1..4 {
        lab.now = lab.now + seconds(20);
        for number in 0..PORTS_PER_PAIR {
            let route = client(round * PORTS_PER_PAIR + number);
            let syn = segment(&route, tcp::SYN, 7, 0, &TIMESTAMPED);
            let seen = lab.send(A, &syn).frame().to_vec();
            assert_checksums(&seen);
            assert_eq!(seen[ETHERNET + 40..], [2, 4, 5, 0xb4, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
            let initial = sequence(&seen);
            if let Some(before) = last.insert(endpoints(&seen).unwrap().0.1, initial) {
                let ahead = initial.wrapping_sub(before);
                assert!(ahead > 0 && ahead < 1 << 31, "{before} then {initial}");
            }
            if number == 0 {
                // The retransmitted SYN is the same, data follows on, and answers come back in the
                // client's own numbers, selective acknowledgements too.
                assert_eq!(lab.send(A, &syn).frame()[ETHERNET..], seen[ETHERNET..]);
                let data = lab.send(A, &segment(&route, tcp::ACK, 8, 1, &[])).frame().to_vec();
                assert_eq!(sequence(&data), initial.wrapping_add(1));
                assert_checksums(&data);
                let edges =
                    [initial.wrapping_add(50), initial.wrapping_add(60)].map(u32::to_be_bytes).concat();
                let sack = [&[1, 1, 5, 10], edges.as_slice()].concat();
                let answer = segment(&answer_to(&seen), tcp::ACK, 900, initial.wrapping_add(1), &sack);
                let answer = lab.send(B, &answer).frame().to_vec();
                assert_eq!((sequence(&answer), acknowledged(&answer)), (900, 8));
                assert_eq!(
                    answer[ETHERNET + 40..],
                    [&[1, 1, 5, 10][..], &57u32.to_be_bytes(), &67u32.to_be_bytes()].concat()
                );
                assert_checksums(&answer);
            }
            lab.send(B, &segment(&answer_to(&seen), tcp::RST, 0, 0, &[])).frame();
        }
    }
}

#[test]
fn many_sessions_that_end_at_once_are_spread_over_turns() {
    let mut lab = Lab::new(&Plan { sessions: 4_000, ..Plan::default() });
    for client_port in 0..900 {
        lab.send(A, &udp_frame(&inbound(10_000 + client_port), b"x"));
    }
    assert_eq!(lab.sessions(), 900);
    lab.now = lab.now + Duration::from_secs(301);

    lab.director.expire(&lab.world, lab.now);
    assert!((900 - 128..900).contains(&lab.sessions()), "{} are left after a turn", lab.sessions());

    for _ in 0..8 {
        lab.director.expire(&lab.world, lab.now);
    }
    assert_eq!(lab.sessions(), 0);
}

#[test]
fn new_sessions_follow_a_server_that_got_another_place_among_the_neighbours() {
    let mut lab = Lab::new(&Plan::default());
    let station = |lab: &mut Lab, client_port| {
        lab.send(A, &tcp_frame(&inbound(client_port), tcp::SYN, &[])).frame()[..6].to_vec()
    };
    assert_eq!(station(&mut lab, 4000), SERVER_MAC);
    // The client's slot is now the server's, and the other way round.
    let known: Vec<_> = (0..8).map(|at| lab.world.neighbors.get(NeighborId(at)).copied()).collect();
    let turned = known.into_iter().rev().skip_while(Option::is_none).collect();
    lab.world.neighbors = Arc::new(Neighbors::new(turned));
    lab.world.routing_epoch += 1;
    assert_eq!(station(&mut lab, 4001), SERVER_MAC);
    assert_eq!(station(&mut lab, 4000), SERVER_MAC);
}
