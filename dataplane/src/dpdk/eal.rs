//! The environment abstraction layer: memory, cores, devices found on the buses.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};

/// DPDK, initialised. Dropping it gives back hugepages and runtime files; every
/// device must be closed before.
#[derive(Debug)]
pub struct Eal {
    /// What DPDK logs.
    log: File,
    memory: Memory,
}

/// What EAL is told.
#[derive(Clone, Debug)]
pub struct EalSettings {
    /// Workers' cores, one lcore each, numbered from 1; lcore 0 is control's.
    pub worker_cores: Vec<usize>,
    /// Cores that control's threads may use.
    pub control_cores: Vec<usize>,
    /// Where packet memory comes from.
    pub memory: Memory,
    /// PCI addresses to probe.
    pub pci: Vec<String>,
    /// Virtual devices to make.
    pub vdevs: Vec<String>,
}

/// Where packet memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Anonymous hugepages, which leave no file behind.
    Hugepages,
    /// Ordinary pages, so many megabytes of them.
    Pages {
        /// Megabytes.
        megabytes: usize,
    },
}

/// Why EAL did not start.
#[derive(Debug)]
pub struct EalError {
    /// What EAL logged last about it.
    pub reason: String,
}

impl fmt::Display for EalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK.
    ///
    /// # Errors
    /// With EAL's own words when it refuses. EAL cannot be started a second time, even
    /// after a failure.
    pub fn start(settings: &EalSettings) -> Result<Self, EalError> {
        let failed = |reason: String| EalError { reason };
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(failed("EAL was started before in this process".into()));
        }
        let log = rustix::fs::memfd_create("eal-log", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| failed(format!("no memory for EAL's log: {error}")))?;
        let log = File::from(log);
        {
            use std::os::fd::AsRawFd;
            // SAFETY: the shim duplicates the descriptor; contract 1 (nobody else logs yet).
            if unsafe { dpdk_sys::sluice_log_to(log.as_raw_fd()) } != 0 {
                return Err(failed("EAL's log cannot be captured".into()));
            }
        }
        let mut eal = Self { log, memory: settings.memory };
        let arguments: Vec<CString> = arguments(settings)
            .into_iter()
            .map(|argument| {
                CString::new(argument).map_err(|_| failed("a device name contains a NUL byte".into()))
            })
            .collect::<Result<_, _>>()?;
        let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        // SAFETY: contract 1; the pointers are to terminated strings, EAL copies what it keeps.
        let result = unsafe { dpdk_sys::rte_eal_init(pointers.len() as i32, pointers.as_mut_ptr()) };
        if result < 0 {
            let reason = eal.complaint().unwrap_or_else(|| "EAL gave no reason".into());
            // Nothing was started, so nothing is to be cleaned up.
            std::mem::forget(eal);
            return Err(failed(reason));
        }
        Ok(eal)
    }

    /// Where packet memory comes from.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Where DPDK's log ends now.
    pub fn mark(&mut self) -> Mark {
        Mark(self.log.seek(SeekFrom::End(0)).unwrap_or(0))
    }

    /// What DPDK logged about something that went wrong since then: the first line that says so.
    pub fn complaint_since(&mut self, mark: Mark) -> Option<String> {
        let text = self.text_from(mark)?;
        text.lines().find(|line| is_telling(line)).map(|line| line.trim().to_owned())
    }

    /// What DPDK logged about a device that it did not take: the first line that names it, or VFIO.
    pub fn complaint_about(&mut self, device: &str) -> Option<String> {
        let text = self.text_from(Mark(0))?;
        let is_about = |line: &&str| line.contains(device) || line.to_lowercase().contains("vfio");
        text.lines().filter(is_about).find(|line| is_telling(line)).map(|line| line.trim().to_owned())
    }

    /// The line of the log that best says why EAL did not start: the last one that says what led to it.
    fn complaint(&mut self) -> Option<String> {
        let text = self.text_from(Mark(0))?;
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // EAL's summary at the end tells less than what led to it.
        let is_summary = |line: &str| line.contains("bus (") || line.contains("eal: cannot probe devices");
        let best = lines.iter().rev().find(|line| is_telling(line) && !is_summary(&line.to_lowercase()));
        best.or(lines.last()).map(|line| (*line).to_owned())
    }

    fn text_from(&mut self, mark: Mark) -> Option<String> {
        let mut text = String::new();
        self.log.seek(SeekFrom::Start(mark.0)).ok()?;
        self.log.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// A place in DPDK's log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// Whether a line of DPDK's log speaks of something that went wrong. That there are no hugepages of a size that nobody
/// asked for is said at every start.
fn is_telling(line: &str) -> bool {
    let line = line.to_lowercase();
    let words = [
        "cannot",
        "could not",
        "fail",
        "error",
        "invalid",
        "no such",
        "unable",
        "not found",
        "no free",
        "no supported",
    ];
    words.iter().any(|word| line.contains(word)) && !line.contains("hugepages reported on node")
}

impl Drop for Eal {
    fn drop(&mut self) {
        // SAFETY: contract 1; workers have ended and devices are closed, which the daemon's
        // order of fields and scopes sees to.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// The release of DPDK that is loaded.
pub fn version() -> String {
    // SAFETY: returns a static string.
    unsafe { CStr::from_ptr(dpdk_sys::rte_version()) }.to_string_lossy().into_owned()
}

fn arguments(settings: &EalSettings) -> Vec<String> {
    let set = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut lcores = format!("0@({})", set(&settings.control_cores));
    for (at, core) in settings.worker_cores.iter().enumerate() {
        lcores.push_str(&format!(",{}@{core}", at + 1));
    }
    let mut arguments: Vec<String> =
        ["sluiced", "--no-telemetry", "--main-lcore=0", "--lcores", &lcores].map(String::from).to_vec();
    // Without files in the runtime folder, which nobody would remove, and which a full disk would turn into a crash.
    arguments.push("--file-prefix=sluice".into());
    match settings.memory {
        Memory::Hugepages => {
            arguments.push("--in-memory".into());
            // A vhost-user peer maps at most eight files.
            if settings.vdevs.iter().any(|vdev| vdev.starts_with("net_virtio_user")) {
                arguments.push("--single-file-segments".into());
            }
        }
        Memory::Pages { megabytes } => {
            // What --in-memory means with ordinary pages, which takes no other word.
            arguments.extend(["--no-shconf".into(), "--no-huge".into(), "-m".into(), megabytes.to_string()]);
        }
    }
    if settings.pci.is_empty() {
        arguments.push("--no-pci".into());
    }
    for address in &settings.pci {
        arguments.extend(["-a".into(), address.clone()]);
    }
    arguments.extend(settings.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
    arguments
}
