//! Programs that check, and those that are told of something: each with all that it starts in a process group of its own, which ends with the question. What
//! leaves the group becomes a child of the daemon when its parent ends, and is ended too.

use super::Fault;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, set_child_subreaper, waitpid,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The programs that run now, if orphans are adopted.
static RUNNING: Mutex<Option<BTreeSet<i32>>> = Mutex::new(None);

/// Makes what outlives its parent a child of this process, which starts nothing but such programs.
///
/// # Errors
/// When the kernel refuses.
pub fn adopt_orphans() -> std::io::Result<()> {
    set_child_subreaper(Some(rustix::process::getpid()))?;
    *RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(BTreeSet::new());
    Ok(())
}

/// What systemd tells the daemon, and nobody else (systemd.exec(5)).
const OF_THE_MANAGER: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
];

/// What a program is told in its environment.
pub type Variables = Vec<(&'static str, String)>;

/// Runs the program that checks a server; good is status 0.
pub(super) async fn check(
    command: &[String],
    target: SocketAddr,
    source: Option<IpAddr>,
) -> Result<(), Fault> {
    let variables = vec![
        ("SLUICE_ADDRESS", target.ip().to_string()),
        ("SLUICE_PORT", target.port().to_string()),
        ("SLUICE_SOURCE", source.map_or(String::new(), |source| source.to_string())),
    ];
    run(command, &variables).await
}

/// Runs a program to its end.
pub(super) async fn run(command: &[String], variables: &Variables) -> Result<(), Fault> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut child = tokio::process::Command::new(program);
    for name in OF_THE_MANAGER {
        child.env_remove(name);
    }
    child
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = child.spawn().map_err(|error| Fault::Here(format!("{program}: {error}")))?;
    let _group = Group::of(child.id().and_then(|id| Pid::from_raw(id as i32)));
    let status = child.wait().await.map_err(|error| Fault::Here(format!("{program}: {error}")))?;
    if status.success() { Ok(()) } else { Err(Fault::Server(format!("{program}: {status}"))) }
}

/// A process group that is killed when this is dropped: at the end of the program, of its time, or of the daemon.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<Pid>) -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let (Some(running), Some(leader)) = (running.as_mut(), leader) {
            running.insert(leader.as_raw_nonzero().get());
        }
        Self(leader)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(leader) = self.0 else { return };
        // What left the group is found by who started it, as long as that one is there.
        let strays = strays(leader.as_raw_nonzero().get());
        // Usually nobody is left in it.
        let _ = kill_process_group(leader, Signal::KILL);
        for pid in strays.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
            // One that is no child yet, or that the kernel cannot end at once, is asked for with the next question.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Ends what scripts left behind, at the daemon's end, when no script runs any more: also what one of them was just
/// starting when it was ended.
pub fn end_orphans() {
    if RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_none() {
        return;
    }
    let deadline = Instant::now() + Duration::from_millis(500);
    loop {
        let left = with_descendants(children("self"));
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in left.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the program `over` started, and orphans of it and of those before it; parents come before what they started.
fn strays(over: i32) -> Vec<i32> {
    let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(running) = running.as_mut() else { return Vec::new() };
    running.remove(&over);
    let own = children("self");
    let mut found = with_descendants(own.into_iter().filter(|pid| !running.contains(pid)).collect());
    // The runtime waits for the program itself, so that nobody else must.
    found.retain(|pid| *pid != over);
    found
}

/// Processes, and all that they started; parents come before what they started.
fn with_descendants(mut found: Vec<i32>) -> Vec<i32> {
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children(&pid.to_string()));
        at += 1;
    }
    found
}

/// A process's children, whichever of its threads they belong to.
fn children(process: &str) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
