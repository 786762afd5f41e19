//! Cutting a packet in two that is too long for its link, and may be cut (RFC 791 §3.2, RFC 8200 §4.5).

use super::cross::{FRAGMENT_LEN, MORE};
use super::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, be16, checksum, put16};
use crate::drop::DropReason;
use crate::frame::Frame;
use arrayvec::ArrayVec;

/// The second part of a packet that was cut in two, as long as what an Ethernet frame carries.
pub type Tail = ArrayVec<u8, TAIL_MAX>;
/// Most bytes of one.
pub const TAIL_MAX: usize = ETHERNET_LEN + 1_500;

/// Where IPv6's fragment header stands, and what is behind it.
const FRAGMENT_AT: usize = ETHERNET_LEN + IPV6_LEN;
const PIECE_AT: usize = FRAGMENT_AT + FRAGMENT_LEN;
/// In the fourth word of an IPv4 header: others follow.
const MORE4: u16 = 0x2000;

/// Cuts an IPv6 piece, whose fragment header stands right behind the fixed one, to what a link of `mtu` carries;
/// gives the rest, a frame of its own.
///
/// # Errors
/// When one more frame is not enough; the piece is then as it was.
pub fn cut_ipv6(frame: &mut Frame<'_>, mtu: u16) -> Result<Tail, DropReason> {
    let room = usize::from(mtu).saturating_sub(IPV6_LEN + FRAGMENT_LEN) & !7;
    let bytes = frame.bytes_mut();
    let (head, payload) = bytes.split_at_mut(PIECE_AT);
    let Some(rest) = payload.get(room..) else { return Err(DropReason::ExceedsMtu) };
    let mut tail = Tail::new();
    if rest.len() > room || tail.try_extend_from_slice(head).is_err() {
        return Err(DropReason::ExceedsMtu);
    }
    tail.try_extend_from_slice(rest).map_err(|_| DropReason::ExceedsMtu)?;
    put16(&mut tail, ETHERNET_LEN + 4, (FRAGMENT_LEN + rest.len()) as u16);
    let place = be16(head, FRAGMENT_AT + 2);
    put16(&mut tail, FRAGMENT_AT + 2, place + room as u16);
    put16(head, FRAGMENT_AT + 2, place | MORE);
    put16(head, ETHERNET_LEN + 4, (FRAGMENT_LEN + room) as u16);
    frame.truncate(PIECE_AT + room);
    Ok(tail)
}

/// Cuts an IPv4 packet, or a piece of one, to `mtu` bytes; gives the rest, a frame of its own.
///
/// # Errors
/// When one more frame is not enough, or the header has options, of which some must not be repeated; the
/// packet is then as it was.
pub fn cut_ipv4(frame: &mut Frame<'_>, mtu: u16) -> Result<Tail, DropReason> {
    const BODY_AT: usize = ETHERNET_LEN + IPV4_LEN;
    let room = usize::from(mtu).saturating_sub(IPV4_LEN) & !7;
    let (head, body) = frame.bytes_mut().split_at_mut(BODY_AT);
    let Some(rest) = body.get(room..) else { return Err(DropReason::ExceedsMtu) };
    let mut tail = Tail::new();
    if rest.len() > room || head[ETHERNET_LEN] != 0x45 || BODY_AT + rest.len() > TAIL_MAX {
        return Err(DropReason::ExceedsMtu);
    }
    tail.extend(head.iter().chain(rest.iter()).copied());
    let place = be16(head, ETHERNET_LEN + 6);
    set_place(&mut tail[ETHERNET_LEN..BODY_AT], rest.len(), place + (room / 8) as u16);
    set_place(&mut head[ETHERNET_LEN..], room, place | MORE4);
    frame.truncate(BODY_AT + room);
    Ok(tail)
}

/// Gives an IPv4 header the length of what follows it, and its place in a datagram.
fn set_place(header: &mut [u8], len: usize, place: u16) {
    put16(header, 2, (IPV4_LEN + len) as u16);
    put16(header, 6, place);
    put16(header, 10, 0);
    let header_checksum = !checksum::sum(header);
    put16(header, 10, header_checksum);
}
