//! The SYN proxy: a client has to prove that it is where it says before it gets a session, a local port or a server.
//!
//! Its SYN is answered by a [cookie](crate::cookie), and nothing is kept. The answer closes the window, so that the client
//! sends nothing yet. Its next segment shows that it got the cookie: the session begins, and that segment leaves as the
//! client's SYN to the server. What the server answers leaves as the update that opens the window; and what the client
//! would have said to it, we say. So servers that speak first can.
//!
//! The server's sequence numbers, timestamps and windows are not those that the client was told, and are moved both ways to
//! the session's end ([`wire::ServerShift`]). What the session notes of them are the client's.

use super::admit::{Admitted, NotAdmitted, service_for};
use super::budget::Budget;
use super::forward::{change_state, flow_number, next_hop_to, note_connect};
use super::life::CONNECTIONS_UNCHANGED;
use super::reset::{RESETS, Reset};
use super::side::HasSide;
use super::{Arrival, Director, Staged, Verdict, Verdicts};
use crate::cookie::Offer;
use crate::drop::DropReason;
use crate::flow::{Direction, Family, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use crate::ids::PortId;
use crate::session::{ForwardMode, Needs, Proven, SessionIndex, State, Watch};
use crate::snapshot::{ClientAddress, Service, Snapshot};
use crate::wire::{
    self, Handshake, IPV4_LEN, IPV6_LEN, MadeFrame, Packet, ServerShift, SynOptions, TcpFlags, toa_len,
};

/// The exponent of windows that clients are told: up to 8 MiB. Servers' own are made to fit.
const WINDOW_SCALE: u8 = 7;
/// The largest segment of a client that tells none (RFC 9293 §3.7.1).
const SMALLEST_SEGMENT: u16 = 536;
const TCP_LEN: u16 = 20;
/// Segments of our own that wait to be sent.
pub(super) const REPLAYS: usize = 1_024;
/// How often a server is asked again: after 1, 2 and 4 s.
pub(super) const TRIES: u8 = 3;
/// Of a service on a worker, so many segments a second, with the time that a cookie would have, may pretend to know a cookie; later ones are not looked at.
const WRONG_PER_SECOND: u64 = 1_000_000;
const WRONG_BURST: u64 = 100_000;

/// What is known of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    wrong: Budget,
    /// In which the rest was learned.
    routing_epoch: u16,
    /// Whether one of its servers keeps no timestamps: then none are offered.
    without_timestamps: bool,
}

impl Known {
    pub(super) const NOTHING: Self = Self {
        wrong: Budget::new(WRONG_PER_SECOND, WRONG_BURST),
        routing_epoch: 0,
        without_timestamps: false,
    };
}

impl Director {
    /// The service of a segment without session, if its clients have to prove themselves.
    #[inline]
    pub(super) fn wants_proof<'w, K: HasSide>(
        &self,
        stage: &Staged<K>,
        protocol: Protocol,
        world: &'w Snapshot,
    ) -> Option<&'w Service> {
        if protocol != Protocol::Tcp {
            return None;
        }
        let service = service_for(stage, protocol, world).ok()?;
        world.proofs.concern(&stage.packet, protocol, service).then_some(service)
    }

    /// Counts a connection of which no proof was asked, if somebody looks for floods of them.
    #[inline]
    pub(super) fn note_asked<K: HasSide>(&self, stage: &Staged<K>, protocol: Protocol, world: &Snapshot) {
        if protocol == Protocol::Tcp
            && stage.packet.flags.opens()
            && let Ok(service) = service_for(stage, protocol, world)
            && service.options.syn_proxy.is_watched()
        {
            self.stats.syn_proxy(service.id).unasked.add(1);
        }
    }

    /// Answers a SYN, or begins the session of a client that knows its cookie.
    #[inline(never)]
    pub(super) fn prove<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        service: &Service,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        if K::is_fragment(frame.bytes()) {
            return Err(DropReason::Fragment);
        }
        if stage.packet.flags.opens() {
            return self.answer_syn(frame, stage, service, arrival, verdicts);
        }
        let Some((proven, syn)) = self.take_cookie(frame.bytes(), &stage.packet, service, arrival) else {
            self.stats.service(service.id).refuse(DropReason::NoSession);
            return Err(DropReason::NoSession);
        };
        let made = wire::handshake_frame(stage.packet.key.widen(), &syn);
        if !replace(frame, &made) {
            return Err(DropReason::NoHeadroom);
        }
        let mut stage = stage.clone();
        let link = &arrival.world.port(arrival.from).link;
        if K::parse(frame, link, &mut stage.packet).is_err() {
            return Err(DropReason::NoSession);
        }
        self.begin_proven(frame, &stage, &proven, service, arrival, verdicts)
    }

    /// Whether a SYN's client could have a session as far as is known before it has proved itself.
    pub(super) fn may_answer<K: HasSide>(
        &self,
        stage: &Staged<K>,
        service: &Service,
        arrival: &Arrival<'_>,
    ) -> Result<(), DropReason> {
        self.check_gates(stage, Protocol::Tcp, 0, arrival).map_err(|(_, reason)| reason)?;
        let serves = service.servers.iter().any(|server| server.weight > 0);
        if serves { Ok(()) } else { Err(DropReason::NoRealServer) }
    }

    /// Turns a SYN into the answer that has a cookie.
    fn answer_syn<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        service: &Service,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let packet = &stage.packet;
        match self.may_answer(stage, service, arrival) {
            Ok(()) => {}
            Err(DropReason::TtlExceeded) => return self.ttl_exceeded(frame, packet, arrival, verdicts),
            Err(reason) => {
                self.stats.service(service.id).refuse(reason);
                return Err(reason);
            }
        }
        if !wire::segment_is_right(frame.bytes(), packet) {
            return Err(DropReason::TcpChecksum);
        }
        let asked = wire::syn_options(frame.bytes(), packet);
        let known = &self.known[service.id.0 as usize];
        let is_known = known.routing_epoch == arrival.world.routing_epoch;
        let timestamps = asked.timestamps.is_some() && !(is_known && known.without_timestamps);
        let offer = Offer {
            segment_size: asked.segment_size.unwrap_or(SMALLEST_SEGMENT),
            window_scale: asked.window_scale.filter(|_| timestamps),
            sack: asked.sack && timestamps,
            timestamps,
        };
        let initial = wire::sequence_number(frame.bytes(), packet);
        let (cookie, clock) = self.cookies.make(packet.key, initial, &offer, arrival.now);
        let answer = Handshake {
            sequence: cookie,
            acknowledged: initial.wrapping_add(1),
            flags: TcpFlags::SYN_ACK,
            // The server opens it.
            window: 0,
            options: SynOptions {
                segment_size: asked.segment_size.map(|_| segment_size(service, packet, arrival)),
                window_scale: offer.window_scale.map(|_| WINDOW_SCALE),
                sack: offer.sack,
                timestamps: asked.timestamps.filter(|_| timestamps).map(|(value, _)| (clock, value)),
            },
        };
        let next = next_hop_to(packet.source(), flow_number(packet.key), arrival.world);
        let made = wire::handshake_frame(packet.key.reversed().widen(), &answer);
        if !replace(frame, &made) {
            return Err(DropReason::NoHeadroom);
        }
        self.stats.syn_proxy(service.id).cookies_sent.add(1);
        // Nobody is looked for because of it: the station that the SYN came from knows the way.
        let verdict = match next.map(|(_, next)| next.send(frame.bytes_mut())) {
            Ok(Verdict::Transmit(port)) => Verdict::Transmit(port),
            _ => {
                let bytes = frame.bytes_mut();
                bytes.copy_within(6..12, 0);
                bytes[6..12].copy_from_slice(&arrival.world.port(arrival.from).link.mac);
                Verdict::Transmit(arrival.from)
            }
        };
        verdicts.push(verdict);
        Ok(())
    }

    /// What a segment proves, and the SYN that its client would have sent; `None` if it proves nothing.
    fn take_cookie<K: HasSide>(
        &mut self,
        frame: &[u8],
        packet: &Packet<K>,
        service: &Service,
        arrival: &Arrival<'_>,
    ) -> Option<(Proven, Handshake)> {
        let flags = packet.flags;
        if !flags.ack() || flags.syn() || flags.rst() {
            return None;
        }
        let counters = self.stats.syn_proxy(service.id);
        let known = &mut self.known[service.id.0 as usize];
        if !known.wrong.has_any(arrival.now) {
            counters.cookies_unchecked.add(1);
            return None;
        }
        let (sequence, acknowledged) = wire::numbers(frame, packet);
        let timestamps = wire::syn_options(frame, packet).timestamps;
        let (echo, cookie) = (timestamps.map(|(_, echo)| echo), acknowledged.wrapping_sub(1));
        // Who finds the window closed asks with the number before its first byte.
        let tries = [Some(sequence.wrapping_sub(1)), echo.map(|_| sequence)];
        if !self.cookies.is_recent(cookie, arrival.now) {
            // It cost next to nothing, and is not charged.
            counters.cookies_wrong.add(1);
            return None;
        }
        let found = tries.into_iter().flatten().find_map(|initial| {
            Some((initial, self.cookies.check(packet.key, initial, cookie, echo, arrival.now)?))
        });
        let Some((initial, offer)) = found.filter(|_| wire::segment_is_right(frame, packet)) else {
            known.wrong.take(arrival.now);
            counters.cookies_wrong.add(1);
            return None;
        };
        let window = wire::window(frame, packet);
        // A session's own clock: the server may know another client's by the port that it gets.
        let clock = timestamps.map_or(0, |(value, _)| value);
        let is_hidden = service.mode == ForwardMode::FullNat;
        let client_clock = if is_hidden { self.cookies.millis(arrival.now).wrapping_sub(clock) } else { 0 };
        let proven = Proven {
            cookie,
            initial,
            offer,
            clocks: (clock, echo.unwrap_or(0)),
            window,
            port: arrival.from,
            tries: 0,
            shift: ServerShift { client_clock, ..ServerShift::default() },
        };
        Some((proven, syn(&proven)))
    }

    /// Begins a session: the frame is the client's SYN again.
    fn begin_proven<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        proven: &Proven,
        service: &Service,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let packet = &stage.packet;
        let Admitted { index, across, ports_before, .. } = match self.admit(stage, Protocol::Tcp, arrival) {
            Ok(admitted) => admitted,
            Err(NotAdmitted::Once(_)) => return Err(DropReason::NoSession),
            Err(NotAdmitted::Refused(reason)) => {
                // It believes that it has a connection.
                self.reset_client(packet.key, proven.cookie);
                return Err(reason);
            }
        };
        self.stats.syn_proxy(service.id).cookies_accepted.add(1);
        let changes = ports_before >= CONNECTIONS_UNCHANGED;
        let is_toa = matches!(service.options.client_address, Some(ClientAddress::Toa(_)));
        let found = (index, Direction::Inbound);
        if across {
            self.prepare_proven::<FlowKey6, K>((frame, packet), (index, changes), proven, is_toa, arrival);
        } else {
            self.prepare_proven::<K, K>((frame, packet), (index, changes), proven, is_toa, arrival);
        }
        // However the SYN fares, it is sent again.
        if across {
            let sent = self.forward_across(frame, packet, Protocol::Tcp, found, arrival, verdicts);
            self.wait_for_server::<FlowKey6>(index);
            sent
        } else {
            let sent = self.forward(frame, packet, Protocol::Tcp, found, arrival, verdicts);
            self.wait_for_server::<K>(index);
            sent
        }
    }

    /// Lets a session keep what its client proved, and chooses its number at the server if it `changes`.
    fn prepare_proven<S: HasSide, K: HasSide>(
        &mut self,
        (frame, packet): (&Frame<'_>, &Packet<K>),
        (index, changes): (SessionIndex, bool),
        proven: &Proven,
        is_toa: bool,
        arrival: &Arrival<'_>,
    ) {
        self.note_proven::<S>(index, proven, is_toa, arrival);
        if changes {
            self.choose_sequence::<S, K>(frame, packet, index, false, arrival.now);
        }
    }

    fn note_proven<S: HasSide>(
        &mut self,
        index: SessionIndex,
        proven: &Proven,
        is_toa: bool,
        arrival: &Arrival<'_>,
    ) {
        let sessions = &mut S::side_mut(self).sessions;
        let is_watched = sessions.get(index).needs.has(Needs::WATCHED);
        let watch = if is_watched {
            sessions.watch(index)
        } else {
            Watch { begun: arrival.stamp, bytes: 0, resets: false, counts: false, proven: false }
        };
        sessions.set_watch(index, Watch { proven: true, ..watch });
        sessions.set_proven(index, proven);
        if is_toa {
            sessions.set_mark(index, proven.cookie.wrapping_add(1));
        }
        let needs = &mut sessions.get_mut(index).needs;
        needs.add(Needs::MORE);
        needs.add(Needs::WATCHED);
    }

    fn wait_for_server<S: HasSide>(&mut self, index: SessionIndex) {
        let (sessions, stats) = S::parts(self);
        change_state(sessions.get_mut(index), State::SynSent, stats);
    }

    /// Does what a segment of a proven client's session needs before it goes the way of others, on which it gets the other
    /// side's numbers if it is the client's. Returns it as it then is.
    ///
    /// # Errors
    /// Why it goes no further.
    pub(super) fn meet_proven<S: HasSide, K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet<K>,
        (index, direction): (SessionIndex, Direction),
        arrival: &Arrival<'_>,
    ) -> Result<Packet<K>, DropReason> {
        let sessions = &S::side(self).sessions;
        let (session, proven) = (sessions.get(index), sessions.proven(index));
        let mut packet = *packet;
        let flags = packet.flags;
        let (sequence, acknowledged) = wire::numbers(frame.bytes(), &packet);
        let waits = session.state() == State::SynSent;
        if direction == Direction::Inbound {
            // Its server has said nothing yet, so a reset can have one number only (RFC 5961 §3.2).
            let is_end = flags.rst() && sequence == proven.initial.wrapping_add(1);
            // The client's own may say what it was not granted.
            let is_syn_again = flags.opens() && arrival.resumed;
            return if !waits || is_end || is_syn_again {
                Ok(packet)
            } else {
                Err(DropReason::HandshakePending)
            };
        }
        let is_expected = flags.ack()
            && acknowledged == proven.initial.wrapping_add(1).wrapping_add(session.sequence_offset);
        let answers = flags.syn() && is_expected;
        let is_again = sequence.wrapping_add(proven.shift.sequence) == proven.cookie;
        if answers && (waits || is_again && session.state() == State::Established) {
            self.establish::<S, K>(frame, &mut packet, index, arrival);
        } else if waits && flags.rst() && is_expected {
            let (sessions, stats) = S::parts(self);
            let sequence = proven.cookie.wrapping_add(1).wrapping_sub(sequence);
            let shift = ServerShift { sequence, ..proven.shift };
            sessions.set_proven(index, &Proven { shift, ..proven });
            let session = sessions.get_mut(index);
            stats.server(session.server).failures.add(1);
            change_state(session, State::Close, stats);
            wire::shift_to_other_side(frame.bytes_mut(), &packet, direction, &shift);
        } else if waits {
            if flags.ack() && !flags.syn() && !flags.rst() && self.resets.len() < RESETS {
                // It still has the port's last connection (RFC 9293 §3.5.1); the next SYN finds it gone.
                let flow = session.key(Direction::Outbound).reversed().widen();
                self.resets.push_back(Reset { flow, sequence: acknowledged });
            }
            return Err(DropReason::HandshakePending);
        } else if flags.syn() && session.state() != State::Established {
            // Too late: its client has gone.
            return Err(DropReason::HandshakePending);
        } else {
            wire::shift_to_other_side(frame.bytes_mut(), &packet, direction, &proven.shift);
        }
        Ok(packet)
    }

    /// The server has answered: the session is what others are, and its client learns of the window.
    fn establish<S: HasSide, K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &mut Packet<K>,
        index: SessionIndex,
        arrival: &Arrival<'_>,
    ) {
        let (sessions, stats) = S::parts(self);
        let (said, mut proven) = (wire::syn_options(frame.bytes(), packet), sessions.proven(index));
        let offer = proven.offer;
        proven.shift.sequence = proven.cookie.wrapping_sub(wire::sequence_number(frame.bytes(), packet));
        if let Some((value, _)) = said.timestamps {
            proven.shift.server_clock = proven.clocks.1.wrapping_sub(value);
        }
        let told = WINDOW_SCALE as i8;
        (proven.shift.server_window, proven.shift.client_window) =
            match (offer.window_scale, said.window_scale) {
                (Some(_), Some(scale)) => (scale.min(14) as i8 - told, 0),
                (Some(own), None) => (-told, own.min(14) as i8),
                (None, _) => (0, 0),
            };
        if sessions.get(index).state() == State::SynSent {
            sessions.set_proven(index, &proven);
        } else {
            // Its second answer, or its first once more: what was told stays.
            proven = sessions.proven(index);
        }
        let session = sessions.get_mut(index);
        if session.state() == State::SynSent {
            note_connect(session, packet, Direction::Outbound, arrival, stats);
            change_state(session, State::Established, stats);
        }
        let (client, server) = (session.key(Direction::Inbound).widen(), session.server);
        let told_scale = if offer.window_scale.is_some() { WINDOW_SCALE } else { 0 };
        wire::make_window_update(frame.bytes_mut(), packet, told_scale);
        let as_told = ServerShift { server_window: 0, ..proven.shift };
        wire::shift_to_other_side(frame.bytes_mut(), packet, Direction::Outbound, &as_told);
        // The last question had none.
        if offer.timestamps
            && proven.tries < TRIES
            && said.timestamps.is_none()
            && let Some(service) = arrival.world.services.of_server(server)
        {
            let known = &mut self.known[service.id.0 as usize];
            (known.without_timestamps, known.routing_epoch) = (true, arrival.world.routing_epoch);
        }
        // Where there is no room for it the server answers once more.
        let _ = self.replay(client, &proven, &acknowledgement(&proven), arrival.world);
    }

    /// Lets a segment of a client's come once more, as if it did. Returns whether there was room for it.
    fn replay(&mut self, flow: FlowKey6, proven: &Proven, segment: &Handshake, world: &Snapshot) -> bool {
        let has_room = self.replays.len() < REPLAYS;
        if has_room {
            let mut frame = wire::handshake_frame(flow, segment);
            frame[..6].copy_from_slice(&world.port(proven.port).link.mac);
            // A station of nobody's: locally administered, and no group.
            frame[6] = 0x02;
            self.replays.push_back((proven.port, frame));
        }
        has_room
    }

    /// A segment that is to be treated as if it came by this port.
    #[inline]
    pub fn next_replay(&mut self) -> Option<(PortId, MadeFrame)> {
        self.replays.pop_front()
    }

    /// Asks the server of a proven client again. The last time without timestamps: it may know a later clock by the port.
    #[cold]
    pub(super) fn ask_again<K: HasSide>(&mut self, index: SessionIndex, world: &Snapshot) {
        let sessions = &K::side(self).sessions;
        let mut proven = sessions.proven(index);
        proven.tries += 1;
        let flow = sessions.get(index).key(Direction::Inbound).widen();
        let mut syn = syn(&proven);
        if proven.tries == TRIES {
            syn.options.timestamps = None;
        }
        if self.replay(flow, &proven, &syn, world) {
            K::side_mut(self).sessions.set_proven(index, &proven);
        }
    }

    /// Tells the client of a session that ends before its server has answered.
    #[cold]
    pub(super) fn give_up<K: HasSide>(&mut self, index: SessionIndex) {
        let sessions = &K::side(self).sessions;
        let (flow, cookie) = (sessions.get(index).key(Direction::Inbound), sessions.proven(index).cookie);
        self.reset_client(flow, cookie);
    }

    fn reset_client<K: Key>(&mut self, flow: K, cookie: u32) {
        if self.resets.len() < RESETS {
            let flow = flow.reversed().widen();
            self.resets.push_back(Reset { flow, sequence: cookie.wrapping_add(1) });
        }
    }
}

/// The SYN of a client that proved itself.
fn syn(proven: &Proven) -> Handshake {
    let Proven { offer, window, initial, clocks, .. } = *proven;
    Handshake {
        sequence: initial,
        acknowledged: 0,
        flags: TcpFlags::SYN_ONLY,
        window: wire::scaled(window, offer.window_scale.map_or(0, |scale| scale as i8)),
        options: SynOptions {
            segment_size: Some(offer.segment_size),
            window_scale: offer.window_scale,
            sack: offer.sack,
            timestamps: offer.timestamps.then_some((clocks.0, 0)),
        },
    }
}

/// What it would have said to its server's answer.
fn acknowledgement(proven: &Proven) -> Handshake {
    let Proven { offer, window, initial, cookie, clocks, .. } = *proven;
    Handshake {
        sequence: initial.wrapping_add(1),
        acknowledged: cookie.wrapping_add(1),
        flags: TcpFlags::ACK_ONLY,
        window,
        options: SynOptions { timestamps: offer.timestamps.then_some(clocks), ..SynOptions::default() },
    }
}

/// The largest segment that a client may send: what fits every port, with what its servers are told.
fn segment_size<K: Key>(service: &Service, packet: &Packet<K>, arrival: &Arrival<'_>) -> u16 {
    let has_ipv6 = K::FAMILY == Family::V6
        || service.servers.first().is_some_and(|server| Family::of(server.endpoint.address) == Family::V6);
    let header = if has_ipv6 { IPV6_LEN } else { IPV4_LEN } as u16 + TCP_LEN;
    let client = packet.key.source();
    let told = match service.options.client_address {
        Some(ClientAddress::Toa(_)) => toa_len(client.address),
        Some(ClientAddress::Proxy(proxy)) => {
            proxy.header(Protocol::Tcp, client, packet.key.destination(), 0).len()
        }
        Some(ClientAddress::Uoa(_)) | None => 0,
    };
    arrival.smallest_mtu.saturating_sub(header + told as u16)
}

/// Puts other bytes into a frame's place, but for its stations.
fn replace(frame: &mut Frame<'_>, made: &[u8]) -> bool {
    let mut stations = [0; 12];
    stations.copy_from_slice(&frame.bytes()[..12]);
    let has_room = match made.len().checked_sub(frame.len()) {
        Some(more) => frame.prepend(more),
        None => {
            frame.truncate(made.len());
            true
        }
    };
    if has_room {
        frame.bytes_mut().copy_from_slice(made);
        frame.bytes_mut()[..12].copy_from_slice(&stations);
    }
    has_room
}
