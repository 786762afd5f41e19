//! Datagrams in pieces: what their first piece said, for the others, which have no ports.
//!
//! Pieces are followed, not put together: a small table of fixed size knows for each datagram which
//! bytes have come and whose they are. Pieces that overlap poison their datagram (RFC 5722 §3); what
//! does not come to an end in time is forgotten.

use crate::clock::Instant;
use crate::drop::DropReason;
use crate::flow::FlowKey6;
use crate::wire::Fragment;
use arrayvec::ArrayVec;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Datagrams that are followed at a time; each takes 300 bytes.
const DATAGRAMS: usize = 1_024;
/// Pieces of one datagram: 64 KiB in pieces of 1,480 bytes are 45.
const PIECES: usize = 64;
/// Pieces that wait for the first of their datagram, over all datagrams.
pub const HELD_MAX: usize = 256;
/// How long a datagram may take. Pieces of one are sent at once; thirty seconds, as hosts wait, would
/// only help those who send no ends.
const LIFETIME: Duration = Duration::from_secs(2);

/// A datagram's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramId(u16);

/// What the pieces of a datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// Who sends.
    pub source: IpAddr,
    /// Who receives.
    pub destination: IpAddr,
    /// The identification that the sender gave it.
    pub identification: u32,
    /// IPv4's protocol; 0 for IPv6, where pieces may name an extension header.
    pub protocol: u8,
}

/// What is to be done with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is the first piece: its ports decide; then say so by [`Fragments::follow`].
    First(DatagramId),
    /// It belongs to this flow.
    Follow(FlowKey6),
    /// It must wait for the first.
    Hold(DatagramId),
}

/// What became of the pieces that waited for a datagram's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// They can go on.
    Release(DatagramId),
    /// They wait in vain.
    Abandon(DatagramId),
}

#[derive(Clone, Debug)]
struct Datagram {
    key: DatagramKey,
    since: Instant,
    flow: Option<FlowKey6>,
    /// Why no more pieces are taken.
    poison: Option<DropReason>,
    /// First and last byte + 1 of each piece that came.
    pieces: ArrayVec<(u32, u32), PIECES>,
    /// Bytes in all, once the last piece came.
    total: Option<u32>,
    received: u32,
    held: usize,
}

/// The datagrams of one worker. Its keys are random, as the standard library's maps are.
#[derive(Debug)]
pub struct Fragments {
    datagrams: Vec<Option<Datagram>>,
    by_key: HashMap<DatagramKey, DatagramId>,
    free: VecDeque<DatagramId>,
    /// The place that is looked at next for a datagram that takes too long.
    next_look: usize,
    settled: VecDeque<Settled>,
    held: usize,
}

impl Default for Fragments {
    fn default() -> Self {
        Self {
            datagrams: vec![None; DATAGRAMS],
            by_key: HashMap::with_capacity(DATAGRAMS),
            free: (0..DATAGRAMS as u16).map(DatagramId).collect(),
            next_look: 0,
            settled: VecDeque::with_capacity(2 * DATAGRAMS),
            held: 0,
        }
    }
}

impl Fragments {
    /// Datagrams that are kept at a time.
    pub const CAPACITY: usize = DATAGRAMS;

    /// How many datagrams are kept.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Takes note of a piece.
    ///
    /// # Errors
    /// Why it must be dropped.
    pub fn take(&mut self, key: DatagramKey, piece: &Fragment, now: Instant) -> Result<Step, DropReason> {
        let end = piece.offset + piece.len;
        // RFC 791 §3.2, RFC 8200 §4.5: pieces but the last are multiples of eight bytes, and the whole has
        // an end.
        if piece.len == 0 || piece.more && !piece.len.is_multiple_of(8) {
            return Err(DropReason::FragmentMalformed);
        }
        if end > u32::from(u16::MAX) {
            return Err(DropReason::FragmentTooLong);
        }
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => self.begin(key, now).ok_or(DropReason::FragmentTableFull)?,
        };
        let held = self.held;
        let Some(datagram) = &mut self.datagrams[usize::from(id.0)] else {
            return Err(DropReason::FragmentTableFull);
        };
        datagram.note(piece.offset, end, piece.more)?;
        let step = match datagram.flow {
            _ if piece.offset == 0 => Step::First(id),
            Some(flow) => Step::Follow(flow),
            None if held >= HELD_MAX => return Err(DropReason::FragmentTableFull),
            None => {
                datagram.held += 1;
                self.held += 1;
                return Ok(Step::Hold(id));
            }
        };
        if piece.offset != 0 {
            self.end_if_complete(id);
        }
        Ok(step)
    }

    /// A piece that waited comes again: whose it is.
    ///
    /// # Errors
    /// When its datagram was given up.
    pub fn resume(&mut self, key: DatagramKey) -> Result<FlowKey6, DropReason> {
        let id = *self.by_key.get(&key).ok_or(DropReason::FragmentTimeout)?;
        let datagram = self.datagrams[usize::from(id.0)].as_mut().ok_or(DropReason::FragmentTimeout)?;
        datagram.held = datagram.held.saturating_sub(1);
        self.held = self.held.saturating_sub(1);
        let flow = match (datagram.poison, datagram.flow) {
            (Some(reason), _) => Err(reason),
            (None, flow) => flow.ok_or(DropReason::FragmentTimeout),
        };
        self.end_if_complete(id);
        flow
    }

    /// The first piece said whose the datagram is; `Err` if it was dropped, and the others shall be too.
    pub fn follow(&mut self, id: DatagramId, flow: Result<FlowKey6, DropReason>) {
        let Some(datagram) = &mut self.datagrams[usize::from(id.0)] else { return };
        match flow {
            Ok(flow) => datagram.flow = Some(flow),
            Err(reason) => datagram.poison = Some(reason),
        }
        if datagram.held > 0 {
            self.settled.push_back(Settled::Release(id));
        }
        self.end_if_complete(id);
    }

    /// Forgets datagrams that took too long; looks at a few places.
    #[inline]
    pub fn expire(&mut self, now: Instant) {
        /// A turn takes a microsecond or more, so all places are seen within a few milliseconds.
        const LOOKS: usize = 8;
        if self.by_key.is_empty() {
            return;
        }
        for _ in 0..LOOKS {
            let at = self.next_look;
            self.next_look = (at + 1) % DATAGRAMS;
            if self.datagrams[at].as_ref().is_some_and(|datagram| now.since(datagram.since) >= LIFETIME) {
                self.end(DatagramId(at as u16));
            }
        }
    }

    /// What became of pieces that waited, once for each datagram.
    #[inline]
    pub fn next_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }

    fn begin(&mut self, key: DatagramKey, now: Instant) -> Option<DatagramId> {
        let id = self.free.pop_front()?;
        self.datagrams[usize::from(id.0)] = Some(Datagram {
            key,
            since: now,
            flow: None,
            poison: None,
            pieces: ArrayVec::new(),
            total: None,
            received: 0,
            held: 0,
        });
        self.by_key.insert(key, id);
        Some(id)
    }

    fn end_if_complete(&mut self, id: DatagramId) {
        let is_complete = self.datagrams[usize::from(id.0)].as_ref().is_some_and(|datagram| {
            datagram.total == Some(datagram.received) && datagram.flow.is_some() && datagram.held == 0
        });
        if is_complete {
            self.end(id);
        }
    }

    fn end(&mut self, id: DatagramId) {
        let Some(datagram) = self.datagrams[usize::from(id.0)].take() else { return };
        self.by_key.remove(&datagram.key);
        if datagram.held > 0 {
            self.held -= datagram.held;
            self.settled.push_back(Settled::Abandon(id));
        }
        self.free.push_back(id);
    }
}

impl Datagram {
    /// Adds the bytes from `start` to `end`, of which nothing may have come yet.
    fn note(&mut self, start: u32, end: u32, more: bool) -> Result<(), DropReason> {
        if let Some(reason) = self.poison {
            return Err(reason);
        }
        if self.pieces.contains(&(start, end)) {
            // The network may double a packet; once was enough.
            return Err(DropReason::FragmentOverlap);
        }
        let overlaps = self.pieces.iter().any(|(other, other_end)| start < *other_end && *other < end);
        let past_end = self.total.is_some_and(|total| end > total || !more);
        let cuts_short = !more && self.pieces.iter().any(|(_, other_end)| *other_end > end);
        if overlaps || past_end || cuts_short || self.pieces.try_push((start, end)).is_err() {
            self.poison = Some(DropReason::FragmentOverlap);
            return Err(DropReason::FragmentOverlap);
        }
        self.received += end - start;
        if !more {
            self.total = Some(end);
        }
        Ok(())
    }
}
