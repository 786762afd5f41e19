//! Metrics for Prometheus: what workers counted, and what is known of services, in text over HTTP.
//!
//! Control publishes a [`Roll`]: the names and states behind the slots in which workers count. A scrape takes the roll
//! that is there, reads the counters itself, and writes its text piece by piece, on a thread of its own; neither control
//! nor workers wait for it.

mod families;
mod serve;
mod text;

pub use families::{Query, SERVER_STATES, SERVICE_STATES, Scope, Scrape};
pub use serve::Exporter;
pub use text::Format;

use crate::attacks::Kind;
use crate::last_second::LastSecond;
use crate::registry::ServiceCount;
use dataplane::ids::{LocalId, PortId, ServerId, ServiceId};
use dataplane::stats::{ServerTotals, WorkerStats};
use std::sync::Arc;
use std::time::SystemTime;

/// Names and states, as they were when it was made.
#[derive(Clone, Debug)]
pub struct Roll {
    /// What concerns no single object.
    pub general: General,
    /// The workers' counters.
    pub stats: Arc<[Arc<WorkerStats>]>,
    /// By worker.
    pub workers: Vec<WorkerRow>,
    /// By port.
    pub ports: Vec<PortRow>,
    /// By local address.
    pub locals: Arc<[LocalRow]>,
    /// By service.
    pub services: Arc<[Arc<ServiceRow>]>,
}

/// What concerns no single object.
#[derive(Clone, Debug)]
pub struct General {
    /// Sluice's version.
    pub version: String,
    /// DPDK's release.
    pub dpdk: String,
    /// When the process started.
    pub started: SystemTime,
    /// The snapshot that was published last, and the last that every worker follows.
    pub generation: (u64, u64),
    /// Whether the files that are there are followed.
    pub is_reloaded: bool,
    /// When files were followed last.
    pub reloaded: SystemTime,
    /// Whether what runs is not what the files say, because of changes by command.
    pub is_changed: bool,
    /// Packet buffers: in use, and in all.
    pub buffers: (u32, u32),
    /// How many neighbours are in each state.
    pub neighbors: Vec<(&'static str, usize)>,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerRow {
    /// Its CPU core.
    pub core: usize,
    /// What it did in the last second.
    pub recent: LastSecond,
    /// Sessions that fit between IPv4 addresses, and with an IPv6 address.
    pub capacity: [u64; 2],
    /// Whether it made no turn for a second.
    pub is_still: bool,
}

/// A port.
#[derive(Clone, Debug)]
pub struct PortRow {
    /// The operator's name for it.
    pub name: String,
    /// The port's number.
    pub id: PortId,
    /// The device, its driver and its station address.
    pub labels: [String; 3],
    /// Whether its link is up; `None` when the device cannot tell.
    pub is_up: Option<bool>,
    /// Its link's speed, in Mbit/s; 0 when it is not known.
    pub speed: u32,
    /// Packets that the device lost because nobody took them.
    pub missed: u64,
    /// Packets that were received with errors.
    pub rx_errors: u64,
    /// Packets that were not sent because of errors.
    pub tx_errors: u64,
    /// Receptions that failed for want of buffers.
    pub no_buffer: u64,
}

/// A local address.
#[derive(Clone, Debug)]
pub struct LocalRow {
    /// The address.
    pub address: String,
    /// Its slot.
    pub id: LocalId,
    /// Local ports that could be used towards the configured servers; `None` where there are too many to work it out.
    pub capacity: Option<u64>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    /// The operator's name for it.
    pub name: String,
    /// Its slot.
    pub id: ServiceId,
    /// The slot's counters when this service got it.
    pub baseline: ServiceCount,
    /// Its VIPs, protocols, forwarding mode and scheduler.
    pub labels: [String; 4],
    /// Its state in one word.
    pub state: &'static str,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Whether it is attacked, by [`Kind`].
    pub attacks: [bool; Kind::ALL.len()],
    /// Its limit of sessions, if it has one.
    pub limit: Option<u64>,
    /// Whether its sessions' durations and bytes are counted.
    pub counts_sessions: bool,
    /// What servers that are gone had counted.
    pub gone: ServerTotals,
    /// The servers, and those that are gone and still have sessions.
    pub servers: Vec<ServerRow>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct ServerRow {
    /// Address and port.
    pub address: String,
    /// Its slot.
    pub id: ServerId,
    /// The slot's counters when this server got it.
    pub baseline: ServerTotals,
    /// Its state in one word; `None` when it is not configured any more.
    pub state: Option<&'static str>,
    /// The weight that the scheduler uses.
    pub weight: u32,
    /// Its check's answers so far, and how many of them were bad.
    pub checks: (u64, u64),
}
