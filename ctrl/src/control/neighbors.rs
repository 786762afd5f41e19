//! ARP and neighbour discovery for the appliance's addresses: answer, learn, ask.

use super::Control;
use crate::devices::Devices;
use crate::links::arp::{Arp, BROADCAST};
use crate::links::nd;
use crate::links::neighbors::{Advertised, Claim, Settlement};
use crate::topology::port_of;
use crate::view::mac_text;
use dataplane::clock::Instant;
use dataplane::ids::PortId;
use dataplane::snapshot::{AddressRole, NextHop};
use dataplane::wire::Mac;
use dataplane::worker::{Command, ControlFrame};
use std::net::IpAddr;

impl<D: Devices> Control<D> {
    /// Takes in one frame about neighbours.
    pub(super) fn hear(&mut self, port: PortId, frame: &[u8], now: Instant) {
        if let Some(arp) = Arp::parse(frame) {
            self.hear_arp(port, &arp, now);
        } else if let Some(message) = nd::parse(frame) {
            self.hear_discovery(port, message, now);
        }
    }

    /// RFC 826's algorithm.
    fn hear_arp(&mut self, port: PortId, arp: &Arp, now: Instant) {
        let (sender_mac, sender) = arp.sender;
        let for_us = self.answers_for(port, arp.target.1.into());
        if self.is_conflict(port, sender.into(), sender_mac, now) {
            return;
        }
        if let Some(hop) = self.hop_to(port, sender.into()) {
            let claim = Claim { station: sender_mac, is_answer: !arp.is_request, is_for_us: for_us };
            self.links.neighbors.hear(hop, &claim, now);
        }
        if arp.is_request && for_us {
            let answer = Arp {
                is_request: false,
                sender: (self.mac(port), arp.target.1),
                target: (sender_mac, sender),
            };
            self.transmit(port, &answer.frame(sender_mac));
        }
    }

    /// RFC 4861 §7.2.3 to §7.2.5.
    fn hear_discovery(&mut self, port: PortId, message: nd::Message, now: Instant) {
        match message {
            nd::Message::Solicitation { target, sender, station, from } => {
                let for_us = self.answers_for(port, target.into());
                if sender.is_unspecified() && from != self.mac(port) && for_us {
                    // It wants to have an address of ours (RFC 4862 §5.4.3).
                    self.is_conflict(port, target.into(), from, now);
                }
                if let Some(station) = station {
                    if self.is_conflict(port, sender.into(), station, now) {
                        return;
                    }
                    if let Some(hop) = self.hop_to(port, sender.into()) {
                        let claim = Claim { station, is_answer: false, is_for_us: for_us };
                        self.links.neighbors.hear(hop, &claim, now);
                    }
                }
                if for_us {
                    let to = station.unwrap_or(from);
                    self.transmit(port, &nd::advertisement(self.mac(port), target, sender, to));
                }
            }
            nd::Message::Router { router, lifetime, station } => {
                if let Some(station) = station
                    && !self.is_conflict(port, router.into(), station, now)
                    && let Some(hop) = self.hop_to(port, router.into())
                {
                    let claim = Claim { station, is_answer: false, is_for_us: false };
                    self.links.neighbors.hear(hop, &claim, now);
                }
                self.hear_router(port, router, lifetime, now);
            }
            nd::Message::Advertisement { target, station, solicited, overrides } => {
                let is_other = |station: Mac| self.is_conflict(port, target.into(), station, now);
                if station.is_some_and(is_other) {
                    return;
                }
                if let Some(hop) = self.hop_to(port, target.into()) {
                    let said = Advertised { station, solicited, overrides };
                    self.links.neighbors.hear_advertised(hop, &said, now);
                }
            }
        }
    }

    /// Whether a station says that it has one of our addresses. If it is another station, we say again
    /// whose it is, at most as often as announcements are sent (RFC 5227 §2.4).
    fn is_conflict(&mut self, port: PortId, address: IpAddr, station: Mac, now: Instant) -> bool {
        if self.workers.world.role(address).is_none() {
            return false;
        }
        if station != self.mac(port) {
            self.note_double(port, address, station, now);
            self.links.announcements.defend(port, address, now);
        }
        true
    }

    /// A neighbour on the link of a port, if an address may be one's.
    fn hop_to(&self, port: PortId, address: IpAddr) -> Option<NextHop> {
        let spec = &self.wanted.config.ports[usize::from(port.0)];
        let is_link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        let is_near = is_link_local || spec.addresses.iter().any(|network| network.contains(address));
        is_near.then_some(NextHop { port, address })
    }

    /// Tells what became of claims to neighbours' addresses.
    fn tell_settled(&mut self) {
        for Settlement { hop, known, claimant, has_moved } in self.links.neighbors.take_settled() {
            let port = &self.wanted.config.ports[usize::from(hop.port.0)].name;
            let (address, known, claimant) = (hop.address, mac_text(known), mac_text(claimant));
            if has_moved {
                log::warn!(target: "links", port, from = known, to = claimant;
                    "neighbor {address} on port {port} is at {claimant} now; {known} did not answer");
            } else {
                log::warn!(target: "links", port, why = claimant;
                    "neighbor {address} on port {port} stays at {known}: {claimant} says that it has the address; look for a double or a forger");
            }
        }
    }

    /// Asks for neighbours that are due.
    pub(super) fn ask_neighbors(&mut self, now: Instant) {
        self.tell_settled();
        for question in self.links.neighbors.tick(now) {
            let port = question.hop.port;
            let frame = match (self.source_towards(question.hop), question.hop.address) {
                (Some(IpAddr::V4(source)), IpAddr::V4(target)) => {
                    let sender = (self.mac(port), source);
                    let arp = Arp { is_request: true, sender, target: ([0; 6], target) };
                    arp.frame(question.station.unwrap_or(BROADCAST))
                }
                (Some(IpAddr::V6(source)), IpAddr::V6(target)) => {
                    nd::solicitation((self.mac(port), source), target, question.station)
                }
                _ => continue,
            };
            self.transmit(port, &frame);
        }
    }

    /// Gives a frame to the first worker to send. False when its queue is full.
    pub(super) fn transmit(&self, port: PortId, frame: &[u8]) -> bool {
        let command = Command::Transmit { port, frame: ControlFrame::copy_of(frame) };
        self.workers.links[0].ask(command).is_ok()
    }

    /// The station address of a port.
    pub(super) fn mac(&self, port: PortId) -> Mac {
        self.workers.macs[usize::from(port.0)]
    }

    /// Whether we answer for `address` on `port`. A VIP on no port's network is routed to us,
    /// so whoever asks for it on any link may have it.
    fn answers_for(&self, port: PortId, address: IpAddr) -> bool {
        match (self.workers.world.role(address), port_of(&self.wanted.config, address)) {
            // A local address that was removed, while sessions still use it.
            (None, Some(home)) => home == port && self.is_local_in_use(address),
            (None, None) => false,
            (Some(_), Some(home)) => home == port,
            (Some(AddressRole::Vip), None) => true,
            (Some(AddressRole::Own | AddressRole::Local(_)), None) => false,
        }
    }

    pub(super) fn is_local_in_use(&self, address: IpAddr) -> bool {
        let id = self.workers.registry.local_id(address);
        id.is_some_and(|id| self.workers.stats.iter().any(|stats| stats.local_ports_used(id).value() > 0))
    }

    /// The port's own address on the neighbour's network, or any of the same family.
    fn source_towards(&self, hop: NextHop) -> Option<IpAddr> {
        let spec = self.wanted.config.ports.get(usize::from(hop.port.0))?;
        let network = spec.addresses.iter().find(|network| network.contains(hop.address));
        let of_family =
            || spec.addresses.iter().find(|network| network.address.is_ipv4() == hop.address.is_ipv4());
        network.or_else(of_family).map(|network| network.address)
    }
}
