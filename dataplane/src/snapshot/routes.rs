//! Where packets go next: the longest matching prefix, and among its gateways one by the flow.

use super::Map;
use crate::flow::Family;
use crate::ids::PortId;
use crate::network::{Network, bits_of, mask_of};
use std::net::IpAddr;

/// The station that a packet goes to next, and the port that leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The port.
    pub port: PortId,
    /// The station's address on that link.
    pub address: IpAddr,
}

/// A routing table of both families.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    families: [Prefixes; 2],
}

/// One map per prefix length that occurs, longest first.
#[derive(Clone, Debug, Default)]
struct Prefixes(Vec<(u8, Map<u128, Target>)>);

#[derive(Clone, Debug)]
enum Target {
    /// The destination itself is on the link of this port.
    Link(PortId),
    /// Gateways of equal cost; there is at least one.
    Gateways(Box<[NextHop]>),
}

impl Routes {
    /// Adds the network of a port's link; a route to the same network is replaced.
    pub fn add_link(&mut self, to: Network, port: PortId) {
        self.add(to, Target::Link(port));
    }

    /// Adds a route by gateways of equal cost; one to the same network is replaced. Without a gateway
    /// nothing is added.
    pub fn add_gateways(&mut self, to: Network, gateways: &[NextHop]) {
        if !gateways.is_empty() {
            self.add(to, Target::Gateways(gateways.into()));
        }
    }

    fn add(&mut self, to: Network, target: Target) {
        let Prefixes(lengths) = &mut self.families[Family::of(to.address) as usize];
        let at = lengths.partition_point(|(len, _)| *len > to.prefix_len);
        if lengths.get(at).is_none_or(|(len, _)| *len != to.prefix_len) {
            lengths.insert(at, (to.prefix_len, Map::default()));
        }
        lengths[at].1.insert(bits_of(to.address) & mask_of(to.prefix_len), target);
    }

    /// Whether packets to `destination` may leave by `port`, whichever of several ways a flow takes.
    pub fn leads(&self, destination: IpAddr, port: PortId) -> bool {
        self.ports_towards(destination) >> (port.0 & 63) & 1 == 1
    }

    /// The ports by which packets to `destination` may leave, a bit each.
    pub fn ports_towards(&self, destination: IpAddr) -> u64 {
        let bit = |port: PortId| 1 << (port.0 & 63);
        match self.target(destination) {
            None => 0,
            Some(Target::Link(port)) => bit(*port),
            Some(Target::Gateways(hops)) => {
                hops.iter().map(|hop| bit(hop.port)).fold(0, |all, bit| all | bit)
            }
        }
    }

    fn target(&self, destination: IpAddr) -> Option<&Target> {
        let bits = bits_of(destination);
        let Prefixes(lengths) = &self.families[Family::of(destination) as usize];
        lengths.iter().find_map(|(len, targets)| targets.get(&(bits & mask_of(*len))))
    }

    /// The next hop towards `destination`. Where several gateways lead there, `flow` decides, a number
    /// of which the high bits are well mixed: all packets of a flow take the same way.
    pub fn lookup(&self, destination: IpAddr, flow: u64) -> Option<NextHop> {
        match self.target(destination)? {
            Target::Link(port) => Some(NextHop { port: *port, address: destination }),
            Target::Gateways(hops) => {
                let at = ((flow >> 32) * hops.len() as u64) >> 32;
                hops.get(at as usize).copied()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut routes = Routes::default();
        let hop = |port, address: &str| NextHop { port: PortId(port), address: address.parse().unwrap() };
        routes.add_gateways(network("0.0.0.0/0"), &[hop(0, "192.0.2.1")]);
        routes.add_gateways(network("10.0.0.0/8"), &[hop(1, "172.16.0.1")]);
        routes.add_link(network("10.1.0.0/16"), PortId(2));
        routes.add_gateways(network("::/0"), &[hop(0, "fe80::1")]);
        routes.add_link(network("2001:db8:1::2/64"), PortId(2));

        let hop = |text: &str| {
            routes.lookup(text.parse().unwrap(), 0).map(|hop| (hop.port.0, hop.address.to_string()))
        };

        assert_eq!(hop("10.1.2.3"), Some((2, "10.1.2.3".into())));
        assert_eq!(hop("10.2.2.3"), Some((1, "172.16.0.1".into())));
        assert_eq!(hop("198.51.100.1"), Some((0, "192.0.2.1".into())));
        assert_eq!(hop("2001:db8:1::7"), Some((2, "2001:db8:1::7".into())));
        assert_eq!(hop("2001:db8:2::7"), Some((0, "fe80::1".into())));
    }

    #[test]
    fn gateways_of_equal_cost_share_the_flows_evenly_and_each_flow_keeps_its_own() {
        let mut routes = Routes::default();
        let gateways =
            [1, 2, 3].map(|n| NextHop { port: PortId(0), address: Ipv4Addr::new(192, 0, 2, n).into() });
        routes.add_gateways(network("0.0.0.0/0"), &gateways);
        let mut counts = [0; 3];
        for flow in 0..3_000u64 {
            let flow = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let destination = Ipv4Addr::new(198, 51, 100, 1).into();
            let hop = routes.lookup(destination, flow).unwrap();
            assert_eq!(routes.lookup(destination, flow), Some(hop));
            counts[gateways.iter().position(|gateway| *gateway == hop).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            v6 in any::<bool>(),
            entries in prop::collection::vec((any::<u128>(), 0u8..=32, 0u16..4), 0..30),
            probes in prop::collection::vec(any::<u128>(), 30),
        ) {
            let of = |bits: u128| {
                if v6 { IpAddr::from(Ipv6Addr::from_bits(bits)) } else { Ipv4Addr::from_bits((bits >> 96) as u32).into() }
            };
            let mut routes = Routes::default();
            let mut twin: Vec<(Network, PortId)> = Vec::new();
            for (bits, prefix_len, port) in entries {
                let to = Network { address: of(bits), prefix_len };
                routes.add_link(to, PortId(port));
                twin.retain(|(other, _)| other.prefix_len != prefix_len || !other.contains(to.address));
                twin.push((to, PortId(port)));
            }
            for probe in probes.into_iter().map(of).chain(twin.iter().map(|(to, _)| to.address).collect::<Vec<_>>()) {
                let expected = twin.iter().filter(|(to, _)| to.contains(probe)).max_by_key(|(to, _)| to.prefix_len);
                prop_assert_eq!(routes.lookup(probe, 0).map(|hop| hop.port), expected.map(|(_, port)| *port));
            }
        }
    }
}
