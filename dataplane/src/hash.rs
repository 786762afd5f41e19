//! The keyed hash under which flows are found: rounds of AES where the CPU has them, folded products elsewhere.
//!
//! **The threat.** Somebody outside chooses addresses and ports so that many flows want one bucket of an index, or one
//! worker of several. The key is random in each process and unknown outside; of a hash only servers behind GUE see
//! fourteen bits. So what counts is how often a difference that was chosen before the key leads to equal bits. Of linear
//! hashes (CRC, Toeplitz) it always does, keyed or not.
//!
//! **Why four rounds.** Whatever two blocks differ in, four rounds have at least 25 active S-boxes (Daemen and Rijmen,
//! *The Design of Rijndael*, 2002), so that under independent keys no difference of blocks comes out as a given one more
//! often than in 2^-113 (Keliher and Sui, *IET Information Security* 1, 2007). After two rounds it is 2^-28, and one
//! differing byte leaves every byte different: fewer collisions than chance, which is a pattern too. The bound is about
//! whole blocks. Of the bits that choose a bucket and a tag a test below says that flows that somebody would choose fill
//! buckets as chance does.

use crate::flow::Key;
use crate::frame::GROUP;

/// A keyed hash of flow keys. How it is made is chosen once in a process, by what the CPU has, so that whoever asks
/// gets the same.
#[derive(Clone, Copy, Debug)]
pub struct FlowHasher {
    folds: Folds,
    #[cfg(target_arch = "x86_64")]
    aes: Option<aes::Rounds>,
}

/// What a [`Key`] hands its blocks to.
pub trait Mixer {
    /// Mixes a block of sixteen bytes; `nth` tells blocks of one key apart.
    fn mix(&self, block: [u64; 2], nth: usize) -> [u64; 2];
}

impl FlowHasher {
    /// A hasher with `key`, which should come from the operating system's randomness.
    pub fn new(key: [u64; 4]) -> Self {
        Self {
            folds: Folds { key },
            #[cfg(target_arch = "x86_64")]
            aes: aes::Rounds::of(key),
        }
    }

    /// The same for any CPU: another hash, and slower where the CPU has better.
    #[must_use]
    pub fn portable(self) -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            aes: None,
            ..self
        }
    }

    /// The hash of `key`, all 64 bits well mixed.
    #[inline]
    pub fn hash(&self, key: impl Key) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if let Some(rounds) = &self.aes {
            return rounds.hash(key);
        }
        key.hash_by(&self.folds)
    }

    /// Tells `each` the hashes of the first `count` keys of a group, with their places.
    #[inline(always)]
    pub fn hash_group<K: Key>(&self, keys: &[K; GROUP], count: usize, mut each: impl FnMut(usize, u64)) {
        #[cfg(target_arch = "x86_64")]
        if let Some(rounds) = &self.aes {
            return rounds.hash_group(keys, count, each);
        }
        for (at, key) in keys.iter().enumerate().take(count) {
            each(at, key.hash_by(&self.folds));
        }
    }
}

/// Folded 64 × 64 → 128-bit products.
#[derive(Clone, Copy, Debug)]
struct Folds {
    key: [u64; 4],
}

impl Mixer for Folds {
    #[inline(always)]
    fn mix(&self, [first, second]: [u64; 2], nth: usize) -> [u64; 2] {
        let key = |at: usize| self.key[(at + nth) % 4];
        let mixed = fold(first ^ key(0), second ^ key(1));
        [fold(mixed ^ key(2), first.rotate_left(32) ^ key(3)), mixed]
    }
}

/// The high and the low half of a 128-bit product, folded into one word.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(target_arch = "x86_64")]
mod aes {
    use super::{Mixer, fold};
    use crate::flow::Key;
    use crate::frame::GROUP;
    use crate::simd;

    /// Rounds of AES that a block goes through.
    const ROUNDS: usize = 4;
    /// Blocks of the longest key.
    const BLOCKS: usize = 3;

    /// The keys of the rounds, by block; whoever has them runs on a CPU that has AES.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Rounds([[[u64; 2]; ROUNDS + 1]; BLOCKS]);

    impl Rounds {
        /// The rounds with keys drawn from `key`; `None` where the CPU has no AES.
        pub(super) fn of(key: [u64; 4]) -> Option<Self> {
            let word = |n: u64| {
                let at = n as usize % 4;
                let salt = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                fold(key[at] ^ salt, key[(at + 1) % 4] ^ salt.rotate_left(32)) ^ key[(at + 2) % 4]
            };
            let round = |block: usize, round: usize| {
                let n = 2 * (block * (ROUNDS + 1) + round) as u64;
                [word(n), word(n + 1)]
            };
            let rounds = std::array::from_fn(|block| std::array::from_fn(|nth| round(block, nth)));
            std::arch::is_x86_feature_detected!("aes").then_some(Self(rounds))
        }

        #[inline]
        #[allow(unsafe_code, reason = "the CPU has what the function is compiled for")]
        pub(super) fn hash(&self, key: impl Key) -> u64 {
            // SAFETY: there are no rounds where the CPU has no AES.
            unsafe { self.hash_here(key) }
        }

        #[target_feature(enable = "aes")]
        fn hash_here(&self, key: impl Key) -> u64 {
            key.hash_by(self)
        }

        #[inline(always)]
        #[allow(unsafe_code, reason = "the CPU has what the function is compiled for")]
        pub(super) fn hash_group<K: Key>(
            &self,
            keys: &[K; GROUP],
            count: usize,
            each: impl FnMut(usize, u64),
        ) {
            // SAFETY: there are no rounds where the CPU has no AES.
            unsafe { self.hash_group_here(keys, count, each) }
        }

        #[inline]
        #[target_feature(enable = "aes")]
        fn hash_group_here<K: Key>(&self, keys: &[K; GROUP], count: usize, mut each: impl FnMut(usize, u64)) {
            for (at, key) in keys.iter().enumerate().take(count) {
                each(at, key.hash_by(self));
            }
        }
    }

    impl Mixer for Rounds {
        #[inline(always)]
        #[allow(unsafe_code, reason = "the CPU has what the function is compiled for")]
        fn mix(&self, block: [u64; 2], nth: usize) -> [u64; 2] {
            // SAFETY: there are no rounds where the CPU has no AES.
            unsafe { simd::encrypted(block, &self.0[nth]) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Endpoint, FlowKey, FlowKey6, Protocol};
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// As the CPU has it, and as every CPU has it.
    fn hashers(seed: u64) -> [FlowHasher; 2] {
        let hasher =
            FlowHasher::new([1, 2, 3, 4].map(|n: u64| (n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        [hasher, hasher.portable()]
    }

    fn vip() -> Endpoint {
        Endpoint::new(Ipv4Addr::new(192, 0, 2, 10), 80)
    }

    #[test]
    fn hash_bits_are_balanced_over_sequential_flows() {
        for hasher in hashers(0) {
            balanced(hasher, |client| FlowKey::new(Protocol::Tcp, client, vip()));
            balanced(hasher, |client| FlowKey6::new(Protocol::Tcp, client, vip()));
        }
    }

    fn balanced<K: Key>(hasher: FlowHasher, key: impl Fn(Endpoint) -> K) {
        let mut ones = [0u32; 64];
        let flows = 20_000u32;
        for flow in 0..flows {
            let client =
                Endpoint::new(Ipv4Addr::from_bits(0x0a00_0000 + flow / 500), (flow % 500) as u16 + 1024);
            let hash = hasher.hash(key(client));
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += (hash >> bit & 1) as u32;
            }
        }
        // Five standard deviations of a fair coin over 20,000 throws are 354.
        for (bit, count) in ones.iter().enumerate() {
            assert!(count.abs_diff(flows / 2) < 354, "bit {bit} was set {count} times of {flows}");
        }
    }

    #[test]
    fn a_group_gets_the_hashes_that_each_gets_alone() {
        let client = |at: usize| Endpoint::new(Ipv4Addr::new(198, 51, 100, at as u8), 4000 + at as u16);
        let narrow: [_; GROUP] = std::array::from_fn(|at| FlowKey::new(Protocol::Udp, client(at), vip()));
        let wide = narrow.map(Key::widen);
        for hasher in hashers(7) {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            hasher.hash_group(&narrow, 11, |at, hash| one.push((at, hash)));
            hasher.hash_group(&wide, 11, |at, hash| other.push((at, hash)));

            assert_eq!(one, (0..11).map(|at| (at, hasher.hash(narrow[at]))).collect::<Vec<_>>());
            assert_eq!(other, (0..11).map(|at| (at, hasher.hash(wide[at]))).collect::<Vec<_>>());
        }
    }

    /// Flows that somebody would choose who knows everything but the key.
    fn chosen<K: Key>(set: usize, n: u32, address: impl Fn(u32) -> Endpoint) -> K {
        let spread = n.wrapping_mul(0x9e37_79b1);
        let (source, l4_port) = match set {
            // One after the other.
            0 => (n >> 15, n as u16 & 0x7fff),
            // Apart in one or two bits.
            1 => (1 << (n % 32) ^ 1 << (n / 32 % 32), (n / 1024) as u16),
            // The same in the low bits, which is what a bad hash hands through.
            2 => ((n & 0xffff) << 16, (n >> 16 << 8) as u16),
            // The same sum of address and port, and the same exclusive or.
            3 => (n, 0_u16.wrapping_sub(n as u16)),
            4 => (n << 16 | n & 0xffff, n as u16),
            // Multiples of a number.
            _ => (spread, (spread >> 7) as u16),
        };
        K::new(Protocol::Udp, Endpoint { l4_port, ..address(source) }, address(0xc000_020a))
    }

    const SETS: usize = 6;

    /// How many buckets have 0, 1, 2 … keys, of buckets for one key each on average: as many as chance would leave.
    /// Set `SLUICE_HASH_KEYS` for more keys than fit into a quick run.
    #[test]
    fn buckets_of_chosen_flows_are_filled_as_by_chance() {
        let keys =
            std::env::var("SLUICE_HASH_KEYS").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000);
        let v4 = |bits| Endpoint::new(Ipv4Addr::from_bits(bits), 0);
        let v6 = |bits| Endpoint::new(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(bits)), 0);
        for (nth, (set, hasher)) in
            (0..SETS).flat_map(|set| hashers(9).map(|hasher| (set, hasher))).enumerate()
        {
            let told = format!("set {set}, hasher {}", nth % 2);
            filled_as_by_chance(&told, hasher, keys, |n| chosen::<FlowKey>(set, n, v4));
            filled_as_by_chance(&told, hasher, keys, |n| chosen::<FlowKey6>(set, n, v6));
        }
    }

    fn filled_as_by_chance<K: Key>(told: &str, hasher: FlowHasher, keys: u32, key: impl Fn(u32) -> K) {
        let distinct: std::collections::HashSet<K> = (0..keys).map(key).collect();
        let count = distinct.len();
        // The bits of the bucket's choice, those of the tag, and both of some.
        for (part, shift) in [("bucket", 0), ("tag", 32), ("middle", 16)] {
            let mut loads = vec![0_u32; count];
            for key in &distinct {
                let bits = hasher.hash(*key) >> shift & 0xffff_ffff;
                loads[((bits * count as u64) >> 32) as usize] += 1;
            }
            let mut by_load = [0_f64; 12];
            loads.iter().for_each(|load| by_load[(*load as usize).min(11)] += 1.0);
            let mut expected = count as f64 * (-1.0_f64).exp();
            // The last stands for all that are fuller: hardly more than itself.
            for (load, found) in by_load.iter().enumerate() {
                // Five standard deviations, and one bucket.
                let off = (found - expected).abs();
                assert!(
                    off <= 5.0 * expected.sqrt() + 1.0,
                    "{told}, {part}: {found} of {count} buckets have {load} keys, not {expected:.0}"
                );
                expected /= (load + 1) as f64;
            }
        }
    }
}
