//! State per flow: the session, the table that finds it, its TCP state, its local port.
//!
//! One worker owns all of it by value; nothing here is shared or locked.

mod index;
mod local_ports;
mod state;
mod table;

pub use local_ports::{FIRST_PORT, LocalPorts, PORTS_PER_PAIR, Pair};
pub use state::{State, Timeouts};
pub use table::{InsertError, SessionIndex, SessionTable};

use crate::clock::Stamp;
use crate::flow::{Direction, Endpoint, FlowKey, Protocol};
use crate::ids::{LocalId, NeighborId, ServerId, ServiceId};
use crate::wire::Translation;
use std::net::Ipv4Addr;

/// What joins both directions of one client's flow: one cache line.
///
/// The four endpoints are always named in the order client, vip, local, real.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Session {
    client: u32,
    vip: u32,
    local: u32,
    real: u32,
    client_port: u16,
    vip_port: u16,
    local_port: u16,
    real_port: u16,
    /// Checksum differences of the inbound direction; the outbound ones are their complements.
    l3_difference: u16,
    l4_difference: u16,
    /// The real server's slot in the counters.
    pub server: ServerId,
    /// The service's slot in the counters.
    pub service: ServiceId,
    /// Next hop towards the real server, valid within `routing_epoch`.
    pub next_hop_real: NeighborId,
    /// Next hop towards the client, valid within `routing_epoch`.
    pub next_hop_client: NeighborId,
    /// The snapshot's routing epoch in which the next hops were looked up.
    pub routing_epoch: u16,
    /// The local address's slot in the counters.
    pub local_id: LocalId,
    /// When a packet last passed, in either direction.
    pub last_seen: Stamp,
    protocol: Protocol,
    /// Where the session stands; [`State::Free`] marks an unused line.
    pub state: State,
}

// The design counts on one cache line per IPv4 session.
const _: () = assert!(size_of::<Session>() == 64);

/// A session's endpoints and owners, before it is in the table.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who asks.
    pub client: Endpoint,
    /// Whom the client believes to ask.
    pub vip: Endpoint,
    /// Who the server believes asks.
    pub local: Endpoint,
    /// Who answers.
    pub real: Endpoint,
    /// The real server's slot.
    pub server: ServerId,
    /// The service's slot.
    pub service: ServiceId,
    /// The local address's slot.
    pub local_id: LocalId,
}

impl Session {
    const FREE: Self = Self {
        client: 0,
        vip: 0,
        local: 0,
        real: 0,
        client_port: 0,
        vip_port: 0,
        local_port: 0,
        real_port: 0,
        l3_difference: 0,
        l4_difference: 0,
        server: ServerId(0),
        service: ServiceId(0),
        next_hop_real: NeighborId::NONE,
        next_hop_client: NeighborId::NONE,
        routing_epoch: 0,
        local_id: LocalId(0),
        last_seen: Stamp::from_zero(),
        protocol: Protocol::Tcp,
        state: State::Free,
    };

    fn new(new: &NewSession, state: State, now: Stamp) -> Self {
        let inbound = FlowKey::new(new.protocol, new.client, new.vip);
        let (l3_difference, l4_difference) = Translation::differences(inbound, new.local, new.real);
        Self {
            client: new.client.address.to_bits(),
            vip: new.vip.address.to_bits(),
            local: new.local.address.to_bits(),
            real: new.real.address.to_bits(),
            client_port: new.client.l4_port,
            vip_port: new.vip.l4_port,
            local_port: new.local.l4_port,
            real_port: new.real.l4_port,
            l3_difference,
            l4_difference,
            server: new.server,
            service: new.service,
            local_id: new.local_id,
            last_seen: now,
            protocol: new.protocol,
            state,
            ..Self::FREE
        }
    }

    /// TCP or UDP.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The client's endpoint.
    pub fn client(&self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits(self.client), self.client_port)
    }

    /// The endpoint that the client addresses.
    pub fn vip(&self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits(self.vip), self.vip_port)
    }

    /// The director's endpoint towards the real server.
    pub fn local(&self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits(self.local), self.local_port)
    }

    /// The real server's endpoint.
    pub fn real(&self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits(self.real), self.real_port)
    }

    /// The key of packets that arrive in `direction`.
    #[inline]
    pub fn key(&self, direction: Direction) -> FlowKey {
        match direction {
            Direction::Inbound => FlowKey::new(self.protocol, self.client(), self.vip()),
            Direction::Outbound => FlowKey::new(self.protocol, self.real(), self.local()),
        }
    }

    /// What packets that arrive in `direction` become.
    #[inline]
    pub fn translation(&self, direction: Direction) -> Translation {
        match direction {
            Direction::Inbound => Translation {
                source: self.local(),
                destination: self.real(),
                l3_difference: self.l3_difference,
                l4_difference: self.l4_difference,
            },
            Direction::Outbound => Translation {
                source: self.vip(),
                destination: self.client(),
                l3_difference: !self.l3_difference,
                l4_difference: !self.l4_difference,
            },
        }
    }

    /// The local ports that this session's port was taken from.
    pub fn pair(&self) -> Pair {
        Pair { local: self.local().address, real: self.real(), protocol: self.protocol }
    }
}
