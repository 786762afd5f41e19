//! Instructions per packet, counted by callgrind: the same on a busy machine as on an idle one.

use crate::peer::myself;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// What a packet may cost, written down when it was last measured.
const RECORDED: &str = include_str!("instructions.json");
/// How much more than recorded the guard lets pass, in percent. Compilers and their inlining move
/// the count by a few.
const TOLERANCE_PCT: f64 = 5.0;

/// Instructions per packet of steady traffic over a thousand sessions, source and sink taken off.
pub(crate) fn per_packet(protocol: &str) -> Result<f64, String> {
    Ok(slope(protocol)? - slope(&format!("{protocol}-null"))?)
}

/// From the difference between a long and a short run, in which what is done once falls out.
fn slope(arm: &str) -> Result<f64, String> {
    const SHORT: u64 = 50_000;
    const LONG: u64 = 250_000;
    let difference = count(arm, LONG)? - count(arm, SHORT)?;
    Ok(difference as f64 / (LONG - SHORT) as f64)
}

fn count(arm: &str, packets: u64) -> Result<i64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(myself()?)
        .args(["traffic", arm, &packets.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}; install it (Debian's package valgrind)"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("traffic {arm}: {text}"));
    }
    let line = text.lines().find(|line| line.contains("Collected :"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .ok_or_else(|| format!("valgrind tells no count: {text}"))
}

/// Compares both protocols with what was recorded; fails when one takes more.
pub(crate) fn guard() -> Result<(), String> {
    let recorded: Value =
        serde_json::from_str(RECORDED).map_err(|error| format!("instructions.json: {error}"))?;
    if !std::arch::is_x86_feature_detected!("avx2") {
        println!("not compared: the recorded counts are those of a CPU with AVX2");
        return Ok(());
    }
    let mut worse = Vec::new();
    for protocol in ["udp", "tcp"] {
        let now = per_packet(protocol)?;
        let before = recorded[protocol].as_f64().ok_or("instructions.json names no count")?;
        let change = (now / before - 1.0) * 100.0;
        println!("{protocol}: {now:.0} instructions per packet, recorded {before:.0}, {change:+.1} %");
        if change > TOLERANCE_PCT {
            worse.push(protocol);
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!(
        "a packet takes over {TOLERANCE_PCT} % more instructions than recorded ({}); find out why, or, if it must be so, record the new counts in pktgen-tests/bench/instructions.json",
        worse.join(", ")
    ))
}

/// Both counts, and UDP's with eight workers, for the report.
pub(crate) fn report() -> Result<Value, String> {
    let eight = slope("udp-8")? - slope("udp-null")?;
    Ok(json!({ "udp": per_packet("udp")?, "tcp": per_packet("tcp")?, "udp_8_workers": eight }))
}
