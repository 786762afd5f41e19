//! `sluice explain` says what becomes of a packet, and real clients show that it is so.

use pktgen_tests::lab::{CLIENT, Lab, Plan, VIP};
use pktgen_tests::process::wait_until;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn lab(workers: usize) -> Lab {
    let mut lab = Lab::new(Plan { servers: 2, workers, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80]).unwrap();
    }
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0, 1]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up"]);
    lab
}

fn explain(lab: &Lab, words: &[&str]) -> Value {
    lab.json(&[&["explain"], words].concat()).unwrap()
}

/// A connection of the client's that stays open, and has been answered once.
fn connect(lab: &Lab, to: &str) -> TcpStream {
    lab.client().inside(|| {
        let to: SocketAddr = to.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&to, SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 512]).unwrap() > 0);
        stream
    })
}

/// All that a packet could change and that is shown.
fn shown(lab: &Lab) -> [Value; 3] {
    [&["stats", "drops"][..], &["session", "count"], &["service", "list"]]
        .map(|words| lab.json(words).unwrap())
}

#[test]
fn what_is_explained_is_what_happens_and_asking_changes_nothing() {
    for workers in [1, 2] {
        let lab = lab(workers);
        let vip = format!("{VIP}:80");
        // The first connections teach where everybody is.
        for _ in 0..2 {
            drop(connect(&lab, &vip));
        }
        assert!(wait_until(SOON, || shown(&lab) == shown(&lab)));

        let stream = connect(&lab, &vip);
        let client = stream.local_addr().unwrap().to_string();
        let sessions = lab.json(&["session", "list", "--client", &client]).unwrap();
        let session = &sessions[0];
        let before = shown(&lab);
        let said = explain(&lab, &["tcp", &client, &vip, "--flags", "A", "--reply"]);
        assert_eq!(said["verdict"], "forwarded", "{said:#}");
        assert_eq!(said["worker"], session["worker"], "{said:#}");
        assert_eq!(said["session"]["state"], "ESTABLISHED", "{said:#}");
        assert_eq!(
            (&said["leaves"]["source"], &said["leaves"]["destination"]),
            (&session["local"], &session["real"])
        );
        assert_eq!(said["chosen_by"], "session");
        let reply = &said["reply"];
        assert_eq!(
            (&reply["leaves"]["source"], &reply["leaves"]["destination"]),
            (&vip.clone().into(), &client.clone().into())
        );
        assert_eq!(reply["port"], "lan", "{reply:#}");

        // What has no session begins one, or is refused with the reason, the nearest service and the remedy.
        let new = format!("{CLIENT}:39999");
        let said = explain(&lab, &["tcp", &new, &vip, "--reply"]);
        assert_eq!(
            (&said["verdict"], &said["chosen_by"]),
            (&"forwarded".into(), &"scheduler".into()),
            "{said:#}"
        );
        let text = lab.sluice(&["explain", "tcp", &new, &vip, "--reply"]).unwrap();
        for part in
            ["comes by port wan", "service web listens on", "begins one", "the next hop 10.0.0.", "answer: "]
        {
            assert!(text.contains(part), "`{part}`: {text}");
        }
        let said = explain(&lab, &["tcp", &new, &format!("{VIP}:81")]);
        assert_eq!(
            (&said["verdict"], &said["reason"]),
            (&"dropped".into(), &"no_service".into()),
            "{said:#}"
        );
        assert!(said["sentences"].to_string().contains("those of this address are web (tcp"), "{said:#}");
        assert!(said["remedy"].as_str().unwrap().contains("listen"), "{said:#}");
        let said = explain(&lab, &["tcp", &new, &vip, "--flags", "A"]);
        assert_eq!(said["reason"], "no_session", "{said:#}");
        let said = explain(&lab, &["icmp", CLIENT, VIP]);
        assert_eq!(said["verdict"], "answered", "{said:#}");
        assert_eq!(before, shown(&lab), "asking changed something");
        drop(stream);
    }
}

#[test]
fn a_new_connection_goes_where_it_was_said_to_go() {
    let lab = lab(1);
    let vip = format!("{VIP}:80");
    drop(connect(&lab, &vip));
    for _ in 0..4 {
        let said = explain(&lab, &["tcp", &format!("{CLIENT}:39999"), &vip]);
        let stream = connect(&lab, &vip);
        let client = stream.local_addr().unwrap().to_string();
        let sessions = lab.json(&["session", "list", "--client", &client]).unwrap();
        assert_eq!(sessions[0]["real"], said["leaves"]["destination"], "{said:#}");
        assert_eq!(
            sessions[0]["local"].as_str().unwrap().split(':').next(),
            said["leaves"]["source"].as_str().unwrap().split(':').next()
        );
    }
    // With no server left it says so, with what is wrong with each.
    lab.sluice(&["server", "set", "web", "10.0.0.11:80", "weight=0"]).unwrap();
    lab.sluice(&["server", "set", "web", "10.0.0.12:80", "weight=0"]).unwrap();
    let said = explain(&lab, &["tcp", &format!("{CLIENT}:39999"), &vip]);
    assert_eq!(said["reason"], "no_real_server", "{said:#}");
    assert!(
        said["sentences"].to_string().contains("2 of 2 servers get nothing new: 10.0.0.11:80 is draining"),
        "{said:#}"
    );
}

#[test]
fn answers_that_go_past_the_appliance_are_said_to_with_and_without_a_session() {
    for mode in ["dr", "tunnel"] {
        let mut lab = Lab::new(Plan::default()).unwrap();
        let service =
            lab.service("dns", "udp", 9000, "rr", &[0]).replace("\"fullnat\"", &format!("\"{mode}\""));
        let service: String = service
            .lines()
            .filter(|line| !line.contains("local_addresses"))
            .map(|line| format!("{line}\n"))
            .collect();
        lab.start_sluiced(&(lab.config_head() + &service)).unwrap();
        let (client, vip) = (format!("{CLIENT}:4000"), format!("{VIP}:9000"));
        let said = || lab.sluice(&["explain", "udp", &client, &vip, "--reply"]).unwrap();
        let is_right =
            |text: &str| text.contains("the server answers the client itself") && !text.contains("dropped");
        assert!(wait_until(SOON, || is_right(&said())), "{mode}: {}", said());
        lab.client().inside(|| {
            let socket = std::net::UdpSocket::bind(&client).unwrap();
            let has_session = || {
                let _ = socket.send_to(b"x", &vip);
                said().contains("it belongs to a session")
            };
            assert!(wait_until(SOON, has_session), "{mode}: {}", said());
        });
        assert!(is_right(&said()), "{mode}: {}", said());
    }
}

#[test]
fn questions_that_cannot_be_asked_are_refused_with_what_to_write() {
    let lab = lab(1);
    let vip = format!("{VIP}:80");
    let client = format!("{CLIENT}:4000");
    for (words, expected) in [
        (&["tcp", "x", &vip][..], "is not ADDRESS:PORT; write it as"),
        (&["tcp", CLIENT, &vip], "has no port; write"),
        (&["gre", &client, &vip], "is not a protocol; use one of tcp, udp, sctp, icmp"),
        (&["tcp", &client, &vip, "--port", "dmz"], "there is no port `dmz`; use one of wan, lan"),
        (&["tcp", &client, &vip, "--flags", "SX"], "are no TCP flags; write letters of SAFRPU"),
        (&["icmp", CLIENT, VIP, "--reply"], "the answer to a ping is not followed"),
        (&["tcp", "[2001:db8::1]:1", &vip], "are of different families"),
        (
            &["tcp", "203.0.113.9:1", &vip],
            "no route leads back to 203.0.113.9; name the port by which it comes with --port",
        ),
    ] {
        let said = lab.sluice(&[&["explain"], words].concat()).unwrap_err();
        assert!(said.contains(expected), "`{expected}`: {said}");
    }
    // A packet may come by a port that leads nowhere.
    let said = explain(&lab, &["tcp", "203.0.113.9:1", &vip, "--port", "wan"]);
    assert_eq!(said["verdict"], "forwarded", "{said:#}");
}

fn doctor(lab: &Lab) -> (Option<i32>, Vec<Value>) {
    let output = lab.sluice_command().args(["-j", "doctor"]).output().unwrap();
    let findings = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), findings)
}

#[test]
fn the_doctor_says_whether_a_new_client_of_every_service_is_served() {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80]).unwrap();
    }
    let both = lab
        .service("dns", "udp", 53, "wrr", &[1])
        .replace("protocol = \"udp\"", "protocol = [\"tcp\", \"udp\"]");
    let config = lab.config_head() + &lab.service("web", "tcp", 80, "rr", &[0, 1]) + &both;
    lab.start_sluiced(&config).unwrap();
    let of = |findings: &[Value], subject: &str| -> Value {
        let found = findings.iter().find(|finding| finding["subject"] == subject);
        found.unwrap_or_else(|| panic!("no {subject}: {findings:#?}")).clone()
    };
    let healthy = || {
        let (code, findings) = doctor(&lab);
        code == Some(0)
            && of(&findings, "service web")["grade"] == "good"
            && of(&findings, "service dns")["grade"] == "good"
    };
    assert!(wait_until(SOON, healthy), "{:#?}", doctor(&lab));
    let (_, findings) = doctor(&lab);
    for subject in ["memory", "clock"] {
        assert_ne!(of(&findings, subject)["grade"], "bad");
    }

    lab.sluice(&["server", "set", "dns", "10.0.0.12:53", "weight=0"]).unwrap();
    let (code, findings) = doctor(&lab);
    let dns = of(&findings, "service dns");
    assert_eq!((code, &dns["grade"]), (Some(4), &"bad".into()), "{findings:#?}");
    assert!(dns["seen"].as_str().unwrap().contains("no_real_server"), "{dns:#}");
    assert!(dns["remedy"].as_str().unwrap().contains("service show"), "{dns:#}");
    assert_eq!(of(&findings, "service web")["grade"], "good");
    let text = lab.sluice_command().arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("BAD      service dns: ") && text.contains(" bad\n"), "{text}");
}
