//! Tells the responders what is known of services.

use super::Control;
use super::stale::Stale;
use crate::config::Weight;
use crate::config::{Location, NameAnswers, ServiceSpec};
use crate::devices::Devices;
use crate::health::Health;
use crate::names::{Entry, Names, Table, Target, Zone};
use crate::servers::balance::Candidate;
use dataplane::clock::Instant;
use dataplane::session::ForwardMode;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Names follow servers so often at most.
pub(super) const NAMES_PAUSE: Duration = Duration::from_millis(100);

/// Names, and where they are answered.
#[derive(Default)]
pub(super) struct Naming {
    /// The responders, if there are any.
    pub(super) names: Option<Names>,
    /// Where they cannot answer, and why.
    pub(super) problems: Vec<String>,
    pub(super) book: Book,
}

/// What names are answered by.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: HashMap<Arc<str>, Arc<Entry>>,
    pub(super) stale: Stale,
    serial: u32,
    next: Instant,
}

impl<D: Devices> Control<D> {
    /// Answers where the configuration says so. Addresses that cannot be used are told, and tried again once a second.
    pub(super) fn follow_names(&mut self) {
        if self.naming.names.is_none() && self.wanted.config.names.is_some() {
            match Names::start() {
                Ok(names) => self.naming.names = Some(names),
                Err(error) => return self.note_names(vec![error]),
            }
        }
        let problems = self
            .naming
            .names
            .as_mut()
            .map_or(Vec::new(), |names| names.follow(self.wanted.config.names.as_ref()));
        self.note_names(problems);
    }

    fn note_names(&mut self, problems: Vec<String>) {
        let news = problems.iter().filter(|problem| !self.naming.problems.contains(problem));
        news.for_each(|line| log::info!(target: "names", "{line}"));
        self.naming.problems = problems;
    }

    /// Publishes the table by which names are answered, if anything changed; makes anew what of it is stale.
    pub(super) fn publish_names(&mut self, now: Instant) {
        let (Some(names), Some(spec)) = (&self.naming.names, &self.wanted.config.names) else { return };
        if now < self.naming.book.next || self.naming.book.stale.is_empty() {
            return;
        }
        self.naming.book.next = now + NAMES_PAUSE;
        let mut entries = std::mem::take(&mut self.naming.book.entries);
        let stale = std::mem::take(&mut self.naming.book.stale);
        if matches!(stale, Stale::All) {
            entries.clear();
        }
        for at in stale.places(self.wanted.config.services.len()) {
            let spec = &self.wanted.config.services[at];
            if spec.forward == ForwardMode::Snat {
                continue;
            }
            entries.insert(spec.name.to_ascii_lowercase().into(), Arc::new(self.entry(at, spec, now)));
        }
        self.naming.book.serial = self.naming.book.serial.wrapping_add(1);
        names.publish(Table {
            zone: Zone::of(spec),
            serial: self.naming.book.serial,
            services: entries.clone(),
            clients: spec.clients.clone(),
        });
        self.naming.book.entries = entries;
    }

    fn entry(&self, at: usize, spec: &ServiceSpec, now: Instant) -> Entry {
        let picture = self.servers.standings.picture(at);
        let targets = match spec.names {
            NameAnswers::Servers => {
                // The operator's switch holds here too: who is not meant is not given out, whoever asks.
                let is_switched = self.servers.standings.switch(at).is_some();
                let candidates = self.servers.standings.candidates(at, now);
                let all = spec.servers.iter().zip(candidates).zip(&picture.weights);
                all.filter(|(_, weight)| !is_switched || **weight > 0)
                    .map(|((server, candidate), _)| Target {
                        address: server.endpoint.address,
                        l4_port: server.endpoint.l4_port,
                        location: server.location.clone(),
                        candidate: match is_switched {
                            true => Candidate { health: Health::Up, is_sorry: false, ..candidate },
                            false => candidate,
                        },
                    })
                    .collect()
            }
            NameAnswers::Vips => {
                let serves = picture.weights.iter().any(|weight| *weight > 0);
                let hosts = spec.listens.iter().filter(|listen| serves && listen.network.is_host());
                let vip = |listen: &dataplane::snapshot::Listen| Target {
                    address: listen.network.address,
                    l4_port: listen.single().map_or(0, |endpoint| endpoint.l4_port),
                    location: Location::default(),
                    candidate: Candidate {
                        weight: Weight::ONE,
                        tier: 0,
                        health: Health::Up,
                        ramp: 1.0,
                        relief: 1.0,
                        is_sorry: false,
                    },
                };
                hosts.map(vip).collect()
            }
        };
        Entry { targets, policy: spec.policy, protected: picture.protected }
    }
}
