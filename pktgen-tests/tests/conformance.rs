//! The kernel's answers to probes of each mode, held against the running daemon.

use pktgen_tests::conformance::{self, CLIENT_MAC, DIRECTOR_A, DIRECTOR_B, Mode, SERVER_MAC, Side};
use pktgen_tests::lab::program;
use pktgen_tests::netns::{Namespace, cable};
use pktgen_tests::process::{Daemon, Folder, run, wait_until};
use pktgen_tests::wire::Wire;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

/// The appliance of the conformance files between two raw wires.
struct Rig {
    // In the order in which they must go.
    a: Wire,
    b: Wire,
    _sluiced: Daemon,
    _spaces: [Namespace; 3],
    folder: Folder,
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

impl Rig {
    fn new(name: &str, mode: Mode) -> Self {
        let files = Folder::new("rig").unwrap();
        let folder = files.path();
        let [client, director, server] =
            ["client", "sluice", "rs"].map(|role| Namespace::new(&format!("{name}-{role}")).unwrap());
        cable((&director, "a"), (&client, "eth0")).unwrap();
        cable((&director, "b"), (&server, "eth0")).unwrap();
        for (interface, mac) in [("a", DIRECTOR_A), ("b", DIRECTOR_B)] {
            director.ip(&format!("link set dev {interface} address {}", mac_text(mac))).unwrap();
            director.set_offloads(interface, "off").unwrap();
        }
        let config = folder.join("sluice.toml");
        let socket = folder.join("sluice.sock");
        let locals = if mode == Mode::FullNat { "local_addresses = [\"172.16.0.100\"]\n" } else { "" };
        let service = |name: &str, protocol: &str| {
            format!(
                "[[service]]\nname = \"{name}\"\nlisten = \"207.175.44.110:8080\"\nprotocol = \"{protocol}\"\nforward = \"{}\"\nscheduler = \"rr\"\n{locals}[[service.server]]\naddress = \"172.16.0.50:8080\"\n",
                mode.name()
            )
        };
        // By pcap, because DPDK lets the kernel put fragments together on af_packet.
        let head = format!(
            "[dataplane]\nworkers = [1]\nsession_capacity = 1000\n[admin]\nsocket = \"{}\"\n[[port]]\nname = \"a\"\ndevice = \"net_pcap0,iface=a,phy_mac=1\"\naddresses = [\"10.0.0.1/24\"]\n[[port]]\nname = \"b\"\ndevice = \"net_pcap1,iface=b,phy_mac=1\"\naddresses = [\"172.16.0.1/24\"]\n[[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.50\"\n",
            socket.display()
        );
        std::fs::write(&config, head + &service("tcp", "tcp") + &service("udp", "udp")).unwrap();
        // The wires first, so that they see what the daemon says when it starts.
        let a = Wire::open(&client, "eth0", folder, CLIENT_MAC, &[Ipv4Addr::new(10, 0, 0, 50)]).unwrap();
        let b = Wire::open(&server, "eth0", folder, SERVER_MAC, &[Ipv4Addr::new(172, 16, 0, 50)]).unwrap();
        let mut command = director.command(&program("sluiced").display().to_string());
        let mut sluiced =
            Daemon::start(command.arg("--config").arg(&config), &folder.join("sluiced.log")).unwrap();
        let ready = || sluiced.output().contains("ready");
        assert!(wait_until(Duration::from_secs(10), ready), "{}", sluiced.output());
        assert!(sluiced.ended().is_none());
        Self { a, b, _sluiced: sluiced, _spaces: [client, director, server], folder: files }
    }

    fn sluice(&self, arguments: &[&str]) -> serde_json::Value {
        let mut command = Command::new(program("sluice"));
        command.arg("-j").arg("--socket").arg(self.folder.path().join("sluice.sock")).args(arguments);
        serde_json::from_str(&run(&mut command).unwrap()).unwrap()
    }

    /// Packets that the daemon has taken from its ports.
    fn received(&self) -> u64 {
        let ports = self.sluice(&["port", "list"]);
        ports.as_array().unwrap().iter().map(|port| port["rx_packets"].as_u64().unwrap()).sum()
    }
}

#[test]
fn the_daemon_answers_as_the_kernel_does() {
    Mode::ALL.into_iter().for_each(replay);
}

fn replay(mode: Mode) {
    let rig = Rig::new(&format!("conf-{}", mode.name()), mode);
    // Neighbours are asked for at the start; the probes are not about them.
    let patience = Duration::from_secs(5);
    assert!(
        rig.a
            .expect_arp(patience, |arp| arp.operation == 1 && arp.target.1 == Ipv4Addr::new(10, 0, 0, 50))
            .is_some()
    );
    assert!(
        rig.b
            .expect_arp(patience, |arp| arp.operation == 1 && arp.target.1 == Ipv4Addr::new(172, 16, 0, 50))
            .is_some()
    );
    let known = || {
        let neighbors = rig.sluice(&["neighbor", "list"]);
        neighbors.as_array().unwrap().iter().all(|neighbor| neighbor["state"] == "REACHABLE")
    };
    assert!(wait_until(patience, known));

    let mut replay = conformance::Replay::new(mode);
    let mut outcomes = Vec::new();
    for probe in conformance::probes(mode) {
        let outcome = replay.run(&probe, |side, frames| {
            let wire = if side == Side::A { &rig.a } else { &rig.b };
            let received = rig.received();
            frames.iter().for_each(|frame| wire.send(frame).unwrap());
            // A busy machine may let the daemon wait.
            wait_until(patience, || rig.received() >= received + frames.len() as u64);
            let quiet = Duration::from_millis(60);
            let mut out: Vec<_> =
                rig.a.receive_ipv4(quiet).into_iter().map(|frame| (Side::A, frame)).collect();
            out.extend(rig.b.receive_ipv4(quiet).into_iter().map(|frame| (Side::B, frame)));
            out
        });
        outcomes.push(outcome);
    }
    let agreeing = conformance::judge(mode, &outcomes)
        .unwrap_or_else(|complaints| panic!("{}:\n{complaints}", mode.name()));
    println!("{}: {agreeing} probes agree with the kernel", mode.name());
    assert!(agreeing >= 24);
    // Fragments without their first are kept for two seconds.
    assert!(wait_until(patience, || rig.sluice(&["status"])["buffers_in_use"] == 0));
}

#[test]
fn arp_is_announced_answered_asked_and_refreshed() {
    let rig = Rig::new("arp", Mode::FullNat);
    let patience = Duration::from_secs(5);
    let local = Ipv4Addr::new(172, 16, 0, 100);
    let announced =
        |address| move |arp: &pktgen_tests::wire::Arp| arp.sender.1 == address && arp.target.1 == address;

    // Gratuitous on start, each address on its own link.
    assert!(rig.b.expect_arp(patience, announced(local)).is_some());
    assert!(rig.a.expect_arp(patience, announced(Ipv4Addr::new(10, 0, 0, 1))).is_some());

    // Answered: our own address, and the routed VIP on any link.
    let client = Ipv4Addr::new(10, 0, 0, 50);
    for address in [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(207, 175, 44, 110)] {
        rig.a.ask(client, address).unwrap();
        let answer = rig.a.expect_arp(patience, |arp| arp.operation == 2 && arp.sender.1 == address);
        assert_eq!(answer.map(|arp| arp.sender.0), Some(DIRECTOR_A), "{address}");
    }
    // Not answered: an address of the other link.
    rig.a.ask(client, local).unwrap();
    assert_eq!(
        rig.a.expect_arp(Duration::from_millis(300), |arp| arp.operation == 2 && arp.sender.1 == local),
        None
    );

    // A station that moves is followed at once.
    let moved = pktgen_tests::wire::Arp {
        operation: 1,
        sender: ([2, 0, 0, 0, 0, 0x77], client),
        target: ([0; 6], Ipv4Addr::new(10, 0, 0, 1)),
    };
    rig.a.send(&moved.frame([0xff; 6])).unwrap();
    let followed = || {
        let neighbors = rig.sluice(&["neighbor", "list"]);
        neighbors
            .as_array()
            .unwrap()
            .iter()
            .any(|neighbor| neighbor["address"] == "10.0.0.50" && neighbor["mac"] == "02:00:00:00:00:77")
    };
    assert!(wait_until(patience, followed));
}
