//! How a snapshot reaches the workers: one slot each, the latest wins, nobody waits.
//!
//! Control keeps a clone of every snapshot until all workers have acknowledged a
//! later one, so the last reference is always control's and nothing is freed on a
//! worker. The order in [`Mailbox::refresh`] is what makes that true: the worker
//! gives up its old snapshot *before* it acknowledges the new one.

use super::Snapshot;
use crate::ids::Generation;
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
struct Slot {
    inbox: ArrayQueue<Arc<Snapshot>>,
    applied: CachePadded<AtomicU64>,
}

/// The worker's end.
#[derive(Debug)]
pub struct Mailbox {
    slot: Arc<Slot>,
}

/// Control's end, towards all workers.
#[derive(Debug)]
pub struct Publisher {
    slots: Vec<Arc<Slot>>,
    live: VecDeque<Arc<Snapshot>>,
    last: Generation,
}

/// Mailboxes for `workers` workers.
pub fn mailboxes(workers: usize) -> (Publisher, Vec<Mailbox>) {
    let slots: Vec<_> = (0..workers)
        .map(|_| Arc::new(Slot { inbox: ArrayQueue::new(1), applied: CachePadded::new(AtomicU64::new(0)) }))
        .collect();
    let mailboxes = slots.iter().map(|slot| Mailbox { slot: Arc::clone(slot) }).collect();
    (Publisher { slots, live: VecDeque::new(), last: Generation(0) }, mailboxes)
}

impl Mailbox {
    /// Replaces `current` by a newer snapshot if there is one. Returns whether it did.
    #[inline]
    pub fn refresh(&mut self, current: &mut Arc<Snapshot>) -> bool {
        if self.slot.inbox.is_empty() {
            return false;
        }
        let Some(newer) = self.slot.inbox.pop() else { return false };
        let generation = newer.generation;
        // Not the last reference: control holds one until `applied` says otherwise.
        *current = newer;
        self.slot.applied.store(generation.0, Ordering::Release);
        true
    }
}

impl Publisher {
    /// Gives `snapshot` the next generation and hands it to every worker.
    pub fn publish(&mut self, mut snapshot: Snapshot) -> Arc<Snapshot> {
        self.last = Generation(self.last.0 + 1);
        snapshot.generation = self.last;
        let snapshot = Arc::new(snapshot);
        self.live.push_back(Arc::clone(&snapshot));
        for slot in &self.slots {
            // A snapshot that nobody took comes back here and is dropped by control.
            drop(slot.inbox.force_push(Arc::clone(&snapshot)));
        }
        self.collect();
        snapshot
    }

    /// The generation that every worker has reached.
    pub fn applied(&self) -> Generation {
        let lowest = self.slots.iter().map(|slot| slot.applied.load(Ordering::Acquire)).min();
        Generation(lowest.unwrap_or(self.last.0))
    }

    /// The generation that one worker has reached.
    pub fn applied_by(&self, worker: usize) -> Generation {
        Generation(self.slots[worker].applied.load(Ordering::Acquire))
    }

    /// The generation last published.
    pub fn published(&self) -> Generation {
        self.last
    }

    /// Drops snapshots that no worker looks at any more. Returns how many are kept.
    pub fn collect(&mut self) -> usize {
        let applied = self.applied();
        while self.live.front().is_some_and(|snapshot| snapshot.generation < applied) {
            self.live.pop_front();
        }
        self.live.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> Snapshot {
        Snapshot::empty(Vec::new())
    }

    #[test]
    fn the_latest_snapshot_wins() {
        let (mut publisher, mut mailboxes) = mailboxes(1);
        let mut current = Arc::new(world());
        publisher.publish(world());
        publisher.publish(world());

        assert!(mailboxes[0].refresh(&mut current));

        assert_eq!(current.generation, Generation(2));
        assert!(!mailboxes[0].refresh(&mut current));
    }

    #[test]
    fn control_keeps_what_a_slow_worker_still_sees() {
        let (mut publisher, mut mailboxes) = mailboxes(2);
        let (mut fast, mut slow) = (Arc::new(world()), Arc::new(world()));
        publisher.publish(world());
        mailboxes[0].refresh(&mut fast);
        mailboxes[1].refresh(&mut slow);
        publisher.publish(world());
        mailboxes[0].refresh(&mut fast);

        assert_eq!(publisher.applied(), Generation(1));
        assert_eq!(publisher.collect(), 2);

        mailboxes[1].refresh(&mut slow);
        assert_eq!(publisher.applied(), Generation(2));
        assert_eq!(publisher.collect(), 1);
    }
}
