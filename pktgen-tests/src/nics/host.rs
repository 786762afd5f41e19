//! This machine, two of its NICs for sluiced, and two others at the ends of their cables.

use super::machine::Machine;
use crate::lab::program;
use crate::netns::Namespace;
use crate::process::{Hugepages, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Hugepages of 2 MB that sluiced needs here.
const HUGEPAGES: usize = 384;

/// Two NICs of this machine, bound to vfio-pci. Dropping it gives them back to their drivers, and takes back the
/// hugepages.
#[derive(Debug)]
pub struct Host {
    pci: [String; 2],
    /// The driver that each had, if any.
    drivers: [Option<String>; 2],
    /// The namespaces and interfaces at the other ends.
    ends: [(String, &'static str); 2],
    home: String,
    programs: PathBuf,
    _hugepages: Hugepages,
}

/// An interface that a namespace has for a time.
#[derive(Debug)]
pub struct Lent {
    namespace: String,
    inside: &'static str,
    outside: String,
}

impl Lent {
    /// Gives a namespace an interface of this machine's, under another name.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn to(namespace: &Namespace, interface: &str, inside: &'static str) -> Result<Self, String> {
        let name = namespace.name();
        run(Command::new("ip").args(["link", "set", interface, "netns", name, "name", inside]))?;
        Ok(Self { namespace: name.to_owned(), inside, outside: interface.to_owned() })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (me, inside) = (std::process::id().to_string(), self.inside);
        for words in [
            &["link", "set", inside, "down"][..],
            &["link", "set", inside, "netns", &me, "name", &self.outside],
        ] {
            // What does not come back by this does when its namespace goes.
            let _ = run(Command::new("ip").args(["-n", &self.namespace]).args(words));
        }
    }
}

/// Looks at NICs and interfaces before any is taken: what somebody uses stays where it is.
///
/// # Errors
/// With what is in the way.
pub fn check(pci: &[String; 2], peers: &[String; 2]) -> Result<(), String> {
    for nic in pci {
        let device = Path::new("/sys/bus/pci/devices").join(nic);
        let class = std::fs::read_to_string(device.join("class")).map_err(|_| {
            format!("there is no PCI device {nic}; `dpdk-devbind.py -s` lists them, as 0000:3b:00.0")
        })?;
        // PCI Code and ID Assignment, class 2: network controllers.
        if !class.starts_with("0x02") {
            return Err(format!(
                "{nic} is no NIC (class {}); `dpdk-devbind.py -s` lists those",
                class.trim()
            ));
        }
        for folder in [device.clone(), device.join("virtio0")] {
            for entry in std::fs::read_dir(folder.join("net")).into_iter().flatten().flatten() {
                refuse_used(&entry.file_name().to_string_lossy())?;
            }
        }
    }
    for peer in peers {
        // Only what has a device behind it comes back from a namespace.
        if !Path::new("/sys/class/net").join(peer).join("device").exists() {
            return Err(format!("{peer} is no interface of a NIC; `ip link` lists them"));
        }
        refuse_used(peer)?;
    }
    Ok(())
}

/// Fails when an interface has addresses, or is a part of another: somebody may sit at the other end.
fn refuse_used(interface: &str) -> Result<(), String> {
    if Path::new("/sys/class/net").join(interface).join("master").exists() {
        return Err(format!(
            "{interface} is a part of a bond or bridge, so somebody uses it; take it out first"
        ));
    }
    let shown = run(Command::new("ip").args(["-o", "address", "show", "dev", interface, "scope", "global"]))?;
    if shown.trim().is_empty() {
        return Ok(());
    }
    Err(format!("{interface} has addresses, so somebody uses it; take them away first: {}", shown.trim()))
}

impl Host {
    /// Takes two NICs by their PCI addresses. `ends` are the namespaces with the interfaces at their cables' other ends.
    ///
    /// # Errors
    /// With what is in the way.
    pub fn take(
        pci: &[String; 2],
        ends: [(&Namespace, &'static str); 2],
        home: &Path,
    ) -> Result<Self, String> {
        let mut drivers = [None, None];
        for (nic, driver) in pci.iter().zip(&mut drivers) {
            let device = Path::new("/sys/bus/pci/devices").join(nic);
            let bound = std::fs::read_link(device.join("driver")).ok();
            *driver = bound.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        }
        let hugepages = Hugepages::reserve(HUGEPAGES)?;
        let programs = program("sluiced").parent().unwrap_or(Path::new(".")).to_owned();
        let host = Self {
            pci: pci.clone(),
            drivers,
            ends: ends.map(|(namespace, interface)| (namespace.name().to_owned(), interface)),
            home: home.display().to_string(),
            programs,
            _hugepages: hugepages,
        };
        for module in ["vfio_iommu_type1", "vfio-pci"] {
            host.run(&format!("modprobe {module}"))?;
        }
        host.bind("vfio-pci", &host.pci())?;
        Ok(host)
    }

    /// The driver that a NIC had, if any.
    pub fn driver(&self) -> Option<&str> {
        self.drivers[0].as_deref()
    }
}

impl Machine for Host {
    fn run(&self, command: &str) -> Result<String, String> {
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap_or_default());
        run(Command::new("sh").args(["-c", command]).env("PATH", path))
    }

    fn set_link(&self, nic: usize, is_up: bool) -> Result<(), String> {
        let (namespace, interface) = &self.ends[nic];
        let state = if is_up { "up" } else { "down" };
        run(Command::new("ip").args(["-n", namespace, "link", "set", interface, state])).map(drop)
    }

    fn home(&self) -> &str {
        &self.home
    }

    fn pci(&self) -> [&str; 2] {
        [&self.pci[0], &self.pci[1]]
    }

    fn is_own(&self) -> bool {
        false
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (nic, driver) in self.pci.iter().zip(&self.drivers) {
            let device = format!("/sys/bus/pci/devices/{nic}");
            let probe = if driver.is_some() {
                format!("; echo {nic} > /sys/bus/pci/drivers_probe")
            } else {
                String::new()
            };
            let back = format!("echo {nic} > {device}/driver/unbind; echo > {device}/driver_override{probe}");
            if let Err(error) = self.run(&back) {
                eprintln!("{nic} is not given back to {}: {error}", driver.as_deref().unwrap_or("no driver"));
            }
        }
    }
}
