//! How replies find their workers: chosen per port at start, watched while it runs, and told in a
//! sentence.

use crate::config::Config;
use dataplane::flow::{Endpoint, Protocol};
use dataplane::ids::{PortId, WorkerId};
use dataplane::session::Pair;
use dataplane::snapshot::{LocalAddress, Snapshot};
use dataplane::stats::WorkerStats;
use dataplane::steering::Steering;
use dataplane::steering::ladder::{Choice, Rung};
use std::sync::Arc;

/// Packets of one second that may come to the wrong worker before a rung counts as wrong.
const STRAYS_TOLERATED: u64 = 100;
/// And their share of all packets of that second: one in so many.
const STRAY_SHARE: u64 = 50;

/// The rungs of all ports while they serve.
#[derive(Debug)]
pub struct Ladder {
    steering: Arc<Steering>,
    choices: Vec<Choice>,
    /// By port: packets received and handed over, as last looked at.
    seen: Vec<(u64, u64)>,
}

impl Ladder {
    /// The rungs that were chosen at start, by [`PortId`].
    pub fn new(steering: Arc<Steering>, choices: Vec<Choice>) -> Self {
        let seen = vec![(0, 0); choices.len()];
        Self { steering, choices, seen }
    }

    /// What the workers follow.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// A port's choice.
    pub fn choice(&self, port: PortId) -> &Choice {
        &self.choices[usize::from(port.0)]
    }

    /// Looks, once a second, whether packets come where they were planned to. A port where they do
    /// not is from now on one that hands over, which its workers do all along; returns such ports,
    /// with the reason.
    pub fn watch(&mut self, stats: &[Arc<WorkerStats>]) -> Vec<(PortId, String)> {
        let mut fallen = Vec::new();
        for (at, choice) in self.choices.iter_mut().enumerate() {
            let port = PortId(at as u16);
            let now = stats.iter().fold((0, 0), |(received, strays), stats| {
                let counters = stats.port(port);
                (received + counters.rx_packets.value(), strays + counters.handed_over.value())
            });
            let before = std::mem::replace(&mut self.seen[at], now);
            let (received, strays) = (now.0 - before.0, now.1 - before.1);
            let promised = matches!(choice.rung, Rung::FlowRules | Rung::PredictedRss);
            if promised && strays > STRAYS_TOLERATED && strays * STRAY_SHARE > received {
                let reason = format!("{strays} of {received} packets of one second came to the wrong worker");
                choice.refused.push((choice.rung, reason.clone()));
                choice.rung = Rung::HandOver;
                fallen.push((port, reason));
            }
        }
        fallen
    }

    /// A port's rung in a sentence.
    pub fn sentence(&self, port: PortId) -> String {
        let choice = self.choice(port);
        let does = match choice.rung {
            Rung::SingleWorker => return "single worker: every packet is its own".into(),
            Rung::FlowRules => "rules in the device bring each reply to its worker",
            Rung::PredictedRss => {
                "local ports are chosen so that the device's own hash brings each reply to its worker"
            }
            Rung::HandOver => "workers hand replies to the one that owns the session",
        };
        let refused: Vec<_> =
            choice.refused.iter().map(|(rung, reason)| format!("no {}: {reason}", rung.name())).collect();
        if refused.is_empty() {
            format!("{}: {does}", choice.rung.name())
        } else {
            format!("{}: {does} ({})", choice.rung.name(), refused.join("; "))
        }
    }

    /// Local ports that a worker can use between an address and a server.
    pub fn capacity(
        &self,
        worker: WorkerId,
        local: LocalAddress,
        protocol: Protocol,
        real: Endpoint,
    ) -> usize {
        let pair = Pair { local: local.address, real, protocol };
        let plan = &self.steering.port(local.port).plan;
        plan.capacity(worker, pair.key())
    }

    /// Whether every worker has local ports towards every server.
    ///
    /// # Errors
    /// With the service, the server and the worker that has none, and what helps.
    pub fn check_capacity(&self, config: &Config, world: &Snapshot) -> Result<(), String> {
        let workers = self.steering.workers;
        for service in world.services.iter().filter(|service| !service.locals.is_empty()) {
            for server in &service.servers {
                let without = (0..workers).map(WorkerId).find(|worker| {
                    let capacity = |local: &LocalAddress| {
                        self.capacity(*worker, *local, service.protocol, server.endpoint)
                    };
                    service.locals.iter().all(|local| capacity(local) == 0)
                });
                let Some(worker) = without else { continue };
                let spec = config
                    .services
                    .iter()
                    .find(|spec| (spec.protocol, spec.listen) == (service.protocol, service.listen));
                let port = usize::from(service.locals[0].port.0);
                return Err(format!(
                    "service {}: worker {} has no local port towards {}: the device of port {} spreads replies by addresses alone, and none of the {} local addresses leads them to that worker; add local addresses (some {} serve {workers} workers), or use fewer workers",
                    spec.map_or("", |spec| &spec.name),
                    worker.0,
                    server.endpoint,
                    config.ports[port].name,
                    service.locals.len(),
                    usize::from(workers) * 4,
                ));
            }
        }
        Ok(())
    }
}
