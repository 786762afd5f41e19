//! The product's own worker, put together as the daemon does it.

use dataplane::director::{Director, Limits};
use dataplane::flow::FlowHasher;
use dataplane::port::Port;
use dataplane::snapshot::{Publisher, Snapshot, mailboxes};
use dataplane::stats::WorkerStats;
use dataplane::steering::Seat;
use dataplane::worker::{self, Link, Peers, Worker};
use std::sync::Arc;

/// What stands beside a worker and must live as long.
pub(crate) struct Assembly {
    pub(crate) stats: Arc<WorkerStats>,
    _publisher: Publisher,
    _link: Link,
}

/// The worker in `seat`, on these ports, in this world, with room for `capacity` sessions; `prepare` may
/// already make some.
pub(crate) fn worker<P: Port>(
    ports: Vec<P>,
    world: Snapshot,
    capacity: usize,
    seat: Seat,
    peers: Peers<P::Buffer>,
    prepare: impl FnOnce(&mut Director, &Snapshot),
) -> (Worker<P>, Assembly) {
    let (mut publisher, mut mailboxes) = mailboxes(1);
    let (link, worker_link) = worker::link();
    let stats = Arc::new(WorkerStats::new(ports.len()));
    let world = publisher.publish(world);
    let id = seat.worker;
    let mut director = Director::new(
        Limits::for_sessions(capacity, capacity.min(8_192)),
        hasher(),
        seat,
        Arc::clone(&stats),
    );
    prepare(&mut director, &world);
    let worker = Worker::new(worker::Parts {
        id,
        ports,
        sub_interfaces: Vec::new(),
        director,
        world,
        mailbox: mailboxes.remove(0),
        peers,
        link: worker_link,
        kernel: None,
        stats: Arc::clone(&stats),
    });
    (worker, Assembly { stats, _publisher: publisher, _link: link })
}

/// The same key in every run, so that runs are alike.
pub(crate) fn hasher() -> FlowHasher {
    FlowHasher::new([3, 5, 7, 11].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
