//! `sluice-lab demo` shows the appliance at work; `sluice-lab shell MODE` leaves a lab of that forwarding mode running
//! with a shell in it. Both take everything down again, also on Ctrl-C.

use pktgen_tests::tour::{self, Mode};
use pktgen_tests::{demo, netns};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let mode = Mode::named(&arguments.next().unwrap_or_default());
    let Some(mode) = mode.as_ref().ok().copied().filter(|_| ["demo", "shell"].contains(&what.as_str()))
    else {
        eprintln!("sluice-lab: {}", mode.err().unwrap_or("usage: sluice-lab demo | shell [MODE]".into()));
        return ExitCode::from(2);
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("sluice-lab: signals cannot be handled: {error}");
            return ExitCode::FAILURE;
        }
    }
    netns::remove_orphans();
    let outcome = if what == "demo" { run_demo(&stop) } else { shell(mode) };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The demonstration on a thread, so that a signal can end it at once: the lab stays here
/// and is taken down either way.
fn run_demo(stop: &AtomicBool) -> Result<bool, String> {
    let lab = demo::build()?;
    let (sender, result) = mpsc::channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let _ = sender.send(demo::show(&lab));
        });
        loop {
            if let Ok(result) = result.recv_timeout(Duration::from_millis(50)) {
                return result;
            }
            if stop.load(Ordering::Relaxed) {
                // The terminal's Ctrl-C also ended curl, so the thread comes back by itself.
                let _ = worker.join();
                return Err("stopped; everything was taken down".into());
            }
        }
    })
}

fn shell(mode: Mode) -> Result<bool, String> {
    let lab = tour::build(mode)?;
    let start = tour::commands(mode, &lab)?;
    let bash = Path::new("/bin/bash");
    // Other shells have other places for a prompt.
    let mut command = match bash.exists() {
        true => {
            let mut command = lab.client().command("/bin/bash");
            command.arg("--rcfile").arg(&start).arg("-i");
            command
        }
        false => {
            let mut command = lab.client().command("/bin/sh");
            command.arg("-i").env("ENV", &start);
            command
        }
    };
    let status = command.status().map_err(|error| format!("shell: {error}"))?;
    Ok(status.code().is_some())
}
