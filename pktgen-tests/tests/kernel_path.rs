//! The kernel path with real programs: TAP interfaces by the ports' names, ordinary sockets on the appliance's own
//! addresses, under a flood and without a link.

use pktgen_tests::lab::{CLIENT, CLIENT6, Lab, Plan, VIP};
use pktgen_tests::process::{run, wait_until};
use std::net::{SocketAddr, UdpSocket};
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

/// What curl gets from the client's side.
fn fetch(lab: &Lab, url: &str) -> Result<String, String> {
    let mut curl = lab.client().command("curl");
    run(curl.args(["--silent", "--show-error", "--max-time", "3", "--header", "Connection: close", url]))
}

fn ping(mut command: Command, target: &str) -> Result<String, String> {
    run(command.args(["-c", "3", "-i", "0.2", "-W", "2", target]))
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

#[test]
fn a_flood_to_the_vip_leaves_the_appliance_reachable() {
    let lab = lab(Plan::default());
    let stop = AtomicBool::new(false);
    let flood = lab.client().inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(SocketAddr::new(VIP.parse().unwrap(), 9)).unwrap();
        socket
    });
    let (answers, sent) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let mut sent = 0_u64;
            let end = Instant::now() + Duration::from_secs(20);
            while !stop.load(Ordering::Relaxed) && Instant::now() < end && sent < 10_000_000 {
                // ICMP is not sent for it, so nothing is refused.
                sent += u64::from(flood.send(b"flood").is_ok());
            }
            sent
        });
        let url = format!("http://{OWN}:8022/");
        let answers: Vec<_> = (0..20).map(|_| fetch(&lab, &url)).collect();
        ping(lab.client().command("ping"), OWN).unwrap();
        ping(lab.director().command("ping"), CLIENT).unwrap();
        stop.store(true, Ordering::Relaxed);
        (answers, flooding.join().unwrap())
    });
    assert!(answers.iter().all(|answer| answer.as_deref() == Ok("host\n")), "{answers:?}");
    assert!(sent > 10_000, "{sent} packets are no flood");
    let drops = lab.json(&["stats", "drops"]).unwrap();
    assert!(drops["no_service"].as_u64().unwrap() > 10_000, "{drops}");
    let workers = lab.json(&["worker", "list"]).unwrap();
    let to_kernel = workers[0]["to_kernel"].as_u64().unwrap();
    assert!(to_kernel < 2_000, "{to_kernel} packets went to the kernel; none of the flood may");
}

#[test]
fn a_lost_link_is_noticed_within_a_second_and_told_to_the_kernel() {
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
