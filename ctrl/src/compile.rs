//! From what the operator wants to what workers follow: `(config, devices,
//! neighbours, what is known of servers) -> Snapshot`, a pure function but for the ids that the registry keeps.

use crate::config::{Config, Device, ServerSpec, ServiceSpec};
use crate::devices::DeviceFacts;
use crate::registry::{Exhausted, ReadSlot, Registry};
use crate::servers::Standings;
use crate::topology::{addresses, reply_port, routes};
use dataplane::ids::Generation;
use dataplane::session::ForwardMode;
use dataplane::snapshot::{
    LocalAddress, Neighbors, NewSessions, NextHop, PortConfig, RealServer, Service, ServiceOptions, Services,
    Snapshot,
};
use dataplane::wire::LinkTraits;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// Compiles `config`. The caller gives the routing epoch and publishes.
///
/// # Errors
/// When the registry has no slot left for a service, server or local address.
pub fn compile(
    sources: &Sources<'_>,
    old: Option<(&Config, &Services)>,
    devices: &[DeviceFacts],
    routers: &[NextHop],
    neighbors: Arc<Neighbors>,
    routing_epoch: u16,
    registry: &mut Registry,
) -> Result<Snapshot, Exhausted> {
    let config = sources.config;
    let mut snapshot = Snapshot {
        generation: Generation(0),
        routing_epoch,
        ports: ports(config, devices),
        addresses: Arc::new(addresses(config)),
        services: Arc::new(services(sources, old, registry)?),
        routes: Arc::new(routes(config, routers)),
        neighbors,
        timeouts: config.timeouts,
        // Control knows them.
        ended: Arc::default(),
        // Filled in when it is published.
        links_down: 0,
        admits: Arc::default(),
        // Control fills it in.
        proofs: Arc::default(),
        acls: Arc::default(),
        host_flows: Arc::default(),
    };
    snapshot.follow_servers();
    Ok(snapshot)
}

/// The ports as workers see them.
pub fn ports(config: &Config, devices: &[DeviceFacts]) -> Arc<[PortConfig]> {
    let pairs = config.ports.iter().zip(devices);
    pairs
        .map(|(spec, facts)| PortConfig {
            link: LinkTraits {
                mac: facts.mac,
                mtu: facts.mtu,
                kernel_peer: Device::has_kernel_peer(&spec.device),
            },
            networks: spec.addresses.clone(),
            kernel: spec.kernel,
            source_check: spec.source_check,
        })
        .collect()
}

/// The servers' thresholds on each of so many workers; none where no server has one.
fn thresholds(servers: &[ServerSpec], workers: u32) -> Box<[(u32, u32)]> {
    if servers.iter().all(|server| server.thresholds.0 == 0) {
        return Box::default();
    }
    let share = |sessions: u32| sessions.div_ceil(workers);
    servers
        .iter()
        .map(|ServerSpec { thresholds: (upper, lower), .. }| (share(*upper), share(*lower)))
        .collect()
}

/// What a service's compilation takes from elsewhere.
pub struct Sources<'a> {
    /// What the operator wants.
    pub config: &'a Config,
    /// What is known of servers; it must follow `config`.
    pub standings: &'a Standings,
    /// Reads a slot's counters.
    pub read: ReadSlot<'a>,
}

/// Lists of local addresses that several services share.
type LocalLists<'a> = HashMap<&'a [IpAddr], Arc<[LocalAddress]>>;

/// All services. Those that are as they were in `old`, a configuration and what was compiled from it, are taken
/// over.
fn services(
    sources: &Sources<'_>,
    old: Option<(&Config, &Services)>,
    registry: &mut Registry,
) -> Result<Services, Exhausted> {
    let Sources { config, .. } = sources;
    let mut lists: LocalLists<'_> = HashMap::new();
    // With other ports local addresses may be elsewhere.
    let old = old.filter(|(before, _)| before.ports == config.ports && before.routes == config.routes);
    let mut known: HashMap<&str, (&Arc<ServiceSpec>, &Service)> = HashMap::new();
    if let Some((before, services)) = old {
        let pairs = before.services.iter().zip(services.iter());
        known.extend(pairs.map(|(spec, service)| (spec.name.as_str(), (spec, service))));
    }
    let mut list = Vec::with_capacity(config.services.len());
    for (at, spec) in config.services.iter().enumerate() {
        let same = known.get(spec.name.as_str()).filter(|(before, service)| {
            (Arc::ptr_eq(before, spec) || *before == spec) && is_current(service, at, sources)
        });
        let service = match same {
            Some((_, service)) => Service::clone(service),
            None => service(at, sources, &mut lists, registry)?,
        };
        list.push((&spec.listens[..], service));
    }
    Ok(Services::new(list))
}

/// Whether a compiled service has the weights that its servers are to have now.
pub fn is_current(service: &Service, at: usize, sources: &Sources<'_>) -> bool {
    let spec = &sources.config.services[at];
    let weights = &sources.standings.picture(at).weights;
    service.servers.len() == spec.servers.len()
        && service.servers.iter().enumerate().all(|(place, server)| {
            let spec = &spec.servers[place];
            server.endpoint == spec.endpoint
                && weights.get(place) == Some(&server.weight)
                && server.standing == sources.standings.standing(at, place, spec)
        })
}

/// The service in place `at`, compiled anew.
///
/// # Errors
/// When the registry has no slot left.
pub fn one_service(at: usize, sources: &Sources<'_>, registry: &mut Registry) -> Result<Service, Exhausted> {
    service(at, sources, &mut HashMap::new(), registry)
}

fn service<'a>(
    at: usize,
    sources: &Sources<'a>,
    lists: &mut LocalLists<'a>,
    registry: &mut Registry,
) -> Result<Service, Exhausted> {
    let Sources { config, standings, read } = sources;
    let spec = &config.services[at];
    registry.retire(&spec.name);
    let id = registry.service(&spec.name)?;
    // Each worker keeps account of its own sessions: limits are shared out evenly.
    let workers = config.dataplane.workers.len() as u64;
    let locals = match lists.entry(&spec.local_addresses) {
        Entry::Occupied(known) => Arc::clone(known.get()),
        Entry::Vacant(new) => {
            let id = |address| {
                let port = reply_port(config, spec, address);
                Ok(LocalAddress { id: registry.local(address)?, address, port })
            };
            let locals: Result<Arc<[_]>, _> = spec.local_addresses.iter().copied().map(id).collect();
            Arc::clone(new.insert(locals?))
        }
    };
    let mut servers = Vec::with_capacity(spec.servers.len());
    for (place, server) in spec.servers.iter().enumerate() {
        let id = registry.server(&spec.name, server.endpoint, read)?;
        let weight = standings.picture(at).weights.get(place).copied().unwrap_or(0);
        let standing = standings.standing(at, place, server);
        servers.push(RealServer { id, endpoint: server.endpoint, weight, standing });
    }
    let weights: Vec<_> = servers.iter().map(|server| (server.endpoint, server.weight)).collect();
    let table = spec.scheduler.table(&weights, spec.hash_seed).map(Arc::new);
    let limit = spec.options.session_limit.div_ceil(workers);
    let thresholds = thresholds(&spec.servers, workers as u32);
    let is_usual = limit == 0 && thresholds.is_empty() && spec.options == **USUAL;
    let options = match is_usual {
        true => Arc::clone(&USUAL),
        false => {
            // All sessions of a source may be one worker's.
            let is_ones = spec.options.persistence.is_some() || spec.forward == ForwardMode::Nat;
            let of_source = if is_ones { 1 } else { workers };
            let new_sessions = spec.options.new_sessions.map(|limit| NewSessions {
                each: limit.each * workers,
                each_of_source: limit.each_of_source * of_source,
                burst: limit.burst * workers,
                burst_of_source: limit.burst_of_source * of_source,
                ..limit
            });
            let options = spec.options.clone();
            Arc::new(ServiceOptions { session_limit: limit, thresholds, new_sessions, ..options })
        }
    };
    Ok(Service {
        id,
        protocols: spec.protocols,
        mode: spec.forward,
        scheduler: spec.scheduler,
        locals,
        servers: servers.into(),
        flags: spec.scheduler_flags,
        table,
        options,
    })
}

/// What most services have alike.
static USUAL: LazyLock<Arc<ServiceOptions>> = LazyLock::new(Arc::default);
