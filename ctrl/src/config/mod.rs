//! The configuration file: read, checked, and turned into types that need no more checking.
//!
//! [`raw`](self) structures mirror the file and remember where each value stands;
//! `check` turns them into a [`Config`] or into a list of problems, each of which names
//! file, line, key, what is wrong and what to do.

mod acl;
mod again;
mod check;
mod discover;
mod exposed;
mod health;
mod hook;
mod keys;
mod names;
mod policy;
mod problem;
mod raw;
mod read;
mod reference;
mod text;

pub use acl::AclSpec;
pub use again::Reader;
pub(crate) use again::blocks;
pub(crate) use check::parse_duration;
pub use discover::{DiscoverSpec, Login, Site, Source};
pub use exposed::{Exposed, ListenAt, MetricsSpec, SeriesOfServers};
pub use health::{HealthSpec, Http, LoadPlace, LoadSpec, Probe};
pub use hook::HookSpec;
pub use names::{NameAnswers, NamesSpec};
pub use policy::{Policy, Rules, Weight};
pub use problem::{Problem, Severity, shown};
pub use reference::{page, schema};
pub use text::Text;

use crate::users::Access;
use keys::Keyed;

use dataplane::flow::{Endpoint, Protocols};
use dataplane::scheduler::{Flags, Scheduler};
use dataplane::session::{ForwardMode, Timeouts};
use dataplane::snapshot::{Listen, Network, NextHop, ServiceOptions, SourceCheck};
use dataplane::steering::ladder::Fields;
use dataplane::wire::Mac;
use dataplane::worker::SubInterface;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A configuration that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Cores, memory, capacity.
    pub dataplane: Dataplane,
    /// Who may ask and change, and where.
    pub admin: Admin,
    /// The devices.
    pub ports: Vec<PortSpec>,
    /// Static routes.
    pub routes: Vec<RouteSpec>,
    /// Neighbours that are not asked where they are.
    pub neighbors: BTreeMap<NextHop, Mac>,
    /// Lists of addresses, in the order in which they are asked.
    pub acls: Vec<AclSpec>,
    /// Programs that are told of attacks.
    pub hooks: Vec<HookSpec>,
    /// The services.
    pub services: Vec<Arc<ServiceSpec>>,
    /// Where the director is.
    pub location: Location,
    /// The names that are answered for.
    pub names: Option<NamesSpec>,
    /// How the log is written.
    pub log: LogSpec,
    /// Metrics, if they are served.
    pub metrics: Option<MetricsSpec>,
    /// The page for browsers.
    pub web: Option<Exposed>,
    /// How long sessions may be silent.
    pub timeouts: Timeouts,
}

/// Who may ask and change, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The socket.
    pub socket: PathBuf,
    /// The group that may use the socket, by name or number; root's if it is not said.
    pub group: Option<String>,
    /// Who may change things, by name or number, groups with `@`; everybody else who may use the socket only looks.
    /// Root and the daemon's own user always may.
    pub operators: Vec<String>,
    /// Both as the system knew them when the file was read.
    pub access: Access,
}

/// Where the director, or a server, is; what is not said is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The datacenter, or part of one.
    pub zone: Option<String>,
    /// Zones that are near each other.
    pub region: Option<String>,
}

impl Location {
    /// The tier of a server that is `there`: 0 in the same zone, 1 in the same region, 2 elsewhere. A director that
    /// does not know where it is has one tier.
    pub fn tier_of(&self, there: &Self) -> usize {
        let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        match (same(&self.zone, &there.zone), same(&self.region, &there.region)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpec {
    /// What a line looks like.
    pub format: crate::journal::Format,
    /// The least important lines that are written.
    pub level: log::LevelFilter,
}

/// How the dataplane is laid out. None of it can change without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// CPU cores, one worker each.
    pub workers: Vec<usize>,
    /// Sessions between IPv4 addresses per worker.
    pub session_capacity: usize,
    /// Sessions with an IPv6 address per worker, where the operator says it.
    pub session_capacity_ipv6: Option<usize>,
    /// Whether packet memory is on hugepages.
    pub hugepages: Hugepages,
}

/// Whether packet memory is on hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hugepages {
    /// If enough are free.
    Auto,
    /// Or the daemon does not start.
    Require,
    /// Never.
    Off,
}

/// A device and the appliance's addresses on its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The operator's name for it.
    pub name: String,
    /// A PCI address or a DPDK vdev string; a sub-interface has its parent's.
    pub device: Device,
    /// What makes it a sub-interface. Those follow the ports with devices of their own.
    pub vlan: Option<SubInterface>,
    /// Largest IP packet of its link, in bytes, if the device's own is not right.
    pub mtu: Option<u16>,
    /// Whether IPv6 routers on its link that advertise themselves are default gateways.
    pub accept_ra: bool,
    /// The appliance's own addresses.
    pub addresses: Vec<Network>,
    /// How the device spreads packets over its queues, where it cannot say so itself.
    pub rss: Option<RssSpec>,
    /// Whether the host's kernel has an interface for it.
    pub kernel: bool,
    /// How packets that come by it are checked for whether their sources can be there.
    pub source_check: SourceCheck,
}

/// How a device spreads packets over its queues, as the operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RssSpec {
    /// It gives everything to its first queue.
    Nothing,
    /// By the Toeplitz hash, entry n of the table being queue n modulo the number of workers.
    Toeplitz {
        /// What is hashed.
        fields: Fields,
        /// The key.
        key: Vec<u8>,
        /// Entries of the indirection table.
        entries: usize,
    },
}

/// What a port is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A PCI address, `0000:3b:00.0`.
    Pci(String),
    /// A DPDK vdev string, `net_af_packet0,iface=veth1`.
    Vdev(String),
}

impl Device {
    /// The name by which DPDK knows the device.
    pub fn name(&self) -> &str {
        match self {
            Self::Pci(address) => address,
            Self::Vdev(arguments) => arguments.split(',').next().unwrap_or(arguments),
        }
    }

    /// The text of the configuration.
    pub fn text(&self) -> &str {
        match self {
            Self::Pci(text) | Self::Vdev(text) => text,
        }
    }

    /// A vdev's argument `key`.
    pub fn argument(&self, key: &str) -> Option<&str> {
        let Self::Vdev(text) = self else { return None };
        text.split(',').skip(1).find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
    }

    /// The kernel's interface that the device reads, if the kernel sees the same frames.
    pub fn interface(&self) -> Option<&str> {
        let reads = ["net_af_packet", "eth_af_packet", "net_pcap"]
            .iter()
            .any(|driver| self.name().starts_with(driver));
        let keys = ["iface", "rx_iface_in", "rx_iface"];
        if reads { keys.iter().find_map(|key| self.argument(key)) } else { None }
    }

    /// Whether a kernel is on the other side of the link and may hand over super-frames
    /// and partial checksums.
    pub fn has_kernel_peer(&self) -> bool {
        let drivers = ["net_af_packet", "net_af_xdp", "net_tap", "eth_af_packet", "net_virtio_user"];
        let is = |driver: &str| self.name().starts_with(driver);
        // A pcap device listens on an interface, or reads files, with nobody on the other side.
        let captures = || ["iface", "rx_iface", "rx_iface_in"].iter().any(|key| self.argument(key).is_some());
        drivers.into_iter().any(is) || is("net_pcap") && captures()
    }
}

/// A static route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Which destinations.
    pub to: Network,
    /// The gateways, each on the link of a port; flows are spread over several.
    pub hops: Vec<NextHop>,
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// The operator's name for it.
    pub name: String,
    /// What clients connect to; there is at least one. For mode `snat`, where hidden hosts may go.
    pub listens: Vec<Listen>,
    /// Its transport protocols, and that of pings.
    pub protocols: Protocols,
    /// How packets reach the servers.
    pub forward: ForwardMode,
    /// How new sessions are spread.
    pub scheduler: Scheduler,
    /// What changes the scheduler.
    pub scheduler_flags: Flags,
    /// What hashes are keyed with, the same on all nodes that are to agree.
    pub hash_seed: u64,
    /// The director's addresses towards the servers.
    pub local_addresses: Vec<IpAddr>,
    /// What else it wants of its sessions. Limits are those of all workers together.
    pub options: ServiceOptions,
    /// The servers.
    pub servers: Vec<ServerSpec>,
    /// How servers are checked.
    pub health: Option<Arc<HealthSpec>>,
    /// What their traffic may show of servers, if anybody looks.
    pub passive: Option<Rules>,
    /// Where more servers are looked up.
    pub discover: Option<DiscoverSpec>,
    /// What its name stands for.
    pub names: NameAnswers,
    /// Whether servers that are near come first.
    pub locality: bool,
    /// What is done when servers are down.
    pub policy: Policy,
    /// Connections a second that clients do not finish, from which on there is a flood.
    pub syn_flood_rate: u64,
    /// How long sources are banned that come too often, if they are.
    pub ban: Option<Duration>,
    /// Whether it takes no new sessions, because it is to go.
    pub drain: bool,
    /// How long a server that came up takes to get its whole weight; zero: at once.
    pub slow_start: Duration,
    /// How long a server may take to answer connections, on average, and keep its whole weight, if that matters.
    pub connect_limit: Option<Duration>,
}

impl ServiceSpec {
    /// Whether the same words may mean something else tomorrow, because a file is read for it.
    fn looks_elsewhere(&self) -> bool {
        let has_authorities = |health: &HealthSpec| matches!(&health.probe, Probe::Http(http) if http.tls.as_ref().is_some_and(|tls| tls.ca_file.is_some()));
        let asks_resolver = |discover: &DiscoverSpec| matches!(discover.source, Source::Dns { .. });
        self.health.as_deref().is_some_and(has_authorities)
            || self.discover.as_ref().is_some_and(asks_resolver)
    }

    /// What clients connect to, as lists show it.
    pub fn listen_text(&self) -> String {
        let texts: Vec<_> = self.listens.iter().map(ToString::to_string).collect();
        texts.join(",")
    }

    /// Puts servers behind those that there are; the sorry server stays last.
    pub fn add_servers(&mut self, servers: impl IntoIterator<Item = ServerSpec>) {
        let place = self.servers.iter().position(|server| server.is_sorry).unwrap_or(self.servers.len());
        self.servers.splice(place..place, servers);
    }
}

impl Config {
    /// The place of the service of this name.
    pub fn place_of(&self, name: &str) -> Option<usize> {
        self.services.iter().position(|spec| spec.name == name)
    }

    /// Sessions with an IPv6 address per worker: as many as without, if there is any IPv6 service.
    pub fn session_capacity_ipv6(&self) -> usize {
        /// What a configuration that comes later may use; 10 MB.
        const SPARE: usize = 65_536;
        let is_six = |address: IpAddr| address.is_ipv6();
        let uses_six = self.services.iter().any(|service| {
            service.listens.iter().any(|listen| is_six(listen.network.address))
                || service.servers.iter().any(|server| is_six(server.endpoint.address))
        });
        let capacity = self.dataplane.session_capacity;
        self.dataplane.session_capacity_ipv6.unwrap_or(if uses_six { capacity } else { capacity.min(SPARE) })
    }
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Where it listens; port 0: where the client addressed the service.
    pub endpoint: Endpoint,
    /// Its share; 0 takes no new sessions.
    pub weight: Weight,
    /// Where it is.
    pub location: Location,
    /// Whether it serves only when no other does.
    pub is_sorry: bool,
    /// Whether a source named it, and not the operator.
    pub is_found: bool,
    /// Sessions from which on it takes no more, and below which it takes some again, over all workers;
    /// 0: no limit.
    pub thresholds: (u32, u32),
}

/// What reading a file gave.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
    /// Where it stands.
    pub text: Arc<Text>,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub enum LoadError {
    /// It cannot be read, or it is not TOML.
    Unreadable(Problem),
    /// It is TOML, but says something that cannot be done.
    Wrong(Vec<Problem>),
}

impl LoadError {
    /// Every problem, the worst first.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable(problem) => std::slice::from_ref(problem),
            Self::Wrong(problems) => problems,
        }
    }

    /// The exit status of `config check`: 1 when the file cannot be read or parsed, 2 when it is wrong.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Unreadable(_) => 1,
            Self::Wrong(_) => 2,
        }
    }
}

/// Reads and checks the file at `path`, with its fragments.
///
/// # Errors
/// With every problem found.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    parse_text(Text::read(path)?)
}

/// Checks `text`, which stands in the file at `path`.
///
/// # Errors
/// With every problem found.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, LoadError> {
    parse_text(Text::of(path, text))
}

/// Checks a text.
///
/// # Errors
/// With every problem found.
pub fn parse_text(text: Text) -> Result<Loaded, LoadError> {
    let raw = read::read(&text)?;
    check::check(&raw, text, false)
}

/// Reads and checks the file at `path` for a start: other files that it names and that cannot be read now are warnings,
/// because traffic matters more than they do.
///
/// # Errors
/// With every problem found.
pub fn load_to_start(path: &Path) -> Result<Loaded, LoadError> {
    parse_to_start(Text::read(path)?)
}

/// Checks a text for a start, as [`load_to_start`] does.
///
/// # Errors
/// With every problem found.
pub fn parse_to_start(text: Text) -> Result<Loaded, LoadError> {
    let raw = read::read(&text)?;
    check::check(&raw, text, true)
}

/// A service of its own, which must fit into `config`; `lines` begin with `[[service]]`.
///
/// # Errors
/// With every problem found.
pub fn parse_service(lines: &str, config: &Config) -> Result<ServiceSpec, LoadError> {
    let text = Text::of(Path::new("command"), lines);
    let raw = read::read(&text)?;
    check::check_service(&raw, text, config)
}

/// A server that must fit into `service`; `lines` are those of its table.
///
/// # Errors
/// With every problem found.
pub fn parse_server(lines: &str, service: &ServiceSpec, config: &Config) -> Result<ServerSpec, LoadError> {
    let text =
        Text::of(Path::new("command"), &format!("[[service]]\nname = \"x\"\n[[service.server]]\n{lines}"));
    let raw = read::read(&text)?;
    check::check_server(&raw, text, service, config)
}

/// Whether none but the appliance's owner may set this key of a service by a command.
pub(crate) fn is_owners(path: &str) -> bool {
    raw::Service::TABLE.is_owners(path)
}

/// Whether a server has such a key, beside its address.
pub(crate) fn is_server_key(name: &str) -> bool {
    name != "address" && raw::Server::TABLE.has(name)
}

#[cfg(test)]
mod tests;
