//! Traffic made in the process: frames from templates, in an order that memory cannot guess,
//! and a sink that checks a sample of what comes out.
//!
//! A flow is a 20-byte record. Records stand in the order in which packets are sent, and
//! sessions are made in another, random order: so reading records is cheap, and finding
//! sessions is not. The server's packets are made from what was sent to the server.

use crate::world::{PEER_MAC, SERVICE_PORT, VIP};
use dataplane::frame::Frame;
use dataplane::ids::PortId;
use dataplane::port::{Buffer, Burst, Port};
use dataplane::wire::Mac;
use pktgen_tests::frames::{self, ETHERNET, Route, ones_sum, pseudo_sum};
use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::rc::Rc;

/// Station addresses of the appliance's two ports.
pub(crate) const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// One frame of so many that come out is checked whole.
const SAMPLE: u64 = 1_000;
const HEADROOM: usize = 128;
const ROOM: usize = 320;
/// 64 bytes on the wire, without the frame check sequence.
const FRAME: usize = 60;

/// A flow: who the client is, whom it asks, and what the director made of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    client: u32,
    local: u32,
    server: u32,
    client_port: u16,
    vip_port: u16,
    local_port: u16,
    server_port: u16,
}

/// What kind of segment a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Udp,
    /// With these flags.
    Tcp(u8),
}

/// What comes in by a port.
#[derive(Clone, Debug)]
pub(crate) enum Feed {
    Nothing,
    /// A packet of each flow from `next` up to `end`.
    Once {
        next: u32,
        end: u32,
        kind: Kind,
    },
    /// A packet of each of `flows`, from `next` on, in a circle.
    Endless {
        flows: Range<u32>,
        next: u32,
        kind: Kind,
    },
}

/// What both ports share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) flows: Vec<Flow>,
    /// Whether frames towards servers teach the flow its local endpoint.
    pub(crate) learn: bool,
    /// Whether what comes out is checked.
    pub(crate) checking: bool,
    free: Vec<SourceBuffer>,
    /// Frames that came out, and of these the checked and the wrong ones.
    pub(crate) came_out: u64,
    pub(crate) checked: u64,
    pub(crate) wrong: u64,
    templates: [Vec<u8>; 4],
}

/// A frame in one of a few rooms that stay in the cache; one pointer, as an mbuf is.
#[derive(Debug)]
pub(crate) struct SourceBuffer(Box<Room>);

#[derive(Debug)]
struct Room {
    bytes: [u8; ROOM],
    window: Range<usize>,
    flow: u32,
    inbound: bool,
}

impl Buffer for SourceBuffer {
    fn frame(&mut self) -> Frame<'_> {
        Frame::new(&mut self.0.bytes, self.0.window.clone())
    }

    fn set_window(&mut self, window: Range<usize>) {
        self.0.window = window;
    }

    fn len(&self) -> usize {
        self.0.window.len()
    }
}

/// One port's source and sink.
#[derive(Debug)]
pub(crate) struct SourcePort {
    id: PortId,
    bench: Rc<RefCell<Bench>>,
    /// What comes next.
    pub(crate) feed: Feed,
}

impl Bench {
    /// `count` flows of distinct clients, spread over `services`.
    pub(crate) fn new(count: usize, services: usize) -> Rc<RefCell<Self>> {
        let flow = |n: usize| Flow {
            // 50,000 ports of each client address.
            client: Ipv4Addr::new(100, 64, 0, 0).to_bits() + (n / 50_000) as u32,
            client_port: 10_000 + (n % 50_000) as u16,
            vip_port: SERVICE_PORT + (n % services) as u16,
            ..Flow::default()
        };
        let route = |inbound: bool| Route {
            source_mac: PEER_MAC,
            destination_mac: MACS[usize::from(!inbound)],
            source: (Ipv4Addr::UNSPECIFIED, 0),
            destination: (Ipv4Addr::UNSPECIFIED, 0),
        };
        let templates = [true, false].map(|inbound| {
            [
                frames::udp_frame(&route(inbound), &[0x5a; 18]),
                frames::tcp_frame(&route(inbound), 0, &[0x5a; 6]),
            ]
        });
        let [[udp_in, tcp_in], [udp_out, tcp_out]] = templates;
        Rc::new(RefCell::new(Self {
            flows: (0..count).map(flow).collect(),
            learn: false,
            checking: true,
            free: Vec::new(),
            came_out: 0,
            checked: 0,
            wrong: 0,
            templates: [udp_in, tcp_in, udp_out, tcp_out],
        }))
    }

    /// Memory that the flows' records take.
    pub(crate) fn bytes(&self) -> u64 {
        size_of_val(self.flows.as_slice()) as u64
    }

    /// Puts the flows into a random order; sessions that exist stay where they are.
    pub(crate) fn shuffle(&mut self) {
        shuffle(&mut self.flows);
    }

    fn make(&mut self, flow: u32, kind: Kind, inbound: bool) -> SourceBuffer {
        let template = &self.templates[usize::from(matches!(kind, Kind::Tcp(_))) + 2 * usize::from(!inbound)];
        // Put together aside and copied at once: the director must not pay for reading what was
        // just stored in pieces.
        let mut frame = [0; FRAME];
        frame.copy_from_slice(template);
        let record = self.flows[flow as usize];
        let (source, source_port, destination, destination_port) = if inbound {
            (record.client, record.client_port, VIP.to_bits(), record.vip_port)
        } else {
            (record.server, record.server_port, record.local, record.local_port)
        };
        // The templates have zero addresses and ports, so the sums need only these added.
        let addresses = u64::from(source) + u64::from(destination);
        let ports = u64::from(source_port) + u64::from(destination_port);
        frame[26..30].copy_from_slice(&source.to_be_bytes());
        frame[30..34].copy_from_slice(&destination.to_be_bytes());
        frame[34..36].copy_from_slice(&source_port.to_be_bytes());
        frame[36..38].copy_from_slice(&destination_port.to_be_bytes());
        let mut extra = addresses + ports;
        let field = match kind {
            Kind::Udp => 40,
            Kind::Tcp(flags) => {
                frame[47] = flags;
                extra += u64::from(flags);
                50
            }
        };
        add_to_checksum(&mut frame, 24, addresses);
        add_to_checksum(&mut frame, field, extra);
        if kind == Kind::Udp && frame[40..42] == [0, 0] {
            frame[40..42].fill(0xff);
        }
        let mut buffer = self.free.pop().unwrap_or_else(|| {
            SourceBuffer(Box::new(Room { bytes: [0; ROOM], window: 0..0, flow, inbound }))
        });
        let room = &mut *buffer.0;
        room.bytes[HEADROOM..HEADROOM + FRAME].copy_from_slice(&frame);
        room.window = HEADROOM..HEADROOM + FRAME;
        room.flow = flow;
        room.inbound = inbound;
        buffer
    }

    /// Takes in a frame that came out.
    fn take(&mut self, buffer: SourceBuffer) {
        self.came_out += 1;
        if self.learn && buffer.0.inbound {
            let frame = &buffer.0.bytes[buffer.0.window.clone()];
            let flow = &mut self.flows[buffer.0.flow as usize];
            flow.local = frames::be32(frame, 26);
            flow.server = frames::be32(frame, 30);
            flow.local_port = frames::be16(frame, 34);
            flow.server_port = frames::be16(frame, 36);
        }
        if self.checking && self.came_out.is_multiple_of(SAMPLE) {
            self.checked += 1;
            if !self.is_right(&buffer) {
                self.wrong += 1;
            }
        }
        self.free.push(buffer);
    }

    /// Whether a frame has the addresses and ports of its flow, both checksums, and the right
    /// stations.
    fn is_right(&self, buffer: &SourceBuffer) -> bool {
        let frame = &buffer.0.bytes[buffer.0.window.clone()];
        let flow = self.flows[buffer.0.flow as usize];
        let Some((source, destination)) = frames::endpoints(frame) else { return false };
        let ip = &frame[ETHERNET..];
        let port = usize::from(buffer.0.inbound);
        let expected = if buffer.0.inbound {
            let local = (Ipv4Addr::from_bits(flow.local), flow.local_port);
            (local, (Ipv4Addr::from_bits(flow.server), flow.server_port))
        } else {
            ((VIP, flow.vip_port), (Ipv4Addr::from_bits(flow.client), flow.client_port))
        };
        (source, destination) == expected
            && frame[..6] == PEER_MAC
            && frame[6..12] == MACS[port]
            && ones_sum(&ip[..20], 0) == 0xffff
            && ones_sum(&ip[20..], pseudo_sum(ip)) == 0xffff
    }
}

/// Puts a list into a random order, the same in every run.
pub(crate) fn shuffle<T>(list: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for at in (1..list.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        list.swap(at, ((u128::from(state) * (at as u128 + 1)) >> 64) as usize);
    }
}

/// Adds to the data under a checksum field: RFC 1624 with an old value of zero.
fn add_to_checksum(frame: &mut [u8], field: usize, sum: u64) {
    let mut total =
        u64::from(!frames::be16(frame, field)) + (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    frame[field..field + 2].copy_from_slice(&(!(total as u16)).to_be_bytes());
}

impl SourcePort {
    pub(crate) fn new(id: u16, bench: &Rc<RefCell<Bench>>) -> Self {
        Self { id: PortId(id), bench: Rc::clone(bench), feed: Feed::Nothing }
    }
}

impl Port for SourcePort {
    type Buffer = SourceBuffer;

    fn id(&self) -> PortId {
        self.id
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<SourceBuffer>) {
        let inbound = self.id.0 == 0;
        let mut bench = self.bench.borrow_mut();
        match &mut self.feed {
            Feed::Nothing => {}
            Feed::Once { next, end, kind } => {
                while !burst.is_full() && next < end {
                    burst.push(bench.make(*next, *kind, inbound));
                    *next += 1;
                }
            }
            Feed::Endless { flows, next, kind } => {
                while !burst.is_full() {
                    burst.push(bench.make(*next, *kind, inbound));
                    *next = if *next + 1 == flows.end { flows.start } else { *next + 1 };
                }
            }
        }
    }

    #[inline]
    fn tx(&mut self, burst: &mut Burst<SourceBuffer>) {
        let mut bench = self.bench.borrow_mut();
        burst.drain(..).for_each(|buffer| bench.take(buffer));
    }

    fn buffer_from(&mut self, _: &[u8]) -> Option<SourceBuffer> {
        None
    }

    fn discard(&mut self, burst: &mut Burst<SourceBuffer>) {
        let mut bench = self.bench.borrow_mut();
        burst.drain(..).for_each(|buffer| bench.free.push(buffer));
    }
}
