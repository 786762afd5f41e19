//! What of the host costs packets: memory, cores, the NICs' places, clock.

use super::Finding;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What was seen of the host below `root`, which is `/`.
pub(super) fn findings(root: &Path, status: &Value, workers: &[Value], ports: &[Value]) -> Vec<Finding> {
    let cores: Vec<u64> = workers.iter().filter_map(|worker| worker["core"].as_u64()).collect();
    let sys = root.join("sys");
    let mut all = vec![memory(status)];
    all.extend(iommu(&sys, ports));
    all.extend(nodes(&sys, &cores, ports));
    all.extend(isolation(&sys, &cores));
    all.extend(siblings(&sys, &cores));
    all.extend(governors(&sys, &cores));
    all.extend(clock(&sys));
    all
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn memory(status: &Value) -> Finding {
    let memory = status["memory"].as_str().unwrap_or_default();
    if !memory.starts_with("ordinary pages") {
        return Finding::good("memory", memory);
    }
    Finding::warning(
        "memory",
        format!("packets are on {memory}"),
        "reserve hugepages before the start: `sysctl -w vm.nr_hugepages=1024`, and set hugepages = \"require\" in [dataplane]",
    )
}

/// The PCI addresses of ports that are PCI devices.
fn pci(ports: &[Value]) -> impl Iterator<Item = (&str, &str)> {
    let named = ports.iter().filter(|port| port["parent"].is_null());
    let devices = named.filter_map(|port| Some((port["name"].as_str()?, port["device"].as_str()?)));
    devices.filter(|(_, device)| device.len() >= 12 && device.as_bytes()[4] == b':')
}

fn iommu(sys: &Path, ports: &[Value]) -> Option<Finding> {
    pci(ports).next()?;
    let groups =
        fs::read_dir(sys.join("kernel/iommu_groups")).is_ok_and(|mut groups| groups.next().is_some());
    Some(if groups {
        Finding::good("IOMMU", "it is on")
    } else {
        Finding::warning(
            "IOMMU",
            "it is off, so a NIC can write anywhere in memory",
            "switch it on in the firmware, and add intel_iommu=on or amd_iommu=on to the kernel's command line",
        )
    })
}

/// NICs on another NUMA node than a worker.
fn nodes(sys: &Path, cores: &[u64], ports: &[Value]) -> Vec<Finding> {
    let node_of = |core: u64| {
        let entries = fs::read_dir(sys.join(format!("devices/system/cpu/cpu{core}"))).ok()?;
        entries
            .flatten()
            .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse::<i64>().ok())
    };
    let mut all = Vec::new();
    for (name, device) in pci(ports) {
        let path = sys.join("bus/pci/devices").join(device).join("numa_node");
        let Some(node) = read(&path).and_then(|text| text.parse::<i64>().ok()).filter(|node| *node >= 0)
        else {
            continue;
        };
        let far: Vec<_> = cores
            .iter()
            .filter(|core| node_of(**core).is_some_and(|other| other != node))
            .map(u64::to_string)
            .collect();
        if !far.is_empty() {
            all.push(Finding::warning(
                format!("port {name}"),
                format!(
                    "{device} is on NUMA node {node}, and the workers on cores {} are not",
                    far.join(", ")
                ),
                format!("name cores of node {node} in workers: `lscpu -e` shows them"),
            ));
        }
    }
    all
}

/// Cores in a list as the kernel writes it: `1-3,7`.
fn parse(list: &str) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u64>(), last.trim().parse()) {
            all.extend(first..=last);
        }
    }
    all
}

fn list(cores: &[u64]) -> String {
    cores.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

fn isolation(sys: &Path, cores: &[u64]) -> Option<Finding> {
    let isolated = parse(&read(&sys.join("devices/system/cpu/isolated"))?);
    let shared: Vec<_> = cores.iter().copied().filter(|core| !isolated.contains(core)).collect();
    Some(if shared.is_empty() {
        Finding::good("cores", "the workers' cores are isolated")
    } else {
        let own = list(&shared);
        Finding::warning(
            "cores",
            format!("other programs may run on the workers' cores {own}, and hold packets up meanwhile"),
            format!("add isolcpus={own} nohz_full={own} rcu_nocbs={own} to the kernel's command line"),
        )
    })
}

/// Workers that share a core's arithmetic with another.
fn siblings(sys: &Path, cores: &[u64]) -> Vec<Finding> {
    let mut all = Vec::new();
    for (at, core) in cores.iter().enumerate() {
        let path = sys.join(format!("devices/system/cpu/cpu{core}/topology/thread_siblings_list"));
        let siblings = read(&path).map(|text| parse(&text)).unwrap_or_default();
        if let Some(other) = cores[at + 1..].iter().find(|other| siblings.contains(other)) {
            all.push(Finding::warning(
                format!("core {core}"),
                format!("it is the same core as {other} (hyper-threading), so two workers share one"),
                "name cores of which each is another: `lscpu -e` shows them",
            ));
        }
    }
    all
}

fn governors(sys: &Path, cores: &[u64]) -> Option<Finding> {
    let governor =
        |core: u64| read(&sys.join(format!("devices/system/cpu/cpu{core}/cpufreq/scaling_governor")));
    let slow: Vec<_> = cores
        .iter()
        .copied()
        .filter(|core| governor(*core).is_some_and(|name| name != "performance"))
        .collect();
    if slow.is_empty() {
        return None;
    }
    Some(Finding::warning(
        "cores",
        format!("the workers' cores {} change their clock with their load", list(&slow)),
        "run `cpupower frequency-set -g performance`",
    ))
}

fn clock(sys: &Path) -> Option<Finding> {
    let name = read(&sys.join("devices/system/clocksource/clocksource0/current_clocksource"))?;
    // The others cost a system call, or a device's register, each time.
    Some(if matches!(name.as_str(), "tsc" | "kvm-clock" | "arch_sys_counter") {
        Finding::good("clock", format!("the clock source is {name}"))
    } else {
        Finding::warning(
            "clock",
            format!("the clock source is {name}, which is slow to read"),
            "see in the kernel's log why it is not tsc",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Grade;
    use serde_json::json;
    use std::path::PathBuf;

    struct Root(PathBuf);

    impl Root {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("sluice-doctor-{}", std::process::id())))
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join("sys").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_costs_packets_is_found_with_its_remedy_and_what_is_right_is_good() {
        let root = Root::new();
        let workers = [json!({ "core": 2 }), json!({ "core": 3 })];
        let ports = [json!({ "name": "wan", "device": "0000:3b:00.0", "parent": null })];
        let seen = |memory: &str| findings(&root.0, &json!({ "memory": memory }), &workers, &ports);
        root.write("devices/system/cpu/isolated", "\n");
        root.write("devices/system/cpu/cpu2/node0/x", "");
        root.write("devices/system/cpu/cpu3/node1/x", "");
        root.write("devices/system/cpu/cpu2/topology/thread_siblings_list", "2-3\n");
        root.write("devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave\n");
        root.write("devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
        root.write("bus/pci/devices/0000:3b:00.0/numa_node", "0\n");
        let bad = seen("ordinary pages (80 MB; hugepages are faster)");
        assert!(
            bad.iter().all(|finding| finding.grade == Grade::Warning && finding.remedy.is_some()),
            "{bad:#?}"
        );
        let text: String = bad
            .iter()
            .map(|finding| format!("{} {}\n", finding.seen, finding.remedy.as_ref().unwrap()))
            .collect();
        for part in [
            "nr_hugepages",
            "intel_iommu=on",
            "the workers on cores 3 are not",
            "isolcpus=2,3",
            "the same core as 3",
            "cores 3 change their clock",
            "hpet, which is slow",
        ] {
            assert!(text.contains(part), "`{part}`: {text}");
        }
        root.write("devices/system/cpu/isolated", "2-3\n");
        root.write("devices/system/cpu/cpu2/topology/thread_siblings_list", "2,34\n");
        root.write("devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance\n");
        root.write("devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
        root.write("bus/pci/devices/0000:3b:00.0/numa_node", "-1\n");
        root.write("kernel/iommu_groups/7/x", "");
        let good = seen("hugepages");
        assert!(good.iter().all(|finding| finding.grade == Grade::Good), "{good:#?}");
        assert_eq!(good.len(), 4);
        assert_eq!(parse("1-3,7"), BTreeSet::from([1, 2, 3, 7]));
    }
}
