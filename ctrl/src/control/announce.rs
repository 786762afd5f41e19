//! Gratuitous ARP and unsolicited neighbour advertisements: telling the links at once which addresses are ours, so that nobody has
//! to wait for an old entry to age.

use super::Control;
use crate::config::Config;
use crate::devices::Devices;
use crate::links::arp::{Arp, BROADCAST};
use crate::links::nd;
use crate::topology::{addresses, port_of};
use dataplane::clock::Instant;
use dataplane::ids::PortId;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// RFC 5227 §2.3: twice, two seconds apart; the second is for a switch that was not ready.
const AGAIN: Duration = Duration::from_secs(2);
/// How long before it is announced an address is asked for: one that another station has is told at once. It is announced
/// all the same, because the operator says that it is ours.
const PROBE_BEFORE: Duration = Duration::from_millis(200);
/// RFC 5227 §2.4: a conflict is answered at most that often.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// Announcements to come, by time.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    due: VecDeque<(Instant, PortId, IpAddr, What)>,
    defended: BTreeMap<IpAddr, Instant>,
}

/// What is said of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Has anybody else this?
    Probe,
    /// This is here.
    Announcement,
}

impl Announcements {
    /// Announces the addresses that `new` has and `old` had not; all of them at the start.
    pub(super) fn schedule(&mut self, old: &Config, new: &Config, is_start: bool, now: Instant) {
        let before = if is_start { Default::default() } else { addresses(old) };
        let mut fresh: Vec<_> = addresses(new)
            .iter()
            .map(|(address, _)| address)
            .filter(|address| before.get(*address).is_none())
            .collect();
        fresh.sort_unstable();
        self.push(fresh.into_iter().filter_map(|address| Some((port_of(new, address)?, address))), now);
    }

    /// Announces every address of one port, because its link came up.
    pub(super) fn schedule_port(&mut self, config: &Config, port: PortId, now: Instant) {
        let mut all: Vec<_> = addresses(config).iter().map(|(address, _)| address).collect();
        all.sort_unstable();
        let ours = all.into_iter().filter(|address| port_of(config, *address) == Some(port));
        self.push(ours.map(|address| (port, address)).collect::<Vec<_>>().into_iter(), now);
    }

    /// Answers a station that uses one of our addresses; false when that was done lately.
    pub(super) fn defend(&mut self, port: PortId, address: IpAddr, now: Instant) -> bool {
        if self.defended.get(&address).is_some_and(|last| now.since(*last) < DEFEND_INTERVAL) {
            return false;
        }
        self.defended.insert(address, now);
        self.due.push_front((now, port, address, What::Announcement));
        true
    }

    fn push(&mut self, list: impl Iterator<Item = (PortId, IpAddr)> + Clone, now: Instant) {
        let rounds =
            [(now, What::Probe), (now + PROBE_BEFORE, What::Announcement), (now + AGAIN, What::Announcement)];
        for (at, what) in rounds {
            self.due.extend(list.clone().map(|(port, address)| (at, port, address, what)));
        }
        // The second round of an earlier push may be due after the first of this one.
        self.due.make_contiguous().sort_by_key(|(at, ..)| *at);
    }
}

impl<D: Devices> Control<D> {
    /// Sends what is due, as far as the worker takes it.
    pub(super) fn announce(&mut self, now: Instant) {
        while let Some((at, port, address, what)) = self.links.announcements.due.front().copied() {
            if at > now {
                return;
            }
            if what == What::Probe {
                if !self.probe(port, address) {
                    return;
                }
                self.links.announcements.due.pop_front();
                continue;
            }
            let frame = match address {
                IpAddr::V4(address) => Arp::announcement(self.mac(port), address).frame(BROADCAST),
                IpAddr::V6(address) => nd::announcement(self.mac(port), address),
            };
            if !self.transmit(port, &frame) {
                return;
            }
            self.links.announcements.due.pop_front();
        }
    }
}
