//! The daemon behind soft NICs: memif or virtio devices with a queue for each worker, and this process on
//! their other side, which spreads frames over the queues as a NIC with a known key would, answers as clients,
//! gateway and servers, and counts.
//!
//! Workers share the machine's cores, so nothing here is a measurement.

use crate::peer::myself;
use dataplane::dpdk::{Device, DeviceSettings, Eal, EalSettings, Memory, Pool, Queue};
use dataplane::frame::BURST_SIZE;
use dataplane::ids::PortId;
use dataplane::port::{Buffer, Burst, Port};
use pktgen_tests::frames::{ETHERNET, Route, be32, endpoints, tcp, tcp_frame, udp_frame};
use pktgen_tests::process::{Daemon, Folder, Hugepages, run, wait_until};
use pktgen_tests::softnic::{Hashing, SoftNic};
use pktgen_tests::wire::Arp;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const KEY: &str = "4b8e51f4975adda0236669ec2f7235b8fb3e8104474a8dd0135699dc1f6225a8eb2e7134f7ba3d80";
const ENTRIES: usize = 128;
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const SERVERS: u8 = 10;
/// Packets each way of a flow.
const ROUNDS: u8 = 2;
/// Flows under way at a time: fewer than the devices' queues hold.
const UNDER_WAY: usize = 768;
/// How long the daemon may be silent while packets are under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the device says of itself, and what it really does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// It tells the key that it uses.
    Predicted,
    /// It says nothing.
    Silent,
    /// It gives everything to its first queue, and says so.
    OneQueue,
}

/// What the devices are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// memif, on ordinary pages.
    Memif,
    /// virtio-user here and vhost-user there, on hugepages.
    Virtio,
}

impl Wire {
    /// The daemon's device and the other side's.
    fn devices(self, n: usize, socket: &Path, workers: usize) -> (String, String) {
        let socket = socket.display();
        match self {
            Self::Memif => {
                let memif =
                    |role| format!("net_memif{n},role={role},id=0,socket={socket},socket-abstract=no");
                (memif("client"), memif("server"))
            }
            Self::Virtio => (
                format!("net_virtio_user{n},path={socket},queues={workers},queue_size=1024"),
                format!("net_vhost{n},iface={socket},queues={workers}"),
            ),
        }
    }
}

/// Every case with 2, 4 and 8 workers on memif, and with two on virtio.
pub(crate) fn everything(flows: usize) -> Result<(), String> {
    let flows = flows.to_string();
    let one = |words: [&str; 4]| {
        print!("{}", run(Command::new(myself()?).arg("soft-nic-case").args(words))?);
        Ok::<_, String>(())
    };
    for workers in ["2", "4", "8"] {
        for case in ["predicted", "silent", "one-queue"] {
            one(["memif", case, workers, &flows])?;
        }
    }
    match Hugepages::reserve(512) {
        Ok(_pages) => ["predicted", "silent"].iter().try_for_each(|case| one(["virtio", case, "2", &flows])),
        Err(reason) => {
            println!("soft NIC, virtio: not run, because {reason}");
            Ok(())
        }
    }
}

/// One case, in a process of its own, because EAL starts once.
pub(crate) fn case(wire: &str, name: &str, workers: usize, flows: usize) -> Result<(), String> {
    let wire = if wire == "virtio" { Wire::Virtio } else { Wire::Memif };
    let case = match name {
        "predicted" => Case::Predicted,
        "silent" => Case::Silent,
        _ => Case::OneQueue,
    };
    let folder = Folder::new("softnic")?;
    let path = folder.path().join("sluice.toml");
    // First: the other side makes the sockets.
    let mut other = Other::start(wire, case, workers, folder.path())?;
    std::fs::write(&path, config(wire, case, workers, flows, folder.path()))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let program = |name: &str| Ok::<_, String>(myself()?.with_file_name(name));
    let mut daemon = Daemon::start(
        Command::new(program("sluiced")?).arg("--config").arg(&path),
        &folder.path().join("log"),
    )?;
    wait_until(Duration::from_secs(30), || {
        daemon.output().contains("sluiced: ready") || daemon.ended().is_some()
    });
    if daemon.ended().is_some() {
        return Err(daemon.output());
    }
    let sluice = |words: &[&str]| -> Result<Value, String> {
        let socket = folder.path().join("admin.sock");
        let text = run(Command::new(program("sluice")?).arg("-j").arg("--socket").arg(socket).args(words))?;
        serde_json::from_str(&text).map_err(|error| format!("{text}: {error}"))
    };
    let ports = sluice(&["port", "list"])?;
    other.meet([0, 1].map(|at| station(ports[at]["mac"].as_str().unwrap_or_default())))?;
    // A thousand first packets at once would be more than may wait for ARP.
    let is_known = || {
        let list = sluice(&["neighbor", "list"]);
        list.is_ok_and(|list| {
            list.as_array().is_some_and(|list| list.iter().all(|entry| entry["state"] == "REACHABLE"))
        })
    };
    other.answer_arp_until(is_known)?;
    other.converse(flows).map_err(|error| {
        let said = |words: &[&str]| sluice(words).map_or_else(|error| error, |value| value.to_string());
        format!(
            "{name}, {workers} workers: {error}\n{}\n{}\n{}",
            said(&["stats", "drops"]),
            said(&["port", "list"]),
            daemon.output()
        )
    })?;

    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let ports = sluice(&["port", "list"])?;
    let handed: u64 = [0, 1].iter().map(|at| count(&ports[at]["handed_over"])).sum();
    let live: Vec<u64> = sluice(&["worker", "list"])?
        .as_array()
        .map_or(Vec::new(), |list| list.iter().map(|worker| count(&worker["sessions"])).collect());
    let rung = ports[1]["steering"].as_str().unwrap_or_default().to_owned();
    let share = flows as f64 / workers as f64;
    let expected = if case == Case::Predicted { "predicted RSS" } else { "hand-over" };
    if rung != expected || (handed == 0) != (case == Case::Predicted) {
        return Err(format!("{name}, {workers} workers: {rung}, {handed} packets handed over"));
    }
    if live.iter().sum::<u64>() != flows as u64
        || live.iter().any(|count| (*count as f64 - share).abs() > share / 10.0)
    {
        return Err(format!("{name}, {workers} workers: sessions {live:?}"));
    }
    println!(
        "soft NIC, {wire:?}, {name}, {workers} workers: {flows} flows, {} packets, none lost, none out of order; {rung}, {handed} handed over; sessions {live:?}",
        flows * usize::from(ROUNDS) * 2
    );
    Ok(())
}

fn config(wire: Wire, case: Case, workers: usize, flows: usize, folder: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores: Vec<_> = (0..workers).map(|at| at % cores).collect();
    let rss = match case {
        Case::Predicted => format!("rss = {{ fields = \"ports\", key = \"{KEY}\", table = {ENTRIES} }}\n"),
        Case::Silent => String::new(),
        Case::OneQueue => "rss = { fields = \"nothing\" }\n".to_owned(),
    };
    let mut text = format!(
        "[dataplane]\nworkers = {cores:?}\nsession_capacity = {}\n[admin]\nsocket = \"{}/admin.sock\"\n",
        flows / workers * 5 / 4 + 1_000,
        folder.display()
    );
    for (n, name, address) in [(0, "wan", "192.0.2.2/24"), (1, "lan", "10.0.0.2/16")] {
        let (device, _) = wire.devices(n, &folder.join(name), workers);
        let _ = write!(
            text,
            "[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\naddresses = [\"{address}\"]\n{rss}"
        );
    }
    text.push_str("[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n");
    for protocol in ["tcp", "udp"] {
        let _ = write!(
            text,
            "[[service]]\nname = \"{protocol}\"\nlisten = \"{VIP}:80\"\nprotocol = \"{protocol}\"\nforward = \"fullnat\"\nscheduler = \"rr\"\nlocal_addresses = [\"10.0.4.1\", \"10.0.4.2\", \"10.0.4.3\", \"10.0.4.4\"]\n"
        );
        for server in 1..=SERVERS {
            let _ = write!(text, "[[service.server]]\naddress = \"10.0.1.{server}:80\"\nweight = 1\n");
        }
    }
    text
}

/// [`KEY`]'s bytes.
fn key() -> impl Iterator<Item = u8> {
    (0..KEY.len() / 2).filter_map(|at| u8::from_str_radix(&KEY[at * 2..at * 2 + 2], 16).ok())
}

fn station(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (octet, digits) in mac.iter_mut().zip(text.split(':')) {
        *octet = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    mac
}

/// The other side of both links.
struct Other {
    /// By side and queue.
    queues: [Vec<Queue>; 2],
    nic: SoftNic,
    stations: [[u8; 6]; 2],
    /// What the queues will be given, by side and queue.
    waiting: [Vec<Burst<<Queue as Port>::Buffer>>; 2],
    devices: [Device; 2],
    _eal: Eal,
}

/// The sides.
const CLIENTS: usize = 0;
const SERVER_SIDE: usize = 1;

impl Other {
    fn start(wire: Wire, case: Case, workers: usize, folder: &Path) -> Result<Self, String> {
        let vdevs = [(0, "wan"), (1, "lan")].map(|(n, name)| wire.devices(n, &folder.join(name), workers).1);
        let memory = match wire {
            Wire::Memif => Memory::Pages { megabytes: 160 },
            Wire::Virtio => Memory::Hugepages,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let eal = Eal::start(&EalSettings {
            worker_cores: Vec::new(),
            control_cores: (0..cores).collect(),
            memory,
            pci: Vec::new(),
            vdevs: vdevs.to_vec(),
        })
        .map_err(|error| error.to_string())?;
        let key: Vec<u8> = key().collect();
        let pool = Pool::create("packets", 32_768, 2_176, -1)?;
        let settings = DeviceSettings {
            queues: workers as u16,
            rss_key: Vec::new(),
            descriptors: 1_024,
            mtu: None,
            vlans: Vec::new(),
        };
        let start = |(n, vdev): (usize, &String)| {
            let name = vdev.split(',').next().unwrap_or_default();
            Device::start(&eal, PortId(n as u16), name, vec![pool; workers], &settings)
        };
        let mut devices = [start((0, &vdevs[0]))?, start((1, &vdevs[1]))?];
        let queues = devices.each_mut().map(|device| std::iter::from_fn(|| device.take_queue()).collect());
        let hashing = if case == Case::OneQueue { Hashing::Nothing } else { Hashing::Ports };
        let nic = SoftNic::new(key, ENTRIES, workers as u16, hashing);
        let waiting = [0, 1].map(|_| (0..workers).map(|_| Burst::new()).collect());
        Ok(Self { queues, nic, stations: [[0; 6]; 2], waiting, devices, _eal: eal })
    }

    /// Waits for both links to these stations.
    fn meet(&mut self, stations: [[u8; 6]; 2]) -> Result<(), String> {
        self.stations = stations;
        let up = || self.devices.iter().all(|device| device.link().is_some_and(|(up, _)| up));
        if wait_until(PATIENCE, up) { Ok(()) } else { Err("the links do not come up".into()) }
    }

    /// Answers ARP, and nothing else, until something has come true.
    fn answer_arp_until(&mut self, holds: impl Fn() -> bool) -> Result<(), String> {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            for side in [CLIENTS, SERVER_SIDE] {
                self.receive(side)?;
            }
            self.flush();
            if holds() {
                return Ok(());
            }
        }
        Err("the daemon does not find its neighbours".into())
    }

    /// Flows of [`ROUNDS`] packets each way, a bounded number at a time; half are TCP.
    fn converse(&mut self, flows: usize) -> Result<(), String> {
        // What each flow has heard, at the server's end and at the client's.
        let mut heard = vec![[0u8; 2]; flows];
        let (mut begun, mut done) = (0, 0);
        let mut last = Instant::now();
        while done < flows {
            while begun < flows && begun - done < UNDER_WAY {
                self.send(CLIENTS, &request(begun, 0, self.stations[CLIENTS]))?;
                begun += 1;
            }
            for side in [CLIENTS, SERVER_SIDE] {
                for frame in self.receive(side)? {
                    last = Instant::now();
                    let (flow, number) = named(&frame).ok_or("a packet without a name came out")?;
                    let expected = &mut heard[flow][side];
                    if number != *expected {
                        return Err(format!(
                            "flow {flow}: packet {number} came where {expected} was to come"
                        ));
                    }
                    *expected += 1;
                    if side == SERVER_SIDE {
                        self.send(side, &answer(&frame, flow, number, self.stations[side]))?;
                    } else if number + 1 < ROUNDS {
                        self.send(side, &request(flow, number + 1, self.stations[side]))?;
                    } else {
                        done += 1;
                    }
                }
            }
            self.flush();
            if last.elapsed() > PATIENCE {
                return Err(format!("{done} of {flows} flows ended, {begun} had begun; then silence"));
            }
        }
        Ok(())
    }

    /// Puts a frame by for the queue that the NIC would give it to.
    fn send(&mut self, side: usize, frame: &[u8]) -> Result<(), String> {
        let queue = usize::from(self.nic.queue(frame));
        if self.waiting[side][queue].is_full() {
            self.flush();
        }
        let buffer = self.queues[side][queue].buffer_from(frame).ok_or("no buffer is left")?;
        self.waiting[side][queue].try_push(buffer).map_err(|_| "the daemon takes no packets any more")?;
        Ok(())
    }

    /// Gives the queues what waits for them; a full one gets it again a little later.
    fn flush(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        for (queues, waiting) in self.queues.iter_mut().zip(&mut self.waiting) {
            for (queue, burst) in queues.iter_mut().zip(waiting) {
                while !burst.is_empty() && Instant::now() < give_up {
                    queue.tx(burst);
                }
            }
        }
    }

    /// What came out by one side; ARP is answered here.
    fn receive(&mut self, side: usize) -> Result<Vec<Vec<u8>>, String> {
        let mut frames = Vec::with_capacity(BURST_SIZE);
        let mut questions = Vec::new();
        for queue in &mut self.queues[side] {
            let mut burst = Burst::new();
            queue.rx(&mut burst);
            for mut buffer in burst {
                let frame = buffer.frame().bytes().to_vec();
                match frame[12..14] {
                    [8, 6] => questions.push(frame),
                    _ => frames.push(frame),
                }
            }
        }
        for question in questions {
            if let Some(answer) = arp_answer(&question) {
                self.send(side, &answer)?;
            }
        }
        Ok(frames)
    }
}

/// An answer to an ARP question that somebody else than Sluice is to answer.
fn arp_answer(question: &[u8]) -> Option<Vec<u8>> {
    let arp = Arp::parse(question)?;
    // An announcement has one's own address in both places.
    let is_question = arp.operation == 1 && arp.sender.1 != arp.target.1;
    let answer = Arp { operation: 2, sender: (STATION, arp.target.1), target: arp.sender };
    is_question.then(|| answer.frame(arp.sender.0))
}

fn request(flow: usize, number: u8, station: [u8; 6]) -> Vec<u8> {
    let client = Ipv4Addr::from_bits(0xc612_0000 + flow as u32 / 50);
    let route = Route {
        source_mac: STATION,
        destination_mac: station,
        source: (client.into(), 2_000 + (flow % 50) as u16 * 977),
        destination: (VIP.into(), 80),
    };
    let payload = name(flow, number);
    if flow.is_multiple_of(2) {
        udp_frame(&route, &payload)
    } else {
        tcp_frame(&route, if number == 0 { tcp::SYN } else { tcp::ACK }, &payload)
    }
}

fn answer(seen: &[u8], flow: usize, number: u8, station: [u8; 6]) -> Vec<u8> {
    let (source, destination) = endpoints(seen).unwrap_or(((VIP.into(), 0), (VIP.into(), 0)));
    let route =
        Route { source_mac: STATION, destination_mac: station, source: destination, destination: source };
    let payload = name(flow, number);
    if seen[ETHERNET + 9] == 17 {
        udp_frame(&route, &payload)
    } else {
        tcp_frame(&route, if number == 0 { tcp::SYN | tcp::ACK } else { tcp::ACK }, &payload)
    }
}

/// A payload that says whose it is, longer than what Ethernet would pad.
fn name(flow: usize, number: u8) -> [u8; 24] {
    let mut payload = [0; 24];
    payload[..4].copy_from_slice(&(flow as u32).to_be_bytes());
    payload[4] = number;
    payload
}

fn named(frame: &[u8]) -> Option<(usize, u8)> {
    let payload = frame.get(frame.len().checked_sub(24)?..)?;
    Some((be32(payload, 0) as usize, payload[4]))
}
