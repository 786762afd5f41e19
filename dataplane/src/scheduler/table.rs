//! From a hash to a server: slots, of which each server has its share.

use super::greatest_common_divisor;
use crate::flow::Endpoint;
use crate::hash::fold;
use std::net::IpAddr;

/// From a slot to a server's place in the service's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    slots: Box<[u16]>,
    seed: u64,
}

pub(super) const UNCLAIMED: u16 = u16::MAX;

// Any odd constants would do; these are digits of pi and e.
pub(super) const OFFSET_KEY: u64 = 0x243f_6a88_85a3_08d3;
pub(super) const SKIP_KEY: u64 = 0xb7e1_5162_8aed_2a6b;
const CLIENT_KEY: u64 = 0x1319_8a2e_0370_7344;

/// Slots of a table that is filled in turn; the kernel's sh and dh have 256.
const SLOTS_IN_TURN: usize = 4_096;
/// Slots of a ring's table, and points on the ring for each share of a server.
const SLOTS_OF_RING: usize = 65_536;
const POINTS: u32 = 160;
/// Shares that a server may have on a ring, so that huge weights do not take huge memory.
const SHARES_MAX: u32 = 100;

/// A server that takes part.
pub(super) struct Turn {
    pub(super) endpoint: Endpoint,
    /// Its place in the list.
    pub(super) place: u16,
    /// Its weight, divided by what all weights have in common.
    pub(super) claims: u32,
}

/// The servers with a weight, in the order of their endpoints; `None` when there is none.
pub(super) fn turns(servers: &[(Endpoint, u32)]) -> Option<Vec<Turn>> {
    assert!(servers.len() < usize::from(UNCLAIMED));
    let divisor = servers.iter().fold(0, |divisor, (_, weight)| greatest_common_divisor(divisor, *weight));
    if divisor == 0 {
        return None;
    }
    let mut turns: Vec<_> = servers
        .iter()
        .enumerate()
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(place, (endpoint, weight))| Turn {
            endpoint: *endpoint,
            place: place as u16,
            claims: *weight / divisor,
        })
        .collect();
    turns.sort_unstable_by_key(|turn| turn.endpoint);
    Some(turns)
}

impl SlotTable {
    pub(super) fn new(slots: Box<[u16]>, seed: u64) -> Self {
        Self { slots, seed }
    }

    /// Slots given out in turn, as many to each server in a turn as its weight says: even, and all
    /// change when a server comes or goes.
    pub(super) fn in_turn(servers: &[(Endpoint, u32)], seed: u64) -> Option<Self> {
        let turns = turns(servers)?;
        let total: u64 = turns.iter().map(|turn| u64::from(turn.claims)).sum();
        let mut slots = Vec::with_capacity(SLOTS_IN_TURN);
        let mut passed = 0;
        for turn in &turns {
            passed += u64::from(turn.claims);
            slots.resize((SLOTS_IN_TURN as u64 * passed / total) as usize, turn.place);
        }
        Some(Self::new(slots.into(), seed))
    }

    /// A ring on which each server has points by its weight; each slot belongs to the next point.
    pub(super) fn ring(servers: &[(Endpoint, u32)], seed: u64) -> Option<Self> {
        let turns = turns(servers)?;
        let largest = turns.iter().map(|turn| turn.claims).max().unwrap_or(1);
        let shares = |claims: u32| {
            (u64::from(claims) * u64::from(SHARES_MAX.min(largest)) / u64::from(largest)).max(1)
        };
        let point = |turn: &Turn, number: u64| {
            let Endpoint { address, l4_port } = turn.endpoint;
            let id = digest(address).rotate_left(16) ^ u64::from(l4_port) ^ seed;
            (fold(fold(id ^ OFFSET_KEY, SKIP_KEY) ^ number, CLIENT_KEY | 1), turn.place)
        };
        let mut points: Vec<_> = turns
            .iter()
            .flat_map(|turn| {
                (0..shares(turn.claims) * u64::from(POINTS)).map(move |number| point(turn, number))
            })
            .collect();
        points.sort_unstable();
        let mut next = 0;
        let slots = (0..SLOTS_OF_RING as u64).map(|slot| {
            while points.get(next).is_some_and(|(at, _)| *at < slot << 48) {
                next += 1;
            }
            points.get(next).or(points.first()).map_or(0, |(_, place)| *place)
        });
        Some(Self::new(slots.collect(), seed))
    }

    /// The place of the server for an address and a port; with each `attempt` another slot's.
    #[inline]
    pub fn lookup(&self, address: IpAddr, l4_port: u16, attempt: u32) -> usize {
        let id =
            digest(address) ^ CLIENT_KEY ^ self.seed ^ u64::from(l4_port) << 40 ^ u64::from(attempt) << 56;
        let hash = fold(id, OFFSET_KEY);
        let slot = ((hash & 0xffff_ffff) * self.slots.len() as u64) >> 32;
        usize::from(self.slots[slot as usize])
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// An address in one word: an IPv4 address as it is, the halves of an IPv6 address well mixed.
pub(super) fn digest(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            fold((bits >> 64) as u64 ^ OFFSET_KEY, bits as u64 ^ SKIP_KEY)
        }
    }
}
