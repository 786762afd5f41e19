//! Ten million random and mutated frames, of both families through every mode: no panic, and the books
//! balance.
//!
//! `SLUICE_MUTATIONS` sets another number; a debug build does fewer by itself.

mod support;

use dataplane::session::{ForwardMode, Persistence};
use dataplane::snapshot::{ClientAddress, ServiceOptions};
use dataplane::wire::{Proxy, ProxyVersion, Uoa};
use pktgen_tests::frames::{
    ETHERNET, Route, echo_request, endpoints, fill_checksums, ip_frame, tcp, tcp_frame, udp_frame,
};
use std::sync::Arc;
use std::time::Duration;
use support::pieces::cut;
use support::{A, B, Fate, Lab, Plan, SERVER, SERVER6, answer_to, inbound, inbound6};

/// A generator of numbers that are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 33) as usize) % limit
    }
}

fn frame(random: &mut Random, seen: &[u8]) -> Vec<u8> {
    let client_port = 4000 + random.below(500) as u16;
    let mut route = if random.below(3) == 0 { inbound6(client_port) } else { inbound(client_port) };
    if random.below(8) == 0 {
        // Towards a host outside, as those behind SNAT go.
        route.destination.0 = if route.source.0.is_ipv4() { SERVER } else { SERVER6 };
    }
    let mut frame = match random.below(11) {
        0 => tcp_frame(&route, tcp::SYN, &[]),
        1 => tcp_frame(&route, random.next() as u8, b"data"),
        2 => udp_frame(&route, b"query"),
        3 => echo_request(&route, b"ping"),
        9 => {
            let mut pieces = cut(&udp_frame(&route, &[7; 90]), random.below(40) as u16, 40);
            pieces.swap_remove(random.below(pieces.len()))
        }
        10 => with_options(random, &route),
        4 if !seen.is_empty() => tcp_frame(&answer_to(seen), random.next() as u8, b"answer"),
        5 if !seen.is_empty() => udp_frame(&answer_to(seen), b"answer"),
        7 if !seen.is_empty() => {
            let quote = &seen[ETHERNET..seen.len().min(ETHERNET + 28 + random.below(40))];
            let four = seen[ETHERNET] >> 4 == 4;
            let kinds = if four { [3, 11, 12] } else { [1, 2, 3] };
            let head = [kinds[random.below(3)], random.next() as u8, 0, 0, 0, 0, 0, 0];
            ip_frame(&answer_to(seen), if four { 1 } else { 58 }, 64, &[&head[..], quote].concat())
        }
        6 => (0..random.below(120)).map(|_| random.next() as u8).collect(),
        _ => tcp_frame(&route, tcp::ACK, b"more"),
    };
    for _ in 0..random.below(4) {
        if frame.is_empty() {
            break;
        }
        let at = random.below(frame.len());
        match random.below(3) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = random.next() as u8,
            _ => frame.truncate(at),
        }
    }
    // Half of the damage is to what checksums would have caught.
    if random.below(2) == 0 {
        fill_checksums(&mut frame);
    }
    frame
}

/// A segment with options, some of which say where the client is.
fn with_options(random: &mut Random, route: &Route) -> Vec<u8> {
    let count = random.below(11) * 4;
    let options: Vec<u8> = (0..count).map(|_| [0, 1, 2, 4, 5, 8, 10, 254][random.below(8)]).collect();
    let mut frame = tcp_frame(route, tcp::ACK, &options);
    let header = if route.source.0.is_ipv4() { 20 } else { 40 };
    frame[ETHERNET + header + 12] = ((20 + count) / 4 * 16) as u8;
    fill_checksums(&mut frame);
    frame
}

/// What the frames go through: every mode, sessions between the families, and every option.
fn plans() -> Vec<Plan> {
    let usual =
        || Plan { weights: vec![3, 1], sessions: 300, sessions6: 300, kernel_peer: true, ..Plan::default() };
    let sources = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:a::/64".parse().unwrap()];
    let persistence = Some(Persistence { timeout: 5_000, prefix4: 32, prefix6: 64 });
    let wishes = ServiceOptions {
        client_address: Some(ClientAddress::Toa(254)),
        persistence,
        sloppy: true,
        expire_quiescent: true,
        reset_on_expiry: true,
        session_limit: 200,
        sources,
        ..ServiceOptions::default()
    };
    let wishes = Arc::new(wishes);
    let mut plans = vec![usual(), Plan { across: true, ..usual() }];
    plans.extend(ForwardMode::ALL.map(|mode| Plan {
        mode,
        options: Arc::clone(&wishes),
        thresholds: (90, 60),
        ..usual()
    }));
    plans.push(Plan { mode: ForwardMode::Tunnel, across: true, ..usual() });
    let proxy = |version| Proxy { version, unique_id: true, vip: true };
    let ways = [
        ClientAddress::Toa(254),
        ClientAddress::Proxy(proxy(ProxyVersion::One)),
        ClientAddress::Proxy(proxy(ProxyVersion::Two)),
        ClientAddress::Uoa(Uoa::Option),
        ClientAddress::Uoa(Uoa::Header),
    ];
    for (across, way) in [false, true].into_iter().flat_map(|across| ways.map(|way| (across, way))) {
        let options = ServiceOptions { client_address: Some(way), ..ServiceOptions::clone(&wishes) };
        plans.push(Plan { across, options: Arc::new(options), ..usual() });
    }
    plans
}

#[test]
fn no_frame_makes_the_director_panic_or_lose_count() {
    let default = if cfg!(debug_assertions) { 500_000 } else { 10_000_000 };
    let total: usize =
        std::env::var("SLUICE_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let mut random = Random(0x5eed);
    let plans = plans();
    for plan in &plans {
        go_through(plan, total / plans.len(), &mut random);
    }
}

fn go_through(plan: &Plan, total: usize, random: &mut Random) {
    let mut lab = Lab::new(plan);
    let mut seen = Vec::new();
    let mut sent = 0;
    while sent < total {
        let port = if random.below(3) == 0 { B } else { A };
        let burst: Vec<_> = (0..1 + random.below(32)).map(|_| frame(random, &seen)).collect();
        sent += burst.len();
        for fate in lab.burst(port, &burst) {
            if let Fate::Sent(to, frame) = fate
                && to == B
                && frame.len() > ETHERNET + 40
                && endpoints(&frame).is_some()
            {
                seen = frame;
            }
        }
        lab.released.clear();
        if random.below(50) == 0 {
            lab.now = lab.now + Duration::from_millis(random.next() % 3_000);
        }
        if random.below(500) == 0 {
            lab.world.routing_epoch = lab.world.routing_epoch.wrapping_add(1);
        }
        lab.director.expire(&lab.world, lab.now);
    }

    let sessions = |lab: &Lab| lab.sessions() + lab.director.sessions6().len();
    assert_eq!(lab.stats.sessions_live.value(), sessions(&lab) as u64);
    lab.wait(Duration::from_secs(1_000));
    assert_eq!(sessions(&lab), 0);
    for id in 0..64 {
        let server = lab.stats.server(dataplane::ids::ServerId(id));
        assert_eq!((server.sessions_active.value(), server.sessions_inactive.value()), (0, 0));
    }
    for id in 0..8 {
        assert_eq!(lab.stats.local_ports_used(dataplane::ids::LocalId(id)).value(), 0);
    }
}
