//! ICMP errors about packets of sessions, on their way to whom they concern (RFC 5508).
//!
//! The error comes to the address that Sluice sent from, so nothing but its quoted packet tells whose
//! it is. Routers between Sluice and the servers are not known to clients: the error gets the VIP as
//! its source, and towards the server the local address.

use super::forward::next_hop_to;
use super::{Arrival, Director, Staged, Verdicts};
use crate::drop::DropReason;
use crate::flow::{Direction, Protocol};
use crate::frame::Frame;
use crate::ids::WorkerId;
use crate::snapshot::AddressRole;
use crate::steering::Clients;
use crate::wire::icmp;
use std::net::Ipv4Addr;

impl Director {
    /// Passes an error on to the client or the server whose packet it is about.
    #[cold]
    pub(super) fn relay_error(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged,
        protocol: Protocol,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let packet = &stage.packet;
        let Some((index, direction)) = self.sessions.confirm(packet.key, stage.hash, stage.candidate) else {
            let owner =
                self.owner_of(stage, arrival).or_else(|| self.next_to_ask(packet.destination(), arrival));
            return self.hand_over(owner.ok_or(DropReason::IcmpNoSession)?, arrival, verdicts);
        };
        // Nobody is told about the end of an error (RFC 1122 §3.2.2).
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let session = self.sessions.get(index);
        let (_, next) = next_hop_to(session.destination(direction), arrival.world)?;
        if packet.total_len > arrival.world.port(next.port()).link.mtu {
            return Err(DropReason::ExceedsMtu);
        }
        let moved = match direction {
            Direction::Outbound => session.sequence_offset,
            Direction::Inbound => 0,
        };
        icmp::relay_error(frame.bytes_mut(), packet, protocol, &session.translation(direction), moved);
        self.stats.icmp_relayed.add(1);
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// The worker that is asked next for the session of an error from a client's side, where a client's
    /// session is its receiver's and nobody else knows whose: all in their order, each once.
    fn next_to_ask(&self, destination: Ipv4Addr, arrival: &Arrival<'_>) -> Option<WorkerId> {
        let steering = &self.seat.steering;
        let is_known = steering.port(arrival.from).clients != Clients::Receiver
            || arrival.world.addresses.get(&destination) != Some(&AddressRole::Vip);
        let me = self.seat.worker.0;
        let next = match (arrival.handed, me) {
            (true, _) => me + 1,
            // Worker 0 need not ask itself.
            (false, 0) => 1,
            (false, _) => 0,
        };
        (!is_known && next < steering.workers).then_some(WorkerId(next))
    }
}
