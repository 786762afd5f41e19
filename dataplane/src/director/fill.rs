//! How full things are, looked at now and then: nobody keeps account of it packet by packet.

use super::Director;
use super::side::{HasSide, Side};
use crate::clock::Instant;
use crate::flow::{FlowKey, FlowKey6};

/// Between two looks, in nanoseconds.
const PAUSE: u64 = 1_000_000;
/// Pairs of local address and server that one look takes, of each family: a microsecond at most.
const PAIRS: usize = 32;

/// Where the look at pairs stands.
#[derive(Debug, Default)]
pub(super) struct Fill {
    due: Instant,
    /// By family.
    next: [usize; 2],
    /// The fullest pair of this pass: ports in use, and in all.
    fullest: (u32, u32),
}

impl Director {
    /// Looks how full a few things are, if it is time. Returns whether it was.
    #[inline]
    pub fn look_at_fill(&mut self, now: Instant) -> bool {
        let is_time = now >= self.fill.due;
        if is_time {
            self.look_at_pairs(now);
        }
        is_time
    }

    #[cold]
    fn look_at_pairs(&mut self, now: Instant) {
        self.fill.due = Instant::from_nanos(now.nanos() + PAUSE);
        let is_over = [self.look_at_side::<FlowKey>(0), self.look_at_side::<FlowKey6>(1)];
        if is_over == [true, true] {
            let (used, ports) = std::mem::take(&mut self.fill.fullest);
            self.stats.fullest_pair_used.set(u64::from(used));
            self.stats.fullest_pair_ports.set(u64::from(ports));
            self.fill.next = [0; 2];
        }
        self.stats.fragmented_datagrams.set(self.fragments.len() as u64);
    }

    /// Looks at some pairs of a family. Returns whether those were the last.
    fn look_at_side<K: HasSide>(&mut self, family: usize) -> bool {
        let from = self.fill.next[family];
        let Side { local_ports, .. } = K::side(self);
        let seen = (from..from + PAIRS).map_while(|at| local_ports.usage(at));
        let share = |(used, ports): (u32, u32)| f64::from(used) / f64::from(ports.max(1));
        let (mut fullest, mut count) = (self.fill.fullest, 0);
        for pair in seen {
            count += 1;
            if share(pair) > share(fullest) || fullest.1 == 0 {
                fullest = pair;
            }
        }
        self.fill.fullest = fullest;
        self.fill.next[family] = from + count;
        count < PAIRS
    }
}
