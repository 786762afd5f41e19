//! Load on real NICs by the kernel's own packet generator, at the sizes that data sheets name, and what is seen of sluiced
//! under it.

use super::guest::Nic;
use super::lab::{NicLab, Setup, VIP};
use super::steps::{Step, step};
use crate::netns::Namespace;
use crate::process::run;
use serde_json::Value;
use std::fmt::Write as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What is tried besides where nothing is emulated.
pub const ON_HOST: &[Step] = &[step("throughput", throughput)];

/// Ethernet frames, with their checksum of four bytes.
const SIZES: [u16; 3] = [64, 512, 1_518];
/// How long a size is sent.
const TIME: Duration = Duration::from_secs(3);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(200);
/// Packets of one run of a generator at most, whatever the NIC takes.
const BOUND: u64 = 100_000_000;
/// The clients' ports, each a session.
const FLOWS: [u16; 2] = [10_000, 14_095];
/// New connections that must be answered beside half of what was forwarded.
const REQUESTS: usize = 100;

/// What was seen of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// What the generator sent.
    sent: u64,
    /// What sluiced gave to the device on the servers' side.
    forwarded: u64,
    /// The busiest worker's share of its time, 0 to 1.
    busy: f64,
    took: Duration,
}

impl Seen {
    fn rate(&self, packets: u64) -> f64 {
        packets as f64 / self.took.as_secs_f64()
    }
}

fn throughput(lab: &NicLab, _: &Nic<'_>, workers: usize) -> Result<String, String> {
    run(Command::new("modprobe").arg("pktgen")).map_err(|error| {
        format!(
            "the kernel's packet generator is not there ({error}); `--without throughput` leaves this out"
        )
    })?;
    lab.start(&Setup::new(workers))?;
    lab.requests(VIP, 4)?;
    let rungs = rungs(lab)?;
    let generator = Generator::on(lab, workers)?;
    let mut text = String::new();
    let mut slowest = f64::INFINITY;
    for size in SIZES {
        let seen = generator.run(lab, size, None, || Ok(()))?;
        let (sent, forwarded) = (seen.rate(seen.sent), seen.rate(seen.forwarded));
        if seen.forwarded == 0 {
            return Err(format!("{size} bytes: of {} packets none was forwarded", seen.sent));
        }
        slowest = slowest.min(forwarded);
        let share = 100.0 * seen.forwarded as f64 / seen.sent.max(1) as f64;
        let _ = write!(
            text,
            "{size} bytes: {} sent, {share:.1} % forwarded, workers {:.0} % busy; ",
            per_second(sent),
            100.0 * seen.busy
        );
    }
    // What a device does not show when it is idle: replies must still come to their workers.
    let rate = (slowest / 2.0) as u64;
    let beside = || lab.requests(VIP, REQUESTS);
    let seen = generator.run(lab, SIZES[0], Some(rate.max(1)), beside)?;
    if seen.forwarded * 100 < seen.sent * 99 {
        return Err(format!("{text}at half of it {} of {} were forwarded", seen.forwarded, seen.sent));
    }
    let after = self::rungs(lab)?;
    if after != rungs {
        return Err(format!("{text}the ports began with {rungs} and end with {after}"));
    }
    let status = lab.json("status")?;
    let told = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(warning) = told.into_iter().find(|text| text.contains("the device was given")) {
        return Err(format!("{text}{warning}"));
    }
    lab.end("TERM")?;
    Ok(format!("{text}beside {} {REQUESTS} of {REQUESTS} requests, {after}", per_second(rate as f64)))
}

/// How replies find their workers, by port.
fn rungs(lab: &NicLab) -> Result<String, String> {
    let ports = lab.json("port list")?;
    let of = |port: &Value| port["steering"].as_str().unwrap_or_default().to_owned();
    Ok(ports.as_array().into_iter().flatten().map(of).collect::<Vec<_>>().join("/"))
}

fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.0} k/s", rate / 1e3),
        rate => format!("{rate:.0}/s"),
    }
}

/// The packet generator at the client's end of the cable, on cores that no worker has.
struct Generator<'a> {
    client: &'a Namespace,
    /// `wan@0`, `wan@3`: a thread and a queue each.
    devices: Vec<String>,
    station: String,
}

impl<'a> Generator<'a> {
    fn on(lab: &'a NicLab, workers: usize) -> Result<Self, String> {
        /// More than these fill 100 Gbit/s with most NICs.
        const MOST: usize = 8;
        let queues = lab.client.inside(|| std::fs::read_dir("/sys/class/net/wan/queues").is_ok());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let free = std::iter::once(0).chain(workers + 1..cores);
        let queues = if queues { transmit_queues(&lab.client)? } else { 1 };
        let devices: Vec<_> = free.take(queues.min(MOST)).map(|core| format!("wan@{core}")).collect();
        let mac = lab.station(0)?.map(|octet| format!("{octet:02x}")).join(":");
        let generator = Self { client: &lab.client, devices, station: mac };
        generator.tell("pgctrl", &["reset"])?;
        for device in &generator.devices {
            let (_, core) = device.split_once('@').unwrap_or_default();
            generator.tell(&format!("kpktgend_{core}"), &[&format!("add_device {device}")])?;
        }
        Ok(generator)
    }

    /// Writes commands into one of the generator's files, which are those of the thread's own namespace.
    fn tell(&self, file: &str, commands: &[&str]) -> Result<(), String> {
        let path = format!("/proc/thread-self/net/pktgen/{file}");
        self.client.inside(|| {
            commands.iter().try_for_each(|command| {
                std::fs::write(&path, format!("{command}\n"))
                    .map_err(|error| format!("pktgen: {file}: {command}: {error}"))
            })
        })
    }

    /// Packets that were sent since the devices were last set up.
    fn sent(&self) -> u64 {
        let of = |device: &String| {
            let path = format!("/proc/thread-self/net/pktgen/{device}");
            let text = self.client.inside(|| std::fs::read_to_string(&path)).unwrap_or_default();
            let mut words = text.split_whitespace().skip_while(|word| *word != "pkts-sofar:").skip(1);
            words.next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
        };
        self.devices.iter().map(of).sum()
    }

    /// Sends frames of `size` for a time, as fast as they go or `rate` a second in all, while `beside` runs.
    fn run(
        &self,
        lab: &NicLab,
        size: u16,
        rate: Option<u64>,
        beside: impl FnOnce() -> Result<(), String>,
    ) -> Result<Seen, String> {
        let length = format!("pkt_size {}", size - 4);
        let count = format!("count {}", BOUND / self.devices.len() as u64);
        let rate = format!("ratep {}", rate.unwrap_or(0) / self.devices.len() as u64);
        let to = [format!("dst {VIP}"), format!("dst_mac {}", self.station)];
        let ports = [format!("udp_src_min {}", FLOWS[0]), format!("udp_src_max {}", FLOWS[1])];
        for device in &self.devices {
            let mut commands = vec![&*length, &*count, &*to[0], &*to[1], &*ports[0], &*ports[1]];
            commands.extend([
                "udp_dst_min 80",
                "udp_dst_max 80",
                "flag UDPSRC_RND",
                "clone_skb 0",
                "delay 0",
            ]);
            if !rate.ends_with(" 0") {
                commands.push(&rate);
            }
            self.tell(device, &commands)?;
        }
        let before = forwarded(lab)?;
        let begin = Instant::now();
        thread::scope(|scope| {
            // The write is over when the generator is.
            let sending = scope.spawn(|| self.tell("pgctrl", &["start"]));
            let result = beside();
            let mut busy: f64 = 0.0;
            while begin.elapsed() < TIME && !sending.is_finished() {
                thread::sleep(PAUSE);
                busy = busy.max(busiest(lab));
            }
            self.tell("pgctrl", &["stop"])?;
            let took = begin.elapsed();
            sending.join().map_err(|_| "the generator's thread ended by a panic")??;
            result.map_err(|error| format!("beside a load of {size} bytes: {error}"))?;
            let sent = self.sent();
            // What is on its way arrives while the count still grows.
            let mut came = forwarded(lab)? - before;
            loop {
                thread::sleep(PAUSE);
                let now = forwarded(lab)? - before;
                if std::mem::replace(&mut came, now) == now {
                    break;
                }
            }
            Ok(Seen { sent, forwarded: came.min(sent), busy, took })
        })
    }
}

impl Drop for Generator<'_> {
    fn drop(&mut self) {
        let _ = self.tell("pgctrl", &["reset"]);
    }
}

fn transmit_queues(client: &Namespace) -> Result<usize, String> {
    let shown = run(client.command("ip").args(["-d", "-j", "link", "show", "dev", "wan"]))?;
    let shown: Value = serde_json::from_str(&shown).map_err(|error| format!("ip: {error}: {shown}"))?;
    Ok(shown[0]["num_tx_queues"].as_u64().unwrap_or(1) as usize)
}

/// What sluiced gave to the device on the servers' side.
fn forwarded(lab: &NicLab) -> Result<u64, String> {
    Ok(lab.json("port list")?[1]["tx_packets"].as_u64().unwrap_or(0))
}

fn busiest(lab: &NicLab) -> f64 {
    let workers = lab.json("worker list").unwrap_or_default();
    let busy = workers.as_array().into_iter().flatten().filter_map(|worker| worker["busy_ratio"].as_f64());
    busy.fold(0.0, f64::max)
}
