//! Floods from false addresses and blind attacks on connections, in namespaces with real clients and servers.

use pktgen_tests::frames::{ETHERNET, Route, fill_checksums, tcp, tcp_frame};
use pktgen_tests::lab::{CLIENT, Lab, Plan, VIP};
use pktgen_tests::netns::Namespace;
use pktgen_tests::process::{run, wait_until};
use pktgen_tests::sshd::Ssh;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// Sessions that fit.
const CAPACITY: u64 = 20_000;

/// Sends frames that stand in a file, each behind its length in two bytes, by a packet socket: so many at a time, a
/// millisecond apart. A worker that shares its core keeps up with 64.
const SENDER: &str = "import socket, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
data, at, sent = open(sys.argv[2], 'rb').read(), 0, 0
while at < len(data):
    size = data[at] << 8 | data[at + 1]
    out.send(data[at + 2:at + 2 + size])
    at, sent = at + 2 + size, sent + 1
    if sent % int(sys.argv[3]) == 0:
        time.sleep(0.001)
";

/// SYNs from so many addresses that nobody has to a port of the VIP.
fn syns(lab: &Lab, count: u32, l4_port: u16, station: [u8; 6]) -> PathBuf {
    written(lab, (0..count).map(forged(l4_port, station, tcp::SYN)))
}

/// The same, each with an acknowledgement of what the server may have said behind the one a hundred before.
fn syns_and_acks(lab: &Lab, count: u32, l4_port: u16, station: [u8; 6]) -> PathBuf {
    let (syn, ack) = (forged(l4_port, station, tcp::SYN), forged(l4_port, station, tcp::ACK));
    written(lab, (0..count).flat_map(|number| [syn(number), ack(number.saturating_sub(100))]))
}

/// A segment from a false address.
fn forged(l4_port: u16, station: [u8; 6], flags: u8) -> impl Fn(u32) -> Vec<u8> {
    move |number: u32| {
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number % 100_000);
        let route = Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: station,
            source: (source.into(), 1_024 + (number % 60_000) as u16),
            destination: (VIP.parse().unwrap(), l4_port),
        };
        tcp_frame(&route, flags, b"")
    }
}

/// A file of frames for [`SENDER`].
fn written(lab: &Lab, frames: impl Iterator<Item = Vec<u8>>) -> PathBuf {
    let mut all = Vec::new();
    for frame in frames {
        all.extend((frame.len() as u16).to_be_bytes());
        all.extend(frame);
    }
    let path = lab.folder().join("frames");
    std::fs::write(&path, all).unwrap();
    path
}

/// Starts to send a file of frames from a namespace.
fn send(from: &Namespace, frames: &Path) -> Running {
    send_slowly(from, frames, 64)
}

/// The same, so many in a millisecond.
fn send_slowly(from: &Namespace, frames: &Path, at_a_time: usize) -> Running {
    let mut sender = from.command("/usr/bin/python3");
    Running(sender.args(["-c", SENDER, "eth0"]).arg(frames).arg(at_a_time.to_string()).spawn().unwrap())
}

/// The station address of a port of the appliance.
fn station(lab: &Lab, port: usize) -> [u8; 6] {
    let ports = lab.json(&["port", "list"]).unwrap();
    let mac: Vec<_> = ports[port]["mac"].as_str().unwrap().split(':').collect();
    let octets: Vec<_> = mac.iter().map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    octets.try_into().unwrap()
}

/// Connections with an answered request on each.
fn connections(lab: &Lab, count: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect((VIP, 80)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        ask(&mut stream).unwrap();
        stream
    };
    lab.client().inside(|| (0..count).map(connect).collect())
}

/// A request on a connection that stays open.
fn ask(stream: &mut TcpStream) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").map_err(says)?;
    let mut room = [0; 4_096];
    let len = stream.read(&mut room).map_err(says)?;
    let is_answer = room[..len].starts_with(b"HTTP/1.1 200");
    is_answer.then_some(()).ok_or_else(|| String::from_utf8_lossy(&room[..len]).into_owned())
}

#[test]
fn a_flood_of_syns_takes_a_quarter_of_the_table_and_nobody_else_s_place() {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80, 8080]).unwrap();
    }
    let config = lab.config_head().replace("session_capacity = 200_000", "session_capacity = 20_000")
        + &lab.service("web", "tcp", 80, "rr", &[0, 1])
        + &lab.service("api", "tcp", 8080, "rr", &[0, 1]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up"]);
    let mut live = connections(&lab, 100);
    // Four times as many as the table holds.
    let frames = syns(&lab, 4 * CAPACITY as u32, 80, station(&lab, 0));

    let mut sending = send(lab.client(), &frames);
    let mut answers = Vec::new();
    let mut rounds = 0;
    while sending.0.try_wait().unwrap().is_none() {
        // New clients of the service that is attacked, and of the one beside it.
        answers.extend(lab.http(5, 5).unwrap());
        let mut curl = lab.client().command("curl");
        answers.push(run(curl.args(["-s", "--max-time", "20", &format!("http://{VIP}:8080/")])).unwrap());
        rounds += 1;
    }
    let is_good = |answer: &String| answer.trim().starts_with("rs");
    let bad: Vec<_> = answers.iter().filter(|answer| !is_good(answer)).collect();
    assert!(bad.is_empty() && rounds > 1, "{rounds} rounds, of {} answers: {bad:?}", answers.len());
    live.iter_mut()
        .enumerate()
        .for_each(|(at, stream)| ask(stream).unwrap_or_else(|why| panic!("{at}: {why}")));

    let worker = &lab.json(&["worker", "list"]).unwrap()[0];
    let count = |name: &str| worker[name].as_u64().unwrap();
    assert!(count("sessions_half_open") <= CAPACITY / 4, "{worker}");
    assert!(count("sessions_displaced") >= 2 * CAPACITY, "{worker}");
    let drops = lab.json(&["stats", "drops"]).unwrap();
    assert_eq!((&drops["session_table_full"], &drops["local_ports_exhausted"]), (&0.into(), &0.into()));
    // It is told once, with what becomes of it.
    let status = lab.json(&["status"]).unwrap();
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("half-open IPv4 connections of worker 0"), "{warnings}");
    let events = || lab.sluice(&["events", "--since", "2m"]).unwrap();
    assert!(wait_until(SOON, || events().matches("half-open IPv4 connections").count() == 1), "{}", events());
}

/// Every port but those of services, each with a segment of these flags and numbers without order.
fn sweep(route: &Route, kinds: &'static [u8], ports: impl Fn(Route, u16) -> Route) -> Vec<Vec<u8>> {
    let segment = |n: u16, flags: u8, place: u32| {
        let mut frame = tcp_frame(&ports(*route, n), flags, b"");
        let number = |salt: u32| {
            (u32::from(n) ^ salt ^ place << 16)
                .wrapping_mul(0x9e37_79b9)
                .rotate_left(15)
                .wrapping_mul(0x85eb_ca6b)
        };
        let l4 = ETHERNET + 20;
        frame[l4 + 4..l4 + 8].copy_from_slice(&number(0x5bd1).to_be_bytes());
        frame[l4 + 8..l4 + 12].copy_from_slice(&number(0x1b87).to_be_bytes());
        fill_checksums(&mut frame);
        frame
    };
    let each = |n: u16| kinds.iter().enumerate().map(move |(place, flags)| (n, *flags, place as u32));
    (1_024..=u16::MAX).flat_map(each).map(|(n, flags, place)| segment(n, flags, place)).collect()
}

#[test]
fn blind_sweeps_of_all_ports_end_no_connection_idle_or_busy() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx_on(0, &[80]).unwrap();
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"]);
    let (mut busy, mut idle) = (connections(&lab, 100), connections(&lab, 100));

    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let session = lab.json(&["session", "list", "--limit", "1"]).unwrap();
    let local = session[0]["local"].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned();
    let from_client = Route {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: station(&lab, 0),
        source: (address(CLIENT), 0),
        destination: (address(VIP), 80),
    };
    let from_server = Route {
        destination_mac: station(&lab, 1),
        source: (address(&lab.server_ip(0)), 80),
        destination: (address(&local), 0),
        ..from_client
    };
    let by_source = |route: Route, n| Route { source: (route.source.0, n), ..route };
    let by_destination = |route: Route, n| Route { destination: (route.destination.0, n), ..route };
    let sweeps: [(&Namespace, Vec<Vec<u8>>); 5] = [
        (lab.client(), sweep(&from_client, &[tcp::RST], by_source)),
        (lab.client(), sweep(&from_client, &[tcp::FIN | tcp::ACK], by_source)),
        (lab.client(), sweep(&from_client, &[tcp::RST, tcp::SYN], by_source)),
        (lab.server(0), sweep(&from_server, &[tcp::RST], by_destination)),
        (lab.server(0), sweep(&from_server, &[tcp::FIN | tcp::ACK, tcp::SYN | tcp::ACK], by_destination)),
    ];
    for (at, (from, frames)) in sweeps.into_iter().enumerate() {
        let mut sending = send(from, &written(&lab, frames.into_iter()));
        while sending.0.try_wait().unwrap().is_none() {
            let streams = busy.iter_mut().enumerate();
            streams
                .for_each(|(n, stream)| ask(stream).unwrap_or_else(|why| panic!("sweep {at}: {n}: {why}")));
        }
    }

    let established = || lab.json(&["session", "list", "--state", "established"]).unwrap();
    assert_eq!(established().as_array().unwrap().len(), 200);
    for stream in busy.iter_mut().chain(&mut idle) {
        ask(stream).unwrap();
    }
    let doubtful = lab.json(&["worker", "list"]).unwrap()[0]["segments_out_of_window"].as_u64().unwrap();
    // Three sweeps met all, and two those of one of the two local addresses.
    assert!(doubtful >= 3 * 200 + 2 * 80, "{doubtful}");
}

#[test]
fn what_pretends_to_be_a_server_on_the_clients_side_enters_no_session() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx_on(0, &[80]).unwrap();
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"]);
    let mut live = connections(&lab, 50);
    let sessions = lab.json(&["session", "list"]).unwrap();
    let endpoint = |text: &serde_json::Value| {
        let at: std::net::SocketAddr = text.as_str().unwrap().parse().unwrap();
        (at.ip(), at.port())
    };
    // Even with ports and numbers that are right: to whoever was on the way.
    let station = station(&lab, 0);
    let forged = sessions.as_array().unwrap().iter().flat_map(|session| {
        let route = Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: station,
            source: endpoint(&session["real"]),
            destination: endpoint(&session["local"]),
        };
        [tcp::ACK, tcp::RST, tcp::FIN | tcp::ACK].map(|flags| tcp_frame(&route, flags, b"forged"))
    });
    let frames = written(&lab, forged.collect::<Vec<_>>().into_iter().cycle().take(15_000));
    let mut sending = send(lab.client(), &frames);
    while sending.0.try_wait().unwrap().is_none() {
        live.iter_mut().for_each(|stream| ask(stream).unwrap());
    }
    let elsewhere = || lab.json(&["stats", "drops"]).unwrap()["source_elsewhere"].as_u64().unwrap();
    assert!(wait_until(SOON, || elsewhere() >= 14_000), "{}", elsewhere());
    let server = &lab.json(&["server", "list"]).unwrap()[0];
    let passive = lab.json(&["session", "list", "--state", "established"]).unwrap();
    assert_eq!(passive.as_array().unwrap().len(), 50, "{server}");
}

/// An ARP frame that says that a station has an address.
fn arp(is_request: bool, sender: Ipv4Addr, to: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    const FORGER: [u8; 6] = [2, 0, 0, 0, 0x66, 6];
    let kind = if is_request { 1 } else { 2 };
    let ends =
        [&FORGER[..], &sender.octets(), if is_request { &[0; 6] } else { &to }, &target.octets()].concat();
    [&to[..], &FORGER, &[8, 6, 0, 1, 8, 0, 6, 4, 0, kind], &ends].concat()
}

#[test]
fn forged_arp_for_a_gateway_and_a_server_moves_neither_and_is_told() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx_on(0, &[80]).unwrap();
    let far = "[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.50\"\n";
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0]) + far;
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"]);
    let mut live = connections(&lab, 50);
    let four = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    let sides = [
        (lab.client(), 0, four(CLIENT), four("192.0.2.2")),
        (lab.server(0), 1, four(&lab.server_ip(0)), four("10.0.0.2")),
    ];
    for (at, (from, port, victim, own)) in sides.into_iter().enumerate() {
        let to = station(&lab, port);
        let everybody = [0xff; 6];
        let forged = [
            arp(false, victim, to, own),
            arp(true, victim, to, own),
            arp(true, victim, everybody, victim),
            arp(false, victim, everybody, victim),
        ];
        let frames = written(&lab, forged.into_iter().cycle().take(8_000));
        let mut sending = send_slowly(from, &frames, 1);
        while sending.0.try_wait().unwrap().is_none() {
            let streams = live.iter_mut().enumerate();
            streams.for_each(|(n, stream)| ask(stream).unwrap_or_else(|why| panic!("side {at}: {n}: {why}")));
            let answers = lab.http(2, 2).unwrap();
            assert!(answers.iter().all(|answer| answer.trim() == "rs1:80"), "side {at}: {answers:?}");
        }
    }
    let neighbors = lab.json(&["neighbor", "list"]).unwrap().to_string();
    assert!(!neighbors.contains("02:00:00:00:66:06"), "{neighbors}");
    let events = lab.sluice(&["events", "--since", "2m"]).unwrap();
    for victim in [CLIENT, &lab.server_ip(0)] {
        let told = events.matches(&format!("neighbor {victim} on port")).count();
        assert_eq!(told, 1, "{victim}: {events}");
    }
}

/// A program that ends with its test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that speaks first, and one line back for each line that it is told.
const SPEAKS_FIRST: &str = "import socketserver
class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b'220 ready\\n')
        for line in self.rfile:
            self.wfile.write(line.upper())
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128
Server(('', 25), Greeter).serve_forever()
";

#[test]
fn a_flood_of_syns_behind_the_syn_proxy_takes_no_session_and_no_port() {
    hold_a_flood(1, "fullnat");
    hold_a_flood(2, "fullnat");
    hold_a_flood(1, "nat");
}

fn hold_a_flood(workers: usize, mode: &str) {
    let mut lab = Lab::new(Plan { servers: 2, workers, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80, 8080]).unwrap();
    }
    let mut greeter = lab.server(0).command("/usr/bin/python3");
    let _greeter = Running(greeter.args(["-c", SPEAKS_FIRST]).spawn().unwrap());
    let proven = |service: String| service.replace("scheduler", "syn_proxy = \"always\"\nscheduler");
    let config = lab.config_head().replace("session_capacity = 200_000", "session_capacity = 20_000")
        + &proven(lab.service("web", "tcp", 80, "rr", &[0, 1]))
        + &lab.service("api", "tcp", 8080, "rr", &[0, 1])
        + &proven(lab.service("mail", "tcp", 25, "rr", &[0]));
    let config = match mode {
        "nat" => {
            for at in 0..2 {
                lab.server(at).ip("route add 192.0.2.0/24 via 10.0.0.2").unwrap();
            }
            let others = |line: &&str| !line.starts_with("local_addresses");
            let lines: Vec<_> = config.lines().filter(others).collect();
            lines.join("\n").replace("\"fullnat\"", "\"nat\"")
        }
        _ => config,
    };
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up"]);

    // Both ends speak first, and large answers pass both ways.
    let greet = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((VIP, 25))?;
        stream.set_read_timeout(Some(SOON))?;
        let (mut room, mut said) = ([0; 64], 0);
        while !room[..said].ends_with(b"ready\n") {
            said += stream.read(&mut room[said..])?;
        }
        let long = vec![b'a'; 500_000];
        let mut writer = stream.try_clone()?;
        let sending = std::thread::spawn(move || writer.write_all(&[&long[..], b"\n"].concat()));
        let mut back = vec![0; 500_001];
        stream.read_exact(&mut back)?;
        sending.join().unwrap()?;
        assert!(back[..500_000].iter().all(|byte| *byte == b'A'));
        Ok(String::from_utf8_lossy(&room[..said]).into_owned())
    };
    lab.client().inside(|| assert_eq!(greet().unwrap(), "220 ready\n"));
    let mut live = connections(&lab, 100);

    let frames = syns(&lab, 4 * CAPACITY as u32, 80, station(&lab, 0));
    let mut sending = send(lab.client(), &frames);
    let (mut answers, mut slowest, mut rounds) = (Vec::new(), Duration::ZERO, 0);
    while sending.0.try_wait().unwrap().is_none() {
        let begun = std::time::Instant::now();
        answers.extend(lab.http(5, 5).unwrap());
        let mut curl = lab.client().command("curl");
        answers.push(run(curl.args(["-s", "--max-time", "20", &format!("http://{VIP}:8080/")])).unwrap());
        slowest = slowest.max(begun.elapsed());
        rounds += 1;
    }
    let bad: Vec<_> = answers.iter().filter(|answer| !answer.trim().starts_with("rs")).collect();
    assert!(bad.is_empty() && rounds > 1, "{rounds} rounds, of {} answers: {bad:?}", answers.len());
    live.iter_mut()
        .enumerate()
        .for_each(|(at, stream)| ask(stream).unwrap_or_else(|why| panic!("{at}: {why}")));

    let list = lab.json(&["worker", "list"]).unwrap();
    let of_all = |name: &str| {
        list.as_array().unwrap().iter().map(|worker| worker[name].as_u64().unwrap()).sum::<u64>()
    };
    let web = &lab.json(&["service", "list"]).unwrap()[0];
    let count = |name: &str| web["syn_proxy"][name].as_u64().unwrap();
    // Of nobody who did not prove himself is anything left.
    assert_eq!((of_all("sessions_half_open"), of_all("sessions_displaced")), (0, 0));
    assert!(of_all("sessions_created") < 1_000 + answers.len() as u64, "{list}");
    assert!(count("cookies_sent") >= 4 * CAPACITY && count("cookies_wrong") == 0, "{web}");
    let connections = 100 + answers.len() as u64 * 5 / 6;
    assert!(count("cookies_accepted") >= connections, "{connections} connections: {web}");
    println!(
        "{mode}, {workers} workers: {rounds} rounds of {} answers, the slowest {slowest:?}: {}",
        answers.len(),
        web["syn_proxy"]
    );
}

#[test]
fn a_flood_of_syns_is_told_and_clients_are_asked_for_proof_while_it_lasts() {
    for workers in [1, 2] {
        tell_a_flood(workers);
    }
}

fn tell_a_flood(workers: usize) {
    let mut lab = Lab::new(Plan { servers: 2, workers, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80, 8080]).unwrap();
    }
    let head = lab.config_head().replace("session_capacity = 200_000", "session_capacity = 20_000");
    let config_with = |mode: &str| {
        let web = lab.service("web", "tcp", 80, "rr", &[0, 1]);
        // A program that is told, and one that never ends.
        let told = format!(
            "\n[[hook]]\ncommand = [\"/bin/sh\", \"-c\", \"echo $SLUICE_EVENT $SLUICE_KIND $SLUICE_SERVICE $SLUICE_LISTEN $SLUICE_RATE $SLUICE_PEAK >> {}\"]\n\n[[hook]]\ncommand = [\"/bin/sleep\", \"3600\"]\n",
            lab.folder().join("told").display()
        );
        head.clone()
            + &told
            + &web.replace("scheduler", &format!("syn_proxy = \"{mode}\"\nscheduler"))
            + &lab.service("api", "tcp", 8080, "rr", &[0, 1])
    };
    let [by_need, never, off] = ["auto", "monitor", "off"].map(config_with);
    lab.start_sluiced(&by_need).unwrap();
    lab.await_states(&["up", "up"]);
    let mut live = connections(&lab, 100);
    let asks = |lab: &Lab| lab.json(&["service", "show", "web"]).unwrap()["asks_proof"] == true;
    let attacks = |lab: &Lab| lab.json(&["attack", "list"]).unwrap().as_array().unwrap().clone();
    assert!(!asks(&lab) && attacks(&lab).is_empty(), "connections that are finished are no flood");

    // Acknowledgements that nobody can know finish no connection.
    let frames = match workers {
        1 => syns(&lab, 12 * CAPACITY as u32, 80, station(&lab, 0)),
        _ => syns_and_acks(&lab, 6 * CAPACITY as u32, 80, station(&lab, 0)),
    };
    let mut sending = send(lab.client(), &frames);
    let begun = std::time::Instant::now();
    assert!(wait_until(SOON, || asks(&lab)), "{:?}", attacks(&lab));
    let noticed = begun.elapsed();
    let of_all = |lab: &Lab, name: &str| {
        let list = lab.json(&["worker", "list"]).unwrap();
        list.as_array().unwrap().iter().map(|worker| worker[name].as_u64().unwrap()).sum::<u64>()
    };
    let created = of_all(&lab, "sessions_created");
    let (mut answers, mut slowest) = (Vec::new(), Duration::ZERO);
    while sending.0.try_wait().unwrap().is_none() {
        let round = std::time::Instant::now();
        answers.extend(lab.http(5, 5).unwrap());
        slowest = slowest.max(round.elapsed());
    }
    let bad: Vec<_> = answers.iter().filter(|answer| !answer.trim().starts_with("rs")).collect();
    assert!(bad.is_empty() && answers.len() > 5, "{bad:?} of {}", answers.len());
    live.iter_mut()
        .enumerate()
        .for_each(|(at, stream)| ask(stream).unwrap_or_else(|why| panic!("{at}: {why}")));
    // Those that are made are the proven ones'.
    let made = of_all(&lab, "sessions_created") - created;
    assert!(made < 1_000 + answers.len() as u64, "{made} sessions");
    let ongoing = attacks(&lab);
    assert_eq!(
        (ongoing.len(), &ongoing[0]["service"], &ongoing[0]["ended"]),
        (1, &"web".into(), &serde_json::Value::Null)
    );
    let status = lab.json(&["status"]).unwrap();
    let warns = |status: &serde_json::Value, words: &str| {
        status["warnings"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains(words))
    };
    assert!(warns(&status, "service web: a flood of SYNs"), "{status}");
    println!(
        "{workers} workers: asked for proof after {noticed:?}, the slowest round of {} took {slowest:?}: {ongoing:?}",
        answers.len()
    );

    // Of a service that only looks nobody is asked, and the attack goes on; one that does not look knows of none.
    for (config, is_there) in [(never, true), (off, false)] {
        lab.write_config(&config).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
        let is_followed =
            || !asks(&lab) && attacks(&lab).iter().any(|one| one["ended"].is_null()) == is_there;
        assert!(wait_until(SOON, is_followed), "{:?}", attacks(&lab));
    }
    let hooked = || std::fs::read_to_string(lab.folder().join("told")).unwrap_or_default();
    assert!(wait_until(SOON, || hooked().contains("\nend ")), "{}", hooked());
    // The rest are about its growth.
    let told: Vec<_> = hooked().lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert!(told.iter().skip(1).rev().skip(1).all(|event| event == "grow"), "{told:?}");
    let begins = format!("begin syn_flood web {VIP}:80 ");
    assert!(hooked().starts_with(&begins) && hooked().contains("\nend syn_flood web "), "{}", hooked());
    let told = || lab.sluice(&["events", "--kind", "attacks"]).unwrap();
    wait_until(SOON, || told().lines().count() == 2);
    let told = told();
    let lines: Vec<_> = told.lines().collect();
    assert!(
        lines.len() == 2
            && lines[0].contains("service web: a flood of SYNs: ")
            && lines[1].contains("a flood of SYNs no more, after"),
        "{told}"
    );
}

/// Whether a new connection of the client's gets an answer.
fn is_served(lab: &Lab, l4_port: u16) -> bool {
    let mut curl = lab.client().command("curl");
    run(curl.args(["-s", "--max-time", "1", &format!("http://{VIP}:{l4_port}/")]))
        .is_ok_and(|answer| answer.starts_with("rs"))
}

#[test]
fn lists_of_addresses_decide_who_is_served_as_their_files_change() {
    let mut lab = Lab::new(Plan { workers: 2, ..Plan::default() }).unwrap();
    lab.start_nginx_on(0, &[80, 8080]).unwrap();
    let list = lab.folder().join("bad.netset");
    let write = |text: &str| {
        let new = list.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &list).unwrap();
    };
    write("# nobody that is here\n203.0.113.0/24\n");
    let acls = format!(
        "\n[[acl]]\nname = \"friends\"\naction = \"allow\"\nprefixes = [\"198.51.100.7\"]\n\n[[acl]]\nname = \"bad\"\nfiles = [\"{}\"]\nservices = [\"web\"]\n",
        list.display()
    );
    let head = lab.config_head();
    let services = lab.service("web", "tcp", 80, "rr", &[0]) + &lab.service("api", "tcp", 8080, "rr", &[0]);
    lab.start_sluiced(&(head.clone() + &acls + &services)).unwrap();
    lab.await_states(&["up"]);
    let of = |lab: &Lab, name: &str| {
        let lists = lab.json(&["acl", "list"]).unwrap();
        lists.as_array().unwrap().iter().find(|list| list["name"] == name).cloned().unwrap()
    };
    assert!(wait_until(SOON, || of(&lab, "bad")["ipv4"] == 1));
    let mut live = connections(&lab, 10);
    assert!(is_served(&lab, 80) && is_served(&lab, 8080));

    // A list in ipset's form has the client now: it gets no session, and those that it has end.
    write(&format!("create bad hash:net family inet\nadd bad {CLIENT}\nadd bad 203.0.113.0/24\n"));
    assert!(wait_until(SOON, || of(&lab, "bad")["ipv4"] == 2));
    assert!(!is_served(&lab, 80) && is_served(&lab, 8080), "it is for web alone");
    live[0].set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(ask(&mut live[0]).is_err());
    let said = lab.sluice(&["acl", "get", CLIENT]).unwrap();
    assert!(said.contains("is in bad: deny for web"), "{said}");
    let explained = lab.sluice(&["explain", "tcp", &format!("{CLIENT}:4000"), &format!("{VIP}:80")]).unwrap();
    assert!(explained.contains("acl_denied"), "{explained}");
    assert!(of(&lab, "bad")["hits"].as_u64() > Some(0));

    // What is broken or empty changes nothing, and is told.
    for (text, problem) in
        [("", "there is no prefix in it"), ("203.0.113.0/24\n<html>\n", ":2: `<html>` is no prefix")]
    {
        write(text);
        let has_problem = || of(&lab, "bad")["problem"].as_str().is_some_and(|said| said.contains(problem));
        assert!(wait_until(SOON, has_problem), "{}", of(&lab, "bad"));
        assert!(!is_served(&lab, 80));
        let warnings = lab.json(&["status"]).unwrap()["warnings"].to_string();
        assert!(warnings.contains(problem.trim_start_matches(":2: ")), "{warnings}");
    }

    // Who is allowed is not denied; and the other way round by a command, until it is taken back.
    let allowed = acls.replace("198.51.100.7", &format!("{CLIENT}/32"));
    lab.write_config(&(head + &allowed + &services)).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert!(is_served(&lab, 80));
    lab.sluice(&["ban", "add", CLIENT, "--reason", "scans"]).unwrap();
    assert!(!is_served(&lab, 80) && !is_served(&lab, 8080));
    let bans = lab.sluice(&["ban", "list"]).unwrap();
    assert!(bans.contains(&format!("{CLIENT}/32")) && bans.contains("scans"), "{bans}");
    lab.sluice(&["ban", "remove", CLIENT]).unwrap();
    assert!(is_served(&lab, 80) && is_served(&lab, 8080));
    lab.sluice(&["ban", "add", CLIENT, "--for", "2s"]).unwrap();
    assert!(!is_served(&lab, 8080));
    assert!(wait_until(SOON, || is_served(&lab, 8080)), "it is over");
    let refused = lab.sluice(&["ban", "add", "0.0.0.0/0"]).unwrap_err();
    assert!(refused.contains("too wide"), "{refused}");
}

#[test]
fn a_list_of_a_million_prefixes_is_followed_in_a_second() {
    use std::fmt::Write as _;
    let mut lab = Lab::new(Plan::default()).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let list = lab.folder().join("many.netset");
    let mut text = String::new();
    for n in 0..1_000_000_u32 {
        // Of 128.0.0.0/1, where nobody of the lab is.
        let address = Ipv4Addr::from_bits(1 << 31 | n.wrapping_mul(2_654_435_761) >> 1);
        if address.octets()[..2] != [192, 0] {
            writeln!(text, "{address}").unwrap();
        }
    }
    std::fs::write(&list, text).unwrap();
    let config = lab.config_head()
        + &format!("\n[[acl]]\nname = \"many\"\nfiles = [\"{}\"]\n", list.display())
        + &lab.service("web", "tcp", 80, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    let begun = std::time::Instant::now();
    let many = || lab.json(&["acl", "list"]).unwrap()[0].clone();
    assert!(wait_until(SOON, || many()["ipv4"].as_u64() > Some(900_000)), "{}", many());
    println!("a million prefixes {:?} after the start: {}", begun.elapsed(), many());
    assert!(many()["bytes"].as_u64() <= Some(32_000_000));
    lab.await_states(&["up"]);
    assert!(is_served(&lab, 80));
}

#[test]
fn who_comes_too_often_is_refused_and_banned_for_a_while() {
    let mut lab = Lab::new(Plan { workers: 2, ..Plan::default() }).unwrap();
    lab.start_nginx_on(0, &[80, 8080]).unwrap();
    let limited = lab.service("web", "tcp", 80, "rr", &[0]).replace(
        "scheduler",
        "syn_proxy = \"always\"\nlimits = { new_per_source = 20, ban = \"4s\" }\nscheduler",
    );
    lab.start_sluiced(&(lab.config_head() + &limited + &lab.service("api", "tcp", 8080, "rr", &[0])))
        .unwrap();
    lab.await_states(&["up"]);
    // Another source, which keeps its rate.
    lab.client().ip("address add 192.0.2.77/24 dev eth0").unwrap();
    let other = || {
        let mut curl = lab.client().command("curl");
        let words = ["-s", "--max-time", "2", "--interface", "192.0.2.77", &format!("http://{VIP}/")];
        run(curl.args(words)).is_ok_and(|answer| answer.starts_with("rs"))
    };
    assert!(is_served(&lab, 80) && other());
    let connect =
        || TcpStream::connect_timeout(&format!("{VIP}:80").parse().unwrap(), Duration::from_millis(50));
    let ask_once = |_: usize| {
        let mut stream = connect().ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
        ask(&mut stream).ok()
    };
    // A burst of a second's, and then none.
    let served = lab.client().inside(|| (0..90).filter_map(ask_once).count());
    // Each of the two workers lets so many pass.
    assert!((15..=45).contains(&served), "{served} of 90");
    let sources = || lab.json(&["top", "sources"]).unwrap();
    assert!(wait_until(SOON, || sources()[0]["refused"].as_u64() > Some(10)), "{}", sources());
    assert_eq!(
        (&sources()[0]["source"], &sources()[0]["service"]),
        (&format!("{CLIENT}/32").into(), &"web".into())
    );
    assert!(wait_until(SOON, || lab.sluice(&["ban", "list"]).unwrap().contains("new_per_source of web")));
    assert!(!is_served(&lab, 8080), "from all services");
    assert!(other(), "nobody else pays for it");
    let attacks = lab.sluice(&["attack", "list"]).unwrap();
    assert!(attacks.contains("source_rate"), "{attacks}");
    assert!(wait_until(SOON, || is_served(&lab, 8080)), "it is over");
    assert!(wait_until(SOON, || is_served(&lab, 80)));
    let web = &lab.json(&["service", "list"]).unwrap()[0];
    assert!(web["refused"]["source_rate"].as_u64() > Some(10), "{web}");
}

#[test]
fn ssh_which_speaks_first_works_behind_the_syn_proxy() {
    let mut lab = Lab::new(Plan { workers: 2, ..Plan::default() }).unwrap();
    let server = lab.server_ip(0);
    let ssh = Ssh::start(&mut lab, Some(0), &server).unwrap();
    let service = lab.service("ssh", "tcp", 22, "rr", &[0]);
    let config = lab.config_head() + &service.replace("scheduler", "syn_proxy = \"always\"\nscheduler");
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"]);
    let says = |command: &str| ssh.run(lab.client(), VIP, command);
    assert!(wait_until(SOON, || says("true").is_ok()), "{:?}", says("true"));
    // Much both ways: what 4 MB add up to at the other end, and back.
    for _ in 0..5 {
        let said = says("head -c 4000000 /dev/zero | tr '\\0' x").unwrap();
        assert!(said.len() == 4_000_000 && said.bytes().all(|byte| byte == b'x'), "{} bytes", said.len());
    }
    let proxy = &lab.json(&["service", "list"]).unwrap()[0]["syn_proxy"];
    assert!(proxy["cookies_accepted"].as_u64() >= Some(6) && proxy["cookies_wrong"] == 0, "{proxy}");
}
