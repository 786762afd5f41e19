//! What the links are like: whether they are up, whether the interfaces behind devices are still what they were, and
//! whether servers on them answer.

use super::Control;
use super::announce::Announcements;
use super::doubles::Doubles;
use super::routers::Routers;
use super::stale::Stale;
use crate::compile;
use crate::devices::Devices;
use crate::journal::Edge;
use crate::kernel::Outside;
use crate::links::neighbors::NeighborTable;
use crate::links::sent::{Account, Sent};
use dataplane::clock::Instant;
use dataplane::ids::PortId;
use hashbrown::HashSet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The links of all ports, and the stations on them.
pub(super) struct Links {
    pub(super) neighbors: NeighborTable,
    pub(super) announcements: Announcements,
    pub(super) doubles: Doubles,
    pub(super) routers: Routers,
    /// By port.
    pub(super) ports: Vec<LinkState>,
    /// The services of which it must be looked anew which servers answer on their links.
    pub(super) absences: Stale,
    pub(super) next_age: Instant,
    pub(super) next_poll: Instant,
    /// Which of the host's connections workers know, and when they are looked at again.
    pub(super) host_flows_seen: u64,
    pub(super) next_host_flows: Instant,
}

impl Links {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            neighbors: NeighborTable::default(),
            announcements: Announcements::default(),
            doubles: Doubles::default(),
            routers: Routers::default(),
            ports: Vec::new(),
            absences: Stale::default(),
            next_age: now,
            next_poll: now,
            host_flows_seen: 0,
            next_host_flows: now,
        }
    }
}

/// What is known of one port's link.
#[derive(Clone, Debug, Default)]
pub(super) struct LinkState {
    /// Whether it is up, and its speed in Mbit/s; `None` when the device cannot tell.
    pub(super) link: Option<(bool, u32)>,
    /// The number of the kernel's interface that the device opened.
    index: Option<u32>,
    /// The MTU that the device began with.
    mtu: u16,
    /// What is wrong with the interface, and what to do.
    pub(super) trouble: Option<String>,
    /// Whether its device sends what it is given.
    pub(super) account: Account,
}

impl LinkState {
    fn is_up(&self) -> bool {
        self.link.is_some_and(|(up, _)| up)
    }
}

impl<D: Devices> Control<D> {
    /// Links as they are at the start. Interfaces of the kernel path begin with a carrier, so it is told of links that
    /// are down.
    pub(super) fn begin_links(&mut self) {
        for at in 0..self.workers.facts.len() {
            let port = PortId(at as u16);
            let index = match (&self.kernel, self.wanted.config.ports[at].device.interface()) {
                (Some(kernel), Some(name)) => kernel.outside(name).map(|interface| interface.index),
                _ => None,
            };
            let link = self.device_link(at);
            let mtu = self.workers.facts[at].mtu;
            let state = LinkState { link, index, mtu, ..LinkState::default() };
            if let Some((false, _)) = state.link {
                log::warn!(target: "links", "port {}: the link is down", self.wanted.config.ports[at].name);
                if let Some(kernel) = &mut self.kernel {
                    kernel.set_carrier(port, false);
                }
            }
            self.links.ports.push(state);
        }
    }

    /// Notices links that went down or came up, and interfaces that are no longer what devices opened.
    pub(super) fn poll_links(&mut self, now: Instant) {
        let mut news = false;
        for at in 0..self.workers.facts.len() {
            let port = PortId(at as u16);
            let mut state = LinkState { link: self.device_link(at), ..self.links.ports[at].clone() };
            let mtu = self.look_at_interface(at, &mut state);
            let before = std::mem::replace(&mut self.links.ports[at], state);
            let (was_up, is_up) = (before.is_up(), self.links.ports[at].is_up());
            let name = &self.wanted.config.ports[at].name;
            let trouble = &self.links.ports[at].trouble;
            if before.trouble != *trouble {
                match trouble {
                    Some(trouble) => log::warn!(target: "links", port = name; "port {name}: {trouble}"),
                    None => {
                        log::info!(target: "links", port = name; "port {name}: its interface is as it was")
                    }
                }
            }
            if was_up != is_up {
                let word = |is_up: bool| if is_up { "up" } else { "down" };
                log::warn!(target: "links", port = name, from = word(was_up), to = word(is_up);
                    "port {name}: the link is {}", word(is_up));
                if let Some(kernel) = &mut self.kernel {
                    kernel.set_carrier(port, is_up);
                }
                if is_up {
                    self.links.announcements.schedule_port(&self.wanted.config, port, now);
                }
                news = true;
            }
            if self.workers.facts[at].mtu != mtu {
                self.workers.facts[at].mtu = mtu;
                news = true;
            }
        }
        if news {
            let mut snapshot = (*self.workers.world).clone();
            snapshot.ports = compile::ports(&self.wanted.config, &self.workers.facts);
            self.publish(snapshot);
        }
    }

    /// Once a second: whether devices send what workers give them.
    pub(super) fn look_at_devices(&mut self) {
        let workers = self.workers.stats.len();
        for (at, (spec, state)) in self.wanted.config.ports.iter().zip(&mut self.links.ports).enumerate() {
            // What a sub-interface sends is its parent's.
            if spec.vlan.is_some() {
                continue;
            }
            let port = PortId(at as u16);
            let given = self.workers.stats.iter().map(|stats| stats.port(port).tx_packets.value()).sum();
            let counters = self.workers.devices.counters(port);
            let now = Sent { given, sent: counters.sent, failed: counters.tx_errors };
            if state.account.look(now, workers) {
                let name = &spec.name;
                match &state.account.trouble {
                    Some(trouble) => log::warn!(target: "links", port = name; "port {name}: {trouble}"),
                    None => {
                        log::info!(target: "links", port = name; "port {name}: the device sends what it is given again")
                    }
                }
            }
        }
    }

    /// What a device says of its link. A tap says that it is down when its interface was moved to another namespace, with
    /// everything as it should be, so that is not believed.
    fn device_link(&self, at: usize) -> Option<(bool, u32)> {
        let link = self.workers.devices.link(PortId(at as u16));
        let is_tap = self.wanted.config.ports[at].device.name().starts_with("net_tap");
        link.filter(|(up, _)| *up || !is_tap)
    }

    /// Compares the kernel's interface behind a device with what it was. Returns the MTU to use.
    fn look_at_interface(&self, at: usize, state: &mut LinkState) -> u16 {
        let (Some(kernel), Some(name)) = (&self.kernel, self.wanted.config.ports[at].device.interface())
        else {
            return state.mtu;
        };
        state.trouble = None;
        let speed = state.link.map_or(0, |(_, speed)| speed);
        let seen = kernel.outside(name);
        // Devices hold on to an interface by its number.
        let held = match (state.index, &seen) {
            (None, _) => seen.clone(),
            (Some(index), Some(seen)) if seen.index == index => Some(seen.clone()),
            (Some(index), _) => kernel.outside_by_index(index),
        };
        match (&held, &seen) {
            (Some(held), _) if held.name != name => {
                state.trouble = Some(format!(
                    "interface {name} is called {} now; traffic goes on, but name it in the device before the next start",
                    held.name
                ));
            }
            (None, Some(_)) => {
                state.trouble = Some(format!(
                    "interface {name} was removed and made again; nothing passes until sluiced is restarted"
                ));
            }
            (None, None) => {
                state.trouble = Some(format!("interface {name} is gone; make it again and restart sluiced"));
            }
            (Some(_), _) => {}
        }
        state.link = Some((held.as_ref().is_some_and(|held| held.is_up), speed));
        match held {
            Some(Outside { mtu, .. }) if mtu < u32::from(state.mtu) => {
                let smaller = u16::try_from(mtu).unwrap_or(state.mtu);
                state.trouble.get_or_insert_with(|| {
                    format!(
                        "interface {name} has an MTU of {mtu} and had {} at the start; the smaller one is used",
                        state.mtu
                    )
                });
                smaller
            }
            _ => state.mtu,
        }
    }

    /// The ports whose links are down, a bit each.
    pub(super) fn links_down(&self) -> u64 {
        let down =
            self.links.ports.iter().enumerate().filter(|(_, state)| matches!(state.link, Some((false, _))));
        down.fold(0, |mask, (at, _)| mask | 1 << at)
    }

    /// Keeps servers out that do not answer on their link, and lets them in again when they do.
    pub(super) fn follow_absences(&mut self) {
        let turned: HashSet<IpAddr> =
            self.links.neighbors.take_turned().into_iter().map(|hop| hop.address).collect();
        let stale = std::mem::take(&mut self.links.absences);
        let services = &self.wanted.config.services;
        let mut servers = Vec::new();
        // Among a hundred thousand servers those that turned are found by their addresses alone.
        if !turned.is_empty() {
            for (at, spec) in services.iter().enumerate() {
                let places = spec.servers.iter().enumerate();
                let those = places.filter(|(_, server)| turned.contains(&server.endpoint.address));
                servers.extend(those.map(|(place, _)| (at, place)));
            }
        }
        for at in stale.places(services.len()) {
            servers.extend((0..services[at].servers.len()).map(|place| (at, place)));
        }
        // Several services may have the same server, which is one piece of news.
        let mut says: BTreeMap<String, (Edge, Vec<&str>)> = BTreeMap::new();
        for (at, place) in servers {
            let address = services[at].servers[place].endpoint.address;
            let on_link = self.workers.world.routes.lookup(address, 0).filter(|hop| hop.address == address);
            let is_absent = on_link.is_some_and(|hop| self.links.neighbors.is_absent(hop));
            if let Some(edge) = self.servers.standings.set_absent(at, place, is_absent) {
                let (_, names) = says.entry(edge.line().to_owned()).or_insert((edge, Vec::new()));
                names.push(&services[at].name);
            }
        }
        for (edge, names) in says.into_values() {
            edge.of_services(names.into_iter()).tell("servers");
        }
    }
}
