//! The world that a worker looks at: built by control, never changed, swapped whole.

mod acls;
mod addresses;
mod mailbox;
mod neighbors;
mod proofs;
mod routes;
mod services;
mod sources;

pub use crate::network::Network;
pub use acls::{Acl, AclAction, Acls};
pub use addresses::{AddressRole, Addresses};
pub use mailbox::{Mailbox, Publisher, mailboxes};
pub use neighbors::{Egress, Egresses, Neighbor, Neighbors};
pub use proofs::{Proofs, SynProxy};
pub use routes::{NextHop, Routes};
pub use services::{
    ClientAddress, Listen, LocalAddress, NewSessions, RealServer, Service, ServiceIndex, ServiceOptions,
    Services, Standing, Tunnel,
};
pub use sources::{Admits, ServerSides, SourceCheck};

use crate::flow::{Family, FlowKey6};
use crate::ids::{Generation, PortId, ServerId};
use crate::session::Timeouts;
use crate::wire::LinkTraits;
use hashbrown::DefaultHashBuilder;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A map that the packet path looks into. Its keys come from configuration, so nobody outside can
/// choose them, and a faster hash than the standard library's will do: 15 ns less per lookup.
pub type Map<K, V> = HashMap<K, V, DefaultHashBuilder>;

/// Everything that workers need to know, at one moment.
///
/// The parts that change at different rates are shared between generations: a new
/// neighbour costs a new neighbour table, not new services.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which snapshot this is.
    pub generation: Generation,
    /// Changes whenever a next hop that a session remembers may be wrong: on every new
    /// configuration, and when a neighbour's slot is given to another.
    pub routing_epoch: u16,
    /// The ports, by [`PortId`].
    pub ports: Arc<[PortConfig]>,
    /// The appliance's addresses and what each is for.
    pub addresses: Arc<Addresses>,
    /// The services.
    pub services: Arc<Services>,
    /// Where packets go next.
    pub routes: Arc<Routes>,
    /// Who is there.
    pub neighbors: Arc<Neighbors>,
    /// How long sessions may be silent.
    pub timeouts: Timeouts,
    /// Removed servers whose sessions end with their next packet, in order.
    pub ended: Arc<[ServerId]>,
    /// The ports whose links are down, a bit each.
    pub links_down: u64,
    /// What each port admits, by [`PortId`]: [`follow_servers`](Self::follow_servers) finds it.
    pub admits: Arc<[Admits]>,
    /// Services that ask their clients for proof by need, and do so now.
    pub proofs: Arc<Proofs>,
    /// Lists of addresses that are asked before a session begins.
    pub acls: Arc<Acls>,
    /// Connections that the host's kernel has by the kernel path: the peers' flows, each with a number below [`HOST_FLOWS_MAX`].
    pub host_flows: Arc<Map<FlowKey6, u16>>,
}

/// Connections of the host that are told apart.
pub const HOST_FLOWS_MAX: usize = 4_096;

/// A port as the director sees it.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Station address, MTU, and what kind of peer is on the link.
    pub link: LinkTraits,
    /// The appliance's own addresses on this link.
    pub networks: Vec<Network>,
    /// Whether the host's kernel gets what comes for it by this port.
    pub kernel: bool,
    /// How sources are checked.
    pub source_check: SourceCheck,
}

impl Snapshot {
    /// A snapshot of an appliance without services, routes or neighbours.
    pub fn empty(ports: Vec<PortConfig>) -> Self {
        Self {
            generation: Generation(0),
            routing_epoch: 0,
            admits: vec![Admits::All; ports.len()].into(),
            ports: ports.into(),
            addresses: Arc::default(),
            services: Arc::default(),
            routes: Arc::default(),
            neighbors: Arc::default(),
            timeouts: Timeouts::default(),
            ended: Arc::default(),
            links_down: 0,
            proofs: Arc::default(),
            acls: Arc::default(),
            host_flows: Arc::default(),
        }
    }

    /// What an address is for, if it is the appliance's.
    #[inline]
    pub fn role(&self, address: IpAddr) -> Option<AddressRole> {
        match self.addresses.get(address) {
            Some(role) => Some(role),
            None => self.services.has_prefix_with(address).then_some(AddressRole::Vip),
        }
    }

    /// Whether hosts' sources may be hidden from an address: some service hides, and the address is none of the
    /// appliance's.
    #[inline]
    pub fn hides_sources_from(&self, destination: IpAddr) -> bool {
        self.services.hides_sources() && self.role(destination).is_none()
    }

    /// The outer source of a tunnel's packets to `server`: `flow` chooses among the tunnel's own addresses, if it
    /// has some; otherwise it is the port's. `None` when no route leads there, or no port has one of its family.
    pub fn outer_source(&self, tunnel: &Tunnel, server: IpAddr, flow: u64) -> Option<IpAddr> {
        let is_of_family = |network: &&Network| Family::of(network.address) == Family::of(server);
        if let Some(network) = tunnel.sources.iter().find(is_of_family) {
            return Some(network.pick(flow));
        }
        let hop = self.routes.lookup(server, 0)?;
        let networks = &self.port(hop.port).networks;
        let nearest = networks.iter().find(|network| network.contains(hop.address));
        nearest.or(networks.iter().find(is_of_family)).map(|own| own.address)
    }

    /// Finds what each port admits: after servers or routes became others.
    pub fn follow_servers(&mut self) {
        let sides = ServerSides::of(self.services.iter(), &self.routes);
        let of = |(at, port): (usize, &PortConfig)| Admits::of(port.source_check, PortId(at as u16), sides);
        self.admits = self.ports.iter().enumerate().map(of).collect();
    }

    /// What a port admits.
    #[inline]
    pub fn admits(&self, port: PortId) -> Admits {
        self.admits.get(usize::from(port.0)).copied().unwrap_or(Admits::All)
    }

    /// Whether any link is down.
    #[inline]
    pub fn has_links_down(&self) -> bool {
        self.links_down != 0
    }

    /// Whether a port's link is down.
    #[inline]
    pub fn is_down(&self, port: PortId) -> bool {
        self.links_down >> (port.0 & 63) & 1 == 1
    }

    /// The port's configuration.
    ///
    /// # Panics
    /// When there is no such port.
    #[inline]
    pub fn port(&self, id: PortId) -> &PortConfig {
        &self.ports[usize::from(id.0)]
    }
}
