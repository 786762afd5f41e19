//! A director in a test: two ports, known neighbours, a clock that only tests move.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part")]

pub mod pieces;
pub mod segments;

use dataplane::clock::Instant;
use dataplane::director::{Director, Limits, Origin, Verdict, Verdicts};
use dataplane::drop::DropReason;
use dataplane::flow::{Endpoint, FlowHasher, Protocol, Protocols};
use dataplane::frame::{BURST_SIZE, Frame};
use dataplane::ids::{LocalId, PortId, ServerId, ServiceId};
use dataplane::scheduler::Scheduler;
use dataplane::session::{DatagramId, ForwardMode, Settled, State, Timeouts};
use dataplane::snapshot::{
    AddressRole, Addresses, Listen, LocalAddress, Neighbor, Neighbors, Network, NextHop, PortConfig,
    RealServer, Routes, Service, ServiceOptions, Services, Snapshot, SourceCheck, Standing,
};
use dataplane::stats::WorkerStats;
use dataplane::steering::Seat;
use dataplane::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, LinkTraits, Mac, ethernet_header};
use pktgen_tests::conformance::{CLIENT_MAC, DIRECTOR_A, DIRECTOR_B, SERVER_MAC};
use pktgen_tests::frames::Route;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

pub const A: PortId = PortId(0);
pub const B: PortId = PortId(1);
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 50));
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(207, 175, 44, 110));
pub const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 100));
pub const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 50));
pub const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x50));
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x110));
pub const LOCAL6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x100));
pub const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x50));

/// The topology of the conformance files, and the same with IPv6, with as many servers as a test wants:
/// 172.16.0.50:8080, 172.16.0.51:8080 and so on.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: ForwardMode,
    /// Whether VIPs have servers of the other family.
    pub across: bool,
    /// Whether TCP and UDP, and pings that are hidden, are one service's.
    pub joined: bool,
    pub options: Arc<ServiceOptions>,
    pub weights: Vec<u32>,
    pub thresholds: (u32, u32),
    /// The place of the first server.
    pub first_server: usize,
    pub scheduler: Scheduler,
    pub locals: Vec<IpAddr>,
    pub sessions: usize,
    pub sessions6: usize,
    pub timeouts: Timeouts,
    pub kernel_peer: bool,
    pub server_mtu: u16,
    pub neighbors_known: bool,
    /// Whether the kernel of the host gets what nobody else claims.
    pub kernel: bool,
    /// How both ports check sources.
    pub source_check: SourceCheck,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            mode: ForwardMode::FullNat,
            across: false,
            joined: false,
            options: Arc::default(),
            weights: vec![1],
            thresholds: (0, 0),
            first_server: 0,
            scheduler: Scheduler::RoundRobin,
            locals: vec![LOCAL],
            sessions: 1_000,
            sessions6: 1_000,
            timeouts: Timeouts::default(),
            kernel_peer: false,
            server_mtu: 1500,
            neighbors_known: true,
            kernel: false,
            source_check: SourceCheck::Loose,
        }
    }
}

/// The address `at` places after another.
pub fn nth(address: IpAddr, at: usize) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() + at as u32).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() + at as u128).into(),
    }
}

/// Places of IPv6 servers begin here.
pub const FIRST_SERVER6: usize = 32;

/// Builds the world of a plan. Server slots are their places.
pub fn world(plan: &Plan) -> Snapshot {
    let link = |mac: Mac, mtu| LinkTraits { mac, mtu, kernel_peer: plan.kernel_peer };
    let network = |text: &str| text.parse::<Network>().unwrap();
    let ports = vec![
        PortConfig {
            link: link(DIRECTOR_A, 1500),
            networks: vec![network("10.0.0.1/24"), network("2001:db8:a::1/64")],
            kernel: plan.kernel,
            source_check: plan.source_check,
        },
        PortConfig {
            link: link(DIRECTOR_B, plan.server_mtu),
            networks: vec![network("172.16.0.1/24"), network("2001:db8:b::1/64")],
            kernel: plan.kernel,
            source_check: plan.source_check,
        },
    ];
    let mut routes = Routes::default();
    routes.add_gateways(network("0.0.0.0/0"), &[NextHop { port: A, address: CLIENT }]);
    routes.add_gateways(network("::/0"), &[NextHop { port: A, address: CLIENT6 }]);
    for (port, config) in [A, B].into_iter().zip(&ports) {
        config.networks.iter().for_each(|network| routes.add_link(*network, port));
    }
    let known = |port, address: IpAddr, mac, own| {
        let ethertype = if address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let header = plan.neighbors_known.then(|| ethernet_header(mac, own, ethertype));
        Some(Neighbor { hop: NextHop { port, address }, header })
    };
    let mut neighbors =
        vec![known(A, CLIENT, CLIENT_MAC, DIRECTOR_A), known(A, CLIENT6, CLIENT_MAC, DIRECTOR_A)];
    let mut servers = |first: usize, address: &dyn Fn(usize) -> IpAddr| -> Vec<RealServer> {
        let server = |(at, weight): (usize, &u32)| {
            let at = at + plan.first_server;
            let address = address(at);
            neighbors.push(known(B, address, SERVER_MAC, DIRECTOR_B));
            let id = ServerId((first + at) as u32);
            let standing = if *weight == 0 { Standing::Quiescent } else { Standing::Serving };
            RealServer { id, endpoint: Endpoint::new(address, 8080), weight: *weight, standing }
        };
        plan.weights.iter().enumerate().map(server).collect()
    };
    let servers4 = servers(0, &|at| nth(SERVER, at));
    let servers6 = servers(FIRST_SERVER6, &|at| nth(SERVER6, at));
    let local = |at: usize, address: IpAddr| LocalAddress { id: LocalId(at as u16), address, port: B };
    let locals4: Vec<_> = plan.locals.iter().enumerate().map(|(at, address)| local(at, *address)).collect();
    let locals6 = [local(7, LOCAL6)];
    let mut addresses = Addresses::default();
    for network in ports.iter().flat_map(|port| &port.networks) {
        addresses.insert_link(*network);
    }
    for vip in [VIP, VIP6] {
        addresses.insert(vip, AddressRole::Vip);
    }
    for local in locals4.iter().chain(&locals6) {
        addresses.insert(local.address, AddressRole::Local(B));
    }
    let service = |id,
                   protocols: Protocols,
                   vip: IpAddr,
                   (servers, locals): (&[RealServer], &[LocalAddress])| {
        let weights: Vec<_> = servers.iter().map(|server| (server.endpoint, server.weight)).collect();
        let service = Service {
            id: ServiceId(id),
            protocols,
            mode: plan.mode,
            scheduler: plan.scheduler,
            locals: locals.into(),
            servers: servers.into(),
            flags: Default::default(),
            table: plan.scheduler.table(&weights, 0).map(Arc::new),
            options: Arc::new(ServiceOptions {
                thresholds: match plan.thresholds {
                    (0, _) => Box::default(),
                    both => vec![both; servers.len()].into(),
                },
                ..ServiceOptions::clone(&plan.options)
            }),
        };
        if plan.mode == ForwardMode::Snat {
            let listens =
                ["172.16.0.50:8080", "172.16.0.50:9001", "[2001:db8:b::50]:8080", "[2001:db8:b::50]:9001"];
            return (listens.map(|text| text.parse().unwrap()).to_vec(), service);
        }
        let range = Listen { network: Network::host(vip), l4_ports: 9000..=9009 };
        (vec![Listen::one(Endpoint::new(vip, 8080)), range], service)
    };
    let (of4, of6) = ((&servers4[..], &locals4[..]), (&servers6[..], &locals6[..]));
    // A snat service has all local addresses, and something that is counted for each.
    let pool: Vec<_> = locals4.iter().chain(&locals6).copied().collect();
    let counted = |(at, local): (usize, &LocalAddress)| RealServer {
        id: ServerId(at as u32),
        endpoint: Endpoint::new(local.address, 0),
        weight: 1,
        standing: Standing::Serving,
    };
    let hiding: Vec<_> = pool.iter().enumerate().map(counted).collect();
    let all = (&hiding[..], &pool[..]);
    let (behind4, behind6) = match (plan.mode, plan.across) {
        (ForwardMode::Snat, _) => (all, all),
        (_, true) => (of6, of4),
        (_, false) => (of4, of6),
    };
    let mut world = Snapshot::empty(ports.clone());
    world.routes = Arc::new(routes);
    let mut services = vec![
        // First, because servers are taken for those of the last service that has them.
        service(4, Protocol::Sctp.into(), VIP, behind4),
        service(5, Protocol::Sctp.into(), VIP6, behind6),
    ];
    let both = Protocols::from(Protocol::Tcp).with(Protocol::Udp);
    services.extend(match (plan.joined, plan.mode) {
        (true, ForwardMode::Snat) => vec![service(0, both.with(Protocol::Icmp), VIP, behind4)],
        (true, _) => vec![service(0, both, VIP, behind4), service(2, both, VIP6, behind6)],
        (false, _) => vec![
            service(0, Protocol::Tcp.into(), VIP, behind4),
            service(1, Protocol::Udp.into(), VIP, behind4),
            service(2, Protocol::Tcp.into(), VIP6, behind6),
            service(3, Protocol::Udp.into(), VIP6, behind6),
        ],
    });
    if plan.mode == ForwardMode::Snat && !plan.joined {
        services.push(service(6, Protocol::Icmp.into(), VIP, behind4));
    }
    world.services = Arc::new(Services::new(services));
    world.neighbors = Arc::new(Neighbors::new(neighbors));
    world.addresses = Arc::new(addresses);
    world.timeouts = plan.timeouts;
    world.follow_servers();
    world
}

pub struct Lab {
    pub director: Director,
    pub world: Snapshot,
    pub stats: Arc<WorkerStats>,
    pub now: Instant,
    /// Fragments that wait for the first of their datagram.
    held: Vec<(DatagramId, PortId, Vec<u8>)>,
    /// What became of fragments that had waited.
    pub released: Vec<Fate>,
}

/// What became of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Sent(PortId, Vec<u8>),
    Waits(NextHop),
    Punted,
    /// It goes to the host's kernel.
    Kernel,
    /// Looked at again without its tag.
    Untagged,
    /// A fragment before the first.
    Held,
    Dropped(DropReason),
}

impl Fate {
    /// The frame that was sent.
    pub fn frame(&self) -> &[u8] {
        match self {
            Self::Sent(_, frame) => frame,
            other => panic!("not sent but {other:?}"),
        }
    }
}

impl Lab {
    pub fn new(plan: &Plan) -> Self {
        Self::with_world(plan, world(plan))
    }

    /// A lab in a world that was built before.
    pub fn with_world(plan: &Plan, world: Snapshot) -> Self {
        let stats = Arc::new(WorkerStats::with_slots(2, 64, 8, 8));
        let limits = Limits { sessions: plan.sessions, sessions6: plan.sessions6, local_port_pairs: 64 };
        let hasher = FlowHasher::new([11, 22, 33, 44].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self {
            director: Director::new(limits, hasher, Seat::alone(2), Arc::clone(&stats)),
            world,
            stats,
            now: Instant::from_millis(1_000),
            held: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Gives one frame to the director.
    pub fn send(&mut self, port: PortId, frame: &[u8]) -> Fate {
        self.burst(port, &[frame.to_vec()]).remove(0)
    }

    /// Gives a burst to the director.
    pub fn burst(&mut self, port: PortId, frames: &[Vec<u8>]) -> Vec<Fate> {
        let fates = self.run(Origin::queue(port), frames);
        self.settle();
        fates
    }

    /// Lets segments come that the SYN proxy makes in a client's name, as a worker does.
    pub fn replay(&mut self) -> Vec<Fate> {
        let mut fates = Vec::new();
        while let Some((port, frame)) = self.director.next_replay() {
            let origin = Origin { resumed: true, ..Origin::queue(port) };
            fates.extend(self.run(origin, &[frame.to_vec()]));
        }
        fates
    }

    /// Lets fragments go on whose datagram is settled, as a worker does.
    fn settle(&mut self) {
        while let Some((verdict, frame)) = self.director.next_tail() {
            let Verdict::Transmit(port) = verdict else { panic!("{verdict:?}") };
            self.released.push(Fate::Sent(port, frame.to_vec()));
        }
        while let Some(settled) = self.director.next_settled() {
            let (Settled::Release(id) | Settled::Abandon(id, _)) = settled;
            let (these, others) =
                std::mem::take(&mut self.held).into_iter().partition(|(other, ..)| *other == id);
            self.held = others;
            let these: Vec<(DatagramId, PortId, Vec<u8>)> = these;
            for (_, port, frame) in these {
                let fates = match settled {
                    Settled::Release(_) => {
                        self.run(Origin { resumed: true, ..Origin::queue(port) }, &[frame])
                    }
                    Settled::Abandon(_, why) => vec![Fate::Dropped(why)],
                };
                self.released.extend(fates);
            }
        }
    }

    fn run(&mut self, origin: Origin, frames: &[Vec<u8>]) -> Vec<Fate> {
        assert!(frames.len() <= BURST_SIZE);
        const HEADROOM: usize = 128;
        let mut rooms: Vec<Vec<u8>> = frames
            .iter()
            .map(|frame| [&[0xee; HEADROOM], frame.as_slice(), &[0xee; HEADROOM]].concat())
            .collect();
        let mut verdicts = Verdicts::new();
        let windows: Vec<_> = {
            let mut views: Vec<_> = rooms
                .iter_mut()
                .zip(frames)
                .map(|(room, frame)| Frame::new(room, HEADROOM..HEADROOM + frame.len()))
                .collect();
            self.director.process(origin, &mut views, &self.world, self.now, &mut verdicts);
            views.iter().map(Frame::window).collect()
        };
        let mut fates = Vec::new();
        for ((room, window), verdict) in rooms.iter().zip(windows).zip(verdicts) {
            fates.push(match verdict {
                Verdict::Transmit(port) => Fate::Sent(port, room[window].to_vec()),
                Verdict::Await(hop) => Fate::Waits(hop),
                Verdict::Punt(_) => Fate::Punted,
                Verdict::Kernel(_) => Fate::Kernel,
                Verdict::Untag => Fate::Untagged,
                Verdict::Hold(id) => {
                    self.held.push((id, origin.port, room[window].to_vec()));
                    Fate::Held
                }
                Verdict::HandOver(owner) => panic!("handed over to {owner:?} by the only worker"),
                Verdict::Drop(reason) => Fate::Dropped(reason),
            });
        }
        fates
    }

    /// Moves the clock, turning often enough for the sweep to keep up.
    pub fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let step = end.since(self.now).min(Duration::from_millis(20));
            self.now = self.now + step;
            for _ in 0..self.director.sessions().capacity().div_ceil(64) {
                self.director.expire(&self.world, self.now);
                self.settle();
            }
        }
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.stats.drops(reason).value()
    }

    pub fn sessions(&self) -> usize {
        self.director.sessions().len()
    }

    /// The states of all sessions.
    pub fn states(&self) -> Vec<State> {
        let table = self.director.sessions();
        (0..table.capacity())
            .filter_map(|line| table.line(line))
            .map(|(_, session)| session.state())
            .collect()
    }
}

/// An ARP request of the client for an address that nobody has, filled up to what Ethernet sends.
pub fn arp_request() -> Vec<u8> {
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 9, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([2, 0, 0, 0, 0, 9, 10, 0, 0, 50, 0, 0, 0, 0, 0, 0, 10, 0, 0, 77]);
    arp.resize(60, 0);
    arp
}

/// From a client to the VIP.
pub fn inbound(client_port: u16) -> Route {
    Route {
        source_mac: CLIENT_MAC,
        destination_mac: DIRECTOR_A,
        source: (CLIENT, client_port),
        destination: (VIP, 8080),
    }
}

/// The same over IPv6.
pub fn inbound6(client_port: u16) -> Route {
    Route { source: (CLIENT6, client_port), destination: (VIP6, 8080), ..inbound(0) }
}

/// The answer to a frame that the director sent to a server.
pub fn answer_to(frame: &[u8]) -> Route {
    let (source, destination) = pktgen_tests::frames::endpoints(frame).unwrap();
    Route { source_mac: SERVER_MAC, destination_mac: DIRECTOR_B, source: destination, destination: source }
}

/// An ICMP error from a router, about `frame`.
pub fn error_about(frame: &[u8], router: &Route, kind: u8, code: u8, rest: u32) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(&frame[pktgen_tests::frames::ETHERNET..]);
    let protocol = if router.source.0.is_ipv4() { 1 } else { 58 };
    pktgen_tests::frames::ip_frame(router, protocol, 64, &message)
}

/// An address's bytes.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
