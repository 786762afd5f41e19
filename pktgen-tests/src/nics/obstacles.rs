//! What a machine itself has in the way of NICs, which only another machine shows: no IOMMU, a group that is shared, a
//! kernel without the module for it.

use super::guest::{Board, Guest, Nic, once_more};
use super::image::Image;
use super::lab::{EMULATED, Setup};
use super::machine::Machine;
use super::steps::{NICS, refused};
use crate::process::{Folder, wait_until};
use std::process::Command;

/// Two NICs' places, and that of one in the first one's slot. It has its IOMMU group, as conventional PCI has no ACS (PCIe's
/// newer NICs tell that their functions are apart).
const PLACES: [&str; 3] = ["4.0,multifunction=on", "8.0", "4.1"];
/// Their addresses.
const PCI: [&str; 3] = ["0000:00:04.0", "0000:00:08.0", "0000:00:04.1"];

/// Starts sluiced on machines of which each lacks something, and says what it said. Returns how often that was not the
/// cause with its remedy.
///
/// # Errors
/// When a guest does not come up, or its NICs cannot be bound.
pub fn walk(image: &Image) -> Result<usize, String> {
    println!("what a machine has in the way, on guests with three e1000");
    once_more(|| meet(image))
}

fn meet(image: &Image) -> Result<usize, String> {
    let (nic, _) = NICS.iter().find(|(nic, _)| nic.name == "e1000").ok_or("there is no e1000")?;
    let folder = Folder::new("obstacles")?;
    let guest = boot(image, nic, false, &folder)?;
    let mut failures = 0;
    let mut says = |guest: &Guest, what: &str, words: &[&str]| {
        let text = Setup::new(1).text([PCI[0], PCI[1]], guest.home());
        let said = refused(guest, &text).unwrap_or_else(|error| format!("it was not refused: {error}"));
        let is_right = words.iter().all(|word| said.contains(word)) && said.lines().count() == 1;
        failures += usize::from(!is_right);
        println!("  {:<6} {what}: {said}", if is_right { "ok" } else { "FAILED" });
    };
    let no_iommu = ["the machine's IOMMU is off; switch it on in the firmware, add intel_iommu=on"];
    says(&guest, "no IOMMU", &no_iommu);
    guest.run("modprobe e1000")?;
    says(&guest, "no IOMMU, the kernel's driver", &[no_iommu[0], "is bound to the kernel's driver e1000"]);
    drop(guest);

    let folder = Folder::new("obstacles")?;
    let guest = boot(image, nic, true, &folder)?;
    guest.run("modprobe e1000; echo 384 > /proc/sys/vm/nr_hugepages")?;
    guest.bind("vfio-pci", &PCI[..2])?;
    let shared = ["shares an IOMMU group with 0000:00:04.1, which is bound to e1000; run `dpdk-devbind.py"];
    says(&guest, "a group shared with a NIC of the kernel's", &shared);
    guest.bind("vfio-pci", &PCI[2..])?;
    guest.run("rmmod vfio_iommu_type1")?;
    says(&guest, "no vfio_iommu_type1", &["vfio_iommu_type1 is not loaded; run `modprobe vfio_iommu_type1`"]);
    // With everything out of the way it starts.
    guest.run("modprobe vfio_iommu_type1")?;
    let home = guest.home();
    guest.write(&format!("{home}/sluice.toml"), &Setup::new(1).text([PCI[0], PCI[1]], home))?;
    guest.run(&format!(
        "cd {home}; setsid sluiced --config sluice.toml --state state >log 2>&1 </dev/null & echo $! > {home}/pid"
    ))?;
    let answers = || guest.run(&format!("sluice --socket {home}/s.sock status")).is_ok();
    let started = match wait_until(EMULATED, answers) {
        true => guest.run(&format!("kill -TERM $(cat {home}/pid)")),
        false => Err(guest.run(&format!("cat {home}/log")).unwrap_or_else(|error| error)),
    };
    failures += usize::from(started.is_err());
    match started {
        Ok(_) => println!("  ok     nothing in the way: it starts"),
        Err(error) => println!("  FAILED nothing in the way: {error}"),
    }
    Ok(failures)
}

fn boot(image: &Image, nic: &Nic<'_>, has_iommu: bool, folder: &Folder) -> Result<Guest, String> {
    let cables: Vec<_> = (0..PLACES.len()).map(|hub| format!("hubport,hubid={hub}")).collect();
    let board = Board { cpus: 2, has_iommu, places: &PLACES };
    Guest::boot(image, nic, &board, &cables, |program| Command::new(program), folder.path())
}
