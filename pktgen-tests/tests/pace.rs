//! Overload protection by traffic: a server that takes long to answer connections gets less, and all again when it is
//! fast.

use pktgen_tests::conformance::{CLIENT_MAC, DIRECTOR_A, DIRECTOR_B, SERVER_MAC};
use pktgen_tests::frames::{Route, endpoints, tcp, tcp_frame};
use pktgen_tests::raw_lab::{RawLab, Uplink};
use serde_json::Value;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const SLOW: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 52);
/// Between two connections; fewer than a thousand fit into the table.
const PAUSE: Duration = Duration::from_millis(25);
const SERVICE: &str = "[[service]]\nname = \"web\"\nlisten = \"10.0.0.110:80\"\nscheduler = \"wrr\"\nlocal_addresses = [\"172.16.0.100\"]\nconnect_limit = \"100ms\"\n[[service.server]]\naddress = \"172.16.0.51:80\"\nweight = 10\n[[service.server]]\naddress = \"172.16.0.52:80\"\nweight = 10\n";

/// Opens connections until `done` says so of what is shown of the two servers, which is looked at twice a second.
/// The second server answers after `delay`, the first at once.
fn connect_until(
    lab: &RawLab,
    l4_port: &mut u16,
    delay: Duration,
    done: impl Fn(&Value, &Value) -> bool,
) -> bool {
    let deadline = Instant::now() + Duration::from_secs(45);
    let (mut next, mut look) = (Instant::now(), Instant::now());
    let mut answers: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    while Instant::now() < deadline {
        if Instant::now() >= next {
            next += PAUSE;
            *l4_port += 1;
            let client = Route {
                source_mac: CLIENT_MAC,
                destination_mac: DIRECTOR_A,
                source: ("10.0.0.50".parse().unwrap(), *l4_port),
                destination: ("10.0.0.110".parse().unwrap(), 80),
            };
            lab.a.send(&tcp_frame(&client, tcp::SYN, &[])).unwrap();
        }
        if let Some(frame) = lab.b.receive(Duration::from_millis(1))
            && let Some((from, to)) = endpoints(&frame).filter(|(_, to)| to.1 == 80)
        {
            let back =
                Route { source_mac: SERVER_MAC, destination_mac: DIRECTOR_B, source: to, destination: from };
            let wait = if to.0 == SLOW { delay } else { Duration::ZERO };
            answers.push_back((Instant::now() + wait, tcp_frame(&back, tcp::SYN | tcp::ACK, &[])));
        }
        let now = Instant::now();
        for (_, frame) in answers.iter().filter(|(due, _)| *due <= now) {
            lab.b.send(frame).unwrap();
        }
        answers.retain(|(due, _)| *due > now);
        // Questions about neighbours are answered while the wire is read.
        while lab.a.receive(Duration::from_micros(10)).is_some() {}
        if now >= look {
            look = now + Duration::from_millis(500);
            let shown = lab.sluice(&["service", "show", "web"]).unwrap();
            if done(&shown["servers"][0], &shown["servers"][1]) {
                return true;
            }
        }
    }
    false
}

#[test]
fn a_server_that_answers_connections_slowly_gets_less_until_it_is_fast_again() {
    let mut lab = RawLab::new("pace").unwrap();
    lab.b.add_ipv4(Ipv4Addr::new(172, 16, 0, 51));
    lab.b.add_ipv4(SLOW);
    lab.start_sluiced(SERVICE, Uplink::Ipv4).unwrap();
    let mut l4_port = 10_000;
    let share = |server: &Value| server["relief"].as_f64().unwrap();
    let took = |server: &Value| server["connect_ms"].as_f64().unwrap_or_default();

    let slow = connect_until(&lab, &mut l4_port, Duration::from_millis(250), |fast, slow| {
        // 100 ms of 250 are two fifths.
        share(fast) == 1.0 && share(slow) <= 0.45 && took(slow) >= 245.0 && took(fast) < 100.0
    });
    assert!(slow, "{}", lab.sluice(&["service", "show", "web"]).unwrap());
    let shown = lab.sluice(&["service", "show", "web"]).unwrap();
    let weights = |at: usize| shown["servers"][at]["effective_weight"].as_u64().unwrap();
    assert!(weights(1) * 2 <= weights(0), "{shown}");

    let fast = connect_until(&lab, &mut l4_port, Duration::ZERO, |one, other| {
        share(one) == 1.0 && share(other) == 1.0 && took(other) < 100.0
    });
    assert!(fast, "{}", lab.sluice(&["service", "show", "web"]).unwrap());
}
