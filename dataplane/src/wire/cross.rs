//! From one family to the other (RFC 7915), for sessions whose client and server differ in it.

use super::fragment::Fragment;
use super::ipv6::upper;
use super::rewrite::{Translation, translate_transport};
use super::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Packet, be16, checksum, put16, put32};
use crate::drop::DropReason;
use crate::flow::{FlowKey, FlowKey6, Key, Protocol};
use crate::frame::Frame;

/// RFC 7915 §5.1: what is larger than this after translation is not to be fragmented any more.
const FRAGMENTABLE_MAX: usize = 1_260;
/// Bytes of IPv6's fragment header (RFC 8200 §4.5).
pub const FRAGMENT_LEN: usize = 8;
/// Its number.
const FRAGMENT: u8 = 44;
/// In its third and fourth byte: others follow.
pub(super) const MORE: u16 = 1;

/// Turns an IPv6 packet, or a piece of one, into an IPv4 one with the addresses and ports of `to`. Takes
/// one from its TTL. The Ethernet header is left to the caller.
///
/// # Errors
/// Why it must be dropped, the frame unchanged: `to` is no IPv4 flow, or a first piece has more headers than
/// its fragment header, behind which all offsets count.
pub(super) fn six_to_four(
    frame: &mut Frame<'_>,
    packet: &Packet<FlowKey6>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
    piece: Option<Fragment>,
) -> Result<(), DropReason> {
    let new = to.key.narrow().ok_or(DropReason::NotForUs)?;
    let l4 = usize::from(packet.l4);
    let bytes = frame.bytes();
    if piece.is_some() {
        let begin = upper(bytes[ETHERNET_LEN + 6], &bytes[ETHERNET_LEN + IPV6_LEN..])?.offset;
        if ETHERNET_LEN + IPV6_LEN + begin != l4 {
            return Err(DropReason::Fragment);
        }
    }
    let class = (be16(bytes, ETHERNET_LEN) >> 4) as u8;
    frame.advance(l4 - ETHERNET_LEN - IPV4_LEN);
    let total_len = frame.bytes().len() - ETHERNET_LEN;
    let (ip, l4) = frame.bytes_mut()[ETHERNET_LEN..].split_at_mut(IPV4_LEN);
    if piece.is_none_or(|piece| piece.offset == 0) {
        translate_transport(l4, protocol, to);
    }
    (ip[0], ip[1]) = (0x45, class);
    put16(ip, 2, total_len as u16);
    let (identification, flags) = match piece {
        Some(piece) => {
            (piece.identification as u16, (piece.offset / 8) as u16 | if piece.more { 0x2000 } else { 0 })
        }
        None if total_len > FRAGMENTABLE_MAX => (0, 0x4000),
        // Differs from packet to packet, and that is all it has to (RFC 6864 §4).
        None => {
            let words = [be16(l4, 4), be16(l4, 6)].map(u64::from);
            (checksum::fold(words[0] + words[1] + u64::from(to.key.port_word())), 0)
        }
    };
    put16(ip, 4, identification);
    put16(ip, 6, flags);
    (ip[8], ip[9]) = (packet.ttl - 1, protocol as u8);
    put16(ip, 10, 0);
    ip[12..20].copy_from_slice(&new.address_word().to_be_bytes());
    let header_checksum = !checksum::sum(ip);
    put16(ip, 10, header_checksum);
    Ok(())
}

/// Turns an IPv4 packet into an IPv6 one with the addresses and ports of `to`, and with a fragment header if
/// it is, or is to become, a `piece`. Takes one from its TTL. The Ethernet header is left to the caller.
///
/// # Errors
/// Why it must be dropped, the frame unchanged: the buffer's headroom has no place for the header, or a
/// datagram in pieces has no checksum (RFC 7915 §4.5).
pub(super) fn four_to_six(
    frame: &mut Frame<'_>,
    packet: &Packet<FlowKey>,
    protocol: Protocol,
    to: &Translation<FlowKey6>,
    piece: Option<Fragment>,
) -> Result<(), DropReason> {
    let (l4, class) = (usize::from(packet.l4), frame.bytes()[ETHERNET_LEN + 1]);
    let has_ports = piece.is_none_or(|piece| piece.offset == 0);
    let without_checksum = has_ports && protocol == Protocol::Udp && be16(frame.bytes(), l4 + 6) == 0;
    if without_checksum && piece.is_some() {
        return Err(DropReason::Fragment);
    }
    let header_len = IPV6_LEN + if piece.is_some() { FRAGMENT_LEN } else { 0 };
    match header_len.checked_sub(l4 - ETHERNET_LEN) {
        Some(more) if !frame.prepend(more) => return Err(DropReason::NoHeadroom),
        Some(_) => {}
        None => frame.advance(l4 - ETHERNET_LEN - header_len),
    }
    let (ip, body) = frame.bytes_mut()[ETHERNET_LEN..].split_at_mut(IPV6_LEN);
    put32(ip, 0, 6 << 28 | u32::from(class) << 20);
    put16(ip, 4, body.len() as u16);
    (ip[6], ip[7]) = (protocol as u8, packet.ttl - 1);
    ip[8..IPV6_LEN].copy_from_slice(&to.key.address_bytes());
    let (between, l4) = body.split_at_mut(header_len - IPV6_LEN);
    if let Some(piece) = piece {
        ip[6] = FRAGMENT;
        put16(between, 0, u16::from(protocol as u8) << 8);
        put16(between, 2, piece.offset as u16 | if piece.more { MORE } else { 0 });
        put32(between, 4, piece.identification);
    }
    if has_ports {
        translate_transport(l4, protocol, to);
    }
    if without_checksum {
        // IPv6 has no datagrams without (RFC 7915 §4.5).
        let pseudo = checksum::fold(to.key.address_sum() + protocol as u64 + u64::from(be16(l4, 4)));
        let covered = usize::from(be16(l4, 4)).min(l4.len());
        let sum = checksum::add(checksum::sum(&l4[..covered]), pseudo);
        put16(l4, 6, if sum == 0xffff { 0xffff } else { !sum });
    }
    Ok(())
}
