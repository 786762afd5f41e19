//! A session's beginning, its new beginning, and its end.

use super::admit::{Admitted, NotAdmitted, service_for};
use super::side::HasSide;
use super::{Arrival, Director, Staged, Verdicts, unproven};
use crate::clock::{Instant, Stamp};
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, Family, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use crate::ids::{LocalId, NeighborId, ServerId};
use crate::session::{Needs, Session, SessionIndex, Watch};
use crate::snapshot::{AclAction, Snapshot, Standing};
use crate::stats::{DURATION_MS, SIZE_BYTES};
use crate::wire::{self, Packet};

impl Director {
    /// Makes a session for a packet that has none, and sends the packet on its way.
    #[inline(never)]
    pub(super) fn begin<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        protocol: Protocol,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let packet = &stage.packet;
        if let Some((index, direction)) = self.find_across(packet.key) {
            let is_over = self.wide.sessions.get(index).state().is_closed();
            if !(is_over && packet.flags.opens() && direction == Direction::Inbound) {
                return self.forward_across(frame, packet, protocol, (index, direction), arrival, verdicts);
            }
            // As in `reconsider`.
            self.stats.sessions_recycled.add(1);
            self.end::<FlowKey6>(index, arrival.world);
        }
        if let Some(owner) = self.owner_of(stage, arrival) {
            return self.hand_over(owner, arrival, verdicts);
        }
        if !arrival.world.acls.is_empty() {
            self.ask_lists(stage, protocol, arrival.world)?;
        }
        if let Some(service) = self.wants_proof(stage, protocol, arrival.world) {
            return self.prove(frame, stage, service, arrival, verdicts);
        }
        match self.admit(stage, protocol, arrival) {
            Ok(Admitted { index, across, ports_before, port_again }) => {
                let found = (index, Direction::Inbound);
                let opens = protocol == Protocol::Tcp && packet.flags.opens();
                self.note_asked(stage, protocol, arrival.world);
                let changes = opens && ports_before >= CONNECTIONS_UNCHANGED;
                if across {
                    if changes {
                        self.choose_sequence::<FlowKey6, K>(frame, packet, index, port_again, arrival.now);
                    }
                    return self.forward_across(frame, packet, protocol, found, arrival, verdicts);
                }
                if changes {
                    self.choose_sequence::<K, K>(frame, packet, index, port_again, arrival.now);
                }
                self.forward(frame, packet, protocol, found, arrival, verdicts)
            }
            Err(NotAdmitted::Once(way)) => self.forward_once(frame, packet, &way, arrival, verdicts),
            Err(NotAdmitted::Refused(DropReason::TtlExceeded)) => {
                self.ttl_exceeded(frame, packet, arrival, verdicts)
            }
            Err(NotAdmitted::Refused(reason)) => Err(reason),
        }
    }

    /// Asks the lists of addresses whether a packet's client may have a session.
    #[inline(never)]
    fn ask_lists<K: HasSide>(
        &self,
        stage: &Staged<K>,
        protocol: Protocol,
        world: &Snapshot,
    ) -> Result<(), DropReason> {
        let Ok(service) = service_for(stage, protocol, world) else { return Ok(()) };
        let Some(list) = world.acls.find(Some(service.id), stage.packet.source()) else { return Ok(()) };
        self.stats.acl_hits(list.id).add(1);
        match list.action {
            AclAction::Allow => Ok(()),
            AclAction::Deny => Err(DropReason::AclDenied),
        }
    }

    /// Gives a connection a sequence number that is later than any of an older connection from the
    /// same local port.
    pub(super) fn choose_sequence<S: HasSide, K: HasSide>(
        &mut self,
        frame: &Frame<'_>,
        packet: &Packet<K>,
        index: SessionIndex,
        port_again: bool,
        now: Instant,
    ) {
        let answers = S::side(self).sessions.get(index).key(Direction::Outbound);
        let initial = self.sequences.initial(answers, now);
        let offset = initial.wrapping_sub(wire::sequence_number(frame.bytes(), packet));
        let session = S::side_mut(self).sessions.get_mut(index);
        session.sequence_offset = offset;
        if port_again {
            session.needs.add(Needs::WITHOUT_TIMESTAMP);
        }
    }

    /// Forwards by a session that the world or the client may have left behind, or begins anew.
    #[inline(never)]
    pub(super) fn reconsider<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        protocol: Protocol,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let (packet, world) = (&stage.packet, arrival.world);
        let session = K::side_mut(self).sessions.get_mut(index);
        // The client uses its port again: schedule anew instead of waiting for a timeout.
        if packet.flags.opens() && direction == Direction::Inbound && session.state().is_closed() {
            self.stats.sessions_recycled.add(1);
            self.end::<K>(index, world);
            return self.begin(frame, stage, protocol, arrival, verdicts);
        }
        if session.routing_epoch != world.routing_epoch {
            session.routing_epoch = world.routing_epoch;
            session.remember_next_hop(Direction::Inbound, NeighborId::NONE);
            session.remember_next_hop(Direction::Outbound, NeighborId::NONE);
            let (server, vip) = (session.server, session.vip());
            let is_denied = is_denied(session, world);
            if is_denied || !may_go_on(server, protocol, vip, world) {
                self.note_resets::<K>(index);
                self.end::<K>(index, world);
                return self.begin(frame, stage, protocol, arrival, verdicts);
            }
        }
        self.forward(frame, packet, protocol, (index, direction), arrival, verdicts)
    }

    /// Takes a session out of the table and gives back what it held.
    pub(super) fn end<K: HasSide>(&mut self, index: SessionIndex, world: &Snapshot) {
        let sessions = &mut K::side_mut(self).sessions;
        let watch = sessions.get(index).needs.has(Needs::WATCHED).then(|| sessions.watch(index));
        let session = sessions.remove(index);
        if session.local_id != LocalId::NONE {
            self.release_port(session.pair(), session.key(Direction::Outbound).port_word() as u16);
            self.stats.local_ports_used(session.local_id).decrement();
        }
        if K::FAMILY == Family::V6 && session.changes_family() {
            K::side_mut(self).across -= 1;
        }
        if let Some(kind) = session.unproven() {
            unproven::gauge(&self.stats, kind, K::FAMILY).decrement();
        }
        self.stats.sessions_live.decrement();
        if K::FAMILY == Family::V6 {
            self.stats.sessions_live_ipv6.decrement();
        }
        let counters = self.stats.server(session.server);
        if session.state().is_active() {
            counters.sessions_active.decrement();
        } else {
            counters.sessions_inactive.decrement();
        }
        if let Some(watch) = watch.filter(|watch| watch.counts) {
            self.count_session(&watch, session.last_seen, session.server, world);
        }
        self.note_end(&session, world);
    }

    /// Counts how long a session lasted and what it carried; the time in which it was forgotten is no part of it.
    #[cold]
    fn count_session(&self, watch: &Watch, last_seen: Stamp, server: ServerId, world: &Snapshot) {
        if let Some(service) = world.services.of_server(server) {
            let millis = u64::from(last_seen.millis_since(watch.begun));
            self.stats.session_durations(service.id).note(millis, &DURATION_MS);
            self.stats.session_sizes(service.id).note(watch.bytes, &SIZE_BYTES);
        }
    }

    /// Gives back a local port. Sessions between families have theirs from the servers' family.
    pub(super) fn release_port<K: HasSide>(&mut self, pair: K, l4_port: u16) {
        match K::FAMILY {
            Family::V4 => K::side_mut(self).local_ports.release(pair, l4_port),
            Family::V6 => match pair.widen().narrow() {
                Some(pair) => self.narrow.local_ports.release(pair, l4_port),
                None => K::side_mut(self).local_ports.release(pair, l4_port),
            },
        }
    }
}

/// Whether a session may go on in a new world. Datagrams must not follow a server that was removed, or does not
/// answer; connections go on, unless the service wants them to end, or the server's time to drain is over.
pub(super) fn may_go_on(server: ServerId, protocol: Protocol, vip: Endpoint, world: &Snapshot) -> bool {
    match world.services.of_server(server) {
        Some(service) => {
            let known = service.servers.iter().find(|other| other.id == server);
            match known.map_or(Standing::Quiescent, |server| server.standing) {
                Standing::Serving => true,
                Standing::Down if protocol == Protocol::Udp => false,
                Standing::Quiescent | Standing::Down => !service.options.expire_quiescent,
            }
        }
        None if protocol == Protocol::Udp || world.ended.binary_search(&server).is_ok() => false,
        None => !world.services.find(protocol, vip).is_some_and(|service| service.options.expire_quiescent),
    }
}

/// Whether a list denies a session's client, since the list was another. Where its service is gone those for all are asked.
pub(super) fn is_denied<K: Key>(session: &Session<K>, world: &Snapshot) -> bool {
    if world.acls.is_empty() {
        return false;
    }
    let services = &world.services;
    let service = services
        .of_server(session.server)
        .or_else(|| services.find(session.protocol(), session.vip()))
        .map(|service| service.id);
    world.acls.deny(service, session.client().address)
}

/// First connections between a local address and a server that keep the client's sequence
/// numbers. Where there is little traffic nothing needs to be changed, and captures of both
/// sides agree; these few ports come again after 64,448 others.
pub(super) const CONNECTIONS_UNCHANGED: u32 = 64;
