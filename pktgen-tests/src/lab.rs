//! A client, the appliance, and real servers, each in a network namespace of its own.
//!
//! ```text
//!  client 192.0.2.50 ──── wan 192.0.2.2 ┌────────┐ lan 10.0.0.2 ──┬── 10.0.0.11 rs1
//!                         VIP 192.0.2.10│ sluiced│ local .200,.201├── 10.0.0.12 rs2
//!                                       └────────┘              (a bridge)
//! ```
//!
//! With IPv6 there is 2001:db8:a::/64 outside and 2001:db8:b::/64 inside, with the same last parts.
//! One-arm labs put everything on the bridge. Ports are af_packet on veth, or taps.

use crate::netns::{Namespace, cable};
use crate::nginx;
use crate::process::{Daemon, Folder, run, wait_until};
use crate::tag_switch::TagSwitch;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The client's address.
pub const CLIENT: &str = "192.0.2.50";
/// What the client connects to.
pub const VIP: &str = "192.0.2.10";
/// The client's IPv6 address.
pub const CLIENT6: &str = "2001:db8:a::50";
/// What the client connects to over IPv6.
pub const VIP6: &str = "2001:db8:a::10";

/// How a lab is built.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many real servers, 1 to 9.
    pub servers: usize,
    /// Client, appliance and servers on one link.
    pub one_arm: bool,
    /// What the appliance's ports are.
    pub ports: Ports,
    /// Whether client and servers leave checksums and segmentation to their devices.
    pub offloads: bool,
    /// `auto`, `require` or `off`.
    pub hugepages: &'static str,
    /// Whether everyone has IPv6 addresses too.
    pub ipv6: bool,
    /// Whether the appliance has one link, on which its two ports are VLANs 100 and 200.
    pub vlans: bool,
    /// Largest IP packet of every link; 1,500 is what everyone has.
    pub mtu: u16,
    /// Workers, from core 1 down; on af_packet the kernel's fanout spreads packets over their queues.
    pub workers: usize,
}

/// What the appliance's ports are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// AF_PACKET sockets on veth interfaces.
    AfPacket,
    /// libpcap on veth interfaces. It shows IPv4 fragments as they are; the kernel puts them together
    /// for AF_PACKET's fanout.
    Pcap,
    /// TAP interfaces, one of which is the client's and one the server's.
    Tap,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            servers: 2,
            one_arm: false,
            ports: Ports::AfPacket,
            offloads: false,
            hugepages: "auto",
            ipv6: false,
            vlans: false,
            mtu: 1_500,
            workers: 1,
        }
    }
}

/// A lab. Dropping it ends its programs and removes its namespaces and files.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    daemon: Option<Daemon>,
    programs: Vec<Daemon>,
    client: Namespace,
    director: Namespace,
    servers: Vec<Namespace>,
    // Before the namespaces that it is plugged into are made again.
    tag_switch: Option<TagSwitch>,
    _switch: Option<Namespace>,
    folder: Folder,
}

impl Lab {
    /// Builds the namespaces and cables; nothing runs yet.
    ///
    /// # Errors
    /// With what could not be made.
    pub fn new(plan: Plan) -> Result<Self, String> {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = Folder::new("lab")?;
        let role = |name: &str| Namespace::new(&format!("{number}-{name}"));
        let client = role("client")?;
        let director = role("sluice")?;
        let servers: Vec<_> =
            (1..=plan.servers).map(|n| role(&format!("rs{n}"))).collect::<Result<_, _>>()?;
        let switch = if plan.ports != Ports::Tap { Some(role("switch")?) } else { None };
        let mut lab = Self {
            plan,
            daemon: None,
            programs: Vec::new(),
            client,
            director,
            servers,
            tag_switch: None,
            _switch: switch,
            folder,
        };
        lab.connect(number)?;
        Ok(lab)
    }

    fn connect(&mut self, number: usize) -> Result<(), String> {
        let Some(switch) = &self._switch else { return Ok(()) };
        switch.ip("link add br0 type bridge forward_delay 0")?;
        switch.ip("link set br0 up")?;
        let mtu = self.plan.mtu;
        let plug = |host: &Namespace, interface: &str, name: &str| {
            cable_of(mtu, (host, interface), (switch, name))?;
            switch.ip(&format!("link set {name} master br0"))
        };
        if self.plan.vlans {
            let links = [(&self.client, "eth0", 100), (switch, "sluice", 200)];
            let folder = self.folder.path();
            self.tag_switch = Some(TagSwitch::new(number, (&self.director, "trunk"), &links, folder)?);
            switch.ip("link set sluice master br0")?;
        } else {
            plug(&self.director, "nic-lan", "sluice")?;
        }
        if self.plan.vlans {
        } else if self.plan.one_arm {
            plug(&self.client, "eth0", "client")?;
        } else {
            cable_of(mtu, (&self.director, "nic-wan"), (&self.client, "eth0"))?;
            self.director.set_offloads("nic-wan", "off")?;
        }
        if !self.plan.vlans {
            self.director.set_offloads("nic-lan", "off")?;
        }
        self.client_address()?;
        for (at, server) in self.servers.iter().enumerate() {
            plug(server, "eth0", &format!("rs{}", at + 1))?;
            self.server_address(at)?;
        }
        Ok(())
    }

    fn client_address(&self) -> Result<(), String> {
        self.client.ip(&format!("addr add {CLIENT}/24 dev eth0"))?;
        self.client.ip("link set eth0 up")?;
        if self.plan.ipv6 {
            self.client.add_ipv6("eth0", &format!("{CLIENT6}/64"))?;
        }
        self.client.set_offloads("eth0", if self.plan.offloads { "on" } else { "off" })
    }

    fn server_address(&self, at: usize) -> Result<(), String> {
        let network = if self.plan.one_arm { "192.0.2" } else { "10.0.0" };
        self.servers[at].ip(&format!("addr add {network}.{}/24 dev eth0", 11 + at))?;
        self.servers[at].ip("link set eth0 up")?;
        if self.plan.ipv6 {
            self.servers[at].add_ipv6("eth0", &format!("{}/64", self.server_ip6(at)))?;
        }
        self.servers[at].set_offloads("eth0", if self.plan.offloads { "on" } else { "off" })
    }

    /// The client's namespace.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The appliance's namespace.
    pub fn director(&self) -> &Namespace {
        &self.director
    }

    /// A server's namespace; the first is 0.
    pub fn server(&self, at: usize) -> &Namespace {
        &self.servers[at]
    }

    /// Where the lab keeps its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of a server.
    pub fn server_ip(&self, at: usize) -> String {
        format!("{}.{}", if self.plan.one_arm { "192.0.2" } else { "10.0.0" }, 11 + at)
    }

    /// The IPv6 address of a server.
    pub fn server_ip6(&self, at: usize) -> String {
        format!("2001:db8:{}::{}", if self.plan.one_arm { "a" } else { "b" }, 11 + at)
    }

    /// The first part of a configuration: workers, socket, ports.
    pub fn config_head(&self) -> String {
        let device = |n: usize, interface: &str| match self.plan.ports {
            Ports::AfPacket if self.plan.workers > 1 => {
                format!("net_af_packet{n},iface={interface},qpairs={}", self.plan.workers)
            }
            Ports::AfPacket if self.plan.mtu > 1_500 => {
                format!("net_af_packet{n},iface={interface},framesz=10240,blocksz=40960,framecnt=1024")
            }
            Ports::AfPacket => format!("net_af_packet{n},iface={interface}"),
            Ports::Pcap => format!("net_pcap{n},rx_iface_in={interface},tx_iface={interface}"),
            Ports::Tap => format!("net_tap{n},iface={interface}"),
        };
        let workers: Vec<_> = (0..self.plan.workers).map(|at| (at + 1) % 2).collect();
        let mut text = format!(
            "[dataplane]\nworkers = {workers:?}\nsession_capacity = 200_000\nhugepages = \"{}\"\n\n[admin]\nsocket = \"{}\"\n",
            self.plan.hugepages,
            self.socket().display()
        );
        let six = |address: &str| match self.plan.ipv6 {
            true => format!(", \"{address}\""),
            false => String::new(),
        };
        let mut port = |name: &str, n, addresses: &str| {
            let six =
                six(if name == "wan" || self.plan.one_arm { "2001:db8:a::2/64" } else { "2001:db8:b::2/64" });
            let link = if self.plan.vlans {
                format!("parent = \"trunk\"\nvlan = {}", 100 * (n + 1))
            } else {
                format!("device = \"{}\"", device(n, &format!("nic-{name}")))
            };
            let mtu =
                if self.plan.mtu > 1_500 { format!("mtu = {}\n", self.plan.mtu) } else { String::new() };
            let _ = write!(
                text,
                "\n[[port]]\nname = \"{name}\"\n{link}\n{mtu}addresses = [\"{addresses}\"{six}]\n"
            );
        };
        if self.plan.one_arm {
            port("lan", 0, "192.0.2.2/24");
        } else {
            port("wan", 0, "192.0.2.2/24");
            port("lan", 1, "10.0.0.2/24");
        }
        if self.plan.vlans {
            let _ = write!(text, "\n[[port]]\nname = \"trunk\"\ndevice = \"{}\"\n", device(0, "trunk"));
        }
        text
    }

    /// A service on the VIP with servers by their numbers; each with weight 1.
    pub fn service(
        &self,
        name: &str,
        protocol: &str,
        l4_port: u16,
        scheduler: &str,
        servers: &[usize],
    ) -> String {
        let locals = if self.plan.one_arm {
            "\"192.0.2.200\", \"192.0.2.201\""
        } else {
            "\"10.0.0.200\", \"10.0.0.201\""
        };
        let mut text = format!(
            "\n[[service]]\nname = \"{name}\"\nlisten = \"{VIP}:{l4_port}\"\nprotocol = \"{protocol}\"\nforward = \"fullnat\"\nscheduler = \"{scheduler}\"\nlocal_addresses = [{locals}]\n"
        );
        for at in servers {
            let _ = write!(
                text,
                "\n[[service.server]]\naddress = \"{}:{l4_port}\"\nweight = 1\n",
                self.server_ip(*at)
            );
        }
        text
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("sluice.toml")
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sluice.sock")
    }

    /// Writes the configuration file; one who reads it sees the old or the new, never a part.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, text: &str) -> Result<(), String> {
        let fresh = self.folder.path().join("sluice.toml.new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, self.config_path()))
            .map_err(|error| format!("{}: {error}", self.config_path().display()))
    }

    /// Starts sluiced with this configuration and waits until it is ready.
    ///
    /// # Errors
    /// With its words when it does not start.
    pub fn start_sluiced(&mut self, config: &str) -> Result<(), String> {
        self.write_config(config)?;
        let mut command = self.director.command(&program("sluiced").display().to_string());
        command.arg("--config").arg(self.config_path());
        let mut daemon = Daemon::start(&mut command, &self.folder.path().join("sluiced.log"))?;
        // In each of the log's formats.
        let words = ["sluiced: ready", "\"text\":\"ready", "msg=\"ready"];
        let ready = wait_until(Duration::from_secs(20), || {
            let output = daemon.output();
            words.iter().any(|words| output.contains(words)) || daemon.ended().is_some()
        });
        let output = daemon.output();
        if !ready || daemon.ended().is_some() {
            return Err(format!("sluiced did not become ready:\n{output}"));
        }
        self.daemon = Some(daemon);
        if self.plan.ports == Ports::Tap {
            self.connect_taps()?;
        }
        Ok(())
    }

    /// Gives the taps' kernel sides to the client and the first server.
    fn connect_taps(&self) -> Result<(), String> {
        for (tap, host) in [("nic-wan", &self.client), ("nic-lan", &self.servers[0])] {
            self.director.ip(&format!("link set {tap} netns {}", host.name()))?;
            host.ip(&format!("link set {tap} down"))?;
            // The tap's own address is the DPDK side's; the kernel's side gets another.
            host.ip(&format!(
                "link set {tap} name eth0 address 02:00:00:00:00:{}",
                if tap == "nic-wan" { "01" } else { "02" }
            ))?;
        }
        self.client_address()?;
        self.server_address(0)
    }

    /// The running daemon.
    ///
    /// # Errors
    /// When it was not started.
    pub fn sluiced(&mut self) -> Result<&mut Daemon, String> {
        self.daemon.as_mut().ok_or_else(|| "sluiced was not started".to_owned())
    }

    /// Starts a program that ends with the lab.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, name: &str, command: &mut Command) -> Result<(), String> {
        let log = self.folder.path().join(format!("{name}.log"));
        self.programs.push(Daemon::start(command, &log)?);
        Ok(())
    }

    /// Starts nginx on a server: `/` says who it is, files come from the server's folder.
    ///
    /// # Errors
    /// When nginx cannot be started or does not listen.
    pub fn start_nginx(&mut self, at: usize, l4_port: u16) -> Result<(), String> {
        let who = format!("rs{}\\n", at + 1);
        self.start_nginx_saying(at, l4_port, "", &who)
    }

    /// [`start_nginx`](Self::start_nginx) whose listeners have options, and which says `words` at `/`.
    ///
    /// # Errors
    /// When nginx cannot be started or does not listen.
    pub fn start_nginx_saying(
        &mut self,
        at: usize,
        l4_port: u16,
        options: &str,
        words: &str,
    ) -> Result<(), String> {
        let name = format!("nginx-{}", at + 1);
        let mut command = self.servers[at].command("nginx");
        self.start_nginx_as(
            &name,
            &mut command,
            &format!("listen {l4_port} {options}; listen [::]:{l4_port} {options};"),
            words,
        )?;
        self.wait_for_listener(at, l4_port)
    }

    /// Starts nginx on the appliance's host, on every address: `/` says `host`.
    ///
    /// # Errors
    /// When nginx cannot be started or does not listen.
    pub fn start_host_nginx(&mut self, l4_port: u16) -> Result<(), String> {
        let mut command = self.director.command("nginx");
        self.start_nginx_as(
            "nginx-host",
            &mut command,
            &format!("listen {l4_port}; listen [::]:{l4_port};"),
            "host\\n",
        )?;
        self.wait_for_listener_in(&self.director, l4_port)
    }

    /// Starts nginx on a server on several ports; `/` says who it is, and 500 for the listener on a port of which
    /// there is a file `PORT.broken` in the folder that is returned.
    ///
    /// # Errors
    /// When nginx cannot be started or does not listen.
    pub fn start_nginx_on(&mut self, at: usize, l4_ports: &[u16]) -> Result<PathBuf, String> {
        let name = format!("nginx-{}", at + 1);
        let mut command = self.servers[at].command("nginx");
        let mut listen: String = l4_ports.iter().map(|port| format!("listen {port}; ")).collect();
        listen.push_str("if (-f $document_root/$server_port.broken) { return 500; }");
        self.start_nginx_as(&name, &mut command, &listen, &format!("rs{}:$server_port\\n", at + 1))?;
        self.wait_for_listener(at, l4_ports[0])?;
        Ok(self.folder.path().join(name))
    }

    /// Starts nginx on a server with these lines in its `server`; `/` says who it is.
    ///
    /// # Errors
    /// When nginx cannot be started or does not listen on `l4_port`.
    pub fn start_nginx_with(&mut self, at: usize, lines: &str, l4_port: u16) -> Result<(), String> {
        let mut command = self.servers[at].command("nginx");
        self.start_nginx_as(&format!("nginx-{}", at + 1), &mut command, lines, &format!("rs{}\\n", at + 1))?;
        self.wait_for_listener(at, l4_port)
    }

    /// The states of the first service's servers.
    ///
    /// # Panics
    /// When the daemon does not answer, or has no service.
    pub fn server_states(&self) -> Vec<String> {
        let services = self.json(&["service", "list"]).expect("the daemon answers");
        let servers = services[0]["servers"].as_array().expect("there is a service");
        servers.iter().map(|server| server["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until the first service's servers are in these states.
    ///
    /// # Panics
    /// With what they are, when that takes longer than six seconds.
    pub fn await_states(&self, wanted: &[&str]) {
        let came = wait_until(Duration::from_secs(6), || self.server_states() == wanted);
        assert!(
            came,
            "wanted {wanted:?}: {}",
            self.json(&["service", "list"]).expect("the daemon answers")[0]
        );
    }

    /// Gives a server the VIPs, of which it tells nobody on its link.
    ///
    /// # Errors
    /// When the server has them already.
    pub fn give_vip(&self, at: usize) -> Result<(), String> {
        let server = self.server(at);
        server.sysctl("net.ipv4.conf.all.arp_ignore=1")?;
        server.sysctl("net.ipv4.conf.all.arp_announce=2")?;
        server.ip(&format!("addr add {VIP}/32 dev lo"))?;
        server.add_ipv6("lo", &format!("{VIP6}/128"))
    }

    /// Starts a program that takes packets out of the tunnel `kind` on a server, `ipip` or `gre`: a raw socket that feeds a
    /// TUN device, because this kernel may have no tunnels of its own.
    ///
    /// # Errors
    /// When there is no TUN device after a while.
    pub fn unpack_tunnel(
        &mut self,
        at: usize,
        kind: &str,
        is_outer_ipv6: bool,
        is_inner_ipv6: bool,
    ) -> Result<(), String> {
        let outer = if is_outer_ipv6 { "IP6-RECV" } else { "IP4-RECV" };
        let inner = if is_inner_ipv6 { 41 } else { 4 };
        // A GRE header without options is what a TUN device calls packet information.
        let (socket, device) = match kind {
            "ipip" => (format!("{outer}:{inner}"), "TUN,tun-name=tunnel,iff-no-pi,iff-up"),
            "gre" => (format!("{outer}:47"), "TUN,tun-name=tunnel,iff-up"),
            other => return Err(format!("nobody here unpacks {other}")),
        };
        let mut socat = self.server(at).command("socat");
        socat.args(["-u", &socket, device]);
        self.start(&format!("unpack-{at}"), &mut socat)?;
        let server = self.server(at);
        if !wait_until(Duration::from_secs(5), || server.ip("link show dev tunnel").is_ok()) {
            return Err("socat made no TUN device".to_owned());
        }
        server.sysctl("net.ipv4.conf.all.rp_filter=0")?;
        server.sysctl("net.ipv4.conf.tunnel.rp_filter=0")?;
        server.sysctl("net.ipv6.conf.tunnel.disable_ipv6=0")
    }

    /// The n-th program that was started.
    pub fn program(&mut self, at: usize) -> &mut Daemon {
        &mut self.programs[at]
    }

    fn start_nginx_as(
        &mut self,
        name: &str,
        command: &mut Command,
        listen: &str,
        words: &str,
    ) -> Result<(), String> {
        self.programs.push(nginx::start(&self.folder.path().join(name), command, listen, words)?);
        Ok(())
    }

    /// Waits until something listens on a server's TCP port.
    ///
    /// # Errors
    /// When nothing does in time.
    pub fn wait_for_listener(&self, at: usize, l4_port: u16) -> Result<(), String> {
        self.wait_for_listener_in(&self.servers[at], l4_port)
    }

    fn wait_for_listener_in(&self, host: &Namespace, l4_port: u16) -> Result<(), String> {
        nginx::wait_for_listener(host, l4_port).map_err(|error| {
            let logs: Vec<_> = self.programs.iter().map(Daemon::output).collect();
            format!("{error}: {}", logs.join("\n"))
        })
    }

    /// What the `sluice` command prints.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn sluice(&self, arguments: &[&str]) -> Result<String, String> {
        run(self.sluice_command().args(arguments))
    }

    /// The `sluice` command, towards this lab's daemon.
    pub fn sluice_command(&self) -> Command {
        let mut command = Command::new(program("sluice"));
        command.arg("--socket").arg(self.socket()).stdin(Stdio::null());
        command
    }

    /// What the `sluice` command prints as JSON.
    ///
    /// # Errors
    /// With its words when it fails, or when it printed no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = run(self.sluice_command().arg("-j").args(arguments))?;
        serde_json::from_str(&text).map_err(|error| format!("sluice -j {arguments:?}: {error}: {text}"))
    }

    /// Sends HTTP requests from the client, a new connection each, and gives what each was
    /// answered: the body, or curl's complaint.
    ///
    /// # Errors
    /// When curl cannot be run.
    pub fn http(&self, requests: usize, parallel: usize) -> Result<Vec<String>, String> {
        self.http_to(VIP, requests, parallel)
    }

    /// [`http`](Self::http) to any host, IPv6 in brackets.
    ///
    /// # Errors
    /// When curl cannot be run.
    pub fn http_to(&self, host: &str, requests: usize, parallel: usize) -> Result<Vec<String>, String> {
        // curl's own counting, so that one process makes all the requests.
        let url = format!("http://{}:80/?[1-{requests}]", host.replace('[', "\\[").replace(']', "\\]"));
        let mut command = self.client.command("curl");
        command.args(["--silent", "--show-error", "--no-progress-meter", "--max-time", "20", "--parallel"]);
        command.args(["--parallel-immediate", "--parallel-max", &parallel.to_string()]);
        command.args(["--header", "Connection: close", &url]);
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("curl: {error}"))?;
        let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        lines.extend(String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned));
        Ok(lines)
    }
}

/// A cable on which packets may be so large.
fn cable_of(mtu: u16, a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<(), String> {
    cable(a, b)?;
    for (space, interface) in [a, b] {
        space.ip(&format!("link set {interface} mtu {mtu}"))?;
    }
    Ok(())
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Programs first, so that they see their namespaces to the end.
        self.programs.clear();
        self.daemon = None;
    }
}

/// A program of this workspace, next to the one that runs, or where SLUICE_BIN says.
///
/// Tests live in `deps/`, one folder below the programs.
pub fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("SLUICE_BIN") {
        return Path::new(&folder).join(name);
    }
    let own = std::env::current_exe().unwrap_or_default();
    let near = own.ancestors().skip(1).take(3).map(|folder| folder.join(name));
    near.into_iter().find(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}
