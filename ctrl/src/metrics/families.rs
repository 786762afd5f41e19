//! The families of metrics, written piece by piece.

use super::text::{Format, Head, Type, Value};
use super::{LocalRow, PortRow, Roll, ServerRow, ServiceRow, WorkerRow};
use crate::attacks;
use crate::config::SeriesOfServers as Servers;
use crate::last_second::Quantiles;
use crate::registry::ServiceCount;
use dataplane::drop::DropReason;
use dataplane::session::Fragments;
use dataplane::stats::{
    Bounds, CONNECT_MS, Count, DURATION_MS, HistogramTotals, Kind, PortCounters, PortTotals, SIZE_BYTES,
    ServerCounters, ServerTotals, Spread, SynProxyCounters, SynProxyTotals, Unit, WorkerCounters,
    WorkerStats, WorkerTotals,
};
use dataplane::worker::RING_SIZE;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a piece, more or less.
const PIECE: usize = 64 * 1024;
/// The states that services may be in: each has a sample, so that `== 1` finds them.
pub const SERVICE_STATES: [&str; 6] = ["ready", "protected", "full", "draining", "down", "unready"];
/// Those of servers.
pub const SERVER_STATES: [&str; 7] =
    ["up", "checking", "down", "draining", "unreachable", "inhibited", "sorry"];

/// Upper bounds of the buckets of turns, in nanoseconds: the largest values of buckets of [`Spread`].
const TURN_BOUNDS: [u64; 12] = {
    let mut bounds = [0; 12];
    let mut at = 0;
    while at < bounds.len() {
        // From a microsecond on, each twice as long as the one before.
        bounds[at] = (1 << (10 + at)) - 1;
        at += 1;
    }
    bounds
};
/// Those of bursts, in packets.
const BURST_BOUNDS: [u64; 7] = [1, 2, 3, 7, 15, 31, 63];

/// The tables of sessions.
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// Objects of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The process, and what concerns no single object.
    Global,
    /// Workers.
    Worker,
    /// Ports.
    Port,
    /// Local addresses.
    Local,
    /// Services.
    Service,
    /// Servers.
    Server,
}

impl Scope {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 6] =
        [Self::Global, Self::Worker, Self::Port, Self::Local, Self::Service, Self::Server];

    /// The word in a query.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Worker => "worker",
            Self::Port => "port",
            Self::Local => "local",
            Self::Service => "service",
            Self::Server => "server",
        }
    }
}

/// What of everything is asked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// These scopes; none stands for all.
    pub scopes: Vec<Scope>,
    /// These services, and their servers; none stands for all.
    pub services: Vec<String>,
    /// Which servers.
    pub servers: Servers,
}

impl Query {
    /// The query of a request's URI, over what the configuration says of servers.
    ///
    /// # Errors
    /// When a parameter is unknown or has an unknown value.
    pub fn parse(text: &str, servers: Servers) -> Result<Self, String> {
        let mut query = Self { scopes: Vec::new(), services: Vec::new(), servers };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "scope" if value == "*" => query.scopes.extend(Scope::ALL),
                "scope" => {
                    let scope = Scope::ALL.into_iter().find(|scope| scope.name() == value);
                    let all = Scope::ALL.map(Scope::name).join(", ");
                    query.scopes.push(scope.ok_or_else(|| format!("scope is one of {all}, or *\n"))?);
                }
                "service" => query.services.push(value.to_owned()),
                "servers" => {
                    let words = Servers::WORDS.join(", ");
                    query.servers =
                        Servers::named(value).ok_or_else(|| format!("servers is one of {words}\n"))?;
                }
                _ => return Err("the parameters are scope, service and servers\n".to_owned()),
            }
        }
        Ok(query)
    }

    fn has(&self, scope: Scope) -> bool {
        self.scopes.is_empty() || self.scopes.contains(&scope)
    }
}

/// A service with what was counted of it.
struct Service {
    row: Arc<ServiceRow>,
    totals: ServerTotals,
    refused: [(DropReason, u64); 10],
    syn_proxy: SynProxyTotals,
    connect_times: HistogramTotals,
    durations: HistogramTotals,
    sizes: HistogramTotals,
    /// The places of the servers that have series, with what was counted of them.
    servers: Vec<(usize, ServerTotals)>,
}

/// One answer to a scrape: everything was read when it began, and is written piece by piece.
pub struct Scrape {
    roll: Arc<Roll>,
    format: Format,
    families: Vec<Family>,
    at: (usize, usize),
    is_over: bool,
    services: Vec<Service>,
    /// Every server that has series: the places of its service and of itself.
    servers: Vec<(usize, usize)>,
    workers: Vec<WorkerTotals>,
    ports: Vec<PortTotals>,
    drops: Vec<(DropReason, u64)>,
    locals: Vec<u64>,
    now: SystemTime,
}

/// A service's row of a histogram, whose values are so many to a unit of the family.
fn histogram(
    out: &mut String,
    head: &Head,
    service: &str,
    totals: &HistogramTotals,
    (bounds, to_unit): (&Bounds, f64),
) {
    let mut sum = 0;
    for (nth, count) in totals.buckets.iter().enumerate() {
        sum += count;
        let bound =
            bounds.get(nth).map_or("+Inf".to_owned(), |bound| format!("{:?}", *bound as f64 / to_unit));
        head.line(out, "_bucket", &[("service", service), ("le", &bound)], sum);
    }
    head.line(out, "_sum", &[("service", service)], totals.sum as f64 / to_unit);
    head.line(out, "_count", &[("service", service)], sum);
}

/// A gauge or counter of rows of one kind: its name, its meaning, and its value.
type Column<T, V> = (&'static str, &'static str, fn(&T) -> V);
type Write = Box<dyn Fn(&Scrape, &Head, usize, &mut String) + Send>;

struct Family {
    head: Head,
    rows: usize,
    write: Write,
}

impl Scrape {
    /// Reads what `query` asks for. Takes some milliseconds where there are many servers.
    pub fn new(roll: Arc<Roll>, query: &Query, format: Format, now: SystemTime) -> Self {
        let stats = Arc::clone(&roll.stats);
        let asks_services = query.has(Scope::Service) || query.has(Scope::Server);
        let is_asked = |row: &ServiceRow| query.services.is_empty() || query.services.contains(&row.name);
        let with_servers = query.has(Scope::Server);
        let shows = |server: &ServerRow| match query.servers {
            Servers::None => false,
            Servers::All => server.state.is_some(),
            Servers::Unhealthy => server.state.is_some_and(|state| state != "up"),
        };
        let mut services = Vec::new();
        for row in roll.services.iter().filter(|row| asks_services && is_asked(row)) {
            let (mut totals, mut servers) = (row.gone, Vec::new());
            for (place, server) in row.servers.iter().enumerate() {
                let sum: ServerTotals = stats.iter().map(|worker| worker.server(server.id).read()).sum();
                let counted = sum.since(server.baseline);
                totals += counted;
                if with_servers && shows(server) {
                    servers.push((place, counted));
                }
            }
            let count = ServiceCount::read(&stats, row.id).since(row.baseline);
            let ServiceCount { totals: refused, syn_proxy, connect_times, durations, sizes } = count;
            let refused = refused.refusals();
            services.push(Service {
                row: Arc::clone(row),
                totals,
                refused,
                syn_proxy,
                connect_times,
                durations,
                sizes,
                servers,
            });
        }
        let places = services.iter().enumerate();
        let servers =
            places.flat_map(|(at, service)| (0..service.servers.len()).map(move |nth| (at, nth))).collect();
        let sum = |id| stats.iter().map(|worker| worker.port(id).read()).sum();
        let drops = DropReason::ALL
            .iter()
            .copied()
            .map(|reason| (reason, stats.iter().map(|worker| worker.drops(reason).value()).sum()));
        let used =
            |local: &LocalRow| stats.iter().map(|worker| worker.local_ports_used(local.id).value()).sum();
        let mut scrape = Self {
            format,
            families: Vec::new(),
            at: (0, 0),
            is_over: false,
            services,
            servers,
            workers: stats.iter().map(|worker| worker.read()).collect(),
            ports: roll.ports.iter().map(|port| sum(port.id)).collect(),
            drops: drops.collect(),
            locals: roll.locals.iter().map(used).collect(),
            now,
            roll,
        };
        scrape.plan(query);
        scrape
    }

    /// Whether the roll that it was made from is `other`.
    pub fn is_of(&self, other: &Arc<Roll>) -> bool {
        Arc::ptr_eq(&self.roll.services, &other.services)
    }

    /// The next piece of the text; `None` behind the last.
    pub fn piece(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        let mut out = String::with_capacity(PIECE + 4_096);
        while let Some(family) = self.families.get(self.at.0) {
            if self.at.1 == 0 {
                family.head.write(self.format, &mut out);
            }
            while self.at.1 < family.rows && out.len() < PIECE {
                (family.write)(self, &family.head, self.at.1, &mut out);
                self.at.1 += 1;
            }
            if self.at.1 < family.rows {
                return Some(out);
            }
            self.at = (self.at.0 + 1, 0);
        }
        self.is_over = true;
        if self.format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        Some(out)
    }

    fn plan(&mut self, query: &Query) {
        if query.has(Scope::Global) {
            self.plan_global();
        }
        if query.has(Scope::Worker) {
            self.plan_workers();
        }
        if query.has(Scope::Port) {
            self.plan_ports();
        }
        if query.has(Scope::Local) {
            self.plan_locals();
        }
        if query.has(Scope::Service) {
            self.plan_services();
        }
        if query.has(Scope::Server) {
            self.plan_servers();
        }
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        kind: Type,
        help: impl Into<String>,
        rows: usize,
        write: impl Fn(&Self, &Head, usize, &mut String) + Send + 'static,
    ) {
        // A family without samples would say nothing.
        if rows > 0 {
            let head = Head { name: name.into(), kind, help: help.into() };
            self.families.push(Family { head, rows, write: Box::new(write) });
        }
    }

    /// A family of one sample.
    fn one<V: Into<Value>>(
        &mut self,
        name: &str,
        kind: Type,
        help: &str,
        value: impl Fn(&Self) -> V + Send + 'static,
    ) {
        self.add(name, kind, help, 1, move |scrape, head, _, out| head.sample(out, &[], value(scrape)));
    }

    fn plan_global(&mut self) {
        use Type::{Counter, Gauge, Info};
        let help = "Sluice's version, and that of DPDK.";
        self.add("sluice_build", Info, help, 1, |scrape, head, _, out| {
            let general = &scrape.roll.general;
            head.sample(out, &[("version", &general.version), ("dpdk", &general.dpdk)], 1);
        });
        self.one(
            "sluice_start_time_seconds",
            Gauge,
            "When the process started, since the epoch.",
            |scrape| seconds(scrape.roll.general.started),
        );
        self.one("sluice_uptime_seconds", Gauge, "How long the process has run.", |scrape| {
            scrape.now.duration_since(scrape.roll.general.started).unwrap_or_default().as_secs_f64()
        });
        let help = "The snapshot that was published last.";
        self.one("sluice_config_generation", Gauge, help, |scrape| scrape.roll.general.generation.0);
        let help = "The last snapshot that every worker follows.";
        self.one("sluice_config_applied_generation", Gauge, help, |scrape| scrape.roll.general.generation.1);
        let help = "Whether the configuration's files are followed as they were last read.";
        self.one("sluice_config_last_reload_successful", Gauge, help, |scrape| {
            scrape.roll.general.is_reloaded
        });
        let help = "When the configuration's files were last followed, since the epoch.";
        self.one("sluice_config_last_reload_success_timestamp_seconds", Gauge, help, |scrape| {
            seconds(scrape.roll.general.reloaded)
        });
        let help = "Whether changes by command are not in the files.";
        self.one("sluice_config_changed_by_command", Gauge, help, |scrape| scrape.roll.general.is_changed);
        self.one("sluice_buffers", Gauge, "Packet buffers in all.", |scrape| {
            u64::from(scrape.roll.general.buffers.1)
        });
        self.one(
            "sluice_buffers_in_use",
            Gauge,
            "Packet buffers that hold a packet or wait in a device.",
            |scrape| u64::from(scrape.roll.general.buffers.0),
        );
        let states = self.roll.general.neighbors.len();
        self.add("sluice_neighbors", Gauge, "Neighbours by state.", states, |scrape, head, at, out| {
            let (state, count) = scrape.roll.general.neighbors[at];
            head.sample(out, &[("state", state)], count as u64);
        });
        let help = "Services by state.";
        self.add("sluice_services", Gauge, help, SERVICE_STATES.len(), |scrape, head, at, out| {
            let state = SERVICE_STATES[at];
            let count = scrape.roll.services.iter().filter(|row| row.state == state).count();
            head.sample(out, &[("state", state)], count as u64);
        });
        let help = "Packets that were dropped, by reason; `sluice stats drops` says what each means.";
        self.add("sluice_drops", Counter, help, self.drops.len(), |scrape, head, at, out| {
            let (reason, count) = scrape.drops[at];
            head.sample(out, &[("reason", reason.name())], count);
        });
    }

    fn plan_workers(&mut self) {
        let rows = self.workers.len();
        let row = |scrape: &Self, at: usize| -> WorkerRow { scrape.roll.workers[at].clone() };
        self.add("sluice_worker", Type::Info, "A worker's CPU core.", rows, move |scrape, head, at, out| {
            let core = row(scrape, at).core.to_string();
            head.sample(out, &[("worker", &at.to_string()), ("core", &core)], 1);
        });
        let gauges: [Column<WorkerRow, Value>; 2] = [
            (
                "sluice_worker_busy_ratio",
                "The share of its time in which a worker had packets, over the last second.",
                |row| row.recent.busy.into(),
            ),
            ("sluice_worker_stalled", "Whether a worker made no turn for a second.", |row| {
                row.is_still.into()
            }),
        ];
        for (name, help, value) in gauges {
            self.add(name, Type::Gauge, help, rows, move |scrape, head, at, out| {
                head.sample(out, &[("worker", &at.to_string())], value(&scrape.roll.workers[at]));
            });
        }
        self.recent(
            "sluice_worker_recent_turn_seconds",
            "How long turns with packets took in the last second: half, 99 % and all of them at most so long.",
            1e-6,
            |row| row.recent.turn_us,
        );
        self.recent(
            "sluice_worker_recent_burst_packets",
            "How many packets devices gave at a time in the last second: half, 99 % and all of them at most so many.",
            1.0,
            |row| row.recent.burst,
        );
        self.spread(
            "sluice_worker_turn_seconds",
            "How long a worker's turns with packets took.",
            (&TURN_BOUNDS, 1e-9),
            |stats| &stats.turn_times,
        );
        self.spread(
            "sluice_worker_burst_packets",
            "How many packets a device gave a worker at a time.",
            (&BURST_BOUNDS, 1.0),
            |stats| &stats.bursts,
        );
        let capacities: [(&str, &str, usize); 2] = [
            (
                "sluice_worker_fragmented_datagrams_capacity",
                "Datagrams in pieces that a worker keeps at a time.",
                Fragments::CAPACITY,
            ),
            (
                "sluice_worker_ring_capacity",
                "Packets that a ring holds by which a worker hands over to another.",
                RING_SIZE,
            ),
        ];
        for (name, help, capacity) in capacities {
            self.one(name, Type::Gauge, help, move |_| capacity as u64);
        }
        // Each family has a table of its own.
        let help = "Sessions that fit into a worker's table of a family.";
        self.add("sluice_worker_session_capacity", Type::Gauge, help, rows * 2, |scrape, head, at, out| {
            let capacity = scrape.roll.workers[at / 2].capacity[at % 2];
            head.sample(out, &[("worker", &(at / 2).to_string()), ("family", FAMILIES[at % 2])], capacity);
        });
        let help = "Live sessions in a worker's table of a family.";
        self.add("sluice_worker_sessions_live", Type::Gauge, help, rows * 2, |scrape, head, at, out| {
            let WorkerTotals { sessions_live, sessions_live_ipv6, .. } = scrape.workers[at / 2];
            let live = [sessions_live.saturating_sub(sessions_live_ipv6), sessions_live_ipv6][at % 2];
            head.sample(out, &[("worker", &(at / 2).to_string()), ("family", FAMILIES[at % 2])], live);
        });
        for count in WorkerCounters::ALL.iter().filter(|count| !count.name.starts_with("sessions_live")) {
            let scale = scale(count.unit);
            self.add(
                name_of("worker", count),
                kind(count),
                meaning(count),
                rows,
                move |scrape, head, at, out| {
                    let value = scaled((count.get)(&scrape.workers[at]), scale);
                    head.sample(out, &[("worker", &at.to_string())], value);
                },
            );
        }
    }

    /// A family of what half, 99 % and all of the values of each worker's last second were at most.
    fn recent(&mut self, name: &str, help: &str, unit: f64, get: fn(&WorkerRow) -> Quantiles) {
        let rows = self.workers.len() * Quantiles::NAMES.len();
        self.add(name, Type::Gauge, help, rows, move |scrape, head, at, out| {
            let (worker, nth) = (at / Quantiles::NAMES.len(), at % Quantiles::NAMES.len());
            let value = get(&scrape.roll.workers[worker]).values()[nth] * unit;
            let labels = [("worker", &*worker.to_string()), ("share", Quantiles::NAMES[nth])];
            head.sample(out, &labels, value);
        });
    }

    /// A histogram of each worker, with these upper bounds and their unit.
    fn spread(
        &mut self,
        name: &str,
        help: &str,
        (bounds, unit): (&'static [u64], f64),
        get: fn(&WorkerStats) -> &Spread,
    ) {
        self.add(name, Type::Histogram, help, self.workers.len(), move |scrape, head, at, out| {
            let (read, worker) = (get(&scrape.roll.stats[at]).read(), at.to_string());
            for bound in bounds {
                let le = format!("{:?}", *bound as f64 * unit);
                head.line(out, "_bucket", &[("worker", &worker), ("le", &le)], read.at_most(*bound));
            }
            head.line(out, "_bucket", &[("worker", &worker), ("le", "+Inf")], read.count());
            head.line(out, "_sum", &[("worker", &worker)], read.sum as f64 * unit);
            head.line(out, "_count", &[("worker", &worker)], read.count());
        });
    }

    fn plan_ports(&mut self) {
        let rows = self.ports.len();
        let help = "A port's device, driver and station address.";
        self.add("sluice_port", Type::Info, help, rows, |scrape, head, at, out| {
            let PortRow { name, labels: [device, driver, mac], .. } = &scrape.roll.ports[at];
            head.sample(out, &[("port", name), ("device", device), ("driver", driver), ("mac", mac)], 1);
        });
        let help = "Whether a port's link is up; NaN when its device cannot tell.";
        self.add("sluice_port_up", Type::Gauge, help, rows, |scrape, head, at, out| {
            let row = &scrape.roll.ports[at];
            let value = row.is_up.map_or(Value::Float(f64::NAN), Value::from);
            head.sample(out, &[("port", &row.name)], value);
        });
        let help = "A link's speed in bytes a second; 0 when it is not known.";
        self.add("sluice_port_speed_bytes", Type::Gauge, help, rows, |scrape, head, at, out| {
            let row = &scrape.roll.ports[at];
            head.sample(out, &[("port", &row.name)], u64::from(row.speed) * 125_000);
        });
        let device: [Column<PortRow, u64>; 4] = [
            ("sluice_port_missed_packets", "Packets that the device lost because nobody took them.", |row| {
                row.missed
            }),
            ("sluice_port_receive_errors", "Packets that the device received with errors.", |row| {
                row.rx_errors
            }),
            (
                "sluice_port_transmit_errors",
                "Packets that the device did not send because of errors.",
                |row| row.tx_errors,
            ),
            ("sluice_port_no_buffer", "Receptions that failed for want of packet buffers.", |row| {
                row.no_buffer
            }),
        ];
        for (name, help, value) in device {
            self.add(name, Type::Counter, help, rows, move |scrape, head, at, out| {
                let row = &scrape.roll.ports[at];
                head.sample(out, &[("port", &row.name)], value(row));
            });
        }
        for count in PortCounters::ALL {
            self.add(
                name_of("port", count),
                kind(count),
                meaning(count),
                rows,
                move |scrape, head, at, out| {
                    let value = (count.get)(&scrape.ports[at]);
                    head.sample(out, &[("port", &scrape.roll.ports[at].name)], value);
                },
            );
        }
    }

    fn plan_locals(&mut self) {
        let rows = self.locals.len();
        let help = "Local ports of a local address that are in use, over all workers and servers.";
        self.add("sluice_local_ports_in_use", Type::Gauge, help, rows, |scrape, head, at, out| {
            head.sample(out, &[("address", &scrape.roll.locals[at].address)], scrape.locals[at]);
        });
        let help = "Local ports of a local address that could be used towards the configured servers.";
        self.add("sluice_local_ports", Type::Gauge, help, rows, |scrape, head, at, out| {
            let row = &scrape.roll.locals[at];
            if let Some(capacity) = row.capacity {
                head.sample(out, &[("address", &row.address)], capacity);
            }
        });
    }

    fn plan_services(&mut self) {
        let rows = self.services.len();
        let help = "A service's VIPs, protocols, forwarding mode and scheduler; join it by `service`.";
        self.add("sluice_service", Type::Info, help, rows, |scrape, head, at, out| {
            let ServiceRow { name, labels: [vip, proto, forward, scheduler], .. } = &*scrape.services[at].row;
            let labels = [
                ("service", &**name),
                ("vip", vip),
                ("proto", proto),
                ("forward", forward),
                ("scheduler", scheduler),
            ];
            head.sample(out, &labels, 1);
        });
        let help = "A service's state: 1 for the one that it is in.";
        let states = rows * SERVICE_STATES.len();
        self.add("sluice_service_state", Type::Gauge, help, states, |scrape, head, at, out| {
            let (row, state) =
                (&scrape.services[at / SERVICE_STATES.len()].row, SERVICE_STATES[at % SERVICE_STATES.len()]);
            head.sample(out, &[("service", &row.name), ("state", state)], row.state == state);
        });
        let help = "Whether an attack on a service goes on.";
        self.add(
            "sluice_attack",
            Type::Gauge,
            help,
            rows * attacks::Kind::ALL.len(),
            |scrape, head, at, out| {
                let row = &scrape.services[at / attacks::Kind::ALL.len()].row;
                let kind = attacks::Kind::ALL[at % attacks::Kind::ALL.len()];
                head.sample(
                    out,
                    &[("service", &row.name), ("kind", kind.name())],
                    row.attacks[kind as usize],
                );
            },
        );
        let help = "A service's limit of sessions; +Inf when it has none.";
        self.add("sluice_service_session_limit", Type::Gauge, help, rows, |scrape, head, at, out| {
            let row = &scrape.services[at].row;
            let limit = row.limit.map_or(Value::Float(f64::INFINITY), Value::from);
            head.sample(out, &[("service", &row.name)], limit);
        });
        let help = "A service's servers by state.";
        let states = rows * SERVER_STATES.len();
        self.add("sluice_service_servers", Type::Gauge, help, states, |scrape, head, at, out| {
            let (row, state) =
                (&scrape.services[at / SERVER_STATES.len()].row, SERVER_STATES[at % SERVER_STATES.len()]);
            let count = row.servers.iter().filter(|server| server.state == Some(state)).count();
            head.sample(out, &[("service", &row.name), ("state", state)], count as u64);
        });
        for count in ServerCounters::ALL {
            let help =
                format!("{} Over all servers of the service, those that are gone included.", meaning(count));
            self.add(name_of("service", count), kind(count), help, rows, move |scrape, head, at, out| {
                let Service { row, totals, .. } = &scrape.services[at];
                head.sample(out, &[("service", &row.name)], (count.get)(totals));
            });
        }
        for count in SynProxyCounters::ALL {
            let help = format!("{} By the service's SYN proxy.", meaning(count));
            let name = format!("sluice_service_syn_{}", count.name);
            self.add(name, kind(count), help, rows, move |scrape, head, at, out| {
                let Service { row, syn_proxy, .. } = &scrape.services[at];
                head.sample(out, &[("service", &row.name)], (count.get)(syn_proxy));
            });
        }
        let help =
            "How long a service's servers took to answer connections, by SYN and ACK (fullnat and nat).";
        self.add("sluice_service_connect_seconds", Type::Histogram, help, rows, |scrape, head, at, out| {
            let service = &scrape.services[at];
            histogram(out, head, &service.row.name, &service.connect_times, (&CONNECT_MS, 1e3));
        });
        // Few services count them, and the others would say nothing but zero.
        let counting = self.services.iter().enumerate().filter(|(_, service)| service.row.counts_sessions);
        let counting: Arc<[usize]> = counting.map(|(at, _)| at).collect();
        type Of = fn(&Service) -> &HistogramTotals;
        let of_sessions: [(_, _, Of, _); 2] = [
            (
                "sluice_service_session_duration_seconds",
                "How long sessions of a service lasted that have ended, from their first packet to their last.",
                |service| &service.durations,
                (&DURATION_MS, 1e3),
            ),
            (
                "sluice_service_session_bytes",
                "How many bytes, of IP packets of both directions, sessions of a service had that have ended.",
                |service| &service.sizes,
                (&SIZE_BYTES, 1.0),
            ),
        ];
        for (name, help, of, bounds) in of_sessions {
            let places = Arc::clone(&counting);
            self.add(name, Type::Histogram, help, places.len(), move |scrape, head, at, out| {
                let service = &scrape.services[places[at]];
                histogram(out, head, &service.row.name, of(service), bounds);
            });
        }
        let reasons = self.services.first().map_or(1, |service| service.refused.len());
        let help = "New sessions and packets that a service refused, by reason.";
        self.add(
            "sluice_service_refused",
            Type::Counter,
            help,
            rows * reasons,
            move |scrape, head, at, out| {
                let service = &scrape.services[at / reasons];
                let (reason, count) = service.refused[at % reasons];
                head.sample(out, &[("service", &service.row.name), ("reason", reason.name())], count);
            },
        );
    }

    fn plan_servers(&mut self) {
        let rows = self.servers.len();
        let gauges: [Column<ServerRow, Value>; 2] = [
            ("sluice_server_up", "Whether a server takes new sessions as far as its health goes.", |row| {
                matches!(row.state, Some("up" | "sorry")).into()
            }),
            ("sluice_server_weight", "The weight that the scheduler uses now.", |row| {
                u64::from(row.weight).into()
            }),
        ];
        for (name, help, value) in gauges {
            self.add(name, Type::Gauge, help, rows, move |scrape, head, at, out| {
                let (service, server, _) = scrape.server(at);
                head.sample(out, &[("service", &service.name), ("server", &server.address)], value(server));
            });
        }
        let checks: [Column<ServerRow, u64>; 1] =
            [("sluice_server_check_failures", "Checks of a server whose answer was bad.", |row| {
                row.checks.1
            })];
        for (name, help, value) in checks {
            self.add(name, Type::Counter, help, rows, move |scrape, head, at, out| {
                let (service, server, _) = scrape.server(at);
                head.sample(out, &[("service", &service.name), ("server", &server.address)], value(server));
            });
        }
        // Ten servers of each of ten thousand services: each name is a hundred thousand lines.
        let few = |count: &&Count<ServerTotals>| !count.name.starts_with("packets");
        for count in ServerCounters::ALL.iter().filter(few) {
            self.add(
                name_of("server", count),
                kind(count),
                meaning(count),
                rows,
                move |scrape, head, at, out| {
                    let (service, server, totals) = scrape.server(at);
                    let labels = [("service", &*service.name), ("server", &*server.address)];
                    head.sample(out, &labels, (count.get)(totals));
                },
            );
        }
    }

    fn server(&self, at: usize) -> (&ServiceRow, &ServerRow, &ServerTotals) {
        let (service, nth) = self.servers[at];
        let service = &self.services[service];
        let (place, totals) = &service.servers[nth];
        (&service.row, &service.row.servers[*place], totals)
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn kind<T>(count: &Count<T>) -> Type {
    match count.kind {
        Kind::Counter => Type::Counter,
        Kind::Gauge => Type::Gauge,
    }
}

/// How much of a base unit one is.
const fn scale(unit: Unit) -> Option<f64> {
    match unit {
        Unit::Nanoseconds => Some(1e-9),
        Unit::Milliseconds => Some(1e-3),
        Unit::Packets
        | Unit::Bytes
        | Unit::Sessions
        | Unit::Connections
        | Unit::Turns
        | Unit::LocalPorts
        | Unit::Datagrams => None,
    }
}

/// What a counter means, in base units.
fn meaning<T>(count: &Count<T>) -> String {
    count.explanation.replace("nanoseconds", "seconds").replace("milliseconds", "seconds")
}

fn scaled(number: u64, scale: Option<f64>) -> Value {
    scale.map_or(Value::Whole(number), |scale| Value::Float(number as f64 * scale))
}

/// The name of a counter's family: the words of node_exporter for directions, base units, and what is counted at the
/// end.
fn name_of<T>(of: &str, count: &Count<T>) -> String {
    let name = count.name;
    let words = match (name, count.unit) {
        ("packets_in", _) => "incoming_packets".to_owned(),
        ("packets_out", _) => "outgoing_packets".to_owned(),
        ("bytes_in", _) => "incoming_bytes".to_owned(),
        ("bytes_out", _) => "outgoing_bytes".to_owned(),
        ("sessions_created", _) => "sessions".to_owned(),
        (_, Unit::Nanoseconds) => name.replace("_ns", "_seconds"),
        (_, Unit::Milliseconds) => name.replace("_ms", "_seconds"),
        _ => name.replace("rx_", "receive_").replace("tx_", "transmit_"),
    };
    format!("sluice_{of}_{words}")
}
