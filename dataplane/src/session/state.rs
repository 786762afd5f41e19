//! Where a session stands, and how long it may be silent there.
//!
//! TCP follows IPVS: four kinds of segment, two directions, eleven states.
//! RST counts before SYN, SYN before FIN, FIN before ACK.

use crate::flow::Direction;
use crate::wire::TcpFlags;

/// A session's state. Names are those `ipvsadm -Lc` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// The line holds no session.
    Free,
    /// TCP, nothing seen yet.
    None,
    /// TCP, both sides have spoken.
    Established,
    /// TCP, a SYN came from the server's side; or its client proved itself, and the SYN proxy waits for the server.
    SynSent,
    /// TCP, the client's SYN was seen.
    SynRecv,
    /// TCP, the server closed first.
    FinWait,
    /// TCP, both sides closed.
    TimeWait,
    /// TCP, reset or closed.
    Close,
    /// TCP, the client closed first.
    CloseWait,
    /// TCP, waiting for the last acknowledgement.
    LastAck,
    /// TCP, listening.
    Listen,
    /// TCP, SYN and ACK from both.
    SynAck,
    /// UDP, only the client has spoken.
    UdpOneWay,
    /// UDP, both have spoken.
    UdpTwoWay,
}

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynRecv as SR, SynSent as SS, TimeWait as TW,
};

/// One row of a transition table: the next state for each of the TCP states, in the
/// order NO ES SS SR FW TW CL CW LA LI SA.
type Row = [State; 11];

/// Client to server: SYN, FIN, ACK, RST. A bare ACK makes a session without state
/// ESTABLISHED, as kernels with sloppy TCP do; the director lets none come that far
/// unless the service is sloppy.
const INBOUND: [Row; 4] = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
];

/// Server to client: SYN, FIN, ACK, RST.
const OUTBOUND: [Row; 4] = [
    [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];

/// Client to server where the server's answers are not seen: SYN, FIN, ACK, RST.
const INBOUND_ONLY: [Row; 4] = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

/// [`INBOUND`], [`OUTBOUND`] and [`INBOUND_ONLY`] by deciding flags and state: one load for each packet,
/// 8 instructions less than deciding by branches. A datagram has no flags.
const AFTER: [[[State; 16]; 32]; 3] = {
    // A power of two to each, because multiplying by fourteen takes four instructions.
    let mut table = [[[State::Free; 16]; 32]; 3];
    let mut flags = 0;
    while flags < 32 {
        let mut at = 0;
        while at < State::ALL.len() {
            let state = State::ALL[at];
            table[0][flags][state as usize] = state.after_row(flags as u8, &INBOUND);
            table[1][flags][state as usize] = state.after_row(flags as u8, &OUTBOUND);
            table[2][flags][state as usize] = state.after_row(flags as u8, &INBOUND_ONLY);
            at += 1;
        }
        flags += 1;
    }
    table[Seen::Outbound as usize][TcpFlags::NONE.deciding() as usize][State::UdpOneWay as usize] =
        State::UdpTwoWay;
    table
};

/// What of a flow a packet is, as far as states depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// From the client.
    Inbound,
    /// From the server.
    Outbound,
    /// From a client whose server's answers do not pass here.
    InboundOnly,
}

impl Seen {
    /// What a packet in `direction` is, where the server's answers pass here or do not.
    #[inline]
    pub fn of(direction: Direction, sees_answers: bool) -> Self {
        match direction {
            _ if !sees_answers => Self::InboundOnly,
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Outbound,
        }
    }
}

impl State {
    /// Every state that a session can be in.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::SynAck,
        Self::UdpOneWay,
        Self::UdpTwoWay,
    ];

    /// The state after a TCP segment with `flags`, or after a datagram, which has none.
    #[inline]
    pub fn after(self, flags: TcpFlags, seen: Seen) -> Self {
        AFTER[seen as usize][usize::from(flags.deciding())][self as usize]
    }

    /// What leaves a session in this state as it is, a bit for each that [`TcpFlags::said`] gives: no more than that
    /// a packet arrived. What begins or ends a connection is looked at, and so is all that comes behind an end.
    #[inline]
    pub fn ignores(self, seen: Seen) -> u8 {
        // Nothing and an ACK are one bit, because no session gets both.
        let nothing = if matches!(self, Self::UdpOneWay | Self::UdpTwoWay) { 0x00 } else { 0x10 };
        let arrived = TcpFlags::from_octet(nothing);
        let is_over = seen != Seen::InboundOnly && matches!(self, Self::Close | Self::TimeWait);
        if is_over || self.after(arrived, seen) != self { 0 } else { arrived.said() }
    }

    /// The state after a segment with the flags of `octet`, by one direction's rows.
    const fn after_row(self, octet: u8, rows: &[Row; 4]) -> Self {
        let flags = TcpFlags::from_octet(octet);
        let row = if flags.rst() {
            &rows[3]
        } else if flags.syn() {
            &rows[0]
        } else if flags.fin() {
            &rows[1]
        } else if flags.ack() {
            &rows[2]
        } else {
            return self;
        };
        let column = (self as usize).wrapping_sub(State::None as usize);
        if column < row.len() { row[column] } else { self }
    }

    /// Whether the session counts as active (against inactive) in lists and for wlc.
    #[inline]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Established | Self::UdpTwoWay)
    }

    /// Whether both ends are done with the connection, so that its slot and
    /// local port may be taken when they are needed, and a new SYN starts afresh.
    #[inline]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close | Self::LastAck)
    }

    /// In which way a session in this state is unproven, where the server's answers pass here or do not.
    #[inline]
    pub const fn unproven(self, sees_answers: bool) -> Option<Unproven> {
        match self {
            Self::None | Self::SynRecv | Self::SynAck => Some(Unproven::HalfOpen),
            Self::UdpOneWay if sees_answers => Some(Unproven::Unanswered),
            _ => None,
        }
    }

    /// The state's name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "FREE",
            Self::None => "NONE",
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::SynAck => "SYNACK",
            Self::UdpOneWay => "UDP_ONE_WAY",
            Self::UdpTwoWay => "UDP",
        }
    }
}

/// Why nobody knows yet whether a client is who it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// It has not answered what the server said to its SYN.
    HalfOpen,
    /// The server has said nothing to its datagrams.
    Unanswered,
}

impl Unproven {
    /// Both.
    pub const ALL: [Self; 2] = [Self::HalfOpen, Self::Unanswered];
}

/// How long a session may be silent in each state, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    by_state: [u32; State::ALL.len() + 1],
}

impl Default for Timeouts {
    /// The kernel's IPVS defaults.
    fn default() -> Self {
        let mut timeouts = Self { by_state: [0; _] };
        for state in State::ALL {
            let seconds = match state {
                State::Free => 0,
                State::None => 2,
                State::Established => 900,
                State::SynSent => 120,
                State::SynRecv => 60,
                State::FinWait | State::TimeWait => 120,
                State::Close => 10,
                State::CloseWait => 60,
                State::LastAck => 30,
                State::Listen | State::SynAck => 120,
                State::UdpOneWay | State::UdpTwoWay => 300,
            };
            timeouts.set(state, seconds * 1000);
        }
        timeouts
    }
}

impl Timeouts {
    /// The timeout of `state`, in milliseconds.
    #[inline]
    pub fn of(&self, state: State) -> u32 {
        self.by_state[state as usize]
    }

    /// Sets the timeout of `state`, in milliseconds.
    pub fn set(&mut self, state: State, millis: u32) {
        self.by_state[state as usize] = millis;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Plain;
    use State::{None as NO, SynAck as SA};

    const SYN: TcpFlags = TcpFlags::from_octet(0x02);
    const SYN_ACK: TcpFlags = TcpFlags::from_octet(0x12);
    const ACK: TcpFlags = TcpFlags::from_octet(0x10);
    const FIN_ACK: TcpFlags = TcpFlags::from_octet(0x11);
    const RST: TcpFlags = TcpFlags::from_octet(0x04);

    use Seen::{Inbound, InboundOnly, Outbound};

    fn walk(segments: &[(TcpFlags, Seen)]) -> Vec<State> {
        let mut state = State::None;
        segments
            .iter()
            .map(|(flags, seen)| {
                state = state.after(*flags, *seen);
                state
            })
            .collect()
    }

    #[test]
    fn what_a_state_ignores_leaves_it_as_it_is_and_is_neither_begin_nor_end() {
        for state in State::ALL {
            let is_datagram = matches!(state, State::UdpOneWay | State::UdpTwoWay);
            for seen in [Inbound, Outbound, InboundOnly] {
                for octet in 0..=255 {
                    let plain = if is_datagram { Plain::ARRIVED } else { Plain::of_segment(octet) };
                    let flags = if is_datagram { TcpFlags::NONE } else { TcpFlags::from_octet(octet) };
                    let ignored = plain.among(state.ignores(seen)) != 0;

                    let stays = plain.is_some() && state.after(flags, seen) == state;
                    let is_said = flags.syn() || flags.fin() || flags.rst();
                    let is_over = seen != InboundOnly && matches!(state, TW | CL);
                    assert_eq!(ignored, stays && !is_said && !is_over, "{state:?} {seen:?} {octet:#x}");
                }
            }
        }
    }

    #[test]
    fn a_connection_that_the_client_closes_ends_in_time_wait() {
        let states = walk(&[
            (SYN, Inbound),
            (SYN_ACK, Outbound),
            (ACK, Inbound),
            (FIN_ACK, Inbound),
            (FIN_ACK, Outbound),
            (ACK, Inbound),
        ]);
        assert_eq!(states, [SR, SR, ES, CW, TW, TW]);
    }

    #[test]
    fn a_connection_that_the_server_closes_ends_in_time_wait() {
        let states = walk(&[
            (SYN, Inbound),
            (SYN_ACK, Outbound),
            (ACK, Inbound),
            (FIN_ACK, Outbound),
            (ACK, Inbound),
            (FIN_ACK, Inbound),
            (ACK, Outbound),
        ]);
        assert_eq!(states, [SR, SR, ES, FW, FW, TW, TW]);
    }

    #[test]
    fn a_connection_whose_answers_are_not_seen_is_followed_by_the_client_s_segments() {
        let states: Vec<_> = [SYN, ACK, FIN_ACK, ACK]
            .iter()
            .scan(NO, |state, flags| {
                *state = state.after(*flags, InboundOnly);
                Some(*state)
            })
            .collect();
        assert_eq!(states, [SR, ES, FW, FW]);
    }

    #[test]
    fn a_reset_counts_before_everything_else() {
        assert_eq!(ES.after(TcpFlags::from_octet(0x14), Outbound), CL);
        assert_eq!(SR.after(RST, Inbound), SR);
        assert_eq!(SR.after(RST, Outbound), CL);
    }

    #[test]
    fn udp_becomes_two_way_by_a_reply_and_stays_so() {
        let replied = State::UdpOneWay.after(TcpFlags::NONE, Outbound);

        assert_eq!(replied, State::UdpTwoWay);
        assert_eq!(replied.after(TcpFlags::NONE, Inbound), State::UdpTwoWay);
        for seen in [Inbound, InboundOnly] {
            assert_eq!(State::UdpOneWay.after(TcpFlags::NONE, seen), State::UdpOneWay);
        }
    }

    #[test]
    fn default_timeouts_are_the_kernels() {
        let timeouts = Timeouts::default();
        let seconds = |state| timeouts.of(state) / 1000;
        assert_eq!(
            [NO, ES, SS, SR, FW, TW, CL, CW, LA, LI, SA].map(seconds),
            [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120]
        );
        assert_eq!(seconds(State::UdpOneWay), 300);
    }
}
