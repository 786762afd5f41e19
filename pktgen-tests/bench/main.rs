//! `make bench`: what a packet and a session cost the appliance's own code.
//!
//! One worker runs between an in-process source and sink, both directions, sessions in random
//! order; "added" is what it costs beyond source and sink. Every run checks one frame in a
//! thousand that comes out, whole, and fails when one is wrong. What is not measured yet (peers on
//! the same pcap, connection rates, latency) is listed in docs/PERFORMANCE.md.

mod cases;
mod source;
mod world;

use cases::Measured;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // For valgrind: nothing but steady traffic, so that the difference between two runs of
    // different length is what packets cost.
    if let ["steady", protocol, packets] =
        std::env::args().skip(1).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        let protocol = if protocol == "tcp" { "tcp" } else { "udp" };
        cases::steady(protocol, packets.parse().unwrap_or(0));
        return ExitCode::SUCCESS;
    }
    let quick = std::env::var("QUICK").is_ok_and(|text| text == "1");
    let (sizes, packets): (&[usize], u64) = if quick {
        (&[1_000, 100_000], 5_000_000)
    } else {
        (&[1_000, 100_000, 1_000_000, 10_000_000], 20_000_000)
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    if load > 0.5 {
        println!("warning: the machine is busy (load {load}); figures will be too high");
    }
    println!(
        "{:>8} {:>10} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9}",
        "protocol", "sessions", "null ns", "total ns", "added ns", "spread %", "fill ns", "B/session"
    );
    let mut measured = Vec::new();
    for protocol in ["udp", "tcp"] {
        for sessions in sizes {
            let row = cases::fullnat(protocol, *sessions, packets);
            // A small table drowns in what else a process has.
            let bytes =
                if *sessions < 1_000_000 { "-".into() } else { format!("{:.0}", row.bytes_per_session) };
            println!(
                "{:>8} {:>10} {:>9.1} {:>9.1} {:>9.1} {:>8.1} {:>9.0} {:>9}",
                row.protocol,
                row.sessions,
                row.null_ns,
                row.fullnat_ns,
                row.fullnat_ns - row.null_ns,
                row.spread_pct,
                row.fill_ns,
                bytes
            );
            measured.push(row);
        }
    }
    match write_report(&measured) {
        Ok(path) => {
            println!("report: {path}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sluice-bench: the report cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_report(measured: &[Measured]) -> std::io::Result<String> {
    let row = |case: &str, row: &Measured, ns: f64| {
        json!({
            "case": case, "family": "ipv4", "protocol": row.protocol, "sessions": row.sessions, "transport": "in-process",
            "ns_per_packet": ns, "mpps": 1_000.0 / ns, "added_ns": ns - row.null_ns, "spread_pct": row.spread_pct,
        })
    };
    let rows: Vec<_> = measured
        .iter()
        .flat_map(|measured| {
            [row("null", measured, measured.null_ns), row("fullnat", measured, measured.fullnat_ns)]
        })
        .collect();
    let largest = measured.iter().max_by_key(|row| row.sessions);
    let report = json!({
        "machine": { "cpu": cpu_name(), "cores": std::thread::available_parallelism().map_or(0, usize::from) },
        "rows": rows,
        "memory": { "bytes_per_session_v4": largest.map(|row| row.bytes_per_session) },
        "connections": { "new_udp_sessions_filling_per_s": largest.map(|row| 1e9 / row.fill_ns) },
        "frames_checked": measured.iter().map(|row| row.frames_checked).sum::<u64>(),
    });
    let path = Path::new("target/bench/report.json");
    std::fs::create_dir_all("target/bench")?;
    std::fs::write(path, format!("{report:#}\n"))?;
    Ok(path.display().to_string())
}

fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.and_then(|line| line.split(':').nth(1))
        .map_or_else(|| "unknown".into(), |name| name.trim().to_owned())
}
