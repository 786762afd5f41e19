//! Floods from false addresses, in namespaces with real clients and servers.

use pktgen_tests::frames::{Route, tcp, tcp_frame};
use pktgen_tests::lab::{Lab, Plan, VIP};
use pktgen_tests::process::{run, wait_until};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// Sessions that fit.
const CAPACITY: u64 = 20_000;

/// Sends frames that stand in a file, each behind its length in two bytes, by a packet socket: 64 at a time, a millisecond
/// apart, which a worker that shares its core keeps up with.
const SENDER: &str = "import socket, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
data, at, sent = open(sys.argv[2], 'rb').read(), 0, 0
while at < len(data):
    size = data[at] << 8 | data[at + 1]
    out.send(data[at + 2:at + 2 + size])
    at, sent = at + 2 + size, sent + 1
    if sent % 64 == 0:
        time.sleep(0.001)
";

/// SYNs from so many addresses that nobody has to a port of the VIP.
fn syns(lab: &Lab, count: u32, l4_port: u16, station: [u8; 6]) -> std::path::PathBuf {
    let mut frames = Vec::new();
    for number in 0..count {
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number % 100_000);
        let route = Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: station,
            source: (source.into(), 1_024 + (number % 60_000) as u16),
            destination: (VIP.parse().unwrap(), l4_port),
        };
        let frame = tcp_frame(&route, tcp::SYN, b"");
        frames.extend((frame.len() as u16).to_be_bytes());
        frames.extend(frame);
    }
    let path = lab.folder().join("syns");
    std::fs::write(&path, frames).unwrap();
    path
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
    let mut live: Vec<_> = lab.client().inside(|| {
        let connect = |_| {
            let mut stream = TcpStream::connect((VIP, 80)).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            ask(&mut stream).unwrap();
            stream
        };
        (0..100).map(connect).collect()
    });
    let ports = lab.json(&["port", "list"]).unwrap();
    let mac: Vec<_> = ports[0]["mac"].as_str().unwrap().split(':').collect();
    let station: Vec<_> = mac.iter().map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    // Four times as many as the table holds.
    let frames = syns(&lab, 4 * CAPACITY as u32, 80, station.try_into().unwrap());

    let mut sender = lab.client().command("/usr/bin/python3");
    let mut sending = Running(sender.args(["-c", SENDER, "eth0"]).arg(&frames).spawn().unwrap());
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

/// A program that ends with its test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
