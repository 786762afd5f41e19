//! Making views from the control thread's state.

use super::condition::{LINK, STATION};
use super::{
    AnswerView, CheckView, Counted, HealthView, LocalShareView, LocalView, NeighborView, PortView, RouteView,
    ServerView, ServiceView, SessionCount, SessionView, StatsView, SwitchView, WayView, WorkerView,
};
use crate::config::Weight;
use crate::config::{Config, ServerSpec, ServiceSpec};
use crate::desired::history::Drain;
use crate::devices::{DeviceCounters, DeviceFacts, Devices};
use crate::health::{Health, Last, Recent};
use crate::kernel::KernelPath;
use crate::last_second::Watched;
use crate::links::neighbors::NeighborTable;
use crate::registry::{Registry, ServiceCount};
use crate::servers::balance::{Switch, TIER_NAMES};
use crate::servers::{CheckPicture, Standings};
use crate::steering::Ladder;
use dataplane::clock::Instant;
use dataplane::drop::DropReason;
use dataplane::flow::{Endpoint, Protocol};
use dataplane::ids::{PortId, ServerId, ServiceId, WorkerId};
use dataplane::session::ForwardMode;
use dataplane::session::SessionRecord;
use dataplane::snapshot::{AddressRole, LocalAddress, Network, NextHop, Publisher, Snapshot, SynProxy};
use dataplane::stats::{
    PortCounters, PortTotals, ServerCounters, ServerTotals, SynProxyCounters, WorkerCounters, WorkerStats,
};
use dataplane::wire::Mac;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;

/// Everything that views are made from.
pub struct Observer<'a> {
    /// What the operator wants.
    pub config: &'a Config,
    /// What the devices are.
    pub facts: &'a [DeviceFacts],
    /// What the devices say now.
    pub devices: &'a dyn Devices,
    /// How replies find their workers.
    pub ladder: &'a Ladder,
    /// What the workers counted.
    pub stats: &'a [Arc<WorkerStats>],
    /// Who counted in which slot.
    pub registry: &'a Registry,
    /// Who is on the links.
    pub neighbors: &'a NeighborTable,
    /// What the workers follow.
    pub world: &'a Snapshot,
    /// Which generation each worker has reached.
    pub publisher: &'a Publisher,
    /// What each worker did in the last second.
    pub recent: &'a [Watched],
    /// IPv6 routers that advertise themselves.
    pub routers: Vec<NextHop>,
    /// Each port's link, as last polled.
    pub links: Vec<Option<(bool, u32)>>,
    /// What is known of servers.
    pub standings: &'a Standings,
    /// Services that refused sessions of late, for want of what, and until when that counts.
    pub refusing: &'a HashMap<ServiceId, (DropReason, Instant)>,
    /// Sessions with an IPv6 address that fit on each worker.
    pub capacity_ipv6: u64,
    /// Servers that leave at a time.
    pub drains: &'a [Drain],
    /// The host's kernel.
    pub kernel: Option<&'a KernelPath>,
    /// Now.
    pub now: Instant,
}

/// A server's raw counters over all workers.
pub(crate) fn read_slot(stats: &[Arc<WorkerStats>], id: ServerId) -> ServerTotals {
    stats.iter().map(|worker| worker.server(id).read()).sum()
}

impl Observer<'_> {
    fn sum(&self, value: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.stats.iter().map(|stats| value(stats)).sum()
    }

    fn read(&self) -> impl Fn(ServerId) -> ServerTotals {
        |id| read_slot(self.stats, id)
    }

    /// The servers of all services: whose each is.
    pub fn server_places(&self) -> Vec<(usize, usize)> {
        let services = self.config.services.iter().enumerate();
        services.flat_map(|(at, spec)| (0..spec.servers.len()).map(move |place| (at, place))).collect()
    }

    /// The service in place `at`.
    pub fn service(&self, at: usize) -> ServiceView {
        let spec = &self.config.services[at];
        let picture = self.standings.picture(at);
        let switch = self.standings.switch(at).map(|(switch, until)| SwitchView {
            to: self.switch_text(spec, switch),
            seconds: until.since(self.now).as_secs(),
        });
        let totals = self.registry.service_totals(&spec.name, &self.read());
        let (state, reason) = self.condition(at);
        let mut refused = BTreeMap::new();
        let (mut syn_proxy, mut asks_proof) = (None, false);
        if let Some((id, baseline)) = self.registry.service_slot(&spec.name) {
            let count = ServiceCount::read(self.stats, id).since(baseline);
            let mode = spec.options.syn_proxy;
            asks_proof = mode == SynProxy::Always || mode == SynProxy::Auto && self.world.proofs.asks(id);
            let proves = matches!(mode, SynProxy::Auto | SynProxy::Always);
            syn_proxy = proves.then(|| Counted::of(SynProxyCounters::ALL, &count.syn_proxy));
            refused.extend(count.totals.refusals().map(|(reason, count)| (reason.name().to_owned(), count)));
        }
        ServiceView {
            name: spec.name.clone(),
            listen: spec.listen_text(),
            protocol: spec.protocols.to_string(),
            forward: spec.forward.name().into(),
            scheduler: spec.scheduler.name().into(),
            state: state.name().into(),
            reason,
            sessions: totals.sessions_active + totals.sessions_inactive,
            local_addresses: spec.local_addresses.iter().map(ToString::to_string).collect(),
            refused,
            syn_proxy,
            asks_proof,
            protected: picture.protected,
            sorry: picture.sorry,
            switch,
            tiers: self.tiers(at),
            servers: (0..spec.servers.len()).map(|place| self.server(at, place)).collect(),
            counters: Counted::of(ServerCounters::ALL, &totals),
        }
    }

    /// The service in place `at`, with what checks of its servers lately said.
    pub fn service_in_full(&self, at: usize) -> ServiceView {
        let mut view = self.service(at);
        for (place, server) in view.servers.iter_mut().enumerate() {
            let last = self.standings.server(at, place, self.now).last;
            if let (Some(check), Some(last)) = (&mut server.check, last) {
                check.recent = last.recent.iter().map(AnswerView::from).collect();
            }
        }
        view
    }

    fn switch_text(&self, spec: &ServiceSpec, switch: &Switch) -> String {
        match switch {
            Switch::All => "all".into(),
            Switch::Tier(tier) => TIER_NAMES[*tier].into(),
            Switch::Servers(places) => {
                let texts: Vec<_> = places.iter().map(|at| server_text(spec.servers[*at].endpoint)).collect();
                texts.join(",")
            }
        }
    }

    /// A server, in place `place` of the service in place `at`.
    pub fn server(&self, at: usize, place: usize) -> ServerView {
        let service = &self.config.services[at];
        let spec = &service.servers[place];
        let totals = self.registry.server_totals(&service.name, spec.endpoint, &self.read());
        let standing = self.standings.server(at, place, self.now);
        ServerView {
            service: service.name.clone(),
            address: server_text(spec.endpoint),
            weight: spec.weight,
            effective_weight: standing.effective,
            state: self.state(at, place).into(),
            tier: TIER_NAMES[standing.tier].into(),
            zone: spec.location.zone.clone(),
            region: spec.location.region.clone(),
            slow_start: standing.ramp,
            relief: standing.relief,
            connect_ms: standing.connect_ms,
            drain_s: self.drain_s(&service.name, Some(spec.endpoint)),
            inhibited_ms: standing.inhibited.as_millis() as u64,
            check: standing.last.map(CheckView::from),
            counters: Counted::of(ServerCounters::ALL, &totals),
        }
    }

    /// In how many seconds a service, or a server of it, leaves, if it is drained with a deadline.
    pub(super) fn drain_s(&self, service: &str, endpoint: Option<Endpoint>) -> Option<u64> {
        let found =
            self.drains.iter().find(|drain| drain.service == service && drain.endpoint == endpoint)?;
        Some(found.until.since(self.now).as_secs())
    }

    /// A server's state in one word, of [`SERVER_STATES`](super::SERVER_STATES).
    pub(crate) fn state(&self, at: usize, place: usize) -> &'static str {
        let spec = &self.config.services[at].servers[place];
        let standing = self.standings.condition(at, place, self.now);
        match standing {
            _ if spec.weight == Weight::ZERO => "draining",
            _ if self.unreachable(spec).is_some() => "unreachable",
            (Health::Down, _) => "down",
            (Health::Checking, _) => "checking",
            (Health::Up, true) => "inhibited",
            (Health::Up, false) if spec.is_sorry => "sorry",
            (Health::Up, false) => "up",
        }
    }

    /// How many servers are in which state.
    pub fn server_states(&self) -> BTreeMap<String, usize> {
        let mut states = BTreeMap::new();
        for (at, place) in self.server_places() {
            *states.entry(self.state(at, place).to_owned()).or_insert(0) += 1;
        }
        states
    }

    /// The services whose health is not believed.
    pub fn protected(&self) -> Vec<String> {
        let services = self.config.services.iter().enumerate();
        services
            .filter(|(at, _)| self.standings.picture(*at).protected)
            .map(|(_, spec)| spec.name.clone())
            .collect()
    }

    /// Services that the operator sends elsewhere for a while, and where.
    pub fn switched(&self) -> Vec<String> {
        let services = self.config.services.iter().enumerate();
        let switched = services.filter_map(|(at, spec)| Some((spec, self.standings.switch(at)?)));
        switched
            .map(|(spec, (switch, until))| {
                let seconds = until.since(self.now).as_secs();
                format!("{} to {}, for {seconds} s more", spec.name, self.switch_text(spec, switch))
            })
            .collect()
    }

    /// Why a server cannot be reached now, and what to do.
    pub(super) fn unreachable(&self, server: &ServerSpec) -> Option<(String, &'static str)> {
        let Some(hop) = self.world.routes.lookup(server.endpoint.address, 0) else {
            return Some((format!("no route leads to {}", server.endpoint.address), "add a [[route]]"));
        };
        let port = usize::from(hop.port.0);
        if matches!(self.links[port], Some((false, _))) {
            return Some((format!("the link of port {} is down", self.config.ports[port].name), LINK));
        }
        self.neighbors.is_absent(hop).then(|| {
            let (address, port) = (hop.address, &self.config.ports[port].name);
            (format!("{address} does not answer {} on port {port}", question(hop)), STATION)
        })
    }

    /// `session count`.
    pub fn session_count(&self) -> SessionCount {
        let (mut active, mut inactive) = (0, 0);
        for spec in &self.config.services {
            let totals = self.registry.service_totals(&spec.name, &self.read());
            active += totals.sessions_active;
            inactive += totals.sessions_inactive;
        }
        SessionCount {
            sessions: self.sum(|stats| stats.sessions_live.value()),
            active,
            inactive,
            capacity: self.tables().iter().map(|table| table.capacity).sum(),
            sessions_ipv6: self.sum(|stats| stats.sessions_live_ipv6.value()),
            capacity_ipv6: self.capacity_ipv6 * self.stats.len() as u64,
            created: self.sum(|stats| stats.sessions_created.value()),
            expired: self.sum(|stats| stats.sessions_expired.value()),
            recycled: self.sum(|stats| stats.sessions_recycled.value()),
        }
    }

    /// `local list`.
    pub fn locals(&self) -> Vec<LocalView> {
        struct Entry {
            local: LocalAddress,
            services: BTreeSet<String>,
            servers: BTreeSet<(Protocol, Endpoint)>,
        }
        let mut by_address: BTreeMap<_, Entry> = BTreeMap::new();
        for (spec, service) in self.config.services.iter().zip(self.world.services.iter()) {
            for local in service.locals.iter() {
                let empty = || Entry { local: *local, services: BTreeSet::new(), servers: BTreeSet::new() };
                let entry = by_address.entry(local.address).or_insert_with(empty);
                entry.services.insert(spec.name.clone());
                for protocol in spec.protocols.iter() {
                    entry.servers.extend(service.servers.iter().map(|server| (protocol, server.endpoint)));
                }
            }
        }
        let view = |Entry { local, services, servers }: Entry| {
            let share = |(worker, stats): (usize, &Arc<WorkerStats>)| {
                let worker = WorkerId(worker as u16);
                let of = |(protocol, real): &(Protocol, Endpoint)| {
                    self.ladder.capacity(worker, local, *protocol, *real) as u64
                };
                LocalShareView {
                    worker: worker.0,
                    used: stats.local_ports_used(local.id).value(),
                    capacity: servers.iter().map(of).sum(),
                }
            };
            let workers: Vec<_> = self.stats.iter().enumerate().map(share).collect();
            LocalView {
                address: local.address.to_string(),
                port: self.port_name(local.port),
                used: workers.iter().map(|share| share.used).sum(),
                capacity: workers.iter().map(|share| share.capacity).sum(),
                services: services.into_iter().collect(),
                workers,
            }
        };
        by_address.into_values().map(view).collect()
    }

    /// `port list`.
    pub fn ports(&self) -> Vec<PortView> {
        let ports = self.config.ports.iter().zip(self.facts).enumerate();
        ports
            .map(|(at, (spec, facts))| {
                let id = PortId(at as u16);
                let totals = self.stats.iter().map(|stats| stats.port(id).read()).sum();
                let DeviceCounters { missed, rx_errors, tx_errors, no_buffer, .. } =
                    self.devices.counters(id);
                PortView {
                    name: spec.name.clone(),
                    device: spec.device.text().to_owned(),
                    parent: spec.vlan.map(|sub| self.port_name(sub.parent)),
                    vlan: spec.vlan.map(|sub| sub.vlan),
                    driver: facts.driver.clone(),
                    mac: mac_text(facts.mac),
                    mtu: facts.mtu,
                    link: self.link_text(at),
                    speed_mbps: self.links[at].map_or(0, |(_, speed)| speed),
                    addresses: spec.addresses.iter().map(ToString::to_string).collect(),
                    interface: self.kernel.and_then(|kernel| Some(kernel.interface(id)?.name.clone())),
                    steering: self.ladder.choice(id).rung.name().into(),
                    steering_refused: self
                        .ladder
                        .choice(id)
                        .refused
                        .iter()
                        .map(|(rung, reason)| format!("{}: {reason}", rung.name()))
                        .collect(),
                    rx_missed: missed,
                    rx_errors,
                    tx_errors,
                    rx_no_buffer: no_buffer,
                    counters: Counted::of(PortCounters::ALL, &totals),
                }
            })
            .collect()
    }

    /// A port's link in one word.
    pub fn link_text(&self, port: usize) -> String {
        match self.links[port] {
            Some((true, _)) => "up".into(),
            Some((false, _)) => "down".into(),
            None => "unknown".into(),
        }
    }

    /// `route list`.
    pub fn routes(&self) -> Vec<RouteView> {
        let of_file = self.config.routes.iter().map(|route| self.route_view(route.to, &route.hops, "static"));
        let default = Network { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix_len: 0 };
        let is_said = self.config.routes.iter().any(|route| route.to == default);
        let routers =
            (!is_said && !self.routers.is_empty()).then(|| self.route_view(default, &self.routers, "router"));
        let links = self.config.ports.iter().flat_map(|port| {
            port.addresses.iter().map(|own| RouteView {
                to: Network { address: own.base(), ..*own }.to_string(),
                via: Vec::new(),
                ports: vec![port.name.clone()],
                origin: "link".into(),
            })
        });
        of_file.chain(routers).chain(links).collect()
    }

    fn route_view(&self, to: Network, hops: &[NextHop], origin: &str) -> RouteView {
        RouteView {
            to: to.to_string(),
            via: hops.iter().map(|hop| hop.address.to_string()).collect(),
            ports: hops.iter().map(|hop| self.port_name(hop.port)).collect(),
            origin: origin.into(),
        }
    }

    /// `route get`.
    pub fn route(&self, address: IpAddr) -> WayView {
        let hop = self.world.routes.lookup(address, 0);
        let entry = hop.and_then(|hop| self.neighbors.entry(hop));
        WayView {
            address: address.to_string(),
            via: hop.map(|hop| hop.address.to_string()),
            port: hop.map(|hop| self.port_name(hop.port)),
            link: hop.map(|hop| self.link_text(usize::from(hop.port.0))),
            neighbor: entry.map(|entry| entry.standing.name().to_owned()),
            mac: entry.and_then(|entry| entry.mac).map(mac_text),
            role: self.world.role(address).map(|role| {
                match role {
                    AddressRole::Own => "own",
                    AddressRole::Vip => "vip",
                    AddressRole::Local(_) => "local",
                }
                .to_owned()
            }),
        }
    }

    /// `neighbor list`.
    pub fn neighbors(&self) -> Vec<NeighborView> {
        self.neighbors
            .entries()
            .into_iter()
            .map(|entry| NeighborView {
                address: entry.hop.address.to_string(),
                port: self.port_name(entry.hop.port),
                mac: entry.mac.map(mac_text),
                state: entry.standing.name().into(),
                confirmed_ms: entry.confirmed.map(|at| self.now.since(at).as_millis() as u64),
            })
            .collect()
    }

    /// `worker list`.
    pub fn workers(&self) -> Vec<WorkerView> {
        let workers = self.stats.iter().enumerate();
        workers
            .map(|(at, stats)| {
                let ports: PortTotals =
                    (0..self.facts.len()).map(|port| stats.port(PortId(port as u16)).read()).sum();
                WorkerView {
                    id: at as u16,
                    core: self.config.dataplane.workers[at],
                    busy_ratio: self.recent[at].seen.busy,
                    turn_us: self.recent[at].seen.turn_us,
                    burst: self.recent[at].seen.burst,
                    generation: self.publisher.applied_by(at).0,
                    sessions: stats.sessions_live.value(),
                    session_capacity: self.config.dataplane.session_capacity as u64 + self.capacity_ipv6,
                    sessions_ipv6: stats.sessions_live_ipv6.value(),
                    session_capacity_ipv6: self.capacity_ipv6,
                    rx_packets: ports.rx_packets,
                    tx_packets: ports.tx_packets,
                    dropped: DropReason::ALL.iter().map(|reason| stats.drops(*reason).value()).sum(),
                    counters: Counted::of(WorkerCounters::ALL, &stats.read()),
                }
            })
            .collect()
    }

    /// `stats drops`.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let count = |reason: &DropReason| self.sum(|stats| stats.drops(*reason).value());
        DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), count(reason))).collect()
    }

    /// `stats`.
    pub fn stats(&self) -> StatsView {
        StatsView { workers: self.workers(), ports: self.ports(), drops: self.drops() }
    }

    /// Gateways that do not answer.
    pub fn gateway_warnings(&self) -> Vec<String> {
        let hops =
            self.config.routes.iter().flat_map(|route| route.hops.iter().map(move |hop| (route, *hop)));
        let failed = hops.filter(|(_, hop)| self.neighbors.is_absent(*hop));
        failed
            .map(|(route, hop)| {
                let port = self.port_name(hop.port);
                let (gateway, question) = (hop.address, question(hop));
                format!(
                    "route to {}: gateway {gateway} does not answer {question} on port {port}; {STATION}",
                    route.to
                )
            })
            .collect()
    }

    /// What an operator should know about the ports.
    pub fn port_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (at, spec) in self.config.ports.iter().enumerate() {
            let id = PortId(at as u16);
            let interface = spec.device.argument("iface").unwrap_or(spec.device.name());
            let super_frames: u64 = self.stats.iter().map(|stats| stats.port(id).super_frames.value()).sum();
            if super_frames > 0 {
                // DPDK's af_packet asks the kernel to put fragments together.
                let joins = match spec.device.name().starts_with("net_af_packet") {
                    true => {
                        "; af_packet also gives IPv4 fragments as one such frame: where datagrams are cut, use net_pcap or a NIC"
                    }
                    false => "",
                };
                warnings.push(format!(
                    "port {}: {super_frames} super-frames were dropped because a sender leaves segmentation to its device; run `ethtool -K IFACE tso off gso off tx off` at the other end of {interface}{joins}",
                    spec.name
                ));
            }
            if matches!(self.links[at], Some((false, _))) {
                warnings.push(format!("port {}: the link is down; {LINK}", spec.name));
            }
        }
        warnings
    }

    /// What costs time and harms nobody.
    pub fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        for (at, spec) in self.config.ports.iter().enumerate() {
            let id = PortId(at as u16);
            let interface = spec.device.argument("iface").unwrap_or(spec.device.name());
            let partial: u64 = self.stats.iter().map(|stats| stats.port(id).partial_checksums.value()).sum();
            if partial > 0 {
                hints.push(format!(
                    "port {}: {partial} partial checksums were finished in software because a sender leaves them to its device; `ethtool -K IFACE tx off` at the other end of {interface} saves that work",
                    spec.name
                ));
            }
        }
        hints.extend(self.hints_of_ways());
        hints
    }

    /// Families in which services listen and clients from elsewhere cannot be answered.
    fn hints_of_ways(&self) -> Vec<String> {
        let mut hints = Vec::new();
        for (family, is_ipv4, all) in [("IPv4", true, "0.0.0.0/0"), ("IPv6", false, "::/0")] {
            let is_of = |network: &Network| network.address.is_ipv4() == is_ipv4;
            let listens = |spec: &Arc<ServiceSpec>| {
                // Servers of other modes answer their clients themselves.
                let answers = matches!(spec.forward, ForwardMode::FullNat | ForwardMode::Nat);
                answers && spec.listens.iter().any(|listen| is_of(&listen.network))
            };
            if !self.config.services.iter().any(listens) {
                continue;
            }
            let mut own = self.config.ports.iter().flat_map(|port| &port.addresses);
            let has_route = self.config.routes.iter().any(|route| is_of(&route.to));
            let has_router = !is_ipv4 && !self.routers.is_empty();
            if !own.any(is_of) {
                hints.push(format!(
                    "services listen on {family} addresses, and no port has one: clients come only if a router sends them here, and answers need a route"
                ));
            } else if !has_route && !has_router {
                hints.push(format!(
                    "no route leads to {family} clients beyond the ports' own networks; add a [[route]] with to = \"{all}\" if there are any"
                ));
            }
        }
        hints
    }

    pub(super) fn port_name(&self, port: PortId) -> String {
        self.config.ports[usize::from(port.0)].name.clone()
    }
}

impl From<&SessionRecord> for SessionView {
    fn from(record: &SessionRecord) -> Self {
        Self {
            protocol: record.protocol.name().into(),
            client: record.client.to_string(),
            vip: record.vip.to_string(),
            local: record.local.to_string(),
            real: record.real.to_string(),
            state: record.state.name().into(),
            worker: record.worker.0,
            idle_ms: record.idle_ms,
        }
    }
}

impl From<Last> for CheckView {
    fn from(last: Last) -> Self {
        Self {
            asked: last.asked,
            failed: last.failed,
            unasked: last.unasked,
            took_us: last.took.as_micros() as u64,
            error: last.error,
            load: last.load,
            load_error: last.load_error,
            since: last.turned.map(time_text),
            flaps: last.turns,
            recent: Vec::new(),
        }
    }
}

impl From<CheckPicture> for HealthView {
    fn from(check: CheckPicture) -> Self {
        Self {
            target: check.target.to_string(),
            probe: check.probe.into(),
            state: check.health.name().into(),
            services: check.services,
            check: CheckView::from(check.last),
        }
    }
}

impl From<&Recent> for AnswerView {
    fn from(recent: &Recent) -> Self {
        Self {
            time: time_text(recent.at),
            took_us: recent.took.as_micros() as u64,
            error: recent.error.as_deref().map(str::to_owned),
        }
    }
}

fn time_text(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A server's endpoint; its address alone where it takes every port of the service.
pub(crate) fn server_text(endpoint: Endpoint) -> String {
    if endpoint.l4_port == 0 { endpoint.address.to_string() } else { endpoint.to_string() }
}

/// How a neighbour is asked for.
fn question(hop: NextHop) -> &'static str {
    if hop.address.is_ipv4() { "ARP" } else { "neighbour solicitations" }
}

pub(crate) fn mac_text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
