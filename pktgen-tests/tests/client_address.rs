//! Servers behind FullNAT that learn where their clients are: nginx and haproxy read PROXY, a BPF filter
//! reads TOA, a socket reads UOA.

use pktgen_tests::frames::{ETHERNET, Route, fill_checksums, tcp, tcp_frame};
use pktgen_tests::lab::{CLIENT, CLIENT6, Lab, Plan, VIP, VIP6};
use pktgen_tests::process::{run, wait_until};
use pktgen_tests::wire::Wire;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A service of both VIPs for the first server, by its address of this family.
fn service(lab: &Lab, six: bool, protocol: &str, l4_port: u16, to_six: bool, how: &str) -> String {
    let (vip, server) = (host(six), if to_six { lab.server_ip6(0) } else { lab.server_ip(0) });
    let server = if to_six { format!("[{server}]") } else { server };
    let mut text = String::new();
    let _ = write!(
        text,
        "\n[[service]]\nname = \"{protocol}-{l4_port}-{six}\"\nlisten = \"{vip}:{l4_port}\"\nprotocol = \"{protocol}\"\nforward = \"fullnat\"\nlocal_addresses = [\"10.0.0.200\", \"2001:db8:b::200\"]\nclient_address = {how}\n[[service.server]]\naddress = \"{server}:{l4_port}\"\n"
    );
    text
}

fn host(six: bool) -> String {
    if six { format!("[{VIP6}]") } else { VIP.to_owned() }
}

/// What a client learns from a server: its own address and port as curl knows them, and the answer.
fn ask(lab: &Lab, six: bool, l4_port: u16) -> (String, String) {
    let mut curl = lab.client().command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "10"]);
    curl.args(["--write-out", "%{local_ip} %{local_port}"]);
    let said = run(curl.arg(format!("http://{}:{l4_port}/", host(six)))).unwrap();
    let (answer, own) = said.split_once('\n').unwrap();
    (own.to_owned(), answer.to_owned())
}

/// The same stream of bytes in both files.
fn same(a: &Path, b: &Path) -> bool {
    run(Command::new("cmp").arg(a).arg(b)).is_ok()
}

fn random_file(path: &Path, size: &str) {
    run(Command::new("sh").args(["-c", &format!("head -c {size} /dev/urandom > {}", path.display())]))
        .unwrap();
}

#[test]
fn nginx_and_haproxy_read_the_proxy_header() {
    let mut lab = Lab::new(Plan { servers: 1, ipv6: true, ..Plan::default() }).unwrap();
    lab.start_nginx_saying(0, 80, "proxy_protocol", "$proxy_protocol_addr $proxy_protocol_port\\n").unwrap();
    let config = "global\n nbthread 1\ndefaults\n mode http\n timeout client 10s\n timeout http-request 10s\nfrontend judge\n bind :::81 v4v6 accept-proxy\n http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id,hex]\\n\"\n";
    let path = lab.folder().join("haproxy.cfg");
    std::fs::write(&path, config).unwrap();
    let mut haproxy = lab.server(0).command("haproxy");
    lab.start("haproxy", haproxy.args(["-db", "-f"]).arg(&path)).unwrap();
    lab.wait_for_listener(0, 81).unwrap();
    let two = "{ type = \"proxy\", version = 2, unique_id = true, vip = true }";
    let one = "{ type = \"proxy\", version = 1 }";
    // Each version is read by each judge, in each pair of families.
    for (nginx, haproxy, syn_proxy) in [(one, two, "off"), (two, one, "off"), (one, two, "always")] {
        for across in [false, true] {
            let mut text = lab.config_head();
            for six in [false, true] {
                text += &service(&lab, six, "tcp", 80, six != across, nginx);
                text += &service(&lab, six, "tcp", 81, six != across, haproxy);
            }
            text = text.replace("client_address", &format!("syn_proxy = \"{syn_proxy}\"\nclient_address"));
            if lab.sluiced().is_err() {
                lab.start_sluiced(&text).unwrap();
            } else {
                lab.write_config(&text).unwrap();
                lab.sluice(&["config", "reload"]).unwrap();
            }
            for six in [false, true] {
                let (own, answer) = ask(&lab, six, 80);
                assert_eq!(answer, own);
                let (own, answer) = ask(&lab, six, 81);
                let vip = if six { VIP6 } else { VIP };
                let unique =
                    answer.strip_prefix(&format!("{own} {vip} 81 ")).unwrap_or_else(|| panic!("{answer}"));
                let unique = unique.to_owned();
                assert_eq!(unique.len(), if haproxy == two { 16 } else { 0 }, "{answer}");
                if haproxy == two {
                    assert_ne!(ask(&lab, six, 81).1.split_whitespace().nth(4), Some(&*unique));
                }
                // Fifty at a time: everyone gets an own answer.
                let answers = lab.http_to(&host(six), 200, 50).unwrap();
                let client = if six { CLIENT6 } else { CLIENT };
                assert!(answers.iter().all(|answer| answer.starts_with(client)), "{answers:?}");
                assert_eq!(answers.iter().collect::<HashSet<_>>().len(), 200);
            }
        }
    }
}

#[test]
fn streams_arrive_whole_behind_a_proxy_header() {
    for syn_proxy in ["off", "always"] {
        streams_arrive_whole(syn_proxy);
    }
}

fn streams_arrive_whole(syn_proxy: &str) {
    let mut lab = Lab::new(Plan { servers: 1, ipv6: true, ..Plan::default() }).unwrap();
    lab.start_nginx_saying(0, 80, "proxy_protocol", "$proxy_protocol_addr\\n").unwrap();
    let folder = lab.folder().to_owned();
    let data = folder.join("nginx-1/data");
    random_file(&data, "100M");
    let how = "{ type = \"proxy\", version = 1 }";
    let mut text = lab.config_head();
    for six in [false, true] {
        text += &service(&lab, six, "tcp", 80, six, how);
        // From the other family, so that all of it is seen once.
        text += &service(&lab, six, "tcp", 9000, !six, how);
        text += &service(&lab, six, "tcp", 9001, six, how);
    }
    text = text.replace("client_address", &format!("syn_proxy = \"{syn_proxy}\"\nclient_address"));
    lab.start_sluiced(&text).unwrap();
    // A server that speaks first has the header already.
    let mut first = lab.server(0).command("socat");
    first.args(["TCP6-LISTEN:9001,fork,reuseaddr,ipv6only=0", "SYSTEM:read line; echo you said $line"]);
    lab.start("first", &mut first).unwrap();
    lab.wait_for_listener(0, 9001).unwrap();
    for six in [false, true] {
        let host = host(six);
        let down = folder.join("down");
        let mut curl = lab.client().command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "60", "--output"])
            .arg(&down);
        run(curl.arg(format!("http://{host}/data"))).unwrap();
        assert!(same(&data, &down));

        let (up, body) = (folder.join("up"), folder.join("body"));
        let mut sink = lab.server(0).command("socat");
        sink.args(["-u", "TCP6-LISTEN:9000,reuseaddr,ipv6only=0"]).arg(format!("CREATE:{}", up.display()));
        lab.start("sink", &mut sink).unwrap();
        lab.wait_for_listener(0, 9000).unwrap();
        let mut source = lab.client().command("socat");
        source.arg("-u").arg(format!("OPEN:{}", data.display())).arg(format!("TCP:{host}:9000"));
        run(&mut source).unwrap();
        let (client, vip) = if six { (CLIENT6, VIP6) } else { (CLIENT, VIP) };
        let is_whole = || {
            let split = format!("tail -n +2 {} > {}", up.display(), body.display());
            run(Command::new("sh").args(["-c", &split])).is_ok() && same(&data, &body)
        };
        assert!(wait_until(Duration::from_secs(20), is_whole));
        let line = run(Command::new("head").args(["-n", "1"]).arg(&up)).unwrap();
        let start = format!("PROXY {} {client} {vip} ", if six { "TCP6" } else { "TCP4" });
        assert!(line.starts_with(&start) && line.ends_with(" 9000\r\n"), "{line:?}");

        let said = run(lab.client().command("socat").args(["-u", &format!("TCP:{host}:9001"), "-"])).unwrap();
        assert!(said.starts_with(&format!("you said {start}")), "{said:?}");
    }
}

#[test]
fn datagrams_tell_by_proxy_and_by_option() {
    let mut lab = Lab::new(Plan { servers: 1, ipv6: true, ..Plan::default() }).unwrap();
    let mut text = lab.config_head();
    for six in [false, true] {
        text += &service(&lab, six, "udp", 9001, six, "{ type = \"proxy\" }");
        text += &service(&lab, six, "udp", 9002, false, "{ type = \"uoa\", encoding = \"option\" }");
    }
    lab.start_sluiced(&text).unwrap();
    let mut echo = lab.server(0).command("socat");
    lab.start("echo", echo.args(["UDP6-RECVFROM:9001,fork,ipv6only=0", "EXEC:cat"])).unwrap();
    // An ordinary socket that asks for the options of IP headers.
    let mut reader = lab.server(0).command("socat");
    reader.args(["UDP4-RECVFROM:9002,fork,ip-recvopts", "SYSTEM:read line; echo $SOCAT_IP_OPTIONS"]);
    lab.start("reader", &mut reader).unwrap();
    let listens = || {
        let list = run(lab.server(0).command("ss").args(["-Hlun"])).unwrap_or_default();
        list.contains(":9001") && list.contains(":9002")
    };
    assert!(wait_until(Duration::from_secs(5), listens));
    for six in [false, true] {
        let ask = |l4_port: u16, own: u16| {
            lab.client().ask(own, &format!("{}:{l4_port}", host(six)), b"question\n").unwrap()
        };
        let told = ask(9001, 5000);
        let kind = if six { 0x22 } else { 0x12 };
        assert_eq!(
            told[..14],
            [&b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21"[..], &[kind]].concat()
        );
        assert!(told.ends_with(b"question\n"));
        let record = if six { "1f14138820010db8000a00000000000000000050" } else { "1f081388c0000232" };
        let sent = || lab.json(&["worker", "list"]).unwrap()[0]["address_sent"].as_u64().unwrap();
        let before = sent();
        for _ in 0..4 {
            // (socat remembers the options of the last datagram that had some.)
            let said = String::from_utf8(ask(9002, 5000)).unwrap();
            let options: String =
                said.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
            assert!(options.contains(record), "{said:?}");
        }
        assert_eq!(sent(), before + 3);
    }
}

#[test]
fn a_filter_reads_toa_and_no_forged_one_passes() {
    let mut lab = Lab::new(Plan { servers: 1, ipv6: true, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    let config = lab.config_head() + &service(&lab, false, "tcp", 80, false, "{ type = \"toa\" }");
    lab.start_sluiced(&config).unwrap();
    // BPF in the server's kernel, in front of a server that knows nothing of it.
    let count = |lab: &mut Lab, name: &str, filter: &str| {
        let path = lab.folder().join(format!("{name}.pcap"));
        let mut tcpdump = lab.server(0).command("tcpdump");
        tcpdump.args(["-i", "eth0", "-U", "--immediate-mode", "-s", "100", "-w"]).arg(&path).arg(filter);
        lab.start(name, &mut tcpdump).unwrap();
        assert!(wait_until(Duration::from_secs(5), || path.exists()));
        move || {
            let read = Command::new("tcpdump").args(["-r"]).arg(&path).args(["-n"]).output().unwrap();
            String::from_utf8_lossy(&read.stdout).lines().count()
        }
    };
    let told = count(&mut lab, "told", "tcp dst port 80 and tcp[20:2] = 0xfe08 and tcp[24:4] = 0xc0000232");
    let forged = count(
        &mut lab,
        "forged",
        "tcp dst port 80 and ((tcp[20:2] = 0xfe08 and tcp[24:4] = 0xcb007109) or (tcp[28:2] = 0xfe08 and tcp[32:4] = 0xcb007109))",
    );
    let answers = lab.http(100, 10).unwrap();
    assert!(answers.iter().all(|answer| answer == "rs1"));
    assert!(wait_until(Duration::from_secs(5), || told() >= 200), "{}", told());

    let folder = lab.folder().to_owned();
    let wire = Wire::open(lab.client(), "eth0", &folder, [2, 0, 0, 0, 0, 0x99], &[]).unwrap();
    let port: serde_json::Value = lab.json(&["port", "list"]).unwrap();
    let mac: Vec<u8> = port[0]["mac"]
        .as_str()
        .unwrap()
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    for number in 0..1_000_u16 {
        let route = Route {
            source_mac: [2, 0, 0, 0, 0, 0x99],
            destination_mac: mac.clone().try_into().unwrap(),
            source: ("192.0.2.99".parse().unwrap(), 10_000 + number),
            destination: (VIP.parse().unwrap(), 80),
        };
        let mut frame = tcp_frame(&route, tcp::SYN, &[254, 8, 0, 80, 203, 0, 113, 9]);
        frame[ETHERNET + 20 + 12] = 0x70;
        fill_checksums(&mut frame);
        wire.send(&frame).unwrap();
    }
    let stripped = || lab.json(&["worker", "list"]).unwrap()[0]["address_stripped"].as_u64() >= Some(1_000);
    assert!(wait_until(Duration::from_secs(10), stripped));
    assert_eq!(forged(), 0);
}
