//! Any sequence of frames of both families, templates with damage, through any mode: no panic, and every
//! session that was made is given back in the end.

#![no_main]

#[path = "../../../dataplane/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use pktgen_tests::frames::{echo_request, fill_checksums, ip_frame, tcp_frame, udp_frame};
use dataplane::session::{ForwardMode, Persistence};
use dataplane::snapshot::{ClientAddress, ServiceOptions, Snapshot};
use dataplane::wire::{Proxy, ProxyVersion, Uoa};
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use support::pieces::cut;
use support::{A, B, Fate, Lab, Plan, answer_to, inbound, inbound6};

fuzz_target!(|data: &[u8]| {
    // Building a world takes longer than many a run.
    static WORLDS: LazyLock<Vec<(Plan, Snapshot)>> = LazyLock::new(|| {
        let wishes = Arc::new(ServiceOptions {
            client_address: Some(ClientAddress::Toa(254)),
            persistence: Some(Persistence { timeout: 5_000, prefix4: 32, prefix6: 64 }),
            sources: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:a::/64".parse().unwrap()],
            ..ServiceOptions::default()
        });
        let plan = |mode, across, options: &Arc<ServiceOptions>| {
            let options = Arc::clone(options);
            let plan = Plan { mode, across, options, weights: vec![2, 1], sessions: 16, sessions6: 16, kernel_peer: across, ..Plan::default() };
            let world = support::world(&plan);
            (plan, world)
        };
        let mut worlds: Vec<_> = ForwardMode::ALL.map(|mode| plan(mode, false, &wishes)).into();
        worlds.push(plan(ForwardMode::FullNat, true, &wishes));
        worlds.push(plan(ForwardMode::Tunnel, true, &wishes));
        worlds.push(plan(ForwardMode::FullNat, false, &Arc::default()));
        let proxy = Proxy { version: ProxyVersion::Two, unique_id: true, vip: true };
        for way in [ClientAddress::Proxy(proxy), ClientAddress::Uoa(Uoa::Option), ClientAddress::Uoa(Uoa::Header)] {
            let options = ServiceOptions { client_address: Some(way), ..ServiceOptions::default() };
            let options = Arc::new(options);
            worlds.extend([false, true].map(|across| plan(ForwardMode::FullNat, across, &options)));
        }
        worlds
    });
    let Some((world, data)) = data.split_first() else { return };
    let (plan, world) = &WORLDS[usize::from(*world) % WORLDS.len()];
    let mut lab = Lab::with_world(plan, world.clone());
    let mut seen: Option<Vec<u8>> = None;
    for step in data.chunks(8) {
        let [kind, port, flags, ttl, at, value, cut_at, time] = std::array::from_fn(|n| step.get(n).copied().unwrap_or(0));
        let client = 4000 + u16::from(port % 32);
        let route = if port & 64 != 0 { inbound6(client) } else { inbound(client) };
        let (side, mut frame) = match (kind & 7, &seen) {
            (0, _) if port & 32 != 0 => {
                let mut pieces = cut(&udp_frame(&route, &[7; 90]), u16::from(cut_at & 3), 40);
                (A, pieces.swap_remove(usize::from(at) % 3))
            }
            (0, _) => (A, udp_frame(&route, b"query")),
            (1, _) => (A, echo_request(&route, b"ping")),
            (2 | 3, Some(seen)) => (B, tcp_frame(&answer_to(seen), flags, b"answer")),
            (4, Some(seen)) => (B, udp_frame(&answer_to(seen), b"answer")),
            (5, Some(seen)) => {
                let quote = &seen[14..seen.len().min(14 + 28 + usize::from(cut_at % 64))];
                let (protocol, kind) = if seen[14] >> 4 == 4 { (1, 3) } else { (58, 1) };
                (B, ip_frame(&answer_to(seen), protocol, 64, &[&[kind, flags, 0, 0, 0, 0, 0, 0], quote].concat()))
            }
            _ => (A, tcp_frame(&route, flags, b"data")),
        };
        if kind & 8 != 0 {
            frame[22] = ttl;
        }
        if kind & 16 != 0 {
            let len = frame.len();
            frame[usize::from(at) % len] = value;
        }
        if kind & 32 != 0 {
            fill_checksums(&mut frame);
        }
        if kind & 64 != 0 {
            frame.truncate(usize::from(cut_at));
        }
        if kind & 128 != 0 {
            lab.now = lab.now + Duration::from_millis(u64::from(time) * 100);
        }
        if let Fate::Sent(port, frame) = lab.send(side, &frame)
            && port == B
            && frame.len() > 54
            && pktgen_tests::frames::endpoints(&frame).is_some()
        {
            seen = Some(frame);
        }
        lab.director.expire(&lab.world, lab.now);
        let live = lab.sessions() + lab.director.sessions6().len();
        assert_eq!(lab.stats.sessions_live.value(), live as u64);
    }
    lab.now = lab.now + Duration::from_secs(100_000);
    lab.wait(Duration::from_secs(2));
    assert_eq!(lab.sessions() + lab.director.sessions6().len(), 0);
});
