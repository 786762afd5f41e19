//! Workers between an in-process source and sink, and loads that are run through them.
//!
//! Several workers take turns on one thread: what one of them costs is then the same as on a core of
//! its own, but for what cores take from each other.

use crate::assembly::{self, Assembly};
use crate::machine::cpu_ns;
use crate::source::{Bench, Feed, Kind, MACS, SourcePort};
use crate::world::{self, Size};
use dataplane::clock::Instant;
use dataplane::ids::{PortId, WorkerId};
use dataplane::port::{Burst, Port};
use dataplane::session::Timeouts;
use dataplane::snapshot::Snapshot;
use dataplane::stats::{Counter, WorkerStats};
use dataplane::steering::ladder::{self, Facts};
use dataplane::steering::{Clients, Plan, PortSteering, Seat, Spread, Steering, Toeplitz};
use dataplane::worker::{Worker, peers};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What both sides send: the kind of packet of each port, if any.
pub(crate) type Kinds = [Option<Kind>; 2];

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crew {
    /// One worker.
    Alone,
    /// So many workers, each with flows of its own.
    Several(u16),
    /// Two workers: one gets every packet, the other owns every session.
    Handed,
}

/// Workers between two source ports each.
pub(crate) struct Rig {
    crew: Crew,
    workers: Vec<Worker<SourcePort>>,
    pub(crate) bench: Rc<RefCell<Bench>>,
    /// The time as the workers see it.
    pub(crate) now: Instant,
    assemblies: Vec<Assembly>,
    /// Whether servers' answers pass.
    sees_answers: bool,
}

impl Rig {
    /// A rig whose session table has room for `capacity`.
    pub(crate) fn new(size: Size, flows: usize, capacity: usize, timeouts: Timeouts) -> Self {
        Self::with_crew(Crew::Alone, size, flows, capacity, timeouts)
    }

    /// A rig with this crew; `capacity` is each worker's.
    pub(crate) fn with_crew(
        crew: Crew,
        size: Size,
        flows: usize,
        capacity: usize,
        timeouts: Timeouts,
    ) -> Self {
        Self::in_world(crew, size, flows, (capacity, timeouts), |_| ())
    }

    /// The same, in a world that is changed before anything comes.
    pub(crate) fn in_world(
        crew: Crew,
        size: Size,
        flows: usize,
        (capacity, timeouts): (usize, Timeouts),
        change: impl FnOnce(&mut Snapshot),
    ) -> Self {
        let bench = Bench::new(flows, size.services);
        let mut world = world::build(size, &MACS);
        world.timeouts = timeouts;
        change(&mut world);
        let steering = Arc::new(steering(crew));
        let rings = peers(usize::from(steering.workers), 2).into_iter().enumerate();
        let (workers, assemblies) = rings
            .map(|(at, peers)| {
                let ports = vec![SourcePort::new(0, &bench), SourcePort::new(1, &bench)];
                let seat = Seat { worker: WorkerId(at as u16), steering: Arc::clone(&steering) };
                assembly::worker(ports, world.clone(), capacity, seat, peers, |_, _| ())
            })
            .unzip();
        let sees_answers = !matches!(size.way.mode, "dr" | "tunnel");
        Self { crew, workers, bench, now: Instant::from_millis(1_000), assemblies, sees_answers }
    }

    /// One turn of each worker.
    pub(crate) fn turn(&mut self) {
        for worker in &mut self.workers {
            worker.turn(self.now);
        }
    }

    /// A counter's sum over the workers.
    pub(crate) fn sum(&self, counter: impl Fn(&WorkerStats) -> &Counter) -> u64 {
        self.assemblies.iter().map(|assembly| counter(&assembly.stats).value()).sum()
    }

    /// Packets that came to another worker than their session's.
    pub(crate) fn handed_over(&self) -> u64 {
        [0, 1].map(|port| self.sum(|stats| &stats.port(PortId(port)).handed_over)).iter().sum()
    }

    /// Sets what comes in by a port: the first worker's, or each its share of the flows.
    pub(crate) fn feed(&mut self, port: usize, feed: Feed) {
        let workers = if self.crew == Crew::Handed { 1 } else { self.workers.len() as u32 };
        let share = |whole: std::ops::Range<u32>, at: u32| {
            let part = (whole.end - whole.start) / workers;
            whole.start + part * at..if at + 1 == workers { whole.end } else { whole.start + part * (at + 1) }
        };
        for (at, worker) in self.workers.iter_mut().enumerate().take(workers as usize) {
            worker.ports_mut()[port].feed = match feed.clone() {
                Feed::Nothing => Feed::Nothing,
                Feed::Once { next, end, kind } => {
                    let flows = share(next..end, at as u32);
                    Feed::Once { next: flows.start, end: flows.end, kind }
                }
                Feed::Endless { flows, next, kind } => {
                    let begin = next - flows.start;
                    let flows = share(flows, at as u32);
                    Feed::Endless { next: flows.start + begin % (flows.end - flows.start), flows, kind }
                }
            };
        }
    }

    /// A packet of `kind` by `port` for each of the flows from `from` up to `to`, and all of them out again.
    pub(crate) fn send(&mut self, port: usize, from: usize, to: usize, kind: Kind) {
        let before = self.bench.borrow().came_out;
        self.feed(port, Feed::Once { next: from as u32, end: to as u32, kind });
        // One more for what is handed over.
        for _ in 0..=(to - from).div_ceil(dataplane::frame::BURST_SIZE) + 1 {
            self.turn();
        }
        let sent = self.bench.borrow().came_out - before;
        assert_eq!(sent, (to - from) as u64, "of {} packets so many came out", to - from);
    }

    /// Makes the sessions of the first `count` flows, a few at a time: only a quarter of a table is for those that nobody has
    /// proven, so clients go on, and servers answer where their answers pass.
    pub(crate) fn fill(&mut self, kind: Kind, count: usize) {
        let some = count.div_ceil(8);
        for from in (0..count).step_by(some) {
            let to = (from + some).min(count);
            self.bench.borrow_mut().learn = true;
            self.send(0, from, to, kind);
            self.bench.borrow_mut().learn = false;
            match kind {
                Kind::Tcp(_) => {
                    if self.sees_answers {
                        self.send(1, from, to, Kind::Tcp(SYN | ACK));
                    }
                    self.send(0, from, to, Kind::Tcp(ACK));
                }
                Kind::Udp if self.sees_answers => self.send(1, from, to, kind),
                Kind::Udp => {}
            }
        }
        assert_eq!(self.sum(|stats| &stats.sessions_live), count as u64, "every flow has its session");
    }

    /// CPU nanoseconds per packet over `packets` packets of endless traffic.
    pub(crate) fn steady(&mut self, kinds: Kinds, packets: u64) -> f64 {
        self.start_endless(kinds);
        let begin_packets = self.bench.borrow().came_out;
        let begin = cpu_ns();
        while self.bench.borrow().came_out - begin_packets < packets {
            // A turn takes some microseconds; the clock goes on as slowly as in service.
            self.now = self.now + Duration::from_micros(1);
            self.turn();
        }
        let spent = cpu_ns() - begin;
        self.check();
        spent as f64 / (self.bench.borrow().came_out - begin_packets) as f64
    }

    /// The same traffic without a director: what the source and the sink cost.
    pub(crate) fn null(&mut self, kinds: Kinds, packets: u64) -> f64 {
        self.start_endless(kinds);
        let begin_packets = self.bench.borrow().came_out;
        self.bench.borrow_mut().checking = false;
        let begin = cpu_ns();
        while self.bench.borrow().came_out - begin_packets < packets {
            for port in self.workers.iter_mut().flat_map(Worker::ports_mut) {
                let mut burst = Burst::new();
                port.rx(&mut burst);
                port.tx(&mut burst);
            }
        }
        let spent = cpu_ns() - begin;
        self.bench.borrow_mut().checking = true;
        spent as f64 / (self.bench.borrow().came_out - begin_packets) as f64
    }

    /// Lets time pass without packets until no more than `live` sessions are left.
    pub(crate) fn expire_to(&mut self, live: u64) {
        self.feed(0, Feed::Nothing);
        self.feed(1, Feed::Nothing);
        let end = self.now + Duration::from_secs(10);
        while self.sum(|stats| &stats.sessions_live) > live {
            assert!(self.now < end, "sessions do not expire");
            self.now = self.now + Duration::from_micros(5);
            self.turn();
        }
    }

    /// Fails when a checked frame was wrong.
    pub(crate) fn check(&self) {
        let bench = self.bench.borrow();
        assert_eq!(bench.wrong, 0, "{} of {} checked frames were wrong", bench.wrong, bench.checked);
    }

    /// Both ports at different places, so that the same session is not met twice at once.
    fn start_endless(&mut self, kinds: Kinds) {
        let flows = 0..self.bench.borrow().flows.len() as u32;
        for (port, kind) in kinds.into_iter().enumerate() {
            let next = flows.end / 2 * port as u32;
            let endless = |kind| Feed::Endless { flows: flows.clone(), next, kind };
            self.feed(port, kind.map_or(Feed::Nothing, endless));
        }
    }
}

/// How the workers of a crew share the work.
fn steering(crew: Crew) -> Steering {
    let facts = Facts { rules: Ok(()), rss: Err("nobody asked".into()), keeps_flows: true };
    let (workers, port) = match crew {
        Crew::Alone => return Steering::alone(2),
        Crew::Several(workers) => (workers, ladder::choose(&facts, workers).1),
        Crew::Handed => {
            let all_the_second_s = [WorkerId(1)].into();
            let toeplitz = Toeplitz::new(&[0x6d; 40]).expect("the key is long enough");
            let spread = Spread::Addresses(Arc::new(toeplitz));
            let both = [spread.clone(), spread];
            let plan = Plan::new(all_the_second_s, [both.clone(), both], 2);
            (2, PortSteering { plan, clients: Clients::Planned })
        }
    };
    Steering { workers, ports: vec![port.clone(), port].into(), hasher: assembly::hasher() }
}

/// The packet that opens a session, and what both sides send afterwards.
pub(crate) fn kinds(protocol: &str) -> (Kind, Kinds) {
    match protocol {
        "tcp" => (Kind::Tcp(SYN), [Some(Kind::Tcp(ACK)); 2]),
        _ => (Kind::Udp, [Some(Kind::Udp); 2]),
    }
}

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
