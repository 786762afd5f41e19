//! `Director::explain` against `Director::process`: it says what sending the packet does, and changes nothing.

#[path = "support/mod.rs"]
mod support;

use dataplane::director::{Chosen, Explanation, Verdict};
use dataplane::drop::DropReason;
use dataplane::flow::Endpoint;
use dataplane::ids::{AclId, ServerId, ServiceId};
use dataplane::scheduler::Scheduler;
use dataplane::session::{ForwardMode, Persistence, State};
use dataplane::snapshot::{Acl, AclAction, Acls, Network, ServiceOptions};
use pktgen_tests::frames::{ETHERNET, Route, endpoints, fill_checksums, tcp, tcp_frame, udp_frame};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use support::{
    A, B, CLIENT, Fate, LOCAL, LOCAL6, Lab, Plan, SERVER, VIP, answer_to, inbound, inbound6, nth, world,
};

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Packet {
        six: bool,
        tcp: bool,
        client_port: u16,
        asked: Asked,
        flags: u8,
    },
    /// The server answers what it got last.
    Answer {
        flags: u8,
    },
    /// Servers get these weights; a reload, after which next hops are looked up anew.
    Weights(Vec<u32>),
    /// The clients are on a list that denies them, or not any more.
    Deny(bool),
    Wait(Duration),
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Service,
    OtherPort,
    Foreign,
    Local,
    Own,
}

const FLAGS: [u8; 6] =
    [tcp::SYN, tcp::SYN, tcp::ACK, tcp::SYN | tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST | tcp::ACK];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asked = prop_oneof![
        8 => Just(Asked::Service),
        1 => Just(Asked::OtherPort),
        1 => Just(Asked::Foreign),
        1 => Just(Asked::Local),
        1 => Just(Asked::Own),
    ];
    let flags = || prop::sample::select(&FLAGS[..]);
    let packet = (any::<bool>(), any::<bool>(), 4000u16..4006, asked, flags()).prop_map(
        |(six, tcp, client_port, asked, flags)| Step::Packet { six, tcp, client_port, asked, flags },
    );
    let weights = prop::collection::vec(0u32..3, 3);
    let step = prop_oneof![
        12 => packet,
        5 => flags().prop_map(|flags| Step::Answer { flags }),
        1 => weights.prop_map(Step::Weights),
        1 => any::<bool>().prop_map(Step::Deny),
        1 => (1u64..90).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
    ];
    prop::collection::vec(step, 1..60)
}

fn plans() -> impl Strategy<Value = Plan> {
    const SCHEDULERS: [Scheduler; 5] = [
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::WeightedLeastConnection,
        Scheduler::Maglev,
        Scheduler::SourceHashing,
    ];
    let options = (
        prop::option::weighted(0.3, Just(())),
        prop::bool::weighted(0.2),
        prop::sample::select(&[0u64, 0, 3][..]),
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(keeps, one_packet, session_limit, expire_quiescent, sloppy)| ServiceOptions {
            persistence: keeps.map(|()| persistence()),
            one_packet,
            session_limit,
            expire_quiescent,
            sloppy,
            ..ServiceOptions::default()
        });
    (
        prop::sample::select(&ForwardMode::ALL[..]),
        prop::sample::select(&SCHEDULERS[..]),
        options,
        (any::<bool>(), any::<bool>(), any::<bool>()),
        prop::sample::select(&[4usize, 1_000][..]),
        prop::sample::select(&[(0u32, 0u32), (2, 1)][..]),
    )
        .prop_map(
            |(mode, scheduler, mut options, (across, kernel, neighbors_known), sessions, thresholds)| {
                let one_way = matches!(mode, ForwardMode::DirectRoute | ForwardMode::Tunnel);
                // As the checks of configuration have it.
                options.one_packet &= one_way;
                options.persistence =
                    options.persistence.filter(|_| !options.one_packet && mode != ForwardMode::Snat);
                Plan {
                    mode,
                    across: across && mode == ForwardMode::FullNat,
                    scheduler,
                    options: Arc::new(options),
                    weights: vec![1, 2, 1],
                    thresholds: if mode == ForwardMode::Snat { (0, 0) } else { thresholds },
                    sessions,
                    sessions6: sessions,
                    kernel,
                    neighbors_known,
                    ..Plan::default()
                }
            },
        )
}

fn persistence() -> Persistence {
    Persistence { timeout: 60_000, prefix4: 24, prefix6: 64 }
}

fn frame(route: &Route, is_tcp: bool, flags: u8) -> Vec<u8> {
    let mut frame = if is_tcp { tcp_frame(route, flags, b"") } else { udp_frame(route, b"x") };
    let ttl = if route.source.0.is_ipv6() { ETHERNET + 7 } else { ETHERNET + 8 };
    frame[ttl] = 64;
    fill_checksums(&mut frame);
    frame
}

/// From a client, or with source NAT from a host behind the appliance.
fn route(plan: &Plan, six: bool, client_port: u16, asked: Asked) -> Route {
    let mut route = if six { inbound6(client_port) } else { inbound(client_port) };
    let address = |narrow: &str, wide: &str| -> IpAddr {
        if six { wide.parse().unwrap() } else { narrow.parse().unwrap() }
    };
    match asked {
        Asked::Service if plan.mode == ForwardMode::Snat => {
            route.destination.0 = address("172.16.0.50", "2001:db8:b::50");
        }
        Asked::Service => {}
        Asked::OtherPort => route.destination.1 += 1000,
        Asked::Foreign => route.destination.0 = address("203.0.113.9", "2001:db8:f::9"),
        Asked::Local => route.destination = (if six { LOCAL6 } else { LOCAL }, 5001),
        Asked::Own => route.destination.0 = address("10.0.0.1", "2001:db8:a::1"),
    }
    route
}

/// Everything that a packet may change and that can be seen.
fn picture(lab: &Lab) -> String {
    let lines = |count: usize| 0..count;
    let (narrow, wide) = (lab.director.sessions(), lab.director.sessions6());
    let narrow: Vec<_> = lines(narrow.capacity()).filter_map(|line| narrow.line(line)).collect();
    let wide: Vec<_> = lines(wide.capacity()).filter_map(|line| wide.line(line)).collect();
    let drops: Vec<_> = DropReason::ALL.iter().map(|reason| lab.drops(*reason)).collect();
    let servers: Vec<_> = (0..64).map(|at| lab.stats.server(ServerId(at)).read()).collect();
    let services: Vec<_> = (0..8).map(|at| lab.stats.service(ServiceId(at)).read()).collect();
    format!("{narrow:?} {wide:?} {drops:?} {servers:?} {services:?} {:?}", lab.stats.read())
}

fn ends((source, destination): ((IpAddr, u16), (IpAddr, u16))) -> (Endpoint, Endpoint) {
    (Endpoint::new(source.0, source.1), Endpoint::new(destination.0, destination.1))
}

/// Whom a frame's outermost IP header is from and for.
fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    let at = |from: usize, len: usize| &frame[ETHERNET + from..ETHERNET + from + len];
    if frame[ETHERNET] >> 4 == 6 {
        let address = |from| Ipv6Addr::from(<[u8; 16]>::try_from(at(from, 16)).unwrap()).into();
        (address(8), address(24))
    } else {
        let address = |from| Ipv4Addr::from(<[u8; 4]>::try_from(at(from, 4)).unwrap()).into();
        (address(12), address(16))
    }
}

/// Whether the choice of a server depends on how many sessions there are, one of which a packet may end before.
fn counts_sessions(plan: &Plan) -> bool {
    plan.thresholds.0 > 0 || plan.scheduler == Scheduler::WeightedLeastConnection
}

/// Asks twice, sends, and compares.
fn compare(
    lab: &mut Lab,
    plan: &Plan,
    port: dataplane::ids::PortId,
    frame: &[u8],
) -> Result<Fate, TestCaseError> {
    let before = picture(lab);
    let said = lab.director.explain(port, frame, &lab.world, lab.now);
    prop_assert_eq!(said, lab.director.explain(port, frame, &lab.world, lab.now));
    prop_assert_eq!(before, picture(lab), "explaining changes something");
    let served = |lab: &Lab, id: ServerId| {
        let counters = lab.stats.server(id).read();
        counters.packets_in + counters.packets_out
    };
    if said.begins_anew && counts_sessions(plan) {
        return Ok(lab.send(port, frame));
    }
    let packets = said.server.map(|(id, _)| served(lab, id));
    let fate = lab.send(port, frame);
    match (said.verdict, &fate) {
        (Verdict::Transmit(port), Fate::Sent(by, sent)) => {
            prop_assert_eq!(port, *by);
            let leaving = said.leaving.unwrap();
            match leaving.outer {
                Some(outer) => prop_assert_eq!(addresses(sent), (outer.source, outer.destination)),
                // The port that an ended session gives back may be given out again.
                None if said.begins_anew => {
                    let (source, destination) = ends(endpoints(sent).unwrap());
                    prop_assert_eq!(source.address, leaving.source.address);
                    prop_assert_eq!(destination, leaving.destination);
                }
                None => {
                    prop_assert_eq!(ends(endpoints(sent).unwrap()), (leaving.source, leaving.destination));
                }
            }
        }
        (Verdict::Await(hop), Fate::Waits(other)) => prop_assert_eq!(hop, *other),
        (Verdict::Drop(reason), Fate::Dropped(other)) => prop_assert_eq!(reason, *other),
        (Verdict::Kernel(_), Fate::Kernel) | (Verdict::Punt(_), Fate::Punted) => {}
        (said, did) => prop_assert!(false, "it said {said:?} and did {did:?}"),
    }
    let is_forwarded = matches!(said.verdict, Verdict::Transmit(_) | Verdict::Await(_)) && !said.is_answered;
    if is_forwarded {
        let (id, _) = said.server.unwrap();
        prop_assert_eq!(Some(served(lab, id)), packets.map(|count| count + 1), "{:?} got it: {:?}", id, said);
    }
    if let Some(state) = said.state.filter(|_| is_forwarded) {
        let after = lab.director.explain(port, frame, &lab.world, lab.now);
        let (record, _) = after.session.unwrap();
        prop_assert_eq!(record.state, state, "{:?}", said);
    }
    Ok(fate)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn it_says_what_sending_does_and_changes_nothing(plan in plans(), steps in steps()) {
        let mut lab = Lab::new(&plan);
        let mut last_seen: Option<(Vec<u8>, bool)> = None;
        for step in steps {
            match step {
                Step::Packet { six, tcp, client_port, asked, flags } => {
                    let frame = frame(&route(&plan, six, client_port, asked), tcp, flags);
                    if let Fate::Sent(B, sent) = compare(&mut lab, &plan, A, &frame)? {
                        last_seen = Some((sent, tcp));
                    }
                }
                Step::Answer { flags } => {
                    let answered = last_seen.as_ref().filter(|_| plan.mode != ForwardMode::Tunnel);
                    if let Some((seen, is_tcp)) = answered {
                        let frame = frame(&answer_to(seen), *is_tcp, flags);
                        compare(&mut lab, &plan, B, &frame)?;
                    }
                }
                Step::Weights(weights) if plan.mode != ForwardMode::Snat => {
                    let mut next = world(&Plan { weights, ..plan.clone() });
                    next.routing_epoch = lab.world.routing_epoch + 1;
                    lab.world = next;
                }
                Step::Weights(_) => {}
                Step::Deny(is_denied) => {
                    let everybody = ["0.0.0.0/0", "::/0"].map(|text| text.parse::<Network>().unwrap());
                    let prefixes = everybody.into_iter().filter(|_| is_denied).collect();
                    let list = Acl::new(AclId(0), AclAction::Deny, Arc::new(prefixes), None::<[ServiceId; 0]>);
                    lab.world.acls = Arc::new(Acls::new([list]));
                    lab.world.routing_epoch += 1;
                }
                Step::Wait(time) => lab.wait(time),
            }
        }
    }
}

fn explain(lab: &Lab, route: &Route, flags: u8) -> Explanation {
    lab.director.explain(A, &frame(route, true, flags), &lab.world, lab.now)
}

#[test]
fn a_connection_is_followed_from_its_first_packet_to_its_second() {
    let plan = Plan { weights: vec![1, 1], ..Plan::default() };
    let mut lab = Lab::new(&plan);
    let first = explain(&lab, &inbound(4000), tcp::SYN);
    assert_eq!(first.verdict, Verdict::Transmit(B));
    assert_eq!((first.service, first.session, first.state), (Some(ServiceId(0)), None, Some(State::SynRecv)));
    assert_eq!(first.server, Some((ServerId(1), Chosen::ByScheduler)));
    let leaving = first.leaving.unwrap();
    assert_eq!((leaving.source.address, leaving.destination), (LOCAL, Endpoint::new(nth(SERVER, 1), 8080)));
    lab.send(A, &frame(&inbound(4000), true, tcp::SYN));
    let second = explain(&lab, &inbound(4000), tcp::ACK);
    let (session, _) = second.session.unwrap();
    assert_eq!((session.client, session.local), (Endpoint::new(CLIENT, 4000), leaving.source));
    assert_eq!(second.server, Some((ServerId(1), Chosen::BySession)));
    // The scheduler's turn did not pass by asking.
    assert_eq!(explain(&lab, &inbound(4001), tcp::SYN).server, Some((ServerId(0), Chosen::ByScheduler)));
}

#[test]
fn what_is_refused_has_the_reason_and_the_service() {
    let lab = Lab::new(&Plan { weights: vec![0], ..Plan::default() });
    let said = explain(&lab, &inbound(4000), tcp::SYN);
    assert_eq!((said.verdict, said.service), (Verdict::Drop(DropReason::NoRealServer), Some(ServiceId(0))));
    let said = explain(&lab, &inbound(4000), tcp::ACK);
    assert_eq!((said.verdict, said.service), (Verdict::Drop(DropReason::NoSession), Some(ServiceId(0))));
    let other = Route { destination: (VIP, 81), ..inbound(4000) };
    let said = explain(&lab, &other, tcp::SYN);
    assert_eq!((said.verdict, said.service), (Verdict::Drop(DropReason::NoService), None));
}
