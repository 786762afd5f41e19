//! What is tried on each NIC.

use super::guest::Nic;
use super::lab::{NicLab, Setup, VIP, VIP6};
use super::machine::Machine;
use crate::frames::{Route, ip_frame, tcp, tcp_frame};
use crate::process::{Daemon, wait_until};
use crate::wire::Wire;
use serde_json::Value;
use std::time::Duration;

/// Tries something with so many workers, and says what was seen or what is wrong.
pub type Try = fn(&NicLab, &Nic<'_>, usize) -> Result<String, String>;

/// One thing that is tried.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What the table calls it.
    pub name: &'static str,
    /// Whether the lab's links carry VLANs.
    pub is_tagged: bool,
    /// Tries it on a lab whose sluiced may run or not, and leaves it as it likes.
    pub run: Try,
}

/// NICs, and for how many workers each has queues.
pub const NICS: [(Nic<'static>, usize); 6] = [
    (Nic { name: "igb", device: "igb", host_queues: 1, cpu: "max", kernel_driver: "igb" }, 2),
    (
        Nic {
            name: "virtio, rss=on",
            device: "virtio-net-pci,disable-legacy=on,iommu_platform=on,mq=on,rss=on,hash=on,vectors=6",
            host_queues: 2,
            cpu: "max",
            kernel_driver: "virtio-pci",
        },
        2,
    ),
    (
        Nic {
            name: "virtio, one queue",
            device: "virtio-net-pci,disable-legacy=on,iommu_platform=on",
            host_queues: 1,
            cpu: "max",
            kernel_driver: "virtio-pci",
        },
        1,
    ),
    // Without AVX: the same program reads headers one by one there.
    (Nic { name: "vmxnet3", device: "vmxnet3", host_queues: 1, cpu: "Nehalem", kernel_driver: "vmxnet3" }, 2),
    (Nic { name: "e1000e", device: "e1000e", host_queues: 1, cpu: "max", kernel_driver: "e1000e" }, 2),
    (Nic { name: "e1000", device: "e1000", host_queues: 1, cpu: "max", kernel_driver: "e1000" }, 1),
];

/// A step on plain links.
pub(super) const fn step(name: &'static str, run: Try) -> Step {
    Step { name, is_tagged: false, run }
}

/// What `make test` tries.
pub const SHORT: &[Step] = &[
    step("start", start),
    step("HTTP", http),
    step("sessions, handed over", spread),
    step("link", link),
    step("TERM, start", term),
];

/// Every step, in the order in which they are tried.
pub const STEPS: &[Step] = &[
    step("start", start),
    step("HTTP", http),
    step("1 MB each way", both_ways),
    step("large datagrams", datagrams),
    step("IPv6", ipv6),
    step("sessions, handed over", spread),
    step("link", link),
    step("TERM, start", term),
    step("KILL, start", kill),
    step("rebind", rebind),
    step("MTU 1,400", small_mtu),
    step("MTU 9,000", large_mtu),
    step("ordinary pages", pages),
    step("NAT", nat),
    step("DR", dr),
    step("tunnel", tunnel),
    step("frames of 3,054 and 6,054 bytes", long_frames),
    step("frames for others", for_others),
    step("twice the same", second),
    step("what is in the way", messages),
    Step { is_tagged: true, ..step("VLANs 100 and 200", vlans) },
];

fn vlans(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    lab.start(&Setup { vlans: true, ..Setup::new(workers) })?;
    lab.requests(VIP, 20)?;
    lab.fetch(VIP, "100k", 2)?;
    lab.requests(&format!("[{VIP6}]"), 4)?;
    lab.ping("192.0.2.2", 1_472)?;
    lab.end("TERM")?;
    Ok("yes".into())
}

fn start(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    lab.start(&Setup::new(workers))?;
    let ports = lab.json("port list")?;
    let port = &ports[1];
    let list = port["steering_refused"].as_array().into_iter().flatten();
    let refused: Vec<_> = list.filter_map(|reason| reason.as_str()).collect();
    let rung = port["steering"].as_str().unwrap_or_default();
    Ok(if refused.is_empty() { rung.to_owned() } else { format!("{rung} ({})", refused.join("; ")) })
}

fn http(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    lab.requests(VIP, 200)?;
    lab.fetch(VIP, "100k", 20)?;
    lab.fetch(VIP, "1m", 3)?;
    Ok("223 of 223".into())
}

fn both_ways(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    for _ in 0..3 {
        lab.echo_stream(VIP, 1_000_000)?;
    }
    Ok("yes".into())
}

fn datagrams(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    lab.echo(VIP, 1_472)?;
    lab.echo(VIP, 4_000).map_err(|error| format!("in fragments: {error}"))?;
    lab.ping("192.0.2.2", 1_472)?;
    Ok("yes".into())
}

fn ipv6(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    let vip = format!("[{VIP6}]");
    lab.requests(&vip, 20)?;
    lab.fetch(&vip, "100k", 2)?;
    lab.echo(&vip, 1_400)?;
    Ok("yes".into())
}

fn spread(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    let (workers, ports) = (lab.json("worker list")?, lab.json("port list")?);
    let each = |list: &Value, key: &str| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|entry| entry[key].to_string()).collect()
    };
    Ok(format!("{}, {}", each(&workers, "sessions").join("/"), each(&ports, "handed_over").join("/")))
}

fn link(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    for (nic, port) in [(0, "wan"), (1, "lan")] {
        lab.machine().set_link(nic, false)?;
        lab.await_link(port, "down")?;
        lab.machine().set_link(nic, true)?;
        lab.await_link(port, "up")?;
    }
    lab.requests(VIP, 20)?;
    Ok("both".into())
}

fn term(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    lab.end("TERM")?;
    lab.start_again()?;
    lab.requests(VIP, 20)?;
    Ok("yes".into())
}

fn kill(lab: &NicLab, _: &Nic<'_>, _: usize) -> Result<String, String> {
    lab.end("KILL")?;
    lab.start_again()?;
    lab.requests(VIP, 20)?;
    lab.end("TERM")?;
    Ok("yes".into())
}

fn rebind(lab: &NicLab, nic: &Nic<'_>, _: usize) -> Result<String, String> {
    lab.machine().bind(nic.kernel_driver, &lab.machine().pci())?;
    lab.machine().bind("vfio-pci", &lab.machine().pci())?;
    lab.start_again()?;
    lab.requests(VIP, 20)?;
    lab.end("TERM")?;
    Ok("yes".into())
}

fn small_mtu(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    lab.start(&Setup { mtu: 1_400, ..Setup::new(workers) })?;
    lab.ping("192.0.2.2", 1_372)?;
    lab.fetch(VIP, "100k", 2)?;
    lab.end("TERM")?;
    Ok("yes".into())
}

fn large_mtu(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    lab.set_mtu(9_000)?;
    let tried = || -> Result<(), String> {
        lab.start(&Setup { mtu: 9_000, ..Setup::new(workers) })?;
        lab.ping("192.0.2.2", 8_972)?;
        lab.fetch(VIP, "1m", 3)?;
        lab.echo_stream(VIP, 1_000_000)?;
        lab.echo(VIP, 8_972)
    };
    let result = tried();
    if lab.runs() {
        lab.end("TERM")?;
    }
    lab.set_mtu(1_500)?;
    result.map(|()| "yes".into())
}

fn pages(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    lab.start(&Setup { hugepages: "off", ..Setup::new(workers) })?;
    lab.requests(VIP, 20)?;
    lab.end("TERM")?;
    Ok("yes".into())
}

/// Twenty requests in another mode. Servers that answer past the appliance say that they are the VIP.
fn in_mode(lab: &NicLab, mode: &'static str, workers: usize, route: &str) -> Result<String, String> {
    lab.route_back(route)?;
    lab.start(&Setup { mode, ..Setup::new(workers) })?;
    let answers = lab.answers(VIP, 20)?;
    lab.end("TERM")?;
    match answers.lines().count() {
        20 => Ok("20 of 20".into()),
        count => Err(format!("{count} of 20: {answers}")),
    }
}

fn nat(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    in_mode(lab, "nat", workers, "via 10.0.0.2")
}

fn dr(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    lab.share_vip(true)?;
    let seen = in_mode(lab, "dr", workers, "dev back");
    lab.share_vip(false)?;
    seen
}

fn tunnel(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    let mut socat = lab.servers.command("socat");
    socat.args(["-u", "IP4-RECV:4", "TUN,tun-name=tunnel,iff-no-pi,iff-up"]);
    let _unpacker = Daemon::start(&mut socat, &lab.folder().join("tunnel.log"))?;
    if !wait_until(Duration::from_secs(5), || lab.servers.ip("link show dev tunnel").is_ok()) {
        return Err("socat made no TUN device".into());
    }
    lab.servers.sysctl("net.ipv4.conf.tunnel.rp_filter=0")?;
    lab.share_vip(true)?;
    let seen = in_mode(lab, "tunnel", workers, "dev back");
    lab.share_vip(false)?;
    seen
}

/// SYNs with padding that makes them longer than the link's MTU: none goes on, and each that the device gives is counted.
fn long_frames(lab: &NicLab, nic: &Nic<'_>, workers: usize) -> Result<String, String> {
    const EACH: u16 = 100;
    lab.start(&Setup::new(workers))?;
    lab.requests(VIP, 4)?;
    lab.set_mtu(9_000)?;
    let (client, servers) = (lab.folder().join("client-wire"), lab.folder().join("server-wire"));
    for folder in [&client, &servers] {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    }
    let mac = lab.station(0)?;
    let sender = Wire::open(&lab.client, "wan", &client, [2, 0, 0, 0, 0, 1], &[])?;
    let listener = Wire::open(&lab.servers, "lan", &servers, [2, 0, 0, 0, 0, 2], &[])?;
    let counted = || -> Result<u64, String> {
        let (drops, ports) = (lab.json("stats drops")?, lab.json("port list")?);
        let of_device =
            ports[0]["rx_errors"].as_u64().unwrap_or(0) + ports[0]["rx_missed"].as_u64().unwrap_or(0);
        Ok(drops["frame_too_long"].as_u64().unwrap_or(0) + of_device)
    };
    let before = counted()?;
    for n in 0..2 * EACH {
        let route = Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: mac,
            source: ("198.51.100.7".parse().map_err(|_| "an address")?, 10_000 + n),
            destination: (VIP.parse().map_err(|_| "an address")?, 80),
        };
        let mut frame = tcp_frame(&route, tcp::SYN, b"");
        frame.resize(if n % 2 == 0 { 3_054 } else { 6_054 }, b'Z');
        sender.send(&frame)?;
        // A ring of the device holds so many.
        if n % 20 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    wait_until(Duration::from_secs(2), || counted().is_ok_and(|now| now - before >= u64::from(2 * EACH)));
    let heard = listener.receive_ipv4(Duration::from_millis(500));
    let through = heard.iter().filter(|frame| frame.contains(&b'Z') && frame.ends_with(b"ZZZZ")).count();
    let (told, now) = (lab.json("stats drops")?["frame_too_long"].as_u64().unwrap_or(0), counted()?);
    drop((sender, listener));
    lab.set_mtu(1_500)?;
    let buffers = lab.json("status")?["buffers_in_use"].clone();
    lab.requests(VIP, 20)?;
    lab.end("TERM")?;
    if through > 0 {
        return Err(format!("{through} of {} went on", 2 * EACH));
    }
    // Intel's drop what is longer than they were told, and as QEMU emulates them they do not count it.
    let gives_all = nic.device.starts_with("virtio") || nic.device.starts_with("vmxnet3");
    if gives_all && now - before < u64::from(2 * EACH) {
        return Err(format!("of {} only {} were counted", 2 * EACH, now - before));
    }
    Ok(format!("none went on; {told} dropped as frame_too_long; {buffers} buffers in use"))
}

/// Frames for another station, which the device keeps away, and for the groups of OSPF and VRRP, which the kernel gets.
fn for_others(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    const EACH: u64 = 50;
    lab.start(&Setup::new(workers))?;
    let folder = lab.folder().join("others");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let wire = Wire::open(&lab.client, "wan", &folder, [2, 0, 0, 0, 0, 1], &[])?;
    let sum = |list: &Value, key: &str| -> u64 {
        list.as_array().into_iter().flatten().filter_map(|entry| entry[key].as_u64()).sum()
    };
    let counts = || -> Result<(u64, u64), String> {
        let others = lab.json("stats drops")?["ethernet_not_ours"].as_u64().unwrap_or(0);
        Ok((others, sum(&lab.json("worker list")?, "to_kernel")))
    };
    let before = counts()?;
    let send = |mac: [u8; 6], to: &str, protocol: u8| -> Result<(), String> {
        let route = Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: mac,
            source: ("192.0.2.100".parse().map_err(|_| "an address")?, 0),
            destination: (to.parse().map_err(|_| "an address")?, 0),
        };
        (0..EACH).try_for_each(|_| wire.send(&ip_frame(&route, protocol, 1, &[0; 20])))
    };
    let mut other = lab.station(0)?;
    other[5] ^= 0x77;
    send(other, VIP, 17)?;
    send([1, 0, 0x5e, 0, 0, 5], "224.0.0.5", 89)?;
    send([1, 0, 0x5e, 0, 0, 0x12], "224.0.0.18", 112)?;
    let came = wait_until(Duration::from_secs(3), || counts().is_ok_and(|now| now.1 >= before.1 + 2 * EACH));
    let now = counts()?;
    drop(wire);
    lab.end("TERM")?;
    match (came, now.0 - before.0) {
        (true, 0) => Ok("kept away; OSPF and VRRP come".into()),
        (false, _) => Err(format!("of {} frames for groups {} came", 2 * EACH, now.1 - before.1)),
        (true, others) => Err(format!("{others} of {EACH} frames for another station came")),
    }
}

/// What a start that must be refused says.
///
/// # Errors
/// When it is not refused.
pub(super) fn refused(machine: &dyn Machine, config: &str) -> Result<String, String> {
    let home = machine.home();
    machine.write(&format!("{home}/other.toml"), config)?;
    let said = machine
        .run(&format!("sluiced --config {home}/other.toml --state {home}/other-state 2>&1; [ $? != 0 ]"))?;
    Ok(said.trim().trim_start_matches("sluiced: ").to_owned())
}

/// A refusal that must have these words.
fn refused_with(lab: &NicLab, config: &str, words: &str) -> Result<(), String> {
    let said = refused(lab.machine(), config)?;
    if said.contains(words) { Ok(()) } else { Err(format!("`{words}` is not in: {said}")) }
}

fn second(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    let setup = Setup::new(workers);
    lab.start(&setup)?;
    let text = lab.text_of(&setup).replace("/s.sock", "/other.sock");
    refused_with(lab, &text, "is in use by pid")?;
    lab.requests(VIP, 4)?;
    lab.end("TERM")?;
    Ok("refused, and the first goes on".into())
}

fn messages(lab: &NicLab, nic: &Nic<'_>, workers: usize) -> Result<String, String> {
    let text = lab.text_of(&Setup::new(workers));
    let [first, second] = lab.machine().pci();
    const NOWHERE: &str = "0000:ff:1f.7";
    refused_with(lab, &text.replace(first, NOWHERE), &format!("there is no PCI device {NOWHERE}"))?;
    let short = first.trim_start_matches("0000:");
    refused_with(lab, &text.replace(first, short), &format!("write {first}"))?;
    let wide = text.replace("workers = [", "workers = [0, ");
    if workers == 1 {
        refused_with(lab, &wide, "2 workers need one of each")?;
    }
    lab.machine().bind(nic.kernel_driver, &[second])?;
    let bound = format!("is bound to the kernel's driver {}", nic.kernel_driver);
    refused_with(lab, &text, &bound)?;
    lab.machine().run(&format!(
        "echo {second} > /sys/bus/pci/devices/{second}/driver/unbind; echo > /sys/bus/pci/devices/{second}/driver_override"
    ))?;
    refused_with(lab, &text, "is bound to no driver; run `dpdk-devbind.py -b vfio-pci ")?;
    lab.machine().bind("vfio-pci", &[second])?;
    // On a machine that others use too, their pages stay.
    if lab.machine().is_own() {
        let pages = "cat /proc/sys/vm/nr_hugepages > /run/pages; echo 0 > /proc/sys/vm/nr_hugepages";
        lab.machine().run(pages)?;
        refused_with(lab, &text, "sysctl -w vm.nr_hugepages=")?;
        lab.machine().run("cat /run/pages > /proc/sys/vm/nr_hugepages")?;
    }
    Ok("each told with its remedy".into())
}
