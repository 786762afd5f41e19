//! The pure decision on packets.
//!
//! [`Director::process`] takes a burst of frames, the world as control last
//! described it, and the time; it changes the frames in place and returns a verdict
//! for each. It knows no device, no clock and no I/O, so everything it does can be
//! tested, fuzzed and measured on its own.
//!
//! A burst goes through three stages, each a loop over a group of packets, one group
//! behind the other, because that hides the latency of memory: parse and ask for the
//! index lines; ask for the session lines; decide.
//!
//! [`forward`] sends packets of sessions on their way, [`otherwise`] those that need more than new addresses,
//! [`hopeless`] drops what nobody has asked for, [`fragments`] joins what came in pieces; [`tell`] says to servers
//! where their clients are, [`syn_proxy`] lets clients prove that they are there, [`cut`] makes two of one that became too long. [`admit`] says who may have a session,
//! [`life`] begins and ends it, [`expire`] finds old ones, [`unproven`] those that may be false, [`reset`] tells their ends. [`answer`] writes what the appliance itself has to say, [`relay`] passes
//! on what others say about its packets, [`owner`] gives packets to other workers, [`kernel`] to the host's kernel;
//! [`budget`] says how much of that may be in a second. [`fill`] looks how full things are; [`explain`] says what all of them would do, and does nothing.

mod admit;
mod answer;
mod budget;
mod cut;
mod expire;
mod explain;
mod fill;
mod forward;
mod fragments;
mod hopeless;
mod kernel;
mod life;
mod locals;
mod otherwise;
mod owner;
mod rates;
mod relay;
mod reset;
mod sequences;
mod side;
mod syn_proxy;
mod tell;
mod unproven;
mod verdicts;

pub use explain::{Chosen, Explanation, Leaving};
pub use rates::Talker;
pub use sequences::Sequences;
pub use unproven::UNPROVEN_SHARE;

use crate::clock::{Instant, Stamp};
use crate::cookie::Cookies;
use crate::drop::DropReason;
use crate::flow::{Direction, FlowHasher, FlowKey, FlowKey6, Key, Protocol};
use crate::frame::{BURST_SIZE, Frame, GROUP};
use crate::hugepages::{self, Table};
use crate::ids::{MAX_SERVERS, MAX_SERVICES, PortId, WorkerId};
use crate::session::{
    Candidate, DatagramId, ForwardMode, Fragments, Session, SessionIndex, SessionTable, Templates,
};
use crate::snapshot::{Admits, HOST_FLOWS_MAX, NextHop, ServiceIndex, Snapshot};
use crate::stats::WorkerStats;
use crate::steering::Seat;
use crate::wire::{self, Heads, MadeFrame, Packet, Payload, Station, Tail, Unfit, Wire};
use admit::{ServiceCursor, Towards, find_service};
use arrayvec::ArrayVec;
use budget::Budget;
use cut::TAILS;
use hopeless::Hopeless;
use reset::{RESETS, Reset};
use side::{HasSide, Side};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What is to be done with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it by this port; the frame is complete.
    Transmit(PortId),
    /// Send it to this next hop as soon as its station address is known; only the
    /// Ethernet header is missing.
    Await(NextHop),
    /// Give it to the worker that owns its session.
    HandOver(WorkerId),
    /// Keep it until its datagram is settled: it came before the first fragment.
    Hold(DatagramId),
    /// Give it to the control thread: ARP or neighbour discovery, from this port.
    Punt(PortId),
    /// Take its tag off, which has a priority and names no VLAN, and look again (IEEE 802.1Q).
    Untag,
    /// Give it to the host's kernel, as what came by this port.
    Kernel(PortId),
    /// Free it and count the reason.
    Drop(DropReason),
}

pub use verdicts::{Same, Verdicts};

/// What a director is made with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sessions between IPv4 addresses at a time.
    pub sessions: usize,
    /// Most sessions with an IPv6 address at a time.
    pub sessions6: usize,
    /// Most pairs of local address and real server that have ports in use at a time.
    pub local_port_pairs: usize,
}

impl Limits {
    /// Limits that fit a table of `sessions`.
    pub fn for_sessions(sessions: usize, sessions6: usize) -> Self {
        // One pair for 64 sessions: 8 KiB for what takes 5.8 KiB in the table, if it all gets used;
        // but not so few that ten thousand services with a few servers each would not fit.
        Self { sessions, sessions6, local_port_pairs: (sessions / 64).clamp(65_536, 131_072) }
    }

    /// Bytes that a director with these limits touches at its start, and places of unproven sessions, which it touches soon;
    /// the arena of local ports is touched only as it is used.
    pub fn bytes(&self) -> u64 {
        // The session's line, its place in the free list, two keys in the index, and half a place in each of two queues.
        const PER_SESSION: u64 = 64 + 4 + 20 + 8;
        const PER_SESSION6: u64 = 128 + 4 + 20 + 8;
        self.sessions as u64 * PER_SESSION + self.sessions6 as u64 * PER_SESSION6
    }
}

/// One worker's sessions and the decisions about its packets.
#[derive(Debug)]
pub struct Director {
    seat: Seat,
    narrow: Side<FlowKey>,
    wide: Side<FlowKey6>,
    cursors: Table<ServiceCursor>,
    fragments: Fragments,
    fill: fill::Fill,
    templates: Templates,
    /// Bit per server: whether it is above its upper threshold, or has not yet come below the lower.
    full: Table<u64>,
    /// By server.
    towards: Table<Towards>,
    icmp_budget: Budget,
    kernel_budgets: [Budget; 4],
    /// By the number of a connection of the host's.
    host_budgets: Table<Budget>,
    sequences: Sequences,
    cookies: Cookies,
    /// By service: what the SYN proxy knows of it.
    known: Table<syn_proxy::Known>,
    /// Segments of clients that are to come again, by port.
    replays: VecDeque<(PortId, MadeFrame)>,
    rates: rates::Rates,
    /// Resets to be sent.
    resets: VecDeque<Reset>,
    /// Second parts of packets that had to be cut, to be sent.
    tails: VecDeque<(Verdict, Tail)>,
    stats: Arc<WorkerStats>,
}

/// A packet that takes the longer way.
#[derive(Clone, Debug)]
struct Staged<K> {
    /// The packet, unless it is malformed.
    packet: Packet<K>,
    hash: u64,
    candidate: Candidate,
    /// For a packet without candidate, the service that it asks for.
    service: Option<ServiceIndex>,
    /// For a packet without candidate, the worker whose it is, if that is another.
    owner: Option<WorkerId>,
    unfit: Option<Unfit>,
}

impl<K: Key> Staged<K> {
    const NOTHING: Self = Self {
        packet: Packet::NEIGHBOR,
        hash: 0,
        candidate: Candidate::NONE,
        service: None,
        owner: None,
        unfit: None,
    };
}

/// Packets between the stages: what almost all of them need stands side by side, and what only the longer way needs
/// is put together when one takes it.
#[derive(Clone, Debug)]
struct Group<K> {
    heads: Heads<K>,
    hashes: [u64; GROUP],
    candidates: [Candidate; GROUP],
    hopeless: Hopeless,
    /// Those that are not plain, and those without candidate.
    further: [Staged<K>; GROUP],
}

impl<K: Wire> Group<K> {
    const NOTHING: Self = Self {
        heads: Heads::NOTHING,
        hashes: [0; GROUP],
        candidates: [Candidate::NONE; GROUP],
        hopeless: Hopeless::NONE,
        further: [const { Staged::NOTHING }; GROUP],
    };

    /// Reads the frames that are not plain: `which` has a bit for each. Returns those of the other family.
    #[inline(never)]
    fn read_others(&mut self, which: u32, frames: &mut [Frame<'_>], arrival: &Arrival<'_>) -> u64 {
        let link = &arrival.world.port(arrival.from).link;
        let mut others = 0;
        for (at, frame) in frames.iter_mut().enumerate().take(GROUP) {
            if which >> at & 1 == 1 {
                let staged = &mut self.further[at];
                staged.unfit = K::parse(frame, link, &mut staged.packet).err();
                self.heads.keys[at] = staged.packet.key;
                others |= u64::from(staged.unfit == Some(Unfit::OtherFamily)) << at;
            }
        }
        others
    }

    /// A packet as the longer way needs it: what it says of service and owner stays.
    fn further(&mut self, at: usize, frame: &Frame<'_>) -> &mut Staged<K> {
        let staged = &mut self.further[at];
        if self.heads.plain[at].is_some() {
            staged.packet = self.heads.packet(at, frame);
            staged.unfit = None;
        }
        (staged.hash, staged.candidate) = (self.hashes[at], self.candidates[at]);
        staged
    }

    /// The packets that may begin a session, each with its service; of the first `count`.
    ///
    /// At places of hopeless ones stands what was there before, perhaps of another world.
    fn begins(&self, count: usize) -> impl Iterator<Item = (&Staged<K>, ServiceIndex)> {
        let candidates = self.candidates.iter().zip(&self.further).take(count).enumerate();
        let others = candidates.filter(|(at, (candidate, staged))| {
            **candidate == Candidate::NONE && !self.hopeless.has(*at) && staged.unfit.is_none()
        });
        others.filter_map(|(_, (_, staged))| Some((staged, staged.service?)))
    }
}

/// Where a burst comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The port by which it came.
    pub port: PortId,
    /// Whether another worker took it from its queue, and handed it over.
    pub handed: bool,
    /// Whether the worker had kept it, by [`Verdict::Hold`].
    pub resumed: bool,
}

impl Origin {
    /// The worker's own queue of a port.
    pub fn queue(port: PortId) -> Self {
        Self { port, handed: false, resumed: false }
    }
}

/// What is the same for every packet of a burst.
struct Arrival<'w> {
    /// The port by which the burst came.
    from: PortId,
    world: &'w Snapshot,
    now: Instant,
    stamp: Stamp,
    /// What frames for the port's station begin with.
    station: Station,
    /// Whether a kernel may have left checksums to a device.
    kernel_peer: bool,
    /// A packet that is no longer fits every port.
    smallest_mtu: u16,
    /// The longest plain packet: one that fits every port and whose checksum is its sender's.
    longest_plain: u16,
    /// What the port admits of sessions' packets.
    admits: Admits,
    /// Whether another worker handed the burst over.
    handed: bool,
    /// Whether the burst had been kept.
    resumed: bool,
}

impl<'w> Arrival<'w> {
    fn new(origin: Origin, world: &'w Snapshot, now: Instant) -> Self {
        let from = origin.port;
        let link = &world.port(from).link;
        let kernel_peer = link.kernel_peer;
        let smallest_mtu = world.ports.iter().map(|port| port.link.mtu).min().unwrap_or(0);
        Self {
            from,
            world,
            now,
            stamp: now.stamp(),
            station: Station::new(link.mac),
            kernel_peer,
            smallest_mtu,
            longest_plain: if kernel_peer { 0 } else { smallest_mtu },
            admits: world.admits(from),
            handed: origin.handed || origin.resumed,
            resumed: origin.resumed,
        }
    }
}

impl Director {
    /// The director of the worker in `seat`, without sessions, that counts into `stats`.
    pub fn new(limits: Limits, hasher: FlowHasher, seat: Seat, stats: Arc<WorkerStats>) -> Self {
        Self {
            narrow: Side::new(limits.sessions, limits.local_port_pairs, hasher, &seat),
            wide: Side::new(limits.sessions6, limits.local_port_pairs, hasher, &seat),
            cursors: hugepages::table(MAX_SERVICES, || ServiceCursor::of(&seat)),
            fragments: Fragments::default(),
            fill: fill::Fill::default(),
            templates: Templates::default(),
            full: hugepages::table(MAX_SERVERS / 64, || 0),
            towards: hugepages::table(MAX_SERVERS, || Towards::UNKNOWN),
            icmp_budget: answer::ERRORS,
            kernel_budgets: kernel::BUDGETS,
            host_budgets: hugepages::table(HOST_FLOWS_MAX, || kernel::OWN),
            sequences: Sequences::fresh(hasher),
            // Of nobody else's, until the process has its secret.
            cookies: Cookies::new([hasher.hash(FlowKey::NONE), hasher.hash(FlowKey6::NONE)], Duration::ZERO),
            known: hugepages::table(MAX_SERVICES, || syn_proxy::Known::NOTHING),
            replays: VecDeque::with_capacity(syn_proxy::REPLAYS),
            rates: rates::Rates::new(hasher),
            resets: VecDeque::with_capacity(RESETS),
            tails: VecDeque::with_capacity(TAILS),
            seat,
            stats,
        }
    }

    /// From now on connections get these sequence numbers: before the first packet.
    pub fn continue_sequences(&mut self, sequences: Sequences) {
        self.sequences = sequences;
    }

    /// From now on clients get these cookies: before the first packet.
    pub fn use_cookies(&mut self, cookies: Cookies) {
        self.cookies = cookies;
    }

    /// Decides about each of `frames`, which came from `origin`, and changes it as its verdict
    /// needs.
    ///
    /// # Panics
    /// When there are more frames than [`BURST_SIZE`].
    pub fn process(
        &mut self,
        origin: Origin,
        frames: &mut [Frame<'_>],
        world: &Snapshot,
        now: Instant,
        verdicts: &mut Verdicts,
    ) {
        let arrival = &Arrival::new(origin, world, now);
        verdicts.clear();
        // As a burst begins, so it mostly goes on.
        if frames.first().is_some_and(|frame| wire::is_ipv6(frame.bytes())) {
            return self.process_as::<FlowKey6, FlowKey>(frames, arrival, verdicts);
        }
        let others = self.run::<FlowKey>(frames, arrival, verdicts);
        if others != 0 {
            self.process_others::<FlowKey6>(others, frames, arrival, verdicts);
        }
    }

    /// Decides about a burst that is mostly of family `K`.
    #[inline(never)]
    fn process_as<K: HasSide, Other: HasSide>(
        &mut self,
        frames: &mut [Frame<'_>],
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) {
        let others = self.run::<K>(frames, arrival, verdicts);
        if others != 0 {
            self.process_others::<Other>(others, frames, arrival, verdicts);
        }
    }

    /// Decides about the packets of a burst that are of family `K`; bit per frame.
    #[inline(never)]
    fn process_others<K: HasSide>(
        &mut self,
        others: u64,
        frames: &mut [Frame<'_>],
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) {
        let is_other = |at: usize| others >> at & 1 == 1;
        let places = (0..frames.len()).filter(|at| is_other(*at));
        let mut taken: ArrayVec<Frame<'_>, BURST_SIZE> = frames
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| is_other(*at))
            .map(|(_, frame)| frame.take())
            .collect();
        let mut decided = Verdicts::new();
        self.run::<K>(&mut taken, arrival, &mut decided);
        for (at, (frame, verdict)) in places.zip(taken.into_iter().zip(decided)) {
            frames[at] = frame;
            verdicts.set(at, verdict);
        }
    }

    /// Puts frames through the stages, and gives a verdict for each. Returns, bit per frame, which are
    /// of the other family; their verdicts mean nothing.
    #[inline(always)]
    fn run<K: HasSide>(
        &mut self,
        frames: &mut [Frame<'_>],
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> u64 {
        // Taken out while its packets go through `self`: two words move, not the packets.
        let mut staged = std::mem::take(&mut K::side_mut(self).staged);
        let burst = &mut staged[..];
        let world = arrival.world;
        let count = frames.len();
        let mut others = 0;
        // Bit per group: whether it has packets that may begin a session.
        let mut begins = 0_u32;
        let of = |step: usize| (step * GROUP).min(count)..((step + 1) * GROUP).min(count);
        for step in 0..count.div_ceil(GROUP) + FIND_AFTER + DECIDE_AFTER {
            if let (Some(group), frames) = (burst.get_mut(step), &mut frames[of(step)])
                && !frames.is_empty()
            {
                others |= self.parse::<K>(frames, arrival, group) << (step * GROUP);
            }
            if let Some(step) = step.checked_sub(FIND_AFTER)
                && !of(step).is_empty()
            {
                let found = self.find_candidates(&frames[of(step)], &mut burst[step], arrival);
                begins |= u32::from(found) << step;
            }
            if let Some(step) = step.checked_sub(FIND_AFTER + 1)
                && begins >> step & 1 == 1
            {
                self.anticipate(&burst[step], of(step).len(), world);
            }
            if let Some(step) = step.checked_sub(FIND_AFTER + DECIDE_AFTER) {
                if begins >> step & 1 == 1 {
                    self.forecast(&burst[step], of(step).len(), world);
                }
                let (frames, group) = (&mut frames[of(step)], &mut burst[step]);
                match arrival.admits {
                    Admits::ByRoute { .. } => self.decide::<K, true>(frames, group, arrival, verdicts),
                    _ => self.decide::<K, false>(frames, group, arrival, verdicts),
                }
            }
        }
        K::side_mut(self).staged = staged;
        others
    }

    /// Stage one: what each packet is, and a first request to memory. Returns, bit per frame, which are
    /// of the other family.
    ///
    /// The stages are functions of their own, called once per group, because the compiler keeps
    /// what a small loop needs in registers: 32 instructions less per packet.
    #[inline(never)]
    fn parse<K: HasSide>(
        &self,
        frames: &mut [Frame<'_>],
        arrival: &Arrival<'_>,
        group: &mut Group<K>,
    ) -> u64 {
        let sessions = &K::side(self).sessions;
        let others = group.heads.read(frames, &arrival.station, arrival.longest_plain);
        if arrival.admits == Admits::Clients {
            group.heads.plain.iter_mut().for_each(|plain| *plain = plain.of_clients());
        }
        let others = if others == 0 { 0 } else { group.read_others(others, frames, arrival) };
        sessions.prefetch_buckets(&group.heads.keys, frames.len(), &mut group.hashes);
        others
    }

    /// Stage two: the session that each packet probably belongs to, and a second request. For what
    /// belongs to none, the service that it asks for; returns whether there is such a one.
    #[inline(never)]
    fn find_candidates<K: HasSide>(
        &self,
        frames: &[Frame<'_>],
        group: &mut Group<K>,
        arrival: &Arrival<'_>,
    ) -> bool {
        let sessions = &K::side(self).sessions;
        let unknown = sessions.candidates(&group.hashes, frames.len(), &mut group.candidates);
        group.hopeless.clear();
        if unknown == 0 {
            return false;
        }
        let unknown = self.find_hopeless(unknown, group, arrival);
        unknown != 0 && self.find_services(unknown, frames, group, arrival)
    }

    /// Of packets without candidate, of which `which` has a bit for each, the service that each asks for. Returns
    /// whether there is one.
    #[inline(never)]
    fn find_services<K: HasSide>(
        &self,
        which: u32,
        frames: &[Frame<'_>],
        group: &mut Group<K>,
        arrival: &Arrival<'_>,
    ) -> bool {
        let mut begins = false;
        for (at, frame) in frames.iter().enumerate().take(GROUP) {
            if which >> at & 1 == 0 {
                continue;
            }
            let staged = group.further(at, frame);
            if staged.unfit.is_none() {
                staged.owner = self.owner_elsewhere(&staged.packet, arrival);
                let mine = staged.owner.is_none();
                staged.service = if mine { find_service(&staged.packet, arrival.world) } else { None };
                begins |= staged.service.is_some();
            }
        }
        begins
    }

    /// A step after stage two, for packets that may begin a session: what [`forecast`](Self::forecast) reads.
    #[inline(never)]
    fn anticipate<K: HasSide>(&self, group: &Group<K>, count: usize, world: &Snapshot) {
        for (_, service) in group.begins(count) {
            self.anticipate_session(world.services.at(service));
        }
    }

    /// Before stage three, for packets that may begin a session: asks for the lines that it will
    /// need, packet after packet at each level, so that a group waits once for a level. With ten
    /// thousand services none of them is in a cache.
    #[inline(never)]
    fn forecast<K: HasSide>(&self, group: &Group<K>, count: usize, world: &Snapshot) {
        let mut pairs = [None; GROUP];
        for ((staged, service), pair) in group.begins(count).zip(&mut pairs) {
            let (service, packet) = (world.services.at(service), &staged.packet);
            // Who has to prove himself gets no server yet.
            if !world.proofs.concern(packet, packet.key.protocol(), service) {
                *pair = self.forecast_pair(service, packet, staged.hash, world);
            }
        }
        let Side { sessions, local_ports, .. } = K::side(self);
        let known = pairs.map(|pair| local_ports.candidate(pair?));
        for pair in known.into_iter().flatten() {
            sessions.prefetch_key(local_ports.next_key(pair));
        }
    }

    /// Stage three: everything is at hand. With `BY_ROUTE` the port's packets are looked at one by one.
    #[inline(never)]
    fn decide<K: HasSide, const BY_ROUTE: bool>(
        &mut self,
        frames: &mut [Frame<'_>],
        group: &mut Group<K>,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) {
        let mut at = 0;
        while at < frames.len() {
            if group.hopeless.has(at) {
                self.drop_hopeless(&group.hopeless, at, verdicts);
                at += 1;
                continue;
            }
            at = self.pass::<K, BY_ROUTE>(frames, group, at, arrival, verdicts);
            if let Some(frame) = frames.get_mut(at)
                && !group.hopeless.has(at)
            {
                let staged = group.further(at, frame);
                self.decide_one(frame, staged, arrival, verdicts);
                at += 1;
            }
        }
    }

    /// Gives one verdict.
    #[inline(never)]
    fn decide_one<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) {
        let decided = match stage.unfit {
            None => self.try_forward(frame, stage, arrival, verdicts),
            Some(Unfit::Dropped(reason)) => Err(reason),
            Some(Unfit::OtherFamily) => {
                verdicts.push(Verdict::Drop(DropReason::EthertypeUnsupported));
                Ok(())
            }
        };
        if let Err(reason) = decided {
            verdicts.push(self.refuse(frame.bytes(), reason, arrival));
        }
    }

    /// Gives one verdict, or the reason to drop the packet.
    #[inline(always)]
    fn try_forward<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let packet = &stage.packet;
        match packet.payload {
            Payload::Transport(protocol) => self.forward_flow(frame, stage, protocol, arrival, verdicts),
            Payload::Error(protocol) => self.relay_error(frame, stage, protocol, arrival, verdicts),
            Payload::Fragment => self.follow_fragment(frame, packet, arrival, verdicts),
            Payload::EchoRequest if arrival.world.hides_sources_from(packet.destination()) => {
                self.forward_flow(frame, stage, Protocol::Icmp, arrival, verdicts)
            }
            Payload::EchoRequest => self.answer_echo(frame, packet, arrival.world, verdicts),
            Payload::Neighbor => {
                verdicts.push(Verdict::Punt(arrival.from));
                Ok(())
            }
        }
    }

    /// Gives one verdict on a packet of a flow, or the reason to drop it.
    #[inline(always)]
    fn forward_flow<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        protocol: Protocol,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let packet = &stage.packet;
        if arrival.kernel_peer && wire::finish_partial_checksum(frame.bytes_mut(), packet, protocol) {
            self.stats.port(arrival.from).partial_checksums.add(1);
        }
        match K::side(self).sessions.confirm(packet.key, stage.candidate) {
            Some(found) => self.continue_session(frame, stage, protocol, found, arrival, verdicts),
            None => self.search(frame, stage, protocol, arrival, verdicts),
        }
    }

    /// Decides about a packet whose session stage two did not find.
    #[inline(never)]
    fn search<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        protocol: Protocol,
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        // What was another worker's in stage two still is.
        if self.wide.across == 0
            && stage.candidate == Candidate::NONE
            && let Some(owner) = stage.owner
        {
            return self.hand_over(owner, arrival, verdicts);
        }
        match K::side(self).sessions.find(stage.packet.key, stage.hash) {
            Some(found) => self.continue_session(frame, stage, protocol, found, arrival, verdicts),
            None => self.begin(frame, stage, protocol, arrival, verdicts),
        }
    }

    /// Forwards a packet by the session that was found for it.
    #[inline(always)]
    fn continue_session<K: HasSide>(
        &mut self,
        frame: &mut Frame<'_>,
        stage: &Staged<K>,
        protocol: Protocol,
        found: (SessionIndex, Direction),
        arrival: &Arrival<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), DropReason> {
        let session = K::side(self).sessions.get(found.0);
        check_side(session, found.1, arrival)?;
        let settled = session.routing_epoch == arrival.world.routing_epoch;
        if !settled || stage.packet.flags.opens() {
            return self.reconsider(frame, stage, protocol, found, arrival, verdicts);
        }
        self.forward(frame, &stage.packet, protocol, found, arrival, verdicts)
    }

    /// The sessions between IPv4 addresses, to be listed.
    pub fn sessions(&self) -> &SessionTable<FlowKey> {
        &self.narrow.sessions
    }

    /// The sessions with an IPv6 address, to be listed.
    pub fn sessions6(&self) -> &SessionTable<FlowKey6> {
        &self.wide.sessions
    }

    /// What becomes of a packet that nobody here wants; counts it if it is dropped.
    #[cold]
    fn refuse(&mut self, frame: &[u8], reason: DropReason, arrival: &Arrival<'_>) -> Verdict {
        if reason == DropReason::VlanUnknown && crate::wire::vlan_of(frame) == Some(0) {
            return Verdict::Untag;
        }
        let Some(reason) = self.offer_kernel(frame, reason, arrival) else {
            return Verdict::Kernel(arrival.from);
        };
        self.stats.drops(reason).add(1);
        if reason == DropReason::SuperFrame {
            self.stats.port(arrival.from).super_frames.add(1);
        }
        Verdict::Drop(reason)
    }
}

/// Refuses a packet of a session that cannot come by this port: a server's by one that does not lead there, or a client's.
#[inline]
fn check_side<S: Key>(
    session: &Session<S>,
    direction: Direction,
    arrival: &Arrival<'_>,
) -> Result<(), DropReason> {
    // Hidden hosts' servers are anywhere, and answer by any way.
    let is_anywhere = session.mode == ForwardMode::Snat && !arrival.admits.asks(Direction::Inbound);
    if is_anywhere || !arrival.admits.asks(direction) {
        return Ok(());
    }
    // The way back, if it is known, mostly leads to the sender; where there are several, all are looked at.
    let back = arrival.world.neighbors.egress(session.next_hop(direction.turned()));
    let is_current = session.routing_epoch == arrival.world.routing_epoch;
    if is_current && back.is_some_and(|back| back.port == arrival.from) {
        return Ok(());
    }
    let sender = match direction {
        Direction::Inbound => session.client(),
        Direction::Outbound => session.real(),
    };
    if arrival.world.routes.leads(sender.address, arrival.from) {
        Ok(())
    } else {
        Err(DropReason::SourceElsewhere)
    }
}

/// Groups that stage two is behind stage one: so long a bucket's line has time to come.
const FIND_AFTER: usize = 1;
/// Groups that stage three is behind stage two: so long a session's line has time to come.
const DECIDE_AFTER: usize = 1;
