//! One queue pair of a device: the port that a worker polls.

use super::{Mbuf, Pool};
use crate::ids::PortId;
use crate::port::{Burst, Port};
use dpdk_sys as sys;

/// A receive and a transmit queue with the same number.
#[derive(Debug)]
pub struct Queue {
    id: PortId,
    device: u16,
    queue: u16,
    pool: Pool,
}

impl Queue {
    /// The queue pair `queue` of `device`. The device makes each only once (contract 4).
    pub(super) fn new(id: PortId, device: u16, queue: u16, pool: Pool) -> Self {
        Self { id, device, queue, pool }
    }
}

impl Port for Queue {
    type Buffer = Mbuf;

    fn id(&self) -> PortId {
        self.id
    }

    #[inline]
    fn rx(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        let held = burst.len();
        let room = burst.capacity() - held;
        // SAFETY: contracts 3 and 4 — the driver writes at most `room` pointers behind those that
        // the burst holds, each to a buffer that nobody else owns; `Mbuf` is such a pointer.
        unsafe {
            let end = burst.as_mut_ptr().add(held).cast();
            let count = sys::sluice_rx_burst(self.device, self.queue, end, room as u16);
            burst.set_len(held + usize::from(count));
        }
        // One test for a burst: drivers chain buffers also where nobody asked for it.
        let others = burst[held..].iter().fold(0, |others, mbuf| others | (mbuf.segments() ^ 1));
        if others == 0 { 0 } else { join(burst, held) }
    }

    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let held = burst.len();
        // SAFETY: contracts 3, 4 and 5 — the first `taken` pointers now belong to the driver; the
        // rest moves to the front and stays ours. The length is zero in between, so nothing is
        // owned twice.
        unsafe {
            let start = burst.as_mut_ptr();
            burst.set_len(0);
            let taken = usize::from(sys::sluice_tx_burst(self.device, self.queue, start.cast(), held as u16));
            std::ptr::copy(start.add(taken), start, held - taken);
            burst.set_len(held - taken);
        }
    }

    fn buffer_from(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        self.pool.mbuf_from(bytes)
    }

    #[inline]
    fn discard(&mut self, burst: &mut Burst<Mbuf>) {
        let held = burst.len();
        if held == 0 {
            return;
        }
        // SAFETY: contract 3 — the owners give their buffers back, once: the length is zero before.
        unsafe {
            burst.set_len(0);
            sys::sluice_mbuf_free_bulk(burst.as_mut_ptr().cast(), held as u32);
        }
    }
}

/// Makes every chain of buffers behind the first `held` one buffer, and throws away what fits into none; returns how many
/// those are.
#[cold]
fn join(burst: &mut Burst<Mbuf>, held: usize) -> usize {
    let before = burst.len();
    let mut at = 0;
    burst.retain(|mbuf| {
        at += 1;
        at <= held || mbuf.join()
    });
    before - burst.len()
}
