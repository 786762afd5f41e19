//! Pieces of datagrams on their way: all of a datagram come to one worker, which learns from the first
//! whose they are, and gives them to the worker that owns the session.

use super::forward::{Next, count_traffic, find_next_hop};
use super::otherwise::outer;
use super::side::HasSide;
use super::{Arrival, Director, Staged, Verdict, Verdicts, check_side, find_service};
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, Family, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use crate::ids::WorkerId;
use crate::session::{Candidate, DatagramId, DatagramKey, Needs, SessionIndex, Settled, Step};
use crate::snapshot::AddressRole;
use crate::wire::{self, Packet, Payload};

impl Director {
    /// Decides about a piece of a datagram.
    #[cold]
    pub(super) fn follow_fragment<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let role = arrival.world.role(packet.destination());
        if role == Some(AddressRole::Own) {
            return Err(DropReason::Fragment);
        }
        if role.is_none()
            && !arrival.world.services.hides_sources()
            && !arrival.world.services.answers_from(packet.source())
        {
            return Err(DropReason::NotForUs);
        }
        // One that pretends to be a server's must not come before the server's own.
        let hides = arrival.world.services.hides_sources();
        let is_server_s = match role {
            Some(AddressRole::Local(_)) => !hides,
            None => arrival.world.services.answers_from(packet.source()),
            Some(_) => false,
        };
        if is_server_s
            && arrival.admits.asks(Direction::Outbound)
            && !arrival.world.routes.leads(packet.source(), arrival.from)
        {
            return Err(DropReason::SourceElsewhere);
        }
        let piece = K::fragment(frame.bytes(), packet);
        let key = DatagramKey {
            source: packet.source(),
            destination: packet.destination(),
            identification: piece.identification,
            protocol: if K::FAMILY == Family::V4 { packet.key.protocol() as u8 } else { 0 },
        };
        let keeper = self.keeper(&key);
        if !arrival.handed && keeper != self.seat.worker {
            return self.hand_over(keeper, arrival, verdicts);
        }
        // A piece that waited here comes back as if it had been handed over.
        let step = if arrival.resumed {
            Step::Follow(self.fragments.resume(key)?)
        } else {
            self.fragments.take(key, &piece, arrival.now)?
        };
        match step {
            Step::Hold(id) => {
                verdicts.push(Verdict::Hold(id));
                Ok(())
            }
            Step::First(id) => self.begin_datagram(frame, packet, id, keeper, arrival, verdicts),
            Step::Follow(flow) => {
                let flow = K::new(flow.protocol(), flow.source(), flow.destination());
                self.forward_fragment(frame, packet, flow, keeper, arrival, verdicts)
            }
        }
    }

    /// The worker that follows a datagram.
    fn keeper(&self, key: &DatagramKey) -> WorkerId {
        let l4_port = (key.identification ^ key.identification >> 16) as u16;
        let protocol = Protocol::from_number(key.protocol).unwrap_or(Protocol::Udp);
        let flow = FlowKey6::new(
            protocol,
            Endpoint::new(key.source, l4_port),
            Endpoint::new(key.destination, l4_port),
        );
        self.seat.steering.owner_of(flow)
    }

    /// Decides by the first piece, as by a whole packet; the others follow it.
    fn begin_datagram<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        piece: &Packet<K>,
        id: DatagramId,
        keeper: WorkerId,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let decided = K::first_fragment(frame.bytes(), piece).and_then(|packet| {
            let protocol = packet.key.protocol();
            let hash = K::side(self).sessions.hash(packet.key);
            let found = K::side(self).sessions.find(packet.key, hash);
            let mine = keeper != self.seat.worker || found.is_some();
            let owner = if mine { None } else { self.owner_elsewhere(&packet, arrival) };
            let service = if owner.is_none() { find_service(&packet, arrival.world) } else { None };
            let stage = Staged { packet, hash, candidate: Candidate::NONE, service, owner, unfit: None };
            match found {
                Some(found) => self.continue_session(frame, &stage, protocol, found, arrival, verdicts),
                None => self.begin(frame, &stage, protocol, arrival, verdicts),
            }?;
            Ok(packet.key.widen())
        });
        self.fragments.follow(id, decided);
        decided.map(drop)
    }

    /// Sends a later piece of a flow's datagram on its way.
    fn forward_fragment<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        flow: K,
        keeper: WorkerId,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        if let Some(found) = self.find_across(flow) {
            return self.send_fragment::<FlowKey6, K>(frame, packet, found, arrival, verdicts);
        }
        let sessions = &K::side(self).sessions;
        let Some(found) = sessions.find(flow, sessions.hash(flow)) else {
            let of_flow = Packet { key: flow, payload: Payload::Transport(flow.protocol()), ..*packet };
            let owner =
                if keeper == self.seat.worker { self.owner_elsewhere(&of_flow, arrival) } else { None };
            return self.hand_over(owner.ok_or(DropReason::Fragment)?, arrival, verdicts);
        };
        self.send_fragment::<K, K>(frame, packet, found, arrival, verdicts)
    }

    /// Sends a later piece of family `K` on by a session of table `S`.
    fn send_fragment<S: HasSide, K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let sessions = &mut S::side_mut(self).sessions;
        let tunnel = outer(sessions, index);
        let session = sessions.get_mut(index);
        check_side(session, direction, arrival)?;
        let next = match arrival.world.neighbors.egress(session.next_hop(direction)) {
            Some(egress) => Next::Known(egress),
            None => find_next_hop(session, direction, arrival.world)?,
        };
        let link_mtu = arrival.world.port(next.port()).link.mtu;
        let crosses = tunnel.is_none() && session.changes_family();
        let (protocol, to) = (session.protocol(), session.translation(direction).widen());
        let sees_answers = session.mode.sees_answers();
        if let Some(outer) = tunnel {
            let mtu = link_mtu.saturating_sub(outer.overhead());
            let is_too_long = packet.total_len > mtu;
            if is_too_long && K::dont_fragment(frame.bytes()) {
                return Err(DropReason::ExceedsMtu);
            }
            self.enter_tunnel::<K>(frame, &next, &outer, is_too_long.then_some(mtu))?;
        } else if crosses {
            let fit = self.fit_across(frame, packet, true, link_mtu);
            K::cross(frame, packet, protocol, &to, fit.piece)?;
            if fit.cut {
                self.cut_to_fit(frame, &next, link_mtu)?;
            }
        } else if sees_answers {
            // The session is of the packet's family, and so is its key.
            let Some(key) = K::of_wide(to.key) else { return Err(DropReason::NotForUs) };
            K::translate_fragment(frame.bytes_mut(), key, to.l3_difference);
        } else {
            K::hop(frame.bytes_mut());
        }
        if tunnel.is_none() && frame.bytes().len() > wire::ETHERNET_LEN + usize::from(link_mtu) {
            return Err(DropReason::ExceedsMtu);
        }
        let (sessions, stats) = S::parts(self);
        let session = sessions.get_mut(index);
        session.last_seen = arrival.stamp;
        count_traffic(packet.total_len, direction, stats.server(session.server));
        if session.needs.has(Needs::WATCHED) {
            sessions.add_bytes(index, packet.total_len);
        }
        verdicts.push(next.send(frame.bytes_mut()));
        Ok(())
    }

    /// What became of pieces that waited for the first of their datagram: the worker holds them.
    #[inline]
    pub fn next_settled(&mut self) -> Option<Settled> {
        self.fragments.next_settled()
    }

    /// The same, of those alone that wait in vain.
    pub fn next_abandoned(&mut self) -> Option<Settled> {
        self.fragments.next_abandoned()
    }
}
