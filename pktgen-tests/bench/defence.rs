//! What it costs to send somebody away: a SYN that is answered by a cookie, a source that a list denies, a look into a list.

use crate::machine::{cpu_ns, median, spread_pct};
use crate::rig::{ACK, Crew, Rig, SYN};
use crate::source::{Kind, shuffle};
use crate::world::Size;
use dataplane::ids::{AclId, ServiceId};
use dataplane::prefixes::Prefixes;
use dataplane::session::Timeouts;
use dataplane::snapshot::{Acl, AclAction, Acls, Network, ServiceOptions, Services, Snapshot, SynProxy};
use serde_json::{Value, json};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const RUNS: usize = 7;
const FLOWS: usize = 100_000;
const LISTED: u32 = 1_000_000;

/// Nanoseconds of each, and of a packet that is forwarded by its session, by turns.
pub(crate) fn cost(packets: u64) -> Value {
    let mut forwarding = rig(|_| ());
    forwarding.fill(Kind::Tcp(SYN), FLOWS);
    forwarding.bench.borrow_mut().shuffle();
    let mut answering = rig(ask_for_proof);
    let everybody = Network { address: Ipv4Addr::new(100, 64, 0, 0).into(), prefix_len: 10 };
    let mut refusing = rig(|world| {
        let prefixes = Arc::new([everybody].into_iter().collect());
        let list = Acl::new(AclId(0), AclAction::Deny, prefixes, None::<[ServiceId; 0]>);
        world.acls = Arc::new(Acls::new([list]));
    });
    for rig in [&answering, &refusing] {
        let mut bench = rig.bench.borrow_mut();
        bench.shuffle();
        // What comes out goes to the client, and is not what FullNAT makes of it.
        bench.checking = false;
    }
    refusing.bench.borrow_mut().refused = true;
    let (syn, ack) = ([Some(Kind::Tcp(SYN)), None], [Some(Kind::Tcp(ACK)); 2]);
    let mut runs: [Vec<f64>; 5] = Default::default();
    forwarding.steady(ack, 2 * FLOWS as u64);
    for _ in 0..RUNS {
        runs[0].push(forwarding.null(ack, packets));
        runs[1].push(forwarding.steady(ack, packets));
        runs[2].push(answering.null(syn, packets));
        answering.bench.borrow_mut().checking = false;
        runs[3].push(answering.steady(syn, packets));
        runs[4].push(refusing.steady(syn, packets));
    }
    let sent = answering.sum(|stats| &stats.syn_proxy(tcp(&answering)).cookies_sent);
    assert!(sent >= RUNS as u64 * packets, "of {packets} SYNs {RUNS} times {sent} were answered");
    let [both_null, forwarded, null, answered, refused] = runs.each_ref().map(|runs| median(runs));
    json!({
        "forwarded_ns": forwarded - both_null, "syn_answered_ns": answered - null, "refused_ns": refused - null,
        "spread_pct": spread_pct(&runs[3]), "lists": lists(),
    })
}

fn rig(change: impl FnOnce(&mut Snapshot)) -> Rig {
    let wanted = (4 * FLOWS, Timeouts::default());
    Rig::in_world(Crew::Alone, Size::for_sessions(FLOWS), FLOWS, wanted, change)
}

/// The slot of the service of TCP, the second of the world.
fn tcp(_: &Rig) -> ServiceId {
    ServiceId(1)
}

fn ask_for_proof(world: &mut Snapshot) {
    let changes = world.services.iter().enumerate().map(|(at, service)| {
        let mut service = service.clone();
        service.options =
            Arc::new(ServiceOptions { syn_proxy: SynProxy::Always, ..(*service.options).clone() });
        (at, service)
    });
    world.services = Arc::new(Services::replace(&world.services, changes.collect()));
}

/// Looks into lists of a million prefixes: nanoseconds, and the lists' memory.
fn lists() -> Value {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let four = |random: u64| IpAddr::from(Ipv4Addr::from_bits(random as u32));
    // Of 2000::/3.
    let six = |random: u64| IpAddr::from(Ipv6Addr::from_bits(u128::from(random >> 3 | 1 << 61) << 64));
    let mut rows = Vec::new();
    for (name, of, prefix_len) in
        [("ipv4", &four as &dyn Fn(u64) -> IpAddr, 32), ("ipv4_24", &four, 24), ("ipv6_64", &six, 64)]
    {
        let networks = (0..LISTED).map(|_| Network { address: of(random()), prefix_len });
        let list: Vec<_> = networks.collect();
        let set: Prefixes = list.iter().copied().collect();
        // Half of them are in the list.
        let mut asked: Vec<IpAddr> = list.iter().step_by(2).map(|network| network.address).collect();
        asked.extend((0..LISTED / 2).map(|_| of(random())));
        shuffle(&mut asked);
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let begin = cpu_ns();
            let found = asked.iter().filter(|address| set.contains(**address)).count();
            runs.push((cpu_ns() - begin) as f64 / asked.len() as f64);
            assert!(black_box(found) >= asked.len() / 2);
        }
        rows.push(json!({ "prefixes": name, "lookup_ns": median(&runs), "bytes": set.bytes() }));
    }
    Value::Array(rows)
}
