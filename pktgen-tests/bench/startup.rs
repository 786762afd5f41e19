//! How long the daemon takes from its start until it says that it is ready.

use crate::peer::myself;
use pktgen_tests::process::{Daemon, Folder, wait_until};
use std::process::Command;
use std::time::{Duration, Instant};

/// Far more than any start takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds until `sluiced` with a table of `sessions` is ready.
pub(crate) fn seconds(sessions: usize, core: usize) -> Result<f64, String> {
    let folder = Folder::new("start")?;
    let socket = folder.path().join("admin.sock");
    let config = folder.path().join("sluice.toml");
    let text = format!(
        r#"[dataplane]
workers = [{core}]
session_capacity = {sessions}
[admin]
socket = "{}"
[[port]]
name = "wan"
device = "net_null0"
addresses = ["192.0.2.2/24"]
[[service]]
name = "web"
listen = "192.0.2.10:80"
protocol = "tcp"
forward = "fullnat"
scheduler = "rr"
local_addresses = ["192.0.2.200"]
[[service.server]]
address = "192.0.2.50:80"
weight = 1
"#,
        socket.display()
    );
    std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
    let sluiced = myself()?.with_file_name("sluiced");
    let begin = Instant::now();
    let mut daemon =
        Daemon::start(Command::new(&sluiced).arg("--config").arg(&config), &folder.path().join("log"))?;
    let ready =
        wait_until(PATIENCE, || daemon.output().contains("sluiced: ready") || daemon.ended().is_some());
    let seconds = begin.elapsed().as_secs_f64();
    if ready && daemon.ended().is_none() {
        Ok(seconds)
    } else {
        Err(format!("sluiced did not get ready: {}", daemon.output()))
    }
}
