//! What differs on the wire between the families: one trait, two short lists.

use super::fragment::{self, Fragment};
use super::heads::Heads;
use super::packet::{LinkTraits, Packet, Payload, Plain, Station, Unfit};
use super::rewrite::{Translation, translate_plain4, translate_plain6, translate4, translate6};
use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader, IPV4_LEN, IPV6_LEN, cross, cross_error,
    icmp, icmp6, ipv4, ipv6, lanes, set_ethernet, tunnel,
};
use crate::drop::DropReason;
use crate::flow::{FlowKey, FlowKey6, Key, Protocol};
use crate::frame::Frame;
use icmp::IcmpError;

/// How a family's packets are read and written. Frames and packets always belong together: every
/// function panics when `packet` was not parsed from this frame.
pub trait Wire: Key {
    /// The EtherType of its frames.
    const ETHERTYPE: u16;

    /// The flow of a frame of the plain kind, which almost all are, the length of its IP packet, and what it says to its
    /// session: a datagram or a segment that opens nothing, for `station`, of at most `longest` bytes, which may be
    /// forwarded and has nothing unusual or wrong. Of other frames it says no more than `None`.
    fn read_plain(frame: &Frame<'_>, station: &Station, longest: u16) -> Option<(Self, u16, Plain)>;

    /// Reads several frames as [`read_plain`](Self::read_plain) does, and cuts off their padding. Returns how many, from
    /// the first on (none, if that is no faster), and, bit per frame, which of them are not plain.
    #[inline(always)]
    fn read_lanes(_: &mut [Frame<'_>], _: &Station, _: u16, _: &mut Heads<Self>) -> (usize, u32) {
        (0, 0)
    }

    /// All of the packet of a plain frame, of which [`read_plain`](Self::read_plain) says this.
    fn packet_of_plain(frame: &[u8], key: Self, total_len: u16) -> Packet<Self>;

    /// Reads and checks any frame.
    ///
    /// # Errors
    /// Why the frame is no packet of this family for us.
    fn read(frame: &[u8], link: &LinkTraits) -> Result<Packet<Self>, Unfit>;

    /// Reads and checks any frame, and cuts off its Ethernet padding. What it finds is written to `packet`.
    ///
    /// # Errors
    /// Why the frame is no packet of this family for us; `packet` is left as it was.
    #[inline(never)]
    fn parse(frame: &mut Frame<'_>, link: &LinkTraits, packet: &mut Packet<Self>) -> Result<(), Unfit> {
        *packet = Self::read(frame.bytes(), link)?;
        if packet.payload != Payload::Neighbor {
            frame.truncate(ETHERNET_LEN + usize::from(packet.total_len));
        }
        Ok(())
    }

    /// Gives the packet in `frame` new addresses and ports and takes one from its TTL.
    ///
    /// A wrong TCP or UDP checksum stays wrong, and a UDP checksum of zero ("none",
    /// RFC 768) stays zero: Sluice never repairs what a sender got wrong.
    fn translate(frame: &mut [u8], packet: &Packet<Self>, protocol: Protocol, to: &Translation<Self>);

    /// Turns the packet, or a piece of one, into one of the other family, with new addresses and ports and one
    /// less of TTL. An IPv4 packet becomes a piece if it is said to be one. The Ethernet header is left to the
    /// caller.
    ///
    /// # Errors
    /// Why it must be dropped; the frame is then unchanged.
    fn cross(
        frame: &mut Frame<'_>,
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<FlowKey6>,
        piece: Option<Fragment>,
    ) -> Result<(), DropReason>;

    /// [`translate`](Self::translate) for a [plain](Self::read_plain) packet, which gets its Ethernet header too. `to`
    /// is its new key turned round, and the checksums' differences as little-endian numbers. `acknowledged`
    /// becomes the upper half of what a segment acknowledges, as it stands on the wire.
    fn translate_plain(
        frame: &mut Frame<'_>,
        is_segment: bool,
        to: (Self, u16, u16),
        ethernet: &EthernetHeader,
        acknowledged: &mut [u8; 2],
    );

    /// The upper half of a plain segment's sequence number; of a datagram other bytes.
    fn upper_half_of_sequence(frame: &Frame<'_>) -> Option<[u8; 2]>;

    /// Where a piece stands in its datagram.
    fn fragment(frame: &[u8], packet: &Packet<Self>) -> Fragment;

    /// Whether a frame holds a piece of a datagram.
    fn is_fragment(frame: &[u8]) -> bool;

    /// The packet of a datagram's first piece, with ports and flags.
    ///
    /// # Errors
    /// Why it must be dropped, and the others with it.
    fn first_fragment(frame: &[u8], packet: &Packet<Self>) -> Result<Packet<Self>, DropReason>;

    /// Gives a piece the addresses of `new`, by which the sum of IPv4's header changes by `l3_difference`, and takes
    /// one from its TTL.
    fn translate_fragment(frame: &mut [u8], new: Self, l3_difference: u16);

    /// Takes one from a packet's TTL, and leaves all else as it is.
    fn hop(frame: &mut [u8]);

    /// [`hop`](Self::hop) for a [plain](Self::read_plain) packet, which gets another Ethernet header too.
    fn hop_plain(frame: &mut Frame<'_>, ethernet: &EthernetHeader);

    /// [`hop_plain`](Self::hop_plain) into another packet of the same family, nothing between, from the receiver of
    /// `answers` to their sender. False, and the frame unchanged, where that cannot be, or takes the general way.
    fn enter_tunnel(frame: &mut Frame<'_>, answers: Self, ethernet: &EthernetHeader) -> bool;

    /// Whether the packet forbids fragmentation on its way.
    fn dont_fragment(frame: &[u8]) -> bool;

    /// Turns an echo request into its reply, in place; Ethernet addresses are left to the caller.
    fn answer_echo(frame: &mut [u8], packet: &Packet<Self>);

    /// Turns the frame into an ICMP error about itself, with the addresses of `told`.
    /// Ethernet addresses are left to the caller.
    ///
    /// False when the buffer's headroom has no place for it; the frame is then unchanged.
    fn make_error(frame: &mut Frame<'_>, told: Self, error: IcmpError) -> bool;

    /// Turns an ICMP error about a packet that we sent into one about the packet as it came to us, for
    /// the one who sent it. `to` is what packets in the error's direction become: its addresses are the
    /// error's new ones, and the quoted packet gets them the other way round. `moved` is what was added
    /// to the quoted segment's sequence number. With `keep_source` the error goes on as from who sent it.
    /// Ethernet addresses are left to the caller.
    fn relay_error(
        frame: &mut [u8],
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<Self>,
        moved: u32,
        keep_source: bool,
    );

    /// [`relay_error`](Self::relay_error) to the other family: a shorter quote, and always as from us.
    ///
    /// # Errors
    /// Why it must be dropped; the frame is then unchanged.
    fn cross_error(
        frame: &mut Frame<'_>,
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<FlowKey6>,
        moved: u32,
    ) -> Result<(), DropReason>;
}

impl Wire for FlowKey {
    const ETHERTYPE: u16 = ETHERTYPE_IPV4;

    #[inline(always)]
    fn read_plain(frame: &Frame<'_>, station: &Station, longest: u16) -> Option<(Self, u16, Plain)> {
        ipv4::parse_plain(frame, station, longest)
    }

    #[inline(always)]
    fn read_lanes(
        frames: &mut [Frame<'_>],
        station: &Station,
        longest: u16,
        heads: &mut Heads<Self>,
    ) -> (usize, u32) {
        lanes::read(frames, station, longest, heads)
    }

    fn packet_of_plain(frame: &[u8], key: Self, total_len: u16) -> Packet<Self> {
        ipv4::packet_of_plain(frame, key, total_len)
    }

    fn read(frame: &[u8], link: &LinkTraits) -> Result<Packet<Self>, Unfit> {
        ipv4::parse(frame, link)
    }

    #[inline(always)]
    fn translate(frame: &mut [u8], packet: &Packet<Self>, protocol: Protocol, to: &Translation<Self>) {
        translate4(frame, packet, protocol, to);
    }

    #[inline(always)]
    fn translate_plain(
        frame: &mut Frame<'_>,
        is_segment: bool,
        to: (Self, u16, u16),
        ethernet: &EthernetHeader,
        acknowledged: &mut [u8; 2],
    ) {
        translate_plain4(frame, is_segment, to, ethernet, acknowledged);
    }

    #[inline(always)]
    fn upper_half_of_sequence(frame: &Frame<'_>) -> Option<[u8; 2]> {
        const L4: usize = ETHERNET_LEN + IPV4_LEN;
        frame.head::<{ L4 + 8 }>().map(|head| [head[L4 + 4], head[L4 + 5]])
    }

    fn cross(
        frame: &mut Frame<'_>,
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<FlowKey6>,
        piece: Option<Fragment>,
    ) -> Result<(), DropReason> {
        cross::four_to_six(frame, packet, protocol, to, piece)
    }

    fn fragment(frame: &[u8], packet: &Packet<Self>) -> Fragment {
        fragment::of_ipv4(frame, usize::from(packet.l4))
    }

    fn is_fragment(frame: &[u8]) -> bool {
        super::be16(frame, ETHERNET_LEN + 6) & 0x3fff != 0
    }

    fn first_fragment(frame: &[u8], packet: &Packet<Self>) -> Result<Packet<Self>, DropReason> {
        let protocol = packet.key.protocol() as u8;
        let key = |ports| Self::from_words(packet.key.address_word(), protocol, ports);
        fragment::first(frame, packet, protocol, usize::from(packet.l4), key)
    }

    fn translate_fragment(frame: &mut [u8], new: Self, l3_difference: u16) {
        ipv4::translate_fragment(frame, new, l3_difference);
    }

    #[inline]
    fn hop(frame: &mut [u8]) {
        ipv4::hop(frame);
    }

    #[inline(always)]
    fn hop_plain(frame: &mut Frame<'_>, ethernet: &EthernetHeader) {
        ipv4::hop_plain(frame, ethernet);
    }

    #[inline(always)]
    fn enter_tunnel(frame: &mut Frame<'_>, answers: Self, ethernet: &EthernetHeader) -> bool {
        tunnel::encapsulate_ipip4(frame, answers.reversed_addresses_on_wire(), ethernet)
    }

    fn dont_fragment(frame: &[u8]) -> bool {
        ipv4::dont_fragment(frame)
    }

    fn answer_echo(frame: &mut [u8], packet: &Packet<Self>) {
        icmp::answer_echo(frame, packet);
    }

    fn make_error(frame: &mut Frame<'_>, told: Self, error: IcmpError) -> bool {
        icmp::make_error(frame, told.address_word(), error)
    }

    fn relay_error(
        frame: &mut [u8],
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<Self>,
        moved: u32,
        keep_source: bool,
    ) {
        icmp::relay_error(frame, packet, protocol, to, moved, keep_source);
    }

    fn cross_error(
        frame: &mut Frame<'_>,
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<FlowKey6>,
        moved: u32,
    ) -> Result<(), DropReason> {
        cross_error::four_to_six(frame, packet, protocol, to, moved)
    }
}

impl Wire for FlowKey6 {
    const ETHERTYPE: u16 = ETHERTYPE_IPV6;

    #[inline(always)]
    fn read_plain(frame: &Frame<'_>, station: &Station, longest: u16) -> Option<(Self, u16, Plain)> {
        ipv6::parse_plain(frame, station, longest)
    }

    fn packet_of_plain(frame: &[u8], key: Self, total_len: u16) -> Packet<Self> {
        ipv6::packet_of_plain(frame, key, total_len)
    }

    fn read(frame: &[u8], link: &LinkTraits) -> Result<Packet<Self>, Unfit> {
        ipv6::parse(frame, link)
    }

    #[inline(always)]
    fn translate(frame: &mut [u8], packet: &Packet<Self>, protocol: Protocol, to: &Translation<Self>) {
        translate6(frame, packet, protocol, to);
    }

    #[inline(always)]
    fn translate_plain(
        frame: &mut Frame<'_>,
        is_segment: bool,
        (key, _, l4): (Self, u16, u16),
        ethernet: &EthernetHeader,
        acknowledged: &mut [u8; 2],
    ) {
        translate_plain6(frame, is_segment, (key, l4), ethernet, acknowledged);
    }

    #[inline(always)]
    fn upper_half_of_sequence(frame: &Frame<'_>) -> Option<[u8; 2]> {
        const L4: usize = ETHERNET_LEN + IPV6_LEN;
        frame.head::<{ L4 + 8 }>().map(|head| [head[L4 + 4], head[L4 + 5]])
    }

    fn cross(
        frame: &mut Frame<'_>,
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<FlowKey6>,
        piece: Option<Fragment>,
    ) -> Result<(), DropReason> {
        cross::six_to_four(frame, packet, protocol, to, piece)
    }

    fn fragment(frame: &[u8], packet: &Packet<Self>) -> Fragment {
        fragment::of_ipv6(frame, usize::from(packet.l4))
    }

    fn is_fragment(frame: &[u8]) -> bool {
        let next = frame[ETHERNET_LEN + 6];
        let body = &frame[ETHERNET_LEN + super::IPV6_LEN..];
        Protocol::from_number(next).is_none() && ipv6::upper(next, body).is_ok_and(|upper| upper.is_piece)
    }

    fn first_fragment(frame: &[u8], packet: &Packet<Self>) -> Result<Packet<Self>, DropReason> {
        let l4 = usize::from(packet.l4);
        // Options for the destination may follow the fragment header, which begins with who is next.
        let upper = ipv6::upper(frame[l4 - 8], &frame[l4..]).map_err(|_| DropReason::FragmentTiny)?;
        let key = |ports| Self::from_bytes(&packet.key.address_bytes(), upper.protocol, ports);
        fragment::first(frame, packet, upper.protocol, l4 + upper.offset, key)
    }

    fn translate_fragment(frame: &mut [u8], new: Self, _: u16) {
        Self::hop(frame);
        frame[ETHERNET_LEN..][8..super::IPV6_LEN].copy_from_slice(&new.address_bytes());
    }

    #[inline]
    fn hop(frame: &mut [u8]) {
        frame[ETHERNET_LEN + 7] -= 1;
    }

    #[inline(always)]
    fn hop_plain(frame: &mut Frame<'_>, ethernet: &EthernetHeader) {
        let Some(head) = frame.head_mut::<{ ETHERNET_LEN + IPV6_LEN }>() else { return };
        head[ETHERNET_LEN + 7] = head[ETHERNET_LEN + 7].wrapping_sub(1);
        set_ethernet(head, ethernet);
    }

    fn enter_tunnel(_: &mut Frame<'_>, _: Self, _: &EthernetHeader) -> bool {
        false
    }

    /// RFC 8200 §4.5: only senders fragment.
    fn dont_fragment(_: &[u8]) -> bool {
        true
    }

    fn answer_echo(frame: &mut [u8], packet: &Packet<Self>) {
        icmp6::answer_echo(frame, packet);
    }

    fn make_error(frame: &mut Frame<'_>, told: Self, error: IcmpError) -> bool {
        icmp6::make_error(frame, &told.address_bytes(), error)
    }

    fn relay_error(
        frame: &mut [u8],
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<Self>,
        moved: u32,
        keep_source: bool,
    ) {
        icmp6::relay_error(frame, packet, protocol, to, moved, keep_source);
    }

    fn cross_error(
        frame: &mut Frame<'_>,
        packet: &Packet<Self>,
        protocol: Protocol,
        to: &Translation<FlowKey6>,
        moved: u32,
    ) -> Result<(), DropReason> {
        cross_error::six_to_four(frame, packet, protocol, to, moved)
    }
}
