//! Checks that aim at a VIP on one server, by the way that its traffic takes: direct routing or a tunnel.
//!
//! To the kernel a VIP is one address, wherever it leads. So these checks have an interface of their own, and who asks says
//! beforehand which server a source port stands for. What the kernel sends by that interface leaves as a worker would send it;
//! answers come from the VIP itself, to the appliance's own address, and go back by the same interface.

use dataplane::flow::Family;
use dataplane::frame::Frame;
use dataplane::ids::PortId;
use dataplane::snapshot::{AddressRole, Snapshot, Tunnel};
use dataplane::wire::{self, Datagram, ETHERNET_LEN, Outer};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The interface by which these checks leave the kernel.
pub const INTERFACE: &str = "sluice-checks";
/// How long a port still stands for its server when its check is over, for the reset that ends it. With 512 ports that is
/// enough for a thousand checks a second of one VIP.
const REST: Duration = Duration::from_millis(300);
/// Bytes that the largest outer header adds (IPv6, UDP and GUE), rounded up.
pub(super) const OVERHEAD: u16 = 64;

/// How a VIP is reached on one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VipWay {
    /// What is asked.
    pub vip: SocketAddr,
    /// How packets are packed; `None` where the server is on the link.
    pub tunnel: Option<Tunnel>,
}

/// The two ends of one check's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckFlow {
    /// The IP protocol: TCP or UDP.
    pub protocol: u8,
    /// The appliance's end.
    pub local: SocketAddr,
    /// The server's end.
    pub vip: SocketAddr,
}

/// Which source ports stand for which servers. Shared by the threads of the checks, of the kernel path and of control.
#[derive(Debug)]
pub struct VipChecks(Mutex<State>);

#[derive(Debug)]
struct State {
    world: Arc<Snapshot>,
    flows: HashMap<CheckFlow, (IpAddr, Option<Tunnel>)>,
    /// Flows that are over, by when they are forgotten.
    ended: VecDeque<(Instant, CheckFlow)>,
}

/// A flow that stands for a server until this is dropped, and shortly after.
#[derive(Debug)]
pub struct VipPass {
    checks: Arc<VipChecks>,
    flow: CheckFlow,
}

impl Drop for VipPass {
    fn drop(&mut self) {
        self.checks.lock().ended.push_back((Instant::now() + REST, self.flow));
    }
}

impl Default for VipChecks {
    fn default() -> Self {
        let world = Arc::new(Snapshot::empty(Vec::new()));
        Self(Mutex::new(State { world, flows: HashMap::new(), ended: VecDeque::new() }))
    }
}

impl VipChecks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where servers are from now on.
    pub fn follow(&self, world: &Arc<Snapshot>) {
        self.lock().world = Arc::clone(world);
    }

    /// From which address a VIP is asked on `server`: one of the appliance's own, best of the port towards it.
    ///
    /// # Errors
    /// When no route leads to the server, or no port that the kernel has a part in has an address of the VIP's family.
    pub fn source(&self, vip: IpAddr, server: IpAddr) -> Result<IpAddr, String> {
        let world = Arc::clone(&self.lock().world);
        let hop = world.routes.lookup(server, 0).ok_or_else(|| format!("no route leads to {server}"))?;
        let ports = world.ports.get(usize::from(hop.port.0)).into_iter().chain(world.ports.iter());
        let mut networks = ports.filter(|port| port.kernel).flat_map(|port| &port.networks);
        let is_usable = |address: IpAddr| {
            Family::of(address) == Family::of(vip) && world.role(address) == Some(AddressRole::Own)
        };
        networks.find(|network| is_usable(network.address)).map(|network| network.address).ok_or_else(|| {
            format!(
                "no port with a kernel path has an address of its own of the family of {vip}; give it one"
            )
        })
    }

    /// Lets a flow stand for a server; `None` while it stands for one already.
    pub fn begin(
        self: &Arc<Self>,
        flow: CheckFlow,
        server: IpAddr,
        tunnel: Option<Tunnel>,
        now: Instant,
    ) -> Option<VipPass> {
        let mut state = self.lock();
        while let Some((_, over)) = state.ended.front().copied().filter(|(until, _)| *until <= now) {
            state.ended.pop_front();
            state.flows.remove(&over);
        }
        if state.flows.contains_key(&flow) {
            return None;
        }
        state.flows.insert(flow, (server, tunnel));
        Some(VipPass { checks: Arc::clone(self), flow })
    }

    /// Whether a packet from a port is for one of these checks: an answer of its VIP, or an ICMP error about it.
    pub(super) fn expects(&self, packet: &[u8]) -> bool {
        let state = self.lock();
        let flow = || answered_flow(&Datagram::read(packet)?);
        !state.flows.is_empty() && flow().is_some_and(|flow| state.flows.contains_key(&flow))
    }

    /// Makes of an IP packet of the kernel, behind room for an Ethernet header, the frame that goes to its server; the
    /// port by which it leaves. `None` for packets of no check, and while the way to the server is not known.
    pub(super) fn send(&self, frame: &mut Frame<'_>) -> Option<PortId> {
        let flow = sent_flow(&Datagram::read(frame.bytes().get(ETHERNET_LEN..)?)?)?;
        let (world, server, tunnel) = {
            let state = self.lock();
            let (server, tunnel) = state.flows.get(&flow)?;
            (Arc::clone(&state.world), *server, tunnel.clone())
        };
        if let Some(tunnel) = tunnel {
            let entropy = flow.local.port();
            let source = world.outer_source(&tunnel, server, u64::from(entropy))?;
            let encapsulation = tunnel.encapsulation;
            let outer = Outer { source, destination: server, encapsulation, entropy: 0xc000 | entropy };
            if !wire::encapsulate(frame, Family::of(flow.vip.ip()), &outer) {
                return None;
            }
        }
        let hop = world.routes.lookup(server, 0)?;
        let header = world.neighbors.header(hop)?;
        wire::set_ethernet(frame.bytes_mut(), &header);
        Some(hop.port)
    }
}

/// The flow of a packet that the appliance sends.
fn sent_flow(packet: &Datagram<'_>) -> Option<CheckFlow> {
    let (source_port, destination_port) = packet.ports()?;
    Some(CheckFlow {
        protocol: packet.protocol,
        local: SocketAddr::new(packet.source, source_port),
        vip: SocketAddr::new(packet.destination, destination_port),
    })
}

/// The flow that a packet answers, or that an ICMP error is about.
fn answered_flow(packet: &Datagram<'_>) -> Option<CheckFlow> {
    if let Some(quoted) = packet.quoted() {
        return sent_flow(&quoted);
    }
    let CheckFlow { protocol, local, vip } = sent_flow(packet)?;
    Some(CheckFlow { protocol, local: vip, vip: local })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::ids::NeighborId;
    use dataplane::snapshot::{Neighbor, Neighbors, NextHop, PortConfig, Routes, SourceCheck};
    use dataplane::wire::protocol::{ICMP, TCP};
    use dataplane::wire::{Encapsulation, LinkTraits};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn world() -> Arc<Snapshot> {
        let link = |at: u8| LinkTraits { mac: [2, 0, 0, 0, 0, at], mtu: 1_500, kernel_peer: false };
        let port = |at: u8, network: &str| PortConfig {
            link: link(at),
            networks: vec![network.parse().unwrap()],
            kernel: true,
            source_check: SourceCheck::Loose,
        };
        let mut world = Snapshot::empty(vec![port(0, "192.0.2.2/24"), port(1, "10.0.0.2/24")]);
        let mut routes = Routes::default();
        routes.add_link("192.0.2.0/24".parse().unwrap(), PortId(0));
        routes.add_link("10.0.0.0/24".parse().unwrap(), PortId(1));
        world.routes = Arc::new(routes);
        let hop = NextHop { port: PortId(1), address: server() };
        let header = wire::ethernet_header(MAC, [2, 0, 0, 0, 0, 1], wire::ETHERTYPE_IPV4);
        world.neighbors = Arc::new(Neighbors::new(vec![Some(Neighbor { hop, header: Some(header) })]));
        assert!(world.neighbors.get(NeighborId(0)).is_some());
        let roles = [
            ("192.0.2.2", AddressRole::Own),
            ("10.0.0.2", AddressRole::Own),
            ("192.0.2.10", AddressRole::Vip),
        ];
        world.addresses =
            Arc::new(roles.into_iter().map(|(text, role)| (text.parse().unwrap(), role)).collect());
        Arc::new(world)
    }

    fn server() -> IpAddr {
        "10.0.0.11".parse().unwrap()
    }

    fn flow() -> CheckFlow {
        CheckFlow {
            protocol: TCP,
            local: "10.0.0.2:600".parse().unwrap(),
            vip: "192.0.2.10:80".parse().unwrap(),
        }
    }

    fn segment(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { unreachable!() };
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.resize(40, 0);
        packet
    }

    fn sent(checks: &VipChecks, packet: &[u8]) -> Option<(PortId, Vec<u8>)> {
        let mut room = vec![0; 128];
        let start = room.len();
        room.extend(packet);
        let end = room.len();
        let mut frame = Frame::new(&mut room, start - ETHERNET_LEN..end);
        let port = checks.send(&mut frame)?;
        Some((port, frame.bytes().to_vec()))
    }

    #[test]
    fn a_check_reaches_the_vip_on_the_server_that_its_port_stands_for() {
        let checks = Arc::new(VipChecks::default());
        checks.follow(&world());
        let CheckFlow { local, vip, .. } = flow();
        assert_eq!(checks.source(vip.ip(), server()).unwrap(), local.ip(), "the one nearest to the server");
        assert_eq!(sent(&checks, &segment(local, vip)), None, "nobody asked");

        let _pass = checks.begin(flow(), server(), None, Instant::now()).unwrap();

        let (port, frame) = sent(&checks, &segment(local, vip)).unwrap();
        assert_eq!((port, &frame[..6]), (PortId(1), &MAC[..]));
        assert_eq!(frame[ETHERNET_LEN..], segment(local, vip), "as the client sent it");
        assert!(checks.expects(&segment(vip, local)));
        let mut other = vip;
        other.set_port(81);
        assert!(!checks.expects(&segment(other, local)));
        let mut error = vec![0x45, 0, 0, 68, 0, 0, 0, 0, 64, ICMP, 0, 0, 10, 0, 0, 11, 10, 0, 0, 2];
        error.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        error.extend(&segment(local, vip)[..28]);
        assert!(checks.expects(&error));
    }

    #[test]
    fn through_a_tunnel_it_is_packed_as_traffic_is() {
        let checks = Arc::new(VipChecks::default());
        checks.follow(&world());
        let CheckFlow { local, vip, .. } = flow();
        let tunnel = Tunnel { encapsulation: Encapsulation::Ipip, sources: Vec::new() };
        let _pass = checks.begin(flow(), server(), Some(tunnel), Instant::now()).unwrap();

        let (port, frame) = sent(&checks, &segment(local, vip)).unwrap();

        assert_eq!((port, &frame[..6]), (PortId(1), &MAC[..]));
        let outer = Datagram::read(&frame[ETHERNET_LEN..]).unwrap();
        assert_eq!((outer.protocol, outer.source, outer.destination), (4, local.ip(), server()));
        assert_eq!(frame[ETHERNET_LEN + wire::IPV4_LEN..], segment(local, vip));
    }

    #[test]
    fn a_port_rests_before_it_stands_for_another_server() {
        let checks = Arc::new(VipChecks::default());
        let now = Instant::now();
        let pass = checks.begin(flow(), server(), None, now).unwrap();
        assert!(checks.begin(flow(), server(), None, now).is_none());
        drop(pass);
        assert!(checks.begin(flow(), server(), None, now).is_none(), "the last segments are still under way");
        let later = Instant::now() + REST;
        assert!(checks.begin(flow(), server(), None, later).is_some());
    }
}
