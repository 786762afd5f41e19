//! Local ports: which are in use between one local address and one real server.
//!
//! A reply is told apart by (real server, local address, local port), so the same
//! port of the same address serves many real servers, and each pair has all
//! 64,512 ports to itself, of which each worker has its share: those whose replies come to it
//! ([`crate::steering`]). A pair is a bitmap of that share, 8 KiB for a worker that is alone, taken from an arena on
//! first use and kept until another pair needs it while no port is in use; the arena is reserved at start
//! and its pages are touched only when used.
//!
//! The search begins where the last one ended, so a port rests as long as possible
//! before it is used again.

use super::index::FlowIndex;
use crate::flow::{Endpoint, FlowHasher, Key, Protocol};
use crate::hugepages::{self, List};
use crate::ids::PortId;
use crate::prefetch::prefetch_near;
use crate::steering::{FIRST_PORT, PortSpace, Region, Seat};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Ports of one pair, over all workers.
pub const PORTS_PER_PAIR: usize = 65_536 - FIRST_PORT as usize;

/// Between whom a local port is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The director's address.
    pub local: IpAddr,
    /// The real server; two services that share it share its ports.
    pub real: Endpoint,
    /// Each protocol's ports are apart.
    pub protocol: Protocol,
}

impl Pair {
    /// The key of the server's replies, but for the port, which is zero.
    pub fn key<K: Key>(self) -> K {
        K::new(self.protocol, self.real, Endpoint::new(self.local, 0))
    }
}

/// A port that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The port.
    pub l4_port: u16,
    /// How many its pair's bitmap had given out before.
    pub before: u32,
    /// Whether the search has come round, so that a connection may have had the port before.
    pub again: bool,
    /// The port that the pair will probably give out next.
    pub next: u16,
}

/// Listed pairs looked at for one that is still idle: a turn must stay short. Each look shortens the
/// list, so that even in a full arena the next new session finds what this one did not.
const RECLAIM_TRIES: usize = 64;

/// One worker's local ports. A pair is the key of its server's replies, but for the port, which is zero.
#[derive(Debug)]
pub struct LocalPorts<K> {
    seat: Seat,
    pairs: FlowIndex,
    hasher: FlowHasher,
    /// Where the search of each pair stands, apart from the bitmaps: with twenty thousand pairs
    /// these stay in the cache and the bitmaps do not.
    searches: List<Search<K>>,
    /// A bit for each of the worker's ports of each pair; the same room for each pair.
    bitmaps: Vec<u64>,
    words_per_pair: usize,
    /// Pairs of which no port was in use when they were put here, each once, oldest first. They
    /// keep their bitmaps until others need them: a quiet service begins again at no cost.
    idle: VecDeque<u32>,
    /// Where the next new pair starts to search, so that pairs do not march in step.
    next_start: usize,
}

/// A pair's place; a hint, because the place may be given to another pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairIndex(u32);

/// Where the search for a pair's next port stands. Ports are counted as in [`PortSpace`].
#[derive(Clone, Copy, Debug)]
struct Search<K> {
    /// The bitmap's word at the cursor: the truth is here, and written back when the search
    /// leaves the word. Sixty-four ports are given out without a look at the bitmap.
    word: u64,
    pair: K,
    /// How many ports were given out, for this pair and those that had the bitmap before: more
    /// caution than needed, never less.
    taken: u32,
    /// Bits that are set, those of ports that are never given out included.
    count: u32,
    /// Bits of ports below [`FIRST_PORT`].
    barred: u16,
    /// The port that is looked at next.
    cursor: u16,
    region: Region,
    /// The port by which replies come, whose plan gave the region.
    port: PortId,
    /// Whether the pair is in the list of idle ones.
    listed: bool,
}

impl<K: Key> Search<K> {
    const NOTHING: Self = Self {
        word: 0,
        pair: K::NONE,
        taken: 0,
        count: 0,
        barred: 0,
        cursor: 0,
        region: Region::NOTHING,
        port: PortId(0),
        listed: false,
    };

    /// The first free place, of `len`, at or after the cursor, in a circle.
    fn take(&mut self, bitmap: &mut [u64], len: usize) -> Option<usize> {
        if self.count as usize == len {
            return None;
        }
        // Once more than there are words: places before the cursor in its own word come last.
        for _ in 0..=len.div_ceil(64) {
            let free = !self.word & !0 << (self.cursor % 64);
            if free != 0 {
                let bit = free.trailing_zeros() as u16;
                let place = self.cursor / 64 * 64 + bit;
                self.word |= 1 << bit;
                self.count += 1;
                self.taken = self.taken.saturating_add(1);
                self.move_to(usize::from(place) + 1, bitmap, len);
                return Some(usize::from(place));
            }
            self.move_to((usize::from(self.cursor) / 64 + 1) * 64, bitmap, len);
        }
        None
    }

    /// The place that [`take`](Self::take) would give.
    fn next(&self, bitmap: &[u64], len: usize) -> Option<usize> {
        if self.count as usize == len {
            return None;
        }
        let own = usize::from(self.cursor) / 64;
        let words = len.div_ceil(64);
        (0..=words).find_map(|step| {
            let at = (own + step) % words;
            let word = if at == own { self.word } else { bitmap[at] };
            // The cursor's own word comes first from the cursor on, and last whole.
            let from = if step == 0 { self.cursor % 64 } else { 0 };
            let free = !word & !0 << from;
            (free != 0).then(|| at * 64 + free.trailing_zeros() as usize)
        })
    }

    fn give_back(&mut self, place: usize, bitmap: &mut [u64]) {
        let at = place / 64;
        let word = if at == usize::from(self.cursor) / 64 { &mut self.word } else { &mut bitmap[at] };
        debug_assert!(*word >> (place % 64) & 1 == 1);
        *word &= !(1 << (place % 64));
        self.count -= 1;
    }

    /// Puts the cursor on `place`, counted round.
    fn move_to(&mut self, place: usize, bitmap: &mut [u64], len: usize) {
        let place = if place >= len { 0 } else { place };
        let (from, to) = (usize::from(self.cursor) / 64, place / 64);
        if from != to {
            bitmap[from] = self.word;
            self.word = bitmap[to];
        }
        self.cursor = place as u16;
    }

    fn is_idle(&self) -> bool {
        self.count == u32::from(self.barred)
    }
}

impl<K: Key> LocalPorts<K> {
    /// Room for `pairs` pairs of local address and real server at a time, for the worker in `seat`.
    pub fn with_capacity(pairs: usize, hasher: FlowHasher, seat: Seat) -> Self {
        let spaces = seat.steering.ports.iter().flat_map(|port| {
            Protocol::ALL.map(|protocol| port.plan.space::<K>(protocol).len_max(seat.worker))
        });
        let words_per_pair = spaces.max().unwrap_or(0).div_ceil(64);
        Self {
            pairs: FlowIndex::with_capacity(pairs),
            hasher,
            searches: hugepages::reserved(pairs),
            bitmaps: Vec::with_capacity(pairs * words_per_pair),
            words_per_pair,
            idle: VecDeque::with_capacity(pairs),
            // Elsewhere at each start: a server may still know the ports that an earlier process used last.
            next_start: hasher.hash(K::NONE) as usize % PORTS_PER_PAIR,
            seat,
        }
    }

    /// How many pairs have had ports.
    pub fn pairs(&self) -> usize {
        self.searches.len()
    }

    /// Takes a port of `pair` that no session uses and whose replies come to this worker by `port`.
    /// `None` when all are in use, or when the arena has no room for another pair.
    pub fn take(&mut self, pair: K, port: PortId) -> Option<Taken> {
        let at = match self.find(pair) {
            Some(at) => at,
            None => self.open(pair, port)?,
        };
        let (search, bitmap, space) =
            parts(&mut self.searches, &mut self.bitmaps, self.words_per_pair, &self.seat, at);
        let (worker, region) = (self.seat.worker, search.region);
        let before = search.taken;
        let len = space.len(worker, region);
        let again = before as usize >= len - usize::from(search.barred);
        let place = search.take(bitmap, len)?;
        Some(Taken {
            l4_port: space.l4_port(worker, region, place),
            before,
            again,
            next: space.l4_port(worker, region, usize::from(search.cursor)),
        })
    }

    /// The port that [`take`](Self::take) would give; nothing changes.
    pub fn peek(&self, pair: K, port: PortId) -> Option<u16> {
        if let Some(at) = self.find(pair) {
            let search = &self.searches[at as usize];
            let (space, worker) = (self.space(search), self.seat.worker);
            let bitmap = &self.bitmaps[at as usize * self.words_per_pair..][..self.words_per_pair];
            let place = search.next(bitmap, space.len(worker, search.region))?;
            return Some(space.l4_port(worker, search.region, place));
        }
        let plan = &self.seat.steering.port(port).plan;
        let (region, worker) = (plan.region(pair), self.seat.worker);
        let space = plan.space::<K>(pair.protocol());
        let len = space.len(worker, region);
        if len == 0 {
            return None;
        }
        let cursor = match self.next_reclaimed() {
            Some(at) => usize::from(self.searches[at as usize].cursor),
            None if self.searches.len() == self.searches.capacity() => return None,
            None => self.next_start,
        };
        let mut places = (0..len).map(|step| space.l4_port(worker, region, (cursor + step) % len));
        places.find(|l4_port| *l4_port >= FIRST_PORT)
    }

    /// Of the pair of number `at` in use and in all; `None` behind the last.
    pub fn usage(&self, at: usize) -> Option<(u32, u32)> {
        let search = self.searches.get(at)?;
        let len = self.space(search).len(self.seat.worker, search.region) as u32;
        let barred = u32::from(search.barred);
        Some((search.count.saturating_sub(barred), len.saturating_sub(barred)))
    }

    /// The bitmap that the next new pair would get from an idle one, if it would.
    fn next_reclaimed(&self) -> Option<u32> {
        if !self.takes_idle() {
            return None;
        }
        let mut tried = self.idle.iter().copied().take(RECLAIM_TRIES);
        tried.find(|at| self.searches[*at as usize].is_idle())
    }

    /// Whether a new pair takes an idle one's bitmap: others' are taken before new ones while most are idle, which bounds
    /// the memory to twice of what is in use.
    fn takes_idle(&self) -> bool {
        self.searches.len() == self.searches.capacity() || self.idle.len() > self.searches.len() / 2
    }

    /// Stage one of a lookup: asks for the bucket's line.
    pub fn prefetch_bucket(&self, pair: K) {
        self.pairs.prefetch(self.hasher.hash(pair));
    }

    /// Stage two: the place that `pair` probably has, if it has had ports before; asks for its line.
    pub fn candidate(&self, pair: K) -> Option<PairIndex> {
        let at = self.pairs.find(self.hasher.hash(pair), |_| true)?;
        prefetch_near(&self.searches[at as usize]);
        Some(PairIndex(at))
    }

    /// Stage three: the key of replies to the port at which the pair's next search begins.
    pub fn next_key(&self, PairIndex(at): PairIndex) -> K {
        let search = &self.searches[at as usize];
        let l4_port = self.space(search).l4_port(self.seat.worker, search.region, usize::from(search.cursor));
        search.pair.with_destination_port(l4_port)
    }

    /// Stage three: asks for the line that releasing a port needs.
    pub fn prefetch_port(&self, PairIndex(at): PairIndex, l4_port: u16) {
        let search = &self.searches[at as usize];
        if let Some(place) = self.space(search).number(self.seat.worker, search.region, l4_port) {
            prefetch_near(&self.bitmaps[at as usize * self.words_per_pair + place / 64]);
        }
    }

    /// Gives back a port that [`take`](Self::take) gave out.
    pub fn release(&mut self, pair: K, l4_port: u16) {
        let Some(at) = self.find(pair) else { return };
        let (search, bitmap, space) =
            parts(&mut self.searches, &mut self.bitmaps, self.words_per_pair, &self.seat, at);
        let Some(place) = space.number(self.seat.worker, search.region, l4_port) else { return };
        search.give_back(place, bitmap);
        if search.is_idle() && !search.listed {
            search.listed = true;
            self.idle.push_back(at);
        }
    }

    /// The port at which the next search would begin: the one that has been in use
    /// longest when all are.
    pub fn oldest(&mut self, pair: K) -> Option<u16> {
        let at = self.find(pair)?;
        let (search, bitmap, space) =
            parts(&mut self.searches, &mut self.bitmaps, self.words_per_pair, &self.seat, at);
        let (worker, region) = (self.seat.worker, search.region);
        let len = space.len(worker, region);
        for _ in 0..=search.barred {
            let l4_port = space.l4_port(worker, region, usize::from(search.cursor));
            if l4_port >= FIRST_PORT {
                return Some(l4_port);
            }
            search.move_to(usize::from(search.cursor) + 1, bitmap, len);
        }
        None
    }

    /// The ports that [`oldest`](Self::oldest) and [`skip`](Self::skip) would give one after the other; nothing changes.
    pub fn oldest_ones(&self, pair: K) -> impl Iterator<Item = u16> + '_ {
        self.find(pair).into_iter().flat_map(|at| {
            let search = &self.searches[at as usize];
            let (space, worker) = (self.space(search), self.seat.worker);
            let len = space.len(worker, search.region);
            let places = (0..len).map(move |step| (usize::from(search.cursor) + step) % len);
            places
                .map(move |place| space.l4_port(worker, search.region, place))
                .filter(|l4_port| *l4_port >= FIRST_PORT)
        })
    }

    /// Passes over the port at the cursor, because its session cannot be ended.
    pub fn skip(&mut self, pair: K) {
        let Some(at) = self.find(pair) else { return };
        let (search, bitmap, space) =
            parts(&mut self.searches, &mut self.bitmaps, self.words_per_pair, &self.seat, at);
        let len = space.len(self.seat.worker, search.region);
        search.move_to(usize::from(search.cursor) + 1, bitmap, len);
    }

    /// Ports of `pair` now in use.
    pub fn used(&self, pair: K) -> usize {
        self.find(pair).map_or(0, |at| {
            let search = &self.searches[at as usize];
            search.count as usize - usize::from(search.barred)
        })
    }

    fn space(&self, search: &Search<K>) -> &PortSpace {
        self.seat.steering.port(search.port).plan.space::<K>(search.pair.protocol())
    }

    fn find(&self, pair: K) -> Option<u32> {
        self.pairs.find(self.hasher.hash(pair), |at| self.searches[at as usize].pair == pair)
    }

    fn open(&mut self, pair: K, port: PortId) -> Option<u32> {
        let key = pair;
        let region = self.seat.steering.port(port).plan.region(key);
        let len =
            self.seat.steering.port(port).plan.space::<K>(pair.protocol()).len(self.seat.worker, region);
        if len == 0 {
            // Replies to this local address come to other workers.
            return None;
        }
        let full = self.searches.len() == self.searches.capacity();
        let reused = if self.takes_idle() { self.reclaim() } else { None };
        let at = match reused {
            Some(at) => at,
            None if full => return None,
            None => {
                // Within the capacity that was reserved at start: no allocation.
                self.searches.push(Search::NOTHING);
                self.bitmaps.resize(self.bitmaps.len() + self.words_per_pair, 0);
                let fresh = self.searches.len() - 1;
                self.searches[fresh].cursor = (self.next_start % len) as u16;
                fresh as u32
            }
        };
        if self.pairs.insert(self.hasher.hash(key), at).is_err() {
            // The bitmap waits for the next that asks.
            self.searches[at as usize].pair = K::NONE;
            self.idle.push_front(at);
            return None;
        }
        // A prime step of about 1/11 of the range.
        self.next_start = (self.next_start + 5_869) % PORTS_PER_PAIR;
        let search = &mut self.searches[at as usize];
        let cursor = usize::from(search.cursor) % len;
        (search.pair, search.region, search.port, search.cursor) = (key, region, port, cursor as u16);
        self.bar_low_ports(at);
        Some(at)
    }

    /// Begins a bitmap: only ports that are never given out are set in it.
    fn bar_low_ports(&mut self, at: u32) {
        let (search, bitmap, space) =
            parts(&mut self.searches, &mut self.bitmaps, self.words_per_pair, &self.seat, at);
        let (worker, region) = (self.seat.worker, search.region);
        let len = space.len(worker, region);
        bitmap.fill(0);
        // Behind the end of the last word.
        if len % 64 != 0 {
            bitmap[len / 64] = !0 << (len % 64);
        }
        let mut barred = 0;
        for place in (0..FIRST_PORT).filter_map(|l4_port| space.number(worker, region, l4_port)) {
            bitmap[place / 64] |= 1 << (place % 64);
            barred += 1;
        }
        (search.barred, search.count) = (barred, u32::from(barred));
        search.word = bitmap[usize::from(search.cursor) / 64];
    }

    /// Takes the bitmap of the pair that has been idle longest, of those that a bounded look finds.
    fn reclaim(&mut self) -> Option<u32> {
        for _ in 0..RECLAIM_TRIES {
            let at = self.idle.pop_front()?;
            let search = &mut self.searches[at as usize];
            search.listed = false;
            // Otherwise its ports came into use again, and it will be listed when they no longer are.
            if search.is_idle() {
                self.pairs.remove(self.hasher.hash(search.pair), at);
                return Some(at);
            }
        }
        None
    }
}

/// What belongs to the pair at `at`.
#[inline]
fn parts<'a, K: Key>(
    searches: &'a mut List<Search<K>>,
    bitmaps: &'a mut [u64],
    words: usize,
    seat: &'a Seat,
    at: u32,
) -> (&'a mut Search<K>, &'a mut [u64], &'a PortSpace) {
    let search = &mut searches[at as usize];
    let space = seat.steering.port(search.port).plan.space::<K>(search.pair.protocol());
    (search, &mut bitmaps[at as usize * words..][..words], space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowKey;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    const PORT: PortId = PortId(0);

    fn ports(pairs: usize) -> LocalPorts<FlowKey> {
        LocalPorts::with_capacity(pairs, FlowHasher::new([1, 2, 3, 4]), Seat::alone(1))
    }

    fn pair(last: u8) -> Pair {
        Pair {
            local: Ipv4Addr::new(10, 0, 0, 200).into(),
            real: Endpoint::new(Ipv4Addr::new(10, 0, 0, last), 80),
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn the_same_port_serves_two_servers() {
        let mut ports = ports(2);
        let first: BTreeSet<_> =
            (0..PORTS_PER_PAIR).map(|_| ports.take(pair(1).key(), PORT).unwrap().l4_port).collect();
        let second: BTreeSet<_> =
            (0..PORTS_PER_PAIR).map(|_| ports.take(pair(2).key(), PORT).unwrap().l4_port).collect();

        assert_eq!(first.len(), PORTS_PER_PAIR);
        assert_eq!(first, second);
        assert_eq!(ports.take(pair(1).key(), PORT), None);
        assert_eq!(first.first(), Some(&FIRST_PORT));
        assert_eq!(first.last(), Some(&u16::MAX));
    }

    #[test]
    fn a_released_port_rests_until_the_others_were_used() {
        let mut ports = ports(1);
        let first = ports.take(pair(1).key(), PORT).unwrap().l4_port;
        let keep = ports.take(pair(1).key(), PORT).unwrap().l4_port;
        ports.release(pair(1).key(), first);

        let following: Vec<_> =
            (0..PORTS_PER_PAIR - 1).map(|_| ports.take(pair(1).key(), PORT).unwrap()).collect();

        let last = following.last().map(|taken| (taken.l4_port, taken.before));
        assert_eq!(last, Some((first, PORTS_PER_PAIR as u32)));
        assert!(following.iter().all(|taken| taken.l4_port != keep));
    }

    #[test]
    fn a_pair_without_ports_in_use_gives_its_bitmap_to_another() {
        let mut ports = ports(1);
        let l4_port = ports.take(pair(1).key(), PORT).unwrap().l4_port;
        assert_eq!(ports.take(pair(2).key(), PORT), None);

        ports.release(pair(1).key(), l4_port);

        assert!(ports.take(pair(2).key(), PORT).is_some());
    }

    #[test]
    fn a_pair_that_was_idle_goes_on_where_it_was() {
        let mut ports = ports(4);
        let first = ports.take(pair(1).key(), PORT).unwrap();
        ports.release(pair(1).key(), first.l4_port);

        let second = ports.take(pair(1).key(), PORT).unwrap();

        assert_eq!((second.before, second.l4_port), (1, first.next));
    }

    #[test]
    fn idle_pairs_make_room_before_more_memory_is_taken() {
        let mut ports = ports(100);
        for last in 0..100 {
            let l4_port = ports.take(pair(last).key(), PORT).unwrap().l4_port;
            ports.release(pair(last).key(), l4_port);
        }

        assert!(ports.pairs() <= 2, "{} bitmaps for one pair at a time", ports.pairs());
    }

    proptest! {
        #[test]
        fn no_port_is_given_out_twice(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..2000)) {
            let mut ports = ports(1);
            let mut twin: Vec<u16> = Vec::new();
            for (take, which) in steps {
                if take || twin.is_empty() {
                    let l4_port = ports.take(pair(1).key(), PORT).unwrap().l4_port;
                    prop_assert!(!twin.contains(&l4_port));
                    twin.push(l4_port);
                } else {
                    ports.release(pair(1).key(), twin.swap_remove(which.index(twin.len())));
                }
                prop_assert_eq!(ports.used(pair(1).key()), twin.len());
            }
        }
    }
}
