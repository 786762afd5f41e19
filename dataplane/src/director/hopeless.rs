//! Dropping what nobody has asked for, as cheaply as forwarding: a flood is mostly such packets.
//!
//! Stage two looks at plain packets without candidate. One that is for no address of the appliance, or for an
//! endpoint of a VIP that no service listens on, is hopeless: the longer way would find the same, in four times the time.
//! A packet before it in the burst could only make a session that takes it where NAT's servers answer their clients, and
//! no server answers so soon.

use super::side::HasSide;
use super::{Arrival, Director, Group, Verdict, Verdicts};
use crate::drop::DropReason;
use crate::flow::Protocol;
use crate::frame::GROUP;
use crate::snapshot::AddressRole;

/// Which packets of a group are to be dropped, and why.
#[derive(Clone, Debug)]
pub(super) struct Hopeless {
    /// Bit per packet.
    which: u32,
    /// Of each of these.
    reasons: [DropReason; GROUP],
}

impl Hopeless {
    pub(super) const NONE: Self = Self { which: 0, reasons: [DropReason::NotForUs; GROUP] };

    /// Forgets all; the reasons mean nothing then.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.which = 0;
    }

    /// Whether the packet at a place is one.
    #[inline]
    pub(super) fn has(&self, at: usize) -> bool {
        self.which >> at & 1 == 1
    }
}

impl Director {
    /// Finds hopeless ones among a group's packets without candidate, of which `unknown` has a bit for each; returns the
    /// others.
    #[inline(never)]
    pub(super) fn find_hopeless<K: HasSide>(
        &self,
        unknown: u32,
        group: &mut Group<K>,
        arrival: &Arrival<'_>,
    ) -> u32 {
        let services = &arrival.world.services;
        // A session between the families is found under another key, and senders say whose packets are that hosts hide
        // behind, or that another worker has sessions of.
        let senders_matter =
            services.hides_sources() || services.answer_clients() && self.works_with_others();
        if self.wide.across > 0 || senders_matter {
            return unknown;
        }
        let (mut asked, mut answer) = (K::NONE, None);
        let mut left = unknown;
        while left != 0 {
            let at = left.trailing_zeros() as usize % GROUP;
            left &= left - 1;
            if !group.heads.plain[at].is_some() {
                continue;
            }
            let key = group.heads.keys[at];
            // Floods have many senders and few targets.
            if key.without_source() != asked {
                asked = key.without_source();
                answer = self.why_hopeless(key, arrival);
            }
            if let Some(reason) = answer {
                group.hopeless.which |= 1 << at;
                group.hopeless.reasons[at] = reason;
            }
        }
        unknown & !group.hopeless.which
    }

    /// Why a flow without session is hopeless, if it is.
    #[inline]
    fn why_hopeless<K: HasSide>(&self, key: K, arrival: &Arrival<'_>) -> Option<DropReason> {
        let (world, destination, protocol) = (arrival.world, key.destination(), key.protocol());
        match world.role(destination.address) {
            None => Some(DropReason::NotForUs),
            // A segment may be of a session that outlived its service, at another worker.
            Some(AddressRole::Vip) if protocol == Protocol::Udp || !self.works_with_others() => {
                let service = world.services.index_of(protocol, destination);
                service.is_none().then_some(DropReason::NoService)
            }
            Some(_) => None,
        }
    }

    fn works_with_others(&self) -> bool {
        self.seat.steering.workers > 1
    }

    /// Gives a hopeless packet its verdict.
    #[inline]
    pub(super) fn drop_hopeless(&self, hopeless: &Hopeless, at: usize, verdicts: &mut Verdicts) {
        let reason = hopeless.reasons[at % GROUP];
        self.stats.drops(reason).add(1);
        verdicts.push(Verdict::Drop(reason));
    }
}
