//! Sessions that anybody could have made under a false address: connections that are half open, and datagrams to which
//! nobody answered. A flood of them must not take the place of others.
//!
//! Of each table half-open connections have at most a quarter, and unanswered datagrams as much. One more makes the oldest
//! go, but for those that went on speaking. A full table gives up one of them for any new session, and a pair without
//! local ports gives up that of its oldest. As a table fills, they are kept for a shorter time (the ladder of
//! [`Pressure`]). Sessions that both ends have spoken in are never touched.

use super::Director;
use super::side::{HasSide, Side};
use crate::clock::Stamp;
use crate::flow::{Family, Key};
use crate::session::{Session, SessionIndex, SessionTable, Unproven};
use crate::snapshot::Snapshot;
use crate::stats::{Counter, WorkerStats};
use std::collections::VecDeque;

/// Of a table one session in so many may be half open, and as many unanswered.
pub const UNPROVEN_SHARE: usize = 4;
/// Places of a queue that are looked at for one that can go.
const LOOKS: usize = 64;
/// The least time that unproven sessions are kept as a table fills, in milliseconds.
const LEAST_MS: u32 = 10_000;

/// How full a table is, as far as unproven sessions are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// Less than 60 %: they have their time.
    None,
    /// From 60 % on: half of it, but not less than 10 s.
    Some,
    /// From 80 % on: a quarter, but not less than 10 s.
    Much,
    /// From 95 % on: 10 s.
    Most,
}

impl Pressure {
    /// The pressure in a table with so many sessions of so many.
    pub(super) fn of(sessions: usize, capacity: usize) -> Self {
        match sessions * 100 / capacity.max(1) {
            0..60 => Self::None,
            60..80 => Self::Some,
            80..95 => Self::Much,
            _ => Self::Most,
        }
    }

    /// What is left of a timeout.
    pub(super) fn shorten(self, millis: u32) -> u32 {
        let share = match self {
            Self::None => return millis,
            Self::Some => millis / 2,
            Self::Much => millis / 4,
            Self::Most => 0,
        };
        share.max(LEAST_MS).min(millis)
    }
}

/// The unproven sessions of one table, by kind, in the order in which they came. Ends and proofs leave their places
/// behind, which are passed over when it is their turn.
#[derive(Debug)]
pub(super) struct Queues {
    budget: usize,
    queues: [VecDeque<(SessionIndex, Stamp)>; Unproven::ALL.len()],
}

impl Queues {
    /// For a table of `capacity` sessions.
    pub(super) fn new(capacity: usize) -> Self {
        let budget = (capacity / UNPROVEN_SHARE).max(1);
        // Room for as many again that were left behind.
        Self { budget, queues: Unproven::ALL.map(|_| VecDeque::with_capacity(2 * budget)) }
    }
}

/// How many sessions are unproven in this way, in the table of a family.
#[inline]
pub(super) fn gauge(stats: &WorkerStats, kind: Unproven, family: Family) -> &Counter {
    match (kind, family) {
        (Unproven::HalfOpen, Family::V4) => &stats.sessions_half_open,
        (Unproven::HalfOpen, Family::V6) => &stats.sessions_half_open_ipv6,
        (Unproven::Unanswered, Family::V4) => &stats.sessions_unanswered,
        (Unproven::Unanswered, Family::V6) => &stats.sessions_unanswered_ipv6,
    }
}

/// Whether the session at `index` is unproven in this way.
fn is_still<K: Key>(sessions: &SessionTable<K>, index: SessionIndex, kind: Unproven) -> bool {
    sessions.get(index).unproven() == Some(kind)
}

impl Director {
    /// Takes note of a session that was just made, and lets the oldest of its kind go when those are too many.
    #[inline]
    pub(super) fn note_unproven<K: HasSide>(&mut self, index: SessionIndex, now: Stamp, world: &Snapshot) {
        let Side { sessions, unproven, .. } = K::side_mut(self);
        let Some(kind) = sessions.get(index).unproven() else { return };
        let budget = unproven.budget as u64;
        let queue = &mut unproven.queues[kind as usize];
        // At least half of a full queue was left behind, mostly in front, and a look whether the first was would cost a cache
        // miss for each new session. One that was not ends by its timeout.
        if queue.len() >= 2 * unproven.budget {
            queue.pop_front();
        }
        queue.push_back((index, now));
        let live = gauge(&self.stats, kind, K::FAMILY);
        live.add(1);
        let over = live.value().saturating_sub(budget);
        // One more than came now, after a time when only places that were left behind were found.
        for _ in 0..over.min(2) {
            self.let_go::<K>(kind, Some(index), world);
        }
    }

    /// Makes room in a full table by an unproven session. Returns whether there was one.
    #[cold]
    pub(super) fn make_room<K: HasSide>(&mut self, world: &Snapshot) -> bool {
        Unproven::ALL.into_iter().any(|kind| self.let_go::<K>(kind, None, world))
    }

    /// Whether [`make_room`](Self::make_room) would find one.
    pub(super) fn could_make_room<K: HasSide>(&self) -> bool {
        let Side { sessions, unproven, .. } = K::side(self);
        Unproven::ALL.into_iter().any(|kind| {
            let mut queue = unproven.queues[kind as usize].iter().take(LOOKS);
            queue.any(|(index, _)| is_still(sessions, *index, kind))
        })
    }

    /// Ends the oldest unproven session of a kind that has been silent since it came; or, if all that are looked at went on
    /// speaking, the oldest of those.
    #[cold]
    #[inline(never)]
    fn let_go<K: HasSide>(&mut self, kind: Unproven, but: Option<SessionIndex>, world: &Snapshot) -> bool {
        let Side { sessions, unproven, .. } = K::side_mut(self);
        let queue = &mut unproven.queues[kind as usize];
        let mut spoke = None;
        let mut silent = None;
        for _ in 0..LOOKS.min(queue.len()) {
            let Some((index, came)) = queue.pop_front() else { break };
            if !is_still(sessions, index, kind) {
                continue;
            }
            if Some(index) == but {
                queue.push_back((index, came));
                continue;
            }
            let last_seen = sessions.get(index).last_seen;
            if last_seen == came {
                silent = Some(index);
                break;
            }
            match spoke {
                None => spoke = Some(index),
                Some(_) => queue.push_back((index, last_seen)),
            }
        }
        let leaving = match (silent, spoke) {
            (Some(silent), Some(spoke)) => {
                let last_seen = sessions.get(spoke).last_seen;
                queue.push_back((spoke, last_seen));
                silent
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return false,
        };
        self.stats.sessions_displaced.add(1);
        self.end::<K>(leaving, world);
        true
    }
}

impl<K: Key> Session<K> {
    /// In which way it is unproven; `None` when both ends have spoken, or when the server's answers do not pass here and
    /// nobody can know.
    #[inline]
    pub fn unproven(&self) -> Option<Unproven> {
        self.state().unproven(self.mode.sees_answers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_shortens_what_is_long_and_lengthens_nothing() {
        let kept = |used, millis| Pressure::of(used, 100).shorten(millis);
        assert_eq!(
            [0, 59, 60, 79, 80, 94, 95, 100].map(|used| kept(used, 60_000)),
            [60_000, 60_000, 30_000, 30_000, 15_000, 15_000, 10_000, 10_000]
        );
        assert_eq!([59, 60, 80, 95].map(|used| kept(used, 300_000)), [300_000, 150_000, 75_000, 10_000]);
        assert_eq!([59, 60, 80, 95].map(|used| kept(used, 2_000)), [2_000; 4]);
    }
}
