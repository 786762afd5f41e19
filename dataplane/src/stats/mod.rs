//! What was counted: one block per worker, written by that worker alone and
//! read by anyone at any time.

mod counter;
mod histogram;
mod spread;

pub use counter::{Count, Counter, Kind, Unit};
pub use histogram::{Bounds, CONNECT_MS, DURATION_MS, Histogram, HistogramTotals, SIZE_BYTES};
pub use spread::{Spread, SpreadTotals};

use crate::drop::DropReason;
use crate::flow::Direction;
use crate::hugepages::{self, Table};
use crate::ids::{
    AclId, LocalId, MAX_ACLS, MAX_LOCALS, MAX_SERVERS, MAX_SERVICES, PortId, ServerId, ServiceId,
};
use counter::counters;
use std::ops::Deref;

counters! {
    /// A real server's counters: one cache line.
    #[repr(align(64))]
    ServerCounters, ServerTotals {
        /// Packets from clients.
        packets_in: Counter of Packets,
        /// Packets to clients.
        packets_out: Counter of Packets,
        /// IP bytes from clients.
        bytes_in: Counter of Bytes,
        /// IP bytes to clients.
        bytes_out: Counter of Bytes,
        /// Sessions ever made.
        sessions_created: Counter of Sessions,
        /// Live sessions that are ESTABLISHED (TCP) or have seen a reply (UDP).
        sessions_active: Gauge of Sessions,
        /// Other live sessions.
        sessions_inactive: Gauge of Sessions,
        /// Sessions to which it never answered, or answered its first packet by a reset.
        failures: Counter of Sessions,
    }
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

counters! {
    /// How fast a real server answers connections: apart from its other counters, which fill a line.
    #[repr(align(32))]
    ConnectCounters, ConnectTotals {
        /// Connections that it answered by SYN and ACK.
        answered: Counter of Connections,
        /// Milliseconds from the client's last SYN to that answer, all together. Single ones are cut to whole
        /// milliseconds of a clock that runs on, which evens out over many.
        waited_ms: Counter of Milliseconds,
        /// Connections that were half open and that their clients finished.
        finished: Counter of Connections,
    }
}

counters! {
    /// A service's counters of what never reached a real server.
    #[repr(align(64))]
    ServiceCounters, ServiceTotals {
        /// New sessions refused because no real server had a weight.
        no_real_server: Counter of Sessions,
        /// New sessions refused because every local port was in use.
        local_ports_exhausted: Counter of Sessions,
        /// New sessions refused because the session table was full.
        session_table_full: Counter of Sessions,
        /// New sessions refused because no route leads to the server.
        no_route: Counter of Sessions,
        /// TCP segments that opened nothing and belonged to no session.
        no_session: Counter of Packets,
        /// New sessions refused because every real server has as many as it may have.
        servers_full: Counter of Sessions,
        /// New sessions refused because the service has as many as it may have.
        service_limit: Counter of Sessions,
        /// New sessions refused because the link towards the server is down.
        link_down: Counter of Sessions,
        /// New sessions refused because their source had as many as it may have in a second.
        source_rate: Counter of Sessions,
        /// New sessions refused because the service had as many as it takes in a second.
        service_rate: Counter of Sessions,
    }
}

const _: () = assert!(size_of::<ServiceCounters>() == 128);

/// The reasons for which new sessions are refused, each with its counter.
macro_rules! refusals {
    ($($reason:ident: $counter:ident,)+) => {
        impl ServiceTotals {
            /// Why new sessions of a service were refused, and how many.
            pub fn refusals(&self) -> [(DropReason, u64); 10] {
                [$((DropReason::$reason, self.$counter)),+]
            }
        }

        impl ServiceCounters {
            fn refusal(&self, reason: DropReason) -> Option<&Counter> {
                match reason {
                    $(DropReason::$reason => Some(&self.$counter),)+
                    _ => None,
                }
            }
        }
    };
}

refusals! {
    NoRealServer: no_real_server,
    ServersFull: servers_full,
    ServiceLimit: service_limit,
    LocalPortsExhausted: local_ports_exhausted,
    SessionTableFull: session_table_full,
    NoRoute: no_route,
    LinkDown: link_down,
    SourceRate: source_rate,
    ServiceRate: service_rate,
    NoSession: no_session,
}

impl ServiceCounters {
    /// Counts a refusal, if its reason is one of [`refusals`](ServiceTotals::refusals).
    pub fn refuse(&self, reason: DropReason) {
        if let Some(counter) = self.refusal(reason) {
            counter.add(1);
        }
    }
}

counters! {
    /// What the SYN proxy did for a service.
    #[repr(align(64))]
    SynProxyCounters, SynProxyTotals {
        /// SYNs answered by a cookie.
        cookies_sent: Counter of Packets,
        /// Connections whose client knew its cookie, and got a session.
        cookies_accepted: Counter of Connections,
        /// Segments without session that knew no cookie.
        cookies_wrong: Counter of Packets,
        /// Segments without session that were not looked at, because too many before them knew no cookie.
        cookies_unchecked: Counter of Packets,
        /// Connections of which no proof was asked; counted where floods are looked for.
        unasked: Counter of Connections,
    }
}

counters! {
    /// What one worker did on one port.
    #[repr(align(64))]
    PortCounters, PortTotals {
        /// Packets taken from the device.
        rx_packets: Counter of Packets,
        /// Bytes taken from the device, Ethernet headers included.
        rx_bytes: Counter of Bytes,
        /// Packets given to the device.
        tx_packets: Counter of Packets,
        /// Bytes given to the device, Ethernet headers included.
        tx_bytes: Counter of Bytes,
        /// Packets the device did not take.
        tx_refused: Counter of Packets,
        /// Packets that came to this worker and were another's: handed over, or lost because the ring
        /// was full.
        handed_over: Counter of Packets,
        /// Partial checksums that were finished (a sender's checksum offload is on).
        partial_checksums: Counter of Packets,
        /// Super-frames dropped (a sender's segmentation offload is on).
        super_frames: Counter of Packets,
    }
}

counters! {
    /// What a worker did and has, whatever the port, service or server.
    WorkerCounters, WorkerTotals {
        /// Turns of the loop.
        turns: Counter of Turns,
        /// Time spent in turns that found packets, in nanoseconds.
        busy_ns: Counter of Nanoseconds,
        /// Time spent in all turns, in nanoseconds.
        total_ns: Counter of Nanoseconds,
        /// Sessions made.
        sessions_created: Counter of Sessions,
        /// Sessions ended by their timeout.
        sessions_expired: Counter of Sessions,
        /// Closed sessions ended early because their local port or slot was needed.
        sessions_recycled: Counter of Sessions,
        /// Half-open connections and unanswered datagrams' sessions that were ended early to make room.
        sessions_displaced: Counter of Sessions,
        /// Connections between IPv4 addresses that are half open now.
        sessions_half_open: Gauge of Sessions,
        /// Connections with an IPv6 address that are half open now.
        sessions_half_open_ipv6: Gauge of Sessions,
        /// Datagrams' sessions between IPv4 addresses to which the server has not answered yet.
        sessions_unanswered: Gauge of Sessions,
        /// Datagrams' sessions with an IPv6 address to which the server has not answered yet.
        sessions_unanswered_ipv6: Gauge of Sessions,
        /// Sessions now in the tables of both families.
        sessions_live: Gauge of Sessions,
        /// Sessions now in the table of those with an IPv6 address.
        sessions_live_ipv6: Gauge of Sessions,
        /// RSTs and FINs of TCP whose sequence numbers cannot be their senders': passed on, and no session ended by them.
        segments_out_of_window: Counter of Packets,
        /// ICMP echo requests answered.
        echo_replies: Counter of Packets,
        /// ICMP errors sent.
        icmp_errors: Counter of Packets,
        /// ICMP errors about packets of sessions, passed on to whom they concern.
        icmp_relayed: Counter of Packets,
        /// Resets sent to the ends of connections that were forgotten.
        resets_sent: Counter of Packets,
        /// Packets in which a server was told where its client is (TOA, PROXY, UOA).
        address_sent: Counter of Packets,
        /// Packets that should have told and did not, because they had no room for it or were fragments.
        address_no_room: Counter of Packets,
        /// Packets that should have told and did not, because they would have exceeded the MTU.
        address_exceeds_mtu: Counter of Packets,
        /// Packets of clients that said where they are themselves, and were mended.
        address_stripped: Counter of Packets,
        /// Packets now waiting for a neighbour.
        parked: Gauge of Packets,
        /// Packets given to the host's kernel.
        to_kernel: Counter of Packets,
        /// Packets of the host's kernel that were sent.
        from_kernel: Counter of Packets,
        /// Local ports in use of the pair of local address and server that has the largest share in use.
        fullest_pair_used: Gauge of LocalPorts,
        /// Local ports that this pair has on this worker.
        fullest_pair_ports: Gauge of LocalPorts,
        /// Datagrams of which pieces came and not yet all, or that came whole a moment ago.
        fragmented_datagrams: Gauge of Datagrams,
        /// Packets that wait in the fullest ring by which another worker hands over to this one.
        fullest_ring: Gauge of Packets,
    }
}

/// One worker's counters, on cache lines of its own (two at a time, as the core fetches them).
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerStats {
    counters: WorkerCounters,
    drops: [Counter; DropReason::COUNT],
    ports: Table<PortCounters>,
    servers: Table<ServerCounters>,
    connects: Table<ConnectCounters>,
    services: Table<ServiceCounters>,
    syn_proxies: Table<SynProxyCounters>,
    connect_times: Table<Histogram>,
    session_durations: Table<Histogram>,
    session_sizes: Table<Histogram>,
    locals: Table<Counter>,
    acls: Table<Counter>,
    /// How long turns that found packets took, in nanoseconds.
    pub turn_times: Spread,
    /// How many packets bursts of devices had.
    pub bursts: Spread,
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
            counters: WorkerCounters::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            ports: hugepages::table(ports, PortCounters::default),
            servers: hugepages::table(servers, ServerCounters::default),
            connects: hugepages::table(servers, ConnectCounters::default),
            services: hugepages::table(services, ServiceCounters::default),
            syn_proxies: hugepages::table(services, SynProxyCounters::default),
            connect_times: hugepages::table(services, Histogram::default),
            session_durations: hugepages::table(services, Histogram::default),
            session_sizes: hugepages::table(services, Histogram::default),
            locals: hugepages::table(locals, Counter::default),
            acls: hugepages::table(MAX_ACLS, Counter::default),
            turn_times: Spread::default(),
            bursts: Spread::default(),
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

    /// What the SYN proxy did for a service.
    #[inline]
    pub fn syn_proxy(&self, id: ServiceId) -> &SynProxyCounters {
        &self.syn_proxies[id.0 as usize]
    }

    /// How long the servers of a service took to answer connections, from the client's last SYN to SYN and ACK.
    #[inline]
    pub fn connect_times(&self, id: ServiceId) -> &Histogram {
        &self.connect_times[id.0 as usize]
    }

    /// How long sessions of a service lasted that have ended, from their first packet to their last.
    pub fn session_durations(&self, id: ServiceId) -> &Histogram {
        &self.session_durations[id.0 as usize]
    }

    /// How many bytes of IP packets, of both directions, sessions of a service had that have ended.
    pub fn session_sizes(&self, id: ServiceId) -> &Histogram {
        &self.session_sizes[id.0 as usize]
    }

    /// Packets without session that a list decided about.
    pub fn acl_hits(&self, id: AclId) -> &Counter {
        &self.acls[usize::from(id.0)]
    }

    /// Local ports in use of a local address.
    #[inline]
    pub fn local_ports_used(&self, id: LocalId) -> &Counter {
        &self.locals[usize::from(id.0)]
    }
}

impl Deref for WorkerStats {
    type Target = WorkerCounters;

    #[inline]
    fn deref(&self) -> &WorkerCounters {
        &self.counters
    }
}
