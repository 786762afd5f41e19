//! Times as a histogram: how many were at most so long.

use super::Counter;

/// Upper bounds of the buckets, in milliseconds; the last bucket has none.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];
const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// How long a service's servers took to answer connections, from the client's last SYN to SYN and ACK.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ConnectTimes {
    buckets: [Counter; BUCKETS],
    sum_ms: Counter,
}

const _: () = assert!(size_of::<ConnectTimes>() == 128);

/// Values of [`ConnectTimes`], of one or of several workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectTimesTotals {
    /// How many took as long as their bucket says, and longer than the one before says.
    pub buckets: [u64; BUCKETS],
    /// All times together, in milliseconds.
    pub sum_ms: u64,
}

impl ConnectTimes {
    /// Counts one time. Only the owning worker may call this.
    pub fn note(&self, millis: u64) {
        let at = BOUNDS_MS.iter().position(|bound| millis <= *bound).unwrap_or(BUCKETS - 1);
        self.buckets[at].add(1);
        self.sum_ms.add(millis);
    }

    /// The values as last written.
    pub fn read(&self) -> ConnectTimesTotals {
        ConnectTimesTotals {
            buckets: self.buckets.each_ref().map(Counter::value),
            sum_ms: self.sum_ms.value(),
        }
    }
}

impl std::ops::AddAssign for ConnectTimesTotals {
    fn add_assign(&mut self, other: Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, one)| *sum += one);
        self.sum_ms += other.sum_ms;
    }
}

impl std::iter::Sum for ConnectTimesTotals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

impl ConnectTimesTotals {
    /// What was counted since `baseline`.
    #[must_use]
    pub fn since(mut self, baseline: Self) -> Self {
        self.buckets.iter_mut().zip(baseline.buckets).for_each(|(now, then)| *now -= then);
        self.sum_ms -= baseline.sum_ms;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_has_room_for_it() {
        let times = ConnectTimes::default();
        for millis in [0, 1, 2, 3, 5_000, 5_001, 70_000] {
            times.note(millis);
        }
        let read = times.read();
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[2]), (2, 1, 1));
        assert_eq!((read.buckets[11], read.buckets[12]), (1, 2));
        assert_eq!(read.sum_ms, 80_007);
        times.note(7);
        let since = times.read().since(read);
        assert_eq!((since.buckets[3], since.buckets.iter().sum::<u64>(), since.sum_ms), (1, 1, 7));
    }
}
