//! What the headers of a group of frames say, as far as they are plain.

use super::ETHERNET_LEN;
use super::family::Wire;
use super::packet::{Packet, Plain, Station};
use crate::flow::Key;
use crate::frame::{Frame, GROUP};

/// What the headers of up to sixteen frames say: of each as much as a packet of a session needs, and side by side, because
/// four or eight are read at once.
#[derive(Clone, Debug)]
pub struct Heads<K> {
    /// The flows; those of frames that are not plain mean nothing.
    pub keys: [K; GROUP],
    /// Length of the IP packets, in bytes; the frames were cut to it.
    pub total_lens: [u16; GROUP],
    /// Whether a frame is plain, and what it says to its session's state.
    pub plain: [Plain; GROUP],
}

impl<K: Key> Heads<K> {
    /// Of no frame.
    pub const NOTHING: Self =
        Self { keys: [K::NONE; GROUP], total_lens: [0; GROUP], plain: [Plain::NONE; GROUP] };
}

impl<K: Wire> Heads<K> {
    /// Reads the plain ones of up to sixteen frames for `station`, whose packets have at most `longest` bytes, and cuts
    /// off their padding. Returns, bit per frame, which are not plain.
    #[inline(always)]
    pub fn read(&mut self, frames: &mut [Frame<'_>], station: &Station, longest: u16) -> u32 {
        let (read, mut others) = K::read_lanes(frames, station, longest, self);
        let mut at = read;
        while let Some(frame) = frames.get_mut(at)
            && at < GROUP
        {
            others |= u32::from(!self.read_one(at, frame, station, longest)) << at;
            at += 1;
        }
        others
    }

    /// Reads the frame at a place; false if it is not plain.
    #[inline(always)]
    pub(super) fn read_one(
        &mut self,
        at: usize,
        frame: &mut Frame<'_>,
        station: &Station,
        longest: u16,
    ) -> bool {
        self.plain[at] = Plain::NONE;
        K::read_plain(frame, station, longest).is_some_and(|(key, total_len, plain)| {
            (self.keys[at], self.total_lens[at], self.plain[at]) = (key, total_len, plain);
            frame.truncate(ETHERNET_LEN + usize::from(total_len));
            true
        })
    }

    /// All that [`Wire::parse`] says about the plain frame at a place.
    pub fn packet(&self, at: usize, frame: &Frame<'_>) -> Packet<K> {
        K::packet_of_plain(frame.bytes(), self.keys[at], self.total_lens[at])
    }
}
