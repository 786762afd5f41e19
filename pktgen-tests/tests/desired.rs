//! The desired state: changes by command, by file and back, under load and by several hands.

use pktgen_tests::lab::{Lab, Plan, VIP, program};
use pktgen_tests::process::{never_within, run, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A lab with two web servers, of which the service has the first.
fn lab() -> Lab {
    let mut lab = Lab::new(Plan::default()).unwrap();
    for at in 0..2 {
        lab.start_nginx(at, 80).unwrap();
    }
    let config = format!(
        "# the lab's file\n{}{}# the end\n",
        lab.config_head(),
        lab.service("web", "tcp", 80, "rr", &[0]).replace("weight = 1", "weight = 1   # the first")
    );
    lab.start_sluiced(&config).unwrap();
    lab
}

fn sluice(lab: &Lab, line: &str) -> Result<String, String> {
    lab.sluice(&line.split_whitespace().collect::<Vec<_>>())
}

/// Who answers, of twenty requests.
fn answers(lab: &Lab) -> Vec<String> {
    let mut all = lab.http(20, 4).unwrap();
    all.sort();
    all.dedup();
    all
}

#[test]
fn servers_and_services_come_change_and_go_by_command() {
    let mut lab = lab();
    assert_eq!(answers(&lab), ["rs1"]);
    sluice(&lab, "server add web 10.0.0.12:80 weight=2 zone=b").unwrap();
    assert_eq!(answers(&lab), ["rs1", "rs2"]);
    sluice(&lab, "server set web 10.0.0.11:80 weight=0").unwrap();
    assert_eq!(answers(&lab), ["rs2"]);
    let refusals = [
        ("server add web 10.0.0.12:80", "is a server of web already"),
        ("server add web 192.0.2.10:80", "is one of the appliance's VIPs"),
        ("server add web 10.0.0.13:80 wieght=2", "did you mean `weight`?"),
        ("server add web 10.0.0.13:80 weight=-1", "is below 0"),
        ("server add wbe 10.0.0.13:80", "there is no service `wbe`"),
        ("server remove web 10.0.0.19:80", "web has no server 10.0.0.19:80"),
        ("service add web listen=192.0.2.11:80", "there is a service `web` already"),
        (
            "service add two listen=192.0.2.10:80 local_addresses=[\"10.0.0.201\"]",
            "is service `web`'s already",
        ),
        ("service set web scheduler=rrr", "did you mean `rr`?"),
        ("service switch web rest", "say for how long"),
        ("service switch web zone --for 1h", "web has no server in tier zone"),
    ];
    for (line, expected) in refusals {
        let said = sluice(&lab, line).unwrap_err();
        assert!(said.contains(expected), "{line}: {said}");
    }

    sluice(&lab, "service add two listen=192.0.2.11:80 local_addresses=[\"10.0.0.201\"] server=[{address=\"10.0.0.11:80\"}]").unwrap();
    lab.client().ip("route add 192.0.2.11/32 dev eth0").unwrap_or_default();
    let second = || lab.http_to("192.0.2.11", 4, 1).unwrap();
    assert_eq!(second(), ["rs1"; 4]);
    sluice(&lab, "service set two health.type=tcp health.interval=200ms").unwrap();
    let state = || lab.json(&["service", "show", "two"]).unwrap()["servers"][0]["state"].clone();
    assert!(wait_until(Duration::from_secs(5), || state() == "up"));

    // What the files say, what runs, and the way back.
    let diff = sluice(&lab, "config diff").unwrap();
    assert!(diff.contains("- service two") && diff.contains("changes by command"), "{diff}");
    sluice(&lab, "config export --write").unwrap();
    let text = std::fs::read_to_string(lab.config_path()).unwrap();
    for kept in ["# the lab's file", "# the first", "# the end", "zone = \"b\"", "name = \"two\""] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    assert!(sluice(&lab, "config diff").unwrap().contains("the files say what runs"));
    let before = lab.json(&["service", "list"]).unwrap();
    sluice(&lab, "config reload").unwrap();
    let names = |list: &serde_json::Value| {
        list.as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&lab.json(&["service", "list"]).unwrap()), names(&before));
    sluice(&lab, "service remove two").unwrap();
    let address = "192.0.2.11:80".parse().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(600));
    assert!(lab.client().inside(connect).is_err());
    let said = sluice(&lab, "config rollback").unwrap();
    assert!(said.contains("+ service two"), "{said}");
    assert_eq!(second(), ["rs1"; 4]);
    let log = lab.sluiced().unwrap().output();
    assert!(!log.contains("were given up"), "what was written is in the files: {log}");
}

#[test]
fn what_somebody_edits_meanwhile_is_not_overwritten() {
    let lab = lab();
    sluice(&lab, "server add web 10.0.0.12:80").unwrap();
    let edited = std::fs::read_to_string(lab.config_path()).unwrap() + "# by hand\n";
    lab.write_config(&edited).unwrap();
    let said = sluice(&lab, "config export --write").unwrap_err();
    assert!(said.contains("was edited since it was read"), "{said}");
    assert_eq!(std::fs::read_to_string(lab.config_path()).unwrap(), edited);
    // What runs can be printed, and taken up by hand.
    let printed = sluice(&lab, "config export").unwrap();
    assert!(printed.contains("10.0.0.12:80"), "{printed}");
    lab.write_config(&(printed + "# by hand\n")).unwrap();
    sluice(&lab, "config reload").unwrap();
    sluice(&lab, "server set web 10.0.0.12:80 weight=3").unwrap();
    sluice(&lab, "config export --write").unwrap();
    sluice(&lab, "server set web 10.0.0.12:80 weight=4").unwrap();
    sluice(&lab, "config export --write").unwrap();
    let text = std::fs::read_to_string(lab.config_path()).unwrap();
    assert!(text.contains("weight = 4") && text.contains("# by hand"), "{text}");
}

#[test]
fn a_drained_server_leaves_at_its_deadline_and_a_switch_overrules_for_a_while() {
    let lab = lab();
    sluice(&lab, "server add web 10.0.0.12:80").unwrap();
    sluice(&lab, "service switch web 10.0.0.12:80 --for 2s").unwrap();
    assert_eq!(answers(&lab), ["rs2"]);
    let shown = lab.json(&["service", "show", "web"]).unwrap();
    assert_eq!(shown["switch"]["to"], "10.0.0.12:80");
    assert!(wait_until(Duration::from_secs(5), || lab.json(&["service", "show", "web"]).unwrap()["switch"]
        .is_null()));
    // Both edges can be read afterwards.
    let events = || lab.sluice(&["events", "--service", "web"]).unwrap();
    assert!(wait_until(Duration::from_secs(5), || events().contains("the switch is over")), "{}", events());
    assert_eq!(answers(&lab), ["rs1", "rs2"]);
    let servers = || lab.json(&["service", "show", "web"]).unwrap()["servers"].as_array().unwrap().len();
    sluice(&lab, "server drain web 10.0.0.12:80 --for 1s").unwrap();
    assert_eq!((servers(), answers(&lab)), (2, vec!["rs1".to_owned()]));
    assert!(wait_until(Duration::from_secs(5), || servers() == 1));
    // What it still has ends then, and both ends are told.
    sluice(&lab, "service set web reset_on_expiry=true").unwrap();
    let mut streams: Vec<_> =
        (0..2).map(|_| lab.client().inside(|| TcpStream::connect((VIP, 80)).unwrap())).collect();
    let ask = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut room = [0; 1024];
        stream.read(&mut room).map(|len| String::from_utf8_lossy(&room[..len]).contains("200 OK"))
    };
    assert!(streams.iter_mut().all(|stream| ask(stream).unwrap()));
    sluice(&lab, "server add web 10.0.0.12:80").unwrap();
    sluice(&lab, "server drain web 10.0.0.11:80 --for 1s").unwrap();
    assert!(streams.iter_mut().all(|stream| ask(stream).unwrap()), "they go on until then");
    assert!(wait_until(Duration::from_secs(5), || servers() == 1));
    for stream in &mut streams {
        assert_eq!(ask(stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(answers(&lab), ["rs2"]);
    sluice(&lab, "server add web 10.0.0.11:80").unwrap();
    sluice(&lab, "server remove web 10.0.0.12:80").unwrap();
    // A whole service: what it has goes on until its deadline, and nobody comes.
    sluice(&lab, "service add two listen=192.0.2.11:80 local_addresses=[\"10.0.0.201\"] server=[{address=\"10.0.0.11:80\"}]").unwrap();
    let connect = || {
        lab.client().inside(|| {
            TcpStream::connect_timeout(&"192.0.2.11:80".parse().unwrap(), Duration::from_millis(600))
        })
    };
    let mut stream = connect().unwrap();
    assert!(ask(&mut stream).unwrap());
    sluice(&lab, "service drain two --for 2s").unwrap();
    assert!(ask(&mut stream).unwrap() && connect().is_err());
    assert!(sluice(&lab, "status").unwrap().contains("two is draining: it takes no new sessions"));
    let services = || lab.json(&["service", "list"]).unwrap().as_array().unwrap().len();
    assert!(wait_until(Duration::from_secs(6), || services() == 1));
    assert!(ask(&mut stream).is_err());
    // One that gets a weight again stays.
    sluice(&lab, "server add web 10.0.0.12:80").unwrap();
    sluice(&lab, "server drain web 10.0.0.12:80 --for 1s").unwrap();
    sluice(&lab, "server set web 10.0.0.12:80 weight=1").unwrap();
    assert!(never_within(Duration::from_secs(2), || servers() == 1));
}

#[test]
fn fragments_are_read_and_changes_go_back_into_them() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let folder = lab.folder().join("conf.d");
    std::fs::create_dir(&folder).unwrap();
    let fragment = folder.join("10-web.toml");
    std::fs::write(&fragment, format!("# the web team's\n{}", lab.service("web", "tcp", 80, "rr", &[0])))
        .unwrap();
    let head = lab.config_head();
    lab.start_sluiced(&head).unwrap();
    assert_eq!(answers(&lab), ["rs1"]);
    sluice(&lab, "server set web 10.0.0.11:80 weight=7").unwrap();
    sluice(&lab, "config export --write").unwrap();
    let text = std::fs::read_to_string(&fragment).unwrap();
    assert!(text.contains("# the web team's") && text.contains("weight = 7"), "{text}");
    assert_eq!(std::fs::read_to_string(lab.config_path()).unwrap(), head);
    std::fs::write(&fragment, text.replace("weight = 7", "weight = -7")).unwrap();
    let said = sluice(&lab, "config reload").unwrap_err();
    assert!(said.contains("conf.d/10-web.toml:") && said.contains("-7 is below 0"), "{said}");
}

#[test]
fn the_last_good_state_is_used_when_the_file_is_bad_at_start() {
    let mut lab = lab();
    let good = std::fs::read_to_string(lab.config_path()).unwrap();
    lab.sluiced().unwrap().stop();
    lab.start_sluiced(&good.replace("scheduler = \"rr\"", "scheduler = \"rrr\"")).unwrap();
    assert_eq!(answers(&lab), ["rs1"]);
    let log = lab.sluiced().unwrap().output();
    assert!(log.contains("did you mean `rr`?") && log.contains("the last good state runs"), "{log}");
    let warned = || sluice(&lab, "status").unwrap().contains("the last good state runs");
    assert!(warned());
    lab.write_config(&good).unwrap();
    sluice(&lab, "config reload").unwrap();
    assert!(!warned());
}

#[test]
fn another_file_never_runs_instead_of_the_one_that_was_named() {
    let mut lab = lab();
    lab.sluiced().unwrap().stop();
    let mut command = lab.director().command(&program("sluiced").display().to_string());
    command.arg("--config").arg(lab.folder().join("typo.toml"));
    let said = run(&mut command).unwrap_err();
    assert!(said.contains("typo.toml: cannot be read") && !said.contains("last good"), "{said}");
    // A folder of fragments that is not what it was is no folder without services, at the start as later.
    let good = std::fs::read_to_string(lab.config_path()).unwrap();
    let folder = lab.folder().join("conf.d");
    std::os::unix::fs::symlink("/nowhere", &folder).unwrap();
    lab.start_sluiced(&good).unwrap();
    assert!(sluice(&lab, "status").unwrap().contains("the last good state runs"));
    assert_eq!(answers(&lab), ["rs1"]);
    std::fs::remove_file(&folder).unwrap();
    assert!(sluice(&lab, "config reload").unwrap().contains("services  0 added, 0 changed, 0 removed"));
    // A reload that meets one says so, also when a signal asked for it, as long as it is so.
    std::os::unix::fs::symlink("conf.d", &folder).unwrap();
    lab.sluiced().unwrap().signal(Signal::HUP);
    let warned = || sluice(&lab, "status").unwrap().contains("conf.d: cannot be read");
    assert!(wait_until(Duration::from_secs(5), warned));
    std::fs::remove_file(&folder).unwrap();
    sluice(&lab, "config reload").unwrap();
    assert!(!warned());
    let state = lab.folder().join("state");
    let kept: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap()).collect();
    use std::os::unix::fs::MetadataExt;
    let mode = |file: &std::fs::DirEntry| file.metadata().unwrap().mode() & 0o777;
    assert!(!kept.is_empty() && kept.iter().all(|file| mode(file) == 0o600), "{kept:?}");
}

#[test]
fn a_file_that_does_not_answer_holds_nothing() {
    let lab = lab();
    let folder = lab.folder().join("conf.d");
    std::fs::create_dir(&folder).unwrap();
    run(Command::new("mkfifo").arg(folder.join("10-web.toml"))).unwrap();
    let said = sluice(&lab, "config reload").unwrap_err();
    assert!(said.contains("10-web.toml: cannot be read: it is not an ordinary file"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
    let authorities = lab.folder().join("ca.pem");
    run(Command::new("mkfifo").arg(&authorities)).unwrap();
    let key = format!("health.ca_file={}", authorities.display());
    let said = lab.sluice(&["service", "set", "web", "health.type=https", &key]).unwrap_err();
    assert!(said.contains("ca.pem cannot be read: it is not an ordinary file"), "{said}");
    lab.client().ip("neigh flush all").unwrap();
    assert_eq!(answers(&lab), ["rs1"]);
    let removed = sluice(&lab, "service add two listen=192.0.2.11:80 local_addresses=[\"10.0.0.201\"] server=[{address=\"10.0.0.11:80\"}]")
        .and_then(|_| sluice(&lab, "config reload"))
        .unwrap();
    assert!(removed.contains("services  0 added, 0 changed, 1 removed"), "{removed}");
    assert!(removed.contains("servers   0 added, 0 changed, 1 removed"), "{removed}");
}

#[test]
fn who_is_no_operator_may_only_look() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let config = lab.config_head().replace("[admin]\n", "[admin]\ngroup = \"nogroup\"\n")
        + &lab.service("web", "tcp", 80, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    let nobody = |line: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program("sluice"));
        run(command.arg("--socket").arg(lab.socket()).args(line.split_whitespace()))
    };
    assert!(nobody("status").unwrap().contains("1 of 1 ready"));
    for line in [
        "server set web 10.0.0.11:80 weight=0",
        "config reload",
        "service remove web",
        "config export --write",
    ] {
        let said = nobody(line).unwrap_err();
        assert!(said.contains("nobody") && said.contains("may look and not change"), "{line}: {said}");
    }
    assert_eq!(answers(&lab), ["rs1"]);
    // A reload makes them operators, and not any more; another group has the socket then.
    lab.write_config(&config.replace("[admin]\n", "[admin]\noperators = [\"@nogroup\"]\n")).unwrap();
    sluice(&lab, "config reload").unwrap();
    nobody("server set web 10.0.0.11:80 weight=3").unwrap();
    // An operator is not the appliance's owner: no programs, no files.
    for key in ["health.command=/usr/bin/id", "health.ca_file=/etc/shadow", "discover.path=/etc/shadow"] {
        let said = nobody(&format!("service set web {key}")).unwrap_err();
        assert!(said.contains("root sets it"), "{said}");
    }
    lab.write_config(&config).unwrap();
    sluice(&lab, "config reload").unwrap();
    assert!(nobody("server set web 10.0.0.11:80 weight=4").is_err());
    lab.write_config(&config.replace("group = \"nogroup\"\n", "")).unwrap();
    sluice(&lab, "config reload").unwrap();
    assert!(nobody("status").unwrap_err().contains("ermission denied"));
    let log = lab.sluiced().unwrap().output();
    assert!(log.contains("server.set") && log.contains("by nobody (pid"), "{log}");
}

#[test]
fn a_hundred_reloads_of_a_thousand_services_harm_no_session() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    for at in 0..2 {
        lab.start_nginx(at, 80).unwrap();
    }
    let web = lab.service("web", "tcp", 80, "rr", &[0, 1]);
    let config = |round: usize| {
        let mut text = lab.config_head() + &web;
        for n in 0..1_000 {
            // One in a hundred is another each time.
            let weight = if n % 100 == round % 100 { round + 2 } else { 1 };
            let _ = write!(
                text,
                "\n[[service]]\nname = \"s{n}\"\nlisten = \"192.0.2.{}:{}\"\nprotocol = \"udp\"\nlocal_addresses = [\"10.0.0.201\"]\n[[service.server]]\naddress = \"10.0.0.{}:80\"\nweight = {weight}\n",
                100 + n % 100,
                1_000 + n / 100,
                11 + n % 2
            );
        }
        text
    };
    let texts: Vec<_> = (0..100).map(config).collect();
    lab.start_sluiced(&texts[0]).unwrap();
    let mut wrk = lab.client().command("wrk");
    wrk.args(["-t1", "-c500", "-d300s", "--timeout", "10s", "--latency", &format!("http://{VIP}/")]);
    let load = wrk.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let live = || lab.json(&["session", "count"]).unwrap()["active"].as_u64().unwrap();
    assert!(wait_until(Duration::from_secs(10), || live() >= 500), "{}", live());
    for (round, text) in texts.iter().enumerate() {
        let is_bad = round % 5 == 4;
        let bad = || text.replacen("weight = ", "weight = -", 1);
        lab.write_config(&if is_bad { bad() } else { text.clone() }).unwrap();
        let said = sluice(&lab, "config reload");
        assert_eq!(said.is_err(), is_bad, "{said:?}");
    }
    assert_eq!(live(), 500, "the same sessions live on");
    // It ends with its report then, however long the reloads took.
    kill_process(Pid::from_child(&load), Signal::INT).unwrap();
    let output = load.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("requests in"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    let created = lab.json(&["session", "count"]).unwrap()["created"].as_u64().unwrap();
    assert_eq!(created, 501, "wrk tries one before its 500; none was made anew");
}
