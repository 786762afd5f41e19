//! Servers from files, names, Nacos and etcd: real sources that change, break and vanish.

use pktgen_tests::lab::{Lab, Plan};
use pktgen_tests::process::{run, wait_until};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(8);

/// A lab with three web servers and a service without servers of its own.
fn lab(source: impl Fn(&Lab) -> String, before: impl FnOnce(&mut Lab)) -> Lab {
    let mut lab = Lab::new(Plan { servers: 3, ..Plan::default() }).unwrap();
    for at in 0..3 {
        lab.start_nginx(at, 80).unwrap();
    }
    before(&mut lab);
    let source = format!("[service.discover]\ninterval = \"300ms\"\n{}\n", source(&lab));
    let service = lab.service("web", "tcp", 80, "rr", &[]);
    let config =
        lab.config_head() + &service.replace("scheduler", "protect_threshold = 0.4\nscheduler") + &source;
    lab.start_sluiced(&config).unwrap();
    lab
}

fn servers(lab: &Lab) -> Vec<String> {
    let shown = lab.json(&["service", "show", "web"]).unwrap();
    let servers = shown["servers"].as_array().unwrap().clone();
    servers.iter().map(|server| server["address"].as_str().unwrap().to_owned()).collect()
}

fn await_servers(lab: &Lab, wanted: &[&str]) {
    let came = wait_until(SOON, || servers(lab) == wanted);
    assert!(came, "wanted {wanted:?}, there are {:?}: {}", servers(lab), lab.sluice(&["status"]).unwrap());
}

fn answers(lab: &Lab) -> Vec<String> {
    let mut all = lab.http(12, 3).unwrap();
    all.sort();
    all.dedup();
    all
}

/// Waits until the status says `words` of the source, and checks that the servers are still the same.
fn await_trouble(lab: &Lab, words: &str) {
    let before = servers(lab);
    let said = wait_until(SOON, || lab.sluice(&["status"]).unwrap().contains(words));
    assert!(said, "{words}: {}", lab.sluice(&["status"]).unwrap());
    assert_eq!(servers(lab), before);
}

#[test]
fn a_file_is_followed_as_long_as_it_makes_sense() {
    let path = |lab: &Lab| lab.folder().join("servers.toml");
    let write = |lab: &Lab, text: &str| std::fs::write(path(lab), text).unwrap();
    let one = "[[server]]\naddress = \"10.0.0.11:80\"\n";
    let both = format!("{one}[[server]]\naddress = \"10.0.0.12:80\"\nweight = 2\n");
    let source = |lab: &Lab| format!("type = \"file\"\npath = \"{}\"", path(lab).display());
    let lab = lab(source, |lab| write(lab, one));
    await_servers(&lab, &["10.0.0.11:80"]);
    assert_eq!(answers(&lab), ["rs1"]);
    write(&lab, &both);
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);
    assert_eq!(answers(&lab), ["rs1", "rs2"]);

    write(&lab, "[[server]\n");
    await_trouble(&lab, "the last known servers stay");
    write(&lab, "");
    await_trouble(&lab, "it names no server; the last 2 stay");
    std::fs::remove_file(path(&lab)).unwrap();
    await_trouble(&lab, "No such file");
    write(&lab, &both.replace("10.0.0.12", "192.0.2.10"));
    assert!(wait_until(SOON, || lab.sluice(&["status"]).unwrap().contains("is one of the appliance's VIPs")));
    await_servers(&lab, &["10.0.0.11:80"]);
    write(&lab, &both);
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);

    // What a source names as a server cannot become the appliance's own, and takes nobody away.
    let clash = "10.0.0.12 would be the appliance's own address, and the source of service web names it";
    let keys = ["listen=10.0.0.12:443", "local_addresses=10.0.0.200", "server=10.0.0.11:80"];
    let refused = lab.sluice(&[&["service", "add", "typo"], &keys[..]].concat()).unwrap_err();
    assert!(refused.contains("10.0.0.12 is one of the appliance's VIPs"), "{refused}");
    let file = lab.sluice(&["config", "export"]).unwrap();
    let typo = lab.service("typo", "tcp", 443, "rr", &[0]).replace("192.0.2.10:443", "10.0.0.12:443");
    lab.write_config(&(file.clone() + &typo)).unwrap();
    let refused = lab.sluice(&["config", "reload"]).unwrap_err();
    assert!(refused.contains(clash), "{refused}");
    lab.write_config(&file).unwrap();
    assert_eq!(servers(&lab), ["10.0.0.11:80", "10.0.0.12:80"]);
    // A server that was the appliance's own when its source named it comes as soon as it is not.
    write(&lab, one);
    await_servers(&lab, &["10.0.0.11:80"]);
    lab.sluice(&[&["service", "add", "typo"], &keys[..]].concat()).unwrap();
    write(&lab, &both);
    let left_out = || lab.sluice(&["status"]).unwrap().contains("10.0.0.12:80 is left out");
    assert!(wait_until(SOON, left_out), "{}", lab.sluice(&["status"]).unwrap());
    assert_eq!(servers(&lab), ["10.0.0.11:80"]);
    lab.sluice(&["service", "remove", "typo"]).unwrap();
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);
    // What was before comes back all the same: the server is left out, and told.
    lab.sluice(&["config", "rollback"]).unwrap();
    assert!(wait_until(SOON, left_out), "{}", lab.sluice(&["status"]).unwrap());
    await_servers(&lab, &["10.0.0.11:80"]);
    lab.sluice(&["service", "remove", "typo"]).unwrap();
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);

    let refused = lab.sluice(&["server", "set", "web", "10.0.0.12:80", "weight=9"]).unwrap_err();
    assert!(refused.contains("is known by file; change it there"), "{refused}");
    // A reload keeps what was found, and the files do not get it.
    lab.sluice(&["config", "reload"]).unwrap();
    assert_eq!(servers(&lab).len(), 2);
    assert!(lab.sluice(&["config", "diff"]).unwrap().contains("the files say what runs"));
    assert!(!lab.sluice(&["config", "export"]).unwrap().contains("10.0.0.12"));
}

#[test]
fn a_list_of_which_nothing_can_be_used_takes_no_server_away() {
    let path = |lab: &Lab| lab.folder().join("servers.toml");
    let write = |lab: &Lab, text: &str| {
        // As a whole, so that nobody reads a part.
        let fresh = lab.folder().join("servers.new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path(lab)).unwrap();
    };
    let both = "[[server]]\naddress = \"10.0.0.11:80\"\n[[server]]\naddress = \"10.0.0.12:80\"\nweight = 2\n";
    let source = |lab: &Lab| format!("type = \"file\"\npath = \"{}\"", path(lab).display());
    let lab = lab(source, |lab| write(lab, both));
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);
    let weights = || {
        let shown = lab.json(&["service", "show", "web"]).unwrap();
        let servers = shown["servers"].as_array().unwrap();
        servers.iter().map(|server| server["weight"].clone()).collect::<Vec<_>>()
    };
    for (text, said) in [
        (
            both.replace("10.0.0.11", "127.0.0.1").replace("10.0.0.12", "0.0.0.0"),
            "it names no server that can be used",
        ),
        (both.replace("10.0.0.1", "172.16.9.1"), "no route leads to 172.16.9.11"),
        (
            both.replace("10.0.0.11", "web.example.com").replace("10.0.0.12", "x"),
            "`web.example.com:80` is not",
        ),
    ] {
        write(&lab, &text);
        await_trouble(&lab, said);
    }
    // One that is there and cannot be read stays what it was; words that nobody knows are passed over.
    write(&lab, &both.replace("weight = 2", "weight = \"3\""));
    await_trouble(&lab, "10.0.0.12:80 stays as it was");
    assert_eq!(weights(), [1, 2]);
    write(&lab, &both.replace("weight = 2", "weight = 5\nrack = \"r7\""));
    await_trouble(&lab, "10.0.0.12:80: unknown keys are passed over: rack");
    assert!(wait_until(SOON, || weights() == [1, 5]));
    // More than are taken from a source.
    let many: String =
        (0..5_000).map(|n| format!("[[server]]\naddress = \"10.0.0.11:{}\"\n", 1_000 + n)).collect();
    write(&lab, &many);
    await_trouble(&lab, "it names 5000 servers, more than the 4096");
    write(&lab, both);
    let quiet = || lab.json(&["status"]).unwrap()["warnings"] == serde_json::json!([]);
    assert!(wait_until(SOON, quiet), "{}", lab.sluice(&["status"]).unwrap());
    // A file that nobody will ever write holds nothing.
    std::fs::remove_file(path(&lab)).unwrap();
    run(Command::new("mkfifo").arg(path(&lab))).unwrap();
    await_trouble(&lab, "is not an ordinary file");
    assert_eq!(answers(&lab), ["rs1", "rs2"]);
}

/// A name server that answers as `answer` says, by datagram.
fn name_server(lab: &Lab, answer: impl Fn(&[u8], u16) -> Vec<Vec<u8>> + Send + 'static) {
    let socket = lab.director().inside(|| std::net::UdpSocket::bind("127.0.0.1:5353").unwrap());
    std::thread::spawn(move || {
        let mut room = [0; 4_096];
        // It ends with the test's process.
        while let Ok((len, from)) = socket.recv_from(&mut room) {
            let question = &room[..len];
            // Behind the name, which ends with an empty label.
            let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
            let kind = u16::from_be_bytes([question[end], question[end + 1]]);
            for message in answer(question, kind) {
                let _ = socket.send_to(&message, from);
            }
        }
    });
}

/// The answer to a question for a name with this code and these records; without its EDNS.
fn dns_answer(question: &[u8], code: u8, records: &[&[u8]]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    answer[6..12].copy_from_slice(&[0, records.len() as u8, 0, 0, 0, 0]);
    records.iter().for_each(|record| answer.extend_from_slice(record));
    answer
}

/// An address of the name that was asked for, for a second.
fn a_record(last: u8) -> Vec<u8> {
    [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4][..], &[10, 0, 0, last]].concat()
}

#[test]
fn a_name_is_followed_by_the_family_that_answers() {
    const AAAA: u16 = 28;
    for (what, code) in [("SERVFAIL", Some(2)), ("NXDOMAIN", Some(3)), ("NOTIMP", Some(4)), ("silence", None)]
    {
        let mut lab = Lab::new(Plan { servers: 1, ipv6: true, ..Plan::default() }).unwrap();
        lab.start_nginx(0, 80).unwrap();
        // It is older than EDNS, and the first of three datagrams is lost.
        let count = std::sync::atomic::AtomicUsize::new(0);
        name_server(&lab, move |question, kind| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let has_edns = question[11] != 0;
            match code {
                _ if number.is_multiple_of(3) => Vec::new(),
                _ if has_edns => vec![dns_answer(question, 1, &[])],
                Some(code) if kind == AAAA => vec![dns_answer(question, code, &[])],
                None if kind == AAAA => Vec::new(),
                _ => vec![dns_answer(question, 0, &[&a_record(11)])],
            }
        });
        let source = "[service.discover]\ninterval = \"300ms\"\ntype = \"dns\"\nname = \"web.lab\"\nport = 80\nresolver = \"127.0.0.1:5353\"\n";
        let service =
            lab.service("web", "tcp", 80, "rr", &[]).replace("\"10.0.0.201\"", "\"2001:db8:b::200\"");
        let config = lab.config_head() + &service + source;
        lab.start_sluiced(&config).unwrap();
        let came = wait_until(SOON, || servers(&lab) == ["10.0.0.11:80"]);
        assert!(came, "{what}: {}", lab.sluice(&["status"]).unwrap());
        assert_eq!(answers(&lab), ["rs1"], "{what}");
    }
}

#[test]
fn a_hundred_targets_are_found_side_by_side_and_one_that_is_not_leaves_the_others() {
    const SRV: u16 = 33;
    let by_srv =
        |_: &Lab| "type = \"dns\"\nname = \"_web._tcp.lab\"\nresolver = \"127.0.0.1:5353\"".to_owned();
    let one = lab(by_srv, |lab| {
        let lost = std::sync::atomic::AtomicUsize::new(0);
        name_server(lab, move |question, kind| {
            let name = &question[13..13 + usize::from(question[12])];
            let number =
                std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix('t')?.parse::<u8>().ok());
            // One of fifty datagrams is lost, and each answer takes a while.
            if lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 50 == 7 {
                return Vec::new();
            }
            match (kind, number) {
                (SRV, None) => {
                    let target = |number: u8| {
                        let label = format!("t{number}");
                        let name = [&[label.len() as u8][..], label.as_bytes(), b"\x03lab\0"].concat();
                        let data = [&[0, 1, 0, 3, 0x1f, number][..], &name].concat();
                        [&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60][..], &(data.len() as u16).to_be_bytes(), &data]
                            .concat()
                    };
                    // And the root, which says that somewhere there is no server (RFC 2782).
                    let mut records: Vec<_> = (1..=100).map(target).collect();
                    records.push(
                        [&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 7][..], &[0, 1, 0, 3, 0, 1, 0]].concat(),
                    );
                    vec![dns_answer(question, 0, &records.iter().map(Vec::as_slice).collect::<Vec<_>>())]
                }
                (1, Some(13)) => vec![dns_answer(question, 2, &[])],
                (1, Some(_)) => vec![dns_answer(question, 0, &[&a_record(11)])],
                _ => vec![dns_answer(question, 3, &[])],
            }
        });
    });
    let came = wait_until(SOON, || servers(&one).len() == 99);
    assert!(came, "{}: {}", servers(&one).len(), one.sluice(&["status"]).unwrap());
    assert!(!servers(&one).contains(&"10.0.0.11:7949".to_owned()), "the thirteenth");
    assert!(one.sluice(&["status"]).unwrap().contains("t13.lab.: "));
}

#[test]
fn names_are_asked_again_when_they_say_so() {
    let dnsmasq = |lab: &mut Lab, records: &[&str]| {
        let mut command = lab.director().command("dnsmasq");
        command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--port=5353", "--local-ttl=1"]);
        command.args([
            "--local=/lab/",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
        ]);
        command.args(records);
        lab.start("dnsmasq", &mut command).unwrap();
    };
    let by_name =
        |_: &Lab| "type = \"dns\"\nname = \"web.lab\"\nport = 80\nresolver = \"127.0.0.1:5353\"".to_owned();
    let mut one = lab(by_name, |lab| dnsmasq(lab, &["--host-record=web.lab,10.0.0.11"]));
    await_servers(&one, &["10.0.0.11:80"]);
    // The name server is the fourth program; it vanishes, and another knows more.
    one.program(3).stop();
    await_trouble(&one, "the last known servers stay");
    dnsmasq(
        &mut one,
        &[
            "--host-record=web.lab,10.0.0.11",
            "--address=/web.lab/10.0.0.12",
            "--host-record=web.lab,10.0.0.12",
        ],
    );
    await_servers(&one, &["10.0.0.11:80", "10.0.0.12:80"]);
    drop(one);

    let by_srv =
        |_: &Lab| "type = \"dns\"\nname = \"_web._tcp.lab\"\nresolver = \"127.0.0.1:5353\"".to_owned();
    let records = [
        "--srv-host=_web._tcp.lab,a.lab,80,1,5",
        "--srv-host=_web._tcp.lab,b.lab,80,1,10",
        "--srv-host=_web._tcp.lab,c.lab,80,9,10",
        "--host-record=a.lab,10.0.0.11",
        "--host-record=b.lab,10.0.0.12",
        "--host-record=c.lab,10.0.0.13",
    ];
    let two = lab(by_srv, |lab| dnsmasq(lab, &records));
    await_servers(&two, &["10.0.0.11:80", "10.0.0.12:80"]);
    let shown = two.json(&["service", "show", "web"]).unwrap();
    assert_eq!((&shown["servers"][0]["weight"], &shown["servers"][1]["weight"]), (&5.into(), &10.into()));
}

#[test]
fn nacos_names_servers_with_weights_and_places() {
    let body = Arc::new(Mutex::new(String::new()));
    let instance = |n: u8, more: &str| {
        format!(
            "{{\"ip\":\"10.0.0.{n}\",\"port\":80,\"weight\":1.0,\"healthy\":true,\"enabled\":true,\"metadata\":{{\"zone\":\"z{n}\"}}{more}}}"
        )
    };
    let set = |list: &[String]| {
        *body.lock().unwrap() = format!("{{\"name\":\"web\",\"hosts\":[{}]}}", list.join(","))
    };
    set(&[instance(11, ""), instance(12, ""), instance(13, "")]);
    // The first of the two endpoints is not there.
    let source = |lab: &Lab| {
        let file = lab.folder().join("password");
        std::fs::write(&file, "s3cret&\n").unwrap();
        format!(
            "type = \"nacos\"\nendpoint = [\"127.0.0.1:8847\", \"127.0.0.1:8848\"]\nservice = \"web\"\nnamespace = \"prod\"\nusername = \"sluice\"\npassword_file = \"{}\"",
            file.display()
        )
    };
    // What a login gives; it is not believed any more when it is another.
    let token = Arc::new(Mutex::new("first".to_owned()));
    let believed = Arc::clone(&token);
    let shared = Arc::clone(&body);
    let requests = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&requests);
    let lab = lab(source, move |lab| {
        let listener = lab.director().inside(|| TcpListener::bind("127.0.0.1:8848").unwrap());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut room = [0; 2_048];
                let len = stream.read(&mut room).unwrap_or(0);
                let asked = String::from_utf8_lossy(&room[..len]).into_owned();
                let token = believed.lock().unwrap().clone();
                let is_login = asked.starts_with("POST /nacos/v1/auth/login ")
                    && asked.ends_with("username=sluice&password=s3cret%26");
                let (status, body) = match asked.contains(&format!("&accessToken={token} ")) {
                    _ if is_login => {
                        ("200 OK", format!("{{\"accessToken\":\"{token}\",\"tokenTtl\":18000}}"))
                    }
                    true => ("200 OK", shared.lock().unwrap().clone()),
                    false => ("403 Forbidden", "user not found!".to_owned()),
                };
                if !is_login {
                    *seen.lock().unwrap() = asked;
                }
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    });
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"]);
    let asked = requests.lock().unwrap().clone();
    assert!(
        asked.starts_with(
            "GET /nacos/v1/ns/instance/list?serviceName=web&groupName=DEFAULT_GROUP&namespaceId=prod&accessToken=first "
        ),
        "{asked}"
    );
    assert_eq!(lab.json(&["service", "show", "web"]).unwrap()["servers"][1]["zone"], "z12");
    assert_eq!(answers(&lab), ["rs1", "rs2", "rs3"]);
    // Nobody: an empty push. One of three: held back, because 0.4 of them must be left. Two: followed.
    set(&[]);
    await_trouble(&lab, "it names no server; the last 3 stay");
    set(&[instance(11, "")]);
    await_trouble(&lab, "of 3 servers it names 1 still, which is too few at once");
    // The login ends, and another works.
    *token.lock().unwrap() = "second".to_owned();
    set(&[instance(11, ""), instance(12, "")]);
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);
    assert_eq!(answers(&lab), ["rs1", "rs2"]);
    // Nacos may take servers for ill, but not all of them.
    let ill = |n: u8| instance(n, "").replace("\"healthy\":true", "\"healthy\":false");
    set(&[ill(11), instance(12, "")]);
    assert!(wait_until(SOON, || answers(&lab) == ["rs2"]));
    set(&[ill(11), ill(12)]);
    assert!(wait_until(SOON, || answers(&lab) == ["rs1", "rs2"]));
}

#[test]
fn etcd_has_a_key_for_each_server() {
    let source =
        |_: &Lab| "type = \"etcd\"\nendpoint = \"127.0.0.1:2379\"\nprefix = \"/services/web/\"".to_owned();
    let etcdctl = |lab: &Lab, words: &[&str]| {
        let mut command = lab.director().command("etcdctl");
        run(command.env("ETCDCTL_API", "3").args(["--endpoints=127.0.0.1:2379"]).args(words))
    };
    let lab = lab(source, |lab| {
        let mut command = lab.director().command("etcd");
        command.arg("--data-dir").arg(lab.folder().join("etcd")).args(["--log-level=error"]);
        lab.start("etcd", &mut command).unwrap();
        assert!(wait_until(Duration::from_secs(20), || etcdctl(lab, &["endpoint", "health"]).is_ok()));
        etcdctl(lab, &["put", "/services/web/1", "10.0.0.11:80"]).unwrap();
        etcdctl(lab, &["put", "/services/webother/1", "10.0.0.13:80"]).unwrap();
    });
    await_servers(&lab, &["10.0.0.11:80"]);
    etcdctl(
        &lab,
        &["put", "/services/web/2", "{\"address\":\"10.0.0.12:80\",\"weight\":0.5,\"zone\":\"z\"}"],
    )
    .unwrap();
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);
    assert_eq!(lab.json(&["service", "show", "web"]).unwrap()["servers"][1]["weight"], 0.5);
    assert_eq!(answers(&lab), ["rs1", "rs2"]);
    // A value that is broken stands for the server that its key was, also after a change of something else.
    etcdctl(&lab, &["put", "/services/web/2", "{\"address\":\"10.0.0.1"]).unwrap();
    await_trouble(&lab, "10.0.0.12:80 stays as it was: the value of `/services/web/2` is not a server");
    let other = ["listen=192.0.2.10:81", "local_addresses=10.0.0.200", "server=10.0.0.11:81"];
    lab.sluice(&[&["service", "add", "other"], &other[..]].concat()).unwrap();
    etcdctl(&lab, &["put", "/services/web/4", "10.0.0.13:80"]).unwrap();
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"]);
    etcdctl(&lab, &["del", "/services/web/4"]).unwrap();
    etcdctl(&lab, &["put", "/services/web/2", "10.0.0.12:80"]).unwrap();
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);
    etcdctl(&lab, &["put", "/services/web/3", "nonsense"]).unwrap();
    await_trouble(&lab, "the value of `/services/web/3` is not a server: `nonsense`");
    etcdctl(&lab, &["del", "/services/web/3"]).unwrap();
    etcdctl(&lab, &["del", "/services/web/1"]).unwrap();
    await_servers(&lab, &["10.0.0.12:80"]);
    etcdctl(&lab, &["del", "--prefix", "/services/web/"]).unwrap();
    await_trouble(&lab, "it names no server; the last 1 stay");
}

#[test]
fn etcd_is_asked_by_https_as_a_user() {
    let endpoint = "https://127.0.0.1:2379";
    let source = |lab: &Lab| {
        let folder = lab.folder().display().to_string();
        format!(
            "type = \"etcd\"\nendpoint = \"{endpoint}\"\nprefix = \"/services/web/\"\nca_file = \"{folder}/ca.pem\"\nusername = \"root\"\npassword_file = \"{folder}/password\""
        )
    };
    let etcdctl = |lab: &Lab, words: &str| {
        let mut command = lab.director().command("etcdctl");
        command.arg(format!("--endpoints={endpoint}"));
        command.arg("--cacert").arg(lab.folder().join("ca.pem")).args(words.split_whitespace());
        run(command.env("ETCDCTL_API", "3"))
    };
    let mut lab = lab(source, |lab| {
        let folder = lab.folder().to_owned();
        std::fs::write(folder.join("password"), "s3cret\n").unwrap();
        std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
        for words in [
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lab -keyout ca.key -out ca.pem",
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=etcd -keyout key.pem -out request.pem",
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names",
        ] {
            run(Command::new("openssl").args(words.split(' ')).current_dir(&folder)).unwrap();
        }
        let mut command = lab.director().command("etcd");
        command.arg("--data-dir").arg(folder.join("etcd")).args(["--log-level=error"]);
        command.arg("--cert-file").arg(folder.join("cert.pem")).arg("--key-file").arg(folder.join("key.pem"));
        command.args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]);
        lab.start("etcd", &mut command).unwrap();
        assert!(wait_until(Duration::from_secs(20), || etcdctl(lab, "endpoint health").is_ok()));
        etcdctl(lab, "put /services/web/1 10.0.0.11:80").unwrap();
        for words in ["user add root:s3cret", "user grant-role root root", "auth enable"] {
            etcdctl(lab, words).unwrap();
        }
    });
    await_servers(&lab, &["10.0.0.11:80"]);
    etcdctl(&lab, "--user=root:s3cret put /services/web/2 10.0.0.12:80").unwrap();
    await_servers(&lab, &["10.0.0.11:80", "10.0.0.12:80"]);
    // Another password: the last login is still believed. Another authority: nobody is.
    std::fs::write(lab.folder().join("password"), "wrong\n").unwrap();
    let config = std::fs::read_to_string(lab.config_path()).unwrap();
    lab.write_config(&config.replace("300ms", "301ms")).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert_eq!(servers(&lab).len(), 2);
    await_trouble(&lab, "login as root");
    run(Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout other.key -out ca.pem".split(' '))
        .current_dir(lab.folder()))
    .unwrap();
    await_trouble(&lab, "TLS");
    assert_eq!(answers(&lab), ["rs1", "rs2"]);
    assert!(!lab.sluiced().unwrap().output().contains("s3cret"));
}
