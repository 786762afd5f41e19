//! Local ports: which are in use between one local address and one real server.
//!
//! A reply is told apart by (real server, local address, local port), so the same
//! port of the same address serves many real servers, and each pair has all
//! 64,512 ports to itself. A pair is a bitmap of 8 KiB, taken from an arena on
//! first use and given back when its last port is; the arena is reserved at start
//! and its pages are touched only when used.
//!
//! The search begins where the last one ended, so a port rests as long as possible
//! before it is used again.

use crate::flow::{Endpoint, Protocol};
use hashbrown::{DefaultHashBuilder, HashMap};
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

/// A port, and how many its pair's bitmap had given out before it. The search goes round, so the
/// first 64,512 are all different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The port.
    pub l4_port: u16,
    /// How many were given out before.
    pub before: u32,
}

/// One worker's local ports.
#[derive(Debug)]
pub struct LocalPorts {
    pairs: HashMap<Pair, u32, DefaultHashBuilder>,
    arena: Vec<Bitmap>,
    free: Vec<u32>,
    /// Where the next new pair starts to search, so that pairs do not march in step.
    next_start: u16,
}

#[derive(Clone, Copy, Debug)]
struct Bitmap {
    used: [u64; WORDS],
    count: u32,
    /// How many ports were given out, for this pair and those that had the bitmap before: more
    /// caution than needed, never less.
    taken: u32,
    cursor: u16,
}

impl Bitmap {
    /// The first free port at or after the cursor, in a circle.
    fn take(&mut self) -> Option<u16> {
        if self.count as usize == PORTS_PER_PAIR {
            return None;
        }
        let start = usize::from(self.cursor);
        let mut word = start / 64;
        // Ports before the cursor in its own word come last.
        let mut free = !self.used[word] & !0 << (start % 64);
        for _ in 0..=WORDS {
            if free != 0 {
                let bit = free.trailing_zeros() as usize;
                let offset = word * 64 + bit;
                self.used[word] |= 1 << bit;
                self.count += 1;
                self.taken = self.taken.saturating_add(1);
                self.cursor = ((offset + 1) % PORTS_PER_PAIR) as u16;
                return Some(FIRST_PORT + offset as u16);
            }
            word = (word + 1) % WORDS;
            free = !self.used[word];
        }
        None
    }
}

impl LocalPorts {
    /// Room for `pairs` pairs of local address and real server at a time.
    pub fn with_capacity(pairs: usize) -> Self {
        Self {
            // Twice the room, so that removals never make the map grow.
            pairs: HashMap::with_capacity(pairs * 2),
            arena: Vec::with_capacity(pairs),
            free: Vec::with_capacity(pairs),
            next_start: 0,
        }
    }

    /// Takes a port of `pair` that no session uses. `None` when all are in use, or when the arena
    /// has no room for another pair.
    pub fn take(&mut self, pair: Pair) -> Option<Taken> {
        let at = match self.pairs.get(&pair) {
            Some(at) => *at,
            None => self.open(pair)?,
        };
        let bitmap = &mut self.arena[at as usize];
        let before = bitmap.taken;
        Some(Taken { l4_port: bitmap.take()?, before })
    }

    /// Gives back a port that [`take`](Self::take) gave out.
    pub fn release(&mut self, pair: Pair, l4_port: u16) {
        let Some(at) = self.pairs.get(&pair).copied() else { return };
        let bitmap = &mut self.arena[at as usize];
        let offset = usize::from(l4_port - FIRST_PORT);
        debug_assert!(bitmap.used[offset / 64] >> (offset % 64) & 1 == 1);
        bitmap.used[offset / 64] &= !(1 << (offset % 64));
        bitmap.count -= 1;
        if bitmap.count == 0 {
            self.pairs.remove(&pair);
            self.free.push(at);
        }
    }

    /// The port at which the next search would begin: the one that has been in use
    /// longest when all are.
    pub fn oldest(&self, pair: Pair) -> Option<u16> {
        let at = *self.pairs.get(&pair)?;
        Some(FIRST_PORT + self.arena[at as usize].cursor)
    }

    /// Passes over the port at the cursor, because its session cannot be ended.
    pub fn skip(&mut self, pair: Pair) {
        if let Some(at) = self.pairs.get(&pair) {
            let cursor = &mut self.arena[*at as usize].cursor;
            *cursor = ((usize::from(*cursor) + 1) % PORTS_PER_PAIR) as u16;
        }
    }

    /// Ports of `pair` now in use.
    pub fn used(&self, pair: Pair) -> usize {
        self.pairs.get(&pair).map_or(0, |at| self.arena[*at as usize].count as usize)
    }

    fn open(&mut self, pair: Pair) -> Option<u32> {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.arena.len() < self.arena.capacity() => {
                // Within the capacity that was reserved at start: no allocation.
                self.arena.push(Bitmap { used: [0; WORDS], count: 0, taken: 0, cursor: self.next_start });
                self.arena.len() as u32 - 1
            }
            None => return None,
        };
        // A prime step of about 1/11 of the range.
        self.next_start = ((usize::from(self.next_start) + 5_869) % PORTS_PER_PAIR) as u16;
        self.pairs.insert(pair, at);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pair(last: u8) -> Pair {
        Pair {
            local: Ipv4Addr::new(10, 0, 0, 200),
            real: Endpoint::new(Ipv4Addr::new(10, 0, 0, last), 80),
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn the_same_port_serves_two_servers() {
        let mut ports = LocalPorts::with_capacity(2);
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
        let mut ports = LocalPorts::with_capacity(1);
        let first = ports.take(pair(1)).unwrap().l4_port;
        let keep = ports.take(pair(1)).unwrap().l4_port;
        ports.release(pair(1), first);

        let following: Vec<_> = (0..PORTS_PER_PAIR - 1).map(|_| ports.take(pair(1)).unwrap()).collect();

        assert_eq!(following.last(), Some(&Taken { l4_port: first, before: PORTS_PER_PAIR as u32 }));
        assert!(following.iter().all(|taken| taken.l4_port != keep));
    }

    #[test]
    fn a_pair_without_ports_in_use_gives_its_bitmap_to_another() {
        let mut ports = LocalPorts::with_capacity(1);
        let l4_port = ports.take(pair(1)).unwrap().l4_port;
        assert_eq!(ports.take(pair(2)), None);

        ports.release(pair(1), l4_port);

        assert!(ports.take(pair(2)).is_some());
    }

    proptest! {
        #[test]
        fn no_port_is_given_out_twice(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..2000)) {
            let mut ports = LocalPorts::with_capacity(1);
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
