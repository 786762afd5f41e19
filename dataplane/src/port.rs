//! Where packets come from and go to: the seam between the worker and a device.
//!
//! It has two real sides: a DPDK queue (`dpdk::Queue`) and the memory port of
//! this file, which tests and simulations use.

use crate::frame::{BURST_SIZE, Frame};
use crate::ids::PortId;
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::ops::Range;

/// Packets in flight between two stages. Owning it is owning the buffers.
pub type Burst<B> = ArrayVec<B, BURST_SIZE>;

/// A packet's memory. Dropping it gives the memory back to where it came from.
pub trait Buffer {
    /// The frame that the buffer holds, in its whole room.
    fn frame(&mut self) -> Frame<'_>;

    /// Sets where the frame now lies in the room, as [`Frame::window`] says.
    fn set_window(&mut self, window: Range<usize>);

    /// Bytes of the frame.
    fn len(&self) -> usize;

    /// Whether the frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One queue pair of one device, used by one worker.
pub trait Port {
    /// The packets' memory.
    type Buffer: Buffer;

    /// Which configured port this queue belongs to.
    fn id(&self) -> PortId;

    /// Takes what has arrived, at most what `burst` has room for. Returns how many frames were thrown away, because the
    /// device gave them in several buffers and they fit into none.
    fn rx(&mut self, burst: &mut Burst<Self::Buffer>) -> usize;

    /// Gives packets to the device. What it takes leaves `burst`; what it refuses
    /// stays there, still owned by the caller. Never waits.
    fn tx(&mut self, burst: &mut Burst<Self::Buffer>);

    /// A buffer that holds a copy of `bytes`; `None` when memory ran out or `bytes` is too long.
    fn buffer_from(&mut self, bytes: &[u8]) -> Option<Self::Buffer>;

    /// Frees what is in `burst`. A device that can free many at once overrides this.
    fn discard(&mut self, burst: &mut Burst<Self::Buffer>) {
        burst.clear();
    }
}

/// A port whose wire is a queue in memory.
#[derive(Debug)]
pub struct MemoryPort {
    id: PortId,
    /// Frames that the worker will receive.
    pub incoming: VecDeque<Vec<u8>>,
    /// Frames that the worker sent.
    pub outgoing: VecDeque<Vec<u8>>,
    /// How many more frames `tx` takes before it refuses.
    pub tx_room: usize,
    /// Bytes of the longest frame that fits into a buffer.
    pub rx_room: usize,
}

impl MemoryPort {
    /// A port with empty queues and unlimited room.
    pub fn new(id: PortId) -> Self {
        Self {
            id,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
            tx_room: usize::MAX,
            rx_room: usize::MAX,
        }
    }
}

/// The headroom and tail room that a memory buffer offers, as an mbuf would.
const ROOM: usize = 128;

/// A frame on the heap, with room in front and behind.
#[derive(Debug)]
pub struct MemoryBuffer {
    room: Vec<u8>,
    window: Range<usize>,
}

impl MemoryBuffer {
    /// A buffer that holds a copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut room = vec![0; ROOM + bytes.len() + ROOM];
        room[ROOM..ROOM + bytes.len()].copy_from_slice(bytes);
        Self { room, window: ROOM..ROOM + bytes.len() }
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.room[self.window.clone()]
    }
}

impl Buffer for MemoryBuffer {
    fn frame(&mut self) -> Frame<'_> {
        Frame::new(&mut self.room, self.window.clone())
    }

    fn set_window(&mut self, window: Range<usize>) {
        self.window = window;
    }

    fn len(&self) -> usize {
        self.window.len()
    }
}

impl Port for MemoryPort {
    type Buffer = MemoryBuffer;

    fn id(&self) -> PortId {
        self.id
    }

    fn rx(&mut self, burst: &mut Burst<MemoryBuffer>) -> usize {
        let mut thrown_away = 0;
        while !burst.is_full() {
            let Some(bytes) = self.incoming.pop_front() else { break };
            if bytes.len() > self.rx_room {
                thrown_away += 1;
            } else {
                burst.push(MemoryBuffer::new(&bytes));
            }
        }
        thrown_away
    }

    fn tx(&mut self, burst: &mut Burst<MemoryBuffer>) {
        let accepted = burst.len().min(self.tx_room);
        self.tx_room -= accepted;
        self.outgoing.extend(burst.drain(..accepted).map(|buffer| buffer.bytes().to_vec()));
    }

    fn buffer_from(&mut self, bytes: &[u8]) -> Option<MemoryBuffer> {
        Some(MemoryBuffer::new(bytes))
    }
}
