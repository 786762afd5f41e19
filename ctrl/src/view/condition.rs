//! What a service is to a client that comes now, in one word, and why.

use super::Observer;
use super::build::server_text;
use crate::config::ServiceSpec;
use crate::config::Weight;
use crate::health::Health;
use crate::topology::port_of;
use dataplane::director::UNPROVEN_SHARE;
use dataplane::drop::DropReason;
use dataplane::ids::ServerId;
use dataplane::stats::Counter;
use std::collections::BTreeSet;

/// A service's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceState {
    /// A new client is served.
    Ready,
    /// So many servers are down that health is not believed, and all are used.
    Protected,
    /// New clients are refused, because something is used up.
    Full,
    /// It takes no new sessions, because it is to go.
    Draining,
    /// Every server is down.
    Down,
    /// It cannot forward.
    Unready,
}

impl ServiceState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ready, Self::Protected, Self::Full, Self::Draining, Self::Down, Self::Unready];

    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Protected => "protected",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Unready => "unready",
        }
    }
}

/// A state, and why it is no better; no reason when it is ready.
pub type Condition = (ServiceState, Option<String>);

impl Observer<'_> {
    /// What the service in place `at` is now.
    pub fn condition(&self, at: usize) -> Condition {
        let spec = &self.config.services[at];
        let because = |state, reason: String| (state, Some(reason));
        if let Some(reason) = self.cannot_forward(at) {
            return because(ServiceState::Unready, reason);
        }
        if spec.drain {
            let until = self.drain_s(&spec.name, None).map(|seconds| format!("; it leaves in {seconds} s"));
            let reason = format!(
                "it takes no new sessions{}; drain = false lets them in again",
                until.unwrap_or_default()
            );
            return because(ServiceState::Draining, reason);
        }
        let picture = self.standings.picture(at);
        let healths: Vec<_> =
            (0..spec.servers.len()).map(|place| self.standings.condition(at, place, self.now)).collect();
        let is_up = |place: usize| {
            let weighted = spec.servers[place].weight > Weight::ZERO && !spec.servers[place].is_sorry;
            weighted
                && healths[place] == (Health::Up, false)
                && self.unreachable(&spec.servers[place]).is_none()
        };
        let serves = picture.weights.iter().any(|weight| *weight > 0);
        if !serves {
            // Servers that were found healthy a moment ago get their weights presently.
            let is_awaited = healths.iter().any(|(health, _)| *health == Health::Checking)
                || (0..spec.servers.len()).any(is_up);
            return match (self.standings.switch(at), is_awaited) {
                (Some(_), _) => because(ServiceState::Unready, SWITCHED.into()),
                (None, true) => because(ServiceState::Unready, AWAITED.into()),
                (None, false) => because(ServiceState::Down, format!("no server is healthy; {ASK}")),
            };
        }
        if picture.protected && !(0..spec.servers.len()).any(is_up) {
            let reason = "no server is healthy; checks are not believed, and sessions go to all of them";
            return because(ServiceState::Down, format!("{reason}; {ASK}"));
        }
        if let Some(reason) = self.full(at) {
            return because(ServiceState::Full, reason);
        }
        if picture.protected {
            let reason = "too few servers are healthy; checks are not believed, and all are used";
            return because(ServiceState::Protected, format!("{reason}; {ASK}"));
        }
        (ServiceState::Ready, None)
    }

    /// Why no packet of a service comes to a server, or to Sluice.
    fn cannot_forward(&self, at: usize) -> Option<String> {
        let spec = &self.config.services[at];
        let weighted: Vec<_> = spec.servers.iter().filter(|server| server.weight > Weight::ZERO).collect();
        if weighted.is_empty() && !spec.drain {
            let reason = match spec.servers.is_empty() {
                true => "it has no server; add one with `sluice server add`, or in the files",
                false => "every server has weight 0; give one its weight with `sluice server set`",
            };
            return Some(reason.into());
        }
        let reasons: Option<Vec<_>> = weighted.iter().map(|server| self.unreachable(server)).collect();
        if let Some(reasons) = reasons.filter(|reasons| !reasons.is_empty()) {
            let (reasons, remedies): (BTreeSet<_>, BTreeSet<_>) = reasons.into_iter().unzip();
            let all = reasons.iter().map(String::as_str).chain(remedies);
            return Some(all.collect::<Vec<_>>().join("; "));
        }
        // A VIP on no port's network may come by any link.
        let homes: Option<BTreeSet<_>> = spec
            .listens
            .iter()
            .filter(|listen| listen.network.is_host())
            .map(|listen| port_of(self.config, listen.network.address))
            .collect();
        let homes = homes.filter(|homes| !homes.is_empty())?;
        let is_down = |port: usize| matches!(self.links[port], Some((false, _)));
        homes.iter().all(|port| is_down(usize::from(port.0))).then(|| {
            let names: Vec<_> = homes.iter().map(|port| self.port_name(*port)).collect();
            format!("the link of port {} is down, by which its clients come; {LINK}", names.join(", "))
        })
    }

    /// Why a new client is refused, though servers are well.
    fn full(&self, at: usize) -> Option<String> {
        let spec = &self.config.services[at];
        let totals = |id: ServerId| {
            let totals = super::read_slot(self.stats, id);
            totals.sessions_active + totals.sessions_inactive
        };
        let limit = spec.options.session_limit;
        if limit > 0 {
            let all = self.registry.service_totals(&spec.name, &|id| super::read_slot(self.stats, id));
            if all.sessions_active + all.sessions_inactive >= limit {
                return Some(format!("it has the {limit} sessions of its session_limit"));
            }
        }
        if spec.servers.iter().any(|server| server.thresholds.0 > 0) {
            let weights = &self.standings.picture(at).weights;
            let serving = spec.servers.iter().zip(weights).filter(|(_, weight)| **weight > 0);
            let has_all = |server: &crate::config::ServerSpec| {
                let id = self.registry.server_id(&spec.name, server.endpoint);
                server.thresholds.0 > 0 && id.is_some_and(|id| totals(id) >= u64::from(server.thresholds.0))
            };
            if serving.clone().all(|(server, _)| has_all(server)) {
                let names: Vec<_> = serving.take(3).map(|(server, _)| server_text(server.endpoint)).collect();
                return Some(format!("every server has its max_sessions ({}, ...)", names.join(", ")));
            }
        }
        if let Some(table) = self.full_table(spec) {
            return Some(table);
        }
        let id = self.registry.service_id(&spec.name)?;
        self.refusing.get(&id).map(|(reason, _)| refusal_text(*reason).to_owned())
    }

    /// The session table that a service needs and that is full, if there is one.
    fn full_table(&self, spec: &ServiceSpec) -> Option<String> {
        let is_wide = spec.listens.iter().any(|listen| listen.network.address.is_ipv6())
            || spec.servers.iter().any(|server| server.endpoint.address.is_ipv6());
        let uses = self.tables();
        let full = uses.iter().find(|table| table.is_ipv6 == is_wide && table.used >= table.capacity)?;
        let key = if is_wide { "session_capacity_ipv6" } else { "session_capacity" };
        Some(format!(
            "the session table of worker {} is full ({} sessions); raise dataplane.{key}",
            full.worker, full.used
        ))
    }

    /// The workers' session tables.
    pub fn tables(&self) -> Vec<TableUse> {
        let capacity = self.config.dataplane.session_capacity as u64;
        let capacity_ipv6 = self.capacity_ipv6;
        let workers = self.stats.iter().enumerate();
        workers
            .flat_map(|(worker, stats)| {
                let (all, wide) = (stats.sessions_live.value(), stats.sessions_live_ipv6.value());
                let [half_open, half_open_ipv6, unanswered, unanswered_ipv6] = [
                    &stats.sessions_half_open,
                    &stats.sessions_half_open_ipv6,
                    &stats.sessions_unanswered,
                    &stats.sessions_unanswered_ipv6,
                ]
                .map(Counter::value);
                [
                    TableUse {
                        worker,
                        is_ipv6: false,
                        used: all.saturating_sub(wide),
                        capacity,
                        half_open,
                        unanswered,
                    },
                    TableUse {
                        worker,
                        is_ipv6: true,
                        used: wide,
                        capacity: capacity_ipv6,
                        half_open: half_open_ipv6,
                        unanswered: unanswered_ipv6,
                    },
                ]
            })
            .collect()
    }

    /// What is nearly used up, with what to do, by what it is.
    pub fn scarce(&self) -> Vec<(String, String)> {
        /// Percent from which on it is told.
        const SCARCE: u64 = 80;
        let mut list = Vec::new();
        let mut note = |what: String, used: u64, capacity: u64, remedy: &str| {
            if capacity > 0 && used * 100 >= capacity * SCARCE {
                let percent = used * 100 / capacity;
                list.push((
                    what.clone(),
                    format!("{what}: {used} of {capacity} in use ({percent} %); {remedy}"),
                ));
            }
        };
        for table in self.tables() {
            let (family, key) = match table.is_ipv6 {
                true => ("IPv6", "session_capacity_ipv6"),
                false => ("IPv4", "session_capacity"),
            };
            let remedy = format!("raise dataplane.{key}, which takes a restart, or shorten [timeouts]");
            let what = format!("{family} sessions of worker {}", table.worker);
            note(what, table.used, table.capacity, &remedy);
            let share = table.capacity / UNPROVEN_SHARE as u64;
            let remedy = "a flood, or servers that do not answer: the oldest make room";
            let what = format!("half-open {family} connections of worker {}", table.worker);
            note(what, table.half_open, share, remedy);
            let what = format!("unanswered {family} datagrams of worker {}", table.worker);
            note(what, table.unanswered, share, remedy);
        }
        let (in_use, buffers) = self.devices.buffers();
        let remedy = "packets wait somewhere: look at `sluice worker list` for one that is behind";
        note("packet buffers".into(), u64::from(in_use), u64::from(buffers), remedy);
        // What each pair has takes a while to work out with very many services.
        const SERVICES_MAX: usize = 1_000;
        if self.config.services.len() <= SERVICES_MAX {
            for local in self.locals() {
                let what = format!("local ports of {}", local.address);
                note(what, local.used, local.capacity, "add local_addresses to the services that use it");
            }
        }
        list
    }
}

/// What to do where servers are not healthy.
const ASK: &str = "`sluice server list` shows what their checks find";

/// What to do about a link that is down.
pub(super) const LINK: &str = "see the cable and the switch";

/// What to do about a station that does not answer.
pub(super) const STATION: &str = "see whether it is up and on that link, and `sluice neighbor list`";

/// Why a service whose servers are well has none.
const SWITCHED: &str = "the operator's switch leaves it no server; `sluice service switch NAME off` ends it";

/// Why a service is not ready yet at the start.
pub const AWAITED: &str = "the first answers of its servers to checks are awaited";

/// One session table.
#[derive(Clone, Copy, Debug)]
pub struct TableUse {
    /// Whose it is.
    pub worker: usize,
    /// Whether it is the one for sessions with an IPv6 address.
    pub is_ipv6: bool,
    /// Sessions in it.
    pub used: u64,
    /// Sessions that fit.
    pub capacity: u64,
    /// Connections that are half open.
    pub half_open: u64,
    /// Datagrams' sessions that no server has answered yet.
    pub unanswered: u64,
}

/// Why new sessions are refused now, where the state of things does not say so.
fn refusal_text(reason: DropReason) -> &'static str {
    match reason {
        DropReason::LocalPortsExhausted => {
            "every local port towards a server is in use; add local_addresses, or servers"
        }
        DropReason::SessionTableFull => "a worker's session table is full; raise dataplane.session_capacity",
        DropReason::ServiceLimit => "a worker's part of its session_limit is used up",
        DropReason::ServersFull => "its servers' max_sessions are used up on a worker",
        other => other.explanation(),
    }
}

/// The reasons of refusals that mean that something is used up.
pub const USED_UP: [DropReason; 4] = [
    DropReason::LocalPortsExhausted,
    DropReason::SessionTableFull,
    DropReason::ServiceLimit,
    DropReason::ServersFull,
];
