//! ARP for the appliance's addresses: answer, learn, ask.

use super::{Control, Devices};
use crate::arp::{Arp, BROADCAST};
use crate::compile::port_of;
use crate::log;
use dataplane::clock::Instant;
use dataplane::ids::PortId;
use dataplane::snapshot::{AddressRole, NextHop};
use dataplane::wire::Mac;
use dataplane::worker::{Command, ControlFrame};
use std::net::Ipv4Addr;

impl<D: Devices> Control<D> {
    /// Takes in one ARP frame (RFC 826's algorithm).
    pub(super) fn arp(&mut self, port: PortId, frame: &[u8], now: Instant) {
        let Some(arp) = Arp::parse(frame) else { return };
        let (sender_mac, sender) = arp.sender;
        let for_us = self.answers_for(port, arp.target.1);
        let spec = &self.config.ports[usize::from(port.0)];
        let on_link = spec.addresses.iter().any(|network| network.contains(sender));
        if self.world.addresses.contains_key(&sender) {
            // Our own address from another station: a conflict. Say again whose it is, at most
            // as often as announcements are sent (RFC 5227 §2.4).
            if sender_mac != self.macs[usize::from(port.0)] && self.announcements.defend(port, sender, now) {
                log::say(format_args!("another station on port {} uses {sender}, which is ours", spec.name));
            }
            return;
        }
        if on_link {
            self.neighbors.learn(NextHop { port, address: sender }, sender_mac, for_us, now);
        }
        if arp.is_request && for_us {
            let answer = Arp {
                is_request: false,
                sender: (self.macs[usize::from(port.0)], arp.target.1),
                target: (sender_mac, sender),
            };
            self.transmit(port, &answer.frame(sender_mac));
        }
    }

    /// Asks for neighbours that are due.
    pub(super) fn ask_neighbors(&mut self, now: Instant) {
        for question in self.neighbors.tick(now) {
            let port = question.hop.port;
            let Some(source) = self.source_towards(question.hop) else { continue };
            let arp = Arp {
                is_request: true,
                sender: (self.macs[usize::from(port.0)], source),
                target: ([0; 6], question.hop.address),
            };
            self.transmit(port, &arp.frame(question.station.unwrap_or(BROADCAST)));
        }
    }

    /// Gives a frame to the first worker to send. False when its queue is full.
    pub(super) fn transmit(&self, port: PortId, frame: &[u8]) -> bool {
        let command = Command::Transmit { port, frame: ControlFrame::copy_of(frame) };
        self.links[0].ask(command).is_ok()
    }

    /// The station address of a port.
    pub(super) fn mac(&self, port: PortId) -> Mac {
        self.macs[usize::from(port.0)]
    }

    /// Whether we answer for `address` on `port`. A VIP on no port's network is routed to us,
    /// so whoever asks for it on any link may have it.
    fn answers_for(&self, port: PortId, address: Ipv4Addr) -> bool {
        match (self.world.addresses.get(&address), port_of(&self.config, address)) {
            // A local address that was removed, while sessions still use it.
            (None, Some(home)) => home == port && self.is_local_in_use(address),
            (None, None) => false,
            (Some(_), Some(home)) => home == port,
            (Some(AddressRole::Vip), None) => true,
            (Some(AddressRole::Own | AddressRole::Local(_)), None) => false,
        }
    }

    pub(super) fn is_local_in_use(&self, address: Ipv4Addr) -> bool {
        let id = self.registry.local_id(address);
        id.is_some_and(|id| self.stats.iter().any(|stats| stats.local_ports_used(id).value() > 0))
    }

    /// The port's own address on the neighbour's network.
    fn source_towards(&self, hop: NextHop) -> Option<Ipv4Addr> {
        let spec = self.config.ports.get(usize::from(hop.port.0))?;
        let network = spec.addresses.iter().find(|network| network.contains(hop.address));
        network.or(spec.addresses.first()).map(|network| network.address)
    }
}
