//! How values are spread: a histogram with four buckets for each doubling.

use super::Counter;

/// Buckets; the last one takes whatever is larger than all others.
const BUCKETS: usize = 128;

/// How many values were how large; a bucket is at most a quarter wider than its smallest value.
#[derive(Debug)]
#[repr(align(128))]
pub struct Spread {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Spread {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

/// Values of a [`Spread`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpreadTotals {
    buckets: [u64; BUCKETS],
    /// All values together.
    pub sum: u64,
}

impl Default for SpreadTotals {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum: 0 }
    }
}

/// The bucket of a value: those below 4 have their own.
#[inline]
const fn bucket(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let octave = 63 - value.leading_zeros() as usize;
    let at = (octave - 1) * 4 + (value >> (octave - 2)) as usize % 4;
    if at < BUCKETS { at } else { BUCKETS - 1 }
}

/// The largest value of a bucket.
const fn largest(bucket: usize) -> u64 {
    match bucket {
        0..4 => bucket as u64,
        _ => {
            let octave = bucket / 4 + 1;
            ((1 << octave) + (bucket as u64 % 4 + 1) * (1 << (octave - 2))) - 1
        }
    }
}

impl Spread {
    /// Counts one value. Only the owning worker may call this.
    #[inline]
    pub fn note(&self, value: u64) {
        self.buckets[bucket(value)].add(1);
        self.sum.add(value);
    }

    /// The values as last written.
    pub fn read(&self) -> SpreadTotals {
        SpreadTotals { buckets: self.buckets.each_ref().map(Counter::value), sum: self.sum.value() }
    }
}

impl SpreadTotals {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        self.buckets.iter_mut().zip(earlier.buckets).for_each(|(now, then)| *now -= then);
        self.sum -= earlier.sum;
        self
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many of them are at most `bound`, if that is the largest value of a bucket: one less than a power of two is.
    pub fn at_most(&self, bound: u64) -> u64 {
        self.buckets[..=bucket(bound)].iter().sum()
    }

    /// The value that a share of them does not exceed: the largest of its bucket. 0 without values.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut sum = 0;
        let at = self.buckets.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        at.map_or(0, largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_is_at_most_a_quarter_too_wide() {
        let mut last = 0;
        for value in
            (0..4_096).chain((12..31).flat_map(|octave| [(1 << octave) - 1, 1 << octave, 3 << octave]))
        {
            let (at, most) = (bucket(value), largest(bucket(value)));
            assert!(most >= value && most - value <= value / 4, "{value}: {at} up to {most}");
            if value <= 4_096 {
                assert!(at == last || at == last + 1, "{value}");
                last = at;
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let spread = Spread::default();
        assert_eq!(spread.read().quantile(0.5), 0);
        (1..=100).for_each(|value| spread.note(value));
        let read = spread.read();
        assert_eq!((read.count(), read.sum, read.at_most(31)), (100, 5_050, 31));
        assert_eq!((read.quantile(0.5), read.quantile(0.99), read.quantile(1.0)), (55, 111, 111));
        spread.note(7);
        assert_eq!(spread.read().since(&read).quantile(1.0), 7);
    }
}
