//! Makes the kernel follow a plan: addresses, routes and rules by rtnetlink, settings by /proc/sys.
//!
//! What the kernel sends from the ports' networks is looked up in a table of its own, so that answers leave by the
//! port that they belong to, whatever other routes the host has. Those routes are in the main table too,
//! far behind the host's own.

use super::{Interface, Plan};
use crate::state::Settings;
use dataplane::ids::PortId;
use dataplane::snapshot::Network;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, CacheInfo};
use rtnetlink::packet_route::link::{LinkAttribute, State};
use rtnetlink::packet_route::route::{RouteHeader, RouteScope};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder, RouteNextHopBuilder};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use tokio::runtime::Runtime;

/// The table of the ports' routes, the rules' priority, and the routes' metric in the main table.
const TABLE: u32 = 5_200;
/// The table of what is sent by the interface of checks that aim at VIPs.
const VIP_TABLE: u32 = 5_201;

/// An interface of the kernel that a device opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Its number, which it keeps as long as it lives.
    pub index: u32,
    /// What it is called.
    pub name: String,
    /// Whether it is up and has a carrier.
    pub is_up: bool,
    /// Its largest IP packet, in bytes.
    pub mtu: u32,
}

/// A netlink socket, and what must be put back.
#[derive(Debug)]
pub(super) struct Netlink {
    runtime: Runtime,
    handle: Handle,
    /// Settings that were changed.
    settings: Settings,
}

impl Netlink {
    pub(super) fn open(settings: Settings) -> Result<Self, String> {
        let says = |error: std::io::Error| format!("no netlink socket: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(says)?;
        let (connection, handle, _) = {
            let _inside = runtime.enter();
            rtnetlink::new_connection().map_err(says)?
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle, settings })
    }

    /// An interface's number; `None` when there is none of that name.
    pub(super) fn index(&self, name: &str) -> Option<u32> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        self.runtime.block_on(links.try_next()).ok().flatten().map(|link| link.header.index)
    }

    /// The interface of this name, or of this number.
    pub(super) fn interface(&self, name: Option<&str>, index: u32) -> Option<Outside> {
        let get = self.handle.link().get();
        let get = match name {
            Some(name) => get.match_name(name.to_owned()),
            None => get.match_index(index),
        };
        let mut links = get.execute();
        let link = self.runtime.block_on(links.try_next()).ok().flatten()?;
        let mut found = Outside { index: link.header.index, name: String::new(), is_up: true, mtu: u32::MAX };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => found.name = name,
                LinkAttribute::Mtu(mtu) => found.mtu = mtu,
                LinkAttribute::OperState(state) => found.is_up = matches!(state, State::Up | State::Unknown),
                _ => {}
            }
        }
        Some(found)
    }

    /// Tells an interface's users whether there is a link behind it.
    pub(super) fn set_carrier(&mut self, name: &str, up: bool) {
        let link = LinkUnspec::new_with_name(name).carrier(up).build();
        // Kernels before 5.0 cannot; then nobody is told.
        let _ = self.runtime.block_on(self.handle.link().set(link).execute());
    }

    /// Takes the kernel's hands off an interface that a device reads: what is for the kernel comes by the TAP, and
    /// must not come twice, nor be answered by resets. An interface that has an address itself is left alone.
    pub(super) fn shield(&mut self, interface: &str, own: &[Network]) {
        let Some(index) = self.index(interface) else { return };
        let addresses = self.addresses(index);
        if addresses.iter().any(|address| !is_link_local(*address)) {
            let ours = own.iter().any(|network| addresses.contains(&network.address));
            let of_whom = if ours { "of the port" } else { "" };
            log::info!(target: "kernel",
                "interface {interface} has addresses {of_whom} in the kernel, which answers there too; leave them to Sluice: ip addr flush dev {interface}"
            );
            return;
        }
        self.set(&format!("ipv4/conf/{interface}/rp_filter"), "1");
        self.set(&format!("ipv6/conf/{interface}/disable_ipv6"), "1");
        if read("ipv4/conf/all/rp_filter").as_deref() == Some("2") {
            log::info!(target: "kernel",
                "net.ipv4.conf.all.rp_filter = 2 lets the kernel answer on {interface} as well; set it to 0 or 1"
            );
        }
    }

    /// Puts back what [`shield`](Self::shield) changed.
    pub(super) fn unshield(&mut self) {
        for (path, value) in self.settings.take() {
            let _ = fs::write(path, value);
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        let Some(before) = read(key) else { return };
        if before != value {
            self.settings.note(&path(key), &before);
            let _ = fs::write(path(key), value);
        }
    }

    /// Lets checks that are bound to `interface` send anywhere by it, and lets answers of VIPs come in there.
    pub(super) fn open_to_vips(&mut self, interface: &str) -> Vec<String> {
        let mut trouble = Vec::new();
        // IPv4 takes an interface that a socket is bound to for a link without being told.
        if let Some(index) = self.index(interface).filter(|_| path("ipv6").exists()) {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().table_id(VIP_TABLE).output_interface(index);
            let routed = self.runtime.block_on(self.handle.route().add(route.build()).execute());
            let mut rule =
                self.handle.rule().add().v6().table_id(VIP_TABLE).priority(TABLE).action(RuleAction::ToTable);
            rule.message_mut().attributes.push(RuleAttribute::Oifname(interface.to_owned()));
            if let Err(error) = routed.and_then(|()| self.runtime.block_on(rule.execute())) {
                trouble.push(format!("no route for IPv6: {error}"));
            }
        }
        let _ = fs::write(path(&format!("ipv4/conf/{interface}/rp_filter")), "0");
        if read("ipv4/conf/all/rp_filter").as_deref() == Some("1") {
            trouble.push("net.ipv4.conf.all.rp_filter = 1 keeps the answers away; set it to 0".to_owned());
        }
        trouble
    }

    fn addresses(&self, index: u32) -> Vec<IpAddr> {
        let list = self.handle.address().get().set_link_index_filter(index).execute();
        let found: Vec<_> = self.runtime.block_on(list.try_collect()).unwrap_or_default();
        let attributes = found.into_iter().flat_map(|message| message.attributes);
        attributes
            .filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(address),
                _ => None,
            })
            .collect()
    }

    /// Goes from one plan to another; says what the kernel refused.
    pub(super) fn follow(&mut self, old: &Plan, new: &Plan) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut note = |what: String, result: Result<(), rtnetlink::Error>| {
            if let Err(error) = result {
                complaints.push(format!("kernel path: {what}: {error}"));
            }
        };
        let before = |port: PortId| old.interfaces.iter().find(|interface| interface.port == port);
        for interface in &new.interfaces {
            let Some(index) = self.index(&interface.name) else {
                note(format!("interface {} is gone", interface.name), Ok(()));
                continue;
            };
            let had = before(interface.port).map(entries).unwrap_or_default();
            let has = entries(interface);
            for (network, is_local) in has.iter().filter(|entry| !had.contains(entry)) {
                let result = self.runtime.block_on(add_address(&self.handle, index, *network, *is_local));
                note(format!("address {network} on {}", interface.name), result);
            }
            let gone: Vec<_> =
                had.iter().filter(|entry| !has.contains(entry)).map(|(network, _)| *network).collect();
            let result = self.runtime.block_on(remove_addresses(&self.handle, index, &gone));
            note(format!("addresses that are no longer on {}", interface.name), result);
        }
        let indices: Vec<_> = new
            .interfaces
            .iter()
            .filter_map(|interface| Some((interface.port, self.index(&interface.name)?)))
            .collect();
        let had = tables(old);
        let has = tables(new);
        for (to, gateways) in had.iter().filter(|route| !has.contains(route)) {
            for table in tables_of(gateways) {
                if let Some(message) = route(*to, gateways, table, &indices) {
                    // Routes of an address that was removed went with it.
                    let _ = self.runtime.block_on(self.handle.route().del(message).execute());
                }
            }
        }
        for (to, gateways) in has.iter().filter(|route| !had.contains(route)) {
            for table in tables_of(gateways) {
                let Some(message) = route(*to, gateways, table, &indices) else { continue };
                let result = self.runtime.block_on(self.handle.route().add(message).replace().execute());
                note(format!("route to {to}"), result);
            }
        }
        let networks = |plan: &Plan| -> Vec<Network> {
            let all = plan.interfaces.iter().flat_map(|interface| &interface.addresses);
            all.map(|network| Network { address: network.base(), ..*network }).collect()
        };
        if networks(old) != networks(new) {
            self.forget_rules_of(&[TABLE]);
            let mut networks = networks(new);
            networks.sort_unstable_by_key(|network| (network.address, network.prefix_len));
            networks.dedup();
            for network in networks {
                let result = self.runtime.block_on(add_rule(&self.handle, network));
                note(format!("rule for {network}"), result);
            }
        }
        complaints
    }

    /// Removes our rules, also those that a daemon before this one left.
    pub(super) fn forget_rules(&mut self) {
        self.forget_rules_of(&[TABLE, VIP_TABLE]);
    }

    fn forget_rules_of(&mut self, tables: &[u32]) {
        for version in [IpVersion::V4, IpVersion::V6] {
            let list = self.handle.rule().get(version).execute();
            let rules: Vec<_> = self.runtime.block_on(list.try_collect()).unwrap_or_default();
            for rule in rules {
                if tables.iter().any(|table| rule.attributes.contains(&RuleAttribute::Table(*table))) {
                    let _ = self.runtime.block_on(self.handle.rule().del(rule).execute());
                }
            }
        }
    }
}

/// An interface's addresses, and whether each is a local one, which has no network.
fn entries(interface: &Interface) -> Vec<(Network, bool)> {
    let own = interface.addresses.iter().map(|network| (*network, false));
    own.chain(interface.locals.iter().map(|address| (Network::host(*address), true))).collect()
}

/// The interfaces and gateways of a route; a link's network has no gateway.
type Ways = Vec<(PortId, Option<IpAddr>)>;

/// Routes as they are told to the kernel: networks of links have the interface alone as their gateway.
fn tables(plan: &Plan) -> Vec<(Network, Ways)> {
    let links = plan.interfaces.iter().flat_map(|interface| {
        let base = |network: &Network| Network { address: network.base(), ..*network };
        interface.addresses.iter().map(move |network| (base(network), vec![(interface.port, None)]))
    });
    let others = plan
        .routes
        .iter()
        .map(|(to, hops)| (*to, hops.iter().map(|(port, address)| (*port, Some(*address))).collect()));
    links.chain(others).collect()
}

/// The tables that a route is in: networks of links come into the main one with their addresses.
fn tables_of(gateways: &[(PortId, Option<IpAddr>)]) -> Vec<u32> {
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    if gateways.iter().any(|(_, address)| address.is_some()) { vec![TABLE, main] } else { vec![TABLE] }
}

fn route(
    to: Network,
    gateways: &[(PortId, Option<IpAddr>)],
    table: u32,
    indices: &[(PortId, u32)],
) -> Option<rtnetlink::packet_route::route::RouteMessage> {
    let index = |port: PortId| indices.iter().find(|(id, _)| *id == port).map(|(_, index)| *index);
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(to.address, to.prefix_len)
        .ok()?
        .table_id(table)
        .priority(TABLE);
    match gateways {
        [(port, None)] => builder = builder.output_interface(index(*port)?).scope(RouteScope::Link),
        [(port, Some(address))] => {
            builder = builder.output_interface(index(*port)?).gateway(*address).ok()?.onlink();
        }
        several => {
            let hops: Option<Vec<_>> = several
                .iter()
                .map(|(port, address)| {
                    let hop = if to.address.is_ipv4() {
                        RouteNextHopBuilder::new_ipv4()
                    } else {
                        RouteNextHopBuilder::new_ipv6()
                    };
                    Some(hop.interface(index(*port)?).via((*address)?).ok()?.onlink().build())
                })
                .collect();
            builder = builder.multipath(hops?);
        }
    }
    Some(builder.build())
}

async fn add_address(
    handle: &Handle,
    index: u32,
    network: Network,
    is_local: bool,
) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(index, network.address, network.prefix_len).replace();
    if network.address.is_ipv6() {
        let message = request.message_mut();
        // Sluice itself looks for stations that use our addresses.
        message.header.flags |= AddressHeaderFlags::Nodad;
        if is_local {
            // Deprecated from the start (RFC 4862 §5.5.4): used only by those who ask for it.
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
    }
    request.execute().await
}

async fn remove_addresses(handle: &Handle, index: u32, gone: &[Network]) -> Result<(), rtnetlink::Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = handle.address().get().set_link_index_filter(index).execute().try_collect().await?;
    for message in list {
        let is_gone = message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Address(address) if gone.iter().any(|network| network.address == *address))
        });
        if is_gone {
            handle.address().del(message).execute().await?;
        }
    }
    Ok(())
}

async fn add_rule(handle: &Handle, network: Network) -> Result<(), rtnetlink::Error> {
    let rule = handle.rule().add().table_id(TABLE).priority(TABLE).action(RuleAction::ToTable);
    match network.address {
        IpAddr::V4(address) => rule.v4().source_prefix(address, network.prefix_len).execute().await,
        IpAddr::V6(address) => rule.v6().source_prefix(address, network.prefix_len).execute().await,
    }
}

/// What a new interface is to be before it comes up.
pub(super) fn configure(name: &str, has_ipv6: bool) {
    let settings = [
        // Sluice answers for the addresses; the kernel's answer would come second.
        ("ipv4", "arp_ignore", "8"),
        ("ipv4", "arp_announce", "2"),
        // Local addresses are on no network of the interface.
        ("ipv4", "rp_filter", "2"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "accept_dad", "0"),
        ("ipv6", "router_solicitations", "0"),
        ("ipv6", "disable_ipv6", if has_ipv6 { "0" } else { "1" }),
    ];
    for (family, key, value) in settings {
        // A kernel without a setting needs none.
        let _ = fs::write(path(&format!("{family}/conf/{name}/{key}")), value);
    }
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

fn read(key: &str) -> Option<String> {
    fs::read_to_string(path(key)).ok().map(|text| text.trim().to_owned())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
