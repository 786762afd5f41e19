//! Packets of sessions: the state they lead to, what they become, where they go.

use super::side::HasSide;
use super::{Arrival, Director, Group, Verdict, Verdicts, unproven};
use crate::clock::Stamp;
use crate::drop::DropReason;
use crate::flow::{Direction, Key, Protocol};
use crate::frame::{Frame, GROUP};
use crate::ids::{NeighborId, PortId};
use crate::session::{ForwardMode, Lines, Needs, Seen, Session, SessionIndex, State, Unproven};
use crate::snapshot::{Admits, Egress, Egresses, NextHop, Snapshot};
use crate::stats::{CONNECT_MS, Counter, ServerCounters, WorkerStats};
use crate::wire::{self, Heads, IPV4_LEN, Packet, Wire};
use std::net::IpAddr;

impl Director {
    /// Sends a group's plain packets from place `from` on their way, as long as nothing but what almost every packet
    /// needs is to be done; returns the place of the first that needs more, which is unchanged.
    ///
    /// Without calls, and with everything that packets share taken out before, so that what it works with stays in
    /// registers.
    #[inline(always)]
    pub(super) fn pass<K: HasSide, const BY_ROUTE: bool>(
        &mut self,
        frames: &mut [Frame<'_>],
        group: &Group<K>,
        from: usize,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> usize {
        let (sessions, stats) = K::parts(self);
        let mut pass = Pass {
            lines: sessions.lines(),
            egresses: arrival.world.neighbors.egresses(),
            servers: stats.servers(),
            stamp: arrival.stamp,
            epoch: arrival.world.routing_epoch,
            from: arrival.from,
            admits: arrival.admits,
            longest_tunneled: arrival.longest_plain.saturating_sub(IPV4_LEN as u16),
        };
        let (mut at, mut reported) = (from, from);
        // No port has this number.
        let mut by = u32::MAX;
        let count = frames.len().min(GROUP);
        while at < count {
            let Some(port) = pass.one::<BY_ROUTE>(&mut frames[at], group, at) else { break };
            if by != u32::from(port.0) {
                verdicts.push_transmit(PortId(by as u16), at - reported);
                (by, reported) = (u32::from(port.0), at);
            }
            at += 1;
        }
        verdicts.push_transmit(PortId(by as u16), at - reported);
        at
    }

    /// Sends a packet of a session on its way.
    #[inline(always)]
    pub(super) fn forward<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        protocol: Protocol,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        if packet.ttl <= 1 {
            return self.ttl_exceeded(frame, packet, arrival, verdicts);
        }
        let (sessions, stats) = K::parts(self);
        let session = sessions.get_mut(index);
        if session.needs.has(Needs::MORE) {
            return self.forward_otherwise::<K, K>(
                frame,
                packet,
                protocol,
                (index, direction),
                arrival,
                verdicts,
            );
        }
        let next = match arrival.world.neighbors.egress(session.next_hop(direction)) {
            Some(egress) => Next::Known(egress),
            None => {
                note_connect(session, packet, direction, arrival, stats);
                find_next_hop(session, direction, arrival.world)?
            }
        };
        if packet.total_len > arrival.smallest_mtu {
            let mtu = arrival.world.port(next.port()).link.mtu;
            if packet.total_len > mtu {
                return self.exceeds_mtu(frame, packet, mtu, arrival, verdicts);
            }
        }
        account(session, (frame.bytes(), packet, protocol), direction, arrival.stamp, stats);
        let bytes = frame.bytes_mut();
        match next {
            Next::Known(egress) => {
                rewrite(bytes, packet, protocol, session, direction);
                wire::set_ethernet(bytes, &egress.header);
                verdicts.push(Verdict::Transmit(egress.port));
            }
            Next::Unresolved(hop) => {
                rewrite_aside(bytes, packet, protocol, session, direction);
                verdicts.push(Verdict::Await(hop));
            }
        }
        Ok(())
    }
}

/// What packets that pass share.
struct Pass<'p, K> {
    lines: Lines<'p, K>,
    egresses: Egresses<'p>,
    servers: &'p [ServerCounters],
    stamp: Stamp,
    epoch: u16,
    /// By which the packets came, and what it admits.
    from: PortId,
    admits: Admits,
    /// The longest packet that fits every port with another header in front.
    longest_tunneled: u16,
}

impl<K: HasSide> Pass<'_, K> {
    /// Sends a packet on its way, if that is all there is to be done.
    ///
    /// Two loops over a group, first all questions and then all work, take 13 instructions more and no less time: what
    /// the questions found must be found again.
    #[inline(always)]
    fn one<const BY_ROUTE: bool>(
        &mut self,
        frame: &mut Frame<'_>,
        group: &Group<K>,
        at: usize,
    ) -> Option<PortId> {
        let Heads { keys, total_lens, plain } = &group.heads;
        let (session, direction) = self.lines.confirm(keys[at], group.candidates[at])?;
        if session.routing_epoch != self.epoch || !session.ignores(plain[at], direction) {
            return None;
        }
        let enters_tunnel = || {
            session.needs.has(Needs::IPIP)
                && total_lens[at] <= self.longest_tunneled
                && frame.headroom() >= IPV4_LEN
        };
        if session.needs.has(Needs::MORE) && !enters_tunnel() {
            return None;
        }
        if BY_ROUTE && self.admits.asks(direction) {
            // The way back leads to the sender; where there are several the longer way looks at all.
            let back = self.egresses.get(session.next_hop(direction.turned()))?;
            if back.port != self.from {
                return None;
            }
        }
        let egress = self.egresses.get(session.next_hop(direction))?;
        let counters = self.servers.get(session.server.0 as usize)?;
        let to = session.other_side(direction);
        session.last_seen = self.stamp;
        count_traffic(total_lens[at], direction, counters);
        if session.needs.has(Needs::AS_IT_IS) {
            // Of a datagram it means nothing.
            if let Some(upper) = K::upper_half_of_sequence(frame) {
                session.note_sent(upper);
            }
            if session.needs.has(Needs::IPIP) {
                K::enter_tunnel(frame, session.key(Direction::Outbound), &egress.header);
            } else {
                K::hop_plain(frame, &egress.header);
            }
            return Some(egress.port);
        }
        let is_segment = keys[at].protocol() == Protocol::Tcp;
        K::translate_plain(frame, is_segment, to, &egress.header, session.acknowledged_mut(direction));
        if is_segment && session.sequence_offset != 0 {
            let packet = group.heads.packet(at, frame);
            let (offset, bare) = (session.sequence_offset, session.needs.has(Needs::WITHOUT_TIMESTAMP));
            wire::shift_sequence(frame.bytes_mut(), &packet, direction, offset, bare);
        }
        Some(egress.port)
    }
}

/// Keeps a session's state, its time and its server's counters up with a packet.
#[inline(always)]
pub(super) fn account<S: Key, K: Key>(
    session: &mut Session<S>,
    (frame, packet, protocol): (&[u8], &Packet<K>, Protocol),
    direction: Direction,
    stamp: Stamp,
    stats: &WorkerStats,
) {
    let counters = stats.server(session.server);
    let state = match protocol {
        Protocol::Tcp => session.follow(&wire::segment(frame, packet), direction).unwrap_or_else(|| {
            stats.segments_out_of_window.add(1);
            session.state()
        }),
        _ => session.state().after(packet.flags, Seen::of(direction, session.mode.sees_answers())),
    };
    session.last_seen = stamp;
    if state != session.state() {
        if session.state() == State::SynRecv && direction == Direction::Outbound && packet.flags.rst() {
            counters.failures.add(1);
        }
        change_state(session, state, stats);
    }
    count_traffic(packet.total_len, direction, counters);
}

/// Counts a connection that its server answers. For packets whose way is not known yet: an answer's is looked up
/// once for each session.
#[inline(never)]
pub(super) fn note_connect<S: Key, K: Key>(
    session: &Session<S>,
    packet: &Packet<K>,
    direction: Direction,
    arrival: &Arrival<'_>,
    stats: &WorkerStats,
) {
    let answers = packet.flags.syn() && packet.flags.ack();
    let is_asked = matches!(session.state(), State::SynRecv | State::SynSent);
    if answers && direction == Direction::Outbound && is_asked {
        let counters = stats.connects(session.server);
        counters.answered.add(1);
        let millis = u64::from(arrival.stamp.millis_since(session.last_seen));
        counters.waited_ms.add(millis);
        if let Some(service) = arrival.world.services.of_server(session.server) {
            stats.connect_times(service.id).note(millis, &CONNECT_MS);
        }
    }
}

/// Counts a packet of a server's.
#[inline(always)]
pub(super) fn count_traffic(total_len: u16, direction: Direction, counters: &ServerCounters) {
    let (packets, bytes) = counters.traffic(direction);
    packets.add(1);
    bytes.add(u64::from(total_len));
}

/// Turns a packet into what it is on the session's other side, but for the Ethernet header.
#[inline(always)]
fn rewrite<K: Wire>(
    frame: &mut [u8],
    packet: &Packet<K>,
    protocol: Protocol,
    session: &Session<K>,
    direction: Direction,
) {
    if session.mode == ForwardMode::DirectRoute {
        return K::hop(frame);
    }
    K::translate(frame, packet, protocol, &session.translation(direction));
    if session.sequence_offset != 0 {
        let (offset, bare) = (session.sequence_offset, session.needs.has(Needs::WITHOUT_TIMESTAMP));
        wire::shift_sequence(frame, packet, direction, offset, bare);
    }
}

/// [`rewrite`] for packets that must wait: kept out of the way of those that need not.
#[inline(never)]
fn rewrite_aside<K: Wire>(
    frame: &mut [u8],
    packet: &Packet<K>,
    protocol: Protocol,
    session: &Session<K>,
    direction: Direction,
) {
    rewrite(frame, packet, protocol, session, direction);
}

/// Moves a session to another state, and to other gauges if that counts differently.
#[inline(never)]
pub(super) fn change_state<K: Key>(session: &mut Session<K>, state: State, stats: &WorkerStats) {
    let counters = stats.server(session.server);
    fn gauge(state: State, counters: &ServerCounters) -> &Counter {
        if state.is_active() { &counters.sessions_active } else { &counters.sessions_inactive }
    }
    gauge(session.state(), counters).decrement();
    gauge(state, counters).add(1);
    let before = session.unproven();
    session.set_state(state);
    let after = session.unproven();
    if before == Some(Unproven::HalfOpen) && state == State::Established {
        stats.connects(session.server).finished.add(1);
    }
    if before != after {
        if let Some(kind) = before {
            unproven::gauge(stats, kind, K::FAMILY).decrement();
        }
        if let Some(kind) = after {
            unproven::gauge(stats, kind, K::FAMILY).add(1);
        }
    }
}

/// Where a packet goes, and whether its Ethernet header is known.
pub(super) enum Next<'a> {
    Known(&'a Egress),
    Unresolved(NextHop),
}

impl Next<'_> {
    pub(super) fn port(&self) -> PortId {
        match self {
            Self::Known(egress) => egress.port,
            Self::Unresolved(hop) => hop.port,
        }
    }

    /// Completes the frame and says what to do with it.
    pub(super) fn send(&self, frame: &mut [u8]) -> Verdict {
        match self {
            Self::Known(egress) => {
                wire::set_ethernet(frame, &egress.header);
                Verdict::Transmit(egress.port)
            }
            Self::Unresolved(hop) => Verdict::Await(*hop),
        }
    }
}

/// Mixes a flow's ports, by which it takes one of several ways; an odd number near 2^64 divided by the
/// golden ratio.
const FLOW_MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number by which a flow takes one of several ways: its ports, mixed.
#[inline]
pub(super) fn flow_number<K: Key>(key: K) -> u64 {
    u64::from(key.port_word()).wrapping_mul(FLOW_MIX)
}

/// Looks up the next hop of a session's packets in `direction`, and lets the session remember it.
#[inline(never)]
pub(super) fn find_next_hop<'w, K: Key>(
    session: &mut Session<K>,
    direction: Direction,
    world: &'w Snapshot,
) -> Result<Next<'w>, DropReason> {
    let flow = flow_number(session.key(direction));
    let (id, next) = next_hop_to(session.destination(direction), flow, world)?;
    session.remember_next_hop(direction, id);
    Ok(next)
}

/// The next hop towards an address for the packets of a flow, and its slot if it has one.
pub(super) fn next_hop_to(
    destination: IpAddr,
    flow: u64,
    world: &Snapshot,
) -> Result<(NeighborId, Next<'_>), DropReason> {
    let hop = world.routes.lookup(destination, flow).ok_or(DropReason::NoRoute)?;
    let id = world.neighbors.find(hop).unwrap_or(NeighborId::NONE);
    Ok((id, world.neighbors.egress(id).map_or(Next::Unresolved(hop), Next::Known)))
}
