//! Who is on the links: the Ethernet header towards each next hop.

use super::{Map, NextHop};
use crate::ids::{NeighborId, PortId};
use crate::prefetch::prefetch_near;
use crate::wire::EthernetHeader;

/// A next hop whose station address may be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The station.
    pub hop: NextHop,
    /// What to put in front of a packet for it; `None` while it is being resolved.
    pub header: Option<EthernetHeader>,
}

/// What the packet path needs of a neighbour whose station address is known; half a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Egress {
    /// What to put in front of a packet.
    pub header: EthernetHeader,
    /// The port that leads there.
    pub port: PortId,
    known: bool,
}

/// The neighbours that control knows.
#[derive(Clone, Debug, Default)]
pub struct Neighbors {
    slots: Vec<Option<Neighbor>>,
    /// The same by the same slots, for the packet path.
    egress: Vec<Egress>,
    by_hop: Map<NextHop, NeighborId>,
}

/// How to send to each neighbour: where that stands stays in registers while a group of packets goes by.
#[derive(Clone, Copy, Debug)]
pub struct Egresses<'n>(&'n [Egress]);

impl<'n> Egresses<'n> {
    /// As [`Neighbors::egress`].
    #[inline(always)]
    pub fn get(self, id: NeighborId) -> Option<&'n Egress> {
        self.0.get(id.0 as usize).filter(|egress| egress.known)
    }
}

impl Neighbors {
    /// A table with each neighbour in its own place; a place may be empty.
    pub fn new(slots: Vec<Option<Neighbor>>) -> Self {
        let by_hop = slots
            .iter()
            .enumerate()
            .filter_map(|(at, neighbor)| Some((neighbor.as_ref()?.hop, NeighborId(at as u16))))
            .collect();
        const UNKNOWN: Egress = Egress { header: [0; _], port: PortId(0), known: false };
        let egress = |slot: &Option<Neighbor>| {
            let neighbor = slot.as_ref()?;
            Some(Egress { header: neighbor.header?, port: neighbor.hop.port, known: true })
        };
        let egress = slots.iter().map(|slot| egress(slot).unwrap_or(UNKNOWN)).collect();
        Self { slots, egress, by_hop }
    }

    /// How to send to the neighbour in a slot, when its station address is known.
    #[inline]
    pub fn egress(&self, id: NeighborId) -> Option<&Egress> {
        self.egress.get(id.0 as usize).filter(|egress| egress.known)
    }

    /// How to send to each neighbour, for a group of packets.
    #[inline]
    pub fn egresses(&self) -> Egresses<'_> {
        Egresses(&self.egress)
    }

    /// Asks for the line of a slot.
    #[inline]
    pub fn prefetch(&self, id: NeighborId) {
        if let Some(egress) = self.egress.get(id.0 as usize) {
            prefetch_near(egress);
        }
    }

    /// The slot of a next hop.
    #[inline]
    pub fn find(&self, hop: NextHop) -> Option<NeighborId> {
        self.by_hop.get(&hop).copied()
    }

    /// The neighbour in a slot; `None` for an empty slot and for [`NeighborId::NONE`].
    #[inline]
    pub fn get(&self, id: NeighborId) -> Option<&Neighbor> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    /// The header towards a next hop, when its station address is known.
    pub fn header(&self, hop: NextHop) -> Option<EthernetHeader> {
        self.get(self.find(hop)?)?.header
    }
}
