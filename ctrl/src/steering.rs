//! How replies find their workers: chosen per port at start, watched while it runs, and told in a
//! sentence.

use crate::config::Config;
use dataplane::flow::{Endpoint, FlowKey, FlowKey6, Protocol};
use dataplane::ids::{PortId, WorkerId};
use dataplane::session::{ForwardMode, Pair};
use dataplane::snapshot::{AddressRole, LocalAddress, Service, Snapshot};
use dataplane::stats::WorkerStats;
use dataplane::steering::Steering;
use dataplane::steering::ladder::{Choice, Rung};
use std::net::IpAddr;
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
        match (local.address, real.address) {
            (IpAddr::V4(_), IpAddr::V4(_)) => plan.capacity::<FlowKey>(worker, pair.key()),
            (IpAddr::V6(_), IpAddr::V6(_)) => plan.capacity::<FlowKey6>(worker, pair.key()),
            // An address serves the servers of its family.
            _ => 0,
        }
    }

    /// Whether every local address that both worlds have is still answered by the same port, whose plan
    /// tells whose its sessions are.
    ///
    /// # Errors
    /// With an address that is not.
    pub fn check_ports(&self, old: &Snapshot, new: &Snapshot) -> Result<(), String> {
        let moved = new.addresses.iter().find(|(address, role)| {
            let roles = (old.addresses.get(*address), *role);
            matches!(roles, (Some(AddressRole::Local(old)), AddressRole::Local(new)) if old != new)
        });
        match moved {
            Some((address, _)) if self.steering.workers > 1 => Err(format!(
                "local address {address} would be on another port, and its sessions would not be found; restart sluiced, or use another address there"
            )),
            _ => Ok(()),
        }
    }

    /// Whether every worker has local ports towards every server.
    ///
    /// # Errors
    /// With the service, the server and the worker that has none, and what helps.
    pub fn check_capacity(&self, config: &Config, world: &Snapshot) -> Result<(), String> {
        let mut services = world.services.iter().enumerate();
        services.try_for_each(|(at, service)| self.check_service(config, at, service))
    }

    /// [`check_capacity`](Self::check_capacity) of the one service in place `at`.
    ///
    /// # Errors
    /// As there.
    pub fn check_service(&self, config: &Config, at: usize, service: &Service) -> Result<(), String> {
        let workers = self.steering.workers;
        if workers == 1 || service.mode != ForwardMode::FullNat {
            return Ok(());
        }
        for server in service.servers.iter() {
            let without = (0..workers).map(WorkerId).find(|worker| {
                let has_ports = |local: &&LocalAddress| {
                    let each = |protocol| self.capacity(*worker, **local, protocol, server.endpoint) > 0;
                    service.protocols.iter().all(each)
                };
                service.locals.iter().find(has_ports).is_none()
            });
            let Some(worker) = without else { continue };
            let port = usize::from(service.locals[0].port.0);
            return Err(format!(
                "service {}: worker {} has no local port towards {}: the device of port {} spreads replies by addresses alone, and none of the {} local addresses leads them to that worker; add local addresses (some {} serve {workers} workers), or use fewer workers",
                config.services[at].name,
                worker.0,
                server.endpoint,
                config.ports[port].name,
                service.locals.len(),
                usize::from(workers) * 4,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::flow::FlowHasher;
    use dataplane::snapshot::Addresses;
    use dataplane::steering::ladder::{self, Facts, Fields, Rss};

    const PORT: PortId = PortId(0);

    /// Two workers behind one device that tells its key.
    fn predicted() -> Ladder {
        let key = (0..40u8).map(|byte| byte.wrapping_mul(0x9d).wrapping_add(0x4b)).collect();
        let rss = Rss { key, table: (0..128).map(|at| at % 2).collect(), fields: [[Fields::Ports; 2]; 2] };
        let facts = Facts { rules: Err("it takes none".into()), rss: Ok(rss), keeps_flows: true };
        let (choice, port) = ladder::choose(&facts, 2);
        let steering = Steering { workers: 2, ports: [port].into(), hasher: FlowHasher::new([1, 2, 3, 4]) };
        Ladder::new(Arc::new(steering), vec![choice])
    }

    #[test]
    fn a_rung_falls_when_packets_come_to_the_wrong_worker_and_says_so() {
        let mut ladder = predicted();
        let stats = vec![Arc::new(WorkerStats::with_slots(1, 1, 1, 1))];
        let second = |ladder: &mut Ladder, packets, strays| {
            stats[0].port(PORT).rx_packets.add(packets);
            stats[0].port(PORT).handed_over.add(strays);
            ladder.watch(&stats)
        };
        assert!(ladder.sentence(PORT).starts_with("predicted RSS: local ports are chosen"));
        assert!(ladder.sentence(PORT).ends_with("(no flow rules: it takes none)"));

        assert_eq!(second(&mut ladder, 1_000_000, 1_000), [], "one in a thousand is no wrong rung");
        assert_eq!(second(&mut ladder, 90, 90), [], "nor are ninety packets");
        let fallen = second(&mut ladder, 1_000, 500);

        let reason = "500 of 1000 packets of one second came to the wrong worker";
        assert_eq!(fallen, [(PORT, reason.to_owned())]);
        assert!(ladder.sentence(PORT).starts_with("hand-over: "), "{}", ladder.sentence(PORT));
        assert!(ladder.sentence(PORT).contains(reason));
        assert_eq!(second(&mut ladder, 1_000, 500), [], "it falls once");
    }

    #[test]
    fn a_local_address_stays_on_its_port() {
        let world = |role| {
            let mut world = Snapshot::empty(Vec::new());
            world.addresses = Arc::new(Addresses::from_iter([(IpAddr::from([10, 0, 0, 200]), role)]));
            world
        };
        let (here, there) = (world(AddressRole::Local(PORT)), world(AddressRole::Local(PortId(1))));

        assert_eq!(predicted().check_ports(&here, &here), Ok(()));
        assert_eq!(predicted().check_ports(&world(AddressRole::Own), &there), Ok(()));
        let refused = predicted().check_ports(&here, &there).unwrap_err();
        assert!(refused.starts_with("local address 10.0.0.200 would be on another port"), "{refused}");
    }
}
