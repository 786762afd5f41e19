//! Whether a segment can be its sender's: what a blind attacker, who sees nothing of a connection, cannot know
//! (RFC 5961, RFC 5927).
//!
//! A session keeps the upper half of the number up to which each direction's receiver has acknowledged. A segment that
//! would end the session must begin not far behind that; any other is passed on, for its receiver knows exactly, and
//! changes nothing here. With the room of [`RESET_ROOM`] one blind segment of 11,000 ends a session. Of a connection that is half open it
//! keeps the upper half of the server's first number instead: one blind acknowledgement of 21,000 finishes it.

use super::{Seen, Session, State};
use crate::flow::{Direction, Key};
use crate::wire::Segment;

/// So far ahead of what is acknowledged a reset may be, in units of 64 KiB: data may be on the way before it.
pub const RESET_ROOM: u16 = 4;
/// The same of a FIN, which more data may precede: of 3,600 blind ones one ends a session.
pub const FIN_ROOM: u16 = 16;
/// The same of the segment that an ICMP error quotes, which its receiver looks at more closely.
pub const QUOTE_ROOM: u16 = 128;

impl<K: Key> Session<K> {
    /// Takes note of a segment in `direction`, and returns the state that it leads to; `None` where it would end the
    /// session and cannot be its sender's.
    pub fn follow(&mut self, segment: &Segment, direction: Direction) -> Option<State> {
        let Segment { flags, sequence, acknowledged, has_data } = *segment;
        let (before, sees_answers) = (self.state, self.mode.sees_answers());
        let after = before.after(flags, Seen::of(direction, sees_answers));
        let is_live = matches!(before, State::Established | State::FinWait | State::CloseWait);
        if flags.rst() {
            if is_live && !self.is_plausible(direction, sequence, RESET_ROOM) {
                return None;
            }
            if after != before {
                self.acknowledged = [UNKNOWN; 2];
            }
            return Some(after);
        }
        if is_live && flags.fin() && !self.is_plausible(direction, sequence, FIN_ROOM) {
            return None;
        }
        if !sees_answers {
            self.note_sent(upper_half(sequence));
            return Some(after);
        }
        if before == State::SynRecv && !flags.syn() {
            let proves = match direction {
                // Whoever did not hear the server proves nothing.
                Direction::Inbound => self.heard_server(acknowledged),
                // A server acknowledges, too, what it does not take; it says nothing to those who did not hear it.
                Direction::Outbound => has_data || flags.fin(),
            };
            if !proves {
                return Some(before);
            }
        }
        // A SYN that nobody has answered acknowledges nothing; behind two FINs only data shows that somebody goes on.
        let begins = flags.syn() && direction == Direction::Inbound && after == State::SynRecv;
        let is_noted = match before {
            // The client must not say what it will be asked for.
            _ if begins => false,
            _ if is_live => !flags.syn(),
            State::TimeWait => has_data,
            _ => true,
        };
        if is_noted {
            *self.acknowledged_mut(direction) = upper_half(acknowledged);
        }
        let goes_on = flags.ack() && !flags.syn() && !flags.fin();
        let do_both = goes_on && self.acknowledged.iter().all(|number| *number != UNKNOWN);
        let after = match before {
            // What the server says to a SYN decides.
            _ if is_live && flags.syn() && direction == Direction::Inbound => before,
            _ if is_live && flags.syn() && !flags.ack() => before,
            _ if is_live && flags.syn() => State::Established,
            // An end after which both go on was none. What was lost before two FINs may come once more from both sides, so
            // they do not count for more than half an end.
            State::Close if do_both => State::Established,
            State::TimeWait if do_both => State::FinWait,
            _ => after,
        };
        let begins_again = flags.syn() && after != before;
        if begins_again || after != before && matches!(after, State::Close | State::TimeWait) {
            // What comes from now on shows where they are, and whether they go on.
            self.acknowledged = [UNKNOWN; 2];
        }
        if begins && before != after {
            *self.acknowledged_mut(Direction::Inbound) = UNKNOWN;
        }
        if after == State::SynRecv && flags.syn() && flags.ack() && direction == Direction::Outbound {
            // Until the client acknowledges it this place is free.
            *self.acknowledged_mut(Direction::Inbound) = ((sequence >> 16) as u16).max(1).to_be_bytes();
        }
        Some(after)
    }

    /// Whether a client that acknowledges this can know the number that its server began with.
    fn heard_server(&self, acknowledged: u32) -> bool {
        let began = self.acknowledged[Direction::Inbound as usize];
        let ahead = ((acknowledged >> 16) as u16).wrapping_sub(u16::from_be_bytes(began));
        began != UNKNOWN && ahead.wrapping_add(1) <= 2
    }

    /// Where it is noted what segments in `direction` acknowledge: the upper half, as it stands on the wire.
    #[inline(always)]
    pub fn acknowledged_mut(&mut self, direction: Direction) -> &mut [u8; 2] {
        &mut self.acknowledged[direction as usize]
    }

    /// Takes note of where a client's segment stands, for want of what the server acknowledges: of one that goes on from
    /// where the last one was, for everybody can send others.
    #[inline(always)]
    pub fn note_sent(&mut self, upper: [u8; 2]) {
        let noted = &mut self.acknowledged[Direction::Outbound as usize];
        let ahead = u16::from_be_bytes(upper).wrapping_sub(u16::from_be_bytes(*noted));
        if ahead <= FIN_ROOM || *noted == UNKNOWN {
            *noted = upper;
        }
    }

    /// Whether a segment in `direction` can begin with this number, as its sender counts.
    pub fn is_plausible(&self, direction: Direction, sequence: u32, room: u16) -> bool {
        let moved = match direction {
            Direction::Inbound => self.sequence_offset,
            Direction::Outbound => 0,
        };
        self.is_within(direction, sequence.wrapping_add(moved), room)
    }

    /// [`is_plausible`](Self::is_plausible) for a number as the receiver counts.
    pub fn is_within(&self, direction: Direction, sequence: u32, room: u16) -> bool {
        let reached = self.acknowledged[1 - direction as usize];
        let ahead = ((sequence >> 16) as u16).wrapping_sub(u16::from_be_bytes(reached));
        // One that repeats what is acknowledged stands a little before it.
        reached == UNKNOWN || ahead.wrapping_add(1) <= room + 1
    }
}

/// Nothing is acknowledged yet, or the first 64 KiB of the numbers' space.
pub(super) const UNKNOWN: [u8; 2] = [0; 2];

/// The upper half of a number, as it stands on the wire.
fn upper_half(number: u32) -> [u8; 2] {
    ((number >> 16) as u16).to_be_bytes()
}
