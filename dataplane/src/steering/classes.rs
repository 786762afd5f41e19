//! All layer-4 ports, numbered so that those with the same share in a hash stand together.
//!
//! A port's share is linear over exclusive or: the share of a port is the exclusive or of its bits'
//! shares. So the 65,536 ports fall into classes of one size, and both the class of a port and the
//! n-th port of a class are found by two small tables each.

/// How ports are numbered for one layout of the hash.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    /// Bits that tell a class: as many as ports' shares are independent of each other.
    rank: u32,
    /// From a port to its number, by the port's high and low byte.
    numbers: Linear,
    /// From a number to its port.
    l4_ports: Linear,
    /// The share of each class.
    shares: Box<[u16]>,
    /// For each value that a hash can have: its coset, and the class that leads there from the
    /// coset's representative.
    split: Box<[Region]>,
    /// The least value of each coset: hashes that no choice of a port leads from one to another.
    representatives: Box<[u16]>,
}

/// Where the ports of one pair stand: the part of the hash that the pair itself decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Region {
    pub(super) coset: u16,
    pub(super) class: u16,
}

impl Region {
    /// The region of a hash of zero.
    pub(crate) const NOTHING: Self = Self { coset: 0, class: 0 };
}

/// A map between 16-bit words that is linear over exclusive or.
#[derive(Clone, Debug)]
struct Linear([[u16; 256]; 2]);

impl Linear {
    /// The map that takes bit `at` to `columns[at]`.
    fn new(columns: [u16; 16]) -> Self {
        let table = |first: usize| {
            std::array::from_fn(|byte| {
                (0..8).filter(|bit| byte >> bit & 1 == 1).fold(0, |word, bit| word ^ columns[first + bit])
            })
        };
        Self([table(8), table(0)])
    }

    #[inline]
    fn of(&self, word: u16) -> u16 {
        let [high, low] = word.to_be_bytes();
        self.0[0][usize::from(high)] ^ self.0[1][usize::from(low)]
    }
}

impl Classes {
    /// The classes of ports whose bits have these shares, each below 2^`bits`.
    pub(super) fn new(shares: [u16; 16], bits: u32) -> Self {
        // Gauss: the ports' bits whose shares are independent, and how the others' follow from theirs.
        let mut reduced: [Option<(u16, u16)>; 16] = [None; 16];
        let (mut independent, mut others): (Vec<usize>, Vec<(usize, u16)>) = (Vec::new(), Vec::new());
        for (bit, share) in shares.into_iter().enumerate() {
            let (mut rest, mut sum) = (share, 0);
            while rest != 0 {
                let lead = 15 - rest.leading_zeros() as usize;
                let Some((value, of)) = reduced[lead] else {
                    reduced[lead] = Some((rest, sum | 1 << independent.len()));
                    independent.push(bit);
                    break;
                };
                rest ^= value;
                sum ^= of;
            }
            if rest == 0 {
                others.push((bit, sum));
            }
        }
        let rank = independent.len() as u32;
        let expand = |sum: u16| {
            let bits = independent.iter().enumerate().filter(|(at, _)| sum >> at & 1 == 1);
            bits.fold(0u16, |word, (_, bit)| word | 1 << bit)
        };
        let (mut numbers, mut l4_ports) = ([0; 16], [0; 16]);
        for (at, bit) in independent.iter().enumerate() {
            numbers[*bit] = 1 << at;
            l4_ports[at] = 1 << bit;
        }
        for (at, (bit, sum)) in others.iter().enumerate() {
            let at = rank as usize + at;
            numbers[*bit] = sum | 1 << at;
            l4_ports[at] = expand(*sum) | 1 << bit;
        }
        let share_of = |class: u16| {
            let bits = independent.iter().enumerate().filter(|(at, _)| class >> at & 1 == 1);
            bits.fold(0u16, |share, (_, bit)| share ^ shares[*bit])
        };
        let shares: Box<[u16]> = (0..1u32 << rank).map(|class| share_of(class as u16)).collect();
        let mut split = vec![None; 1 << bits];
        let mut representatives = Vec::new();
        for value in 0..1u16 << bits {
            if split[usize::from(value)].is_none() {
                let coset = representatives.len() as u16;
                representatives.push(value);
                for (class, share) in shares.iter().enumerate() {
                    split[usize::from(value ^ share)] = Some(Region { coset, class: class as u16 });
                }
            }
        }
        Self {
            rank,
            numbers: Linear::new(numbers),
            l4_ports: Linear::new(l4_ports),
            shares,
            split: split.into_iter().map(Option::unwrap_or_default).collect(),
            representatives: representatives.into(),
        }
    }

    /// How many classes there are.
    pub(super) fn count(&self) -> usize {
        self.shares.len()
    }

    /// Cosets: from a hash in one no port leads to another.
    pub(super) fn cosets(&self) -> usize {
        self.representatives.len()
    }

    /// Bits of a port's place within its class.
    #[inline]
    pub(super) fn place_bits(&self) -> u32 {
        16 - self.rank
    }

    /// The region of a pair whose hash with port zero is `base`.
    #[inline]
    pub(super) fn region(&self, base: u16) -> Region {
        self.split[usize::from(base)]
    }

    /// The hash of the class that stands `step` from the representative of a coset.
    pub(super) fn value(&self, coset: usize, step: usize) -> u16 {
        self.representatives[coset] ^ self.shares[step]
    }

    /// A port's class and its place within.
    #[inline]
    pub(super) fn class_of(&self, l4_port: u16) -> (u16, u16) {
        let number = self.numbers.of(l4_port);
        (number & (self.shares.len() - 1) as u16, (u32::from(number) >> self.rank) as u16)
    }

    /// The port in a place of a class.
    #[inline]
    pub(super) fn l4_port(&self, class: u16, place: u16) -> u16 {
        self.l4_ports.of(class | (u32::from(place) << self.rank) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(shares: &[u16; 16], l4_port: u16) -> u16 {
        (0..16).filter(|bit| l4_port >> bit & 1 == 1).fold(0, |sum, bit| sum ^ shares[bit])
    }

    proptest! {
        #[test]
        fn every_port_stands_once_in_the_class_of_its_share(
            bits in 0u32..10,
            shares in prop::array::uniform16(any::<u16>()),
        ) {
            let shares = shares.map(|share| share & ((1 << bits) - 1));
            let classes = Classes::new(shares, bits);
            prop_assert_eq!(classes.count() << classes.place_bits(), 65_536);
            prop_assert_eq!(classes.count() * classes.cosets(), 1 << bits);
            for l4_port in 0..=u16::MAX {
                let (class, place) = classes.class_of(l4_port);
                prop_assert_eq!(classes.l4_port(class, place), l4_port);
                prop_assert_eq!(classes.shares[usize::from(class)], share(&shares, l4_port));
            }
        }

        #[test]
        fn a_region_leads_to_its_value(
            bits in 0u32..10,
            shares in prop::array::uniform16(any::<u16>()),
        ) {
            let shares = shares.map(|share| share & ((1 << bits) - 1));
            let classes = Classes::new(shares, bits);
            for base in 0..1u16 << bits {
                let Region { coset, class } = classes.region(base);
                prop_assert_eq!(classes.value(usize::from(coset), usize::from(class)), base);
            }
        }
    }
}
