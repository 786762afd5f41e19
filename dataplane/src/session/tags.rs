//! Ten short tags that are compared together.

/// Places in a bucket.
pub(super) const PLACES: usize = 10;

/// One tag for each place of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tags([u16; PLACES]);

/// A set of places, lowest first: two bits for each, of which the lower counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places(u32);

impl Places {
    /// Those of which the two bytes are equal; more bytes than the tags have say nothing.
    #[inline(always)]
    pub(super) fn of_bytes(equal: u32) -> Self {
        Self(equal & ONE_BIT_EACH)
    }
}

/// The lower bit of each place.
const ONE_BIT_EACH: u32 = 0x5_5555;

impl Tags {
    /// The places whose tag is `tag`.
    ///
    /// SSE2, which every x86-64 has, compares eight at once, and the last eight overlap the first:
    /// 14 instructions, where the compiler makes over 30 of the loop in [`places_one_by_one`](Self::places_one_by_one).
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[allow(unsafe_code, reason = "SIMD intrinsics take a raw pointer and need a CPU feature")]
    pub(super) fn places(&self, tag: u16) -> Places {
        use std::arch::x86_64::{_mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi16};
        const TOGETHER: usize = 8;
        let agree = |tags: &[u16; TOGETHER]| {
            // SAFETY: SSE2 is part of x86-64; the load reads the sixteen bytes of this array, and
            // needs no alignment.
            let agree = unsafe {
                let tags = _mm_loadu_si128(tags.as_ptr().cast());
                _mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16(tag.cast_signed())))
            };
            agree.cast_unsigned()
        };
        let (Some(first), Some(last)) = (self.0.first_chunk(), self.0.last_chunk()) else { return Places(0) };
        Places((agree(first) | agree(last) << (2 * (PLACES - TOGETHER))) & ONE_BIT_EACH)
    }

    /// The places whose tag is `tag`.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn places(&self, tag: u16) -> Places {
        self.places_one_by_one(tag)
    }

    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn places_one_by_one(&self, tag: u16) -> Places {
        Places((0..PLACES).filter(|place| self.0[*place] == tag).map(|place| 1 << (2 * place)).sum())
    }

    /// Writes one tag.
    #[inline]
    pub(super) fn set(&mut self, place: usize, tag: u16) {
        self.0[place] = tag;
    }
}

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros() as usize / 2;
        self.0 &= self.0 - 1;
        // The remainder changes nothing; it saves the check of an index.
        Some(place % PLACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_at_once_agrees_with_one_by_one(
            tags in prop::array::uniform10(prop::sample::select(vec![0, 1, 2, 0x7fff, 0x8000, 0xffff])),
            wanted in prop::sample::select(vec![0u16, 1, 2, 0x7fff, 0x8000, 0xffff]),
        ) {
            let mut packed = Tags::default();
            for (place, tag) in tags.iter().enumerate() {
                packed.set(place, *tag);
            }
            let expected: Vec<_> = (0..PLACES).filter(|place| tags[*place] == wanted).collect();

            prop_assert_eq!(packed.places(wanted).collect::<Vec<_>>(), expected);
            prop_assert_eq!(packed.places(wanted), packed.places_one_by_one(wanted));
        }
    }
}
