//! What a director has for each family.

use super::expire::Sweep;
use super::unproven::Queues;
use super::{Director, Group};
use crate::flow::{FlowHasher, FlowKey, FlowKey6};
use crate::frame::{BURST_SIZE, GROUP};
use crate::session::{LocalPorts, SessionTable};
use crate::stats::WorkerStats;
use crate::steering::Seat;
use crate::wire::Wire;

/// The sessions of one family, and what belongs to them.
#[derive(Debug)]
pub(super) struct Side<K> {
    pub(super) sessions: SessionTable<K>,
    pub(super) local_ports: LocalPorts<K>,
    /// The packets of the burst at hand; what an older burst left here means nothing.
    pub(super) staged: Box<[Group<K>]>,
    pub(super) sweep: Sweep,
    pub(super) unproven: Queues,
    /// How many of the sessions join both families.
    pub(super) across: usize,
}

impl<K: Wire> Side<K> {
    pub(super) fn new(sessions: usize, pairs: usize, hasher: FlowHasher, seat: &Seat) -> Self {
        Self {
            sessions: SessionTable::with_capacity(sessions, hasher),
            local_ports: LocalPorts::with_capacity(pairs, hasher, seat.clone()),
            staged: vec![Group::NOTHING; BURST_SIZE / GROUP].into_boxed_slice(),
            sweep: Sweep::default(),
            unproven: Queues::new(sessions),
            across: 0,
        }
    }
}

/// A family for which a director has a side.
pub(super) trait HasSide: Wire {
    fn side(director: &Director) -> &Side<Self>;
    fn side_mut(director: &mut Director) -> &mut Side<Self>;
    /// Both of what a packet of a session changes.
    fn parts(director: &mut Director) -> (&mut SessionTable<Self>, &WorkerStats);
}

impl HasSide for FlowKey {
    #[inline(always)]
    fn side(director: &Director) -> &Side<Self> {
        &director.narrow
    }

    #[inline(always)]
    fn side_mut(director: &mut Director) -> &mut Side<Self> {
        &mut director.narrow
    }

    #[inline(always)]
    fn parts(director: &mut Director) -> (&mut SessionTable<Self>, &WorkerStats) {
        (&mut director.narrow.sessions, &director.stats)
    }
}

impl HasSide for FlowKey6 {
    #[inline(always)]
    fn side(director: &Director) -> &Side<Self> {
        &director.wide
    }

    #[inline(always)]
    fn side_mut(director: &mut Director) -> &mut Side<Self> {
        &mut director.wide
    }

    #[inline(always)]
    fn parts(director: &mut Director) -> (&mut SessionTable<Self>, &WorkerStats) {
        (&mut director.wide.sessions, &director.stats)
    }
}
