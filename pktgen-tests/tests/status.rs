//! What status says is what a new client meets: services that are full, down or cut off, links and interfaces that are
//! not what they were, and both edges of each in the log.

use pktgen_tests::lab::{Lab, Plan, VIP};
use pktgen_tests::process::{never_within, run, wait_until};
use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// A lab with a UDP service of two servers on port 9000, with these keys.
fn udp(keys: &str, server_keys: &str) -> Lab {
    udp_by("fullnat", keys, server_keys)
}

/// The same in a forwarding mode.
fn udp_by(forward: &str, keys: &str, server_keys: &str) -> Lab {
    let mut lab = Lab::new(Plan::default()).unwrap();
    let service = lab
        .service("dns", "udp", 9000, "rr", &[0, 1])
        .replace("scheduler", &format!("{keys}\nscheduler"))
        .replace("weight = 1", &format!("weight = 1\n{server_keys}"));
    let service = match forward {
        "dr" => {
            let lines = service.lines().filter(|line| !line.starts_with("local_addresses"));
            lines.collect::<Vec<_>>().join("\n").replace("\"fullnat\"", "\"dr\"") + "\n"
        }
        _ => service,
    };
    let config = lab.config_head().replace("session_capacity = 200_000", "session_capacity = 1_000")
        + "\n[timeouts]\nudp_one_way = \"2s\"\nudp = \"2s\"\n"
        + &service;
    lab.start_sluiced(&config).unwrap();
    lab
}

/// So many clients say something, each from a port of its own.
fn clients(lab: &Lab, count: usize) {
    let vip = SocketAddr::new(VIP.parse().unwrap(), 9000);
    lab.client().inside(|| {
        for _ in 0..count {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // The VIP's station may still be asked for.
            let _ = socket.send_to(b"x", vip);
        }
    });
}

fn service(lab: &Lab) -> Value {
    lab.json(&["service", "list"]).unwrap()[0].clone()
}

fn exit_code(lab: &Lab) -> Option<i32> {
    lab.sluice_command().args(["status", "--exit-code"]).output().unwrap().status.code()
}

/// Waits until the service is in this state, for this reason.
fn await_state(lab: &Lab, state: &str, reason: &str) {
    let is = || {
        let service = service(lab);
        service["state"] == state && service["reason"].as_str().unwrap_or_default().contains(reason)
    };
    assert!(wait_until(SOON, is), "{state}, {reason}: {}", lab.sluice(&["status"]).unwrap());
}

/// Sends clients until the service is full for this reason, and waits until it is not any more; both stand in the log.
fn fill(lab: &mut Lab, reason: &str, counter: &str) {
    await_state(lab, "ready", "");
    assert_eq!(exit_code(lab), Some(0), "{}", lab.sluice(&["status"]).unwrap());
    let full = || {
        clients(lab, 1_500);
        let service = service(lab);
        service["state"] == "full" && service["refused"][counter].as_u64() > Some(0)
    };
    assert!(wait_until(SOON, full), "{}", lab.sluice(&["status"]).unwrap());
    let service = service(lab);
    assert!(service["reason"].as_str().unwrap().contains(reason), "{service}");
    assert_eq!(exit_code(lab), Some(4));
    let status = lab.sluice(&["status"]).unwrap();
    assert!(status.contains("0 of 1 ready, 1 full") && status.contains("dns is full: "), "{status}");
    await_state(lab, "ready", "");
    assert!(wait_until(SOON, || exit_code(lab) == Some(0)));
    let logged = || {
        let log = lab.sluiced().unwrap().output();
        log.contains("service dns is full: ") && log.contains("service dns is ready again, after ")
    };
    assert!(wait_until(SOON, logged));
}

#[test]
fn a_full_table_is_no_ready_service() {
    // Where servers' answers do not pass, no session is known to be unanswered and makes room.
    let mut lab = udp_by("dr", "", "");
    fill(&mut lab, "the session table of worker 0 is full", "session_table_full");
    let log = lab.sluiced().unwrap().output();
    assert!(log.contains("IPv4 sessions of worker 0: ") && log.contains("there is room again"), "{log}");
}

#[test]
fn a_service_with_all_the_sessions_it_may_have_is_full() {
    fill(&mut udp("session_limit = 50", ""), "it has the 50 sessions of its session_limit", "service_limit");
}

#[test]
fn servers_with_all_the_sessions_they_may_have_make_a_service_full() {
    fill(&mut udp("", "max_sessions = 20"), "every server has its max_sessions", "servers_full");
}

#[test]
fn services_that_begin_healthy_are_never_said_to_be_down() {
    const SERVICES: usize = 40;
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx_on(0, &[80]).unwrap();
    let check = "\n[service.health]\ntype = \"http\"\ninterval = \"1s\"\nrise = 1\n";
    let services: String = (0..SERVICES)
        .map(|at| {
            let service = lab.service(&format!("s{at}"), "tcp", 8_000 + at as u16, "rr", &[0]);
            let own_port = format!("10.0.0.11:{}", 8_000 + at);
            // A path of its own, so that each has its own check.
            service.replace(&own_port, "10.0.0.11:80")
                + &check.replace("type", &format!("path = \"/?{at}\"\ntype"))
        })
        .collect();
    lab.start_sluiced(&(lab.config_head() + &services)).unwrap();
    let ready = || lab.sluice(&["status"]).unwrap().contains("40 of 40 ready");
    assert!(wait_until(SOON, ready), "{}", lab.sluice(&["status"]).unwrap());
    let log = lab.sluiced().unwrap().output();
    assert!(!log.contains(" is down"), "{log}");
}

#[test]
fn a_service_whose_link_is_down_is_unready_and_makes_no_sessions() {
    let mut lab = udp("", "");
    clients(&lab, 5);
    await_state(&lab, "ready", "");
    lab.director().ip("link set nic-lan down").unwrap();
    await_state(&lab, "unready", "the link of port lan is down");
    let created = || service(&lab)["sessions_created"].as_u64().unwrap();
    let refused = || service(&lab)["refused"]["link_down"].as_u64().unwrap();
    let before = created();
    assert!(wait_until(SOON, || {
        clients(&lab, 10);
        refused() > 0
    }));
    assert_eq!(created(), before);
    lab.director().ip("link set nic-lan up").unwrap();
    await_state(&lab, "ready", "");
    lab.client().ip("link set eth0 down").unwrap();
    await_state(&lab, "unready", "the link of port wan is down, by which its clients come");
    lab.client().ip("link set eth0 up").unwrap();
    await_state(&lab, "ready", "");
    assert!(wait_until(SOON, || {
        let log = lab.sluiced().unwrap().output();
        log.matches("service dns is unready: ").count() == 2
            && log.matches("service dns is ready again").count() == 2
    }));
}

#[test]
fn a_server_that_does_not_answer_on_its_link_gets_nobody_until_it_does() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    for at in 0..2 {
        lab.start_nginx(at, 80).unwrap();
    }
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0, 1]);
    lab.start_sluiced(&config).unwrap();
    assert_eq!(lab.http(10, 2).unwrap().len(), 10);
    // It is deaf to ARP, and to everything else.
    lab.server(1).ip("link set eth0 arp off").unwrap();
    lab.server(1).ip("link set eth0 down").unwrap();
    let states = || lab.server_states();
    assert!(wait_until(Duration::from_secs(40), || states() == ["up", "unreachable"]), "{:?}", states());
    // It stays so, also while clients come and it is asked again and again.
    assert!(never_within(Duration::from_secs(8), || {
        let answers = lab.http(4, 2).unwrap();
        answers != ["rs1"; 4] || states() != ["up", "unreachable"]
    }));
    lab.server(1).ip("link set eth0 arp on").unwrap();
    lab.server(1).ip("link set eth0 up").unwrap();
    assert!(wait_until(Duration::from_secs(10), || states() == ["up", "up"]));
    let both = || lab.http(10, 2).unwrap().iter().any(|answer| answer == "rs2");
    assert!(wait_until(SOON, both));
    let log = lab.sluiced().unwrap().output();
    assert!(log.contains("server 10.0.0.12 does not answer on its link; it gets no sessions"), "{log}");
    assert!(log.contains("server 10.0.0.12 answers on its link again"), "{log}");
}

#[test]
fn interfaces_that_are_not_what_they_were_are_named_with_what_to_do() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    let warns = |words: &str| {
        let said = wait_until(SOON, || lab.sluice(&["status"]).unwrap().contains(words));
        assert!(said, "{words}: {}", lab.sluice(&["status"]).unwrap());
    };
    assert_eq!(lab.http(4, 1).unwrap(), ["rs1"; 4]);
    // A smaller MTU is followed: larger packets are answered by ICMP, and do not vanish.
    lab.director().ip("link set nic-lan mtu 1300").unwrap();
    warns("has an MTU of 1300 and had 1500 at the start; the smaller one is used");
    assert_eq!(lab.json(&["port", "list"]).unwrap()[1]["mtu"], 1_300);
    let mut ping = lab.client().command("ping");
    let said = run(ping.args(["-c", "1", "-W", "2", "-M", "do", "-s", "1400", VIP]));
    assert!(said.is_ok(), "the VIP itself is on the other port: {said:?}");
    lab.director().ip("link set nic-lan mtu 1500").unwrap();
    assert!(wait_until(SOON, || lab.json(&["status"]).unwrap()["warnings"] == serde_json::json!([])));
    // Another name is no loss.
    lab.director().ip("link set nic-wan down").unwrap();
    lab.director().ip("link set nic-wan name other").unwrap();
    lab.director().ip("link set other up").unwrap();
    warns("interface nic-wan is called other now; traffic goes on");
    assert!(wait_until(SOON, || lab.http(4, 1).unwrap() == ["rs1"; 4]));
    assert_eq!(service(&lab)["state"], "ready");
    // One that was made again is another.
    lab.director().ip("link del other").unwrap();
    warns("interface nic-wan is gone");
    await_state(&lab, "unready", "the link of port wan is down");
    lab.director().ip("link add nic-wan type veth peer name x").unwrap();
    lab.director().ip("link set nic-wan up").unwrap();
    warns("interface nic-wan was removed and made again; nothing passes until sluiced is restarted");
    assert_eq!(service(&lab)["state"], "unready");
    assert_eq!(exit_code(&lab), Some(4));
}

#[test]
fn another_station_with_an_address_of_ours_is_told_as_long_as_it_has_it() {
    let mut lab = Lab::new(Plan { ipv6: true, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    // The client has the VIP, too, before anybody announces it; and one of the servers a local address.
    lab.client().ip(&format!("addr add {VIP}/32 dev eth0")).unwrap();
    lab.server(1).add_ipv6("eth0", "2001:db8:b::200/64").unwrap();
    let six = "\n[[service]]\nname = \"six\"\nlisten = \"[2001:db8:a::10]:80\"\nlocal_addresses = [\"2001:db8:b::200\"]\n[[service.server]]\naddress = \"[2001:db8:b::11]:80\"\n";
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0]) + six;
    lab.start_sluiced(&config).unwrap();
    let warned = |address: &str| {
        lab.sluice(&["status"]).unwrap().lines().any(|line| {
            line.starts_with("warning: another station on port ")
                && line.contains(&format!("uses {address},"))
        })
    };
    assert!(
        wait_until(SOON, || warned(VIP) && warned("2001:db8:b::200")),
        "{}",
        lab.sluice(&["status"]).unwrap()
    );
    assert_eq!(exit_code(&lab), Some(3));
    lab.client().ip(&format!("addr del {VIP}/32 dev eth0")).unwrap();
    assert!(wait_until(Duration::from_secs(60), || !warned(VIP)));
    assert!(warned("2001:db8:b::200"), "the other one still has it");
}
