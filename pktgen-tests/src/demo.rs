//! The demonstration: real HTTP through a FullNAT VIP, and what the command line says about it.

use crate::lab::{CLIENT, Lab, Plan, VIP};
use std::collections::BTreeMap;

/// How many requests the demonstration sends.
const REQUESTS: usize = 1_000;

/// Builds the lab of the demonstration, servers and appliance running.
///
/// # Errors
/// With what could not be started.
pub fn build() -> Result<Lab, String> {
    let mut lab = Lab::new(Plan::default())?;
    lab.start_nginx(0, 80)?;
    lab.start_nginx(1, 80)?;
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "wrr", &[0, 1]);
    lab.start_sluiced(&config)?;
    Ok(lab)
}

/// Shows the lab at work. True when every request was answered rightly and both servers
/// had their share.
///
/// # Errors
/// When the demonstration itself cannot go on.
pub fn show(lab: &Lab) -> Result<bool, String> {
    println!(
        "\n  client {CLIENT}  ->  VIP {VIP}:80  ->  sluiced (FullNAT, DPDK af_packet)  ->  rs1 10.0.0.11, rs2 10.0.0.12\n"
    );
    println!("{REQUESTS} HTTP requests with curl, a new connection each ...");
    let answers = lab.http(REQUESTS, 20)?;
    let mut by_answer: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in &answers {
        *by_answer.entry(answer.as_str()).or_default() += 1;
    }
    let right: usize = ["rs1", "rs2"].iter().filter_map(|name| by_answer.get(name)).sum();
    for (answer, count) in &by_answer {
        println!("  {count:5} x {answer}");
    }
    println!("  {right} of {REQUESTS} requests answered rightly");

    for (title, arguments) in [
        ("sluice status", ["status"].as_slice()),
        ("sluice service list", &["service", "list"]),
        ("sluice session count", &["session", "count"]),
        ("sluice session list | head -5", &["session", "list"]),
        ("sluice port list", &["port", "list"]),
        ("sluice neighbor list", &["neighbor", "list"]),
        ("sluice stats drops", &["stats", "drops"]),
    ] {
        println!("\n$ {title}");
        let limit = if title.ends_with("head -5") { 5 } else { usize::MAX };
        lab.sluice(arguments)?.lines().take(limit).for_each(|line| println!("{line}"));
    }

    let spread =
        ["rs1", "rs2"].iter().all(|name| by_answer.get(name).is_some_and(|count| *count >= REQUESTS / 4));
    let ok = right == REQUESTS && answers.len() == REQUESTS && spread;
    println!(
        "\n{}",
        if ok { "demo: every request was right, and both servers had their share" } else { "demo: FAILED" }
    );
    Ok(ok)
}
