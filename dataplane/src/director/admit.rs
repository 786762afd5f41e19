//! New sessions: whether a packet may open one, which real server gets it, and from
//! which local port.

use super::forward::flow_number;
use super::life::CONNECTIONS_UNCHANGED;
use super::locals::Local;
use super::side::{HasSide, Side};
use super::{Arrival, Director, Staged};
use crate::clock::Stamp;
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, Family, FlowKey, FlowKey6, Key, Protocol};
use crate::ids::{LocalId, NeighborId, ServerId};
use crate::prefetch::prefetch_near;
use crate::scheduler::{self, Candidates, Cursor};
use crate::session::{
    Candidate, ForwardMode, InsertError, Needs, NewSession, Persistence, Session, SessionIndex, State, Watch,
};
use crate::snapshot::{AddressRole, ClientAddress, RealServer, Service, ServiceIndex, Snapshot};
use crate::stats::WorkerStats;
use crate::steering::Seat;
use crate::wire::{Outer, Packet, Payload};
use std::net::IpAddr;

/// The service that a packet without session asks for; asks for its lines.
#[inline(never)]
pub(super) fn find_service<K: Key>(packet: &Packet<K>, world: &Snapshot) -> Option<ServiceIndex> {
    let (Payload::Transport(_) | Payload::EchoRequest) = packet.payload else { return None };
    let protocol = packet.flow_protocol()?;
    let index = service_of(packet.key, protocol, world)?;
    prefetch_near(world.services.at(index));
    Some(index)
}

/// The service of a flow: the one that listens where it goes, or the one that hides where it comes from.
fn service_of<K: Key>(key: K, protocol: Protocol, world: &Snapshot) -> Option<ServiceIndex> {
    let (source, destination) = (key.source(), key.destination());
    world.services.index_of(protocol, destination).or_else(|| {
        let is_outside = world.hides_sources_from(destination.address);
        is_outside.then(|| world.services.hiding(protocol, source.address, destination)).flatten()
    })
}

/// Where a service's rounds stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceCursor {
    pub(super) scheduler: Cursor,
    next_local: u32,
}

impl ServiceCursor {
    /// Where the rounds of a worker begin.
    pub(super) fn of(seat: &Seat) -> Self {
        let (worker, workers) = (usize::from(seat.worker.0), usize::from(seat.steering.workers));
        Self { scheduler: Cursor::of_worker(worker, workers), next_local: 0 }
    }

    /// The place of the next local address of `count`.
    pub(super) fn turn(&mut self, count: usize) -> usize {
        // Steps of the golden ratio: as even as counting, but never in step with a scheduler's
        // rounds, which would leave pairs of local address and server unused.
        self.next_local = self.next_local.wrapping_add(0x9e37_79b9);
        ((u64::from(self.next_local) * count as u64) >> 32) as usize
    }
}

/// The next hop towards a server that is on a link itself, as a session found it last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Towards {
    next_hop: NeighborId,
    /// In which it was found.
    routing_epoch: u16,
}

impl Towards {
    /// Nobody has looked yet.
    pub(super) const UNKNOWN: Self = Self { next_hop: NeighborId::NONE, routing_epoch: 0 };
}

/// A session that was just made.
pub(super) struct Admitted {
    /// Its place in its own family's table, or in the wide one if it is `across`.
    pub(super) index: SessionIndex,
    /// Whether it joins both families.
    pub(super) across: bool,
    /// How many local ports its pair had given out before.
    pub(super) ports_before: u32,
    /// Whether an older connection may have had the same local port.
    pub(super) port_again: bool,
}

/// Why a packet made no session.
pub(super) enum NotAdmitted {
    /// It must be dropped.
    Refused(DropReason),
    /// Its service keeps none: it goes this way and is forgotten.
    Once(OnceOnly),
}

/// The way of a packet that leaves no session.
pub(super) struct OnceOnly {
    pub(super) server: ServerId,
    /// The server's address.
    pub(super) address: IpAddr,
    /// The tunnel's outer side, if there is one.
    pub(super) tunnel: Option<Outer>,
}

impl From<DropReason> for NotAdmitted {
    fn from(reason: DropReason) -> Self {
        Self::Refused(reason)
    }
}

/// So many lines stay in the second-level cache.
const FEW_PAIRS: usize = 4_096;

impl Director {
    /// Asks for the lines from which [`forecast_pair`](Self::forecast_pair) reads.
    pub(super) fn anticipate_session(&self, service: &Service) {
        prefetch_near(&self.cursors[service.id.0 as usize]);
        if let Some(server) = service.servers.first() {
            prefetch_near(server);
        }
    }

    /// The server and local address that the next new session of `service` probably gets; asks for
    /// the server's counters and the pair's bucket. Nothing changes: what is guessed wrong costs time only.
    pub(super) fn forecast_pair<K: HasSide>(
        &self,
        service: &Service,
        packet: &Packet<K>,
        hash: u64,
        world: &Snapshot,
    ) -> Option<K> {
        let cursor = &self.cursors[service.id.0 as usize];
        let server = self.schedule(service, packet, hash, &mut cursor.scheduler.clone())?;
        prefetch_near(self.stats.server(server.id));
        let known = self.towards[server.id.0 as usize];
        if known.routing_epoch == world.routing_epoch {
            world.neighbors.prefetch(known.next_hop);
        }
        let first = cursor.clone().turn(service.locals.len());
        let local = service.locals.get(first)?.address;
        let is_of_family = |address| Family::of(address) == K::FAMILY;
        if service.mode != ForwardMode::FullNat
            || !is_of_family(local)
            || !is_of_family(server.endpoint.address)
        {
            return None;
        }
        let pair = K::new(packet.key.protocol(), server.endpoint, Endpoint::new(local, 0));
        K::side(self).local_ports.prefetch_bucket(pair);
        Some(pair)
    }

    /// Makes the session that a packet opens.
    ///
    /// A packet whose time to live ends here is refused with [`DropReason::TtlExceeded`];
    /// the caller tells its sender.
    pub(super) fn admit<K: HasSide>(
        &mut self,
        stage: &Staged<K>,
        protocol: Protocol,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, NotAdmitted> {
        let (packet, world) = (&stage.packet, arrival.world);
        let service = match self.check_gates(stage, protocol, 0, arrival) {
            Ok(service) => service,
            Err((Some(service), reason)) => return Err(self.not_admitted(service, reason)),
            Err((None, reason)) => return Err(reason.into()),
        };
        let options = &service.options;
        if let Some(limit) = &options.new_sessions
            && let Err(reason) = self.pay_for_session(service, limit, packet, arrival.now)
        {
            return Err(self.not_admitted(service, reason));
        }
        let client = client_of(service, packet);
        let server = match self.remembered(service, client, arrival.stamp) {
            Some(server) => Some(server),
            None => {
                let mut cursor = self.cursors[service.id.0 as usize].scheduler;
                let server = self.schedule(service, packet, stage.hash, &mut cursor);
                self.cursors[service.id.0 as usize].scheduler = cursor;
                server
            }
        };
        let Some(server) = server else {
            return Err(self.not_admitted(service, why_none(service)));
        };
        let towards = address_towards(service, server, packet);
        let Some(next_hop) = self.find_towards(server, towards, flow_number(packet.key), world) else {
            return Err(self.not_admitted(service, DropReason::NoRoute));
        };
        if is_link_down(towards, world) {
            return Err(self.not_admitted(service, DropReason::LinkDown));
        }
        if options.one_packet {
            let (flow, address) = (K::side(self).sessions.hash(packet.key), server.endpoint.address);
            let tunnel = match service.mode {
                ForwardMode::Tunnel => Some(Outer {
                    source: world.outer_source(&options.tunnel, address, flow).ok_or(DropReason::NoRoute)?,
                    destination: address,
                    encapsulation: options.tunnel.encapsulation,
                    entropy: 0xc000 | flow as u16,
                }),
                _ => None,
            };
            return Err(NotAdmitted::Once(OnceOnly { server: server.id, address, tunnel }));
        }
        let admitted = self.open(service, server, packet, next_hop, arrival)?;
        if let Some((persistence, network)) = client {
            self.templates.add(service.id, network, server.id, persistence, arrival.stamp);
            self.need::<K>(&admitted, Needs::TEMPLATE);
        }
        if options.client_address.is_some() {
            self.need::<K>(&admitted, Needs::MORE);
            // What is told in mid-stream would not be understood.
            if protocol == Protocol::Udp || packet.flags.opens() {
                self.need::<K>(&admitted, Needs::ADDRESS);
                // UOA counts from here; for PROXY it tells a client's sessions on one port apart.
                let counts = matches!(options.client_address, Some(ClientAddress::Uoa(_)));
                self.set_mark::<K>(&admitted, if counts { 0 } else { (arrival.now.nanos() >> 6) as u32 });
            }
        }
        let resets = options.reset_on_expiry && protocol == Protocol::Tcp;
        if resets || options.session_histograms {
            self.need::<K>(&admitted, Needs::MORE);
            self.need::<K>(&admitted, Needs::WATCHED);
            let (begun, counts) = (arrival.stamp, options.session_histograms);
            self.set_watch::<K>(&admitted, Watch { begun, bytes: 0, resets, counts, proven: false });
        }
        if options.timeouts.is_some() {
            self.need::<K>(&admitted, Needs::OWN_TIMEOUTS);
        }
        self.note_begin(service, server);
        Ok(admitted)
    }

    /// The service that a packet without session asks for, if nothing keeps it from having one before its server is known;
    /// otherwise the service, if there is one, and the reason. So many of its sessions are `ending`.
    #[inline(always)]
    pub(super) fn check_gates<'w, K: HasSide>(
        &self,
        stage: &Staged<K>,
        protocol: Protocol,
        ending: u64,
        arrival: &Arrival<'w>,
    ) -> Result<&'w Service, (Option<&'w Service>, DropReason)> {
        let packet = &stage.packet;
        let service = service_for(stage, protocol, arrival.world).map_err(|reason| (None, reason))?;
        let refused = |reason| Err((Some(service), reason));
        if let Err(reason) = arrival.world.addresses.check_source(packet.source()) {
            return refused(reason);
        }
        if arrival.admits.asks(Direction::Inbound)
            && !arrival.world.routes.leads(packet.source(), arrival.from)
        {
            return refused(DropReason::SourceElsewhere);
        }
        let options = &service.options;
        if protocol.has_connections() && !(packet.flags.opens() || options.sloppy && !packet.flags.rst()) {
            return refused(DropReason::NoSession);
        }
        if packet.ttl <= 1 {
            return refused(DropReason::TtlExceeded);
        }
        if options.session_limit > 0 && self.sessions_of(service) >= options.session_limit + ending {
            return refused(DropReason::ServiceLimit);
        }
        Ok(service)
    }

    /// The server that a client's earlier sessions had, if the service keeps clients at theirs.
    #[inline(always)]
    pub(super) fn remembered<'w>(
        &self,
        service: &'w Service,
        client: Option<(Persistence, IpAddr)>,
        now: Stamp,
    ) -> Option<&'w RealServer> {
        let id = self.templates.find(service.id, client?.1, now)?;
        let server = service.servers.iter().find(|server| server.id == id)?;
        // A client of a server that takes no more goes elsewhere, if the service wants that.
        (server.weight > 0 || !service.options.expire_quiescent).then_some(server)
    }

    /// Counts a refusal for its service.
    #[cold]
    fn not_admitted(&self, service: &Service, reason: DropReason) -> NotAdmitted {
        self.stats.service(service.id).refuse(reason);
        reason.into()
    }

    /// The next hop towards a server, or what hosts behind the appliance ask for.
    #[inline]
    fn find_towards(
        &mut self,
        server: &RealServer,
        address: IpAddr,
        flow: u64,
        world: &Snapshot,
    ) -> Option<NeighborId> {
        let known = &mut self.towards[server.id.0 as usize];
        if known.routing_epoch == world.routing_epoch && known.next_hop != NeighborId::NONE {
            return Some(known.next_hop);
        }
        let hop = world.routes.lookup(address, flow)?;
        let next_hop = world.neighbors.find(hop).unwrap_or(NeighborId::NONE);
        // A gateway may be one of several, by the flow.
        if hop.address == server.endpoint.address {
            *known = Towards { next_hop, routing_epoch: world.routing_epoch };
        }
        Some(next_hop)
    }

    fn need<K: HasSide>(&mut self, admitted: &Admitted, need: Needs) {
        if admitted.across {
            self.wide.sessions.get_mut(admitted.index).needs.add(need);
        } else {
            K::side_mut(self).sessions.get_mut(admitted.index).needs.add(need);
        }
    }

    fn set_watch<K: HasSide>(&mut self, admitted: &Admitted, watch: Watch) {
        if admitted.across {
            self.wide.sessions.set_watch(admitted.index, watch);
        } else {
            K::side_mut(self).sessions.set_watch(admitted.index, watch);
        }
    }

    fn set_mark<K: HasSide>(&mut self, admitted: &Admitted, number: u32) {
        if admitted.across {
            self.wide.sessions.set_mark(admitted.index, number);
        } else {
            K::side_mut(self).sessions.set_mark(admitted.index, number);
        }
    }

    /// This worker's sessions of a service.
    fn sessions_of(&self, service: &Service) -> u64 {
        service.servers.iter().map(|server| sessions_on(&self.stats, server.id)).sum()
    }

    /// A server got a session: it may be full now.
    fn note_begin(&mut self, service: &Service, server: &RealServer) {
        let (upper, _) = service.thresholds(server.id);
        if upper > 0 && sessions_on(&self.stats, server.id) >= u64::from(upper) {
            let id = server.id.0 as usize;
            self.full[id / 64] |= 1 << (id % 64);
        }
    }

    /// A server lost a session: it may have room again, and its client may be forgotten in time.
    #[inline]
    pub(super) fn note_end<K: HasSide>(&mut self, session: &Session<K>, world: &Snapshot) {
        let id = session.server.0 as usize;
        if self.full[id / 64] >> (id % 64) & 1 == 1 || session.needs.has(Needs::TEMPLATE) {
            let client = session.client().address;
            self.note_end_of(session.server, session.needs, client, session.last_seen, world);
        }
    }

    #[cold]
    fn note_end_of(
        &mut self,
        server: ServerId,
        needs: Needs,
        client: IpAddr,
        last_seen: Stamp,
        world: &Snapshot,
    ) {
        let (id, service) = (server.0 as usize, world.services.of_server(server));
        if self.full[id / 64] >> (id % 64) & 1 == 1 {
            let (upper, lower) = service.map_or((0, 0), |service| service.thresholds(server));
            if upper == 0 || sessions_on(&self.stats, server) < u64::from(lower) {
                self.full[id / 64] &= !(1 << (id % 64));
            }
        }
        if needs.has(Needs::TEMPLATE)
            && let Some(service) = service
            && let Some(persistence) = service.options.persistence
        {
            self.templates.end(service.id, persistence.network(client), server, last_seen);
        }
    }

    /// The server that a service's scheduler gives a packet, counting from `cursor`.
    pub(super) fn schedule<'w, K: Key>(
        &self,
        service: &'w Service,
        packet: &Packet<K>,
        random: u64,
        cursor: &mut Cursor,
    ) -> Option<&'w RealServer> {
        let candidates = Servers {
            list: &service.servers,
            stats: &self.stats,
            full: &self.full,
            has_thresholds: !service.options.thresholds.is_empty(),
        };
        let flow = scheduler::Flow {
            client: packet.key.source(),
            vip: packet.destination(),
            // Of the low bits, which the hash in the packet's place has kept to itself.
            random: random.rotate_left(32),
        };
        let kind = (service.scheduler, service.flags);
        let at = scheduler::choose(kind, &candidates, service.table.as_deref(), cursor, &flow)?;
        service.servers.get(at)
    }

    fn open<K: HasSide>(
        &mut self,
        service: &Service,
        server: &RealServer,
        packet: &Packet<K>,
        towards: NeighborId,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let family = Family::of(server.endpoint.address);
        if service.mode != ForwardMode::Snat && family != K::FAMILY {
            self.open_in::<FlowKey6>(service, server, packet.key.widen(), towards, arrival)
        } else {
            self.open_in::<K>(service, server, packet.key, towards, arrival)
        }
    }

    /// Makes a session in the table of `S`: the packet's own, or the wide one if it joins both families.
    #[inline(always)]
    fn open_in<S: HasSide>(
        &mut self,
        service: &Service,
        server: &RealServer,
        inbound: S,
        next_hop: NeighborId,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let real = real_of(service, server, inbound.destination());
        let mut new = NewSession {
            mode: service.mode,
            inbound,
            outbound: S::NONE,
            server: server.id,
            local_id: LocalId::NONE,
            routing_epoch: arrival.world.routing_epoch,
            next_hop,
        };
        let protocol = inbound.protocol();
        let answers = |local: IpAddr| S::new(protocol, real, Endpoint::new(local, 0));
        let made = match service.mode {
            ForwardMode::FullNat => match (S::FAMILY, real.address) {
                (Family::V6, IpAddr::V4(_)) => {
                    self.open_by_local::<S, FlowKey>(service, real, &mut new, arrival)
                }
                _ => self.open_by_local::<S, S>(service, real, &mut new, arrival),
            },
            ForwardMode::Nat => {
                new.outbound = answers(inbound.source().address);
                self.open_by_client(&mut new, arrival)
            }
            ForwardMode::DirectRoute => {
                new.outbound = answers(inbound.source().address);
                self.open_one_way(&new, arrival)
            }
            ForwardMode::Tunnel => {
                let flow = S::side(self).sessions.hash(inbound);
                let tunnel = &service.options.tunnel;
                let source = arrival.world.outer_source(tunnel, real.address, flow);
                let source = source.ok_or(DropReason::NoRoute)?;
                let outer = Endpoint::new(source, tunnel.encapsulation.number());
                new.outbound = S::new(protocol, real, outer);
                self.open_one_way(&new, arrival)
            }
            ForwardMode::Snat => {
                new.outbound = answers(inbound.source().address);
                self.open_from_pool(service, &mut new, arrival)
            }
        };
        let admitted = made.inspect_err(|reason| self.stats.service(service.id).refuse(*reason))?;
        self.note_unproven::<S>(admitted.index, arrival.stamp, arrival.world);
        self.stats.sessions_created.add(1);
        self.stats.sessions_live.add(1);
        if S::FAMILY == Family::V6 {
            self.stats.sessions_live_ipv6.add(1);
        }
        if new.local_id != LocalId::NONE {
            self.stats.local_ports_used(new.local_id).add(1);
        }
        let counters = self.stats.server(new.server);
        counters.sessions_created.add(1);
        counters.sessions_inactive.add(1);
        Ok(admitted)
    }

    /// Puts a session into its table. In a full one an unproven session makes room.
    pub(super) fn insert<S: HasSide>(
        &mut self,
        new: &NewSession<S>,
        arrival: &Arrival<'_>,
    ) -> Result<SessionIndex, DropReason> {
        let state = match new.inbound.protocol() {
            Protocol::Tcp | Protocol::Sctp => State::None,
            Protocol::Udp | Protocol::Icmp => State::UdpOneWay,
        };
        let mut made = S::side_mut(self).sessions.insert(new, state, arrival.stamp);
        if made == Err(InsertError::Full) && self.make_room::<S>(arrival.world) {
            made = S::side_mut(self).sessions.insert(new, state, arrival.stamp);
        }
        if new.changes_family() && made.is_ok() {
            S::side_mut(self).across += 1;
        }
        made.map_err(|error| match error {
            InsertError::Full => DropReason::SessionTableFull,
            InsertError::Exists => DropReason::LocalPortsExhausted,
        })
    }

    /// Makes a session whose server answers the client itself.
    fn open_one_way<S: HasSide>(
        &mut self,
        new: &NewSession<S>,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let index = self.insert(new, arrival)?;
        Ok(Admitted { index, across: new.changes_family(), ports_before: 0, port_again: false })
    }

    /// Makes a session from a local address and a port of it that no session uses towards the server,
    /// which is of family `L`.
    fn open_by_local<S: HasSide, L: HasSide>(
        &mut self,
        service: &Service,
        real: Endpoint,
        new: &mut NewSession<S>,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let local = self.take_local::<L>(service, new.inbound.protocol(), real, arrival.world);
        let Local { id, answers, taken } = local.ok_or(DropReason::LocalPortsExhausted)?;
        new.outbound = S::of_wide(answers.widen()).ok_or(DropReason::LocalPortsExhausted)?;
        new.local_id = id;
        let index = match self.insert(new, arrival) {
            Ok(index) => index,
            Err(_) => {
                self.release_port(answers.with_destination_port(0), taken.l4_port);
                return Err(DropReason::SessionTableFull);
            }
        };
        // The pair's next session will be found by a known key: its line can come meanwhile. At
        // ten million sessions that halves what a new one costs. With many pairs the line would
        // be gone again before it is needed.
        let across = new.changes_family();
        let Side { sessions, local_ports, .. } = S::side(self);
        if !across && local_ports.pairs() <= FEW_PAIRS {
            sessions.prefetch_key(new.outbound.with_destination_port(taken.next));
        }
        // An earlier process may have used any port of the pair. (In the other modes the port is the client's own, and
        // so are its sequence numbers.)
        let careful = self.sequences.is_careful(arrival.now);
        let ports_before = if careful { CONNECTIONS_UNCHANGED } else { taken.before };
        Ok(Admitted { index, across, ports_before, port_again: taken.again || careful })
    }
}

/// A client of a service that keeps clients at their servers, and for how long.
#[inline(always)]
pub(super) fn client_of<K: Key>(service: &Service, packet: &Packet<K>) -> Option<(Persistence, IpAddr)> {
    service.options.persistence.map(|persistence| (persistence, persistence.network(packet.source())))
}

/// Why no server of a service takes a session.
pub(super) fn why_none(service: &Service) -> DropReason {
    let has_weight = service.servers.iter().any(|server| server.weight > 0);
    if has_weight { DropReason::ServersFull } else { DropReason::NoRealServer }
}

/// Whom packets go to: the server, or what hosts behind the appliance ask for.
#[inline(always)]
pub(super) fn address_towards<K: Key>(service: &Service, server: &RealServer, packet: &Packet<K>) -> IpAddr {
    if service.mode == ForwardMode::Snat { packet.destination() } else { server.endpoint.address }
}

/// Whether the way to an address leads by a port without link.
#[inline(always)]
pub(super) fn is_link_down(towards: IpAddr, world: &Snapshot) -> bool {
    world.has_links_down() && world.routes.lookup(towards, 0).is_some_and(|hop| world.is_down(hop.port))
}

/// The server's side of a session of a packet's that goes to `vip`.
#[inline(always)]
pub(super) fn real_of(service: &Service, server: &RealServer, vip: Endpoint) -> Endpoint {
    let l4_port = if server.endpoint.l4_port == 0 { vip.l4_port } else { server.endpoint.l4_port };
    match service.mode {
        ForwardMode::Snat => vip,
        _ => Endpoint { l4_port, ..server.endpoint },
    }
}

/// A service's servers with this worker's view of their load.
struct Servers<'a> {
    list: &'a [RealServer],
    stats: &'a WorkerStats,
    full: &'a [u64],
    has_thresholds: bool,
}

/// This worker's sessions on a server.
fn sessions_on(stats: &WorkerStats, server: ServerId) -> u64 {
    let counters = stats.server(server);
    counters.sessions_active.value() + counters.sessions_inactive.value()
}

impl Candidates for Servers<'_> {
    fn len(&self) -> usize {
        self.list.len()
    }

    fn weight(&self, at: usize) -> u32 {
        let server = &self.list[at];
        let id = server.id.0 as usize;
        let is_full = self.has_thresholds && self.full[id / 64] >> (id % 64) & 1 == 1;
        if is_full { 0 } else { server.weight }
    }

    fn active(&self, at: usize) -> u64 {
        self.stats.server(self.list[at].id).sessions_active.value()
    }

    fn load(&self, at: usize) -> u64 {
        let counters = self.stats.server(self.list[at].id);
        counters.sessions_active.value() * 256 + counters.sessions_inactive.value()
    }
}

/// The service that a packet asks for: what stage two found, unless it had a candidate then.
pub(super) fn service_for<'w, K: Key>(
    stage: &Staged<K>,
    protocol: Protocol,
    world: &'w Snapshot,
) -> Result<&'w Service, DropReason> {
    let destination = stage.packet.key.destination();
    let found = if stage.candidate == Candidate::NONE {
        stage.service
    } else {
        service_of(stage.packet.key, protocol, world)
    };
    match found {
        _ if stage.packet.payload == Payload::Transport(Protocol::Icmp) => Err(DropReason::IcmpNoSession),
        Some(index) => Ok(world.services.at(index)),
        None => Err(match world.role(destination.address) {
            Some(AddressRole::Vip) => DropReason::NoService,
            Some(AddressRole::Local(_)) => DropReason::LocalNoSession,
            Some(AddressRole::Own) | None => DropReason::NotForUs,
        }),
    }
}
