//! One worker between an in-process source and sink, and loads that are run through it.

use crate::assembly::{self, Assembly};
use crate::machine::cpu_ns;
use crate::source::{Bench, Feed, Kind, MACS, SourcePort};
use crate::world::{self, Size};
use dataplane::clock::Instant;
use dataplane::port::{Burst, Port};
use dataplane::session::Timeouts;
use dataplane::stats::WorkerStats;
use dataplane::worker::Worker;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What both sides send: the kind of packet of each port, if any.
pub(crate) type Kinds = [Option<Kind>; 2];

/// A worker between two source ports.
pub(crate) struct Rig {
    worker: Worker<SourcePort>,
    pub(crate) bench: Rc<RefCell<Bench>>,
    pub(crate) stats: Arc<WorkerStats>,
    /// The time as the worker sees it.
    pub(crate) now: Instant,
    _assembly: Assembly,
}

impl Rig {
    /// A rig whose session table has room for `capacity`.
    pub(crate) fn new(size: Size, flows: usize, capacity: usize, timeouts: Timeouts) -> Self {
        let bench = Bench::new(flows, size.services);
        let mut world = world::build(size, &MACS);
        world.timeouts = timeouts;
        let ports = vec![SourcePort::new(0, &bench), SourcePort::new(1, &bench)];
        let (worker, assembly) = assembly::worker(ports, world, capacity, |_, _| ());
        let stats = Arc::clone(&assembly.stats);
        Self { worker, bench, stats, now: Instant::from_millis(1_000), _assembly: assembly }
    }

    /// One turn of the worker.
    pub(crate) fn turn(&mut self) {
        self.worker.turn(self.now);
    }

    /// Sets what comes in by a port.
    pub(crate) fn feed(&mut self, port: usize, feed: Feed) {
        self.worker.ports_mut()[port].feed = feed;
    }

    /// A packet of `kind` by `port` for each of the flows from `from` up to `to`, and all of them out again.
    pub(crate) fn send(&mut self, port: usize, from: usize, to: usize, kind: Kind) {
        let before = self.bench.borrow().came_out;
        self.feed(port, Feed::Once { next: from as u32, end: to as u32, kind });
        for _ in 0..=(to - from).div_ceil(dataplane::frame::BURST_SIZE) {
            self.turn();
        }
        let sent = self.bench.borrow().came_out - before;
        assert_eq!(sent, (to - from) as u64, "of {} packets so many came out", to - from);
    }

    /// Makes the sessions of the first `count` flows.
    pub(crate) fn fill(&mut self, kind: Kind, count: usize) {
        self.bench.borrow_mut().learn = true;
        self.send(0, 0, count, kind);
        self.bench.borrow_mut().learn = false;
        assert_eq!(self.stats.sessions_live.value(), count as u64, "every flow has its session");
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
            for port in self.worker.ports_mut() {
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
        while self.stats.sessions_live.value() > live {
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
        let half = self.bench.borrow().flows.len() as u32 / 2;
        for (port, kind) in kinds.into_iter().enumerate() {
            let next = half * port as u32;
            self.feed(port, kind.map_or(Feed::Nothing, |kind| Feed::Endless { next, kind }));
        }
    }
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
