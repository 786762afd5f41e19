//! The services, and how a packet finds the one that it asks for.

use super::{Map, Network, SynProxy};
use crate::flow::{Endpoint, Protocol, Protocols};
use crate::ids::{LocalId, PortId, ServerId, ServiceId};
use crate::scheduler::{Flags, Scheduler, SlotTable};
use crate::session::{ForwardMode, Persistence, Timeouts};
use crate::wire::{Encapsulation, Proxy, Uoa};
use hashbrown::DefaultHashBuilder;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// All services, found by what they listen on, and the servers that they have.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// One IPv4 address and port, in one word.
    narrow: Map<u64, ServiceIndex>,
    /// One IPv6 address and port.
    wide: Map<(u128, u32), ServiceIndex>,
    /// Prefixes and ranges of ports, the longest prefix first.
    ranges: Vec<Range>,
    list: Vec<Service>,
    /// By [`ServerId`]: the service of this snapshot that has the server.
    by_server: Vec<Option<ServiceIndex>>,
    /// What hides the sources of packets, and behind which service.
    hiding: Vec<(Hidden, ServiceIndex)>,
    /// Servers whose answers come with the client's address as their destination.
    answering: Map<(Protocol, Endpoint), ()>,
    answering_hosts: Map<IpAddr, ()>,
}

#[derive(Clone, Debug)]
struct Range {
    protocol: Protocol,
    listen: Listen,
    service: ServiceIndex,
}

/// Whose sources a service hides.
#[derive(Clone, Debug)]
struct Hidden {
    protocols: Protocols,
    sources: Vec<Network>,
    destinations: Vec<Listen>,
}

/// A service's place in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceIndex(u32);

/// What clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listen {
    /// One address, or all of a prefix.
    pub network: Network,
    /// The ports.
    pub l4_ports: RangeInclusive<u16>,
}

impl Listen {
    /// One address and port.
    pub fn one(endpoint: Endpoint) -> Self {
        Self { network: Network::host(endpoint.address), l4_ports: endpoint.l4_port..=endpoint.l4_port }
    }

    /// Whether an endpoint is among them.
    pub fn has(&self, endpoint: Endpoint) -> bool {
        self.l4_ports.contains(&endpoint.l4_port) && self.network.contains(endpoint.address)
    }

    /// The address and port, when it is one.
    pub fn single(&self) -> Option<Endpoint> {
        let one = self.network.is_host() && self.l4_ports.start() == self.l4_ports.end();
        one.then(|| Endpoint::new(self.network.address, *self.l4_ports.start()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Network { address, prefix_len } = self.network;
        let prefix = if self.network.is_host() { String::new() } else { format!("/{prefix_len}") };
        match address {
            IpAddr::V4(address) => write!(f, "{address}{prefix}:")?,
            IpAddr::V6(address) => write!(f, "[{address}{prefix}]:")?,
        }
        match (*self.l4_ports.start(), *self.l4_ports.end()) {
            (1, u16::MAX) => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// `ADDRESS:PORT`, with IPv6 in brackets; the address may have a prefix, and the port may be a
    /// range `FIRST-LAST` or `*`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "`{text}` is not ADDRESS:PORT; write it as 192.0.2.10:80, [2001:db8::10]:80, 192.0.2.10:8000-8099, 192.0.2.10:* or 192.0.2.0/28:80"
            )
        };
        let (host, ports) = text.rsplit_once(':').ok_or_else(wanted)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if host.contains(':') && bare.is_none() {
            return Err(wanted());
        }
        let host = bare.unwrap_or(host);
        let network: Network = if host.contains('/') {
            host.parse()?
        } else {
            Network::host(host.parse().map_err(|_| wanted())?)
        };
        if network.address != network.base() {
            let clean = Network { address: network.base(), ..network };
            return Err(format!("{network} has bits set behind its prefix; write {clean}"));
        }
        let number = |text: &str| text.parse::<u16>().map_err(|_| wanted());
        let (first, last) = match (ports, ports.split_once('-')) {
            ("*", _) => (1, u16::MAX),
            (_, Some((first, last))) => (number(first)?, number(last)?),
            (one, None) => (number(one)?, number(one)?),
        };
        if first == 0 {
            return Err(format!("`{text}` has port 0; name a port from 1 to 65535"));
        }
        if first > last {
            return Err(format!("`{text}`: the lower port comes first"));
        }
        Ok(Self { network, l4_ports: first..=last })
    }
}

/// One service: one cache line, because with ten thousand of them each new session meets one that
/// no cache has.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Service {
    /// The counters' slot.
    pub id: ServiceId,
    /// Its transport protocols, and that of pings.
    pub protocols: Protocols,
    /// What becomes of its packets.
    pub mode: ForwardMode,
    /// How new sessions are spread.
    pub scheduler: Scheduler,
    /// The director's addresses towards the servers.
    /// Services with the same list share it.
    pub locals: Arc<[LocalAddress]>,
    /// The servers, in the order in which they were added; one for each local address in mode `snat`.
    pub servers: Arc<[RealServer]>,
    /// What changes it.
    pub flags: Flags,
    /// The table of the schedulers that have one.
    pub table: Option<Arc<SlotTable>>,
    /// What most services have alike; those with the same share it.
    pub options: Arc<ServiceOptions>,
}

const _: () = assert!(size_of::<Service>() == 64);

/// What few services change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    /// How packets of a tunnelled service are packed.
    pub tunnel: Tunnel,
    /// Whose packets a service of mode `snat` takes, on their way to where it listens.
    pub sources: Vec<Network>,
    /// How long its sessions may be silent, if other than those of others.
    pub timeouts: Option<Timeouts>,
    /// How its clients stay on their servers.
    pub persistence: Option<Persistence>,
    /// Each datagram is scheduled anew and leaves no session.
    pub one_packet: bool,
    /// Segments in mid-stream open sessions too.
    pub sloppy: bool,
    /// Sessions of a server that was removed, or that has weight 0, end with their next packet.
    pub expire_quiescent: bool,
    /// Both ends of a connection that is forgotten are told by a reset.
    pub reset_on_expiry: bool,
    /// The duration and the bytes of each session are counted when it ends.
    pub session_histograms: bool,
    /// When clients have to prove by a SYN cookie that they are where they say before a connection gets a session.
    pub syn_proxy: SynProxy,
    /// How many new sessions it takes in a second, if that is limited.
    pub new_sessions: Option<NewSessions>,
    /// How servers are told where clients are, if they are.
    pub client_address: Option<ClientAddress>,
    /// Most sessions that a worker keeps; 0: as many as fit.
    pub session_limit: u64,
    /// For each server, in their order, how many sessions on a worker it takes, and below how many it
    /// takes some again; 0: no limit. Empty where no server has one.
    pub thresholds: Box<[(u32, u32)]>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            tunnel: Tunnel { encapsulation: Encapsulation::Ipip, sources: Vec::new() },
            sources: Vec::new(),
            timeouts: None,
            persistence: None,
            one_packet: false,
            sloppy: false,
            expire_quiescent: false,
            reset_on_expiry: false,
            session_histograms: false,
            syn_proxy: SynProxy::default(),
            new_sessions: None,
            client_address: None,
            session_limit: 0,
            thresholds: Box::default(),
        }
    }
}

/// How many new sessions a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSessions {
    /// The time from one to the next on a worker, in nanoseconds; 0: no limit.
    pub each: u64,
    /// The same for each source.
    pub each_of_source: u64,
    /// How far ahead of its rate one may be, in nanoseconds: after silence so much comes at once.
    pub burst: u64,
    /// The same of each source.
    pub burst_of_source: u64,
    /// A source is an IPv4 network of this length.
    pub prefix4: u8,
    /// A source is an IPv6 network of this length.
    pub prefix6: u8,
    /// Whether control is told of sources that come too often; all of them have proved themselves.
    pub bans: bool,
}

/// How servers of mode `fullnat` are told where clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// In a TCP option of this kind.
    Toa(u8),
    /// In front of what the client says.
    Proxy(Proxy),
    /// Beside a UDP datagram.
    Uoa(Uoa),
}

/// The outer side of a service's tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// What stands between the outer header and the packet.
    pub encapsulation: Encapsulation,
    /// Where the outer source comes from, by family: flows take different addresses of the network, so
    /// that servers tell them apart. Without one it is the port's own address.
    pub sources: Vec<Network>,
}

/// One of the director's addresses towards servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The counters' slot.
    pub id: LocalId,
    /// The address.
    pub address: IpAddr,
    /// The port by which replies to it come.
    pub port: PortId,
}

/// One real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// The counters' slot.
    pub id: ServerId,
    /// Where it listens; port 0: where the client addressed the service.
    pub endpoint: Endpoint,
    /// Its share; 0 takes no new sessions.
    pub weight: u32,
    /// What becomes of the sessions that it has.
    pub standing: Standing,
}

/// What becomes of the sessions that a server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// They go on, whether or not it gets new ones.
    #[default]
    Serving,
    /// They go on, unless the service wants them to end ([`ServiceOptions::expire_quiescent`]): the operator takes
    /// it away.
    Quiescent,
    /// It does not answer: datagrams go to another, and connections as if it were quiescent.
    Down,
}

// Two to a line: with ten thousand services each new session meets servers that no cache has.
const _: () = assert!(size_of::<RealServer>() <= 32);

impl Service {
    /// One of its servers' [`thresholds`](ServiceOptions::thresholds).
    #[inline]
    pub fn thresholds(&self, id: ServerId) -> (u32, u32) {
        let all = self.servers.iter().zip(&self.options.thresholds);
        all.filter(|(server, _)| server.id == id).map(|(_, both)| *both).next().unwrap_or((0, 0))
    }
}

impl Services {
    /// Services with what they listen on. Later ones with the same listener are never found.
    pub fn new<L: AsRef<[Listen]>>(services: Vec<(L, Service)>) -> Self {
        let mut new = Self {
            narrow: Map::with_capacity_and_hasher(services.len(), DefaultHashBuilder::default()),
            list: Vec::with_capacity(services.len()),
            ..Self::default()
        };
        for (listens, service) in services {
            new.add(listens.as_ref(), service);
        }
        new.ranges.sort_by_key(|Range { listen: Listen { network, l4_ports }, .. }| {
            (u8::MAX - network.prefix_len, l4_ports.end() - l4_ports.start())
        });
        new
    }

    /// The same services, but for those in these places, which have other servers or weights and are otherwise as
    /// before. Some 0.2 µs for each service, however many servers they have.
    ///
    /// # Panics
    /// When a place is none of these services'.
    pub fn replace(&self, changes: Vec<(usize, Service)>) -> Self {
        let mut new = self.clone();
        for (at, service) in changes {
            let index = ServiceIndex(at as u32);
            for server in new.list[at].servers.iter() {
                new.by_server[server.id.0 as usize] = None;
            }
            new.know_servers(&service, index);
            new.list[at] = service;
        }
        new
    }

    /// What is found by servers.
    fn know_servers(&mut self, service: &Service, index: ServiceIndex) {
        for server in service.servers.iter() {
            let id = server.id.0 as usize;
            if self.by_server.len() <= id {
                self.by_server.resize(id + 1, None);
            }
            self.by_server[id] = Some(index);
            if service.mode == ForwardMode::Nat {
                let ways = service.protocols.iter().map(|protocol| ((protocol, server.endpoint), ()));
                self.answering.extend(ways);
                self.answering_hosts.insert(server.endpoint.address, ());
            }
        }
    }

    fn add(&mut self, listens: &[Listen], service: Service) {
        let index = ServiceIndex(self.list.len() as u32);
        let protocols = service.protocols;
        self.know_servers(&service, index);
        if service.mode == ForwardMode::Snat {
            let hidden = Hidden {
                protocols,
                sources: service.options.sources.clone(),
                destinations: listens.to_vec(),
            };
            self.hiding.push((hidden, index));
        } else {
            protocols.iter().for_each(|protocol| self.listen(listens, protocol, index));
        }
        self.list.push(service);
    }

    fn listen(&mut self, listens: &[Listen], protocol: Protocol, index: ServiceIndex) {
        for listen in listens {
            match listen.single() {
                Some(Endpoint { address: IpAddr::V4(address), l4_port }) => {
                    let key = narrow_key(protocol, address.to_bits(), l4_port);
                    self.narrow.entry(key).or_insert(index);
                }
                Some(Endpoint { address: IpAddr::V6(address), l4_port }) => {
                    let key = (address.to_bits(), wide_ports(protocol, l4_port));
                    self.wide.entry(key).or_insert(index);
                }
                None => self.ranges.push(Range { protocol, listen: listen.clone(), service: index }),
            }
        }
    }

    /// The service that listens on `destination`.
    #[inline]
    pub fn find(&self, protocol: Protocol, destination: Endpoint) -> Option<&Service> {
        self.index_of(protocol, destination).map(|index| self.at(index))
    }

    /// The place of the service that listens on `destination`.
    #[inline]
    pub fn index_of(&self, protocol: Protocol, destination: Endpoint) -> Option<ServiceIndex> {
        let Endpoint { address, l4_port } = destination;
        let found = match address {
            IpAddr::V4(address) => self.narrow.get(&narrow_key(protocol, address.to_bits(), l4_port)),
            IpAddr::V6(address) => self.wide.get(&(address.to_bits(), wide_ports(protocol, l4_port))),
        };
        match found {
            Some(index) => Some(*index),
            None if self.ranges.is_empty() => None,
            None => self.index_in_ranges(protocol, destination),
        }
    }

    #[cold]
    fn index_in_ranges(&self, protocol: Protocol, destination: Endpoint) -> Option<ServiceIndex> {
        let matches = |range: &&Range| range.protocol == protocol && range.listen.has(destination);
        self.ranges.iter().find(matches).map(|range| range.service)
    }

    /// Whether any service hides the sources of packets.
    #[inline]
    pub fn hides_sources(&self) -> bool {
        !self.hiding.is_empty()
    }

    /// The first service that hides `source` from `destination`, which must be none of the appliance's
    /// addresses.
    #[cold]
    pub fn hiding(&self, protocol: Protocol, source: IpAddr, destination: Endpoint) -> Option<ServiceIndex> {
        let is_host = match destination.address {
            IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(address) => !address.is_multicast() && !address.is_unicast_link_local(),
        };
        let hides = |(hidden, _): &&(Hidden, ServiceIndex)| {
            hidden.protocols.has(protocol)
                && hidden.sources.iter().any(|network| network.contains(source))
                && hidden.destinations.iter().any(|listen| match protocol {
                    Protocol::Icmp => listen.network.contains(destination.address),
                    _ => listen.has(destination),
                })
        };
        if is_host { self.hiding.iter().find(hides).map(|(_, index)| *index) } else { None }
    }

    /// Whether a service listens on a prefix that holds `address`.
    #[inline]
    pub fn has_prefix_with(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|Range { listen: Listen { network, .. }, .. }| {
            !network.is_host() && network.contains(address)
        })
    }

    /// Whether answers of any server come to Sluice with their clients' addresses as their destinations.
    #[inline]
    pub fn answer_clients(&self) -> bool {
        !self.answering.is_empty()
    }

    /// Whether answers of a server come to Sluice with the client's address as their destination.
    #[inline]
    pub fn answers_clients(&self, protocol: Protocol, server: Endpoint) -> bool {
        !self.answering.is_empty()
            && (self.answering.contains_key(&(protocol, server))
                || self.answering.contains_key(&(protocol, Endpoint { l4_port: 0, ..server })))
    }

    /// Whether any server at `address` answers clients so.
    pub fn answers_from(&self, address: IpAddr) -> bool {
        self.answering_hosts.contains_key(&address)
    }

    /// The service in a place of this snapshot.
    ///
    /// # Panics
    /// When `index` is of another snapshot, which may have fewer.
    #[inline]
    pub fn at(&self, index: ServiceIndex) -> &Service {
        &self.list[index.0 as usize]
    }

    /// Every service.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.list.iter()
    }

    /// The service of this snapshot that has the server.
    #[inline]
    pub fn of_server(&self, id: ServerId) -> Option<&Service> {
        let index = self.by_server.get(id.0 as usize).copied().flatten()?;
        Some(self.at(index))
    }
}

#[inline]
fn narrow_key(protocol: Protocol, address: u32, l4_port: u16) -> u64 {
    (protocol as u64) << 48 | u64::from(address) << 16 | u64::from(l4_port)
}

#[inline]
fn wide_ports(protocol: Protocol, l4_port: u16) -> u32 {
    (protocol as u32) << 16 | u32::from(l4_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listened_on_is_read_as_it_is_written() {
        for text in [
            "192.0.2.10:80",
            "192.0.2.10:8000-8099",
            "192.0.2.10:*",
            "192.0.2.0/28:80",
            "[2001:db8::10]:80",
            "[2001:db8::/64]:*",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for text in
            ["192.0.2.10", "192.0.2.10:0", "2001:db8::10:80", "192.0.2.1/28:80", "192.0.2.10:9-8", "x:80"]
        {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
