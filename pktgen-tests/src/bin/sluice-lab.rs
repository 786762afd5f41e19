//! `sluice-lab demo` shows the appliance at work; `sluice-lab shell` leaves the lab running
//! with a shell in it. Both take everything down again, also on Ctrl-C.

use pktgen_tests::lab::{Lab, VIP, program};
use pktgen_tests::{demo, netns};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    if !["demo", "shell"].contains(&what.as_str()) {
        eprintln!("usage: sluice-lab demo|shell");
        return ExitCode::from(2);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("sluice-lab: signals cannot be handled: {error}");
            return ExitCode::FAILURE;
        }
    }
    netns::remove_orphans();
    let outcome = if what == "demo" { run_demo(&stop) } else { shell() };
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

fn shell() -> Result<bool, String> {
    let lab = demo::build()?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    println!(
        "\nThe lab is up. This shell is the client's: try `curl http://{VIP}/`, `sluice status`, `sluice session list`."
    );
    println!(
        "Configuration: {} (edit it, then `sluice config reload`). Leave with `exit`.\n",
        lab.config_path().display()
    );
    let mut command = lab.client().command(&shell);
    prepare(&mut command, &lab);
    let status = command.status().map_err(|error| format!("{shell}: {error}"))?;
    Ok(status.success() || status.code().is_some())
}

/// Puts `sluice` on the path, already pointed at the lab's socket.
fn prepare(command: &mut Command, lab: &Lab) {
    let wrapper = lab.folder().join("bin");
    let script = format!(
        "#!/bin/sh\nexec {} --socket {} \"$@\"\n",
        program("sluice").display(),
        lab.socket().display()
    );
    let file = wrapper.join("sluice");
    let made = std::fs::create_dir_all(&wrapper).and_then(|()| std::fs::write(&file, script));
    if made.is_ok() {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", wrapper.display()));
}
