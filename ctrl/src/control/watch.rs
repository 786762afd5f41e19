//! Looks at services again and again, and logs both edges of every state: what could be used and cannot any more, and
//! the other way round. A few services at a time, so that ten thousand take no moment of the thread.

use super::Control;
use crate::devices::Devices;
use crate::registry::ServiceCount;
use crate::view::{AWAITED, ServiceState, USED_UP};
use dataplane::clock::Instant;
use dataplane::drop::DropReason;
use dataplane::ids::ServiceId;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Services that are looked at in a turn, the pause between two such turns, and the shortest time from one look at a
/// service to the next.
const SLICE: usize = 16;
const SLICE_PAUSE: Duration = Duration::from_millis(5);
const ROUND: Duration = Duration::from_millis(250);
/// How long a service counts as full after it refused a session.
const REFUSING: Duration = Duration::from_secs(3);

/// What was seen of services so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<ServiceId, Seen>,
    /// Services that refused sessions of late, for want of what, and until when that counts.
    pub(super) refusing: HashMap<ServiceId, (DropReason, Instant)>,
    next: usize,
    due: Instant,
    round: Instant,
    /// What is nearly used up.
    scarce: BTreeSet<String>,
}

#[derive(Debug)]
struct Seen {
    /// By reason, refusals over all workers.
    refused: [u64; USED_UP.len()],
    state: Option<(ServiceState, Instant)>,
    /// Whether it waits for its first checks, which is no news.
    is_beginning: bool,
}

impl<D: Devices> Control<D> {
    /// Looks at a few services.
    pub(super) fn watch_services(&mut self, now: Instant) {
        if now < self.servers.watch.due {
            return;
        }
        self.servers.watch.due = now + SLICE_PAUSE;
        let count = self.wanted.config.services.len();
        if self.servers.watch.next >= count {
            if now < self.servers.watch.round {
                return;
            }
            self.servers.watch.round = now + ROUND;
            self.servers.watch.next = 0;
            self.forget_gone_services(now);
        }
        let end = (self.servers.watch.next + SLICE).min(count);
        let is_pressed = self.is_pressed();
        for at in std::mem::replace(&mut self.servers.watch.next, end)..end {
            self.watch_service(at, is_pressed, now);
        }
    }

    fn watch_service(&mut self, at: usize, is_pressed: bool, now: Instant) {
        let spec = Arc::clone(&self.wanted.config.services[at]);
        let Some(id) = self.workers.registry.service_id(&spec.name) else { return };
        self.look_for_attacks(id, &spec, is_pressed, now);
        let mut refused = [0; USED_UP.len()];
        for (reason, count) in ServiceCount::read(&self.workers.stats, id).totals.refusals() {
            if let Some(place) = USED_UP.iter().position(|one| *one == reason) {
                refused[place] = count;
            }
        }
        let fresh = || Seen { refused, state: None, is_beginning: false };
        let seen = self.servers.watch.seen.entry(id).or_insert_with(fresh);
        let more = |place: &usize| refused[*place] > seen.refused[*place];
        if let Some(place) = (0..USED_UP.len()).filter(more).max_by_key(|at| refused[*at] - seen.refused[*at])
        {
            self.servers.watch.refusing.insert(id, (USED_UP[place], now + REFUSING));
        } else if self.servers.watch.refusing.get(&id).is_some_and(|(_, until)| *until <= now) {
            self.servers.watch.refusing.remove(&id);
        }
        seen.refused = refused;
        let before = seen.state;
        let (state, reason) = self.observer().condition(at);
        if before.is_some_and(|(before, _)| before == state) {
            return;
        }
        let is_awaited = reason.as_deref() == Some(AWAITED);
        let mut was_beginning = false;
        if let Some(seen) = self.servers.watch.seen.get_mut(&id) {
            seen.state = Some((state, now));
            was_beginning = std::mem::replace(&mut seen.is_beginning, before.is_none() && is_awaited);
        }
        self.metering.note(&[at]);
        let name = &spec.name;
        match (before, reason) {
            // At the start that is no news.
            (None, None) => {}
            (None, Some(_)) if is_awaited => {}
            // Protection is told with how many servers are down, when it is decided.
            (Some((ServiceState::Ready, _)), _) if state == ServiceState::Protected => {}
            (Some((ServiceState::Protected, _)), _) if state == ServiceState::Ready => {}
            (_, Some(reason)) => {
                let from = before.map_or("unknown", |(before, _)| before.name());
                log::warn!(target: "services", service = name, from, to = state.name(), why = reason;
                    "service {name} is {}: {reason}", state.name())
            }
            (Some((before, _)), None) if was_beginning => {
                log::info!(target: "services", service = name, from = before.name(), to = state.name();
                    "service {name} is {}: its first checks are in", state.name());
            }
            (Some((before, since)), None) => {
                let seconds = now.since(since).as_secs();
                log::info!(target: "services", service = name, from = before.name(), to = state.name();
                    "service {name} is {} again, after {seconds} s as {}", state.name(), before.name());
            }
        }
    }

    fn forget_gone_services(&mut self, now: Instant) {
        let ids = self
            .wanted
            .config
            .services
            .iter()
            .filter_map(|spec| self.workers.registry.service_id(&spec.name));
        let ids: std::collections::HashSet<_> = ids.collect();
        self.attacks.keep(|id| ids.contains(id), now);
        if self.servers.watch.seen.len() > ids.len() {
            self.servers.watch.seen.retain(|id, _| ids.contains(id));
            self.servers.watch.refusing.retain(|id, _| ids.contains(id));
        }
    }

    /// Logs what is nearly used up, and when it is not any more.
    pub(super) fn watch_capacities(&mut self) {
        let scarce = self.observer().scarce();
        for (what, words) in &scarce {
            if !self.servers.watch.scarce.contains(what) {
                log::warn!(target: "capacity", "{words}");
            }
        }
        let now: BTreeSet<_> = scarce.into_iter().map(|(what, _)| what).collect();
        for what in self.servers.watch.scarce.difference(&now) {
            log::info!(target: "capacity", "{what}: there is room again");
        }
        self.servers.watch.scarce = now;
    }
}
