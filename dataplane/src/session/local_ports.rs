//! Local ports: which are in use between one local address and one real server.
//!
//! A reply is told apart by (real server, local address, local port), so the same
//! port of the same address serves many real servers, and each pair has all
//! 64,512 ports to itself. A pair is a bitmap of 8 KiB, taken from an arena on
//! first use and kept until another pair needs it while no port is in use; the arena is reserved at start
//! and its pages are touched only when used.
//!
//! The search begins where the last one ended, so a port rests as long as possible
//! before it is used again.

use super::index::FlowIndex;
use crate::flow::{Endpoint, FlowHasher, FlowKey, Protocol};
use crate::hugepages::{self, List};
use crate::prefetch::prefetch_near;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// The lowest port that is given out; those below belong to well-known services.
pub const FIRST_PORT: u16 = 1024;
/// Ports of one pair.
pub const PORTS_PER_PAIR: usize = 65_536 - FIRST_PORT as usize;
const WORDS: usize = PORTS_PER_PAIR / 64;

/// Between whom a local port is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The director's address.
    pub local: Ipv4Addr,
    /// The real server; two services that share it share its ports.
    pub real: Endpoint,
    /// TCP and UDP ports are apart.
    pub protocol: Protocol,
}

impl Pair {
    /// The pair in two words, which hash faster than its parts.
    fn key(self) -> FlowKey {
        FlowKey::new(self.protocol, self.real, Endpoint::new(self.local, 0))
    }
}

/// A port, and how many its pair's bitmap had given out before it. The search goes round, so the
/// first 64,512 are all different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The port.
    pub l4_port: u16,
    /// How many were given out before.
    pub before: u32,
    /// The port that the pair will probably give out next.
    pub next: u16,
}

/// Listed pairs looked at for one that is still idle: a turn must stay short. Each look shortens the
/// list, so that even in a full arena the next new session finds what this one did not.
const RECLAIM_TRIES: usize = 64;

/// One worker's local ports.
#[derive(Debug)]
pub struct LocalPorts {
    pairs: FlowIndex,
    hasher: FlowHasher,
    /// Where the search of each pair stands, apart from the bitmaps: with twenty thousand pairs
    /// these stay in the cache and the bitmaps do not.
    searches: List<Search>,
    bitmaps: Vec<[u64; WORDS]>,
    /// Pairs of which no port was in use when they were put here, each once, oldest first. They
    /// keep their bitmaps until others need them: a quiet service begins again at no cost.
    idle: VecDeque<u32>,
    /// Where the next new pair starts to search, so that pairs do not march in step.
    next_start: u16,
}

/// A pair's place; a hint, because the place may be given to another pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairIndex(u32);

/// Where the search for a pair's next port stands.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// The bitmap's word at the cursor: the truth is here, and written back when the search
    /// leaves the word. Sixty-four ports are given out without a look at the bitmap.
    word: u64,
    /// Ports in use.
    count: u32,
    /// How many ports were given out, for this pair and those that had the bitmap before: more
    /// caution than needed, never less.
    taken: u32,
    /// The port that is looked at next, counted from [`FIRST_PORT`].
    cursor: u16,
    /// Whether the pair is in the list of idle ones.
    listed: bool,
    pair: FlowKey,
}

impl Search {
    /// The first free port at or after the cursor, in a circle.
    fn take(&mut self, bitmap: &mut [u64; WORDS]) -> Option<u16> {
        if self.count as usize == PORTS_PER_PAIR {
            return None;
        }
        // Once more than there are words: ports before the cursor in its own word come last.
        for _ in 0..=WORDS {
            let free = !self.word & !0 << (self.cursor % 64);
            if free != 0 {
                let bit = free.trailing_zeros() as u16;
                let offset = self.cursor / 64 * 64 + bit;
                self.word |= 1 << bit;
                self.count += 1;
                self.taken = self.taken.saturating_add(1);
                self.move_to(offset + 1, bitmap);
                return Some(FIRST_PORT + offset);
            }
            self.move_to((self.cursor / 64 + 1) * 64, bitmap);
        }
        None
    }

    fn give_back(&mut self, l4_port: u16, bitmap: &mut [u64; WORDS]) {
        let offset = l4_port - FIRST_PORT;
        let word = if offset / 64 == self.cursor / 64 {
            &mut self.word
        } else {
            &mut bitmap[usize::from(offset / 64)]
        };
        debug_assert!(*word >> (offset % 64) & 1 == 1);
        *word &= !(1 << (offset % 64));
        self.count -= 1;
    }

    /// Puts the cursor on the port `offset`, counted round.
    fn move_to(&mut self, offset: u16, bitmap: &mut [u64; WORDS]) {
        let offset = offset % PORTS_PER_PAIR as u16;
        if offset / 64 != self.cursor / 64 {
            bitmap[usize::from(self.cursor / 64)] = self.word;
            self.word = bitmap[usize::from(offset / 64)];
        }
        self.cursor = offset;
    }
}

impl LocalPorts {
    /// Room for `pairs` pairs of local address and real server at a time.
    pub fn with_capacity(pairs: usize, hasher: FlowHasher) -> Self {
        Self {
            pairs: FlowIndex::with_capacity(pairs),
            hasher,
            searches: hugepages::reserved(pairs),
            bitmaps: Vec::with_capacity(pairs),
            idle: VecDeque::with_capacity(pairs),
            next_start: 0,
        }
    }

    /// How many pairs have had ports.
    pub fn pairs(&self) -> usize {
        self.searches.len()
    }

    /// Takes a port of `pair` that no session uses. `None` when all are in use, or when the arena
    /// has no room for another pair.
    pub fn take(&mut self, pair: Pair) -> Option<Taken> {
        let at = match self.find(pair) {
            Some(at) => at,
            None => self.open(pair)?,
        };
        let (search, bitmap) = (&mut self.searches[at as usize], &mut self.bitmaps[at as usize]);
        let before = search.taken;
        let l4_port = search.take(bitmap)?;
        Some(Taken { l4_port, before, next: FIRST_PORT + search.cursor })
    }

    /// Stage one of a lookup: asks for the bucket's line.
    pub fn prefetch_bucket(&self, pair: Pair) {
        self.pairs.prefetch(self.hasher.hash(pair.key()));
    }

    /// Stage two: the place that `pair` probably has, if it has had ports before; asks for its line.
    pub fn candidate(&self, pair: Pair) -> Option<PairIndex> {
        let at = self.pairs.find(self.hasher.hash(pair.key()), |_| true)?;
        prefetch_near(&self.searches[at as usize]);
        Some(PairIndex(at))
    }

    /// Stage three: the key of replies to the port at which the pair's next search begins.
    pub fn next_key(&self, PairIndex(at): PairIndex) -> FlowKey {
        let search = &self.searches[at as usize];
        search.pair.with_destination_port(FIRST_PORT + search.cursor)
    }

    /// Stage three: asks for the line that releasing a port needs.
    pub fn prefetch_port(&self, PairIndex(at): PairIndex, l4_port: u16) {
        prefetch_near(&self.bitmaps[at as usize][usize::from(l4_port - FIRST_PORT) / 64]);
    }

    /// Gives back a port that [`take`](Self::take) gave out.
    pub fn release(&mut self, pair: Pair, l4_port: u16) {
        let Some(at) = self.find(pair) else { return };
        let search = &mut self.searches[at as usize];
        search.give_back(l4_port, &mut self.bitmaps[at as usize]);
        if search.count == 0 && !search.listed {
            search.listed = true;
            self.idle.push_back(at);
        }
    }

    /// The port at which the next search would begin: the one that has been in use
    /// longest when all are.
    pub fn oldest(&self, pair: Pair) -> Option<u16> {
        let at = self.find(pair)?;
        Some(FIRST_PORT + self.searches[at as usize].cursor)
    }

    /// Passes over the port at the cursor, because its session cannot be ended.
    pub fn skip(&mut self, pair: Pair) {
        if let Some(at) = self.find(pair) {
            let search = &mut self.searches[at as usize];
            search.move_to(search.cursor + 1, &mut self.bitmaps[at as usize]);
        }
    }

    /// Ports of `pair` now in use.
    pub fn used(&self, pair: Pair) -> usize {
        self.find(pair).map_or(0, |at| self.searches[at as usize].count as usize)
    }

    fn find(&self, pair: Pair) -> Option<u32> {
        let key = pair.key();
        self.pairs.find(self.hasher.hash(key), |at| self.searches[at as usize].pair == key)
    }

    fn open(&mut self, pair: Pair) -> Option<u32> {
        // Others' bitmaps are taken before new ones while most are idle, which bounds the memory
        // to twice of what is in use.
        let full = self.bitmaps.len() == self.bitmaps.capacity();
        let mostly_idle = self.idle.len() > self.bitmaps.len() / 2;
        let reused = if full || mostly_idle { self.reclaim() } else { None };
        let at = match reused {
            Some(at) => at,
            None if full => return None,
            None => {
                // Within the capacity that was reserved at start: no allocation.
                let (cursor, pair) = (self.next_start, FlowKey::NONE);
                self.searches.push(Search { word: 0, count: 0, taken: 0, cursor, listed: false, pair });
                self.bitmaps.push([0; WORDS]);
                self.bitmaps.len() as u32 - 1
            }
        };
        let key = pair.key();
        if self.pairs.insert(self.hasher.hash(key), at).is_err() {
            // The bitmap waits for the next that asks.
            self.searches[at as usize].pair = FlowKey::NONE;
            self.idle.push_front(at);
            return None;
        }
        // A prime step of about 1/11 of the range.
        self.next_start = ((usize::from(self.next_start) + 5_869) % PORTS_PER_PAIR) as u16;
        self.searches[at as usize].pair = key;
        Some(at)
    }

    /// Takes the bitmap of the pair that has been idle longest, of those that a bounded look finds.
    fn reclaim(&mut self) -> Option<u32> {
        for _ in 0..RECLAIM_TRIES {
            let at = self.idle.pop_front()?;
            let search = &mut self.searches[at as usize];
            search.listed = false;
            // Otherwise its ports came into use again, and it will be listed when they no longer are.
            if search.count == 0 {
                self.pairs.remove(self.hasher.hash(search.pair), at);
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ports(pairs: usize) -> LocalPorts {
        LocalPorts::with_capacity(pairs, FlowHasher::new([1, 2, 3, 4]))
    }

    fn pair(last: u8) -> Pair {
        Pair {
            local: Ipv4Addr::new(10, 0, 0, 200),
            real: Endpoint::new(Ipv4Addr::new(10, 0, 0, last), 80),
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn the_same_port_serves_two_servers() {
        let mut ports = ports(2);
        let first: BTreeSet<_> = (0..PORTS_PER_PAIR).map(|_| ports.take(pair(1)).unwrap().l4_port).collect();
        let second: BTreeSet<_> = (0..PORTS_PER_PAIR).map(|_| ports.take(pair(2)).unwrap().l4_port).collect();

        assert_eq!(first.len(), PORTS_PER_PAIR);
        assert_eq!(first, second);
        assert_eq!(ports.take(pair(1)), None);
        assert_eq!(first.first(), Some(&FIRST_PORT));
        assert_eq!(first.last(), Some(&u16::MAX));
    }

    #[test]
    fn a_released_port_rests_until_the_others_were_used() {
        let mut ports = ports(1);
        let first = ports.take(pair(1)).unwrap().l4_port;
        let keep = ports.take(pair(1)).unwrap().l4_port;
        ports.release(pair(1), first);

        let following: Vec<_> = (0..PORTS_PER_PAIR - 1).map(|_| ports.take(pair(1)).unwrap()).collect();

        let last = following.last().map(|taken| (taken.l4_port, taken.before));
        assert_eq!(last, Some((first, PORTS_PER_PAIR as u32)));
        assert!(following.iter().all(|taken| taken.l4_port != keep));
    }

    #[test]
    fn a_pair_without_ports_in_use_gives_its_bitmap_to_another() {
        let mut ports = ports(1);
        let l4_port = ports.take(pair(1)).unwrap().l4_port;
        assert_eq!(ports.take(pair(2)), None);

        ports.release(pair(1), l4_port);

        assert!(ports.take(pair(2)).is_some());
    }

    #[test]
    fn a_pair_that_was_idle_goes_on_where_it_was() {
        let mut ports = ports(4);
        let first = ports.take(pair(1)).unwrap();
        ports.release(pair(1), first.l4_port);

        let second = ports.take(pair(1)).unwrap();

        assert_eq!((second.before, second.l4_port), (1, first.next));
    }

    #[test]
    fn idle_pairs_make_room_before_more_memory_is_taken() {
        let mut ports = ports(100);
        for last in 0..100 {
            let l4_port = ports.take(pair(last)).unwrap().l4_port;
            ports.release(pair(last), l4_port);
        }

        assert!(ports.bitmaps.len() <= 2, "{} bitmaps for one pair at a time", ports.bitmaps.len());
    }

    proptest! {
        #[test]
        fn no_port_is_given_out_twice(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..2000)) {
            let mut ports = ports(1);
            let mut twin: Vec<u16> = Vec::new();
            for (take, which) in steps {
                if take || twin.is_empty() {
                    let l4_port = ports.take(pair(1)).unwrap().l4_port;
                    prop_assert!(!twin.contains(&l4_port));
                    twin.push(l4_port);
                } else {
                    ports.release(pair(1), twin.swap_remove(which.index(twin.len())));
                }
                prop_assert_eq!(ports.used(pair(1)), twin.len());
            }
        }
    }
}
