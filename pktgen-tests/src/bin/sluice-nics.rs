//! `sluice-nics` tries sluiced on every NIC that QEMU emulates and that DPDK drives, says what was seen, and puts the
//! table into docs/NICS.md. `sluice-nics NAME...` tries those whose names begin so, and leaves the page alone.
//!
//! `sluice-nics --pci NIC,NIC --peers INTERFACE,INTERFACE` tries two NICs of this machine, between the interfaces at the
//! other ends of their cables, and writes what was seen into target/nics/report.md.

use clap::Parser;
use pktgen_tests::netns;
use pktgen_tests::nics::guest::{Board, Guest, Nic, PCI, STANDS_STILL, once_more};
use pktgen_tests::nics::image::Image;
use pktgen_tests::nics::lab::NicLab;
use pktgen_tests::nics::load::ON_HOST;
use pktgen_tests::nics::machine::Machine as _;
use pktgen_tests::nics::obstacles;
use pktgen_tests::nics::report::{Walk, emulation, put, table, walk, walk_labs};
use pktgen_tests::nics::steps::{NICS, STEPS, Step};
use pktgen_tests::process::{Folder, run, wait_until};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Tries sluiced on NICs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Emulated NICs whose names begin so; all without.
    names: Vec<String>,
    /// Two NICs of this machine, by their PCI addresses: 0000:3b:00.0,0000:3b:00.1.
    #[arg(long, value_delimiter = ',', num_args = 1.., requires = "peers", conflicts_with = "names")]
    pci: Vec<String>,
    /// The interfaces at the other ends of their cables.
    #[arg(long, value_delimiter = ',', num_args = 1.., requires = "pci")]
    peers: Vec<String>,
    /// A step that cannot be tried here, as the table calls it: `link`, where a switch is between the NICs.
    #[arg(long, value_name = "STEP", requires = "pci")]
    without: Vec<String>,
    /// Workers, on the cores from 1 on.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    netns::remove_orphans();
    let walked = if arguments.pci.is_empty() { emulated(&arguments.names) } else { real(&arguments) };
    match walked {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("sluice-nics: {failures} steps failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("sluice-nics: {error}");
            ExitCode::FAILURE
        }
    }
}

fn emulated(wanted: &[String]) -> Result<usize, String> {
    let folder = Folder::new("image")?;
    let image = Image::build(folder.path(), &[])?;
    let mut walks = Vec::new();
    for (nic, workers) in &NICS {
        if wanted.is_empty() || wanted.iter().any(|name| nic.name.starts_with(name.as_str())) {
            walks.push(walk(&image, nic, *workers, STEPS)?);
        }
    }
    if wanted.is_empty() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/NICS.md");
        put(&page, &table(&walks, STEPS, &emulation(&image.release)))?;
    }
    let mut failures: usize = walks.iter().map(Walk::failures).sum();
    let is_asked = |what: &str| wanted.is_empty() || wanted.iter().any(|name| name == what);
    if is_asked(OBSTACLES) {
        failures += obstacles::walk(&image)?;
    }
    if is_asked(ITSELF) {
        failures += once_more(itself)?;
    }
    Ok(failures)
}

/// What `names` calls machines that lack something, and the command for real NICs, which is tried too.
const OBSTACLES: &str = "obstacles";
const ITSELF: &str = "itself";

/// Tries the command for real NICs, on a guest whose four NICs are cabled to each other, two and two. Returns how many
/// steps failed.
fn itself() -> Result<usize, String> {
    println!("{ITSELF}: the command for a machine's own NICs, on four e1000e of a guest");
    let folder = Folder::new("image")?;
    let own = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    let own = own.to_string_lossy();
    let image = Image::build(folder.path(), &[&PROGRAMS[..], &[&own]].concat())?;
    let (nic, _) = NICS.iter().find(|(nic, _)| nic.name == "e1000e").ok_or("there is no e1000e")?;
    let cables = ["0", "1", "0", "1"].map(|hub| format!("hubport,hubid={hub}"));
    let guest =
        Guest::boot(&image, nic, &Board::new(3), &cables, |program| Command::new(program), folder.path())?;
    guest.run("modprobe e1000e; modprobe veth")?;
    let name = |at: &str| guest.run(&format!("ls /sys/bus/pci/devices/0000:00:{at}.0/net"));
    let peers = [name("10")?, name("14")?].map(|name| name.trim().to_owned()).join(",");
    // QEMU's hubs do not tell that a link is down at the other end.
    let words = format!("--pci {} --peers {peers} --without link", PCI.join(","));
    guest.run(&format!("cd /root; (sluice-nics {words}; echo ended $?) > said 2>&1 &"))?;
    let (mut said, mut shown) = (String::new(), 0);
    let mut still = None;
    wait_until(PATIENCE, || {
        match guest.run("cat /root/said") {
            Ok(text) => said = text,
            Err(error) if error.contains(STANDS_STILL) => {
                still = Some(error);
                return true;
            }
            Err(_) => return false,
        }
        said.lines().skip(shown).for_each(|line| println!("  {line}"));
        shown = said.lines().count();
        said.contains("ended ")
    });
    if let Some(error) = still {
        return Err(error);
    }
    let drivers = guest
        .run("for d in 04 08; do basename $(readlink /sys/bus/pci/devices/0000:00:$d.0/driver); done")?;
    if drivers.split_whitespace().any(|driver| driver != "e1000e") {
        return Err(format!("the NICs were not given back: {drivers}"));
    }
    match said.lines().last() {
        Some("ended 0") => Ok(0),
        _ => Err(format!("{ITSELF}: {said}")),
    }
}

/// What a lab takes on the machine where it is.
const PROGRAMS: [&str; 7] = ["nginx", "curl", "socat", "ip", "ss", "ethtool", "ping"];
/// How long all steps may take on an emulated machine that emulates nothing.
const PATIENCE: Duration = Duration::from_secs(160);

fn real(arguments: &Arguments) -> Result<usize, String> {
    let two = |list: &[String], what: &str| {
        <[String; 2]>::try_from(list.to_vec())
            .map_err(|_| format!("{what} names two, with a comma between them"))
    };
    let (pci, peers) = (two(&arguments.pci, "--pci")?, two(&arguments.peers, "--peers")?);
    let driver = std::fs::read_link(Path::new("/sys/bus/pci/devices").join(&pci[0]).join("driver"));
    let driver = driver.ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let driver = driver.filter(|driver| driver != "vfio-pci").ok_or_else(|| {
        format!(
            "{} has no driver of the kernel, which the steps go back to; bind it to its own first",
            pci[0]
        )
    })?;
    let named = run(Command::new("lspci").args(["-nn", "-s", &pci[0]])).unwrap_or_default();
    let named = named.trim().to_owned();
    let name = if named.is_empty() { pci[0].clone() } else { named };
    let nic = Nic { name: &name, device: "", host_queues: 1, cpu: "", kernel_driver: &driver };
    // The kernel's own VLANs show whether tags can be tried.
    let tags = run(Command::new("modprobe").arg("8021q")).is_ok();
    let lab = |vlans| NicLab::on_host(&pci, &peers, vlans);
    let is_tried = |step: &&Step| !arguments.without.iter().any(|name| name == step.name);
    let all: Vec<_> = STEPS.iter().chain(ON_HOST).copied().collect();
    let steps: Vec<_> = all.iter().filter(is_tried).copied().collect();
    let walk = walk_labs(&nic, arguments.workers, &steps, tags, lab)?;
    let kernel = run(Command::new("uname").arg("-r")).unwrap_or_default();
    let failed: String = walk
        .outcomes
        .iter()
        .filter_map(|outcome| Some(format!("\n{}: {}\n", outcome.name, outcome.seen.as_ref().err()?)))
        .collect();
    let walks = [walk];
    let text = table(&walks, &all, &format!("kernel {}", kernel.trim())) + &failed;
    let path = Path::new("target/nics/report.md");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all("target/nics").and_then(|()| std::fs::write(path, text)).map_err(failed)?;
    println!("report: {}", path.display());
    Ok(walks.iter().map(Walk::failures).sum())
}
