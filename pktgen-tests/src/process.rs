//! Programs: run to their end, or kept running and ended by their owner.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a program that was asked to end may take before it is killed, also on a busy machine.
const GRACE: Duration = Duration::from_secs(30);
/// A busy machine takes up to so many times longer than an idle one.
const BUSY: u32 = 6;

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// With its words when it fails.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}: {} {}", output.status, text(&output.stdout), text(&output.stderr)))
    }
}

/// A program in the background, with its output in a file. Dropping it ends the program.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, String> {
        let file = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let copy = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn();
        Ok(Self { child: child.map_err(|error| format!("{command:?}: {error}"))?, log: log.to_owned() })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program printed so far.
    pub fn output(&self) -> String {
        let mut text = String::new();
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        text
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Asks it to end, and waits until it has; kills it when it takes too long.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if let Some(status) = self.ended() {
            return Some(status);
        }
        self.signal(rustix::process::Signal::TERM);
        let ended = wait_until(GRACE, || self.ended().is_some());
        if !ended {
            let _ = self.child.kill();
        }
        self.child.wait().ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks every few milliseconds whether something has come true; false when it did not in time. An idle machine has
/// `patience` for it, and a busy one several times that: waiting longer costs nothing where it comes true.
pub fn wait_until(patience: Duration, holds: impl FnMut() -> bool) -> bool {
    comes_true(patience * BUSY, holds)
}

/// Whether something stays untrue for so long.
pub fn never_within(time: Duration, holds: impl FnMut() -> bool) -> bool {
    !comes_true(time, holds)
}

fn comes_true(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Hugepages of 2 MB, reserved or taken away for a test, and put back as they were.
#[derive(Debug)]
pub struct Hugepages {
    before: String,
}

const HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl Hugepages {
    /// Reserves `count` pages, or keeps more if there are more.
    ///
    /// # Errors
    /// When the kernel does not give that many.
    pub fn reserve(count: usize) -> Result<Self, String> {
        let guard = Self::remember()?;
        let had: usize = guard.before.parse().unwrap_or(0);
        Self::set(had.max(count))?;
        match Self::free() {
            free if free < count => {
                Err(format!("the kernel gives {free} free hugepages, {count} are needed"))
            }
            _ => Ok(guard),
        }
    }

    /// Gives all free pages back to the kernel for a while.
    ///
    /// # Errors
    /// When the kernel does not say how many there are, or does not take them.
    pub fn none() -> Result<Self, String> {
        let guard = Self::remember()?;
        Self::set(0)?;
        Ok(guard)
    }

    fn remember() -> Result<Self, String> {
        let text = std::fs::read_to_string(HUGEPAGES).map_err(|error| format!("{HUGEPAGES}: {error}"))?;
        Ok(Self { before: text.trim().to_owned() })
    }

    fn set(count: usize) -> Result<(), String> {
        std::fs::write(HUGEPAGES, count.to_string()).map_err(|error| format!("{HUGEPAGES}: {error}"))
    }

    /// Pages that nobody uses.
    pub fn free() -> usize {
        let text = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let _ = std::fs::write(HUGEPAGES, &self.before);
    }
}

/// A folder for a test's files. Dropping it removes them.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new folder whose name says what it is for.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(purpose: &str) -> Result<Self, String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sluice-{purpose}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
