//! A process with one DPDK device and its workers, which runs what its standard input says: `null`
//! or `sluice`, for how many seconds, and on how many workers (one, if nothing is said). Each answer
//! is a line of JSON.
//!
//! The worker is the daemon's own, one-armed: clients and servers are on the same port, as testpmd
//! with one port sends back where it received.

use crate::assembly::{self, Assembly};
use crate::machine::{self, cpu_ns};
use crate::pcap::{self, Judge};
use crate::rig::{ACK, SYN};
use crate::run::Frames;
use crate::world::{self, PEER_MAC, Size, Way};
use dataplane::director::{Director, Origin, Verdicts};
use dataplane::dpdk::{self, Clock, Device, DeviceSettings, Eal, EalSettings, Mbuf, Memory, Pool, Queue};
use dataplane::frame::Frame;
use dataplane::ids::{PortId, WorkerId};
use dataplane::port::{Buffer, Burst, Port};
use dataplane::snapshot::Snapshot;
use dataplane::steering::ladder::{self, Facts};
use dataplane::steering::{Seat, Steering};
use dataplane::worker::{self, Peers, Worker};
use pktgen_tests::frames::{Route, endpoints, tcp_frame};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the process is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The device, as a DPDK vdev string.
    pub(crate) vdev: String,
    pub(crate) protocol: String,
    pub(crate) flows: u32,
    pub(crate) way: Way,
    /// Packet buffers, and the bytes of each.
    pub(crate) buffers: u32,
    pub(crate) room: u16,
    /// Workers, each with a queue of its own.
    pub(crate) workers: usize,
    /// The core that the first worker runs on; the others take those before it.
    pub(crate) core: usize,
    /// Whether buffers lie on hugepages.
    pub(crate) hugepages: bool,
}

impl Plan {
    /// One worker on a pcap device that gives the packets of a file for ever.
    pub(crate) fn on_pcap(path: &Path, frames: &Frames, hugepages: bool) -> Self {
        Self {
            vdev: format!("net_pcap0,rx_pcap={},infinite_rx=1", path.display()),
            protocol: frames.protocol.into(),
            flows: frames.flows,
            way: frames.way,
            // The device holds every frame of the file in a buffer of its own.
            buffers: frames.flows + frames.flows / 4 + 16_384,
            room: 320,
            workers: 1,
            core: machine::measuring_core(),
            hugepages,
        }
    }

    /// What EAL needs for the buffers, each with its header and place in the pool, and for itself.
    pub(crate) fn megabytes(&self) -> usize {
        let bytes = u64::from(self.buffers) * (u64::from(self.room) + 192);
        (bytes >> 20) as usize + 128
    }

    /// The words by which another process is told this plan.
    pub(crate) fn words(&self) -> Vec<String> {
        vec![
            self.vdev.clone(),
            self.protocol.clone(),
            self.flows.to_string(),
            self.way.words(),
            self.buffers.to_string(),
            self.room.to_string(),
            self.workers.to_string(),
            self.core.to_string(),
            self.hugepages.to_string(),
        ]
    }

    /// The plan of such words.
    pub(crate) fn from_words(words: &[&str]) -> Result<Self, String> {
        fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
            text.parse().map_err(|_| format!("`{text}` is not a number"))
        }
        let [vdev, protocol, flows, way, buffers, room, workers, core, hugepages] = words else {
            return Err("a plan has nine words".into());
        };
        Ok(Self {
            vdev: (*vdev).to_owned(),
            protocol: (*protocol).to_owned(),
            flows: number(flows)?,
            way: Way::from_words(way).ok_or("the way is unknown")?,
            buffers: number(buffers)?,
            room: number(room)?,
            workers: number(workers)?,
            core: number(core)?,
            hugepages: *hugepages == "true",
        })
    }
}

/// One burst of so many is looked at, one packet of it.
const SAMPLE: u32 = 16;

/// A DPDK queue whose outgoing packets are looked at now and then.
struct Watched {
    queue: Queue,
    judge: Judge,
    countdown: u32,
    sent: u64,
    thrown_away: u64,
}

impl Port for Watched {
    type Buffer = Mbuf;

    fn id(&self) -> PortId {
        self.queue.id()
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        self.queue.rx(burst)
    }

    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let waiting = burst.len();
        if self.countdown == 0 {
            self.countdown = SAMPLE;
            if let Some(buffer) = burst.last_mut() {
                self.judge.look(buffer.frame().bytes());
            }
        }
        self.countdown -= 1;
        self.queue.tx(burst);
        self.sent += (waiting - burst.len()) as u64;
    }

    fn buffer_from(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        self.queue.buffer_from(bytes)
    }

    #[inline]
    fn discard(&mut self, burst: &mut Burst<Mbuf>) {
        self.thrown_away += burst.len() as u64;
        self.queue.discard(burst);
    }
}

/// EAL with one started device; the order of the fields is that of their ends.
pub(crate) struct Hardware {
    pub(crate) device: Device,
    pub(crate) clock: Clock,
    pub(crate) eal: Eal,
}

impl Hardware {
    pub(crate) fn start(plan: &Plan) -> Result<Self, String> {
        let memory =
            if plan.hugepages { Memory::Hugepages } else { Memory::Pages { megabytes: plan.megabytes() } };
        let eal = Eal::start(&EalSettings {
            worker_cores: (0..plan.workers).map(|at| plan.core - at).collect(),
            control_cores: vec![0],
            memory,
            pci: Vec::new(),
            vdevs: vec![plan.vdev.clone()],
        })
        .map_err(|error| error.to_string())?;
        let clock = Clock::start(&eal);
        let pool = Pool::create("packets", plan.buffers, plan.room, -1)?;
        let settings = DeviceSettings {
            queues: plan.workers as u16,
            rss_key: Vec::new(),
            descriptors: 1024,
            mtu: None,
            vlans: Vec::new(),
        };
        let name = plan.vdev.split(',').next().unwrap_or_default();
        let device = Device::start(&eal, PortId(0), name, vec![pool; plan.workers], &settings)?;
        Ok(Self { device, clock, eal })
    }

    /// Runs each of `works` on a worker's core until all have returned; gives what they made.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        works: Vec<impl FnOnce() -> T + Send + 'static>,
    ) -> Result<Vec<T>, String> {
        // Joining an lcore keeps this core busy, which somebody else may be measured on.
        let (done, wait) = std::sync::mpsc::channel();
        let mut lcores = Vec::new();
        for (at, work) in works.into_iter().enumerate() {
            let done = done.clone();
            lcores.push(dpdk::launch(&self.eal, at as u32 + 1, move || {
                let _ = done.send((at, work()));
            })?);
        }
        drop(done);
        let mut made: Vec<_> = wait.iter().collect();
        lcores.into_iter().for_each(dpdk::Lcore::join);
        made.sort_by_key(|(at, _)| *at);
        Ok(made.into_iter().map(|(_, made)| made).collect())
    }
}

/// Runs until standard input ends.
pub(crate) fn serve(plan: &Plan) -> Result<(), String> {
    let mut hardware = Hardware::start(plan)?;
    let (mac, clock) = (hardware.device.mac(), hardware.clock);
    let steering = Arc::new(steering(plan.workers as u16));
    let mut rigs = Vec::new();
    for (at, peers) in worker::peers(plan.workers, 1).into_iter().enumerate() {
        let queue = hardware.device.take_queue().ok_or("the device has too few queues")?;
        let seat = Seat { worker: WorkerId(at as u16), steering: Arc::clone(&steering) };
        rigs.push(Rig::new(plan, queue, mac, seat, peers));
    }
    println!("{}", json!({ "ready": true }));
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (arm, seconds, workers) = match words[..] {
            [arm, seconds] => (arm.to_owned(), seconds, 1),
            [arm, seconds, workers] => (arm.to_owned(), seconds, workers.parse().unwrap_or(1)),
            _ => continue,
        };
        let time = Duration::from_secs_f64(seconds.parse().unwrap_or(1.0));
        let busy = rigs.drain(..workers).map(|mut rig| {
            let arm = arm.clone();
            move || {
                let answer = if arm == "null" { rig.null(clock, time) } else { rig.sluice(clock, time) };
                (rig, answer)
            }
        });
        let (back, answers): (Vec<_>, Vec<_>) = hardware.run(busy.collect())?.into_iter().unzip();
        rigs.splice(0..0, back);
        println!("{}", total(&answers));
    }
    Ok(())
}

/// Each worker makes the sessions of what it gets, and gets no other's.
fn steering(workers: u16) -> Steering {
    let facts = Facts { rules: Ok(()), rss: Err("nobody asked".into()), keeps_flows: true };
    let port = ladder::choose(&facts, workers).1;
    Steering { workers, ports: [port].into(), hasher: assembly::hasher() }
}

/// What several workers did at the same time: packets and CPU time together, wall time once.
fn total(answers: &[Value]) -> Value {
    let sum = |key: &str| answers.iter().filter_map(|answer| answer[key].as_u64()).sum::<u64>();
    let wall = answers.iter().filter_map(|answer| answer["wall_ns"].as_u64()).max().unwrap_or(0);
    result(sum("packets"), sum("cpu_ns"), Duration::from_nanos(wall), sum("frames_checked"))
}

struct Rig {
    worker: Worker<Watched>,
    _assembly: Assembly,
    /// Whether every packet is to be dropped.
    drops: bool,
}

impl Rig {
    /// A worker whose sessions of all flows exist.
    fn new(plan: &Plan, queue: Queue, mac: [u8; 6], seat: Seat, peers: Peers<Mbuf>) -> Self {
        let way = plan.way.of_sessions();
        let size = Size { one_arm: true, way, ..Size::for_sessions(plan.flows as usize) };
        let world = world::build(size, &[mac]);
        let port = Watched {
            queue,
            judge: Judge::new(plan.flows, way, mac),
            countdown: SAMPLE,
            sent: 0,
            thrown_away: 0,
        };
        // A recording's packets come from clients alone, and flows that nobody answers have a quarter of the table.
        let capacity = 4 * (plan.flows as usize).max(1_000);
        let prepare = |director: &mut Director, world: &Snapshot| {
            // In the order of the flows' numbers.
            for flow in 0..plan.flows {
                let mut room = vec![0; 128];
                room.extend(pcap::frame(way, &plan.protocol, flow, SYN, mac));
                let len = room.len();
                let mut frames = [Frame::new(&mut room, 128..len)];
                let now = dataplane::clock::Instant::from_millis(1);
                let mut verdicts = Verdicts::new();
                director.process(Origin::queue(PortId(0)), &mut frames, world, now, &mut verdicts);
                // What no server answered, no client can finish.
                if let Some((source, destination)) =
                    endpoints(frames[0].bytes()).filter(|_| plan.protocol == "tcp")
                {
                    let (source_mac, destination_mac) = (PEER_MAC, mac);
                    let back =
                        Route { source_mac, destination_mac, source: destination, destination: source };
                    let mut room = vec![0; 128];
                    room.extend(tcp_frame(&back, SYN | ACK, &[]));
                    let len = room.len();
                    let mut frames = [Frame::new(&mut room, 128..len)];
                    director.process(Origin::queue(PortId(0)), &mut frames, world, now, &mut verdicts);
                }
            }
        };
        let (worker, assembly) = assembly::worker(vec![port], world, capacity, seat, peers, prepare);
        let live = assembly.stats.sessions_live.value();
        assert_eq!(live, u64::from(plan.flows), "every flow has its session");
        Self { worker, _assembly: assembly, drops: plan.way.drops() }
    }

    fn null(&mut self, clock: Clock, time: Duration) -> Value {
        let queue = &mut self.worker.ports_mut()[0].queue;
        let mut sent = 0u64;
        let (begin, begin_cpu) = (clock.now(), cpu_ns());
        while clock.now().since(begin) < time {
            for _ in 0..64 {
                let mut burst = Burst::new();
                queue.rx(&mut burst);
                let waiting = burst.len();
                queue.tx(&mut burst);
                sent += (waiting - burst.len()) as u64;
                queue.discard(&mut burst);
            }
        }
        result(sent, cpu_ns() - begin_cpu, clock.now().since(begin), 0)
    }

    /// Packets that came to the end that they should: sent, or dropped if that is what is measured.
    fn done(&mut self) -> u64 {
        let port = &self.worker.ports_mut()[0];
        if self.drops { port.thrown_away } else { port.sent }
    }

    /// The daemon's loop.
    fn sluice(&mut self, clock: Clock, time: Duration) -> Value {
        let (done, checked) = (self.done(), self.worker.ports_mut()[0].judge.checked);
        let (begin, begin_cpu) = (clock.now(), cpu_ns());
        let mut now = begin;
        while now.since(begin) < time {
            now = self.worker.timed_turn(now, || clock.now());
        }
        let (cpu, wall) = (cpu_ns() - begin_cpu, clock.now().since(begin));
        let port = &self.worker.ports_mut()[0];
        assert_eq!(port.judge.wrong, 0, "{} of {} frames were wrong", port.judge.wrong, port.judge.checked);
        assert!(!self.drops || port.sent == 0, "nothing may leave");
        let checked = port.judge.checked - checked;
        result(self.done() - done, cpu, wall, checked)
    }
}

fn result(packets: u64, cpu_ns: u64, wall: Duration, checked: u64) -> Value {
    json!({ "packets": packets, "cpu_ns": cpu_ns, "wall_ns": wall.as_nanos() as u64, "frames_checked": checked })
}
