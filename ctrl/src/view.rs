//! What lists and reports look like: one structure per JSON object of the admin
//! protocol, and how each is made from the control thread's state.

mod acl;
mod attack;
mod build;
mod condition;
mod counted;
mod explain;

pub use acl::{AclView, BanView, ListedView, SourceView};
pub use attack::AttackView;
pub use build::Observer;
pub(crate) use build::{mac_text, read_slot, server_text};
pub use condition::{AWAITED, Condition, ServiceState, TableUse, USED_UP};
pub use counted::Counted;
pub use explain::{ExplainView, FLAGS, LeavesView, Question};
pub(crate) use explain::{answer_to, owner};

use crate::config::Weight;
use crate::last_second::Quantiles;
use serde::Serialize;
use std::collections::BTreeMap;

/// `service list`, `service show`.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceView {
    /// The operator's name for it.
    pub name: String,
    /// VIP and port.
    pub listen: String,
    /// `tcp`, `udp`, `sctp` or `icmp`; several with commas between.
    pub protocol: String,
    /// `fullnat`, `nat`, `dr`, `tunnel` or `snat`.
    pub forward: String,
    /// LVS's name of the scheduler.
    pub scheduler: String,
    /// `ready`, `full`, `protected`, `down`, `unready` or `draining`.
    pub state: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Live sessions.
    pub sessions: u64,
    /// The director's addresses towards the servers.
    pub local_addresses: Vec<String>,
    /// New sessions and packets that the service refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What the SYN proxy did, if the service has it.
    pub syn_proxy: Option<Counted>,
    /// Whether clients have to prove themselves now.
    pub asks_proof: bool,
    /// Whether so many servers are down that health is not believed and all are used.
    pub protected: bool,
    /// Whether the sorry server serves.
    pub sorry: bool,
    /// What the operator decided for a while.
    pub switch: Option<SwitchView>,
    /// Where servers are, and how much goes there.
    pub tiers: Vec<TierView>,
    /// The servers.
    pub servers: Vec<ServerView>,
    /// What its servers counted, those that are gone included.
    #[serde(flatten)]
    pub counters: Counted,
}

/// One tier of a service.
#[derive(Clone, Debug, Serialize)]
pub struct TierView {
    /// `zone`, `region` or `rest`.
    pub name: String,
    /// Servers with a weight.
    pub servers: usize,
    /// Those that are up.
    pub healthy: usize,
    /// The share of new sessions that goes there, 0 to 1.
    pub share: f64,
}

/// The operator's switch of a service.
#[derive(Clone, Debug, Serialize)]
pub struct SwitchView {
    /// `zone`, `region`, `rest`, `all`, or servers.
    pub to: String,
    /// For how long still.
    pub seconds: u64,
}

/// The last answer to a health check.
#[derive(Clone, Debug, Serialize)]
pub struct CheckView {
    /// How often the server was asked.
    pub asked: u64,
    /// How often the answer was bad.
    pub failed: u64,
    /// How often it could not be asked, for reasons of the appliance.
    pub unasked: u64,
    /// How long the last answer took, in microseconds.
    pub took_us: u64,
    /// What was wrong with it.
    pub error: Option<String>,
    /// The load that it told.
    pub load: Option<f64>,
    /// Why the load that it was asked for cannot be read.
    pub load_error: Option<String>,
    /// Since when the server is up or down by this check, as RFC 3339 has it; `null` until it changed once.
    pub since: Option<String>,
    /// How often it went up or down.
    pub flaps: u64,
    /// The last ten answers, the newest at the end; in `service.show` alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<AnswerView>,
}

/// One answer to a check.
#[derive(Clone, Debug, Serialize)]
pub struct AnswerView {
    /// When it came, as RFC 3339 has it.
    pub time: String,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What was wrong with it; `null` when it was good.
    pub error: Option<String>,
}

/// `server list`.
#[derive(Clone, Debug, Serialize)]
pub struct ServerView {
    /// The service it belongs to.
    pub service: String,
    /// Address and port.
    pub address: String,
    /// Its share, as the operator gave it.
    pub weight: Weight,
    /// The weight that the scheduler uses, by health, tiers, slow start and load.
    pub effective_weight: u32,
    /// `up`, `down`, `checking`, `draining`, `unreachable`, `inhibited` or `sorry`.
    pub state: String,
    /// `zone`, `region` or `rest`: where it is, seen from the director.
    pub tier: String,
    /// Where it is.
    pub zone: Option<String>,
    /// Where it is.
    pub region: Option<String>,
    /// How much of its weight it has after it came up, 0 to 1.
    pub slow_start: f64,
    /// How much of its weight its load leaves it, 0 to 1.
    pub relief: f64,
    /// Mean time to answer connections in the last second that had some, in milliseconds; `null` where nobody looks.
    pub connect_ms: Option<f64>,
    /// In how many seconds it is removed, if it is drained with a deadline.
    pub drain_s: Option<u64>,
    /// For how long its traffic keeps it out.
    pub inhibited_ms: u64,
    /// The last answer to its check.
    pub check: Option<CheckView>,
    /// What was counted of it.
    #[serde(flatten)]
    pub counters: Counted,
}

/// `session list`: client, vip, local, real, always in this order.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// `tcp`, `udp`, `sctp` or `icmp`; several with commas between.
    pub protocol: String,
    /// Who asks.
    pub client: String,
    /// Whom the client addresses.
    pub vip: String,
    /// The director's side towards the server.
    pub local: String,
    /// Who answers.
    pub real: String,
    /// LVS's name of the state.
    pub state: String,
    /// The worker that owns it.
    pub worker: u16,
    /// Since when no packet passed.
    pub idle_ms: u32,
}

/// `session count`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionCount {
    /// Live sessions.
    pub sessions: u64,
    /// Live sessions that are ESTABLISHED or have seen a reply.
    pub active: u64,
    /// Other live sessions.
    pub inactive: u64,
    /// Sessions that fit, over all workers and both families.
    pub capacity: u64,
    /// Live sessions with an IPv6 address, which have a table of their own.
    pub sessions_ipv6: u64,
    /// Sessions with an IPv6 address that fit, over all workers.
    pub capacity_ipv6: u64,
    /// Sessions ever made.
    pub created: u64,
    /// Sessions ended by timeout.
    pub expired: u64,
    /// Closed sessions ended early because their port was needed or used again.
    pub recycled: u64,
}

/// `local list`.
#[derive(Clone, Debug, Serialize)]
pub struct LocalView {
    /// The address.
    pub address: String,
    /// The port on whose network it is.
    pub port: String,
    /// Local ports now in use, over all workers and servers.
    pub used: u64,
    /// Local ports that could be used towards the configured servers.
    pub capacity: u64,
    /// The services that use it.
    pub services: Vec<String>,
    /// Each worker's share.
    pub workers: Vec<LocalShareView>,
}

/// A worker's share of a local address.
#[derive(Clone, Debug, Serialize)]
pub struct LocalShareView {
    /// The worker.
    pub worker: u16,
    /// Local ports in use, over all servers.
    pub used: u64,
    /// Local ports that it could use towards the configured servers.
    pub capacity: u64,
}

/// `port list`, and `ports` in `stats`.
#[derive(Clone, Debug, Serialize)]
pub struct PortView {
    /// The operator's name for it.
    pub name: String,
    /// The device, as configured.
    pub device: String,
    /// For a sub-interface, the port whose link it shares.
    pub parent: Option<String>,
    /// For a sub-interface, its VLAN.
    pub vlan: Option<u16>,
    /// DPDK's driver.
    pub driver: String,
    /// Station address.
    pub mac: String,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// `up`, `down` or `unknown`.
    pub link: String,
    /// Link speed; 0 when unknown.
    pub speed_mbps: u32,
    /// The appliance's own addresses.
    pub addresses: Vec<String>,
    /// The kernel's interface for it.
    pub interface: Option<String>,
    /// How replies that come by this port find their worker.
    pub steering: String,
    /// Why better ways were not taken.
    pub steering_refused: Vec<String>,
    /// Packets the device lost because nobody took them.
    pub rx_missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets not sent because of errors.
    pub tx_errors: u64,
    /// Receptions that failed for want of buffers.
    pub rx_no_buffer: u64,
    /// What workers counted.
    #[serde(flatten)]
    pub counters: Counted,
}

/// `route list`.
#[derive(Clone, Debug, Serialize)]
pub struct RouteView {
    /// The destinations.
    pub to: String,
    /// The gateways; none where the destinations themselves are on the link.
    pub via: Vec<String>,
    /// The ports of the links.
    pub ports: Vec<String>,
    /// `static`, `link` or `router`: of the file, a port's network, or an IPv6 router that advertises itself.
    pub origin: String,
}

/// `route get`.
#[derive(Clone, Debug, Serialize)]
pub struct WayView {
    /// The address that is asked for.
    pub address: String,
    /// The next hop; `null` when no route leads there. Flows are spread over the gateways of a route: this is the first.
    pub via: Option<String>,
    /// The port towards it.
    pub port: Option<String>,
    /// `up`, `down` or `unknown`.
    pub link: Option<String>,
    /// The next hop's state as a neighbour; `null` when it was never asked for.
    pub neighbor: Option<String>,
    /// Its station address, if known.
    pub mac: Option<String>,
    /// What the address is to the appliance: `own`, `vip` or `local`.
    pub role: Option<String>,
}

/// `health list`.
#[derive(Clone, Debug, Serialize)]
pub struct HealthView {
    /// The address that is asked.
    pub target: String,
    /// The kind of question.
    pub probe: String,
    /// `up`, `down` or `checking`.
    pub state: String,
    /// The services that share the check.
    pub services: Vec<String>,
    /// Its last answers.
    #[serde(flatten)]
    pub check: CheckView,
}

/// `neighbor list`.
#[derive(Clone, Debug, Serialize)]
pub struct NeighborView {
    /// The neighbour.
    pub address: String,
    /// The port towards it.
    pub port: String,
    /// Station address, if known.
    pub mac: Option<String>,
    /// `INCOMPLETE`, `REACHABLE`, `PROBE`, `FAILED`, or `PERMANENT` where the configuration says it.
    pub state: String,
    /// Since when it has not confirmed its address; absent when it never did.
    pub confirmed_ms: Option<u64>,
}

/// `worker list`, and `workers` in `stats`.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// Its number.
    pub id: u16,
    /// Its CPU core.
    pub core: usize,
    /// The share of its time in which it had packets, over the last second.
    pub busy_ratio: f64,
    /// How long turns with packets took in the last second, in microseconds.
    pub turn_us: Quantiles,
    /// How many packets devices gave at a time in the last second.
    pub burst: Quantiles,
    /// The snapshot it follows.
    pub generation: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Sessions that fit, of both families.
    pub session_capacity: u64,
    /// Live sessions with an IPv6 address, which have a table of their own.
    pub sessions_ipv6: u64,
    /// Sessions with an IPv6 address that fit.
    pub session_capacity_ipv6: u64,
    /// Packets taken from all ports.
    pub rx_packets: u64,
    /// Packets given to all ports.
    pub tx_packets: u64,
    /// Packets dropped, for any reason.
    pub dropped: u64,
    /// What it counted besides.
    #[serde(flatten)]
    pub counters: Counted,
}

/// `stats`.
#[derive(Clone, Debug, Serialize)]
pub struct StatsView {
    /// Per worker.
    pub workers: Vec<WorkerView>,
    /// Per port.
    pub ports: Vec<PortView>,
    /// Packets dropped, by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
}

/// `status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// Sluice's version.
    pub version: String,
    /// DPDK's release.
    pub dpdk: String,
    /// The process.
    pub pid: u32,
    /// Since its start, in seconds.
    pub uptime_s: u64,
    /// The configuration file.
    pub config: String,
    /// The last snapshot published.
    pub generation: u64,
    /// The last snapshot that every worker follows.
    pub applied: u64,
    /// `hugepages` or `pages`, and how much.
    pub memory: String,
    /// Packet buffers in all.
    pub buffers: u64,
    /// Packet buffers in use.
    pub buffers_in_use: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Sessions that fit, of both families.
    pub session_capacity: u64,
    /// Live sessions with an IPv6 address, which have a table of their own.
    pub sessions_ipv6: u64,
    /// Sessions with an IPv6 address that fit.
    pub session_capacity_ipv6: u64,
    /// Services configured.
    pub services: usize,
    /// How many services are in which state.
    pub service_states: BTreeMap<String, usize>,
    /// The state of each service that is not ready.
    pub not_ready: BTreeMap<String, String>,
    /// Services that a new client cannot use now, with the reason: those that are full, down, unready or draining.
    pub unready: BTreeMap<String, String>,
    /// Servers by state.
    pub servers: BTreeMap<String, usize>,
    /// How many health checks run.
    pub checks: usize,
    /// Services of which so many servers are down that all are used.
    pub protected: Vec<String>,
    /// Services that the operator's switch sends elsewhere, where to and for how long.
    pub switched: Vec<String>,
    /// Servers that were removed but still have sessions.
    pub draining: Vec<String>,
    /// Per port: how replies find their workers, in a sentence.
    pub steering: BTreeMap<String, String>,
    /// Per port: name and link.
    pub ports: BTreeMap<String, String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// What could be better and harms nobody.
    pub hints: Vec<String>,
}
