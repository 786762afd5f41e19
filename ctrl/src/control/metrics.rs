//! Keeps the roll that metrics and the page are read by: a few services at a time, so that no turn is long.

use super::Control;
use crate::config::{Config, ListenAt};
use crate::devices::{DeviceCounters, Devices};
use crate::metrics::{Exporter, General, LocalRow, PortRow, Roll, ServerRow, ServiceRow, WorkerRow};
use crate::view::{mac_text, server_text};
use crate::web::{Ask, Page};
use dataplane::clock::Instant;
use dataplane::ids::PortId;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Servers whose rows are made in one turn; some tenths of a millisecond.
const SERVERS_A_TURN: usize = 200;
/// How soon after a roll another follows, for changes that were told.
const PAUSE: Duration = Duration::from_millis(100);
/// How soon for everything else.
const PERIOD: Duration = Duration::from_secs(1);
/// Every service is looked at anew so often, for what nobody tells of: checks that were asked, limits that are reached.
const ROUND: Duration = Duration::from_secs(10);
/// With more services, what each local address could carry takes too long to work out.
const SERVICES_OF_LOCALS: usize = 1_000;

/// Metrics and the page, and where they are served.
#[derive(Default)]
pub(super) struct Metering {
    exporter: Option<Exporter>,
    page: Option<Page>,
    /// How the page asks control.
    ask: Option<Ask>,
    /// Where they cannot be served, and why.
    pub(super) problems: Vec<String>,
    /// Those of the problems that the log has.
    told: BTreeSet<String>,
    rows: Vec<Option<Arc<ServiceRow>>>,
    published: Arc<[Arc<ServiceRow>]>,
    locals: Arc<[LocalRow]>,
    /// Services of which a change was told.
    stale: BTreeSet<usize>,
    /// Services that are looked at because it is their turn.
    turn: BTreeSet<usize>,
    /// Whether rows are other than those that are published, and whether by a change that was told.
    is_changed: bool,
    is_behind: bool,
    /// No roll is published before this, and one at the other time whatever happens.
    rests_until: Instant,
    due: Instant,
    /// The service that is looked at next, whether anything was told of it or not.
    next: usize,
    /// When the files were last followed.
    reloaded: Option<SystemTime>,
    started: Option<SystemTime>,
}

impl Metering {
    pub(super) fn new(ask: Option<Ask>) -> Self {
        Self { ask, ..Self::default() }
    }

    /// Whether anybody reads the roll.
    fn is_read(&self) -> bool {
        self.exporter.is_some() || self.page.is_some()
    }

    /// Serves metrics and the page where the configuration says so. Returns what is wrong with places that cannot be used.
    fn serve(&mut self, config: &Config, is_new: bool) -> Vec<String> {
        let mut problems = Vec::new();
        match &config.metrics {
            // Its thread and its listeners end with it.
            None => self.exporter = None,
            Some(spec) => {
                if self.exporter.is_none() {
                    self.exporter = Exporter::start().map_err(|error| problems.push(error)).ok();
                }
                problems.extend(self.exporter.iter_mut().flat_map(|exporter| exporter.follow(spec, is_new)));
            }
        }
        match &config.web {
            None => self.page = None,
            Some(exposed) => {
                if let (None, Some(ask)) = (&self.page, &self.ask) {
                    self.page = Page::start(ask.clone()).map_err(|error| problems.push(error)).ok();
                }
                problems.extend(self.page.iter_mut().flat_map(|page| page.follow(exposed, is_new)));
            }
        }
        problems
    }

    /// Whether slots that are given back may be used again: scrapes know of all that changed.
    pub(super) fn is_current(&self) -> bool {
        !self.is_read() || self.stale.is_empty() && !self.is_behind
    }

    /// What is known of these services changed.
    pub(super) fn note(&mut self, services: &[usize]) {
        if self.is_read() {
            self.stale.extend(services);
            self.is_behind = true;
        }
    }

    /// Slots of these services' servers were given back.
    pub(super) fn note_names(&mut self, config: &Config, services: &[String]) {
        for name in services {
            self.note(config.place_of(name).as_slice());
        }
    }

    /// The files were followed.
    pub(super) fn note_reload(&mut self) {
        self.reloaded = Some(SystemTime::now());
    }
}

impl<D: Devices> Control<D> {
    /// Serves metrics and the page where the configuration says so.
    pub(super) fn follow_metrics(&mut self, is_new: bool) {
        let problems = self.metering.serve(&self.wanted.config, is_new);
        let Metering { problems: last, told, .. } = &mut self.metering;
        // A listener that moves may meet the one that it was, which is gone a moment later: what is still there is told.
        for line in problems.iter().filter(|problem| last.contains(problem)) {
            if told.insert(line.clone()) {
                log::warn!(target: "metrics", "{line}");
            }
        }
        told.retain(|line| {
            let is_there = problems.contains(line);
            if !is_there {
                log::info!(target: "metrics", "no longer: {line}");
            }
            is_there
        });
        *last = problems;
    }

    /// Once a second: tries again what could not be served, and makes anew a socket's file that somebody removed.
    pub(super) fn look_after_metrics(&mut self) {
        let Config { metrics, web, .. } = &self.wanted.config;
        let mut places =
            metrics.iter().map(|spec| &spec.exposed).chain(web).flat_map(|exposed| &exposed.listen);
        let has_file = places.any(|place| matches!(place, ListenAt::Unix(_)));
        if !self.metering.problems.is_empty() || has_file {
            self.follow_metrics(false);
        }
    }

    /// The configuration is another: every row is made anew.
    pub(super) fn renew_metrics(&mut self) {
        self.follow_metrics(false);
        if !self.metering.is_read() {
            self.metering.rows.clear();
            self.metering.stale.clear();
            self.metering.turn.clear();
            return;
        }
        let mut known: HashMap<String, Arc<ServiceRow>> =
            self.metering.rows.drain(..).flatten().map(|row| (row.name.clone(), row)).collect();
        // Rows of services that stay show what was known until they are made anew.
        let rows = self.wanted.config.services.iter().map(|spec| known.remove(&spec.name)).collect();
        self.metering.rows = rows;
        self.metering.stale = (0..self.wanted.config.services.len()).collect();
        self.metering.turn.clear();
        (self.metering.is_changed, self.metering.is_behind) = (true, true);
        self.metering.locals = Arc::default();
    }

    /// Makes a few stale rows, and publishes the roll when there are none left.
    pub(super) fn meter(&mut self, now: Instant) {
        if !self.metering.is_read() {
            return;
        }
        let mut servers = 0;
        while servers < SERVERS_A_TURN
            && let Some(at) = self.metering.stale.pop_first().or_else(|| self.metering.turn.pop_first())
        {
            servers += 1 + self.wanted.config.services.get(at).map_or(0, |spec| spec.servers.len());
            let row = self.service_row(at);
            if let Some(place) = self.metering.rows.get_mut(at) {
                *place = row;
                self.metering.is_changed = true;
            }
        }
        let is_time = now >= self.metering.due || self.metering.is_behind && now >= self.metering.rests_until;
        if !self.metering.stale.is_empty() || !is_time {
            return;
        }
        self.metering.rests_until = now + PAUSE;
        if now >= self.metering.due {
            let count = self.metering.rows.len();
            let some = count.div_ceil(ROUND.as_secs() as usize);
            self.metering.turn.extend((0..some).map(|nth| (self.metering.next + nth) % count.max(1)));
            self.metering.next = (self.metering.next + some) % count.max(1);
            self.metering.due = now + PERIOD;
        }
        if std::mem::take(&mut self.metering.is_changed) {
            self.metering.published = self.metering.rows.iter().flatten().cloned().collect();
            if self.metering.locals.is_empty() {
                self.metering.locals = self.local_rows();
            }
        }
        self.metering.is_behind = false;
        let roll = Arc::new(self.roll());
        if let Some(exporter) = &self.metering.exporter {
            exporter.publish(Arc::clone(&roll));
        }
        if let Some(page) = &self.metering.page {
            page.publish(roll);
        }
    }

    fn service_row(&self, at: usize) -> Option<Arc<ServiceRow>> {
        let spec = self.wanted.config.services.get(at)?;
        let (id, baseline) = self.workers.registry.service_slot(&spec.name)?;
        let observer = self.observer();
        let places: HashMap<_, _> =
            spec.servers.iter().enumerate().map(|(place, server)| (server.endpoint, place)).collect();
        let (gone, slots) = self.workers.registry.slots(&spec.name)?;
        let mut servers: Vec<_> = slots
            .map(|slot| {
                let place = places.get(&slot.endpoint).copied().filter(|_| slot.is_configured);
                let standing = place.map(|place| self.servers.standings.server(at, place, self.now));
                let last = standing.as_ref().and_then(|standing| standing.last.as_ref());
                let row = ServerRow {
                    address: server_text(slot.endpoint),
                    id: slot.id,
                    baseline: slot.baseline,
                    state: place.map(|place| observer.state(at, place)),
                    weight: standing.as_ref().map_or(0, |standing| standing.effective),
                    checks: last.map_or((0, 0), |last| (last.asked, last.failed)),
                };
                (place, row)
            })
            .collect();
        servers.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
        let limit = spec.options.session_limit;
        let (state, reason) = observer.condition(at);
        Some(Arc::new(ServiceRow {
            name: spec.name.clone(),
            id,
            baseline,
            labels: [
                spec.listen_text(),
                spec.protocols.to_string(),
                spec.forward.name().into(),
                spec.scheduler.name().into(),
            ],
            state: state.name(),
            reason,
            attacks: self.attacks.on(id),
            limit: (limit > 0).then_some(limit),
            counts_sessions: spec.options.session_histograms,
            gone,
            servers: servers.into_iter().map(|(_, row)| row).collect(),
        }))
    }

    fn local_rows(&self) -> Arc<[LocalRow]> {
        let registry = &self.workers.registry;
        if self.wanted.config.services.len() <= SERVICES_OF_LOCALS {
            let all = self.observer().locals().into_iter();
            return all
                .filter_map(|local| {
                    let id = registry.local_id(local.address.parse().ok()?)?;
                    Some(LocalRow { address: local.address, id, capacity: Some(local.capacity) })
                })
                .collect();
        }
        let all: BTreeSet<_> =
            self.wanted.config.services.iter().flat_map(|spec| &spec.local_addresses).copied().collect();
        all.into_iter()
            .filter_map(|address| {
                let id = registry.local_id(address)?;
                Some(LocalRow { address: address.to_string(), id, capacity: None })
            })
            .collect()
    }

    fn roll(&mut self) -> Roll {
        let started = *self
            .metering
            .started
            .get_or_insert_with(|| SystemTime::now() - Duration::from_nanos(self.now.nanos()));
        let workers = self.workers.stats.iter().enumerate().map(|(at, _)| WorkerRow {
            core: self.wanted.config.dataplane.workers[at],
            recent: self.workers.recent[at].seen,
            capacity: [self.wanted.config.dataplane.session_capacity as u64, self.wanted.capacity_ipv6],
            is_still: self.workers.turns[at].1,
        });
        let ports = self.wanted.config.ports.iter().zip(&self.workers.facts).enumerate();
        let ports = ports.map(|(at, (spec, facts))| {
            let id = PortId(at as u16);
            let DeviceCounters { missed, rx_errors, tx_errors, no_buffer, .. } =
                self.workers.devices.counters(id);
            let link = self.links.ports[at].link;
            PortRow {
                name: spec.name.clone(),
                id,
                labels: [spec.device.text().to_owned(), facts.driver.clone(), mac_text(facts.mac)],
                is_up: link.map(|(is_up, _)| is_up),
                speed: link.map_or(0, |(_, speed)| speed),
                missed,
                rx_errors,
                tx_errors,
                no_buffer,
            }
        });
        Roll {
            general: General {
                version: self.identity.version.clone(),
                dpdk: self.identity.dpdk.clone(),
                started,
                generation: (self.workers.publisher.published().0, self.workers.publisher.applied().0),
                is_reloaded: self.wanted.failed_reload.is_none() && self.identity.fallback.is_none(),
                reloaded: self.metering.reloaded.unwrap_or(started),
                is_changed: !self.wanted.history.desired.changes().is_empty(),
                buffers: self.workers.devices.buffers(),
                neighbors: self.links.neighbors.states().into_iter().collect(),
            },
            stats: self.workers.stats.iter().cloned().collect(),
            workers: workers.collect(),
            ports: ports.collect(),
            locals: Arc::clone(&self.metering.locals),
            services: Arc::clone(&self.metering.published),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::SERVICE_STATES;
    use crate::view::ServiceState;

    #[test]
    fn metrics_know_every_state_of_a_service() {
        assert_eq!(ServiceState::ALL.map(ServiceState::name), SERVICE_STATES);
    }
}
