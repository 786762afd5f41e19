//! The connections that the host's kernel has by the kernel path, as its own segments show them.

use dataplane::flow::{FlowKey6, Key};
use dataplane::snapshot::{HOST_FLOWS_MAX, Map};
use dataplane::steering::FIRST_PORT;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A connection of which the kernel sent nothing for so long is not known any more.
const SILENCE: Duration = Duration::from_secs(600);
/// A connection lasts for so long before it is known: a kernel also acknowledges single segments of what is none.
const RIPE: Duration = Duration::from_secs(1);
/// One that lasted less makes room for another.
const YOUNG: Duration = Duration::from_secs(60);
/// Ports from which health checks ask, many and shortly: they have a limit of their own.
const CHECK_PORTS: std::ops::Range<u16> = 512..FIRST_PORT;

/// Peers' flows and when the kernel sent something to each.
#[derive(Debug, Default)]
pub struct Connections {
    known: Mutex<Known>,
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    flows: HashMap<FlowKey6, Seen>,
    free: BTreeSet<u16>,
}

/// When the kernel sent something, first and last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    number: u16,
    first: Instant,
    last: Instant,
}

impl Seen {
    fn lasted(&self) -> Duration {
        self.last.saturating_duration_since(self.first)
    }
}

impl Connections {
    /// The kernel sent a segment to the peer of this flow, the last one if the connection `ends`.
    pub(super) fn note(&self, flow: FlowKey6, ends: bool, now: Instant) {
        if CHECK_PORTS.contains(&flow.destination().l4_port) {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { flows, free } = &mut *known;
        let changed = match flows.get_mut(&flow) {
            Some(_) if ends => flows.remove(&flow).is_some_and(|seen| {
                free.insert(seen.number);
                seen.lasted() >= RIPE
            }),
            Some(seen) => {
                let was_ripe = seen.lasted() >= RIPE;
                seen.last = now;
                !was_ripe && seen.lasted() >= RIPE
            }
            None if ends => false,
            None => {
                let mut displaces = false;
                if flows.len() >= HOST_FLOWS_MAX {
                    let young = flows.iter().filter(|(_, seen)| seen.lasted() < YOUNG);
                    let leaving = young.min_by_key(|(_, seen)| seen.last).map(|(flow, _)| *flow);
                    let Some(seen) = leaving.and_then(|leaving| flows.remove(&leaving)) else { return };
                    free.insert(seen.number);
                    displaces = seen.lasted() >= RIPE;
                }
                // Numbers that were given back come first; without any all below are in use.
                let number = free.pop_first().unwrap_or(flows.len() as u16);
                flows.insert(flow, Seen { number, first: now, last: now });
                displaces
            }
        };
        if changed {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Forgets those that are silent.
    pub fn age(&self, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { flows, free } = &mut *known;
        let before = flows.len();
        flows.retain(|_, seen| {
            let stays = now.saturating_duration_since(seen.last) < SILENCE;
            if !stays {
                free.insert(seen.number);
            }
            stays
        });
        if flows.len() != before {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Which flows there are now, if others than at `seen`, which becomes this moment.
    pub fn changes(&self, seen: &mut u64) -> Option<Arc<Map<FlowKey6, u16>>> {
        let version = self.version.load(Ordering::Acquire);
        if std::mem::replace(seen, version) == version {
            return None;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ripe = known.flows.iter().filter(|(_, seen)| seen.lasted() >= RIPE);
        Some(Arc::new(ripe.map(|(flow, seen)| (*flow, seen.number)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::flow::{Endpoint, Protocol};

    fn flow(n: u16) -> FlowKey6 {
        to(n, 179)
    }

    fn to(n: u16, own: u16) -> FlowKey6 {
        let end = |text: &str, port| Endpoint::new(text.parse::<std::net::IpAddr>().unwrap(), port);
        FlowKey6::new(Protocol::Tcp, end("192.0.2.1", n), end("192.0.2.2", own))
    }

    /// A connection that goes on for a while.
    fn last(connections: &Connections, flow: FlowKey6, from: Instant, seconds: u64) {
        connections.note(flow, false, from);
        connections.note(flow, false, from + Duration::from_secs(seconds));
    }

    #[test]
    fn connections_that_last_keep_their_numbers_and_give_them_back() {
        let (connections, start, mut seen) = (Connections::default(), Instant::now(), 0);
        // One segment is no connection, and a check has its own limit.
        connections.note(flow(9), false, start);
        last(&connections, to(8, 700), start, 5);
        assert!(connections.changes(&mut seen).is_none());
        connections.note(flow(9), true, start);
        (1..=3).for_each(|n| last(&connections, flow(n), start, 2));
        let known = connections.changes(&mut seen).unwrap();
        assert_eq!([1, 2, 3].map(|n| known[&flow(n)]), [0, 1, 2]);
        let later = start + Duration::from_secs(599);
        [1, 2].into_iter().for_each(|n| connections.note(flow(n), false, later));
        connections.age(later);
        assert!(connections.changes(&mut seen).is_none(), "nothing is new");
        connections.age(start + Duration::from_secs(603));
        last(&connections, flow(4), later, 2);
        connections.note(flow(1), true, later);
        let known = connections.changes(&mut seen).unwrap();
        assert_eq!((known.len(), known[&flow(4)], known.get(&flow(1))), (2, 2, None));
    }

    #[test]
    fn many_short_connections_take_no_place_of_one_that_lasts() {
        let (connections, start, mut seen) = (Connections::default(), Instant::now(), 0);
        let second = |n: u64| start + Duration::from_secs(n);
        last(&connections, flow(1), start, 3_600);
        (0..10_000).for_each(|n| last(&connections, to(1_000 + n, 22), second(3_600), 2));
        last(&connections, flow(2), second(3_610), 2);
        let known = connections.changes(&mut seen).unwrap();
        assert_eq!(known.len(), HOST_FLOWS_MAX);
        assert!(known.contains_key(&flow(1)) && known.contains_key(&flow(2)));
        let numbers: BTreeSet<_> = known.values().copied().collect();
        assert_eq!((numbers.len(), numbers.last()), (HOST_FLOWS_MAX, Some(&(HOST_FLOWS_MAX as u16 - 1))));
    }
}
