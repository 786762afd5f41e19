//! Looks at what servers counted, once a second: those that do not answer are kept out, and those that answer slowly
//! get less.

use super::Control;
use super::watch::Watch;
use crate::devices::Devices;
use crate::health::Engine;
use crate::servers::Standings;
use crate::servers::passive::{Pace, Record};
use dataplane::clock::Instant;
use dataplane::ids::ServerId;
use std::collections::HashMap;

/// Servers: what checks and traffic say of them, and what follows.
pub(super) struct Servers {
    pub(super) standings: Standings,
    /// What servers' traffic showed, by slot.
    pub(super) traffic: HashMap<ServerId, Traffic>,
    pub(super) engine: Option<Engine>,
    pub(super) next_weighing: Instant,
    pub(super) watch: Watch,
}

impl Servers {
    pub(super) fn new(engine: Option<Engine>, now: Instant) -> Self {
        Self {
            standings: Standings::default(),
            traffic: HashMap::new(),
            engine,
            next_weighing: now,
            watch: Watch::default(),
        }
    }
}

/// What a server's traffic showed so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    record: Option<Record>,
    pace: Option<Pace>,
}

impl<D: Devices> Control<D> {
    /// Follows what servers' traffic shows.
    pub(super) fn look_at_traffic(&mut self, now: Instant) {
        let mut all: HashMap<ServerId, Traffic> = HashMap::new();
        let mut inhibited = Vec::new();
        for (at, spec) in self.wanted.config.services.iter().enumerate() {
            if spec.passive.is_none() && spec.connect_limit.is_none() {
                continue;
            }
            for (place, server) in spec.servers.iter().enumerate().filter(|(_, server)| !server.is_sorry) {
                let Some(id) = self.workers.registry.server_id(&spec.name, server.endpoint) else {
                    continue;
                };
                let stats = || self.workers.stats.iter();
                let before = self.servers.traffic.remove(&id).unwrap_or_default();
                // What nobody looks at any more begins anew when somebody does.
                let mut traffic = Traffic {
                    record: before.record.filter(|_| spec.passive.is_some()),
                    pace: before.pace.filter(|_| spec.connect_limit.is_some()),
                };
                if let Some(rules) = &spec.passive {
                    let failures = stats().map(|stats| stats.server(id).failures.value()).sum();
                    let answers = stats().map(|stats| stats.server(id).packets_out.value()).sum();
                    let record =
                        traffic.record.get_or_insert_with(|| Record::new(failures, answers, rules, now));
                    if let Some(until) = record.sample(failures, answers, rules, now) {
                        inhibited.push((at, server.endpoint, until));
                    }
                }
                if let Some(limit) = spec.connect_limit {
                    let answered = stats().map(|stats| stats.connects(id).answered.value()).sum();
                    let waited = stats().map(|stats| stats.connects(id).waited_ms.value()).sum();
                    let pace = traffic.pace.get_or_insert_with(|| Pace::new(answered, waited));
                    pace.sample(answered, waited, limit);
                    self.servers.standings.note_pace(at, place, pace);
                }
                all.insert(id, traffic);
            }
        }
        self.servers.traffic = all;
        for (at, endpoint, until) in inhibited {
            let service = &self.wanted.config.services[at].name;
            log::info!(target: "servers", service, server:% = endpoint, to = "inhibited";
                "service {}: server {endpoint} does not answer sessions; it gets none for {} s",
                self.wanted.config.services[at].name,
                until.since(now).as_secs()
            );
            self.servers.standings.inhibit(at, endpoint, until);
        }
    }
}
