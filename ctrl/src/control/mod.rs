//! The control thread: owner of the desired state, and the one path from it to the workers.
//!
//! Whatever changes anything (a reload, a neighbour's answer) comes here as a message, changes
//! the state, and leads to a new snapshot. [`neighbors`](self) speaks ARP and neighbour discovery,
//! [`announce`](self) says unasked what is ours,
//! [`requests`](self) answers the admin socket.

mod announce;
mod changes;
mod discovery;
mod doubles;
mod files;
mod links;
#[cfg(test)]
mod model;
mod names;
mod neighbors;
mod passive;
mod requests;
mod routers;
mod watch;
mod world;

pub use changes::Drain;
pub use files::{Done, Files};
pub use requests::{Refusal, Reply, Request};

use crate::admin::AccessHandle;
use crate::compile::DeviceFacts;
use crate::config::{self, Config, PortSpec, Problem};
use crate::discovery::Discovery;
use crate::health::Engine;
use crate::kernel::KernelPath;
use crate::last_good::Keeper;
use crate::names::Names;
use crate::neighbors::NeighborTable;
use crate::registry::Registry;
use crate::standing::Standings;
use crate::steering::Ladder;
use crate::view::Observer;
use announce::Announcements;
use changes::History;
use dataplane::clock::Instant;
use dataplane::ids::{Generation, PortId, ServerId};
use dataplane::snapshot::{LocalAddress, Publisher, Snapshot};
use dataplane::stats::WorkerStats;
use dataplane::steering::Steering;
use dataplane::wire::Mac;
use dataplane::worker::{Event, Link};
use discovery::SourceState;
use doubles::Doubles;
use links::LinkState;
use names::Book;
use passive::Traffic;
use requests::Pending;
use routers::Routers;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use watch::Watch;

/// How long the thread sleeps when nothing comes; a packet that waits for ARP waits that
/// much longer.
const NAP: Duration = Duration::from_millis(1);
/// How often busy shares and slots are looked at.
const POLL: Duration = Duration::from_secs(1);
/// How often links are looked at.
const LINK_POLL: Duration = Duration::from_millis(250);
/// How often neighbours age.
const AGE: Duration = Duration::from_millis(100);

/// What devices say while they run.
pub trait Devices {
    /// Whether the link is up, and its speed in Mbit/s; `None` when the device cannot tell.
    fn link(&self, port: PortId) -> Option<(bool, u32)>;
    /// What the device counted.
    fn counters(&self, port: PortId) -> DeviceCounters;
    /// Packet buffers: (in use, in all).
    fn buffers(&self) -> (u32, u32);
    /// Brings answers to these local addresses to their workers, where that takes rules in a device.
    ///
    /// # Errors
    /// When a device that took such rules before does not take these.
    fn steer(&mut self, locals: &[LocalAddress], steering: &Steering) -> Result<(), String>;
}

/// What a device counts itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceCounters {
    /// Packets lost because nobody took them.
    pub missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets not sent because of errors.
    pub tx_errors: u64,
    /// Receptions that failed for want of buffers.
    pub no_buffer: u64,
}

/// What is fixed while the process lives.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Sluice's version.
    pub version: String,
    /// DPDK's release.
    pub dpdk: String,
    /// Where packet memory comes from.
    pub memory: String,
    /// The configuration file.
    pub config_path: PathBuf,
    /// Why the last good state runs, and not the file.
    pub fallback: Option<String>,
    /// What could not be started beside the workers, and why.
    pub missing: Vec<String>,
}

/// What the control thread is made of.
pub struct Parts<D> {
    /// Names and versions.
    pub identity: Identity,
    /// The configuration to begin with, and its warnings.
    pub loaded: config::Loaded,
    /// What the devices are.
    pub facts: Vec<DeviceFacts>,
    /// What the devices say.
    pub devices: D,
    /// Towards the workers' mailboxes.
    pub publisher: Publisher,
    /// Queues to each worker.
    pub links: Vec<Link>,
    /// Who has to do with the files; without it they are not read again.
    pub files: Option<Files>,
    /// Who keeps the last good state, if anybody does.
    pub keeper: Option<Keeper>,
    /// What is told once a second that every worker turns and control answers, if anybody wants to know.
    pub watchdog: Option<Box<dyn FnMut() + Send>>,
    /// The host's kernel, where it has a part in this.
    pub kernel: Option<KernelPath>,
    /// The health checks; without it every server that is to be checked counts as not yet known.
    pub engine: Option<Engine>,
    /// Who may use the admin socket.
    pub access: Option<AccessHandle>,
    /// Who asks sources for servers.
    pub discovery: Option<Discovery>,
    /// How replies find their workers.
    pub ladder: Ladder,
    /// Counters of each worker.
    pub stats: Vec<Arc<WorkerStats>>,
    /// What the admin socket and the signals ask for.
    pub requests: Receiver<Request>,
}

/// The control thread's state.
pub struct Control<D> {
    identity: Identity,
    config: Config,
    files: Option<Files>,
    /// Why the files that are there now are not followed.
    failed_reload: Option<String>,
    watchdog: Option<Box<dyn FnMut() + Send>>,
    /// By worker: its turns when they were last looked at, and whether it stands still.
    turns: Vec<(u64, bool)>,
    history: History,
    warnings: Vec<Problem>,
    facts: Vec<DeviceFacts>,
    macs: Vec<Mac>,
    devices: D,
    publisher: Publisher,
    links: Vec<Link>,
    keeper: Option<Keeper>,
    kernel: Option<KernelPath>,
    engine: Option<Engine>,
    discovery: Option<Discovery>,
    /// By service.
    sources: HashMap<String, SourceState>,
    access: Option<AccessHandle>,
    /// The responders that answer for names, if any do.
    names: Option<Names>,
    /// Where they cannot, and why.
    names_problems: Vec<String>,
    book: Book,
    watch: Watch,
    /// Sessions with an IPv6 address that fit on each worker; fixed at the start.
    capacity_ipv6: u64,
    standings: Standings,
    next_weighing: Instant,
    /// What servers' traffic showed, by slot.
    traffic: HashMap<ServerId, Traffic>,
    ladder: Ladder,
    stats: Vec<Arc<WorkerStats>>,
    requests: Receiver<Request>,
    registry: Registry,
    neighbors: NeighborTable,
    world: Arc<Snapshot>,
    announcements: Announcements,
    doubles: Doubles,
    /// Local addresses that no service has any more, and sessions still use.
    removed_locals: Vec<IpAddr>,
    pending: Pending,
    routers: Routers,
    /// Removed servers' slots may be given back when every worker follows this.
    collect_after: Option<Generation>,
    /// By port.
    links_now: Vec<LinkState>,
    /// Whether it must be looked anew which servers answer on their links.
    absences_stale: bool,
    busy: Vec<f64>,
    busy_samples: Vec<(u64, u64)>,
    next_poll: Instant,
    next_link_poll: Instant,
    next_age: Instant,
    now: Instant,
    stopping: bool,
}

impl<D: Devices> Control<D> {
    /// Compiles and publishes the first configuration.
    ///
    /// # Errors
    /// When the configuration has more services or servers than fit.
    pub fn new(parts: Parts<D>, now: Instant) -> Result<Self, String> {
        let Parts {
            identity,
            loaded,
            facts,
            devices,
            publisher,
            links,
            files,
            keeper,
            watchdog,
            kernel,
            engine,
            access,
            discovery,
            ladder,
            stats,
            requests,
        } = parts;
        let workers = stats.len();
        let mut control = Self {
            identity,
            files,
            failed_reload: None,
            watchdog,
            turns: vec![(u64::MAX, false); workers],
            capacity_ipv6: loaded.config.session_capacity_ipv6() as u64,
            config: loaded.config,
            history: History::of(loaded.text),
            warnings: loaded.warnings,
            macs: facts.iter().map(|facts| facts.mac).collect(),
            world: Arc::new(Snapshot::empty(Vec::new())),
            facts,
            devices,
            publisher,
            links,
            keeper,
            kernel,
            engine,
            access,
            names: None,
            names_problems: Vec::new(),
            discovery,
            sources: HashMap::new(),
            book: Book::default(),
            watch: Watch::default(),
            standings: Standings::default(),
            next_weighing: now,
            traffic: HashMap::new(),
            ladder,
            stats,
            requests,
            registry: Registry::default(),
            neighbors: NeighborTable::default(),
            announcements: Announcements::default(),
            doubles: Doubles::default(),
            routers: Routers::default(),
            removed_locals: Vec::new(),
            pending: Pending::default(),
            collect_after: None,
            links_now: Vec::new(),
            absences_stale: false,
            busy: vec![0.0; workers],
            busy_samples: vec![(0, 0); workers],
            next_poll: now,
            next_link_poll: now,
            next_age: now,
            now,
            stopping: false,
        };
        control.begin_links();
        let config = control.config.clone();
        control.apply(config, now)?;
        if control.identity.fallback.is_none() {
            control.keep_last_good();
        }
        Ok(control)
    }

    /// Serves until asked to stop. `clock` must be the workers' clock.
    pub fn run(&mut self, clock: impl Fn() -> Instant) {
        // What is not read at once is not read on this thread.
        crate::files::set_patience(Duration::from_millis(200));
        while !self.stopping {
            match self.requests.recv_timeout(NAP) {
                Ok(request) => self.answer(request, clock()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            self.turn(clock());
        }
    }

    /// One round: workers' events, neighbours, announcements, answers, links.
    pub fn turn(&mut self, now: Instant) {
        self.now = now;
        for at in 0..self.links.len() {
            // At most one queue's worth, so that a flood of ARP cannot hold the thread.
            for _ in 0..512 {
                let Some(event) = self.links[at].next_event() else { break };
                match event {
                    Event::Neighbor { port, frame } => self.hear(port, frame.bytes(), now),
                    Event::Resolve(hop) => {
                        self.neighbors.resolve(hop, now);
                        self.next_age = now;
                    }
                }
            }
        }
        if now >= self.next_age {
            self.next_age = now + AGE;
            self.ask_neighbors(now);
        }
        self.follow_absences();
        self.look_after_routers(now);
        self.follow_findings(now);
        self.publish_names(now);
        self.publish_neighbors();
        self.announce(now);
        self.collect_answers(now);
        if now >= self.next_link_poll {
            self.next_link_poll = now + LINK_POLL;
            self.poll_links(now);
        }
        self.end_drains(now);
        self.end_holds(now);
        self.watch_services(now);
        if now >= self.next_poll {
            self.next_poll = now + POLL;
            self.look_at_traffic(now);
            self.watch_capacities();
            self.look_after_doubles(now);
            if !self.names_problems.is_empty() {
                self.follow_names();
            }
            self.poll();
        }
    }

    /// Writes down what runs, for a start with files that are bad.
    fn keep_last_good(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.keep(Arc::clone(self.history.desired.text()));
        }
    }

    /// Once a second: busy shares, slots of removed servers.
    fn poll(&mut self) {
        for (at, stats) in self.stats.iter().enumerate() {
            let sample = (stats.busy_ns.value(), stats.total_ns.value());
            let (busy, total) = (sample.0 - self.busy_samples[at].0, sample.1 - self.busy_samples[at].1);
            self.busy[at] = if total == 0 { 0.0 } else { busy as f64 / total as f64 };
            self.busy_samples[at] = sample;
        }
        self.look_at_turns();
        for (port, reason) in self.ladder.watch(&self.stats) {
            let name = &self.config.ports[usize::from(port.0)].name;
            log::info!(target: "links", "port {name}: falls back to hand-over, because {reason}");
        }
        self.forget_unused_locals();
        self.publisher.collect();
        if self.collect_after.is_some_and(|generation| self.publisher.applied() >= generation) {
            let stats = &self.stats;
            self.registry.collect(&|id| crate::view::read_slot(stats, id));
        }
    }

    /// Notices workers that stand still, and tells the watchdog that none does.
    fn look_at_turns(&mut self) {
        for (at, (last, is_still)) in self.turns.iter_mut().enumerate() {
            let turns = self.stats[at].turns.value();
            let stands = turns == std::mem::replace(last, turns);
            if stands != std::mem::replace(is_still, stands) {
                let core = self.config.dataplane.workers[at];
                match stands {
                    true => {
                        log::error!(target: "workers", "worker {at} on core {core} made no turn for a second")
                    }
                    false => log::warn!(target: "workers", "worker {at} on core {core} turns again"),
                }
            }
        }
        let all_turn = self.turns.iter().all(|(_, is_still)| !is_still);
        if let Some(tell) = self.watchdog.as_mut().filter(|_| all_turn) {
            tell();
        }
    }

    fn observer(&self) -> Observer<'_> {
        Observer {
            config: &self.config,
            facts: &self.facts,
            devices: &self.devices,
            ladder: &self.ladder,
            stats: &self.stats,
            registry: &self.registry,
            neighbors: &self.neighbors,
            world: &self.world,
            publisher: &self.publisher,
            busy: &self.busy,
            links: self.links_now.iter().map(|state| state.link).collect(),
            kernel: self.kernel.as_ref(),
            standings: &self.standings,
            refusing: &self.watch.refusing,
            capacity_ipv6: self.capacity_ipv6,
            drains: &self.history.drains,
            now: self.now,
        }
    }
}

/// Keys that differ and cannot follow while the process runs.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    if old.dataplane != new.dataplane {
        keys.push("[dataplane]");
    }
    if old.admin.socket != new.admin.socket {
        keys.push("admin.socket");
    }
    let devices = |config: &Config| {
        let fixed = |port: &PortSpec| {
            (port.name.clone(), port.device.clone(), port.vlan, port.mtu, port.rss.clone(), port.kernel)
        };
        config.ports.iter().map(fixed).collect::<Vec<_>>()
    };
    if devices(old) != devices(new) {
        keys.push("a [[port]]'s name, device, vlan, mtu, rss or kernel, or the number of ports");
    }
    keys
}
