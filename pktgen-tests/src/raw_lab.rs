//! A forwarder between two raw wires: the appliance, or the kernel as the partner that it is held against.
//!
//! ```text
//!  test ── 10.0.0.50, 2001:db8:a::50 ── a ┌───────────┐ b ── 172.16.0.50, 2001:db8:b::50 ── test
//!                                         │ forwarder │
//!                                         └───────────┘
//! ```

use crate::conformance::{CLIENT_MAC, DIRECTOR_A, DIRECTOR_B, SERVER_MAC, Side};
use crate::lab::program;
use crate::netns::{Namespace, cable};
use crate::process::{Daemon, Folder, run, wait_until};
use crate::wire::Wire;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

/// The forwarder with its wires. Dropping it ends its programs and removes its namespaces.
#[derive(Debug)]
pub struct RawLab {
    // In the order in which they must go.
    /// The client's side.
    pub a: Wire,
    /// The server's side.
    pub b: Wire,
    sluiced: Option<Daemon>,
    director: Namespace,
    _ends: [Namespace; 2],
    folder: Folder,
}

/// How the appliance reaches IPv6 clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// It has no IPv6 address.
    Ipv4,
    /// By a default route of its file.
    Static,
    /// By a router that advertises itself.
    Advertised,
}

impl RawLab {
    /// Builds namespaces and cables; nothing forwards yet.
    ///
    /// # Errors
    /// With what could not be made.
    pub fn new(name: &str) -> Result<Self, String> {
        let folder = Folder::new("raw")?;
        let role = |role: &str| Namespace::new(&format!("{name}-{role}"));
        let (client, director, server) = (role("client")?, role("sluice")?, role("rs")?);
        cable((&director, "a"), (&client, "eth0"))?;
        cable((&director, "b"), (&server, "eth0"))?;
        for (interface, mac) in [("a", DIRECTOR_A), ("b", DIRECTOR_B)] {
            director.ip(&format!("link set dev {interface} address {}", mac_text(mac)))?;
            director.set_offloads(interface, "off")?;
        }
        let wire = |space: &Namespace, mac, four: [u8; 4], six: &str| -> Result<Wire, String> {
            let mut wire = Wire::open(space, "eth0", folder.path(), mac, &[Ipv4Addr::from(four)])?;
            wire.add_ipv6(six.parse().map_err(|error| format!("{six}: {error}"))?);
            Ok(wire)
        };
        let a = wire(&client, CLIENT_MAC, [10, 0, 0, 50], "2001:db8:a::50")?;
        let b = wire(&server, SERVER_MAC, [172, 16, 0, 50], "2001:db8:b::50")?;
        Ok(Self { a, b, sluiced: None, director, _ends: [client, server], folder })
    }

    /// The wire of a side.
    pub fn wire(&self, side: Side) -> &Wire {
        if side == Side::A { &self.a } else { &self.b }
    }

    /// Starts the appliance with `services`, and waits until it is ready; with IPv6 addresses if `uplink`
    /// says so.
    ///
    /// # Errors
    /// With its words when it does not start.
    pub fn start_sluiced(&mut self, services: &str, uplink: Uplink) -> Result<(), String> {
        let socket = self.folder.path().join("sluice.sock");
        let ipv6 = uplink != Uplink::Ipv4;
        let six = |address: &str| if ipv6 { format!(", \"{address}\"") } else { String::new() };
        let route6 = if uplink == Uplink::Static {
            "[[route]]\nto = \"::/0\"\nvia = \"2001:db8:a::50\"\n"
        } else {
            ""
        };
        let accept = if uplink == Uplink::Advertised { "accept_ra = true\n" } else { "" };
        // By pcap, because DPDK lets the kernel put fragments together on af_packet.
        let head = format!(
            "[dataplane]\nworkers = [1]\nsession_capacity = 1000\n[admin]\nsocket = \"{}\"\n[[port]]\nname = \"a\"\ndevice = \"net_pcap0,iface=a,phy_mac=1\"\naddresses = [\"10.0.0.1/24\"{}]\n{accept}[[port]]\nname = \"b\"\ndevice = \"net_pcap1,iface=b,phy_mac=1\"\naddresses = [\"172.16.0.1/24\"{}]\n[[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.50\"\n{route6}",
            socket.display(),
            six("2001:db8:a::1/64"),
            six("2001:db8:b::1/64"),
        );
        let config = self.folder.path().join("sluice.toml");
        std::fs::write(&config, head + services).map_err(|error| format!("{}: {error}", config.display()))?;
        let mut command = self.director.command(&program("sluiced").display().to_string());
        let log = self.folder.path().join("sluiced.log");
        let mut sluiced = Daemon::start(command.arg("--config").arg(&config), &log)?;
        let ready = wait_until(Duration::from_secs(10), || sluiced.output().contains("ready"));
        if !ready || sluiced.ended().is_some() {
            return Err(format!("sluiced did not become ready:\n{}", sluiced.output()));
        }
        self.sluiced = Some(sluiced);
        Ok(())
    }

    /// Lets the kernel forward, with nftables' `rules` for both families; it knows its neighbours.
    ///
    /// # Errors
    /// With what was refused.
    pub fn start_kernel(&self, rules: &str) -> Result<(), String> {
        let kernel = &self.director;
        for (interface, four, six) in
            [("a", "10.0.0.1/24", "2001:db8:a::1/64"), ("b", "172.16.0.1/24", "2001:db8:b::1/64")]
        {
            kernel.ip(&format!("addr add {four} dev {interface}"))?;
            kernel.add_ipv6(interface, six)?;
        }
        for (address, interface, mac) in [
            ("10.0.0.50", "a", CLIENT_MAC),
            ("2001:db8:a::50", "a", CLIENT_MAC),
            ("172.16.0.50", "b", SERVER_MAC),
            ("2001:db8:b::50", "b", SERVER_MAC),
        ] {
            let mac = mac_text(mac);
            kernel.ip(&format!("neigh replace {address} lladdr {mac} dev {interface} nud permanent"))?;
        }
        kernel.ip("route add default via 10.0.0.50")?;
        kernel.ip("-6 route add default via 2001:db8:a::50")?;
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.all.send_redirects=0",
        ] {
            kernel.sysctl(setting)?;
        }
        let path = self.folder.path().join("rules.nft");
        std::fs::write(&path, rules).map_err(|error| format!("{}: {error}", path.display()))?;
        run(kernel.command("nft").arg("-f").arg(&path)).map(drop)
    }

    /// What the `sluice` command prints as JSON.
    ///
    /// # Errors
    /// With its words when it fails, or when it printed no JSON.
    pub fn sluice(&self, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let mut command = Command::new(program("sluice"));
        command.arg("-j").arg("--socket").arg(self.folder.path().join("sluice.sock")).args(arguments);
        let text = run(&mut command)?;
        serde_json::from_str(&text).map_err(|error| format!("sluice -j {arguments:?}: {error}: {text}"))
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
