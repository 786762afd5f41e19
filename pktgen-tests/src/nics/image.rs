//! What the virtual machine boots: an initial file system made of this machine's own programs and libraries.

use super::cpio::Archive;
use crate::lab::program;
use crate::process::run;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel and its initial file system.
#[derive(Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
    /// The kernel's version.
    pub release: String,
}

/// Drivers of DPDK that the devices of this lab, and sluiced, use.
const DRIVERS: [&str; 7] =
    ["bus_pci", "bus_vdev", "mempool_ring", "net_e1000", "net_virtio", "net_vmxnet3", "net_ring"];
/// Folders and modules of the kernel that the guest may load, below `kernel/`.
const MODULES: [&str; 23] = [
    "net/core/pktgen.ko",
    "drivers/net/veth.ko",
    "net/8021q",
    "net/802",
    "net/llc",
    "drivers/char/virtio_console.ko",
    "drivers/vfio",
    "virt",
    "drivers/net/tun.ko",
    "drivers/net/net_failover.ko",
    "net/core/failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/virtio",
    "drivers/net/ethernet/intel/e1000",
    "drivers/net/ethernet/intel/e1000e",
    "drivers/net/ethernet/intel/igb",
    "drivers/net/vmxnet3",
    "drivers/i2c/algos",
    "drivers/i2c/i2c-core.ko",
    "drivers/dca",
    "drivers/ptp",
    "drivers/pps",
    "drivers/uio",
];

/// The guest's first process. A shell runs what the host writes, a line each.
const INIT: &str = include_str!("init.sh");

/// What is missing for a guest, if anything is, and how to get it.
///
/// # Errors
/// With that.
pub fn check() -> Result<(), String> {
    let remedy = "run `sh pktgen-tests/install-deps.sh nics`";
    let devices = run(Command::new("qemu-system-x86_64").args(["-device", "help"]));
    match devices {
        Err(error) => return Err(format!("QEMU does not run ({error}); {remedy}")),
        Ok(list) if !list.contains("\"igb\"") => {
            return Err(format!("this QEMU is older than 8.0 and has no igb; {remedy}"));
        }
        Ok(_) => {}
    }
    let kernel = kernel().join("vmlinuz");
    if kernel.exists() { Ok(()) } else { Err(format!("{} is not there; {remedy}", kernel.display())) }
}

/// Where install-deps.sh unpacks the guest's kernel.
fn kernel() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/nics/kernel")
}

impl Image {
    /// Makes the image of the programs `sluiced` and `sluice`, and of `more` that are looked for as a shell does, with the
    /// kernel that install-deps.sh unpacked, and writes it into `folder`.
    ///
    /// # Errors
    /// With the file that is missing.
    pub fn build(folder: &Path, more: &[&str]) -> Result<Self, String> {
        check()?;
        let kernel = kernel();
        let mut archive = Archive::default();
        for name in
            ["dev", "proc", "sys", "run", "tmp", "root", "etc", "var", "usr/bin", "usr/lib", "usr/lib64"]
        {
            archive.folder(name);
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            archive.link(name, &format!("usr/{}", if name == "sbin" { "bin" } else { name }));
        }
        archive.link("var/run", "../run");
        archive.file("init", INIT.as_bytes().to_vec(), 0o755);
        archive.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n".to_vec(), 0o644);
        archive.file("etc/group", b"root:x:0:\n".to_vec(), 0o644);
        let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
        let busybox = busybox.ok_or("there is no busybox; install busybox-static")?;
        archive.file("usr/bin/busybox", read(busybox)?, 0o755);

        let mut wanted = BTreeSet::new();
        for name in ["sluiced", "sluice"] {
            let program = program(name);
            archive.file(&format!("usr/bin/{name}"), stripped(&program, folder)?, 0o755);
            wanted.extend(libraries(&program)?);
        }
        for name in more {
            let found = run(Command::new("sh").args(["-c", &format!("command -v {name}")]));
            let found = found.map_err(|_| format!("there is no program {name}"))?;
            let program = Path::new(found.trim());
            archive.file(
                &format!("usr/bin/{}", program.file_name().unwrap_or_default().to_string_lossy()),
                read(program)?,
                0o755,
            );
            wanted.extend(libraries(program)?);
        }
        for driver in drivers(&wanted)? {
            wanted.extend(libraries(&driver)?);
            wanted.insert(driver);
        }
        let mut packed = BTreeSet::new();
        for path in wanted {
            pack(&mut archive, &path, &mut packed)?;
        }
        let release = modules(&mut archive, &kernel)?;
        let initrd = folder.join("initrd");
        fs::write(&initrd, archive.bytes()).map_err(|error| format!("{}: {error}", initrd.display()))?;
        Ok(Self { kernel: kernel.join("vmlinuz"), initrd, release })
    }
}

/// A program without its symbols, which are most of it.
fn stripped(program: &Path, folder: &Path) -> Result<Vec<u8>, String> {
    let copy = folder.join("stripped");
    run(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    let bytes = fs::read(&copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    let _ = fs::remove_file(&copy);
    Ok(bytes)
}

/// The libraries that a program, or another library, is linked with.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let list = run(Command::new("ldd").arg(program))?;
    Ok(list.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The files of the wanted drivers, which DPDK looks for in the folder `dpdk/pmds-VERSION` beside its libraries.
fn drivers(libraries: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, String> {
    let is_eal = |path: &&PathBuf| path.to_string_lossy().contains("/librte_eal.so.");
    let eal = libraries.iter().find(is_eal).ok_or("sluiced is not linked with DPDK's libraries")?;
    let version = eal.extension().unwrap_or_default().to_string_lossy().into_owned();
    let home = eal.with_file_name("dpdk");
    let failed = |error: std::io::Error| format!("{}: {error}", home.display());
    let is_right = |path: &PathBuf| path.to_string_lossy().contains(&format!("/pmds-{version}."));
    let mut folders = fs::read_dir(&home).map_err(failed)?.flatten().map(|entry| entry.path());
    let folder = folders.find(is_right).ok_or_else(|| format!("{}: there are no drivers", home.display()))?;
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        DRIVERS.iter().any(|driver| name.starts_with(&format!("librte_{driver}.so")))
    };
    let entries = fs::read_dir(&folder).map_err(failed)?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_wanted).collect())
}

/// Packs a file under the path that it has, and every link on the way to it: DPDK takes two files of the same
/// driver for two drivers.
fn pack(archive: &mut Archive, path: &Path, packed: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let place = fs::canonicalize(parent).map_err(failed)?.join(name);
    if !packed.insert(place.clone()) {
        return Ok(());
    }
    let inside = place.to_string_lossy();
    let inside = inside.trim_start_matches('/');
    if place.is_symlink() {
        let target = fs::read_link(&place).map_err(failed)?;
        archive.link(inside, &target.to_string_lossy());
        return pack(archive, &place.with_file_name("").join(target), packed);
    }
    let mut bytes = fs::read(&place).map_err(failed)?;
    if inside.contains("/librte_net_e1000.so") {
        poll_waits(&mut bytes);
    }
    archive.file(inside, bytes, 0o755);
    Ok(())
}

/// Lets the guest's copy of a driver poll the clock in its waits where it would sleep: an 82540EM's EEPROM is read bit by
/// bit in 9,000 waits of 50 µs, and the guest's timers tick 250 times a second, so each of them would take 4 ms. Both
/// functions of DPDK have names of the same length, and one signature. A driver without the name is only slow.
fn poll_waits(driver: &mut [u8]) {
    let (sleeps, polls) = (b"\0rte_delay_us_sleep\0", b"\0rte_delay_us_block\0");
    if let Some(at) = driver.windows(sleeps.len()).position(|bytes| bytes == sleeps) {
        driver[at..at + polls.len()].copy_from_slice(polls);
    }
}

/// The kernel's modules, and what tells modprobe where they are. Returns the kernel's version.
fn modules(archive: &mut Archive, kernel: &Path) -> Result<String, String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let all = kernel.join("lib/modules");
    let entry = fs::read_dir(&all).map_err(|error| failed(&all, error))?.flatten().next();
    let home = entry.ok_or_else(|| format!("{}: there is no kernel", all.display()))?.path();
    let release = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
    run(Command::new("depmod").arg("-b").arg(kernel).arg(&release))?;
    let mut files: Vec<_> =
        ["modules.dep", "modules.alias", "modules.builtin", "modules.order", "modules.symbols"]
            .map(|name| home.join(name))
            .into_iter()
            .filter(|path| path.exists())
            .collect();
    let mut folders: Vec<_> = MODULES.iter().map(|part| home.join("kernel").join(part)).collect();
    while let Some(path) = folders.pop() {
        if let Ok(entries) = fs::read_dir(&path) {
            folders.extend(entries.flatten().map(|entry| entry.path()));
        } else if path.exists() {
            files.push(path);
        } else if path.with_extension("ko.xz").exists() {
            files.push(path.with_extension("ko.xz"));
        }
    }
    for path in files {
        let inside = path.strip_prefix(kernel).map_err(|error| error.to_string())?;
        let inside = format!("usr/{}", inside.display());
        archive.file(&inside, fs::read(&path).map_err(|error| failed(&path, error))?, 0o644);
    }
    Ok(release)
}
