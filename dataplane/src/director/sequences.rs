//! Where connections' sequence numbers come from, also after a restart: servers may still know the connections of the
//! process before.

use crate::clock::Instant;
use crate::flow::{FlowHasher, Key};
use std::time::Duration;

/// For so long after the start every port counts as used before: servers forget in 60 to 120 s.
const CAREFUL: Duration = Duration::from_secs(120);

/// A clock of 64 ns and a keyed hash of the endpoints (RFC 6528 §3).
///
/// The clock comes round to half its range in 137 s.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    hasher: FlowHasher,
    /// What the clock showed when the process began, in its own steps.
    origin: u32,
    /// Until when ports count as used before.
    careful_until: Instant,
}

impl Sequences {
    /// Numbers that have nothing to do with those of an earlier process.
    pub fn fresh(hasher: FlowHasher) -> Self {
        // The next start of the appliance may be on another CPU, and must find the same numbers.
        Self { hasher: hasher.portable(), origin: 0, careful_until: Instant::default() }
    }

    /// Numbers of the first process with a key. `since_epoch` is now, on a clock that the next one shares.
    pub fn first(hasher: FlowHasher, since_epoch: Duration) -> Self {
        Self { origin: (since_epoch.as_nanos() >> 6) as u32, ..Self::fresh(hasher) }
    }

    /// Numbers that go on where those of an earlier process with the same key ended. `since_epoch` is now, on a clock
    /// that both share.
    pub fn continued(hasher: FlowHasher, since_epoch: Duration) -> Self {
        Self { careful_until: Instant::default() + CAREFUL, ..Self::first(hasher, since_epoch) }
    }

    /// Whether a server may know connections of an earlier process by any port.
    #[inline]
    pub(super) fn is_careful(&self, now: Instant) -> bool {
        now < self.careful_until
    }

    /// A connection's first sequence number, of the key of its answers.
    pub(super) fn initial(&self, answers: impl Key, now: Instant) -> u32 {
        let fixed = self.hasher.hash(answers) as u32;
        fixed.wrapping_add(self.origin).wrapping_add((now.nanos() >> 6) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowKey;

    #[test]
    fn numbers_go_on_after_a_restart() {
        let hasher = FlowHasher::new([1, 2, 3, 4]);
        let day = Duration::from_secs(1_800_000_000);
        let first = Sequences::first(hasher, day);
        assert!(!first.is_careful(Instant::from_millis(0)), "nobody was there before");
        let second = Sequences::continued(hasher, day + Duration::from_secs(60));
        let last = first.initial(FlowKey::NONE, Instant::from_millis(59_000));
        let next = second.initial(FlowKey::NONE, Instant::from_millis(10));
        // A second and ten milliseconds later, in steps of 64 ns.
        assert_eq!(next.wrapping_sub(last), 15_781_250);
        assert!(second.is_careful(Instant::from_millis(119_000)));
        assert!(!second.is_careful(Instant::from_millis(121_000)));
        assert!(!Sequences::fresh(hasher).is_careful(Instant::from_millis(0)));
    }
}
