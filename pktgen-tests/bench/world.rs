//! The world that is measured: one or many services, compiled as the daemon would.

use ctrl::compile::{self, Sources};
use ctrl::devices::DeviceFacts;
use ctrl::registry::Registry;
use ctrl::servers::Standings;
use dataplane::ids::PortId;
use dataplane::snapshot::{Neighbor, Neighbors, NextHop, Snapshot};
use dataplane::stats::ServerTotals;
use dataplane::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, ethernet_header};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

/// The client side's gateway, from which all clients' packets come.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What clients connect to.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// What clients connect to over IPv6.
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10);
/// The service's port.
pub(crate) const SERVICE_PORT: u16 = 80;
/// A station on the links, other than the appliance.
pub(crate) const PEER_MAC: Mac = [2, 0, 0, 0, 0, 0x99];

/// How packets are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The forwarding mode.
    pub(crate) mode: &'static str,
    /// Whether everyone speaks IPv6.
    pub(crate) six: bool,
}

impl Way {
    /// What is measured most.
    pub(crate) const FULLNAT: Self = Self { mode: "fullnat", six: false };
    /// FullNAT beside packets for an address that is not the appliance's, which are all dropped.
    pub(crate) const NOT_FOR_US: Self = Self { mode: "not-for-us", six: false };
    /// FullNAT beside packets for a port of the VIP that no service has, which are all dropped.
    pub(crate) const NO_SERVICE: Self = Self { mode: "no-service", six: false };
    /// Every way that is measured on a device.
    pub(crate) const ALL: [Self; 6] = [
        Self::FULLNAT,
        Self { mode: "nat", six: false },
        Self { mode: "dr", six: false },
        Self { mode: "tunnel", six: false },
        Self { mode: "snat", six: false },
        Self { mode: "fullnat", six: true },
    ];

    /// The words by which another process is told.
    pub(crate) fn words(self) -> String {
        format!("{} {}", self.mode, self.family())
    }

    /// The way of such words.
    pub(crate) fn from_words(words: &str) -> Option<Self> {
        let drops = [Self::NOT_FOR_US, Self::NO_SERVICE];
        Self::ALL.into_iter().chain(drops).find(|way| way.words() == words)
    }

    /// Whether its packets are dropped.
    pub(crate) fn drops(self) -> bool {
        self == Self::NOT_FOR_US || self == Self::NO_SERVICE
    }

    /// How packets of sessions are forwarded.
    pub(crate) fn of_sessions(self) -> Self {
        if self.drops() { Self::FULLNAT } else { self }
    }

    pub(crate) fn family(self) -> &'static str {
        if self.six { "ipv6" } else { "ipv4" }
    }
}

/// How large the world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Services of each protocol, each with servers of its own, all on one VIP; they listen on
    /// [`SERVICE_PORT`] and the ports after it.
    pub(crate) services: usize,
    /// Servers of each service.
    pub(crate) servers: usize,
    /// Local addresses of each service.
    pub(crate) locals: usize,
    /// How packets are forwarded.
    pub(crate) way: Way,
    /// One port for both sides, instead of two.
    pub(crate) one_arm: bool,
    /// Whether services share two hundred real servers; otherwise each has its own.
    pub(crate) shared_servers: bool,
}

/// Stations that servers run on; a server is a station and a layer-4 port.
const STATIONS: usize = 200;

impl Size {
    /// One service with ten servers, and local addresses enough for `sessions` of them.
    pub(crate) fn for_sessions(sessions: usize) -> Self {
        let servers = 10;
        // Filled to nine tenths, so that the search for a free port is as in service.
        let locals = (sessions * 10).div_ceil(9 * servers * 64_512).max(1);
        Self { services: 1, servers, locals, way: Way::FULLNAT, one_arm: false, shared_servers: false }
    }
}

/// The endpoint of a service's server.
fn server(size: Size, service: usize, server: usize) -> (Ipv4Addr, u16) {
    let number = service * size.servers + server;
    let l4_port = if size.shared_servers { 8080 } else { 8080 + (number / STATIONS) as u16 };
    (station(number % STATIONS), l4_port)
}

fn station(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number as u8 + 1)
}

fn station6(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 1, number as u16 + 1)
}

/// Compiles a world of TCP and UDP services on ports with these station addresses.
pub(crate) fn build(size: Size, macs: &[Mac]) -> Snapshot {
    let wan = r#"[[port]]
name = "wan"
device = "0000:00:01.0"
addresses = ["192.0.2.2/24", "2001:db8:a::2/64""#;
    let lan = r#"[[port]]
name = "lan"
device = "0000:00:02.0"
addresses = ["10.0.0.2/16", "2001:db8:b::2/64"]
"#;
    let mut text = if size.one_arm {
        format!("{wan}, \"10.0.0.2/16\", \"2001:db8:b::2/64\"]\n")
    } else {
        format!("{wan}]\n{lan}")
    };
    text.push_str("[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n");
    text.push_str("[[route]]\nto = \"::/0\"\nvia = \"2001:db8:a::1\"\n");
    let Way { mode, six } = size.way;
    let net = if six { "2001:db8:b::4:" } else { "10.0.4." };
    let locals: Vec<_> = (0..size.locals).map(|n| format!("\"{net}{}\"", n + 1)).collect();
    let locals = match mode {
        "fullnat" | "snat" => format!("local_addresses = [{}]\n", locals.join(", ")),
        _ => String::new(),
    };
    let vip = if six { format!("[{VIP6}]") } else { VIP.to_string() };
    for service in 0..size.services {
        // With many services UDP alone is measured.
        let protocols: &[&str] = if size.services == 1 { &["udp", "tcp"] } else { &["udp"] };
        for protocol in protocols {
            let _ = write!(
                text,
                "[[service]]\nname = \"{protocol}{service}\"\nprotocol = \"{protocol}\"\nforward = \"{mode}\"\nscheduler = \"rr\"\n{locals}"
            );
            if mode == "snat" {
                // Hosts inside are the clients, and a server outside has the VIP.
                text.push_str("sources = [\"100.64.0.0/10\"]\n");
                continue;
            }
            let _ = writeln!(text, "listen = \"{vip}:{}\"", usize::from(SERVICE_PORT) + service);
            for number in 0..size.servers {
                let (address, l4_port) = server(size, service, number);
                if six || matches!(mode, "dr" | "tunnel") {
                    let address = if six { station6(number).into() } else { IpAddr::from(address) };
                    let _ = write!(text, "[[service.server]]\naddress = \"{address}\"\n");
                    continue;
                }
                let _ = write!(text, "[[service.server]]\naddress = \"{address}:{l4_port}\"\nweight = 1\n");
            }
        }
    }
    let loaded = ctrl::config::parse(&text, Path::new("bench.toml")).unwrap_or_else(|error| {
        panic!("the benchmark's own configuration is wrong: {}", error.problems()[0]);
    });
    let facts: Vec<_> =
        macs.iter().map(|mac| DeviceFacts { driver: "bench".into(), mac: *mac, mtu: 1500 }).collect();
    let known = |port: usize, address: Ipv4Addr| {
        let address = address.into();
        let header = Some(ethernet_header(PEER_MAC, macs[port], ETHERTYPE_IPV4));
        Some(Neighbor { hop: NextHop { port: PortId(port as u16), address }, header })
    };
    let mut neighbors = vec![known(0, GATEWAY)];
    let inside = usize::from(!size.one_arm);
    neighbors.extend((0..STATIONS).map(|number| known(inside, station(number))));
    if size.way.mode == "snat" {
        neighbors.push(known(0, VIP));
    }
    neighbors.extend((0..size.servers).map(|number| {
        let header = Some(ethernet_header(PEER_MAC, macs[inside], ETHERTYPE_IPV6));
        Some(Neighbor {
            hop: NextHop { port: PortId(inside as u16), address: station6(number).into() },
            header,
        })
    }));
    let mut registry = Registry::default();
    let standings = Standings::of(&loaded.config);
    let sources =
        Sources { config: &loaded.config, standings: &standings, read: &|_| ServerTotals::default() };
    compile::compile(&sources, None, &facts, &[], Arc::new(Neighbors::new(neighbors)), 1, &mut registry)
        .unwrap_or_else(|_| panic!("the benchmark's world has more servers than fit"))
}
