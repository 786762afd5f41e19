//! Tells the responders what is known of services.

use super::{Control, Devices};
use crate::balance::{Candidate, Health, Weight};
use crate::config::{Location, NameAnswers, ServiceSpec};
use crate::log;
use crate::names::{Entry, Names, Table, Target, Zone};
use dataplane::clock::Instant;
use dataplane::session::ForwardMode;
use std::time::Duration;

/// Names follow servers so often at most.
pub(super) const NAMES_PAUSE: Duration = Duration::from_millis(100);

impl<D: Devices> Control<D> {
    /// Answers where the configuration says so. Returns what is wrong with that; addresses that could not be used are
    /// tried again once a second.
    pub(super) fn follow_names(&mut self) {
        if self.names.is_none() && self.config.names.is_some() {
            match Names::start() {
                Ok(names) => self.names = Some(names),
                Err(error) => return self.note_names(vec![error]),
            }
        }
        let problems =
            self.names.as_mut().map_or(Vec::new(), |names| names.follow(self.config.names.as_ref()));
        self.note_names(problems);
    }

    fn note_names(&mut self, problems: Vec<String>) {
        let news = problems.iter().filter(|problem| !self.names_problems.contains(problem));
        news.for_each(log::say);
        self.names_problems = problems;
    }

    /// Publishes the table by which names are answered, if anything changed.
    pub(super) fn publish_names(&mut self, now: Instant) {
        let (Some(names), Some(spec)) = (&self.names, &self.config.names) else { return };
        let revision = self.standings.revision();
        if now < self.next_names || self.named == revision {
            return;
        }
        self.next_names = now + NAMES_PAUSE;
        self.named = revision;
        let named =
            self.config.services.iter().enumerate().filter(|(_, spec)| spec.forward != ForwardMode::Snat);
        let services = named.map(|(at, spec)| (spec.name.to_ascii_lowercase(), self.entry(at, spec, now)));
        names.publish(Table {
            zone: Zone::of(spec),
            serial: revision as u32,
            services: services.collect(),
            clients: spec.clients.clone(),
        });
    }

    fn entry(&self, at: usize, spec: &ServiceSpec, now: Instant) -> Entry {
        let picture = self.standings.picture(at);
        let targets = match spec.names {
            NameAnswers::Servers => {
                // The operator's switch holds here too: who is not meant is not given out, whoever asks.
                let is_switched = self.standings.switch(at).is_some();
                let candidates = self.standings.candidates(at, now);
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
