//! Real stacks through the appliance: HTTP, bulk transfers, DNS, on every kind of port that
//! runs here, also while the configuration changes.

use pktgen_tests::lab::{CLIENT, Lab, Plan, Ports, VIP, VIP6};
use pktgen_tests::netns::Namespace;
use pktgen_tests::process::{Daemon, Hugepages, never_within, run, wait_until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Timeouts short enough for a test to see sessions end.
const SHORT_TIMEOUTS: &str = "\n[timeouts]\nestablished = \"60s\"\nsyn_recv = \"2s\"\nfin_wait = \"2s\"\ntime_wait = \"1s\"\nclose = \"1s\"\nclose_wait = \"2s\"\nlast_ack = \"1s\"\nudp_one_way = \"2s\"\nudp = \"2s\"\n";

fn web(plan: Plan) -> Lab {
    let mut lab = Lab::new(plan).unwrap();
    for at in 0..plan.servers {
        if plan.ports == Ports::AfPacket {
            lab.start_nginx(at, 80).unwrap();
        }
    }
    let servers: Vec<_> = (0..plan.servers).collect();
    let config = lab.config_head() + SHORT_TIMEOUTS + &lab.service("web", "tcp", 80, "wrr", &servers);
    lab.start_sluiced(&config).unwrap();
    if plan.ports == Ports::Tap {
        lab.start_nginx(0, 80).unwrap();
    }
    lab
}

/// Puts a file of random bytes, `/data`, on the first servers; returns the first's.
fn make_data(lab: &Lab, size: &str, servers: usize) -> PathBuf {
    let data = |at: usize| lab.folder().join(format!("nginx-{}/data", at + 1));
    let fill = format!("head -c {size} /dev/urandom > {}", data(0).display());
    run(Command::new("sh").args(["-c", &fill])).unwrap();
    for at in 1..servers {
        std::fs::copy(data(0), data(at)).unwrap();
    }
    data(0)
}

/// A download of `/data` at 4 MB/s: long enough to see several reloads.
fn slow_download(lab: &Lab) -> Command {
    let mut curl = lab.client().command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--limit-rate", "4M"]);
    curl.args(["--output", "/dev/null"]).arg(format!("http://{VIP}/data"));
    curl
}

fn count(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.as_str()).or_default() += 1;
    }
    counts
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a whole number"))
}

/// Waits until no session and no packet buffer is held any more.
fn assert_everything_is_given_back(lab: &Lab) {
    let empty = || {
        let status = lab.json(&["status"]).unwrap();
        number(&status["sessions"]) == 0 && number(&status["buffers_in_use"]) == 0
    };
    assert!(wait_until(10 * SECOND, empty), "{}", lab.json(&["status"]).unwrap());
}

#[test]
fn http_is_spread_over_two_servers() {
    let lab = web(Plan::default());

    let answers = lab.http(400, 20).unwrap();

    assert_eq!(count(&answers), [("rs1", 200), ("rs2", 200)].into());
    assert_everything_is_given_back(&lab);
    let service = &lab.json(&["service", "list"]).unwrap()[0];
    assert_eq!(number(&service["sessions_created"]), 400);
    assert_eq!(service["state"], "ready");
}

#[test]
fn two_vlans_of_one_link_are_two_ports() {
    for workers in [1, 2] {
        let lab = web(Plan { vlans: true, workers, ..Plan::default() });
        let answers = lab.http(400, 20).unwrap();
        assert_eq!(count(&answers).into_keys().collect::<Vec<_>>(), ["rs1", "rs2"]);
        make_data(&lab, "3M", 2);
        let mut curl = lab.client().command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--output", "/dev/null"]);
        run(curl.arg(format!("http://{VIP}/data"))).unwrap();
        assert_everything_is_given_back(&lab);
        let ports = lab.json(&["port", "list"]).unwrap();
        assert_eq!(ports[0]["name"], "trunk");
        for (at, (name, vlan)) in [("wan", 100), ("lan", 200)].into_iter().enumerate() {
            let port = &ports[at + 1];
            assert_eq!(
                (&port["name"], &port["parent"], &port["vlan"]),
                (&name.into(), &"trunk".into(), &vlan.into())
            );
            assert!(number(&port["rx_packets"]) > 2_000, "{port}");
        }
    }
}

#[test]
fn jumbo_frames_pass_whole() {
    for ports in [Ports::AfPacket, Ports::Pcap] {
        let mut lab = Lab::new(Plan { mtu: 9_000, servers: 1, ports, ..Plan::default() }).unwrap();
        lab.start_nginx(0, 80).unwrap();
        let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0]);
        lab.start_sluiced(&config).unwrap();
        make_data(&lab, "100M", 1);
        let mut ping = lab.client().command("ping");
        run(ping.args(["-c", "1", "-W", "2", "-M", "do", "-s", "8972", VIP])).unwrap();
        let down = lab.folder().join("down");
        let mut curl = lab.client().command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--output"]).arg(&down);
        run(curl.arg(format!("http://{VIP}/data"))).unwrap();
        run(Command::new("cmp").arg(&down).arg(lab.folder().join("nginx-1/data"))).unwrap();
        let port = &lab.json(&["port", "list"]).unwrap()[1];
        assert_eq!(port["mtu"], 9_000);
        let mean = number(&port["rx_bytes"]) / number(&port["rx_packets"]);
        assert!(mean > 6_000, "frames of {mean} bytes in the mean");
    }
}

/// Two workers on af_packet: the kernel's fanout has a hash and a key of its own, so replies come to
/// either worker.
const TWO_WORKERS: Plan = Plan {
    servers: 2,
    one_arm: false,
    ports: Ports::AfPacket,
    offloads: false,
    hugepages: "auto",
    ipv6: false,
    vlans: false,
    mtu: 1_500,
    workers: 2,
};

/// That the load went through both workers, and that what came to the wrong one was handed over.
fn assert_both_workers_forwarded(lab: &Lab) {
    let workers = lab.json(&["worker", "list"]).unwrap();
    let workers = workers.as_array().unwrap();
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| number(&worker["tx_packets"]) > 100), "{workers:?}");
    let ports = lab.json(&["port", "list"]).unwrap();
    assert!(ports.as_array().unwrap().iter().all(|port| port["steering"] == "hand-over"), "{ports}");
    let handed: u64 = ports.as_array().unwrap().iter().map(|port| number(&port["handed_over"])).sum();
    assert!(handed > 0, "{ports}");
    let drops = lab.json(&["stats", "drops"]).unwrap();
    // On two cores that do everything else too, a worker may be late and its ring full.
    for reason in ["local_no_session", "no_session"] {
        assert_eq!(number(&drops[reason]), 0, "{drops}");
    }
}

#[test]
fn http_passes_through_two_workers() {
    let lab = web(TWO_WORKERS);

    let answers = lab.http(1_000, 20).unwrap();

    let shares = count(&answers);
    assert_eq!(answers.len(), 1_000);
    // Each worker goes through the servers in turn on its own.
    assert_eq!(shares["rs1"] + shares["rs2"], 1_000, "{shares:?}");
    assert!(shares.values().all(|share| (495..=505).contains(share)), "{shares:?}");
    assert_both_workers_forwarded(&lab);
    println!("{}", lab.sluice(&["status"]).unwrap());
    let sessions = lab.json(&["session", "list"]).unwrap();
    for worker in [0, 1] {
        let of_worker = sessions.as_array().unwrap().iter().filter(|session| session["worker"] == worker);
        assert!(of_worker.count() > 0, "worker {worker} has no session: {sessions}");
    }
    let locals = lab.json(&["local", "list"]).unwrap();
    for local in locals.as_array().unwrap() {
        let capacities: Vec<_> =
            local["workers"].as_array().unwrap().iter().map(|share| number(&share["capacity"])).collect();
        assert_eq!(capacities, [2 * 32_256; 2], "two servers, half of all ports each: {local}");
    }
    assert_everything_is_given_back(&lab);
}

#[test]
fn a_device_that_does_not_hash_as_it_was_said_to_falls_to_hand_over_and_loses_nothing() {
    let mut lab = Lab::new(TWO_WORKERS).unwrap();
    (0..2).for_each(|at| lab.start_nginx(at, 80).unwrap());
    // The kernel's fanout has another key, and it is symmetric.
    let key = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa";
    let rss = format!("/24\"]\nrss = {{ fields = \"ports\", key = \"{key}\" }}");
    let config = lab.config_head().replace("/24\"]", &rss) + &lab.service("web", "tcp", 80, "wrr", &[0, 1]);
    lab.start_sluiced(&config).unwrap();
    let steering = |lab: &Lab| lab.json(&["status"]).unwrap()["steering"]["lan"].as_str().unwrap().to_owned();
    assert!(steering(&lab).starts_with("predicted RSS"), "{}", steering(&lab));

    let answers = lab.http(3_000, 20).unwrap();

    assert_eq!(count(&answers).values().sum::<usize>(), 3_000);
    assert_eq!(count(&answers).len(), 2, "{:?}", count(&answers));
    assert!(wait_until(5 * SECOND, || steering(&lab).starts_with("hand-over")), "{}", steering(&lab));
    assert!(steering(&lab).contains("packets of one second came to the wrong worker"), "{}", steering(&lab));
    let log = lab.sluiced().unwrap().output();
    assert!(log.contains("sluiced: port lan: falls back to hand-over, because"), "{log}");
    let drops = lab.json(&["stats", "drops"]).unwrap();
    for reason in ["local_no_session", "no_session"] {
        assert_eq!(number(&drops[reason]), 0, "{drops}");
    }
}

#[test]
fn http_works_with_one_arm() {
    let lab = web(Plan { one_arm: true, ..Plan::default() });

    let answers = lab.http(100, 10).unwrap();

    assert_eq!(count(&answers), [("rs1", 50), ("rs2", 50)].into());
}

#[test]
fn http_works_without_hugepages_and_the_appliance_answers_pings() {
    let lab = web(Plan { hugepages: "off", servers: 1, ..Plan::default() });

    assert_eq!(count(&lab.http(50, 5).unwrap()), [("rs1", 50)].into());
    for address in [VIP, "192.0.2.2"] {
        run(lab.client().command("ping").args(["-c", "3", "-i", "0.1", "-W", "2", address])).unwrap();
    }
    run(lab.server(0).command("ping").args(["-c", "1", "-W", "2", "10.0.0.200"])).unwrap();
    // The first packet that needs a neighbour waits for it and is not lost.
    assert_eq!(number(&lab.json(&["stats", "drops"]).unwrap()["neighbor_unresolved"]), 0);
}

#[test]
fn tap_ports_forward_http() {
    let lab = web(Plan { ports: Ports::Tap, servers: 1, offloads: true, ..Plan::default() });

    assert_eq!(count(&lab.http(100, 10).unwrap()), [("rs1", 100)].into());
}

#[test]
fn a_hundred_megabytes_arrive_whole_in_both_directions() {
    let mut lab = web(Plan { servers: 1, ..Plan::default() });
    let folder = lab.folder().to_owned();
    let data = make_data(&lab, "100M", 1);
    let sum = |path: &std::path::Path| run(Command::new("sha256sum").arg(path)).unwrap()[..64].to_owned();
    let expected = sum(&data);

    // Down: from nginx.
    let down = folder.join("down");
    let mut curl = lab.client().command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "120", "--output"]).arg(&down);
    run(curl.arg(format!("http://{VIP}/data"))).unwrap();
    assert_eq!(sum(&down), expected);

    // Up: to a listener that writes what it gets; a second service, added while running.
    let up = folder.join("up");
    let mut sink = lab.server(0).command("socat");
    sink.args(["-u", "TCP-LISTEN:9000,reuseaddr"]).arg(format!("CREATE:{}", up.display()));
    lab.start("sink", &mut sink).unwrap();
    lab.wait_for_listener(0, 9000).unwrap();
    let config =
        std::fs::read_to_string(lab.config_path()).unwrap() + &lab.service("up", "tcp", 9000, "rr", &[0]);
    lab.write_config(&config).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    let mut source = lab.client().command("socat");
    source.arg("-u").arg(format!("OPEN:{}", data.display())).arg(format!("TCP:{VIP}:9000"));
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| run(&mut source));
        // While it runs, the list shows all four endpoints.
        let mut seen = Vec::new();
        wait_until(5 * SECOND, || {
            let sessions = lab.json(&["session", "list"]).unwrap();
            seen.extend(
                sessions
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|session| session["vip"] == format!("{VIP}:9000"))
                    .cloned(),
            );
            !seen.is_empty()
        });
        transfer.join().unwrap().unwrap();
        let session = seen.first().expect("the session was listed");
        assert!(session["client"].as_str().unwrap().starts_with(CLIENT), "{session}");
        assert!(session["local"].as_str().unwrap().starts_with("10.0.0.20"), "{session}");
        assert_eq!(session["real"], "10.0.0.11:9000");
        assert_eq!(session["protocol"], "tcp");
    });
    assert!(wait_until(10 * SECOND, || std::fs::metadata(&up).is_ok_and(|file| file.len() == 100 << 20)));
    assert_eq!(sum(&up), expected);
    assert_everything_is_given_back(&lab);
}

#[test]
fn iperf_runs_ten_seconds_without_an_error() {
    iperf(Plan { servers: 1, ..Plan::default() });
}

#[test]
fn iperf_runs_ten_seconds_through_two_workers() {
    let lab = iperf(Plan { servers: 1, ..TWO_WORKERS });
    assert_both_workers_forwarded(&lab);
}

/// Ten seconds of iperf3 through the VIP, several connections at a time.
fn iperf(plan: Plan) -> Lab {
    let mut lab = Lab::new(plan).unwrap();
    let mut server = lab.server(0).command("iperf3");
    server.args(["--server", "--one-off"]);
    lab.start("iperf3", &mut server).unwrap();
    lab.wait_for_listener(0, 5201).unwrap();
    let config = lab.config_head() + &lab.service("iperf", "tcp", 5201, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();

    let output = run(lab.client().command("iperf3").args([
        "--client",
        VIP,
        "--time",
        "10",
        "--parallel",
        "16",
        "--json",
    ]))
    .unwrap();

    let report: Value = serde_json::from_str(&output).unwrap();
    assert!(report["error"].is_null(), "{}", report["error"]);
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
    println!("iperf3 through the VIP: {:.2} Gbit/s", bits / 1e9);
    assert!(bits > 1e7, "{bits}");
    lab
}

#[test]
fn linux_keeps_the_vip_as_a_neighbour_through_its_probes() {
    let mut lab = Lab::new(Plan { ipv6: true, ..Plan::default() }).unwrap();
    let service = "\n[[service]]\nname = \"six\"\nlisten = \"[2001:db8:a::10]:80\"\nlocal_addresses = [\"2001:db8:b::200\"]\n[[service.server]]\naddress = \"[2001:db8:b::11]:80\"\n";
    lab.start_sluiced(&(lab.config_head() + service)).unwrap();
    // A neighbour is asked again, by a solicitation to its own station, some seconds after it was last heard of.
    for setting in ["base_reachable_time_ms=1000", "delay_first_probe_time=1", "retrans_time_ms=200"] {
        lab.client().sysctl(&format!("net.ipv6.neigh.eth0.{setting}")).unwrap();
    }
    let mut seen = BTreeSet::new();
    let is_lost = || {
        let pinged = run(lab.client().command("ping").args(["-6", "-c", "1", "-W", "5", VIP6]));
        let neighbour = run(lab.client().command("ip").args(["-6", "neigh", "show", VIP6])).unwrap();
        let state = neighbour.split_whitespace().last().unwrap_or("nothing").to_owned();
        let is_lost = ["FAILED", "INCOMPLETE", "nothing"].contains(&state.as_str());
        seen.insert(state);
        pinged.is_err() || is_lost
    };
    assert!(never_within(8 * SECOND, is_lost), "the VIP was lost: {seen:?}");
    assert!(seen.contains("DELAY") || seen.contains("PROBE"), "nothing was probed: {seen:?}");
    assert!(seen.contains("REACHABLE"), "no probe was answered: {seen:?}");
}

#[test]
fn dns_over_udp_is_answered() {
    dns(Plan::default());
}

#[test]
fn dns_through_two_workers_is_answered() {
    let lab = dns(TWO_WORKERS);
    assert_both_workers_forwarded(&lab);
}

/// A resolver that knows one address.
fn start_dnsmasq(lab: &mut Lab, at: usize, address: &str) {
    let mut dnsmasq = lab.server(at).command("dnsmasq");
    dnsmasq.args(["--no-daemon", "--no-resolv", "--no-hosts", "--user=root", "--conf-file=/dev/null"]);
    dnsmasq.args(["--pid-file=", &format!("--address=/example.test/{address}"), "--log-facility=-"]);
    lab.start(&format!("dnsmasq-{at}"), &mut dnsmasq).unwrap();
    lab.wait_for_listener(at, 53).unwrap();
}

#[test]
fn dns_over_udp_and_tcp_is_one_service_that_remembers_its_clients() {
    let mut lab = Lab::new(TWO_WORKERS).unwrap();
    for (at, address) in ["203.0.113.1", "203.0.113.2"].into_iter().enumerate() {
        start_dnsmasq(&mut lab, at, address);
    }
    let apart = lab.service("dns", "udp", 53, "rr", &[0, 1]);
    let joined = apart.replace("\"udp\"", "[\"udp\", \"tcp\"]");
    let remembered = joined.replace("scheduler", "persistence = {}\nscheduler");
    let config = |service: &str| lab.config_head() + SHORT_TIMEOUTS + service;
    let (apart, joined, remembered) = (config(&apart), config(&joined), config(&remembered));
    lab.start_sluiced(&remembered).unwrap();
    // What ten questions each way are answered, by both. Each question has a port of its own: two from one are one session.
    let mut source_ports = 20_000..;
    let mut ask = |lab: &Lab, ways: &[&str]| {
        let mut answers = BTreeSet::new();
        for _ in 0..10 {
            for way in ways {
                let source = format!("0.0.0.0#{}", source_ports.next().unwrap());
                let mut dig = lab.client().command("dig");
                dig.args([
                    "+short",
                    "+tries=2",
                    "+time=3",
                    "-b",
                    &source,
                    way,
                    &format!("@{VIP}"),
                    "www.example.test",
                ]);
                answers.insert(run(&mut dig).unwrap().trim().to_owned());
            }
        }
        answers
    };
    let reload = |lab: &Lab, text: &str| {
        lab.write_config(text).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
    };

    assert_eq!(ask(&lab, &["+notcp", "+tcp"]).len(), 1, "one server for the client, whichever way it comes");
    let services = lab.json(&["service", "list"]).unwrap();
    assert_eq!(services[0]["protocol"], "tcp,udp", "{services}");
    assert_eq!(number(&services[0]["sessions_created"]), 20, "{services}");

    reload(&lab, &joined);
    assert_eq!(ask(&lab, &["+notcp", "+tcp"]).len(), 2);

    // A protocol less: what servers had counted stays, and nobody listens there any more.
    reload(&lab, &apart);
    assert_eq!(ask(&lab, &["+notcp"]).len(), 2);
    let services = lab.json(&["service", "list"]).unwrap();
    assert_eq!(services[0]["protocol"], "udp", "{services}");
    assert_eq!(number(&services[0]["sessions_created"]), 50, "{services}");
    let mut dig = lab.client().command("dig");
    dig.args(["+tcp", "+tries=1", "+time=2", &format!("@{VIP}"), "www.example.test"]);
    assert!(run(&mut dig).is_err());
    assert_everything_is_given_back(&lab);
}

/// Three seconds of queries through the VIP.
fn dns(plan: Plan) -> Lab {
    let mut lab = Lab::new(plan).unwrap();
    for at in 0..2 {
        start_dnsmasq(&mut lab, at, "203.0.113.7");
    }
    let config = lab.config_head() + SHORT_TIMEOUTS + &lab.service("dns", "udp", 53, "rr", &[0, 1]);
    lab.start_sluiced(&config).unwrap();

    let answer =
        run(lab.client().command("dig").args(["+short", "+tries=1", &format!("@{VIP}"), "www.example.test"]))
            .unwrap();
    assert_eq!(answer.trim(), "203.0.113.7");

    let queries = lab.folder().join("queries");
    std::fs::write(&queries, "www.example.test A\nmail.example.test A\n").unwrap();
    let mut load = lab.client().command("dnsperf");
    load.args(["-s", VIP, "-l", "3", "-c", "20", "-q", "50", "-Q", "2000", "-d"]).arg(&queries);
    let report = run(&mut load).unwrap();
    let value = |name: &str| {
        let line =
            report.lines().find(|line| line.trim().starts_with(name)).unwrap_or_else(|| panic!("{report}"));
        line.split_whitespace()
            .nth(2)
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("{line}"))
    };
    // A worker that waits for its core may find its ring full: that is the machine's loss, and stays small.
    assert!(value("Queries lost:") * 100 <= value("Queries completed:"), "{report}");
    assert!(value("Queries completed:") > 3_000, "{report}");
    let servers = lab.json(&["server", "list"]).unwrap();
    assert!(
        servers.as_array().unwrap().iter().all(|server| number(&server["packets_in"]) > 1_000),
        "{servers}"
    );
    assert_everything_is_given_back(&lab);
    lab
}

/// What fifty clients that ask one after the other for `duration` got, `each_second` aside.
fn fifty_clients(lab: &Lab, duration: Duration, mut each_second: impl FnMut(usize)) -> (usize, Vec<String>) {
    let stop = AtomicBool::new(false);
    let right = AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let url = format!("http://{VIP}/?[1-10]");
                while !stop.load(Ordering::Relaxed) {
                    let mut curl = lab.client().command("curl");
                    curl.args([
                        "--silent",
                        "--show-error",
                        "--fail",
                        "--max-time",
                        "20",
                        "--header",
                        "Connection: close",
                        &url,
                    ]);
                    match run(&mut curl) {
                        Ok(text) if text.lines().all(|line| line == "rs1" || line == "rs2") => {
                            right.fetch_add(text.lines().count(), Ordering::Relaxed);
                        }
                        Ok(text) | Err(text) => wrong.lock().unwrap().push(text),
                    }
                }
            });
        }
        let begin = Instant::now();
        for second in 1.. {
            each_second(second);
            let next = begin + SECOND * second as u32;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if begin.elapsed() >= duration {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    (right.into_inner(), wrong.into_inner().unwrap())
}

#[test]
fn fifty_clients_for_thirty_seconds_have_no_failed_request() {
    let lab = web(Plan::default());

    let (right, wrong) = fifty_clients(&lab, 30 * SECOND, |_| {});

    println!("{right} requests answered");
    assert_eq!(wrong, Vec::<String>::new());
    assert!(right > 1_000, "{right}");
}

#[test]
fn fifty_clients_do_not_notice_reloads_and_changing_servers() {
    let lab = web(Plan::default());
    let head = lab.config_head() + SHORT_TIMEOUTS;
    let mut generations = HashSet::new();

    let (right, wrong) = fifty_clients(&lab, 30 * SECOND, |second| {
        let service = match second % 4 {
            0 => lab.service("web", "tcp", 80, "wrr", &[0]),
            1 => lab.service("web", "tcp", 80, "wlc", &[0, 1]),
            2 => lab.service("web", "tcp", 80, "rr", &[1]),
            _ => lab.service("web", "tcp", 80, "mh", &[1, 0]),
        };
        lab.write_config(&(head.clone() + &service)).unwrap();
        let answer = lab.json(&["config", "reload"]).unwrap();
        generations.insert(number(&answer["generation"]));
    });

    println!("{right} requests answered over {} reloads", generations.len());
    assert_eq!(wrong, Vec::<String>::new());
    assert!(right > 1_000, "{right}");
    assert!(generations.len() >= 10, "{}", generations.len());
    let service = &lab.json(&["service", "list"]).unwrap()[0];
    assert!(
        number(&service["sessions_created"]) >= right as u64,
        "totals fell when servers were removed: {service}"
    );
}

#[test]
fn a_transfer_survives_reloads_that_touch_other_servers() {
    let lab = web(Plan::default());
    make_data(&lab, "20M", 2);
    let mut curl = slow_download(&lab);
    let head = lab.config_head() + SHORT_TIMEOUTS;
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| run(&mut curl));
        let mut real = String::new();
        assert!(wait_until(5 * SECOND, || {
            let sessions = lab.json(&["session", "list"]).unwrap();
            real = sessions[0]["real"].as_str().unwrap_or_default().to_owned();
            !real.is_empty()
        }));
        // The transfer's own server leaves, comes back, and others come and go.
        let (own, other) = if real.starts_with("10.0.0.11") { (0, 1) } else { (1, 0) };
        for servers in [&[own][..], &[other], &[own, other], &[other]] {
            lab.write_config(&(head.clone() + &lab.service("web", "tcp", 80, "wrr", servers))).unwrap();
            lab.sluice(&["config", "reload"]).unwrap();
            let sessions = lab.json(&["session", "list"]).unwrap();
            assert_eq!(sessions[0]["real"], real.as_str());
        }
        let status = lab.json(&["status"]).unwrap();
        assert_eq!(status["draining"][0], format!("web {real}"));
        transfer.join().unwrap().unwrap();
    });
}

#[test]
fn with_offloads_on_small_requests_work_and_super_frames_are_named() {
    let lab = web(Plan { offloads: true, ..Plan::default() });

    assert_eq!(count(&lab.http(100, 10).unwrap()), [("rs1", 50), ("rs2", 50)].into());

    let ports = lab.json(&["port", "list"]).unwrap();
    assert!(number(&ports[0]["partial_checksums"]) > 0, "the client's offloads are on: {ports}");
    assert!(number(&ports[1]["partial_checksums"]) > 0, "the servers' offloads are on: {ports}");

    // A large answer leaves the server as super-frames, which the device cuts short.
    make_data(&lab, "2M", 2);
    let mut curl = lab.client().command("curl");
    let _ = run(curl.args([
        "--silent",
        "--max-time",
        "3",
        "--output",
        "/dev/null",
        &format!("http://{VIP}/data"),
    ]));

    assert!(number(&lab.json(&["stats", "drops"]).unwrap()["super_frame"]) > 0);
    let status = lab.json(&["status"]).unwrap();
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("ethtool -K") && warnings.contains("super-frames"), "{warnings}");
    // What did arrive was right: no checksum was ever left half done.
    let errors = run(lab.client().command("nstat").args(["-az", "TcpInCsumErrors"])).unwrap();
    let line = errors.lines().find(|line| line.starts_with("TcpInCsumErrors")).unwrap_or_default();
    assert_eq!(line.split_whitespace().nth(1), Some("0"), "{errors}");
}

#[test]
fn http_works_on_hugepages_and_they_are_given_back() {
    let _reserved = Hugepages::reserve(128).unwrap();
    let before = Hugepages::free();
    let mut lab = web(Plan { hugepages: "require", ..Plan::default() });

    assert_eq!(count(&lab.http(100, 10).unwrap()), [("rs1", 50), ("rs2", 50)].into());
    assert_eq!(lab.json(&["status"]).unwrap()["memory"], "hugepages");
    assert!(Hugepages::free() < before);

    let begin = Instant::now();
    let status = lab.sluiced().unwrap().stop();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    println!("stopped in {:?}", begin.elapsed());
    assert_eq!(Hugepages::free(), before);
}

#[test]
fn a_local_address_that_is_removed_serves_its_sessions_to_their_end() {
    remove_local_addresses_in_use(Plan { servers: 1, ..Plan::default() }, 1);
}

#[test]
fn so_it_does_when_answers_come_to_the_other_of_two_workers() {
    remove_local_addresses_in_use(Plan { servers: 1, ..TWO_WORKERS }, 6);
}

fn remove_local_addresses_in_use(plan: Plan, downloads: usize) {
    let lab = web(plan);
    make_data(&lab, "12M", 1);
    let mut commands: Vec<_> = (0..downloads).map(|_| slow_download(&lab)).collect();
    std::thread::scope(|scope| {
        let transfers: Vec<_> = commands.iter_mut().map(|curl| scope.spawn(|| run(curl))).collect();
        assert!(wait_until(5 * SECOND, || lab.json(&["session", "count"]).unwrap()["active"] == downloads));
        let config = std::fs::read_to_string(lab.config_path()).unwrap();
        lab.write_config(&config.replace("\"10.0.0.200\", \"10.0.0.201\"", "\"10.0.0.202\"")).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
        // The server forgets where the old local addresses are and must ask for them again.
        for address in ["10.0.0.200", "10.0.0.201"] {
            let _ = lab.server(0).ip(&format!("neigh del {address} dev eth0"));
        }
        transfers.into_iter().for_each(|transfer| assert!(transfer.join().unwrap().is_ok()));
    });
    assert_eq!(count(&lab.http(10, 2).unwrap()), [("rs1", 10)].into());
}

/// Connections through one local address to one server, half as many again as there are local
/// ports: the server still holds those of the first round in TIME_WAIT when their ports come again.
#[test]
fn local_ports_are_used_again_without_a_stall() {
    const CONNECTIONS: u64 = 100_000;
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    // The kernel's timeouts: nothing ends by itself while this runs.
    let service =
        lab.service("web", "tcp", 80, "rr", &[0]).replace("\"10.0.0.200\", \"10.0.0.201\"", "\"10.0.0.200\"");
    lab.start_sluiced(&(lab.config_head() + &service)).unwrap();
    let created = || number(&lab.json(&["session", "count"]).unwrap()["created"]);

    // Without help, each connection of the second round would wait a second or more for the
    // client's next try, and the whole take a quarter of an hour.
    let url = format!("http://{VIP}/");
    let load = || {
        let mut wrk = lab.client().command("wrk");
        let report = run(wrk.args(["-t1", "-c50", "-d3s", "-H", "Connection: close", &url])).unwrap();
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
        created() >= CONNECTIONS
    };
    assert!(wait_until(120 * SECOND, load), "{} connections after two minutes", created());
    assert_eq!(number(&lab.json(&["stats", "drops"]).unwrap()["local_ports_exhausted"]), 0);
}

/// A restart brings connections onto local ports of which the server still holds the last ones in TIME_WAIT.
#[test]
fn new_connections_do_not_stall_after_a_restart() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let service =
        lab.service("web", "tcp", 80, "rr", &[0]).replace("\"10.0.0.200\", \"10.0.0.201\"", "\"10.0.0.200\"");
    let config = lab.config_head() + &service;
    let url = format!("http://{VIP}/");
    let rate = |lab: &Lab| {
        let mut wrk = lab.client().command("wrk");
        let report = run(wrk.args(["-t1", "-c50", "-d5s", "-H", "Connection: close", &url])).unwrap();
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
        let line = report.lines().find_map(|line| line.strip_prefix("Requests/sec:")).unwrap();
        line.trim().parse::<f64>().unwrap()
    };
    let mut rates = Vec::new();
    for _ in 0..3 {
        lab.start_sluiced(&config).unwrap();
        rates.push(rate(&lab));
        lab.sluiced().unwrap().stop();
    }
    println!("{rates:?} connections a second");
    // Without help it is a hundredth.
    assert!(rates[1] > rates[0] * 0.5 && rates[2] > rates[0] * 0.5, "{rates:?}");
    let refused = run(lab.server(0).command("nstat").args(["-az", "TcpExtPAWSTimewait"])).unwrap();
    let count = refused.lines().find_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    assert!(count < Some(100), "{refused}");
}

#[test]
fn both_ends_of_a_forgotten_connection_are_reset() {
    for ipv6 in [false, true] {
        let mut lab = Lab::new(Plan { servers: 1, ipv6, ..Plan::default() }).unwrap();
        let (vip, local, server) = if ipv6 {
            (format!("[{VIP6}]"), "2001:db8:b::200".to_owned(), format!("[{}]", lab.server_ip6(0)))
        } else {
            (VIP.to_owned(), "10.0.0.200".to_owned(), lab.server_ip(0))
        };
        let service = format!(
            "\n[timeouts]\nestablished = \"2s\"\n[[service]]\nname = \"idle\"\nlisten = \"{vip}:9000\"\nforward = \"fullnat\"\nlocal_addresses = [\"{local}\"]\nreset_on_expiry = true\n[[service.server]]\naddress = \"{server}:9000\"\n"
        );
        let config = lab.config_head() + &service;
        lab.start_sluiced(&config).unwrap();
        let (mut sink, mut source) = (lab.server(0).command("sh"), lab.client().command("sh"));
        sink.args(["-c", "sleep 20 | socat - TCP6-LISTEN:9000,ipv6only=0"]);
        source.args(["-c", &format!("sleep 20 | socat - TCP:{vip}:9000")]);
        let folder = lab.folder().to_owned();
        let _sink = Daemon::start(&mut sink, &folder.join("sink.log")).unwrap();
        lab.wait_for_listener(0, 9000).unwrap();
        let _source = Daemon::start(&mut source, &folder.join("source.log")).unwrap();
        let is_reset = |space: &Namespace| {
            let counter = run(space.command("nstat").args(["-az", "TcpEstabResets"])).unwrap();
            counter.lines().any(|line| line.split_whitespace().eq(["TcpEstabResets", "1", "0.0"]))
        };
        assert!(wait_until(10 * SECOND, || is_reset(lab.client()) && is_reset(lab.server(0))));
    }
}
