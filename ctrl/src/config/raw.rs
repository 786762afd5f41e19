//! The file as it is written: one structure per table, every value with its place.

use super::exposed::SeriesOfServers;
use super::health::CheckKind;
use super::keys::{
    ADDRESS, Holds, L4_PORT, NAME, NETWORK, PATH, SHARE, SOCKET, Shape, Shaped, TIMER, tables,
};
use super::policy::Weight;
use crate::attacks::Kind as Attack;
use crate::journal::Format as LogFormat;
use Holds::{Any, Form, Number as Amount, Time, Whole, Words};
use dataplane::flow::Protocol;
use dataplane::scheduler::Scheduler;
use dataplane::session::ForwardMode;
use dataplane::snapshot::{AclAction, SourceCheck, SynProxy};
use dataplane::steering::TABLE_MAX;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Spanned;

tables! {
    /// The file's tables. Fragments, `conf.d/*.toml` beside the file, have `[[service]]` alone.
    File {
        /// Cores, memory and capacity.
        #[serde(default)]
        dataplane: Dataplane, Any;
        /// Who may use the admin socket.
        #[serde(default)]
        admin: Admin, Any;
        /// The devices, at least one.
        #[serde(default)]
        port: Vec<Spanned<Port>>, Any;
        /// Static routes.
        #[serde(default)]
        route: Vec<Spanned<Route>>, Any;
        /// Neighbours whose station addresses are said and not asked for.
        #[serde(default)]
        neighbor: Vec<Spanned<Neighbor>>, Any;
        /// Lists of addresses that may or may not have sessions, in the order in which they are asked.
        #[serde(default)]
        acl: Vec<Spanned<Acl>>, Any;
        /// Programs that are told when attacks begin and end.
        #[serde(default)]
        hook: Vec<Spanned<Hook>>, Any;
        /// What clients connect to.
        #[serde(default)]
        service: Vec<Spanned<Service>>, Any;
        /// How long sessions may be silent.
        #[serde(default)]
        timeouts: Timeouts, Any;
        /// Where the director is; without it every server is of one tier.
        location: Option<Location>, Any;
        /// Names that Sluice answers for; without it none.
        names: Option<Names>, Any;
        /// Metrics for Prometheus; without it there are none.
        metrics: Option<Metrics>, Any;
        /// The page for browsers; without it there is none.
        web: Option<Web>, Any;
        /// How the log is written.
        #[serde(default)]
        log: Log, Any;
    }

    /// The log, on standard error.
    #[derive(Default)]
    Log {
        /// A sentence a line; `ts=… level=… msg=…` with fields; or a JSON object a line.
        format: Option<Spanned<String>>, Words(|| LogFormat::ALL.map(LogFormat::name).to_vec()), default "text";
        /// The least important lines that are written and kept as events.
        level: Option<Spanned<String>>, Words(|| LOG_LEVELS.to_vec()), default "info";
    }

    /// Metrics for Prometheus, over HTTP at `/metrics`.
    Metrics {
        /// Where they are asked for; a wildcard address needs users, clients' certificates or `insecure = true`.
        listen: Vec<Spanned<String>>, Form("ADDRESS:PORT or unix:PATH");
        /// Which servers have series, unless a scrape says it (`?servers=`).
        servers: Option<Spanned<FlagOrText>>, Words(|| SeriesOfServers::WORDS.to_vec()), default true;
        /// TLS, with the keys of Prometheus's exporter-toolkit.
        tls_server_config: Option<Spanned<ServerTls>>, Any;
        /// The users that may ask, each with the bcrypt hash of a password (`htpasswd -nB`); without it everybody may.
        #[serde(default)]
        basic_auth_users: BTreeMap<String, Spanned<String>>, Any;
        /// Whether everybody may ask at a wildcard address.
        insecure: Option<bool>, Any, default false;
    }

    /// A page that shows what happens now, over HTTP; nobody changes anything by it.
    Web {
        /// Where it is; a wildcard address needs users, clients' certificates or `insecure = true`.
        listen: Vec<Spanned<String>>, Form("ADDRESS:PORT or unix:PATH");
        /// TLS, with the keys of Prometheus's exporter-toolkit.
        tls_server_config: Option<Spanned<ServerTls>>, Any;
        /// The users that may look, each with the bcrypt hash of a password (`htpasswd -nB`); without it everybody may.
        #[serde(default)]
        basic_auth_users: BTreeMap<String, Spanned<String>>, Any;
        /// Whether everybody may look at a wildcard address.
        insecure: Option<bool>, Any, default false;
    }

    /// The TLS side of a listener. Files are read again by `sluice config reload`.
    ServerTls {
        /// The certificate and its chain, in PEM.
        cert_file: Spanned<String>, PATH;
        /// Its key, in PEM.
        key_file: Spanned<String>, PATH;
        /// The authorities of clients' certificates, in PEM; without it clients need none.
        client_ca_file: Option<Spanned<String>>, PATH;
    }

    /// The names of services, answered by DNS and HTTP.
    Names {
        /// The zone: a service's name is `SERVICE.ZONE`.
        zone: Spanned<String>, Form("DNS name");
        /// Where DNS is answered, over UDP and TCP.
        #[serde(default)]
        listen: Vec<Spanned<String>>, SOCKET;
        /// Where HTTP is answered.
        #[serde(default)]
        http: Vec<Spanned<String>>, SOCKET;
        /// How long answers may be kept.
        ttl: Option<Spanned<String>>, Time(Duration::ZERO, DAY), default "5s";
        /// Where clients are.
        #[serde(default)]
        client: Vec<NamesClient>, Any;
    }

    /// The place of clients, by their own address or by the subnet that their resolver tells.
    NamesClient {
        /// The clients' networks.
        networks: Vec<Spanned<String>>, NETWORK;
        /// Their zone.
        zone: Option<Spanned<String>>, Any;
        /// Their region.
        region: Option<Spanned<String>>, Any;
    }

    /// The place of the director. Servers of its zone come first, then those of its region, then the rest.
    Location {
        /// A datacenter, or part of one.
        zone: Option<Spanned<String>>, Any;
        /// Zones that are near each other.
        region: Option<Spanned<String>>, Any;
    }

    /// Cores, memory and capacity. None of it changes without a restart.
    #[derive(Default)]
    Dataplane {
        /// CPU cores, one worker each, as `lscpu -e` numbers them; 64 at most.
        workers: Option<Spanned<Vec<Spanned<i64>>>>, Whole(0, 1_023), default [1];
        /// Sessions between IPv4 addresses, per worker; 90 bytes each.
        session_capacity: Option<Spanned<i64>>, Whole(1, SESSIONS_MAX), default 1_000_000;
        /// Sessions with an IPv6 address, per worker.
        /// Without it as many as `session_capacity` if a service has an IPv6 address, else at most 65,536.
        session_capacity_ipv6: Option<Spanned<i64>>, Whole(1, SESSIONS_MAX);
        /// Whether packet memory is on hugepages: if enough are free, always (else the daemon does not start), or never.
        hugepages: Option<Spanned<String>>, Words(|| vec!["auto", "require", "off"]), default "auto";
    }

    /// The admin socket. Root and the daemon's own user may do everything.
    #[derive(Default)]
    Admin {
        /// The socket; at most 107 bytes.
        socket: Option<Spanned<String>>, PATH, default "/run/sluice/sluice.sock";
        /// The group that may use the socket, by name or number; without it root's alone.
        group: Option<Spanned<String>>, Form("group");
        /// The users who may change things, by name or number, groups with `@`; others who reach the socket only look.
        #[serde(default)]
        operators: Vec<Spanned<String>>, Form("user or @group");
    }

    /// A device and the appliance's own addresses on its link, or a VLAN on the link of another port.
    Port {
        /// The name that routes, commands and logs use.
        name: Spanned<String>, NAME;
        /// A PCI address (`0000:3b:00.0`), or the DPDK string of a virtual device (`net_af_packet0,iface=veth1`).
        device: Option<Spanned<String>>, Form("PCI address or DPDK device");
        /// The port whose link this one shares as a VLAN, in place of `device`.
        parent: Option<Spanned<String>>, Form("name of a port");
        /// The VLAN's number, with `parent`.
        vlan: Option<Spanned<i64>>, Whole(1, 4_094);
        /// The largest IP packet of the link, in bytes; without it what the device says.
        mtu: Option<Spanned<i64>>, Whole(1_280, 9_216);
        /// Whether IPv6 routers that advertise themselves on the link are default gateways.
        accept_ra: Option<Spanned<bool>>, Any, default false;
        /// Whether the kernel has an interface of this name, for ssh, BIRD and health checks.
        kernel: Option<bool>, Any, default true;
        /// Whether packets are dropped that come by a port that does not lead to their sender: `loose` asks it of servers, `strict`
        /// of clients too, `off` of nobody.
        source_check: Option<Spanned<String>>, Words(|| SourceCheck::ALL.map(SourceCheck::name).to_vec()), default "loose";
        /// The appliance's own addresses on the link.
        #[serde(default)]
        addresses: Vec<Spanned<String>>, NETWORK;
        /// How the device spreads packets over its queues, where it cannot say so itself.
        rss: Option<Rss>, Any;
    }

    /// How a device spreads packets over its queues.
    Rss {
        /// What the device hashes.
        fields: Spanned<String>, Words(|| vec!["ports", "addresses", "nothing"]);
        /// The Toeplitz key, 40 bytes or more in hexadecimal; not with `nothing`.
        key: Option<Spanned<String>>, Form("hexadecimal");
        /// The entries of the indirection table, a power of two; entry n is queue n modulo the number of workers.
        table: Option<Spanned<i64>>, Whole(1, TABLE_MAX as i64), default 128;
    }

    /// A static route.
    Route {
        /// The destinations.
        to: Spanned<String>, NETWORK;
        /// The gateways, neighbours on a port's link; flows are spread over several.
        via: Spanned<OneOrMany>, ADDRESS;
        /// The port of a link-local gateway; others are found by their network.
        port: Option<Spanned<String>>, Form("name of a port");
    }

    /// A neighbour that is not asked where it is; what others say about it changes nothing.
    Neighbor {
        /// Its address.
        address: Spanned<String>, ADDRESS;
        /// Its station address.
        mac: Spanned<String>, Form("MAC address");
        /// The port of its link, where that is not found by its network.
        port: Option<Spanned<String>>, Form("name of a port");
    }

    /// A list of addresses. The first one that has a client's decides; who is in none may have sessions.
    Acl {
        /// The name that commands and logs use.
        name: Spanned<String>, NAME;
        /// What becomes of the list's addresses.
        action: Option<Spanned<String>>, Words(|| AclAction::ALL.map(AclAction::name).to_vec()), default "deny";
        /// Prefixes and addresses.
        #[serde(default)]
        prefixes: Vec<Spanned<String>>, Form("ADDRESS/LENGTH or ADDRESS");
        /// Files with more: a prefix, address or range on each line, FireHOL's netsets, `ipset save`, Spamhaus' lists. They are
        /// watched; one that is broken or empty changes nothing.
        #[serde(default)]
        files: Vec<Spanned<String>>, PATH;
        /// The services that it is for; without it all.
        services: Option<Spanned<Vec<Spanned<String>>>>, Form("name of a service");
    }

    /// A program that is started when an attack begins, when its peak doubles, and when it is over. What it is about stands in its
    /// environment: SLUICE_EVENT (`begin`, `grow` or `end`), SLUICE_KIND, SLUICE_SERVICE, SLUICE_LISTEN, SLUICE_RATE, SLUICE_PEAK and SLUICE_SECONDS. It is ended after 10 s.
    Hook {
        /// The program, by its whole path, and its arguments.
        command: Spanned<OneOrMany>, Form("path and arguments"), owner true;
        /// The kinds of attacks; without it all.
        kinds: Option<Spanned<Vec<Spanned<String>>>>, Words(|| Attack::ALL.map(Attack::name).to_vec());
    }

    /// A service: what clients connect to, and the servers behind it.
    Service {
        /// The name that commands, logs and the names' zone use.
        name: Spanned<String>, NAME;
        /// The VIPs with their ports: `192.0.2.10:80`, `[2001:db8::10]:80`, a range `:8000-8099`, all ports `:*`, or a network.
        /// For `snat` the destinations of hidden hosts; everything without it. Every other mode needs it.
        listen: Option<Spanned<OneOrMany>>, Form("ADDRESS:PORT");
        /// For `snat` the networks of the hidden hosts; no other mode has it.
        #[serde(default)]
        sources: Vec<Spanned<String>>, NETWORK;
        /// The transport protocols; `icmp` with `snat` only.
        protocol: Option<Spanned<OneOrMany>>, Words(protocols), default "tcp";
        /// How packets reach the servers.
        forward: Option<Spanned<String>>, Words(modes), default "fullnat";
        /// How new sessions are spread over the servers.
        scheduler: Option<Spanned<String>>, Words(schedulers), default "wlc";
        /// What changes a scheduler that hashes: it uses the client's port too, or passes over servers of weight 0.
        #[serde(default)]
        scheduler_flags: Vec<Spanned<String>>, Words(|| vec!["port", "fallback"]);
        /// The seed of hashing schedulers, the same on all nodes that are to choose alike.
        hash_seed: Option<Spanned<i64>>, Any, default 0;
        /// The director's own addresses towards the servers; `fullnat` and `snat` need one.
        #[serde(default)]
        local_addresses: Vec<Spanned<String>>, ADDRESS;
        /// The servers.
        #[serde(default)]
        server: Vec<Spanned<Server>>, Any;
        /// How servers are checked; without it they are taken to be up.
        health: Option<Spanned<Health>>, Any;
        /// Keeps servers out whose sessions fail (`fullnat` and `nat`).
        passive: Option<Spanned<Passive>>, Any;
        /// Where more servers are looked up.
        discover: Option<Spanned<Discover>>, Any, owner true;
        /// How packets are packed (`tunnel`).
        tunnel: Option<Spanned<Tunnel>>, Any;
        /// Keeps a client's new sessions on the server that it had.
        persistence: Option<Spanned<Persistence>>, Any;
        /// As the file's `[timeouts]`, for this service.
        timeouts: Option<Timeouts>, Any;
        /// Whether each datagram is scheduled anew, without a session (UDP with `dr` or `tunnel`).
        one_packet: Option<Spanned<bool>>, Any, default false;
        /// Whether connections are adopted in their middle.
        sloppy: Option<Spanned<bool>>, Any, default false;
        /// Whether sessions of a removed server, or of one of weight 0, end with their next packet.
        expire_quiescent: Option<bool>, Any, default false;
        /// Whether both ends of a TCP connection that timed out are sent a reset (`fullnat` and `nat`).
        reset_on_expiry: Option<Spanned<bool>>, Any, default false;
        /// Whether metrics have histograms of the sessions' durations and bytes, where answers pass here; packets of its sessions
        /// take the longer way.
        session_histograms: Option<Spanned<bool>>, Any, default false;
        /// When clients of TCP have to prove by a SYN cookie that they are where they say (`fullnat` and `nat`): `auto` during a flood
        /// of SYNs, `monitor` never, but floods are told.
        syn_proxy: Option<Spanned<String>>, Words(|| SynProxy::ALL.map(SynProxy::name).to_vec()), default "monitor";
        /// Connections a second that clients do not finish, from which on there is a flood of SYNs, if they are half of all.
        syn_flood_rate: Option<Spanned<i64>>, Whole(1, 100_000_000), default 500;
        /// How many new sessions it takes in a second.
        limits: Option<Spanned<Limits>>, Any;
        /// The most sessions, over all workers; without it no limit of its own.
        session_limit: Option<Spanned<i64>>, Whole(1, i64::MAX - 1);
        /// How servers are told the client's address (`fullnat`).
        client_address: Option<Spanned<ClientAddress>>, Any;
        /// Whether servers that are near the director come first, by `[location]`.
        locality: Option<bool>, Any, default true;
        /// What the service's name stands for: its VIPs, or healthy servers.
        names: Option<Spanned<String>>, Words(|| vec!["vip", "servers"]), default "vip";
        /// A tier keeps all of its traffic while this share of it is healthy.
        spill_below: Option<Spanned<Number>>, SHARE, default 0.7;
        /// At or below this healthy share checks are not believed and all servers are used; 0: when none is healthy, `"off"`: never.
        protect_threshold: Option<Spanned<Number>>, SHARE, default 0.0;
        /// Protection ends when the healthy share is above its threshold by so much.
        protect_hysteresis: Option<Spanned<Number>>, SHARE, default 0.1;
        /// How long a server that came up takes to get its whole weight.
        slow_start: Option<Spanned<String>>, Time(Duration::ZERO, DAY), default "0s";
        /// Servers that need longer to answer connections, on average, get less, down to a tenth (`fullnat` and `nat`).
        connect_limit: Option<Spanned<String>>, Time(Duration::from_millis(1), Duration::from_secs(60));
        /// The server that serves when no other does.
        sorry_server: Option<Spanned<String>>, SOCKET;
        /// Whether it takes no new sessions, because it is to go.
        drain: Option<Spanned<bool>>, Any, default false;
    }

    /// How servers are told the client's address, where they see the director's.
    ClientAddress {
        /// A TCP option (`toa`), a PROXY header, or what stands before the first datagrams (`uoa`).
        #[serde(rename = "type")]
        kind: Spanned<String>, Words(|| CLIENT_ADDRESSES.to_vec());
        /// The TCP option's kind.
        #[serde(rename = "kind")]
        option: Option<Spanned<i64>>, Whole(35, 254), default 254, only &["toa"];
        /// The PROXY header's version: 1 is a line of text, 2 binary.
        version: Option<Spanned<i64>>, Whole(1, 2), default 2, only &["proxy"];
        /// Whether the header has a number of the session.
        unique_id: Option<Spanned<bool>>, Any, default false, only &["proxy"];
        /// Whether the header has the VIP apart from the destination.
        vip: Option<Spanned<bool>>, Any, default false, only &["proxy"];
        /// Where the record stands: in a header of its own, or in IPv4's options.
        encoding: Option<Spanned<String>>, Words(|| vec!["header", "option"]), default "header", only &["uoa"];
    }

    /// Keeps a client's new sessions on one server.
    Persistence {
        /// How long after the client's last session.
        timeout: Option<Spanned<String>>, Time(Duration::from_secs(1), WEEK), default "300s";
        /// The bits of an IPv4 client's address that matter.
        netmask: Option<Spanned<i64>>, Whole(1, 32), default 32;
        /// The bits of an IPv6 client's address that matter.
        netmask_ipv6: Option<Spanned<i64>>, Whole(1, 128), default 128;
    }

    /// How many new sessions a service takes in a second, over all workers, each of which has an equal part of the rate. Each lets
    /// a whole second's pass at once after silence. Of TCP without `syn_proxy` everybody can use up another source's.
    Limits {
        /// From all clients.
        new_per_second: Option<Spanned<i64>>, Whole(1, 1_000_000_000);
        /// From each source.
        new_per_source: Option<Spanned<i64>>, Whole(1, 1_000_000_000);
        /// The bits of an IPv4 client's address that are a source.
        ipv4_prefix: Option<Spanned<i64>>, Whole(8, 32), default 32;
        /// The bits of an IPv6 client's address that are a source.
        ipv6_prefix: Option<Spanned<i64>>, Whole(16, 128), default 64;
        /// How long a source is banned from all services that breaks its rate; needs `syn_proxy = "always"`, so that nobody can have
        /// another banned, and TCP alone. Without it what is too much is dropped.
        ban: Option<Spanned<String>>, Time(Duration::from_secs(1), WEEK);
    }

    /// How packets are packed on their way to servers.
    Tunnel {
        /// The encapsulation; without a table `ipip`.
        #[serde(rename = "type")]
        kind: Spanned<String>, Words(|| vec!["ipip", "gre", "gue"]);
        /// The UDP port of GUE on the servers.
        port: Option<Spanned<i64>>, Whole(2, 65_535), default 6080, only &["gue"];
        /// Networks that nobody has, one of each family, from which outer source addresses are taken, a flow's always the same.
        #[serde(default)]
        sources: Vec<Spanned<String>>, NETWORK;
    }

    /// A server. Records of discovery have the same keys.
    Server {
        /// Its address with its port; without a port clients' own.
        address: Spanned<String>, Form("ADDRESS or ADDRESS:PORT");
        /// Its share of new sessions; 0 takes none.
        weight: Option<Spanned<Number>>, Amount(0.0, Weight::MAX as f64), default 1;
        /// Its datacenter, or part of one.
        zone: Option<Spanned<String>>, Any;
        /// Its region.
        region: Option<Spanned<String>>, Any;
        /// It takes no more sessions from here on; without it no limit.
        max_sessions: Option<Spanned<i64>>, Whole(1, u32::MAX as i64 - 1);
        /// It takes some again below this; three quarters of `max_sessions` without it.
        min_sessions: Option<Spanned<i64>>, Whole(1, u32::MAX as i64 - 1);
    }

    /// Where more servers are looked up. They are used beside those of the file.
    Discover {
        /// The kind of source.
        #[serde(rename = "type")]
        kind: Spanned<String>, Words(|| SOURCES.to_vec());
        /// How often it is asked; DNS by its TTL, and after this at the latest.
        interval: Option<Spanned<String>>, TIMER, default "5s";
        /// A list with more servers is refused.
        max_servers: Option<Spanned<i64>>, Whole(1, 16_384), default 4_096;
        /// The file, with `[[server]]` tables.
        path: Option<Spanned<String>>, PATH, only &["file"];
        /// The name that is asked for: SRV records, or addresses with `port`.
        name: Option<Spanned<String>>, Form("DNS name"), only &["dns"];
        /// The resolver; without it the first of /etc/resolv.conf.
        resolver: Option<Spanned<String>>, Form("ADDRESS or ADDRESS:PORT"), only &["dns"];
        /// The servers' port; without it SRV records are asked for.
        port: Option<Spanned<i64>>, L4_PORT, only &["dns"];
        /// Where it is asked; of a list the first that answers counts.
        endpoint: Option<Spanned<OneOrMany>>, Form("HOST:PORT or https://HOST:PORT"), only &["nacos", "etcd"];
        /// The authorities that are believed, in PEM; without it the system's.
        ca_file: Option<Spanned<String>>, PATH, only &["nacos", "etcd"];
        /// Whether the source must show a certificate that is believed.
        verify: Option<Spanned<bool>>, Any, default true, only &["nacos", "etcd"];
        /// The user, with `password_file`.
        username: Option<Spanned<String>>, Any, only &["nacos", "etcd"];
        /// The file whose first line is the password.
        password_file: Option<Spanned<String>>, PATH, only &["nacos", "etcd"];
        /// Nacos's name of the service.
        service: Option<Spanned<String>>, Any, only &["nacos"];
        /// Nacos's group.
        group: Option<Spanned<String>>, Any, default "DEFAULT_GROUP", only &["nacos"];
        /// Nacos's namespace.
        namespace: Option<Spanned<String>>, Any, default "", only &["nacos"];
        /// The prefix of the servers' keys in etcd.
        prefix: Option<Spanned<String>>, Any, only &["etcd"];
    }

    /// Keeps servers out whose sessions fail: those that are never answered, or reset at once.
    Passive {
        /// So many failed sessions within `window` keep a server out.
        failures: Option<Spanned<i64>>, Whole(1, 1_000_000), default 1;
        /// The time in which failures are counted together.
        window: Option<Spanned<String>>, TIMER, default "3s";
        /// How long it is kept out at first; twice as long each time.
        inhibit: Option<Spanned<String>>, TIMER, default "5s";
        /// The longest time that it is kept out.
        inhibit_max: Option<Spanned<String>>, TIMER, default "3600s";
    }

    /// How servers are checked.
    Health {
        /// The question that servers are asked.
        #[serde(rename = "type")]
        kind: Spanned<String>, Words(checks);
        /// The port that is asked; without it the server's own.
        port: Option<Spanned<i64>>, L4_PORT;
        /// Whether the server's own address is asked, or the VIP on the server (`dr` and `tunnel`).
        aim: Option<Spanned<String>>, Words(|| vec!["server", "vip"]), default "server";
        /// The time from one question to the next.
        interval: Option<Spanned<String>>, TIMER, default "2s";
        /// How long an answer may take; without it as `interval`, at most 5 s.
        timeout: Option<Spanned<String>>, TIMER;
        /// So many good answers in a row make a server up.
        rise: Option<Spanned<i64>>, Whole(1, 1_000), default 2;
        /// So many bad answers in a row make a server down.
        fall: Option<Spanned<i64>>, Whole(1, 1_000), default 3;
        /// The share of the interval by which questions are spread.
        jitter: Option<Spanned<Number>>, SHARE, default 0.1;
        /// What servers are before the first answers.
        initial: Option<Spanned<String>>, Words(|| vec!["up", "down"]), default "down";
        /// Whether a PROXY header stands before the question; without it as sessions have one, unless `port` is another.
        proxy: Option<Spanned<bool>>, Any, only &["tcp", "http", "https", "udp", "dns"];
        /// The path and query.
        path: Option<Spanned<String>>, Form("/path"), default "/", only HTTP;
        /// The method.
        method: Option<Spanned<String>>, Form("HTTP method"), default "GET", only HTTP;
        /// The Host header, and for https the name in the server's certificate; without it the server's address.
        host: Option<Spanned<String>>, Form("HOST or HOST:PORT"), only HTTP;
        /// Status codes of good answers, as `"200"`, `"200-299"` or `"2xx"`.
        expect_status: Option<Spanned<OneOrMany>>, Form("status codes"), default "200-399", only HTTP;
        /// A text that a good answer's body has.
        expect_body: Option<Spanned<String>>, Any, only HTTP;
        /// The header in which servers tell their load.
        load_header: Option<Spanned<String>>, Form("HTTP header"), only HTTP;
        /// The number in the answer's JSON by which servers tell their load, as `cpu.load`.
        load_field: Option<Spanned<String>>, Form("names with dots"), only HTTP;
        /// Above this load a server gets less, down to a tenth.
        load_limit: Option<Spanned<Number>>, Amount(0.0, 1e6), default 1.0, only HTTP;
        /// The name in the server's certificate, if it is not `host`.
        server_name: Option<Spanned<String>>, Form("DNS name"), only &["https"];
        /// Whether the server must show a certificate that is believed.
        verify: Option<Spanned<bool>>, Any, default true, only &["https"];
        /// The authorities that are believed, in PEM; without it the system's.
        ca_file: Option<Spanned<String>>, PATH, only &["https"], owner true;
        /// What is sent.
        send: Option<Spanned<String>>, Any, only &["tcp", "udp"];
        /// How a good answer begins; for `dns` an address that it has.
        expect: Option<Spanned<String>>, Any, only &["tcp", "udp", "dns"];
        /// The name that is asked for.
        query: Option<Spanned<String>>, Form("DNS name"), only &["dns"];
        /// The record that is asked for.
        query_type: Option<Spanned<String>>, Words(|| vec!["A", "AAAA"]), default "A", only &["dns"];
        /// The program and its arguments; it finds SLUICE_ADDRESS, SLUICE_PORT and SLUICE_SOURCE in its environment.
        command: Option<Spanned<OneOrMany>>, Form("path and arguments"), only &["script"], owner true;
    }

    /// How long a session may be silent in each state, before it ends. The defaults are those of the kernel's IPVS.
    #[derive(Default)]
    Timeouts {
        /// An established connection.
        established: Option<Spanned<String>>, STATE, default "900s";
        /// After the SYN of a connection of which the client alone is seen.
        syn_sent: Option<Spanned<String>>, STATE, default "120s";
        /// After the SYN.
        syn_recv: Option<Spanned<String>>, STATE, default "60s";
        /// After the first FIN.
        fin_wait: Option<Spanned<String>>, STATE, default "120s";
        /// After both FINs.
        time_wait: Option<Spanned<String>>, STATE, default "120s";
        /// After a reset.
        close: Option<Spanned<String>>, STATE, default "10s";
        /// After the FIN of the other end.
        close_wait: Option<Spanned<String>>, STATE, default "60s";
        /// After the FIN that answers another.
        last_ack: Option<Spanned<String>>, STATE, default "30s";
        /// Datagrams that nobody answered.
        udp_one_way: Option<Spanned<String>>, STATE, default "300s";
        /// Datagrams of both directions.
        udp: Option<Spanned<String>>, STATE, default "300s";
    }
}

/// Levels of the log, the most important first.
pub(super) const LOG_LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];
const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// A timeout must stay far below the 49 days after which stamps repeat.
const STATE: Holds = Time(Duration::from_secs(1), WEEK);
const SESSIONS_MAX: i64 = 1 << 30;
const HTTP: &[&str] = &["http", "https"];
/// The ways by which servers are told the client's address.
pub(super) const CLIENT_ADDRESSES: [&str; 3] = ["toa", "proxy", "uoa"];
/// The kinds of sources of servers.
pub(super) const SOURCES: [&str; 4] = ["file", "dns", "nacos", "etcd"];

fn protocols() -> Vec<&'static str> {
    Protocol::ALL.map(Protocol::name).to_vec()
}

fn modes() -> Vec<&'static str> {
    ForwardMode::ALL.map(ForwardMode::name).to_vec()
}

fn schedulers() -> Vec<&'static str> {
    Scheduler::ALL.map(Scheduler::name).to_vec()
}

fn checks() -> Vec<&'static str> {
    CheckKind::ALL.map(CheckKind::name).to_vec()
}

/// A number, whole or not; or `off`, which is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(pub(super) Option<f64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl serde::de::Visitor<'_> for One {
            type Value = Number;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(Some(number as f64)))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(Some(number)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                if text == "off" {
                    return Ok(Number(None));
                }
                Err(E::invalid_type(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(One)
    }
}

impl Shaped for Number {
    const SHAPE: Shape = Shape::Number;
}

/// `true`, `false`, or a text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FlagOrText {
    /// `true` or `false`.
    Flag(bool),
    /// A text.
    Text(String),
}

impl FlagOrText {
    /// The word.
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Flag(true) => "true",
            Self::Flag(false) => "false",
            Self::Text(text) => text,
        }
    }
}

impl Shaped for FlagOrText {
    const SHAPE: Shape = Shape::FlagOrText;
}

/// One text, or a list of them.
#[derive(Debug)]
pub(super) struct OneOrMany(Vec<String>);

impl OneOrMany {
    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> serde::de::Visitor<'de> for Texts {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

impl Shaped for OneOrMany {
    const SHAPE: Shape = Shape::Texts;
}

impl Server {
    /// A server of which nothing but its address is said.
    pub(super) fn at(address: Spanned<String>) -> Self {
        Self { address, weight: None, zone: None, region: None, max_sessions: None, min_sessions: None }
    }
}
