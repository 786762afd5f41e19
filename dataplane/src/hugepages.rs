//! Large tables on large pages.
//!
//! A table of ten million sessions has more 4 KiB pages than the TLB has room for, so each
//! random access would cost a page walk too: 65 to 90 ns. The kernel's transparent huge pages
//! cure that without a reserved pool; where they are switched off, tables work as before.

/// Memory for `len` copies of `value`, on large pages if the kernel gives them.
pub(crate) fn filled<T: Clone>(len: usize, value: T) -> Box<[T]> {
    let mut table = reserved(len);
    // The capacity is there, so nothing moves; the first touch of each page is here.
    table.resize(len, value);
    table.into_boxed_slice()
}

/// An empty vector with room for `capacity` values, on large pages if the kernel gives them.
pub(crate) fn reserved<T>(capacity: usize) -> Vec<T> {
    let mut table: Vec<T> = Vec::with_capacity(capacity);
    advise(&mut table);
    table
}

/// Asks for large pages under a vector's room. A refusal is no failure.
#[allow(unsafe_code, reason = "madvise takes a raw range")]
fn advise<T>(table: &mut Vec<T>) {
    const PAGE: usize = 4_096;
    let room = table.spare_capacity_mut();
    let (start, bytes) = (room.as_mut_ptr() as usize, size_of_val(room));
    let first = start.next_multiple_of(PAGE);
    let len = (start + bytes).saturating_sub(first) / PAGE * PAGE;
    if len == 0 {
        return;
    }
    // SAFETY: MADV_HUGEPAGE changes neither contents nor validity of any page; the range lies
    // inside the room that `table` owns.
    let _ = unsafe { rustix::mm::madvise(first as *mut _, len, rustix::mm::Advice::LinuxHugepage) };
}
