//! Every forwarding mode in every family between real stacks: HTTP by fifty at a time, a hundred
//! megabytes each way, datagrams of 60 kB in fragments.

use pktgen_tests::lab::{Lab, Plan, Ports, VIP, VIP6};
use pktgen_tests::netns::{Namespace, cable};
use pktgen_tests::process::{run, wait_until};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Behind the client there may be more.
const ROUTES: &str = "\n[[route]]\nto = \"198.51.100.0/24\"\nvia = \"192.0.2.50\"\n\n[[route]]\nto = \"2001:db8:c::/64\"\nvia = \"2001:db8:a::50\"\n";

/// One way to forward.
#[derive(Clone, Copy, Debug)]
struct Case {
    mode: &'static str,
    /// What clients speak.
    six: bool,
    /// What servers speak (or the outer side of a tunnel).
    server_six: bool,
    /// For tunnels, what the packets are put in.
    tunnel: &'static str,
}

const fn case(mode: &'static str, six: bool) -> Case {
    Case { mode, six, server_six: six, tunnel: "" }
}

const fn tunnel(tunnel: &'static str, six: bool, server_six: bool) -> Case {
    Case { mode: "tunnel", six, server_six, tunnel }
}

impl Case {
    /// Whom the client connects to, as in a URL.
    fn host(self, lab: &Lab) -> String {
        match (self.mode, self.six) {
            ("snat", false) => lab.server_ip(0),
            ("snat", true) => format!("[{}]", lab.server_ip6(0)),
            (_, false) => VIP.to_owned(),
            (_, true) => format!("[{VIP6}]"),
        }
    }

    /// A lab in which the servers are set up as docs/operating/servers.md says for the mode.
    fn lab(self, ports: Ports) -> Lab {
        let one_arm = matches!(self.mode, "dr" | "tunnel");
        let mut lab = Lab::new(Plan { one_arm, ipv6: true, ports, ..Plan::default() }).unwrap();
        for at in 0..2 {
            self.set_up_server(&mut lab, at);
            lab.start_nginx(at, 80).unwrap();
        }
        if self.mode == "snat" {
            lab.client().ip("route add 10.0.0.0/24 via 192.0.2.2").unwrap();
            lab.client().ip("route add 2001:db8:b::/64 via 2001:db8:a::2").unwrap();
        }
        let mut config =
            lab.config_head() + ROUTES + &self.service(&lab, "web", 80) + &self.service(&lab, "up", 9000);
        config += &self.service(&lab, "echo", 9001).replace("forward", "protocol = \"udp\"\nforward");
        if self.mode == "snat" {
            let pings = self.service(&lab, "pings", 1).replace(":1\"", ":*\"");
            config += &pings.replace("forward", "protocol = \"icmp\"\nforward");
        }
        lab.start_sluiced(&config).unwrap();
        lab
    }

    fn service(self, lab: &Lab, name: &str, l4_port: u16) -> String {
        let host = self.host(lab);
        let mut text =
            format!("\n[[service]]\nname = \"{name}\"\nforward = \"{}\"\nscheduler = \"rr\"\n", self.mode);
        if self.mode == "snat" {
            let _ = write!(
                text,
                "listen = [\"0.0.0.0/0:{l4_port}\", \"[::/0]:{l4_port}\"]\nsources = [\"192.0.2.0/24\", \"2001:db8:a::/64\", \"198.51.100.0/24\", \"2001:db8:c::/64\"]\nlocal_addresses = [\"10.0.0.200\", \"2001:db8:b::200\"]\n"
            );
            return text;
        }
        let _ = writeln!(text, "listen = \"{host}:{l4_port}\"");
        if self.mode == "fullnat" {
            let _ = writeln!(text, "local_addresses = [\"10.0.0.200\", \"2001:db8:b::200\"]");
        }
        if self.mode == "tunnel" {
            let _ = writeln!(text, "tunnel = {{ type = \"{}\" }}", self.tunnel);
        }
        // All but the pages comes from the first server.
        for at in 0..if name == "web" { 2 } else { 1 } {
            let address = if self.server_six { lab.server_ip6(at) } else { lab.server_ip(at) };
            let _ = writeln!(text, "[[service.server]]\naddress = \"{address}\"");
        }
        text
    }

    fn set_up_server(self, lab: &mut Lab, at: usize) {
        let server = lab.server(at);
        match self.mode {
            "nat" => {
                server.ip("route add 192.0.2.0/24 via 10.0.0.2").unwrap();
                server.ip("route add 2001:db8:a::/64 via 2001:db8:b::2").unwrap();
            }
            "dr" | "tunnel" => {
                lab.give_vip(at).unwrap();
            }
            _ => {}
        }
        if self.mode == "tunnel" {
            lab.unpack_tunnel(at, self.tunnel, self.server_six, self.six).unwrap();
        }
    }
}

fn sum(path: &Path) -> String {
    run(Command::new("sha256sum").arg(path)).unwrap()[..64].to_owned()
}

fn forwards(case: Case) {
    let mut lab = case.lab(Ports::AfPacket);
    let host = case.host(&lab);
    let answers = lab.http_to(&host, 200, 50).unwrap();
    let count = |name: &str| answers.iter().filter(|answer| *answer == name).count();
    let expected = if case.mode == "snat" { (200, 0) } else { (100, 100) };
    assert_eq!((count("rs1"), count("rs2")), expected, "{case:?}: {:?}", &answers[..answers.len().min(3)]);

    // A hundred megabytes each way, whole.
    let folder = lab.folder().to_owned();
    let data = folder.join("data");
    let fill = format!("head -c 100M /dev/urandom > {}", data.display());
    run(Command::new("sh").args(["-c", &fill])).unwrap();
    for at in 1..=2 {
        std::fs::hard_link(&data, folder.join(format!("nginx-{at}/data"))).unwrap();
    }
    let expected = sum(&data);
    let down = folder.join("down");
    let mut curl = lab.client().command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "120", "--output"])
        .arg(&down);
    run(curl.arg(format!("http://{host}/data"))).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    assert_eq!(sum(&down), expected, "{case:?}");

    let up = folder.join("up");
    let mut sink = lab.server(0).command("socat");
    sink.args(["-u", "TCP6-LISTEN:9000,reuseaddr,ipv6only=0"]).arg(format!("CREATE:{}", up.display()));
    lab.start("sink", &mut sink).unwrap();
    lab.wait_for_listener(0, 9000).unwrap();
    let mut source = lab.client().command("socat");
    source.arg("-u").arg(format!("OPEN:{}", data.display())).arg(format!("TCP:{host}:9000"));
    run(&mut source).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    assert!(wait_until(Duration::from_secs(20), || sum(&up) == expected), "{case:?}: the upload is damaged");
}

/// Datagrams that take forty fragments each, there and back.
fn carries_big_datagrams(case: Case) {
    let lab = case.lab(Ports::Pcap);
    let host = case.host(&lab);
    let mut question = vec![0; 60_000];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut question)).unwrap();
    // Whoever has the VIP must answer from it.
    let bind = if case.mode == "fullnat" || case.mode == "nat" || case.mode == "snat" {
        "[::]:9001".to_owned()
    } else {
        format!("{host}:9001")
    };
    let echo = lab.server(0).inside(|| UdpSocket::bind(bind)).unwrap();
    echo.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let echo = thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while !over.load(Ordering::Relaxed) {
            if let Ok((len, from)) = echo.recv_from(&mut datagram) {
                let _ = echo.send_to(&datagram[..len], from);
            }
        }
    });
    // A small one first: whoever is not known yet is asked for, and only a few packets wait meanwhile.
    let to = format!("{host}:9001");
    lab.client().ask(0, &to, b"x").unwrap();
    for round in 0..2 {
        let answer = lab.client().ask(0, &to, &question);
        assert!(
            answer.as_ref().is_ok_and(|answer| *answer == question),
            "{case:?}, datagram {round}: {:?} {}",
            answer.map(|answer| answer.len()),
            lab.sluice(&["stats", "drops"]).unwrap()
        );
    }
    is_over.store(true, Ordering::Relaxed);
    echo.join().unwrap();
}

/// A client behind two routers with a narrow link between them. The first is the lab's own client.
struct Far {
    host: Namespace,
    _middle: Namespace,
}

impl Far {
    fn new(lab: &Lab, name: &str) -> Self {
        let middle = Namespace::new(&format!("{name}-middle")).unwrap();
        let host = Namespace::new(&format!("{name}-far")).unwrap();
        cable((lab.client(), "narrow"), (&middle, "narrow")).unwrap();
        cable((&middle, "wide"), (&host, "eth0")).unwrap();
        let near = lab.client();
        for (space, interface) in [(near, "narrow"), (&middle, "narrow"), (&middle, "wide"), (&host, "eth0")]
        {
            space.set_offloads(interface, "off").unwrap();
        }
        let address = |space: &Namespace, interface: &str, four: &str, six: &str| {
            space.ip(&format!("addr add {four}/24 dev {interface}")).unwrap();
            space.add_ipv6(interface, &format!("{six}/64")).unwrap();
        };
        address(near, "narrow", "203.0.113.1", "2001:db8:d::1");
        address(&middle, "narrow", "203.0.113.2", "2001:db8:d::2");
        address(&middle, "wide", "198.51.100.1", "2001:db8:c::1");
        address(&host, "eth0", "198.51.100.50", "2001:db8:c::50");
        for space in [near, &middle] {
            space.ip("link set narrow mtu 1400").unwrap();
            space.sysctl("net.ipv4.ip_forward=1").unwrap();
            space.sysctl("net.ipv6.conf.all.forwarding=1").unwrap();
        }
        near.ip("route add 198.51.100.0/24 via 203.0.113.2").unwrap();
        near.ip("route add 2001:db8:c::/64 via 2001:db8:d::2").unwrap();
        middle.ip("route add default via 203.0.113.1").unwrap();
        middle.ip("route add default via 2001:db8:d::1").unwrap();
        host.ip("route add default via 198.51.100.1").unwrap();
        host.ip("route add default via 2001:db8:c::1").unwrap();
        Self { host, _middle: middle }
    }
}

/// Five megabytes each way through a link of 1,400 bytes that neither end knows of; every router on the
/// way is seen, and the VIP answers pings.
fn finds_its_path(case: Case) {
    let mut lab = case.lab(Ports::AfPacket);
    let far = Far::new(&lab, &format!("{}-{}-{}", case.mode, case.six, case.server_six));
    let router = match case.mode {
        "dr" | "tunnel" => Some(("192.0.2.50", "2001:db8:a::50")),
        "nat" => Some(("10.0.0.2", "2001:db8:b::2")),
        _ => None,
    };
    for at in 0..2 {
        if let Some((four, six)) = router {
            lab.server(at).ip(&format!("route add 198.51.100.0/24 via {four}")).unwrap();
            lab.server(at).ip(&format!("route add 2001:db8:c::/64 via {six}")).unwrap();
        }
    }
    let host = case.host(&lab);
    let folder = lab.folder().to_owned();
    let data = folder.join("nginx-1/data");
    let fill = format!("head -c 5M /dev/urandom > {}", data.display());
    run(Command::new("sh").args(["-c", &fill])).unwrap();
    std::fs::hard_link(&data, folder.join("nginx-2/data")).unwrap();
    let down = folder.join("down");
    for _ in 0..2 {
        let mut curl = far.host.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "20", "--output"]);
        run(curl.arg(&down).arg(format!("http://{host}/data"))).unwrap_or_else(|error| {
            panic!("{case:?}: {error}: {}", lab.sluice(&["stats", "drops"]).unwrap())
        });
        assert_eq!(sum(&down), sum(&data), "{case:?}");
    }
    let up = folder.join("up");
    let mut sink = lab.server(0).command("socat");
    sink.args(["-u", "TCP6-LISTEN:9000,reuseaddr,ipv6only=0"]).arg(format!("CREATE:{}", up.display()));
    lab.start("sink", &mut sink).unwrap();
    lab.wait_for_listener(0, 9000).unwrap();
    let mut source = far.host.command("timeout");
    source
        .args(["20", "socat", "-u"])
        .arg(format!("OPEN:{}", data.display()))
        .arg(format!("TCP:{host}:9000"));
    run(&mut source).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    assert!(
        wait_until(Duration::from_secs(20), || sum(&up) == sum(&data)),
        "{case:?}: the upload is damaged"
    );

    let bare = host.trim_matches(['[', ']']);
    let mut traceroute = far.host.command("traceroute");
    traceroute.args(["-n", "-T", "-p", "80", "-q", "1", "-w", "2", "-m", "8", bare]);
    let route = run(&mut traceroute).unwrap();
    let hops: Vec<_> = route.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    let (middle, near) =
        if case.six { ("2001:db8:c::1", "2001:db8:d::1") } else { ("198.51.100.1", "203.0.113.1") };
    assert_eq!((hops[0], hops[1], hops.last().copied()), (middle, near, Some(bare)), "{case:?}: {route}");
    let appliance = if case.mode == "snat" && case.six {
        "2001:db8:a::2"
    } else if case.mode == "snat" {
        "192.0.2.2"
    } else {
        bare
    };
    assert_eq!(hops[2], appliance, "{case:?}: {route}");
    run(far.host.command("ping").args(["-n", "-c", "2", "-i", "0.2", "-W", "2", bare])).unwrap();
}

#[test]
fn a_narrow_path_is_found_and_traced_in_every_mode() {
    for mode in ["fullnat", "nat", "snat", "dr"] {
        finds_its_path(case(mode, false));
        finds_its_path(case(mode, true));
    }
    for (six, server_six) in [(false, false), (true, true), (true, false), (false, true)] {
        finds_its_path(tunnel("ipip", six, server_six));
    }
    for six in [false, true] {
        finds_its_path(Case { mode: "fullnat", six, server_six: !six, tunnel: "" });
    }
}

#[test]
fn fullnat_over_ipv6_and_between_the_families() {
    forwards(case("fullnat", true));
    for six in [false, true] {
        forwards(Case { mode: "fullnat", six, server_six: !six, tunnel: "" });
    }
}

#[test]
fn nat_in_both_families() {
    forwards(case("nat", false));
    forwards(case("nat", true));
}

#[test]
fn dr_in_both_families() {
    forwards(case("dr", false));
    forwards(case("dr", true));
}

#[test]
fn tunnels_in_and_between_both_families() {
    for (six, server_six) in [(false, false), (true, true), (true, false), (false, true)] {
        forwards(tunnel("ipip", six, server_six));
    }
    forwards(tunnel("gre", false, false));
}

#[test]
fn snat_in_both_families() {
    forwards(case("snat", false));
    forwards(case("snat", true));
}

#[test]
fn datagrams_of_sixty_kilobytes_pass_every_mode_in_fragments() {
    for mode in ["fullnat", "nat", "snat", "dr"] {
        carries_big_datagrams(case(mode, false));
        carries_big_datagrams(case(mode, true));
    }
    for six in [false, true] {
        carries_big_datagrams(Case { mode: "fullnat", six, server_six: !six, tunnel: "" });
    }
    carries_big_datagrams(tunnel("ipip", false, false));
}
