//! Where packets go next: the longest matching prefix.

use super::Map;
use crate::ids::PortId;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An address with the length of its network's prefix; `192.0.2.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    /// The address, host part included.
    pub address: Ipv4Addr,
    /// Bits of the network part, 0 to 32.
    pub prefix_len: u8,
}

impl Network {
    /// The bits of the network part.
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0)
    }

    /// Whether `address` lies in the network.
    #[inline]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask() == 0
    }

    /// Whether `address` is the network's broadcast address, or the network itself
    /// (RFC 1122 §3.2.1.3). Links of one or two addresses have neither (RFC 3021).
    pub fn is_broadcast(self, address: Ipv4Addr) -> bool {
        let host = address.to_bits() & !self.mask();
        self.prefix_len < 31 && self.contains(address) && (host == 0 || host == !self.mask())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not ADDRESS/PREFIX; write it as 192.0.2.2/24");
        let (address, prefix_len) = text.split_once('/').ok_or_else(wanted)?;
        let (address, prefix_len) =
            (address.parse().map_err(|_| wanted())?, prefix_len.parse().map_err(|_| wanted())?);
        if prefix_len > 32 {
            return Err(format!("`{text}` has a prefix of {prefix_len}; IPv4 prefixes are 0 to 32"));
        }
        Ok(Self { address, prefix_len })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// The station that a packet goes to next, and the port that leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The port.
    pub port: PortId,
    /// The station's address on that link.
    pub address: Ipv4Addr,
}

/// A routing table.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// One map per prefix length that occurs, longest first.
    by_length: Vec<(u32, Map<u32, Target>)>,
}

#[derive(Clone, Copy, Debug)]
struct Target {
    port: PortId,
    /// `None`: the destination itself is on the link.
    gateway: Option<Ipv4Addr>,
}

impl Routes {
    /// Adds a route; one for the same network is replaced.
    pub fn add(&mut self, to: Network, port: PortId, gateway: Option<Ipv4Addr>) {
        let mask = to.mask();
        let at = self.by_length.partition_point(|(other, _)| *other > mask);
        if self.by_length.get(at).is_none_or(|(other, _)| *other != mask) {
            self.by_length.insert(at, (mask, Map::default()));
        }
        self.by_length[at].1.insert(to.address.to_bits() & mask, Target { port, gateway });
    }

    /// The next hop towards `destination`.
    pub fn lookup(&self, destination: Ipv4Addr) -> Option<NextHop> {
        let bits = destination.to_bits();
        self.by_length.iter().find_map(|(mask, targets)| {
            let target = targets.get(&(bits & mask))?;
            Some(NextHop { port: target.port, address: target.gateway.unwrap_or(destination) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut routes = Routes::default();
        routes.add(network("0.0.0.0/0"), PortId(0), Some(Ipv4Addr::new(192, 0, 2, 1)));
        routes.add(network("10.0.0.0/8"), PortId(1), Some(Ipv4Addr::new(172, 16, 0, 1)));
        routes.add(network("10.1.0.0/16"), PortId(2), None);

        let hop = |text: &str| {
            routes.lookup(text.parse().unwrap()).map(|hop| (hop.port.0, hop.address.to_string()))
        };

        assert_eq!(hop("10.1.2.3"), Some((2, "10.1.2.3".into())));
        assert_eq!(hop("10.2.2.3"), Some((1, "172.16.0.1".into())));
        assert_eq!(hop("198.51.100.1"), Some((0, "192.0.2.1".into())));
    }

    #[test]
    fn broadcast_addresses_are_known() {
        assert!(network("192.0.2.2/24").is_broadcast(Ipv4Addr::new(192, 0, 2, 255)));
        assert!(network("192.0.2.2/24").is_broadcast(Ipv4Addr::new(192, 0, 2, 0)));
        assert!(!network("192.0.2.2/31").is_broadcast(Ipv4Addr::new(192, 0, 2, 3)));
        assert!(!network("192.0.2.2/24").is_broadcast(Ipv4Addr::new(192, 0, 3, 255)));
    }

    #[test]
    fn bad_networks_are_refused_with_the_right_form() {
        for text in ["192.0.2.2", "192.0.2.2/33", "192.0.2/24", "x/24", "192.0.2.2/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            entries in prop::collection::vec((any::<u32>(), 0u8..=32, 0u16..4), 0..30),
            probes in prop::collection::vec(any::<u32>(), 30),
        ) {
            let mut routes = Routes::default();
            let mut twin: Vec<(Network, PortId)> = Vec::new();
            for (address, prefix_len, port) in entries {
                let to = Network { address: Ipv4Addr::from_bits(address), prefix_len };
                routes.add(to, PortId(port), None);
                twin.retain(|(other, _)| other.prefix_len != prefix_len || !other.contains(to.address));
                twin.push((to, PortId(port)));
            }
            for probe in probes.into_iter().chain(twin.iter().map(|(to, _)| to.address.to_bits()).collect::<Vec<_>>()) {
                let probe = Ipv4Addr::from_bits(probe);
                let expected = twin.iter().filter(|(to, _)| to.contains(probe)).max_by_key(|(to, _)| to.prefix_len);
                prop_assert_eq!(routes.lookup(probe).map(|hop| hop.port), expected.map(|(_, port)| *port));
            }
        }
    }
}
