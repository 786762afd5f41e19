//! What identifies a flow: endpoints, the 5-tuple of one direction, its keyed hash.

use std::fmt;
use std::net::Ipv4Addr;

/// A transport protocol that Sluice keeps sessions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
}

impl Protocol {
    /// The word used in configuration and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// An address and a layer-4 port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv4Addr,
    /// The layer-4 port, in host order.
    pub l4_port: u16,
}

impl Endpoint {
    /// The endpoint at `address`, `l4_port`.
    pub const fn new(address: Ipv4Addr, l4_port: u16) -> Self {
        Self { address, l4_port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.l4_port)
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

/// One direction's 5-tuple, packed into two words so that comparing and
/// hashing cost two loads.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    addresses: u64,
    ports: u64,
}

impl FlowKey {
    /// The key of no flow: no protocol, no addresses.
    pub const NONE: Self = Self { addresses: 0, ports: 0 };

    /// The key of packets with these words of their headers: source and destination address,
    /// protocol number, source and destination port.
    #[inline]
    pub(crate) fn from_words(addresses: u64, protocol: u8, ports: u32) -> Self {
        Self { addresses, ports: u64::from(protocol) << 32 | u64::from(ports) }
    }

    /// The key of the way back.
    #[inline]
    pub fn reversed(self) -> Self {
        let ports = self.ports as u32;
        Self {
            addresses: self.addresses.rotate_left(32),
            ports: self.ports >> 32 << 32 | u64::from(ports.rotate_left(16)),
        }
    }

    /// The same flow, but to another port.
    #[inline]
    pub(crate) fn with_destination_port(self, l4_port: u16) -> Self {
        Self { ports: self.ports >> 16 << 16 | u64::from(l4_port), ..self }
    }

    /// Source and destination address, in one word.
    #[inline]
    pub(crate) fn address_word(self) -> u64 {
        self.addresses
    }

    /// Source and destination port, in one word.
    #[inline]
    pub(crate) fn port_word(self) -> u32 {
        self.ports as u32
    }

    /// The key of packets from `source` to `destination`.
    #[inline]
    pub fn new(protocol: Protocol, source: Endpoint, destination: Endpoint) -> Self {
        Self {
            addresses: u64::from(source.address.to_bits()) << 32 | u64::from(destination.address.to_bits()),
            ports: (protocol as u64) << 32 | u64::from(source.l4_port) << 16 | u64::from(destination.l4_port),
        }
    }

    /// The sender.
    #[inline]
    pub fn source(self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits((self.addresses >> 32) as u32), (self.ports >> 16) as u16)
    }

    /// The receiver.
    #[inline]
    pub fn destination(self) -> Endpoint {
        Endpoint::new(Ipv4Addr::from_bits(self.addresses as u32), self.ports as u16)
    }

    /// The protocol.
    #[inline]
    pub fn protocol(self) -> Protocol {
        if self.ports >> 32 == Protocol::Tcp as u64 { Protocol::Tcp } else { Protocol::Udp }
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol().name(), self.source(), self.destination())
    }
}

/// A keyed hash of flow keys: two folded 64 × 64 → 128-bit products.
///
/// The key is random per boot, so that nobody outside can aim flows at one
/// bucket; a linear hash (CRC, Toeplitz) could be flooded even when keyed.
#[derive(Clone, Copy, Debug)]
pub struct FlowHasher {
    key: [u64; 4],
}

impl FlowHasher {
    /// A hasher with `key`, which should come from the operating system's randomness.
    pub const fn new(key: [u64; 4]) -> Self {
        Self { key }
    }

    /// The hash of `key`, all 64 bits well mixed.
    #[inline]
    pub fn hash(&self, key: FlowKey) -> u64 {
        let mixed = fold(key.addresses ^ self.key[0], key.ports ^ self.key[1]);
        fold(mixed ^ self.key[2], key.addresses.rotate_left(32) ^ self.key[3])
    }
}

/// The high and the low half of a 128-bit product, folded into one word.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        let (address, l4_port) = text.split_once(':').unwrap();
        Endpoint::new(address.parse().unwrap(), l4_port.parse().unwrap())
    }

    #[test]
    fn a_key_gives_back_what_it_was_made_of() {
        let (client, vip) = (endpoint("198.51.100.7:4000"), endpoint("192.0.2.10:80"));

        let key = FlowKey::new(Protocol::Udp, client, vip);

        assert_eq!((key.protocol(), key.source(), key.destination()), (Protocol::Udp, client, vip));
    }

    #[test]
    fn hash_bits_are_balanced_over_sequential_flows() {
        let hasher =
            FlowHasher::new([0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321, 77, 0x5555_aaaa_1111_7777]);
        let mut ones = [0u32; 64];
        let flows = 20_000u32;
        for flow in 0..flows {
            let client =
                Endpoint::new(Ipv4Addr::from_bits(0x0a00_0000 + flow / 500), (flow % 500) as u16 + 1024);
            let hash = hasher.hash(FlowKey::new(Protocol::Tcp, client, endpoint("192.0.2.10:80")));
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += (hash >> bit & 1) as u32;
            }
        }
        // Five standard deviations of a fair coin over 20,000 throws are 354.
        for (bit, count) in ones.iter().enumerate() {
            assert!(count.abs_diff(flows / 2) < 354, "bit {bit} was set {count} times of {flows}");
        }
    }
}
