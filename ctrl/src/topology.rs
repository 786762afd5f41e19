//! Which port an address belongs to, and which way leads where: of a configuration alone.

use crate::config::{Config, ServerSpec, ServiceSpec};
use dataplane::ids::PortId;
use dataplane::session::ForwardMode;
use dataplane::snapshot::{AddressRole, Addresses, Network, NextHop, Routes};
use std::net::{IpAddr, Ipv6Addr};

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
pub(crate) fn reply_port(config: &Config, service: &ServiceSpec, address: IpAddr) -> PortId {
    port_of(config, address).unwrap_or_else(|| {
        let towards = |server: &ServerSpec| routes(config, &[]).lookup(server.endpoint.address, 0);
        service.servers.iter().find_map(towards).map_or(PortId(0), |hop| hop.port)
    })
}
