//! Health checks, tiers and protection with real servers that die, hang, refuse, answer wrongly and come back.

use pktgen_tests::lab::{Lab, Plan, VIP, VIP6};
use pktgen_tests::process::{never_within, run, wait_until};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(6);

/// A service on the VIP's port 80; `servers` have lines of their own.
fn service(rules: &str, servers: &[(String, &str)], health: &str) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"web\"\nlisten = \"{VIP}:80\"\nprotocol = \"tcp\"\nforward = \"fullnat\"\nscheduler = \"rr\"\nlocal_addresses = [\"10.0.0.200\"]\n{rules}\n"
    );
    for (address, more) in servers {
        let _ = write!(text, "\n[[service.server]]\naddress = \"{address}\"\n{more}\n");
    }
    if !health.is_empty() {
        let _ = write!(
            text,
            "\n[service.health]\n{health}\ninterval = \"200ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2\n"
        );
    }
    text
}

fn servers(lab: &Lab, count: usize, l4_port: u16) -> Vec<(String, &'static str)> {
    (0..count).map(|at| (format!("{}:{l4_port}", lab.server_ip(at)), "")).collect()
}

/// Who answers so many requests.
fn answers(lab: &Lab, requests: usize) -> Vec<String> {
    let mut all = lab.http(requests, 4).unwrap();
    all.sort();
    all.dedup();
    all
}

fn nft(lab: &Lab, server: usize, line: &str) {
    run(lab.server(server).command("nft").args(line.split_whitespace())).unwrap();
}

#[test]
fn servers_that_die_hang_refuse_or_answer_wrongly_are_left_out_and_come_back() {
    let mut lab = Lab::new(Plan { servers: 4, ..Plan::default() }).unwrap();
    let folders: Vec<_> = (0..4).map(|at| lab.start_nginx_on(at, &[80]).unwrap()).collect();
    let config = lab.config_head() + &service("", &servers(&lab, 4, 80), "type = \"http\"\npath = \"/\"");
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"; 4]);
    assert_eq!(answers(&lab, 40), ["rs1:80", "rs2:80", "rs3:80", "rs4:80"]);

    // One hangs, one answers 500, one is refused by resets.
    lab.program(0).signal(Signal::STOP);
    std::fs::write(folders[1].join("80.broken"), "").unwrap();
    nft(&lab, 2, "add table inet f");
    nft(&lab, 2, "add chain inet f i { type filter hook input priority 0 ; }");
    nft(&lab, 2, "add rule inet f i tcp dport 80 reject with tcp reset");
    lab.await_states(&["down", "down", "down", "up"]);
    assert_eq!(answers(&lab, 20), ["rs4:80"]);
    let show = lab.sluice(&["service", "show", "web"]).unwrap();
    for what in ["no answer within 500 ms", "it answered 500", "Connection refused"] {
        assert!(show.contains(what), "{what}: {show}");
    }

    // They come back, and the fourth dies.
    lab.program(0).signal(Signal::CONT);
    std::fs::remove_file(folders[1].join("80.broken")).unwrap();
    nft(&lab, 2, "delete table inet f");
    lab.program(3).stop();
    lab.await_states(&["up", "up", "up", "down"]);
    assert_eq!(answers(&lab, 30), ["rs1:80", "rs2:80", "rs3:80"]);
    let log = lab.sluiced().unwrap().output();
    assert!(
        log.contains("server 10.0.0.11:80 is down (http)") && log.contains("10.0.0.11:80 is up"),
        "{log}"
    );
}

#[test]
fn a_server_that_answers_too_slowly_is_left_out() {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    lab.start_nginx_with(0, "listen 80;", 80).unwrap();
    lab.start_nginx_with(1, "listen 80; location = /page { limit_rate 100; }", 80).unwrap();
    for at in 1..=2 {
        std::fs::write(lab.folder().join(format!("nginx-{at}/page")), "0123456789".repeat(50) + "end")
            .unwrap();
    }
    let health = "type = \"http\"\npath = \"/page\"\nexpect_body = \"end\"";
    let config = lab.config_head() + &service("", &servers(&lab, 2, 80), health);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "down"]);
    let show = lab.sluice(&["service", "show", "web"]).unwrap();
    assert!(show.contains("no answer within 500 ms"), "{show}");
    assert_eq!(answers(&lab, 20), ["rs1"]);
}

#[test]
fn the_sorry_server_serves_while_no_other_does() {
    let mut lab = Lab::new(Plan { servers: 3, ..Plan::default() }).unwrap();
    let folders: Vec<_> = (0..3).map(|at| lab.start_nginx_on(at, &[80]).unwrap()).collect();
    let rules = format!("sorry_server = \"{}:80\"", lab.server_ip(2));
    let config = lab.config_head() + &service(&rules, &servers(&lab, 2, 80), "type = \"http\"\npath = \"/\"");
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up", "sorry"]);
    assert_eq!(answers(&lab, 20), ["rs1:80", "rs2:80"]);
    for folder in &folders[..2] {
        std::fs::write(folder.join("80.broken"), "").unwrap();
    }
    lab.await_states(&["down", "down", "sorry"]);
    assert_eq!(answers(&lab, 20), ["rs3:80"]);
    std::fs::remove_file(folders[0].join("80.broken")).unwrap();
    lab.await_states(&["up", "down", "sorry"]);
    assert_eq!(answers(&lab, 20), ["rs1:80"]);
    let log = lab.sluiced().unwrap().output();
    assert!(log.contains("the sorry server serves") && log.contains("the sorry server rests"), "{log}");
}

#[test]
fn checks_ask_from_the_local_address_and_each_server_once() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    // Who else connects to port 80 is counted and refused.
    nft(&lab, 0, "add table inet f");
    nft(&lab, 0, "add chain inet f i { type filter hook input priority 0 ; }");
    nft(&lab, 0, "add rule inet f i tcp dport 80 ip saddr != 10.0.0.200 counter reject");
    nft(&lab, 0, "add rule inet f i tcp dport 80 tcp flags syn counter");
    let health = "type = \"tcp\"";
    let web = service("", &servers(&lab, 1, 80), health);
    // Twenty services with the same server and check.
    let more: String = (0..19)
        .map(|n| {
            web.replace("\"web\"", &format!("\"web{n}\""))
                .replace(":80\"\nprotocol", &format!(":{}\"\nprotocol", 8000 + n))
        })
        .collect();
    let config = lab.config_head() + &web + &more;
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"]);
    let status = lab.json(&["status"]).unwrap();
    assert_eq!((status["services"].as_u64(), status["checks"].as_u64()), (Some(20), Some(1)));

    let asked = || lab.json(&["server", "list"]).unwrap()[0]["check"]["asked"].as_u64().unwrap();
    let (before, began) = (asked(), Instant::now());
    assert!(wait_until(SOON, || asked() >= before + 10));
    assert!(began.elapsed() > Duration::from_millis(1_500), "10 answers, 200 ms apart: one check");
    let counters = run(lab.server(0).command("nft").args(["list", "ruleset"])).unwrap();
    assert!(counters.contains("saddr != 10.0.0.200 counter packets 0"), "{counters}");

    // A change of another service's check restarts nothing here.
    let changed = config.replacen("type = \"tcp\"", "type = \"http\"", 1);
    lab.write_config(&changed).unwrap();
    let before = asked();
    lab.sluice(&["config", "reload"]).unwrap();
    assert_eq!(lab.json(&["status"]).unwrap()["checks"], 2);
    let second = || lab.json(&["server", "list"]).unwrap()[1]["check"]["asked"].as_u64().unwrap();
    assert!(second() >= before, "its count went on");
}

/// Answers datagrams on a port of a server until it is dropped.
struct UdpServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    fn start(lab: &Lab, server: usize, l4_port: u16, answer: fn(&[u8]) -> Vec<u8>) -> Self {
        let socket = lab.server(server).inside(|| UdpSocket::bind(("0.0.0.0", l4_port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut room = [0; 2_048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut room) {
                    socket.send_to(&answer(&room[..len]), from).unwrap();
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A name server for which every name is 192.0.2.77.
fn name_server(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..8].copy_from_slice(&[0, 1]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
    answer
}

#[test]
fn what_a_script_leaves_behind_ends_with_it_also_when_it_left_its_group() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    let list = [(format!("{}:80", lab.server_ip(0)), "")];
    // Times that nobody else sleeps for tell these from other programs.
    let [stays, leaves, daemon] = [1, 2, 3].map(|n| format!("{}.{n}", 700_000_000 + std::process::id()));
    let leaving = format!(
        "setsid sleep {leaves} & setsid sh -c 'sleep {daemon} & sleep {daemon}' & sleep {stays} & exit 0"
    );
    let check = format!("type = \"script\"\ncommand = [\"/bin/sh\", \"-c\", {leaving:?}]");
    let config = lab.config_head() + &service("", &list, &check);
    lab.start_sluiced(&config).unwrap();
    let sleepers = || -> usize {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines
            .filter(|line| {
                [&stays, &leaves, &daemon].iter().any(|time| line.ends_with(format!("{time}\0").as_bytes()))
            })
            .count()
    };
    lab.await_states(&["up"]);
    // Twenty questions long there is at most what one or two leave for a moment.
    assert!(never_within(Duration::from_secs(4), || sleepers() > 8), "{} programs are left", sleepers());
    lab.sluiced().unwrap().stop();
    assert!(wait_until(Duration::from_secs(2), || sleepers() == 0), "{} outlive the daemon", sleepers());
}

#[test]
fn every_kind_of_check_tells_good_from_bad() {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    let folder = lab.folder().to_owned();
    let dir = folder.display().to_string();
    // A certificate of an authority of its own.
    let openssl =
        |line: &str| run(Command::new("openssl").args(line.split_whitespace()).current_dir(&folder)).unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=lab-ca");
    openssl("req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=www.example.com");
    std::fs::write(folder.join("names"), "subjectAltName=DNS:www.example.com").unwrap();
    openssl(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names",
    );
    let tls = format!(
        "listen 443 ssl; server_name www.example.com; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;"
    );
    lab.start_nginx_with(0, &tls, 443).unwrap();
    let _echo = UdpServer::start(&lab, 0, 7, <[u8]>::to_vec);
    let _names = UdpServer::start(&lab, 0, 53, name_server);
    let script = format!("{dir}/check");
    std::fs::write(&script, "#!/bin/sh\nexec ping -c 1 -W 1 -q $SLUICE_ADDRESS\n").unwrap();
    run(Command::new("chmod").args(["+x", &script])).unwrap();

    let https = |more: &str| format!("type = \"https\"\nport = 443\nca_file = \"{dir}/ca.pem\"\n{more}");
    // (type and keys; whether 10.0.0.11 is well; what is said of it if not)
    let cases = [
        ("type = \"icmp\"".to_owned(), None),
        (format!("type = \"script\"\ncommand = \"{script}\""), None),
        ("type = \"udp\"\nport = 7\nsend = \"ping\"\nexpect = \"ping\"".to_owned(), None),
        ("type = \"udp\"\nport = 7\nsend = \"ping\"\nexpect = \"pong\"".to_owned(), Some("no answer")),
        ("type = \"udp\"\nport = 9\nsend = \"x\"".to_owned(), Some("refused")),
        ("type = \"dns\"\nport = 53\nquery = \"example.com\"\nexpect = \"192.0.2.77\"".to_owned(), None),
        (
            "type = \"dns\"\nport = 53\nquery = \"example.com\"\nexpect = \"192.0.2.78\"".to_owned(),
            Some("192.0.2.78 is not among its answers"),
        ),
        (https("host = \"www.example.com\"\nexpect_body = \"rs1\""), None),
        (https("host = \"www.example.com\"\nexpect_body = \"rs2\""), Some("`rs2` is not in its answer")),
        (https("host = \"other.example.com\""), Some("TLS")),
        ("type = \"https\"\nport = 443\nhost = \"www.example.com\"".to_owned(), Some("TLS")),
        ("type = \"https\"\nport = 443\nverify = false".to_owned(), None),
        ("type = \"tcp\"\nport = 443".to_owned(), None),
        ("type = \"tcp\"\nport = 444".to_owned(), Some("refused")),
    ];
    // Nobody is there at 10.0.0.13.
    let list = [(format!("{}:80", lab.server_ip(0)), ""), ("10.0.0.13:80".to_owned(), "")];
    let configs: Vec<_> =
        cases.iter().map(|(health, _)| lab.config_head() + &service("", &list, health)).collect();
    lab.start_sluiced(&configs[0]).unwrap();
    for (config, (health, wanted)) in configs.iter().zip(&cases) {
        lab.write_config(config).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
        let first = if wanted.is_none() { "up" } else { "down" };
        // A host that nobody is at is unreachable as soon as ARP says so.
        let is_gone = |state: &str| state == "down" || state == "unreachable";
        // A new check begins with what is known, so that it must have asked.
        let has_asked = || {
            let shown = lab.json(&["service", "show", "web"]).unwrap();
            let check = &shown["servers"][0]["check"];
            let said = check["error"].as_str().unwrap_or_default();
            check["asked"].as_u64() >= Some(3) && wanted.is_none_or(|wanted| said.contains(wanted))
        };
        let came = wait_until(SOON, || {
            matches!(&lab.server_states()[..], [one, two] if one == first && is_gone(two)) && has_asked()
        });
        assert!(came, "{health}: {}", lab.sluice(&["service", "show", "web"]).unwrap());
    }
}

#[test]
fn https_takes_what_curl_takes_and_a_certificate_that_is_its_own_authority() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    let folder = lab.folder().to_owned();
    let dir = folder.display().to_string();
    let openssl =
        |line: &str| run(Command::new("openssl").args(line.split_whitespace()).current_dir(&folder)).unwrap();
    let keys = ["rsa:2048", "rsa:1024", "ec -pkeyopt ec_paramgen_curve:secp521r1", "rsa:2048"];
    for (at, key) in keys.iter().enumerate() {
        openssl(&format!(
            "req -newkey {key} -nodes -keyout {at}.key -out {at}.req -subj /CN=www.example.com"
        ));
        // Without extensions it is one of version 1.
        openssl(&format!("x509 -req -in {at}.req -signkey {at}.key -out {at}.pem -days 2"));
    }
    openssl(
        "req -x509 -key 3.key -out 3.pem -days 2 -subj /CN=own -addext subjectAltName=DNS:www.example.com",
    );
    for at in 0..keys.len() {
        let mut server = lab.server(0).command("openssl");
        server.args(["s_server", "-quiet", "-www", "-accept", &(4430 + at).to_string()]);
        server.args(["-cipher", "DEFAULT:@SECLEVEL=0"]);
        server.args(["-cert", &format!("{dir}/{at}.pem"), "-key", &format!("{dir}/{at}.key")]);
        lab.start(&format!("s_server-{at}"), &mut server).unwrap();
        lab.wait_for_listener(0, 4430 + at as u16).unwrap();
    }
    let own = "host = \"www.example.com:8443\"";
    let cases = [
        (4430, "verify = false".to_owned(), None),
        (4431, "verify = false".to_owned(), None),
        (4432, "verify = false".to_owned(), None),
        (4433, format!("ca_file = \"{dir}/3.pem\"\n{own}"), None),
        (4433, own.to_owned(), Some("name its file: ca_file")),
        (
            4433,
            format!("ca_file = \"{dir}/3.pem\"\nhost = \"else.example.com\""),
            Some("is not for else.example.com"),
        ),
    ];
    let list = [(format!("{}:80", lab.server_ip(0)), "")];
    let configs: Vec<_> = cases
        .iter()
        .map(|(port, more, _)| {
            let health = format!("type = \"https\"\npath = \"/\"\nport = {port}\n{more}");
            lab.config_head() + &service("", &list, &health)
        })
        .collect();
    lab.start_sluiced(&configs[0]).unwrap();
    for (config, (port, more, wanted)) in configs.iter().zip(&cases) {
        lab.write_config(config).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
        let came = wait_until(SOON, || {
            let shown = lab.json(&["service", "show", "web"]).unwrap();
            let server = &shown["servers"][0];
            let said = server["check"]["error"].as_str().unwrap_or_default();
            let state = if wanted.is_none() { "up" } else { "down" };
            server["state"] == state
                && server["check"]["asked"].as_u64() >= Some(3)
                && wanted.is_none_or(|wanted| said.contains(wanted))
        });
        assert!(came, "{port} {more}: {}", lab.sluice(&["service", "show", "web"]).unwrap());
    }
}

#[test]
fn servers_that_want_a_proxy_header_are_checked_with_one() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx_with(0, "listen 80 proxy_protocol;", 80).unwrap();
    for version in [1, 2] {
        let rules = format!("client_address = {{ type = \"proxy\", version = {version} }}");
        let config =
            lab.config_head() + &service(&rules, &servers(&lab, 1, 80), "type = \"http\"\npath = \"/\"");
        if version == 1 {
            lab.start_sluiced(&config).unwrap();
        } else {
            lab.write_config(&config).unwrap();
            lab.sluice(&["config", "reload"]).unwrap();
        }
        lab.await_states(&["up"]);
        let asked = || {
            let check = lab.json(&["server", "list"]).unwrap()[0]["check"].clone();
            assert_eq!(check["failed"], 0, "{check}");
            check["asked"].as_u64() >= Some(3)
        };
        assert!(wait_until(SOON, asked));
        assert_eq!(answers(&lab, 10), ["rs1"]);
    }
}

#[test]
fn too_many_down_at_once_and_all_are_used_until_they_are_back() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    let ports: Vec<u16> = (8001..8011).collect();
    let folder = lab.start_nginx_on(0, &ports).unwrap();
    let list: Vec<_> = ports.iter().map(|port| (format!("10.0.0.11:{port}"), "")).collect();
    let config =
        lab.config_head() + &service("protect_threshold = 0.4", &list, "type = \"http\"\npath = \"/\"");
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"; 10]);
    let protected = || lab.json(&["service", "show", "web"]).unwrap()["protected"] == true;
    assert!(!protected());
    // The checks' path breaks for six of ten, as by a bad deployment of the check itself.
    for port in &ports[..6] {
        std::fs::write(folder.join(format!("{port}.broken")), "").unwrap();
    }
    assert!(wait_until(SOON, protected), "{:?}", lab.server_states());
    let count = |lab: &Lab| answers(lab, 100).len();
    // All ten get sessions; nginx answers 500 with a page of its own on six.
    let weights = lab.json(&["service", "show", "web"]).unwrap();
    let used = weights["servers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|server| server["effective_weight"] == 1)
        .count();
    assert_eq!(used, 10);
    assert!(lab.json(&["status"]).unwrap()["protected"][0] == "web");
    // One back: half are healthy, which is threshold and hysteresis.
    std::fs::remove_file(folder.join("8001.broken")).unwrap();
    assert!(wait_until(SOON, || !protected()));
    lab.await_states(&["up", "down", "down", "down", "down", "down", "up", "up", "up", "up"]);
    assert_eq!(count(&lab), 5);
}

#[test]
fn a_zone_that_is_lost_spills_to_the_region_and_comes_back() {
    let mut lab = Lab::new(Plan { servers: 3, ..Plan::default() }).unwrap();
    for at in 0..3 {
        lab.start_nginx_on(at, &[80, 81]).unwrap();
    }
    let places =
        ["zone = \"a\"\nregion = \"r\"", "zone = \"b\"\nregion = \"r\"", "zone = \"x\"\nregion = \"y\""];
    let list: Vec<_> = (0..3)
        .flat_map(|at| [80, 81].map(|port| (format!("{}:{port}", lab.server_ip(at)), places[at])))
        .collect();
    let config = lab.config_head()
        + "\n[location]\nzone = \"a\"\nregion = \"r\"\n"
        + &service("", &list, "type = \"http\"\npath = \"/\"");
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"; 6]);
    assert_eq!(answers(&lab, 40), ["rs1:80", "rs1:81"]);

    lab.program(0).signal(Signal::STOP);
    lab.await_states(&["down", "down", "up", "up", "up", "up"]);
    assert_eq!(answers(&lab, 40), ["rs2:80", "rs2:81"]);
    lab.program(1).signal(Signal::STOP);
    lab.await_states(&["down", "down", "down", "down", "up", "up"]);
    assert_eq!(answers(&lab, 40), ["rs3:80", "rs3:81"]);
    lab.program(0).signal(Signal::CONT);
    lab.await_states(&["up", "up", "down", "down", "up", "up"]);
    assert_eq!(answers(&lab, 40), ["rs1:80", "rs1:81"]);
    let tiers = lab.json(&["service", "show", "web"]).unwrap()["tiers"].clone();
    assert_eq!(tiers[0]["share"], 1.0, "{tiers}");
    // Awake, so that it can end.
    lab.program(1).signal(Signal::CONT);
}

#[test]
fn flapping_servers_leave_sessions_on_healthy_ones_alone() {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    let ports: Vec<u16> = (8001..8021).collect();
    lab.start_nginx_on(0, &ports).unwrap();
    lab.start_nginx_on(1, &[80]).unwrap();
    let mut list: Vec<_> = ports.iter().map(|port| (format!("10.0.0.11:{port}"), "weight = 1")).collect();
    list.push(("10.0.0.12:80".to_owned(), "weight = 40"));
    let config = lab.config_head()
        + &service("protect_threshold = \"off\"", &list, "type = \"tcp\"")
            .replace("interval = \"200ms\"", "interval = \"500ms\"");
    lab.start_sluiced(&config).unwrap();
    assert!(wait_until(SOON, || lab.server_states().iter().all(|state| state == "up")));
    nft(&lab, 0, "add table inet f");
    nft(&lab, 0, "add chain inet f i { type filter hook input priority 0 ; }");

    // A download from the healthy server that lasts as long as the flapping.
    let data = lab.folder().join("nginx-2").join("data");
    std::fs::write(&data, vec![b'x'; 4 << 20]).unwrap();
    let download = |lab: &Lab| {
        let mut curl = lab.client().command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "90", "--limit-rate", "64k"]);
        curl.args(["--output", "/dev/null", "--write-out", "%{size_download}"]);
        curl.arg(format!("http://{VIP}/data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        curl.spawn().unwrap()
    };
    // Round robin: some of these meet the healthy server, the others have no such file.
    let downloads: Vec<_> = (0..21).map(|_| download(&lab)).collect();
    let began = Instant::now();
    let mut down = false;
    while began.elapsed() < Duration::from_secs(60) {
        down = !down;
        let line = if down {
            "add rule inet f i tcp dport 8001-8020 reject with tcp reset"
        } else {
            "flush chain inet f i"
        };
        nft(&lab, 0, line);
        let wanted = if down { "down" } else { "up" };
        let came = wait_until(Duration::from_secs(5), || {
            lab.server_states()[..20].iter().all(|state| state == wanted)
        });
        assert!(came, "{wanted}: {:?}", lab.server_states());
        if down {
            assert_eq!(answers(&lab, 20), ["rs2:80"], "nobody meets a server that is down");
        }
    }
    let finished = downloads
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .filter(|output| output.status.success())
        .map(|output| assert_eq!(String::from_utf8_lossy(&output.stdout), (4 << 20).to_string()))
        .count();
    assert!(finished >= 1, "the downloads from the healthy server must end well");
}

#[test]
fn servers_that_refuse_sessions_are_kept_out_without_any_check() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    lab.start_nginx_on(1, &[80]).unwrap();
    let rules =
        service("", &servers(&lab, 2, 80), "") + "\n[service.passive]\nfailures = 1\ninhibit = \"3s\"\n";
    let config = lab.config_head() + &rules;
    lab.start_sluiced(&config).unwrap();
    // Nobody listens on the first: its kernel answers by resets.
    assert!(answers(&lab, 10).iter().any(|answer| answer.contains("curl")));
    assert!(wait_until(SOON, || lab.server_states() == ["inhibited", "up"]), "{:?}", lab.server_states());
    assert_eq!(answers(&lab, 20), ["rs2:80"]);
    lab.start_nginx_on(0, &[80]).unwrap();
    assert!(wait_until(SOON, || lab.server_states() == ["up", "up"]));
    assert_eq!(answers(&lab, 20), ["rs1:80", "rs2:80"]);
    let log = lab.sluiced().unwrap().output();
    assert!(log.contains("server 10.0.0.11:80 does not answer sessions; it gets none for 3 s"), "{log}");
}

#[test]
fn loaded_servers_get_less_and_those_that_come_back_begin_slowly() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    for (at, load) in [(0, "1.6"), (1, "0.5")] {
        lab.start_nginx_with(at, &format!("listen 80; add_header X-Load {load};"), 80).unwrap();
    }
    let health = "type = \"http\"\npath = \"/\"\nload_header = \"X-Load\"\nload_limit = 0.8";
    let config = lab.config_head() + &service("slow_start = \"8s\"", &servers(&lab, 2, 80), health);
    lab.start_sluiced(&config).unwrap();
    let weights = || {
        let shown = lab.json(&["service", "show", "web"]).unwrap();
        let servers = shown["servers"].as_array().unwrap().clone();
        servers.iter().map(|server| server["effective_weight"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    // Half of its weight, because it has twice the load that is good.
    let came = wait_until(SOON * 3, || matches!(weights()[..], [one, 1_000] if (450..=550).contains(&one)));
    assert!(came, "{:?}", weights());
    // Both began slowly, side by side.
    let ramps = || lab.json(&["service", "show", "web"]).unwrap()["servers"][0]["slow_start"] == 1.0;
    assert!(wait_until(SOON * 3, ramps));
    lab.server(1).ip("link set eth0 down").unwrap();
    assert!(wait_until(SOON, || weights()[1] == 0), "{:?}", weights());
    lab.server(1).ip("link set eth0 up").unwrap();
    assert!(wait_until(SOON, || weights()[1] > 0));
    let mut seen: Vec<u64> = Vec::new();
    assert!(wait_until(SOON * 3, || {
        let share = weights();
        let part = share[1] * 100 / share[0].max(1);
        if seen.last() != Some(&part) {
            seen.push(part);
        }
        matches!(share[..], [one, 1_000] if (450..=550).contains(&one))
    }));
    assert!(seen.len() >= 6 && seen.is_sorted(), "its share grows step by step: {seen:?}");
}

#[test]
fn nobody_is_used_unseen_and_other_words_of_a_check_change_nobodys_state() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    lab.start_nginx_on(0, &[80]).unwrap();
    let config =
        lab.config_head() + &service("protect_threshold = 0.4", &servers(&lab, 2, 80), "type = \"tcp\"");
    lab.start_sluiced(&config).unwrap();
    // Nobody listens on the second: whoever got it would be refused. Clients try again until the first is known.
    assert_eq!(answers(&lab, 20), ["rs1:80"]);
    lab.await_states(&["up", "down"]);
    for word in ["interval=1s", "timeout=300ms", "type=icmp", "type=tcp"] {
        lab.sluice(&["service", "set", "web", &format!("health.{word}")]).unwrap();
        assert_eq!(lab.server_states(), ["up", "down"], "{word}");
    }
    // Other words may lead to another finding, of course, and soon.
    lab.sluice(&["service", "set", "web", "health.type=icmp", "health.rise=1"]).unwrap();
    lab.await_states(&["up", "up"]);
}

#[test]
fn loads_are_found_in_what_a_server_answers() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    for (at, load) in [(0, "1.6"), (1, "0.5")] {
        let place = format!("location /load {{ return 200 '{{\"cpu\": [{{\"load\": {load}}}]}}'; }}");
        lab.start_nginx_with(at, &format!("listen 80; {place}"), 80).unwrap();
    }
    let health = "type = \"http\"\npath = \"/load\"\nload_field = \"cpu.0.load\"\nload_limit = 0.8";
    let config = lab.config_head() + &service("", &servers(&lab, 2, 80), health);
    lab.start_sluiced(&config).unwrap();
    let reliefs = || {
        let shown = lab.json(&["service", "show", "web"]).unwrap();
        let servers = shown["servers"].as_array().unwrap().clone();
        servers.iter().map(|server| server["relief"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert!(wait_until(SOON * 3, || reliefs() == [0.5, 1.0]), "{:?}", reliefs());
}

#[test]
fn a_host_without_a_way_to_the_servers_says_so_and_takes_none_for_down() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let head = lab.config_head().replace("name = \"lan\"", "name = \"lan\"\nkernel = false");
    for kind in ["tcp", "udp\"\nsend = \"x", "icmp"] {
        let check = format!("type = \"{kind}\"");
        let config = head.clone()
            + &service("", &servers(&lab, 1, 80), &check)
                .replace("\"tcp\"\nforward", "[\"tcp\", \"udp\"]\nforward");
        if kind == "tcp" {
            lab.start_sluiced(&config).unwrap();
        } else {
            lab.write_config(&config).unwrap();
            lab.sluice(&["config", "reload"]).unwrap();
        }
        let unasked = || {
            let shown = lab.json(&["service", "show", "web"]).unwrap();
            let check = shown["servers"][0]["check"].clone();
            check["unasked"].as_u64() > Some(3)
                && check["error"].to_string().contains("the host's kernel has no route to it")
        };
        assert!(wait_until(SOON, unasked), "{}", lab.json(&["service", "show", "web"]).unwrap());
        let status = lab.sluice(&["status"]).unwrap();
        assert!(status.contains("port lan has kernel = false, so the host cannot ask"), "{status}");
        assert!(!lab.sluiced().unwrap().output().contains("is down"), "{}", lab.sluiced().unwrap().output());
    }
}

#[test]
fn servers_of_ipv6_are_checked_from_their_local_address() {
    let mut lab = Lab::new(Plan { ipv6: true, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    nft(&lab, 0, "add table inet f");
    nft(&lab, 0, "add chain inet f i { type filter hook input priority 0 ; }");
    nft(&lab, 0, "add rule inet f i tcp dport 80 ip6 saddr != 2001:db8:b::200 counter reject");
    let rules = format!(
        "\n[[service]]\nname = \"web\"\nlisten = \"[{VIP6}]:80\"\nlocal_addresses = [\"2001:db8:b::200\"]\n[[service.server]]\naddress = \"[2001:db8:b::11]:80\"\n[[service.server]]\naddress = \"[2001:db8:b::12]:80\"\n[service.health]\ntype = \"http\"\ninterval = \"200ms\"\ntimeout = \"500ms\"\nfall = 2\n"
    );
    let config = lab.config_head() + &rules;
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "down"]);
    let mut all = lab.http_to(&format!("[{VIP6}]"), 10, 2).unwrap();
    all.dedup();
    assert_eq!(all, ["rs1"]);
    for (kind, wanted) in [("icmp", ["up", "up"]), ("tcp", ["up", "down"])] {
        lab.write_config(&config.replace("\"http\"", &format!("\"{kind}\""))).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
        lab.await_states(&wanted);
    }
}
