//! The table of sessions: a fixed number of lines, found by either direction's key.

use super::index::FlowIndex;
use super::proven::{self, Proven};
use super::{Needs, NewSession, Session, State};
use crate::clock::Stamp;
use crate::flow::{Direction, FlowHasher, Key};
use crate::frame::GROUP;
use crate::hugepages::{self, List, Table};
use crate::prefetch::{prefetch, prefetch_near};

/// A session's place in the table; valid until the session is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionIndex(u32);

/// A guess of stage two, to be confirmed in stage three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate(u32);

impl Candidate {
    /// No guess.
    pub const NONE: Self = Self(u32::MAX);
}

/// One worker's sessions of one family.
///
/// The capacity is fixed at start: the packet path never allocates.
#[derive(Debug)]
pub struct SessionTable<K> {
    sessions: Table<Session<K>>,
    index: FlowIndex,
    hasher: FlowHasher,
    /// By line: a sequence number that few sessions need. Its pages are touched only when used.
    marks: Vec<u32>,
    /// By line and direction: what came last as acknowledged; for few sessions too.
    acknowledged: Vec<[u32; 2]>,
    /// By line: what is kept of sessions that are [watched](Watch), as [`Watch::words`] has it.
    watched: Vec<[u64; 2]>,
    /// By line: what is kept of proven clients' sessions.
    proven: Vec<proven::Words>,
    /// Unused lines; the last freed is the first used, because it is still in the cache.
    free: List<u32>,
}

/// What is kept of a session whose packets are looked at one by one to its end ([`Needs::WATCHED`](super::Needs::WATCHED)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// When its first packet came.
    pub begun: Stamp,
    /// Bytes of its IP packets, of both directions.
    pub bytes: u64,
    /// Whether both ends are told when it is forgotten.
    pub resets: bool,
    /// Whether its duration and its bytes are counted when it ends.
    pub counts: bool,
    /// Whether its client proved itself by a cookie ([`Proven`]).
    pub proven: bool,
}

impl Watch {
    const RESETS: u64 = 1 << 32;
    const COUNTS: u64 = 1 << 33;
    const PROVEN: u64 = 1 << 34;

    fn words(self) -> [u64; 2] {
        let flag = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let flags = flag(self.resets, Self::RESETS) | flag(self.counts, Self::COUNTS);
        [self.bytes, u64::from(self.begun.to_bits()) | flags | flag(self.proven, Self::PROVEN)]
    }

    fn from_words([bytes, rest]: [u64; 2]) -> Self {
        Self {
            begun: Stamp::from_bits(rest as u32),
            bytes,
            resets: rest & Self::RESETS != 0,
            counts: rest & Self::COUNTS != 0,
            proven: rest & Self::PROVEN != 0,
        }
    }
}

/// Why a session could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// Every line is in use.
    Full,
    /// A session with one of the two keys exists.
    Exists,
}

impl<K: Key> SessionTable<K> {
    /// A table for `capacity` sessions.
    ///
    /// # Panics
    /// When `capacity` is zero or above 2^31 - 1.
    pub fn with_capacity(capacity: usize, hasher: FlowHasher) -> Self {
        assert!((1..1 << 31).contains(&capacity), "session capacity {capacity} is out of range");
        let mut free = hugepages::reserved(capacity);
        free.extend((0..capacity as u32).rev());
        Self {
            sessions: hugepages::table(capacity, || Session::FREE),
            index: FlowIndex::with_capacity(capacity * 2),
            hasher,
            marks: vec![0; capacity],
            acknowledged: vec![[0; 2]; capacity],
            watched: vec![[0; 2]; capacity],
            proven: vec![[0; _]; capacity],
            free,
        }
    }

    /// How many sessions fit.
    pub fn capacity(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions are in the table.
    pub fn len(&self) -> usize {
        self.sessions.len() - self.free.len()
    }

    /// Whether the table has no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash under which `key` is looked up.
    #[inline]
    pub fn hash(&self, key: K) -> u64 {
        self.hasher.hash(key)
    }

    /// Stage one of a lookup: the hashes of the first `count` keys; asks for the line of each one's bucket.
    #[inline(always)]
    pub fn prefetch_buckets(&self, keys: &[K; GROUP], count: usize, hashes: &mut [u64; GROUP]) {
        self.hasher.hash_group(keys, count, |at, hash| {
            hashes[at] = hash;
            self.index.prefetch(hash);
        });
    }

    /// Asks for the lines that removing `session` needs.
    #[inline]
    pub fn prefetch_keys(&self, session: &Session<K>) {
        for way in [Direction::Inbound, Direction::Outbound] {
            self.index.prefetch(self.hasher.hash(session.key(way)));
        }
    }

    /// Asks for the line under which `key` will be entered.
    #[inline]
    pub fn prefetch_key(&self, key: K) {
        self.index.prefetch(self.hasher.hash(key));
    }

    /// Stage two: of the first `count` packets with these hashes the session that each probably belongs to; asks for
    /// its line. Returns, bit per packet, which have none.
    #[inline(always)]
    pub fn candidates(
        &self,
        hashes: &[u64; GROUP],
        count: usize,
        candidates: &mut [Candidate; GROUP],
    ) -> u32 {
        let mut unknown = 0;
        self.index.firsts(hashes, count, |at, slot| {
            candidates[at] = Candidate(slot.unwrap_or(Candidate::NONE.0));
            match slot {
                Some(slot) => prefetch_near(self.sessions.as_ptr().wrapping_add((slot >> 1) as usize)),
                None => unknown |= 1 << at,
            }
        });
        unknown
    }

    /// Stage three: the session of `key` and the direction in which `key` goes, if `candidate` is it;
    /// otherwise it must be [searched for](Self::find). What happened since to that session does no harm,
    /// because keys are compared whole and an unused line has the key of no flow.
    #[inline]
    pub fn confirm(&self, key: K, Candidate(slot): Candidate) -> Option<(SessionIndex, Direction)> {
        let session = self.sessions.get((slot >> 1) as usize)?;
        (session.key(direction(slot)) == key).then_some((SessionIndex(slot >> 1), direction(slot)))
    }

    /// The lines, for a group of packets.
    #[inline]
    pub fn lines(&mut self) -> Lines<'_, K> {
        Lines(&mut self.sessions)
    }

    /// The session of `key`, and the direction in which `key` goes.
    #[inline]
    pub fn find(&self, key: K, hash: u64) -> Option<(SessionIndex, Direction)> {
        let slot =
            self.index.find(hash, |slot| self.sessions[(slot >> 1) as usize].key(direction(slot)) == key)?;
        Some((SessionIndex(slot >> 1), direction(slot)))
    }

    /// Adds a session that is reached by both of its keys.
    ///
    /// # Errors
    /// When the table is full, or when one of the keys is taken. Nothing changed then.
    pub fn insert(
        &mut self,
        new: &NewSession<K>,
        state: State,
        now: Stamp,
    ) -> Result<SessionIndex, InsertError> {
        let session = Session::new(new, state, now);
        let hashes = [Direction::Inbound, Direction::Outbound].map(|way| {
            let key = session.key(way);
            (key, self.hasher.hash(key))
        });
        let ways = session.directions();
        if ways.iter().any(|way| {
            let (key, hash) = hashes[*way as usize];
            self.find(key, hash).is_some()
        }) {
            return Err(InsertError::Exists);
        }
        let at = self.free.pop().ok_or(InsertError::Full)?;
        // Lines for the next sessions come meanwhile.
        if let Some(soon) = self.free.len().checked_sub(LINES_AHEAD) {
            prefetch(&self.sessions[self.free[soon] as usize]);
        }
        let [(_, inbound), (_, outbound)] = hashes;
        if self.index.insert(inbound, slot(at, Direction::Inbound)).is_err() {
            self.free.push(at);
            return Err(InsertError::Full);
        }
        if ways.len() > 1 && self.index.insert(outbound, slot(at, Direction::Outbound)).is_err() {
            self.index.remove(inbound, slot(at, Direction::Inbound));
            self.free.push(at);
            return Err(InsertError::Full);
        }
        self.sessions[at as usize] = session;
        Ok(SessionIndex(at))
    }

    /// Takes a session out.
    ///
    /// # Panics
    /// When `index` was removed before.
    pub fn remove(&mut self, index: SessionIndex) -> Session<K> {
        let session = std::mem::replace(&mut self.sessions[index.0 as usize], Session::FREE);
        assert_ne!(session.state(), State::Free, "a session is removed once");
        for way in session.directions().iter().copied() {
            let found = self.index.remove(self.hasher.hash(session.key(way)), slot(index.0, way));
            debug_assert!(found);
        }
        self.free.push(index.0);
        session
    }

    /// The session at `index`.
    #[inline]
    pub fn get(&self, index: SessionIndex) -> &Session<K> {
        &self.sessions[index.0 as usize]
    }

    /// The session at `index`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: SessionIndex) -> &mut Session<K> {
        &mut self.sessions[index.0 as usize]
    }

    /// The sequence number that was noted for a session.
    pub fn mark(&self, index: SessionIndex) -> u32 {
        self.marks[index.0 as usize]
    }

    /// Notes a sequence number for a session.
    pub fn set_mark(&mut self, index: SessionIndex, number: u32) {
        self.marks[index.0 as usize] = number;
    }

    /// The acknowledgement number that came last in `direction`, if it was noted.
    pub fn acknowledged(&self, index: SessionIndex, direction: Direction) -> u32 {
        self.acknowledged[index.0 as usize][direction as usize]
    }

    /// Notes an acknowledgement number that came in `direction`.
    pub fn set_acknowledged(&mut self, index: SessionIndex, direction: Direction, number: u32) {
        self.acknowledged[index.0 as usize][direction as usize] = number;
    }

    /// What is kept of a session that is watched.
    pub fn watch(&self, index: SessionIndex) -> Watch {
        Watch::from_words(self.watched[index.0 as usize])
    }

    /// Begins to watch a session.
    pub fn set_watch(&mut self, index: SessionIndex, watch: Watch) {
        self.watched[index.0 as usize] = watch.words();
    }

    /// What is kept of a proven client's session.
    pub fn proven(&self, index: SessionIndex) -> Proven {
        Proven::from_words(&self.proven[index.0 as usize])
    }

    /// Keeps it.
    pub fn set_proven(&mut self, index: SessionIndex, proven: &Proven) {
        self.proven[index.0 as usize] = proven.words();
    }

    /// Whether the session's client proved itself by a cookie.
    #[inline]
    pub fn is_proven(&self, index: SessionIndex) -> bool {
        self.get(index).needs.has(Needs::WATCHED) && self.watch(index).proven
    }

    /// Whether the session's client proved itself and its server has not answered yet.
    #[inline]
    pub fn waits_for_server(&self, index: SessionIndex) -> bool {
        self.get(index).state() == State::SynSent && self.is_proven(index)
    }

    /// Adds to the bytes of a session that is watched.
    pub fn add_bytes(&mut self, index: SessionIndex, bytes: u16) {
        self.watched[index.0 as usize][0] += u64::from(bytes);
    }

    /// The session in line `line`, if the line is in use; for sweeps and lists.
    #[inline]
    pub fn line(&self, line: usize) -> Option<(SessionIndex, &Session<K>)> {
        let session = self.sessions.get(line)?;
        (session.state() != State::Free).then_some((SessionIndex(line as u32), session))
    }
}

/// The lines of a table: where they are stays in registers while a group of packets goes by.
#[derive(Debug)]
pub struct Lines<'t, K>(&'t mut [Session<K>]);

impl<K: Key> Lines<'_, K> {
    /// The session that [`confirm`](SessionTable::confirm) finds, to be changed.
    #[inline(always)]
    pub fn confirm(&mut self, key: K, Candidate(slot): Candidate) -> Option<(&mut Session<K>, Direction)> {
        let session = self.0.get_mut((slot >> 1) as usize)?;
        let way = direction(slot);
        (session.keys[way as usize] == key).then_some((session, way))
    }
}

/// How many new sessions ahead a free line is asked for.
const LINES_AHEAD: usize = 8;

#[inline]
fn slot(line: u32, way: Direction) -> u32 {
    line << 1 | u32::from(way == Direction::Outbound)
}

#[inline]
fn direction(slot: u32) -> Direction {
    if slot & 1 == 0 { Direction::Inbound } else { Direction::Outbound }
}

#[cfg(test)]
mod tests {
    use super::super::ForwardMode;
    use super::*;
    use crate::flow::{Endpoint, FlowKey, Protocol};
    use crate::ids::{LocalId, NeighborId, ServerId};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn table(capacity: usize) -> SessionTable<FlowKey> {
        SessionTable::with_capacity(
            capacity,
            FlowHasher::new([1, 2, 3, 4].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        )
    }

    fn new(client: u16, local_port: u16) -> NewSession<FlowKey> {
        let client = Endpoint::new(Ipv4Addr::new(198, 51, 100, client as u8), 4000 + client);
        let vip = Endpoint::new(Ipv4Addr::new(192, 0, 2, 10), 80);
        let local = Endpoint::new(Ipv4Addr::new(10, 0, 0, 200), local_port);
        let real = Endpoint::new(Ipv4Addr::new(10, 0, 0, 11), 8080);
        NewSession {
            mode: ForwardMode::FullNat,
            inbound: FlowKey::new(Protocol::Tcp, client, vip),
            outbound: FlowKey::new(Protocol::Tcp, real, local),
            server: ServerId(0),
            local_id: LocalId(0),
            routing_epoch: 0,
            next_hop: NeighborId::NONE,
        }
    }

    fn found(table: &SessionTable<FlowKey>, key: FlowKey) -> Option<(SessionIndex, Direction)> {
        table.find(key, table.hash(key))
    }

    #[test]
    fn both_directions_find_one_session() {
        let mut table = table(4);
        let index = table.insert(&new(7, 5000), State::SynRecv, Stamp::from_zero()).unwrap();
        let session = *table.get(index);

        for way in [Direction::Inbound, Direction::Outbound] {
            assert_eq!(found(&table, session.key(way)), Some((index, way)));
        }
    }

    #[test]
    fn a_full_table_refuses_and_keeps_its_sessions() {
        let mut table = table(2);
        table.insert(&new(1, 5001), State::SynRecv, Stamp::from_zero()).unwrap();
        table.insert(&new(2, 5002), State::SynRecv, Stamp::from_zero()).unwrap();

        let refused = table.insert(&new(3, 5003), State::SynRecv, Stamp::from_zero());

        assert_eq!(refused, Err(InsertError::Full));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_taken_key_is_refused() {
        let mut table = table(4);
        table.insert(&new(1, 5001), State::SynRecv, Stamp::from_zero()).unwrap();

        let same_reply_key = table.insert(&new(2, 5001), State::SynRecv, Stamp::from_zero());
        let same_client_key = table.insert(&new(1, 5002), State::SynRecv, Stamp::from_zero());

        assert_eq!(same_reply_key, Err(InsertError::Exists));
        assert_eq!(same_client_key, Err(InsertError::Exists));
        assert_eq!(table.len(), 1);
    }

    proptest! {
        /// The twin is an ordered map from each direction's key.
        #[test]
        fn agrees_with_an_ordered_map(steps in prop::collection::vec((any::<bool>(), 0u16..60, 0u16..60), 1..300)) {
            let mut table = table(40);
            let mut twin: BTreeMap<u16, (u16, SessionIndex)> = BTreeMap::new();
            for (insert, client, local) in steps {
                if insert {
                    let local_port = 5000 + local;
                    let expected = if twin.contains_key(&client) || twin.values().any(|(port, _)| *port == local_port) {
                        Err(InsertError::Exists)
                    } else if twin.len() == 40 {
                        Err(InsertError::Full)
                    } else {
                        Ok(())
                    };
                    let result = table.insert(&new(client, local_port), State::SynRecv, Stamp::from_zero());
                    prop_assert_eq!(result.map(|_| ()), expected);
                    if let Ok(index) = result {
                        twin.insert(client, (local_port, index));
                    }
                } else if let Some((local_port, index)) = twin.remove(&client) {
                    prop_assert_eq!(table.remove(index).local().l4_port, local_port);
                }
                prop_assert_eq!(table.len(), twin.len());
                for (client, (local_port, index)) in &twin {
                    let session = Session::new(&new(*client, *local_port), State::SynRecv, Stamp::from_zero());
                    for way in [Direction::Inbound, Direction::Outbound] {
                        prop_assert_eq!(found(&table, session.key(way)), Some((*index, way)));
                    }
                }
            }
        }
    }
}
