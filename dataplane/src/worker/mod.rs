//! The loop around the director: take packets, decide, send, look after the rest.
//!
//! A turn is bounded: one burst per port, a few expired sessions, a few lines of a
//! list that somebody asked for. It never waits and never allocates.

mod handover;
mod held;
mod kernel;
mod outgoing;
mod parked;
mod requests;
mod tags;

pub use handover::{Peers, RING_SIZE, peers};
pub use kernel::{KernelLane, kernel_lane};
pub use requests::{
    Answer, Command, ControlFrame, EndpointFilter, Event, Inquiry, Link, SessionFilter, SessionQuery,
    SourceQuery, WorkerLink, link,
};
pub use tags::SubInterface;

use crate::clock::Instant;
use crate::director::{Director, Origin, Same, Verdict, Verdicts};
use crate::drop::DropReason;
use crate::frame::{BURST_SIZE, Frame};
use crate::ids::{PortId, WorkerId};
use crate::port::{Buffer, Burst, Port};
use crate::session::Settled;
use crate::snapshot::{Mailbox, Snapshot};
use crate::stats::WorkerStats;
use crate::wire;
use arrayvec::ArrayVec;
use held::Held;
use outgoing::Outgoing;
use parked::Parked;
use std::ops::Range;
use std::sync::Arc;
use tags::Tags;

/// One worker with its queues, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Worker<P: Port> {
    id: WorkerId,
    ports: Vec<P>,
    tags: Arc<Tags>,
    /// Packets on their way out, by port.
    egress: Vec<Outgoing<P::Buffer>>,
    /// An empty one for the next burst.
    spare: Box<Burst<P::Buffer>>,
    discard: Burst<P::Buffer>,
    director: Director,
    world: Arc<Snapshot>,
    mailbox: Mailbox,
    parked: Parked<P::Buffer>,
    held: Held<P::Buffer>,
    peers: Peers<P::Buffer>,
    link: WorkerLink,
    kernel: Option<KernelLane>,
    /// Where a frame from the kernel is put together.
    kernel_frame: Vec<u8>,
    stats: Arc<WorkerStats>,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts<P: Port> {
    /// Its number.
    pub id: WorkerId,
    /// Its queues; the place of each is its [`PortId`].
    pub ports: Vec<P>,
    /// The ports without queues; their ids follow.
    pub sub_interfaces: Vec<SubInterface>,
    /// Its decisions and sessions.
    pub director: Director,
    /// The world to start with.
    pub world: Arc<Snapshot>,
    /// Where newer worlds come from.
    pub mailbox: Mailbox,
    /// Rings from and to the other workers.
    pub peers: Peers<P::Buffer>,
    /// Commands from control and events to it.
    pub link: WorkerLink,
    /// Rings to and from the host's kernel, if it has a part in this.
    pub kernel: Option<KernelLane>,
    /// What it counts into; the director's too.
    pub stats: Arc<WorkerStats>,
}

impl<P: Port> Worker<P> {
    /// A worker of `parts`.
    ///
    /// # Panics
    /// When a port is not in its own place.
    pub fn new(parts: Parts<P>) -> Self {
        for (at, port) in parts.ports.iter().enumerate() {
            assert_eq!(usize::from(port.id().0), at, "ports stand in the order of their ids");
        }
        let egress = parts.ports.iter().map(|_| Outgoing::new()).collect();
        Self {
            id: parts.id,
            tags: Arc::new(Tags::new(parts.ports.len(), parts.sub_interfaces)),
            ports: parts.ports,
            egress,
            spare: Box::default(),
            discard: Burst::new(),
            director: parts.director,
            world: parts.world,
            mailbox: parts.mailbox,
            parked: Parked::default(),
            held: Held::default(),
            peers: parts.peers,
            link: parts.link,
            kernel: parts.kernel,
            kernel_frame: Vec::with_capacity(usize::from(u16::MAX)),
            stats: parts.stats,
        }
    }

    /// One round of everything. Returns how many packets came in.
    pub fn turn(&mut self, now: Instant) -> usize {
        if self.mailbox.refresh(&mut self.world) {
            self.release_parked();
        }
        let mut received = 0;
        for at in 0..self.ports.len() {
            received += self.serve(at, now);
        }
        for port in 0..self.peers.ports() {
            for lane in 0..self.peers.lanes() {
                received += self.take_over(PortId(port as u16), lane, now);
            }
        }
        self.director.expire(&self.world, now);
        if self.director.look_at_fill(now) {
            self.stats.fullest_ring.set(self.peers.fullest() as u64);
        }
        while let Some(settled) = self.director.next_settled() {
            self.settle(settled, now);
        }
        while let Some((verdict, frame)) = self.director.next_tail() {
            self.send_own(&frame, verdict, now);
        }
        while let Some((port, frame)) = self.director.next_replay() {
            self.replay(port, &frame, now);
        }
        while let Some((service, source)) = self.director.next_offender() {
            // A full queue only delays it: the source breaks its rate again.
            let _ = self.link.report(Event::Offender { service, source });
        }
        while let Some((verdict, frame)) = self.director.next_reset(&self.world) {
            self.send_own(&frame, verdict, now);
        }
        self.drop_overdue(now);
        self.obey(now);
        if self.kernel.as_ref().is_some_and(KernelLane::has_frames) {
            self.send_for_kernel();
        }
        for at in 0..self.ports.len() {
            self.flush(at);
        }
        while let Some(buffer) = self.peers.flush() {
            self.refuse_hand_over(buffer);
        }
        if let Some(port) = self.ports.first_mut() {
            port.discard(&mut self.discard);
        }
        self.stats.turns.add(1);
        received
    }

    /// A turn at `begin`, whose time is put to the worker's account. Returns when it was over.
    pub fn timed_turn(&mut self, begin: Instant, clock: impl FnOnce() -> Instant) -> Instant {
        let received = self.turn(begin);
        let end = clock();
        let spent = end.since(begin).as_nanos() as u64;
        self.stats.total_ns.add(spent);
        if received > 0 {
            self.stats.busy_ns.add(spent);
            self.stats.turn_times.note(spent);
        }
        end
    }

    /// The ports, for tests.
    pub fn ports_mut(&mut self) -> &mut [P] {
        &mut self.ports
    }

    /// The sessions, for tests.
    pub fn director(&self) -> &Director {
        &self.director
    }

    /// One burst of one port.
    fn serve(&mut self, at: usize, now: Instant) -> usize {
        let thrown_away = self.ports[at].rx(&mut self.spare);
        let id = self.ports[at].id();
        if thrown_away > 0 {
            self.count_thrown_away(id, thrown_away);
        }
        if self.spare.is_empty() {
            return thrown_away;
        }
        let received = self.spare.len();
        self.stats.bursts.note(received as u64);
        if self.tags.share(id) {
            let burst = std::mem::take(&mut *self.spare);
            self.serve_link(id, burst, now);
        } else {
            self.receive(id, now);
        }
        received
    }

    /// Frames of which there is nothing left but their number.
    #[cold]
    fn count_thrown_away(&self, link: PortId, frames: usize) {
        self.stats.port(link).rx_packets.add(frames as u64);
        self.stats.drops(DropReason::FrameTooLong).add(frames as u64);
    }

    /// A burst of a link that several ports share.
    #[cold]
    fn serve_link(&mut self, link: PortId, burst: Burst<P::Buffer>, now: Instant) {
        let tags = Arc::clone(&self.tags);
        tags.split(link, burst, |port, burst| {
            if port != Some(link) {
                // What a link carries counts for it too, as what it sends does.
                let counters = self.stats.port(link);
                counters.rx_packets.add(burst.len() as u64);
                counters.rx_bytes.add(burst.iter().map(Buffer::len).sum::<usize>() as u64);
            }
            match port {
                Some(port) => {
                    *self.spare = burst;
                    self.receive(port, now);
                }
                None => {
                    self.stats.drops(DropReason::VlanUnknown).add(burst.len() as u64);
                    burst.into_iter().for_each(|buffer| self.free(buffer));
                }
            }
        });
    }

    /// A burst that came by a port, in `spare`.
    #[inline(always)]
    fn receive(&mut self, port: PortId, now: Instant) {
        let received = self.spare.len();
        let bytes = self.process(Origin::queue(port), now);
        let counters = self.stats.port(port);
        counters.rx_packets.add(received as u64);
        counters.rx_bytes.add(bytes as u64);
    }

    /// One burst that another worker got by a port and that is this one's.
    fn take_over(&mut self, id: PortId, lane: usize, now: Instant) -> usize {
        self.peers.receive(id, lane, &mut self.spare);
        let received = self.spare.len();
        if received > 0 {
            self.process(Origin { handed: true, ..Origin::queue(id) }, now);
        }
        received
    }

    /// Decides about the burst in `spare` and puts each packet where it belongs. Returns its bytes.
    fn process(&mut self, origin: Origin, now: Instant) -> usize {
        let burst = &mut *self.spare;
        let mut verdicts = Verdicts::new();
        let mut bytes = 0;
        let mut windows: ArrayVec<Range<usize>, BURST_SIZE> = ArrayVec::new();
        {
            // Filled where it stays: what is collected is copied, two kilobytes a burst.
            let mut frames: ArrayVec<Frame<'_>, BURST_SIZE> = ArrayVec::new();
            frames.extend(burst.iter_mut().map(Buffer::frame).inspect(|frame| bytes += frame.len()));
            self.director.process(origin, &mut frames, &self.world, now, &mut verdicts);
            // Asked of all together first: mostly there is none.
            if frames.iter().fold(false, |moved, frame| moved | frame.has_moved()) {
                windows.extend(frames.iter().map(Frame::window));
            }
        }
        let bytes_after = if windows.is_empty() { bytes } else { windows.iter().map(Range::len).sum() };
        for (buffer, window) in burst.iter_mut().zip(windows) {
            buffer.set_window(window);
        }
        match verdicts.whole() {
            // The common cases: nothing is moved.
            Same::Transmit(port) if self.egress.get(usize::from(port.0)).is_some_and(Outgoing::is_empty) => {
                self.egress[usize::from(port.0)].swap(&mut self.spare, bytes_after);
            }
            Same::Drop(_) => self.ports[0].discard(&mut self.spare),
            Same::Transmit(_) | Same::Nothing => {
                for (buffer, verdict) in std::mem::take(&mut *self.spare).into_iter().zip(verdicts) {
                    self.dispatch(origin.port, buffer, verdict, now);
                }
            }
        }
        bytes
    }

    fn dispatch(&mut self, from: PortId, mut buffer: P::Buffer, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::HandOver(owner) => {
                if let Err(buffer) = self.peers.hand_over(owner, from, buffer) {
                    self.refuse_hand_over(buffer);
                }
            }
            Verdict::Transmit(port) => self.send(port, buffer),
            Verdict::Hold(id) => {
                // Those for which it took a place are given up first.
                while self.held.is_full()
                    && let Some(settled) = self.director.next_abandoned()
                {
                    self.settle(settled, now);
                }
                if let Err(buffer) = self.held.put(id, from, buffer) {
                    self.stats.drops(DropReason::FragmentTableFull).add(1);
                    self.free(buffer);
                }
            }
            Verdict::Drop(_) => self.free(buffer),
            Verdict::Untag => self.untag(from, buffer, now),
            Verdict::Await(hop) => match self.parked.park(hop, buffer, now) {
                Ok(()) => {
                    self.stats.parked.add(1);
                    // A full queue only delays the question: the next packet asks again.
                    let _ = self.link.report(Event::Resolve(hop));
                }
                Err(buffer) => {
                    self.stats.drops(DropReason::NeighborQueueFull).add(1);
                    let _ = self.link.report(Event::Resolve(hop));
                    self.free(buffer);
                }
            },
            Verdict::Kernel(from) => {
                if !self.give_to_kernel(from, &mut buffer) {
                    self.stats.drops(DropReason::KernelQueueFull).add(1);
                }
                self.free(buffer);
            }
            Verdict::Punt(from) => {
                if wire::concerns_kernel(buffer.frame().bytes()) {
                    let _ = self.give_to_kernel(from, &mut buffer);
                }
                let frame = ControlFrame::copy_of(buffer.frame().bytes());
                if self.link.report(Event::Neighbor { port: from, frame }).is_err() {
                    self.stats.drops(DropReason::ControlQueueFull).add(1);
                }
                self.free(buffer);
            }
        }
    }

    /// Looks again at a frame, without its tag that names no VLAN. A second tag is one too many.
    #[cold]
    fn untag(&mut self, from: PortId, mut buffer: P::Buffer, now: Instant) {
        let window = {
            let mut frame = buffer.frame();
            wire::strip_tag(&mut frame);
            wire::vlan_of(frame.bytes()).is_none().then(|| frame.window())
        };
        let Some(window) = window else {
            self.stats.drops(DropReason::VlanUnknown).add(1);
            return self.free(buffer);
        };
        buffer.set_window(window);
        self.spare.push(buffer);
        self.process(Origin::queue(from), now);
    }

    /// Copies a packet for the kernel; false when there is no room.
    fn give_to_kernel(&mut self, from: PortId, buffer: &mut P::Buffer) -> bool {
        let Some(kernel) = &mut self.kernel else { return true };
        let taken = kernel.push(from, buffer.frame().bytes());
        if taken {
            self.stats.to_kernel.add(1);
        }
        taken
    }

    /// Sends what the kernel wants to be sent.
    #[cold]
    fn send_for_kernel(&mut self) {
        let Some(mut kernel) = self.kernel.take() else { return };
        for _ in 0..kernel::FRAMES_PER_TURN {
            let mut room = std::mem::take(&mut self.kernel_frame);
            let sent = kernel.pop(&mut room, |port, frame| match self.buffer_from(port, frame) {
                Some(buffer) => {
                    self.stats.from_kernel.add(1);
                    self.send(port, buffer);
                }
                None => self.stats.drops(DropReason::NoBuffer).add(1),
            });
            self.kernel_frame = room;
            if !sent {
                break;
            }
        }
        self.kernel = Some(kernel);
    }

    /// Lets fragments go on that waited for the first of their datagram, or gives them up.
    #[cold]
    fn settle(&mut self, settled: Settled, now: Instant) {
        let (Settled::Release(id) | Settled::Abandon(id, _)) = settled;
        while let Some((from, buffer)) = self.held.take(id) {
            match settled {
                Settled::Release(_) => {
                    self.spare.push(buffer);
                    self.process(Origin { resumed: true, ..Origin::queue(from) }, now);
                }
                Settled::Abandon(_, why) => {
                    self.stats.drops(why).add(1);
                    self.free(buffer);
                }
            }
        }
    }

    /// Treats a frame that the director made as if it came by a port.
    #[cold]
    fn replay(&mut self, port: PortId, frame: &[u8], now: Instant) {
        match self.buffer_from(port, frame) {
            Some(buffer) => {
                self.spare.push(buffer);
                self.process(Origin { resumed: true, ..Origin::queue(port) }, now);
            }
            None => self.stats.drops(DropReason::NoBuffer).add(1),
        }
    }

    /// Sends a frame that the director made.
    #[cold]
    fn send_own(&mut self, frame: &[u8], verdict: Verdict, now: Instant) {
        let port = match verdict {
            Verdict::Transmit(port) => port,
            Verdict::Await(hop) => hop.port,
            _ => return,
        };
        match self.buffer_from(port, frame) {
            Some(buffer) => self.dispatch(port, buffer, verdict, now),
            None => self.stats.drops(DropReason::NoBuffer).add(1),
        }
    }

    /// A buffer of the device by which a port's frames leave.
    fn buffer_from(&mut self, port: PortId, frame: &[u8]) -> Option<P::Buffer> {
        let device = self.tags.get(port).map_or(port, |sub| sub.parent);
        self.ports[usize::from(device.0)].buffer_from(frame)
    }

    fn send(&mut self, mut port: PortId, mut buffer: P::Buffer) {
        if let Some(SubInterface { parent, vlan }) = self.tags.get(port) {
            let counters = self.stats.port(port);
            counters.tx_packets.add(1);
            counters.tx_bytes.add(buffer.len() as u64);
            let tagged = {
                let mut frame = buffer.frame();
                wire::add_tag(&mut frame, vlan).then(|| frame.window())
            };
            let Some(window) = tagged else {
                self.stats.drops(DropReason::NoHeadroom).add(1);
                return self.free(buffer);
            };
            buffer.set_window(window);
            port = parent;
        }
        let at = usize::from(port.0);
        if self.egress[at].is_full() {
            self.flush(at);
        }
        self.egress[at].push(buffer);
    }

    /// Counts and frees a packet whose owner's ring is full.
    fn refuse_hand_over(&mut self, buffer: P::Buffer) {
        self.stats.drops(DropReason::HandOverFull).add(1);
        self.free(buffer);
    }

    fn free(&mut self, buffer: P::Buffer) {
        if self.discard.is_full() {
            self.ports[0].discard(&mut self.discard);
        }
        self.discard.push(buffer);
    }

    /// Gives what waits for a port to its device; what the device refuses is counted and freed.
    fn flush(&mut self, at: usize) {
        if self.egress[at].is_empty() {
            return;
        }
        let (egress, bytes) = self.egress[at].whole();
        if self.world.is_down(PortId(at as u16)) {
            // Many devices take packets without a link, and lose them without a word.
            self.stats.drops(DropReason::LinkDown).add(egress.len() as u64);
            return self.ports[at].discard(egress);
        }
        let packets = egress.len();
        self.ports[at].tx(egress);
        let (refused, refused_bytes) = (egress.len(), egress.iter().map(Buffer::len).sum::<usize>());
        let counters = self.stats.port(PortId(at as u16));
        counters.tx_packets.add((packets - refused) as u64);
        counters.tx_bytes.add((bytes - refused_bytes) as u64);
        if refused > 0 {
            counters.tx_refused.add(refused as u64);
            self.stats.drops(DropReason::TransmitRefused).add(refused as u64);
            self.ports[at].discard(egress);
        }
    }

    /// Sends what waited for neighbours that the new snapshot knows.
    fn release_parked(&mut self) {
        let world = Arc::clone(&self.world);
        while let Some((hop, header, mut buffer)) = self.parked.next_resolved(&world.neighbors) {
            self.stats.parked.decrement();
            wire::set_ethernet(buffer.frame().bytes_mut(), &header);
            self.send(hop.port, buffer);
        }
    }

    fn drop_overdue(&mut self, now: Instant) {
        while let Some(buffer) = self.parked.next_overdue(now) {
            self.stats.parked.decrement();
            self.stats.drops(DropReason::NeighborUnresolved).add(1);
            self.free(buffer);
        }
    }

    /// Does what control asked for: frames to send, lists to write.
    fn obey(&mut self, now: Instant) {
        while let Some(command) = self.link.next_command() {
            match command {
                Command::Transmit { port, frame } => match self.buffer_from(port, frame.bytes()) {
                    Some(buffer) => self.send(port, buffer),
                    None => self.stats.drops(DropReason::NoBuffer).add(1),
                },
                Command::List(query) => self.link.begin(query),
                Command::Explain(mut inquiry) => {
                    let said = self.director.explain(inquiry.port, inquiry.frame.bytes(), &self.world, now);
                    inquiry.explanation = Some(said);
                    self.link.explained(inquiry);
                }
                Command::Sources(mut query) => {
                    let room = query.talkers.capacity();
                    query.talkers.extend(self.director.take_talkers().take(room));
                    self.link.named(query);
                }
            }
        }
        self.link.continue_list(&self.director, self.id, now);
    }
}
