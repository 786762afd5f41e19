//! How much of something may be done in a second.

use crate::clock::Instant;

/// A token bucket (RFC 2697 without colours) that counts in time: the moment up to which what was done is paid for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    paid_until: u64,
    nanos_each: u64,
    burst: u64,
}

impl Budget {
    /// At most `per_second`, and after silence `burst` at once.
    pub(super) const fn new(per_second: u64, burst: u64) -> Self {
        Self { paid_until: 0, nanos_each: 1_000_000_000 / per_second, burst }
    }

    /// Whether there is something left.
    pub(super) fn has_any(&self, now: Instant) -> bool {
        let earliest = now.nanos().saturating_sub(self.burst * self.nanos_each);
        self.paid_until.max(earliest) + self.nanos_each <= now.nanos()
    }

    /// Pays for one; false when there is nothing left for it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let earliest = now.nanos().saturating_sub(self.burst * self.nanos_each);
        let next = self.paid_until.max(earliest) + self.nanos_each;
        let is_within = next <= now.nanos();
        if is_within {
            self.paid_until = next;
        }
        is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn after_a_burst_it_gives_so_many_a_second() {
        let mut budget = Budget::new(20_000, 2_000);
        let mut now = Instant::from_millis(10_000);
        assert_eq!((0..100_000).filter(|_| budget.take(now)).count(), 2_000);
        let mut later = 0;
        for _ in 0..1_000 {
            now = now + Duration::from_millis(1);
            later += (0..100).filter(|_| budget.take(now)).count();
        }
        assert_eq!(later, 20_000);
    }
}
