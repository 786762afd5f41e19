//! Resets for both ends of a connection that the appliance forgets, so that they need not find out by
//! silence; for services that want it.

use super::forward::{flow_number, next_hop_to};
use super::side::HasSide;
use super::{Director, Verdict};
use crate::flow::{Direction, FlowKey6, Key};
use crate::session::{Needs, Session, SessionIndex, State};
use crate::snapshot::Snapshot;
use crate::wire::{self, MadeFrame};

/// Resets that wait to be sent: what a turn can make, twice over.
pub(super) const RESETS: usize = 1_024;

/// A segment that ends a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    /// From whom to whom.
    pub(super) flow: FlowKey6,
    /// What the receiver expects next.
    pub(super) sequence: u32,
}

impl Director {
    /// Takes note that both ends of an established connection are to be told of its end.
    #[inline]
    pub(super) fn note_resets<K: HasSide>(&mut self, index: SessionIndex) {
        if K::side(self).sessions.get(index).needs.has(Needs::WATCHED) {
            self.add_resets::<K>(index);
        }
    }

    #[cold]
    fn add_resets<K: HasSide>(&mut self, index: SessionIndex) {
        let sessions = &K::side(self).sessions;
        let session: &Session<K> = sessions.get(index);
        // Before, nobody knows both numbers; after, the ends know of the end.
        let is_wanted = sessions.watch(index).resets && session.state() == State::Established;
        if !is_wanted || self.resets.len() + 2 > RESETS {
            return;
        }
        let both = [Direction::Inbound, Direction::Outbound].map(|direction| {
            let flow = session.key(direction).reversed().widen();
            Reset { flow, sequence: sessions.acknowledged(index, direction) }
        });
        self.resets.extend(both);
    }

    /// A reset to be sent, and what is to be done with it; `None` when none is left.
    #[inline]
    pub fn next_reset(&mut self, world: &Snapshot) -> Option<(Verdict, MadeFrame)> {
        while let Some(Reset { flow, sequence }) = self.resets.pop_front() {
            // An end without a route is as good as gone.
            let Ok((_, next)) = next_hop_to(flow.destination().address, flow_number(flow), world) else {
                continue;
            };
            let mut frame = wire::reset_frame(flow, sequence);
            self.stats.resets_sent.add(1);
            return Some((next.send(&mut frame), frame));
        }
        None
    }
}
