//! Programs that check: each with all that it starts in a process group of its own, which ends with the question.

use super::Fault;
use rustix::process::{Pid, Signal, kill_process_group};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

/// Runs the program; good is status 0.
pub(super) async fn run(command: &[String], target: SocketAddr, source: Option<IpAddr>) -> Result<(), Fault> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut child = tokio::process::Command::new(program);
    child
        .args(arguments)
        .env("SLUICE_ADDRESS", target.ip().to_string())
        .env("SLUICE_PORT", target.port().to_string())
        .env("SLUICE_SOURCE", source.map_or(String::new(), |source| source.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = child.spawn().map_err(|error| Fault::Here(format!("{program}: {error}")))?;
    let _group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
    let status = child.wait().await.map_err(|error| Fault::Here(format!("{program}: {error}")))?;
    if status.success() { Ok(()) } else { Err(Fault::Server(format!("{program}: {status}"))) }
}

/// A process group that is killed when this is dropped: at the end of the program, of its time, or of the daemon.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Usually nobody is left in it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
