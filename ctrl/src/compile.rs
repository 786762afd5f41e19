//! From what the operator wants to what workers follow: `(config, devices,
//! neighbours) -> Snapshot`, a pure function but for the ids that the registry keeps.

use crate::config::{Config, Device, ServerSpec, ServiceSpec};
use crate::registry::{Exhausted, ReadSlot, Registry};
use dataplane::ids::{Generation, PortId};
use dataplane::session::ForwardMode;
use dataplane::snapshot::{
    AddressRole, Addresses, LocalAddress, Neighbors, Network, NextHop, PortConfig, RealServer, Routes,
    Service, ServiceOptions, Services, Snapshot,
};
use dataplane::wire::{LinkTraits, Mac};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// What a started device says of itself.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// The driver's name.
    pub driver: String,
    /// Station address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// Compiles `config`. The caller gives the routing epoch and publishes.
///
/// # Errors
/// When the registry has no slot left for a service, server or local address.
pub fn compile(
    config: &Config,
    devices: &[DeviceFacts],
    routers: &[NextHop],
    neighbors: Arc<Neighbors>,
    routing_epoch: u16,
    registry: &mut Registry,
    read: ReadSlot<'_>,
) -> Result<Snapshot, Exhausted> {
    registry.begin();
    Ok(Snapshot {
        generation: Generation(0),
        routing_epoch,
        ports: ports(config, devices),
        addresses: Arc::new(addresses(config)),
        services: Arc::new(services(config, registry, read)?),
        routes: Arc::new(routes(config, routers)),
        neighbors,
        timeouts: config.timeouts,
    })
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
        })
        .collect()
}

/// What each of the appliance's addresses is for. A VIP may also be a port's address.
pub fn addresses(config: &Config) -> Addresses {
    let mut all = Addresses::default();
    for network in config.ports.iter().flat_map(|port| &port.addresses) {
        all.insert_link(*network);
    }
    for service in &config.services {
        // Where hidden hosts go is nobody's VIP.
        let listens = service.listens.iter().filter(|_| service.forward != ForwardMode::Snat);
        let hosts = listens.map(|listen| listen.network).filter(|network| network.is_host());
        for network in hosts {
            all.insert(network.address, AddressRole::Vip);
        }
        for address in &service.local_addresses {
            all.insert(*address, AddressRole::Local(reply_port(config, service, *address)));
        }
    }
    all
}

/// Networks of the ports, static routes, and a default route by IPv6 `routers` that advertised
/// themselves, if the file has none.
pub fn routes(config: &Config, routers: &[NextHop]) -> Routes {
    let mut routes = Routes::default();
    let default = Network { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix_len: 0 };
    if !routers.is_empty() && !config.routes.iter().any(|route| route.to == default) {
        routes.add_gateways(default, routers);
    }
    // Static routes first: a port's own network is never behind a gateway.
    for route in &config.routes {
        routes.add_gateways(route.to, &route.hops);
    }
    for (at, port) in config.ports.iter().enumerate() {
        for network in &port.addresses {
            routes.add_link(*network, PortId(at as u16));
        }
    }
    routes
}

/// The port that answers ARP for an address; `None`: every port, because the address is
/// on none's network (a routed VIP).
pub fn port_of(config: &Config, address: IpAddr) -> Option<PortId> {
    let contains = |network: &Network| network.contains(address);
    let at = config.ports.iter().position(|port| port.addresses.iter().any(contains))?;
    Some(PortId(at as u16))
}

/// The port by which servers' answers to a local address come: the one on whose network it is, or
/// the one towards the servers.
fn reply_port(config: &Config, service: &ServiceSpec, address: IpAddr) -> PortId {
    port_of(config, address).unwrap_or_else(|| {
        let towards = |server: &ServerSpec| routes(config, &[]).lookup(server.endpoint.address, 0);
        service.servers.iter().find_map(towards).map_or(PortId(0), |hop| hop.port)
    })
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

fn services(config: &Config, registry: &mut Registry, read: ReadSlot<'_>) -> Result<Services, Exhausted> {
    let mut list = Vec::with_capacity(config.services.len());
    let mut lists_of_locals: HashMap<&[IpAddr], Arc<[LocalAddress]>> = HashMap::new();
    let usual = Arc::<ServiceOptions>::default();
    // Each worker keeps account of its own sessions: limits are shared out evenly.
    let workers = config.dataplane.workers.len() as u64;
    for spec in &config.services {
        let id = registry.service(&spec.name)?;
        let locals = match lists_of_locals.entry(&spec.local_addresses) {
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
        for server in &spec.servers {
            let id = registry.server(&spec.name, spec.protocol, server.endpoint, read)?;
            servers.push(RealServer { id, endpoint: server.endpoint, weight: server.weight });
        }
        let weights: Vec<_> = servers.iter().map(|server| (server.endpoint, server.weight)).collect();
        let table = spec.scheduler.table(&weights, spec.hash_seed).map(Box::new);
        let limit = spec.options.session_limit.div_ceil(workers);
        let thresholds = thresholds(&spec.servers, workers as u32);
        let options = ServiceOptions { session_limit: limit, thresholds, ..spec.options.clone() };
        let options = if options == *usual { Arc::clone(&usual) } else { Arc::new(options) };
        let service = Service {
            id,
            protocol: spec.protocol,
            mode: spec.forward,
            scheduler: spec.scheduler,
            locals,
            servers: servers.into(),
            flags: spec.scheduler_flags,
            table,
            options,
        };
        list.push((spec.listens.clone(), service));
    }
    Ok(Services::new(list))
}
