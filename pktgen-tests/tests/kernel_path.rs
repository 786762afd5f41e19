//! The kernel path with real programs: TAP interfaces by the ports' names, ordinary sockets on the appliance's own
//! addresses, under a flood and without a link.

use pktgen_tests::frames::{Route, tcp, tcp_frame};
use pktgen_tests::lab::{CLIENT, CLIENT6, Lab, Plan, VIP};
use pktgen_tests::process::{never_within, run, wait_until};
use pktgen_tests::sshd::Ssh;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const OWN: &str = "192.0.2.2";

/// A lab with a web service, and an nginx of the appliance's host on port 8022 of every address.
fn lab(plan: Plan) -> Lab {
    let mut lab = Lab::new(plan).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let config = lab.config_head()
        + "\n[[route]]\nto = \"198.51.100.0/24\"\nvia = \"192.0.2.50\"\n"
        + &lab.service("web", "tcp", 80, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    lab.start_host_nginx(8022).unwrap();
    lab
}

/// What curl gets from the client's side, at once or not at all.
fn fetch(lab: &Lab, url: &str) -> Result<String, String> {
    curl(lab, &["--max-time", "3", url])
}

/// What a patient client gets: it tries again when it hears nothing.
fn fetch_patiently(lab: &Lab, url: &str) -> Result<String, String> {
    curl(lab, &["--max-time", "10", "--retry", "3", "--retry-delay", "1", url])
}

fn curl(lab: &Lab, words: &[&str]) -> Result<String, String> {
    let mut curl = lab.client().command("curl");
    run(curl.args(["--silent", "--show-error", "--header", "Connection: close"]).args(words))
}

fn ping(mut command: Command, target: &str) -> Result<String, String> {
    // One answer is enough: under a flood a ring may lose some.
    run(command.args(["-c", "5", "-i", "0.2", "-W", "2", target]))
}

fn in_director(lab: &Lab, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = lab.director().command(words.next().unwrap());
    run(command.args(words)).unwrap()
}

#[test]
fn ordinary_sockets_work_on_the_appliances_own_addresses() {
    let mut lab = lab(Plan { ipv6: true, ..Plan::default() });

    let links = in_director(&lab, "ip -o addr show");
    for (name, address) in [("wan", "192.0.2.2/24"), ("lan", "10.0.0.2/24"), ("lan", "10.0.0.200/32")] {
        assert!(
            links.lines().any(|line| line.contains(&format!(" {name} ")) && line.contains(address)),
            "{links}"
        );
    }
    assert!(!links.contains(VIP), "{links}");
    for (url, what) in
        [(format!("http://{OWN}:8022/"), "IPv4"), ("http://[2001:db8:a::2]:8022/".into(), "IPv6")]
    {
        assert_eq!(fetch(&lab, &url).unwrap(), "host\n", "{what}");
    }
    for target in [CLIENT, CLIENT6, "10.0.0.11", "2001:db8:b::11"] {
        ping(lab.director().command("ping"), target).unwrap();
    }
    // By the static route, whose gateway is the client.
    lab.client().ip("addr add 198.51.100.7/32 dev eth0").unwrap();
    ping(lab.director().command("ping"), "198.51.100.7").unwrap();
    // The VIP has a service on port 80 and nothing on 8022, whatever listens in the kernel.
    assert_eq!(fetch(&lab, &format!("http://{VIP}/")).unwrap(), "rs1\n");
    assert!(fetch(&lab, &format!("http://{VIP}:8022/")).is_err());
    let ports = lab.json(&["port", "list"]).unwrap();
    assert_eq!(ports[0]["interface"], "wan");

    let log = lab.sluiced().unwrap().output();
    assert!(!log.contains("kernel path:"), "{log}");
    lab.sluiced().unwrap().stop();
    let links = in_director(&lab, "ip -o link show");
    assert!(!links.contains(" wan:") && !links.contains(" lan:"), "{links}");
    let rules = in_director(&lab, "ip rule show") + &in_director(&lab, "ip -6 rule show");
    assert!(!rules.contains("5200"), "{rules}");
    assert_eq!(in_director(&lab, "sysctl -n net.ipv4.conf.nic-lan.rp_filter").trim(), "0");
}

/// Datagrams of the flood that go out at a time, and the pause between.
const FLOOD_BURST: u64 = 64;
const FLOOD_PAUSE: Duration = Duration::from_millis(1);
/// Datagrams that make a flood.
const FLOOD_MIN: u64 = 20_000;

#[test]
fn what_a_killed_daemon_left_changed_is_put_back_by_the_next_one() {
    let mut lab = lab(Plan::default());
    assert_eq!(in_director(&lab, "sysctl -n net.ipv4.conf.nic-lan.rp_filter").trim(), "1");
    lab.sluiced().unwrap().signal(rustix::process::Signal::KILL);
    assert!(wait_until(Duration::from_secs(5), || lab.sluiced().unwrap().ended().is_some()));
    let config = std::fs::read_to_string(lab.config_path()).unwrap();
    lab.start_sluiced(&config).unwrap();
    lab.sluiced().unwrap().stop();
    for (name, value) in [("net.ipv4.conf.nic-lan.rp_filter", "0"), ("net.ipv4.conf.nic-wan.rp_filter", "0")]
    {
        assert_eq!(in_director(&lab, &format!("sysctl -n {name}")).trim(), value, "{name}");
    }
}

/// Does `act` while datagrams pour onto a port of the VIP that has no service; also gives how many. They come at some
/// 50,000 a second: hundreds of times what the kernel path would let through, and not more than a worker that shares
/// its core takes from its ring.
fn under_flood<T>(lab: &Lab, act: impl FnOnce() -> T) -> (T, u64) {
    let stop = AtomicBool::new(false);
    let flood = lab.client().inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(SocketAddr::new(VIP.parse().unwrap(), 9)).unwrap();
        socket
    });
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let mut sent = 0_u64;
            let end = Instant::now() + Duration::from_secs(120);
            while (!stop.load(Ordering::Relaxed) || sent < FLOOD_MIN) && Instant::now() < end {
                for _ in 0..FLOOD_BURST {
                    // ICMP is not sent for it, so nothing is refused.
                    sent += u64::from(flood.send(b"flood").is_ok());
                }
                std::thread::sleep(FLOOD_PAUSE);
            }
            sent
        });
        let done = act();
        stop.store(true, Ordering::Relaxed);
        (done, flooding.join().unwrap())
    })
}

#[test]
fn a_flood_to_the_vip_leaves_the_appliance_reachable() {
    let lab = lab(Plan::default());
    let (answers, sent) = under_flood(&lab, || {
        let url = format!("http://{OWN}:8022/");
        let answers: Vec<_> = (0..20).map(|_| fetch_patiently(&lab, &url)).collect();
        ping(lab.client().command("ping"), OWN).unwrap();
        ping(lab.director().command("ping"), CLIENT).unwrap();
        answers
    });
    assert!(answers.iter().all(|answer| answer.as_deref() == Ok("host\n")), "{answers:?}");
    let drops = lab.json(&["stats", "drops"]).unwrap();
    let dropped = drops["no_service"].as_u64().unwrap();
    assert!(sent >= FLOOD_MIN && dropped >= sent / 10, "of {sent} packets: {drops}");
    let workers = lab.json(&["worker", "list"]).unwrap();
    let to_kernel = workers[0]["to_kernel"].as_u64().unwrap();
    assert!(to_kernel < 2_000, "{to_kernel} packets went to the kernel; none of the flood may");
}

/// Starts BIRD in a namespace; gives the path by which birdc asks it.
fn start_bird(lab: &mut Lab, name: &str, in_director: bool, config: &str) -> PathBuf {
    let path = |end: &str| lab.folder().join(format!("{name}.{end}"));
    let (file, control, pid) = (path("conf"), path("ctl"), path("pid"));
    std::fs::write(&file, config).unwrap();
    let mut bird = if in_director { lab.director().command("bird") } else { lab.client().command("bird") };
    bird.arg("-f").arg("-c").arg(file).arg("-s").arg(&control).arg("-P").arg(pid);
    lab.start(name, &mut bird).unwrap();
    control
}

/// BIRD on the appliance's host, which announces the VIP with the shortest hold time that there is, and one upstream; gives
/// whether the route is there.
fn announce(lab: &mut Lab) -> impl Fn() -> bool + use<> {
    let bgp = |own: &str, number: u32, peer: &str, of_peer: u32, channel: &str| {
        format!(
            "router id {own};\nprotocol device {{}}\nprotocol bgp peer {{ local {own} as {number}; neighbor {peer} as {of_peer}; hold time 3; connect retry time 1; error wait time 1, 2; ipv4 {{ {channel} }}; }}\n"
        )
    };
    let vips = format!("protocol static vips {{ ipv4; route {VIP}/32 blackhole; }}\n");
    let own =
        bgp(OWN, 65_002, CLIENT, 65_001, "import none; export where source = RTS_STATIC; next hop self;")
            + &vips;
    let upstream = bgp(CLIENT, 65_001, OWN, 65_002, "import all; export none;");
    start_bird(lab, "bird-director", true, &own);
    let control = start_bird(lab, "bird-upstream", false, &upstream);
    let learned = move || {
        let mut birdc = Command::new("birdc");
        let routes = run(birdc.arg("-s").arg(&control).args(["show", "route", &format!("{VIP}/32")]));
        routes.is_ok_and(|routes| routes.contains(&format!("via {OWN} on eth0")))
    };
    assert!(
        wait_until(Duration::from_secs(20), &learned),
        "{}",
        std::fs::read_to_string(lab.folder().join("bird-upstream.log")).unwrap()
    );
    learned
}

#[test]
fn bird_announces_the_vip_and_keeps_its_session_under_a_flood() {
    let mut lab = lab(Plan::default());
    let learned = announce(&mut lab);
    let (kept, sent) = under_flood(&lab, || never_within(Duration::from_secs(6), || !learned()));
    assert!(kept && sent >= FLOOD_MIN, "the route was lost under {sent} packets");

    // An appliance that is gone is not sent to any more.
    lab.sluiced().unwrap().stop();
    assert!(wait_until(Duration::from_secs(10), || !learned()));
}

/// Sends frames that stand in a file, each behind its length in two bytes, again and again for so many seconds; says how many.
const SENDER: &str = "import socket, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(('eth0', 0))
data, frames, at, sent = open(sys.argv[1], 'rb').read(), [], 0, 0
while at < len(data):
    size = data[at] << 8 | data[at + 1]
    frames.append(data[at + 2:at + 2 + size])
    at += 2 + size
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for frame in frames[sent % len(frames):][:48]:
        out.send(frame)
        sent += 1
    time.sleep(0.001)
print(sent)
";

#[test]
fn bird_keeps_its_session_under_a_flood_of_segments_to_its_own_port() {
    let mut lab = lab(Plan::default());
    let learned = announce(&mut lab);
    let ports = lab.json(&["port", "list"]).unwrap();
    let octets = ports[0]["mac"].as_str().unwrap().split(':');
    let station: Vec<u8> = octets.map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    let mut all = Vec::new();
    for n in 0..4_800_u32 {
        // Every fourth in the peer's name.
        let source = if n % 4 == 0 { CLIENT.parse().unwrap() } else { Ipv4Addr::from_bits(0xc612_0000 + n) };
        let route = Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: station.clone().try_into().unwrap(),
            source: (source.into(), 1_024 + (n * 7 % 60_000) as u16),
            destination: (OWN.parse().unwrap(), 179),
        };
        let frame = tcp_frame(&route, tcp::ACK, b"");
        all.extend((frame.len() as u16).to_be_bytes());
        all.extend(frame);
    }
    let path = lab.folder().join("frames");
    std::fs::write(&path, all).unwrap();
    let again = || {
        let mut nstat = lab.client().command("nstat");
        let said = run(nstat.args(["-asz", "TcpRetransSegs"])).unwrap();
        let count = said.split_whitespace().skip_while(|word| *word != "TcpRetransSegs").nth(1).unwrap();
        count.parse::<u64>().unwrap()
    };
    let before = again();
    let mut sender = lab.client().command("/usr/bin/python3");
    let sender = sender.args(["-c", SENDER]).arg(&path).arg("12").stdout(std::process::Stdio::piped());
    let sender = sender.spawn().unwrap();
    let kept = never_within(Duration::from_secs(11), || !learned());
    let said = sender.wait_with_output().unwrap().stdout;
    let sent: u64 = String::from_utf8_lossy(&said).trim().parse().unwrap();
    let drops = lab.json(&["stats", "drops"]).unwrap();
    let limited = drops["kernel_limit"].as_u64().unwrap_or(0);
    let again = again() - before;
    println!("{sent} segments to port 179, {limited} kept from the kernel; the peer sent {again} again");
    assert!(limited > sent / 10, "it was no flood: {drops}");
    assert!(kept, "the route was lost under {sent} segments: {drops}");
    // Without a limit of its own half of what the peer sends is lost.
    assert!(again <= 1, "{again} segments of the peer were lost");
    assert!(learned());
}

#[test]
fn ssh_works_under_a_flood() {
    let mut lab = lab(Plan::default());
    let ssh = Ssh::start(&mut lab, None, OWN).unwrap();
    let says = || ssh.run(lab.client(), OWN, "echo it works");
    assert!(wait_until(Duration::from_secs(10), || says().is_ok()), "{:?}", says());
    let (answers, sent) = under_flood(&lab, || (0..3).map(|_| says()).collect::<Vec<_>>());
    assert!(answers.iter().all(|answer| answer.as_deref() == Ok("it works\n")), "{answers:?}");
    assert!(sent >= FLOOD_MIN, "{sent} packets are no flood");
}

#[test]
fn a_lost_link_is_noticed_and_told_to_the_kernel() {
    let lab = lab(Plan::default());
    let link = || lab.json(&["port", "list"]).unwrap()[0]["link"].as_str().unwrap().to_owned();
    let second = Duration::from_secs(1);
    assert_eq!(link(), "up");
    lab.client().ip("link set eth0 down").unwrap();
    assert!(wait_until(second, || link() == "down"));
    let carrier = || in_director(&lab, "ip -o link show wan").contains("NO-CARRIER");
    assert!(wait_until(second, carrier));
    lab.client().ip("link set eth0 up").unwrap();
    assert!(wait_until(second, || link() == "up"));
    assert!(wait_until(Duration::from_secs(3), || fetch(&lab, &format!("http://{OWN}:8022/")).is_ok()));
}
