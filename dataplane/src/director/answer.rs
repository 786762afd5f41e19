//! What the appliance itself says: echo replies and ICMP errors.

use super::budget::Budget;
use super::forward::next_hop_to;
use super::side::HasSide;
use super::{Arrival, Director, Verdicts};
use crate::drop::DropReason;
use crate::flow::{Endpoint, Family};
use crate::frame::Frame;
use crate::snapshot::Snapshot;
use crate::wire::Packet;
use crate::wire::icmp::IcmpError;
use std::net::IpAddr;

/// ICMP errors that one worker may send per second (RFC 1812 §4.3.2.8 asks for a limit).
const ERRORS_PER_SECOND: u64 = 1_000;
/// Errors that may come at once after silence.
const ERROR_BURST: u64 = 50;
/// For errors.
pub(super) const ERRORS: Budget = Budget::new(ERRORS_PER_SECOND, ERROR_BURST);

impl Director {
    /// Answers a ping of one of the appliance's addresses.
    pub(super) fn answer_echo<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        world: &Snapshot,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        if world.role(packet.destination()).is_none() {
            return Err(DropReason::NotForUs);
        }
        if world.role(packet.source()).is_some() {
            return Err(DropReason::SourceOurs);
        }
        let (_, next) = next_hop_to(packet.source(), 0, world)?;
        K::answer_echo(frame.bytes_mut(), packet);
        self.stats.echo_replies.add(1);
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// Tells the sender that its packet's time to live ended here.
    #[cold]
    pub(super) fn ttl_exceeded<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        self.send_error(frame, packet, IcmpError::TtlExceeded, DropReason::TtlExceeded, arrival, verdicts)
    }

    /// Tells the sender what fits, if it forbade fragmentation; drops the packet otherwise.
    #[cold]
    pub(super) fn exceeds_mtu<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        mtu: u16,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        if !K::dont_fragment(frame.bytes()) {
            return Err(DropReason::ExceedsMtu);
        }
        self.send_error(
            frame,
            packet,
            IcmpError::FragmentationNeeded { mtu },
            DropReason::ExceedsMtu,
            arrival,
            verdicts,
        )
    }

    /// Turns the packet into `error`. The packet itself counts as dropped for `reason`;
    /// without budget, or without a way back, that is all that happens.
    fn send_error<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        error: IcmpError,
        reason: DropReason,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let (_, next) = next_hop_to(packet.source(), 0, arrival.world).map_err(|_| reason)?;
        let source = error_source(packet, arrival).ok_or(reason)?;
        let told = K::new(packet.key.protocol(), Endpoint::new(source, 0), packet.key.source());
        if !self.icmp_budget.take(arrival.now) || !K::make_error(frame, told, error) {
            return Err(reason);
        }
        self.stats.drops(reason).add(1);
        self.stats.icmp_errors.add(1);
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }
}

/// Who tells a sender about its packet: whom it addressed, if that is the appliance; otherwise the
/// appliance as a router on the way, by its address on the sender's link.
fn error_source<K: HasSide>(packet: &Packet<K>, arrival: &Arrival<'_>) -> Option<IpAddr> {
    if arrival.world.role(packet.destination()).is_some() {
        return Some(packet.destination());
    }
    let networks = &arrival.world.port(arrival.from).networks;
    let nearest = networks.iter().find(|network| network.contains(packet.source()));
    let of_family = || networks.iter().find(|network| Family::of(network.address) == K::FAMILY);
    nearest.or_else(of_family).map(|network| network.address)
}
