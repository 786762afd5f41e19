//! What passes between threads: snapshots from control to workers, packets from worker to worker.
//!
//! Real threads, so that the machine's memory order is the one that is tested; `make model` runs the
//! mailbox under loom, which tries every order (`dataplane/src/snapshot/mailbox.rs`).

use dataplane::ids::{PortId, WorkerId};
use dataplane::port::Burst;
use dataplane::snapshot::{Snapshot, mailboxes};
use dataplane::worker::peers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn workers_follow_control_and_free_nothing() {
    const GENERATIONS: u64 = 20_000;
    let (mut publisher, mailboxes) = mailboxes(2);
    // Of generation 0, as the daemon begins: whatever comes by the mailbox is later.
    let empty = Arc::new(Snapshot::empty(Vec::new()));
    let stop = AtomicBool::new(false);
    let kept = thread::scope(|scope| {
        let mut workers = Vec::new();
        for mut mailbox in mailboxes {
            let (mut world, stop) = (Arc::clone(&empty), &stop);
            workers.push(scope.spawn(move || {
                let mut last = world.generation;
                while !stop.load(Ordering::Relaxed) {
                    if mailbox.refresh(&mut world) {
                        assert!(world.generation > last, "a snapshot came late");
                        last = world.generation;
                        // Control holds every snapshot that a worker may look at.
                        assert!(Arc::strong_count(&world) >= 2, "a worker would free its snapshot");
                    }
                }
            }));
        }
        for _ in 0..GENERATIONS {
            publisher.publish(Snapshot::empty(Vec::new()));
        }
        // A worker that panicked follows nothing any more, and the others wait for `stop`.
        let is_alive = |worker: &thread::ScopedJoinHandle<'_, ()>| !worker.is_finished();
        while publisher.applied() < publisher.published() && workers.iter().all(is_alive) {
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        publisher.collect()
    });
    assert_eq!(kept, 1);
}

#[test]
fn packets_pass_between_workers_in_order_and_none_is_lost() {
    const PACKETS: u64 = 2_000_000;
    const PORT: PortId = PortId(0);
    let mut peers = peers::<Box<u64>>(2, 1);
    let (mut receiver, mut sender) = (peers.remove(1), peers.remove(0));
    let refused = thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut refused = Vec::new();
            for number in 0..PACKETS {
                if let Err(number) = sender.hand_over(WorkerId(1), PORT, Box::new(number)) {
                    refused.push(*number);
                }
                if number % 100 == 99 {
                    refused.extend(std::iter::from_fn(|| sender.flush()).map(|number| *number));
                }
            }
            refused.extend(std::iter::from_fn(|| sender.flush()).map(|number| *number));
            refused
        });
        let mut heard: Vec<u64> = Vec::new();
        loop {
            let over = sent.is_finished();
            let mut burst = Burst::new();
            receiver.receive(PORT, 0, &mut burst);
            if burst.is_empty() && over {
                break;
            }
            heard.extend(burst.into_iter().map(|number| *number));
        }
        let mut refused = sent.join().unwrap();
        assert!(heard.is_sorted(), "a packet overtook another");
        assert_eq!(heard.len() + refused.len(), PACKETS as usize);
        let count = refused.len();
        refused.extend(heard);
        refused.sort_unstable();
        assert!(refused.iter().copied().eq(0..PACKETS), "a packet came twice");
        count
    });
    println!("{refused} of {PACKETS} packets found the ring full");
}
