//! How long the daemon takes from its start until it says that it is ready.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Seconds until `sluiced` with a table of `sessions` is ready.
pub(crate) fn seconds(sessions: usize, core: usize, folder: &Path) -> Result<f64, String> {
    let socket = folder.join("start.sock");
    let config = folder.join("start.toml");
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
    let sluiced = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("sluiced");
    let begin = Instant::now();
    let mut child = Command::new(&sluiced)
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", sluiced.display()))?;
    let mut said = String::new();
    let mut ready = None;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.ends_with("ready") {
                ready = Some(begin.elapsed().as_secs_f64());
                break;
            }
            said.push_str(&line);
        }
    }
    if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    child.wait().map_err(|error| error.to_string())?;
    ready.ok_or(format!("sluiced did not get ready: {said}"))
}
