//! Which port an address belongs to, and which way leads to it.

use crate::config::{PortSpec, RouteSpec};
use dataplane::snapshot::Network;
use std::net::IpAddr;

pub(super) fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.octets()[0] != 0 && !four.is_loopback() && four.octets()[0] < 224,
        IpAddr::V6(six) => {
            let is_plain = !six.is_unspecified() && !six.is_loopback() && !six.is_multicast();
            is_plain && six.to_ipv4_mapped().is_none()
        }
    }
}

pub(super) fn overlaps(port: &PortSpec, network: Network) -> bool {
    port.addresses.iter().any(|other| other.contains(network.address) || network.contains(other.address))
}

pub(super) fn is_broadcast(ports: &[PortSpec], address: IpAddr) -> bool {
    ports.iter().flat_map(|port| &port.addresses).any(|network| network.is_broadcast(address))
}

/// Whether an address is its network's own, which is no host's.
pub(super) fn is_network(ports: &[PortSpec], address: IpAddr) -> bool {
    let is_of = |network: &Network| {
        let host_bits = if network.address.is_ipv4() { 32 } else { 128 } - network.prefix_len;
        // Links of two have no such address (RFC 3021, RFC 6164).
        host_bits > 1 && network.contains(address) && network.base() == address
    };
    ports.iter().flat_map(|port| &port.addresses).any(is_of)
}

/// The gateway that `is_one` is true of, if there is one, with the route that names it.
pub(super) fn gateway_in(routes: &[RouteSpec], is_one: impl Fn(IpAddr) -> bool) -> Option<(IpAddr, Network)> {
    let gateways = routes.iter().flat_map(|route| route.hops.iter().map(move |hop| (hop.address, route.to)));
    gateways.into_iter().find(|(gateway, _)| is_one(*gateway))
}

pub(super) fn is_own(ports: &[PortSpec], address: IpAddr) -> bool {
    ports.iter().any(|port| port.addresses.iter().any(|own| own.address == address))
}

/// The index of the port on whose network `address` is.
pub(super) fn connected_port(ports: &[PortSpec], address: IpAddr) -> Option<usize> {
    ports.iter().position(|port| port.addresses.iter().any(|network| network.contains(address)))
}

/// Whether an address means something on one link only, which it does not name.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The index of the port by which `address` is reached.
pub(super) fn port_towards(ports: &[PortSpec], routes: &[RouteSpec], address: IpAddr) -> Option<usize> {
    connected_port(ports, address).or_else(|| {
        let matching = routes.iter().filter(|route| route.to.contains(address));
        let best = matching.max_by_key(|route| route.to.prefix_len)?;
        best.hops.first().map(|hop| usize::from(hop.port.0))
    })
}

pub(super) fn networks(ports: &[PortSpec]) -> String {
    let list: Vec<_> = ports
        .iter()
        .flat_map(|port| port.addresses.iter().map(move |network| format!("{} has {network}", port.name)))
        .collect();
    list.join(", ")
}
