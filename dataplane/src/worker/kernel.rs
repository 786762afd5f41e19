//! Frames between a worker and the kernel of its host: two rings of bytes, one writer and one reader each,
//! so that neither side waits or allocates and jumbo frames need no room that small ones do not use.

use crate::ids::PortId;
use rtrb::{Consumer, Producer, RingBuffer};

/// Bytes that a ring holds: some 300 full frames, or 3,000 small ones.
const RING_LEN: usize = 512 * 1024;
/// Number of the port and length, before each frame.
const HEADER_LEN: usize = 4;
/// Frames from the kernel that a worker sends in one turn: some 5 µs.
pub(super) const FRAMES_PER_TURN: usize = 32;

/// One end of the two rings.
#[derive(Debug)]
pub struct KernelLane {
    outgoing: Producer<u8>,
    incoming: Consumer<u8>,
}

/// The rings between one worker and whoever moves frames to the kernel: two ends, alike.
pub fn kernel_lane() -> (KernelLane, KernelLane) {
    let (to_kernel, at_kernel) = RingBuffer::new(RING_LEN);
    let (to_worker, at_worker) = RingBuffer::new(RING_LEN);
    (
        KernelLane { outgoing: to_kernel, incoming: at_worker },
        KernelLane { outgoing: to_worker, incoming: at_kernel },
    )
}

impl KernelLane {
    /// Copies a frame of `port` into the ring; false when it does not fit.
    pub fn push(&mut self, port: PortId, frame: &[u8]) -> bool {
        let Ok(len) = u16::try_from(frame.len()) else { return false };
        let Ok(mut chunk) = self.outgoing.write_chunk(HEADER_LEN + frame.len()) else { return false };
        let mut header = [0; HEADER_LEN];
        header[..2].copy_from_slice(&port.0.to_le_bytes());
        header[2..].copy_from_slice(&len.to_le_bytes());
        let (first, second) = chunk.as_mut_slices();
        let bytes = header.iter().chain(frame);
        for (to, from) in first.iter_mut().chain(second).zip(bytes) {
            *to = *from;
        }
        chunk.commit_all();
        true
    }

    /// Whether there is anything to take out.
    #[inline]
    pub fn has_frames(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Takes the next frame out of the ring and gives it to `take`; false when there is none.
    ///
    /// `room` is where a frame is put together that lies around the ring's end.
    pub fn pop(&mut self, room: &mut Vec<u8>, take: impl FnOnce(PortId, &[u8])) -> bool {
        if self.incoming.slots() < HEADER_LEN {
            return false;
        }
        let Ok(chunk) = self.incoming.read_chunk(HEADER_LEN) else { return false };
        let (first, second) = chunk.as_slices();
        let mut header = [0; HEADER_LEN];
        for (to, from) in header.iter_mut().zip(first.iter().chain(second)) {
            *to = *from;
        }
        let [a, b, c, d] = header;
        let (port, len) = (PortId(u16::from_le_bytes([a, b])), usize::from(u16::from_le_bytes([c, d])));
        // A header and its frame go in as one piece.
        chunk.commit_all();
        let Ok(chunk) = self.incoming.read_chunk(len) else { return false };
        match chunk.as_slices() {
            (frame, []) => take(port, frame),
            (first, second) => {
                room.clear();
                room.extend_from_slice(first);
                room.extend_from_slice(second);
                take(port, room);
            }
        }
        chunk.commit_all();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_also_around_the_end() {
        let (mut worker, mut kernel) = kernel_lane();
        let mut room = Vec::new();
        for round in 0..2_000_usize {
            let frame: Vec<u8> = (0..round % 1_500 + 14).map(|at| (at * 7 + round) as u8).collect();
            assert!(worker.push(PortId((round % 3) as u16), &frame));
            let mut seen = None;
            assert!(kernel.pop(&mut room, |port, bytes| seen = Some((port, bytes.to_vec()))));
            assert_eq!(seen, Some((PortId((round % 3) as u16), frame)));
        }
        assert!(!kernel.pop(&mut room, |_, _| panic!("there is nothing left")));
    }

    #[test]
    fn a_full_ring_takes_no_part_of_a_frame() {
        let (mut worker, mut kernel) = kernel_lane();
        let mut room = Vec::new();
        let frame = [7; 1_000];
        let taken = (0..10_000).filter(|_| worker.push(PortId(1), &frame)).count();
        assert_eq!(taken, RING_LEN / (HEADER_LEN + frame.len()));
        let mut out = 0;
        while kernel.pop(&mut room, |_, bytes| assert_eq!(bytes, frame)) {
            out += 1;
        }
        assert_eq!(out, taken);
    }
}
