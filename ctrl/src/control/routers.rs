//! IPv6 routers that advertise themselves (RFC 4861 §6.3): default gateways of ports that accept them.

use super::Control;
use crate::devices::Devices;
use crate::links::nd;
use dataplane::clock::Instant;
use dataplane::ids::PortId;
use dataplane::snapshot::NextHop;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// RFC 4861 §10: a router is asked for so often, so far apart.
const QUESTIONS: u8 = 3;
const QUESTION_INTERVAL: Duration = Duration::from_secs(4);
/// More routers of one link are an error, or somebody's attempt to fill the list.
const ROUTERS_MAX: usize = 16;

/// The routers that are known now, and the questions for others.
#[derive(Debug, Default)]
pub(super) struct Routers {
    list: Vec<(NextHop, Instant)>,
    asked: u8,
    next_question: Instant,
}

impl Routers {
    /// The gateways, in the order in which they were heard.
    pub(super) fn hops(&self) -> Vec<NextHop> {
        self.list.iter().map(|(hop, _)| *hop).collect()
    }

    /// Forgets those that are not `wanted` any more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&NextHop) -> bool) {
        self.list.retain(|(hop, _)| wanted(hop));
    }

    /// Takes note of a router's lifetime; returns whether the gateways changed.
    fn hear(&mut self, hop: NextHop, lifetime: Duration, now: Instant) -> bool {
        let before = self.list.len();
        let known = self.list.iter().position(|(other, _)| *other == hop);
        match (known, lifetime.is_zero()) {
            (Some(at), true) => drop(self.list.remove(at)),
            (Some(at), false) => self.list[at].1 = now + lifetime,
            (None, false) if before < ROUTERS_MAX => self.list.push((hop, now + lifetime)),
            (None, _) => {}
        }
        self.list.len() != before
    }

    /// Forgets routers that did not advertise themselves again in time; returns whether there were any.
    fn expire(&mut self, now: Instant) -> bool {
        let before = self.list.len();
        self.list.retain(|(_, until)| *until > now);
        self.list.len() != before
    }

    /// Whether it is time to ask once more.
    fn asks(&mut self, now: Instant) -> bool {
        let due = self.list.is_empty() && self.asked < QUESTIONS && now >= self.next_question;
        if due {
            self.asked += 1;
            self.next_question = now + QUESTION_INTERVAL;
        }
        due
    }
}

impl<D: Devices> Control<D> {
    /// A router said that it is there for so long; for no time when it leaves.
    pub(super) fn hear_router(&mut self, port: PortId, router: Ipv6Addr, lifetime: Duration, now: Instant) {
        let spec = &self.wanted.config.ports[usize::from(port.0)];
        if !spec.accept_ra {
            return;
        }
        let hop = NextHop { port, address: IpAddr::V6(router) };
        if self.links.routers.hear(hop, lifetime, now) {
            let does = if lifetime.is_zero() { "left" } else { "is there" };
            log::info!(target: "links", "port {}: the IPv6 router {router} {does}", spec.name);
            self.follow_routers(now);
        }
    }

    /// Asks for routers, and forgets those that are silent.
    pub(super) fn look_after_routers(&mut self, now: Instant) {
        if self.links.routers.expire(now) {
            log::info!(target: "links", "an IPv6 router did not advertise itself again in time");
            self.follow_routers(now);
        }
        let asking: Vec<_> =
            self.wanted.config.ports.iter().enumerate().filter(|(_, port)| port.accept_ra).collect();
        if asking.is_empty() || !self.links.routers.asks(now) {
            return;
        }
        let questions: Vec<_> = asking
            .into_iter()
            .filter_map(|(at, spec)| {
                let source = spec.addresses.iter().find_map(|network| match network.address {
                    IpAddr::V6(address) => Some(address),
                    IpAddr::V4(_) => None,
                })?;
                let port = PortId(at as u16);
                Some((port, nd::router_solicitation((self.mac(port), source))))
            })
            .collect();
        for (port, frame) in questions {
            self.transmit(port, &frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(n: u16) -> NextHop {
        NextHop { port: PortId(0), address: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n)) }
    }

    #[test]
    fn routers_come_stay_and_go_by_their_lifetimes() {
        let mut routers = Routers::default();
        let start = Instant::from_millis(1_000);
        let seconds = Duration::from_secs;
        assert!(routers.hear(hop(1), seconds(30), start));
        assert!(routers.hear(hop(2), seconds(60), start));
        assert!(!routers.hear(hop(1), seconds(30), start + seconds(20)), "again is no change");
        assert!(!routers.expire(start + seconds(49)));
        assert!(routers.expire(start + seconds(50)));
        assert_eq!(routers.hops(), [hop(2)]);
        assert!(routers.hear(hop(2), Duration::ZERO, start + seconds(51)), "it says that it leaves");
        assert!(!routers.hear(hop(3), Duration::ZERO, start), "nobody that was not there leaves");
        assert_eq!(routers.hops(), []);
        for n in 0..100 {
            routers.hear(hop(n), seconds(30), start);
        }
        assert_eq!(routers.hops().len(), ROUTERS_MAX);
    }

    #[test]
    fn routers_are_asked_for_three_times() {
        let mut routers = Routers::default();
        let start = Instant::from_millis(1_000);
        let asked: Vec<_> =
            (0..30).filter(|second| routers.asks(start + Duration::from_secs(*second))).collect();
        assert_eq!(asked, [0, 4, 8]);
        let mut known = Routers::default();
        known.hear(hop(1), Duration::from_secs(30), start);
        assert!(!known.asks(start));
    }
}
