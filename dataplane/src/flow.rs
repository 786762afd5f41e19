//! What identifies a flow: endpoints, the 5-tuple of one direction, its keyed hash.

pub use crate::hash::FlowHasher;
use crate::hash::Mixer;
use crate::simd;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A transport protocol that Sluice keeps sessions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
    /// Echo requests and their replies, of either family (RFC 792, RFC 4443); the identifier is the client's port.
    Icmp = 1,
}

impl Protocol {
    /// Every protocol, TCP's and UDP's first.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];

    /// The protocol with ports of a number in an IP header.
    #[inline]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Whether flows begin and end with packets that say so.
    #[inline]
    pub const fn has_connections(self) -> bool {
        matches!(self, Self::Tcp | Self::Sctp)
    }

    /// The word used in configuration and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}

/// The protocols that a service takes: one or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// One bit for each place in [`Protocol::ALL`].
    bits: u8,
}

impl Protocols {
    /// These and one more.
    #[must_use]
    pub fn with(self, protocol: Protocol) -> Self {
        Self { bits: self.bits | Self::from(protocol).bits }
    }

    /// Whether a protocol is among them.
    pub fn has(self, protocol: Protocol) -> bool {
        self.bits & Self::from(protocol).bits != 0
    }

    /// Whether flows of any begin and end with packets that say so.
    pub fn have_connections(self) -> bool {
        self.iter().any(Protocol::has_connections)
    }

    /// Each of them, in the order of [`Protocol::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        Protocol::ALL.into_iter().filter(move |protocol| self.has(*protocol))
    }
}

impl From<Protocol> for Protocols {
    fn from(protocol: Protocol) -> Self {
        let bits = match protocol {
            Protocol::Tcp => 1,
            Protocol::Udp => 2,
            Protocol::Sctp => 4,
            Protocol::Icmp => 8,
        };
        Self { bits }
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, protocol) in self.iter().enumerate() {
            f.write_str(if nth > 0 { "," } else { "" })?;
            f.write_str(protocol.name())?;
        }
        Ok(())
    }
}

/// The two versions of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791.
    V4 = 0,
    /// RFC 8200.
    V6 = 1,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[inline]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// An address and a layer-4 port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The layer-4 port, in host order.
    pub l4_port: u16,
}

impl Endpoint {
    /// The endpoint at `address`, `l4_port`.
    #[inline]
    pub fn new(address: impl Into<IpAddr>, l4_port: u16) -> Self {
        Self { address: address.into(), l4_port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.l4_port).fmt(f)
    }
}

/// Which way a packet of a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Inbound = 0,
    /// Server to client.
    Outbound = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    pub const fn turned(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }
}

/// One direction's 5-tuple, as sessions are found by it.
pub trait Key: Copy + PartialEq + Eq + Hash + fmt::Debug + Send + Sync + 'static {
    /// The family of the packets.
    const FAMILY: Family;
    /// The key of no flow: no protocol, no addresses.
    const NONE: Self;
    /// What RSS hashes of a packet: source, destination, source port, destination port.
    type Tuple: AsRef<[u8]>;

    /// The key of packets from `source` to `destination`.
    ///
    /// # Panics
    /// When an address is of a family that the key has no room for.
    fn new(protocol: Protocol, source: Endpoint, destination: Endpoint) -> Self;
    /// The key of the way back.
    fn reversed(self) -> Self;
    /// The sender.
    fn source(self) -> Endpoint;
    /// The receiver.
    fn destination(self) -> Endpoint;
    /// The protocol.
    fn protocol(self) -> Protocol;
    /// What all packets to one endpoint have in common: the flow without its sender, which means nothing else.
    fn without_source(self) -> Self;
    /// The same flow, but to another port.
    fn with_destination_port(self, l4_port: u16) -> Self;
    /// Source and destination port, in one word.
    fn port_word(self) -> u32;
    /// The same flow as a key that has room for both families.
    fn widen(self) -> FlowKey6;
    /// What [`widen`](Self::widen) was given, if this key has room for it.
    fn of_wide(key: FlowKey6) -> Option<Self>;
    /// The sum of both addresses as 32-bit words, for checksums.
    fn address_sum(self) -> u64;
    /// The hash that `mixer` makes of it, all 64 bits well mixed; its users ask a [`FlowHasher`].
    fn hash_by(self, mixer: &impl Mixer) -> u64;
    /// The tuple of RSS.
    fn tuple(self) -> Self::Tuple;
}

/// The key of an IPv4 flow: the sixteen bytes of a header without options from its TTL up to the ports, as they
/// stand on the wire, TTL and checksum zero. So reading one from a packet costs two loads and a mask, and writing one
/// two stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Protocol in the second octet, source in the last four.
    first: u64,
    /// Destination, source port, destination port.
    second: u64,
}

impl FlowKey {
    const OF_FIRST: u64 = 0xffff_ffff_0000_ff00;

    /// The key of packets with these words of their headers: source and destination address,
    /// protocol number, source and destination port.
    #[inline]
    pub(crate) fn from_words(addresses: u64, protocol: u8, ports: u32) -> Self {
        let word = |bits: u32| u64::from(bits.swap_bytes());
        Self {
            first: word((addresses >> 32) as u32) << 32 | u64::from(protocol) << 8,
            second: word(ports) << 32 | word(addresses as u32),
        }
    }

    /// The key of a packet with these two words from its TTL on, in the wire's order of bytes.
    #[inline(always)]
    pub(crate) fn from_wire(first: u64, second: u64) -> Self {
        Self { first: first & Self::OF_FIRST, second }
    }

    /// The words of the way back as [`from_wire`](Self::from_wire) reads them, with TTL and checksum of `first`.
    #[inline(always)]
    pub(crate) fn reversed_to_wire(self, first: u64) -> [u64; 2] {
        simd::turned([self.first, self.second], first)
    }

    /// Destination and source address, in this order, as they stand on the wire.
    #[inline(always)]
    pub(crate) fn reversed_addresses_on_wire(self) -> u64 {
        self.first >> 32 << 32 | self.second & 0xffff_ffff
    }

    #[inline]
    fn source_bits(self) -> u32 {
        ((self.first >> 32) as u32).swap_bytes()
    }

    #[inline]
    fn destination_bits(self) -> u32 {
        (self.second as u32).swap_bytes()
    }

    #[inline]
    fn protocol_number(self) -> u8 {
        (self.first >> 8) as u8
    }

    /// Protocol, source and destination port, as in the wide key.
    #[inline]
    fn ports(self) -> u64 {
        u64::from(self.protocol_number()) << 32 | u64::from(self.port_word())
    }

    /// Source and destination address, in one word.
    #[inline]
    pub(crate) fn address_word(self) -> u64 {
        u64::from(self.source_bits()) << 32 | u64::from(self.destination_bits())
    }

    /// The receiver's address.
    #[inline]
    pub(crate) fn destination_address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.destination_bits())
    }
}

impl Key for FlowKey {
    const FAMILY: Family = Family::V4;
    const NONE: Self = Self { first: 0, second: 0 };
    type Tuple = [u8; 12];

    #[inline]
    fn new(protocol: Protocol, source: Endpoint, destination: Endpoint) -> Self {
        let bits = |address| match address {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(_) => panic!("an IPv6 address in an IPv4 flow"),
        };
        let addresses = bits(source.address) << 32 | bits(destination.address);
        Self::from_words(addresses, protocol as u8, port_word(protocol, source, destination) as u32)
    }

    #[inline(always)]
    fn reversed(self) -> Self {
        let ports = ((self.second >> 32) as u32).rotate_left(16);
        Self {
            first: self.first & 0xffff_ffff | self.second << 32,
            second: self.first >> 32 | u64::from(ports) << 32,
        }
    }

    #[inline]
    fn source(self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits(self.source_bits()), (self.port_word() >> 16) as u16)
    }

    #[inline]
    fn destination(self) -> Endpoint {
        Endpoint::new(self.destination_address(), self.port_word() as u16)
    }

    #[inline]
    fn protocol(self) -> Protocol {
        protocol_of(self.ports())
    }

    #[inline]
    fn without_source(self) -> Self {
        Self { first: self.first & 0xffff_ffff, second: self.second & 0xffff_0000_ffff_ffff }
    }

    #[inline]
    fn with_destination_port(self, l4_port: u16) -> Self {
        Self { second: self.second << 16 >> 16 | u64::from(l4_port.swap_bytes()) << 48, ..self }
    }

    #[inline]
    fn port_word(self) -> u32 {
        ((self.second >> 32) as u32).swap_bytes()
    }

    #[inline]
    fn of_wide(key: FlowKey6) -> Option<Self> {
        key.narrow()
    }

    #[inline]
    fn widen(self) -> FlowKey6 {
        let mapped = |bits: u32| [0, u64::from(bits.swap_bytes()) << 32 | u64::from(MAPPED)];
        FlowKey6 {
            source: mapped(self.source_bits()),
            destination: mapped(self.destination_bits()),
            ports: self.ports(),
        }
    }

    #[inline]
    fn address_sum(self) -> u64 {
        sum_of_halves(self.address_word())
    }

    #[inline(always)]
    fn hash_by(self, mixer: &impl Mixer) -> u64 {
        mixer.mix([self.first, self.second], 0)[0]
    }

    #[inline]
    fn tuple(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.address_word().to_be_bytes());
        bytes[8..].copy_from_slice(&self.port_word().to_be_bytes());
        bytes
    }
}

/// The key of an IPv6 flow, or of the IPv4 side of a session between families: IPv4 addresses stand
/// as IPv4-mapped ones (RFC 4291 §2.5.5.2), which no packet on a wire may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey6 {
    /// As it stands on the wire, read by a little-endian machine; so is the destination.
    source: [u64; 2],
    destination: [u64; 2],
    ports: u64,
}

impl FlowKey6 {
    /// The key of packets with these parts of their headers: source and destination address,
    /// protocol number, source and destination port.
    #[inline]
    pub(crate) fn from_bytes(addresses: &[u8; 32], protocol: u8, ports: u32) -> Self {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&addresses[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Self {
            source: [word(0), word(8)],
            destination: [word(16), word(24)],
            ports: u64::from(protocol) << 32 | u64::from(ports),
        }
    }

    /// Source and destination address, in network order.
    #[inline]
    pub(crate) fn address_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let words = [self.source[0], self.source[1], self.destination[0], self.destination[1]];
        for (piece, word) in bytes.chunks_exact_mut(8).zip(words) {
            piece.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Source and destination port, as they stand on the wire.
    #[inline(always)]
    pub(crate) fn ports_on_wire(self) -> [u8; 4] {
        self.port_word().to_be_bytes()
    }

    /// Whether both addresses are surely ones between which packets are forwarded (RFC 4291 §2.5, §2.7): none
    /// link-local or multicast, and none of the reserved `::/64`, where the unspecified, loopback and IPv4-mapped ones are.
    #[inline(always)]
    pub(crate) fn may_surely_be_forwarded(self) -> bool {
        // Joined without branches, of which a packet has enough.
        let [source, destination] = [self.source[0], self.destination[0]];
        let is_plain = |first: u64| (first != 0) & (first & 0xff != 0xff) & (first & 0xc0ff != 0x80fe);
        is_plain(source) & is_plain(destination)
    }

    /// The same flow as an IPv4 key, if it is one.
    #[inline]
    pub fn narrow(self) -> Option<FlowKey> {
        let is_mapped = |words: [u64; 2]| words[0] == 0 && words[1] as u32 == MAPPED;
        (is_mapped(self.source) && is_mapped(self.destination)).then(|| {
            let address = |words: [u64; 2]| words[1].swap_bytes() & 0xffff_ffff;
            let addresses = address(self.source) << 32 | address(self.destination);
            FlowKey::from_words(addresses, (self.ports >> 32) as u8, self.ports as u32)
        })
    }
}

/// What stands between 80 zeros and an IPv4 address in an IPv4-mapped one, as half of the second word.
const MAPPED: u32 = 0xffff_u32.swap_bytes();

impl Key for FlowKey6 {
    const FAMILY: Family = Family::V6;
    const NONE: Self = Self { source: [0; 2], destination: [0; 2], ports: 0 };
    type Tuple = [u8; 36];

    #[inline]
    fn new(protocol: Protocol, source: Endpoint, destination: Endpoint) -> Self {
        let words = |address: IpAddr| {
            let bits = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                IpAddr::V6(address) => address.to_bits(),
            };
            [(bits >> 64) as u64, bits as u64].map(u64::swap_bytes)
        };
        Self {
            source: words(source.address),
            destination: words(destination.address),
            ports: port_word(protocol, source, destination),
        }
    }

    #[inline]
    fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source, ports: reversed_ports(self.ports) }
    }

    #[inline]
    fn source(self) -> Endpoint {
        Endpoint::new(canonical(self.source), (self.ports >> 16) as u16)
    }

    #[inline]
    fn destination(self) -> Endpoint {
        Endpoint::new(canonical(self.destination), self.ports as u16)
    }

    #[inline]
    fn protocol(self) -> Protocol {
        protocol_of(self.ports)
    }

    #[inline]
    fn without_source(self) -> Self {
        Self { source: [0; 2], ports: self.ports & 0xff_0000_ffff, ..self }
    }

    #[inline]
    fn with_destination_port(self, l4_port: u16) -> Self {
        Self { ports: self.ports >> 16 << 16 | u64::from(l4_port), ..self }
    }

    #[inline]
    fn port_word(self) -> u32 {
        self.ports as u32
    }

    #[inline]
    fn of_wide(key: FlowKey6) -> Option<Self> {
        Some(key)
    }

    #[inline]
    fn widen(self) -> FlowKey6 {
        self
    }

    #[inline]
    fn address_sum(self) -> u64 {
        self.source.into_iter().chain(self.destination).map(u64::swap_bytes).map(sum_of_halves).sum()
    }

    #[inline(always)]
    fn hash_by(self, mixer: &impl Mixer) -> u64 {
        // Two at a time, so that one need not wait for the other.
        let source = mixer.mix(self.source, 0);
        let destination = mixer.mix(self.destination, 1);
        mixer.mix([source[0] ^ destination[0] ^ self.ports, source[1] ^ destination[1]], 2)[0]
    }

    #[inline]
    fn tuple(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..32].copy_from_slice(&self.address_bytes());
        bytes[32..].copy_from_slice(&self.port_word().to_be_bytes());
        bytes
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol().name(), self.source(), self.destination())
    }
}

impl fmt::Debug for FlowKey6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol().name(), self.source(), self.destination())
    }
}

#[inline]
fn port_word(protocol: Protocol, source: Endpoint, destination: Endpoint) -> u64 {
    (protocol as u64) << 32 | u64::from(source.l4_port) << 16 | u64::from(destination.l4_port)
}

#[inline]
fn reversed_ports(ports: u64) -> u64 {
    ports >> 32 << 32 | u64::from((ports as u32).rotate_left(16))
}

#[inline]
fn sum_of_halves(word: u64) -> u64 {
    (word >> 32) + (word & 0xffff_ffff)
}

#[inline]
fn protocol_of(ports: u64) -> Protocol {
    match (ports >> 32) as u8 {
        6 => Protocol::Tcp,
        132 => Protocol::Sctp,
        1 => Protocol::Icmp,
        _ => Protocol::Udp,
    }
}

#[inline]
fn canonical(words: [u64; 2]) -> IpAddr {
    let [high, low] = words.map(u64::swap_bytes);
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        let socket: SocketAddr = text.parse().unwrap();
        Endpoint::new(socket.ip(), socket.port())
    }

    #[test]
    fn a_key_gives_back_what_it_was_made_of() {
        let (client, vip) = (endpoint("198.51.100.7:4000"), endpoint("192.0.2.10:80"));

        let key = FlowKey::new(Protocol::Udp, client, vip);

        assert_eq!((key.protocol(), key.source(), key.destination()), (Protocol::Udp, client, vip));
    }

    #[test]
    fn a_wide_key_holds_both_families() {
        for (client, vip) in
            [("[2001:db8::7]:4000", "[2001:db8:1::10]:80"), ("198.51.100.7:4000", "192.0.2.10:80")]
        {
            let (client, vip) = (endpoint(client), endpoint(vip));

            let key = FlowKey6::new(Protocol::Tcp, client, vip);

            assert_eq!((key.protocol(), key.source(), key.destination()), (Protocol::Tcp, client, vip));
            assert_eq!((key.reversed().source(), key.reversed().destination()), (vip, client));
            assert_eq!(key.narrow().map(Key::widen), client.address.is_ipv4().then_some(key));
        }
    }
}
