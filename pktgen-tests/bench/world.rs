//! The world that is measured: one or many services, compiled as the daemon would.

use ctrl::compile::{self, DeviceFacts};
use ctrl::registry::{Registry, Totals};
use dataplane::ids::PortId;
use dataplane::snapshot::{Neighbor, Neighbors, NextHop, Snapshot};
use dataplane::wire::{Mac, ethernet_header};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

/// The client side's gateway, from which all clients' packets come.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What clients connect to.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The service's port.
pub(crate) const SERVICE_PORT: u16 = 80;
/// A station on the links, other than the appliance.
pub(crate) const PEER_MAC: Mac = [2, 0, 0, 0, 0, 0x99];

/// How large the world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Services; the first is the one that is measured.
    pub(crate) services: usize,
    /// Servers of each.
    pub(crate) servers: usize,
    /// Local addresses of each.
    pub(crate) locals: usize,
}

impl Size {
    /// Ten servers, and local addresses enough for `sessions` of them.
    pub(crate) fn for_sessions(sessions: usize) -> Self {
        let servers = 10;
        // Filled to nine tenths, so that the search for a free port is as in service.
        let locals = (sessions * 10).div_ceil(9 * servers * 64_512).max(1);
        Self { services: 1, servers, locals }
    }
}

/// Compiles a world of TCP and UDP services on two ports with these station addresses.
pub(crate) fn build(size: Size, macs: [Mac; 2]) -> Snapshot {
    let mut text = String::from(
        "[[port]]\nname = \"wan\"\ndevice = \"0000:00:01.0\"\naddresses = [\"192.0.2.2/24\"]\n\
         [[port]]\nname = \"lan\"\ndevice = \"0000:00:02.0\"\naddresses = [\"10.0.0.2/16\"]\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n",
    );
    for service in 0..size.services {
        for protocol in ["udp", "tcp"] {
            let locals: Vec<_> = (0..size.locals).map(|n| format!("\"10.0.4.{}\"", n + 1)).collect();
            let _ = write!(
                text,
                "[[service]]\nname = \"{protocol}{service}\"\nlisten = \"{VIP}:{}\"\nprotocol = \"{protocol}\"\nscheduler = \"rr\"\nlocal_addresses = [{}]\n",
                usize::from(SERVICE_PORT) + service,
                locals.join(", ")
            );
            for server in 0..size.servers {
                let _ = write!(
                    text,
                    "[[service.server]]\naddress = \"10.0.1.{}:8080\"\nweight = 1\n",
                    server + 1
                );
            }
        }
    }
    let loaded = ctrl::config::parse(&text, Path::new("bench.toml")).unwrap_or_else(|error| {
        panic!("the benchmark's own configuration is wrong: {}", error.problems()[0]);
    });
    let facts: Vec<_> =
        macs.iter().map(|mac| DeviceFacts { driver: "bench".into(), mac: *mac, mtu: 1500 }).collect();
    let known = |port: u16, address| {
        let header = Some(ethernet_header(PEER_MAC, macs[usize::from(port)]));
        Some(Neighbor { hop: NextHop { port: PortId(port), address }, header })
    };
    let mut neighbors = vec![known(0, GATEWAY)];
    neighbors.extend((0..size.servers).map(|n| known(1, Ipv4Addr::new(10, 0, 1, n as u8 + 1))));
    let mut registry = Registry::default();
    compile::compile(&loaded.config, &facts, Arc::new(Neighbors::new(neighbors)), 1, &mut registry, &|_| {
        Totals::default()
    })
    .unwrap_or_else(|_| panic!("the benchmark's world has more servers than fit"))
}
