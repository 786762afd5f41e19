//! The one hint to the memory system that safe Rust cannot give.

/// Asks for the cache line that `value` points into, into the second-level cache: none of the few places
/// is taken in which the first level waits for lines. Never faults, changes nothing.
///
/// For index lines 4 ns less per packet at a million sessions than [`prefetch_near`].
#[inline(always)]
#[allow(unsafe_code, reason = "a prefetch intrinsic takes a raw pointer")]
pub(crate) fn prefetch<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it is defined for every address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch(value.cast::<i8>(), _MM_HINT_T1);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks for the cache line that `value` points into, into the first-level cache.
///
/// For session lines 1 ns less per packet at a thousand sessions than [`prefetch`].
#[inline(always)]
#[allow(unsafe_code, reason = "a prefetch intrinsic takes a raw pointer")]
pub(crate) fn prefetch_near<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(value.cast::<i8>(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
