//! Any sequence of frames, templates with damage, into the director: no panic, and every
//! session that was made is given back in the end.

#![no_main]

#[path = "../../../dataplane/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use pktgen_tests::frames::{echo_request, fill_checksums, ip_frame, tcp_frame, udp_frame};
use dataplane::snapshot::Snapshot;
use std::sync::LazyLock;
use std::time::Duration;
use support::{A, B, Fate, Lab, Plan, answer_to, inbound};

fuzz_target!(|data: &[u8]| {
    // Building a world takes longer than many a run.
    static WORLD: LazyLock<(Plan, Snapshot)> = LazyLock::new(|| {
        let plan = Plan { weights: vec![2, 1], sessions: 16, kernel_peer: true, ..Plan::default() };
        let world = support::world(&plan);
        (plan, world)
    });
    let mut lab = Lab::with_world(&WORLD.0, WORLD.1.clone());
    let mut seen: Option<Vec<u8>> = None;
    for step in data.chunks(8) {
        let [kind, port, flags, ttl, at, value, cut, time] = std::array::from_fn(|n| step.get(n).copied().unwrap_or(0));
        let client = 4000 + u16::from(port % 32);
        let (side, mut frame) = match (kind & 7, &seen) {
            (0, _) => (A, udp_frame(&inbound(client), b"query")),
            (1, _) => (A, echo_request(&inbound(0), b"ping")),
            (2 | 3, Some(seen)) => (B, tcp_frame(&answer_to(seen), flags, b"answer")),
            (4, Some(seen)) => (B, udp_frame(&answer_to(seen), b"answer")),
            (5, Some(seen)) => {
                let quote = &seen[14..seen.len().min(14 + 28 + usize::from(cut % 64))];
                (B, ip_frame(&answer_to(seen), 1, 64, &[&[3, flags, 0, 0, 0, 0, 0, 0], quote].concat()))
            }
            _ => (A, tcp_frame(&inbound(client), flags, b"data")),
        };
        if kind & 8 != 0 {
            frame[22] = ttl;
        }
        if kind & 16 != 0 {
            let len = frame.len();
            frame[usize::from(at) % len] = value;
        }
        if kind & 32 != 0 && frame[14] & 15 == 5 {
            fill_checksums(&mut frame);
        }
        if kind & 64 != 0 {
            frame.truncate(usize::from(cut));
        }
        if kind & 128 != 0 {
            lab.now = lab.now + Duration::from_millis(u64::from(time) * 100);
        }
        if let Fate::Sent(port, frame) = lab.send(side, &frame)
            && port == B
        {
            seen = Some(frame);
        }
        lab.director.expire(&lab.world, lab.now);
        assert_eq!(lab.stats.sessions_live.value(), lab.sessions() as u64);
    }
    lab.now = lab.now + Duration::from_secs(100_000);
    lab.wait(Duration::from_secs(2));
    assert_eq!(lab.sessions(), 0);
});
