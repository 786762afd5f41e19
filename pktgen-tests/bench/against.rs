//! This program against another build of itself, by turns on the same core: what a change brought, on a machine that
//! is not quiet.
//!
//! Both get the same packets in the same minute, and testpmd stands between them. What counts is the ratio of a round,
//! because a neighbour that slows the machine slows both of its sides.

use crate::device::Plan;
use crate::machine::median;
use crate::peer::{Run, Sibling, Testpmd, case_of};
use crate::run::{Frames, folder, go_on, listen_for_the_end, with_packets};
use crate::world::Way;
use pktgen_tests::process::Hugepages;
use std::path::Path;
use std::time::Duration;

/// Rounds of every case; the first of each is not counted.
const ROUNDS: usize = 9;
const TIME: Duration = Duration::from_millis(500);
/// Rounds of the cases without a device, which take longer.
const PROCESS_ROUNDS: usize = 4;

/// Measures by turns the cases whose name has one of `words`, or all of them.
///
/// # Errors
/// When the other program does not run, or answers nothing.
pub(crate) fn against(other: &str, words: &[&str]) -> Result<(), String> {
    listen_for_the_end()?;
    let other = Path::new(other);
    if !other.is_file() {
        return Err(format!(
            "{}: there is no such program; `cargo build --release -p sluice --features bench --bin sluice-bench` makes one in another checkout",
            other.display()
        ));
    }
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    println!(
        "{:<26} {:>7} {:>9} {:>9} {:>9} {:>9}   {:<22}",
        "case", "io ns", "other ns", "this ns", "other +", "this +", "this + / other + of rounds"
    );
    let hugepages = Hugepages::reserve(2_000);
    if let Err(reason) = &hugepages {
        println!("warning: on ordinary pages, because {reason}");
    }
    let fullnat = ["udp", "tcp"]
        .into_iter()
        .flat_map(|protocol| [1_000, 100_000, 1_000_000].map(|flows| (Way::FULLNAT, protocol, flows)));
    let others = Way::ALL.into_iter().filter(|way| *way != Way::FULLNAT).map(|way| (way, "udp", 1_000));
    let drops = [Way::NOT_FOR_US, Way::NO_SERVICE]
        .into_iter()
        .flat_map(|way| [1_000, 1_000_000].map(|flows| (way, "udp", flows)));
    for (way, protocol, flows) in fullnat.chain(others).chain(drops) {
        let name = format!("{} {} {protocol} {flows}", way.mode, way.family());
        if is_wanted(&name) {
            let frames = Frames { way, protocol, flows, shuffled: true };
            on_a_device(&name, other, &frames, hugepages.is_ok())?;
        }
    }
    drop(hugepages);
    // Nanoseconds of a packet; of those that are made, how many a second.
    let cases: [(&str, &[&str], &str); 6] = [
        ("process udp 1000", &["steady", "udp", "1000", "10000000"], "fullnat_ns"),
        ("process udp 1000000", &["steady", "udp", "1000000", "10000000"], "fullnat_ns"),
        ("process udp 10000000", &["steady", "udp", "10000000", "10000000"], "fullnat_ns"),
        ("process tcp 1000000", &["steady", "tcp", "1000000", "10000000"], "fullnat_ns"),
        ("sessions sustained", &["sustained", "4"], "new_per_s"),
        ("connections", &["connections", "4"], "connections_per_s"),
    ];
    for (name, words, key) in cases {
        if is_wanted(name) {
            in_the_process(name, other, words, key)?;
        }
    }
    Ok(())
}

fn on_a_device(name: &str, other: &Path, frames: &Frames, hugepages: bool) -> Result<(), String> {
    with_packets(frames, &folder()?, |path| {
        let plan = Plan::on_pcap(path, frames, hugepages);
        let mut testpmd = Testpmd::start(&plan)?;
        let mut siblings = [Sibling::start_of(other, "device", &plan)?, Sibling::start("device", &plan)?];
        let mut arms: [Vec<Run>; 3] = Default::default();
        for round in 0..ROUNDS {
            go_on()?;
            let [io, of_other, of_this] = [
                testpmd.run("io", TIME)?,
                siblings[0].run("sluice", TIME)?,
                siblings[1].run("sluice", TIME)?,
            ];
            if round > 0 {
                arms[0].push(io);
                arms[1].push(of_other);
                arms[2].push(of_this);
            }
        }
        let [io, of_other, of_this] =
            arms.map(|runs| runs.iter().map(Run::cpu_ns_per_packet).collect::<Vec<_>>());
        let added = |runs: &[f64]| runs.iter().zip(&io).map(|(ns, io)| ns - io).collect::<Vec<_>>();
        report(name, Some(&io), [&of_other, &of_this], [&added(&of_other), &added(&of_this)]);
        Ok(())
    })
}

fn in_the_process(name: &str, other: &Path, words: &[&str], key: &str) -> Result<(), String> {
    let mut whole: [Vec<f64>; 2] = Default::default();
    let mut added: [Vec<f64>; 2] = Default::default();
    for _ in 0..PROCESS_ROUNDS {
        for (at, program) in [other.to_path_buf(), crate::peer::myself()?].into_iter().enumerate() {
            go_on()?;
            let answer = case_of(&program, words)?;
            let figure = answer[key].as_f64().ok_or_else(|| format!("no {key} in {answer}"))?;
            let ns = if key.ends_with("_per_s") { 1e9 / figure } else { figure };
            whole[at].push(ns);
            added[at].push(ns - answer["null_ns"].as_f64().unwrap_or(0.0));
        }
    }
    report(name, None, [&whole[0], &whole[1]], [&added[0], &added[1]]);
    Ok(())
}

fn report(name: &str, io: Option<&[f64]>, whole: [&[f64]; 2], added: [&[f64]; 2]) {
    let ratios: Vec<_> = added[1].iter().zip(added[0]).map(|(this, other)| this / other).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let io = io.map_or("-".to_owned(), |io| format!("{:.1}", median(io)));
    let [other, this, other_added, this_added] =
        [whole[0], whole[1], added[0], added[1]].map(|values| format!("{:.2}", median(values)));
    println!(
        "{name:<26} {io:>7} {other:>9} {this:>9} {other_added:>9} {this_added:>9}   {:.3} [{least:.3}..{most:.3}]",
        median(&ratios)
    );
}
