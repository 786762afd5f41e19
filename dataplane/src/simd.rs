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

/// A block after a round of AES for each of the keys but the first, which is added before (FIPS 197 §5.1, without the
/// last round's shortcut).
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "aes")]
pub(crate) fn encrypted<const KEYS: usize>([first, second]: [u64; 2], keys: &[[u64; 2]; KEYS]) -> [u64; 2] {
    use std::arch::x86_64::{
        __m128i, _mm_aesenc_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_unpackhi_epi64, _mm_xor_si128,
    };
    let of = |[low, high]: [u64; 2]| -> __m128i { _mm_set_epi64x(high.cast_signed(), low.cast_signed()) };
    let mut block = _mm_xor_si128(of([first, second]), of(keys[0]));
    for key in &keys[1..] {
        block = _mm_aesenc_si128(block, of(*key));
    }
    [_mm_cvtsi128_si64(block), _mm_cvtsi128_si64(_mm_unpackhi_epi64(block, block))].map(i64::cast_unsigned)
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

    /// FIPS 197 §4.2 and §5.1, byte by byte.
    #[cfg(test)]
    pub(super) fn encrypted<const KEYS: usize>(block: [u64; 2], keys: &[[u64; 2]; KEYS]) -> [u64; 2] {
        fn times(mut a: u8, mut b: u8) -> u8 {
            let mut product = 0;
            while b > 0 {
                product ^= if b & 1 == 1 { a } else { 0 };
                a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1b };
                b >>= 1;
            }
            product
        }
        fn substitute(byte: u8) -> u8 {
            // To the power of 254: what is multiplied with a byte to get one.
            let inverse = (0..254).fold(1, |power, _| times(power, byte));
            let inverse = if byte == 0 { 0 } else { inverse };
            (0..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
        }
        let bytes = |[low, high]: [u64; 2]| (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
        let add = |one: [u8; 16], other: [u8; 16]| std::array::from_fn(|at| one[at] ^ other[at]);
        let mut state: [u8; 16] = add(bytes(block), bytes(keys[0]));
        for key in &keys[1..] {
            // Row r stands at r, r + 4, r + 8 and r + 12, and is shifted by r columns.
            let shifted: [u8; 16] = std::array::from_fn(|at| substitute(state[(at + 4 * (at % 4)) % 16]));
            let mixed = std::array::from_fn(|at| {
                let of = |row: usize| shifted[at / 4 * 4 + (at + row) % 4];
                times(of(0), 2) ^ times(of(1), 3) ^ of(2) ^ of(3)
            });
            state = add(mixed, bytes(*key));
        }
        let state = u128::from_le_bytes(state);
        [state as u64, (state >> 64) as u64]
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

        #[test]
        #[cfg(target_arch = "x86_64")]
        fn encrypted_agrees_with_its_twin(block in any::<[u64; 2]>(), keys in any::<[[u64; 2]; 5]>()) {
            if std::arch::is_x86_feature_detected!("aes") {
                #[allow(unsafe_code, reason = "the CPU has what the function is compiled for")]
                // SAFETY: the CPU has AES, which was asked in the line above.
                let encrypted = unsafe { encrypted(block, &keys) };
                prop_assert_eq!(encrypted, twin::encrypted(block, &keys));
            }
        }
    }
}
