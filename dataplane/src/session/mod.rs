//! State per flow: the session, the table that finds it, its TCP state, its local port.
//!
//! One worker owns all of it by value; nothing here is shared or locked.

mod fragments;
mod index;
mod local_ports;
mod numbers;
mod proven;
mod record;
mod state;
mod table;
mod tags;
mod templates;

pub use fragments::{DatagramId, DatagramKey, Fragments, HELD_MAX, Settled, Step};
pub use local_ports::{LocalPorts, PORTS_PER_PAIR, Pair, PairIndex, Taken};
pub use numbers::{FIN_ROOM, QUOTE_ROOM, RESET_ROOM};
pub use proven::Proven;
pub use record::SessionRecord;
pub use state::{Seen, State, Timeouts, Unproven};
pub use table::{Candidate, InsertError, Lines, SessionIndex, SessionTable, Watch};
pub use templates::{Persistence, Templates};

use crate::clock::Stamp;
use crate::flow::{Direction, Endpoint, Family, FlowKey, FlowKey6, Key, Protocol};
use crate::ids::{LocalId, NeighborId, ServerId};
use crate::wire::{Encapsulation, Plain, Translation, differences};
use std::net::IpAddr;

/// How packets of a service reach its servers, and what the servers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ForwardMode {
    /// Both addresses are rewritten: the server sees a local address.
    FullNat,
    /// The destination is rewritten: the server sees the client, and answers through Sluice.
    Nat,
    /// Nothing but the Ethernet header changes: the server has the VIP, and answers the client itself.
    DirectRoute,
    /// The packet goes whole inside another: the server has the VIP, and answers the client itself.
    Tunnel,
    /// The source is rewritten: hosts inside a network reach servers outside by the director's address.
    Snat,
}

impl ForwardMode {
    /// Every mode.
    pub const ALL: [Self; 5] = [Self::FullNat, Self::Nat, Self::DirectRoute, Self::Tunnel, Self::Snat];

    /// The name in configuration and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FullNat => "fullnat",
            Self::Nat => "nat",
            Self::DirectRoute => "dr",
            Self::Tunnel => "tunnel",
            Self::Snat => "snat",
        }
    }

    /// Whether answers pass through Sluice too.
    #[inline]
    pub const fn sees_answers(self) -> bool {
        matches!(self, Self::FullNat | Self::Nat | Self::Snat)
    }
}

/// What a session's packets need besides new addresses; a few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs(u8);

impl Needs {
    /// New addresses are all, or not even those.
    pub const NOTHING: Self = Self(0);
    /// They take the longer way.
    pub const MORE: Self = Self(1);
    /// The client's SYN loses its timestamp.
    pub const WITHOUT_TIMESTAMP: Self = Self(2);
    /// The session ends by its service's own timeouts.
    pub const OWN_TIMEOUTS: Self = Self(4);
    /// Its client is remembered by a template.
    pub const TEMPLATE: Self = Self(8);
    /// The server is still to be told where the client is.
    pub const ADDRESS: Self = Self(16);
    /// They are looked at one by one to the end ([`Watch`]).
    pub const WATCHED: Self = Self(32);
    /// They are not translated: nothing but the Ethernet header changes.
    pub const UNTRANSLATED: Self = Self(64);
    /// They go through a tunnel of IPv4 in IPv4 with nothing between, which the short way knows.
    pub const IPIP: Self = Self(128);
    /// They keep their own addresses.
    pub const AS_IT_IS: Self = Self(Self::UNTRANSLATED.0 | Self::IPIP.0);

    /// Whether `need` is among them.
    #[inline]
    pub const fn has(self, need: Self) -> bool {
        self.0 & need.0 != 0
    }

    /// Adds a need.
    #[inline]
    pub const fn add(&mut self, need: Self) {
        self.0 |= need.0;
    }

    /// Takes a need away.
    #[inline]
    pub const fn remove(&mut self, need: Self) {
        self.0 &= !need.0;
    }
}

/// What joins both directions of one client's flow: one cache line, or two with IPv6 addresses.
///
/// The four endpoints are always named in the order client, vip, local, real. They stand as the
/// two keys under which the session is found, so that a lookup compares two words.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Session<K> {
    /// By [`Direction`]: client -> vip, real -> local.
    keys: [K; 2],
    /// Checksum differences of the inbound direction, as little-endian numbers (RFC 1071 §2 B); the
    /// outbound ones are their complements.
    l3_difference: u16,
    l4_difference: u16,
    /// What is added to the client's TCP sequence numbers; 0: they pass as they are.
    pub sequence_offset: u32,
    /// The real server's slot in the counters.
    pub server: ServerId,
    /// Next hop of packets by [`Direction`], valid within `routing_epoch`: towards the real
    /// server, and towards the client.
    next_hops: [NeighborId; 2],
    /// By [`Direction`]: the upper half of what the last segment acknowledged of those in the other direction, as it
    /// stands on the wire ([`numbers`]).
    acknowledged: [[u8; 2]; 2],
    /// When a packet last passed, in either direction.
    pub last_seen: Stamp,
    /// The snapshot's routing epoch in which the next hops were looked up.
    pub routing_epoch: u16,
    /// The local address's slot in the counters; [`LocalId::NONE`] where the session holds no port.
    pub local_id: LocalId,
    /// What leaves the state as it is: of the client in the lower half, of the server in the upper.
    ignores: u8,
    /// Where the session stands; [`State::Free`] marks an unused line. `ignores` follows it.
    state: State,
    /// What becomes of its packets.
    pub mode: ForwardMode,
    /// What else its packets need.
    pub needs: Needs,
}

// The design counts on one cache line per IPv4 session.
const _: () = assert!(size_of::<Session<FlowKey>>() == 64 && size_of::<Session<FlowKey6>>() == 128);

/// A session's endpoints and owners, before it is in the table.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<K> {
    /// What becomes of its packets.
    pub mode: ForwardMode,
    /// From the client to the endpoint that it believes to ask.
    pub inbound: K,
    /// From the server to the endpoint that it believes asks; the latter is of no importance where the
    /// server's answers do not come here.
    pub outbound: K,
    /// The real server's slot.
    pub server: ServerId,
    /// The local address's slot, where a port was taken.
    pub local_id: LocalId,
    /// The snapshot's routing epoch.
    pub routing_epoch: u16,
    /// The next hop of the client's packets, if it is known.
    pub next_hop: NeighborId,
}

impl<K: Key> NewSession<K> {
    /// Whether its packets change from one family to the other.
    #[inline]
    pub fn changes_family(&self) -> bool {
        changes_family(self.inbound, self.outbound)
    }
}

impl<K: Key> Session<K> {
    const FREE: Self = Self {
        keys: [K::NONE; 2],
        l3_difference: 0,
        l4_difference: 0,
        sequence_offset: 0,
        server: ServerId(0),
        next_hops: [NeighborId::NONE; 2],
        acknowledged: [numbers::UNKNOWN; 2],
        last_seen: Stamp::from_zero(),
        routing_epoch: 0,
        local_id: LocalId::NONE,
        ignores: 0,
        state: State::Free,
        mode: ForwardMode::FullNat,
        needs: Needs::NOTHING,
    };

    fn new(new: &NewSession<K>, state: State, now: Stamp) -> Self {
        let NewSession { inbound, outbound, .. } = *new;
        let (l3_difference, l4_difference) = differences(inbound, outbound.reversed());
        let is_plain = new.mode != ForwardMode::Tunnel && !new.changes_family();
        let mut needs = if is_plain { Needs::NOTHING } else { Needs::MORE };
        match new.mode {
            ForwardMode::DirectRoute => needs.add(Needs::UNTRANSLATED),
            ForwardMode::Tunnel if K::FAMILY == Family::V4 && is_ipip(outbound) => needs.add(Needs::IPIP),
            _ => {}
        }
        let mut session = Self {
            keys: [inbound, outbound],
            l3_difference: l3_difference.swap_bytes(),
            l4_difference: l4_difference.swap_bytes(),
            server: new.server,
            local_id: new.local_id,
            last_seen: now,
            routing_epoch: new.routing_epoch,
            next_hops: [new.next_hop, NeighborId::NONE],
            state,
            mode: new.mode,
            needs,
            ..Self::FREE
        };
        session.set_state(state);
        session
    }

    /// Where it stands.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// Moves it to a state.
    pub fn set_state(&mut self, state: State) {
        let sees_answers = self.mode.sees_answers();
        let ignores = |way| state.ignores(Seen::of(way, sees_answers));
        self.ignores = ignores(Direction::Inbound) | ignores(Direction::Outbound) << 4;
        self.state = state;
    }

    /// Whether a plain packet that arrives in `direction` leaves the state as it is.
    #[inline(always)]
    pub fn ignores(&self, plain: Plain, direction: Direction) -> bool {
        let of_direction = 0x0f ^ 0_u8.wrapping_sub(direction as u8);
        plain.among(self.ignores) & of_direction != 0
    }

    /// Its key of packets that arrive in the other direction: what those in `direction` become, turned round; and
    /// what that does to their checksums, as little-endian numbers.
    #[inline(always)]
    pub fn other_side(&self, direction: Direction) -> (K, u16, u16) {
        // All ones for the way back, whose differences are complements.
        let flip = 0_u16.wrapping_sub(direction as u16);
        (self.keys[1 - direction as usize], self.l3_difference ^ flip, self.l4_difference ^ flip)
    }

    /// Its transport protocol, or that of pings.
    pub fn protocol(&self) -> Protocol {
        self.keys[0].protocol()
    }

    /// The client's endpoint.
    pub fn client(&self) -> Endpoint {
        self.keys[0].source()
    }

    /// The endpoint that the client addresses.
    pub fn vip(&self) -> Endpoint {
        self.keys[0].destination()
    }

    /// The director's endpoint towards the real server.
    pub fn local(&self) -> Endpoint {
        self.keys[1].destination()
    }

    /// The real server's endpoint.
    pub fn real(&self) -> Endpoint {
        self.keys[1].source()
    }

    /// The key of packets that arrive in `direction`.
    #[inline]
    pub fn key(&self, direction: Direction) -> K {
        self.keys[direction as usize]
    }

    /// The directions in which its packets come.
    #[inline]
    pub fn directions(&self) -> &'static [Direction] {
        if self.mode.sees_answers() {
            &[Direction::Inbound, Direction::Outbound]
        } else {
            &[Direction::Inbound]
        }
    }

    /// Whom packets that arrive in `direction` are for.
    pub fn destination(&self, direction: Direction) -> IpAddr {
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
    pub fn translation(&self, direction: Direction) -> Translation<K> {
        let (key, l3, l4) = self.other_side(direction);
        Translation { key: key.reversed(), l3_difference: l3.swap_bytes(), l4_difference: l4.swap_bytes() }
    }

    /// Whether its packets change from one family to the other.
    pub fn changes_family(&self) -> bool {
        changes_family(self.keys[0], self.keys[1])
    }

    /// Lets its packets take the short way, if new addresses are all that they need from now on.
    pub fn settle(&mut self) {
        if !self.changes_family() && !self.needs.has(Needs::WATCHED) {
            self.needs.remove(Needs::MORE);
        }
    }

    /// The key of the pair that this session's port was taken from: the server's replies', but for the
    /// port, which is zero.
    #[inline]
    pub fn pair(&self) -> K {
        self.keys[1].with_destination_port(0)
    }
}

/// Whether a tunnel has nothing between its headers: its encapsulation stands where the local port would.
fn is_ipip<K: Key>(outbound: K) -> bool {
    outbound.destination().l4_port == Encapsulation::Ipip.number()
}

/// Whether the ends of a session with these keys are of different families.
#[inline]
fn changes_family<K: Key>(inbound: K, outbound: K) -> bool {
    let family = |key: K| Family::of(key.source().address);
    K::FAMILY == Family::V6 && family(inbound) != family(outbound)
}
