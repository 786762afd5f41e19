//! The machine under the benchmark: what it is, how fast it runs now, how busy it is.

use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

/// What the report says about the machine.
pub(crate) fn describe() -> Value {
    json!({
        "cpu": cpu_name(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "core_ghz": core_ghz(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "transparent_hugepages": read("/sys/kernel/mm/transparent_hugepage/enabled").trim(),
        "load_before": load(),
    })
}

/// This thread's CPU time, in nanoseconds, exact to a few milliseconds.
pub(crate) fn cpu_ns() -> u64 {
    first_number(&read("/proc/thread-self/schedstat"))
}

/// The CPU time of a process's thread whose name contains `name`, in nanoseconds.
pub(crate) fn thread_cpu_ns(pid: u32, name: &str) -> Option<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let task = tasks
        .flatten()
        .map(|task| task.path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.contains(name)))?;
    Some(first_number(&std::fs::read_to_string(task.join("schedstat")).ok()?))
}

/// Memory of this process that is in use, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let statm = read("/proc/self/statm");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// The load average of the last minute.
pub(crate) fn load() -> f64 {
    read("/proc/loadavg").split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// The last core, where nothing else should run.
pub(crate) fn measuring_core() -> usize {
    std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1)
}

/// The middle one of several runs.
pub(crate) fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The largest distance of a run from the median, in percent of the median.
pub(crate) fn spread_pct(runs: &[f64]) -> f64 {
    let middle = median(runs);
    runs.iter().map(|run| (run - middle).abs()).fold(0.0, f64::max) / middle * 100.0
}

/// The clock of the core this runs on, in GHz: a chain of multiplications and disjunctions, of
/// which each waits for the one before. Four cycles a link on Intel since Nehalem, AMD since Zen
/// and Arm's Neoverse.
fn core_ghz() -> f64 {
    const LINKS: u64 = 100_000_000;
    let mut value = black_box(0x9e37_79b9u64);
    let begin = Instant::now();
    for _ in 0..LINKS {
        value = value.wrapping_mul(value | 1);
    }
    black_box(value);
    (LINKS * 4) as f64 / begin.elapsed().as_nanos() as f64
}

fn cpu_name() -> String {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.and_then(|line| line.split(':').nth(1))
        .map_or_else(|| "unknown".into(), |name| name.trim().to_owned())
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
