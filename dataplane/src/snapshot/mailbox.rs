//! How a snapshot reaches the workers: one slot each, the latest wins, nobody waits.
//!
//! Control keeps a clone of every snapshot until all workers have acknowledged a
//! later one, so the last reference is always control's and nothing is freed on a
//! worker. The order in [`Mailbox::refresh`] is what makes that true: the worker
//! gives up its old snapshot *before* it acknowledges the new one.

use super::Snapshot;
use crate::ids::Generation;
use crossbeam_utils::CachePadded;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::{AtomicU64, Inbox};

#[derive(Debug)]
struct Slot {
    inbox: Inbox,
    applied: CachePadded<AtomicU64>,
}

/// What threads share, as the machine has it.
#[cfg(not(loom))]
mod sync {
    use crate::snapshot::Snapshot;
    pub(super) use std::sync::atomic::AtomicU64;

    pub(super) type Inbox = crossbeam_queue::ArrayQueue<std::sync::Arc<Snapshot>>;

    #[inline(always)]
    pub(super) fn give_up(_: &std::sync::Arc<Snapshot>) {}
}

/// What threads share, as loom has it: it tries every order in which threads can meet.
#[cfg(loom)]
mod sync {
    use crate::snapshot::Snapshot;
    pub(super) use loom::sync::atomic::AtomicU64;
    use std::sync::Arc;

    /// A moment before a worker gives up its snapshot: others may run, and one of them must still hold it.
    pub(super) fn give_up(snapshot: &Arc<Snapshot>) {
        loom::thread::yield_now();
        assert!(Arc::strong_count(snapshot) >= 2, "a worker would free its snapshot");
    }

    /// The one slot. crossbeam's own queue is its authors' to check; here it is a lock.
    #[derive(Debug)]
    pub(super) struct Inbox(loom::sync::Mutex<Option<Arc<Snapshot>>>);

    impl Inbox {
        pub(super) fn new(_: usize) -> Self {
            Self(loom::sync::Mutex::new(None))
        }

        pub(super) fn is_empty(&self) -> bool {
            self.0.lock().unwrap().is_none()
        }

        pub(super) fn pop(&self) -> Option<Arc<Snapshot>> {
            self.0.lock().unwrap().take()
        }

        pub(super) fn force_push(&self, snapshot: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
            self.0.lock().unwrap().replace(snapshot)
        }
    }
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
        .map(|_| Arc::new(Slot { inbox: Inbox::new(1), applied: CachePadded::new(AtomicU64::new(0)) }))
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
        sync::give_up(current);
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

/// Every interleaving of control with a worker: `make model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;

    #[test]
    fn a_worker_never_holds_the_last_reference() {
        loom::model(|| {
            let (mut publisher, mut mailboxes) = mailboxes(1);
            let mut world = publisher.publish(Snapshot::empty(Vec::new()));
            let mut mailbox = mailboxes.remove(0);
            let worker = loom::thread::spawn(move || {
                for _ in 0..3 {
                    let before = world.generation;
                    mailbox.refresh(&mut world);
                    assert!(world.generation >= before);
                }
                world
            });
            for _ in 0..2 {
                publisher.publish(Snapshot::empty(Vec::new()));
                publisher.collect();
            }
            let world = worker.join().unwrap();
            publisher.collect();
            assert!(publisher.live.iter().any(|snapshot| snapshot.generation == world.generation));
        });
    }
}

#[cfg(all(test, not(loom)))]
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
