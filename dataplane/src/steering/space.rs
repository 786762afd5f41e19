//! The ports that are each worker's own, numbered without gaps.

use super::FIRST_PORT;
use super::classes::{Classes, Region};
use crate::ids::WorkerId;

/// For each worker the local ports whose replies come to it, by pair of local address and server.
#[derive(Clone, Debug)]
pub struct PortSpace {
    classes: Classes,
    /// By worker, then by coset.
    owned: Box<[Owned]>,
    /// By class: its ports below [`FIRST_PORT`].
    low: Box<[u16]>,
    mask: u32,
}

/// A worker's classes in a coset, counted from the coset's representative.
#[derive(Clone, Debug)]
struct Owned {
    steps: Box<[u16]>,
    /// For each class its place in `steps`, or [`NOT_OWNED`].
    places: Box<[u16]>,
}

const NOT_OWNED: u16 = u16::MAX;

impl PortSpace {
    /// The space of ports that add `share` to a hash, when `table[hash % table.len()]` owns a packet.
    /// `share` must be linear over exclusive or.
    pub fn new(share: impl Fn(u16) -> u32, table: &[WorkerId], workers: usize) -> Self {
        let mask = table.len() as u32 - 1;
        let shares = std::array::from_fn(|bit| (share(1 << bit) & mask) as u16);
        let classes = Classes::new(shares, table.len().trailing_zeros());
        let owned = |at: usize| {
            let (worker, coset) = (at / classes.cosets(), at % classes.cosets());
            let mine =
                |step: &usize| usize::from(table[usize::from(classes.value(coset, *step))].0) == worker;
            let steps: Box<[u16]> = (0..classes.count()).filter(mine).map(|step| step as u16).collect();
            let mut places = vec![NOT_OWNED; classes.count()];
            steps.iter().enumerate().for_each(|(at, step)| places[usize::from(*step)] = at as u16);
            Owned { steps, places: places.into() }
        };
        let owned = (0..workers * classes.cosets()).map(owned).collect();
        let mut low = vec![0; classes.count()];
        (0..FIRST_PORT).for_each(|l4_port| low[usize::from(classes.class_of(l4_port).0)] += 1);
        Self { classes, owned, low: low.into(), mask }
    }

    /// Where a pair's ports stand whose hash with port zero is `base`.
    #[inline]
    pub(crate) fn region(&self, base: u32) -> Region {
        self.classes.region((base & self.mask) as u16)
    }

    /// How many ports of a region are a worker's, those below 1,024 included.
    #[inline]
    pub(crate) fn len(&self, worker: WorkerId, region: Region) -> usize {
        self.owned(worker, region).steps.len() << self.classes.place_bits()
    }

    /// The most that [`len`](Self::len) can be for a worker.
    pub(crate) fn len_max(&self, worker: WorkerId) -> usize {
        let regions = (0..self.classes.cosets() as u16).map(|coset| Region { coset, class: 0 });
        regions.map(|region| self.len(worker, region)).max().unwrap_or(0)
    }

    /// The worker's `number`-th port of a region.
    #[inline]
    pub(crate) fn l4_port(&self, worker: WorkerId, region: Region, number: usize) -> u16 {
        let bits = self.classes.place_bits();
        let step = self.owned(worker, region).steps[number >> bits];
        self.classes.l4_port(step ^ region.class, (number & ((1 << bits) - 1)) as u16)
    }

    /// Which of the worker's ports of a region `l4_port` is, if it is one.
    #[inline]
    pub(crate) fn number(&self, worker: WorkerId, region: Region, l4_port: u16) -> Option<usize> {
        let (class, place) = self.classes.class_of(l4_port);
        let at = self.owned(worker, region).places[usize::from(class ^ region.class)];
        (at != NOT_OWNED).then(|| usize::from(at) << self.classes.place_bits() | usize::from(place))
    }

    #[inline]
    fn owned(&self, worker: WorkerId, region: Region) -> &Owned {
        &self.owned[usize::from(worker.0) * self.classes.cosets() + usize::from(region.coset)]
    }

    /// How many ports of a region from [`FIRST_PORT`] on are a worker's.
    pub(crate) fn capacity(&self, worker: WorkerId, region: Region) -> usize {
        let steps = self.owned(worker, region).steps.iter();
        let low: usize = steps.map(|step| usize::from(self.low[usize::from(step ^ region.class)])).sum();
        self.len(worker, region) - low
    }
}
