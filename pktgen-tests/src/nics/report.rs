//! Steps tried one after the other, and the table of what was seen.

use super::guest::Nic;
use super::image::Image;
use super::lab::NicLab;
use super::steps::Step;
use crate::process::run;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What was seen of a step.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The step.
    pub name: &'static str,
    /// What it said, or why it failed.
    pub seen: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// What was seen of a NIC.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The NIC.
    pub nic: String,
    /// Its driver, as DPDK calls it.
    pub driver: String,
    /// DPDK's version.
    pub dpdk: String,
    /// Workers.
    pub workers: usize,
    /// Every step.
    pub outcomes: Vec<Outcome>,
}

/// An emulated machine sometimes stands still for good; then all is tried once more with another.
const ATTEMPTS: usize = 3;

/// Tries `steps` on a guest with two of these NICs, and says each.
///
/// # Errors
/// When no guest comes up.
pub fn walk(image: &Image, nic: &Nic<'_>, workers: usize, steps: &[Step]) -> Result<Walk, String> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let walked = walk_once(image, nic, workers, steps);
        let error = match &walked {
            // A machine that dies takes its cables along: what failed first may not say so, and what failed last does.
            Ok(walk) => walk.outcomes.iter().rev().find_map(|outcome| outcome.seen.as_ref().err()),
            Err(error) => Some(error),
        };
        match error {
            Some(error) if error.contains("the guest ") && attempt < ATTEMPTS => {
                println!("  the machine itself failed, another is tried: {error}");
            }
            _ => return walked,
        }
    }
}

fn walk_once(image: &Image, nic: &Nic<'_>, workers: usize, steps: &[Step]) -> Result<Walk, String> {
    println!("{}, {workers} workers", nic.name);
    // QEMU has one queue for a cable that shows tags.
    walk_labs(nic, workers, steps, nic.host_queues == 1, |vlans| NicLab::new(image, nic, workers, vlans))
}

/// Tries `steps` on labs that `lab` makes, with plain links and, if `tags` can be tried, with VLANs.
///
/// # Errors
/// When a lab cannot be made.
pub fn walk_labs(
    nic: &Nic<'_>,
    workers: usize,
    steps: &[Step],
    tags: bool,
    lab: impl Fn(bool) -> Result<NicLab, String>,
) -> Result<Walk, String> {
    let name = nic.name.to_owned();
    let mut walk =
        Walk { nic: name, driver: String::new(), dpdk: String::new(), workers, outcomes: Vec::new() };
    let (tagged, plain): (Vec<Step>, Vec<Step>) = steps.iter().partition(|step| step.is_tagged);
    for (steps, vlans) in [(plain, false), (tagged, true)] {
        if steps.is_empty() || vlans && !tags {
            continue;
        }
        let lab = lab(vlans)?;
        for step in steps {
            let begin = Instant::now();
            let seen = (step.run)(&lab, nic, workers);
            let took = begin.elapsed();
            let (mark, text) = match &seen {
                Ok(text) => ("ok", text),
                Err(text) => ("FAILED", text),
            };
            println!("  {:>5.1} s  {mark:<6} {}: {text}", took.as_secs_f64(), step.name);
            let is_over = seen.is_err() && (step.name == "start" || text.contains("the guest "));
            walk.outcomes.push(Outcome { name: step.name, seen, took });
            if is_over {
                return Ok(walk);
            }
            if walk.driver.is_empty() {
                let ports = lab.json("port list")?;
                walk.driver = ports[0]["driver"].as_str().unwrap_or_default().to_owned();
                walk.dpdk = lab.json("status")?["dpdk"].as_str().unwrap_or_default().to_owned();
            }
        }
    }
    Ok(walk)
}

impl Walk {
    /// How many steps failed.
    pub fn failures(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.seen.is_err()).count()
    }
}

/// What emulated NICs ran with.
pub fn emulation(kernel: &str) -> String {
    let qemu = run(Command::new("qemu-system-x86_64").arg("--version")).unwrap_or_default();
    let qemu = qemu.lines().next().unwrap_or_default().replace("QEMU emulator version ", "");
    format!("QEMU {qemu}, the guest's kernel {kernel}")
}

/// The table in Markdown: a column for each NIC, a row for each step, with DPDK's version and what `beside` it was run.
pub fn table(walks: &[Walk], steps: &[Step], beside: &str) -> String {
    let dpdk = walks.first().map_or("", |walk| &walk.dpdk);
    let mut text = format!("{dpdk}, {beside}.\n\n|");
    for walk in walks {
        let _ = write!(text, " | {}", walk.nic);
    }
    text.push_str(" |\n|---|");
    text.push_str(&"---|".repeat(walks.len()));
    let rows = [
        ("driver", &|walk: &Walk| walk.driver.clone()),
        ("workers", &|walk: &Walk| walk.workers.to_string()),
    ] as [(&str, &dyn Fn(&Walk) -> String); 2];
    for (name, cell) in rows {
        let cells: Vec<_> = walks.iter().map(cell).collect();
        let _ = write!(text, "\n| {name} | {} |", cells.join(" | "));
    }
    for step in steps {
        let seen = |walk: &Walk| {
            walk.outcomes.iter().find(|outcome| outcome.name == step.name).map(|outcome| outcome.seen.clone())
        };
        let cell = |walk: &Walk| match seen(walk) {
            Some(Ok(said)) => said.replace('|', "/"),
            Some(Err(_)) => "**failed**".to_owned(),
            None => "not tried".to_owned(),
        };
        let cells: Vec<_> = walks.iter().map(cell).collect();
        let _ = write!(text, "\n| {} | {} |", step.name, cells.join(" | "));
    }
    text.push('\n');
    text
}

/// Where the table stands on its page.
const BOUNDS: [&str; 2] = ["<!-- what make test-nics saw -->\n", "<!-- end -->"];

/// Puts a table on the page in place of the last one.
///
/// # Errors
/// When the page cannot be read or written, or has no place for one.
pub fn put(page: &Path, table: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", page.display());
    let text = std::fs::read_to_string(page).map_err(failed)?;
    let parts =
        text.split_once(BOUNDS[0]).and_then(|(head, rest)| Some((head, rest.split_once(BOUNDS[1])?.1)));
    let (head, tail) = parts.ok_or_else(|| format!("{}: there is no place for the table", page.display()))?;
    std::fs::write(page, format!("{head}{}{table}{}{tail}", BOUNDS[0], BOUNDS[1])).map_err(failed)
}
