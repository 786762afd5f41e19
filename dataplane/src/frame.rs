//! The bytes of one packet while the director works on it.

use std::ops::Range;

/// Most packets one turn takes from one queue.
pub const BURST_SIZE: usize = 32;

/// A view of one frame inside the room that its buffer offers.
///
/// The room reaches before and behind the frame (an mbuf has 128 bytes of
/// headroom), so a header is put in front by moving an offset. The worker
/// writes the final window back to the buffer.
#[derive(Debug)]
pub struct Frame<'a> {
    room: &'a mut [u8],
    start: usize,
    end: usize,
}

impl<'a> Frame<'a> {
    /// A frame at `window` of `room`.
    ///
    /// # Panics
    /// When the window does not lie inside the room.
    #[inline]
    pub fn new(room: &'a mut [u8], window: Range<usize>) -> Self {
        assert!(window.start <= window.end && window.end <= room.len());
        Self { room, start: window.start, end: window.end }
    }

    /// The frame's bytes, from the Ethernet header on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    /// The frame's bytes, to be changed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.end]
    }

    /// Where the frame now lies in its room.
    #[inline]
    pub fn window(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Cuts the frame to `len` bytes; a shorter frame stays as it is.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Puts `len` bytes of unspecified content in front. False when the headroom is too small.
    pub fn prepend(&mut self, len: usize) -> bool {
        match self.start.checked_sub(len) {
            Some(start) => {
                self.start = start;
                true
            }
            None => false,
        }
    }
}
