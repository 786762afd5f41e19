//! The daemon as an operator meets it: bad input, signals, reloads, what it says.

use pktgen_tests::lab::{Lab, Plan, VIP, program};
use pktgen_tests::process::{Daemon, Hugepages, run, wait_until};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn lab() -> Lab {
    Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap()
}

fn config(lab: &Lab) -> String {
    lab.config_head() + &lab.service("web", "tcp", 80, "wlc", &[0])
}

/// Starts a daemon that must fail: soon, with one line, which is returned, and status 1, or 78 where `--check` finds the
/// fault too: then the unit does not start it again.
fn failure(lab: &Lab, config: &str) -> String {
    let path = lab.folder().join("bad.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = lab.director().command(&program("sluiced").display().to_string());
    let begin = Instant::now();
    let mut daemon =
        Daemon::start(command.arg("--config").arg(&path), &lab.folder().join("bad.log")).unwrap();
    assert!(
        wait_until(2 * SECOND, || daemon.ended().is_some()),
        "still runs after {:?}: {}",
        begin.elapsed(),
        daemon.output()
    );
    let status = daemon.ended().unwrap();
    let check = Command::new(program("sluiced")).arg("--check").arg(&path).output().unwrap();
    let expected = if check.status.success() { 1 } else { 78 };
    assert_eq!(status.code(), Some(expected), "{status}: {}", daemon.output());
    // A machine with two cores has none left for control beside two workers, which is worth a warning.
    let output = daemon.output();
    let lines: Vec<_> = output.lines().filter(|line| !line.contains(": warning: ")).collect();
    assert_eq!(lines.len(), 1, "{output}");
    lines[0].to_owned()
}

/// A key for devices of which the operator says how they spread packets: any bytes do.
const KEY: &str = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa";

/// The same configuration for two workers with a queue each.
fn two_workers(config: &str) -> String {
    config
        .replace("workers = [1]", "workers = [1, 0]")
        .replace("iface=nic-wan", "iface=nic-wan,qpairs=2")
        .replace("iface=nic-lan", "iface=nic-lan,qpairs=2")
}

#[test]
fn what_cannot_start_says_why_in_one_line_and_soon() {
    let _none = Hugepages::none().unwrap();
    let lab = lab();
    let good = config(&lab);
    let cases = [
        (
            good.replace("iface=nic-lan", "iface=nonic"),
            "port lan: there is no interface nonic; `ip link` lists those there are",
        ),
        (
            good.replace("net_af_packet1,iface=nic-lan", "0000:ff:1f.7"),
            "port lan: there is no PCI device 0000:ff:1f.7",
        ),
        (good.replace("net_af_packet1,iface=nic-lan", "net_nodriver0"), "DPDK does not start"),
        (good.replace("workers = [1]", "workers = [99]"), "dataplane.workers[0]: core 99 is not there"),
        (
            good.replace("200_000", "1_000_000_000"),
            "dataplane.session_capacity: 1000000000 sessions per worker need",
        ),
        (
            good.replace("hugepages = \"auto\"", "hugepages = \"require\""),
            "of hugepages are required, 0 MB are free; run `sysctl -w vm.nr_hugepages=",
        ),
        (good.replace("sluice.sock", "nofolder\\u0000/x"), "admin.socket"),
        (
            good.replace("workers = [1]", "workers = [0, 1]"),
            "it has 1 receive and 1 transmit queues, 2 workers need one of each",
        ),
        (
            two_workers(&good)
                .replace("/24\"]", &format!("/24\"]\nrss = {{ fields = \"addresses\", key = \"{KEY}\" }}"))
                .replace("\"10.0.0.200\", \"10.0.0.201\"", "\"10.0.0.200\""),
            "has no local port towards 10.0.0.1",
        ),
    ];
    for (text, expected) in cases {
        let said = failure(&lab, &text);
        assert!(said.starts_with("sluiced: ") && said.contains(expected), "{said}\n  was to say {expected}");
        assert!(!lab.socket().exists(), "the socket was left behind");
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_is_not_disturbed() {
    let mut lab = lab();
    let good = config(&lab);
    lab.start_sluiced(&good).unwrap();

    let same_socket = failure(&lab, &good);
    assert!(same_socket.contains("another sluiced (pid"), "{same_socket}");
    let same_device = failure(&lab, &good.replace("sluice.sock", "other.sock"));
    assert!(same_device.contains("port wan: device nic-wan is in use by pid"), "{same_device}");

    assert_eq!(lab.json(&["status"]).unwrap()["services"], 1);
    assert!(lab.sluiced().unwrap().ended().is_none());
}

#[test]
fn sigterm_ends_it_cleanly_and_soon() {
    let mut lab = lab();
    let good = config(&lab);
    lab.start_sluiced(&good).unwrap();
    assert!(lab.socket().exists());

    for signal in [Signal::TERM, Signal::INT] {
        let begin = Instant::now();
        lab.sluiced().unwrap().signal(signal);
        assert!(wait_until(2 * SECOND, || lab.sluiced().unwrap().ended().is_some()));
        println!("stopped in {:?}", begin.elapsed());
        assert_eq!(lab.sluiced().unwrap().ended().unwrap().code(), Some(0));
        assert!(!lab.socket().exists());
        lab.start_sluiced(&good).unwrap();
    }
}

#[test]
fn check_tells_good_unreadable_and_wrong_apart() {
    let lab = lab();
    let status = |text: &str| {
        let path = lab.folder().join("check.toml");
        std::fs::write(&path, text).unwrap();
        let daemon = Command::new(program("sluiced")).arg("--check").arg(&path).output().unwrap();
        let command = Command::new(program("sluice")).args(["config", "check"]).arg(&path).output().unwrap();
        assert_eq!(daemon.status.code(), command.status.code());
        (command.status.code().unwrap(), String::from_utf8(command.stderr).unwrap())
    };
    assert_eq!(status(&config(&lab)).0, 0);
    assert_eq!(status("[dataplane").0, 1);
    let (code, said) = status(&config(&lab).replace("weight = 1", "weight = -5"));
    assert_eq!(code, 2);
    assert!(
        said.contains("check.toml:") && said.contains("service[0].server[0].weight: -5 is below 0"),
        "{said}"
    );
    assert_eq!(
        Command::new(program("sluice"))
            .args(["config", "check", "/nonexistent"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(1)
    );
    assert_eq!(
        Command::new(program("sluice")).args(["config", "chekc"]).output().unwrap().status.code(),
        Some(2)
    );
}

#[test]
fn a_bad_reload_changes_nothing_and_says_why() {
    let mut lab = lab();
    let good = config(&lab);
    lab.start_sluiced(&good).unwrap();
    let before = lab.json(&["service", "list"]).unwrap();

    for (bad, expected) in [
        (good.replace("weight = 1", "weight = -1"), "service[0].server[0].weight: -1 is below 0"),
        (good.replace("[[service]]", "[[servcie]]"), "did you mean `service`?"),
        (
            good.replace("session_capacity = 200_000", "session_capacity = 100"),
            "dataplane.session_capacity cannot change while sluiced runs",
        ),
        (
            good.replace("iface=nic-lan", "iface=nic-other"),
            "port lan's device cannot change while sluiced runs",
        ),
        ("[".into(), "not valid TOML"),
    ] {
        lab.write_config(&bad).unwrap();
        let said = lab.sluice(&["config", "reload"]).unwrap_err();
        assert!(said.contains("nothing changed") && said.contains(expected), "{said}");
        assert_eq!(lab.json(&["service", "list"]).unwrap(), before);
    }

    // SIGHUP does the same, and says it in the log.
    lab.sluiced().unwrap().signal(Signal::HUP);
    assert!(wait_until(2 * SECOND, || lab
        .sluiced()
        .unwrap()
        .output()
        .contains("not reloaded, nothing changed")));
    lab.write_config(&good.replace("weight = 1", "weight = 7")).unwrap();
    lab.sluiced().unwrap().signal(Signal::HUP);
    assert!(wait_until(2 * SECOND, || lab.json(&["server", "list"]).unwrap()[0]["weight"] == 7));
}

#[test]
fn a_service_that_cannot_forward_says_so() {
    let mut lab = lab();
    // A server that nobody is.
    let text = config(&lab).replace("10.0.0.11:80", "10.0.0.99:80");
    lab.start_sluiced(&text).unwrap();

    let unready = || lab.json(&["service", "show", "web"]).unwrap()["state"] == "unready";
    assert!(wait_until(10 * SECOND, unready));
    let service = lab.json(&["service", "show", "web"]).unwrap();
    let reason = service["reason"].as_str().unwrap();
    assert!(reason.starts_with("10.0.0.99 does not answer ARP on port lan; see whether"), "{reason}");
    assert_eq!(service["servers"][0]["state"], "unreachable");
    assert!(lab.sluice(&["status"]).unwrap().contains("web is unready: 10.0.0.99 does not answer ARP"));

    // A gateway that nobody is.
    let route = "\n[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n";
    lab.write_config(&(config(&lab) + route)).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    let warning = "gateway 192.0.2.1 does not answer ARP on port wan";
    assert!(wait_until(10 * SECOND, || lab.sluice(&["status"]).unwrap().contains(warning)));

    lab.write_config(&config(&lab).replace("weight = 1", "weight = 0")).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    let service = lab.json(&["service", "show", "web"]).unwrap();
    let reason = service["reason"].as_str().unwrap();
    assert!(reason.starts_with("every server has weight 0; give one"), "{reason}");
}

#[test]
fn every_verb_prints_a_table_and_json() {
    let mut lab = lab();
    let good = config(&lab);
    lab.start_sluiced(&good).unwrap();
    for verb in [
        &["status"][..],
        &["service", "list"],
        &["service", "show", "web"],
        &["server", "list"],
        &["session", "list"],
        &["session", "count"],
        &["local", "list"],
        &["port", "list"],
        &["neighbor", "list"],
        &["worker", "list"],
        &["stats"],
        &["stats", "drops"],
        &["config", "reload"],
    ] {
        assert!(!lab.sluice(verb).unwrap().trim().is_empty(), "{verb:?}");
        let json = lab.json(verb).unwrap();
        assert_eq!(json.is_array(), verb.last() == Some(&"list"), "{verb:?}");
    }
    let stats = lab.json(&["stats"]).unwrap();
    for key in ["id", "core", "busy_ratio", "rx_packets", "tx_packets"] {
        assert!(stats["workers"][0][key].is_number(), "{key}");
    }
    assert!(stats["drops"].as_object().unwrap().values().all(serde_json::Value::is_u64));
    assert!(lab.sluice(&["service", "show", "nobody"]).unwrap_err().contains("there is no service `nobody`"));
}

#[test]
fn without_a_daemon_the_command_says_so() {
    let said = run(Command::new(program("sluice")).args(["--socket", "/nonexistent/sluice.sock", "status"]))
        .unwrap_err();
    assert!(said.contains("is sluiced running?"), "{said}");
}

#[test]
fn the_command_does_not_link_dpdk() {
    let libraries = run(Command::new("ldd").arg(program("sluice"))).unwrap();
    assert!(!libraries.contains("librte"), "{libraries}");
}

/// A call of the admin protocol, without a command's process for each.
fn call(stream: &UnixStream, method: &str, params: &serde_json::Value) -> std::io::Result<String> {
    let request = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    (&mut &*stream).write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

#[test]
fn a_log_that_nobody_reads_holds_nothing() {
    let mut lab = lab();
    lab.start_nginx(0, 80).unwrap();
    lab.write_config(&config(&lab)).unwrap();
    let fifo = lab.folder().join("log");
    run(Command::new("mkfifo").arg(&fifo)).unwrap();
    // Open at both ends, so that writing begins, and then waits for a reader.
    let pipe = || std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let kept = pipe();
    let mut command = lab.director().command(&program("sluiced").display().to_string());
    command.arg("--config").arg(lab.config_path()).stderr(pipe());
    let mut sluiced = command.spawn().unwrap();
    assert!(wait_until(10 * SECOND, || lab.sluice(&["status"]).is_ok()));

    let stream = UnixStream::connect(lab.socket()).unwrap();
    stream.set_read_timeout(Some(30 * SECOND)).unwrap();
    BufReader::new(&stream).read_line(&mut String::new()).unwrap();
    // Each refusal is a line of 1 KiB; the pipe holds 64 KiB.
    let long = serde_json::json!({ "name": "x".repeat(2_000), "keys": {} });
    for _ in 0..1_500 {
        assert!(call(&stream, "service.add", &long).unwrap().contains("error"));
        assert!(call(&stream, "config.reload", &serde_json::Value::Null).unwrap().contains("generation"));
    }
    // The pipe is full: nothing fits into it any more.
    rustix::io::ioctl_fionbio(&kept, true).unwrap();
    assert_eq!((&kept).write(&[b'x'; 8_192]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    rustix::io::ioctl_fionbio(&kept, false).unwrap();
    lab.client().ip("neigh flush all").unwrap();
    run(lab.client().command("ping").args(["-c", "1", "-W", "5", VIP])).unwrap();
    assert_eq!(lab.http(4, 1).unwrap(), ["rs1"; 4]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&sluiced), Signal::TERM).unwrap();
    assert!(wait_until(2 * SECOND, || sluiced.try_wait().unwrap().is_some()));
}

#[test]
fn what_clients_say_forges_no_line_of_the_log_and_does_not_fill_it() {
    let mut lab = lab();
    let good = config(&lab);
    lab.start_sluiced(&good).unwrap();
    let stream = UnixStream::connect(lab.socket()).unwrap();
    BufReader::new(&stream).read_line(&mut String::new()).unwrap();
    let forged = "x\nsluiced: reloaded as generation 99\x1b[31m";
    for _ in 0..1_000 {
        let name = format!("{forged}{}", "y".repeat(10_000));
        call(&stream, "service.remove", &serde_json::json!({ "name": name })).unwrap();
    }
    let mut log = String::new();
    assert!(wait_until(5 * SECOND, || {
        log = lab.sluiced().unwrap().output();
        log.contains("calls of root: ")
    }));
    assert!(log.lines().all(|line| line.starts_with("sluiced: ")), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("sluiced: reloaded")) && !log.contains('\x1b'));
    assert!(log.len() < 600 * 1_024, "{} bytes", log.len());
}

#[test]
fn starts_leave_nothing_in_run_and_need_nothing_there() {
    let mut lab = lab();
    let good = config(&lab).replace("\"auto\"", "\"off\"");
    let left = || -> Vec<_> {
        let entries = std::fs::read_dir("/var/run/dpdk").into_iter().flatten().flatten();
        let sizes = entries.map(|entry| {
            let files = std::fs::read_dir(entry.path()).into_iter().flatten().count();
            (entry.file_name(), files)
        });
        sizes
            .filter(|(name, files)| {
                name.to_str().is_some_and(|name| name.starts_with("sluice-")) || *files > 0
            })
            .collect()
    };
    // What an earlier version left is removed, unless its process lives.
    std::fs::create_dir_all("/var/run/dpdk/sluice-999999999").unwrap();
    for _ in 0..3 {
        lab.start_sluiced(&good).unwrap();
        lab.sluiced().unwrap().stop();
        failure(&lab, &good.replace("net_af_packet1,iface=nic-lan", "net_nodriver0"));
    }
    assert!(left().is_empty(), "{:?}", left());
    // A folder that is full, or that nobody may write into.
    for options in ["ro", "size=4k,nr_inodes=2"] {
        lab.write_config(&good).unwrap();
        let program = program("sluiced");
        let script = format!(
            "mount -t tmpfs -o {options} none /run && {{ dd if=/dev/zero of=/run/full bs=1k count=8 2>/dev/null; exec {} --config {}; }}",
            program.display(),
            lab.config_path().display()
        );
        let mut command = lab.director().command("unshare");
        command.args(["-m", "sh", "-c", &script]);
        let mut daemon = Daemon::start(&mut command, &lab.folder().join("run.log")).unwrap();
        let ready = wait_until(5 * SECOND, || lab.sluice(&["status"]).is_ok() || daemon.ended().is_some());
        assert!(ready && daemon.ended().is_none(), "{options}: {}", daemon.output());
        assert_eq!(lab.json(&["status"]).unwrap()["pid"], daemon.pid(), "it is the process that is ended");
        daemon.stop();
    }
}

#[test]
fn what_a_packet_socket_loses_is_counted() {
    let mut lab = lab();
    lab.start_sluiced(&(config(&lab) + &lab.service("udp", "udp", 9000, "rr", &[0]))).unwrap();
    run(lab.client().command("ping").args(["-c", "1", "-W", "5", VIP])).unwrap();
    // The worker does not look, and the ring fills.
    lab.sluiced().unwrap().signal(Signal::STOP);
    const SENT: u64 = 30_000;
    lab.client().inside(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((VIP, 9000)).unwrap();
        // The VIP's station, which nobody answers for now, is known from before.
        for _ in 0..SENT {
            let _ = socket.send(b"x");
        }
    });
    lab.sluiced().unwrap().signal(Signal::CONT);
    let port = || lab.json(&["port", "list"]).unwrap()[0].clone();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let mut seen = serde_json::Value::Null;
    assert!(
        wait_until(5 * SECOND, || {
            seen = port();
            number(&seen["rx_packets"]) + number(&seen["rx_missed"]) >= SENT
        }),
        "{seen}"
    );
    assert!(number(&seen["rx_missed"]) > SENT / 10, "{seen}");
}

#[test]
fn the_admin_socket_is_where_it_was_said_and_stays_there() {
    let mut lab = lab();
    let good = config(&lab);
    let folder = lab.folder().display().to_string();
    std::fs::write(lab.folder().join("file"), "").unwrap();
    for (path, expected) in [
        ("nofolder/x.sock", "there is no folder"),
        ("file", "there is a file of this name already"),
        ("", "there is a folder of this name already"),
    ] {
        let said =
            failure(&lab, &good.replace(&format!("{folder}/sluice.sock"), &format!("{folder}/{path}")));
        assert!(said.contains(expected), "{path}: {said}");
    }
    assert!(!lab.folder().join("nofolder").exists());
    lab.start_sluiced(&good).unwrap();
    // One that somebody removed is made again.
    std::fs::remove_file(lab.socket()).unwrap();
    assert!(
        run(lab.sluice_command().arg("status")).unwrap_err().contains("is not there; is sluiced running?")
    );
    assert!(wait_until(5 * SECOND, || lab.sluice(&["status"]).is_ok()));
    // A half line ends, and what is no line at all may take its time.
    let idle = UnixStream::connect(lab.socket()).unwrap();
    let half = UnixStream::connect(lab.socket()).unwrap();
    (&half).write_all(b"{\"jsonrpc\"").unwrap();
    half.set_read_timeout(Some(60 * SECOND)).unwrap();
    let mut heard = Vec::new();
    std::io::Read::read_to_end(&mut &half, &mut heard).unwrap();
    assert_eq!(heard.iter().filter(|byte| **byte == b'\n').count(), 1, "the greeting alone");
    BufReader::new(&idle).read_line(&mut String::new()).unwrap();
    assert!(call(&idle, "status", &serde_json::Value::Null).unwrap().contains("\"result\""));
}

#[test]
fn the_units_rights_are_enough() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/sluice.service");
    let text = std::fs::read_to_string(unit).unwrap();
    let rights = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let rights: Vec<_> =
        rights.split(' ').map(|name| format!("+{}", &name["CAP_".len()..].to_lowercase())).collect();
    run(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=30", unit]))
        .unwrap();
    // What a real systemd showed to be needed: DPDK's virtio driver calls iopl, ping calls capset and setuid; the node
    // of all groups of NICs is no device of VFIO's class; a script that ignores TERM must not hold a restart up; a
    // daemon that crashed five times starts again, and one with bad files does not.
    for line in [
        "SystemCallErrorNumber=EPERM",
        "SystemCallFilter=capset setuid",
        "DeviceAllow=/dev/vfio/vfio rw",
        "KillMode=mixed",
        "StartLimitIntervalSec=0",
        "RestartPreventExitStatus=78",
    ] {
        assert!(text.lines().any(|of_unit| of_unit == line), "{line} is not in the unit");
    }

    let mut lab = lab();
    lab.start_nginx(0, 80).unwrap();
    let good = config(&lab).replace("[admin]\n", "[admin]\ngroup = \"nogroup\"\n");
    let checked = good + "\n[service.health]\ntype = \"http\"\ninterval = \"200ms\"\n";
    lab.write_config(&checked).unwrap();
    // The manager's side of the watchdog.
    let manager = std::os::unix::net::UnixDatagram::bind(lab.folder().join("notify")).unwrap();
    manager.set_read_timeout(Some(20 * SECOND)).unwrap();
    let mut command = lab.director().command("setpriv");
    command.args(["--bounding-set", &format!("-all,{}", rights.join(",")), "--no-new-privs"]);
    command.arg(program("sluiced")).arg("--config").arg(lab.config_path());
    command.env("NOTIFY_SOCKET", lab.folder().join("notify")).env("WATCHDOG_USEC", "10000000");
    let mut daemon = Daemon::start(&mut command, &lab.folder().join("unit.log")).unwrap();
    let told = || {
        let mut room = [0; 64];
        let len = manager.recv(&mut room).unwrap();
        String::from_utf8_lossy(&room[..len]).into_owned()
    };
    assert_eq!(told(), "READY=1", "{}", daemon.output());
    assert_eq!((told(), told()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    assert!(wait_until(5 * SECOND, || lab.server_states() == ["up"]), "{}", daemon.output());
    assert_eq!(lab.http(4, 1).unwrap(), ["rs1"; 4]);
    lab.sluice(&["server", "set", "web", "10.0.0.11:80", "weight=2"]).unwrap();
    lab.sluice(&["config", "export", "--write"]).unwrap();
    let warnings = lab.json(&["status"]).unwrap()["warnings"].clone();
    assert_eq!(warnings, serde_json::json!([]), "{}", daemon.output());
    daemon.stop();
}

#[test]
fn commands_take_plain_lists_and_their_errors_speak_of_their_own_words() {
    let mut lab = Lab::new(Plan::default()).unwrap();
    for at in 0..2 {
        lab.start_nginx(at, 80).unwrap();
    }
    lab.start_sluiced(&lab.config_head()).unwrap();
    let sluice = |line: &str| lab.sluice(&line.split_whitespace().collect::<Vec<_>>());
    sluice("service add web listen=192.0.2.10:80 local_addresses=10.0.0.200,10.0.0.201 server=10.0.0.11:80,10.0.0.12:80").unwrap();
    let mut answers = lab.http(10, 2).unwrap();
    answers.sort();
    answers.dedup();
    assert_eq!(answers, ["rs1", "rs2"]);
    for (line, expected) in [
        ("server set web 10.0.0.11:80", "no key was named, so nothing changes"),
        ("server set web 10.0.0.11:80 weight=-1", "weight: -1 is below 0"),
        ("service set web scheduler=rrr", "scheduler: `rrr` is unknown; did you mean `rr`?"),
    ] {
        let said = sluice(line).unwrap_err();
        assert!(said.contains(expected) && !said.contains("command:"), "{line}: {said}");
    }
    for list in [
        "service list",
        "server list",
        "session list",
        "port list",
        "neighbor list",
        "worker list",
        "stats drops",
    ] {
        let shown = sluice(list).unwrap();
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{list}: {shown}");
    }
    assert!(sluice("worker list").unwrap().contains('%'));
    assert!(sluice("-w port list").unwrap().contains("net_af_packet0,iface=nic-wan"));
    // Without a file the daemon's own is checked.
    assert!(sluice("config check").unwrap().contains("sluice.toml: good"));
}
