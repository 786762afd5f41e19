//! Other stations that have an address of ours: told as long as they have it.

use super::Control;
use crate::devices::Devices;
use crate::links::arp::{Arp, BROADCAST};
use crate::links::nd;
use dataplane::clock::Instant;
use dataplane::ids::PortId;
use dataplane::wire::Mac;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Addresses of which it is kept that another station has them; more are logged and not kept.
const MAX: usize = 256;
/// How often such a station is asked for, and when one counts as gone that was not heard of.
const ASK: Duration = Duration::from_secs(10);
const GONE: Duration = Duration::from_secs(35);

/// Addresses of ours that other stations use.
pub(super) type Doubles = BTreeMap<IpAddr, Double>;

/// A station that uses an address of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Double {
    port: PortId,
    station: Mac,
    seen: Instant,
    asked: Instant,
}

impl<D: Devices> Control<D> {
    /// Notes that another station says that it has an address of ours.
    pub(super) fn note_double(&mut self, port: PortId, address: IpAddr, station: Mac, now: Instant) {
        let is_new = !self.links.doubles.contains_key(&address);
        if is_new {
            let name = &self.wanted.config.ports[usize::from(port.0)].name;
            log::warn!(target: "links",
                "another station on port {name}, {}, uses {address}, which is ours", text(station));
        }
        if !is_new || self.links.doubles.len() < MAX {
            let asked = self.links.doubles.get(&address).map_or(now, |double| double.asked);
            self.links.doubles.insert(address, Double { port, station, seen: now, asked });
        }
    }

    /// Asks for the stations that have addresses of ours, and forgets those that have none any more.
    pub(super) fn look_after_doubles(&mut self, now: Instant) {
        let all: Vec<_> = self.links.doubles.iter().map(|(address, double)| (*address, *double)).collect();
        for (address, double) in all {
            if now.since(double.seen) >= GONE || self.workers.world.role(address).is_none() {
                self.links.doubles.remove(&address);
                log::info!(target: "links", "no other station uses {address} any more");
            } else if now.since(double.asked) >= ASK && self.probe(double.port, address) {
                self.links.doubles.insert(address, Double { asked: now, ..double });
            }
        }
    }

    /// Asks whether anybody else has an address of ours. False when the worker takes no frame now.
    pub(super) fn probe(&self, port: PortId, address: IpAddr) -> bool {
        let frame = match address {
            IpAddr::V4(address) => Arp::probe(self.mac(port), address).frame(BROADCAST),
            IpAddr::V6(address) => nd::probe(self.mac(port), address),
        };
        self.transmit(port, &frame)
    }

    /// What an operator should know of them.
    pub(super) fn double_warnings(&self) -> Vec<String> {
        let doubles = self.links.doubles.iter();
        doubles
            .map(|(address, double)| {
                let port = &self.wanted.config.ports[usize::from(double.port.0)].name;
                format!(
                    "another station on port {port}, {}, uses {address}, which is ours: clients may reach that one; take it away there, or keep it from answering ARP (arp_ignore)",
                    text(double.station)
                )
            })
            .collect()
    }
}

fn text(station: Mac) -> String {
    station.map(|octet| format!("{octet:02x}")).join(":")
}
