//! What the operator waits for: a cold load, a small reload, one more server, a list, with ten thousand services.

use crate::peer::myself;
use crate::startup;
use ctrl::admin::Client;
use pktgen_tests::process::{Daemon, Folder, wait_until};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SERVICES: usize = 10_000;
const SERVERS_EACH: usize = 10;
/// Changes of each kind; the median counts.
const ROUNDS: usize = 9;
const PATIENCE: Duration = Duration::from_secs(60);

/// The configuration; one service in a hundred differs from `round` to round.
fn config(socket: &Path, core: usize, services: usize, round: usize) -> String {
    let mut text = format!(
        "[dataplane]\nworkers = [{core}]\nsession_capacity = 100_000\n[admin]\nsocket = \"{}\"\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [\"192.0.2.2/24\"]\nkernel = false\n[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n",
        socket.display()
    );
    for n in 0..services {
        let weight = if n % 100 == round % 100 { 2 + round } else { 1 };
        let _ = write!(
            text,
            "\n[[service]]\nname = \"s{n}\"\nlisten = \"198.18.{}.{}:{}\"\nscheduler = \"wrr\"\nlocal_addresses = [\"192.0.2.200\"]\n",
            n / 100 % 100,
            n % 100 + 1,
            80 + n / 10_000
        );
        for server in 0..SERVERS_EACH {
            let at = n * SERVERS_EACH + server;
            let _ = write!(
                text,
                "[[service.server]]\naddress = \"10.{}.{}.{}:8080\"\nweight = {weight}\n",
                at >> 16,
                at >> 8 & 255,
                at & 255
            );
        }
    }
    text
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Everything, as the report's `control` has it; times in milliseconds.
pub(crate) fn measure(core: usize) -> Result<Value, String> {
    let says = |error: &dyn std::fmt::Display| format!("control: {error}");
    let folder = Folder::new("control")?;
    let (socket, path) = (folder.path().join("admin.sock"), folder.path().join("sluice.toml"));
    let write = |text: &str| std::fs::write(&path, text).map_err(|error| says(&error));
    let sluiced = myself()?.with_file_name("sluiced");
    let empty = startup::seconds(100_000, core)?;
    write(&config(&socket, core, SERVICES, 0))?;
    let begin = Instant::now();
    let mut daemon =
        Daemon::start(Command::new(sluiced).arg("--config").arg(&path), &folder.path().join("log"))?;
    let ready =
        wait_until(PATIENCE, || daemon.output().contains("sluiced: ready") || daemon.ended().is_some());
    let start = begin.elapsed().as_secs_f64();
    if !ready || daemon.ended().is_some() {
        return Err(format!("control: sluiced did not get ready: {}", daemon.output()));
    }
    let mut client = Client::connect(&socket).map_err(|error| says(&error))?;
    let mut call = |method: &str, params: Value| {
        let begin = Instant::now();
        client.call(method, params).map_err(|error| says(&error))?;
        Ok::<_, String>(begin.elapsed().as_secs_f64() * 1e3)
    };
    let mut reloads = Vec::new();
    for round in 1..=ROUNDS {
        write(&config(&socket, core, SERVICES, round))?;
        reloads.push(call("config.reload", Value::Null)?);
    }
    let mut adds = Vec::new();
    for round in 0..ROUNDS * 10 {
        let service = format!("s{}", round * 97);
        let address = format!("10.200.{}.{}:8080", round >> 8, round & 255);
        adds.push(call("server.add", json!({ "service": service, "address": address }))?);
    }
    let worst_add = adds.iter().copied().fold(0.0, f64::max);
    let begin = Instant::now();
    let mut listed = 0;
    client
        .pages("service.list", serde_json::json!({}), |items| {
            listed += items.len();
            Ok(true)
        })
        .map_err(|error| says(&error))?;
    let list = begin.elapsed().as_secs_f64() * 1e3;
    if listed != SERVICES {
        return Err(format!("control: {listed} services were listed, {SERVICES} there are"));
    }
    daemon.stop();
    Ok(json!({
        "services": SERVICES,
        "servers": SERVICES * SERVERS_EACH,
        "cold_load_ms": (start - empty) * 1e3,
        "reload_1_percent_ms": median(reloads),
        "server_add_ms": median(adds),
        "server_add_worst_ms": worst_add,
        "service_list_ms": list,
    }))
}
