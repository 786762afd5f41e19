//! Everything that is measured, in turn.

use crate::device::Plan;
use crate::machine::{self, median, spread_pct};
use crate::peer::{Run, Sibling, Testpmd, run_case};
use crate::report::Report;
use crate::world::Way;
use crate::{control, instructions, latency, loaded, pcap, plots, startup};
use pktgen_tests::process::Hugepages;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// [`folder`], below the project's.
const FOLDER: &str = "target/bench";
/// The station address that DPDK gives its first pcap device.
pub(crate) const PCAP_STATION: [u8; 6] = [2, 0x70, 0x63, 0x61, 0x70, 0];

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Fails when somebody asked this run to end.
pub(crate) fn go_on() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

/// From now on an interrupt ends the child that is measured, and its failure ends this run in good order: hugepages
/// go back as they were.
pub(crate) fn listen_for_the_end() -> Result<(), String> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// How much is measured.
struct Extent {
    /// Rounds over the arms of a case on a device, and the time of each arm.
    rounds: usize,
    /// Rounds of the cases of other modes and of IPv6.
    way_rounds: usize,
    time: Duration,
    flows: &'static [u32],
    sessions: &'static [usize],
    packets: u64,
    seconds: u64,
    live: usize,
    start: &'static [usize],
}

const FULL: Extent = Extent {
    rounds: 7,
    way_rounds: 7,
    time: Duration::from_millis(700),
    flows: &[1_000, 100_000, 1_000_000],
    sessions: &[1_000, 100_000, 1_000_000, 10_000_000],
    packets: 20_000_000,
    seconds: 8,
    live: 10_000_000,
    start: &[1_000_000, 10_000_000],
};

const QUICK: Extent = Extent {
    rounds: 3,
    way_rounds: 1,
    time: Duration::from_millis(500),
    flows: &[1_000, 100_000],
    sessions: &[1_000, 100_000],
    packets: 5_000_000,
    seconds: 2,
    live: 1_000_000,
    start: &[1_000_000],
};

/// Measures everything, prints it, writes the report and the plots.
pub(crate) fn everything(quick: bool) -> Result<(), String> {
    listen_for_the_end()?;
    let extent = if quick { QUICK } else { FULL };
    let folder = folder()?;
    if machine::load() > 0.7 {
        println!("warning: the machine is busy (load {}); figures will be too high", machine::load());
    }
    let case = |words: &[&str]| go_on().and_then(|()| run_case(words));
    let mut report = Report::new(quick);
    // Two processes hold a pcap of a million frames each, in buffers of 448 bytes.
    let wanted = if quick { 600 } else { 1_200 };
    let hugepages = Hugepages::reserve(wanted);
    if let Err(reason) = &hugepages {
        println!("warning: on ordinary pages, because {reason}");
    }
    report.machine("hugepages", json!(hugepages.is_ok()));
    for (protocol, orders) in [("udp", &[false, true][..]), ("tcp", &[true])] {
        for flows in extent.flows {
            for shuffled in orders {
                let frames = Frames { way: Way::FULLNAT, protocol, flows: *flows, shuffled: *shuffled };
                on_pcap(&mut report, &extent, &frames, hugepages.is_ok(), &folder)?;
            }
        }
    }
    let of_ways = Extent { rounds: extent.way_rounds, ..extent };
    for way in Way::ALL.into_iter().filter(|way| *way != Way::FULLNAT) {
        let frames = Frames { way, protocol: "udp", flows: 1_000, shuffled: true };
        on_pcap(&mut report, &of_ways, &frames, hugepages.is_ok(), &folder)?;
    }
    for (way, flows) in [(Way::NOT_FOR_US, 1_000), (Way::NO_SERVICE, 1_000), (Way::NOT_FOR_US, 1_000_000)] {
        let frames = Frames { way, protocol: "udp", flows, shuffled: true };
        if extent.flows.contains(&flows) {
            on_pcap(&mut report, &of_ways, &frames, hugepages.is_ok(), &folder)?;
        }
    }
    two_workers(&mut report, &extent, hugepages.is_ok(), &folder)?;
    round_trips(&mut report, &extent, hugepages.is_ok(), &folder)?;
    drop(hugepages);
    for protocol in ["udp", "tcp"] {
        for sessions in extent.sessions {
            let words = [protocol, &sessions.to_string(), &extent.packets.to_string()];
            report.in_process(&case(&["steady", words[0], words[1], words[2]])?);
        }
    }
    let seconds = extent.seconds.to_string();
    report.connections("sustained", case(&["sustained", &seconds])?);
    report.connections("tcp", case(&["connections", &seconds])?);
    report.connections("few_live", case(&["new-at", "1000"])?);
    report.connections("many_live", case(&["new-at", &extent.live.to_string()])?);
    for servers in ["shared", "own"] {
        with_services(&mut report, &extent, servers, &case)?;
    }
    report.defence(case(&["defence", &extent.packets.to_string()])?);
    report.steering("port_choice", case(&["port-choice"])?);
    report.steering("hand_over", case(&["hand-over", &extent.packets.to_string()])?);
    report.locals(&case(&["locals", "1"])?, &case(&["locals", "101"])?);
    for sessions in extent.start {
        let mut runs = Vec::new();
        for _ in 0..3 {
            runs.push(startup::seconds(*sessions, machine::measuring_core())?);
        }
        report.start(*sessions, median(&runs));
    }
    if !quick {
        // In this process, which may use both cores: control has the other one.
        let core = machine::measuring_core();
        report.control(control::measure(core)?);
        report.loaded(loaded::measure(core, 7, 2.0)?);
    }
    report.instructions(instructions::report()?);
    report.finish();
    let path = folder.join("report.json");
    report.write(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    plots::draw(report.json(), &folder)?;
    println!("\nreport: {}, plots beside it", path.display());
    Ok(())
}

/// Where the report and what is needed on the way go; made, if it is not there.
pub(crate) fn folder() -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("{FOLDER}: {error}");
    std::fs::create_dir_all(FOLDER).map_err(failed)?;
    std::fs::canonicalize(FOLDER).map_err(failed)
}

/// The rows of every mode and family on a device, and no more.
pub(crate) fn ways() -> Result<(), String> {
    let folder = folder()?;
    let hugepages = Hugepages::reserve(600);
    let mut report = Report::new(true);
    for way in Way::ALL {
        let frames = Frames { way, protocol: "udp", flows: 1_000, shuffled: true };
        on_pcap(&mut report, &QUICK, &frames, hugepages.is_ok(), &folder)?;
    }
    Ok(())
}

/// New sessions with few and many services, by turns, so that a busy minute meets all of them.
fn with_services(
    report: &mut Report,
    extent: &Extent,
    servers: &str,
    case: &impl Fn(&[&str]) -> Result<serde_json::Value, String>,
) -> Result<(), String> {
    const SERVICES: [&str; 5] = ["1", "10", "100", "1000", "10000"];
    let mut runs: [Vec<serde_json::Value>; SERVICES.len()] = Default::default();
    for _ in 0..extent.rounds {
        for (services, runs) in SERVICES.iter().zip(&mut runs) {
            runs.push(case(&["new-with-services", services, servers])?);
        }
    }
    for mut runs in runs {
        let costs: Vec<_> = runs.iter().filter_map(|run| run["ns_per_new_session"].as_f64()).collect();
        let mut row = runs.remove(0);
        row["ns_per_new_session"] = json!(median(&costs));
        row["spread_pct"] = json!(spread_pct(&costs));
        report.services(row);
    }
    Ok(())
}

/// The packets of a case.
pub(crate) struct Frames {
    pub(crate) way: Way,
    pub(crate) protocol: &'static str,
    pub(crate) flows: u32,
    pub(crate) shuffled: bool,
}

/// testpmd io, testpmd 5tswap, Sluice null and Sluice by turns on the same packets.
fn on_pcap(
    report: &mut Report,
    extent: &Extent,
    frames: &Frames,
    hugepages: bool,
    folder: &Path,
) -> Result<(), String> {
    let measured =
        with_packets(frames, folder, |path| by_turns(&Plan::on_pcap(path, frames, hugepages), extent));
    let [io, swap, null, sluice] = measured?;
    report.on_pcap(frames, &io, &swap, &null, &sluice);
    Ok(())
}

/// Writes the packets of a case into a file for the time of `measure`.
pub(crate) fn with_packets<T>(
    frames: &Frames,
    folder: &Path,
    measure: impl FnOnce(&Path) -> Result<T, String>,
) -> Result<T, String> {
    let Frames { way, protocol, flows, shuffled } = *frames;
    let path = folder.join("packets.pcap");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    pcap::write(&path, way, protocol, flows, shuffled, PCAP_STATION).map_err(failed)?;
    let measured = measure(&path);
    std::fs::remove_file(&path).map_err(failed)?;
    measured
}

/// One worker alone and two at the same time, on two queues of one device, by turns; and the same
/// without a director, which is all that the machine allows.
fn two_workers(report: &mut Report, extent: &Extent, hugepages: bool, folder: &Path) -> Result<(), String> {
    let core = machine::measuring_core();
    if core == 0 {
        println!("two workers: not measured, because there is one core");
        return Ok(());
    }
    let path = folder.join("packets.pcap");
    pcap::write(&path, Way::FULLNAT, "udp", 1_000, true, PCAP_STATION)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let file = path.display();
    let plan = Plan {
        vdev: format!("net_pcap0,rx_pcap={file},rx_pcap={file},infinite_rx=1"),
        protocol: "udp".into(),
        flows: 1_000,
        way: Way::FULLNAT,
        buffers: 32_768,
        room: 320,
        workers: 2,
        core,
        hugepages,
    };
    let mut sluice = Sibling::start("device", &plan)?;
    let mut runs: [Runs; 4] = Default::default();
    for _ in 0..extent.rounds {
        go_on()?;
        for (runs, (arm, workers)) in
            runs.iter_mut().zip([("null", 1), ("null", 2), ("sluice", 1), ("sluice", 2)])
        {
            runs.push(sluice.run_on(arm, extent.time, workers)?);
        }
    }
    let _ = std::fs::remove_file(&path);
    let [null_one, null_two, one, two] =
        runs.map(|runs| median(&runs.iter().map(Run::cpu_ns_per_packet).collect::<Vec<_>>()));
    report.steering(
        "two_workers",
        json!({
            "ns_alone": one, "ns_of_two": two, "throughput_per_worker": one / two,
            "null_throughput_per_worker": null_one / null_two,
        }),
    );
    Ok(())
}

/// The runs of one arm.
pub(crate) type Runs = Vec<Run>;

fn by_turns(plan: &Plan, extent: &Extent) -> Result<[Runs; 4], String> {
    let mut testpmd = Testpmd::start(plan)?;
    let mut sluice = Sibling::start("device", plan)?;
    let warm = Duration::from_millis(200);
    testpmd.run("io", warm)?;
    sluice.run("sluice", warm)?;
    let mut arms: [Runs; 4] = Default::default();
    for _ in 0..extent.rounds {
        go_on()?;
        arms[0].push(testpmd.run("io", extent.time)?);
        arms[2].push(sluice.run("null", extent.time)?);
        arms[3].push(sluice.run("sluice", extent.time)?);
        arms[1].push(testpmd.run("5tswap", extent.time)?);
    }
    Ok(arms)
}

/// Round trips through testpmd io and through Sluice, at half of what the slower one can do.
fn round_trips(report: &mut Report, extent: &Extent, hugepages: bool, folder: &Path) -> Result<(), String> {
    if !hugepages {
        println!("latency: not measured, because vhost-user needs hugepages");
        return Ok(());
    }
    let socket = |name: &str| folder.join(format!("{name}.sock"));
    let plan = |vdev: String, core| Plan {
        vdev,
        protocol: "udp".into(),
        flows: 1_000,
        way: Way::FULLNAT,
        buffers: 16_384,
        // A whole frame of the largest kind, as virtio asks.
        room: 2_176,
        workers: 1,
        core,
        hugepages,
    };
    let generator = |name: &str| {
        let path = socket(name);
        let _ = std::fs::remove_file(&path);
        Sibling::start("generator", &plan(format!("net_vhost0,iface={}", path.display()), 0))
    };
    let forwarder = |name: &str| {
        let mac: Vec<_> = latency::FORWARDER.iter().map(|octet| format!("{octet:02x}")).collect();
        let path = socket(name);
        let vdev = format!("net_virtio_user0,path={},queue_size=1024,mac={}", path.display(), mac.join(":"));
        plan(vdev, machine::measuring_core())
    };
    let mut to_testpmd = generator("testpmd")?;
    let mut testpmd = Testpmd::start(&forwarder("testpmd"))?;
    let mut to_sluice = generator("sluice")?;
    let mut sluice = Sibling::start("device", &forwarder("sluice"))?;

    let seconds = extent.time.as_secs_f64();
    let mut through_testpmd = |rate: f64| {
        testpmd.begin("io")?;
        to_testpmd.say(&format!("{rate} {seconds}"))?;
        let answer = to_testpmd.answer()?;
        testpmd.end()?;
        Ok::<_, String>(answer)
    };
    let mut through_sluice = |rate: f64| {
        sluice.say(&format!("sluice {}", seconds + 0.3))?;
        to_sluice.say(&format!("{rate} {seconds}"))?;
        let answer = to_sluice.answer()?;
        sluice.answer()?;
        Ok::<_, String>(answer)
    };
    let received = |answer: &serde_json::Value| {
        answer["received"].as_f64().unwrap_or(0.0) / answer["seconds"].as_f64().unwrap_or(1.0)
    };
    const MORE_THAN_CAN_BE: f64 = 1e9;
    through_testpmd(MORE_THAN_CAN_BE)?;
    through_sluice(MORE_THAN_CAN_BE)?;
    let most = [received(&through_testpmd(MORE_THAN_CAN_BE)?), received(&through_sluice(MORE_THAN_CAN_BE)?)];
    let half = most[0].min(most[1]) / 2.0;
    let mut runs: [Vec<serde_json::Value>; 2] = Default::default();
    for _ in 0..extent.rounds {
        runs[0].push(through_testpmd(half)?);
        runs[1].push(through_sluice(half)?);
    }
    let column = |arm: usize, key: &str| -> Vec<f64> {
        runs[arm].iter().filter_map(|run| run[key].as_f64()).collect()
    };
    let lost = |arm: usize| {
        1.0 - column(arm, "received").iter().sum::<f64>() / column(arm, "sent").iter().sum::<f64>()
    };
    let arm = |at: usize| {
        json!({
            "most_mpps": most[at] / 1e6, "p50_us": median(&column(at, "p50_us")), "p99_us": median(&column(at, "p99_us")),
            "p99_spread_pct": spread_pct(&column(at, "p99_us")), "lost_share": lost(at),
        })
    };
    report.latency(half, arm(0), arm(1));
    Ok(())
}
