//! Packets of sessions that are not forwarded by new addresses of their own family: to servers that have
//! the VIP themselves, on the link or behind a tunnel, and to servers of the other family.

use super::admit::OnceOnly;
use super::forward::{Next, account, count_traffic, find_next_hop, next_hop_to};
use super::side::HasSide;
use super::{Arrival, Director, Verdicts};
use crate::drop::DropReason;
use crate::flow::{Direction, Family, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use crate::ids::NeighborId;
use crate::session::{ForwardMode, Needs, SessionIndex, SessionTable};
use crate::wire::{self, Encapsulation, IPV4_LEN, IPV6_LEN, Outer, Packet};

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
        if packet.ttl <= 1 {
            return self.ttl_exceeded(frame, packet, arrival, verdicts);
        }
        let session = self.wide.sessions.get_mut(found.0);
        if session.routing_epoch != arrival.world.routing_epoch {
            session.routing_epoch = arrival.world.routing_epoch;
            session.remember_next_hop(Direction::Inbound, NeighborId::NONE);
            session.remember_next_hop(Direction::Outbound, NeighborId::NONE);
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
        let (sessions, stats) = S::parts(self);
        let tunnel = outer(sessions, index);
        let session = sessions.get_mut(index);
        let next = match arrival.world.neighbors.egress(session.next_hop(direction)) {
            Some(egress) => Next::Known(egress),
            None => find_next_hop(session, direction, arrival.world)?,
        };
        let link_mtu = arrival.world.port(next.port()).link.mtu;
        let crosses = tunnel.is_none() && session.mode.sees_answers();
        // What the sender must not exceed, so that the packet fits after what is done to it.
        let mtu = match tunnel {
            Some(outer) => link_mtu.saturating_sub(outer.overhead()),
            None if crosses && K::FAMILY == Family::V4 => link_mtu - (IPV6_LEN - IPV4_LEN) as u16,
            None if crosses => link_mtu.saturating_add((IPV6_LEN - IPV4_LEN) as u16),
            None => link_mtu,
        };
        if packet.total_len > mtu {
            return self.exceeds_mtu(frame, packet, mtu, arrival, verdicts);
        }
        account(session, packet, protocol, direction, arrival.stamp, stats.server(session.server));
        let done = if crosses {
            if session.sequence_offset != 0 {
                let bare = session.needs.has(Needs::WITHOUT_TIMESTAMP);
                wire::shift_sequence(frame.bytes_mut(), packet, direction, session.sequence_offset, bare);
            }
            K::cross(frame, packet, protocol, &session.translation(direction).widen())
        } else {
            K::hop(frame.bytes_mut());
            tunnel.is_none_or(|outer| wire::encapsulate(frame, K::FAMILY, &outer))
        };
        if !done {
            return Err(DropReason::NoHeadroom);
        }
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
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
        count_traffic(packet, Direction::Inbound, counters);
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
