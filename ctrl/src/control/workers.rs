//! The workers as control sees them: what they follow, what they count, and whether they turn.

use super::Control;
use crate::devices::{DeviceFacts, Devices};
use crate::last_second::Watched;
use crate::registry::Registry;
use crate::steering::Ladder;
use dataplane::clock::Instant;
use dataplane::ids::Generation;
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::stats::WorkerStats;
use dataplane::wire::Mac;
use dataplane::worker::Link;
use std::net::IpAddr;
use std::sync::Arc;

/// The workers, their devices, and what they were told.
pub(super) struct Workers<D> {
    pub(super) facts: Vec<DeviceFacts>,
    pub(super) macs: Vec<Mac>,
    pub(super) devices: D,
    pub(super) publisher: Publisher,
    /// Queues to each worker.
    pub(super) links: Vec<Link>,
    pub(super) stats: Vec<Arc<WorkerStats>>,
    /// What they follow.
    pub(super) world: Arc<Snapshot>,
    pub(super) registry: Registry,
    pub(super) ladder: Ladder,
    /// Removed servers' slots may be given back when every worker follows this.
    pub(super) collect_after: Option<Generation>,
    /// Local addresses that no service has any more, and sessions still use.
    pub(super) removed_locals: Vec<IpAddr>,
    /// By worker: what it did in the last second.
    pub(super) recent: Vec<Watched>,
    /// By worker: its turns when they were last looked at, and whether it stands still.
    pub(super) turns: Vec<(u64, bool)>,
    pub(super) watchdog: Option<Box<dyn FnMut() + Send>>,
    pub(super) next_poll: Instant,
}

impl<D: Devices> Control<D> {
    /// Once a second: busy shares, slots of removed servers.
    pub(super) fn poll(&mut self) {
        self.workers
            .recent
            .iter_mut()
            .zip(&self.workers.stats)
            .for_each(|(recent, stats)| recent.look(stats));
        self.look_at_turns();
        for (port, reason) in self.workers.ladder.watch(&self.workers.stats) {
            let name = &self.wanted.config.ports[usize::from(port.0)].name;
            log::warn!(target: "links", port = name, to = "hand-over", why = reason; "port {name}: falls back to hand-over, because {reason}");
        }
        self.forget_unused_locals();
        self.workers.publisher.collect();
        if self.metering.is_current()
            && self
                .workers
                .collect_after
                .is_some_and(|generation| self.workers.publisher.applied() >= generation)
        {
            let stats = &self.workers.stats;
            let changed = self.workers.registry.collect(&|id| crate::view::read_slot(stats, id));
            self.metering.note_names(&self.wanted.config, &changed);
        }
    }

    /// Notices workers that stand still, and tells the watchdog that none does.
    fn look_at_turns(&mut self) {
        for (at, (last, is_still)) in self.workers.turns.iter_mut().enumerate() {
            let turns = self.workers.stats[at].turns.value();
            let stands = turns == std::mem::replace(last, turns);
            if stands != std::mem::replace(is_still, stands) {
                let core = self.wanted.config.dataplane.workers[at];
                match stands {
                    true => {
                        log::error!(target: "workers", worker = at, from = "turning", to = "stalled"; "worker {at} on core {core} made no turn for a second")
                    }
                    false => {
                        log::warn!(target: "workers", worker = at, from = "stalled", to = "turning"; "worker {at} on core {core} turns again")
                    }
                }
            }
        }
        let all_turn = self.workers.turns.iter().all(|(_, is_still)| !is_still);
        if let Some(tell) = self.workers.watchdog.as_mut().filter(|_| all_turn) {
            tell();
        }
    }
}
