//! Stable ids: the slots in which workers count.
//!
//! A server that is removed keeps its slot while sessions still use it, and what it
//! counted stays in its service's totals for ever: removing a server never makes a
//! service's numbers fall.

use dataplane::flow::Endpoint;
use dataplane::ids::{LocalId, MAX_LOCALS, MAX_SERVERS, MAX_SERVICES, ServerId, ServiceId};
use dataplane::stats::{HistogramTotals, ServerTotals, ServiceTotals, SynProxyTotals, WorkerStats};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Reads a slot's raw counters, summed over the workers.
pub type ReadSlot<'a> = &'a dyn Fn(ServerId) -> ServerTotals;

/// What a service's own slot counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceCount {
    /// What never reached a server.
    pub totals: ServiceTotals,
    /// What the SYN proxy did.
    pub syn_proxy: SynProxyTotals,
    /// How long servers took to answer connections.
    pub connect_times: HistogramTotals,
    /// How long its sessions lasted, if that is counted.
    pub durations: HistogramTotals,
    /// How many bytes its sessions had, if that is counted.
    pub sizes: HistogramTotals,
}

impl ServiceCount {
    /// The raw counters of a slot, over all workers.
    pub fn read(stats: &[Arc<WorkerStats>], id: ServiceId) -> Self {
        Self {
            totals: stats.iter().map(|worker| worker.service(id).read()).sum(),
            syn_proxy: stats.iter().map(|worker| worker.syn_proxy(id).read()).sum(),
            connect_times: stats.iter().map(|worker| worker.connect_times(id).read()).sum(),
            durations: stats.iter().map(|worker| worker.session_durations(id).read()).sum(),
            sizes: stats.iter().map(|worker| worker.session_sizes(id).read()).sum(),
        }
    }

    /// What was counted since `baseline`.
    #[must_use]
    pub fn since(self, baseline: Self) -> Self {
        Self {
            totals: self.totals.since(baseline.totals),
            syn_proxy: self.syn_proxy.since(baseline.syn_proxy),
            connect_times: self.connect_times.since(baseline.connect_times),
            durations: self.durations.since(baseline.durations),
            sizes: self.sizes.since(baseline.sizes),
        }
    }
}

/// Ids given out so far.
#[derive(Debug, Default)]
pub struct Registry {
    services: BTreeMap<String, ServiceEntry>,
    free_services: Vec<u32>,
    service_slots: u32,
    free_servers: Vec<u32>,
    server_slots: u32,
    locals: HashMap<IpAddr, LocalId>,
    /// Services of which something was taken away since slots were last collected, or is still used by sessions.
    touched: BTreeSet<String>,
}

#[derive(Debug)]
struct ServiceEntry {
    id: ServiceId,
    /// The slot's counters when this service got it; `None` until they were read.
    baseline: Option<ServiceCount>,
    servers: HashMap<Endpoint, ServerEntry>,
    /// What servers that are gone for good had counted.
    gone: ServerTotals,
    present: bool,
}

#[derive(Debug)]
struct ServerEntry {
    id: ServerId,
    /// The slot's counters when this server got it.
    baseline: ServerTotals,
    present: bool,
}

/// A server and its slot.
#[derive(Clone, Copy, Debug)]
pub struct ServerSlot {
    /// The server.
    pub endpoint: Endpoint,
    /// Its slot.
    pub id: ServerId,
    /// The slot's counters when this server got it.
    pub baseline: ServerTotals,
    /// Whether it is configured; others still have sessions.
    pub is_configured: bool,
}

/// No slot is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl Registry {
    /// The slot of a service.
    ///
    /// # Errors
    /// When 16,384 services have slots, those that drain included.
    pub fn service(&mut self, name: &str) -> Result<ServiceId, Exhausted> {
        if let Some(entry) = self.services.get_mut(name) {
            entry.present = true;
            return Ok(entry.id);
        }
        let id = ServiceId(take(&mut self.free_services, &mut self.service_slots, MAX_SERVICES)?);
        let entry = ServiceEntry {
            id,
            baseline: None,
            servers: HashMap::new(),
            gone: ServerTotals::default(),
            present: true,
        };
        self.services.insert(name.to_owned(), entry);
        Ok(id)
    }

    /// The slot of a real server of a service that has one.
    ///
    /// # Errors
    /// When 131,072 servers have slots, those that drain included.
    ///
    /// # Panics
    /// When the service has no slot.
    pub fn server(
        &mut self,
        service: &str,
        endpoint: Endpoint,
        read: ReadSlot<'_>,
    ) -> Result<ServerId, Exhausted> {
        let entry = self.services.get_mut(service).expect("the service was registered first");
        if let Some(server) = entry.servers.get_mut(&endpoint) {
            server.present = true;
            return Ok(server.id);
        }
        let id = ServerId(take(&mut self.free_servers, &mut self.server_slots, MAX_SERVERS)?);
        entry.servers.insert(endpoint, ServerEntry { id, baseline: read(id), present: true });
        Ok(id)
    }

    /// The slot of a local address; it is never given to another.
    ///
    /// # Errors
    /// When 4,096 addresses have slots.
    pub fn local(&mut self, address: IpAddr) -> Result<LocalId, Exhausted> {
        if let Some(id) = self.locals.get(&address) {
            return Ok(*id);
        }
        if self.locals.len() == MAX_LOCALS {
            return Err(Exhausted);
        }
        let id = LocalId(self.locals.len() as u16);
        self.locals.insert(address, id);
        Ok(id)
    }

    /// Reads the slots that services got since this was last called, which others may have had before. Call it before
    /// workers follow.
    pub fn begin(&mut self, stats: &[Arc<WorkerStats>]) {
        for entry in self.services.values_mut().filter(|entry| entry.baseline.is_none()) {
            entry.baseline = Some(ServiceCount::read(stats, entry.id));
        }
    }

    /// A service's slot, and what it had counted when the service got it.
    pub fn service_slot(&self, name: &str) -> Option<(ServiceId, ServiceCount)> {
        self.services.get(name).map(|entry| (entry.id, entry.baseline.unwrap_or_default()))
    }

    /// The slot of a service that is configured, or still has sessions.
    pub fn service_id(&self, name: &str) -> Option<ServiceId> {
        self.services.get(name).map(|entry| entry.id)
    }

    /// The slot of an address that is, or was, a local address.
    pub fn local_id(&self, address: IpAddr) -> Option<LocalId> {
        self.locals.get(&address).copied()
    }

    /// Marks a service and its servers as not configured: before it is compiled anew, or because it was removed.
    pub fn retire(&mut self, service: &str) {
        if let Some(entry) = self.services.get_mut(service) {
            self.touched.insert(service.to_owned());
            entry.present = false;
            entry.servers.values_mut().for_each(|server| server.present = false);
        }
    }

    /// Gives back the slots of servers that are neither configured nor used by a session.
    /// Call it only when every worker follows the last snapshot. Returns the services whose slots were given back.
    pub fn collect(&mut self, read: ReadSlot<'_>) -> Vec<String> {
        let mut given_back = Vec::new();
        let Self { services, touched, free_servers, free_services, .. } = self;
        touched.retain(|name| {
            let Some(entry) = services.get_mut(name) else { return false };
            let (mut is_used, before) = (false, entry.servers.len());
            entry.servers.retain(|_, server| {
                if server.present {
                    return true;
                }
                let totals = read(server.id);
                let keep = totals.sessions_active + totals.sessions_inactive > 0;
                if !keep {
                    entry.gone += totals.since(server.baseline);
                    free_servers.push(server.id.0);
                }
                is_used |= keep;
                keep
            });
            if entry.servers.len() < before {
                given_back.push(name.clone());
            }
            if !entry.present && entry.servers.is_empty() {
                free_services.push(entry.id.0);
                services.remove(name);
            }
            is_used
        });
        given_back
    }

    /// What a server counted.
    pub fn server_totals(&self, service: &str, endpoint: Endpoint, read: ReadSlot<'_>) -> ServerTotals {
        let server = self.services.get(service).and_then(|entry| entry.servers.get(&endpoint));
        server.map_or(ServerTotals::default(), |server| read(server.id).since(server.baseline))
    }

    /// The servers of a service that have slots, and what those that have none any more had counted.
    pub fn slots(&self, service: &str) -> Option<(ServerTotals, impl Iterator<Item = ServerSlot>)> {
        let entry = self.services.get(service)?;
        let slots = entry.servers.iter().map(|(endpoint, server)| ServerSlot {
            endpoint: *endpoint,
            id: server.id,
            baseline: server.baseline,
            is_configured: server.present,
        });
        Some((entry.gone, slots))
    }

    /// The slot of a server that is configured, or still has sessions.
    pub fn server_id(&self, service: &str, endpoint: Endpoint) -> Option<ServerId> {
        let entry = self.services.get(service)?;
        entry.servers.get(&endpoint).map(|server| server.id)
    }

    /// The slot of a server that is no longer configured and still has sessions.
    pub fn removed_server_id(&self, service: &str, endpoint: Endpoint) -> Option<ServerId> {
        let entry = self.services.get(service)?.servers.get(&endpoint);
        entry.filter(|server| !server.present).map(|server| server.id)
    }

    /// What all servers of a service counted, those that are gone included.
    pub fn service_totals(&self, service: &str, read: ReadSlot<'_>) -> ServerTotals {
        let Some(entry) = self.services.get(service) else { return ServerTotals::default() };
        let mut totals = entry.gone;
        for server in entry.servers.values() {
            totals += read(server.id).since(server.baseline);
        }
        totals
    }

    /// Servers that are no longer configured but still have sessions: (service, endpoint).
    pub fn draining(&self) -> Vec<(String, Endpoint)> {
        let names: HashSet<_> = self
            .services
            .iter()
            .flat_map(|(name, entry)| {
                let gone = entry.servers.iter().filter(|(_, server)| !server.present);
                gone.map(move |(endpoint, _)| (name.clone(), *endpoint))
            })
            .collect();
        let mut list: Vec<_> = names.into_iter().collect();
        list.sort();
        list
    }
}

fn take(free: &mut Vec<u32>, used: &mut u32, limit: usize) -> Result<u32, Exhausted> {
    if let Some(slot) = free.pop() {
        return Ok(slot);
    }
    if *used as usize == limit {
        return Err(Exhausted);
    }
    *used += 1;
    Ok(*used - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::stats::CONNECT_MS;
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    fn endpoint(last: u8) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(10, 0, 0, last), 80)
    }

    /// A registry whose service `web` had server 10.0.0.1 and has none any more.
    fn after_removal(read: ReadSlot<'_>, meanwhile: impl FnOnce()) -> (Registry, ServerId) {
        let mut registry = Registry::default();
        registry.service("web").unwrap();
        let removed = registry.server("web", endpoint(1), read).unwrap();
        meanwhile();
        registry.retire("web");
        registry.service("web").unwrap();
        registry.collect(read);
        (registry, removed)
    }

    fn counted(packets_in: u64, sessions_active: u64) -> ServerTotals {
        ServerTotals { packets_in, sessions_active, ..ServerTotals::default() }
    }

    #[test]
    fn removing_a_server_keeps_its_services_totals() {
        let slot = Cell::new(counted(0, 0));
        let read = |_| slot.get();

        let (registry, _) = after_removal(&read, || slot.set(counted(100, 0)));

        assert_eq!(registry.service_totals("web", &read).packets_in, 100);
    }

    #[test]
    fn a_slot_used_again_starts_at_zero() {
        let slot = Cell::new(counted(100, 0));
        let read = |_| slot.get();
        let (mut registry, first) = after_removal(&read, || ());

        let second = registry.server("web", endpoint(2), &read).unwrap();
        slot.set(counted(107, 0));

        assert_eq!(first, second);
        assert_eq!(registry.server_totals("web", endpoint(2), &read).packets_in, 7);
    }

    #[test]
    fn a_service_in_a_slot_used_again_starts_at_zero() {
        let stats = [Arc::new(WorkerStats::with_slots(1, 1, 1, 1))];
        let mut registry = Registry::default();
        let first = registry.service("web").unwrap();
        registry.begin(&stats);
        stats[0].service(first).no_route.add(5);
        stats[0].connect_times(first).note(3, &CONNECT_MS);
        registry.retire("web");
        registry.collect(&|_| counted(0, 0));

        assert_eq!(registry.service("other"), Ok(first));
        registry.begin(&stats);
        stats[0].service(first).no_route.add(1);

        let (id, baseline) = registry.service_slot("other").unwrap();
        let count = ServiceCount::read(&stats, id).since(baseline);
        assert_eq!((count.totals.no_route, count.connect_times), (1, HistogramTotals::default()));
    }

    #[test]
    fn a_removed_server_with_sessions_keeps_its_slot() {
        let slot = Cell::new(counted(5, 2));
        let read = |_| slot.get();
        let (mut registry, first) = after_removal(&read, || ());

        assert_eq!(registry.draining(), [("web".to_owned(), endpoint(1))]);
        let again = registry.server("web", endpoint(1), &read).unwrap();
        assert_eq!(first, again);
        assert!(registry.draining().is_empty());
    }
}
