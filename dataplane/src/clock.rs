//! Time as the packet path sees it: an argument, never a call.

use std::time::Duration;

/// Time since the process began, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanos` nanoseconds after the process began.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The instant `millis` milliseconds after the process began.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Nanoseconds since the process began.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The coarse stamp that sessions carry.
    pub const fn stamp(self) -> Stamp {
        Stamp((self.0 / 1_000_000) as u32)
    }

    /// The time from `earlier` to this instant; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration.as_nanos() as u64)
    }
}

/// Milliseconds since the process began, modulo 2^32 (49 days).
///
/// Differences are taken modulo 2^32 too, so a session may idle for up to 49
/// days before its age would be read wrong; every timeout is far below that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(u32);

impl Stamp {
    /// The stamp of the process's first millisecond.
    pub const fn from_zero() -> Self {
        Self(0)
    }

    /// The stamp as a number, for places that keep numbers.
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The stamp that was this number.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Milliseconds from `earlier` to this stamp.
    pub const fn millis_since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_keep_their_distance_over_the_wrap() {
        let before = Instant::from_millis(u64::from(u32::MAX) - 10).stamp();
        let after = Instant::from_millis(u64::from(u32::MAX) + 90).stamp();

        assert_eq!(after.millis_since(before), 100);
    }
}
