//! Fragments that came before the first of their datagram.

use crate::frame::BURST_SIZE;
use crate::ids::PortId;
use crate::session::{DatagramId, HELD_MAX};

/// Those that may wait, and those that a burst adds before others are given up for them.
const ROOM: usize = HELD_MAX + BURST_SIZE;

/// The fragments that one worker keeps, in the order in which they came.
#[derive(Debug)]
pub(super) struct Held<B>(Vec<(DatagramId, PortId, B)>);

impl<B> Default for Held<B> {
    fn default() -> Self {
        Self(Vec::with_capacity(ROOM))
    }
}

impl<B> Held<B> {
    /// Keeps a fragment that came by a port; gives it back when there is no room.
    pub(super) fn put(&mut self, id: DatagramId, from: PortId, buffer: B) -> Result<(), B> {
        if self.0.len() == ROOM {
            return Err(buffer);
        }
        self.0.push((id, from, buffer));
        Ok(())
    }

    /// Whether there is no room.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() == ROOM
    }

    /// The next fragment of a datagram.
    pub(super) fn take(&mut self, id: DatagramId) -> Option<(PortId, B)> {
        let at = self.0.iter().position(|(other, ..)| *other == id)?;
        let (_, from, buffer) = self.0.remove(at);
        Some((from, buffer))
    }
}
