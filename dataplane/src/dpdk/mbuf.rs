//! A packet's memory, owned.

use crate::frame::Frame;
use crate::port::Buffer;
use dpdk_sys as sys;
use std::ops::Range;
use std::ptr::NonNull;

/// The unique owner of one mbuf, which is a single segment outside of [`Queue::rx`](super::Queue). Dropping it gives it
/// back to its pool, with the segments that hang on it.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// A burst is filled in place by the driver as an array of pointers.
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut sys::rte_mbuf>());

// SAFETY: contract 3 — the owner may be moved to another thread; the memory is not tied to one.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Puts `bytes` into a fresh mbuf; false when they do not fit.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> bool {
        let start = sys::SLUICE_MBUF_HEADROOM as usize;
        let room = self.room();
        let Some(window) = room.get_mut(start..start + bytes.len()) else { return false };
        window.copy_from_slice(bytes);
        self.set_window(start..start + bytes.len());
        true
    }

    /// Buffers that the frame lies in.
    #[inline]
    pub(super) fn segments(&self) -> u16 {
        self.field(sys::SLUICE_MBUF_NB_SEGS)
    }

    /// Copies all segments into the first; false when they do not fit there.
    pub(super) fn join(&mut self) -> bool {
        // SAFETY: contract 3 — the owner of the first segment owns those that hang on it.
        self.segments() == 1 || unsafe { sys::sluice_mbuf_linearize(self.0.as_ptr()) } == 0
    }

    fn room(&mut self) -> &mut [u8] {
        let len = usize::from(self.field::<u16>(sys::SLUICE_MBUF_BUF_LEN));
        let start = self.field::<*mut u8>(sys::SLUICE_MBUF_BUF_ADDR);
        // SAFETY: contract 3 — `self` uniquely owns the mbuf, so the `buf_len` bytes at
        // `buf_addr` are ours for as long as `&mut self` lives.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    #[inline]
    fn field<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: contract 3; dpdk-sys asserts the offsets, and the callers name the types, of
        // rte_mbuf's fields.
        unsafe { self.0.as_ptr().cast::<u8>().add(offset as usize).cast::<T>().read() }
    }

    #[inline]
    fn set_field<T: Copy>(&mut self, offset: u32, value: T) {
        // SAFETY: as in `field`, and `&mut self` is the only access.
        unsafe { self.0.as_ptr().cast::<u8>().add(offset as usize).cast::<T>().write(value) }
    }
}

impl Buffer for Mbuf {
    #[inline]
    fn frame(&mut self) -> Frame<'_> {
        let start = usize::from(self.field::<u16>(sys::SLUICE_MBUF_DATA_OFF));
        let len = usize::from(self.field::<u16>(sys::SLUICE_MBUF_DATA_LEN));
        Frame::new(self.room(), start..start + len)
    }

    #[inline]
    fn set_window(&mut self, window: Range<usize>) {
        let len = window.len();
        self.set_field(sys::SLUICE_MBUF_DATA_OFF, window.start as u16);
        self.set_field(sys::SLUICE_MBUF_DATA_LEN, len as u16);
        self.set_field(sys::SLUICE_MBUF_PKT_LEN, len as u32);
    }

    #[inline]
    fn len(&self) -> usize {
        usize::from(self.field::<u16>(sys::SLUICE_MBUF_DATA_LEN))
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let mut pointer = self.0.as_ptr();
        // SAFETY: contract 3 — the only owner gives the buffer back, once.
        unsafe { sys::sluice_mbuf_free_bulk(&mut pointer, 1) };
    }
}
