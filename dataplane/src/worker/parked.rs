//! Packets that wait until a neighbour's station address is known.

use crate::clock::Instant;
use crate::snapshot::{Neighbors, NextHop};
use crate::wire::EthernetHeader;
use arrayvec::ArrayVec;
use std::time::Duration;

/// Packets that may wait in all.
const TOTAL: usize = 256;
/// Packets that may wait for one neighbour, so that an absent one cannot use up the room.
const PER_NEIGHBOR: usize = 32;
/// How long a packet waits: three ARP requests, a second apart.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waiting packets, oldest first.
#[derive(Debug)]
pub(super) struct Parked<B> {
    waiting: ArrayVec<Waiting<B>, TOTAL>,
}

#[derive(Debug)]
struct Waiting<B> {
    hop: NextHop,
    since: Instant,
    buffer: B,
}

impl<B> Default for Parked<B> {
    fn default() -> Self {
        Self { waiting: ArrayVec::new() }
    }
}

impl<B> Parked<B> {
    /// Lets `buffer` wait for `hop`; gives it back when there is no room.
    pub(super) fn park(&mut self, hop: NextHop, buffer: B, now: Instant) -> Result<(), B> {
        let same = self.waiting.iter().filter(|waiting| waiting.hop == hop).count();
        if self.waiting.is_full() || same >= PER_NEIGHBOR {
            return Err(buffer);
        }
        self.waiting.push(Waiting { hop, since: now, buffer });
        Ok(())
    }

    /// The oldest packet whose neighbour is now known.
    pub(super) fn next_resolved(&mut self, neighbors: &Neighbors) -> Option<(NextHop, EthernetHeader, B)> {
        let (at, header) = self
            .waiting
            .iter()
            .enumerate()
            .find_map(|(at, waiting)| Some((at, neighbors.header(waiting.hop)?)))?;
        let waiting = self.waiting.remove(at);
        Some((waiting.hop, header, waiting.buffer))
    }

    /// The oldest packet, if it has waited too long.
    pub(super) fn next_overdue(&mut self, now: Instant) -> Option<B> {
        let oldest = self.waiting.first()?;
        (now.since(oldest.since) >= PATIENCE).then(|| self.waiting.remove(0).buffer)
    }
}
