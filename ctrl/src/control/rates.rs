//! Sources that break the rates of services: who they are, and bans for those services that want them.

use super::Control;
use crate::config::ServiceSpec;
use crate::devices::Devices;
use crate::view::SourceView;
use dataplane::clock::Instant;
use dataplane::director::Talker;
use dataplane::ids::ServiceId;
use dataplane::snapshot::Network;
use dataplane::worker::{Command, SourceQuery};
use std::collections::HashMap;
use std::sync::Arc;

/// Sources that a worker names.
const NAMED: usize = 1_024;
/// Sources that are told.
const TOLD: usize = 100;

/// What workers said of sources, by worker.
#[derive(Debug, Default)]
pub(super) struct Rating(HashMap<usize, Vec<Talker>>);

impl<D: Devices> Control<D> {
    /// Asks workers who broke rates, if there are any.
    pub(super) fn ask_for_sources(&mut self) {
        let has_limits = self.wanted.config.services.iter().any(|spec| spec.options.new_sessions.is_some());
        if !has_limits {
            self.rating.0.clear();
            return;
        }
        for link in &self.workers.links {
            // One that has too much to do is asked again in a second.
            let query = SourceQuery { id: 0, talkers: Vec::with_capacity(NAMED) };
            let _ = link.ask(Command::Sources(Box::new(query)));
        }
    }

    /// Takes in what a worker says.
    pub(super) fn hear_sources(&mut self, worker: usize, talkers: Vec<Talker>) {
        self.rating.0.insert(worker, talkers);
    }

    /// The sources that broke rates, the worst first.
    pub(super) fn source_views(&self) -> Vec<SourceView> {
        let mut all: HashMap<(ServiceId, Network), u64> = HashMap::new();
        for talker in self.rating.0.values().flatten() {
            *all.entry((talker.service, talker.source)).or_default() += talker.refused;
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|(who, refused)| (std::cmp::Reverse(*refused), *who));
        let services = &self.wanted.config.services;
        let names: HashMap<_, _> = services
            .iter()
            .filter_map(|spec| Some((self.workers.registry.service_id(&spec.name)?, &spec.name)))
            .collect();
        let view = |((service, source), refused): ((ServiceId, Network), u64)| {
            Some(SourceView {
                source: source.to_string(),
                service: (*names.get(&service)?).clone(),
                refused,
                banned: self.is_banned(source),
            })
        };
        all.into_iter().filter_map(view).take(TOLD).collect()
    }

    /// Bans a source that broke the rate of a service, if the service wants that.
    pub(super) fn hear_offender(&mut self, id: ServiceId, source: Network, now: Instant) {
        // A worker tells it again until it knows of the ban.
        if self.is_banned(source) {
            return;
        }
        let is_of = |spec: &&Arc<ServiceSpec>| self.workers.registry.service_id(&spec.name) == Some(id);
        let Some(spec) = self.wanted.config.services.iter().find(is_of) else { return };
        let (Some(lasting), name) = (spec.ban, spec.name.clone()) else { return };
        self.ban(source, now + lasting, format!("more sessions than limits.new_per_source of {name}"));
    }
}
