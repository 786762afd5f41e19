//! A virtual machine with emulated NICs, and the two lines to it: a shell inside, and the machine's own monitor.

use super::image::Image;
use super::machine::Machine;
use crate::process::{Daemon, wait_until};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a command inside may take; all that runs there is emulated, maybe on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is said of a machine that does not answer.
pub const STANDS_STILL: &str = "the guest does not answer";

/// Does something with guests, and once more with new ones if a guest stood still: that happens to emulated machines, and says
/// nothing of sluiced.
///
/// # Errors
/// With what went wrong in the end.
pub fn once_more<T>(work: impl Fn() -> Result<T, String>) -> Result<T, String> {
    match work() {
        Err(error) if error.contains(STANDS_STILL) => {
            println!("  {error}; once more, with new guests");
            work()
        }
        done => done,
    }
}

/// A kind of NIC.
#[derive(Clone, Copy, Debug)]
pub struct Nic<'a> {
    /// What the table calls it.
    pub name: &'a str,
    /// QEMU's device, and its options; empty for a real one.
    pub device: &'a str,
    /// Queues of the host's side, 1 for devices that have no queues of their own there.
    pub host_queues: u16,
    /// The guest's CPU.
    pub cpu: &'a str,
    /// The kernel's driver for it.
    pub kernel_driver: &'a str,
}

/// A running machine. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    qemu: Daemon,
    shell: RefCell<UnixStream>,
    monitor: PathBuf,
    console: PathBuf,
}

/// What a machine is made of besides its NICs' kind.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    /// Its cores.
    pub cpus: usize,
    /// Whether it has an IOMMU.
    pub has_iommu: bool,
    /// Where its NICs stand on the bus, as QEMU names it, one after the other.
    pub places: &'a [&'a str],
}

impl Board<'_> {
    /// So many cores, an IOMMU, and up to four NICs, each in a slot of its own.
    pub fn new(cpus: usize) -> Self {
        // An igb has virtual functions at 0x80 behind its own, so the first two stand apart.
        Self { cpus, has_iommu: true, places: &["0x4", "0x8", "0x10", "0x14"] }
    }
}

/// The addresses of the first two NICs of an ordinary board.
pub const PCI: [&str; 2] = ["0000:00:04.0", "0000:00:08.0"];

impl Guest {
    /// Boots a machine with a NIC at the end of each of `cables`, as QEMU's -netdev names them; `command` runs a program in
    /// the network namespace where QEMU shall be.
    ///
    /// # Errors
    /// With what the machine's console said last.
    pub fn boot(
        image: &Image,
        nic: &Nic<'_>,
        board: &Board<'_>,
        cables: &[String],
        command: impl Fn(&str) -> Command,
        folder: &Path,
    ) -> Result<Self, String> {
        let (console, shell, monitor) =
            (folder.join("console"), folder.join("shell.sock"), folder.join("monitor.sock"));
        let mut qemu = command("qemu-system-x86_64");
        qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", nic.cpu, "-m", "2048"]);
        qemu.args(["-smp", &board.cpus.to_string(), "-display", "none", "-no-reboot", "-nodefaults"]);
        if board.has_iommu {
            qemu.args(["-device", "intel-iommu,intremap=on"]);
        }
        qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
        qemu.args([
            "-append",
            "console=ttyS0 panic=-1 quiet mitigations=off intel_iommu=on nohz=off highres=off",
        ]);
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-chardev").arg(format!("socket,id=shell,path={},server=on,wait=off", shell.display()));
        qemu.args(["-device", "virtio-serial-pci,bus=pcie.0,addr=0xc"]);
        qemu.args(["-device", "virtserialport,chardev=shell,name=shell"]);
        qemu.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        for ((at, cable), place) in cables.iter().enumerate().zip(board.places) {
            qemu.args(["-netdev", &format!("{cable},id=n{at}")]);
            qemu.args([
                "-device",
                &format!(
                    "{},id=x{at},netdev=n{at},mac=52:54:00:0a:00:0{at},bus=pcie.0,addr={place},romfile=",
                    nic.device
                ),
            ]);
        }
        let mut qemu = Daemon::start(&mut qemu, &folder.join("qemu.log"))?;
        let mut is_up = false;
        wait_until(Duration::from_secs(30), || {
            let text = std::fs::read(&console).unwrap_or_default();
            is_up = String::from_utf8_lossy(&text).contains("guest is up");
            is_up || qemu.ended().is_some()
        });
        if !is_up {
            let text = std::fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let last: Vec<_> = text.lines().rev().take(8).collect();
            return Err(format!("the guest did not come up: {} {last:?}", qemu.output()));
        }
        let shell = UnixStream::connect(&shell).map_err(|error| format!("{}: {error}", shell.display()))?;
        shell.set_read_timeout(Some(Duration::from_millis(200))).map_err(|error| error.to_string())?;
        Ok(Self { qemu, shell: RefCell::new(shell), monitor, console })
    }

    fn tell_monitor(&self, command: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("monitor: {error}");
        let mut monitor = UnixStream::connect(&self.monitor).map_err(failed)?;
        monitor.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let prompt = |monitor: &mut UnixStream| {
            let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
            while !heard.ends_with(b"(qemu) ") {
                let len = monitor.read(&mut piece).map_err(failed)?;
                if len == 0 {
                    return Err("monitor: it is gone".to_owned());
                }
                heard.extend_from_slice(&piece[..len]);
            }
            Ok(())
        };
        prompt(&mut monitor)?;
        monitor.write_all(format!("{command}\n").as_bytes()).map_err(failed)?;
        prompt(&mut monitor)
    }

    fn last_words(&self) -> String {
        let text = std::fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last: Vec<_> = text.lines().rev().take(8).collect();
        format!("{} {last:?}", self.qemu.output())
    }
}

impl Machine for Guest {
    fn run(&self, command: &str) -> Result<String, String> {
        const END: &str = "@@status=";
        let mut shell = self.shell.borrow_mut();
        shell
            .write_all(format!("{command}\n").as_bytes())
            .map_err(|error| format!("the guest is gone: {error}: {}", self.last_words()))?;
        let (mut heard, mut piece) = (Vec::new(), [0; 65_536]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match shell.read(&mut piece) {
                Ok(0) => return Err(format!("the guest is gone: {}", self.last_words())),
                Ok(len) => heard.extend_from_slice(&piece[..len]),
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
                Err(error) => return Err(format!("guest: {error}")),
            }
            let text = String::from_utf8_lossy(&heard);
            if let Some((output, status)) = text.rsplit_once(END)
                && status.ends_with('\n')
            {
                return match status.trim() {
                    "0" => Ok(output.to_owned()),
                    status => Err(format!("{command}: status {status}: {}", output.trim())),
                };
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{STANDS_STILL}: {command}: not over after {} s: {text}",
                    PATIENCE.as_secs()
                ));
            }
        }
    }

    fn set_link(&self, nic: usize, is_up: bool) -> Result<(), String> {
        let state = if is_up { "on" } else { "off" };
        self.tell_monitor(&format!("set_link x{nic} {state}"))
    }

    fn home(&self) -> &str {
        "/root"
    }

    fn pci(&self) -> [&str; 2] {
        PCI
    }

    fn is_own(&self) -> bool {
        true
    }
}
