//! Sets of prefixes, made once and asked often: a million of them take a cache miss or two.
//!
//! Overlapping and adjoining prefixes are joined to ranges, which stand in order. An index says where those of each stretch of
//! addresses begin; there are about as many stretches as ranges, so that few are looked through. IPv6 prefixes of up to 64 bits
//! are told apart from longer ones, which need twice the room.
//!
//! A poptrie (crate 0.2.1) was measured in its place: 40 ns and 75 to 204 MB for a million IPv4 prefixes, 390 to 2,100 ns and
//! 271 to 947 MB for IPv6.

use crate::network::Network;
use std::fmt;
use std::net::IpAddr;

/// Most stretches of an index.
const STRETCHES: u64 = 1 << 20;

/// A set of prefixes of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    narrow: Ranges<u32>,
    /// The upper half of IPv6 addresses.
    wide: Ranges<u64>,
    long: Ranges<u128>,
    counts: [usize; 2],
}

/// Prefixes that become a set.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    narrow: Vec<(u32, u32)>,
    wide: Vec<(u64, u64)>,
    long: Vec<(u128, u128)>,
    counts: [usize; 2],
}

impl Builder {
    /// Adds the addresses of a network; bits behind its prefix do not matter.
    pub fn add(&mut self, network: Network) {
        let base = network.base();
        let open = |bits: u8| u32::from(bits) - u32::from(network.prefix_len);
        match base {
            IpAddr::V4(base) => {
                let ones = u32::MAX.checked_shl(open(32)).map_or(u32::MAX, |mask| !mask);
                self.narrow.push((base.to_bits(), base.to_bits() | ones));
            }
            IpAddr::V6(base) if network.prefix_len <= 64 => {
                let (upper, bits) = ((base.to_bits() >> 64) as u64, open(128) - 64);
                let ones = u64::MAX.checked_shl(bits).map_or(u64::MAX, |mask| !mask);
                self.wide.push((upper, upper | ones));
            }
            IpAddr::V6(base) => {
                let ones = !(u128::MAX << open(128));
                self.long.push((base.to_bits(), base.to_bits() | ones));
            }
        }
        self.counts[usize::from(base.is_ipv6())] += 1;
    }

    /// Adds all that another has.
    pub fn add_all(&mut self, other: &Self) {
        self.narrow.extend(&other.narrow);
        self.wide.extend(&other.wide);
        self.long.extend(&other.long);
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// Adds the addresses from the first to the last, of one family; false when they are none.
    pub fn add_range(&mut self, first: IpAddr, last: IpAddr) -> bool {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                self.narrow.push((first.to_bits(), last.to_bits()));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                self.long.push((first.to_bits(), last.to_bits()));
            }
            _ => return false,
        }
        self.counts[usize::from(first.is_ipv6())] += 1;
        true
    }

    /// How many were added.
    pub fn count(&self) -> usize {
        self.counts.iter().sum()
    }

    /// The set; for a million prefixes 0.1 s.
    pub fn build(self) -> Prefixes {
        Prefixes {
            narrow: Ranges::new(self.narrow),
            wide: Ranges::new(self.wide),
            long: Ranges::new(self.long),
            counts: self.counts,
        }
    }
}

impl FromIterator<Network> for Prefixes {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let mut builder = Builder::default();
        networks.into_iter().for_each(|network| builder.add(network));
        builder.build()
    }
}

impl Prefixes {
    /// Whether an address is in the set.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.narrow.contains(address.to_bits()),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.wide.contains((bits >> 64) as u64) || self.long.contains(bits)
            }
        }
    }

    /// How many prefixes it was made of: IPv4, IPv6.
    pub fn counts(&self) -> [usize; 2] {
        self.counts
    }

    /// Whether no address is in it.
    pub fn is_empty(&self) -> bool {
        self.counts == [0, 0]
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.narrow.bytes() + self.wide.bytes() + self.long.bytes()
    }
}

/// A number that addresses are.
trait Bits: Copy + Ord + Default + fmt::Debug {
    /// What is left of it without so many of its low bits, which fits.
    fn upper(self, shift: u32) -> u64;
    /// The next number, or the last one.
    fn next(self) -> Self;
    const LEN: u32;
}

macro_rules! bits {
    ($($type:ty),+) => {
        $(impl Bits for $type {
            #[inline]
            fn upper(self, shift: u32) -> u64 {
                (self >> shift) as u64
            }

            fn next(self) -> Self {
                self.saturating_add(1)
            }

            const LEN: u32 = <$type>::BITS;
        })+
    };
}

bits!(u32, u64, u128);

/// Ranges in order, which do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<T> {
    ranges: Box<[(T, T)]>,
    /// How many ranges begin before each stretch; one more than there are stretches.
    index: Box<[u32]>,
    /// The number of the first stretch, and the bits that do not tell stretches apart.
    first: u64,
    shift: u32,
}

impl<T: Bits> Ranges<T> {
    fn new(mut all: Vec<(T, T)>) -> Self {
        all.sort_unstable();
        let mut ranges: Vec<(T, T)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some((_, end)) if first <= end.next() => *end = last.max(*end),
                _ => ranges.push((first, last)),
            }
        }
        let (Some((low, _)), Some((_, high))) = (ranges.first().copied(), ranges.last().copied()) else {
            return Self::default();
        };
        let most = (ranges.len() as u64).next_power_of_two().min(STRETCHES);
        // Beyond 64 bits the difference would not be right.
        let shifts = T::LEN.saturating_sub(64)..T::LEN;
        let count = |shift: u32| high.upper(shift) - low.upper(shift) + 1;
        let spans = |shift: &u32| high.upper(*shift) - low.upper(*shift) < most;
        let shift = shifts.clone().find(spans).unwrap_or(T::LEN - 1);
        let (first, stretches) = (low.upper(shift), count(shift));
        let mut index = Vec::with_capacity(stretches as usize + 1);
        for (at, (start, _)) in ranges.iter().enumerate() {
            while index.len() as u64 <= start.upper(shift) - first {
                index.push(at as u32);
            }
        }
        index.resize(stretches as usize + 1, ranges.len() as u32);
        Self { ranges: ranges.into(), index: index.into(), first, shift }
    }

    #[inline]
    fn contains(&self, key: T) -> bool {
        let at = key.upper(self.shift).wrapping_sub(self.first) as usize;
        let (Some(from), Some(to)) = (self.index.get(at), self.index.get(at.wrapping_add(1))) else {
            return false;
        };
        let (from, to) = (*from as usize, *to as usize);
        let Some(within) = self.ranges.get(from..to) else { return false };
        let before = from + within.partition_point(|(start, _)| *start <= key);
        before > 0 && self.ranges[before - 1].1 >= key
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.ranges) + size_of_val(&*self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn narrow() -> impl Strategy<Value = Network> {
        // Close together, so that they meet.
        (0_u32..1 << 12, 0_u32..4, 16_u8..=32).prop_map(|(low, high, prefix_len)| {
            let address = Ipv4Addr::from_bits(high << 30 | low);
            Network { address: address.into(), prefix_len }
        })
    }

    fn wide() -> impl Strategy<Value = Network> {
        (0_u128..1 << 8, 0_u128..1 << 8, 0_u128..4, 30_u8..=128).prop_map(|(low, upper, high, prefix_len)| {
            let address = Ipv6Addr::from_bits(high << 126 | upper << 64 | low);
            Network { address: address.into(), prefix_len }
        })
    }

    proptest! {
        #[test]
        fn a_set_has_what_one_of_its_prefixes_has(
            networks in prop::collection::vec(prop_oneof![narrow(), wide()], 0..60),
            asked in prop::collection::vec(prop_oneof![narrow(), wide()], 0..60),
        ) {
            let set: Prefixes = networks.iter().copied().collect();
            for address in asked.iter().chain(&networks).map(|one| one.address) {
                let expected = networks.iter().any(|network| network.contains(address));
                prop_assert_eq!(set.contains(address), expected, "{}", address);
            }
            prop_assert_eq!(set.is_empty(), networks.is_empty());
        }

        #[test]
        fn a_range_has_its_ends_and_what_is_between(first: u32, len in 0_u32..5_000, other: u32) {
            let last = first.saturating_add(len);
            let mut builder = Builder::default();
            prop_assert!(builder.add_range(Ipv4Addr::from_bits(first).into(), Ipv4Addr::from_bits(last).into()));
            let set = builder.build();
            for asked in [first, last, first.wrapping_sub(1), last.wrapping_add(1), other, first / 2 + last / 2] {
                let expected = (first..=last).contains(&asked);
                prop_assert_eq!(set.contains(Ipv4Addr::from_bits(asked).into()), expected);
            }
        }
    }

    #[test]
    fn everything_and_the_edges_of_the_space() {
        let everything: Prefixes =
            ["0.0.0.0/0", "::/0"].iter().map(|text| text.parse::<Network>().unwrap()).collect();
        for text in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(everything.contains(text.parse().unwrap()), "{text}");
            assert!(!Prefixes::default().contains(text.parse().unwrap()), "{text}");
            let host: Prefixes = [Network::host(text.parse().unwrap())].into_iter().collect();
            assert!(host.contains(text.parse().unwrap()) && !host.contains("192.0.2.1".parse().unwrap()));
        }
        assert!(!Builder::default().add_range("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_million_take_a_few_megabytes() {
        // By a step that is odd, so that none comes again.
        let hosts = (0..1_000_000_u32).map(|n| Ipv4Addr::from_bits(n.wrapping_mul(2_654_435_761)));
        let set: Prefixes = hosts.map(|host| Network::host(host.into())).collect();
        assert!(set.bytes() <= 13_000_000, "{}", set.bytes());
        let nets = (0..1_000_000_u128).map(|n| Ipv6Addr::from_bits(0x2001 << 112 | n << 65));
        let set: Prefixes = nets.map(|net| Network { address: net.into(), prefix_len: 64 }).collect();
        assert!(set.bytes() <= 21_000_000, "{}", set.bytes());
    }
}
