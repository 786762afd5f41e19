//! Telling servers behind FullNAT where their clients are: what a packet gets for that before its
//! addresses change, and what after.
//!
//! A PROXY header stands in front of a connection's first byte, so that the server counts more of the
//! client's bytes than the client does. Until the server has acknowledged it, everything depends on
//! where a segment stands; then the difference is part of the session's sequence offset, and the
//! session's packets take the way of all others.

use super::side::HasSide;
use crate::drop::DropReason;
use crate::flow::{Direction, Endpoint, Family, Protocol};
use crate::frame::Frame;
use crate::session::{Needs, SessionIndex, SessionTable};
use crate::snapshot::ClientAddress;
use crate::stats::WorkerStats;
use crate::wire::{self, ETHERNET_LEN, Packet, Proxy, ProxyHeader, ProxyVersion, Uoa, toa_len, uoa_len};
use std::net::IpAddr;

/// Datagrams of a session that carry the client's address by UOA: nobody acknowledges them, and a few
/// may get lost.
const UOA_DATAGRAMS: u32 = 3;

/// What a packet still gets, once its addresses are the server's.
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// A TCP option of this kind.
    Option(u8),
    /// A header in front of what it carries.
    Header(ProxyHeader),
    /// Nothing, but it comes so many bytes later in the connection than the client counts.
    Later(u32),
    /// A record beside the datagram.
    Record(Uoa),
}

/// Bytes that a service adds to each datagram of a session.
pub(super) fn datagram_overhead(
    how: Option<ClientAddress>,
    client: IpAddr,
    protocol: Protocol,
    direction: Direction,
) -> u16 {
    match (how, protocol, direction) {
        (Some(ClientAddress::Proxy(proxy)), Protocol::Udp, Direction::Inbound) => {
            proxy.datagram_len(client) as u16
        }
        _ => 0,
    }
}

/// What is done to a packet as it came, and what is to be done after its translation. `mtu` is what the
/// packet must not exceed as it came.
pub(super) fn prepare<S: HasSide, K: HasSide>(
    frame: &mut Frame<'_>,
    packet: &Packet<K>,
    (protocol, direction): (Protocol, Direction),
    (sessions, index): (&mut SessionTable<S>, SessionIndex),
    how: ClientAddress,
    mtu: u16,
    stats: &WorkerStats,
) -> Result<Told, DropReason> {
    let room = usize::from(mtu.saturating_sub(packet.total_len));
    match (how, protocol, direction) {
        (ClientAddress::Toa(kind), Protocol::Tcp, _) => {
            let tells = by_option(frame.bytes_mut(), packet, direction, (sessions, index), kind, stats);
            Ok(if tells { Told::Option(kind) } else { Told::Nothing })
        }
        (ClientAddress::Proxy(proxy), Protocol::Tcp, Direction::Inbound) => {
            Ok(by_header(frame, packet, (sessions, index), proxy, room, stats))
        }
        (ClientAddress::Proxy(proxy), Protocol::Tcp, Direction::Outbound) => {
            take_back(frame.bytes_mut(), packet, (sessions, index), proxy);
            Ok(Told::Nothing)
        }
        (ClientAddress::Proxy(proxy), Protocol::Udp, Direction::Inbound) => {
            // Without a header of ours, what the client wrote could pass for one.
            if K::is_fragment(frame.bytes()) {
                stats.address_no_room.add(1);
                return Err(DropReason::AddressUntold);
            }
            Ok(Told::Header(header(proxy, sessions, index)))
        }
        (ClientAddress::Uoa(uoa), Protocol::Udp, Direction::Inbound) => {
            Ok(by_record(frame, packet, (sessions, index), uoa, room, stats))
        }
        _ => Ok(Told::Nothing),
    }
}

/// What is done to a packet of `family` whose layer-4 header begins at `l4`, with the server's addresses
/// in it already. `link_mtu` is that of the link by which it leaves.
pub(super) fn tell(
    told: &Told,
    frame: &mut Frame<'_>,
    (family, l4, protocol): (Family, usize, Protocol),
    client: Endpoint,
    link_mtu: u16,
    stats: &WorkerStats,
) -> Result<(), DropReason> {
    let is_told = match told {
        Told::Nothing => return Ok(()),
        Told::Later(by) => {
            wire::advance_sequence(frame.bytes_mut(), l4, *by);
            return Ok(());
        }
        Told::Option(kind) => {
            let len = frame.bytes().len() - ETHERNET_LEN + toa_len(client.address);
            if len > usize::from(link_mtu) {
                stats.address_exceeds_mtu.add(1);
                return Ok(());
            }
            wire::insert_toa(frame, family, l4, *kind, client)
        }
        Told::Header(header) => {
            let is_told = wire::insert_payload(frame, family, l4, protocol, header);
            if !is_told && protocol == Protocol::Udp {
                stats.address_no_room.add(1);
                return Err(DropReason::AddressUntold);
            }
            if !is_told {
                wire::advance_sequence(frame.bytes_mut(), l4, header.len() as u32);
            }
            is_told
        }
        Told::Record(uoa) => wire::insert_uoa(frame, family, l4, *uoa, client),
    };
    let counter = if is_told { &stats.address_sent } else { &stats.address_no_room };
    counter.add(1);
    Ok(())
}

/// TOA: every segment of the client that acknowledges nothing of the server's but its SYN tells, so that
/// a lost one does no harm.
fn by_option<S: HasSide, K: HasSide>(
    frame: &mut [u8],
    packet: &Packet<K>,
    direction: Direction,
    (sessions, index): (&mut SessionTable<S>, SessionIndex),
    kind: u8,
    stats: &WorkerStats,
) -> bool {
    let (sequence, acknowledged) = wire::numbers(frame, packet);
    let is_open = sessions.get(index).needs.has(Needs::ADDRESS);
    match direction {
        Direction::Inbound => {
            if wire::strip_toa(frame, packet, kind) {
                stats.address_stripped.add(1);
            }
            if !is_open || packet.flags.syn() || packet.flags.rst() || !packet.flags.ack() {
                return false;
            }
            let tells = acknowledged == sessions.mark(index);
            if !tells {
                sessions.get_mut(index).needs.remove(Needs::ADDRESS);
            }
            // The other pieces of a segment would not fit behind a longer first.
            tells && !K::is_fragment(frame)
        }
        Direction::Outbound => {
            if packet.flags.syn() && packet.flags.ack() {
                sessions.set_mark(index, sequence.wrapping_add(1));
                let len = toa_len(sessions.get(index).client().address);
                wire::lower_segment_size(frame, packet, len);
            }
            false
        }
    }
}

/// PROXY, towards the server: the header goes with every segment that begins where the connection does,
/// the handshake's last one too, so that servers that speak first have it.
fn by_header<S: HasSide, K: HasSide>(
    frame: &mut Frame<'_>,
    packet: &Packet<K>,
    (sessions, index): (&mut SessionTable<S>, SessionIndex),
    proxy: Proxy,
    room: usize,
    stats: &WorkerStats,
) -> Told {
    if !sessions.get(index).needs.has(Needs::ADDRESS) {
        return Told::Nothing;
    }
    let (sequence, _) = wire::numbers(frame.bytes(), packet);
    if packet.flags.syn() {
        sessions.set_mark(index, sequence.wrapping_add(1));
        // What comes with the SYN would stand where the header must; the client sends it again.
        wire::cut_payload(frame, K::FAMILY, usize::from(packet.l4));
        return Told::Nothing;
    }
    let from_first = sequence.wrapping_sub(sessions.mark(index)) as i32;
    // A reset counts where the server stands, which may be in front of the header.
    if from_first < 0 || from_first == 0 && packet.flags.rst() {
        return Told::Nothing;
    }
    let header = header(proxy, sessions, index);
    let later = Told::Later(header.len() as u32);
    if from_first > 0 {
        return later;
    }
    if K::is_fragment(frame.bytes()) {
        stats.address_no_room.add(1);
        return later;
    }
    if room < header.len() {
        stats.address_exceeds_mtu.add(1);
        return later;
    }
    Told::Header(header)
}

/// PROXY, towards the client: what the server acknowledges of the header is none of the client's.
fn take_back<S: HasSide, K: HasSide>(
    frame: &mut [u8],
    packet: &Packet<K>,
    (sessions, index): (&mut SessionTable<S>, SessionIndex),
    proxy: Proxy,
) {
    if !packet.flags.ack() || !(packet.flags.syn() || sessions.get(index).needs.has(Needs::ADDRESS)) {
        return;
    }
    let len = header(proxy, sessions, index).len() as u32;
    if packet.flags.syn() {
        wire::lower_segment_size(frame, packet, len as usize);
    }
    let (_, acknowledged) = wire::numbers(frame, packet);
    let mark = sessions.mark(index);
    let session = sessions.get_mut(index);
    if !session.needs.has(Needs::ADDRESS) {
        return;
    }
    match acknowledged.wrapping_sub(session.sequence_offset).wrapping_sub(mark) {
        reached if reached == 0 || reached > i32::MAX as u32 => wire::shift_sacks(frame, packet, len),
        reached if reached < len => {
            wire::shift_acknowledgement(frame, packet, reached);
            wire::shift_sacks(frame, packet, len);
        }
        _ => {
            session.sequence_offset = session.sequence_offset.wrapping_add(len);
            session.needs.remove(Needs::ADDRESS);
            session.settle();
        }
    }
}

/// UOA: the first datagrams tell. What a client says in an option of that kind is blanked.
fn by_record<S: HasSide, K: HasSide>(
    frame: &mut Frame<'_>,
    packet: &Packet<K>,
    (sessions, index): (&mut SessionTable<S>, SessionIndex),
    uoa: Uoa,
    room: usize,
    stats: &WorkerStats,
) -> Told {
    if uoa == Uoa::Option && K::FAMILY == Family::V4 && wire::strip_uoa(frame.bytes_mut(), packet) {
        stats.address_stripped.add(1);
    }
    let told_before = sessions.mark(index);
    let session = sessions.get_mut(index);
    if !session.needs.has(Needs::ADDRESS) {
        return Told::Nothing;
    }
    let len = uoa_len(uoa, session.client().address);
    if told_before + 1 >= UOA_DATAGRAMS {
        session.needs.remove(Needs::ADDRESS);
        // Options must be watched for ever; a client cannot send a header of ours.
        if uoa == Uoa::Header {
            session.settle();
        }
    }
    sessions.set_mark(index, told_before + 1);
    if K::is_fragment(frame.bytes()) {
        stats.address_no_room.add(1);
        return Told::Nothing;
    }
    if room < len {
        stats.address_exceeds_mtu.add(1);
        return Told::Nothing;
    }
    Told::Record(uoa)
}

/// A session's PROXY header: the same in every packet that carries it.
fn header<S: HasSide>(proxy: Proxy, sessions: &SessionTable<S>, index: SessionIndex) -> ProxyHeader {
    let session = sessions.get(index);
    let id = if proxy.version == ProxyVersion::Two && proxy.unique_id {
        // A client's next connection from the same port has another first number.
        sessions.hash(session.key(Direction::Inbound)) ^ u64::from(sessions.mark(index)) << 32
    } else {
        0
    };
    proxy.header(session.protocol(), session.client(), session.vip(), id)
}
