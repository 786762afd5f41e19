//! The end of silent sessions: a sweep over the table's lines, a few per turn.
//!
//! No timer is touched when a packet passes; a session's line says when it was last
//! seen. The sweep is paced to pass over the whole table once a second, so a session
//! ends at most a second after its timeout, and a turn never looks at more than
//! [`LINES_PER_TURN`] lines.

use super::Director;
use super::side::{HasSide, Side};
use super::syn_proxy::TRIES;
use super::unproven::Pressure;
use crate::clock::Instant;
use crate::flow::{Direction, FlowKey, FlowKey6};
use crate::frame::BURST_SIZE;
use crate::ids::{NeighborId, ServerId};
use crate::session::{Needs, PairIndex, SessionIndex, State, Timeouts};
use crate::snapshot::Snapshot;
use arrayvec::ArrayVec;

/// Lines looked at per turn: 1,024 sequential lines cost about 3 µs when they are not in the cache.
/// A turn of a worker that makes new sessions all the time takes some 25 µs, and a table of ten
/// million must still be passed over within a second or so.
const LINES_PER_TURN: usize = 1_024;
/// Sessions ended per turn, twice as many as a burst can begin; at some 60 ns each, 8 µs.
const ENDED_PER_TURN: usize = 2 * BURST_SIZE;

/// So long a proven client's server may take to answer, before it is asked for the first time again.
const RETRY_MS: u32 = 1_000;

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
        // A worker that was held up for long does not owe more than one pass.
        let owed = now.since(self.paid_until).as_nanos() as u64;
        if owed > SECOND {
            self.paid_until = Instant::from_nanos(now.nanos() - SECOND);
        }
        // At most 10^9 x 2^30, which fits.
        let lines = owed.min(SECOND) * capacity as u64 / SECOND;
        lines.min(LINES_PER_TURN as u64) as usize
    }

    /// Takes note that there was nothing to look at.
    fn rest(&mut self, now: Instant) {
        self.paid_until = now;
    }

    /// Takes note that so many lines were looked at.
    fn pay(&mut self, lines: usize, capacity: usize) {
        let worth = lines as u64 * SECOND / capacity as u64;
        self.paid_until = Instant::from_nanos(self.paid_until.nanos() + worth);
    }
}

const SECOND: u64 = 1_000_000_000;

impl Director {
    /// Ends sessions whose time has come; looks at a bounded number of them.
    pub fn expire(&mut self, world: &Snapshot, now: Instant) {
        self.fragments.expire(now);
        self.templates.expire(now.stamp());
        self.expire_side::<FlowKey>(world, now);
        self.expire_side::<FlowKey6>(world, now);
    }

    #[inline]
    fn expire_side<K: HasSide>(&mut self, world: &Snapshot, now: Instant) {
        let Side { sessions, sweep, .. } = K::side_mut(self);
        if sessions.is_empty() {
            return sweep.rest(now);
        }
        let due = sweep.due(now, sessions.capacity());
        if due > 0 {
            self.sweep_lines::<K>(due, world, now);
        }
    }

    /// Counts a session that ends without a word from its server. A client that opens connections and never goes on
    /// does not count against the server that answered it.
    fn note_silence<K: HasSide>(&self, index: SessionIndex) {
        let session = K::side(self).sessions.get(index);
        let waits = matches!(session.state(), State::SynRecv | State::SynSent | State::UdpOneWay);
        let heard = session.next_hop(Direction::Outbound) != NeighborId::NONE;
        if waits && !heard && session.mode.sees_answers() {
            self.stats.server(session.server).failures.add(1);
        }
    }

    #[inline(never)]
    fn sweep_lines<K: HasSide>(&mut self, due: usize, world: &Snapshot, now: Instant) {
        let Side { sessions, local_ports, sweep, .. } = K::side_mut(self);
        let capacity = sessions.capacity();
        let stamp = now.stamp();
        let pressure = Pressure::of(sessions.len(), capacity);
        // Collected first, so that the lines that ending them needs come together: half the time.
        let mut over: ArrayVec<(SessionIndex, Option<PairIndex>), ENDED_PER_TURN> = ArrayVec::new();
        let mut again: ArrayVec<SessionIndex, ENDED_PER_TURN> = ArrayVec::new();
        let mut looked_at = 0;
        while looked_at < due && !over.is_full() {
            looked_at += 1;
            let line = sweep.line;
            sweep.line = if line + 1 == capacity { 0 } else { line + 1 };
            let Some((index, session)) = sessions.line(line) else { continue };
            let own = if session.needs.has(Needs::OWN_TIMEOUTS) {
                own_timeouts(session.server, world)
            } else {
                None
            };
            let timeouts = own.unwrap_or(&world.timeouts);
            let mut patience = timeouts.of(session.state());
            if pressure != Pressure::None && session.unproven().is_some() {
                patience = pressure.shorten(patience);
            }
            if sessions.waits_for_server(index) {
                let tries = sessions.proven(index).tries;
                patience = RETRY_MS << tries;
                if tries < TRIES {
                    if stamp.millis_since(session.last_seen) >= patience && !again.is_full() {
                        again.push(index);
                    }
                    continue;
                }
            }
            if stamp.millis_since(session.last_seen) >= patience {
                sessions.prefetch_keys(session);
                local_ports.prefetch_bucket(session.pair());
                over.push((index, None));
            }
        }
        sweep.pay(looked_at, capacity);
        for (index, pair) in &mut over {
            *pair = local_ports.candidate(sessions.get(*index).pair());
        }
        for (index, pair) in &over {
            if let Some(pair) = pair {
                local_ports.prefetch_port(*pair, sessions.get(*index).local().l4_port);
            }
        }
        for index in again {
            self.ask_again::<K>(index, world);
        }
        for (index, _) in over {
            if K::side(self).sessions.waits_for_server(index) {
                self.give_up::<K>(index);
            }
            self.stats.sessions_expired.add(1);
            self.note_silence::<K>(index);
            self.note_resets::<K>(index);
            self.end::<K>(index, world);
        }
    }
}

/// The timeouts of the service that a server belongs to, if it has its own.
fn own_timeouts(server: ServerId, world: &Snapshot) -> Option<&Timeouts> {
    world.services.of_server(server)?.options.timeouts.as_ref()
}
