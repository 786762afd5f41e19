//! Follows what sources say of services' servers.

use super::Control;
use crate::config::Weight;
use crate::config::{self, Config, ServerSpec, ServiceSpec};
use crate::desired;
use crate::devices::Devices;
use crate::discovery::{Discovery, Found, HOLD, List, News, Verdict, judge, notes_text};
use crate::topology;
use dataplane::clock::Instant;
use dataplane::flow::Endpoint;
use serde_json::Map;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Sources of servers.
pub(super) struct Sourcing {
    pub(super) discovery: Option<Discovery>,
    /// By service.
    pub(super) sources: HashMap<String, SourceState>,
}

/// What is known of a service's source.
#[derive(Clone, Debug, Default)]
pub(super) struct SourceState {
    /// Why it is not followed now.
    pub(super) trouble: Option<String>,
    /// The last list, if that is what the source said last.
    list: Option<List>,
    /// A list that is held back, and until when.
    held: Option<(List, Instant)>,
}

impl<D: Devices> Control<D> {
    /// Asks the sources of the configuration.
    pub(super) fn follow_sources(&mut self) {
        let Some(discovery) = &mut self.sourcing.discovery else { return };
        let services = self.wanted.config.services.iter();
        discovery.follow(services.filter_map(|spec| Some((spec.name.as_str(), spec.discover.as_ref()?))));
        let config = &self.wanted.config;
        self.sourcing.sources.retain(|name, _| {
            config.services.iter().any(|spec| spec.name == *name && spec.discover.is_some())
        });
    }

    /// Looks anew at the lists of sources of which not every entry could be used, or whose servers were `left_out`: in
    /// the new world it may be otherwise. The sources are not asked for it.
    pub(super) fn reconsider_sources(&mut self, left_out: &[String], now: Instant) {
        let is_odd = |(name, state): &(&String, &SourceState)| {
            state.held.is_none() && (state.trouble.is_some() || left_out.contains(name))
        };
        let names: Vec<_> =
            self.sourcing.sources.iter().filter(is_odd).map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(at) = self.wanted.config.place_of(&name) else { continue };
            let Some(mut state) = self.sourcing.sources.remove(&name) else { continue };
            let Some(list) = state.list.clone() else {
                self.sourcing.sources.insert(name, state);
                continue;
            };
            let trouble = self.consider(at, list, &mut state, false, now);
            self.note_trouble(&name, trouble, state);
        }
    }

    /// Takes in what a source said.
    pub(super) fn hear_source(&mut self, news: News, now: Instant) {
        let Some(at) = self.wanted.config.place_of(&news.service) else { return };
        if self.wanted.config.services[at].discover.is_none() {
            return;
        }
        let mut state = self.sourcing.sources.remove(&news.service).unwrap_or_default();
        state.held = None;
        state.list = news.servers.as_ref().ok().cloned();
        let trouble = match news.servers {
            Err(error) => Some(format!("{error}; the last known servers stay")),
            Ok(list) => self.consider(at, list, &mut state, false, now),
        };
        self.note_trouble(&news.service, trouble, state);
    }

    /// Follows lists that were held back long enough.
    pub(super) fn end_holds(&mut self, now: Instant) {
        let over = |state: &SourceState| state.held.as_ref().is_some_and(|(_, until)| *until <= now);
        let names: Vec<_> = self
            .sourcing
            .sources
            .iter()
            .filter(|(_, state)| over(state))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let Some(mut state) = self.sourcing.sources.remove(&name) else { continue };
            let Some((list, _)) = state.held.take() else { continue };
            let Some(at) = self.wanted.config.place_of(&name) else { continue };
            let trouble = self.consider(at, list, &mut state, true, now);
            self.note_trouble(&name, trouble, state);
        }
    }

    fn note_trouble(&mut self, name: &str, trouble: Option<String>, state: SourceState) {
        if trouble != state.trouble {
            match &trouble {
                Some(trouble) => {
                    log::warn!(target: "discovery", service = name, why = trouble; "service {name}: its source: {trouble}")
                }
                None => {
                    log::info!(target: "discovery", service = name; "service {name}: its source is followed again")
                }
            }
        }
        self.sourcing.sources.insert(name.to_owned(), SourceState { trouble, ..state });
    }

    /// Uses a list, or says why not. It is judged by what of it can be used: a list of as many names as before of which
    /// none can be used is as empty as an empty one. One that was held back long enough may be short.
    fn consider(
        &mut self,
        at: usize,
        list: List,
        state: &mut SourceState,
        was_held: bool,
        now: Instant,
    ) -> Option<String> {
        let usable = self.usable(at, &list);
        let spec = &self.wanted.config.services[at];
        // A server without weight is as good as gone.
        let serves = |server: &&ServerSpec| server.weight > Weight::ZERO;
        let found = spec.servers.iter().filter(|server| server.is_found).filter(serves);
        let old: HashSet<Endpoint> = found.map(|server| server.endpoint).collect();
        let serving: HashSet<Endpoint> =
            usable.servers.iter().filter(serves).map(|server| server.endpoint).collect();
        let kept = old.intersection(&serving).count();
        let left = serving.len() + usable.own;
        let notes =
            notes_text(&usable.notes).map(|notes| format!("not every entry is used as it is: {notes}"));
        let because = |trouble: String| match &notes {
            Some(notes) => format!("{trouble} ({notes})"),
            None => trouble,
        };
        match judge(old.len(), kept, left, spec.policy.protect_threshold) {
            Verdict::Hold if !was_held => {
                let trouble = format!(
                    "of {} servers it names {kept} still, which is too few at once; it is followed if it says so for {} s",
                    old.len(),
                    HOLD.as_secs()
                );
                state.held = Some((list, now + HOLD));
                Some(because(trouble))
            }
            Verdict::Follow | Verdict::Hold => match self.use_servers(at, usable.servers, now) {
                Ok(()) => notes,
                Err(error) => Some(because(error)),
            },
            Verdict::Keep if list.servers.is_empty() => {
                Some(because(format!("it names no server; the last {} stay", old.len())))
            }
            Verdict::Keep if usable.servers.is_empty() => {
                Some(because(format!("it names no server that can be used; the last {} stay", old.len())))
            }
            Verdict::Keep => {
                Some(because(format!("it gives no server any weight; the last {} stay", old.len())))
            }
        }
    }

    /// What of a list can be used beside the service's own servers. An entry that is there, and cannot be read, stands
    /// for the server that it was before.
    fn usable(&self, at: usize, list: &List) -> Usable {
        let spec = &self.wanted.config.services[at];
        let mut usable = Usable { servers: Vec::new(), own: 0, notes: list.notes.clone() };
        let own: HashSet<Endpoint> =
            spec.servers.iter().filter(|server| !server.is_found).map(|server| server.endpoint).collect();
        let mut seen: HashSet<Endpoint> = HashSet::new();
        for found in &list.servers {
            let Found { address, keys, wrong } = found;
            let (keys, unknown): (Map<_, _>, Map<_, _>) =
                keys.clone().into_iter().partition(|(key, _)| config::is_server_key(key));
            if !unknown.is_empty() {
                let names: Vec<_> = unknown.keys().map(String::as_str).collect();
                usable.notes.push(format!("{address}: unknown keys are passed over: {}", names.join(", ")));
            }
            let lines = match wrong {
                Some(wrong) => Err(wrong.clone()),
                None => desired::server_lines(address, &keys),
            };
            let parsed = lines.and_then(|lines| {
                config::parse_server(&lines, spec, &self.wanted.config).map_err(|error| {
                    error.problems().first().map_or(String::new(), |problem| problem.message.clone())
                })
            });
            let server = match parsed {
                Ok(server) => ServerSpec { is_found: true, ..server },
                Err(error) => {
                    let was =
                        |server: &&ServerSpec| server.is_found && server.endpoint.to_string() == *address;
                    let Some(before) = spec.servers.iter().find(was) else {
                        usable.notes.push(format!("{address} is left out: {error}"));
                        continue;
                    };
                    usable.notes.push(format!("{address} stays as it was: {error}"));
                    before.clone()
                }
            };
            if own.contains(&server.endpoint) {
                // What the operator says of a server counts.
                usable.own += 1;
            } else if seen.insert(server.endpoint) {
                usable.servers.push(server);
            }
        }
        usable
    }

    /// Gives a service these servers beside its own.
    fn use_servers(&mut self, at: usize, found: Vec<ServerSpec>, now: Instant) -> Result<(), String> {
        let spec = &self.wanted.config.services[at];
        let mut new = ServiceSpec::clone(spec);
        new.servers.retain(|server| !server.is_found);
        new.add_servers(found);
        if new == **spec {
            return Ok(());
        }
        let old = std::mem::replace(&mut self.wanted.config.services[at], Arc::new(new));
        self.settle_service(at, old, now)
    }
}

/// What of a list can be used.
struct Usable {
    servers: Vec<ServerSpec>,
    /// Entries that are the operator's own servers.
    own: usize,
    /// What was left out or is odd.
    notes: Vec<String>,
}

/// Whether a new configuration leaves what sources named to be servers.
///
/// # Errors
/// When one of these servers has an address that would be the appliance's own.
pub(super) fn check_found(new: &Config, old: &Config) -> Result<(), String> {
    if old.services.iter().all(|spec| spec.discover.is_none()) {
        return Ok(());
    }
    let ours = topology::addresses(new);
    let stays = |spec: &&Arc<ServiceSpec>| {
        spec.discover.is_some()
            && new.services.iter().any(|other| other.name == spec.name && other.discover.is_some())
    };
    for spec in old.services.iter().filter(stays) {
        let mut found = spec.servers.iter().filter(|server| server.is_found);
        if let Some(server) = found.find(|server| ours.get(server.endpoint.address).is_some()) {
            return Err(format!(
                "{} would be the appliance's own address, and the source of service {} names it as a server; use another address, or take the server out of the source first",
                server.endpoint.address, spec.name
            ));
        }
    }
    Ok(())
}

/// Gives services of a new configuration the servers that their sources named so far, but for those that are the
/// appliance's own addresses now: a rollback must not fail for them. Returns the services that lost such servers.
pub(super) fn keep_found(new: &mut Config, old: &Config) -> Vec<String> {
    let mut left_out = Vec::new();
    if new.services.iter().all(|spec| spec.discover.is_none()) {
        return left_out;
    }
    let ours = topology::addresses(new);
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
                left_out.push(spec.name.clone());
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
    left_out
}
