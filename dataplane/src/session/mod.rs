//! State per flow: the session, the table that finds it, its TCP state, its local port.
//!
//! One worker owns all of it by value; nothing here is shared or locked.

mod index;
mod local_ports;
mod state;
mod table;
mod tags;

pub use local_ports::{LocalPorts, PORTS_PER_PAIR, Pair, PairIndex, Taken};
pub use state::{State, Timeouts};
pub use table::{Candidate, InsertError, SessionIndex, SessionTable};

use crate::clock::Stamp;
use crate::flow::{Direction, Endpoint, FlowKey, Protocol};
use crate::ids::{LocalId, NeighborId, ServerId};
use crate::wire::Translation;
use std::net::Ipv4Addr;

/// What joins both directions of one client's flow: one cache line.
///
/// The four endpoints are always named in the order client, vip, local, real. They stand as the
/// two keys under which the session is found, so that a lookup compares two words.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Session {
    /// client -> vip
    inbound: FlowKey,
    /// real -> local
    outbound: FlowKey,
    /// Checksum differences of the inbound direction; the outbound ones are their complements.
    l3_difference: u16,
    l4_difference: u16,
    /// What is added to the client's TCP sequence numbers; 0: they pass as they are.
    pub sequence_offset: u32,
    /// The real server's slot in the counters.
    pub server: ServerId,
    /// Next hop of packets by [`Direction`], valid within `routing_epoch`: towards the real
    /// server, and towards the client.
    next_hops: [NeighborId; 2],
    /// When a packet last passed, in either direction.
    pub last_seen: Stamp,
    /// The snapshot's routing epoch in which the next hops were looked up.
    pub routing_epoch: u16,
    /// The local address's slot in the counters.
    pub local_id: LocalId,
    /// Where the session stands; [`State::Free`] marks an unused line.
    pub state: State,
    /// Whether the client's SYN loses its timestamp.
    pub without_timestamp: bool,
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
    /// The local address's slot.
    pub local_id: LocalId,
}

impl Session {
    const FREE: Self = Self {
        inbound: FlowKey::NONE,
        outbound: FlowKey::NONE,
        l3_difference: 0,
        l4_difference: 0,
        sequence_offset: 0,
        server: ServerId(0),
        next_hops: [NeighborId::NONE; 2],
        last_seen: Stamp::from_zero(),
        routing_epoch: 0,
        local_id: LocalId(0),
        state: State::Free,
        without_timestamp: false,
    };

    fn new(new: &NewSession, state: State, now: Stamp) -> Self {
        let inbound = FlowKey::new(new.protocol, new.client, new.vip);
        let outbound = FlowKey::new(new.protocol, new.real, new.local);
        let (l3_difference, l4_difference) = Translation::differences(inbound, outbound.reversed());
        Self {
            inbound,
            outbound,
            l3_difference,
            l4_difference,
            server: new.server,
            local_id: new.local_id,
            last_seen: now,
            state,
            ..Self::FREE
        }
    }

    /// TCP or UDP.
    pub fn protocol(&self) -> Protocol {
        self.inbound.protocol()
    }

    /// The client's endpoint.
    pub fn client(&self) -> Endpoint {
        self.inbound.source()
    }

    /// The endpoint that the client addresses.
    pub fn vip(&self) -> Endpoint {
        self.inbound.destination()
    }

    /// The director's endpoint towards the real server.
    pub fn local(&self) -> Endpoint {
        self.outbound.destination()
    }

    /// The real server's endpoint.
    pub fn real(&self) -> Endpoint {
        self.outbound.source()
    }

    /// The key of packets that arrive in `direction`.
    #[inline]
    pub fn key(&self, direction: Direction) -> FlowKey {
        match direction {
            Direction::Inbound => self.inbound,
            Direction::Outbound => self.outbound,
        }
    }

    /// Whom packets that arrive in `direction` are for.
    pub fn destination(&self, direction: Direction) -> Ipv4Addr {
        match direction {
            Direction::Inbound => self.real().address,
            Direction::Outbound => self.client().address,
        }
    }

    /// The next hop of packets that arrive in `direction`, if it is known.
    #[inline]
    pub fn next_hop(&self, direction: Direction) -> NeighborId {
        self.next_hops[direction as usize]
    }

    /// Remembers the next hop of packets that arrive in `direction`.
    pub fn remember_next_hop(&mut self, direction: Direction, id: NeighborId) {
        self.next_hops[direction as usize] = id;
    }

    /// What packets that arrive in `direction` become.
    #[inline]
    pub fn translation(&self, direction: Direction) -> Translation {
        match direction {
            Direction::Inbound => Translation {
                key: self.outbound.reversed(),
                l3_difference: self.l3_difference,
                l4_difference: self.l4_difference,
            },
            Direction::Outbound => Translation {
                key: self.inbound.reversed(),
                l3_difference: !self.l3_difference,
                l4_difference: !self.l4_difference,
            },
        }
    }

    /// The local ports that this session's port was taken from.
    pub fn pair(&self) -> Pair {
        Pair { local: self.local().address, real: self.real(), protocol: self.protocol() }
    }
}
