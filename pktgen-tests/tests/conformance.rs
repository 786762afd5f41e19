//! The kernel's answers to probes of each mode, held against the running daemon.

use pktgen_tests::conformance::{self, DIRECTOR_A, Mode, Side};
use pktgen_tests::process::wait_until;
use pktgen_tests::raw_lab::{RawLab, Uplink};
use std::net::Ipv4Addr;
use std::time::Duration;

fn rig(name: &str, mode: Mode) -> RawLab {
    let locals = if mode == Mode::FullNat { "local_addresses = [\"172.16.0.100\"]\n" } else { "" };
    let service = |protocol: &str| {
        format!(
            "[[service]]\nname = \"{protocol}\"\nlisten = \"207.175.44.110:8080\"\nprotocol = \"{protocol}\"\nforward = \"{}\"\nscheduler = \"rr\"\n{locals}[[service.server]]\naddress = \"172.16.0.50:8080\"\n",
            mode.name()
        )
    };
    let mut lab = RawLab::new(name).unwrap();
    lab.start_sluiced(&(service("tcp") + &service("udp")), Uplink::Ipv4).unwrap();
    lab
}

/// Packets that the daemon has taken from its ports.
fn received(lab: &RawLab) -> u64 {
    let ports = lab.sluice(&["port", "list"]).unwrap();
    ports.as_array().unwrap().iter().map(|port| port["rx_packets"].as_u64().unwrap()).sum()
}

#[test]
fn the_daemon_answers_as_the_kernel_does() {
    Mode::ALL.into_iter().for_each(replay);
}

fn replay(mode: Mode) {
    let rig = rig(&format!("conf-{}", mode.name()), mode);
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
        let neighbors = rig.sluice(&["neighbor", "list"]).unwrap();
        neighbors.as_array().unwrap().iter().all(|neighbor| neighbor["state"] == "REACHABLE")
    };
    assert!(wait_until(patience, known));

    let mut replay = conformance::Replay::new(mode);
    let mut outcomes = Vec::new();
    for probe in conformance::probes(mode) {
        let outcome = replay.run(&probe, |side, frames| {
            let wire = rig.wire(side);
            let before = received(&rig);
            frames.iter().for_each(|frame| wire.send(frame).unwrap());
            // A busy machine may let the daemon wait.
            wait_until(patience, || received(&rig) >= before + frames.len() as u64);
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
    assert!(wait_until(patience, || rig.sluice(&["status"]).unwrap()["buffers_in_use"] == 0));
}

#[test]
fn arp_is_announced_answered_asked_and_refreshed() {
    let rig = rig("arp", Mode::FullNat);
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

    // A station is followed when the one that had its address does not answer, and not before.
    let other = |operation| pktgen_tests::wire::Arp {
        operation,
        sender: ([2, 0, 0, 0, 0, 0x77], client),
        target: (DIRECTOR_A, Ipv4Addr::new(10, 0, 0, 1)),
    };
    let known_at = |mac: &str| {
        let neighbors = rig.sluice(&["neighbor", "list"]).unwrap();
        let neighbors = neighbors.as_array().unwrap();
        neighbors.iter().any(|neighbor| neighbor["address"] == "10.0.0.50" && neighbor["mac"] == mac)
    };
    let first = rig.sluice(&["neighbor", "list"]).unwrap().to_string();
    rig.a.send(&other(1).frame([0xff; 6])).unwrap();
    let asked = |arp: &pktgen_tests::wire::Arp| arp.operation == 1 && arp.target.1 == client;
    assert!(rig.a.expect_arp(patience, asked).is_some(), "{first}");
    assert!(wait_until(patience, || !known_at("02:00:00:00:00:77")));
    // From here on nobody reads the link for it, so it does not answer.
    let moved = || {
        rig.a.send(&other(2).frame(DIRECTOR_A)).unwrap();
        known_at("02:00:00:00:00:77")
    };
    assert!(!moved());
    assert!(wait_until(patience, moved));
}
