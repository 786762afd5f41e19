//! Packets on their way to the worker that owns them: a ring from each worker to each other, for
//! each port, so that what comes out of one is a burst of one port.
//!
//! A ring has one writer and one reader; neither waits. What does not fit is dropped and counted.

use crate::frame::BURST_SIZE;
use crate::ids::{PortId, WorkerId};
use crate::port::Burst;
use rtrb::{Consumer, Producer, RingBuffer};

/// Packets that a ring holds: what a worker that is late by 100 µs misses at 10 million a second.
pub const RING_SIZE: usize = 1_024;

/// One worker's ends of the rings.
#[derive(Debug)]
pub struct Peers<B> {
    /// By worker and port; a worker has none to itself.
    outgoing: Vec<Vec<Outgoing<B>>>,
    /// By port, then by worker.
    incoming: Vec<Vec<Consumer<B>>>,
}

/// On cache lines of its own: the packets that wait are written by one worker only.
#[derive(Debug)]
#[repr(align(128))]
struct Outgoing<B> {
    ring: Producer<B>,
    /// What this turn found; goes into the ring as one piece.
    waiting: Burst<B>,
}

/// The rings between `workers` workers on `ports` ports.
pub fn peers<B>(workers: usize, ports: usize) -> Vec<Peers<B>> {
    let nothing = |_| Peers {
        outgoing: (0..workers).map(|_| Vec::new()).collect(),
        incoming: (0..ports).map(|_| Vec::new()).collect(),
    };
    let mut peers: Vec<Peers<B>> = (0..workers).map(nothing).collect();
    for from in 0..workers {
        for to in (0..workers).filter(|to| *to != from) {
            for port in 0..ports {
                let (ring, end) = RingBuffer::new(RING_SIZE);
                peers[from].outgoing[to].push(Outgoing { ring, waiting: Burst::new() });
                peers[to].incoming[port].push(end);
            }
        }
    }
    peers
}

impl<B> Peers<B> {
    /// How many ports there are.
    pub(super) fn ports(&self) -> usize {
        self.incoming.len()
    }

    /// How many rings lead here for each port.
    pub(super) fn lanes(&self) -> usize {
        self.incoming.first().map_or(0, Vec::len)
    }

    /// How many packets wait in the fullest ring that leads here.
    pub fn fullest(&self) -> usize {
        self.incoming.iter().flatten().map(Consumer::slots).max().unwrap_or(0)
    }

    /// Takes what one other worker handed over of a port.
    #[inline]
    pub fn receive(&mut self, port: PortId, lane: usize, burst: &mut Burst<B>) {
        let ring = &mut self.incoming[usize::from(port.0)][lane];
        let count = ring.slots().min(BURST_SIZE);
        if count > 0
            && let Ok(chunk) = ring.read_chunk(count)
        {
            burst.extend(chunk);
        }
    }

    /// Puts a packet by for its owner.
    ///
    /// # Errors
    /// Gives it back when the ring is full.
    #[inline]
    pub fn hand_over(&mut self, to: WorkerId, port: PortId, buffer: B) -> Result<(), B> {
        let outgoing = &mut self.outgoing[usize::from(to.0)][usize::from(port.0)];
        if outgoing.waiting.is_full() {
            outgoing.send();
        }
        outgoing.waiting.try_push(buffer).map_err(arrayvec::CapacityError::element)
    }

    /// Sends what was put by. Gives back a packet that does not fit; `None` when none is left.
    pub fn flush(&mut self) -> Option<B> {
        let mut waiting = self.outgoing.iter_mut().flatten().filter(|outgoing| !outgoing.waiting.is_empty());
        waiting.find_map(|outgoing| {
            outgoing.send();
            outgoing.waiting.pop()
        })
    }
}

impl<B> Outgoing<B> {
    /// As much as fits, in order.
    fn send(&mut self) {
        let count = self.ring.slots().min(self.waiting.len());
        if count > 0
            && let Ok(chunk) = self.ring.write_chunk_uninit(count)
        {
            chunk.fill_from_iter(self.waiting.drain(..count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: WorkerId = WorkerId(1);
    const PORT: PortId = PortId(1);

    fn received(peer: &mut Peers<u32>) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let mut burst = Burst::new();
            peer.receive(PORT, 0, &mut burst);
            if burst.is_empty() {
                return all;
            }
            all.extend(burst);
        }
    }

    #[test]
    fn packets_come_out_in_order() {
        let mut peers = peers(2, 2);
        for number in 0..200 {
            assert_eq!(peers[0].hand_over(TO, PORT, number), Ok(()));
        }
        assert_eq!(peers[0].flush(), None);

        assert_eq!(received(&mut peers[1]), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_ring_refuses_and_keeps_what_it_has() {
        let mut peers = peers(2, 2);
        let mut refused = Vec::new();
        for number in 0..RING_SIZE as u32 + 100 {
            if let Err(number) = peers[0].hand_over(TO, PORT, number) {
                refused.push(number);
            }
        }
        refused.extend(std::iter::from_fn(|| peers[0].flush()));

        assert_eq!(refused.len(), 100);
        assert_eq!(received(&mut peers[1]), (0..RING_SIZE as u32).collect::<Vec<_>>());
    }

    #[test]
    fn a_worker_has_no_ring_to_itself() {
        let peers = peers::<u32>(3, 2);
        for (at, peer) in peers.iter().enumerate() {
            assert_eq!(peer.lanes(), 2);
            assert!(peer.outgoing.iter().enumerate().all(|(to, rings)| rings.is_empty() == (to == at)));
        }
    }
}
