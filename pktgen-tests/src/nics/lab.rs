//! A client and servers on this machine, and sluiced with two emulated NICs in a virtual machine between them.
//!
//! ```text
//!  client 192.0.2.100 ──── tap ┌──────────────────────┐ tap ──── servers 10.0.0.11, 10.0.0.12
//!  2001:db8:a::100             │ guest: NIC sluiced NIC│          2001:db8:b::11, ::12
//!                              └──────────────────────┘
//! ```

use super::guest::{Board, Guest, Nic, PCI, STANDS_STILL};
use super::host::{self, Host, Lent};
use super::image::Image;
use super::machine::Machine;
use crate::netns::{Namespace, cable};
use crate::nginx;
use crate::process::{Daemon, Folder, run, wait_until};
use crate::tag_switch::TagSwitch;
use crate::wire::Wire;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::Duration;

/// How long a start or an end may take in a machine that is emulated, beside other work of the host: its clock says nothing
/// about Sluice's.
pub(super) const EMULATED: Duration = Duration::from_secs(60);

/// What the client connects to.
pub const VIP: &str = "192.0.2.10";
/// The same over IPv6.
pub const VIP6: &str = "2001:db8:a::10";
const CLIENT: &str = "192.0.2.100";
/// The interfaces of client and servers, and what sluiced calls its ports there.
const LINKS: [&str; 2] = ["wan", "lan"];
/// The TCP and UDP port where servers say what they hear.
const ECHO: u16 = 7;

/// How sluiced is configured in the guest.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Workers, from core 1 up; the guest has one more core.
    pub workers: usize,
    /// Largest IP packet of both links.
    pub mtu: u16,
    /// Whether the ports are VLANs 100 and 200 of the links.
    pub vlans: bool,
    /// `require` or `off`.
    pub hugepages: &'static str,
    /// The service's forwarding mode.
    pub mode: &'static str,
}

impl Setup {
    /// FullNAT on plain links.
    pub fn new(workers: usize) -> Self {
        Self { workers, mtu: 1_500, vlans: false, hugepages: "require", mode: "fullnat" }
    }

    /// The configuration file for two NICs; `home` is the folder of the admin socket.
    pub fn text(&self, pci: [&str; 2], home: &str) -> String {
        let workers: Vec<_> = (1..=self.workers).collect();
        let mut text = format!(
            "[dataplane]\nworkers = {workers:?}\nsession_capacity = 20000\nhugepages = \"{}\"\n[admin]\nsocket = \"{home}/s.sock\"\n",
            self.hugepages
        );
        let ports = [("wan", "192.0.2.2/24", "2001:db8:a::2/64"), ("lan", "10.0.0.2/24", "2001:db8:b::2/64")];
        for (at, (name, four, six)) in ports.into_iter().enumerate() {
            let link = format!("device = \"{}\"\nmtu = {}\n", pci[at], self.mtu);
            let (own, link) = match self.vlans {
                false => (link, String::new()),
                true => {
                    let trunk = format!("[[port]]\nname = \"t{at}\"\n{link}");
                    (format!("parent = \"t{at}\"\nvlan = {}\n", 100 * (at + 1)), trunk)
                }
            };
            let _ =
                write!(text, "[[port]]\nname = \"{name}\"\n{own}addresses = [\"{four}\", \"{six}\"]\n{link}");
        }
        let locals = match self.mode {
            "fullnat" => {
                let each = (0..2 * self.workers)
                    .map(|n| format!("\"10.0.0.{}\", \"2001:db8:b::{}\"", 200 + n, 200 + n));
                format!("local_addresses = [{}]\n", each.collect::<Vec<_>>().join(", "))
            }
            _ => String::new(),
        };
        let services = [("web", VIP.to_owned(), "10.0.0."), ("web6", format!("[{VIP6}]"), "2001:db8:b::")];
        for (name, vip, server) in services {
            let _ = write!(
                text,
                "[[service]]\nname = \"{name}\"\nlisten = [\"{vip}:80\", \"{vip}:{ECHO}\"]\nprotocol = [\"tcp\", \"udp\"]\nforward = \"{}\"\nscheduler = \"rr\"\n{locals}",
                self.mode
            );
            for at in 11..13 {
                let _ = write!(text, "[[service.server]]\naddress = \"{server}{at}\"\n");
            }
        }
        text
    }
}

/// A lab. Dropping it ends its machine and programs, and removes its namespaces and files.
#[derive(Debug)]
pub struct NicLab {
    machine: Box<dyn Machine>,
    _programs: Vec<Daemon>,
    _switches: Vec<TagSwitch>,
    _lent: Vec<Lent>,
    /// The client's host.
    pub client: Namespace,
    /// The host with the servers' addresses.
    pub servers: Namespace,
    _cables: Option<Namespace>,
    folder: Folder,
}

impl Drop for NicLab {
    /// A NIC does not leave vfio-pci as long as a program has it.
    fn drop(&mut self) {
        if !self.machine.is_own() && self.runs() && self.end("TERM").is_err() {
            let _ = self.end("KILL");
        }
    }
}

impl NicLab {
    /// Boots a guest with two of these NICs, bound to vfio-pci, and cores for so many workers. The links are TAP
    /// interfaces, or carry VLAN 100 on the client's side and 200 on the servers'.
    ///
    /// # Errors
    /// With what could not be made or started.
    pub fn new(image: &Image, nic: &Nic<'_>, workers: usize, vlans: bool) -> Result<Self, String> {
        let folder = Folder::new("nics")?;
        let [cables, client, servers] =
            ["cables", "client", "servers"].map(|name| Namespace::new(&format!("nic-{name}")));
        let (cables, client, servers) = (cables?, client?, servers?);
        let socket = |at: usize, end: &str| folder.path().join(format!("{}-{end}.sock", LINKS[at]));
        let netdevs = [0, 1].map(|at| match vlans {
            false => {
                let queues =
                    if nic.host_queues == 1 { String::new() } else { format!(",queues={}", nic.host_queues) };
                format!("tap,ifname={},script=no,downscript=no{queues}", LINKS[at])
            }
            true => format!(
                "dgram,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                socket(at, "guest").display(),
                socket(at, "switch").display()
            ),
        });
        let guest = Guest::boot(
            image,
            nic,
            &Board::new(workers + 1),
            &netdevs,
            |program| cables.command(program),
            folder.path(),
        )?;
        let mut switches = Vec::new();
        for (at, host) in [&client, &servers].into_iter().enumerate() {
            let link = LINKS[at];
            if vlans {
                let trunk = Wire::between(&socket(at, "switch"), &socket(at, "guest"))?;
                let ends = [(host, link, 100 * (at as u16 + 1))];
                switches.push(TagSwitch::on(at, trunk, &ends, folder.path())?);
            } else {
                cables.ip(&format!("link set {link} netns {}", host.name()))?;
            }
            host.ip(&format!("link set {link} up"))?;
        }
        guest.run("echo 384 > /proc/sys/vm/nr_hugepages")?;
        guest.bind("vfio-pci", &PCI)?;
        let programs = furnish(&client, &servers, folder.path())?;
        Ok(Self {
            machine: Box::new(guest),
            _programs: programs,
            _switches: switches,
            _lent: Vec::new(),
            client,
            servers,
            _cables: Some(cables),
            folder,
        })
    }

    /// Takes two NICs of this machine, and the interfaces at the other ends of their cables. With `vlans` the links carry
    /// VLAN 100 on the client's side and 200 on the servers'.
    ///
    /// # Errors
    /// With what is in the way.
    pub fn on_host(pci: &[String; 2], peers: &[String; 2], vlans: bool) -> Result<Self, String> {
        host::check(pci, peers)?;
        let folder = Folder::new("nics")?;
        let [client, servers] = ["client", "servers"].map(|name| Namespace::new(&format!("nic-{name}")));
        let (client, servers) = (client?, servers?);
        let mut lent = Vec::new();
        let hosts = [(&client, "wan", "wan0", 100), (&servers, "lan", "lan0", 200)];
        for ((host, link, trunk, vlan), peer) in hosts.into_iter().zip(peers) {
            lent.push(Lent::to(host, peer, if vlans { trunk } else { link })?);
            if vlans {
                host.ip(&format!("link set {trunk} up"))?;
                host.ip(&format!("link add link {trunk} name {link} type vlan id {vlan}"))?;
            }
            host.ip(&format!("link set {link} up"))?;
        }
        let ends =
            [(&client, if vlans { "wan0" } else { "wan" }), (&servers, if vlans { "lan0" } else { "lan" })];
        let machine = Host::take(pci, ends, folder.path())?;
        let programs = furnish(&client, &servers, folder.path())?;
        Ok(Self {
            machine: Box::new(machine),
            _programs: programs,
            _switches: Vec::new(),
            _lent: lent,
            client,
            servers,
            _cables: None,
            folder,
        })
    }

    /// The machine.
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// The configuration file of a setup here.
    pub fn text_of(&self, setup: &Setup) -> String {
        setup.text(self.machine.pci(), self.machine.home())
    }

    /// The station address of a port.
    ///
    /// # Errors
    /// When sluiced does not tell it.
    pub fn station(&self, port: usize) -> Result<[u8; 6], String> {
        let ports = self.json("port list")?;
        let text = ports[port]["mac"].as_str().ok_or_else(|| format!("no station address: {ports}"))?;
        let octets: Vec<u8> =
            text.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
        octets.try_into().map_err(|_| format!("`{text}` is no station address"))
    }

    /// Starts sluiced and waits until it forwards: it is ready and its links are up.
    ///
    /// # Errors
    /// With its log.
    pub fn start(&self, setup: &Setup) -> Result<(), String> {
        self.machine.write(&format!("{}/sluice.toml", self.machine.home()), &self.text_of(setup))?;
        self.start_again()
    }

    /// Starts sluiced as it is configured.
    ///
    /// # Errors
    /// With its log.
    pub fn start_again(&self) -> Result<(), String> {
        let home = self.machine.home();
        self.machine.run(&format!(
            "cd {home}; rm -f log s.sock; setsid sluiced --config {home}/sluice.toml --state {home}/state >log 2>&1 </dev/null & echo $! > {home}/pid"
        ))?;
        // An emulated machine sometimes loses the interrupts of a core's timer, and stands still from then on.
        let mut still = None;
        let mut forwards = || match self.json("port list") {
            Ok(ports) => ports
                .as_array()
                .is_some_and(|ports| !ports.is_empty() && ports.iter().all(|port| port["link"] != "down")),
            Err(error) if error.contains(STANDS_STILL) => {
                still = Some(error);
                true
            }
            Err(_) => false,
        };
        let is_over = wait_until(EMULATED, || forwards() || !self.runs());
        match still {
            Some(error) => Err(error),
            None if is_over && self.runs() => Ok(()),
            None => Err(self.log()),
        }
    }

    /// Ends sluiced by a signal, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&self, signal: &str) -> Result<(), String> {
        self.machine.run(&format!("kill -{signal} $(cat {}/pid)", self.machine.home()))?;
        if wait_until(EMULATED, || !self.runs()) { Ok(()) } else { Err("sluiced does not end".into()) }
    }

    /// Whether sluiced runs.
    pub fn runs(&self) -> bool {
        // A process that ended and that nobody has asked for is a zombie; its first thread is one before the others end.
        let process = format!("/proc/$(cat {}/pid)", self.machine.home());
        self.machine
            .run(&format!(
                "grep '^State:' {process}/status | grep -qv Z || [ $(ls {process}/task | wc -l) -gt 1 ]"
            ))
            .is_ok()
    }

    /// What sluiced logged.
    pub fn log(&self) -> String {
        self.machine.run(&format!("cat {}/log", self.machine.home())).unwrap_or_else(|error| error)
    }

    /// What the `sluice` command prints in the guest.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn sluice(&self, arguments: &str) -> Result<String, String> {
        self.machine.run(&format!("sluice --socket {}/s.sock {arguments}", self.machine.home()))
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// With its words when it fails, or prints no JSON.
    pub fn json(&self, arguments: &str) -> Result<Value, String> {
        let text = self.sluice(&format!("-j {arguments}"))?;
        serde_json::from_str(&text).map_err(|error| format!("sluice -j {arguments}: {error}: {text}"))
    }

    /// So many requests, a new connection each; all must be answered, and by both servers.
    ///
    /// # Errors
    /// With what was not answered.
    pub fn requests(&self, host: &str, count: usize) -> Result<(), String> {
        let answers = self.answers(host, count)?;
        let of = |end: &str| answers.lines().filter(|line| line.ends_with(end)).count();
        let (one, two) = (of("11"), of("12"));
        match one + two == count && one > 0 && two > 0 {
            true => Ok(()),
            false => Err(format!("of {count} requests {one} and {two} were answered: {answers}")),
        }
    }

    /// What so many requests, a new connection each, were answered: a line each.
    ///
    /// # Errors
    /// With what was not answered.
    pub fn answers(&self, host: &str, count: usize) -> Result<String, String> {
        let url = format!("http://{}/?[1-{count}]", host.replace('[', "\\[").replace(']', "\\]"));
        let mut curl = self.client.command("curl");
        curl.args([
            "-sS",
            "--no-progress-meter",
            "--max-time",
            "30",
            "--parallel",
            "--parallel-immediate",
            "--parallel-max",
            "10",
        ]);
        curl.args(["--header", "Connection: close", &url]);
        run(&mut curl)
    }

    /// How servers answer the client: by the appliance, or past it.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn route_back(&self, by: &str) -> Result<(), String> {
        self.servers.ip(&format!("route replace {CLIENT}/32 {by}"))
    }

    /// Gives the servers' host the VIP, or takes it away again.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn share_vip(&self, is_shared: bool) -> Result<(), String> {
        for setting in ["arp_ignore=1", "arp_announce=2", "rp_filter=0"] {
            self.servers.sysctl(&format!("net.ipv4.conf.all.{setting}"))?;
        }
        let change = if is_shared { "add" } else { "del" };
        self.servers.ip(&format!("addr {change} {VIP}/32 dev lo"))
    }

    /// The lab's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Fetches a file so many times and compares every byte.
    ///
    /// # Errors
    /// With what differs.
    pub fn fetch(&self, host: &str, name: &str, times: usize) -> Result<(), String> {
        let wanted =
            std::fs::read(self.folder.path().join("nginx").join(name)).map_err(|error| error.to_string())?;
        for _ in 0..times {
            let mut curl = self.client.command("curl");
            curl.args(["-sS", "-g", "--max-time", "60", &format!("http://{host}/{name}")]);
            let output = curl.output().map_err(|error| format!("curl: {error}"))?;
            if output.stdout != wanted {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(format!(
                    "{name}: {} of {} bytes, or others: {said}",
                    output.stdout.len(),
                    wanted.len()
                ));
            }
        }
        Ok(())
    }

    /// A ping of one of the appliance's addresses with so many bytes, which no router may cut.
    ///
    /// # Errors
    /// When it is not answered.
    pub fn ping(&self, address: &str, bytes: usize) -> Result<(), String> {
        let mut ping = self.client.command("ping");
        ping.args(["-c", "3", "-i", "0.3", "-W", "10", "-M", "do", "-s", &bytes.to_string(), address]);
        run(&mut ping).map(drop)
    }

    /// Sends so many bytes through an echo server's connection and compares what comes back.
    ///
    /// # Errors
    /// With what differs.
    pub fn echo_stream(&self, host: &str, bytes: usize) -> Result<(), String> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let sent = noise(bytes);
        let mut heard = Vec::new();
        let result = self.client.inside(|| -> std::io::Result<()> {
            let mut stream = TcpStream::connect(format!("{host}:{ECHO}"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let mut writer = stream.try_clone()?;
            std::thread::scope(|scope| {
                let written =
                    scope.spawn(|| writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write)));
                let read = stream.read_to_end(&mut heard);
                written.join().expect("it writes").and(read).map(drop)
            })
        });
        result.map_err(|error| format!("{bytes} bytes there and back: {error} after {}", heard.len()))?;
        if heard == sent {
            Ok(())
        } else {
            Err(format!("of {bytes} bytes {} came back, or others", heard.len()))
        }
    }

    /// Asks an echo server for so many bytes in one datagram.
    ///
    /// # Errors
    /// When no answer, or another, comes.
    pub fn echo(&self, host: &str, bytes: usize) -> Result<(), String> {
        let question = noise(bytes);
        let answer = self.client.ask(0, &format!("{host}:{ECHO}"), &question);
        match answer {
            Ok(answer) if answer == question => Ok(()),
            Ok(answer) => Err(format!("of {bytes} bytes {} came back, or others", answer.len())),
            Err(error) => Err(format!("a datagram of {bytes} bytes: {error}")),
        }
    }

    /// Sets the MTU of the cables.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), String> {
        self.client.ip(&format!("link set wan mtu {mtu}"))?;
        self.servers.ip(&format!("link set lan mtu {mtu}"))
    }

    /// Waits until the state of a port's link, as sluiced sees it, is this one.
    ///
    /// # Errors
    /// With what it says, when it does not become that.
    pub fn await_link(&self, port: &str, wanted: &str) -> Result<(), String> {
        let link = || {
            let ports = self.json("port list").ok()?;
            Some(ports.as_array()?.iter().find(|entry| entry["name"] == port)?["link"].as_str()?.to_owned())
        };
        let came = wait_until(Duration::from_secs(10), || link().as_deref() == Some(wanted));
        if came { Ok(()) } else { Err(format!("port {port}'s link is {:?}, not {wanted}", link())) }
    }
}

/// Gives the client and the servers their addresses, and starts what serves. `folder` is for files.
fn furnish(client: &Namespace, servers: &Namespace, folder: &Path) -> Result<Vec<Daemon>, String> {
    // How servers answer clients where the appliance does not see the answers.
    cable((client, "back"), (servers, "back"))?;
    client.ip(&format!("addr add {CLIENT}/24 dev wan"))?;
    client.add_ipv6("wan", "2001:db8:a::100/64")?;
    for at in 11..13 {
        servers.ip(&format!("addr add 10.0.0.{at}/24 dev lan"))?;
        servers.add_ipv6("lan", &format!("2001:db8:b::{at}/64"))?;
    }
    let mut nginx = servers.command("nginx");
    let home = folder.join("nginx");
    let who = "listen 80; listen [::]:80;";
    let nginx = nginx::start(&home, &mut nginx, who, "$server_addr\\n")?;
    for (name, len) in [("100k", 100_000), ("1m", 1_000_000)] {
        let path = home.join(name);
        std::fs::write(&path, noise(len)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    nginx::wait_for_listener(servers, 80).map_err(|error| format!("{error}: {}", nginx.output()))?;
    let mut programs = vec![nginx];
    // An answer must come from the address that was asked, which a socket bound to all does not see to.
    let listeners = ["10.0.0.11", "10.0.0.12", "[2001:db8:b::11]", "[2001:db8:b::12]"];
    for (at, address) in listeners.into_iter().enumerate() {
        for kind in ["TCP", "UDP"] {
            let family = if address.starts_with('[') { 6 } else { 4 };
            let mut echo = servers.command("socat");
            // What serves a datagram's sender hears of no end, so it ends when nothing comes any more.
            echo.args([
                "-b",
                "65536",
                "-T",
                "60",
                &format!("{kind}{family}-LISTEN:{ECHO},bind={address},fork,reuseaddr"),
            ]);
            echo.arg("EXEC:cat");
            programs.push(Daemon::start(&mut echo, &folder.join(format!("echo-{kind}-{at}.log")))?);
        }
    }
    nginx::wait_for_listener(servers, ECHO)?;
    Ok(programs)
}

/// Bytes without a pattern, always the same.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}
