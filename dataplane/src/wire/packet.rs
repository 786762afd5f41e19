//! What parsing gives: a packet that needs no more checking.

use super::Mac;
use crate::drop::DropReason;
use crate::flow::{Key, Protocol};
use crate::simd;
use std::net::IpAddr;

/// What a port's link lets through, as far as parsing must know.
#[derive(Clone, Copy, Debug)]
pub struct LinkTraits {
    /// The station address that frames for us carry.
    pub mac: Mac,
    /// Largest IP packet of the link, in bytes.
    pub mtu: u16,
    /// True where a kernel may hand over super-frames and partial checksums (af_packet, tap).
    pub kernel_peer: bool,
}

/// A station address, ready to be compared with those of frames.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// The address, in the upper six octets.
    word: u64,
    /// What a plain IPv4 frame for it begins with.
    plain_head: [u8; 16],
}

impl Station {
    /// The station of `mac`.
    pub fn new([a, b, c, d, e, f]: Mac) -> Self {
        let plain_head = [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0x08, 0x00, 0x45, 0];
        Self { word: Self::of(&[a, b, c, d, e, f, 0, 0]), plain_head }
    }

    /// Whether a frame that begins with `head` is for the station, and IPv4 with a header without options: the first
    /// sixteen bytes but for the sender's and the class are compared at once.
    #[inline(always)]
    pub(super) fn is_receiver_of_plain<const N: usize>(&self, head: &[u8; N]) -> bool {
        head.first_chunk().is_some_and(|first| {
            simd::equal_bytes(first, &self.plain_head) & Self::COMPARED == Self::COMPARED
        })
    }

    /// What a plain IPv4 frame for it begins with, where [`COMPARED`](Self::COMPARED) has a bit.
    #[inline]
    pub(super) fn plain_head(&self) -> &[u8; 16] {
        &self.plain_head
    }

    /// By octet: all but the sender's address and the class.
    pub(super) const COMPARED: u32 = 0b0111_0000_0011_1111;

    /// Whether a frame that begins with `head` is for the station.
    #[inline(always)]
    pub(super) fn is_receiver_of<const N: usize>(&self, head: &[u8; N]) -> bool {
        head.first_chunk().is_some_and(|first| Self::of(first) == self.word)
    }

    #[inline(always)]
    fn of(first: &[u8; 8]) -> u64 {
        u64::from_le_bytes(*first) << 16
    }
}

/// One checked packet. Flat and small, because it waits between the director's stages.
/// Offsets are from the frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<K> {
    /// Its flow.
    pub key: K,
    /// Where the layer-4 header begins.
    pub l4: u16,
    /// Length of the IP packet, in bytes; the frame was cut to it.
    pub total_len: u16,
    /// Time to live, or hop limit, as it came.
    pub ttl: u8,
    /// TCP's flags, a valid combination, or those that mean what an SCTP chunk does; none for datagrams.
    pub flags: TcpFlags,
    /// What the packet carries.
    pub payload: Payload,
}

/// What a plain packet says to its session's state, as one bit, to be compared with what the session
/// [ignores](crate::session::State::ignores); no bit for packets that are not plain. The bit stands there once for each
/// direction, as in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain(u8);

impl Plain {
    /// It is no plain packet.
    pub const NONE: Self = Self(0);
    /// No more than that it arrived: a datagram, or a segment with an ACK.
    pub const ARRIVED: Self = Self(0x11);

    /// Of a segment whose flags have this octet.
    #[inline(always)]
    pub(crate) fn of_segment(octet: u8) -> Self {
        Self(PLAIN_FLAGS[usize::from(octet)])
    }

    /// The same, but for clients' packets only: no session's server says it.
    #[inline(always)]
    pub fn of_clients(self) -> Self {
        Self(self.0 & 0x0f)
    }

    /// Whether it is a plain packet.
    #[inline(always)]
    pub fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Of what it says, in both directions, what is among `ignored`.
    #[inline(always)]
    pub fn among(self, ignored: u8) -> u8 {
        self.0 & ignored
    }
}

/// What a packet carries, as far as Sluice looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A TCP segment, a UDP datagram, an SCTP packet or an echo reply.
    Transport(Protocol),
    /// An ICMP echo request with a right checksum; its reply is of [`Protocol::Icmp`].
    EchoRequest,
    /// An ICMP error with a right checksum about a packet of this protocol that we sent. The
    /// packet's key is that of an answer to the quoted one: the session's own.
    Error(Protocol),
    /// A piece of a datagram: its key has no ports, and `l4` is where the piece begins.
    Fragment,
    /// An ARP frame, or a message of IPv6's neighbour discovery; all other fields of the packet are
    /// zero.
    Neighbor,
}

impl<K: Key> Packet<K> {
    /// Any frame about neighbours: control reads the rest.
    pub const NEIGHBOR: Self =
        Self { key: K::NONE, l4: 0, total_len: 0, ttl: 0, flags: TcpFlags::NONE, payload: Payload::Neighbor };

    /// The protocol of the flow that the packet, or what it quotes, is of.
    #[inline]
    pub fn flow_protocol(&self) -> Option<Protocol> {
        match self.payload {
            Payload::Transport(protocol) | Payload::Error(protocol) => Some(protocol),
            Payload::EchoRequest => Some(Protocol::Icmp),
            Payload::Fragment | Payload::Neighbor => None,
        }
    }

    /// The sender's address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        self.key.source().address
    }

    /// The receiver's address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.key.destination().address
    }
}

/// Why a frame is no packet of the family that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is malformed, or not for us.
    Dropped(DropReason),
    /// It is of the other family.
    OtherFamily,
}

impl From<DropReason> for Unfit {
    #[inline]
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

/// The control bits of a TCP header (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// No flag, which no segment has.
    pub const NONE: Self = Self(0);
    /// SYN alone.
    pub const SYN_ONLY: Self = Self(Self::SYN);
    /// SYN and ACK.
    pub const SYN_ACK: Self = Self(Self::SYN | Self::ACK);
    /// ACK alone.
    pub const ACK_ONLY: Self = Self(Self::ACK);
    pub(super) const FIN_ACK: Self = Self(Self::FIN | Self::ACK);
    pub(super) const RST_ONLY: Self = Self(Self::RST);
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const URG: u8 = 0x20;

    /// Flags from their octet on the wire.
    pub const fn from_octet(octet: u8) -> Self {
        Self(octet)
    }

    /// Their octet on the wire.
    pub const fn octet(self) -> u8 {
        self.0
    }

    /// The flags that decide about a connection's state: FIN, SYN, RST and ACK, and PSH, which
    /// does not; below 32.
    pub(crate) const fn deciding(self) -> u8 {
        self.0 & 0x1f
    }

    /// What they say to a session's state, as one bit of four: RST counts before SYN, SYN before FIN, FIN before
    /// anything else.
    pub(crate) const fn said(self) -> u8 {
        if self.rst() {
            2
        } else if self.syn() {
            4
        } else if self.fin() {
            8
        } else {
            1
        }
    }

    /// Whether the sender has no more data.
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether the segment synchronises sequence numbers.
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether the segment resets the connection.
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether the acknowledgement field is significant.
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether the segment opens a connection: SYN and nothing that contradicts it.
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// Whether RFC 9293 allows the combination. PSH, ECE and CWR say nothing here.
    pub(super) const fn is_valid(self) -> bool {
        let urgent_aside = self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK);
        match urgent_aside {
            Self::SYN | Self::ACK => true,
            _ if urgent_aside == Self::SYN | Self::ACK => self.0 & Self::URG == 0,
            _ if urgent_aside == Self::RST || urgent_aside == Self::RST | Self::ACK => {
                self.0 & Self::URG == 0
            }
            _ => urgent_aside == Self::FIN | Self::ACK,
        }
    }
}

/// By the octet of a segment's flags, what they say if they are valid and open no connection.
const PLAIN_FLAGS: [u8; 256] = {
    let mut plain = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        let flags = TcpFlags(octet as u8);
        if flags.is_valid() && !flags.opens() {
            plain[octet] = 0x11 * flags.said();
        }
        octet += 1;
    }
    plain
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_flags_are_valid_in_the_combinations_of_rfc_9293() {
        // (octet without PSH, ECE, CWR; valid)
        let cases = [
            (0x00, false), // null
            (0x02, true),  // SYN
            (0x22, true),  // SYN URG
            (0x12, true),  // SYN ACK
            (0x10, true),  // ACK
            (0x30, true),  // ACK URG
            (0x11, true),  // FIN ACK
            (0x31, true),  // FIN ACK URG
            (0x04, true),  // RST
            (0x14, true),  // RST ACK
            (0x01, false), // FIN alone
            (0x03, false), // SYN FIN
            (0x06, false), // SYN RST
            (0x21, false), // FIN URG, as in a "christmas tree" with PSH
            (0x3f, false), // everything
            (0x20, false), // URG alone
        ];
        for (octet, valid) in cases {
            for ignored in [0x00, 0x08, 0x40, 0x80, 0xc8] {
                assert_eq!(TcpFlags(octet | ignored).is_valid(), valid, "{:#04x}", octet | ignored);
            }
        }
    }
}
