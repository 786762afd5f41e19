//! What a worker did in the last second, from two looks at its counters.

use dataplane::stats::{SpreadTotals, WorkerStats};
use serde::Serialize;

/// Half of the values, 99 % of them, and all of them are at most so large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// The shares, as Prometheus names them.
    pub const NAMES: [&str; 3] = ["0.5", "0.99", "1"];

    fn of(spread: &SpreadTotals, unit: f64) -> Self {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| spread.quantile(share) as f64 / unit);
        Self { p50, p99, max }
    }

    /// The values in the order of [`NAMES`](Self::NAMES).
    pub const fn values(&self) -> [f64; 3] {
        [self.p50, self.p99, self.max]
    }
}

/// What a worker did in the last second.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastSecond {
    /// The share of its time in which it had packets.
    pub busy: f64,
    /// How long turns with packets took, in microseconds; each up to a quarter too long.
    pub turn_us: Quantiles,
    /// How many packets devices gave at a time.
    pub burst: Quantiles,
}

/// A worker that is looked at once a second.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// What was seen.
    pub seen: LastSecond,
    last: Sample,
}

#[derive(Clone, Debug, Default)]
struct Sample {
    busy_ns: u64,
    total_ns: u64,
    turns: SpreadTotals,
    bursts: SpreadTotals,
}

impl Watched {
    /// Looks at the counters again.
    pub fn look(&mut self, stats: &WorkerStats) {
        let now = Sample {
            busy_ns: stats.busy_ns.value(),
            total_ns: stats.total_ns.value(),
            turns: stats.turn_times.read(),
            bursts: stats.bursts.read(),
        };
        let total = now.total_ns - self.last.total_ns;
        let busy = now.busy_ns - self.last.busy_ns;
        self.seen = LastSecond {
            busy: if total == 0 { 0.0 } else { busy as f64 / total as f64 },
            turn_us: Quantiles::of(&now.turns.since(&self.last.turns), 1e3),
            burst: Quantiles::of(&now.bursts.since(&self.last.bursts), 1.0),
        };
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_second_counts_and_not_those_before() {
        let stats = WorkerStats::with_slots(1, 1, 1, 1);
        let mut recent = Watched::default();
        stats.turn_times.note(1_000_000);
        stats.total_ns.add(2_000_000);
        stats.busy_ns.add(1_000_000);
        recent.look(&stats);
        assert!(
            (recent.seen.busy, recent.seen.burst.max) == (0.5, 0.0) && recent.seen.turn_us.max >= 1_000.0
        );
        (0..99).for_each(|_| stats.turn_times.note(1_000));
        stats.turn_times.note(9_000);
        stats.bursts.note(32);
        recent.look(&stats);
        let Quantiles { p50, p99, max } = recent.seen.turn_us;
        assert!((1.0..1.3).contains(&p50) && (1.0..1.3).contains(&p99) && (9.0..12.0).contains(&max));
        assert!((32.0..40.0).contains(&recent.seen.burst.p50));
    }
}
