//! The processes that are measured against each other: this program as a child, and testpmd.

use crate::device::Plan;
use crate::machine;
use pktgen_tests::process::wait_until;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that answers lines with lines. Dropping it ends it.
struct Talker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Talker {
    fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = BufReader::new(stdout.ok_or("a child without standard output")?);
        Ok(Self { child, stdin, stdout })
    }

    fn say(&mut self, line: &str) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("the child was ended")?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).map_err(|error| format!("`{line}`: {error}"))
    }

    /// Lines up to the first that `ends`, joined.
    fn hear(&mut self, ends: impl Fn(&str) -> bool) -> Result<String, String> {
        let mut text = String::new();
        loop {
            let start = text.len();
            match self.stdout.read_line(&mut text) {
                Ok(0) => return Err(format!("the child ended: {}", text.trim())),
                Ok(_) if ends(&text[start..]) => return Ok(text),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl Drop for Talker {
    /// End of input ends both kinds; what does not end is killed.
    fn drop(&mut self) {
        self.stdin = None;
        let ended = || matches!(self.child.try_wait(), Ok(Some(_)) | Err(_));
        if !wait_until(Duration::from_secs(5), ended) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// This program as another process, for one case.
pub(crate) struct Sibling(Talker);

/// What was measured in one run of one arm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) packets: u64,
    pub(crate) cpu_ns: f64,
    pub(crate) wall_ns: f64,
    pub(crate) frames_checked: u64,
}

impl Run {
    pub(crate) fn cpu_ns_per_packet(&self) -> f64 {
        self.cpu_ns / self.packets as f64
    }

    pub(crate) fn wall_ns_per_packet(&self) -> f64 {
        self.wall_ns / self.packets as f64
    }
}

/// Where this program is.
pub(crate) fn myself() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))
}

/// Runs one case in a process of its own, on the measuring core, and gives its JSON.
pub(crate) fn run_case(words: &[&str]) -> Result<Value, String> {
    case_of(&myself()?, words)
}

/// [`run_case`] of another build of this program.
pub(crate) fn case_of(program: &Path, words: &[&str]) -> Result<Value, String> {
    let core = machine::measuring_core().to_string();
    let output = Command::new("taskset")
        .args(["-c", &core])
        .arg(program)
        .args(words)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("taskset: {error}"))?;
    if !output.status.success() {
        return Err(format!("case {words:?} failed"));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("case {words:?}: {error}"))
}

impl Sibling {
    /// Starts it as what `role` names and waits until it is ready.
    pub(crate) fn start(role: &str, plan: &Plan) -> Result<Self, String> {
        Self::start_of(&myself()?, role, plan)
    }

    /// [`start`](Self::start) of another build of this program.
    pub(crate) fn start_of(program: &Path, role: &str, plan: &Plan) -> Result<Self, String> {
        let mut sibling = Self(Talker::start(Command::new(program).arg(role).args(plan.words()))?);
        sibling.answer()?;
        Ok(sibling)
    }

    /// Its next answer.
    pub(crate) fn answer(&mut self) -> Result<Value, String> {
        let text = self.0.hear(|line| line.starts_with('{'))?;
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|error| format!("`{line}`: {error}"))
    }

    /// Says something without waiting for the answer.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), String> {
        self.0.say(line)
    }

    /// Runs an arm on one worker.
    pub(crate) fn run(&mut self, arm: &str, time: Duration) -> Result<Run, String> {
        self.run_on(arm, time, 1)
    }

    /// Runs an arm on several workers at the same time.
    pub(crate) fn run_on(&mut self, arm: &str, time: Duration, workers: usize) -> Result<Run, String> {
        self.0.say(&format!("{arm} {} {workers}", time.as_secs_f64()))?;
        let answer = self.answer()?;
        let number = |key: &str| answer[key].as_f64().ok_or_else(|| format!("no {key} in {answer}"));
        Ok(Run {
            packets: number("packets")? as u64,
            cpu_ns: number("cpu_ns")?,
            wall_ns: number("wall_ns")?,
            frames_checked: number("frames_checked")? as u64,
        })
    }
}

/// DPDK's own forwarder, on the same device as a [`Plan`] says.
pub(crate) struct Testpmd {
    talker: Talker,
    mode: String,
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.talker.say("quit");
    }
}

impl Testpmd {
    pub(crate) fn start(plan: &Plan) -> Result<Self, String> {
        let memory: &[String] = if plan.hugepages {
            // A vhost-user peer maps at most eight files.
            &["--in-memory".into(), "--single-file-segments".into()]
        } else {
            &[
                "--no-huge".into(),
                "-m".into(),
                plan.megabytes().to_string(),
                format!("--file-prefix=testpmd-{}", std::process::id()),
            ]
        };
        // It would keep what it says in a buffer as long as nobody looks on.
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", "dpdk-testpmd"])
            .args(["--lcores", &format!("0@0,1@{}", plan.core), "--no-pci", "--no-telemetry"])
            .args(memory)
            .args(["--vdev", &plan.vdev, "--", "-i", "--no-lsc-interrupt"])
            .arg(format!("--burst={}", dataplane::frame::BURST_SIZE))
            .arg(format!("--total-num-mbufs={}", plan.buffers))
            .arg(format!("--mbuf-size={}", plan.room))
            .args(["--rxd=1024", "--txd=1024"])
            .stderr(Stdio::null());
        let mut this = Self { talker: Talker::start(&mut command)?, mode: "io".into() };
        // Its prompt has no line's end; an answer to a command says that it listens.
        this.talker.say("show port summary all")?;
        this.talker.hear(|line| line.contains("Number of available ports"))?;
        Ok(this)
    }

    /// Forwards in a mode of testpmd's, `io` or `5tswap`.
    pub(crate) fn run(&mut self, mode: &str, time: Duration) -> Result<Run, String> {
        self.begin(mode)?;
        let pid = self.talker.child.id();
        let cpu = || machine::thread_cpu_ns(pid, "worker").ok_or("testpmd has no worker thread".to_owned());
        let (begin, begin_cpu) = (Instant::now(), cpu()?);
        // The window that is measured.
        std::thread::sleep(time);
        let text = self.end()?;
        // The counter stands still now.
        let (cpu_ns, wall) = (cpu()? - begin_cpu, begin.elapsed());
        let packets = text
            .split("TX-packets:")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| format!("testpmd does not tell what it sent: {text}"))?;
        Ok(Run { packets, cpu_ns: cpu_ns as f64, wall_ns: wall.as_nanos() as f64, frames_checked: 0 })
    }

    /// Starts to forward.
    pub(crate) fn begin(&mut self, mode: &str) -> Result<(), String> {
        if self.mode != mode {
            self.talker.say(&format!("set fwd {mode}"))?;
            self.talker.hear(|line| line.contains("packet forwarding mode"))?;
            self.mode = mode.into();
        }
        self.talker.say("start")?;
        self.talker.hear(|line| line.contains("packet forwarding"))?;
        Ok(())
    }

    /// Stops, and gives what testpmd says then.
    pub(crate) fn end(&mut self) -> Result<String, String> {
        self.talker.say("stop")?;
        self.talker.hear(|line| line.starts_with("Done."))
    }
}
