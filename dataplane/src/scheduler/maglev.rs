//! Maglev's consistent hashing (Eisenbud et al., NSDI 2016, §3.4).
//!
//! The same servers give the same table on every node: they are taken in the order
//! of their endpoint, and the hash keys are fixed, but for the seed that the configuration gives.

use super::table::{OFFSET_KEY, SKIP_KEY, SlotTable, Turn, UNCLAIMED, digest, turns};
use crate::flow::Endpoint;
use crate::hash::fold;

/// Slots per server, at least. The paper finds 1 % imbalance at a hundred; four hundred keep the
/// clients that move without need, when a server is lost, below one in a hundred.
const SLOTS_PER_SERVER: usize = 400;
/// The sizes a table may have, all prime. They are far apart, because clients of *all* servers
/// move when a table's size changes: that must not happen with every server that comes or goes.
const SIZES: [usize; 3] = [16_381, 65_537, 1_048_573];

impl SlotTable {
    /// Maglev's table for servers with these endpoints and weights; `None` when all weights are 0.
    pub(super) fn maglev(servers: &[(Endpoint, u32)], seed: u64) -> Option<Self> {
        let turns = turns(servers)?;
        let wanted = turns.len() * SLOTS_PER_SERVER;
        let size = SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1]);
        // A round of huge weights must not fill the table before everybody had a turn.
        let largest = turns.iter().map(|turn| turn.claims).max().unwrap_or(1);
        let shift = (0..32).find(|shift| (largest >> shift) as usize * turns.len() <= size / 2).unwrap_or(31);
        let mut preferences: Vec<_> =
            turns.iter().map(|turn| Preference::new(turn, shift, size, seed)).collect();
        let mut slots = vec![UNCLAIMED; size].into_boxed_slice();
        let mut left = size;
        while left > 0 {
            for preference in &mut preferences {
                for _ in 0..preference.claims.min(left) {
                    preference.claim(&mut slots);
                    left -= 1;
                }
            }
        }
        Some(Self::new(slots, seed))
    }
}

/// A server's walk over the slots.
struct Preference {
    place: u16,
    claims: usize,
    at: usize,
    skip: usize,
}

impl Preference {
    fn new(turn: &Turn, shift: u32, size: usize, seed: u64) -> Self {
        let Endpoint { address, l4_port } = turn.endpoint;
        let id = digest(address).rotate_left(16) ^ u64::from(l4_port) ^ seed;
        let hash = |key: u64| fold(fold(id ^ key, SKIP_KEY | 1) ^ OFFSET_KEY, key | 1);
        Self {
            place: turn.place,
            claims: (turn.claims >> shift).max(1) as usize,
            at: (hash(OFFSET_KEY) % size as u64) as usize,
            skip: (hash(SKIP_KEY) % (size as u64 - 1)) as usize + 1,
        }
    }

    /// Claims the first unclaimed slot of the walk. There must be one: the table's size is prime,
    /// so the walk comes past all.
    fn claim(&mut self, slots: &mut [u16]) {
        while slots[self.at] != UNCLAIMED {
            self.at = (self.at + self.skip) % slots.len();
        }
        slots[self.at] = self.place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn servers(count: u8) -> Vec<(Endpoint, u32)> {
        (0..count).map(|n| (Endpoint::new(Ipv4Addr::new(10, 0, 0, n), 80), 1)).collect()
    }

    fn counts(table: &SlotTable, servers: usize) -> Vec<usize> {
        let mut counts = vec![0; servers];
        for place in table.slots() {
            counts[usize::from(*place)] += 1;
        }
        counts
    }

    #[test]
    fn equal_weights_get_equal_shares() {
        let table = SlotTable::maglev(&servers(50), 0).unwrap();
        let counts = counts(&table, 50);

        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= most / 50, "least {least}, most {most}");
    }

    #[test]
    fn shares_follow_weights() {
        let mut servers = servers(3);
        (servers[0].1, servers[1].1, servers[2].1) = (500, 300, 0);
        let table = SlotTable::maglev(&servers, 0).unwrap();
        let counts = counts(&table, 3);

        assert_eq!(counts[2], 0);
        let ratio = counts[0] as f64 / counts[1] as f64;
        assert!((1.63..1.70).contains(&ratio), "{counts:?}");
    }

    #[test]
    fn sizes_are_prime() {
        for size in SIZES {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
    }

    /// The share of clients that get another server when one of `count` is lost.
    fn moved_by_a_loss(count: u8) -> f64 {
        let all = servers(count);
        let mut less = all.clone();
        less[3].1 = 0;
        let (before, after) = (SlotTable::maglev(&all, 0).unwrap(), SlotTable::maglev(&less, 0).unwrap());
        let clients = 100_000u32;
        let moved = (0..clients)
            .map(|n| Ipv4Addr::from_bits(0xc633_0000 + n * 7))
            .map(IpAddr::from)
            .filter(|client| before.lookup(*client, 0, 0) != after.lookup(*client, 0, 0));
        moved.count() as f64 / f64::from(clients)
    }

    #[test]
    fn losing_a_server_moves_little_more_than_its_own_share() {
        // Peers' tables of 65,537 slots move 10.26 % and 1.58 %; the smaller of these has 16,381.
        let (of_ten, of_hundred) = (moved_by_a_loss(10), moved_by_a_loss(100));

        println!("one of ten: {of_ten}, one of a hundred: {of_hundred}");
        assert!((0.095..0.107).contains(&of_ten), "{of_ten}");
        assert!((0.009..0.02).contains(&of_hundred), "{of_hundred}");
    }

    proptest! {
        #[test]
        fn the_order_of_the_list_does_not_matter(weights in prop::collection::vec(0u32..4, 1..12), seed in any::<u64>()) {
            let list: Vec<_> = weights.iter().enumerate()
                .map(|(n, weight)| (Endpoint::new(Ipv4Addr::new(10, 0, 0, n as u8), 80), *weight)).collect();
            let mut shuffled = list.clone();
            shuffled.sort_by_key(|(endpoint, _)| fold(digest(endpoint.address) ^ seed, SKIP_KEY));
            let (a, b) = (SlotTable::maglev(&list, 0), SlotTable::maglev(&shuffled, 0));
            prop_assert_eq!(a.is_some(), b.is_some());
            if let (Some(a), Some(b)) = (a, b) {
                for n in 0..500 {
                    let client = Ipv4Addr::from_bits(u32::wrapping_mul(n, 0x0101_0105)).into();
                    let (one, other) = (a.lookup(client, 0, 0), b.lookup(client, 0, 0));
                    prop_assert_eq!(list[one].0, shuffled[other].0);
                }
            }
        }
    }
}
