//! The control thread: owner of the desired state, and the one path from it to the workers.
//!
//! Whatever changes anything (a reload, a neighbour's answer) comes here as a message, changes
//! the state, and leads to a new snapshot. [`neighbors`](self) speaks ARP and neighbour discovery,
//! [`announce`](self) says unasked what is ours,
//! [`requests`](self) answers the admin socket.

mod announce;
mod changes;
mod discovery;
mod names;
mod neighbors;
mod passive;
mod requests;
mod routers;

pub use requests::{Refusal, Reply, Request};

use crate::compile::{self, DeviceFacts, Sources};
use crate::config::{self, Config, LoadError, PortSpec, Problem, ServiceSpec};
use crate::desired::Desired;
use crate::discovery::Discovery;
use crate::health::{Engine, Order};
use crate::kernel::KernelPath;
use crate::last_good;
use crate::log;
use crate::names::Names;
use crate::neighbors::NeighborTable;
use crate::passive::Record;
use crate::registry::Registry;
use crate::standing::Standings;
use crate::steering::Ladder;
use crate::view::Observer;
use announce::Announcements;
use changes::History;
use dataplane::clock::Instant;
use dataplane::ids::{Generation, PortId, ServerId};
use dataplane::session::ForwardMode;
use dataplane::snapshot::{AddressRole, LocalAddress, NextHop, Publisher, Snapshot};
use dataplane::stats::WorkerStats;
use dataplane::steering::Steering;
use dataplane::wire::Mac;
use dataplane::worker::{Event, Link};
use discovery::SourceState;
use requests::Pending;
use routers::Routers;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How long the thread sleeps when nothing comes; a packet that waits for ARP waits that
/// much longer.
const NAP: Duration = Duration::from_millis(1);
/// How often busy shares and slots are looked at.
const POLL: Duration = Duration::from_secs(1);
/// How often links are looked at.
const LINK_POLL: Duration = Duration::from_millis(250);
/// What health checks find is published so often at most.
const WEIGHING_PAUSE: Duration = Duration::from_millis(10);
const EXHAUSTED: &str = "there are more services, servers or local addresses than fit, those that drain included; wait until removed servers have no sessions, or remove more";
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
    /// Where the last good state is kept, if anywhere.
    pub state_folder: Option<PathBuf>,
    /// Why the last good state runs, and not the file.
    pub fallback: Option<String>,
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
    /// The host's kernel, where it has a part in this.
    pub kernel: Option<KernelPath>,
    /// The health checks; without it every server that is to be checked counts as not yet known.
    pub engine: Option<Engine>,
    /// The responders that answer for names, if any do.
    pub names: Option<Names>,
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
    history: History,
    warnings: Vec<Problem>,
    facts: Vec<DeviceFacts>,
    macs: Vec<Mac>,
    devices: D,
    publisher: Publisher,
    links: Vec<Link>,
    kernel: Option<KernelPath>,
    engine: Option<Engine>,
    discovery: Option<Discovery>,
    /// By service.
    sources: HashMap<String, SourceState>,
    names: Option<Names>,
    next_names: Instant,
    /// The revision of the standings that names stand for.
    named: u64,
    standings: Standings,
    next_weighing: Instant,
    /// What servers' traffic showed, by slot.
    records: HashMap<ServerId, Record>,
    ladder: Ladder,
    stats: Vec<Arc<WorkerStats>>,
    requests: Receiver<Request>,
    registry: Registry,
    neighbors: NeighborTable,
    world: Arc<Snapshot>,
    announcements: Announcements,
    /// Local addresses that no service has any more, and sessions still use.
    removed_locals: Vec<IpAddr>,
    pending: Pending,
    routers: Routers,
    /// Removed servers' slots may be given back when every worker follows this.
    collect_after: Option<Generation>,
    device_links: Vec<Option<(bool, u32)>>,
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
            kernel,
            engine,
            names,
            discovery,
            ladder,
            stats,
            requests,
        } = parts;
        let workers = stats.len();
        let device_links = (0..facts.len()).map(|at| devices.link(PortId(at as u16))).collect();
        let mut control = Self {
            identity,
            config: loaded.config,
            history: History::of(Desired::of(loaded.text)),
            warnings: loaded.warnings,
            macs: facts.iter().map(|facts| facts.mac).collect(),
            world: Arc::new(Snapshot::empty(Vec::new())),
            facts,
            devices,
            publisher,
            links,
            kernel,
            engine,
            names,
            discovery,
            sources: HashMap::new(),
            next_names: now,
            named: 0,
            standings: Standings::default(),
            next_weighing: now,
            records: HashMap::new(),
            ladder,
            stats,
            requests,
            registry: Registry::default(),
            neighbors: NeighborTable::default(),
            announcements: Announcements::default(),
            routers: Routers::default(),
            removed_locals: Vec::new(),
            pending: Pending::default(),
            collect_after: None,
            device_links,
            busy: vec![0.0; workers],
            busy_samples: vec![(0, 0); workers],
            next_poll: now,
            next_link_poll: now,
            next_age: now,
            now,
            stopping: false,
        };
        let config = control.config.clone();
        control.apply(config, now)?;
        if control.identity.fallback.is_none() {
            control.keep_last_good();
        }
        Ok(control)
    }

    /// Serves until asked to stop. `clock` must be the workers' clock.
    pub fn run(&mut self, clock: impl Fn() -> Instant) {
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
        if now >= self.next_poll {
            self.next_poll = now + POLL;
            self.look_at_traffic(now);
            self.poll();
        }
    }

    /// Reads the configuration file again and follows it.
    fn reload(&mut self, now: Instant) -> Result<Generation, Vec<String>> {
        let path = self.identity.config_path.clone();
        let texts = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let loaded = config::load(&path).map_err(|error: LoadError| texts(error.problems()))?;
        let fixed = needs_restart(&self.config, &loaded.config);
        if !fixed.is_empty() {
            let list = fixed.join(", ");
            return Err(vec![format!(
                "{}: {list} cannot change while sluiced runs; restart it, or undo that change",
                path.display()
            )]);
        }
        let before = self.config.clone();
        self.apply(loaded.config, now).map_err(|error| vec![error])?;
        self.warnings = loaded.warnings;
        self.identity.fallback = None;
        let desired = std::mem::replace(&mut self.history.desired, Desired::of(loaded.text));
        if !desired.changes().is_empty() {
            log::say(format_args!(
                "{} changes by command are not in the files and were given up; `sluice config rollback` brings them back",
                desired.changes().len()
            ));
        }
        self.history.keep(before, desired);
        self.keep_last_good();
        Ok(self.world.generation)
    }

    /// Writes down what runs, for a start with files that are bad.
    fn keep_last_good(&self) {
        if let Some(folder) = &self.identity.state_folder
            && let Err(error) = last_good::save(folder, self.history.desired.text())
        {
            log::say(format_args!("{}: the last good state is not kept: {error}", folder.display()));
        }
    }

    /// Makes `config` the desired state and publishes it as one snapshot.
    fn apply(&mut self, mut config: Config, now: Instant) -> Result<(), String> {
        discovery::keep_found(&mut config, &self.config);
        share_unchanged(&mut config, &self.config);
        let networks_changed =
            config.ports.iter().zip(&self.config.ports).any(|(new, old)| new.addresses != old.addresses);
        if networks_changed {
            self.neighbors.clear();
        }
        let accepts = |hop: &NextHop| config.ports[usize::from(hop.port.0)].accept_ra;
        let routers: Vec<_> = self.routers.hops().into_iter().filter(accepts).collect();
        self.standings
            .set_sources(self.kernel.as_ref().map(|kernel| kernel.sources(&config)).unwrap_or_default());
        // What is known of servers survives a configuration that is refused: no check begins or ends for it.
        let known = self.standings.clone();
        let orders = self.standings.follow(&config, now);
        let says = self.weigh(now);
        let mut snapshot = match self.compile(&config, &routers) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.standings = known;
                self.restore(&config);
                return Err(error);
            }
        };
        let names: HashSet<&str> = config.services.iter().map(|spec| spec.name.as_str()).collect();
        for spec in self.config.services.iter().filter(|spec| !names.contains(spec.name.as_str())) {
            self.registry.retire(&spec.name);
        }
        says.into_iter().for_each(log::say);
        self.keep_used_locals(&mut snapshot);
        self.routers.keep(|hop| routers.contains(hop));
        let wanted = self.wanted_hops(&config, &snapshot);
        self.announcements.schedule(&self.config, &config, self.world.generation == Generation(0), now);
        self.config = config;
        self.publish(snapshot);
        if let Some(kernel) = &mut self.kernel {
            kernel.follow(&self.config, &self.facts).into_iter().for_each(log::say);
        }
        // Not before the kernel has the addresses that are asked from.
        self.order(orders);
        self.follow_sources();
        self.collect_after = Some(self.world.generation);
        self.neighbors.want(wanted, now);
        self.publish_neighbors();
        Ok(())
    }

    /// Gives workers, and checks that send as they do, a new world.
    fn publish(&mut self, snapshot: Snapshot) {
        self.world = self.publisher.publish(snapshot);
        if let Some(checks) = self.kernel.as_ref().and_then(KernelPath::vip_checks) {
            checks.follow(&self.world);
        }
    }

    fn compile(&mut self, config: &Config, routers: &[NextHop]) -> Result<Snapshot, String> {
        let stats = &self.stats;
        let read = |id| crate::view::read_slot(stats, id);
        let epoch = self.world.routing_epoch.wrapping_add(1);
        let neighbors = Arc::clone(&self.world.neighbors);
        let sources = Sources { config, standings: &self.standings, read: &read };
        let is_first = self.world.generation == Generation(0);
        let old = (!is_first).then(|| (&self.config, &*self.world.services));
        let snapshot =
            compile::compile(&sources, old, &self.facts, routers, neighbors, epoch, &mut self.registry)
                .map_err(|_| EXHAUSTED.to_owned())?;
        self.ladder.check_ports(&self.world, &snapshot)?;
        self.ladder.check_capacity(config, &snapshot)?;
        self.devices.steer(&local_addresses(&snapshot), self.ladder.steering())?;
        Ok(snapshot)
    }

    /// Gives the configuration that runs its slots back, after another one was refused.
    fn restore(&mut self, refused: &Config) {
        if self.world.generation == Generation(0) {
            // Nothing ran before the first one.
            return;
        }
        for spec in &refused.services {
            self.registry.retire(&spec.name);
        }
        let stats = &self.stats;
        let read = |id| crate::view::read_slot(stats, id);
        let sources = Sources { config: &self.config, standings: &self.standings, read: &read };
        // It had them a moment ago.
        for at in 0..self.config.services.len() {
            let _ = compile::one_service(at, &sources, &mut self.registry);
        }
    }

    /// Works out the weights of services of which something changed. Returns what to say.
    fn weigh(&mut self, now: Instant) -> Vec<String> {
        let dirty = self.standings.take_dirty(now);
        dirty.into_iter().flat_map(|at| self.standings.weigh(at, now)).collect()
    }

    /// Tells the checks what to do.
    fn order(&self, orders: Vec<Order>) {
        if let Some(engine) = &self.engine {
            orders.into_iter().for_each(|order| engine.order(order));
        }
    }

    /// Publishes what became of servers since the last time: their weights.
    fn follow_findings(&mut self, now: Instant) {
        if now >= self.next_weighing {
            self.follow_findings_now(now);
        }
    }

    fn follow_findings_now(&mut self, now: Instant) {
        let dirty = self.standings.take_dirty(now);
        if dirty.is_empty() {
            return;
        }
        self.next_weighing = now + WEIGHING_PAUSE;
        for at in &dirty {
            self.standings.weigh(*at, now).into_iter().for_each(log::say);
        }
        let _ = self.refresh(&dirty);
    }

    /// Publishes these services anew, as far as they are not what is published.
    fn refresh(&mut self, services: &[usize]) -> Result<(), String> {
        let stats = &self.stats;
        let read = |id| crate::view::read_slot(stats, id);
        let sources = Sources { config: &self.config, standings: &self.standings, read: &read };
        let mut changes = Vec::new();
        for at in services {
            let is_current = self
                .world
                .services
                .iter()
                .nth(*at)
                .is_some_and(|old| compile::is_current(old, *at, &sources));
            if !is_current {
                let service = compile::one_service(*at, &sources, &mut self.registry);
                changes.push((*at, service.map_err(|_| EXHAUSTED.to_owned())?));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let mut snapshot = Snapshot::clone(&self.world);
        snapshot.services = Arc::new(self.world.services.replace(changes));
        // Sessions look once whether their server still serves.
        snapshot.routing_epoch = snapshot.routing_epoch.wrapping_add(1);
        self.publish(snapshot);
        Ok(())
    }

    /// Local addresses that are removed stay known while sessions use them, and until the next look at
    /// who does: answers that come to the wrong worker find their owner by them.
    fn keep_used_locals(&mut self, snapshot: &mut Snapshot) {
        let is_kept = |(address, role): &(IpAddr, AddressRole)| {
            matches!(role, AddressRole::Local(_)) && snapshot.addresses.get(*address).is_none()
        };
        let kept: Vec<_> = self.world.addresses.iter().filter(is_kept).collect();
        self.removed_locals = kept.iter().map(|(address, _)| *address).collect();
        let addresses = Arc::make_mut(&mut snapshot.addresses);
        for (address, role) in kept {
            addresses.insert(address, role);
        }
    }

    /// Forgets removed local addresses that no session uses any more.
    fn forget_unused_locals(&mut self) {
        let (used, over): (Vec<_>, Vec<_>) =
            self.removed_locals.iter().partition(|address| self.is_local_in_use(**address));
        if over.is_empty() {
            return;
        }
        self.removed_locals = used;
        let mut snapshot = Snapshot::clone(&self.world);
        let addresses = Arc::make_mut(&mut snapshot.addresses);
        for address in over {
            addresses.remove(address);
        }
        self.publish(snapshot);
    }

    /// Publishes routes by the routers that there are now.
    fn follow_routers(&mut self, now: Instant) {
        let mut snapshot = Snapshot::clone(&self.world);
        snapshot.routes = Arc::new(compile::routes(&self.config, &self.routers.hops()));
        snapshot.routing_epoch = snapshot.routing_epoch.wrapping_add(1);
        let wanted = self.wanted_hops(&self.config, &snapshot);
        self.publish(snapshot);
        self.neighbors.want(wanted, now);
    }

    /// Next hops that are always to be known: gateways and the ways to servers.
    fn wanted_hops(&self, config: &Config, world: &Snapshot) -> HashSet<NextHop> {
        let gateways = config.routes.iter().flat_map(|route| route.hops.iter().copied());
        let gateways = gateways.chain(self.routers.hops());
        let servers = config.services.iter().flat_map(|service| self.server_hops(service, world));
        gateways.chain(servers).collect()
    }

    /// The ways to a service's servers.
    fn server_hops(&self, service: &ServiceSpec, world: &Snapshot) -> Vec<NextHop> {
        let serving = service.servers.iter().filter(|_| service.forward != ForwardMode::Snat);
        serving.filter_map(|server| world.routes.lookup(server.endpoint.address, 0)).collect()
    }

    /// Publishes the neighbours if they changed.
    fn publish_neighbors(&mut self) {
        let Some((neighbors, moved)) = self.neighbors.take_changes(&self.macs) else { return };
        let mut snapshot = Snapshot::clone(&self.world);
        snapshot.neighbors = Arc::new(neighbors);
        if moved {
            snapshot.routing_epoch = snapshot.routing_epoch.wrapping_add(1);
        }
        self.publish(snapshot);
    }

    /// Notices links that went down or came up.
    fn poll_links(&mut self, now: Instant) {
        for at in 0..self.facts.len() {
            let (port, spec) = (PortId(at as u16), &self.config.ports[at]);
            let mut link = self.devices.link(port);
            // Devices that read a kernel's interface do not see its carrier.
            if let (Some(kernel), Some(interface)) = (&mut self.kernel, spec.device.interface())
                && let Some(up) = kernel.carrier(interface)
            {
                link = Some((up, link.map_or(0, |(_, speed)| speed)));
            }
            let is_up = |link: Option<(bool, u32)>| link.is_some_and(|(up, _)| up);
            if is_up(link) != is_up(self.device_links[at]) {
                let what = if is_up(link) { "up" } else { "down" };
                log::say(format_args!("port {}: the link is {what}", spec.name));
                if let Some(kernel) = &mut self.kernel {
                    kernel.set_carrier(port, is_up(link));
                }
                if is_up(link) {
                    self.announcements.schedule_port(&self.config, port, now);
                }
            }
            self.device_links[at] = link;
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
        for (port, reason) in self.ladder.watch(&self.stats) {
            let name = &self.config.ports[usize::from(port.0)].name;
            log::say(format_args!("port {name}: falls back to hand-over, because {reason}"));
        }
        self.forget_unused_locals();
        self.publisher.collect();
        if self.collect_after.is_some_and(|generation| self.publisher.applied() >= generation) {
            let stats = &self.stats;
            self.registry.collect(&|id| crate::view::read_slot(stats, id));
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
            links: &self.device_links,
            kernel: self.kernel.as_ref(),
            standings: &self.standings,
            now: self.now,
        }
    }
}

/// Makes services that are as before the very same, so that later comparisons are quick.
fn share_unchanged(new: &mut Config, old: &Config) {
    let known: HashMap<&str, &Arc<ServiceSpec>> =
        old.services.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for spec in &mut new.services {
        if let Some(same) = known.get(spec.name.as_str()).filter(|same| ***same == *spec) {
            *spec = Arc::clone(same);
        }
    }
}

/// Every local address, once.
fn local_addresses(world: &Snapshot) -> Vec<LocalAddress> {
    let mut all: Vec<_> = world.services.iter().flat_map(|service| service.locals.iter().copied()).collect();
    all.sort_by_key(|local| local.address);
    all.dedup_by_key(|local| local.address);
    all
}

/// Keys that differ and cannot follow while the process runs.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    if old.dataplane != new.dataplane {
        keys.push("[dataplane]");
    }
    if old.admin != new.admin {
        keys.push("[admin]");
    }
    let sockets =
        |config: &Config| config.names.clone().map(|names| (names.zone, names.listen, names.http, names.ttl));
    if sockets(old) != sockets(new) {
        keys.push("[names] (its clients can)");
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
