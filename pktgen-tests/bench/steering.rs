//! What several workers cost: choosing a local port, handing a packet over.

use crate::machine::{median, spread_pct};
use crate::rig::{Crew, Rig, kinds};
use crate::world::Size;
use dataplane::flow::{Endpoint, FlowHasher, FlowKey, Key, Protocol};
use dataplane::ids::{PortId, WorkerId};
use dataplane::session::{LocalPorts, Pair, Timeouts};
use dataplane::steering::ladder::{self, Facts, Fields, Rss};
use dataplane::steering::{Seat, Steering};
use serde_json::{Value, json};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

const RUNS: usize = 9;

/// Nanoseconds to take a local port whose reply comes home, by predicted RSS over a table of 128 for
/// eight workers; the pair of address and server in turn of a hundred.
pub(crate) fn port_choice() -> Value {
    const WORKERS: u16 = 8;
    const PAIRS: usize = 100;
    const EACH: usize = 4_000;
    let rss = Rss {
        key: (0..52u8).map(|byte| byte.wrapping_mul(0x9d).wrapping_add(0x4b)).collect(),
        table: (0..128).map(|entry| entry % WORKERS).collect(),
        fields: [[Fields::Ports; 2]; 2],
    };
    let facts = Facts { rules: Err("not asked".into()), rss: Ok(rss), keeps_flows: true };
    let port = ladder::choose(&facts, WORKERS).1;
    let hasher = FlowHasher::new([3, 5, 7, 11].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let steering = Steering { workers: WORKERS, ports: [port].into(), hasher };
    let seat = Seat { worker: WorkerId(3), steering: Arc::new(steering) };
    let plan = &seat.steering.port(PortId(0)).plan;
    let mut ports = LocalPorts::<FlowKey>::with_capacity(PAIRS, hasher, seat.clone());
    let pair = |at: usize| Pair {
        local: Ipv4Addr::new(10, 0, 0, 200).into(),
        real: Endpoint::new(Ipv4Addr::new(10, 0, 1, at as u8), 80),
        protocol: Protocol::Tcp,
    };
    let mut runs = Vec::new();
    for run in 0..=RUNS {
        let mut taken = Vec::with_capacity(PAIRS * EACH);
        let begin = Instant::now();
        for number in 0..PAIRS * EACH {
            taken.push(black_box(ports.take(pair(number % PAIRS).key(), PortId(0))));
        }
        let spent = begin.elapsed();
        // The first run opens the pairs.
        if run > 0 {
            runs.push(spent.as_nanos() as f64 / taken.len() as f64);
        }
        for (number, taken) in taken.into_iter().enumerate() {
            let (pair, l4_port) = (pair(number % PAIRS), taken.expect("each pair has 8,064 ports").l4_port);
            let reply = pair.key::<FlowKey>().with_destination_port(l4_port);
            assert_eq!(plan.owner(reply), seat.worker, "a reply would come to another worker");
            ports.release(pair.key(), l4_port);
        }
    }
    json!({ "ns_per_choice": median(&runs), "spread_pct": spread_pct(&runs), "workers": WORKERS })
}

/// Nanoseconds that a packet costs more when it comes to the wrong worker: its parsing there, the ring,
/// and its parsing at the owner. Both workers on one core, so without what the cores' caches take.
pub(crate) fn hand_over(packets: u64) -> Value {
    const SESSIONS: usize = 1_000;
    let (open, both) = kinds("udp");
    let rig = |crew| {
        let size = Size::for_sessions(SESSIONS);
        let mut rig = Rig::with_crew(crew, size, SESSIONS, SESSIONS, Timeouts::default());
        rig.fill(open, SESSIONS);
        rig.steady(both, packets / 4);
        rig
    };
    let (mut alone, mut handed) = (rig(Crew::Alone), rig(Crew::Handed));
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let direct = alone.steady(both, packets);
        runs.push(handed.steady(both, packets) - direct);
    }
    let count = handed.handed_over();
    assert!(count > packets * RUNS as u64, "only {count} packets were handed over");
    json!({ "ns_per_packet": median(&runs), "spread_pct": spread_pct(&runs), "handed_over": count })
}
