//! Large tables on large pages.
//!
//! A table of ten million sessions has more 4 KiB pages than the TLB has room for, so each
//! random access would cost a page walk too: 65 to 90 ns. The kernel's transparent huge pages
//! cure that without a reserved pool; where they are switched off, tables work as before.

use allocator_api2::alloc::{AllocError, Allocator, Global, Layout};
use allocator_api2::{boxed::Box, vec::Vec};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ptr::{self, NonNull};

/// A table of fixed size on large pages.
pub(crate) type Table<T> = Box<[T], HugePages>;

/// A list that may be changed, on large pages; the packet path stays within its capacity.
pub(crate) type List<T> = Vec<T, HugePages>;

/// Memory for `len` values, each made by `make`, on large pages if the kernel gives them.
pub(crate) fn table<T>(len: usize, make: impl FnMut() -> T) -> Table<T> {
    let mut table = reserved(len);
    // The capacity is there, so nothing moves; the first touch of each page is here.
    table.resize_with(len, make);
    table.into_boxed_slice()
}

/// An empty vector with room for `capacity` values, on large pages if the kernel gives them.
pub(crate) fn reserved<T>(capacity: usize) -> List<T> {
    Vec::with_capacity_in(capacity, HugePages)
}

/// Takes memory that begins and ends on borders of large pages, so that no part of a table is left
/// on small ones; what is small itself comes from where everything else does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HugePages;

/// A large page of x86-64, and of aarch64 with 4 KiB pages.
const LARGE_PAGE: usize = 2 << 20;
/// The least that gets large pages: less lies on few enough small ones.
const LARGE: usize = 512 << 10;

impl HugePages {
    /// Bytes of whole large pages for a block.
    fn whole_pages(layout: Layout) -> Result<usize, AllocError> {
        let bytes = layout.size().checked_next_multiple_of(LARGE_PAGE).ok_or(AllocError)?;
        if layout.align() > LARGE_PAGE { Err(AllocError) } else { Ok(bytes) }
    }
}

// SAFETY: a block is either of `Global` or a mapping of its own, which only its layout decides; it
// stays where it is until it is given back.
#[allow(unsafe_code, reason = "an allocator is unsafe to write")]
unsafe impl Allocator for HugePages {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() < LARGE {
            return Global.allocate(layout);
        }
        let bytes = Self::whole_pages(layout)?;
        let room = bytes.checked_add(LARGE_PAGE).ok_or(AllocError)?;
        // From the kernel, not from the heap: pages that were small before stay small.
        // SAFETY: a new mapping touches nothing that exists.
        let mapped = unsafe {
            mmap_anonymous(ptr::null_mut(), room, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }
        .map_err(|_| AllocError)?;
        let before = mapped.align_offset(LARGE_PAGE);
        let block = mapped.wrapping_byte_add(before);
        // SAFETY: both ends are of this mapping and outside the block; refusals leave them mapped.
        unsafe {
            let _ = munmap(mapped, before);
            let _ = munmap(block.wrapping_byte_add(bytes), room - before - bytes);
        }
        // SAFETY: MADV_HUGEPAGE changes neither contents nor validity of any page; a refusal is no failure.
        let _ = unsafe { madvise(block, bytes, Advice::LinuxHugepage) };
        let block = NonNull::new(block.cast()).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, bytes))
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() < LARGE {
            // SAFETY: such a block is of `Global`, with this layout.
            return unsafe { Global.deallocate(block, layout) };
        }
        if let Ok(bytes) = Self::whole_pages(layout) {
            // SAFETY: the block is a mapping of so many bytes, and nobody uses it any more.
            let _ = unsafe { munmap(block.as_ptr().cast(), bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tables_begin_on_large_pages_and_small_ones_do_not_take_any() {
        for (len, large) in [(1, false), (LARGE - 1, false), (LARGE, true), (3 * LARGE_PAGE + 1, true)] {
            let bytes = table(len, || 7_u8);

            assert!(bytes.iter().all(|byte| *byte == 7) && bytes.len() == len);
            assert!(!large || bytes.as_ptr().addr() % LARGE_PAGE == 0, "{len} bytes at {:p}", bytes.as_ptr());
        }
    }

    #[test]
    fn a_vector_that_grows_keeps_its_contents() {
        let mut numbers = reserved(1);
        numbers.extend(0..1_000_000_u32);
        assert!(numbers.iter().copied().eq(0..1_000_000));
    }
}
