//! Whose a packet is, when this worker has no session for it, and giving it to that worker.

use super::side::HasSide;
use super::{Arrival, Director, Staged, Verdict, Verdicts, find_service};
use crate::drop::DropReason;
use crate::flow::Protocol;
use crate::ids::WorkerId;
use crate::session::{Candidate, ForwardMode};
use crate::snapshot::AddressRole;
use crate::wire::{Packet, Payload};

impl Director {
    /// The worker that owns a packet's session, when this one has none and is not the owner.
    #[inline]
    pub(super) fn owner_elsewhere<K: HasSide>(
        &self,
        packet: &Packet<K>,
        arrival: &Arrival<'_>,
    ) -> Option<WorkerId> {
        let steering = &self.seat.steering;
        if steering.workers == 1 {
            return None;
        }
        let protocol = packet.flow_protocol()?;
        let key = packet.key;
        let owner = match arrival.world.role(packet.destination()) {
            // Any worker answers a ping.
            Some(_) if packet.payload == Payload::EchoRequest => return None,
            Some(AddressRole::Vip) => {
                // Only what a service would take, or a session that outlived its service, is worth
                // another worker's time.
                let service = arrival.world.services.find(protocol, key.destination());
                if protocol == Protocol::Udp || packet.flags.opens() {
                    service?;
                }
                if let Some(persistence) = service.and_then(|service| service.options.persistence) {
                    // One worker remembers a client.
                    steering.owner_of_client(persistence.network(packet.source()))
                } else if service.is_some_and(|service| service.mode == ForwardMode::Nat)
                    && !steering.predicts_ports::<K>(protocol)
                {
                    steering.owner_of_client(packet.source())
                } else {
                    steering.client_owner(arrival.from, key, self.seat.worker)
                }
            }
            Some(AddressRole::Local(port)) => steering.port(port).plan.owner(key),
            // The answer of a server that sees clients' addresses.
            None if arrival.world.services.answers_clients(protocol, key.source()) => {
                if steering.predicts_ports::<K>(protocol) {
                    steering.port(arrival.from).plan.owner(key)
                } else {
                    steering.owner_of_client(packet.destination())
                }
            }
            // A host that is hidden by another address.
            None if arrival.world.services.hides_sources() => {
                find_service(packet, arrival.world)?;
                steering.client_owner(arrival.from, key, self.seat.worker)
            }
            Some(AddressRole::Own) | None => return None,
        };
        (owner != self.seat.worker).then_some(owner)
    }

    /// [`owner_elsewhere`](Self::owner_elsewhere), which stage two has asked unless it had a candidate.
    pub(super) fn owner_of<K: HasSide>(&self, stage: &Staged<K>, arrival: &Arrival<'_>) -> Option<WorkerId> {
        if stage.candidate == Candidate::NONE {
            stage.owner
        } else {
            self.owner_elsewhere(&stage.packet, arrival)
        }
    }

    /// Gives a packet to its owner, and counts it.
    pub(super) fn hand_over(
        &self,
        owner: WorkerId,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        self.stats.port(arrival.from).handed_over.add(1);
        verdicts.push(Verdict::HandOver(owner));
        Ok(())
    }
}
