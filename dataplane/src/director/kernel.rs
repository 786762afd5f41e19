//! The kernel path: what nobody here claims, and the kernel of the appliance's host may want.
//!
//! Asked only of packets that would be dropped otherwise. Traffic to VIPs never goes this way, and what does has
//! limits by kind, so that a flood of one kind leaves room for the others: answers to health checks, segments that
//! pretend to be of connections, those of connections that the host has (BGP, ssh), and all that anybody can send. Of the host's connections each has
//! something of its own that the others cannot take.

use super::budget::Budget;
use super::{Arrival, Director};
use crate::clock::Instant;
use crate::drop::DropReason;
use crate::snapshot::{AddressRole, Snapshot};
use crate::steering::FIRST_PORT;
use crate::wire::Unclaimed;
use std::net::IpAddr;

/// Packets of one kind that one worker gives to the kernel per second: a few percent of a core.
const PER_SECOND: u64 = 20_000;
/// Packets that may come at once after silence.
const BURST: u64 = 2_000;

/// What limits are kept apart for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Answers to what health checks ask from local addresses.
    Check,
    /// Segments that open no connection.
    Connection,
    /// What opens connections, datagrams, groups, errors.
    Other,
    /// A connection that the host has, by its number.
    Known(u16),
}

/// Each kind's own.
pub(super) const BUDGETS: [Budget; 4] = [Budget::new(PER_SECOND, BURST); 4];
/// What each connection of the host has whatever the others do: BGP's keepalives, and keystrokes.
pub(super) const OWN: Budget = Budget::new(50, 100);

impl Director {
    /// What becomes of a packet that is refused for `reason`: the kernel's, if the error is `None`.
    #[cold]
    pub(super) fn offer_kernel(
        &mut self,
        frame: &[u8],
        reason: DropReason,
        arrival: &Arrival<'_>,
    ) -> Option<DropReason> {
        match self.kernel_kind(frame, reason, arrival) {
            None => Some(reason),
            Some(kind) if self.pay_for_kernel(kind, arrival.now) => None,
            Some(_) => Some(DropReason::KernelLimit),
        }
    }

    /// Whether a packet of a kind is within its limit. A connection of the host has a little of its own, and beyond that a part of
    /// what all of them have.
    fn pay_for_kernel(&mut self, kind: Kind, now: Instant) -> bool {
        let [check, connection, other, known] = &mut self.kernel_budgets;
        match kind {
            Kind::Check => check.take(now),
            Kind::Connection => connection.take(now),
            Kind::Other => other.take(now),
            Kind::Known(number) => {
                let own = self.host_budgets.get_mut(usize::from(number));
                own.is_some_and(|own| own.take(now)) || known.take(now)
            }
        }
    }

    /// Of which kind a packet that is refused for `reason` is for the kernel, if it wants it.
    pub(super) fn kernel_kind(
        &self,
        frame: &[u8],
        reason: DropReason,
        arrival: &Arrival<'_>,
    ) -> Option<Kind> {
        let port = arrival.world.port(arrival.from);
        if !port.kernel || !means_unclaimed(reason) {
            return None;
        }
        Unclaimed::read(frame, port.link.mac).and_then(|packet| kind(&packet, arrival.world))
    }
}

/// Whether a packet that is refused for `reason` is well formed, as far as anybody looked.
fn means_unclaimed(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::NotForUs
            | DropReason::LocalNoSession
            | DropReason::ProtocolUnsupported
            | DropReason::IcmpNoSession
            | DropReason::IcmpUnsupported
            | DropReason::IcmpQuote
            | DropReason::Fragment
            | DropReason::EthernetNotOurs
            | DropReason::EthertypeUnsupported
    )
}

/// The kind of a packet that the kernel may want.
fn kind(packet: &Unclaimed, world: &Snapshot) -> Option<Kind> {
    if !packet.unicast {
        return packet.is_for_link().then_some(Kind::Other);
    }
    let destination = packet.destination?;
    let is_link_local = matches!(destination, IpAddr::V6(address) if address.is_unicast_link_local());
    let known = || world.host_flows.get(&packet.flow?).copied();
    let of_host = match packet.continues {
        true => known().map_or(Kind::Connection, Kind::Known),
        false => Kind::Other,
    };
    match world.role(destination) {
        // Checks of a VIP on one server ask from an address of the appliance, and the VIP answers.
        Some(AddressRole::Own) if packet.l4_port < FIRST_PORT && comes_from_vip(packet, world) => {
            Some(Kind::Check)
        }
        Some(AddressRole::Own) => Some(of_host),
        // Sessions never have ports below: these are the checks'. Echo replies have none.
        Some(AddressRole::Local(_)) => (packet.l4_port < FIRST_PORT).then_some(Kind::Check),
        Some(AddressRole::Vip) => None,
        None => is_link_local.then_some(of_host),
    }
}

fn comes_from_vip(packet: &Unclaimed, world: &Snapshot) -> bool {
    packet.source.and_then(|source| world.role(source)) == Some(AddressRole::Vip)
}
