//! What can be found wrong before a device is touched, said with its remedy.

use ctrl::config::{Config, Device, Hugepages, PortSpec};
use ctrl::pci;
use dataplane::director::Limits;
use dataplane::dpdk::Memory;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

/// Bytes in front of a frame.
const HEADROOM: u16 = 128;
/// Bytes for a frame, if no port has longer ones.
const USUAL_FRAME: u16 = 2_048;

/// Bytes of one packet buffer: headroom, and the longest frame of any port in one piece. A driver that rounds down by
/// more (e1000 knows powers of two) gives a long frame in two buffers, of which the first has room for both.
pub(crate) fn buffer_room(config: &Config) -> u16 {
    /// Ethernet's header, two tags, a checksum that some devices keep, and virtio's header.
    const AROUND: u16 = 14 + 2 * 4 + 4 + 12;
    /// What drivers round down to: igb and ixgbe count kilobytes, i40e and ice 128 bytes.
    const UNIT: u16 = 1_024;
    let frames =
        config.ports.iter().filter_map(|port| port.mtu).map(|mtu| (mtu + AROUND).next_multiple_of(UNIT));
    // af_packet wants buffers that hold a frame of its ring whole.
    let of_ring = config.ports.iter().filter_map(|port| port.device.argument("framesz")?.parse().ok());
    HEADROOM + frames.chain(of_ring).max().unwrap_or(0).clamp(USUAL_FRAME, u16::MAX - HEADROOM)
}

/// Bytes that a buffer takes from memory: the mbuf, its room, alignment and mempool header.
fn footprint(room: u16) -> u64 {
    128 + u64::from(room) + 128
}

/// Bytes of a buffer on ordinary pages, of which none crosses a page's border that need not.
fn paged(room: u16) -> u64 {
    footprint(room).next_multiple_of(4_096)
}

/// What EAL and the drivers need besides.
const EAL_MEGABYTES: u64 = 48;

/// Removes what daemons of earlier versions left in DPDK's runtime folder: a folder for each process, of which this one
/// makes none any more.
pub(crate) fn clear_runtime_folder() {
    for entry in fs::read_dir("/var/run/dpdk").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("sluice-")?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // One that cannot be removed harms nobody.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Keeps the threads that there are already (the log's, that of events) off the workers' cores; DPDK sees to later ones.
pub(crate) fn keep_threads_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    let tasks = Path::new("/proc/self/task").read_dir().into_iter().flatten().flatten();
    let ids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok());
    // The first thread is where DPDK puts it.
    let ids = ids.filter(|id| u32::try_from(*id) != Ok(std::process::id()));
    for id in ids.filter_map(Pid::from_raw) {
        // One that ended meanwhile needs no core.
        let _ = sched_setaffinity(Some(id), &set);
    }
}

/// Cores for control's threads: all that the process may use but the workers'.
pub(crate) fn control_cores(workers: &[usize]) -> Result<Vec<usize>, String> {
    let allowed: Vec<_> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let list = || allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    for (at, core) in workers.iter().enumerate() {
        if !allowed.contains(core) {
            return Err(format!(
                "dataplane.workers[{at}]: core {core} is not there or not allowed to this process; use one of {}",
                list()
            ));
        }
    }
    let taken: HashSet<_> = workers.iter().copied().collect();
    let rest: Vec<_> = allowed.iter().copied().filter(|core| !taken.contains(core)).collect();
    if rest.is_empty() {
        log::warn!(target: "start",
            "warning: every core is a worker's; control shares core {} with one",
            allowed[0]
        );
        return Ok(allowed[..1].to_vec());
    }
    Ok(rest)
}

/// Claims that no other sluiced on this machine (in this network namespace) uses a device.
/// They end with the process.
pub(crate) fn claim_devices(ports: &[PortSpec], workers: usize) -> Result<Vec<UnixListener>, String> {
    let mut held = Vec::new();
    for port in ports.iter().filter(|port| port.vlan.is_none()) {
        let identity = match &port.device {
            Device::Pci(address) => {
                pci::check(Path::new("/sys"), address, workers)
                    .map_err(|error| format!("port {}: {error}", port.name))?;
                address.clone()
            }
            Device::Vdev(text) => match port.device.argument("iface") {
                // A tap makes its interface; the others open one that exists.
                Some(interface) if !port.device.name().starts_with("net_tap") => {
                    if !Path::new("/sys/class/net").join(interface).exists() {
                        return Err(format!(
                            "port {}: there is no interface {interface}; `ip link` lists those there are",
                            port.name
                        ));
                    }
                    interface.to_owned()
                }
                Some(interface) => interface.to_owned(),
                None => text.clone(),
            },
        };
        // An abstract socket: its name is free again as soon as the process is gone.
        let address = SocketAddr::from_abstract_name(claim_name(&identity))
            .map_err(|error| format!("port {}: {error}", port.name))?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => held.push(listener),
            Err(_) => {
                let pid = UnixStream::connect_addr(&address)
                    .ok()
                    .and_then(|stream| rustix::net::sockopt::socket_peercred(&stream).ok())
                    .map_or("another process".to_owned(), |peer| {
                        format!("pid {}", peer.pid.as_raw_nonzero())
                    });
                return Err(format!(
                    "port {}: device {identity} is in use by {pid} (sluiced); stop that one, or name another device",
                    port.name
                ));
            }
        }
    }
    Ok(held)
}

/// A name for a device that fits into a socket address, however long the device string is.
fn claim_name(identity: &str) -> String {
    // The same in every process: the standard library's hasher without a random key.
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    let readable: String = identity.chars().filter(char::is_ascii_graphic).take(32).collect();
    format!("sluice/device/{readable}-{:016x}", hasher.finish())
}

/// Where packet memory will come from.
pub(crate) fn memory(wanted: Hugepages, buffers: u32, room: u16) -> Result<Memory, String> {
    let megabytes = |each: u64| (u64::from(buffers) * each).div_ceil(1 << 20) + EAL_MEGABYTES;
    let free = free_hugepage_megabytes();
    let pages = Memory::Pages { megabytes: megabytes(paged(room)) as usize };
    let megabytes = megabytes(footprint(room));
    match wanted {
        Hugepages::Off => Ok(pages),
        Hugepages::Auto if free >= megabytes => Ok(Memory::Hugepages),
        Hugepages::Auto => Ok(pages),
        Hugepages::Require if free >= megabytes => Ok(Memory::Hugepages),
        Hugepages::Require => Err(format!(
            "dataplane.hugepages: {megabytes} MB of hugepages are required, {free} MB are free; run `sysctl -w vm.nr_hugepages={}` (2 MB pages), or set hugepages = \"auto\"",
            megabytes.div_ceil(2) + 8
        )),
    }
}

/// Whether the session tables fit into what the machine has free; without this the kernel
/// would end the process when the table is touched.
pub(crate) fn session_memory(config: &Config) -> Result<(), String> {
    let bytes = Limits::for_sessions(config.dataplane.session_capacity, config.session_capacity_ipv6())
        .bytes()
        * config.dataplane.workers.len() as u64;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    // A machine that does not say what it has is believed to have enough.
    let Some(available) = kilobytes.map(|kilobytes| kilobytes * 1024) else { return Ok(()) };
    if bytes <= available {
        return Ok(());
    }
    Err(format!(
        "dataplane.session_capacity: {} sessions per worker need {} MB of memory, {} MB are available; lower it",
        config.dataplane.session_capacity,
        bytes >> 20,
        available >> 20
    ))
}

/// The memory in words, for status.
pub(crate) fn describe(memory: Memory) -> String {
    match memory {
        Memory::Hugepages => "hugepages".into(),
        Memory::Pages { megabytes } => format!("ordinary pages ({megabytes} MB; hugepages are faster)"),
    }
}

/// What helps when DPDK does not take the configured devices, `said` being what it said about it.
pub(crate) fn remedy(config: &Config, said: &str) -> String {
    let needs_root = !rustix::process::geteuid().is_root();
    if needs_root {
        return "sluiced needs root, or CAP_NET_RAW and CAP_NET_ADMIN for interfaces and access to /dev/vfio for NICs".into();
    }
    let has_nics = config.ports.iter().any(|port| matches!(port.device, Device::Pci(_)));
    match said {
        said if has_nics && said.contains("Unable to parse device") => {
            "DPDK's PCI bus driver is not installed; on Debian and Ubuntu it is in librte-bus-pci, which dpdk brings".into()
        }
        said if said.contains("plugins") => {
            "a driver of DPDK cannot be loaded: install the package dpdk anew, and let nobody but root write to its folder".into()
        }
        _ if has_nics => {
            "check that DPDK's driver for the NIC is installed (on Debian and Ubuntu librte-net-..., or dpdk for all), and that no other program has the device".into()
        }
        _ => "check each port's device string (driver name, interface), that the driver's package is installed (on Debian and Ubuntu dpdk recommends all), and that no other process uses the device".into(),
    }
}

/// Free hugepages of all sizes, in megabytes.
fn free_hugepage_megabytes() -> u64 {
    let folders = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| {
            let name = folder.file_name().into_string().ok()?;
            let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free: u64 =
                fs::read_to_string(folder.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
            Some(kilobytes * free / 1024)
        })
        .sum()
}
