//! The kernel's answers to FullNAT probes, held against the pure director.

mod support;

use pktgen_tests::conformance::{self, Side};
use std::time::Duration;
use support::{A, B, Fate, Lab, Plan};

#[test]
fn the_director_answers_as_the_kernel_does() {
    let mut lab = Lab::new(&Plan::default());
    let mut replay = conformance::Replay::default();
    let mut outcomes = Vec::new();
    for probe in conformance::fullnat() {
        let outcome = replay.run(&probe, |side, frames| {
            let port = if side == Side::A { A } else { B };
            let fates: Vec<_> = frames.iter().map(|frame| lab.send(port, frame)).collect();
            fates
                .into_iter()
                .filter_map(|fate| match fate {
                    Fate::Sent(port, frame) => Some((if port == A { Side::A } else { Side::B }, frame)),
                    Fate::Waits(hop) => panic!("{}: waits for {hop:?}", probe.probe),
                    Fate::Punted | Fate::Dropped(_) => None,
                })
                .collect()
        });
        lab.wait(Duration::from_millis(120));
        outcomes.push(outcome);
    }
    let agreeing = conformance::judge(&outcomes).unwrap_or_else(|complaints| panic!("{complaints}"));
    println!("{agreeing} probes agree with the kernel");
    assert!(agreeing >= 30);
}
