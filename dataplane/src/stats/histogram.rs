//! Histograms: how many values were at most so large.

use super::Counter;

/// Upper bounds of a histogram's buckets; the last bucket has none.
pub type Bounds = [u64; 12];

/// Times in which servers answer connections, in milliseconds.
pub const CONNECT_MS: Bounds = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];
/// How long sessions last, in milliseconds.
pub const DURATION_MS: Bounds =
    [10, 50, 100, 500, 1_000, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 7_200_000];
/// How many bytes sessions carry.
pub const SIZE_BYTES: Bounds = [
    100,
    300,
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];

const BUCKETS: usize = CONNECT_MS.len() + 1;

/// How many values each bucket has, and all values together. The bounds are those that every value is noted by.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

const _: () = assert!(size_of::<Histogram>() == 128);

/// Values of a [`Histogram`], of one or of several workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramTotals {
    /// How many were as large as their bucket says, and larger than the one before says.
    pub buckets: [u64; BUCKETS],
    /// All values together.
    pub sum: u64,
}

impl Histogram {
    /// Counts one value. Only the owning worker may call this.
    pub fn note(&self, value: u64, bounds: &Bounds) {
        let at = bounds.iter().position(|bound| value <= *bound).unwrap_or(BUCKETS - 1);
        self.buckets[at].add(1);
        self.sum.add(value);
    }

    /// The values as last written.
    pub fn read(&self) -> HistogramTotals {
        HistogramTotals { buckets: self.buckets.each_ref().map(Counter::value), sum: self.sum.value() }
    }
}

impl std::ops::AddAssign for HistogramTotals {
    fn add_assign(&mut self, other: Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, one)| *sum += one);
        self.sum += other.sum;
    }
}

impl std::iter::Sum for HistogramTotals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

impl HistogramTotals {
    /// What was counted since `baseline`.
    #[must_use]
    pub fn since(mut self, baseline: Self) -> Self {
        self.buckets.iter_mut().zip(baseline.buckets).for_each(|(now, then)| *now -= then);
        self.sum -= baseline.sum;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_has_room_for_it() {
        let times = Histogram::default();
        for millis in [0, 1, 2, 3, 5_000, 5_001, 70_000] {
            times.note(millis, &CONNECT_MS);
        }
        let read = times.read();
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[2]), (2, 1, 1));
        assert_eq!((read.buckets[11], read.buckets[12]), (1, 2));
        assert_eq!(read.sum, 80_007);
        times.note(7, &CONNECT_MS);
        let since = times.read().since(read);
        assert_eq!((since.buckets[3], since.buckets.iter().sum::<u64>(), since.sum), (1, 1, 7));
    }
}
