//! What is measured on the in-process source.

use crate::source::{Bench, Kind, MACS, Packet, SourcePort};
use crate::world::{self, Size};
use dataplane::clock::Instant;
use dataplane::director::{Director, Limits};
use dataplane::flow::FlowHasher;
use dataplane::ids::WorkerId;
use dataplane::port::{Burst, Port};
use dataplane::snapshot::{Publisher, mailboxes};
use dataplane::stats::WorkerStats;
use dataplane::worker::{self, Link, Worker};
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// A worker between two source ports.
pub(crate) struct Rig {
    pub(crate) worker: Worker<SourcePort>,
    pub(crate) bench: Rc<RefCell<Bench>>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) now: Instant,
    _publisher: Publisher,
    _link: Link,
}

/// This thread's CPU time, in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Rig {
    pub(crate) fn new(size: Size, flows: usize, capacity: usize) -> Self {
        let bench = Bench::new(flows);
        let (mut publisher, mut mailboxes) = mailboxes(1);
        let (link, worker_link) = worker::link();
        let stats = Arc::new(WorkerStats::new(2));
        let world = publisher.publish(world::build(size, MACS));
        let hasher = FlowHasher::new([3, 5, 7, 11].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let director = Director::new(Limits::for_sessions(capacity), hasher, Arc::clone(&stats));
        let worker = Worker::new(worker::Parts {
            id: WorkerId(0),
            ports: vec![SourcePort::new(0, &bench), SourcePort::new(1, &bench)],
            director,
            world,
            mailbox: mailboxes.remove(0),
            link: worker_link,
            stats: Arc::clone(&stats),
        });
        Self { worker, bench, stats, now: Instant::from_millis(1_000), _publisher: publisher, _link: link }
    }

    /// Makes every flow's session, in the order of the records, and then shuffles the records.
    pub(crate) fn fill(&mut self, kind: Kind) {
        let count = self.bench.borrow().flows.len();
        self.bench.borrow_mut().learn = true;
        for start in (0..count).step_by(4096) {
            let end = (start + 4096).min(count);
            self.worker.ports_mut()[0].next =
                (start..end).rev().map(|flow| Packet { flow: flow as u32, kind }).collect();
            while !self.worker.ports_mut()[0].next.is_empty() {
                self.turn();
            }
        }
        self.bench.borrow_mut().learn = false;
        let live = self.stats.sessions_live.value();
        assert_eq!(live, count as u64, "every flow has its session");
        self.bench.borrow_mut().shuffle();
    }

    pub(crate) fn turn(&mut self) {
        self.worker.turn(self.now);
    }

    /// CPU nanoseconds per packet over `packets` packets of endless traffic.
    pub(crate) fn steady(&mut self, kinds: [Option<Kind>; 2], packets: u64) -> f64 {
        let half = self.bench.borrow().flows.len() as u32 / 2;
        for (port, kind) in self.worker.ports_mut().iter_mut().zip(kinds) {
            port.endless = kind.map(|kind| (if port.id().0 == 0 { 0 } else { half }, kind));
        }
        let begin_packets = self.bench.borrow().came_out;
        let begin = cpu_ns();
        while self.bench.borrow().came_out - begin_packets < packets {
            // A turn takes some microseconds; the clock goes on as slowly as in service.
            self.now = self.now + std::time::Duration::from_micros(1);
            self.turn();
        }
        let spent = cpu_ns() - begin;
        let bench = self.bench.borrow();
        assert_eq!(bench.wrong, 0, "{} of {} checked frames were wrong", bench.wrong, bench.checked);
        spent as f64 / (bench.came_out - begin_packets) as f64
    }

    /// The same traffic without a director: what the source and the sink cost.
    pub(crate) fn null(&mut self, kinds: [Option<Kind>; 2], packets: u64) -> f64 {
        let half = self.bench.borrow().flows.len() as u32 / 2;
        let begin_packets = self.bench.borrow().came_out;
        for (port, kind) in self.worker.ports_mut().iter_mut().zip(kinds) {
            port.endless = kind.map(|kind| (if port.id().0 == 0 { 0 } else { half }, kind));
        }
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
}

pub(crate) fn try_out() {
    let named: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    for sessions in if named.is_empty() { vec![1_000, 100_000, 1_000_000, 10_000_000] } else { named } {
        let capacity = sessions.max(1_000);
        let mut rig = Rig::new(Size::for_sessions(sessions), sessions, capacity);
        let begin = cpu_ns();
        rig.fill(Kind::Udp);
        let fill = (cpu_ns() - begin) as f64 / sessions as f64;
        let both = [Some(Kind::Udp), Some(Kind::Udp)];
        let packets = 30_000_000;
        let null = rig.null(both, packets);
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(rig.steady(both, packets));
        }
        all.sort_by(f64::total_cmp);
        println!(
            "{sessions:9} sessions: fill {fill:.0} ns each; null {null:.1}, fullnat {:.1} {:.1} {:.1}, added {:.1}",
            all[0],
            all[1],
            all[2],
            all[1] - null
        );
    }
}
