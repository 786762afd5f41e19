//! Which port an address belongs to, and which way leads to it.

use crate::config::{PortSpec, RouteSpec};
use dataplane::snapshot::Network;
use std::net::Ipv4Addr;

pub(super) fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.octets()[0] == 0 || address.is_loopback() || address.octets()[0] >= 224)
}

pub(super) fn overlaps(port: &PortSpec, network: Network) -> bool {
    port.addresses.iter().any(|other| other.contains(network.address) || network.contains(other.address))
}

pub(super) fn is_broadcast(ports: &[PortSpec], address: Ipv4Addr) -> bool {
    ports.iter().flat_map(|port| &port.addresses).any(|network| network.is_broadcast(address))
}

pub(super) fn is_own(ports: &[PortSpec], address: Ipv4Addr) -> bool {
    ports.iter().any(|port| port.addresses.iter().any(|own| own.address == address))
}

/// The index of the port on whose network `address` is.
pub(super) fn connected_port(ports: &[PortSpec], address: Ipv4Addr) -> Option<usize> {
    ports.iter().position(|port| port.addresses.iter().any(|network| network.contains(address)))
}

/// The index of the port by which `address` is reached.
pub(super) fn port_towards(ports: &[PortSpec], routes: &[RouteSpec], address: Ipv4Addr) -> Option<usize> {
    connected_port(ports, address).or_else(|| {
        let matching = routes.iter().filter(|route| route.to.contains(address));
        matching.max_by_key(|route| route.to.prefix_len).map(|route| route.port)
    })
}

pub(super) fn networks(ports: &[PortSpec]) -> String {
    let list: Vec<_> = ports
        .iter()
        .flat_map(|port| port.addresses.iter().map(move |network| format!("{} has {network}", port.name)))
        .collect();
    list.join(", ")
}
