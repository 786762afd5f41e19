//! SCTP between real stacks (usrsctp's, in user space), through every mode that changes addresses: ten
//! thousand messages over IPv4 (its load generator speaks no other), and an echo in both families.

use pktgen_tests::lab::{Lab, Plan, VIP, VIP6};
use pktgen_tests::process::{run, wait_until};
use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

const L4_PORT: u16 = 5001;
const MESSAGES: usize = 10_000;
const LEN: usize = 1_200;

fn service(mode: &str, host: &str, server: &str) -> String {
    let locals = match mode {
        "nat" => "",
        _ => "local_addresses = [\"10.0.0.200\", \"2001:db8:b::200\"]\n",
    };
    format!(
        "\n[[service]]\nname = \"signalling\"\nprotocol = \"sctp\"\nforward = \"{mode}\"\nlisten = \"{host}:{L4_PORT}\"\n{locals}[[service.server]]\naddress = \"{server}\"\n"
    )
}

fn lab(mode: &str, six: bool, server_six: bool, server_port: u16, workers: usize) -> Lab {
    let mut lab = Lab::new(Plan { ipv6: true, servers: 1, workers, ..Plan::default() }).unwrap();
    let host = if six { format!("[{VIP6}]") } else { VIP.to_owned() };
    let server = if server_six { format!("[{}]", lab.server_ip6(0)) } else { lab.server_ip(0) };
    if mode == "nat" {
        lab.server(0).ip("route add 192.0.2.0/24 via 10.0.0.2").unwrap();
        lab.server(0).ip("route add 2001:db8:a::/64 via 2001:db8:b::2").unwrap();
    }
    let service = service(mode, &host, &format!("{server}:{server_port}"));
    lab.start_sluiced(&(lab.config_head() + &service)).unwrap();
    lab
}

fn ends(lab: &Lab) {
    let list = lab.json(&["session", "list"]).unwrap();
    let session = &list.as_array().unwrap()[0];
    assert_eq!((&session["protocol"], &session["state"]), (&"sctp".into(), &"CLOSE".into()), "{list}");
}

/// Waits until the server that was started last has its raw socket: SCTP is IP protocol 132.
fn await_listener(lab: &mut Lab) {
    let raw = format!("/proc/{}/net/raw", lab.program(0).pid());
    let has = || fs::read_to_string(&raw).is_ok_and(|list| list.contains(":0084 "));
    assert!(wait_until(Duration::from_secs(10), has), "no SCTP socket: {:?}", fs::read_to_string(&raw));
}

/// Sends messages and sees them all come out; then sees the association end.
fn carries(mode: &str, workers: usize) {
    let mut lab = lab(mode, false, false, L4_PORT, workers);
    let mut server = lab.server(0).command("/usr/lib/usrsctp/tsctp");
    server.args(["-p", &L4_PORT.to_string(), "-v"]);
    lab.start("tsctp", &mut server).unwrap();
    await_listener(&mut lab);

    let mut client = lab.client().command("/usr/lib/usrsctp/tsctp");
    client.args(["-p", &L4_PORT.to_string(), "-l", &LEN.to_string(), "-n", &MESSAGES.to_string(), VIP]);
    // A server that has its socket may take a moment more to listen; a client tries again.
    let mut said = String::new();
    let mut ran = || run(&mut client).map_err(|error| said = error).is_ok();
    assert!(wait_until(Duration::from_secs(10), &mut ran), "{mode}: {said}");

    // What the server got: length of a message, messages, calls, bytes.
    let all = format!("{LEN}, {MESSAGES}, {MESSAGES}, {}", LEN * MESSAGES);
    let log = lab.folder().join("tsctp.log");
    let arrived = || std::fs::read_to_string(&log).unwrap_or_default().contains(&all);
    assert!(wait_until(Duration::from_secs(10), arrived), "{mode}: not all of {MESSAGES} messages came");
    ends(&lab);
}

/// Sends lines and gets them back, by another port of the server's.
fn echoes(mode: &str, six: bool, server_six: bool) {
    const ECHO: u16 = 7;
    let mut lab = lab(mode, six, server_six, ECHO, 1);
    let mut server = lab.server(0).command("/usr/lib/usrsctp/echo_server");
    lab.start("echo", &mut server).unwrap();
    await_listener(&mut lab);
    let vip = if six { VIP6 } else { VIP };
    let said_path = lab.folder().join("said");
    let said = || String::from_utf8_lossy(&fs::read(&said_path).unwrap_or_default()).into_owned();
    let mut client = lab.client().command("timeout");
    client.args(["30", "/usr/lib/usrsctp/client", vip, &L4_PORT.to_string()]);
    client.stdin(Stdio::piped()).stdout(File::create(&said_path).unwrap()).stderr(Stdio::null());
    let mut client = client.spawn().unwrap();
    let mut words = client.stdin.take().unwrap();
    // Each when the one before is back, because usrsctp follows no path MTU, and an IPv6 header is longer.
    for number in 1_000..1_050 {
        writeln!(words, "{number}").unwrap();
        let is_back = || said().lines().any(|line| line.trim() == number.to_string());
        assert!(
            wait_until(Duration::from_secs(5), is_back),
            "{mode}: {number} did not come back: {}",
            said()
        );
    }
    // At the end of its input the client ends the association.
    drop(words);
    assert!(client.wait().unwrap().success(), "{mode}: {}", said());
    let said = said();
    // Both hosts have more addresses, of which the other must not hear.
    assert!(said.contains(&format!("Peer addresses: {vip}.\n")), "{said}");
    ends(&lab);
}

#[test]
fn fullnat_carries_sctp() {
    carries("fullnat", 1);
    echoes("fullnat", true, true);
}

#[test]
fn nat_carries_sctp() {
    carries("nat", 1);
    echoes("nat", true, true);
}

#[test]
fn sctp_crosses_the_families() {
    echoes("fullnat", false, true);
    echoes("fullnat", true, false);
}

#[test]
fn two_workers_hand_sctp_to_its_owner() {
    carries("fullnat", 2);
}
