//! The world that a worker looks at: built by control, never changed, swapped whole.

mod mailbox;
mod neighbors;
mod routes;

pub use mailbox::{Mailbox, Publisher, mailboxes};
pub use neighbors::{Egress, Neighbor, Neighbors};
pub use routes::{Network, NextHop, Routes};

use crate::flow::{Endpoint, Protocol};
use crate::ids::{Generation, LocalId, PortId, ServerId, ServiceId};
use crate::scheduler::{MaglevTable, Scheduler};
use crate::session::Timeouts;
use crate::wire::LinkTraits;
use hashbrown::DefaultHashBuilder;
use std::collections::HashMap;
use std::net::Ipv4Addr;
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
    pub addresses: Arc<Map<Ipv4Addr, AddressRole>>,
    /// The services.
    pub services: Arc<Services>,
    /// Where packets go next.
    pub routes: Arc<Routes>,
    /// Who is there.
    pub neighbors: Arc<Neighbors>,
    /// How long sessions may be silent.
    pub timeouts: Timeouts,
}

/// A port as the director sees it.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Station address, MTU, and what kind of peer is on the link.
    pub link: LinkTraits,
    /// The appliance's own addresses on this link.
    pub networks: Vec<Network>,
}

/// What one of the appliance's addresses is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// An address of a port.
    Own,
    /// An address that services listen on.
    Vip,
    /// An address that FullNAT uses towards servers; replies come by this port.
    Local(PortId),
}

/// All services, found by what they listen on.
#[derive(Debug, Default)]
pub struct Services {
    by_listen: Map<u64, ServiceIndex>,
    list: Vec<Service>,
    /// Bit per [`ServerId`]: whether a service of this snapshot has the server.
    present: Vec<u64>,
}

/// A service's place in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceIndex(u32);

/// One service: one cache line, because with ten thousand of them each new session meets one that
/// no cache has.
#[derive(Debug)]
#[repr(align(64))]
pub struct Service {
    /// The counters' slot.
    pub id: ServiceId,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What clients connect to.
    pub listen: Endpoint,
    /// How new sessions are spread.
    pub scheduler: Scheduler,
    /// The director's addresses towards the servers.
    /// Services with the same list share it.
    pub locals: Arc<[LocalAddress]>,
    /// The servers, in the order in which they were added.
    pub servers: Box<[RealServer]>,
    /// The table of scheduler `mh`.
    pub maglev: Option<Box<MaglevTable>>,
}

const _: () = assert!(size_of::<Service>() == 64);

/// One of the director's addresses towards servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The counters' slot.
    pub id: LocalId,
    /// The address.
    pub address: Ipv4Addr,
    /// The port by which replies to it come.
    pub port: PortId,
}

/// One real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// The counters' slot.
    pub id: ServerId,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Its share; 0 takes no new sessions.
    pub weight: u32,
}

impl Services {
    /// The services of `list`. Later entries with the same listener are never found.
    pub fn new(list: Vec<Service>) -> Self {
        let mut by_listen = Map::with_capacity_and_hasher(list.len(), DefaultHashBuilder::default());
        let mut present = Vec::new();
        for (at, service) in list.iter().enumerate() {
            by_listen.entry(listen_key(service.protocol, service.listen)).or_insert(ServiceIndex(at as u32));
            for server in &service.servers {
                let id = server.id.0 as usize;
                if present.len() <= id / 64 {
                    present.resize(id / 64 + 1, 0);
                }
                present[id / 64] |= 1 << (id % 64);
            }
        }
        Self { by_listen, list, present }
    }

    /// The service that listens on `listen`.
    #[inline]
    pub fn find(&self, protocol: Protocol, listen: Endpoint) -> Option<&Service> {
        self.index_of(protocol, listen).map(|index| self.at(index))
    }

    /// The place of the service that listens on `listen`.
    #[inline]
    pub fn index_of(&self, protocol: Protocol, listen: Endpoint) -> Option<ServiceIndex> {
        self.by_listen.get(&listen_key(protocol, listen)).copied()
    }

    /// The service in a place of this snapshot.
    ///
    /// # Panics
    /// When `index` is of another snapshot, which may have fewer.
    #[inline]
    pub fn at(&self, index: ServiceIndex) -> &Service {
        &self.list[index.0 as usize]
    }

    /// Every service.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.list.iter()
    }

    /// Whether a service of this snapshot has the server.
    #[inline]
    pub fn has_server(&self, id: ServerId) -> bool {
        self.present.get(id.0 as usize / 64).is_some_and(|bits| bits >> (id.0 % 64) & 1 == 1)
    }
}

/// What a service is found by, in one word.
#[inline]
fn listen_key(protocol: Protocol, listen: Endpoint) -> u64 {
    (protocol as u64) << 48 | u64::from(listen.address.to_bits()) << 16 | u64::from(listen.l4_port)
}

impl Snapshot {
    /// A snapshot of an appliance without services, routes or neighbours.
    pub fn empty(ports: Vec<PortConfig>) -> Self {
        Self {
            generation: Generation(0),
            routing_epoch: 0,
            ports: ports.into(),
            addresses: Arc::default(),
            services: Arc::default(),
            routes: Arc::default(),
            neighbors: Arc::default(),
            timeouts: Timeouts::default(),
        }
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
