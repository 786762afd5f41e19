//! What waits for a device to take it, and how long it is together.

use crate::port::{Buffer, Burst};

/// Packets on their way out by one port. Their bytes are counted as they come, because mostly the burst that they came
/// in has its sum already: asking each again costs eight instructions.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    /// Boxed, so that a whole burst changes its place by a pointer.
    burst: Box<Burst<B>>,
    bytes: usize,
}

impl<B: Buffer> Outgoing<B> {
    pub(super) fn new() -> Self {
        Self { burst: Box::default(), bytes: 0 }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.burst.is_empty()
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.burst.is_full()
    }

    /// Adds one.
    ///
    /// # Panics
    /// When there is no room.
    #[inline]
    pub(super) fn push(&mut self, buffer: B) {
        self.bytes += buffer.len();
        self.burst.push(buffer);
    }

    /// Takes a whole burst of so many bytes, where nothing waits, and leaves an empty one.
    #[inline]
    pub(super) fn swap(&mut self, burst: &mut Box<Burst<B>>, bytes: usize) {
        debug_assert!(self.burst.is_empty());
        std::mem::swap(&mut self.burst, burst);
        self.bytes = bytes;
    }

    /// The packets, to be sent or freed, every one, and their bytes.
    #[inline]
    pub(super) fn whole(&mut self) -> (&mut Burst<B>, usize) {
        (&mut self.burst, std::mem::take(&mut self.bytes))
    }
}
