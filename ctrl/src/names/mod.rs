//! Names: who asks for a service gets addresses that serve, the nearest first.
//!
//! For clients that go through the appliance these are VIPs; for those that call servers directly (VIPServer's
//! symmetric calls) healthy servers, chosen by the client's place, weights and health, as the balancer chooses.
//! [`Table`] is what is known at one moment, [`dns`] makes answers to questions, [`serve`] has the sockets.

mod dns;
mod serve;

pub use dns::Zone;
pub use serve::Names;

use crate::config::Location;
use crate::config::Policy;
use crate::servers::balance::{self, Candidate, TIER_NAMES};
use dataplane::snapshot::Network;
use serde::Serialize;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses in one answer; more would not fit a datagram, and nobody tries as many.
pub const ANSWERS_MAX: usize = 8;

/// What is known of all services at one moment.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What is answered for.
    pub zone: Zone,
    /// Counts tables; the zone's serial number.
    pub serial: u32,
    /// By name, in lower case.
    pub services: HashMap<Arc<str>, Arc<Entry>>,
    /// Where clients are, by their networks.
    pub clients: Vec<(Network, Location)>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is given out.
    pub targets: Vec<Target>,
    /// How weights follow from health, when servers are given out.
    pub policy: Policy,
    /// Whether so few servers are healthy that all are given out.
    pub protected: bool,
}

/// One address that may be given out.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub l4_port: u16,
    /// Where it is.
    pub location: Location,
    /// Its share, but for the tier, which depends on who asks.
    pub candidate: Candidate,
}

/// What a client is told of one address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resolved {
    /// The address.
    pub address: IpAddr,
    /// The port; 0: every port of the service.
    pub port: u16,
    /// Its share for this client.
    pub weight: u32,
    /// `zone`, `region` or `rest`, seen from the client.
    pub tier: &'static str,
}

impl Table {
    /// The answer to a DNS message of `client`; `None` for what is no question.
    fn answer(&self, message: &[u8], client: IpAddr) -> Option<Vec<u8>> {
        self.zone.answer(message, client, self, fastrand::f64)
    }

    /// Where a client is.
    pub fn place_of(&self, client: IpAddr) -> Location {
        let inside = self.clients.iter().filter(|(network, _)| network.contains(client));
        let nearest = inside.max_by_key(|(network, _)| network.prefix_len);
        nearest.map(|(_, location)| location.clone()).unwrap_or_default()
    }

    /// What a client is told about a service, in the order in which it should try: drawn by weight. `draw` gives
    /// numbers from 0 to 1. `None` when there is no such service.
    pub fn resolve(
        &self,
        service: &str,
        client: IpAddr,
        mut draw: impl FnMut() -> f64,
    ) -> Option<Vec<Resolved>> {
        let entry = self.services.get(&*service.to_ascii_lowercase())?;
        let here = self.place_of(client);
        let candidates: Vec<_> = entry
            .targets
            .iter()
            .map(|target| Candidate { tier: here.tier_of(&target.location), ..target.candidate })
            .collect();
        let weights = balance::balance(&candidates, &entry.policy, entry.protected, None, false).weights;
        let mut all: Vec<_> = entry
            .targets
            .iter()
            .zip(&candidates)
            .zip(weights)
            .filter(|(_, weight)| *weight > 0)
            .map(|((target, candidate), weight)| {
                // Efraimidis and Spirakis, 2006: the largest of these keys is drawn with the weight's chance, then
                // the next.
                let key = draw().max(f64::MIN_POSITIVE).powf(1.0 / f64::from(weight));
                let tier = TIER_NAMES[candidate.tier];
                (key, Resolved { address: target.address, port: target.l4_port, weight, tier })
            })
            .collect();
        all.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        Some(all.into_iter().map(|(_, resolved)| resolved).collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Weight;
    use crate::health::Health;

    pub(crate) fn target(last: u8, zone: &str, health: Health, weight: f64) -> Target {
        Target {
            address: IpAddr::from([10, 0, 0, last]),
            l4_port: 80,
            location: Location { zone: Some(zone.into()), region: Some("r".into()) },
            candidate: Candidate {
                weight: Weight::new(weight).unwrap(),
                tier: 0,
                health,
                ramp: 1.0,
                relief: 1.0,
                is_sorry: false,
            },
        }
    }

    pub(crate) fn table(targets: Vec<Target>) -> Table {
        let entry = Entry { targets, policy: Policy::default(), protected: false };
        let here = |zone: &str| Location { zone: Some(zone.into()), region: Some("r".into()) };
        Table {
            zone: Zone::default(),
            serial: 7,
            services: HashMap::from([("web".into(), Arc::new(entry))]),
            clients: vec![
                ("10.1.0.0/16".parse().unwrap(), here("a")),
                ("10.1.2.0/24".parse().unwrap(), here("b")),
            ],
        }
    }

    fn addresses(table: &Table, client: &str) -> Vec<u8> {
        let mut draws = 0.1;
        let draw = move || {
            draws = (draws * 7.3_f64).fract();
            draws
        };
        let all = table.resolve("WEB", client.parse().unwrap(), draw).unwrap();
        let last = |resolved: &Resolved| match resolved.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let mut all: Vec<_> = all.iter().map(last).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn clients_get_what_is_healthy_and_near_them() {
        let table = table(vec![
            target(1, "a", Health::Up, 1.0),
            target(2, "a", Health::Down, 1.0),
            target(3, "b", Health::Up, 1.0),
            target(4, "b", Health::Up, 0.0),
        ]);
        assert_eq!(addresses(&table, "10.1.2.9"), [3], "the longest network says where a client is");
        assert_eq!(addresses(&table, "10.1.9.9"), [1, 3], "half of a zone is down, so some go elsewhere");
        assert_eq!(addresses(&table, "192.0.2.1"), [1, 3], "a client of unknown place gets all");
        assert_eq!(table.resolve("none", "10.1.2.9".parse().unwrap(), || 0.5), None);
    }

    #[test]
    fn the_first_one_is_drawn_by_weight() {
        let table = table(vec![target(1, "a", Health::Up, 3.0), target(2, "a", Health::Up, 1.0)]);
        let mut random = fastrand::Rng::with_seed(7);
        let first = (0..4_000)
            .filter(|_| {
                let all = table.resolve("web", "10.1.9.9".parse().unwrap(), || random.f64()).unwrap();
                all[0].address == IpAddr::from([10, 0, 0, 1])
            })
            .count();
        assert!((2_850..3_150).contains(&first), "{first} of 4000, 3000 are its share");
    }
}
