//! Datagrams in pieces: what their first piece said, for the others, which have no ports.
//!
//! Pieces are followed, not put together: a small table of fixed size knows for each datagram which
//! bytes have come and whose they are. Pieces that overlap poison their datagram (RFC 5722 §3); what
//! does not come to an end in time is forgotten. In a full table the oldest makes room; senders of one network (/24, /48)
//! that have a quarter of it make room for their own.

use crate::clock::Instant;
use crate::drop::DropReason;
use crate::flow::FlowKey6;
use crate::network::Network;
use crate::wire::Fragment;
use arrayvec::ArrayVec;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Datagrams that are followed at a time; each takes 620 bytes.
const DATAGRAMS: usize = 8_192;
/// Datagrams of one network; another one ends the network's oldest.
const SHARE: u16 = (DATAGRAMS / 4) as u16;
/// Kinds of networks that are told apart, by a hash.
const NETWORKS: usize = 256;
/// Datagrams among which one is found that makes room: the oldest ones.
const CANDIDATES: usize = 32;
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
    /// They wait in vain, for this reason.
    Abandon(DatagramId, DropReason),
}

#[derive(Clone, Debug)]
struct Datagram {
    key: DatagramKey,
    /// Its sender's network, as its hash.
    network: u8,
    /// The datagrams that came before and after it, in places of the table.
    before: Option<DatagramId>,
    after: Option<DatagramId>,
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
    oldest: Option<DatagramId>,
    newest: Option<DatagramId>,
    /// Datagrams of each network's hash.
    shares: [u16; NETWORKS],
    networks: RandomState,
    settled: VecDeque<Settled>,
    held: usize,
}

impl Default for Fragments {
    fn default() -> Self {
        Self {
            datagrams: vec![None; DATAGRAMS],
            by_key: HashMap::with_capacity(DATAGRAMS),
            free: (0..DATAGRAMS as u16).map(DatagramId).collect(),
            oldest: None,
            newest: None,
            shares: [0; NETWORKS],
            networks: RandomState::new(),
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
        let Some(datagram) = &mut self.datagrams[usize::from(id.0)] else {
            return Err(DropReason::FragmentTableFull);
        };
        datagram.note(piece.offset, end, piece.more)?;
        let step = match datagram.flow {
            _ if piece.offset == 0 => Step::First(id),
            Some(flow) => Step::Follow(flow),
            None => {
                datagram.held += 1;
                self.held += 1;
                if self.held > HELD_MAX && !self.end_holder() {
                    self.unhold(id);
                    return Err(DropReason::FragmentTableFull);
                }
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
        self.unhold(id);
        let datagram = self.at(id).ok_or(DropReason::FragmentTimeout)?;
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

    /// Forgets datagrams that took too long; a few of them.
    #[inline]
    pub fn expire(&mut self, now: Instant) {
        /// A turn takes a microsecond or more, so a full table is empty within milliseconds.
        const ENDS: usize = 8;
        for _ in 0..ENDS {
            let Some(id) = self
                .oldest
                .filter(|id| self.at(*id).is_some_and(|datagram| now.since(datagram.since) >= LIFETIME))
            else {
                return;
            };
            self.end(id, DropReason::FragmentTimeout);
        }
    }

    /// What became of pieces that waited, once for each datagram.
    #[inline]
    pub fn next_settled(&mut self) -> Option<Settled> {
        let settled = self.settled.pop_front()?;
        self.note_settled(settled);
        Some(settled)
    }

    /// What became of pieces that wait in vain, before what became of others.
    pub fn next_abandoned(&mut self) -> Option<Settled> {
        let is_one = |settled: &Settled| matches!(settled, Settled::Abandon(..));
        let at = self.settled.iter().position(is_one)?;
        let settled = self.settled.remove(at)?;
        if let Settled::Abandon(id, _) = settled {
            // None is left that could be released.
            self.settled.retain(|other| *other != Settled::Release(id));
        }
        self.note_settled(settled);
        Some(settled)
    }

    fn note_settled(&mut self, settled: Settled) {
        if let Settled::Abandon(id, _) = settled {
            // Nothing waits under this number any more.
            self.free.push_back(id);
        }
    }

    /// The datagram in a place, if the place is in use.
    fn at(&self, id: DatagramId) -> Option<&Datagram> {
        self.datagrams[usize::from(id.0)].as_ref()
    }

    fn at_mut(&mut self, id: DatagramId) -> Option<&mut Datagram> {
        self.datagrams[usize::from(id.0)].as_mut()
    }

    /// One piece of a datagram waits no longer.
    fn unhold(&mut self, id: DatagramId) {
        if let Some(datagram) = self.at_mut(id) {
            datagram.held = datagram.held.saturating_sub(1);
            self.held = self.held.saturating_sub(1);
        }
    }

    fn network(&self, id: DatagramId) -> Option<u8> {
        self.at(id).map(|datagram| datagram.network)
    }

    /// Datagrams from the oldest on.
    fn in_order(&self) -> impl Iterator<Item = DatagramId> {
        std::iter::successors(self.oldest, |id| self.at(*id)?.after)
    }

    /// Makes room for a datagram of a network, if it has its share, or the table is full. False where a network has its
    /// share and none of the oldest is its own.
    fn make_room(&mut self, network: u8) -> bool {
        let has_share = self.shares[usize::from(network)] >= SHARE;
        if !has_share && !self.free.is_empty() {
            return true;
        }
        let leaving = match has_share {
            true => self.in_order().take(CANDIDATES).find(|id| self.network(*id) == Some(network)),
            // The first of those with the largest share; the place of one that has waiting pieces is not free at once.
            false => self.in_order().take(CANDIDATES).min_by_key(|id| {
                let holds = self.at(*id).is_some_and(|datagram| datagram.held > 0);
                (holds, std::cmp::Reverse(self.share_of(*id)))
            }),
        };
        let Some(id) = leaving else { return false };
        self.end(id, DropReason::FragmentTableFull);
        true
    }

    /// How many datagrams the network of this one has.
    fn share_of(&self, id: DatagramId) -> u16 {
        self.network(id).map_or(0, |network| self.shares[usize::from(network)])
    }

    /// Gives up an old datagram that has pieces which wait, if there is one among the oldest.
    fn end_holder(&mut self) -> bool {
        let is_one = |id: &DatagramId| self.at(*id).is_some_and(|datagram| datagram.held > 0);
        let Some(id) = self.in_order().take(CANDIDATES).find(is_one) else { return false };
        self.end(id, DropReason::FragmentTableFull);
        true
    }

    fn begin(&mut self, key: DatagramKey, now: Instant) -> Option<DatagramId> {
        let network = self.networks.hash_one(network_of(key.source)) as u8;
        let id = if self.make_room(network) { self.free.pop_front()? } else { return None };
        let before = self.newest.replace(id);
        match before {
            Some(before) => self.at_mut(before).into_iter().for_each(|datagram| datagram.after = Some(id)),
            None => self.oldest = Some(id),
        }
        self.shares[usize::from(network)] += 1;
        self.datagrams[usize::from(id.0)] = Some(Datagram {
            key,
            network,
            before,
            after: None,
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
            // Nothing waits.
            self.end(id, DropReason::FragmentTimeout);
        }
    }

    /// Ends a datagram; pieces that wait are dropped for this reason.
    fn end(&mut self, id: DatagramId, why: DropReason) {
        let Some(datagram) = self.datagrams[usize::from(id.0)].take() else { return };
        self.by_key.remove(&datagram.key);
        self.shares[usize::from(datagram.network)] -= 1;
        match datagram.before.and_then(|before| self.at_mut(before)) {
            Some(before) => before.after = datagram.after,
            None => self.oldest = datagram.after,
        }
        match datagram.after.and_then(|after| self.at_mut(after)) {
            Some(after) => after.before = datagram.before,
            None => self.newest = datagram.before,
        }
        if datagram.held > 0 {
            self.held -= datagram.held;
            // Its place is free when nothing waits there any more.
            self.settled.push_back(Settled::Abandon(id, why));
        } else {
            self.free.push_back(id);
        }
    }
}

/// The network that a sender is counted to: a /24, or a /48.
fn network_of(address: IpAddr) -> IpAddr {
    Network { address, prefix_len: if address.is_ipv4() { 24 } else { 48 } }.base()
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
