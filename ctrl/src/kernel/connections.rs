//! The connections that the host's kernel has by the kernel path, as its own segments show them.

use dataplane::flow::FlowKey6;
use dataplane::snapshot::{HOST_FLOWS_MAX, Map};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A connection of which the kernel sent nothing for so long is not known any more.
const SILENCE: Duration = Duration::from_secs(600);

/// Peers' flows and when the kernel last sent something to each.
#[derive(Debug, Default)]
pub struct Connections {
    known: Mutex<Known>,
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    flows: HashMap<FlowKey6, (u16, Instant)>,
    free: BTreeSet<u16>,
}

impl Connections {
    /// The kernel sent a segment to the peer of this flow. When there are too many the newest are not known.
    pub(super) fn note(&self, flow: FlowKey6, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { flows, free } = &mut *known;
        let next = flows.len() as u16;
        match flows.entry(flow) {
            Entry::Occupied(mut there) => there.get_mut().1 = now,
            Entry::Vacant(new) => {
                // Numbers that were given back come first; without any all below are in use.
                let number = free.pop_first().unwrap_or(next);
                if usize::from(number) < HOST_FLOWS_MAX {
                    new.insert((number, now));
                    self.version.fetch_add(1, Ordering::Release);
                }
            }
        }
    }

    /// Forgets those that are silent.
    pub fn age(&self, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { flows, free } = &mut *known;
        let before = flows.len();
        flows.retain(|_, (number, last)| {
            let stays = now.saturating_duration_since(*last) < SILENCE;
            if !stays {
                free.insert(*number);
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
        Some(Arc::new(known.flows.iter().map(|(flow, (number, _))| (*flow, *number)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::flow::{Endpoint, Key, Protocol};

    fn flow(n: u16) -> FlowKey6 {
        let end = |text: &str, port| Endpoint::new(text.parse::<std::net::IpAddr>().unwrap(), port);
        FlowKey6::new(Protocol::Tcp, end("192.0.2.1", n), end("192.0.2.2", 179))
    }

    #[test]
    fn connections_keep_their_numbers_and_give_them_back_when_they_are_silent() {
        let (connections, start, mut seen) = (Connections::default(), Instant::now(), 0);
        assert!(connections.changes(&mut seen).is_none());
        (1..=3).for_each(|n| connections.note(flow(n), start));
        let later = start + Duration::from_secs(599);
        connections.note(flow(2), later);
        let known = connections.changes(&mut seen).unwrap();
        assert_eq!([1, 2, 3].map(|n| known[&flow(n)]), [0, 1, 2]);
        connections.note(flow(1), later);
        connections.age(later);
        assert!(connections.changes(&mut seen).is_none(), "nothing is new");
        connections.age(start + Duration::from_secs(601));
        connections.note(flow(4), later);
        let known = connections.changes(&mut seen).unwrap();
        assert_eq!((known.len(), known[&flow(4)], known.get(&flow(3))), (3, 2, None));
        (0..5_000).for_each(|n| connections.note(flow(10_000 + n), later));
        let known = connections.changes(&mut seen).unwrap();
        assert_eq!(known.len(), HOST_FLOWS_MAX);
        let numbers: BTreeSet<_> = known.values().copied().collect();
        assert_eq!((numbers.len(), numbers.last()), (HOST_FLOWS_MAX, Some(&(HOST_FLOWS_MAX as u16 - 1))));
    }
}
