//! The kernel's answers to probes of each mode, held against the pure director.

mod support;

use dataplane::session::ForwardMode;
use pktgen_tests::conformance::{self, Mode, Side};
use std::time::Duration;
use support::{A, B, Fate, Lab, Plan};

#[test]
fn the_director_answers_as_the_kernel_does() {
    let complaints: Vec<_> = Mode::ALL.into_iter().filter_map(|mode| replay(mode).err()).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(conformance::DELIBERATE.len() <= 15, "too many differences");
}

fn replay(mode: Mode) -> Result<(), String> {
    let forward = match mode {
        Mode::FullNat => ForwardMode::FullNat,
        Mode::Nat => ForwardMode::Nat,
        Mode::DirectRoute => ForwardMode::DirectRoute,
        Mode::Tunnel => ForwardMode::Tunnel,
    };
    let mut lab = Lab::new(&Plan { mode: forward, ..Plan::default() });
    let mut replay = conformance::Replay::new(mode);
    let mut outcomes = Vec::new();
    for probe in conformance::probes(mode) {
        let outcome = replay.run(&probe, |side, frames| {
            let port = if side == Side::A { A } else { B };
            let mut fates: Vec<_> = frames.iter().map(|frame| lab.send(port, frame)).collect();
            fates.append(&mut lab.released);
            fates
                .into_iter()
                .filter_map(|fate| match fate {
                    Fate::Sent(port, frame) => Some((if port == A { Side::A } else { Side::B }, frame)),
                    Fate::Waits(hop) => panic!("{}: waits for {hop:?}", probe.probe),
                    Fate::Punted | Fate::Kernel | Fate::Untagged | Fate::Held | Fate::Dropped(_) => None,
                })
                .collect()
        });
        lab.wait(Duration::from_millis(120));
        outcomes.push(outcome);
    }
    let agreeing = conformance::judge(mode, &outcomes)
        .map_err(|complaints| format!("{}:\n{complaints}", mode.name()))?;
    println!("{}: {agreeing} probes agree with the kernel", mode.name());
    Ok(())
}
