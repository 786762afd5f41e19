//! The Internet checksum (RFC 1071) and its change by difference (RFC 1624).
//!
//! Sums are kept as 16-bit one's-complement values. A *difference* is what must
//! be added to the complement of a checksum when the data below it changes; the
//! difference of the way back is its complement, so a session keeps only one.

/// The one's-complement sum of `bytes`, an odd last byte padded with zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [byte] = last {
        total += u64::from(*byte) << 8;
    }
    fold(total)
}

/// Whether the checksum of a header without options is right.
///
/// One's-complement sums do not depend on byte order (RFC 1071 §2 B), so the words are added
/// as the machine reads them.
#[inline]
pub fn header_is_right(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|at| u64::from(u32::from_le_bytes(words[at])));
    words_are_right(b << 32 | a, d << 32 | c, e as u32)
}

/// [`header_is_right`], of the header's words as little-endian numbers.
#[inline(always)]
pub fn words_are_right(first: u64, second: u64, third: u32) -> bool {
    // Carries come back at the low end: 2^64 leaves a remainder of one by 0xffff.
    let (total, carry) = first.overflowing_add(second);
    let (total, again) = total.overflowing_add(u64::from(third) + u64::from(carry));
    let total = total.wrapping_add(u64::from(again));
    // Folding keeps the remainder by 0xffff, and that of a right sum is zero; a header's sum is
    // never zero itself, because its version is not. A number is a multiple of 0xffff when its
    // product with the inverse of 0xffff modulo 2^64 is no larger than that of the largest multiple:
    // 3 instructions instead of 11.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);
    total.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// The difference in an IPv4 header of which the TTL, the high octet of its word, becomes one less.
pub const TTL_DIFFERENCE: u16 = !0x0100;

/// One's-complement addition.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (total, carry) = a.overflowing_add(b);
    total + u16::from(carry)
}

/// The difference that replaces `old` by `new` among the data, both given as sums.
#[inline]
pub fn difference(old: u16, new: u16) -> u16 {
    add(new, !old)
}

/// The checksum that `field` becomes when the data changes by `difference`
/// (RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`).
#[inline]
pub fn adjust(field: u16, difference: u16) -> u16 {
    !add(!field, difference)
}

/// A 64-bit sum of 16- or 32-bit words folded to 16 bits with end-around carry.
#[inline]
pub fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word: the slow obvious twin.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if total > 0xffff {
                total = (total & 0xffff) + 1;
            }
        }
        total as u16
    }

    /// One's-complement arithmetic has two zeros; they mean the same.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 || a == 0xffff) && (b == 0 || b == 0xffff)
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    proptest! {
        #[test]
        fn a_header_is_right_when_its_sum_is_all_ones(mut header in any::<[u8; 20]>(), off in 0u16..3) {
            // As every header that is looked at.
            header[0] = 0x45;
            header[10..12].fill(0);
            let checksum = (!slow_sum(&header)).wrapping_add(off);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());

            prop_assert_eq!(header_is_right(&header), slow_sum(&header) == 0xffff);
        }

        #[test]
        fn the_wide_sum_equals_the_word_by_word_sum(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(sum(&bytes), slow_sum(&bytes));
        }

        /// What plain datagrams get: RFC 768 sends a computed zero as all ones, and a sum with something is no zero.
        #[test]
        fn a_datagram_s_sum_is_its_checksum_by_difference_and_never_zero(
            field in prop_oneof![1u16.., Just(0xffff)],
            difference in prop_oneof![any::<u16>(), Just(0), Just(0xffff)],
        ) {
            let adjusted = adjust(field, difference);

            prop_assert_eq!(add(field, !difference), if adjusted == 0 { 0xffff } else { adjusted });
        }

        #[test]
        fn a_checksum_by_difference_equals_one_computed_anew(
            mut bytes in prop::collection::vec(any::<u8>(), 8..200),
            new in any::<[u8; 4]>(),
            word in any::<prop::sample::Index>(),
        ) {
            let at = word.index(bytes.len() / 4 - 1) * 4;
            let before = !sum(&bytes);
            let delta = difference(sum(&bytes[at..at + 4]), sum(&new));
            bytes[at..at + 4].copy_from_slice(&new);

            prop_assert!(same(adjust(before, delta), !sum(&bytes)));
        }

        #[test]
        fn the_way_back_is_the_complement(field in any::<u16>(), delta in any::<u16>()) {
            prop_assert!(same(adjust(adjust(field, delta), !delta), field));
        }
    }
}
