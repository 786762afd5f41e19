//! Packets that become too long for their link, and may be cut: a packet has one verdict, so the second part
//! leaves by a queue of its own.

use super::forward::Next;
use super::{Director, Verdict};
use crate::drop::DropReason;
use crate::flow::Family;
use crate::frame::Frame;
use crate::wire::{self, ETHERNET_LEN, Outer, TAIL_MAX, Tail};

/// Second parts that wait to be sent, at most: what a few bursts can make.
pub(super) const TAILS: usize = 256;
/// Room for a tunnel's headers.
const HEADROOM: usize = 128;

impl Director {
    /// Cuts a piece that came to IPv6 if it became too long for its link.
    pub(super) fn cut_to_fit(
        &mut self,
        frame: &mut Frame<'_>,
        next: &Next<'_>,
        link_mtu: u16,
    ) -> Result<(), DropReason> {
        if frame.bytes().len() <= ETHERNET_LEN + usize::from(link_mtu) {
            return Ok(());
        }
        self.has_place_for_tail()?;
        let mut tail = wire::cut_ipv6(frame, link_mtu)?;
        let verdict = next.send(&mut tail);
        self.tails.push_back((verdict, tail));
        Ok(())
    }

    /// Cuts an IPv4 packet to `mtu`, so that it fits into a tunnel, and puts the second part into it.
    pub(super) fn cut_for_tunnel(
        &mut self,
        frame: &mut Frame<'_>,
        next: &Next<'_>,
        outer: &Outer,
        mtu: u16,
    ) -> Result<(), DropReason> {
        self.has_place_for_tail()?;
        let tail = wire::cut_ipv4(frame, mtu)?;
        let mut room = [0; HEADROOM + TAIL_MAX];
        let window = HEADROOM..HEADROOM + tail.len();
        room[window.clone()].copy_from_slice(&tail);
        let mut second = Frame::new(&mut room, window);
        if !wire::encapsulate(&mut second, Family::V4, outer) {
            return Err(DropReason::NoHeadroom);
        }
        let verdict = next.send(second.bytes_mut());
        let tail = Tail::try_from(second.bytes()).map_err(|_| DropReason::ExceedsMtu)?;
        self.tails.push_back((verdict, tail));
        Ok(())
    }

    fn has_place_for_tail(&self) -> Result<(), DropReason> {
        if self.tails.len() < TAILS { Ok(()) } else { Err(DropReason::ExceedsMtu) }
    }

    /// The second part of a packet that had to be cut, and what is to be done with it.
    #[inline]
    pub fn next_tail(&mut self) -> Option<(Verdict, Tail)> {
        self.tails.pop_front()
    }
}
