//! The control thread: owner of the desired state, and the one path from it to the workers.
//!
//! Whatever changes anything (a reload, a neighbour's answer) comes here as a message, changes
//! the state, and leads to a new snapshot. [`neighbors`](self) speaks ARP and neighbour discovery,
//! [`announce`](self) says unasked what is ours,
//! [`requests`](self) answers the admin socket.

mod acls;
mod announce;
mod attacks;
mod changes;
mod discovery;
mod doubles;
mod explain;
mod files;
mod links;
mod metrics;
#[cfg(test)]
mod model;
mod names;
mod neighbors;
mod passive;
mod rates;
mod requests;
mod routers;
mod stale;
mod wanted;
mod watch;
mod workers;
mod world;

pub use files::{Done, Files};
pub use requests::Request;

use crate::admin::AccessHandle;
use crate::config::{self, Config};
use crate::desired::last_good::Keeper;
use crate::devices::{DeviceFacts, Devices};
use crate::discovery::Discovery;
use crate::health::Engine;
use crate::kernel::KernelPath;
use crate::last_second::Watched;
use crate::lists::Lists;
use crate::registry::Registry;
use crate::steering::Ladder;
use crate::view::Observer;
use crate::web::Ask;
use acls::Listing;
use attacks::Attacks;
use dataplane::clock::Instant;
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::stats::WorkerStats;
use dataplane::worker::{Event, Link};
use discovery::Sourcing;
use links::Links;
use metrics::Metering;
use names::Naming;
use passive::Servers;
use rates::Rating;
use requests::{Desk, Pending};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use wanted::Wanted;
use workers::Workers;

/// How long the thread sleeps when nothing comes; a packet that waits for ARP waits that
/// much longer.
const NAP: Duration = Duration::from_millis(1);
/// How often busy shares and slots are looked at.
const POLL: Duration = Duration::from_secs(1);
/// How often links are looked at.
const LINK_POLL: Duration = Duration::from_millis(250);
/// How often neighbours age.
const AGE: Duration = Duration::from_millis(100);

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
    /// How the page asks control; without it there is no page.
    pub ask: Option<Ask>,
    /// Who asks sources for servers.
    pub discovery: Option<Discovery>,
    /// Who reads lists of addresses; without it those of files are not known.
    pub lists: Option<Lists>,
    /// How replies find their workers.
    pub ladder: Ladder,
    /// Counters of each worker.
    pub stats: Vec<Arc<WorkerStats>>,
    /// What the admin socket and the signals ask for.
    pub requests: Receiver<Request>,
}

/// The control thread's state, in parts: each is a type of its own, in the file that has most to do with it.
pub struct Control<D> {
    identity: Identity,
    wanted: Wanted,
    workers: Workers<D>,
    links: Links,
    servers: Servers,
    sourcing: Sourcing,
    naming: Naming,
    metering: Metering,
    attacks: Attacks,
    listing: Listing,
    rating: Rating,
    kernel: Option<KernelPath>,
    desk: Desk,
    now: Instant,
}

impl<D: Devices> Control<D> {
    /// Compiles and publishes the first configuration.
    ///
    /// # Errors
    /// When the configuration has more services or servers than fit.
    pub fn new(parts: Parts<D>, now: Instant) -> Result<Self, String> {
        let count = parts.stats.len();
        let mut control = Self {
            identity: parts.identity,
            wanted: Wanted::new(parts.loaded, parts.files, parts.keeper),
            workers: Workers {
                macs: parts.facts.iter().map(|facts| facts.mac).collect(),
                facts: parts.facts,
                devices: parts.devices,
                publisher: parts.publisher,
                links: parts.links,
                stats: parts.stats,
                world: Arc::new(Snapshot::empty(Vec::new())),
                registry: Registry::default(),
                ladder: parts.ladder,
                collect_after: None,
                removed_locals: Vec::new(),
                recent: vec![Watched::default(); count],
                turns: vec![(u64::MAX, false); count],
                watchdog: parts.watchdog,
                next_poll: now,
            },
            links: Links::new(now),
            servers: Servers::new(parts.engine, now),
            sourcing: Sourcing { discovery: parts.discovery, sources: HashMap::new() },
            naming: Naming::default(),
            metering: Metering::new(parts.ask),
            attacks: Attacks::default(),
            listing: Listing::new(parts.lists),
            rating: Rating::default(),
            kernel: parts.kernel,
            desk: Desk {
                requests: parts.requests,
                access: parts.access,
                pending: Pending::default(),
                stopping: false,
            },
            now,
        };
        control.begin_links();
        let config = control.wanted.config.clone();
        control.apply(config, now)?;
        if control.identity.fallback.is_none() {
            control.wanted.keep_last_good();
        }
        Ok(control)
    }

    /// Serves until asked to stop. `clock` must be the workers' clock.
    pub fn run(&mut self, clock: impl Fn() -> Instant) {
        // What is not read at once is not read on this thread.
        crate::files::set_patience(Duration::from_millis(200));
        while !self.desk.stopping {
            match self.desk.requests.recv_timeout(NAP) {
                Ok(request) => self.answer(request, clock()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.desk.stopping = true,
            }
            self.turn(clock());
        }
    }

    /// One round: workers' events, neighbours, announcements, answers, links.
    pub fn turn(&mut self, now: Instant) {
        self.now = now;
        for at in 0..self.workers.links.len() {
            // At most one queue's worth, so that a flood of ARP cannot hold the thread.
            for _ in 0..512 {
                let Some(event) = self.workers.links[at].next_event() else { break };
                match event {
                    Event::Neighbor { port, frame } => self.hear(port, frame.bytes(), now),
                    Event::Resolve(hop) => {
                        self.links.neighbors.resolve(hop, now);
                        self.links.next_age = now;
                    }
                    Event::Offender { service, source } => self.hear_offender(service, source, now),
                }
            }
        }
        if now >= self.links.next_age {
            self.links.next_age = now + AGE;
            self.ask_neighbors(now);
        }
        self.follow_absences();
        self.look_after_routers(now);
        self.follow_findings(now);
        self.publish_names(now);
        self.meter(now);
        self.publish_neighbors();
        self.publish_host_flows(now);
        self.announce(now);
        self.collect_answers(now);
        if now >= self.links.next_poll {
            self.links.next_poll = now + LINK_POLL;
            self.poll_links(now);
        }
        self.end_unconfirmed(now);
        self.end_drains(now);
        self.end_holds(now);
        self.watch_services(now);
        self.tell_of_attacks(now);
        if now >= self.workers.next_poll {
            self.workers.next_poll = now + POLL;
            self.look_at_traffic(now);
            self.watch_capacities();
            self.look_after_doubles(now);
            if !self.naming.problems.is_empty() {
                self.follow_names();
            }
            self.look_after_metrics();
            self.end_bans(now);
            self.ask_for_sources();
            self.look_at_devices();
            self.poll();
        }
    }

    fn observer(&self) -> Observer<'_> {
        Observer {
            config: &self.wanted.config,
            facts: &self.workers.facts,
            devices: &self.workers.devices,
            ladder: &self.workers.ladder,
            stats: &self.workers.stats,
            registry: &self.workers.registry,
            neighbors: &self.links.neighbors,
            world: &self.workers.world,
            publisher: &self.workers.publisher,
            recent: &self.workers.recent,
            routers: self.links.routers.hops(),
            links: self.links.ports.iter().map(|state| state.link).collect(),
            kernel: self.kernel.as_ref(),
            standings: &self.servers.standings,
            refusing: &self.servers.watch.refusing,
            capacity_ipv6: self.wanted.capacity_ipv6,
            drains: &self.wanted.history.drains,
            now: self.now,
        }
    }
}

/// Keys that differ and cannot follow while the process runs.
fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let (was, is) = (&old.dataplane, &new.dataplane);
    let of_dataplane = [
        ("workers", was.workers != is.workers),
        ("session_capacity", was.session_capacity != is.session_capacity),
        ("session_capacity_ipv6", was.session_capacity_ipv6 != is.session_capacity_ipv6),
        ("hugepages", was.hugepages != is.hugepages),
    ];
    let changed = of_dataplane.into_iter().filter(|(_, differs)| *differs);
    let mut keys: Vec<_> = changed.map(|(key, _)| format!("dataplane.{key}")).collect();
    if old.admin.socket != new.admin.socket {
        keys.push("admin.socket".into());
    }
    let names = |config: &Config| config.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    if names(old) != names(new) {
        keys.push(format!(
            "the ports (they were {}, and are {})",
            names(old).join(", "),
            names(new).join(", ")
        ));
        return keys;
    }
    for (was, is) in old.ports.iter().zip(&new.ports) {
        let of_port = [
            ("device", was.device != is.device),
            ("vlan", was.vlan != is.vlan),
            ("mtu", was.mtu != is.mtu),
            ("rss", was.rss != is.rss),
            ("kernel", was.kernel != is.kernel),
        ];
        let changed = of_port.into_iter().filter(|(_, differs)| *differs);
        keys.extend(changed.map(|(key, _)| format!("port {}'s {key}", is.name)));
    }
    keys
}
