//! What sessions cost in the in-process rig: packets of them, making them, keeping them.
//!
//! Each function is a case of its own process, so that memory is measured from a clean start.

use crate::machine::{cpu_ns, median, resident_bytes, spread_pct};
use crate::rig::{ACK, Crew, FIN, Kinds, PSH, Rig, SYN, kinds};
use crate::source::{Feed, Kind};
use crate::world::{Size, Way};
use dataplane::session::{State, Timeouts};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often each arm is run; arms alternate, so that a busy moment of the machine meets both.
const RUNS: usize = 5;

/// FullNAT in both directions over `sessions` established sessions, in random order.
pub(crate) fn steady(protocol: &str, sessions: usize, packets: u64) -> Value {
    let (open, both) = kinds(protocol);
    let before = resident_bytes();
    let mut rig = Rig::new(Size::for_sessions(sessions), sessions, sessions.max(1_000), Timeouts::default());
    // The flows' own records are not the appliance's.
    let records = rig.bench.borrow().bytes();
    rig.fill(open, sessions);
    let grown = resident_bytes().saturating_sub(before).saturating_sub(records);
    rig.bench.borrow_mut().shuffle();

    // Once over all sessions in both directions: TCP gets established, caches get warm.
    rig.steady(both, 2 * sessions as u64);
    let (mut null, mut fullnat) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        null.push(rig.null(both, packets));
        fullnat.push(rig.steady(both, packets));
    }
    json!({
        "protocol": protocol, "sessions": sessions,
        "null_ns": median(&null), "null_spread_pct": spread_pct(&null),
        "fullnat_ns": median(&fullnat), "fullnat_spread_pct": spread_pct(&fullnat),
        "bytes_per_session": grown as f64 / sessions as f64,
        "frames_checked": rig.bench.borrow().checked,
    })
}

/// Nothing but steady traffic of `packets` packets over a thousand sessions, for callgrind.
/// `udp`, `tcp`, with `-null` for source and sink alone; `udp-8` for eight workers; `dr` and `tunnel`, in which packets
/// come from clients only, as in `inbound-null`; `not-for-us`, in which they are dropped.
pub(crate) fn traffic(arm: &str, packets: u64) {
    let crew = match arm {
        "udp-8" => Crew::Several(8),
        _ => Crew::Alone,
    };
    let (protocol, null) = match arm.strip_suffix("-null") {
        Some(protocol) => (protocol, true),
        None => (arm.strip_suffix("-8").unwrap_or(arm), false),
    };
    let (open, mut both): (Kind, Kinds) = kinds(protocol);
    let mut size = Size::for_sessions(1_000);
    if let Some(way) = Way::ALL.into_iter().find(|way| way.mode == protocol) {
        size.way = way;
    }
    let mut rig = Rig::with_crew(crew, size, 1_000, 1_000, Timeouts::default());
    if matches!(protocol, "dr" | "tunnel" | "inbound" | "not-for-us") {
        both[1] = None;
        // What comes out is no answer, and not what FullNAT makes of it.
        rig.bench.borrow_mut().checking = false;
    }
    rig.fill(open, 1_000);
    if protocol == "not-for-us" {
        rig.bench.borrow_mut().asked = std::net::Ipv4Addr::new(203, 0, 113, 9);
    }
    if null {
        rig.null(both, packets)
    } else {
        rig.steady(both, packets)
    };
}

/// New UDP sessions, one packet each, as fast as they can be made while as many expire: 0.3 s after their packet, and up to
/// a second for the sweep to come by, so that they stay below the quarter of the table that is for those without an answer.
pub(crate) fn sustained(seconds: u64) -> Value {
    const FLOWS: usize = 16_000_000;
    let mut timeouts = Timeouts::default();
    timeouts.set(State::UdpOneWay, 300);
    let mut rig = Rig::new(Size::for_sessions(12_000_000), FLOWS, 12_000_000, timeouts);
    rig.bench.borrow_mut().learn = true;
    rig.feed(0, Feed::Endless { flows: 0..FLOWS as u32, next: 0, kind: Kind::Udp });
    let start = rig.now;
    let begin = Instant::now();
    let (mut made, mut ended) = (Vec::new(), Vec::new());
    // The first three seconds are the table's way to its level.
    while begin.elapsed() < Duration::from_secs(3 + seconds) {
        let window =
            (rig.sum(|stats| &stats.sessions_created), rig.sum(|stats| &stats.sessions_expired), cpu_ns());
        let window_end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < window_end {
            rig.now = start + begin.elapsed();
            rig.turn();
        }
        let cpu = cpu_ns() - window.2;
        let rate = |count: u64, before: u64| (count - before) as f64 * 1e9 / cpu as f64;
        if begin.elapsed() > Duration::from_secs(3) {
            made.push(rate(rig.sum(|stats| &stats.sessions_created), window.0));
            ended.push(rate(rig.sum(|stats| &stats.sessions_expired), window.1));
        }
    }
    rig.check();
    json!({
        "new_per_s": median(&made), "spread_pct": spread_pct(&made), "expired_per_s": median(&ended),
        "live": rig.sum(|stats| &stats.sessions_live), "frames_checked": rig.bench.borrow().checked,
    })
}

/// Whole TCP connections of twelve packets, SYN to last ACK, 65,536 of them under way at a time;
/// closed ones stay a second in TIME_WAIT.
pub(crate) fn connections(seconds: u64) -> Value {
    const FLOWS: usize = 8_388_608;
    const UNDER_WAY: usize = 65_536;
    const CLIENT: usize = 0;
    const SERVER: usize = 1;
    let script = [
        (CLIENT, SYN),
        (SERVER, SYN | ACK),
        (CLIENT, ACK),
        (CLIENT, PSH | ACK),
        (SERVER, ACK),
        (SERVER, PSH | ACK),
        (CLIENT, ACK),
        (SERVER, PSH | ACK),
        (CLIENT, ACK),
        (CLIENT, FIN | ACK),
        (SERVER, FIN | ACK),
        (CLIENT, ACK),
    ];
    let mut timeouts = Timeouts::default();
    timeouts.set(State::TimeWait, 1_000);
    let mut rig = Rig::new(Size::for_sessions(6_000_000), FLOWS, 6_000_000, timeouts);
    rig.bench.borrow_mut().learn = true;
    let start = rig.now;
    let begin = Instant::now();
    let mut first = 0;
    let mut rates = Vec::new();
    while begin.elapsed() < Duration::from_secs(3 + seconds) {
        let begin_cpu = cpu_ns();
        for (port, flags) in script {
            rig.now = start + begin.elapsed();
            rig.send(port, first, first + UNDER_WAY, Kind::Tcp(flags));
            rig.feed(port, Feed::Nothing);
        }
        if begin.elapsed() > Duration::from_secs(3) {
            rates.push(UNDER_WAY as f64 * 1e9 / (cpu_ns() - begin_cpu) as f64);
        }
        first = (first + UNDER_WAY) % FLOWS;
    }
    rig.check();
    json!({
        "connections_per_s": median(&rates), "spread_pct": spread_pct(&rates),
        "live": rig.sum(|stats| &stats.sessions_live), "frames_checked": rig.bench.borrow().checked,
    })
}

/// New UDP sessions per second, 100,000 at a time on top of `live` ones that stay.
pub(crate) fn new_at(live: usize) -> Value {
    const BATCH: usize = 100_000;
    // Nobody answers the new ones, and those have a quarter of the table.
    let capacity = (live + BATCH).max(4 * BATCH);
    let mut rig = Rig::new(Size::for_sessions(live + BATCH), live + BATCH, capacity, short_lived());
    rig.fill(Kind::Udp, live);
    rig.bench.borrow_mut().learn = true;
    let runs = batches(&mut rig, live, BATCH);
    json!({ "live": live, "new_per_s": 1e9 / median(&runs), "spread_pct": spread_pct(&runs) })
}

/// What a new UDP session costs when there are `services` services with two servers each, which
/// they share with others or not.
pub(crate) fn new_with_services(services: usize, shared_servers: bool) -> Value {
    const BATCH: usize = 100_000;
    let size = Size { services, servers: 2, locals: 1, way: Way::FULLNAT, one_arm: false, shared_servers };
    let mut rig = Rig::new(size, BATCH, 4 * BATCH, short_lived());
    rig.bench.borrow_mut().learn = true;
    rig.bench.borrow_mut().shuffle();
    let runs = batches(&mut rig, 0, BATCH);
    json!({ "services": services, "shared_servers": shared_servers, "ns_per_new_session": median(&runs), "spread_pct": spread_pct(&runs) })
}

/// Nanoseconds for each of `count` new sessions of the flows from `first` on, several times; in
/// between they expire.
fn batches(rig: &mut Rig, first: usize, count: usize) -> Vec<f64> {
    const BATCHES: usize = 11;
    let live = rig.sum(|stats| &stats.sessions_live);
    let mut runs = Vec::new();
    for batch in 0..BATCHES {
        // Wall time: the kernel's account of CPU time is too coarse for so short a run.
        let begin = Instant::now();
        rig.send(0, first, first + count, Kind::Udp);
        let spent = begin.elapsed();
        rig.expire_to(live);
        // The first batch touches memory that no session had used.
        if batch > 0 {
            runs.push(spent.as_nanos() as f64 / count as f64);
        }
    }
    rig.check();
    runs
}

/// Sessions without a reply end after a second, the others stay.
fn short_lived() -> Timeouts {
    let mut timeouts = Timeouts::default();
    timeouts.set(State::UdpOneWay, 1_000);
    timeouts
}

/// What `locals` local addresses hold in memory when each has sessions to each of ten servers.
pub(crate) fn locals(locals: usize) -> Value {
    const SESSIONS: usize = 200_000;
    let before = resident_bytes();
    let size = Size { locals, ..Size::for_sessions(SESSIONS) };
    let mut rig = Rig::new(size, SESSIONS, SESSIONS, Timeouts::default());
    rig.fill(Kind::Udp, SESSIONS);
    json!({ "locals": locals, "bytes": resident_bytes().saturating_sub(before) })
}
