//! What the file may say, and what is said to one who gets it wrong.

use super::*;
use dataplane::wire::ProxyVersion;
use std::path::Path;

const GOOD: &str = r#"[dataplane]
workers = [1]
session_capacity = 1_000

[[port]]
name = "wan"
device = "0000:3b:00.0"
addresses = ["192.0.2.2/24"]

[[port]]
name = "lan"
device = "net_af_packet0,iface=veth1"
addresses = ["10.0.0.2/24"]

[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"

[[service]]
name = "web"
listen = "192.0.2.10:80"
protocol = "tcp"
forward = "fullnat"
scheduler = "wlc"
local_addresses = ["10.0.0.200"]

[[service.server]]
address = "10.0.0.11:8080"
weight = 100
"#;

fn read(text: &str) -> Result<Loaded, LoadError> {
    parse(text, Path::new("sluice.toml"))
}

/// The problems of the good file with `from` replaced by `to`, one to a line.
fn complaint(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    match read(&GOOD.replacen(from, to, 1)) {
        Ok(_) => panic!("{to} was accepted"),
        Err(error) => error.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn the_good_file_is_good() {
    let loaded = read(GOOD).unwrap();

    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let service = &loaded.config.services[0];
    assert_eq!(service.listen_text(), "192.0.2.10:80");
    assert_eq!(service.servers[0].weight.value(), 100.0);
    assert_eq!(loaded.config.ports[1].device.argument("iface"), Some("veth1"));
    assert_eq!(loaded.config.routes[0].hops[0].port, dataplane::ids::PortId(0));
}

#[test]
fn unknown_keys_are_told_at_once_and_in_the_files_order() {
    let text = GOOD
        .replace("weight = 100", "wieght = 100")
        .replace(
            "scheduler = \"wlc\"",
            "shceduler = \"wlc\"\nhealth = { type = \"tcp\", intervall = \"1s\" }",
        )
        .replace("workers = [1]", "worker = [1]");
    let told = read(&text).unwrap_err();
    let keys: Vec<_> = told.problems().iter().map(|problem| problem.key.as_str()).collect();
    let expected = [
        "dataplane.worker",
        "service[0].shceduler",
        "service[0].health.intervall",
        "service[0].server[0].wieght",
    ];
    assert_eq!(keys, expected, "{told:?}");
    assert!(told.problems().iter().all(|problem| problem.message.contains("did you mean")));
    // What comes of an unknown key is not told beside it; what has nothing to do with it is.
    let address = GOOD.replace("address = \"10.0.0.11:8080\"", "adress = \"10.0.0.11:8080\"");
    assert_eq!(read(&address).unwrap_err().problems().len(), 1, "{:?}", read(&address));
    let two = address.replace("scheduler = \"wlc\"", "scheduler = 7");
    assert_eq!(read(&two).unwrap_err().problems().len(), 2, "{:?}", read(&two));
}

#[test]
fn errors_name_file_line_key_and_remedy() {
    let cases = [
        (
            "weight = 100",
            "weight = 100\n[metrics]\nlisten = [\"[::ffff:0.0.0.0]:9797\"]",
            "metrics.listen[0]: everybody who reaches this host could ask",
        ),
        (
            "weight = 100",
            "weight = 100\n[metrics]\nlisten = [\"unix:/etc/passwd\"]",
            "metrics.listen[0]: /etc/passwd is there and is not a socket; name another path",
        ),
        (
            "weight = 100",
            "weight = 100\n[metrics]\nlisten = [\"127.0.0.1:0\"]",
            "metrics.listen[0]: `127.0.0.1:0` is not ADDRESS:PORT or unix:PATH",
        ),
        (
            "weight = 100",
            "weight = 100\n[metrics]\nlisten = []\nbasic_auth_users = { a = \"$2y$31$abcdefghijklmnopqrstuugwV8qBBvnFAgKU/1lAQTjzoU4mNz2BW\" }",
            "metrics.basic_auth_users.a: its cost is above 14",
        ),
        (
            "scheduler = \"wlc\"",
            "scheduler = \"wlc\"\nlimits = { ipv4_prefix = 24 }",
            "service[0].limits: nothing is limited; write new_per_second or new_per_source",
        ),
        (
            "scheduler = \"wlc\"",
            "scheduler = \"wlc\"\nsyn_proxy = \"auto\"\nlimits = { new_per_source = 5, ban = \"1m\" }",
            "service[0].limits.ban: anybody could have another banned",
        ),
        (
            "scheduler = \"wlc\"",
            "scheduler = \"wlc\"\nsyn_proxy = \"always\"\nlimits = { new_per_second = 5, ban = \"1m\" }",
            "service[0].limits.ban: no source can come too often",
        ),
        (
            "weight = 100",
            "weight = 100\n[[acl]]\nname = \"a\"",
            "acl[0]: the list has neither prefixes nor files",
        ),
        (
            "weight = 100",
            "weight = 100\n[[hook]]\ncommand = [\"bird-rtbh\"]",
            "hook[0].command: name the program by its whole path",
        ),
        (
            "weight = 100",
            "weight = 100\n[[hook]]\ncommand = [\"/bin/true\"]\nkinds = [\"syn_flod\"]",
            "hook[0].kinds[0]: `syn_flod` is unknown; did you mean `syn_flood`?",
        ),
        (
            "weight = 100",
            "weight = 100\n[[acl]]\nname = \"bans\"\nprefixes = [\"10.0.0.0/8\"]",
            "acl[0].name: `bans` names another list already",
        ),
        (
            "weight = 100",
            "weight = 100\n[[acl]]\nname = \"a\"\nprefixes = [\"10.0.0.0/33\"]",
            "acl[0].prefixes[0]: `10.0.0.0/33` is no prefix; write it as",
        ),
        (
            "weight = 100",
            "weight = 100\n[[acl]]\nname = \"a\"\nfiles = [\"bad.netset\"]",
            "acl[0].files[0]: `bad.netset` begins at no root; write the whole path",
        ),
        (
            "weight = 100",
            "weight = 100\n[[acl]]\nname = \"a\"\nprefixes = [\"10.0.0.1\"]\nservices = [\"wbe\"]",
            "acl[0].services[0]: there is no service `wbe`",
        ),
        (
            "weight = 100",
            "weight = 100\n[[acl]]\nname = \"a\"\nprefixes = [\"10.0.0.1\"]\nservices = []",
            "acl[0].services: the list is for no service",
        ),
        (
            "weight = 100",
            "weight = 100\n[[acl]]\nname = \"a\"\naction = \"dney\"\nprefixes = [\"10.0.0.1\"]",
            "acl[0].action: `dney` is unknown; did you mean `deny`?",
        ),
        (
            "weight = 100",
            "weight = 100\n[log]\nformat = \"jsn\"",
            "log.format: `jsn` is unknown; did you mean `json`?",
        ),
        (
            "weight = 100",
            "weight = 70000",
            "sluice.toml:29: service[0].server[0].weight: 70000 is above 65535; use 0 to take no new sessions",
        ),
        ("weight = 100", "weight = -1", "sluice.toml:29: service[0].server[0].weight: -1 is below 0"),
        (
            "weight = 100",
            "wieght = 100",
            "sluice.toml:29: service[0].server[0].wieght: unknown key `wieght`; did you mean `weight`?",
        ),
        (
            "scheduler = \"wlc\"",
            "scheduler = \"wcl\"",
            "sluice.toml:24: service[0].scheduler: `wcl` is unknown; did you mean `wlc`?",
        ),
        ("scheduler = \"wlc\"", "scheduler = \"sde\"", "`sde` is unknown; did you mean `sed`?"),
        (
            "forward = \"fullnat\"",
            "forward = \"dr\"",
            "service[0].server[0].address: dr cannot change ports, because the packet reaches the server as it is",
        ),
        (
            "forward = \"fullnat\"",
            "forward = \"nat\"",
            "service[0].local_addresses: a nat service has no local addresses",
        ),
        (
            "forward = \"fullnat\"",
            "forward = \"fullnt\"",
            "service[0].forward: `fullnt` is unknown; did you mean `fullnat`?",
        ),
        (
            "weight = 100",
            "weight = 100\nmax_sessions = 10\nmin_sessions = 11",
            "service[0].server[0].min_sessions: 11 is above max_sessions",
        ),
        (
            "weight = 100",
            "weight = 100\n[service.persistence]\nnetmask = 33",
            "service[0].persistence.netmask: 33 is above 32",
        ),
        (
            "scheduler = \"wlc\"",
            "client_address = { type = \"toa\", kind = 8 }",
            "service[0].client_address.kind: 8 is below 35",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"udp\"\nclient_address = { type = \"toa\" }",
            "service[0].client_address: toa is for tcp",
        ),
        (
            "scheduler = \"wlc\"",
            "client_address = { type = \"prox\" }",
            "service[0].client_address.type: `prox` is unknown; did you mean `proxy`?",
        ),
        (
            "scheduler = \"wlc\"",
            "client_address = { type = \"proxy\", version = 3 }",
            "service[0].client_address.version: 3 is above 2",
        ),
        (
            "scheduler = \"wlc\"",
            "client_address = { type = \"proxy\", version = 1, vip = true }",
            "service[0].client_address.vip: version 1 has no place for it",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"udp\"\nclient_address = { type = \"proxy\", version = 1 }",
            "service[0].client_address.version: 1 is for tcp",
        ),
        (
            "scheduler = \"wlc\"",
            "client_address = { type = \"proxy\", kind = 254 }",
            "service[0].client_address.kind: a client_address of type proxy has no kind (toa); remove it",
        ),
        (
            "scheduler = \"wlc\"",
            "client_address = { type = \"uoa\" }",
            "service[0].client_address: uoa is for udp",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"sctp\"\nclient_address = { type = \"proxy\" }",
            "service[0].client_address: servers cannot be told over sctp",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"sctp\"\none_packet = true",
            "service[0].one_packet: one_packet is for udp",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"sctp\"\nreset_on_expiry = true",
            "service[0].reset_on_expiry: reset_on_expiry is for tcp",
        ),
        ("protocol = \"tcp\"", "protocol = \"icmp\"", "service[0].protocol: icmp is for snat"),
        (
            "protocol = \"tcp\"",
            "protocol = \"udp\"\nclient_address = { type = \"uoa\", encoding = \"optin\" }",
            "service[0].client_address.encoding: `optin` is unknown; did you mean `option`?",
        ),
        ("scheduler = \"wlc\"", "one_packet = true", "service[0].one_packet: one_packet is for udp"),
        (
            "protocol = \"tcp\"",
            "protocol = \"udp\"\nsyn_proxy = \"always\"",
            "service[0].syn_proxy: syn_proxy is for tcp, and the service is udp; remove it",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"tcp\"\nsloppy = true\nsyn_proxy = \"always\"",
            "service[0].syn_proxy: syn_proxy asks each connection for its handshake",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"tcp\"\nsyn_proxy = \"alway\"",
            "service[0].syn_proxy: `alway` is unknown; did you mean `always`?",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"udp\"\nreset_on_expiry = true",
            "service[0].reset_on_expiry: reset_on_expiry is for tcp",
        ),
        ("scheduler = \"wlc\"", "session_limit = 0", "service[0].session_limit: 0 is below 1"),
        (
            "weight = 100",
            "weight = 100\n[service.timeouts]\nestablished = \"0s\"",
            "service[0].timeouts.established: 0s is out of range",
        ),
        (
            "weight = 100",
            "weight = 100\n[service.tunnel]\ntype = \"gre\"",
            "service[0].tunnel: a fullnat service has no tunnel",
        ),
        (
            "weight = 100",
            "weight = 100\n[service.health]\ntype = \"tcp\"\naim = \"vip\"",
            "service[0].health.aim: servers of a fullnat service do not have the VIP; remove this",
        ),
        (
            "weight = 100",
            "weight = 100\n[service.health]\ntype = \"tcp\"\naim = \"vop\"",
            "service[0].health.aim: `vop` is unknown; did you mean `vip`?",
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"tpc\"",
            "service[0].protocol: `tpc` is unknown; did you mean `tcp`?",
        ),
        ("workers = [1]", "workers = []", "sluice.toml:2: dataplane.workers: no worker is named"),
        (
            "addresses = [\"10.0.0.2/24\"]",
            "addresses = [\"10.0.0.2/24\"]\nmtu = 9000",
            "port[1].mtu: af_packet's frames have 2048 bytes, too few for 9000; add framesz=",
        ),
        (
            "addresses = [\"10.0.0.2/24\"]",
            "addresses = [\"10.0.0.2/24\"]\naccept_ra = true",
            "port[1].accept_ra: routers are asked from an IPv6 address",
        ),
        (
            "addresses = [\"10.0.0.2/24\"]",
            "addresses = [\"10.0.0.2/24\"]\nmtu = 1279",
            "port[1].mtu: 1279 is below 1280",
        ),
        (
            "name = \"wan\"",
            "name = \"wan\"\nparent = \"lan\"\nvlan = 7",
            "port[0].device: a port has a device, or parent and vlan",
        ),
        (
            "device = \"0000:3b:00.0\"",
            "parent = \"lna\"\nvlan = 7",
            "port[0].parent: `lna` is not a port with a device; did you mean `lan`?",
        ),
        ("device = \"0000:3b:00.0\"", "parent = \"lan\"\nvlan = 4095", "port[0].vlan: 4095 is above 4094"),
        ("device = \"0000:3b:00.0\"", "parent = \"lan\"", "port[0].vlan: the key `vlan` is missing"),
        (
            "addresses = [\"192.0.2.2/24\"]",
            "addresses = [\"192.0.2.2/24\"]\nrss = { fields = \"port\" }",
            "port[0].rss.fields: `port` is unknown; did you mean `ports`",
        ),
        (
            "addresses = [\"192.0.2.2/24\"]",
            "addresses = [\"192.0.2.2/24\"]\nrss = { fields = \"ports\" }",
            "port[0].rss.key: name the device's key",
        ),
        (
            "addresses = [\"192.0.2.2/24\"]",
            "addresses = [\"192.0.2.2/24\"]\nrss = { fields = \"ports\", key = \"6d5a\" }",
            "port[0].rss.key: write at least 40 bytes",
        ),
        (
            "session_capacity = 1_000",
            "session_capacity = 0",
            "sluice.toml:3: dataplane.session_capacity: 0 is below 1",
        ),
        (
            "session_capacity = 1_000",
            "hugepages = \"on\"",
            "dataplane.hugepages: `on` is unknown; use one of auto, require, off",
        ),
        (
            "session_capacity = 1_000",
            "session_capacity = \"many\"",
            "sluice.toml:3: dataplane.session_capacity: string \"many\" stands where a whole number belongs",
        ),
        (
            "device = \"0000:3b:00.0\"",
            "device = \"eth0\"",
            "port[0].device: `eth0` is neither a PCI address (0000:3b:00.0) nor a DPDK vdev",
        ),
        ("name = \"lan\"", "name = \"wan\"", "port[1].name: `wan` names another port already"),
        (
            "addresses = [\"10.0.0.2/24\"]",
            "addresses = [\"10.0.0.2\"]",
            "port[1].addresses[0]: `10.0.0.2` is not ADDRESS/PREFIX",
        ),
        (
            "addresses = [\"10.0.0.2/24\"]",
            "addresses = [\"10.0.0.255/24\"]",
            "`10.0.0.255/24` is not a host's address",
        ),
        (
            "addresses = [\"10.0.0.2/24\"]",
            "addresses = [\"192.0.2.3/25\"]",
            "network 192.0.2.3/25 overlaps with one of port `wan`",
        ),
        (
            "addresses = [\"10.0.0.2/24\"]",
            "addresses = []",
            "port[1].addresses: a port needs an address of its own",
        ),
        (
            "to = \"0.0.0.0/0\"",
            "to = \"10.9.1.1/16\"",
            "route[0].to: 10.9.1.1/16 has bits set behind its prefix; write 10.9.0.0/16",
        ),
        (
            "via = \"192.0.2.1\"",
            "via = \"203.0.113.1\"",
            "route[0].via: gateway 203.0.113.1 is on no port's network",
        ),
        (
            "via = \"192.0.2.1\"",
            "via = \"192.0.2.2\"",
            "route[0].via: gateway 192.0.2.2 is the appliance itself",
        ),
        (
            "listen = \"192.0.2.10:80\"",
            "listen = \"192.0.2.10\"",
            "service[0].listen: `192.0.2.10` is not ADDRESS:PORT",
        ),
        (
            "listen = \"192.0.2.10:80\"",
            "listen = \"192.0.2.10:0\"",
            "has port 0; name a port from 1 to 65535",
        ),
        ("listen = \"192.0.2.10:80\"", "listen = \"2001:db8::1:80\"", "`2001:db8::1:80` is not ADDRESS:PORT"),
        ("listen = \"192.0.2.10:80\"", "listen = \"192.0.2.0/29:80\"", "192.0.2.0/29 has 192.0.2.2 in it"),
        ("listen = \"192.0.2.10:80\"", "listen = []", "there is nothing to listen on"),
        (
            "address = \"10.0.0.11:8080\"",
            "address = \"[2001:db8::11]:80\"",
            "none of the local addresses is of 2001:db8::11's family",
        ),
        ("via = \"192.0.2.1\"", "via = \"fe80::1\"", "are of two families"),
        (
            "local_addresses = [\"10.0.0.200\"]",
            "local_addresses = []",
            "service[0].local_addresses: a fullnat service without local addresses cannot forward",
        ),
        (
            "local_addresses = [\"10.0.0.200\"]",
            "local_addresses = [\"10.1.0.200\"]",
            "10.1.0.200 belongs to no port's network (wan has 192.0.2.2/24, lan has 10.0.0.2/24)",
        ),
        (
            "local_addresses = [\"10.0.0.200\"]",
            "local_addresses = [\"10.0.0.2\"]",
            "10.0.0.2 is a port's own address",
        ),
        ("local_addresses = [\"10.0.0.200\"]", "local_addresses = [\"192.0.2.10\"]", "192.0.2.10 is a VIP"),
        (
            "address = \"10.0.0.11:8080\"",
            "address = \"10.0.0.200:80\"",
            "10.0.0.200 is one of the appliance's VIPs or local addresses",
        ),
        ("address = \"10.0.0.11:8080\"", "address = \"10.0.0.2:80\"", "10.0.0.2 is the appliance itself"),
        (
            "address = \"10.0.0.11:8080\"",
            "address = \"ten:80\"",
            "service[0].server[0].address: `ten:80` is not ADDRESS:PORT",
        ),
        (
            "[dataplane]",
            "[datplane]",
            "sluice.toml:1: datplane: unknown key `datplane`; did you mean `dataplane`?",
        ),
        ("name = \"web\"", "name = \"a b\"", "service[0].name: `a b` is not a name"),
        (
            "protocol = \"tcp\"",
            "protocol = \"udp\"\nconnect_limit = \"20ms\"",
            "service[0].connect_limit: datagrams open no connection",
        ),
        ("scheduler = \"wlc\"", "connect_limit = \"0ms\"", "service[0].connect_limit: 0ms is out of range"),
    ];
    for (from, to, expected) in cases {
        let complaint = complaint(from, to);
        assert!(complaint.contains(expected), "{to}\n  gave    {complaint}\n  not     {expected}");
    }
}

#[test]
fn a_server_without_a_route_is_refused() {
    let without_default = GOOD.replace("[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n", "");
    let far = without_default.replace("10.0.0.11:8080", "172.16.5.5:80");

    let error = read(&far).unwrap_err();

    assert!(error.problems()[0].to_string().contains("no route leads to 172.16.5.5"), "{error:?}");
    assert_eq!(error.exit_status(), 2);
}

#[test]
fn a_local_address_on_the_wrong_side_is_warned_about() {
    let loaded = read(&GOOD.replace("[\"10.0.0.200\"]", "[\"192.0.2.200\"]")).unwrap();

    assert!(loaded.warnings[0].message.contains("reached by port `lan`"), "{:?}", loaded.warnings);
}

#[test]
fn a_missing_key_and_broken_toml_are_told_apart() {
    let missing = read(&GOOD.replace("name = \"web\"\n", "")).unwrap_err();
    assert!(missing.problems()[0].to_string().contains("the key `name` is missing; add it"), "{missing:?}");
    assert_eq!(missing.exit_status(), 2);

    let broken = read("[dataplane\n").unwrap_err();
    assert!(broken.problems()[0].to_string().starts_with("sluice.toml:1: not valid TOML"), "{broken:?}");
    assert_eq!(broken.exit_status(), 1);

    let absent = load(Path::new("/nonexistent/sluice.toml")).unwrap_err();
    assert_eq!(absent.exit_status(), 1);
}

#[test]
fn all_problems_are_told_at_once() {
    let text = GOOD.replace("weight = 100", "weight = 70000").replace("\"wlc\"", "\"best\"");

    assert_eq!(read(&text).unwrap_err().problems().len(), 2);
}

#[test]
fn a_server_without_a_port_gets_the_services() {
    let loaded = read(&GOOD.replace("10.0.0.11:8080", "10.0.0.11")).unwrap();

    assert_eq!(loaded.config.services[0].servers[0].endpoint.l4_port, 80);
}

#[test]
fn the_same_listener_twice_is_refused_and_once_per_protocol_is_not() {
    let service = &GOOD[GOOD.find("[[service]]").unwrap()..];
    let twice = format!("{GOOD}\n{}", service.replace("\"web\"", "\"web2\""));
    assert!(read(&twice).unwrap_err().problems()[0].message.contains("is service `web`'s already"));

    let both = format!("{GOOD}\n{}", service.replace("\"web\"", "\"dns\"").replace("\"tcp\"", "\"udp\""));
    assert!(read(&both).is_ok());
}

#[test]
fn a_service_may_take_several_protocols() {
    let with = |value: &str| read(&GOOD.replace("protocol = \"tcp\"", &format!("protocol = {value}")));
    let protocols = |value: &str| with(value).unwrap().config.services[0].protocols.to_string();
    assert_eq!(protocols("\"udp\""), "udp");
    assert_eq!(protocols("[\"udp\"]"), "udp");
    assert_eq!(protocols("[\"udp\", \"tcp\"]"), "tcp,udp");
    // What one of them has is allowed, and what one of them cannot have is not.
    for good in
        ["reset_on_expiry = true", "connect_limit = \"20ms\"", "client_address = { type = \"proxy\" }"]
    {
        assert!(with(&format!("[\"tcp\", \"udp\"]\n{good}")).is_ok(), "{good}");
    }
    for (value, problem) in [
        ("[]", "the list is empty; name a protocol, or remove the key for tcp"),
        ("[\"tcp\", \"tcp\"]", "`tcp` stands here twice; remove one"),
        ("[\"tcp\", \"upd\"]", "`upd` is unknown; did you mean `udp`?"),
        (
            "[\"tcp\", \"icmp\"]",
            "icmp is for snat: the appliance itself answers pings of its VIPs; remove it",
        ),
        (
            "[\"tcp\", \"udp\"]\nclient_address = { type = \"toa\" }",
            "toa is for tcp; use proxy or uoa for datagrams",
        ),
        (
            "[\"tcp\", \"udp\"]\nclient_address = { type = \"uoa\" }",
            "uoa is for udp; use toa or proxy for tcp",
        ),
        (
            "[\"tcp\", \"udp\"]\nclient_address = { type = \"proxy\", version = 1 }",
            "1 is for tcp; use 2 for datagrams",
        ),
        ("[\"tcp\", \"udp\"]\none_packet = true", "one_packet is for udp: a connection has many packets"),
        ("3", "stands where a text belongs"),
    ] {
        let error = with(value).unwrap_err();
        let said = error.problems().iter().map(|problem| &problem.message).any(|said| said.contains(problem));
        assert!(said, "{value}: {error:?}");
    }
    // Each of them is another service's on the same address and port no more.
    let service = GOOD.split_once("[[service]]").unwrap().1;
    let other = service.replace("\"web\"", "\"dns\"").replace("\"tcp\"", "\"udp\"");
    let both = GOOD.replace("protocol = \"tcp\"", "protocol = [\"tcp\", \"udp\"]");
    let error = read(&format!("{both}\n[[service]]{other}")).unwrap_err();
    assert!(
        error.problems()[0].message.contains("udp 192.0.2.10:80 is service `web`'s already"),
        "{error:?}"
    );
}

#[test]
fn timeouts_are_durations() {
    let with = |text: &str| read(&format!("{GOOD}\n[timeouts]\nudp = \"{text}\"\n"));

    assert_eq!(with("90s").unwrap().config.timeouts.of(dataplane::session::State::UdpTwoWay), 90_000);
    for bad in ["90", "s", "0s", "1000h", "-1s", "1.5s", ""] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

/// The good file with a health check of these lines.
fn with_health(lines: &str) -> Result<Loaded, LoadError> {
    read(&format!("{GOOD}\n[service.health]\n{lines}\n"))
}

#[test]
fn health_checks_are_read_with_what_they_do_not_say() {
    let health =
        |lines: &str| (*with_health(lines).unwrap().config.services[0].health.clone().unwrap()).clone();
    let http =
        health("type = \"http\"\npath = \"/healthz\"\ninterval = \"3s\"\nexpect_status = [\"2xx\", \"404\"]");
    assert_eq!((http.interval.as_secs(), http.timeout.as_secs(), http.rise, http.fall), (3, 3, 2, 3));
    let Probe::Http(request) = http.probe else { panic!("{http:?}") };
    assert_eq!((request.path.as_str(), request.method.as_str()), ("/healthz", "GET"));
    assert_eq!(request.status, [200..=299, 404..=404]);
    assert!(request.tls.is_none());
    let https = health("type = \"https\"\nhost = \"example.com\"\nverify = false");
    let Probe::Http(request) = https.probe else { panic!("{https:?}") };
    assert_eq!(request.tls.unwrap().server_name.as_deref(), Some("example.com"));
    assert_eq!(health("type = \"icmp\"").probe, Probe::Icmp);
    let load = health("type = \"http\"\nload_header = \"X-Load\"\nload_limit = 0.8").load.unwrap();
    assert_eq!((load.place, load.limit), (LoadPlace::Header("x-load".into()), 800));
    let load = health("type = \"http\"\nload_field = \"cpu.0.load\"").load.unwrap();
    assert_eq!(load.place, LoadPlace::Field(["cpu", "0", "load"].map(str::to_owned).to_vec()));
}

#[test]
fn bad_health_checks_are_told_what_to_do() {
    let cases = [
        ("type = \"htpp\"", "did you mean `http`?"),
        ("type = \"tcp\"\npath = \"/\"", "a check of type tcp has no path (http, https); remove it"),
        ("type = \"http\"\npath = \"x\"", "write /x"),
        ("type = \"http\"\nexpect_status = \"999\"", "is not a status code"),
        ("type = \"https\"\nca_file = \"/nowhere.pem\"", "/nowhere.pem cannot be read"),
        ("type = \"dns\"", "say which name is asked for"),
        ("type = \"script\"\ncommand = \"check\"", "name the program by its whole path"),
        ("type = \"tcp\"\njitter = 3", "write a number from 0 to 1"),
        ("type = \"tcp\"\ninitial = \"upp\"", "did you mean `up`?"),
        ("type = \"udp\"", "say what is sent"),
        ("type = \"http\"\nload_field = \"a..b\"", "names a number in the JSON"),
        ("type = \"http\"\nload_field = \"a\"\nload_header = \"b\"", "remove this or load_header"),
        ("type = \"http\"\nload_field = \"a\"\nmethod = \"HEAD\"", "the answer to HEAD has no body"),
        ("type = \"http\"\nload_limit = 0.5", "nothing says where servers tell their load"),
        ("type = \"tcp\"\ninterval = \"1ms\"", "out of range"),
        // What could never succeed.
        ("type = \"http\"\npath = \"/a b\"", "' ' cannot stand in a path; write it as %20"),
        ("type = \"http\"\npath = \"/a\\\"b\"", "write it as %22"),
        ("type = \"http\"\npath = \"/ä\"", "write it as %C3%A4"),
        ("type = \"http\"\nhost = \"a\\nX: b\"", "cannot stand in a header"),
        ("type = \"https\"\nhost = \"a b\"", "is not the name of a server"),
        ("type = \"https\"\nserver_name = \"a_b..c\"", "is not the name of a server"),
        ("type = \"dns\"\nquery = \"a..b\"", "\"a..b\" cannot be asked for"),
        ("type = \"dns\"\nquery = \"\"", "cannot be asked for"),
        ("type = \"http\"\nexpect_status = \"299-200\"", "is not a status code"),
        (
            "type = \"script\"\ncommand = \"/bin/check --fast\"",
            "a list: command = [\"/bin/check\", \"--fast\"]",
        ),
        ("type = \"script\"\ncommand = \"/bin/no-such-check\"", "/bin/no-such-check: No such file"),
        ("type = \"script\"\ncommand = \"/etc/passwd\"", "cannot be run; `chmod +x` it"),
        ("type = \"tcp\"\nproxy = true", "servers of this service get no PROXY header"),
        ("type = \"icmp\"\nproxy = false", "a check of type icmp has no proxy"),
    ];
    for (lines, expected) in cases {
        let error = with_health(lines).unwrap_err();
        let said: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{lines}: {said:?}");
    }
}

/// The warnings of the good file with this lines behind it.
fn warnings(text: &str) -> Vec<String> {
    read(text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn checks_that_hardly_succeed_are_warned_about() {
    let of = |lines: &str| warnings(&format!("{GOOD}\n[service.health]\n{lines}\n"));
    let slow = of("type = \"tcp\"\ninterval = \"1s\"\ntimeout = \"5s\"");
    assert!(slow.len() == 1 && slow[0].contains("make it shorter than the interval"), "{slow:?}");
    let udp = GOOD.replace("\"tcp\"", "\"udp\"");
    let of_udp = |lines: &str| warnings(&format!("{udp}\n[service.health]\n{lines}\n"));
    let stream = of_udp("type = \"http\"");
    assert!(stream.len() == 1 && stream[0].contains("though the service is udp"), "{stream:?}");
    assert!(of_udp("type = \"http\"\nport = 8081").is_empty());
    assert!(of("type = \"https\"\nhost = \"bücher.example:8443\"").is_empty());
    assert!(of("type = \"https\"\nhost = \"[2001:db8::1]:8443\"").is_empty());
}

#[test]
fn checks_speak_proxy_where_sessions_do_and_the_same_port_is_asked() {
    let version = |service: &str, health: &str| {
        let text = GOOD.replace("scheduler = \"wlc\"", &format!("scheduler = \"wlc\"\n{service}"));
        let loaded = read(&format!("{text}\n[service.health]\n{health}\n")).unwrap();
        loaded.config.services[0].health.as_ref().unwrap().proxy
    };
    let (two, one) =
        ("client_address = { type = \"proxy\" }", "client_address = { type = \"proxy\", version = 1 }");
    assert_eq!(version(two, "type = \"http\""), Some(ProxyVersion::Two));
    assert_eq!(version(one, "type = \"tcp\""), Some(ProxyVersion::One));
    assert_eq!(version(two, "type = \"http\"\nport = 8081"), None);
    assert_eq!(version(two, "type = \"http\"\nport = 8081\nproxy = true"), Some(ProxyVersion::Two));
    assert_eq!(version(two, "type = \"http\"\nproxy = false"), None);
    assert_eq!(version("", "type = \"http\""), None);
}

#[test]
fn checks_that_can_never_succeed_are_refused() {
    for (lines, expected) in [
        (
            "type = \"script\"\ncommand = [\"/bin/sh\", \"a\\u0000b\"]",
            "no argument of a program can hold a NUL",
        ),
        (
            "type = \"dns\"\nquery = \"a.b\"\nquery_type = \"AAAA\"\nexpect = \"1.2.3.4\"",
            "no answer of type AAAA is 1.2.3.4",
        ),
        ("type = \"dns\"\nquery = \"a.b\"\nexpect = \"2001:db8::1\"", "write query_type = \"AAAA\""),
        ("type = \"http\"\nload_header = \"X Load\"", "no header has such a name"),
        ("type = \"http\"\nexpect_status = []", "the list is empty"),
        ("type = \"http\"\nexpect_status = \"1xx\"", "is never the last answer to a request"),
        ("type = \"http\"\nexpect_status = \"204\"\nexpect_body = \"x\"", "have no body"),
    ] {
        let error = with_health(lines).unwrap_err();
        assert!(error.problems()[0].message.contains(expected), "{lines}: {error:?}");
    }
}

#[test]
fn a_host_with_other_letters_is_asked_for_as_idna_writes_it() {
    for (host, expected) in [
        ("bücher.example", "xn--bcher-kva.example"),
        ("bücher.example:8443", "xn--bcher-kva.example:8443"),
        ("a.example:80", "a.example:80"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
    ] {
        let loaded = with_health(&format!("type = \"https\"\nhost = \"{host}\"")).unwrap();
        let health = loaded.config.services[0].health.clone().unwrap();
        let Probe::Http(http) = &health.probe else { panic!("{health:?}") };
        assert_eq!(http.host.as_deref(), Some(expected));
    }
}

#[test]
fn scripts_that_cannot_begin_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("sluice-script-{}", std::process::id()));
    for (begin, expected) in [
        ("#!/nope/sh\n", "its first line names /nope/sh, which is not there"),
        ("#!/bin/sh\r\nexit 0\r\n", "its lines end as Windows has them"),
        ("exit 0\n", "begin it with #!/bin/sh"),
        ("#!/bin/sh\nexit 0\n", ""),
    ] {
        std::fs::write(&path, begin).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let said = with_health(&format!("type = \"script\"\ncommand = [\"{}\"]", path.display()));
        match said {
            Ok(_) => assert_eq!(expected, "", "{begin}"),
            Err(error) => assert!(error.problems()[0].message.contains(expected), "{begin}: {error:?}"),
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn addresses_that_are_somebody_elses_are_refused() {
    let route = "via = \"192.0.2.1\"";
    for (from, to, expected) in [
        ("192.0.2.10:80", "192.0.2.1:80", "192.0.2.1 is the gateway of the route to 0.0.0.0/0"),
        ("192.0.2.10:80", "192.0.2.0/28:80", "192.0.2.2 in it"),
        ("192.0.2.10:80", "192.0.2.2:80", "192.0.2.2 is a port's own address"),
        ("192.0.2.10:80", "192.0.2.0:80", "192.0.2.0 is not a host's address"),
        ("192.0.2.10:80", "192.0.2.255:80", "192.0.2.255 is not a host's address"),
        ("10.0.0.11:8080", "192.0.2.1:8080", "192.0.2.1 is the gateway of the route to 0.0.0.0/0"),
        ("10.0.0.11:8080", "10.0.0.0:8080", "10.0.0.0 is a network's own or broadcast address"),
        ("10.0.0.11:8080", "10.0.0.255:8080", "10.0.0.255 is a network's own or broadcast address"),
        ("\"10.0.0.200\"", "\"10.0.0.0\"", "10.0.0.0 is a network's"),
        (route, "via = \"10.0.0.200\"", "10.0.0.200 is the gateway"),
        (route, "via = \"10.0.0.0\"", "10.0.0.0 is a network's own or broadcast address; name the router"),
        (
            route,
            "via = \"10.0.0.255\"",
            "10.0.0.255 is a network's own or broadcast address; name the router",
        ),
        (route, "via = \"192.0.2.1\"\nport = \"lan\"", "is on the network of port wan, not of lan"),
        (route, "via = \"10.0.0.11\"", "10.0.0.11 is the gateway"),
        (route, "via = \"192.0.2.10\"", "192.0.2.10 is the gateway"),
    ] {
        let said = complaint(from, to);
        assert!(said.contains(expected), "{from} -> {to}: {said}");
    }
}

#[test]
fn what_is_hardly_meant_is_warned_about() {
    let of = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        warnings(&GOOD.replacen(from, to, 1))
    };
    let (scheduler, server) = ("scheduler = \"wlc\"", "weight = 100\n");
    let second = "weight = 100\n[[service.server]]\naddress = \"10.0.0.12:80\"\nweight = 50\n";
    let two = |scheduler: &str| {
        warnings(&GOOD.replace(server, second).replace("\"wlc\"", &format!("\"{scheduler}\"")))
    };
    let check = |lines: &str| of(server, &format!("weight = 100\n[service.health]\n{lines}\n"));
    for (said, expected) in [
        (of("via = \"192.0.2.1\"", "via = [\"192.0.2.1\", \"192.0.2.1\"]"), "192.0.2.1 is named twice"),
        (of(scheduler, "slow_start = \"10s\""), "no server is seen to come up"),
        (of(scheduler, "protect_threshold = 0.3"), "nothing is protected"),
        (of(scheduler, "scheduler = \"rr\"\nhash_seed = 7"), "rr hashes nothing"),
        (two("rr"), "rr gives every server the same, whatever its weight; use wrr"),
        (two("lc"), "use wlc"),
        (of(scheduler, "spill_below = 0.5"), "nothing spills"),
        (of(scheduler, "scheduler = \"rr\"\nslow_start = \"10s\""), "so this changes nothing; use wrr"),
        (of(scheduler, "scheduler = \"lc\"\nconnect_limit = \"10ms\""), "so this changes nothing; use wlc"),
        (
            of("workers = [1]", "workers = [0, 1]"),
            "2 workers need as many queues, so the start would fail; add qpairs=2",
        ),
        (
            of(
                "addresses = [\"10.0.0.2/24\"]",
                "addresses = [\"10.0.0.2/24\"]\nkernel = false\n[admin]\noperators = [\"root\"]",
            ),
            "without group nobody but root reaches the socket",
        ),
        (
            of(
                server,
                "weight = 100\n[names]\nzone = \"lb.example\"\nlisten = [\"192.0.2.2:53\"]\nhttp = [\"192.0.2.2:53\"]\n",
            ),
            "names.listen[0] has 192.0.2.2:53 already",
        ),
        (
            of(server, "weight = 100\n[metrics]\nlisten = [\"192.0.2.10:9797\"]\n"),
            "192.0.2.10 is not a port's own address",
        ),
        (
            of("name = \"web\"", "name = \"a.web\"")
                .into_iter()
                .chain(warnings(&format!(
                    "{}\n[names]\nzone = \"lb.example\"\nlisten = [\"192.0.2.2:53\"]\n",
                    GOOD.replace("name = \"web\"", "name = \"a.web\"")
                )))
                .collect(),
            "service a.web has a dot in its name, which is no label of the zone",
        ),
        (
            warnings(&format!(
                "{GOOD}\n[names]\nzone = \"lb.example\"\nlisten = [\"192.0.2.2:53\"]\n[[names.client]]\nnetworks = [\"10.0.0.0/8\"]\n[[names.client]]\nnetworks = [\"10.0.0.0/8\"]\nzone = \"a\"\n{}",
                GOOD[GOOD.find("[[service]]").unwrap()..]
                    .replace("\"web\"", "\"WEB\"")
                    .replace(":80\"", ":81\"")
            )),
            "DNS does not tell services web and WEB apart",
        ),
        (
            warnings(&format!(
                "{GOOD}\n[names]\nzone = \"lb.example\"\nlisten = [\"192.0.2.2:53\"]\n[[names.client]]\nnetworks = [\"10.0.0.0/8\"]\n"
            )),
            "these clients are nowhere",
        ),
        (
            warnings(&format!(
                "{}\n[service.health]\ntype = \"tcp\"\n",
                GOOD.replace("[\"10.0.0.2/24\"]", "[\"10.0.0.2/24\"]\nkernel = false")
            )),
            "port lan has kernel = false, so the host cannot ask 10.0.0.11 there",
        ),
        (
            warnings(
                &GOOD
                    .replace("\"tcp\"", "\"udp\"")
                    .replace(scheduler, "timeouts = { established = \"60s\" }"),
            ),
            "times of connections change nothing",
        ),
        (of("workers = [1]", "workers = [1, 1000]"), "this machine has no core 1000"),
        (of(server, "weight = 100\n[location]\nzone = \"a\"\n"), "no server says where it is"),
        (of(server, "zone = \"b\"\n[location]\nzone = \"a\"\n"), "no server is in zone a"),
        (
            of(server, "weight = 100\n[names]\nzone = \"lb.example\"\nlisten = [\"192.0.2.99:53\"]\n"),
            "192.0.2.99 is not a port's own address (port wan has that network)",
        ),
        (of("0000:3b:00.0", "net_pcap0,rx_iface=veth1,tx_iface=veth1"), "port wan reads interface veth1 too"),
        (
            of(
                server,
                "weight = 100\n[service.health]\ntype = \"http\"\nmethod = \"HEAD\"\nexpect_body = \"x\"\n",
            ),
            "the answer to HEAD has no body",
        ),
        (of(scheduler, "sorry_server = \"10.0.0.99:80\""), "so the sorry server gets nobody"),
        (of(scheduler, "sorry_server = \"10.0.0.11:8080\""), "it is one of the service's own servers"),
        (of(scheduler, "timeouts = { udp = \"60s\" }"), "times of udp change nothing"),
        (
            of(server, "weight = 100\n[service.passive]\ninhibit = \"10s\"\ninhibit_max = \"1s\"\n"),
            "below inhibit",
        ),
        (
            of(server, "weight = 100\n[[route]]\nto = \"10.0.0.0/24\"\nvia = \"192.0.2.1\"\n"),
            "10.0.0.0/24 is the network of port lan",
        ),
        (check("type = \"icmp\"\nport = 80"), "asks no port"),
        (check("type = \"http\"\nhost = \"a b\""), "no server has such a name"),
        (check("type = \"http\"\nhost = \"a:99999\""), "no server has such a name"),
        (check("type = \"http\"\nmethod = \"get\""), "write GET"),
        (check("type = \"http\"\nmethod = \"CONNECT\""), "use GET or HEAD"),
    ] {
        assert!(said.iter().any(|line| line.contains(expected)), "{expected}: {said:?}");
    }
    for good in [
        "host = \"a.example:8080\"",
        "host = \"[2001:db8::1]:80\"",
        "host = \"2001:db8::1\"",
        "method = \"GET\"",
    ] {
        assert_eq!(check(&format!("type = \"http\"\n{good}")), Vec::<String>::new(), "{good}");
    }
    assert_eq!(two("wrr"), Vec::<String>::new());
}

#[test]
fn types_are_told_in_the_words_of_the_file() {
    for (from, to, expected) in [
        ("[[service]]", "[service]", "write [[ ]] around its name"),
        ("weight = 100", "max_sessions = 99999999999999999999", "is larger than any number can be"),
        (
            "[[service]]",
            "[[service]]\n[[service.health]]\ntype = \"tcp\"\n[[service]]",
            "[[ ]] for each of several",
        ),
        ("scheduler = \"wlc\"", "persistence = 900", "stands where a table belongs; write { KEY = VALUE }"),
        ("scheduler = \"wlc\"", "persistence = { timeout = 900 }", "write it in quotes, a time as \"900s\""),
        ("scheduler = \"wlc\"", "sloppy = 1", "stands where true or false belongs"),
        ("[\"10.0.0.200\"]", "\"10.0.0.200\"", "stands where a list belongs; write [ ] around it"),
    ] {
        let said = complaint(from, to);
        assert!(said.contains(expected), "{to}: {said}");
        for word in ["struct", "i128", "sequence", "map"] {
            assert!(!said.contains(word), "{to}: {said}");
        }
    }
}

#[test]
fn bad_sources_are_told_what_to_do() {
    let cases = [
        ("type = \"etdc\"", "did you mean `etcd`?"),
        ("type = \"etcd\"\nprefix = \"/x\"", "the key `endpoint` is missing"),
        ("type = \"etcd\"\nprefix = \"/x\"\nendpoint = \"10.0.0.5\"", "`10.0.0.5` is not HOST:PORT"),
        (
            "type = \"etcd\"\nprefix = \"/x\"\nendpoint = [\"http://a:1\", \"https://b:1\"]",
            "write one of them",
        ),
        (
            "type = \"etcd\"\nprefix = \"/x\"\nendpoint = \"a:1\"\nverify = false",
            "without https nobody shows a certificate",
        ),
        (
            "type = \"nacos\"\nservice = \"x\"\nendpoint = \"a:1\"\nusername = \"u\"",
            "username and password_file belong together",
        ),
        (
            "type = \"nacos\"\nservice = \"x\"\nendpoint = \"a:1\"\nusername = \"u\"\npassword_file = \"/nowhere\"",
            "/nowhere cannot be read",
        ),
        (
            "type = \"file\"\npath = \"/x\"\nprefix = \"/y\"",
            "a source of type file has no prefix (etcd); remove it",
        ),
    ];
    for (lines, expected) in cases {
        let error = read(&format!("{GOOD}\n[service.discover]\n{lines}\n")).unwrap_err();
        let said: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{lines}: {said:?}");
    }
    let good = "type = \"etcd\"\nprefix = \"/x\"\nendpoint = [\"https://a:1\", \"https://[2001:db8::1]:2\"]";
    let config = read(&format!("{GOOD}\n[service.discover]\n{good}\n")).unwrap().config;
    let Some(Source::Etcd { site, .. }) = config.services[0].discover.clone().map(|discover| discover.source)
    else {
        panic!("{config:?}");
    };
    assert_eq!(site.endpoints, ["a:1", "[2001:db8::1]:2"]);
    assert!(site.tls.is_some_and(|tls| tls.verify));
}

#[test]
fn places_thresholds_and_fractions_are_read() {
    let text = GOOD.replace("weight = 100", "weight = 0.5\nzone = \"z1\"\nregion = \"r\"").replace(
        "scheduler = \"wlc\"",
        "scheduler = \"wlc\"\nprotect_threshold = 0.3\nslow_start = \"30s\"\nsorry_server = \"10.0.0.99:80\"",
    ) + "\n[location]\nzone = \"z2\"\nregion = \"r\"\n";
    let config = read(&text).unwrap().config;
    let service = &config.services[0];
    assert_eq!(service.servers[0].weight.value(), 0.5);
    assert_eq!(config.location.tier_of(&service.servers[0].location), 1);
    assert_eq!(service.policy.protect_threshold, Some(0.3));
    assert_eq!(service.slow_start.as_secs(), 30);
    assert!(service.servers[1].is_sorry && !service.servers[0].is_sorry);
    let off = GOOD.replace("scheduler = \"wlc\"", "scheduler = \"wlc\"\nprotect_threshold = \"off\"");
    assert_eq!(read(&off).unwrap().config.services[0].policy.protect_threshold, None);
    assert!(complaint("scheduler = \"wlc\"", "protect_threshold = 30").contains("from 0 to 1"));
    assert!(complaint("weight = 100", "weight = 70000").contains("70000 is above 65535"));
}

#[test]
fn no_text_makes_the_reader_panic() {
    use proptest::prelude::*;
    // Cut, doubled and damaged versions of the good file.
    let damage = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[ -~\\n\\[\\]\"=.]{0,6}");
    proptest!(|((at, len, text) in damage)| {
        let start = at.index(GOOD.len());
        let end = (start + len.index(30)).min(GOOD.len());
        let damaged = format!("{}{text}{}", &GOOD[..start], &GOOD[end..]);
        if let Err(error) = read(&damaged) {
            prop_assert!(!error.problems().is_empty());
        }
    });
}

#[test]
fn a_kernel_is_behind_interfaces_and_not_behind_files() {
    for (device, kernel) in [
        ("net_af_packet0,iface=veth1", true),
        ("net_pcap0,iface=veth1", true),
        ("net_pcap0,rx_iface=veth1,tx_pcap=out.pcap", true),
        ("net_pcap0,rx_pcap=in.pcap,infinite_rx=1", false),
        ("net_memif0", false),
    ] {
        assert_eq!(Device::Vdev(device.into()).has_kernel_peer(), kernel, "{device}");
    }
}

#[test]
fn sub_interfaces_follow_the_ports_whose_links_they_share() {
    let text = GOOD.replace(
        "[[port]]\nname = \"lan\"",
        "[[port]]\nname = \"dmz\"\nparent = \"lan\"\nvlan = 100\naddresses = [\"198.51.100.2/24\"]\n\n[[port]]\nname = \"lan\"",
    );
    assert_ne!(text, GOOD);
    let loaded = read(&text).unwrap();
    let names: Vec<_> = loaded.config.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["wan", "lan", "dmz"]);
    let (lan, dmz) = (&loaded.config.ports[1], &loaded.config.ports[2]);
    assert_eq!(dmz.vlan, Some(SubInterface { parent: dataplane::ids::PortId(1), vlan: 100 }));
    assert_eq!((&dmz.device, lan.vlan), (&lan.device, None));

    let twice = text.replace(
        "[[port]]\nname = \"lan\"",
        "[[port]]\nname = \"dmz2\"\nparent = \"lan\"\nvlan = 100\naddresses = [\"203.0.113.130/25\"]\n\n[[port]]\nname = \"lan\"",
    );
    let problems = read(&twice).unwrap_err();
    let said: Vec<_> = problems.problems().iter().map(ToString::to_string).collect();
    assert!(said[0].contains("VLAN 100 of it already"), "{said:?}");
}

#[test]
fn a_check_can_ask_a_vip_only_where_servers_have_it_and_the_kernel_has_a_way() {
    let problem = |ports: &str, listen: &str, kind: &str| {
        let text = format!(
            "[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\n{ports}\n[[service]]\nname = \"web\"\n{listen}\nforward = \"dr\"\n[[service.server]]\naddress = \"10.0.0.11\"\n[service.health]\nport = 80\naim = \"vip\"\n{kind}\n"
        );
        parse(&text, Path::new("t.toml")).err().map(|error| error.problems()[0].to_string())
    };
    let (ports, listen, tcp) =
        ("addresses = [\"10.0.0.2/24\"]", "listen = \"192.0.2.10:80\"", "type = \"tcp\"");
    assert_eq!(problem(ports, listen, tcp), None);
    let cases = [
        (ports, listen, "type = \"icmp\"", "type icmp asks servers by their own addresses"),
        (ports, "listen = \"192.0.2.0/28:80\"", tcp, "192.0.2.0/28 has no one address to ask"),
        (
            "addresses = [\"10.0.0.2/24\"]\nkernel = false",
            listen,
            tcp,
            "no port with a kernel path has an address of its own",
        ),
        (ports, "listen = \"10.0.0.2:80\"", tcp, "10.0.0.2 is a port's own address"),
    ];
    for (ports, listen, kind, wanted) in cases {
        let found = problem(ports, listen, kind).unwrap_or_default();
        assert!(found.contains(wanted), "{found}");
    }
}
