//! A few bytes at once: the room for SIMD, each function beside its safe twin.

/// Bit per byte: where two blocks of sixteen bytes are equal.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code, reason = "SIMD intrinsics take a raw pointer and need a CPU feature")]
pub(crate) fn equal_bytes(one: &[u8; 16], other: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8};
    // SAFETY: SSE2 is part of x86-64; each load reads the sixteen bytes of an array, and needs no alignment.
    let same = unsafe {
        let (one, other) = (_mm_loadu_si128(one.as_ptr().cast()), _mm_loadu_si128(other.as_ptr().cast()));
        _mm_movemask_epi8(_mm_cmpeq_epi8(one, other))
    };
    same.cast_unsigned()
}

/// Bit per byte: where two blocks of sixteen bytes are equal.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn equal_bytes(one: &[u8; 16], other: &[u8; 16]) -> u32 {
    twin::equal_bytes(one, other)
}

/// Of four 32-bit lanes the middle ones exchanged, and the halves of the last; `or` is added to the first two.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code, reason = "SIMD intrinsics take a raw pointer and need a CPU feature")]
pub(crate) fn turned([first, second]: [u64; 2], or: u64) -> [u64; 2] {
    use std::arch::x86_64::{
        _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_or_si128, _mm_set_epi64x, _mm_shuffle_epi32,
        _mm_shufflehi_epi16, _mm_unpackhi_epi64,
    };
    // SAFETY: SSE2 is part of x86-64.
    let words = unsafe {
        let words = _mm_set_epi64x(second.cast_signed(), first.cast_signed());
        let turned = _mm_shufflehi_epi16::<0b10_11_01_00>(_mm_shuffle_epi32::<0b11_01_10_00>(words));
        let whole = _mm_or_si128(turned, _mm_cvtsi64_si128(or.cast_signed()));
        [_mm_cvtsi128_si64(whole), _mm_cvtsi128_si64(_mm_unpackhi_epi64(whole, whole))]
    };
    words.map(i64::cast_unsigned)
}

/// Of four 32-bit lanes the middle ones exchanged, and the halves of the last; `or` is added to the first two.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn turned(words: [u64; 2], or: u64) -> [u64; 2] {
    twin::turned(words, or)
}

/// Sixteen bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code, reason = "SIMD intrinsics take a raw pointer")]
pub(crate) fn load16(bytes: &[u8; 16]) -> std::arch::x86_64::__m128i {
    // SAFETY: the load reads the sixteen bytes of the array, and needs no alignment.
    unsafe { std::arch::x86_64::_mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Thirty-two bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code, reason = "SIMD intrinsics take a raw pointer")]
pub(crate) fn load32(bytes: &[u8; 32]) -> std::arch::x86_64::__m256i {
    // SAFETY: the load reads the thirty-two bytes of the array, and needs no alignment.
    unsafe { std::arch::x86_64::_mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The same, slow and obvious.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod twin {
    pub(super) fn equal_bytes(one: &[u8; 16], other: &[u8; 16]) -> u32 {
        one.iter().zip(other).enumerate().map(|(at, (one, other))| u32::from(one == other) << at).sum()
    }

    pub(super) fn turned([first, second]: [u64; 2], or: u64) -> [u64; 2] {
        let last = ((second >> 32) as u32).rotate_left(16);
        [first & 0xffff_ffff | second << 32 | or, first >> 32 | u64::from(last) << 32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equal_bytes_agrees_with_its_twin(one in any::<[u8; 16]>(), other in any::<[u8; 16]>(), same in any::<u16>()) {
            let mut other = other;
            for at in (0..16).filter(|at| same >> at & 1 == 1) {
                other[at] = one[at];
            }

            prop_assert_eq!(equal_bytes(&one, &other), twin::equal_bytes(&one, &other));
        }

        #[test]
        fn turned_agrees_with_its_twin(words in any::<[u64; 2]>(), or in any::<u64>()) {
            prop_assert_eq!(turned(words, or), twin::turned(words, or));
        }
    }
}
