//! What would become of a packet, and why: the director's own questions in the order in which it asks them, and nothing
//! of what it does after each. A property test holds the answers to what sending the packet does
//! (`dataplane/tests/explain.rs`).

use super::admit::{address_towards, client_of, is_link_down, real_of, service_for, why_none};
use super::forward::{flow_number, next_hop_to};
use super::life::{is_denied, may_go_on};
use super::otherwise::outer;
use super::side::HasSide;
use super::{Arrival, Director, Origin, Staged, Verdict, check_side, find_service};
use crate::clock::Instant;
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, Family, FlowKey, FlowKey6, Protocol};
use crate::ids::{NeighborId, PortId, ServerId, ServiceId, WorkerId};
use crate::session::{ForwardMode, Seen, Session, SessionIndex, SessionRecord, SessionTable, State};
use crate::snapshot::{NextHop, RealServer, Service, Snapshot};
use crate::wire::{self, Outer, Packet, Payload, Segment, Unfit};
use std::net::IpAddr;

/// Why a packet's server is the one that gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The packet's session has it.
    BySession,
    /// An earlier session of the client's had it, and the service keeps clients at their servers.
    ByPersistence,
    /// The scheduler's turn.
    ByScheduler,
}

/// What a packet is when it leaves, and the way that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Whom it is from.
    pub source: Endpoint,
    /// Whom it is for.
    pub destination: Endpoint,
    /// The header of the tunnel around it.
    pub outer: Option<Outer>,
    /// The next hop.
    pub hop: NextHop,
}

/// What would become of a packet at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The worker.
    pub worker: WorkerId,
    /// What [`Director::process`] would say.
    pub verdict: Verdict,
    /// Whether the appliance answers it itself.
    pub is_answered: bool,
    /// The service, if one is asked for.
    pub service: Option<ServiceId>,
    /// The session that it belongs to now, and in which direction it passes.
    pub session: Option<(SessionRecord, Direction)>,
    /// Whether that session ends, and the packet begins another.
    pub begins_anew: bool,
    /// The state of its session after it.
    pub state: Option<State>,
    /// What it says, if it is a TCP segment.
    segment: Option<Segment>,
    /// The server, and why it.
    pub server: Option<(ServerId, Chosen)>,
    /// What leaves.
    pub leaving: Option<Leaving>,
}

impl Explanation {
    fn new(worker: WorkerId, verdict: Verdict) -> Self {
        Self {
            worker,
            verdict,
            is_answered: false,
            service: None,
            session: None,
            begins_anew: false,
            state: None,
            segment: None,
            server: None,
            leaving: None,
        }
    }
}

/// The longest frame that is explained: a header of every kind, and a few bytes.
const LONGEST: usize = 256;

impl Director {
    /// What would become of a frame that comes by a port. Nothing changes: no session begins, nothing is counted.
    ///
    /// It speaks of whole packets with a time to live of more than one that fit every link: errors of ICMP and fragments
    /// are not asked for, and are told to be dropped.
    #[cold]
    #[inline(never)]
    pub fn explain(&self, from: PortId, frame: &[u8], world: &Snapshot, now: Instant) -> Explanation {
        let arrival = &Arrival::new(Origin::queue(from), world, now);
        let frame = &frame[..frame.len().min(LONGEST)];
        if wire::is_ipv6(frame) {
            self.explain_as::<FlowKey6>(frame, arrival)
        } else {
            self.explain_as::<FlowKey>(frame, arrival)
        }
    }

    fn explain_as<K: HasSide>(&self, frame: &[u8], arrival: &Arrival<'_>) -> Explanation {
        let mut said = Explanation::new(self.seat.worker, Verdict::Punt(arrival.from));
        let mut staged = Staged::<K>::NOTHING;
        let read = K::read(frame, &arrival.world.port(arrival.from).link);
        let decided = match read {
            Ok(packet) => {
                staged.packet = packet;
                staged.hash = K::side(self).sessions.hash(packet.key);
                if let Payload::Transport(Protocol::Tcp) = packet.payload {
                    said.segment = Some(wire::segment(frame, &packet));
                }
                self.explain_packet(&mut staged, arrival, &mut said)
            }
            Err(Unfit::Dropped(reason)) => Err(reason),
            Err(Unfit::OtherFamily) => Err(DropReason::EthertypeUnsupported),
        };
        match decided {
            Ok(verdict) => said.verdict = verdict,
            Err(reason) => {
                let is_kernels = self.kernel_kind(frame, reason, arrival).is_some();
                said.verdict = if is_kernels { Verdict::Kernel(arrival.from) } else { Verdict::Drop(reason) };
            }
        }
        said
    }

    fn explain_packet<K: HasSide>(
        &self,
        stage: &mut Staged<K>,
        arrival: &Arrival<'_>,
        said: &mut Explanation,
    ) -> Result<Verdict, DropReason> {
        let (packet, world) = (stage.packet, arrival.world);
        match packet.payload {
            Payload::Transport(protocol) => self.explain_flow(stage, protocol, arrival, said),
            Payload::EchoRequest if world.hides_sources_from(packet.destination()) => {
                self.explain_flow(stage, Protocol::Icmp, arrival, said)
            }
            Payload::EchoRequest => {
                if world.role(packet.destination()).is_none() {
                    return Err(DropReason::NotForUs);
                }
                if world.role(packet.source()).is_some() {
                    return Err(DropReason::SourceOurs);
                }
                said.is_answered = true;
                let hop = world.routes.lookup(packet.source(), 0).ok_or(DropReason::NoRoute)?;
                let (source, destination) = (packet.key.destination(), packet.key.source());
                said.leaving = Some(Leaving { source, destination, outer: None, hop });
                Ok(sent(hop, world))
            }
            Payload::Neighbor => Ok(Verdict::Punt(arrival.from)),
            Payload::Error(_) => Err(DropReason::IcmpUnsupported),
            Payload::Fragment => Err(DropReason::Fragment),
        }
    }

    /// As `forward_flow`, `search`, `reconsider` and `begin` go on.
    fn explain_flow<K: HasSide>(
        &self,
        stage: &mut Staged<K>,
        protocol: Protocol,
        arrival: &Arrival<'_>,
        said: &mut Explanation,
    ) -> Result<Verdict, DropReason> {
        let packet = &stage.packet;
        let sessions = &K::side(self).sessions;
        let found = sessions.find(packet.key, stage.hash);
        if let Some(found) = found {
            if let Some(verdict) = self.explain_session::<K, K>(sessions, found, packet, true, arrival, said)
            {
                return verdict;
            }
        } else if let Some(found) = self.find_across(packet.key) {
            let sessions = &self.wide.sessions;
            if let Some(verdict) =
                self.explain_session::<FlowKey6, K>(sessions, found, packet, false, arrival, said)
            {
                return verdict;
            }
        }
        stage.owner = self.owner_elsewhere(packet, arrival);
        if let Some(owner) = stage.owner {
            return Ok(Verdict::HandOver(owner));
        }
        stage.service = find_service(packet, arrival.world);
        if let Ok(service) = service_for(stage, protocol, arrival.world)
            && arrival.world.acls.deny(Some(service.id), stage.packet.source())
        {
            said.service = Some(service.id);
            return Err(DropReason::AclDenied);
        }
        if let Some(service) = self.wants_proof(stage, protocol, arrival.world) {
            said.service = Some(service.id);
            return self.explain_proof(stage, service, arrival, said);
        }
        self.explain_beginning(stage, protocol, found.map(|(index, _)| index), arrival, said)
    }

    /// What becomes of a packet by its session; `None` when that ends instead. A session that was found by the other
    /// family's key outlives its server.
    fn explain_session<S: HasSide, K: HasSide>(
        &self,
        sessions: &SessionTable<S>,
        (index, direction): (SessionIndex, Direction),
        packet: &Packet<K>,
        may_be_left_behind: bool,
        arrival: &Arrival<'_>,
        said: &mut Explanation,
    ) -> Option<Result<Verdict, DropReason>> {
        let (session, world) = (sessions.get(index), arrival.world);
        said.session = Some((SessionRecord::of(session, self.seat.worker, arrival.stamp), direction));
        said.service = world.services.of_server(session.server).map(|service| service.id);
        let side = check_side(session, direction, arrival);
        if let (true, Err(reason)) = (may_be_left_behind, side) {
            return Some(Err(reason));
        }
        let opens = packet.flags.opens() && direction == Direction::Inbound;
        let is_left_behind = session.routing_epoch != world.routing_epoch
            && may_be_left_behind
            && (!may_go_on(session.server, session.protocol(), session.vip(), world)
                || is_denied(session, world));
        if opens && session.state().is_closed() || is_left_behind {
            said.begins_anew = true;
            return None;
        }
        if let Err(reason) = side {
            return Some(Err(reason));
        }
        let is_new = session.routing_epoch != world.routing_epoch;
        if is_new && !may_be_left_behind && is_denied(session, world) {
            return Some(Err(DropReason::AclDenied));
        }
        said.server = Some((session.server, Chosen::BySession));
        said.state = Some(match &said.segment {
            Some(segment) => {
                let mut after = *session;
                after.follow(segment, direction).unwrap_or(session.state())
            }
            None => session.state().after(packet.flags, Seen::of(direction, session.mode.sees_answers())),
        });
        Some(self.explain_way(sessions, index, direction, packet, world, said))
    }

    fn explain_way<S: HasSide, K: HasSide>(
        &self,
        sessions: &SessionTable<S>,
        index: SessionIndex,
        direction: Direction,
        packet: &Packet<K>,
        world: &Snapshot,
        said: &mut Explanation,
    ) -> Result<Verdict, DropReason> {
        let session = sessions.get(index);
        let remembered = session.routing_epoch == world.routing_epoch;
        let next_hop = if remembered { session.next_hop(direction) } else { NeighborId::NONE };
        let hop = match world.neighbors.get(next_hop) {
            Some(neighbor) if neighbor.header.is_some() => neighbor.hop,
            _ => {
                let flow = flow_number(session.key(direction));
                world.routes.lookup(session.destination(direction), flow).ok_or(DropReason::NoRoute)?
            }
        };
        let (source, destination) = sides(session, direction, packet);
        said.leaving = Some(Leaving { source, destination, outer: outer(sessions, index), hop });
        Ok(sent(hop, world))
    }

    /// As `prove`, for a SYN; what else there is knows no cookie, as far as this goes.
    fn explain_proof<K: HasSide>(
        &self,
        stage: &Staged<K>,
        service: &Service,
        arrival: &Arrival<'_>,
        said: &mut Explanation,
    ) -> Result<Verdict, DropReason> {
        let (packet, world) = (&stage.packet, arrival.world);
        if !packet.flags.opens() {
            return Err(DropReason::NoSession);
        }
        self.may_answer(stage, service, arrival)?;
        said.is_answered = true;
        let (source, destination) = (packet.key.destination(), packet.key.source());
        let known = world.routes.lookup(packet.source(), flow_number(packet.key));
        let known = known.filter(|hop| matches!(sent(*hop, world), Verdict::Transmit(_)));
        // To the station that it came from.
        let hop = known.unwrap_or(NextHop { port: arrival.from, address: packet.source() });
        said.leaving = Some(Leaving { source, destination, outer: None, hop });
        Ok(Verdict::Transmit(hop.port))
    }

    /// As `admit` and `open` go on. A session that `ends` before still counts for the
    /// choice of the server and of the local port here.
    fn explain_beginning<K: HasSide>(
        &self,
        stage: &Staged<K>,
        protocol: Protocol,
        ends: Option<SessionIndex>,
        arrival: &Arrival<'_>,
        said: &mut Explanation,
    ) -> Result<Verdict, DropReason> {
        let (packet, world) = (&stage.packet, arrival.world);
        // A session whose server was removed is none of the service's any more.
        let ending = u64::from(said.begins_anew && said.service.is_some());
        let service = self.check_gates(stage, protocol, ending, arrival).map_err(|(service, reason)| {
            said.service = service.map(|service| service.id);
            reason
        })?;
        said.service = Some(service.id);
        if let Some(reason) = self.exceeds_rate(service, packet, arrival.now) {
            return Err(reason);
        }
        let remembered = self.remembered(service, client_of(service, packet), arrival.stamp);
        let mut cursor = self.cursors[service.id.0 as usize].scheduler;
        let (server, chosen) = match remembered {
            Some(server) => (server, Chosen::ByPersistence),
            None => {
                let server = self.schedule(service, packet, stage.hash, &mut cursor);
                (server.ok_or_else(|| why_none(service))?, Chosen::ByScheduler)
            }
        };
        said.server = Some((server.id, chosen));
        let towards = address_towards(service, server, packet);
        let flow = flow_number(packet.key);
        let hop = world.routes.lookup(towards, flow).ok_or(DropReason::NoRoute)?;
        if is_link_down(towards, world) {
            return Err(DropReason::LinkDown);
        }
        if service.options.one_packet {
            let (_, next) = next_hop_to(server.endpoint.address, 0, world)?;
            let outer = self.foresee_tunnel(service, server, packet.key, true, world)?;
            let (source, destination) = (packet.key.source(), packet.key.destination());
            let hop = world.routes.lookup(server.endpoint.address, 0).ok_or(DropReason::NoRoute)?;
            said.leaving = Some(Leaving { source, destination, outer, hop });
            debug_assert_eq!(next.port(), hop.port);
            return Ok(sent(hop, world));
        }
        let crosses = service.mode != ForwardMode::Snat && Family::of(server.endpoint.address) != K::FAMILY;
        let leaving = if crosses {
            self.explain_open((service, server), (packet.key.widen(), hop), ends, world, said)?
        } else {
            self.explain_open((service, server), (packet.key, hop), ends, world, said)?
        };
        let state = match protocol {
            Protocol::Tcp | Protocol::Sctp => State::None,
            Protocol::Udp | Protocol::Icmp => State::UdpOneWay,
        };
        said.state =
            Some(state.after(packet.flags, Seen::of(Direction::Inbound, service.mode.sees_answers())));
        said.leaving = Some(leaving);
        Ok(sent(leaving.hop, world))
    }

    /// As `open_in`: the endpoints of the session that would be made once another `ends`.
    fn explain_open<S: HasSide>(
        &self,
        (service, server): (&Service, &RealServer),
        (inbound, hop): (S, NextHop),
        ends: Option<SessionIndex>,
        world: &Snapshot,
        said: &mut Explanation,
    ) -> Result<Leaving, DropReason> {
        let (protocol, real) = (inbound.protocol(), real_of(service, server, inbound.destination()));
        let exhausted = DropReason::LocalPortsExhausted;
        let (client, vip) = (inbound.source(), inbound.destination());
        let mut makes_room = None;
        let (source, destination) = match service.mode {
            ForwardMode::FullNat => {
                let local = match (S::FAMILY, real.address) {
                    (Family::V6, IpAddr::V4(_)) => self.foresee_local::<FlowKey>(service, protocol, real),
                    _ => self.foresee_local::<S>(service, protocol, real),
                };
                let (local, yields) = local.ok_or(exhausted)?;
                makes_room = yields;
                (local, real)
            }
            ForwardMode::Nat => (self.foresee_by_client(inbound, real, ends, world)?, real),
            ForwardMode::Snat => {
                let (local, counts) =
                    self.foresee_from_pool(service, inbound, real, ends).ok_or(exhausted)?;
                said.server = Some((counts, Chosen::ByScheduler));
                (local, real)
            }
            ForwardMode::DirectRoute | ForwardMode::Tunnel => (client, vip),
        };
        let sessions = &S::side(self).sessions;
        let is_wide =
            |record: &SessionRecord| record.client.address.is_ipv6() || record.real.address.is_ipv6();
        let ends_here = said.begins_anew
            && said.session.is_some_and(|(record, _)| is_wide(&record) == (S::FAMILY == Family::V6));
        let has_room = ends_here || makes_room == Some(S::FAMILY) || self.could_make_room::<S>();
        if sessions.len() == sessions.capacity() && !has_room {
            return Err(DropReason::SessionTableFull);
        }
        let outer = self.foresee_tunnel(service, server, inbound, false, world)?;
        Ok(Leaving { source, destination, outer, hop })
    }

    /// The header of the tunnel that a service's packets go by, if they do.
    fn foresee_tunnel<S: HasSide>(
        &self,
        service: &Service,
        server: &RealServer,
        inbound: S,
        once: bool,
        world: &Snapshot,
    ) -> Result<Option<Outer>, DropReason> {
        if service.mode != ForwardMode::Tunnel {
            return Ok(None);
        }
        let (tunnel, destination) = (&service.options.tunnel, server.endpoint.address);
        let flow = S::side(self).sessions.hash(inbound);
        let source = world.outer_source(tunnel, destination, flow).ok_or(DropReason::NoRoute)?;
        let flow = if once { flow } else { entropy_flow(tunnel.encapsulation, flow) };
        Ok(Some(Outer {
            source,
            destination,
            encapsulation: tunnel.encapsulation,
            entropy: 0xc000 | flow as u16,
        }))
    }
}

/// What of a flow's hash a session's tunnel shows: only GUE has a place for it.
fn entropy_flow(encapsulation: wire::Encapsulation, flow: u64) -> u64 {
    match encapsulation {
        wire::Encapsulation::Gue(_) => flow,
        wire::Encapsulation::Ipip | wire::Encapsulation::Gre => 0,
    }
}

/// Whom a session's packet is from and for when it leaves.
fn sides<S: HasSide, K: HasSide>(
    session: &Session<S>,
    direction: Direction,
    packet: &Packet<K>,
) -> (Endpoint, Endpoint) {
    match session.mode {
        ForwardMode::DirectRoute | ForwardMode::Tunnel => (packet.key.source(), packet.key.destination()),
        ForwardMode::FullNat | ForwardMode::Nat | ForwardMode::Snat => {
            let key = session.translation(direction).key;
            (key.source(), key.destination())
        }
    }
}

/// What is done with a packet for a next hop.
fn sent(hop: NextHop, world: &Snapshot) -> Verdict {
    match world.neighbors.header(hop) {
        Some(_) => Verdict::Transmit(hop.port),
        None => Verdict::Await(hop),
    }
}
