//! What was counted: one block per worker, written by that worker alone and
//! read by anyone at any time.

use crate::drop::DropReason;
use crate::flow::Direction;
use crate::hugepages::{self, Table};
use crate::ids::{LocalId, MAX_LOCALS, MAX_SERVERS, MAX_SERVICES, PortId, ServerId, ServiceId};
use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer. Reading never disturbs the writer; the writer
/// needs no atomic read-modify-write.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes one away. Only the owning worker may call this.
    #[inline]
    pub fn decrement(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// The value as last written.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A real server's counters: one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServerCounters {
    /// Packets from clients.
    pub packets_in: Counter,
    /// Packets to clients.
    pub packets_out: Counter,
    /// IP bytes from clients.
    pub bytes_in: Counter,
    /// IP bytes to clients.
    pub bytes_out: Counter,
    /// Sessions ever made.
    pub sessions_created: Counter,
    /// Live sessions that are ESTABLISHED (TCP) or have seen a reply (UDP).
    pub sessions_active: Counter,
    /// Other live sessions.
    pub sessions_inactive: Counter,
    /// Sessions to which it never answered, or answered its first packet by a reset.
    pub failures: Counter,
}

const _: () = assert!(size_of::<ServerCounters>() == 64);

impl ServerCounters {
    /// Packets and bytes that came in `direction`.
    #[inline]
    pub fn traffic(&self, direction: Direction) -> (&Counter, &Counter) {
        match direction {
            Direction::Inbound => (&self.packets_in, &self.bytes_in),
            Direction::Outbound => (&self.packets_out, &self.bytes_out),
        }
    }
}

/// How fast a real server answers connections: apart from its other counters, which fill a line.
#[derive(Debug, Default)]
#[repr(align(16))]
pub struct ConnectCounters {
    /// Connections that it answered by SYN and ACK.
    pub answered: Counter,
    /// Milliseconds from the client's last SYN to that answer, all together. Single ones are cut to whole
    /// milliseconds of a clock that runs on, which evens out over many.
    pub waited_ms: Counter,
}

/// A service's counters of what never reached a real server.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServiceCounters {
    /// New sessions refused because no real server had a weight.
    pub no_real_server: Counter,
    /// New sessions refused because every local port was in use.
    pub local_ports_exhausted: Counter,
    /// New sessions refused because the session table was full.
    pub session_table_full: Counter,
    /// New sessions refused because no route leads to the server.
    pub no_route: Counter,
    /// TCP segments that opened nothing and belonged to no session.
    pub no_session: Counter,
    /// New sessions refused because every real server has as many as it may have.
    pub servers_full: Counter,
    /// New sessions refused because the service has as many as it may have.
    pub service_limit: Counter,
    /// New sessions refused because the link towards the server is down.
    pub link_down: Counter,
}

const _: () = assert!(size_of::<ServiceCounters>() == 64);

impl ServiceCounters {
    /// Why new sessions of a service are refused, with the counter of each reason.
    pub fn refusals(&self) -> [(DropReason, &Counter); 8] {
        [
            (DropReason::NoRealServer, &self.no_real_server),
            (DropReason::ServersFull, &self.servers_full),
            (DropReason::ServiceLimit, &self.service_limit),
            (DropReason::LocalPortsExhausted, &self.local_ports_exhausted),
            (DropReason::SessionTableFull, &self.session_table_full),
            (DropReason::NoRoute, &self.no_route),
            (DropReason::LinkDown, &self.link_down),
            (DropReason::NoSession, &self.no_session),
        ]
    }

    /// Counts a refusal, if its reason is one of [`refusals`](Self::refusals).
    pub fn refuse(&self, reason: DropReason) {
        if let Some((_, counter)) = self.refusals().into_iter().find(|(one, _)| *one == reason) {
            counter.add(1);
        }
    }
}

/// What one worker did on one port.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Packets taken from the device.
    pub rx_packets: Counter,
    /// Bytes taken from the device, Ethernet headers included.
    pub rx_bytes: Counter,
    /// Packets given to the device.
    pub tx_packets: Counter,
    /// Bytes given to the device, Ethernet headers included.
    pub tx_bytes: Counter,
    /// Packets the device did not take.
    pub tx_refused: Counter,
    /// Packets that came to this worker and were another's: handed over, or lost because the ring
    /// was full.
    pub handed_over: Counter,
    /// Partial checksums that were finished (a sender's checksum offload is on).
    pub partial_checksums: Counter,
    /// Super-frames dropped (a sender's segmentation offload is on).
    pub super_frames: Counter,
}

/// One worker's counters, on cache lines of its own (two at a time, as the core fetches them).
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Turns of the loop.
    pub turns: Counter,
    /// Time spent in turns that found packets, in nanoseconds.
    pub busy_ns: Counter,
    /// Time spent in all turns, in nanoseconds.
    pub total_ns: Counter,
    /// Sessions made.
    pub sessions_created: Counter,
    /// Sessions ended by their timeout.
    pub sessions_expired: Counter,
    /// Closed sessions ended early because their local port or slot was needed.
    pub sessions_recycled: Counter,
    /// Sessions now in the tables of both families.
    pub sessions_live: Counter,
    /// Sessions now in the table of those with an IPv6 address.
    pub sessions_live_ipv6: Counter,
    /// ICMP echo requests answered.
    pub echo_replies: Counter,
    /// ICMP errors sent.
    pub icmp_errors: Counter,
    /// ICMP errors about packets of sessions, passed on to whom they concern.
    pub icmp_relayed: Counter,
    /// Resets sent to the ends of connections that were forgotten.
    pub resets_sent: Counter,
    /// Packets in which a server was told where its client is (TOA, PROXY, UOA).
    pub address_sent: Counter,
    /// Packets that should have told and did not, because they had no room for it or were fragments.
    pub address_no_room: Counter,
    /// Packets that should have told and did not, because they would have exceeded the MTU.
    pub address_exceeds_mtu: Counter,
    /// Packets of clients that said where they are themselves, and were mended.
    pub address_stripped: Counter,
    /// Packets now waiting for a neighbour.
    pub parked: Counter,
    /// Packets given to the host's kernel.
    pub to_kernel: Counter,
    /// Packets of the host's kernel that were sent.
    pub from_kernel: Counter,
    drops: [Counter; DropReason::COUNT],
    ports: Table<PortCounters>,
    servers: Table<ServerCounters>,
    connects: Table<ConnectCounters>,
    services: Table<ServiceCounters>,
    locals: Table<Counter>,
}

impl WorkerStats {
    /// Zeroed counters for `ports` ports and as many services, servers and local addresses as a
    /// process can hold.
    pub fn new(ports: usize) -> Self {
        Self::with_slots(ports, MAX_SERVERS, MAX_SERVICES, MAX_LOCALS)
    }

    /// Zeroed counters for worlds that name no slot above these; tests have small worlds.
    pub fn with_slots(ports: usize, servers: usize, services: usize, locals: usize) -> Self {
        Self {
            turns: Counter::default(),
            busy_ns: Counter::default(),
            total_ns: Counter::default(),
            sessions_created: Counter::default(),
            sessions_expired: Counter::default(),
            sessions_recycled: Counter::default(),
            sessions_live: Counter::default(),
            sessions_live_ipv6: Counter::default(),
            echo_replies: Counter::default(),
            icmp_errors: Counter::default(),
            icmp_relayed: Counter::default(),
            resets_sent: Counter::default(),
            address_sent: Counter::default(),
            address_no_room: Counter::default(),
            address_exceeds_mtu: Counter::default(),
            address_stripped: Counter::default(),
            parked: Counter::default(),
            to_kernel: Counter::default(),
            from_kernel: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            ports: hugepages::table(ports, PortCounters::default),
            servers: hugepages::table(servers, ServerCounters::default),
            connects: hugepages::table(servers, ConnectCounters::default),
            services: hugepages::table(services, ServiceCounters::default),
            locals: hugepages::table(locals, Counter::default),
        }
    }

    /// The counter of packets dropped for `reason`.
    #[inline]
    pub fn drops(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// The counters of a port.
    #[inline]
    pub fn port(&self, id: PortId) -> &PortCounters {
        &self.ports[usize::from(id.0)]
    }

    /// The counters of a real server.
    #[inline]
    pub fn server(&self, id: ServerId) -> &ServerCounters {
        &self.servers[id.0 as usize]
    }

    /// The counters of all real servers.
    #[inline]
    pub fn servers(&self) -> &[ServerCounters] {
        &self.servers
    }

    /// How fast a real server answers connections.
    #[inline]
    pub fn connects(&self, id: ServerId) -> &ConnectCounters {
        &self.connects[id.0 as usize]
    }

    /// The counters of a service.
    #[inline]
    pub fn service(&self, id: ServiceId) -> &ServiceCounters {
        &self.services[id.0 as usize]
    }

    /// Local ports in use of a local address.
    #[inline]
    pub fn local_ports_used(&self, id: LocalId) -> &Counter {
        &self.locals[usize::from(id.0)]
    }
}
