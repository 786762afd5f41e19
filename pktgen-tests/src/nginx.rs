//! Real web servers.

use crate::netns::Namespace;
use crate::process::{Daemon, run, wait_until};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Starts nginx with a folder of its own by `command`, which may run it in a namespace; `listen` are lines of its
/// `server`, `words` what it says at `/`, and the folder's files are there too. Its log is in `FOLDER.log`.
///
/// # Errors
/// When it cannot be started.
pub fn start(folder: &Path, command: &mut Command, listen: &str, words: &str) -> Result<Daemon, String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let config = format!(
        "daemon off;\nmaster_process off;\nuser root;\nworker_rlimit_nofile 20000;\nerror_log stderr error;\npid {dir}/nginx.pid;\nevents {{ worker_connections 8192; }}\nhttp {{\n access_log off;\n client_body_temp_path {dir}/body;\n proxy_temp_path {dir}/proxy;\n fastcgi_temp_path {dir}/fastcgi;\n uwsgi_temp_path {dir}/uwsgi;\n scgi_temp_path {dir}/scgi;\n keepalive_requests 1000000;\n server {{\n  {listen}\n  root {dir};\n  location = / {{ default_type text/plain; return 200 \"{words}\"; }}\n }}\n}}\n",
        dir = folder.display()
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
    command.arg("-p").arg(folder).arg("-c").arg(&path);
    Daemon::start(command, &folder.with_extension("log"))
}

/// Waits until something listens on a TCP port of a namespace.
///
/// # Errors
/// When nothing does in time.
pub fn wait_for_listener(host: &Namespace, l4_port: u16) -> Result<(), String> {
    let wanted = format!(":{l4_port}");
    let listens = || {
        let list = run(host.command("ss").args(["-Hltn"])).unwrap_or_default();
        list.lines().any(|line| line.split_whitespace().nth(3).is_some_and(|local| local.ends_with(&wanted)))
    };
    if wait_until(Duration::from_secs(10), listens) {
        return Ok(());
    }
    Err(format!("nothing listens in {} on port {l4_port}", host.name()))
}
