//! The one path from what is wanted and known to what workers follow: compiled, published, and followed by all that
//! depends on it.

use super::stale::Stale;
use super::{Control, discovery};
use crate::compile::{self, Sources};
use crate::config::{Config, ServiceSpec};
use crate::devices::Devices;
use crate::health::Order;
use crate::journal::{self, Edge};
use crate::kernel::KernelPath;
use crate::topology;
use dataplane::clock::Instant;
use dataplane::ids::{Generation, ServerId};
use dataplane::session::ForwardMode;
use dataplane::snapshot::{AddressRole, LocalAddress, NextHop, Service, Snapshot};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What health checks find is published so often at most.
const WEIGHING_PAUSE: Duration = Duration::from_millis(10);
/// How often the host's connections are looked at.
const HOST_FLOWS_PAUSE: Duration = Duration::from_millis(100);
const EXHAUSTED: &str = "there are more services, servers or local addresses than fit, those that drain included; wait until removed servers have no sessions, or remove more";

impl<D: Devices> Control<D> {
    /// Makes `config` the desired state and publishes it as one snapshot.
    pub(super) fn apply(&mut self, mut config: Config, now: Instant) -> Result<(), String> {
        let left_out = discovery::keep_found(&mut config, &self.wanted.config);
        share_unchanged(&mut config, &self.wanted.config);
        let networks_changed = config
            .ports
            .iter()
            .zip(&self.wanted.config.ports)
            .any(|(new, old)| new.addresses != old.addresses);
        let accepts = |hop: &NextHop| config.ports[usize::from(hop.port.0)].accept_ra;
        let routers: Vec<_> = self.links.routers.hops().into_iter().filter(accepts).collect();
        self.servers
            .standings
            .set_sources(self.kernel.as_ref().map(|kernel| kernel.sources(&config)).unwrap_or_default());
        // What is known of servers survives a configuration that is refused: no check begins or ends for it.
        let known = self.servers.standings.clone();
        let orders = self.servers.standings.follow(&config, now);
        let says = self.weigh(now);
        let mut snapshot = match self.compile(&config, &routers) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.servers.standings = known;
                self.restore(&config);
                return Err(error);
            }
        };
        let names: HashSet<&str> = config.services.iter().map(|spec| spec.name.as_str()).collect();
        for spec in self.wanted.config.services.iter().filter(|spec| !names.contains(spec.name.as_str())) {
            self.workers.registry.retire(&spec.name);
        }
        says.iter().for_each(|edge| edge.tell("servers"));
        self.keep_used_locals(&mut snapshot);
        self.links.routers.keep(|hop| routers.contains(hop));
        let wanted = self.wanted_hops(&config, &snapshot);
        self.links.announcements.schedule(
            &self.wanted.config,
            &config,
            self.workers.world.generation == Generation(0),
            now,
        );
        self.wanted.config = config;
        self.follow_proofs(&mut snapshot, now);
        self.follow_lists();
        snapshot.host_flows = Arc::clone(&self.workers.world.host_flows);
        snapshot.acls = self.acls(&self.wanted.config);
        self.publish(snapshot);
        if networks_changed {
            self.links.neighbors.clear();
        }
        if let Some(kernel) = &mut self.kernel {
            kernel
                .follow(&self.wanted.config, &self.workers.facts)
                .into_iter()
                .for_each(|line| log::warn!(target: "kernel", "{line}"));
        }
        // Not before the kernel has the addresses that are asked from.
        self.order(orders);
        journal::set(self.wanted.config.log.format, self.wanted.config.log.level);
        self.follow_names();
        self.naming.book.stale = Stale::All;
        self.renew_metrics();
        if let Some(access) = &self.desk.access {
            access
                .follow(&self.wanted.config.admin)
                .unwrap_or_else(|error| log::warn!(target: "config", "{error}"));
        }
        self.follow_sources();
        self.workers.collect_after = Some(self.workers.world.generation);
        self.want_neighbors(wanted, now);
        self.links.absences = Stale::All;
        self.publish_neighbors();
        self.reconsider_sources(&left_out, now);
        Ok(())
    }

    /// Gives workers, and checks that send as they do, a new world.
    pub(super) fn publish(&mut self, mut snapshot: Snapshot) {
        snapshot.ended = self.ended();
        snapshot.links_down = self.links_down();
        self.workers.world = self.workers.publisher.publish(snapshot);
        if let Some(checks) = self.kernel.as_ref().and_then(KernelPath::vip_checks) {
            checks.follow(&self.workers.world);
        }
    }

    /// Servers whose time to drain is over and that have sessions still.
    fn ended(&mut self) -> Arc<[ServerId]> {
        let mut ids = Vec::new();
        self.wanted.history.drained.retain(|(service, endpoint)| {
            let id = self.workers.registry.removed_server_id(service, *endpoint);
            ids.extend(id);
            id.is_some()
        });
        ids.sort_unstable();
        ids.into()
    }

    pub(super) fn compile(&mut self, config: &Config, routers: &[NextHop]) -> Result<Snapshot, String> {
        let stats = &self.workers.stats;
        let read = |id| crate::view::read_slot(stats, id);
        let epoch = self.workers.world.routing_epoch.wrapping_add(1);
        let neighbors = Arc::clone(&self.workers.world.neighbors);
        let sources = Sources { config, standings: &self.servers.standings, read: &read };
        let is_first = self.workers.world.generation == Generation(0);
        let old = (!is_first).then(|| (&self.wanted.config, &*self.workers.world.services));
        let snapshot = compile::compile(
            &sources,
            old,
            &self.workers.facts,
            routers,
            neighbors,
            epoch,
            &mut self.workers.registry,
        )
        .map_err(|_| EXHAUSTED.to_owned())?;
        self.workers.registry.begin(&self.workers.stats);
        self.workers.ladder.check_ports(&self.workers.world, &snapshot)?;
        self.workers.ladder.check_capacity(config, &snapshot)?;
        self.workers.devices.steer(&local_addresses(&snapshot), self.workers.ladder.steering())?;
        Ok(snapshot)
    }

    /// Gives the configuration that runs its slots back, after another one was refused.
    pub(super) fn restore(&mut self, refused: &Config) {
        if self.workers.world.generation == Generation(0) {
            // Nothing ran before the first one.
            return;
        }
        for spec in &refused.services {
            self.workers.registry.retire(&spec.name);
        }
        let stats = &self.workers.stats;
        let read = |id| crate::view::read_slot(stats, id);
        let sources =
            Sources { config: &self.wanted.config, standings: &self.servers.standings, read: &read };
        // It had them a moment ago.
        for at in 0..self.wanted.config.services.len() {
            let _ = compile::one_service(at, &sources, &mut self.workers.registry);
        }
    }

    /// Works out the weights of services of which something changed. Returns what to say.
    pub(super) fn weigh(&mut self, now: Instant) -> Vec<Edge> {
        let dirty = self.servers.standings.take_dirty(now);
        dirty.into_iter().flat_map(|at| self.servers.standings.weigh(at, now)).collect()
    }

    /// Tells the checks what to do.
    pub(super) fn order(&self, orders: Vec<Order>) {
        if let Some(engine) = &self.servers.engine {
            orders.into_iter().for_each(|order| engine.order(order));
        }
    }

    /// Publishes what became of servers since the last time: their weights.
    pub(super) fn follow_findings(&mut self, now: Instant) {
        if now >= self.servers.next_weighing {
            self.follow_findings_now(now);
        }
    }

    pub(super) fn follow_findings_now(&mut self, now: Instant) {
        let dirty = self.servers.standings.take_dirty(now);
        if dirty.is_empty() {
            return;
        }
        self.servers.next_weighing = now + WEIGHING_PAUSE;
        self.naming.book.stale.add(&dirty);
        self.metering.note(&dirty);
        for at in &dirty {
            self.servers.standings.weigh(*at, now).iter().for_each(|edge| edge.tell("servers"));
        }
        let _ = self.refresh(&dirty);
    }

    /// Publishes these services anew, as far as they are not what is published.
    pub(super) fn refresh(&mut self, services: &[usize]) -> Result<(), String> {
        let stats = &self.workers.stats;
        let read = |id| crate::view::read_slot(stats, id);
        let sources =
            Sources { config: &self.wanted.config, standings: &self.servers.standings, read: &read };
        let mut changes = Vec::new();
        for at in services {
            let is_current = self
                .workers
                .world
                .services
                .iter()
                .nth(*at)
                .is_some_and(|old| compile::is_current(old, *at, &sources));
            if !is_current {
                let service = compile::one_service(*at, &sources, &mut self.workers.registry);
                changes.push((*at, service.map_err(|_| EXHAUSTED.to_owned())?));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let has_others = changes.iter().any(|(at, new)| {
            let old = self.workers.world.services.iter().nth(*at);
            old.is_none_or(|old| !has_same_servers(old, new))
        });
        let mut snapshot = Snapshot::clone(&self.workers.world);
        snapshot.services = Arc::new(self.workers.world.services.replace(changes));
        if has_others {
            snapshot.follow_servers();
        }
        // Sessions look once whether their server still serves.
        snapshot.routing_epoch = snapshot.routing_epoch.wrapping_add(1);
        self.publish(snapshot);
        Ok(())
    }

    /// Local addresses that are removed stay known while sessions use them, and until the next look at
    /// who does: answers that come to the wrong worker find their owner by them.
    pub(super) fn keep_used_locals(&mut self, snapshot: &mut Snapshot) {
        let is_kept = |(address, role): &(IpAddr, AddressRole)| {
            matches!(role, AddressRole::Local(_)) && snapshot.addresses.get(*address).is_none()
        };
        let kept: Vec<_> = self.workers.world.addresses.iter().filter(is_kept).collect();
        self.workers.removed_locals = kept.iter().map(|(address, _)| *address).collect();
        let addresses = Arc::make_mut(&mut snapshot.addresses);
        for (address, role) in kept {
            addresses.insert(address, role);
        }
    }

    /// Forgets removed local addresses that no session uses any more.
    pub(super) fn forget_unused_locals(&mut self) {
        let (used, over): (Vec<_>, Vec<_>) =
            self.workers.removed_locals.iter().partition(|address| self.is_local_in_use(**address));
        if over.is_empty() {
            return;
        }
        self.workers.removed_locals = used;
        let mut snapshot = Snapshot::clone(&self.workers.world);
        let addresses = Arc::make_mut(&mut snapshot.addresses);
        for address in over {
            addresses.remove(address);
        }
        self.publish(snapshot);
    }

    /// Publishes routes by the routers that there are now.
    pub(super) fn follow_routers(&mut self, now: Instant) {
        let mut snapshot = Snapshot::clone(&self.workers.world);
        snapshot.routes = Arc::new(topology::routes(&self.wanted.config, &self.links.routers.hops()));
        snapshot.follow_servers();
        snapshot.routing_epoch = snapshot.routing_epoch.wrapping_add(1);
        let wanted = self.wanted_hops(&self.wanted.config, &snapshot);
        self.publish(snapshot);
        self.want_neighbors(wanted, now);
    }

    /// Has these neighbours known, and those that the configuration tells.
    fn want_neighbors(&mut self, wanted: HashSet<NextHop>, now: Instant) {
        self.links.neighbors.want(wanted, now);
        self.links.neighbors.fix(&self.wanted.config.neighbors, now);
    }

    /// Next hops that are always to be known: gateways and the ways to servers.
    pub(super) fn wanted_hops(&self, config: &Config, world: &Snapshot) -> HashSet<NextHop> {
        let gateways = config.routes.iter().flat_map(|route| route.hops.iter().copied());
        let gateways = gateways.chain(self.links.routers.hops());
        let servers = config.services.iter().flat_map(|service| self.server_hops(service, world));
        gateways.chain(servers).collect()
    }

    /// The ways to a service's servers.
    pub(super) fn server_hops(&self, service: &ServiceSpec, world: &Snapshot) -> Vec<NextHop> {
        let serving = service.servers.iter().filter(|_| service.forward != ForwardMode::Snat);
        serving.filter_map(|server| world.routes.lookup(server.endpoint.address, 0)).collect()
    }

    /// Publishes the connections that the host has, if there are others, ten times a second at most: peers make them.
    pub(super) fn publish_host_flows(&mut self, now: Instant) {
        let Some(kernel) = &self.kernel else { return };
        if now < self.links.next_host_flows {
            return;
        }
        self.links.next_host_flows = now + HOST_FLOWS_PAUSE;
        let connections = kernel.connections();
        connections.age(std::time::Instant::now());
        if let Some(host_flows) = connections.changes(&mut self.links.host_flows_seen) {
            let snapshot = Snapshot::clone(&self.workers.world);
            self.publish(Snapshot { host_flows, ..snapshot });
        }
    }

    /// Publishes the neighbours if they changed.
    pub(super) fn publish_neighbors(&mut self) {
        let Some((neighbors, moved)) = self.links.neighbors.take_changes(&self.workers.macs, self.now) else {
            return;
        };
        let mut snapshot = Snapshot::clone(&self.workers.world);
        snapshot.neighbors = Arc::new(neighbors);
        if moved {
            snapshot.routing_epoch = snapshot.routing_epoch.wrapping_add(1);
        }
        self.publish(snapshot);
    }
}

/// Whether two services have servers at the same endpoints, whatever their weights.
fn has_same_servers(one: &Service, other: &Service) -> bool {
    let endpoints =
        |service: &Service| service.servers.iter().map(|server| server.endpoint).collect::<Vec<_>>();
    endpoints(one) == endpoints(other)
}

/// Makes services that are as before the very same, so that later comparisons are quick.
fn share_unchanged(new: &mut Config, old: &Config) {
    let known: HashMap<&str, &Arc<ServiceSpec>> =
        old.services.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for spec in &mut new.services {
        let is_same = |same: &&&Arc<ServiceSpec>| Arc::ptr_eq(same, spec) || ***same == *spec;
        if let Some(same) = known.get(spec.name.as_str()).filter(is_same) {
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
