//! The endpoint that a server sees: a local address and port, or the client's own.

use super::admit::Admitted;
use super::side::HasSide;
use super::{Arrival, Director};
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, FlowKey6, Key};
use crate::ids::LocalId;
use crate::session::{NewSession, Pair, Taken};
use crate::snapshot::{LocalAddress, Service};
use crate::steering::FIRST_PORT;
use crate::wire::Packet;
use std::net::IpAddr;

/// A local endpoint for a new session.
pub(super) struct Local {
    pub(super) id: LocalId,
    pub(super) address: IpAddr,
    pub(super) taken: Taken,
}

/// Ports looked at, oldest first, for a closed session that can make room.
const RECYCLE_TRIES: usize = 16;
/// Ports tried where nobody keeps account of them; with nine of ten in use one is found but for once
/// in a thousand.
const PORT_TRIES: usize = 64;

impl Director {
    /// A local endpoint towards `real` that no session uses, from the service's local
    /// addresses in turn. When none is left, the oldest closed session makes room.
    pub(super) fn take_local<L: HasSide>(&mut self, service: &Service, real: Endpoint) -> Option<Local> {
        let count = service.locals.len();
        let first = self.cursors[service.id.0 as usize].turn(count);
        let locals = (0..count).map(|step| service.locals[(first + step) % count]);
        let pair = |local| Pair { local, real, protocol: service.protocol };
        for LocalAddress { id, address, port } in locals.clone() {
            if let Some(taken) = L::side_mut(self).local_ports.take(pair(address), port) {
                return Some(Local { id, address, taken });
            }
        }
        for LocalAddress { id, address, port } in locals {
            if self.recycle::<L>(pair(address))
                && let Some(taken) = L::side_mut(self).local_ports.take(pair(address), port)
            {
                return Some(Local { id, address, taken });
            }
        }
        None
    }

    /// Ends one closed session of `pair`, trying those whose ports were given out longest ago.
    fn recycle<L: HasSide>(&mut self, pair: Pair) -> bool {
        for _ in 0..RECYCLE_TRIES {
            let Some(l4_port) = L::side_mut(self).local_ports.oldest(pair) else { return false };
            let local = Endpoint::new(pair.local, l4_port);
            if self.end_closed::<L>(L::new(pair.protocol, pair.real, local))
                || self.end_closed(FlowKey6::new(pair.protocol, pair.real, local))
            {
                return true;
            }
            L::side_mut(self).local_ports.skip(pair);
        }
        false
    }

    /// Ends the session whose answers have this key, if it is closed.
    fn end_closed<K: HasSide>(&mut self, answers: K) -> bool {
        let sessions = &K::side(self).sessions;
        match sessions.find(answers, sessions.hash(answers)) {
            Some((index, Direction::Outbound)) if sessions.get(index).state.is_closed() => {
                self.stats.sessions_recycled.add(1);
                self.end::<K>(index);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Makes a session whose server sees the client's address, and the client's port too if answers
    /// to it come to this worker: another port otherwise.
    pub(super) fn open_by_client_port<K: HasSide>(
        &mut self,
        new: &mut NewSession,
        packet: &Packet<K>,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let towards = arrival.world.routes.lookup(new.real.address, 0).ok_or(DropReason::NoRoute)?;
        let client = packet.key.source();
        let answers = K::new(new.protocol, new.real, Endpoint { l4_port: 0, ..client });
        let (steering, me) = (&self.seat.steering, self.seat.worker);
        let plan = &steering.port(towards.port).plan;
        let by_client = !steering.predicts_ports::<K>(new.protocol);
        let (space, region) = (plan.space::<K>(new.protocol), plan.region(answers));
        let len = space.len(me, region);
        let admitted = |index| Admitted { index, across: false, ports_before: 0, port_again: false };
        if by_client || plan.owner(answers.with_destination_port(client.l4_port)) == me {
            new.local = client;
            match self.insert(new, packet, arrival.stamp) {
                Err(DropReason::LocalPortsExhausted) if !by_client => {}
                made => return made.map(admitted),
            }
        }
        if len == 0 {
            return Err(DropReason::LocalPortsExhausted);
        }
        let start = K::side(self).sessions.hash(packet.key) as usize % len;
        for number in (0..len.min(PORT_TRIES)).map(|step| (start + step) % len) {
            let space = self.seat.steering.port(towards.port).plan.space::<K>(new.protocol);
            let l4_port = space.l4_port(me, region, number);
            if l4_port < FIRST_PORT {
                continue;
            }
            new.local = Endpoint { l4_port, ..client };
            match self.insert(new, packet, arrival.stamp) {
                Err(DropReason::LocalPortsExhausted) => {}
                made => return made.map(admitted),
            }
        }
        Err(DropReason::LocalPortsExhausted)
    }
}
