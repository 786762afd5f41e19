//! New sessions: whether a packet may open one, which real server gets it, and from
//! which local port.

use super::{Arrival, Director, Staged};
use crate::clock::Stamp;
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, FlowKey, Protocol};
use crate::ids::LocalId;
use crate::prefetch::prefetch_near;
use crate::scheduler::{self, Candidates, Cursor};
use crate::session::{Candidate, NewSession, Pair, SessionIndex, State, Taken};
use crate::snapshot::{AddressRole, LocalAddress, RealServer, Service, ServiceIndex, Snapshot};
use crate::stats::WorkerStats;
use crate::steering::Seat;
use crate::wire::{Packet, Payload};
use std::net::Ipv4Addr;

/// The service that a packet without session asks for; asks for its lines.
#[inline(never)]
pub(super) fn find_service(packet: &Packet, world: &Snapshot) -> Option<ServiceIndex> {
    let Payload::Transport(protocol) = packet.payload else { return None };
    let index = world.services.index_of(protocol, packet.key.destination())?;
    prefetch_near(world.services.at(index));
    Some(index)
}

/// Where a service's rounds stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceCursor {
    scheduler: Cursor,
    next_local: u32,
}

impl ServiceCursor {
    /// Where the rounds of a worker begin.
    pub(super) fn of(seat: &Seat) -> Self {
        let (worker, workers) = (usize::from(seat.worker.0), usize::from(seat.steering.workers));
        Self { scheduler: Cursor::of_worker(worker, workers), next_local: 0 }
    }

    /// The place of the next local address of `count`.
    fn turn(&mut self, count: usize) -> usize {
        // Steps of the golden ratio: as even as counting, but never in step with a scheduler's
        // rounds, which would leave pairs of local address and server unused.
        self.next_local = self.next_local.wrapping_add(0x9e37_79b9);
        ((u64::from(self.next_local) * count as u64) >> 32) as usize
    }
}

/// A local endpoint for a new session.
struct Local {
    id: LocalId,
    address: Ipv4Addr,
    taken: Taken,
}

/// A session that was just made.
pub(super) struct Admitted {
    pub(super) index: SessionIndex,
    /// How many local ports its pair had given out before.
    pub(super) ports_before: u32,
    /// Whether an older connection may have had the same local port.
    pub(super) port_again: bool,
}

/// Ports looked at, oldest first, for a closed session that can make room.
const RECYCLE_TRIES: usize = 16;
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
    pub(super) fn forecast_pair(&self, service: &Service, packet: &Packet) -> Option<Pair> {
        let cursor = &self.cursors[service.id.0 as usize];
        let server = self.schedule(service, packet, &mut cursor.scheduler.clone())?;
        prefetch_near(self.stats.server(server.id));
        let first = cursor.clone().turn(service.locals.len());
        let local = service.locals.get(first)?.address;
        let pair = Pair { local, real: server.endpoint, protocol: service.protocol };
        self.local_ports.prefetch_bucket(pair);
        Some(pair)
    }

    /// Makes the session that a packet opens.
    ///
    /// A packet whose time to live ends here is refused with [`DropReason::TtlExceeded`];
    /// the caller tells its sender.
    pub(super) fn admit(
        &mut self,
        stage: &Staged,
        protocol: Protocol,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, DropReason> {
        let (packet, world) = (&stage.packet, arrival.world);
        let service = service_for(stage, protocol, world)?;
        check_source(packet, world)?;
        let counters = self.stats.service(service.id);
        if protocol == Protocol::Tcp && !packet.flags.opens() {
            counters.no_session.add(1);
            return Err(DropReason::NoSession);
        }
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let mut cursor = self.cursors[service.id.0 as usize].scheduler;
        let server = self.schedule(service, packet, &mut cursor);
        self.cursors[service.id.0 as usize].scheduler = cursor;
        let Some(server) = server else {
            self.stats.service(service.id).no_real_server.add(1);
            return Err(DropReason::NoRealServer);
        };
        if world.routes.lookup(server.endpoint.address).is_none() {
            self.stats.service(service.id).no_route.add(1);
            return Err(DropReason::NoRoute);
        }
        self.open(service, server, packet, arrival.stamp)
    }

    fn schedule<'w>(
        &self,
        service: &'w Service,
        packet: &Packet,
        cursor: &mut Cursor,
    ) -> Option<&'w RealServer> {
        let candidates = Servers { list: &service.servers, stats: &self.stats };
        let at = scheduler::choose(
            service.scheduler,
            &candidates,
            service.maglev.as_deref(),
            cursor,
            packet.source(),
        )?;
        service.servers.get(at)
    }

    fn open(
        &mut self,
        service: &Service,
        server: &RealServer,
        packet: &Packet,
        now: Stamp,
    ) -> Result<Admitted, DropReason> {
        let Some(local) = self.take_local(service, server) else {
            self.stats.service(service.id).local_ports_exhausted.add(1);
            return Err(DropReason::LocalPortsExhausted);
        };
        let new = NewSession {
            protocol: service.protocol,
            client: packet.key.source(),
            vip: packet.key.destination(),
            local: Endpoint::new(local.address, local.taken.l4_port),
            real: server.endpoint,
            server: server.id,
            local_id: local.id,
        };
        let state = match service.protocol {
            Protocol::Tcp => State::None,
            Protocol::Udp => State::UdpOneWay,
        };
        let Ok(index) = self.sessions.insert(&new, state, now) else {
            let pair = Pair { local: local.address, real: server.endpoint, protocol: service.protocol };
            self.local_ports.release(pair, local.taken.l4_port);
            self.stats.service(service.id).session_table_full.add(1);
            return Err(DropReason::SessionTableFull);
        };
        // The pair's next session will be found by a known key: its line can come meanwhile. At
        // ten million sessions that halves what a new one costs. With many pairs the line would
        // be gone again before it is needed.
        if self.local_ports.pairs() <= FEW_PAIRS {
            let next = Endpoint::new(local.address, local.taken.next);
            self.sessions.prefetch_key(FlowKey::new(service.protocol, server.endpoint, next));
        }
        self.stats.sessions_created.add(1);
        self.stats.sessions_live.add(1);
        self.stats.local_ports_used(local.id).add(1);
        let counters = self.stats.server(server.id);
        counters.sessions_created.add(1);
        counters.sessions_inactive.add(1);
        Ok(Admitted { index, ports_before: local.taken.before, port_again: local.taken.again })
    }

    /// A local endpoint towards `server` that no session uses, from the service's local
    /// addresses in turn. When none is left, the oldest closed session makes room.
    fn take_local(&mut self, service: &Service, server: &RealServer) -> Option<Local> {
        let count = service.locals.len();
        let first = self.cursors[service.id.0 as usize].turn(count);
        let locals = (0..count).map(|step| service.locals[(first + step) % count]);
        let pair = |local| Pair { local, real: server.endpoint, protocol: service.protocol };
        for LocalAddress { id, address, port } in locals.clone() {
            if let Some(taken) = self.local_ports.take(pair(address), port) {
                return Some(Local { id, address, taken });
            }
        }
        for LocalAddress { id, address, port } in locals {
            if self.recycle(pair(address))
                && let Some(taken) = self.local_ports.take(pair(address), port)
            {
                return Some(Local { id, address, taken });
            }
        }
        None
    }

    /// Ends one closed session of `pair`, trying those whose ports were given out longest ago.
    fn recycle(&mut self, pair: Pair) -> bool {
        for _ in 0..RECYCLE_TRIES {
            let Some(l4_port) = self.local_ports.oldest(pair) else { return false };
            let key = FlowKey::new(pair.protocol, pair.real, Endpoint::new(pair.local, l4_port));
            match self.sessions.find(key, self.sessions.hash(key)) {
                Some((index, Direction::Outbound)) if self.sessions.get(index).state.is_closed() => {
                    self.stats.sessions_recycled.add(1);
                    self.end(index);
                    return true;
                }
                Some(_) | None => self.local_ports.skip(pair),
            }
        }
        false
    }
}

/// A service's servers with this worker's view of their load.
struct Servers<'a> {
    list: &'a [RealServer],
    stats: &'a WorkerStats,
}

impl Candidates for Servers<'_> {
    fn len(&self) -> usize {
        self.list.len()
    }

    fn weight(&self, at: usize) -> u32 {
        self.list[at].weight
    }

    fn load(&self, at: usize) -> u64 {
        let counters = self.stats.server(self.list[at].id);
        counters.sessions_active.value() * 256 + counters.sessions_inactive.value()
    }
}

/// The service that a packet asks for: what stage two found, unless it had a candidate then.
fn service_for<'w>(
    stage: &Staged,
    protocol: Protocol,
    world: &'w Snapshot,
) -> Result<&'w Service, DropReason> {
    let destination = stage.packet.key.destination();
    let found = if stage.candidate == Candidate::NONE {
        stage.service
    } else {
        world.services.index_of(protocol, destination)
    };
    match found {
        Some(index) => Ok(world.services.at(index)),
        None => Err(match world.addresses.get(&destination.address) {
            Some(AddressRole::Vip) => DropReason::NoService,
            Some(AddressRole::Local(_)) => DropReason::LocalNoSession,
            Some(AddressRole::Own) | None => DropReason::NotForUs,
        }),
    }
}

/// RFC 1812 §5.3.7, and that nobody speaks from one of our own addresses.
fn check_source(packet: &Packet, world: &Snapshot) -> Result<(), DropReason> {
    if world.addresses.contains_key(&packet.source()) {
        return Err(DropReason::SourceOurs);
    }
    let broadcast = |network: &crate::snapshot::Network| network.is_broadcast(packet.source());
    if world.ports.iter().any(|port| port.networks.iter().any(broadcast)) {
        return Err(DropReason::SourceInvalid);
    }
    Ok(())
}
