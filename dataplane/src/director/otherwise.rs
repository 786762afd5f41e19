//! Packets of sessions that are not forwarded by new addresses of their own family alone: through
//! tunnels, to servers of the other family, and to servers that are told where their clients are.

use super::admit::OnceOnly;
use super::forward::{Next, account, change_state, count_traffic, find_next_hop, next_hop_to, note_connect};
use super::life::is_denied;
use super::side::HasSide;
use super::tell::{self, Told};
use super::{Arrival, Director, Verdicts, check_side};
use crate::drop::DropReason;
use crate::flow::{Direction, Family, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use crate::ids::NeighborId;
use crate::session::{ForwardMode, Needs, SessionIndex, SessionTable, State};
use crate::wire::{
    self, ETHERNET_LEN, Encapsulation, Fragment, IPV4_LEN, IPV6_LEN, Outer, Packet, Translation,
};

impl Director {
    /// The session between families that a packet without session of its own belongs to.
    #[inline]
    pub(super) fn find_across<K: HasSide>(&self, key: K) -> Option<(SessionIndex, Direction)> {
        if K::FAMILY == Family::V6 || self.wide.across == 0 {
            return None;
        }
        let key = key.widen();
        let sessions = &self.wide.sessions;
        sessions.find(key, sessions.hash(key))
    }

    /// [`forward`](Self::forward) by a session between families, which stands in the wide table.
    pub(super) fn forward_across<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        protocol: Protocol,
        found: (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        check_side(self.wide.sessions.get(found.0), found.1, arrival)?;
        if packet.ttl <= 1 {
            return self.ttl_exceeded(frame, packet, arrival, verdicts);
        }
        let session = self.wide.sessions.get_mut(found.0);
        if session.routing_epoch != arrival.world.routing_epoch {
            session.routing_epoch = arrival.world.routing_epoch;
            session.remember_next_hop(Direction::Inbound, NeighborId::NONE);
            session.remember_next_hop(Direction::Outbound, NeighborId::NONE);
            if is_denied(session, arrival.world) {
                self.note_resets::<FlowKey6>(found.0);
                self.end::<FlowKey6>(found.0, arrival.world);
                return Err(DropReason::AclDenied);
            }
        }
        self.forward_otherwise::<FlowKey6, K>(frame, packet, protocol, found, arrival, verdicts)
    }

    /// [`forward`](Self::forward) for sessions whose packets need more, or other, than new addresses:
    /// a packet of family `K` by a session of table `S`. The packet's TTL is above one.
    #[inline(never)]
    pub(super) fn forward_otherwise<S: HasSide, K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        protocol: Protocol,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let (sessions, _) = S::parts(self);
        if let Some(outer) = outer(sessions, index) {
            return self.forward_by_tunnel::<S, K>(frame, packet, (index, &outer), arrival, verdicts);
        }
        if !sessions.is_proven(index) {
            return self.forward_further::<S, K>(
                frame,
                packet,
                protocol,
                (index, direction),
                arrival,
                verdicts,
            );
        }
        let waits = sessions.waits_for_server(index);
        let packet = self.meet_proven::<S, K>(frame, packet, (index, direction), arrival)?;
        let sent =
            self.forward_further::<S, K>(frame, &packet, protocol, (index, direction), arrival, verdicts);
        if waits && packet.flags.syn() {
            let (sessions, stats) = S::parts(self);
            change_state(sessions.get_mut(index), State::SynSent, stats);
        }
        sent
    }

    /// [`forward_otherwise`](Self::forward_otherwise), but for tunnels. Numbers of a server are the client's already.
    fn forward_further<S: HasSide, K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        protocol: Protocol,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let (sessions, stats) = S::parts(self);
        let session = sessions.get_mut(index);
        let next = match arrival.world.neighbors.egress(session.next_hop(direction)) {
            Some(egress) => Next::Known(egress),
            None => {
                note_connect(session, packet, direction, arrival, stats);
                find_next_hop(session, direction, arrival.world)?
            }
        };
        let link_mtu = arrival.world.port(next.port()).link.mtu;
        let crosses = S::FAMILY == Family::V6 && session.changes_family();
        let (server, client) = (session.server, session.client());
        let options = arrival.world.services.of_server(server).map(|service| &service.options);
        let how = options.and_then(|options| options.client_address);
        // What the sender must not exceed, so that the packet fits after what is done to it.
        let mtu = match (crosses, K::FAMILY) {
            (true, Family::V4) => link_mtu - (IPV6_LEN - IPV4_LEN) as u16,
            (true, Family::V6) => link_mtu.saturating_add((IPV6_LEN - IPV4_LEN) as u16),
            (false, _) => link_mtu,
        };
        let overhead = tell::datagram_overhead(how, client.address, protocol, direction);
        let most = mtu.saturating_sub(overhead);
        let fit = self.fit_across(frame, packet, crosses, link_mtu);
        let most = match (fit.piece, K::FAMILY) {
            (None, _) => most,
            (Some(_), Family::V4) => most.saturating_sub(wire::FRAGMENT_LEN as u16),
            (Some(_), Family::V6) => most.saturating_add(wire::FRAGMENT_LEN as u16),
        };
        if packet.total_len > most && !(fit.cut && how.is_none()) {
            let sessions = &S::side(self).sessions;
            if direction == Direction::Outbound && sessions.is_proven(index) {
                // The server is told of its segment by its own number.
                let back = sessions.proven(index).shift.sequence.wrapping_neg();
                wire::advance_sequence(frame.bytes_mut(), usize::from(packet.l4), back);
            }
            return self.exceeds_mtu(frame, packet, most, arrival, verdicts);
        }
        let (sessions, stats) = S::parts(self);
        let session = sessions.get_mut(index);
        account(session, (frame.bytes(), packet, protocol), direction, arrival.stamp, stats);
        if session.needs.has(Needs::WATCHED) {
            sessions.add_bytes(index, packet.total_len);
            if packet.flags.ack() && protocol == Protocol::Tcp {
                let (_, acknowledged) = wire::numbers(frame.bytes(), packet);
                sessions.set_acknowledged(index, direction, acknowledged);
            }
        }
        let told = match how {
            Some(how) => {
                let found = (&mut *sessions, index);
                tell::prepare(frame, packet, (protocol, direction), found, how, mtu, stats)?
            }
            None => Told::Nothing,
        };
        // The later pieces have their places already.
        let told = if fit.piece.is_some() { Told::Nothing } else { told };
        // Telling may have changed the offset.
        let session = sessions.get(index);
        let to = session.translation(direction);
        let (shift, bare) = (session.sequence_offset, session.needs.has(Needs::WITHOUT_TIMESTAMP));
        if shift != 0 {
            wire::shift_sequence(frame.bytes_mut(), packet, direction, shift, bare);
        }
        if direction == Direction::Inbound && sessions.is_proven(index) {
            wire::shift_to_other_side(frame.bytes_mut(), packet, direction, &sessions.proven(index).shift);
        }
        let family = if crosses {
            K::cross(frame, packet, protocol, &to.widen(), fit.piece)?;
            if K::FAMILY == Family::V4 { Family::V6 } else { Family::V4 }
        } else {
            // The session is of the packet's family, and so is its key.
            let key = K::of_wide(to.key.widen()).ok_or(DropReason::NotForUs)?;
            let Translation { l3_difference, l4_difference, .. } = to;
            K::translate(
                frame.bytes_mut(),
                packet,
                protocol,
                &Translation { key, l3_difference, l4_difference },
            );
            K::FAMILY
        };
        let l4 = if crosses { ETHERNET_LEN + header_len(family) } else { usize::from(packet.l4) };
        tell::tell(&told, frame, (family, l4, protocol), client, link_mtu, stats)?;
        if fit.cut {
            self.cut_to_fit(frame, &next, link_mtu)?;
        }
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// What becomes of a packet's pieces where packets change their family: IPv6 keeps in a header of its own
    /// what IPv4 has in its first.
    pub(super) fn fit_across<K: HasSide>(
        &self,
        frame: &Frame<'_>,
        packet: &Packet<K>,
        crosses: bool,
        link_mtu: u16,
    ) -> Fit {
        let is_piece = crosses && K::is_fragment(frame.bytes());
        let longer = IPV6_LEN - IPV4_LEN + if is_piece { wire::FRAGMENT_LEN } else { 0 };
        let cut = crosses
            && K::FAMILY == Family::V4
            && usize::from(packet.total_len) + longer > usize::from(link_mtu)
            && !K::dont_fragment(frame.bytes());
        Fit { piece: (is_piece || cut).then(|| K::fragment(frame.bytes(), packet)), cut }
    }
}

/// How a packet is to change its family.
pub(super) struct Fit {
    /// The piece that it is, or becomes.
    pub(super) piece: Option<Fragment>,
    /// Whether it must be cut.
    pub(super) cut: bool,
}

impl Director {
    /// Puts a client's packet inside another, for the server that unpacks it.
    #[inline(always)]
    fn forward_by_tunnel<S: HasSide, K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        (index, outer): (SessionIndex, &Outer),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let (sessions, stats) = S::parts(self);
        let session = sessions.get_mut(index);
        let next = match arrival.world.neighbors.egress(session.next_hop(Direction::Inbound)) {
            Some(egress) => Next::Known(egress),
            None => find_next_hop(session, Direction::Inbound, arrival.world)?,
        };
        // What the sender must not exceed, so that the packet fits after what is done to it.
        let mtu = arrival.world.port(next.port()).link.mtu.saturating_sub(outer.overhead());
        let is_too_long = packet.total_len > mtu;
        if is_too_long && K::dont_fragment(frame.bytes()) {
            return self.exceeds_mtu(frame, packet, mtu, arrival, verdicts);
        }
        let protocol = session.protocol();
        account(session, (frame.bytes(), packet, protocol), Direction::Inbound, arrival.stamp, stats);
        self.enter_tunnel::<K>(frame, &next, outer, is_too_long.then_some(mtu))?;
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// Takes one from a packet's TTL and puts it inside another; before that cuts it to `mtu`, if that is given.
    #[inline(always)]
    pub(super) fn enter_tunnel<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        next: &Next<'_>,
        outer: &Outer,
        mtu: Option<u16>,
    ) -> Result<(), DropReason> {
        K::hop(frame.bytes_mut());
        if let Some(mtu) = mtu {
            self.cut_for_tunnel(frame, next, outer, mtu)?;
        }
        if wire::encapsulate(frame, K::FAMILY, outer) { Ok(()) } else { Err(DropReason::NoHeadroom) }
    }
}

/// Bytes of a family's header without options or extensions.
fn header_len(family: Family) -> usize {
    match family {
        Family::V4 => IPV4_LEN,
        Family::V6 => IPV6_LEN,
    }
}

impl Director {
    /// Sends a packet on its way that leaves no session.
    pub(super) fn forward_once<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        way: &OnceOnly,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let (_, next) = next_hop_to(way.address, 0, arrival.world)?;
        let overhead = way.tunnel.map_or(0, |outer| outer.overhead());
        let mtu = arrival.world.port(next.port()).link.mtu.saturating_sub(overhead);
        if packet.total_len > mtu {
            return self.exceeds_mtu(frame, packet, mtu, arrival, verdicts);
        }
        let counters = self.stats.server(way.server);
        counters.sessions_created.add(1);
        count_traffic(packet.total_len, Direction::Inbound, counters);
        K::hop(frame.bytes_mut());
        if way.tunnel.is_some_and(|outer| !wire::encapsulate(frame, K::FAMILY, &outer)) {
            return Err(DropReason::NoHeadroom);
        }
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }
}

/// The outer side of a tunnelled session's packets: its local endpoint stands for the source, and for
/// the kind of tunnel.
pub(super) fn outer<K: Key>(sessions: &SessionTable<K>, index: SessionIndex) -> Option<Outer> {
    let session = sessions.get(index);
    if session.mode != ForwardMode::Tunnel {
        return None;
    }
    let local = session.local();
    let encapsulation = Encapsulation::from_number(local.l4_port);
    let flow = match encapsulation {
        Encapsulation::Gue(_) => sessions.hash(session.key(Direction::Inbound)),
        Encapsulation::Ipip | Encapsulation::Gre => 0,
    };
    Some(Outer {
        source: local.address,
        destination: session.real().address,
        encapsulation,
        // An ephemeral port (RFC 6335 §6), as the sources of GUE are.
        entropy: 0xc000 | flow as u16,
    })
}
