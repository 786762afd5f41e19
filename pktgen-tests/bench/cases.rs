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

/// This thread's CPU time, in nanoseconds, exact to a few milliseconds.
pub(crate) fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

impl Rig {
    pub(crate) fn new(size: Size, bench: Rc<RefCell<Bench>>, capacity: usize) -> Self {
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

/// What one case measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) protocol: &'static str,
    pub(crate) sessions: usize,
    /// Source and sink alone.
    pub(crate) null_ns: f64,
    /// The appliance, source and sink included.
    pub(crate) fullnat_ns: f64,
    /// Largest distance of a run from the median, in percent.
    pub(crate) spread_pct: f64,
    /// Making one session, source and sink included, by the wall clock.
    pub(crate) fill_ns: f64,
    /// Growth of the process while the table was made and filled, per session.
    pub(crate) bytes_per_session: f64,
    pub(crate) frames_checked: u64,
}

/// How often each arm is run; arms alternate, so that a busy moment of the machine meets both.
const RUNS: usize = 5;

/// Steady FullNAT traffic of `packets` packets over a thousand sessions, and nothing else.
pub(crate) fn steady(protocol: &'static str, packets: u64) {
    let (open, both) = kinds(protocol);
    let mut rig = Rig::new(Size::for_sessions(1_000), Bench::new(1_000), 1_000);
    rig.fill(open);
    rig.steady(both, packets);
}

/// The packet that opens a session, and what both sides send afterwards.
fn kinds(protocol: &str) -> (Kind, [Option<Kind>; 2]) {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    match protocol {
        "tcp" => (Kind::Tcp(SYN), [Some(Kind::Tcp(ACK)); 2]),
        _ => (Kind::Udp, [Some(Kind::Udp); 2]),
    }
}

/// FullNAT in both directions over `sessions` established sessions, in random order.
pub(crate) fn fullnat(protocol: &'static str, sessions: usize, packets: u64) -> Measured {
    let (open, both) = kinds(protocol);
    let flows = Bench::new(sessions);
    let before = resident_bytes();
    let mut rig = Rig::new(Size::for_sessions(sessions), flows, sessions.max(1_000));
    // Wall time: the kernel's account of CPU time is too coarse for a thousand sessions.
    let begin = std::time::Instant::now();
    rig.fill(open);
    let fill_ns = begin.elapsed().as_nanos() as f64 / sessions as f64;
    let bytes_per_session = resident_bytes().saturating_sub(before) as f64 / sessions as f64;

    // Once over all sessions in both directions: TCP gets established, caches get warm.
    rig.steady(both, 2 * sessions as u64);
    let (mut null, mut fullnat) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        null.push(rig.null(both, packets));
        fullnat.push(rig.steady(both, packets));
    }
    let (null_ns, fullnat_ns) = (median(&mut null), median(&mut fullnat));
    let farthest = fullnat.iter().map(|run| (run - fullnat_ns).abs()).fold(0.0, f64::max);
    let frames_checked = rig.bench.borrow().checked;
    let spread_pct = farthest / fullnat_ns * 100.0;
    Measured {
        protocol,
        sessions,
        null_ns,
        fullnat_ns,
        spread_pct,
        fill_ns,
        bytes_per_session,
        frames_checked,
    }
}

fn median(runs: &mut [f64]) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

/// Memory of this process that is in use, in bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
