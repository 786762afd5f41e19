//! What a packet costs the running daemon with one service, with ten thousand whose servers are all checked, and while
//! metrics are scraped each second and a page is open.
//!
//! The daemon as it is installed, on pcap, with a second port behind which a server has the addresses of all servers and
//! answers the checks. By turns, each start anew, so that a busy minute meets both.

use crate::machine::{self, median, spread_pct};
use crate::pcap;
use crate::run::PCAP_STATION;
use crate::world::{PEER_MAC, SERVICE_PORT, VIP, Way};
use ctrl::admin::Client;
use pktgen_tests::lab::{Lab, Plan};
use pktgen_tests::process::{Daemon, wait_until};
use pktgen_tests::wire::Arp;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

const SERVICES: usize = 10_000;
const SERVERS_EACH: usize = 10;
/// Distinct servers, each with one check.
const SERVERS: usize = 10_000;
const FLOWS: u32 = 1_000;
/// The measured service's server, behind the pcap port.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const PATIENCE: Duration = Duration::from_secs(60);

/// The measured service, and `services` others with checks; of each hundred one has servers of this weight.
fn config(lab: &Lab, packets: &Path, core: usize, services: usize, weight: usize) -> String {
    let mut text = format!(
        "[dataplane]\nworkers = [{core}]\nsession_capacity = 200_000\n[admin]\nsocket = \"{}\"\n[[port]]\nname = \"wan\"\ndevice = \"net_pcap0,rx_pcap={},infinite_rx=1\"\naddresses = [\"192.0.2.2/24\"]\nkernel = false\n[[port]]\nname = \"lan\"\ndevice = \"net_af_packet0,iface=nic-lan\"\naddresses = [\"10.0.0.2/24\"]\n[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n[[route]]\nto = \"10.64.0.0/10\"\nvia = \"{}\"\n[[service]]\nname = \"measured\"\nlisten = \"{VIP}:{SERVICE_PORT}\"\nprotocol = \"udp\"\nlocal_addresses = [\"192.0.2.200\"]\n[[service.server]]\naddress = \"{SERVER}:8080\"\n",
        lab.socket().display(),
        packets.display(),
        lab.server_ip(0),
    );
    for n in 0..services {
        let _ = write!(
            text,
            "\n[[service]]\nname = \"s{n}\"\nlisten = \"198.18.{}.{}:80\"\nscheduler = \"wrr\"\nlocal_addresses = [\"10.0.0.200\", \"10.0.0.201\"]\n",
            n / 100,
            n % 100 + 1,
        );
        for server in 0..SERVERS_EACH {
            let at = (n * SERVERS_EACH + server) % SERVERS;
            let weight = if n % 100 == 0 { weight } else { 1 };
            let _ = writeln!(
                text,
                "[[service.server]]\naddress = \"10.64.{}.{}:80\"\nweight = {weight}",
                at >> 8,
                at & 255
            );
        }
        text += "[service.health]\ntype = \"tcp\"\ninterval = \"5s\"\n";
    }
    text
}

/// The measured packets, four times each, and one that tells where the server is.
fn write_packets(path: &Path) -> std::io::Result<()> {
    let mut order: Vec<u32> = (0..4 * FLOWS).map(|at| at % FLOWS).collect();
    crate::source::shuffle(&mut order);
    let told =
        Arp { operation: 2, sender: (PEER_MAC, SERVER), target: (PCAP_STATION, Ipv4Addr::new(192, 0, 2, 2)) };
    let packets = order.into_iter().map(|flow| pcap::frame(Way::FULLNAT, "udp", flow, 0, PCAP_STATION));
    pcap::write_frames(path, packets.chain([told.frame(PCAP_STATION)]))
}

/// Packets dropped so far, but for copies of ARP frames: control takes no flood of them.
fn lost(stats: &Value) -> u64 {
    let drops = stats["drops"].as_object().into_iter().flatten();
    drops.filter(|(reason, _)| *reason != "control_queue_full").filter_map(|(_, count)| count.as_u64()).sum()
}

/// Where metrics and the page are.
const SITES: &str = "[metrics]\nlisten = [\"127.0.0.1:9797\"]\n[web]\nlisten = [\"127.0.0.1:9798\"]\n";

/// A scraper that asks each second, and a browser's stream.
fn watch(lab: &Lab) -> Result<[Daemon; 2], String> {
    let start = |name: &str, script: &str| {
        let mut shell = lab.director().command("sh");
        Daemon::start(shell.args(["-c", script]), &lab.folder().join(name))
    };
    Ok([
        start(
            "scraper",
            "while :; do curl -s -o /dev/null --compressed http://127.0.0.1:9797/metrics; sleep 1; done",
        )?,
        start(
            "browser",
            "exec curl -s -N -o /dev/null 'http://127.0.0.1:9798/live?count=100&service=measured'",
        )?,
    ])
}

/// One start, with a reload that must lose nothing: nanoseconds of the worker's CPU time per packet, and the checks that ran.
fn run(
    lab: &mut Lab,
    packets: &Path,
    core: usize,
    services: usize,
    is_watched: bool,
    seconds: f64,
) -> Result<(f64, u64), String> {
    let says = |error: &dyn std::fmt::Display| format!("loaded: {error}");
    let sites = if is_watched { SITES } else { "" };
    let text = sites.to_owned() + &config(lab, packets, core, services, 1);
    lab.start_sluiced(&text)?;
    let _watchers = if is_watched { Some(watch(lab)?) } else { None };
    let pid = lab.sluiced()?.pid();
    let mut client = Client::connect(&lab.socket()).map_err(|error| says(&error))?;
    let mut call = |method: &str| client.call(method, Value::Null).map_err(|error| says(&error));
    let checks = call("status")?["checks"].as_u64().unwrap_or(0);
    let is_up = |server: &Value| server["state"] == "up";
    let mut all_are_up = || {
        let list = lab.json(&["service", "show", &format!("s{}", services - 1)]).unwrap_or_default();
        list["servers"].as_array().is_some_and(|servers| servers.iter().all(is_up))
    };
    if services > 0 && !wait_until(PATIENCE, &mut all_are_up) {
        return Err("loaded: the servers do not come up".into());
    }
    let mut sample = || {
        let workers = call("worker.list")?;
        let packets = workers["items"][0]["rx_packets"].as_u64().ok_or("loaded: no counter of packets")?;
        let cpu = machine::thread_cpu_ns(pid, "worker").ok_or("loaded: no worker thread")?;
        Ok::<_, String>((packets, cpu))
    };
    let has_sessions = || {
        let workers = lab.json(&["worker", "list"]).unwrap_or_default();
        workers[0]["sessions"].as_u64() == Some(u64::from(FLOWS))
    };
    if !wait_until(PATIENCE, has_sessions) {
        return Err("loaded: the flows have no sessions".into());
    }
    let before = sample()?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let after = sample()?;
    let ns = (after.1 - before.1) as f64 / (after.0 - before.0) as f64;
    let before = call("stats")?;
    // One service in a hundred changes, at full speed.
    lab.write_config(&(sites.to_owned() + &config(lab, packets, core, services, 2)))?;
    call("config.reload")?;
    let after = call("stats")?;
    let worker = |stats: &Value, key: &str| stats["workers"][0][key].as_u64().unwrap_or(0);
    let lost = lost(&after) - lost(&before);
    let is_forwarded = worker(&after, "tx_packets") > worker(&before, "tx_packets");
    if lost > 0 || !is_forwarded || worker(&after, "sessions") != u64::from(FLOWS) {
        return Err(format!("loaded: {lost} packets, or sessions, were lost at a reload: {after}"));
    }
    lab.sluiced()?.stop();
    Ok((ns, checks))
}

/// Both by turns, as the report's `loaded` has it.
pub(crate) fn measure(core: usize, rounds: usize, seconds: f64) -> Result<Value, String> {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() })?;
    // One server has all addresses.
    lab.server(0).ip("route add local 10.64.0.0/10 dev lo")?;
    lab.start_nginx_on(0, &[80])?;
    let packets = lab.folder().join("packets.pcap");
    write_packets(&packets).map_err(|error| format!("{}: {error}", packets.display()))?;
    let mut bare = Vec::new();
    let mut loaded = Vec::new();
    let mut watched = Vec::new();
    let mut checks = 0;
    for _ in 0..rounds {
        bare.push(run(&mut lab, &packets, core, 0, false, seconds)?.0);
        let (ns, asked) = run(&mut lab, &packets, core, SERVICES, false, seconds)?;
        loaded.push(ns);
        watched.push(run(&mut lab, &packets, core, 0, true, seconds)?.0);
        checks = asked;
    }
    // Round by round: a neighbour on the machine that stays for some seconds meets both.
    let ratio = |other: &[f64]| {
        let ratios: Vec<_> = bare.iter().zip(other).map(|(bare, other)| other / bare).collect();
        median(&ratios)
    };
    Ok(json!({
        "services": SERVICES, "servers": SERVICES * SERVERS_EACH, "checks": checks,
        "bare_ns": median(&bare), "loaded_ns": median(&loaded), "ratio": ratio(&loaded),
        "watched_ns": median(&watched), "watched_ratio": ratio(&watched),
        "bare_spread_pct": spread_pct(&bare), "loaded_spread_pct": spread_pct(&loaded),
    }))
}
