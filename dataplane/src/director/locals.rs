//! The endpoint that a server sees: a local address and port, the client's own, or one of a pool's.

use super::admit::Admitted;
use super::side::HasSide;
use super::{Arrival, Director};
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, Family, Key, Protocol};
use crate::ids::{LocalId, PortId, ServerId};
use crate::session::{NewSession, PORTS_PER_PAIR, SessionIndex, Taken};
use crate::snapshot::{LocalAddress, RealServer, Service, Snapshot};
use crate::steering::{FIRST_PORT, Region, Seat};
use std::net::IpAddr;

/// A local endpoint for a new session.
pub(super) struct Local<L> {
    pub(super) id: LocalId,
    /// The key of the server's answers to it.
    pub(super) answers: L,
    pub(super) taken: Taken,
}

impl<L: Key> Local<L> {
    fn new(id: LocalId, pair: L, taken: Taken) -> Self {
        Self { id, answers: pair.with_destination_port(taken.l4_port), taken }
    }
}

/// Ports looked at, oldest first, for a session that can make room: one that is closed or unproven.
const RECYCLE_TRIES: usize = 16;
/// Ports tried where nobody keeps account of them; with nine of ten in use one is found but for once
/// in a thousand.
const PORT_TRIES: usize = 64;
/// A prime number of ports from one try to the next, so that they do not all fall below [`FIRST_PORT`].
const PORT_STEP: usize = 5_869;

impl Director {
    /// A local endpoint towards `real` that no session uses, from the service's local
    /// addresses in turn. When none is left, the oldest session that is closed or unproven makes room.
    pub(super) fn take_local<L: HasSide>(
        &mut self,
        service: &Service,
        protocol: Protocol,
        real: Endpoint,
        world: &Snapshot,
    ) -> Option<Local<L>> {
        let count = service.locals.len();
        let first = self.cursors[service.id.0 as usize].turn(count);
        let locals = (0..count).map(|step| service.locals[(first + step) % count]);
        let pair = |local| L::new(protocol, real, Endpoint::new(local, 0));
        let locals = locals.filter(|local| Family::of(local.address) == L::FAMILY);
        for LocalAddress { id, address, port } in locals.clone() {
            let pair = pair(address);
            if let Some(taken) = L::side_mut(self).local_ports.take(pair, port) {
                return Some(Local::new(id, pair, taken));
            }
        }
        for LocalAddress { id, address, port } in locals {
            let pair = pair(address);
            if self.recycle::<L>(pair, world)
                && let Some(taken) = L::side_mut(self).local_ports.take(pair, port)
            {
                return Some(Local::new(id, pair, taken));
            }
        }
        None
    }

    /// Ends one closed or unproven session of `pair`, trying those whose ports were given out longest ago.
    fn recycle<L: HasSide>(&mut self, pair: L, world: &Snapshot) -> bool {
        for _ in 0..RECYCLE_TRIES {
            let Some(l4_port) = L::side_mut(self).local_ports.oldest(pair) else { return false };
            let answers = pair.with_destination_port(l4_port);
            if self.end_yielding(answers, world) || self.end_yielding(answers.widen(), world) {
                return true;
            }
            L::side_mut(self).local_ports.skip(pair);
        }
        false
    }

    /// Ends the session whose answers have this key, if it is closed or unproven.
    fn end_yielding<K: HasSide>(&mut self, answers: K, world: &Snapshot) -> bool {
        let Some(index) = self.find_yielding(answers) else { return false };
        let is_closed = K::side(self).sessions.get(index).state().is_closed();
        let count = if is_closed { &self.stats.sessions_recycled } else { &self.stats.sessions_displaced };
        count.add(1);
        self.end::<K>(index, world);
        true
    }

    /// The session whose answers have this key, if it is closed or unproven.
    fn find_yielding<K: HasSide>(&self, answers: K) -> Option<SessionIndex> {
        let sessions = &K::side(self).sessions;
        match sessions.find(answers, sessions.hash(answers)) {
            Some((index, Direction::Outbound)) => {
                let session = sessions.get(index);
                (session.state().is_closed() || session.unproven().is_some()).then_some(index)
            }
            Some(_) | None => None,
        }
    }

    /// Makes a session whose server sees the client's address, and the client's port too if answers
    /// to it come to this worker: another port otherwise.
    pub(super) fn open_by_client<K: HasSide>(
        &mut self,
        new: &mut NewSession<K>,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let real = new.outbound.source().address;
        let port = self.port_of_answers::<K>(new.inbound.protocol(), real, arrival.world)?;
        self.open_from(new, arrival, new.inbound.source().address, port)
    }

    /// The port by which answers of a server that sees clients' addresses come, where it matters.
    fn port_of_answers<K: HasSide>(
        &self,
        protocol: Protocol,
        real: IpAddr,
        world: &Snapshot,
    ) -> Result<Option<PortId>, DropReason> {
        let towards = world.routes.lookup(real, 0).ok_or(DropReason::NoRoute)?;
        // Otherwise the client's address tells the owner of both directions: any port will do.
        Ok(self.seat.steering.predicts_ports::<K>(protocol).then_some(towards.port))
    }

    /// Makes a session of a host inside, which servers outside see as one of the service's addresses:
    /// always the same one, as long as it has ports (RFC 4787 §4.1).
    pub(super) fn open_from_pool<K: HasSide>(
        &mut self,
        service: &Service,
        new: &mut NewSession<K>,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let (count, first) = self.place_in_pool(service, new.inbound);
        for step in 0..count {
            let Some((local, server)) = pool::<K>(service).nth((first + step) % count) else { break };
            (new.local_id, new.server) = (local.id, server.id);
            match self.open_from(new, arrival, local.address, Some(local.port)) {
                Err(DropReason::LocalPortsExhausted) => {}
                made => return made,
            }
        }
        Err(DropReason::LocalPortsExhausted)
    }

    /// How many addresses of a pool are of the family, and which of them a host has first.
    fn place_in_pool<K: HasSide>(&self, service: &Service, inbound: K) -> (usize, usize) {
        let count = pool::<K>(service).count();
        let host = Endpoint { l4_port: 0, ..inbound.source() };
        let hash = K::side(self).sessions.hash(K::new(inbound.protocol(), host, host));
        (count, ((hash >> 32) as usize).checked_rem(count).unwrap_or(0))
    }

    /// The local endpoint that [`take_local`](Self::take_local) would give, and the family in whose table a session would
    /// make room for it.
    pub(super) fn foresee_local<L: HasSide>(
        &self,
        service: &Service,
        protocol: Protocol,
        real: Endpoint,
    ) -> Option<(Endpoint, Option<Family>)> {
        let count = service.locals.len();
        let first = self.cursors[service.id.0 as usize].clone().turn(count);
        let locals = (0..count).map(|step| service.locals[(first + step) % count]);
        let locals = locals.filter(|local| Family::of(local.address) == L::FAMILY);
        let pair = |address| L::new(protocol, real, Endpoint::new(address, 0));
        let ports = &L::side(self).local_ports;
        let free = locals.clone().find_map(|LocalAddress { address, port, .. }| {
            Some((Endpoint::new(address, ports.peek(pair(address), port)?), None))
        });
        free.or_else(|| {
            locals.clone().find_map(|LocalAddress { address, .. }| {
                let pair = pair(address);
                ports.oldest_ones(pair).take(RECYCLE_TRIES).find_map(|l4_port| {
                    let answers = pair.with_destination_port(l4_port);
                    let family = match self.find_yielding(answers) {
                        Some(_) => L::FAMILY,
                        None => self.find_yielding(answers.widen()).map(|_| Family::V6)?,
                    };
                    Some((Endpoint::new(address, l4_port), Some(family)))
                })
            })
        })
    }

    /// The endpoint of the client's own address that [`open_by_client`](Self::open_by_client) would take.
    pub(super) fn foresee_by_client<K: HasSide>(
        &self,
        inbound: K,
        real: Endpoint,
        ends: Option<SessionIndex>,
        world: &Snapshot,
    ) -> Result<Endpoint, DropReason> {
        let port = self.port_of_answers::<K>(inbound.protocol(), real.address, world)?;
        self.foresee_from(inbound, real, (inbound.source().address, port), ends)
            .ok_or(DropReason::LocalPortsExhausted)
    }

    /// The endpoint of a pool that [`open_from_pool`](Self::open_from_pool) would take, and whose it is.
    pub(super) fn foresee_from_pool<K: HasSide>(
        &self,
        service: &Service,
        inbound: K,
        real: Endpoint,
        ends: Option<SessionIndex>,
    ) -> Option<(Endpoint, ServerId)> {
        let (count, first) = self.place_in_pool(service, inbound);
        (0..count).find_map(|step| {
            let (local, server) = pool::<K>(service).nth((first + step) % count)?;
            Some((self.foresee_from(inbound, real, (local.address, Some(local.port)), ends)?, server.id))
        })
    }

    /// The port of an address that [`open_from`](Self::open_from) would take once a session `ends`.
    fn foresee_from<K: HasSide>(
        &self,
        inbound: K,
        real: Endpoint,
        (address, port): (IpAddr, Option<PortId>),
        ends: Option<SessionIndex>,
    ) -> Option<Endpoint> {
        let sessions = &K::side(self).sessions;
        let answers = K::new(inbound.protocol(), real, Endpoint::new(address, 0));
        let ports = OwnPorts::new::<K>(&self.seat, port, answers);
        let start = sessions.hash(inbound) as usize;
        (0..=PORT_TRIES).find_map(|attempt| {
            let l4_port = ports.attempt(&self.seat, answers, inbound.source().l4_port, start, attempt)?;
            let key = answers.with_destination_port(l4_port);
            let user = sessions.find(key, sessions.hash(key)).filter(|(index, _)| Some(*index) != ends);
            user.is_none().then(|| Endpoint::new(address, l4_port))
        })
    }

    /// Makes a session from a port of `address` that no session uses towards the server: the client's
    /// own first. Answers come by `port`, where it matters which worker gets them.
    fn open_from<K: HasSide>(
        &mut self,
        new: &mut NewSession<K>,
        arrival: &Arrival<'_>,
        address: IpAddr,
        port: Option<PortId>,
    ) -> Result<Admitted, DropReason> {
        let answers = K::new(new.inbound.protocol(), new.outbound.source(), Endpoint::new(address, 0));
        let ports = OwnPorts::new::<K>(&self.seat, port, answers);
        let client_port = new.inbound.source().l4_port;
        let start = K::side(self).sessions.hash(new.inbound) as usize;
        for attempt in 0..=PORT_TRIES {
            let Some(l4_port) = ports.attempt(&self.seat, answers, client_port, start, attempt) else {
                continue;
            };
            new.outbound = answers.with_destination_port(l4_port);
            match self.insert(new, arrival) {
                Err(DropReason::LocalPortsExhausted) => {}
                Err(reason) => return Err(reason),
                Ok(index) => {
                    return Ok(Admitted { index, across: false, ports_before: 0, port_again: false });
                }
            }
        }
        Err(DropReason::LocalPortsExhausted)
    }
}

/// A pool's addresses of a family, and what counts for each.
fn pool<K: Key>(service: &Service) -> impl Iterator<Item = (&LocalAddress, &RealServer)> {
    let all = service.locals.iter().zip(service.servers.iter());
    all.filter(|(local, _)| Family::of(local.address) == K::FAMILY)
}

/// The ports to which answers come to this worker, where nobody keeps account of them.
enum OwnPorts {
    /// All: every worker finds the owner otherwise.
    All,
    /// Those of a port's plan, in a region of it.
    Planned { port: PortId, region: Region, len: usize },
}

impl OwnPorts {
    fn new<K: Key>(seat: &Seat, port: Option<PortId>, answers: K) -> Self {
        let Some(port) = port.filter(|_| seat.steering.workers > 1) else { return Self::All };
        let plan = &seat.steering.port(port).plan;
        let region = plan.region(answers);
        Self::Planned { port, region, len: plan.space::<K>(answers.protocol()).len(seat.worker, region) }
    }

    /// Whether answers with this key come to this worker.
    fn has<K: Key>(&self, seat: &Seat, answers: K) -> bool {
        match self {
            Self::All => true,
            Self::Planned { port, .. } => seat.steering.port(*port).plan.owner(answers) == seat.worker,
        }
    }

    /// The port that is tried as the one of number `attempt`: the client's own first, then others from `start` on.
    fn attempt<K: Key>(
        &self,
        seat: &Seat,
        answers: K,
        client_port: u16,
        start: usize,
        attempt: usize,
    ) -> Option<u16> {
        match attempt {
            0 => self.has(seat, answers.with_destination_port(client_port)).then_some(client_port),
            _ => self.at::<K>(seat, answers.protocol(), start.wrapping_add(attempt * PORT_STEP)),
        }
    }

    /// One of the ports, counted round; `None` for one that is never given out.
    fn at<K: Key>(&self, seat: &Seat, protocol: Protocol, number: usize) -> Option<u16> {
        let l4_port = match self {
            Self::All => FIRST_PORT + (number % PORTS_PER_PAIR) as u16,
            Self::Planned { len: 0, .. } => return None,
            Self::Planned { port, region, len } => seat
                .steering
                .port(*port)
                .plan
                .space::<K>(protocol)
                .l4_port(seat.worker, *region, number % len),
        };
        (l4_port >= FIRST_PORT).then_some(l4_port)
    }
}
