//! What was decided about a burst.

use super::Verdict;
use crate::frame::BURST_SIZE;
use crate::ids::PortId;
use arrayvec::ArrayVec;

/// The verdicts on one burst, in its order.
///
/// What decides about a packet gives its verdict here, or fails with a reason to drop it: returning
/// verdicts through several functions, and packets from the parser, cost 52 instructions more. As long as all
/// are to be sent by one port they are a number: mostly that is all that becomes of them.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Verdicts to send by `port`, as long as there are no others.
    same: usize,
    port: Option<PortId>,
    /// All of them, from the first other one on.
    list: ArrayVec<Verdict, BURST_SIZE>,
}

impl Verdicts {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        (self.same, self.port) = (0, None);
        self.list.clear();
    }

    /// Adds a verdict.
    pub fn push(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Transmit(port) => self.push_transmit(port, 1),
            _ => self.push_other(verdict),
        }
    }

    /// Adds the verdict to send by a port, for so many packets.
    #[inline(always)]
    pub(super) fn push_transmit(&mut self, port: PortId, count: usize) {
        if self.port == Some(port) {
            self.same += count;
        } else if count > 0 && self.same == 0 && self.list.is_empty() {
            (self.same, self.port) = (count, Some(port));
        } else {
            (0..count).for_each(|_| self.push_other(Verdict::Transmit(port)));
        }
    }

    #[inline(never)]
    fn push_other(&mut self, verdict: Verdict) {
        self.spread();
        self.list.push(verdict);
    }

    /// Makes a list of them.
    fn spread(&mut self) {
        if let Some(port) = self.port.take() {
            self.list.extend(std::iter::repeat_n(Verdict::Transmit(port), self.same));
            self.same = 0;
        }
    }

    /// Puts another verdict in the place of one.
    pub(super) fn set(&mut self, at: usize, verdict: Verdict) {
        self.spread();
        self.list[at] = verdict;
    }

    /// The port by which every packet is to be sent, if it is one port.
    #[inline]
    pub fn whole(&self) -> Option<PortId> {
        self.port
    }
}

impl IntoIterator for Verdicts {
    type Item = Verdict;
    type IntoIter = arrayvec::IntoIter<Verdict, BURST_SIZE>;

    fn into_iter(mut self) -> Self::IntoIter {
        self.spread();
        self.list.into_iter()
    }
}
