//! Several workers behind soft NICs: whichever way replies find their owner, no packet is lost, none
//! overtakes another of its flow, and the work is shared.
//!
//! The workers run in turn on one thread, so every run is the same. The NICs' hash is pktgen-tests'
//! own, written apart from the dataplane's.

mod support;

use dataplane::clock::Instant;
use dataplane::director::{Director, Limits};
use dataplane::drop::DropReason;
use dataplane::flow::FlowHasher;
use dataplane::ids::{PortId, WorkerId};
use dataplane::port::MemoryPort;
use dataplane::session::{ForwardMode, Persistence};
use dataplane::snapshot::{Publisher, ServiceOptions, mailboxes};
use dataplane::stats::{PortCounters, WorkerStats};
use dataplane::steering::ladder::{self, Choice, Facts, Fields, Rss, Rung};
use dataplane::steering::{Seat, Steering};
use dataplane::worker::{Link, Parts, RING_SIZE, Worker, link, peers};
use pktgen_tests::conformance::{CLIENT_MAC, DIRECTOR_A, DIRECTOR_B, SERVER_MAC};
use pktgen_tests::frames::{
    ETHERNET, Route, echo_request, endpoints, fill_checksums, ip_frame, sctp_frame, tcp, tcp_frame,
    udp_frame, upper_layer,
};
use pktgen_tests::softnic::{Hashing, Rule, SoftNic, symmetric_key};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use support::{A, B, LOCAL, Plan, SERVER, SERVER6, VIP, VIP6, answer_to, nth, octets, pieces};

/// A key as devices get it: random bytes.
fn key(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..52)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// What a NIC would say of itself.
fn says(nic: &SoftNic) -> Facts {
    let fields = match nic.hashing {
        Hashing::Ports => Fields::Ports,
        Hashing::Addresses => Fields::Addresses,
        Hashing::Nothing => Fields::Nothing,
    };
    let rss = Rss { key: nic.key.clone(), table: nic.table.clone(), fields: [[fields; 2]; 2] };
    Facts {
        rules: Err("it takes no rules".into()),
        rss: Ok(rss),
        keeps_flows: nic.hashing != Hashing::Nothing,
    }
}

/// What a NIC would say that says nothing.
fn silent() -> Facts {
    Facts {
        rules: Err("it takes no rules".into()),
        rss: Err("it does not tell its key".into()),
        keeps_flows: true,
    }
}

/// What goes through the workers.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    mode: ForwardMode,
    /// Whether clients have IPv6 addresses.
    six: bool,
    /// Whether servers are of the other family.
    across: bool,
}

const FULLNAT: Traffic = Traffic { mode: ForwardMode::FullNat, six: false, across: false };

impl Traffic {
    /// Every mode that sees answers, in every family.
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for six in [false, true] {
            for mode in [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::Snat] {
                all.push(Self { mode, six, across: false });
            }
            all.push(Self { mode: ForwardMode::FullNat, six, across: true });
        }
        all
    }

    fn plan(self, locals: usize) -> Plan {
        let sources = ["198.18.0.0/15", "2001:db8:c::/64"].map(|text| text.parse().unwrap()).to_vec();
        let options = Arc::new(ServiceOptions { sources, ..ServiceOptions::default() });
        Plan { mode: self.mode, across: self.across, options, ..plan(locals) }
    }

    /// Whom clients address.
    fn vip(self) -> IpAddr {
        match (self.mode, self.six) {
            (ForwardMode::Snat, false) => SERVER,
            (ForwardMode::Snat, true) => SERVER6,
            (_, false) => VIP,
            (_, true) => VIP6,
        }
    }
}

struct Farm {
    traffic: Traffic,
    workers: Vec<Worker<MemoryPort>>,
    stats: Vec<Arc<WorkerStats>>,
    nics: [SoftNic; 2],
    choice: Choice,
    now: Instant,
    _publisher: Publisher,
    _links: Vec<Link>,
}

impl Farm {
    /// Workers behind one NIC on each side, which say `facts` of themselves.
    fn new(workers: u16, plan: &Plan, nics: [SoftNic; 2], facts: &Facts) -> Self {
        let (choice, port) = ladder::choose(facts, workers);
        let steering = Arc::new(Steering {
            workers,
            ports: vec![port.clone(), port].into(),
            hasher: FlowHasher::new([3, 5, 7, 11].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        });
        let (mut publisher, mailboxes) = mailboxes(workers.into());
        let world = publisher.publish(support::world(plan));
        let (mut all, mut stats, mut links) = (Vec::new(), Vec::new(), Vec::new());
        let rings = peers(workers.into(), 2);
        for (at, (mailbox, peers)) in mailboxes.into_iter().zip(rings).enumerate() {
            let counters = Arc::new(WorkerStats::with_slots(2, 64, 8, 64));
            let (link, worker_link) = link();
            let seat = Seat { worker: WorkerId(at as u16), steering: Arc::clone(&steering) };
            let limits = Limits { sessions: plan.sessions, sessions6: plan.sessions6, local_port_pairs: 256 };
            let hasher = FlowHasher::new([at as u64 + 5, 7, 11, 13]);
            all.push(Worker::new(Parts {
                id: WorkerId(at as u16),
                ports: vec![MemoryPort::new(A), MemoryPort::new(B)],
                sub_interfaces: Vec::new(),
                director: Director::new(limits, hasher, seat, Arc::clone(&counters)),
                world: Arc::clone(&world),
                mailbox,
                peers,
                link: worker_link,
                kernel: None,
                stats: Arc::clone(&counters),
            }));
            stats.push(counters);
            links.push(link);
        }
        let now = Instant::from_millis(1_000);
        Self {
            traffic: FULLNAT,
            workers: all,
            stats,
            nics,
            choice,
            now,
            _publisher: publisher,
            _links: links,
        }
    }

    /// The NIC of a port takes a frame from the wire.
    fn receive(&mut self, port: PortId, frame: Vec<u8>) {
        let side = usize::from(port.0);
        let queue = self.nics[side].queue(&frame);
        self.workers[usize::from(queue)].ports_mut()[side].incoming.push_back(frame);
    }

    /// Turns until nothing comes in or out any more; gives what went out by a port.
    fn settle(&mut self, port: PortId) -> Vec<Vec<u8>> {
        loop {
            let mut received = 0;
            for worker in &mut self.workers {
                received += worker.turn(self.now);
            }
            if received == 0 {
                break;
            }
        }
        let side = usize::from(port.0);
        self.workers.iter_mut().flat_map(|worker| worker.ports_mut()[side].outgoing.drain(..)).collect()
    }

    fn sum(&self, value: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.stats.iter().map(|stats| value(stats)).sum()
    }

    fn ports(&self, value: impl Fn(&PortCounters) -> u64) -> u64 {
        self.sum(|stats| [A, B].map(|port| value(stats.port(port))).iter().sum())
    }

    fn handed_over(&self) -> u64 {
        self.ports(|port| port.handed_over.value())
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let count = |reason: &DropReason| (reason.name(), self.sum(|stats| stats.drops(*reason).value()));
        DropReason::ALL.iter().map(count).filter(|(_, count)| *count > 0).collect()
    }

    /// Each worker's sessions, which must not differ by more than a tenth from the even share.
    fn assert_even(&self) {
        let live: Vec<_> = self.stats.iter().map(|stats| stats.sessions_live.value()).collect();
        let share = live.iter().sum::<u64>() as f64 / live.len() as f64;
        assert!(live.iter().all(|count| (*count as f64 - share).abs() < share / 10.0), "{live:?}");
    }
}

/// The `flow`-th client.
fn client(flow: usize) -> (IpAddr, u16) {
    (Ipv4Addr::from_bits(0xc612_0000 + flow as u32 / 50).into(), 2_000 + (flow % 50) as u16 * 977)
}

fn from_client(traffic: Traffic, flow: usize) -> Route {
    let (four, l4_port) = client(flow);
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x50).into();
    let address = if traffic.six { nth(six, flow / 50) } else { four };
    Route {
        source_mac: CLIENT_MAC,
        destination_mac: DIRECTOR_A,
        source: (address, l4_port),
        destination: (traffic.vip(), 8080),
    }
}

fn request(traffic: Traffic, flow: usize, number: u8) -> Vec<u8> {
    let route = from_client(traffic, flow);
    if flow.is_multiple_of(2) {
        udp_frame(&route, &[number])
    } else {
        let flags = if number == 0 { tcp::SYN } else { tcp::ACK };
        tcp_frame(&route, flags, &[number])
    }
}

fn protocol(frame: &[u8]) -> u8 {
    upper_layer(&frame[ETHERNET..]).unwrap().1
}

fn answer(seen: &[u8], number: u8) -> Vec<u8> {
    let route = answer_to(seen);
    if protocol(seen) == 17 {
        udp_frame(&route, &[number])
    } else {
        let flags = if number == 0 { tcp::SYN | tcp::ACK } else { tcp::ACK };
        tcp_frame(&route, flags, &[number])
    }
}

/// `flows` flows, half TCP and half UDP, of `rounds` packets each way. Every packet must come out,
/// those of a flow in order, always between the same endpoints; `between` is called between rounds.
fn converse(farm: &mut Farm, flows: usize, rounds: u8, mut between: impl FnMut(&mut Farm, u8)) {
    /// Fewer than a worker's rings hold, so that nothing may be lost.
    const AT_ONCE: usize = RING_SIZE / 2;
    let mut at_server: HashMap<_, _> = HashMap::new();
    for number in 0..rounds {
        between(farm, number);
        for first in (0..flows).step_by(AT_ONCE) {
            let these = first..(first + AT_ONCE).min(flows);
            // Two packets of each flow in one piece, so that an overtaking one would show.
            let numbers = if number == 0 { vec![0] } else { vec![number, number + 100] };
            for number in &numbers {
                for flow in these.clone() {
                    farm.receive(A, request(farm.traffic, flow, *number));
                }
            }
            let seen = farm.settle(B);
            assert_eq!(seen.len(), these.len() * numbers.len(), "{:?} {:?}", farm.traffic, farm.drops());
            let mut order: HashMap<_, Vec<u8>> = HashMap::new();
            for frame in &seen {
                let ends = (protocol(frame), endpoints(frame).unwrap());
                order.entry(ends).or_default().push(*frame.last().unwrap());
            }
            assert!(order.values().all(|heard| *heard == numbers), "a packet overtook another");
            for (ends, _) in order {
                assert!(number != 0 || at_server.insert(ends, ()).is_none(), "two flows share {ends:?}");
                assert!(at_server.contains_key(&ends), "a flow has moved to {ends:?}");
            }
            let firsts = seen.iter().filter(|frame| *frame.last().unwrap() == number);
            let answers: Vec<_> =
                firsts.flat_map(|frame| numbers.iter().map(|n| answer(frame, *n))).collect();
            answers.into_iter().for_each(|frame| farm.receive(B, frame));
            let heard = farm.settle(A);
            assert_eq!(heard.len(), these.len() * numbers.len(), "{:?}", farm.drops());
            let mut order: HashMap<_, Vec<u8>> = HashMap::new();
            for frame in &heard {
                let (source, destination) = endpoints(frame).unwrap();
                assert_eq!(source, (farm.traffic.vip(), 8080));
                order.entry((protocol(frame), destination)).or_default().push(*frame.last().unwrap());
            }
            assert!(order.values().all(|heard| *heard == numbers), "an answer overtook another");
            assert_eq!(order.len(), these.len());
        }
    }
    assert_eq!(farm.drops(), []);
}

/// Flows of a run; the release build that CI makes of this file takes the million of the design.
const FLOWS: usize = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
const WORKERS: [u16; 3] = [2, 4, 8];

fn plan(locals: usize) -> Plan {
    Plan {
        weights: vec![1; 10],
        locals: (0..locals).map(|at| nth(LOCAL, at)).collect(),
        sessions: FLOWS,
        // A quarter of a table is for flows that nobody answered yet.
        sessions6: 4 * SOME_FLOWS,
        ..Plan::default()
    }
}

#[test]
fn predicted_rss_hands_nothing_over() {
    for workers in WORKERS {
        let nic = SoftNic::new(key(42), 128, workers, Hashing::Ports);
        let mut farm = Farm::new(workers, &plan(4), [nic.clone(), nic.clone()], &says(&nic));
        assert_eq!(farm.choice.rung, Rung::PredictedRss);

        converse(&mut farm, FLOWS, 2, |_, _| ());

        assert_eq!(farm.handed_over(), 0);
        farm.assert_even();
    }
}

/// Flows of each case of a mode and a family.
const SOME_FLOWS: usize = if cfg!(debug_assertions) { 2_000 } else { 20_000 };

#[test]
fn in_every_mode_and_family_predicted_rss_hands_nothing_over() {
    for traffic in Traffic::all() {
        for workers in [1, 2, 4] {
            let nic = SoftNic::new(key(42), 128, workers, Hashing::Ports);
            let plan = traffic.plan(4);
            let mut farm = Farm::new(workers, &plan, [nic.clone(), nic.clone()], &says(&nic));
            farm.traffic = traffic;

            converse(&mut farm, SOME_FLOWS, 2, |_, _| ());

            assert_eq!(farm.handed_over(), 0, "{traffic:?}, {workers} workers");
            let has_work = |stats: &Arc<WorkerStats>| stats.sessions_live.value() > 0;
            assert!(farm.stats.iter().all(has_work));
        }
    }
}

#[test]
fn in_every_mode_and_family_nothing_is_lost_on_the_other_rungs() {
    for traffic in Traffic::all() {
        for workers in [2, 4] {
            let silent_nics = || [key(3), key(4)].map(|key| SoftNic::new(key, 128, workers, Hashing::Ports));
            let nothing = SoftNic::new(key(5), 128, workers, Hashing::Nothing);
            let rules = Facts { rules: Ok(()), ..silent() };
            let rungs = [
                (silent_nics(), silent(), Rung::HandOver),
                ([nothing.clone(), nothing.clone()], says(&nothing), Rung::HandOver),
                // Without the rules that the device was to have: all is handed over.
                (silent_nics(), rules, Rung::FlowRules),
            ];
            for (nics, facts, rung) in rungs {
                let mut farm = Farm::new(workers, &traffic.plan(4), nics, &facts);
                farm.traffic = traffic;

                converse(&mut farm, SOME_FLOWS, 2, |_, _| ());

                assert_eq!(farm.choice.rung, rung);
                assert!(farm.handed_over() > 0, "{traffic:?}, {workers} workers");
            }
        }
    }
}

/// Devices hash no more than the addresses of SCTP; whose it is, workers tell each other.
#[test]
fn sctp_reaches_its_owner_in_every_mode_and_family_on_every_rung() {
    const FLOWS: usize = 600;
    for traffic in Traffic::all() {
        for workers in [2, 4] {
            let nic = SoftNic::new(key(42), 128, workers, Hashing::Ports);
            let nics = || [nic.clone(), nic.clone()];
            let rules = Facts { rules: Ok(()), ..silent() };
            for facts in [says(&nic), silent(), rules] {
                let mut farm = Farm::new(workers, &traffic.plan(4), nics(), &facts);
                let mut at_server = HashMap::new();
                for number in 0..3 {
                    for flow in 0..FLOWS {
                        farm.receive(A, sctp(&from_client(traffic, flow), number, [1, 0]));
                    }
                    let seen = farm.settle(B);
                    assert_eq!(seen.len(), FLOWS, "{traffic:?} {:?}", farm.drops());
                    for frame in &seen {
                        let ends = endpoints(frame).unwrap();
                        assert!(
                            number != 0 || at_server.insert(ends, ()).is_none(),
                            "two flows share {ends:?}"
                        );
                        assert!(at_server.contains_key(&ends), "a flow has moved to {ends:?}");
                        farm.receive(B, sctp(&answer_to(frame), number, [2, 0]));
                    }
                    let heard = farm.settle(A);
                    let clients: HashSet<_> = heard.iter().map(|frame| endpoints(frame).unwrap()).collect();
                    assert_eq!(clients.len(), FLOWS, "{traffic:?} {:?}", farm.drops());
                    assert!(clients.iter().all(|(source, _)| *source == (traffic.vip(), 8080)));
                }
                assert_eq!(farm.drops(), []);
            }
        }
    }
}

/// A packet whose chunk is the first kind in the first round, and the second later.
fn sctp(route: &Route, number: u8, [first, then]: [u8; 2]) -> Vec<u8> {
    let kind = if number == 0 { first } else { then };
    let chunk = [&[kind, 0, 0, 20][..], &[1; 15], &[number]].concat();
    sctp_frame(route, if kind == 1 { 0 } else { 7 }, &chunk)
}

#[test]
fn pings_of_hidden_hosts_come_home_whichever_worker_gets_the_reply() {
    const HOSTS: usize = 600;
    for six in [false, true] {
        let traffic = Traffic { mode: ForwardMode::Snat, six, across: false };
        for workers in [2, 4] {
            let nic = SoftNic::new(key(42), 128, workers, Hashing::Ports);
            for facts in [says(&nic), silent(), Facts { rules: Ok(()), ..silent() }] {
                let mut farm = Farm::new(workers, &traffic.plan(4), [nic.clone(), nic.clone()], &facts);
                let icmp = ETHERNET + if six { 40 } else { 20 };
                for round in 0..2 {
                    for host in 0..HOSTS {
                        let route = from_client(traffic, host * 50);
                        farm.receive(A, echo_request(&route, &(host as u16).to_be_bytes()));
                    }
                    let seen = farm.settle(B);
                    assert_eq!(seen.len(), HOSTS, "{:?}", farm.drops());
                    let numbers: HashSet<_> = seen
                        .iter()
                        .map(|frame| (frame[ETHERNET..icmp].to_vec(), frame[icmp + 4..icmp + 6].to_vec()))
                        .collect();
                    assert_eq!(numbers.len(), HOSTS, "round {round}: two hosts share a number");
                    for frame in &seen {
                        let mut reply = echo_request(&answer_to(frame), &frame[icmp + 8..]);
                        reply[icmp] = if six { 129 } else { 0 };
                        reply[icmp + 4..icmp + 6].copy_from_slice(&frame[icmp + 4..icmp + 6]);
                        fill_checksums(&mut reply);
                        farm.receive(B, reply);
                    }
                    let heard = farm.settle(A);
                    let to = icmp - if six { 16 } else { 4 }..icmp;
                    for frame in &heard {
                        let host = usize::from(u16::from_be_bytes([frame[icmp + 8], frame[icmp + 9]]));
                        let (address, _) = from_client(traffic, host * 50).source;
                        assert_eq!(frame[to.clone()], octets(address), "somebody else's answer");
                        assert_eq!(frame[icmp + 4..icmp + 6], [0, 7]);
                    }
                    assert_eq!(heard.len(), HOSTS, "{:?}", farm.drops());
                }
                assert_eq!(farm.drops(), []);
            }
        }
    }
}

#[test]
fn a_persistent_client_meets_one_server_whichever_worker_gets_its_packets() {
    let persistence = Some(Persistence { timeout: 60_000, prefix4: 32, prefix6: 128 });
    let options = Arc::new(ServiceOptions { persistence, ..ServiceOptions::default() });
    let nic = SoftNic::new(key(42), 128, 4, Hashing::Ports);
    let mut farm = Farm::new(4, &Plan { options, ..plan(4) }, [nic.clone(), nic.clone()], &says(&nic));
    let mut all = std::collections::HashSet::new();
    for client in 0..40 {
        let mut servers = std::collections::HashSet::new();
        for l4_port in 0..20 {
            // Fifty flows are one client's.
            farm.receive(A, udp_frame(&from_client(FULLNAT, client * 50 + l4_port), b"x"));
            let seen = farm.settle(B).remove(0);
            servers.insert(endpoints(&seen).unwrap().1);
            // Answers come home all the same.
            let strays = farm.handed_over();
            farm.receive(B, answer(&seen, 0));
            assert_eq!(farm.settle(A).len(), 1);
            assert_eq!(farm.handed_over(), strays);
        }
        assert_eq!(servers.len(), 1, "{servers:?}");
        all.extend(servers);
    }
    assert_eq!(all.len(), 10, "clients are spread over all servers");
    assert_eq!(farm.drops(), []);
}

#[test]
fn errors_about_nat_sessions_reach_their_owner_from_either_side() {
    let nics = [key(3), key(4)].map(|key| SoftNic::new(key, 128, 4, Hashing::Ports));
    for six in [false, true] {
        let traffic = Traffic { mode: ForwardMode::Nat, six, across: false };
        let mut farm = Farm::new(4, &traffic.plan(1), nics.clone(), &silent());
        farm.traffic = traffic;
        let (protocol, unreachable) = if six { (58, [1, 4]) } else { (1, [3, 3]) };
        for flow in 0..100 {
            farm.receive(A, request(traffic, flow, 0));
            let seen = farm.settle(B).remove(0);
            farm.receive(B, answer(&seen, 0));
            let heard = farm.settle(A).remove(0);
            let about = |frame: &[u8]| [&unreachable[..], &[0; 6], &frame[ETHERNET..]].concat();
            farm.receive(B, ip_frame(&answer_to(&seen), protocol, 64, &about(&seen)));
            assert_eq!(farm.settle(A).len(), 1, "{:?}", farm.drops());
            farm.receive(A, ip_frame(&from_client(traffic, flow), protocol, 64, &about(&heard)));
            assert_eq!(farm.settle(B).len(), 1, "{:?}", farm.drops());
        }
        assert_eq!(farm.sum(|stats| stats.icmp_relayed.value()), 200);
    }
}

#[test]
fn pieces_of_datagrams_reach_the_worker_that_owns_their_session() {
    let predicted = SoftNic::new(key(42), 128, 4, Hashing::Ports);
    let unknown = [key(3), key(4)].map(|key| SoftNic::new(key, 128, 4, Hashing::Ports));
    let nothing = SoftNic::new(key(5), 128, 4, Hashing::Nothing);
    let rungs = [
        ([predicted.clone(), predicted.clone()], says(&predicted)),
        (unknown, silent()),
        ([nothing.clone(), nothing.clone()], says(&nothing)),
    ];
    let traffics = Traffic::all().into_iter().filter(|traffic| !traffic.across);
    for (traffic, (nics, facts)) in traffics.flat_map(|traffic| rungs.iter().map(move |rung| (traffic, rung)))
    {
        let mut farm = Farm::new(4, &traffic.plan(4), nics.clone(), facts);
        farm.traffic = traffic;
        for flow in 0..200 {
            // A datagram in pieces, the last first, to begin with or behind a whole one.
            let whole = udp_frame(&from_client(traffic, flow), &[9; 3_000]);
            if flow.is_multiple_of(2) {
                farm.receive(A, udp_frame(&from_client(traffic, flow), b"whole"));
                farm.settle(B);
            }
            pieces::cut(&whole, flow as u16, 1_000)
                .into_iter()
                .rev()
                .for_each(|piece| farm.receive(A, piece));
            let seen = farm.settle(B);
            assert_eq!(seen.len(), 4, "{traffic:?} {:?}", farm.drops());
            let first = seen.iter().find_map(|frame| endpoints_of_first(frame)).unwrap();
            let route = Route { source: first.1, destination: first.0, ..answer_to(&whole) };
            let answer = udp_frame(&route, &[8; 2_500]);
            pieces::cut(&answer, flow as u16, 1_200).into_iter().for_each(|piece| farm.receive(B, piece));
            let heard = farm.settle(A);
            assert_eq!(heard.len(), 3, "{traffic:?} {:?}", farm.drops());
            let ends = heard.iter().find_map(|frame| endpoints_of_first(frame)).unwrap();
            assert_eq!(ends, ((traffic.vip(), 8080), from_client(traffic, flow).source));
        }
        assert_eq!(farm.drops(), [], "{traffic:?}");
    }
}

/// The endpoints of a datagram's first piece, if it is that.
fn endpoints_of_first(frame: &[u8]) -> Option<((IpAddr, u16), (IpAddr, u16))> {
    let mut frame = frame.to_vec();
    if frame[ETHERNET] >> 4 == 4 {
        return (frame[ETHERNET + 6] & 0x1f == 0 && frame[ETHERNET + 7] == 0)
            .then(|| endpoints(&frame))
            .flatten();
    }
    let is_first = frame[ETHERNET + 42] == 0 && frame[ETHERNET + 43] <= 1;
    frame.drain(ETHERNET + 40..ETHERNET + 48);
    is_first.then(|| endpoints(&frame)).flatten()
}

#[test]
fn a_nat_client_s_sessions_are_found_by_its_address_where_ports_tell_nothing() {
    for six in [false, true] {
        let traffic = Traffic { mode: ForwardMode::Nat, six, across: false };
        let nic = SoftNic::new(key(7), 128, 4, Hashing::Addresses);
        let mut farm = Farm::new(4, &traffic.plan(4), [nic.clone(), nic.clone()], &says(&nic));
        farm.traffic = traffic;

        converse(&mut farm, SOME_FLOWS, 2, |_, _| ());
    }
}

#[test]
fn a_symmetric_key_is_as_good_as_another() {
    let nic = SoftNic::new(symmetric_key(), 512, 4, Hashing::Ports);
    let mut farm = Farm::new(4, &plan(4), [nic.clone(), nic.clone()], &says(&nic));

    converse(&mut farm, 5_000, 2, |_, _| ());

    assert_eq!((farm.choice.rung, farm.handed_over()), (Rung::PredictedRss, 0));
}

#[test]
fn a_device_that_hashes_addresses_is_met_by_choosing_among_local_addresses() {
    let nic = SoftNic::new(key(7), 128, 4, Hashing::Addresses);
    let mut farm = Farm::new(4, &plan(32), [nic.clone(), nic.clone()], &says(&nic));

    converse(&mut farm, 5_000, 2, |_, _| ());

    assert_eq!((farm.choice.rung, farm.handed_over()), (Rung::PredictedRss, 0));
}

#[test]
fn flow_rules_hand_nothing_over() {
    for workers in WORKERS {
        let mut inside = SoftNic::new(key(1), 128, workers, Hashing::Ports);
        for address in plan(2).locals {
            let table = ladder::port_table(workers);
            inside.rules.extend(table.iter().enumerate().map(|(bits, queue)| Rule {
                address,
                mask: table.len() as u16 - 1,
                bits: bits as u16,
                queue: queue.0,
            }));
        }
        let outside = SoftNic::new(key(2), 64, workers, Hashing::Ports);
        let facts = Facts { rules: Ok(()), ..silent() };
        let mut farm = Farm::new(workers, &plan(2), [outside, inside], &facts);

        converse(&mut farm, 10_000, 2, |_, _| ());

        assert_eq!((farm.choice.rung, farm.handed_over()), (Rung::FlowRules, 0));
    }
}

#[test]
fn an_unknown_hash_is_met_by_handing_over_and_nothing_is_lost() {
    for workers in WORKERS {
        let nics = [key(3), key(4)].map(|key| SoftNic::new(key, 128, workers, Hashing::Ports));
        let mut farm = Farm::new(workers, &plan(4), nics, &silent());
        assert_eq!(farm.choice.rung, Rung::HandOver);

        converse(&mut farm, FLOWS, 2, |_, _| ());

        assert!(farm.handed_over() > 0);
        farm.assert_even();
    }
}

#[test]
fn a_device_that_spreads_nothing_still_employs_every_worker() {
    for workers in WORKERS {
        let nic = SoftNic::new(key(5), 128, workers, Hashing::Nothing);
        let mut farm = Farm::new(workers, &plan(4), [nic.clone(), nic.clone()], &says(&nic));

        converse(&mut farm, 10_000, 2, |_, _| ());

        assert_eq!(farm.choice.rung, Rung::HandOver);
        farm.assert_even();
    }
}

#[test]
fn a_table_that_changes_under_load_loses_nothing() {
    for workers in WORKERS {
        let nic = SoftNic::new(key(6), 128, workers, Hashing::Ports);
        let mut farm = Farm::new(workers, &plan(4), [nic.clone(), nic.clone()], &says(&nic));

        converse(&mut farm, 10_000, 4, |farm, number| {
            for nic in &mut farm.nics {
                nic.table.rotate_left(usize::from(number) * 3);
            }
        });

        assert!(farm.handed_over() > 0);
    }
}

#[test]
fn what_a_full_ring_does_not_hold_is_counted_and_the_rest_arrives() {
    let nic = SoftNic::new(key(8), 128, 2, Hashing::Nothing);
    let mut farm = Farm::new(2, &plan(1), [nic.clone(), nic.clone()], &says(&nic));
    let flows = RING_SIZE * 4;
    (0..flows).for_each(|flow| farm.receive(A, request(FULLNAT, flow, 0)));

    // The owner is late: only the receiver turns.
    for _ in 0..flows {
        farm.workers[0].turn(farm.now);
    }
    let sent = farm.settle(B).len() as u64;

    let lost = farm.sum(|stats| stats.drops(DropReason::HandOverFull).value());
    assert_eq!(farm.drops(), [("hand_over_full", lost)]);
    assert_eq!(sent + lost, flows as u64);
    assert_eq!(farm.handed_over(), lost + RING_SIZE as u64);
}

#[test]
fn an_icmp_error_finds_the_owner_by_the_packet_that_it_quotes() {
    let nics = [key(3), key(4)].map(|key| SoftNic::new(key, 128, 4, Hashing::Ports));
    let mut farm = Farm::new(4, &plan(2), nics, &silent());
    for flow in 0..200 {
        farm.receive(A, request(FULLNAT, flow, 0));
        let seen = farm.settle(B).remove(0);

        // A router on the way to the server says that the packet is too long.
        let router = Route { source: (Ipv4Addr::new(172, 16, 0, 9).into(), 0), ..answer_to(&seen) };
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 120];
        message.extend_from_slice(&seen[ETHERNET..ETHERNET + 28]);
        farm.receive(B, ip_frame(&router, 1, 64, &message));

        let told = farm.settle(A).remove(0);
        let mut mended = told.clone();
        fill_checksums(&mut mended);
        assert_eq!(told, mended, "both checksums are right");
        let addresses = |ip: &[u8]| -> (Vec<u8>, Vec<u8>) { (ip[12..16].to_vec(), ip[16..20].to_vec()) };
        let (vip, client) = (octets(VIP), octets(client(flow).0));
        assert_eq!(addresses(&told[ETHERNET..]), (vip.clone(), client.clone()));
        assert_eq!(told[ETHERNET + 20..ETHERNET + 28][..2], [3, 4]);
        assert_eq!(told[ETHERNET + 26..ETHERNET + 28], [5, 120]);
        // The quoted packet is the client's own again, but for its time to live.
        let (quote, sent) = (&told[ETHERNET + 28..], request(FULLNAT, flow, 0));
        assert_eq!(addresses(quote), (client, vip));
        assert_eq!(quote[20..28], sent[ETHERNET + 20..ETHERNET + 28]);
    }
    assert_eq!(farm.sum(|stats| stats.icmp_relayed.value()), 200);
    assert_eq!(farm.drops(), []);
}

#[test]
fn an_icmp_error_from_the_client_s_side_reaches_the_server() {
    let nics = [key(3), key(4)].map(|key| SoftNic::new(key, 128, 2, Hashing::Ports));
    let mut farm = Farm::new(2, &plan(1), nics, &silent());
    farm.receive(A, request(FULLNAT, 0, 0));
    let seen = farm.settle(B).remove(0);
    farm.receive(B, answer(&seen, 0));
    let heard = farm.settle(A).remove(0);

    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&heard[ETHERNET..ETHERNET + 28]);
    farm.receive(A, ip_frame(&from_client(FULLNAT, 0), 1, 64, &message));
    let told = farm.settle(B).remove(0);

    let sent = answer(&seen, 0);
    assert_eq!(told[ETHERNET + 12..ETHERNET + 20], seen[ETHERNET + 12..ETHERNET + 20]);
    assert_eq!(told[ETHERNET + 40..ETHERNET + 56], sent[ETHERNET + 12..ETHERNET + 28]);
    assert_eq!(told[DESTINATION], SERVER_MAC);
    assert_eq!(told[SOURCE], DIRECTOR_B);
}

const DESTINATION: std::ops::Range<usize> = 0..6;
const SOURCE: std::ops::Range<usize> = 6..12;
