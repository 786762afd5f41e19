//! The one hint to the memory system that safe Rust cannot give.

/// Asks for the cache line that `value` begins on. Never faults, changes nothing.
#[inline(always)]
#[allow(unsafe_code, reason = "a prefetch intrinsic takes a raw pointer")]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it is defined for every address, and this one is a live reference.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(std::ptr::from_ref(value).cast::<i8>(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
