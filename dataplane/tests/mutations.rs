//! Ten million random and mutated frames: no panic, and the books balance.
//!
//! `SLUICE_MUTATIONS` sets another number; a debug build does fewer by itself.

mod support;

use pktgen_tests::frames::{ETHERNET, echo_request, fill_checksums, ip_frame, tcp, tcp_frame, udp_frame};
use std::time::Duration;
use support::{A, B, Fate, Lab, Plan, answer_to, inbound};

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
    let mut frame = match random.below(9) {
        0 => tcp_frame(&inbound(client_port), tcp::SYN, &[]),
        1 => tcp_frame(&inbound(client_port), random.next() as u8, b"data"),
        2 => udp_frame(&inbound(client_port), b"query"),
        3 => echo_request(&inbound(0), b"ping"),
        4 if !seen.is_empty() => tcp_frame(&answer_to(seen), random.next() as u8, b"answer"),
        5 if !seen.is_empty() => udp_frame(&answer_to(seen), b"answer"),
        7 if !seen.is_empty() => {
            let quote = &seen[ETHERNET..seen.len().min(ETHERNET + 28 + random.below(20))];
            let head = [[3, 11, 12][random.below(3)], random.next() as u8, 0, 0, 0, 0, 0, 0];
            ip_frame(&answer_to(seen), 1, 64, &[&head[..], quote].concat())
        }
        6 => (0..random.below(120)).map(|_| random.next() as u8).collect(),
        _ => tcp_frame(&inbound(client_port), tcp::ACK, b"more"),
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
    if random.below(2) == 0 && frame.len() >= ETHERNET + 28 && frame[ETHERNET] & 15 >= 5 {
        let header = usize::from(frame[ETHERNET] & 15) * 4;
        if frame.len() >= ETHERNET + header + 20 {
            fill_checksums(&mut frame);
        }
    }
    frame
}

#[test]
fn no_frame_makes_the_director_panic_or_lose_count() {
    let default = if cfg!(debug_assertions) { 500_000 } else { 10_000_000 };
    let total: usize =
        std::env::var("SLUICE_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let mut random = Random(0x5eed);
    let mut lab =
        Lab::new(&Plan { weights: vec![3, 1], sessions: 300, kernel_peer: true, ..Plan::default() });
    let mut seen = Vec::new();
    let mut sent = 0;
    while sent < total {
        let port = if random.below(3) == 0 { B } else { A };
        let burst: Vec<_> = (0..1 + random.below(32)).map(|_| frame(&mut random, &seen)).collect();
        sent += burst.len();
        for fate in lab.burst(port, &burst) {
            if let Fate::Sent(to, frame) = fate
                && to == B
            {
                seen = frame;
            }
        }
        if random.below(50) == 0 {
            lab.now = lab.now + Duration::from_millis(random.next() % 3_000);
        }
        lab.director.expire(&lab.world, lab.now);
    }

    let live = lab.stats.sessions_live.value();
    assert_eq!(live, lab.sessions() as u64);
    lab.wait(Duration::from_secs(1_000));
    assert_eq!(lab.sessions(), 0);
    for id in 0..2 {
        let server = lab.stats.server(dataplane::ids::ServerId(id));
        assert_eq!((server.sessions_active.value(), server.sessions_inactive.value()), (0, 0));
    }
    assert_eq!(lab.stats.local_ports_used(dataplane::ids::LocalId(0)).value(), 0);
}
