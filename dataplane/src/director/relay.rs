//! ICMP errors about packets of sessions, on their way to whom they concern (RFC 5508).
//!
//! The error comes to the address that Sluice sent from, so nothing but its quoted packet tells whose
//! it is. Routers between Sluice and the servers are not known to clients: the error gets the VIP as
//! its source, and towards the server the local address.

use super::forward::next_hop_to;
use super::otherwise::outer;
use super::side::HasSide;
use super::tell::datagram_overhead;
use super::{Arrival, Director, Staged, Verdicts, check_side};
use crate::drop::DropReason;
use crate::flow::{Direction, Family, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use crate::ids::WorkerId;
use crate::session::{ForwardMode, QUOTE_ROOM, Session, SessionIndex, SessionTable};
use crate::snapshot::AddressRole;
use crate::steering::Clients;
use crate::wire::{self, Packet};
use std::net::IpAddr;

/// Links with a smaller MTU (RFC 791 allows 68) are gone. Old routers tell none, as zero (RFC 1191 §5).
const SMALLEST_MTU: u32 = 576;
/// No link of IPv6 has a smaller MTU (RFC 8200 §5).
const SMALLEST_MTU_IPV6: u32 = 1_280;

/// Refuses an error about a segment that was not sent. It comes from the side of the segment's receiver.
fn check_quote<S: Key, K: Key>(
    frame: &[u8],
    packet: &Packet<K>,
    protocol: Protocol,
    session: &Session<S>,
    direction: Direction,
) -> Result<(), DropReason> {
    match wire::quoted_sequence(frame, packet).filter(|_| protocol == Protocol::Tcp) {
        Some(sequence) if !session.is_within(direction.turned(), sequence, QUOTE_ROOM) => {
            Err(DropReason::IcmpOutOfWindow)
        }
        _ => Ok(()),
    }
}

/// What was added to the sequence number of a segment about which an error comes in `direction`.
fn moved<S: Key>(sessions: &SessionTable<S>, index: SessionIndex, direction: Direction) -> u32 {
    match direction {
        Direction::Outbound => sessions.get(index).sequence_offset,
        Direction::Inbound if sessions.is_proven(index) => sessions.proven(index).shift.sequence,
        Direction::Inbound => 0,
    }
}

impl Director {
    /// Passes an error on to the client or the server whose packet it is about.
    #[cold]
    pub(super) fn relay_error<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        protocol: Protocol,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let packet = &stage.packet;
        let smallest = match K::FAMILY {
            Family::V4 => SMALLEST_MTU,
            Family::V6 => SMALLEST_MTU_IPV6,
        };
        if wire::told_mtu(frame.bytes(), packet).is_some_and(|mtu| mtu != 0 && mtu < smallest) {
            return Err(DropReason::IcmpMtu);
        }
        let sessions = &K::side(self).sessions;
        let known = sessions.confirm(packet.key, stage.candidate);
        let Some((index, direction)) = known.or_else(|| sessions.find(packet.key, stage.hash)) else {
            if let Some(found) = self.find_across(packet.key) {
                check_side(self.wide.sessions.get(found.0), found.1, arrival)?;
                return self.relay_across(frame, packet, protocol, found, arrival, verdicts);
            }
            let owner =
                self.owner_of(stage, arrival).or_else(|| self.next_to_ask(packet.destination(), arrival));
            return self.hand_over(owner.ok_or(DropReason::IcmpNoSession)?, arrival, verdicts);
        };
        // Nobody is told about the end of an error (RFC 1122 §3.2.2).
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let session = sessions.get(index);
        check_side(session, direction, arrival)?;
        if K::FAMILY == Family::V6 && session.changes_family() {
            return self.relay_across(frame, packet, protocol, (index, direction), arrival, verdicts);
        }
        if !session.mode.sees_answers() {
            return self.pass_error_on::<K, K>(frame, packet, index, arrival, verdicts);
        }
        check_quote(frame.bytes(), packet, protocol, session, direction)?;
        let (_, next) = next_hop_to(session.destination(direction), 0, arrival.world)?;
        if packet.total_len > arrival.world.port(next.port()).link.mtu {
            return Err(DropReason::ExceedsMtu);
        }
        let moved = moved(sessions, index, direction);
        // Who sees the other end's own address may see its routers' too.
        let keep_source = matches!(
            (session.mode, direction),
            (ForwardMode::Nat, Direction::Inbound) | (ForwardMode::Snat, Direction::Outbound)
        );
        let to = session.translation(direction);
        self.lower_mtu::<K, K>(frame, packet, protocol, (index, direction), arrival);
        K::relay_error(frame.bytes_mut(), packet, protocol, &to, moved, keep_source);
        self.stats.icmp_relayed.add(1);
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// Passes an error on to an end of the other family.
    fn relay_across<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        protocol: Protocol,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let session = self.wide.sessions.get(index);
        if !session.mode.sees_answers() {
            // The server got the client's packet in a tunnel of the other family.
            return self.pass_error_on::<FlowKey6, K>(frame, packet, index, arrival, verdicts);
        }
        check_quote(frame.bytes(), packet, protocol, session, direction)?;
        let (_, next) = next_hop_to(session.destination(direction), 0, arrival.world)?;
        let moved = moved(&self.wide.sessions, index, direction);
        let to = session.translation(direction);
        self.lower_mtu::<FlowKey6, K>(frame, packet, protocol, (index, direction), arrival);
        K::cross_error(frame, packet, protocol, &to, moved)?;
        self.stats.icmp_relayed.add(1);
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// A client whose datagrams grow on their way to the server must send smaller ones than fit there.
    fn lower_mtu<S: HasSide, K: HasSide>(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        protocol: Protocol,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
    ) {
        let session = S::side(self).sessions.get(index);
        let service = arrival.world.services.of_server(session.server);
        let how = service.and_then(|service| service.options.client_address);
        // An error that comes from the server's side is about the client's packets.
        let overhead = datagram_overhead(how, session.client().address, protocol, direction.turned());
        if overhead > 0 {
            wire::lower_told_mtu(frame.bytes_mut(), packet, overhead);
        }
    }

    /// Passes an error on, as it is, to the server that has the VIP itself.
    fn pass_error_on<S: HasSide, K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        index: SessionIndex,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let sessions = &S::side(self).sessions;
        let session = sessions.get(index);
        let (_, next) = next_hop_to(session.destination(Direction::Inbound), 0, arrival.world)?;
        let tunnel = outer(sessions, index);
        let overhead = tunnel.map_or(0, |outer| outer.overhead());
        if packet.total_len + overhead > arrival.world.port(next.port()).link.mtu {
            return Err(DropReason::ExceedsMtu);
        }
        match tunnel {
            Some(outer) => self.enter_tunnel::<K>(frame, &next, &outer, None)?,
            None => K::hop(frame.bytes_mut()),
        }
        self.stats.icmp_relayed.add(1);
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// The worker that is asked next for the session of an error from a client's side, where a client's
    /// session is its receiver's and nobody else knows whose: all in their order, each once.
    fn next_to_ask(&self, destination: IpAddr, arrival: &Arrival<'_>) -> Option<WorkerId> {
        let steering = &self.seat.steering;
        let is_known = steering.port(arrival.from).clients != Clients::Receiver
            || arrival.world.role(destination) != Some(AddressRole::Vip);
        let me = self.seat.worker.0;
        let next = match (arrival.handed, me) {
            (true, _) => me + 1,
            // Worker 0 need not ask itself.
            (false, 0) => 1,
            (false, _) => 0,
        };
        (!is_known && next < steering.workers).then_some(WorkerId(next))
    }
}
