//! The end of silent sessions: a sweep over the table's lines, a few per turn.
//!
//! No timer is touched when a packet passes; a session's line says when it was last
//! seen. The sweep is paced to pass over the whole table once a second, so a session
//! ends at most a second after its timeout, and a turn never looks at more than
//! [`LINES_PER_TURN`] lines.

use super::Director;
use crate::clock::Instant;
use crate::snapshot::Snapshot;

/// Lines looked at per turn: 64 sequential lines cost about 0.3 µs when they are not in
/// the cache. At a million turns a second that passes over 64 million lines.
const LINES_PER_TURN: usize = 64;

/// Where the sweep stands.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    line: usize,
    /// The time up to which the sweep has done its share.
    paid_until: Instant,
}

impl Sweep {
    /// How many lines are due at `now`, at one table per second.
    fn due(&mut self, now: Instant, capacity: usize) -> usize {
        const SECOND: u64 = 1_000_000_000;
        // A worker that was held up for long does not owe more than one pass.
        let owed = (now.since(self.paid_until).as_nanos() as u64).min(SECOND);
        // At most 10^9 x 2^30, which fits.
        let lines = owed * capacity as u64 / SECOND;
        if lines == 0 {
            return 0;
        }
        let due = lines.min(LINES_PER_TURN as u64);
        self.paid_until = Instant::from_nanos(now.nanos() - owed + due * SECOND / capacity as u64);
        due as usize
    }
}

impl Director {
    /// Ends sessions whose time has come; looks at a bounded number of them.
    pub fn expire(&mut self, world: &Snapshot, now: Instant) {
        let capacity = self.sessions.capacity();
        let stamp = now.stamp();
        for _ in 0..self.sweep.due(now, capacity) {
            let line = self.sweep.line;
            self.sweep.line = if line + 1 == capacity { 0 } else { line + 1 };
            let Some((index, session)) = self.sessions.line(line) else { continue };
            if stamp.millis_since(session.last_seen) >= world.timeouts.of(session.state) {
                self.stats.sessions_expired.add(1);
                self.end(index);
            }
        }
    }
}
