//! What can be found wrong with a PCI device before DPDK looks at it, said with its remedy.

use std::fs;
use std::path::Path;

/// Drivers of the kernel that give a device to programs.
const FOR_PROGRAMS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers of the kernel beside which DPDK drives a device.
const SHARED: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];
/// Drivers of a group's other members that are in nobody's way: bridges', and none for anything else.
const HARMLESS: [&str; 2] = ["pcieport", "pci-stub"];

/// Whether the device at `address` can be used by `workers` workers, as far as the kernel knows; `sys` is `/sys`.
///
/// # Errors
/// With what is in the way, and what to do about it.
pub fn check(sys: &Path, address: &str, workers: usize) -> Result<(), String> {
    let devices = sys.join("bus/pci/devices");
    let device = devices.join(address);
    if !device.exists() {
        let whole = format!("0000:{address}");
        return Err(match devices.join(&whole).exists() {
            true => format!("there is no PCI device {address}; write {whole}"),
            false => format!(
                "there is no PCI device {address}; `dpdk-devbind.py --status-dev net` lists those there are"
            ),
        });
    }
    let bind = format!("run `dpdk-devbind.py -b vfio-pci {address}`");
    // vfio-pci takes nothing without one.
    let first = match names_in(&sys.join("kernel/iommu_groups")).is_empty() {
        true => {
            ", and the machine's IOMMU is off; switch it on in the firmware, add intel_iommu=on or amd_iommu=on to the kernel's command line, then "
        }
        false => "; ",
    };
    let driver = driver_of(&device);
    match driver.as_deref() {
        Some("vfio-pci") => check_vfio(sys, address)?,
        Some(driver) if FOR_PROGRAMS.contains(&driver) || SHARED.contains(&driver) => {}
        Some(driver) => {
            let interface = names_in(&device.join("net")).into_iter().next();
            let interface = interface.map_or(String::new(), |name| format!(" as interface {name}"));
            return Err(format!(
                "device {address} is bound to the kernel's driver {driver}{interface}{first}{bind}, which takes it away from the kernel"
            ));
        }
        None => return Err(format!("device {address} is bound to no driver{first}{bind}")),
    }
    if workers > 1 && is_8254x(&device) {
        return Err(format!(
            "device {address} has one receive and one transmit queue, {workers} workers need one of each; name one worker, or use another NIC"
        ));
    }
    Ok(())
}

/// What a device on vfio-pci needs besides.
fn check_vfio(sys: &Path, address: &str) -> Result<(), String> {
    let group = sys.join("bus/pci/devices").join(address).join("iommu_group");
    let members = names_in(&group.join("devices"));
    let is_in_the_way = |member: &&String| {
        let driver = driver_of(&sys.join("bus/pci/devices").join(member));
        driver.is_some_and(|driver| driver != "vfio-pci" && !HARMLESS.contains(&driver.as_str()))
    };
    if let Some(other) = members.iter().filter(|member| *member != address).find(is_in_the_way) {
        let driver = driver_of(&sys.join("bus/pci/devices").join(other)).unwrap_or_default();
        return Err(format!(
            "device {address} shares an IOMMU group with {other}, which is bound to {driver}; run `dpdk-devbind.py -b vfio-pci {other}` too, or move the NIC to another slot"
        ));
    }
    let is_without_iommu = fs::read_to_string(sys.join("module/vfio/parameters/enable_unsafe_noiommu_mode"))
        .is_ok_and(|text| text.trim() == "Y");
    if !is_without_iommu && !sys.join("module/vfio_iommu_type1").exists() {
        return Err(format!(
            "device {address} is bound to vfio-pci, and the kernel's module vfio_iommu_type1 is not loaded; run `modprobe vfio_iommu_type1`"
        ));
    }
    Ok(())
}

/// Intel's 8254x, of which DPDK's net_e1000_em says that they have two queues: what the second is given is never sent.
fn is_8254x(device: &Path) -> bool {
    let number = |name: &str| {
        let text = fs::read_to_string(device.join(name)).ok()?;
        u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let is_old = |id| matches!(id, 0x1000..=0x1048 | 0x1075..=0x107c | 0x108a | 0x1099 | 0x10b5);
    number("vendor") == Some(0x8086) && number("device").is_some_and(is_old)
}

fn driver_of(device: &Path) -> Option<String> {
    let driver = fs::read_link(device.join("driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A folder that looks like /sys, with the devices 0000:01:00.0 and .1 in one IOMMU group.
    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str) -> Self {
            let sys = std::env::temp_dir().join(format!("sluice-sys-{name}-{}", std::process::id()));
            for address in ["0000:01:00.0", "0000:01:00.1"] {
                let device = sys.join("bus/pci/devices").join(address);
                fs::create_dir_all(sys.join("kernel/iommu_groups/7/devices").join(address)).unwrap();
                fs::create_dir_all(&device).unwrap();
                symlink("../../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
                fs::write(device.join("vendor"), "0x8086\n").unwrap();
                fs::write(device.join("device"), "0x10d3\n").unwrap();
            }
            fs::create_dir_all(sys.join("module/vfio_iommu_type1")).unwrap();
            Self(sys)
        }

        fn bind(&self, address: &str, driver: &str) {
            let link = self.0.join("bus/pci/devices").join(address).join("driver");
            let _ = fs::remove_file(&link);
            symlink(format!("../../../../bus/pci/drivers/{driver}"), link).unwrap();
        }

        fn says(&self, address: &str, workers: usize) -> String {
            check(&self.0, address, workers).err().unwrap_or_default()
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_in_a_devices_way_is_named_with_its_remedy() {
        let sys = Sys::new("way");
        let (one, two) = ("0000:01:00.0", "0000:01:00.1");
        assert!(sys.says("0000:09:00.0", 1).contains("dpdk-devbind.py --status-dev net"));
        assert!(sys.says("01:00.0", 1).ends_with("write 0000:01:00.0"));
        assert!(
            sys.says(one, 1).contains("bound to no driver; run `dpdk-devbind.py -b vfio-pci 0000:01:00.0`")
        );
        sys.bind(one, "e1000e");
        fs::create_dir_all(sys.0.join("bus/pci/devices").join(one).join("net/eth7")).unwrap();
        assert!(sys.says(one, 1).contains("kernel's driver e1000e as interface eth7; run"));
        sys.bind(one, "vfio-pci");
        assert_eq!(sys.says(one, 2), "");
        sys.bind(two, "pcieport");
        assert_eq!(sys.says(one, 2), "");
        sys.bind(two, "e1000e");
        assert!(
            sys.says(one, 1).contains("shares an IOMMU group with 0000:01:00.1, which is bound to e1000e")
        );
        sys.bind(two, "vfio-pci");
        fs::remove_dir_all(sys.0.join("module/vfio_iommu_type1")).unwrap();
        assert!(sys.says(one, 1).contains("modprobe vfio_iommu_type1"));
        fs::create_dir_all(sys.0.join("module/vfio/parameters")).unwrap();
        fs::write(sys.0.join("module/vfio/parameters/enable_unsafe_noiommu_mode"), "Y\n").unwrap();
        assert_eq!(sys.says(one, 2), "");
        sys.bind(one, "mlx5_core");
        assert_eq!(sys.says(one, 2), "");
    }

    #[test]
    fn a_machine_without_iommu_is_told_so() {
        let sys = Sys::new("iommu");
        fs::remove_dir_all(sys.0.join("kernel")).unwrap();
        let remedy = "the machine's IOMMU is off; switch it on in the firmware";
        assert!(sys.says("0000:01:00.0", 1).contains(remedy));
        sys.bind("0000:01:00.0", "igb");
        assert!(sys.says("0000:01:00.0", 1).contains(remedy));
    }

    #[test]
    fn a_chip_with_one_queue_takes_one_worker_whatever_its_driver_says() {
        let sys = Sys::new("queues");
        sys.bind("0000:01:00.0", "vfio-pci");
        sys.bind("0000:01:00.1", "vfio-pci");
        for (id, is_refused) in [("0x100e", true), ("0x100f", true), ("0x10d3", false), ("0x10c9", false)] {
            fs::write(sys.0.join("bus/pci/devices/0000:01:00.0/device"), id).unwrap();
            assert_eq!(sys.says("0000:01:00.0", 2).contains("name one worker"), is_refused, "{id}");
            assert_eq!(sys.says("0000:01:00.0", 1), "", "{id}");
        }
    }
}
