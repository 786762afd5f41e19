//! The kernel path: the appliance's own addresses, as the kernel of its host sees them.
//!
//! Each port has a TAP interface that carries its name, its station address, its addresses and routes. What comes
//! for the appliance itself goes there, and what the kernel sends by it leaves by the port; so ssh, ping, BIRD
//! and health checks use ordinary sockets. [`plan`] says what the kernel is to have, [`net`] makes it so, [`pump`] moves
//! the frames, [`vip`] brings checks to a VIP on one server. Neighbours are answered by Sluice, and the kernel asks for its own.

mod connections;
mod net;
mod plan;
mod pump;
mod vip;

pub use connections::Connections;
pub use plan::{Gateways, Interface, Plan};
pub use vip::{CheckFlow, INTERFACE as CHECKS_INTERFACE, VipChecks, VipPass, VipWay};

use crate::config::Config;
use crate::devices::DeviceFacts;
use crate::state::Settings;
use crate::topology;
use dataplane::ids::PortId;
use dataplane::snapshot::AddressRole;
use dataplane::worker::KernelLane;
use net::Netlink;
pub use net::Outside;
use pump::Pump;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// The smallest MTU of IPv6 (RFC 8200 §5).
const MTU_MIN: u16 = 1_280;

/// The TAP interfaces and what the kernel was told. Dropping it takes all of it back.
#[derive(Debug)]
pub struct KernelPath {
    netlink: Netlink,
    plan: Plan,
    pump: Option<Pump>,
    connections: Arc<Connections>,
    /// Checks of VIPs, where they have an interface.
    vip_checks: Option<Arc<VipChecks>>,
    /// Why they have none, or may get no answers.
    vip_trouble: Vec<String>,
    /// By port, why it has no interface.
    missing: Vec<(PortId, String)>,
}

impl KernelPath {
    /// Makes the interfaces of `config` and begins to move frames between them and the workers. What cannot be
    /// made is said by [`warnings`](Self::warnings): packets are forwarded without it. `settings` are what an earlier
    /// daemon left changed.
    ///
    /// # Errors
    /// When the system gives no netlink socket or no thread.
    pub fn start(
        config: &Config,
        facts: &[DeviceFacts],
        lanes: Vec<KernelLane>,
        settings: Settings,
    ) -> Result<Self, String> {
        let mut netlink = Netlink::open(settings)?;
        let taken = |name: &str| netlink.index(name).is_some();
        let names: Vec<_> =
            config.ports.iter().enumerate().map(|(at, port)| plan::name(at, port, &taken)).collect();
        let mut plan = Plan::of(config, facts, &names);
        let mut missing = Vec::new();
        let mut taps = Vec::new();
        plan.interfaces.retain(|interface| match tap(interface) {
            Ok(tap) => {
                taps.push((interface.port, tap));
                true
            }
            Err(error) => {
                missing.push((interface.port, error));
                false
            }
        });
        // First nobody else answers for the addresses, then somebody has them.
        for (port, _) in &taps {
            let device = &config.ports[usize::from(port.0)].device;
            if let Some(interface) = device.interface() {
                netlink.shield(interface, &config.ports[usize::from(port.0)].addresses);
            }
        }
        netlink.forget_rules();
        netlink
            .follow(&Plan::default(), &plan)
            .into_iter()
            .for_each(|line| log::info!(target: "kernel", "{line}"));
        let mut vip_checks = None;
        let mut vip_trouble = Vec::new();
        let mut pump = None;
        let connections: Arc<Connections> = Arc::default();
        if !taps.is_empty() {
            let device = tun(&plan, &mut netlink, &mut vip_trouble).map_err(|error| vip_trouble.push(error));
            let checks = device.ok().map(|device| (device, Arc::default()));
            vip_checks = checks.as_ref().map(|(_, checks)| Arc::clone(checks));
            pump = Some(Pump::start(taps, checks, lanes, Arc::clone(&connections))?);
        }
        Ok(Self { netlink, plan, pump, connections, vip_checks, vip_trouble, missing })
    }

    /// Makes the kernel follow a new configuration; says what it refused.
    pub fn follow(&mut self, config: &Config, facts: &[DeviceFacts]) -> Vec<String> {
        let names: Vec<_> = (0..config.ports.len())
            .map(|at| self.interface(PortId(at as u16)).map(|interface| interface.name.clone()))
            .collect();
        let plan = Plan::of(config, facts, &names);
        if plan == self.plan {
            return Vec::new();
        }
        let complaints = self.netlink.follow(&self.plan, &plan);
        self.plan = plan;
        complaints
    }

    /// The local addresses of `config` by which the kernel can ask, or will when it follows.
    pub fn sources(&self, config: &Config) -> HashSet<IpAddr> {
        let roles = topology::addresses(config);
        let usable = roles.iter().filter(|(_, role)| match role {
            AddressRole::Local(port) => self.interface(*port).is_some(),
            AddressRole::Own | AddressRole::Vip => false,
        });
        usable.map(|(address, _)| address).collect()
    }

    /// Checks that aim at a VIP on one server, if they have an interface.
    pub fn vip_checks(&self) -> Option<&Arc<VipChecks>> {
        self.vip_checks.as_ref()
    }

    /// The connections that the kernel has.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// The interface of a port, if it has one.
    pub fn interface(&self, port: PortId) -> Option<&Interface> {
        self.plan.interfaces.iter().find(|interface| interface.port == port)
    }

    /// The kernel's interface of this name, if there is one: of those that devices open, not of the ports' own.
    pub fn outside(&self, name: &str) -> Option<Outside> {
        self.netlink.interface(Some(name), 0)
    }

    /// The kernel's interface of this number.
    pub fn outside_by_index(&self, index: u32) -> Option<Outside> {
        self.netlink.interface(None, index)
    }

    /// Gives a port's interface the state of its link, so that routing daemons notice.
    pub fn set_carrier(&mut self, port: PortId, up: bool) {
        if let Some(interface) = self.plan.interfaces.iter().find(|interface| interface.port == port) {
            self.netlink.set_carrier(&interface.name, up);
        }
    }

    /// What an operator should know, who has checks of VIPs or not.
    pub fn warnings(&self, asks_vips: bool) -> Vec<String> {
        let missing = self.missing.iter().map(|(port, error)| {
            format!("port {}: no TAP interface for the kernel path: {error}; ssh, ping and health checks by it do not work (kernel = false in its [[port]] says that this is meant)", port.0)
        });
        let checks =
            || format!("health checks that aim at VIPs do not work: {}", self.vip_trouble.join("; "));
        let troubled = asks_vips && !self.vip_trouble.is_empty();
        missing.chain(troubled.then(checks)).collect()
    }
}

impl Drop for KernelPath {
    fn drop(&mut self) {
        self.netlink.forget_rules();
        self.netlink.unshield();
        // The interfaces vanish with their files.
        self.pump = None;
    }
}

/// A port's interface, up and without addresses.
fn tap(interface: &Interface) -> Result<SyncDevice, String> {
    let builder = DeviceBuilder::new().layer(Layer::L2).mac_addr(interface.mac);
    device(builder, &interface.name, interface.mtu, interface.has_ipv6())
}

/// The interface of checks that aim at VIPs.
fn tun(plan: &Plan, netlink: &mut Netlink, trouble: &mut Vec<String>) -> Result<SyncDevice, String> {
    if netlink.index(vip::INTERFACE).is_some() {
        return Err(format!("there is an interface {} already, of another sluiced perhaps", vip::INTERFACE));
    }
    let mtu = plan.interfaces.iter().map(|interface| interface.mtu).min().unwrap_or(MTU_MIN);
    let mtu = mtu.saturating_sub(vip::OVERHEAD).max(MTU_MIN);
    let device = device(DeviceBuilder::new().layer(Layer::L3), vip::INTERFACE, mtu, true)?;
    trouble.extend(netlink.open_to_vips(vip::INTERFACE));
    Ok(device)
}

fn device(builder: DeviceBuilder, name: &str, mtu: u16, has_ipv6: bool) -> Result<SyncDevice, String> {
    let says = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "/dev/net/tun is missing (modprobe tun)".to_owned(),
        std::io::ErrorKind::PermissionDenied => format!("{error}; it takes CAP_NET_ADMIN"),
        _ => error.to_string(),
    };
    let device = builder.name(name).mtu(mtu).enable(false).build_sync().map_err(says)?;
    net::configure(name, has_ipv6);
    device.set_nonblocking(true).map_err(says)?;
    device.enabled(true).map_err(says)?;
    Ok(device)
}
