//! Follows what sources say of services' servers.

use super::{Control, Devices};
use crate::balance::Weight;
use crate::compile;
use crate::config::{self, Config, ServerSpec, ServiceSpec};
use crate::desired;
use crate::discovery::{Found, HOLD, News, Verdict, judge};
use dataplane::clock::Instant;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What is known of a service's source.
#[derive(Clone, Debug, Default)]
pub(super) struct SourceState {
    /// Why it is not followed now.
    pub(super) trouble: Option<String>,
    /// A list that is held back, and until when.
    held: Option<(Vec<Found>, Instant)>,
}

impl<D: Devices> Control<D> {
    /// Asks the sources of the configuration.
    pub(super) fn follow_sources(&mut self) {
        let Some(discovery) = &mut self.discovery else { return };
        let services = self.config.services.iter();
        discovery.follow(services.filter_map(|spec| Some((spec.name.as_str(), spec.discover.as_ref()?))));
        let config = &self.config;
        self.sources.retain(|name, _| {
            config.services.iter().any(|spec| spec.name == *name && spec.discover.is_some())
        });
    }

    /// Takes in what a source said.
    pub(super) fn hear_source(&mut self, news: News, now: Instant) {
        let Some(at) = self.config.place_of(&news.service) else { return };
        if self.config.services[at].discover.is_none() {
            return;
        }
        let mut state = self.sources.remove(&news.service).unwrap_or_default();
        state.held = None;
        let trouble = match news.servers {
            Err(error) => Some(format!("{error}; the last known servers stay")),
            Ok(list) => self.consider(at, list, &mut state, now),
        };
        self.note_trouble(&news.service, trouble, state);
    }

    /// Follows lists that were held back long enough.
    pub(super) fn end_holds(&mut self, now: Instant) {
        let over = |state: &SourceState| state.held.as_ref().is_some_and(|(_, until)| *until <= now);
        let names: Vec<_> =
            self.sources.iter().filter(|(_, state)| over(state)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(mut state) = self.sources.remove(&name) else { continue };
            let Some((list, _)) = state.held.take() else { continue };
            let Some(at) = self.config.place_of(&name) else { continue };
            let trouble = self.use_list(at, &list, now);
            self.note_trouble(&name, trouble, state);
        }
    }

    fn note_trouble(&mut self, name: &str, trouble: Option<String>, state: SourceState) {
        if trouble != state.trouble {
            match &trouble {
                Some(trouble) => log::info!(target: "discovery", "service {name}: its source: {trouble}"),
                None => log::info!(target: "discovery", "service {name}: its source is followed again"),
            }
        }
        self.sources.insert(name.to_owned(), SourceState { trouble, ..state });
    }

    /// Uses a list, or says why not.
    fn consider(
        &mut self,
        at: usize,
        list: Vec<Found>,
        state: &mut SourceState,
        now: Instant,
    ) -> Option<String> {
        let spec = &self.config.services[at];
        let old: Vec<_> = spec
            .servers
            .iter()
            .filter(|server| server.is_found && server.weight > Weight::ZERO)
            .map(|server| server.endpoint.to_string())
            .collect();
        // A server without weight is as good as gone.
        let serving: HashSet<&str> =
            list.iter().filter(|found| found.serves()).map(|found| found.address.as_str()).collect();
        let kept = old.iter().filter(|address| serving.contains(address.as_str())).count();
        match judge(old.len(), kept, serving.len(), spec.policy.protect_threshold) {
            Verdict::Follow => self.use_list(at, &list, now),
            Verdict::Keep if list.is_empty() => {
                Some(format!("it names no server; the last {} stay", old.len()))
            }
            Verdict::Keep => Some(format!("it gives no server any weight; the last {} stay", old.len())),
            Verdict::Hold => {
                let trouble = format!(
                    "of {} servers it names {kept} still, which is too few at once; it is followed if it says so for {} s",
                    old.len(),
                    HOLD.as_secs()
                );
                state.held = Some((list, now + HOLD));
                Some(trouble)
            }
        }
    }

    /// Gives a service the servers of a list beside its own.
    fn use_list(&mut self, at: usize, list: &[Found], now: Instant) -> Option<String> {
        let spec = &self.config.services[at];
        let mut wrong = None;
        let mut new = ServiceSpec::clone(spec);
        new.servers.retain(|server| !server.is_found);
        let mut found: Vec<ServerSpec> = Vec::new();
        for server in list {
            let lines = desired::server_lines(&server.address, &server.keys);
            let parsed = lines.and_then(|lines| {
                config::parse_server(&lines, spec, &self.config).map_err(|error| {
                    error.problems().first().map_or(String::new(), |problem| problem.message.clone())
                })
            });
            match parsed {
                // What the operator says of a server counts.
                Ok(server)
                    if new.servers.iter().chain(&found).any(|other| other.endpoint == server.endpoint) => {}
                Ok(server) => found.push(ServerSpec { is_found: true, ..server }),
                Err(error) => wrong = Some(format!("{}: {error}; it is left out", server.address)),
            }
        }
        new.add_servers(found);
        if new == **spec {
            return wrong;
        }
        let old = std::mem::replace(&mut self.config.services[at], Arc::new(new));
        match self.settle_service(at, old, now) {
            Ok(()) => wrong,
            Err(error) => Some(error),
        }
    }
}

/// Gives services of a new configuration the servers that their sources named so far.
pub(super) fn keep_found(new: &mut Config, old: &Config) {
    if new.services.iter().all(|spec| spec.discover.is_none()) {
        return;
    }
    let ours = compile::addresses(new);
    let known: HashMap<&str, &Arc<ServiceSpec>> = old
        .services
        .iter()
        .filter(|spec| spec.discover.is_some())
        .map(|spec| (spec.name.as_str(), spec))
        .collect();
    for spec in new.services.iter_mut().filter(|spec| spec.discover.is_some()) {
        // Also when the source is asked otherwise now: until it answers nobody knows better.
        let Some(before) = known.get(spec.name.as_str()) else { continue };
        let is_free = |server: &&ServerSpec| {
            let is_ours = ours.get(server.endpoint.address).is_some();
            if is_ours {
                log::info!(target: "discovery",
                    "service {}: its source names {}, which is the appliance's own now; it is left out",
                    spec.name, server.endpoint
                );
            }
            !is_ours && !spec.servers.iter().any(|other| other.endpoint == server.endpoint)
        };
        let found: Vec<_> =
            before.servers.iter().filter(|server| server.is_found).filter(is_free).cloned().collect();
        if found.is_empty() {
            continue;
        }
        Arc::make_mut(spec).add_servers(found);
    }
}
