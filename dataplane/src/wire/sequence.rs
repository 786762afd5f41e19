//! Moving a connection's client-side sequence numbers by an offset.
//!
//! A local port that is used again soon meets a server that may still hold the old connection in
//! TIME_WAIT. It takes a new SYN only if its sequence number lies behind the old connection's
//! (RFC 9293 §3.6.1); with another client behind the same port that is not sure, and the client
//! would wait a second for its next try. So connections get sequence numbers of which the director
//! knows the order, and a SYN from a port that comes again has no timestamp: the server would
//! compare the clocks of different clients (RFC 7323 §5.2).

use super::{ETHERNET_LEN, Packet, TcpFlags, be16, be32, checksum, put16, put32};
use crate::flow::Direction;

const HEADER: usize = 20;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
pub(super) const MAXIMUM_SEGMENT_SIZE: u8 = 2;
pub(super) const SACK: u8 = 5;
pub(super) const TIMESTAMPS: u8 = 8;

/// Lowers the largest segment that a SYN asks for by `len`, so that there is room for what is added.
pub fn lower_segment_size<K>(frame: &mut [u8], packet: &Packet<K>, len: usize) {
    edit_options(&mut frame[usize::from(packet.l4)..], |option| {
        if let [MAXIMUM_SEGMENT_SIZE, 4, high, low] = option {
            let size = u16::from_be_bytes([*high, *low]).saturating_sub(len as u16);
            [*high, *low] = size.to_be_bytes();
        }
    });
}

/// What a TCP segment says, as far as its session depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its flags.
    pub flags: TcpFlags,
    /// Its sequence number, as its sender counts.
    pub sequence: u32,
    /// What it acknowledges, as its sender counts.
    pub acknowledged: u32,
    /// Whether it has data.
    pub has_data: bool,
}

/// What a segment says.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn segment<K>(frame: &[u8], packet: &Packet<K>) -> Segment {
    let (sequence, acknowledged) = numbers(frame, packet);
    let l4 = usize::from(packet.l4);
    let header = usize::from(frame[l4 + 12] >> 4) * 4;
    let has_data = ETHERNET_LEN + usize::from(packet.total_len) > l4 + header;
    Segment { flags: packet.flags, sequence, acknowledged, has_data }
}

/// The sequence and the acknowledgement number of a segment.
pub fn numbers<K>(frame: &[u8], packet: &Packet<K>) -> (u32, u32) {
    let l4 = usize::from(packet.l4);
    (be32(frame, l4 + 4), be32(frame, l4 + 8))
}

/// Adds `offset` to the client's sequence numbers, on their way to the server, or takes it from
/// what the server acknowledges of them. A SYN towards the server loses its timestamp when it is to.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn shift_sequence<K>(
    frame: &mut [u8],
    packet: &Packet<K>,
    direction: Direction,
    offset: u32,
    without_timestamp: bool,
) {
    let segment = &mut frame[usize::from(packet.l4)..];
    match direction {
        Direction::Inbound => {
            shift(segment, 4, offset);
            if without_timestamp && packet.flags.syn() {
                edit_options(segment, blank_timestamp);
            }
        }
        Direction::Outbound => {
            if packet.flags.ack() {
                shift(segment, 8, offset.wrapping_neg());
                edit_options(segment, |option| shift_sack(option, offset));
            }
        }
    }
}

/// Takes `by` from what a segment acknowledges.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn shift_acknowledgement<K>(frame: &mut [u8], packet: &Packet<K>, by: u32) {
    shift(&mut frame[usize::from(packet.l4)..], 8, by.wrapping_neg());
}

/// Takes `by` from the edges of what a segment acknowledges selectively (RFC 2018).
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn shift_sacks<K>(frame: &mut [u8], packet: &Packet<K>, by: u32) {
    edit_options(&mut frame[usize::from(packet.l4)..], |option| shift_sack(option, by));
}

/// The sequence number of a TCP segment.
///
/// # Panics
/// When `packet` is no TCP segment parsed from this frame.
pub fn sequence_number<K>(frame: &[u8], packet: &Packet<K>) -> u32 {
    be32(frame, usize::from(packet.l4) + 4)
}

/// Adds `by` to the sequence number of a TCP segment whose header begins at `l4`.
///
/// # Panics
/// When the frame ends before the header does.
pub fn advance_sequence(frame: &mut [u8], l4: usize, by: u32) {
    shift(&mut frame[l4..], 4, by);
}

/// Adds to a 32-bit field; the checksum follows by difference.
pub(super) fn shift(segment: &mut [u8], at: usize, offset: u32) {
    let old = be32(segment, at);
    let new = old.wrapping_add(offset);
    put32(segment, at, new);
    adjust(segment, checksum::fold(u64::from(old)), checksum::fold(u64::from(new)));
}

/// Changes each option that has a length in place; the checksum follows by difference.
pub(super) fn edit_options(segment: &mut [u8], edit: impl FnMut(&mut [u8])) {
    let end = usize::from(segment[12] >> 4) * 4;
    if end == HEADER {
        return;
    }
    let old = checksum::sum(&segment[HEADER..end]);
    for_each_option(&mut segment[HEADER..end], edit);
    let new = checksum::sum(&segment[HEADER..end]);
    adjust(segment, old, new);
}

pub(super) fn adjust(segment: &mut [u8], old: u16, new: u16) {
    let field = checksum::adjust(be16(segment, 16), checksum::difference(old, new));
    put16(segment, 16, field);
}

fn blank_timestamp(option: &mut [u8]) {
    if option[0] == TIMESTAMPS {
        option.fill(NO_OPERATION);
    }
}

pub(super) fn shift_sack(option: &mut [u8], offset: u32) {
    if option[0] == SACK {
        let (edges, _) = option[2..].as_chunks_mut::<4>();
        for edge in edges {
            *edge = u32::from_be_bytes(*edge).wrapping_sub(offset).to_be_bytes();
        }
    }
}

/// Walks options that have a length, as far as they are well formed: of TCP, or of IPv4, which look the same.
pub(super) fn for_each_option(mut options: &mut [u8], mut each: impl FnMut(&mut [u8])) {
    loop {
        let len = match *options {
            [] | [END, ..] => return,
            [NO_OPERATION, ..] => 1,
            [_, len, ..] => usize::from(len),
            [_] => return,
        };
        if len == 0 || len > options.len() {
            return;
        }
        let (option, rest) = options.split_at_mut(len);
        if len >= 2 {
            each(option);
        }
        options = rest;
    }
}
