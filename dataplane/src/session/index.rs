//! From a flow's hash to a slot: buckets of ten short tags, one cache line each.
//!
//! A lookup touches one line: the tags are compared together, and the caller
//! compares the full key of the few slots whose tag agrees. A key that finds its
//! bucket full goes to the next one; `spilled` says how many did, so that a
//! lookup goes on only when it must, and a removal leaves no tombstone.
//!
//! Sized for a load of at most 0.65, where two keys per session cost 20 bytes and
//! 7 % of the buckets spill. With eight places and a load of 0.6 it would be 27 bytes, and no faster.

use super::tags::{PLACES, Places, Tags};
use crate::frame::GROUP;
use crate::hugepages::{self, Table};
use crate::prefetch::prefetch;

/// Buckets a key may be away from its first choice. At a load of 0.65 a run of
/// sixteen full buckets does not happen; the bound is what keeps a turn finite.
const MAX_DISTANCE: usize = 16;
const EMPTY: u16 = 0;

/// An index of fixed capacity.
#[derive(Debug)]
pub(super) struct FlowIndex {
    buckets: Table<Bucket>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    tags: Tags,
    slots: [u32; PLACES],
    /// Keys that wanted this bucket or passed through it, and live further on.
    spilled: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// [`Tags::places`] by one comparison, which is made of what stands behind the tags too.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    #[allow(unsafe_code, reason = "SIMD intrinsics take a raw pointer")]
    fn places_by_avx2(&self, tag: u16) -> Places {
        use std::arch::x86_64::{
            __m256i, _mm256_cmpeq_epi16, _mm256_load_si256, _mm256_movemask_epi8, _mm256_set1_epi16,
        };
        const { assert!(std::mem::offset_of!(Self, tags) == 0 && align_of::<Self>() >= 32) };
        // SAFETY: the load reads the first half of the bucket's 64 bytes, which begins as the bucket does.
        let words = unsafe { _mm256_load_si256(std::ptr::from_ref(self).cast::<__m256i>()) };
        let agree = _mm256_movemask_epi8(_mm256_cmpeq_epi16(words, _mm256_set1_epi16(tag.cast_signed())));
        Places::of_bytes(agree.cast_unsigned())
    }
}

/// No bucket within reach had room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl FlowIndex {
    /// An index for up to `keys` keys.
    pub(super) fn with_capacity(keys: usize) -> Self {
        let buckets = (keys * 20).div_ceil(13 * PLACES).max(MAX_DISTANCE);
        let empty = Bucket { tags: Tags::default(), slots: [0; PLACES], spilled: 0 };
        Self { buckets: hugepages::table(buckets, || empty) }
    }

    /// Asks for the line that `hash` leads to.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(self.buckets.as_ptr().wrapping_add(self.home(hash)));
    }

    /// Under each of the first `count` hashes the first slot whose tag agrees; `found` is told each, or that there is
    /// none.
    #[inline(always)]
    pub(super) fn firsts(
        &self,
        hashes: &[u64; GROUP],
        count: usize,
        mut found: impl FnMut(usize, Option<u32>),
    ) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            #[allow(unsafe_code, reason = "the CPU has what the function is compiled for")]
            // SAFETY: the CPU has AVX2, which was asked in the line above.
            return unsafe { self.firsts_by_avx2(hashes, count, found) };
        }
        for (at, hash) in hashes.iter().take(count).enumerate() {
            found(at, self.first(*hash));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    fn firsts_by_avx2(&self, hashes: &[u64; GROUP], count: usize, mut found: impl FnMut(usize, Option<u32>)) {
        for (at, hash) in hashes.iter().take(count).enumerate() {
            let bucket = &self.buckets[self.home(*hash)];
            found(at, self.first_in(bucket, bucket.places_by_avx2(tag(*hash)), *hash));
        }
    }

    /// The first slot under `hash` whose tag agrees; mostly one line says it.
    #[inline(always)]
    fn first(&self, hash: u64) -> Option<u32> {
        let bucket = &self.buckets[self.home(hash)];
        self.first_in(bucket, bucket.tags.places(tag(hash)), hash)
    }

    #[inline(always)]
    fn first_in(&self, bucket: &Bucket, mut places: Places, hash: u64) -> Option<u32> {
        match places.next() {
            Some(place) => Some(bucket.slots[place]),
            None if bucket.spilled == 0 => None,
            None => self.find_further(hash),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_further(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The first slot under `hash` that `matches`.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        for _ in 0..MAX_DISTANCE {
            let bucket = &self.buckets[at];
            for place in bucket.tags.places(tag) {
                let slot = bucket.slots[place];
                if matches(slot) {
                    return Some(slot);
                }
            }
            if bucket.spilled == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Puts `slot` under `hash`. The caller knows that it is not there yet.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) -> Result<(), Full> {
        let home = self.home(hash);
        let mut at = home;
        for distance in 0..MAX_DISTANCE {
            let bucket = &mut self.buckets[at];
            if let Some(place) = bucket.tags.places(EMPTY).next() {
                bucket.tags.set(place, tag(hash));
                bucket.slots[place] = slot;
                self.for_each_passed(home, distance, |bucket| bucket.spilled += 1);
                return Ok(());
            }
            at = self.next(at);
        }
        Err(Full)
    }

    /// Takes `slot` from under `hash`; returns whether it was there.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let tag = tag(hash);
        let home = self.home(hash);
        let mut at = home;
        for distance in 0..MAX_DISTANCE {
            let bucket = &mut self.buckets[at];
            for place in bucket.tags.places(tag) {
                if bucket.slots[place] == slot {
                    bucket.tags.set(place, EMPTY);
                    self.for_each_passed(home, distance, |bucket| bucket.spilled -= 1);
                    return true;
                }
            }
            if bucket.spilled == 0 {
                return false;
            }
            at = self.next(at);
        }
        false
    }

    fn for_each_passed(&mut self, home: usize, distance: usize, mut change: impl FnMut(&mut Bucket)) {
        let mut at = home;
        for _ in 0..distance {
            change(&mut self.buckets[at]);
            at = self.next(at);
        }
    }

    /// The bucket of first choice: the hash's low half, scaled to the number of buckets.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }
}

/// Sixteen bits that the bucket's choice did not use, never [`EMPTY`].
#[inline]
fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Tags and slots of equal halves: what stands behind the tags is compared too, and must say nothing.
        #[test]
        fn a_group_finds_what_each_finds_alone(
            keys in prop::collection::vec((0u64..6, 0u64..40, 1u32..6), 1..200),
            wanted in prop::array::uniform16((0u64..6, 0u64..40)),
            count in 0usize..=GROUP,
        ) {
            let mut index = FlowIndex::with_capacity(300);
            let hash = |(tag, home): (u64, u64)| tag << 48 | home << 27;
            for (tag, home, slot) in keys {
                index.insert(hash((tag, home)), slot << 16 | slot).unwrap();
            }
            let hashes = wanted.map(hash);
            let mut found = Vec::new();

            index.firsts(&hashes, count, |at, slot| found.push((at, slot)));

            let alone = hashes.iter().take(count).map(|hash| index.find(*hash, |_| true)).enumerate();
            prop_assert_eq!(found, alone.collect::<Vec<_>>());
        }

        /// Few distinct hashes force spilling and equal tags.
        #[test]
        fn agrees_with_an_ordered_map(steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u32..30), 1..400)) {
            let mut index = FlowIndex::with_capacity(300);
            // A slot stands under one hash at a time, as in the table.
            let mut twin: BTreeMap<u32, u64> = BTreeMap::new();
            for (insert, hash, slot) in steps {
                let hash = hash << 46 | hash << 27;
                if let Some(hash) = twin.remove(&slot) {
                    prop_assert!(index.remove(hash, slot));
                    prop_assert!(!index.remove(hash, slot));
                }
                if insert && index.insert(hash, slot).is_ok() {
                    twin.insert(slot, hash);
                }
                for (slot, hash) in &twin {
                    prop_assert_eq!(index.find(*hash, |found| found == *slot), Some(*slot));
                }
            }
            for (slot, hash) in &twin {
                prop_assert!(index.remove(*hash, *slot));
            }
            prop_assert!(index.buckets.iter().all(|bucket| bucket.spilled == 0 && bucket.tags == Tags::default()));
        }
    }

    #[test]
    fn a_full_index_refuses_and_keeps_what_it_has() {
        let mut index = FlowIndex::with_capacity(1);
        let room = (MAX_DISTANCE * PLACES) as u32;
        for slot in 0..room {
            assert_eq!(index.insert(7 << 48, slot), Ok(()));
        }

        assert_eq!(index.insert(7 << 48, room), Err(Full));

        assert!((0..room).all(|slot| index.find(7 << 48, |found| found == slot).is_some()));
    }
}
