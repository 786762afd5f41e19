//! Network namespaces and the cables between them, removed when their owner goes.

use crate::process::run;
use rustix::process::{Pid, Signal, kill_process};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

/// A network namespace of this process's own. Dropping it removes it with its interfaces.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace whose name begins with `sl`, this process's id and `role`.
    ///
    /// # Errors
    /// When the system refuses; network namespaces need root.
    pub fn new(role: &str) -> Result<Self, String> {
        let name = format!("sl{}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        // No router solicitations and the like: the labs count packets.
        for interface in ["all", "default"] {
            let key = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
            run(namespace.command("sysctl").args(["-qw", &key]))?;
        }
        run(namespace.command("ip").args(["link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` on a thread inside; sockets that it makes stay inside.
    ///
    /// # Panics
    /// When the namespace cannot be entered, or `work` panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file =
            std::fs::File::open(format!("/run/netns/{}", self.name)).expect("the namespace has a file");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(file.as_fd(), kind).expect("root may enter");
                work()
            });
            thread.join().expect("the work is done")
        })
    }

    /// Sends a datagram from a port of its own (0 for any) to `HOST:PORT`, and gives the answer; a busy machine has time.
    ///
    /// # Errors
    /// When it cannot be sent, or is not answered.
    pub fn ask(&self, own_port: u16, to: &str, question: &[u8]) -> std::io::Result<Vec<u8>> {
        const PATIENCE: Duration = Duration::from_secs(30);
        self.inside(|| {
            let any = if to.starts_with('[') { "[::]" } else { "0.0.0.0" };
            let socket = UdpSocket::bind(format!("{any}:{own_port}"))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(question, to)?;
            let mut answer = vec![0; 65_536];
            let len = socket.recv(&mut answer)?;
            answer.truncate(len);
            Ok(answer)
        })
    }

    /// Runs `ip ARGUMENTS` inside.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn ip(&self, arguments: &str) -> Result<(), String> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace())).map(drop)
    }

    /// Gives an interface an IPv6 address, at once and without any chatter of its own.
    ///
    /// # Errors
    /// With what `ip` or `sysctl` said.
    pub fn add_ipv6(&self, interface: &str, address: &str) -> Result<(), String> {
        for setting in ["accept_ra=0", "accept_dad=0", "router_solicitations=0", "disable_ipv6=0"] {
            let key = format!("net.ipv6.conf.{interface}.{setting}");
            run(self.command("sysctl").args(["-qw", &key]))?;
        }
        self.ip(&format!("addr add {address} dev {interface} nodad"))
    }

    /// Sets a kernel setting inside.
    ///
    /// # Errors
    /// With what `sysctl` said.
    pub fn sysctl(&self, setting: &str) -> Result<(), String> {
        run(self.command("sysctl").args(["-qw", setting])).map(drop)
    }

    /// Switches an interface's offloads, so that it sends complete checksums and no super-frames.
    ///
    /// # Errors
    /// With what `ethtool` said.
    pub fn set_offloads(&self, interface: &str, state: &str) -> Result<(), String> {
        let features = ["tx", state, "tso", state, "gso", state, "gro", state];
        run(self.command("ethtool").args(["-K", interface]).args(features)).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// A cable: a pair of interfaces, one in each namespace, both up.
///
/// # Errors
/// With what `ip` said.
pub fn cable(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<(), String> {
    let ends = ["type", "veth", "peer", "name", b.1, "netns", &b.0.name];
    run(Command::new("ip").args(["-n", &a.0.name, "link", "add", "name", a.1]).args(ends))?;
    a.0.ip(&format!("link set dev {} up", a.1))?;
    b.0.ip(&format!("link set dev {} up", b.1))
}

/// Removes namespaces whose process is gone, and what still runs in them: what a killed run
/// left behind.
pub fn remove_orphans() {
    let Ok(list) = run(Command::new("ip").args(["netns", "list"])) else { return };
    for line in list.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let pid = name.strip_prefix("sl").and_then(|rest| rest.split('-').next());
        let Some(pid) = pid.filter(|pid| !pid.is_empty() && pid.chars().all(|c| c.is_ascii_digit())) else {
            continue;
        };
        if !std::path::Path::new("/proc").join(pid).exists() {
            let pids = run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = run(Command::new("ip").args(["netns", "del", name]));
        }
    }
}
