//! What was decided about a burst.

use super::Verdict;
use crate::drop::DropReason;
use crate::frame::BURST_SIZE;
use crate::ids::PortId;
use arrayvec::ArrayVec;

/// The verdicts on one burst, in its order.
///
/// What decides about a packet gives its verdict here, or fails with a reason to drop it: returning
/// verdicts through several functions, and packets from the parser, cost 52 instructions more. As long as all
/// are the same, to send by a port or to drop, they are a number: mostly that is all that becomes of them.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Verdicts of one kind, as long as there are no others.
    count: usize,
    same: Same,
    /// All of them, from the first other one on.
    list: ArrayVec<Verdict, BURST_SIZE>,
}

/// The one verdict on all packets of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Same {
    /// There is none, or not one.
    #[default]
    Nothing,
    /// To send by a port.
    Transmit(PortId),
    /// To drop.
    Drop(DropReason),
}

impl Verdicts {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        (self.count, self.same) = (0, Same::Nothing);
        self.list.clear();
    }

    /// Adds a verdict.
    pub fn push(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Transmit(port) => self.push_same(Same::Transmit(port), 1),
            Verdict::Drop(reason) => self.push_same(Same::Drop(reason), 1),
            _ => self.push_other(verdict),
        }
    }

    /// Adds the verdict to send by a port, for so many packets.
    #[inline(always)]
    pub(super) fn push_transmit(&mut self, port: PortId, count: usize) {
        self.push_same(Same::Transmit(port), count);
    }

    #[inline(always)]
    fn push_same(&mut self, same: Same, count: usize) {
        if self.same == same {
            self.count += count;
        } else if count > 0 && self.same == Same::Nothing && self.list.is_empty() {
            (self.count, self.same) = (count, same);
        } else {
            (0..count).for_each(|_| self.push_other(same.verdict()));
        }
    }

    #[inline(never)]
    fn push_other(&mut self, verdict: Verdict) {
        self.spread();
        self.list.push(verdict);
    }

    /// Makes a list of them.
    fn spread(&mut self) {
        if self.same != Same::Nothing {
            let verdict = std::mem::take(&mut self.same).verdict();
            self.list.extend(std::iter::repeat_n(verdict, self.count));
            self.count = 0;
        }
    }

    /// Puts another verdict in the place of one.
    pub(super) fn set(&mut self, at: usize, verdict: Verdict) {
        self.spread();
        self.list[at] = verdict;
    }

    /// The verdict on every packet, if it is one, to send or to drop.
    #[inline]
    pub fn whole(&self) -> Same {
        self.same
    }
}

impl Same {
    /// One of them.
    ///
    /// # Panics
    /// When there is none.
    fn verdict(self) -> Verdict {
        match self {
            Self::Transmit(port) => Verdict::Transmit(port),
            Self::Drop(reason) => Verdict::Drop(reason),
            Self::Nothing => unreachable!("nobody counts what is no verdict"),
        }
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
