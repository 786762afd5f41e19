//! The worker's loop on memory ports: frames in, frames out, and nothing lost in between.

mod support;

use dataplane::clock::Instant;
use dataplane::director::{Director, Limits};
use dataplane::drop::DropReason;
use dataplane::flow::{FlowHasher, Protocol};
use dataplane::ids::WorkerId;
use dataplane::port::MemoryPort;
use dataplane::session::State;
use dataplane::snapshot::{NextHop, Publisher, Snapshot, mailboxes};
use dataplane::stats::WorkerStats;
use dataplane::steering::Seat;
use dataplane::worker::{
    Answer, Command, ControlFrame, EndpointFilter, Event, KernelLane, Link, Parts, SessionFilter,
    SessionQuery, SubInterface, Worker, kernel_lane, link, peers,
};
use pktgen_tests::frames::{Route, endpoints, tcp, tcp_frame, udp_frame};
use std::sync::Arc;
use std::time::Duration;
use support::{A, B, CLIENT, LOCAL, Plan, SERVER, answer_to, inbound};

struct Bench {
    worker: Worker<MemoryPort>,
    publisher: Publisher,
    link: Link,
    stats: Arc<WorkerStats>,
    kernel: KernelLane,
    now: Instant,
}

impl Bench {
    fn new(plan: &Plan) -> Self {
        Self::with_ports(plan, vec![MemoryPort::new(A), MemoryPort::new(B)], Vec::new())
    }

    fn with_ports(plan: &Plan, ports: Vec<MemoryPort>, sub_interfaces: Vec<SubInterface>) -> Self {
        let (mut publisher, mut mailboxes) = mailboxes(1);
        let (link, worker_link) = link();
        let stats = Arc::new(WorkerStats::new(2));
        let (kernel_end, kernel) = kernel_lane();
        let world = publisher.publish(support::world(plan));
        let limits = Limits { sessions: plan.sessions, sessions6: 64, local_port_pairs: 8 };
        let director =
            Director::new(limits, FlowHasher::new([5, 7, 11, 13]), Seat::alone(2), Arc::clone(&stats));
        let worker = Worker::new(Parts {
            id: WorkerId(0),
            ports,
            sub_interfaces,
            director,
            world,
            mailbox: mailboxes.remove(0),
            peers: peers(1, 2).remove(0),
            link: worker_link,
            kernel: Some(kernel_end),
            stats: Arc::clone(&stats),
        });
        Self { worker, publisher, link, stats, kernel, now: Instant::from_millis(1_000) }
    }

    fn publish(&mut self, world: Snapshot) {
        self.publisher.publish(world);
    }

    fn turn(&mut self) {
        self.worker.turn(self.now);
    }

    fn receive(&mut self, port: usize, frame: Vec<u8>) {
        self.worker.ports_mut()[port].incoming.push_back(frame);
    }

    fn sent(&mut self, port: usize) -> Vec<Vec<u8>> {
        self.worker.ports_mut()[port].outgoing.drain(..).collect()
    }

    fn resolutions(&self) -> Vec<NextHop> {
        std::iter::from_fn(|| self.link.next_event())
            .filter_map(|event| match event {
                Event::Resolve(hop) => Some(hop),
                Event::Neighbor { .. } | Event::Offender { .. } => None,
            })
            .collect()
    }
}

fn syn(client_port: u16) -> Vec<u8> {
    tcp_frame(&inbound(client_port), tcp::SYN, &[])
}

#[test]
fn bursts_and_the_fullest_pair_are_looked_at() {
    let mut bench = Bench::new(&Plan::default());
    (0..100).for_each(|client_port| bench.receive(0, syn(4000 + client_port)));
    (0..5).for_each(|_| bench.turn());
    let bursts = bench.stats.bursts.read();
    // A full one, and one of the rest.
    assert_eq!((bursts.count(), bursts.sum, bursts.at_most(63)), (2, 100, 1));
    for _ in 0..3 {
        bench.now = bench.now + Duration::from_millis(1);
        bench.turn();
    }
    let (used, ports) = (bench.stats.fullest_pair_used.value(), bench.stats.fullest_pair_ports.value());
    // All clients go to one server by one local address.
    assert_eq!(used, 100);
    assert!((60_000..=64_512).contains(&ports), "{ports}");
}

#[test]
fn packets_pass_from_port_to_port_and_back() {
    let mut bench = Bench::new(&Plan::default());
    for client_port in 0..100 {
        bench.receive(0, syn(4000 + client_port));
    }
    (0..4).for_each(|_| bench.turn());

    let seen = bench.sent(1);
    assert_eq!(seen.len(), 100);
    for frame in &seen {
        bench.receive(1, tcp_frame(&answer_to(frame), tcp::SYN | tcp::ACK, &[]));
    }
    (0..4).for_each(|_| bench.turn());

    assert_eq!(bench.sent(0).len(), 100);
    assert_eq!(bench.stats.port(A).rx_packets.value(), 100);
    assert_eq!(bench.stats.port(B).tx_packets.value(), 100);
}

#[test]
fn packets_wait_for_their_neighbour_and_go_in_order_when_it_is_known() {
    let mut bench = Bench::new(&Plan { neighbors_known: false, ..Plan::default() });
    for payload in [b"1", b"2", b"3"] {
        bench.receive(0, udp_frame(&inbound(4000), payload));
    }
    bench.turn();
    assert!(bench.sent(1).is_empty());
    assert_eq!(bench.stats.parked.value(), 3);
    assert_eq!(bench.resolutions()[0], NextHop { port: B, address: SERVER });

    bench.publish(support::world(&Plan::default()));
    bench.turn();

    let payloads: Vec<_> = bench.sent(1).iter().map(|frame| *frame.last().unwrap()).collect();
    assert_eq!(payloads, b"123");
    assert_eq!(bench.stats.parked.value(), 0);
}

#[test]
fn an_absent_neighbour_holds_a_bounded_number_of_packets_for_a_bounded_time() {
    let mut bench = Bench::new(&Plan { neighbors_known: false, ..Plan::default() });
    for _ in 0..50 {
        bench.receive(0, udp_frame(&inbound(4000), b"x"));
    }
    (0..2).for_each(|_| bench.turn());
    assert_eq!(bench.stats.parked.value(), 32);
    assert_eq!(bench.stats.drops(DropReason::NeighborQueueFull).value(), 18);

    bench.now = Instant::from_millis(3_999);
    bench.turn();
    assert_eq!(bench.stats.parked.value(), 32);
    bench.now = Instant::from_millis(4_000);
    bench.turn();

    assert_eq!(bench.stats.parked.value(), 0);
    assert_eq!(bench.stats.drops(DropReason::NeighborUnresolved).value(), 32);
}

#[test]
fn what_a_device_refuses_is_counted() {
    let mut bench = Bench::new(&Plan::default());
    bench.worker.ports_mut()[1].tx_room = 3;
    for client_port in 0..5 {
        bench.receive(0, syn(4000 + client_port));
    }
    bench.turn();

    assert_eq!(bench.sent(1).len(), 3);
    assert_eq!(bench.stats.port(B).tx_refused.value(), 2);
    assert_eq!(bench.stats.drops(DropReason::TransmitRefused).value(), 2);
}

#[test]
fn control_frames_go_out_and_arp_comes_in() {
    let mut bench = Bench::new(&Plan::default());
    let frame = ControlFrame::copy_of(&[0xff; 42]);
    bench.link.ask(Command::Transmit { port: B, frame: frame.clone() }).unwrap();
    let arp = support::arp_request();
    bench.receive(0, arp.clone());

    bench.turn();

    assert_eq!(bench.sent(1), [frame.bytes().to_vec()]);
    assert!(
        matches!(bench.link.next_event(), Some(Event::Neighbor { port: A, frame }) if frame.bytes() == arp)
    );
}

#[test]
fn an_arp_flood_is_bounded_and_counted() {
    let mut bench = Bench::new(&Plan::default());
    let arp = support::arp_request();
    for _ in 0..600 {
        bench.receive(0, arp.clone());
    }
    (0..20).for_each(|_| bench.turn());

    assert_eq!(bench.stats.drops(DropReason::ControlQueueFull).value(), 600 - 512);
}

#[test]
fn sessions_are_listed_in_pages_while_packets_pass() {
    let mut bench = Bench::new(&Plan { sessions: 2_000, ..Plan::default() });
    for client_port in 0..300 {
        bench.receive(0, syn(4000 + client_port));
    }
    (0..10).for_each(|_| bench.turn());

    let mut listed = |filter: SessionFilter| {
        let (mut line, mut found, mut pages) = (0, Vec::new(), 0);
        loop {
            bench.link.ask(Command::List(Box::new(SessionQuery::new(7, line, 100, filter)))).unwrap();
            let answer = loop {
                bench.turn();
                if let Some(Answer::List(answer)) = bench.link.next_answer() {
                    break answer;
                }
            };
            found.extend(answer.records.iter().map(|record| (record.client.l4_port, record.local.address)));
            pages += 1;
            line = answer.line;
            if answer.finished {
                break;
            }
        }
        found.sort_unstable();
        (found, pages)
    };

    let (found, pages) = listed(SessionFilter::default());
    let expected: Vec<_> = (0..300).map(|n| (4000 + n, LOCAL)).collect();
    assert_eq!(found, expected);
    assert!((3..=5).contains(&pages), "{pages}");
    // Of these the ones that are asked for.
    let all = SessionFilter::default();
    let client = |text: &str| SessionFilter { client: Some(text.parse().unwrap()), ..all };
    let address = listed(all).0[0].1;
    assert_eq!(listed(client(&format!("{CLIENT}:4007"))).0, [(4007, address)]);
    assert_eq!(listed(client(&format!("{CLIENT}/32"))).0.len(), 300);
    assert_eq!(listed(client("203.0.113.0/24")).0.len(), 0);
    assert_eq!(listed(SessionFilter { protocol: Some(Protocol::Udp), ..all }).0.len(), 0);
    assert_eq!(listed(SessionFilter { state: Some(State::SynRecv), ..all }).0.len(), 300);
    assert!("nonsense".parse::<EndpointFilter>().unwrap_err().contains("ADDRESS:PORT"));
}

#[test]
fn a_session_seen_by_two_snapshots_is_the_same() {
    let mut bench = Bench::new(&Plan::default());
    bench.receive(0, syn(4000));
    bench.turn();
    let before = bench.sent(1);
    for _ in 0..100 {
        bench.publish(support::world(&Plan { weights: vec![1, 1, 1], ..Plan::default() }));
        bench.receive(0, syn(4000));
        bench.turn();
        assert_eq!(endpoints(&bench.sent(1)[0]), endpoints(&before[0]));
    }
    assert_eq!(bench.worker.director().sessions().len(), 1);
    assert_eq!(bench.publisher.collect(), 1);
}

#[test]
fn frames_that_fit_into_no_buffer_are_counted_and_the_others_go_on() {
    let mut bench = Bench::new(&Plan::default());
    bench.worker.ports_mut()[0].rx_room = 1_514;
    bench.receive(0, [syn(4000), vec![0; 3_000]].concat());
    bench.turn();
    assert_eq!(bench.sent(1).len(), 0);
    bench.receive(0, [syn(4001), vec![0; 3_000]].concat());
    bench.receive(0, syn(4002));
    bench.turn();
    assert_eq!(bench.sent(1).len(), 1);
    assert_eq!(bench.stats.drops(DropReason::FrameTooLong).value(), 2);
    assert_eq!(bench.stats.port(A).rx_packets.value(), 3);
}

#[test]
fn ports_on_one_link_are_told_apart_by_their_tags() {
    const VLAN: u16 = 100;
    let tagged =
        |frame: &[u8], vlan: u16| [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat();
    // Port B is VLAN 100 on the link of port A.
    let plan = Plan { weights: vec![1], ..Plan::default() };
    let mut bench =
        Bench::with_ports(&plan, vec![MemoryPort::new(A)], vec![SubInterface { parent: A, vlan: VLAN }]);
    // A burst of three kinds: a client's, with and without a priority's tag, and one of another VLAN.
    bench.receive(0, syn(4000));
    bench.receive(0, tagged(&syn(4001), 99));
    bench.receive(0, tagged(&syn(4002), 0));
    bench.receive(0, syn(4003));
    bench.turn();
    let seen = bench.sent(0);
    assert_eq!(seen.len(), 3);
    assert_eq!(bench.stats.drops(DropReason::VlanUnknown).value(), 1);
    for frame in &seen {
        assert_eq!(frame[12..16], [0x81, 0, 0, VLAN as u8], "the server's side is tagged");
        let plain = [&frame[..12], &frame[16..]].concat();
        bench.receive(0, tagged(&tcp_frame(&answer_to(&plain), tcp::SYN | tcp::ACK, &[]), VLAN));
    }
    bench.turn();
    let answers = bench.sent(0);
    let clients: Vec<_> = answers.iter().map(|frame| endpoints(frame).unwrap().1.1).collect();
    assert_eq!(clients, [4000, 4002, 4003], "in their order, without tags");
    let (link, sub) = (bench.stats.port(A), bench.stats.port(B));
    assert_eq!((link.rx_packets.value(), link.tx_packets.value()), (7, 6));
    assert_eq!((sub.rx_packets.value(), sub.tx_packets.value()), (3, 3));
    // What control says on a sub-interface has its tag.
    bench.link.ask(Command::Transmit { port: B, frame: ControlFrame::copy_of(&syn(4004)) }).unwrap();
    bench.turn();
    assert_eq!(bench.sent(0)[0][12..16], [0x81, 0, 0, VLAN as u8]);
}

#[test]
fn a_priority_alone_is_no_vlan_on_ports_without_sub_interfaces() {
    let mut bench = Bench::new(&Plan::default());
    let tagged =
        |frame: &[u8], vlan: u16| [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat();
    bench.receive(0, tagged(&syn(4001), 0x6000));
    bench.receive(0, tagged(&syn(4002), 99));
    bench.receive(0, tagged(&tagged(&syn(4003), 0), 0));
    bench.receive(0, syn(4004));
    bench.turn();
    let sent = bench.sent(1);
    assert_eq!(sent.len(), 2, "the priority's and the plain one");
    assert!(sent.iter().all(|frame| frame[12..14] == [8, 0]));
    assert_eq!(bench.stats.drops(DropReason::VlanUnknown).value(), 2);
    assert_eq!(bench.stats.drops(DropReason::EthertypeUnsupported).value(), 0);
}

#[test]
fn a_link_that_is_down_takes_no_packet_and_no_session_begins_by_it() {
    let mut bench = Bench::new(&Plan::default());
    bench.receive(0, syn(4001));
    bench.turn();
    assert_eq!(bench.sent(1).len(), 1);
    let mut world = support::world(&Plan::default());
    world.links_down = 1 << B.0;
    bench.publish(world.clone());
    bench.receive(0, syn(4002));
    bench.receive(0, tcp_frame(&inbound(4001), tcp::ACK, b"x"));
    bench.turn();
    assert_eq!(bench.sent(1).len(), 0);
    assert_eq!(bench.stats.drops(DropReason::LinkDown).value(), 2);
    assert_eq!(bench.worker.director().sessions().len(), 1, "nobody new");
    world.links_down = 0;
    bench.publish(world);
    bench.receive(0, syn(4002));
    bench.turn();
    assert_eq!(bench.sent(1).len(), 1);
}

#[test]
fn frames_go_to_the_kernel_and_come_back() {
    let mut bench = Bench::new(&Plan { kernel: true, ..Plan::default() });
    let to_own = Route { destination: ("10.0.0.1".parse().unwrap(), 22), ..inbound(4_000) };
    let ssh = tcp_frame(&to_own, tcp::SYN, &[]);
    bench.receive(0, ssh.clone());
    let mut arp = vec![0x02; 12];
    arp.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
    arp.resize(60, 0);
    bench.receive(1, arp.clone());
    bench.turn();

    let mut seen = Vec::new();
    let mut room = Vec::new();
    while bench.kernel.pop(&mut room, |port, frame| seen.push((port, frame.to_vec()))) {}
    assert_eq!(seen, [(A, ssh), (B, arp)], "also the answer that the kernel waits for");

    for number in 0..100 {
        assert!(bench.kernel.push(B, &udp_frame(&inbound(number), b"from the kernel")));
    }
    bench.turn();
    assert_eq!(bench.sent(1).len(), 32, "a turn stays short");
    (0..3).for_each(|_| bench.turn());
    assert_eq!(bench.sent(1).len(), 68);
    assert_eq!(bench.stats.from_kernel.value(), 100);
}
