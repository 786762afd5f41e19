//! What the kernel is to have: a pure function of the configuration.

use crate::config::{Config, PortSpec};
use crate::devices::DeviceFacts;
use crate::topology;
use dataplane::ids::PortId;
use dataplane::snapshot::{AddressRole, Network};
use dataplane::wire::Mac;
use std::net::IpAddr;

/// Bytes of an interface's name (IFNAMSIZ without its end).
const NAME_MAX: usize = 15;

/// A port's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Whose it is.
    pub port: PortId,
    /// Its name.
    pub name: String,
    /// The port's station address.
    pub mac: Mac,
    /// Largest IP packet.
    pub mtu: u16,
    /// The appliance's own addresses, with their networks.
    pub addresses: Vec<Network>,
    /// Local addresses by which health checks ask; nobody else uses them as a source.
    pub locals: Vec<IpAddr>,
}

impl Interface {
    /// Whether it needs IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|network| network.address.is_ipv6())
    }
}

/// The gateways of a route: interfaces and addresses.
pub type Gateways = Vec<(PortId, IpAddr)>;

/// Everything that the kernel is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The ports' interfaces.
    pub interfaces: Vec<Interface>,
    /// Static routes.
    pub routes: Vec<(Network, Gateways)>,
}

impl Plan {
    /// The plan of `config`; a port without a name has no interface.
    pub fn of(config: &Config, facts: &[DeviceFacts], names: &[Option<String>]) -> Self {
        let roles = topology::addresses(config);
        let mut locals: Vec<_> = roles
            .iter()
            .filter_map(|(address, role)| match role {
                AddressRole::Local(port) => Some((port, address)),
                AddressRole::Own | AddressRole::Vip => None,
            })
            .collect();
        locals.sort_unstable();
        let interface = |((at, port), name): ((usize, &PortSpec), &Option<String>)| {
            let id = PortId(at as u16);
            Some(Interface {
                port: id,
                name: name.clone()?,
                mac: facts[at].mac,
                mtu: facts[at].mtu,
                addresses: port.addresses.clone(),
                locals: locals.iter().filter(|(port, _)| *port == id).map(|(_, address)| *address).collect(),
            })
        };
        let interfaces: Vec<_> = config.ports.iter().enumerate().zip(names).filter_map(interface).collect();
        let has = |port: PortId| interfaces.iter().any(|interface: &Interface| interface.port == port);
        let route = |route: &crate::config::RouteSpec| {
            let hops: Gateways =
                route.hops.iter().filter(|hop| has(hop.port)).map(|hop| (hop.port, hop.address)).collect();
            (!hops.is_empty()).then_some((route.to, hops))
        };
        let routes = config.routes.iter().filter_map(route).collect();
        Self { interfaces, routes }
    }
}

/// The name of a port's interface: the port's own, unless it is too long or `taken`. None for ports that the
/// kernel has no part in.
pub(super) fn name(at: usize, port: &PortSpec, taken: &impl Fn(&str) -> bool) -> Option<String> {
    if !port.kernel || port.addresses.is_empty() {
        return None;
    }
    let fits = port.name.len() <= NAME_MAX && !taken(&port.name);
    let other = || {
        let prefix = format!("sl{at}-");
        let room = NAME_MAX - prefix.len();
        prefix + port.name.get(..room).unwrap_or(&port.name)
    };
    Some(if fits { port.name.clone() } else { other() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config() -> Config {
        let text = r#"
            [[port]]
            name = "wan"
            device = "net_pcap0,iface=a"
            addresses = ["192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64"]
            [[port]]
            name = "lan"
            device = "net_pcap1,iface=b"
            addresses = ["10.0.0.2/24"]
            [[port]]
            name = "quiet"
            device = "net_pcap2,iface=c"
            addresses = ["10.1.0.2/24"]
            kernel = false
            [[route]]
            to = "0.0.0.0/0"
            via = ["192.0.2.1", "10.1.0.1"]
            [[service]]
            name = "web"
            listen = "192.0.2.10:80"
            local_addresses = ["10.0.0.200"]
            [[service.server]]
            address = "10.0.0.11:80"
        "#;
        crate::config::parse(text, Path::new("test.toml")).unwrap().config
    }

    #[test]
    fn the_kernel_has_own_and_local_addresses_and_no_vip() {
        let config = config();
        let facts = vec![DeviceFacts { driver: "x".into(), mac: [2, 0, 0, 0, 0, 1], mtu: 1_500 }; 3];
        let names: Vec<_> =
            config.ports.iter().enumerate().map(|(at, port)| name(at, port, &|_| false)).collect();
        assert_eq!(names, [Some("wan".to_owned()), Some("lan".to_owned()), None]);

        let plan = Plan::of(&config, &facts, &names);

        let texts = |list: &[Network]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&plan.interfaces[0].addresses), ["192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64"]);
        assert_eq!(plan.interfaces[1].locals, ["10.0.0.200".parse::<IpAddr>().unwrap()]);
        let gateways = vec![(PortId(0), "192.0.2.1".parse().unwrap())];
        assert_eq!(
            plan.routes,
            [("0.0.0.0/0".parse().unwrap(), gateways)],
            "none by a port that is not the kernel's"
        );
    }

    #[test]
    fn a_name_that_is_taken_or_too_long_gets_another() {
        let mut port = config().ports.remove(0);
        assert_eq!(name(3, &port, &|name| name == "wan").as_deref(), Some("sl3-wan"));
        port.name = "a-very-long-name-of-a-port".into();
        assert_eq!(name(3, &port, &|_| false).as_deref(), Some("sl3-a-very-long"));
    }
}
