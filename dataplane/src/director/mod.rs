//! The pure decision on packets.
//!
//! [`Director::process`] takes a burst of frames, the world as control last
//! described it, and the time; it changes the frames in place and returns a verdict
//! for each. It knows no device, no clock and no I/O, so everything it does can be
//! tested, fuzzed and measured on its own.
//!
//! A burst goes through three stages, each a loop over the burst, because that
//! hides the latency of memory: parse and ask for the index lines; ask for the
//! session lines; decide. [`admit`] makes new sessions, [`expire`] ends old ones,
//! [`answer`] writes what the appliance itself has to say.

mod admit;
mod answer;
mod expire;

use crate::clock::Instant;
use crate::drop::DropReason;
use crate::flow::{Direction, FlowHasher, FlowKey, Protocol};
use crate::frame::{BURST_SIZE, Frame};
use crate::ids::{MAX_SERVICES, NeighborId, PortId, ServiceId};
use crate::session::{Candidate, LocalPorts, PORTS_PER_PAIR, Session, SessionIndex, SessionTable, State};
use crate::snapshot::{Neighbor, NextHop, Snapshot};
use crate::stats::{Counter, ServerCounters, WorkerStats};
use crate::wire::{self, LinkTraits, Packet, Payload, TcpFlags};
use admit::{Admitted, ServiceCursor};
use answer::IcmpBudget;
use arrayvec::ArrayVec;
use expire::Sweep;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What is to be done with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it by this port; the frame is complete.
    Transmit(PortId),
    /// Send it to this next hop as soon as its station address is known; only the
    /// Ethernet header is missing.
    Await(NextHop),
    /// Give it to the control thread: ARP, from this port.
    Punt(PortId),
    /// Free it and count the reason.
    Drop(DropReason),
}

/// The verdicts on one burst, in its order.
pub type Verdicts = ArrayVec<Verdict, BURST_SIZE>;

/// What a director is made with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sessions at a time.
    pub sessions: usize,
    /// Most pairs of local address and real server that have ports in use at a time.
    pub local_port_pairs: usize,
}

impl Limits {
    /// Limits that fit a table of `sessions`.
    pub fn for_sessions(sessions: usize) -> Self {
        // One pair for 64 sessions: 8 KiB for what takes 5.8 KiB in the table, if it all gets used.
        Self { sessions, local_port_pairs: (sessions / 64).clamp(1_024, 131_072) }
    }

    /// Bytes that a director with these limits touches at its start; the arena of local ports
    /// is touched only as it is used.
    pub fn bytes(&self) -> u64 {
        // The session's line, its place in the free list, and two keys in the index.
        const PER_SESSION: u64 = 64 + 4 + 27;
        self.sessions as u64 * PER_SESSION
    }
}

/// One worker's sessions and the decisions about its packets.
#[derive(Debug)]
pub struct Director {
    sessions: SessionTable,
    local_ports: LocalPorts,
    cursors: Box<[ServiceCursor]>,
    sweep: Sweep,
    icmp_budget: IcmpBudget,
    stats: Arc<WorkerStats>,
}

/// A packet between the stages.
struct Staged {
    packet: Result<Packet, DropReason>,
    hash: u64,
    candidate: Candidate,
}

impl Director {
    /// A director without sessions that counts into `stats`.
    pub fn new(limits: Limits, hasher: FlowHasher, stats: Arc<WorkerStats>) -> Self {
        Self {
            sessions: SessionTable::with_capacity(limits.sessions, hasher),
            local_ports: LocalPorts::with_capacity(limits.local_port_pairs),
            cursors: vec![ServiceCursor::default(); MAX_SERVICES].into_boxed_slice(),
            sweep: Sweep::default(),
            icmp_budget: IcmpBudget::default(),
            stats,
        }
    }

    /// Decides about each of `frames`, which came by port `from`, and changes it as its verdict
    /// needs.
    ///
    /// # Panics
    /// When there are more frames than [`BURST_SIZE`].
    pub fn process(
        &mut self,
        from: PortId,
        frames: &mut [Frame<'_>],
        world: &Snapshot,
        now: Instant,
        verdicts: &mut Verdicts,
    ) {
        verdicts.clear();
        let link = &world.port(from).link;
        let mut staged: ArrayVec<Staged, BURST_SIZE> = ArrayVec::new();
        for frame in frames.iter_mut() {
            staged.push(self.parse(frame, link));
        }
        for stage in &mut staged {
            if stage.packet.is_ok() {
                stage.candidate = self.sessions.candidate(stage.hash);
            }
        }
        for (frame, stage) in frames.iter_mut().zip(&staged) {
            let decided = match &stage.packet {
                Ok(packet) => self.decide(from, frame, packet, stage, world, now),
                Err(reason) => Err(*reason),
            };
            verdicts.push(decided.unwrap_or_else(|reason| self.refuse(from, reason)));
        }
    }

    /// The sessions, to be listed.
    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    #[inline]
    fn parse(&self, frame: &mut Frame<'_>, link: &LinkTraits) -> Staged {
        let packet = wire::parse(frame, link);
        let hash = packet.as_ref().map_or(0, |packet| self.sessions.hash(packet.key));
        self.sessions.prefetch_bucket(hash);
        Staged { packet, hash, candidate: Candidate::NONE }
    }

    /// Counts a packet that is dropped.
    #[cold]
    fn refuse(&self, from: PortId, reason: DropReason) -> Verdict {
        self.stats.drops(reason).add(1);
        if reason == DropReason::SuperFrame {
            self.stats.port(from).super_frames.add(1);
        }
        Verdict::Drop(reason)
    }

    #[inline]
    fn decide(
        &mut self,
        from: PortId,
        frame: &mut Frame<'_>,
        packet: &Packet,
        stage: &Staged,
        world: &Snapshot,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let protocol = match packet.payload {
            Payload::Tcp => Protocol::Tcp,
            Payload::Udp => Protocol::Udp,
            Payload::EchoRequest => return self.answer_echo(frame, packet, world),
            Payload::Arp => return Ok(Verdict::Punt(from)),
        };
        if world.port(from).link.kernel_peer
            && wire::finish_partial_checksum(frame.bytes_mut(), packet, protocol)
        {
            self.stats.port(from).partial_checksums.add(1);
        }
        let flow = Flow { key: packet.key, hash: stage.hash, protocol, flags: packet.flags };
        match self.find(&flow, stage.candidate, world) {
            Some(found) => self.forward(frame, packet, &flow, found, world, now),
            None => self.begin(frame, packet, &flow, world, now),
        }
    }

    /// Makes a session for a packet that has none, and sends the packet on its way.
    fn begin(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        flow: &Flow,
        world: &Snapshot,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        match self.admit(packet, flow, world, now) {
            Ok(Admitted { index, ports_before }) => {
                if ports_before >= CONNECTIONS_UNCHANGED && flow.protocol == Protocol::Tcp {
                    self.choose_sequence(frame, packet, index, now);
                    let session = self.sessions.get_mut(index);
                    session.without_timestamp = ports_before as usize >= PORTS_PER_PAIR;
                }
                self.forward(frame, packet, flow, (index, Direction::Inbound), world, now)
            }
            Err(DropReason::TtlExceeded) => self.ttl_exceeded(frame, packet, world, now),
            Err(reason) => Err(reason),
        }
    }

    /// Gives a connection a sequence number that is later than any of an older connection from the
    /// same local port: a clock of 64 ns and a keyed hash of the endpoints (RFC 6528 §3).
    ///
    /// The clock comes round to half its range in 137 s; servers forget in 60 to 120 s.
    fn choose_sequence(&mut self, frame: &Frame<'_>, packet: &Packet, index: SessionIndex, now: Instant) {
        let session = self.sessions.get(index);
        let fixed = self.sessions.hash(session.key(Direction::Outbound)) as u32;
        let initial = fixed.wrapping_add((now.nanos() >> 6) as u32);
        let offset = initial.wrapping_sub(wire::sequence_number(frame.bytes(), packet));
        self.sessions.get_mut(index).sequence_offset = offset;
    }

    /// The session of `flow`, unless the packet must start a new one instead.
    #[inline]
    fn find(
        &mut self,
        flow: &Flow,
        candidate: Candidate,
        world: &Snapshot,
    ) -> Option<(SessionIndex, Direction)> {
        let (index, direction) = self.sessions.confirm(flow.key, flow.hash, candidate)?;
        let session = self.sessions.get_mut(index);
        if direction == Direction::Inbound && flow.flags.opens() && session.state.is_closed() {
            // The client uses its port again: schedule anew instead of waiting for a timeout.
            self.stats.sessions_recycled.add(1);
            self.end(index);
            return None;
        }
        if session.routing_epoch != world.routing_epoch {
            session.routing_epoch = world.routing_epoch;
            session.next_hop_client = NeighborId::NONE;
            session.next_hop_real = NeighborId::NONE;
            if session.protocol() == Protocol::Udp && !world.services.has_server(session.server) {
                // Datagrams must not follow a server that was removed.
                self.end(index);
                return None;
            }
        }
        Some((index, direction))
    }

    /// Sends a packet of a session on its way.
    #[inline]
    fn forward(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        flow: &Flow,
        (index, direction): (SessionIndex, Direction),
        world: &Snapshot,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        if packet.ttl <= 1 {
            return self.ttl_exceeded(frame, packet, world, now);
        }
        let session = self.sessions.get_mut(index);
        let next = next_hop(session, direction, world)?;
        let mtu = world.port(next.port()).link.mtu;
        if packet.total_len > mtu {
            return self.exceeds_mtu(frame, packet, mtu, world, now);
        }

        let state = match flow.protocol {
            Protocol::Tcp => session.state.after_tcp(flow.flags, direction),
            Protocol::Udp => session.state.after_udp(direction),
        };
        session.last_seen = now.stamp();
        let counters = self.stats.server(session.server);
        if state != session.state {
            if state.is_active() != session.state.is_active() {
                let (from, to) = gauges(counters, session.state, state);
                from.decrement();
                to.add(1);
            }
            session.state = state;
        }
        let (packets, bytes) = match direction {
            Direction::Inbound => (&counters.packets_in, &counters.bytes_in),
            Direction::Outbound => (&counters.packets_out, &counters.bytes_out),
        };
        packets.add(1);
        bytes.add(u64::from(packet.total_len));

        wire::translate(frame.bytes_mut(), packet, flow.protocol, &session.translation(direction));
        if session.sequence_offset != 0 {
            let (offset, bare) = (session.sequence_offset, session.without_timestamp);
            wire::shift_sequence(frame.bytes_mut(), packet, direction, offset, bare);
        }
        Ok(next.send(frame))
    }

    /// Takes a session out of the table and gives back what it held.
    fn end(&mut self, index: SessionIndex) {
        let session = self.sessions.remove(index);
        self.local_ports.release(session.pair(), session.local().l4_port);
        self.stats.local_ports_used(session.local_id).decrement();
        self.stats.sessions_live.decrement();
        let counters = self.stats.server(session.server);
        if session.state.is_active() {
            counters.sessions_active.decrement();
        } else {
            counters.sessions_inactive.decrement();
        }
    }

    fn cursor(&mut self, service: ServiceId) -> &mut ServiceCursor {
        &mut self.cursors[service.0 as usize]
    }
}

/// First connections between a local address and a server that keep the client's sequence
/// numbers. Where there is little traffic nothing needs to be changed, and captures of both
/// sides agree; these few ports come again after 64,448 others.
const CONNECTIONS_UNCHANGED: u32 = 64;

/// A TCP or UDP packet's flow.
struct Flow {
    key: FlowKey,
    hash: u64,
    protocol: Protocol,
    flags: TcpFlags,
}

/// Where a packet goes, and whether its Ethernet header is known.
enum Next<'a> {
    Known(&'a Neighbor, &'a wire::EthernetHeader),
    Unresolved(NextHop),
}

impl Next<'_> {
    fn port(&self) -> PortId {
        match self {
            Self::Known(neighbor, _) => neighbor.hop.port,
            Self::Unresolved(hop) => hop.port,
        }
    }

    /// Completes the frame and says what to do with it.
    #[inline]
    fn send(&self, frame: &mut Frame<'_>) -> Verdict {
        match self {
            Self::Known(neighbor, header) => {
                wire::set_ethernet(frame.bytes_mut(), header);
                Verdict::Transmit(neighbor.hop.port)
            }
            Self::Unresolved(hop) => Verdict::Await(*hop),
        }
    }
}

/// The next hop of a session's packet: remembered, or looked up and remembered.
#[inline]
fn next_hop<'w>(
    session: &mut Session,
    direction: Direction,
    world: &'w Snapshot,
) -> Result<Next<'w>, DropReason> {
    let remembered = match direction {
        Direction::Inbound => session.next_hop_real,
        Direction::Outbound => session.next_hop_client,
    };
    if let Some(neighbor) = world.neighbors.get(remembered)
        && let Some(header) = &neighbor.header
    {
        return Ok(Next::Known(neighbor, header));
    }
    match direction {
        Direction::Inbound => {
            let (id, next) = next_hop_to(session.real().address, world)?;
            session.next_hop_real = id;
            Ok(next)
        }
        Direction::Outbound => {
            let (id, next) = next_hop_to(session.client().address, world)?;
            session.next_hop_client = id;
            Ok(next)
        }
    }
}

/// The next hop towards an address, and its slot if it has one.
fn next_hop_to(destination: Ipv4Addr, world: &Snapshot) -> Result<(NeighborId, Next<'_>), DropReason> {
    let hop = world.routes.lookup(destination).ok_or(DropReason::NoRoute)?;
    let Some(id) = world.neighbors.find(hop) else {
        return Ok((NeighborId::NONE, Next::Unresolved(hop)));
    };
    let known = world.neighbors.get(id).and_then(|neighbor| Some((neighbor, neighbor.header.as_ref()?)));
    Ok((id, known.map_or(Next::Unresolved(hop), |(neighbor, header)| Next::Known(neighbor, header))))
}

/// The session gauges that `from` and `to` count in, which differ.
fn gauges(counters: &ServerCounters, from: State, to: State) -> (&Counter, &Counter) {
    let gauge = |state: State| {
        if state.is_active() { &counters.sessions_active } else { &counters.sessions_inactive }
    };
    (gauge(from), gauge(to))
}
