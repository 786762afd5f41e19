//! What the SYN proxy reads and writes: the options of a handshake, segments of its own, and the numbers of a server that
//! come after those of a cookie.

use super::sequence::{
    MAXIMUM_SEGMENT_SIZE, SACK, TIMESTAMPS, adjust, edit_options, for_each_option, shift, shift_sack,
};
use super::{Packet, TcpFlags, be16, be32, checksum, put16, put32};
use crate::flow::{Direction, Key};

const HEADER: usize = 20;
const NO_OPERATION: u8 = 1;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const FLAGS: usize = 13;
const WINDOW: usize = 14;

/// The options of a SYN (RFC 9293 §3.2, RFC 7323, RFC 2018).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynOptions {
    /// The largest segment that its sender takes, in bytes of payload.
    pub segment_size: Option<u16>,
    /// The exponent of its sender's windows, as it stands there.
    pub window_scale: Option<u8>,
    /// Whether its sender takes selective acknowledgements.
    pub sack: bool,
    /// Its sender's clock, and what it gives back of the other's.
    pub timestamps: Option<(u32, u32)>,
}

/// Most bytes of a header's options.
const OPTIONS_MAX: usize = 40;

/// Reads the options of a segment, as far as they are well formed.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn syn_options<K>(frame: &[u8], packet: &Packet<K>) -> SynOptions {
    let segment = &frame[usize::from(packet.l4)..];
    let end = usize::from(segment[12] >> 4) * 4;
    let mut copy = [0; OPTIONS_MAX];
    let options = &mut copy[..end - HEADER];
    options.copy_from_slice(&segment[HEADER..end]);
    let mut read = SynOptions::default();
    for_each_option(options, |option| match *option {
        [MAXIMUM_SEGMENT_SIZE, 4, high, low] => read.segment_size = Some(u16::from_be_bytes([high, low])),
        [WINDOW_SCALE, 3, scale] => read.window_scale = Some(scale),
        [SACK_PERMITTED, 2] => read.sack = true,
        [TIMESTAMPS, 10, ..] => read.timestamps = Some((be32(option, 2), be32(option, 6))),
        _ => {}
    });
    read
}

impl SynOptions {
    /// Writes them as most senders do, to a multiple of four bytes; returns how many.
    pub(super) fn write(&self, to: &mut [u8; OPTIONS_MAX]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            to[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(size) = self.segment_size {
            let [high, low] = size.to_be_bytes();
            put(&[MAXIMUM_SEGMENT_SIZE, 4, high, low]);
        }
        match (self.sack, self.timestamps.is_some()) {
            (true, _) => put(&[SACK_PERMITTED, 2]),
            (false, true) => put(&[NO_OPERATION; 2]),
            (false, false) => {}
        }
        match self.timestamps {
            Some((value, echo)) => {
                put(&[TIMESTAMPS, 10]);
                put(&value.to_be_bytes());
                put(&echo.to_be_bytes());
            }
            None if self.sack => put(&[NO_OPERATION; 2]),
            None => {}
        }
        if let Some(scale) = self.window_scale {
            put(&[NO_OPERATION, WINDOW_SCALE, 3, scale]);
        }
        at
    }
}

/// The window that a segment says, as it stands there.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn window<K>(frame: &[u8], packet: &Packet<K>) -> u16 {
    be16(frame, usize::from(packet.l4) + WINDOW)
}

/// Whether the checksum of a whole segment is right.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn segment_is_right<K: Key>(frame: &[u8], packet: &Packet<K>) -> bool {
    let segment = &frame[usize::from(packet.l4)..];
    let pseudo = packet.key.address_sum() + u64::from(packet.key.protocol() as u8) + segment.len() as u64;
    checksum::add(checksum::sum(segment), checksum::fold(pseudo)) == 0xffff
}

/// What separates the numbers of a server from those that its client was given before the server was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerShift {
    /// Added to the server's sequence numbers, on their way to the client.
    pub sequence: u32,
    /// Added to the server's clock, on its way to the client.
    pub server_clock: u32,
    /// Added to the client's clock, on its way to the server.
    pub client_clock: u32,
    /// By how many bits the server's windows become larger, for a client that was told another exponent.
    pub server_window: i8,
    /// The same of the client's windows.
    pub client_window: i8,
}

/// Moves a segment's numbers, timestamps and window from one side's to the other's. Windows that no longer fit become the largest.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn shift_to_other_side<K>(frame: &mut [u8], packet: &Packet<K>, direction: Direction, by: &ServerShift) {
    let segment = &mut frame[usize::from(packet.l4)..];
    let acknowledges = packet.flags.ack();
    let (own, other, window) = match direction {
        Direction::Inbound => (by.client_clock, by.server_clock, by.client_window),
        Direction::Outbound => (by.server_clock, by.client_clock, by.server_window),
    };
    match direction {
        Direction::Inbound if acknowledges => shift(segment, 8, by.sequence.wrapping_neg()),
        Direction::Inbound => {}
        Direction::Outbound => shift(segment, 4, by.sequence),
    }
    edit_options(segment, |option| match *option {
        [TIMESTAMPS, 10, ..] => {
            let value = be32(option, 2).wrapping_add(own);
            put32(option, 2, value);
            if acknowledges {
                let echo = be32(option, 6).wrapping_sub(other);
                put32(option, 6, echo);
            }
        }
        [SACK, ..] if direction == Direction::Inbound => shift_sack(option, by.sequence),
        _ => {}
    });
    if window != 0 && !packet.flags.syn() {
        set_window(segment, scaled(be16(segment, WINDOW), window));
    }
}

/// A window with so many more bits behind it; fewer, if the number is negative.
pub fn scaled(window: u16, by: i8) -> u16 {
    let wide = u64::from(window);
    let moved = if by >= 0 { wide << by.min(31) } else { wide >> by.unsigned_abs().min(31) };
    moved.min(u64::from(u16::MAX)) as u16
}

fn set_window(segment: &mut [u8], window: u16) {
    let old = be16(segment, WINDOW);
    put16(segment, WINDOW, window);
    adjust(segment, old, window);
}

/// Turns a server's SYN and ACK into the acknowledgement behind it, by which its client learns of the window. Of its
/// options, the timestamps stay. `scale` is what the client was told of windows, which those of a SYN do not have.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn make_window_update<K>(frame: &mut [u8], packet: &mut Packet<K>, scale: u8) {
    let segment = &mut frame[usize::from(packet.l4)..];
    shift(segment, 4, 1);
    let old = be16(segment, FLAGS - 1);
    packet.flags = TcpFlags::ACK_ONLY;
    segment[FLAGS] = packet.flags.octet();
    let new = be16(segment, FLAGS - 1);
    adjust(segment, old, new);
    set_window(segment, be16(segment, WINDOW) >> scale.min(14));
    edit_options(segment, |option| {
        if option[0] != TIMESTAMPS {
            option.fill(NO_OPERATION);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::made::{Handshake, handshake_frame};
    use super::*;
    use crate::flow::{Endpoint, FlowKey6, Protocol};
    use crate::wire::{LinkTraits, Payload, Wire};
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn flow() -> FlowKey6 {
        let end = |text: &str, l4_port| Endpoint::new(text.parse::<IpAddr>().unwrap(), l4_port);
        FlowKey6::new(Protocol::Tcp, end("2001:db8:c::7", 4_000), end("2001:db8::10", 80))
    }

    fn read(frame: &mut [u8]) -> Packet<FlowKey6> {
        let mac = [2, 0, 0, 0, 0, 1];
        frame[..6].copy_from_slice(&mac);
        frame[6] = 2;
        FlowKey6::read(frame, &LinkTraits { mac, mtu: 1_500, kernel_peer: false }).unwrap()
    }

    proptest! {
        #[test]
        fn options_are_read_as_they_were_written(
            size: Option<u16>, scale: Option<u8>, sack: bool, timestamps: Option<(u32, u32)>, octet in prop::sample::select(vec![0x02_u8, 0x12, 0x10]),
        ) {
            let options = SynOptions { segment_size: size, window_scale: scale, sack, timestamps };
            let handshake = Handshake { sequence: 7, acknowledged: 9, flags: TcpFlags::from_octet(octet), window: 512, options };
            let mut frame = handshake_frame(flow(), &handshake);
            let packet = read(&mut frame);
            prop_assert_eq!(packet.payload, Payload::Transport(Protocol::Tcp));
            prop_assert_eq!(packet.key, flow());
            prop_assert_eq!(syn_options(&frame, &packet), options);
            prop_assert_eq!(window(&frame, &packet), 512);
            prop_assert!(segment_is_right(&frame, &packet));
        }

        #[test]
        fn the_way_to_the_other_side_and_back_leads_home(
            sequence: u32, server_clock: u32, client_clock: u32, scale in -14_i8..15, timestamps: (u32, u32), numbers: (u32, u32),
        ) {
            let by = ServerShift { sequence, server_clock, client_clock, server_window: 0, client_window: 0 };
            let options = SynOptions { timestamps: Some(timestamps), ..SynOptions::default() };
            let handshake = Handshake { sequence: numbers.0, acknowledged: numbers.1, flags: TcpFlags::ACK_ONLY, window: 500, options };
            let mut frame = handshake_frame(flow(), &handshake);
            let packet = read(&mut frame);
            let before = frame.clone();
            shift_to_other_side(&mut frame, &packet, Direction::Outbound, &by);
            prop_assert!(segment_is_right(&frame, &packet));
            // Back, as numbers of the other direction: what was own is the other's now.
            let back = ServerShift {
                sequence: sequence.wrapping_neg(),
                server_clock: server_clock.wrapping_neg(),
                client_clock: client_clock.wrapping_neg(),
                ..ServerShift::default()
            };
            shift_to_other_side(&mut frame, &packet, Direction::Outbound, &back);
            prop_assert_eq!(&frame[..], &before[..]);
            let scaled_by = ServerShift { server_window: scale, ..ServerShift::default() };
            shift_to_other_side(&mut frame, &packet, Direction::Outbound, &scaled_by);
            prop_assert!(segment_is_right(&frame, &packet));
            prop_assert_eq!(u64::from(window(&frame, &packet)), ((500_u128 << 14 >> (14 - scale)) as u64).min(65_535));
        }

        #[test]
        fn a_window_update_stands_behind_the_syn(number: u32, size: u16, scale in 0_u8..15, wide: u16) {
            let options = SynOptions { segment_size: Some(size), window_scale: Some(7), sack: true, timestamps: Some((1, 2)) };
            let handshake = Handshake { sequence: number, acknowledged: 9, flags: TcpFlags::SYN_ACK, window: wide, options };
            let mut frame = handshake_frame(flow(), &handshake);
            let mut packet = read(&mut frame);
            make_window_update(&mut frame, &mut packet, scale);
            prop_assert!(segment_is_right(&frame, &packet));
            let again = read(&mut frame);
            prop_assert_eq!(again, packet);
            prop_assert_eq!(crate::wire::numbers(&frame, &packet), (number.wrapping_add(1), 9));
            prop_assert_eq!(syn_options(&frame, &packet), SynOptions { timestamps: Some((1, 2)), ..SynOptions::default() });
            prop_assert_eq!(window(&frame, &packet), wide >> scale);
        }
    }
}
