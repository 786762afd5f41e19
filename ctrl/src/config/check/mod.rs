//! From what the file says to what can be done: every rule about values, in the order
//! of the file.
//!
//! "Configured, and nothing is forwarded, and nothing says why" is what operators
//! suffer most from; so what cannot forward is refused here, with the reason.
//!
//! This file has the order and the tables about the machine, `neighbors` those that are not asked; `services` has what clients and
//! servers see, `together` what services cannot have side by side, `health` how servers are checked, `discover` where
//! they are looked up, `odd` has what is allowed and hardly meant, `values` reads single values, `topology` knows which way leads where.

mod acls;
mod client_address;
mod discover;
mod exposed;
mod health;
mod hooks;
mod log;
mod names;
mod neighbors;
mod odd;
mod options;
mod servers;
mod services;
mod together;
mod topology;
mod values;

use super::keys::Keyed;
use super::raw;
use super::read::suggestion;
use super::{
    Admin, Config, Dataplane, Device, Hugepages, LoadError, Loaded, Location, PortSpec, Problem, RouteSpec,
    RssSpec, ServerSpec, ServiceSpec, Severity, Text,
};
use crate::users::{self, Access};
use dataplane::flow::{Protocol, Protocols};
use dataplane::ids::PortId;
use dataplane::session::{State, Timeouts};
use dataplane::snapshot::{Network, NextHop, SourceCheck};
use dataplane::steering::KEY_LEN_MIN;
use dataplane::steering::ladder::Fields;
use dataplane::wire::Mac;
use dataplane::worker::SubInterface;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use toml::Spanned;
use topology::{
    connected_port, is_broadcast, is_link_local, is_network, is_own, is_unicast, networks, overlaps,
};
pub(crate) use values::parse_duration;
use values::{is_pci_address, unknown};

const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";
const DEFAULT_SESSIONS: usize = 1_000_000;
/// As many as anyone has cores for.
const MAX_WORKERS: usize = 64;
/// Entries of an indirection table of which the operator does not say the length.
const DEFAULT_TABLE: usize = 128;
const MAX_PORTS: usize = 32;

/// Whether a service takes a protocol, as far as its own can be read.
fn takes(protocols: Option<Protocols>, protocol: Protocol) -> bool {
    protocols.is_some_and(|protocols| protocols.has(protocol))
}

pub(super) fn check(file: &raw::File, text: Text, is_lenient: bool) -> Result<Loaded, LoadError> {
    let mut checker = Checker { is_lenient, ..Checker::of(&text) };
    let machine = checker.machine(file);
    let services = checker.services(&file.service, &machine.ports, &machine.routes, &machine.timeouts);
    let services = services.into_iter().map(Arc::new).collect();
    let (config, warnings) = checker.finish_with(file, machine, services)?;
    Ok(Loaded { config, warnings, text: Arc::new(text) })
}

/// A service of a text that is read again.
pub(super) enum Block {
    /// It stands there as it stood before.
    Same(Arc<ServiceSpec>),
    /// Another, which begins at this byte of the text.
    Other(usize, Box<raw::File>),
}

/// The configuration of a text of which `head` is what is no service, and its warnings; `None` when anything is
/// wrong, or services that are the same text as in `last` would be others now.
pub(super) fn check_again(
    head: &raw::File,
    blocks: Vec<Block>,
    text: &Text,
    last: &Config,
) -> Option<(Config, Vec<Problem>)> {
    let mut checker = Checker::of(text);
    let machine = checker.machine(head);
    if (&machine.ports, &machine.routes, &machine.timeouts) != (&last.ports, &last.routes, &last.timeouts) {
        return None;
    }
    let mut services = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.into_iter().enumerate() {
        services.push(match block {
            Block::Same(spec) => spec,
            Block::Other(begin, file) => {
                let [entry] = &file.service[..] else { return None };
                checker.begin = begin;
                Arc::new(checker.service(at, entry, &machine.ports, &machine.routes, &machine.timeouts)?)
            }
        });
    }
    checker.begin = 0;
    if !together::clashes(services.iter().map(Arc::as_ref)).is_empty() {
        return None;
    }
    checker.finish_with(head, machine, services).ok()
}

/// The one service of `file`, with what it needs from `config`.
pub(super) fn check_service(file: &raw::File, text: Text, config: &Config) -> Result<ServiceSpec, LoadError> {
    let mut checker = Checker::of(&text);
    let mut services = checker.services(&file.service, &config.ports, &config.routes, &config.timeouts);
    if let Some(service) = services.first() {
        checker.conflicts(service, config);
    }
    checker.finish()?;
    services.pop().ok_or_else(|| {
        LoadError::Wrong(vec![Problem::of_file(text.path(), "there is no [[service]]; write one".to_owned())])
    })
}

/// The one server of `file`, for `service`.
pub(super) fn check_server(
    file: &raw::File,
    text: Text,
    service: &ServiceSpec,
    config: &Config,
) -> Result<ServerSpec, LoadError> {
    let mut checker = Checker::of(&text);
    let raw = file.service.iter().flat_map(|service| &service.get_ref().server).next();
    let server = raw.and_then(|raw| checker.server_of(raw.get_ref(), service, config));
    checker.finish()?;
    server.ok_or_else(|| {
        LoadError::Wrong(vec![Problem::of_file(text.path(), "there is no server; name one".to_owned())])
    })
}

struct Checker<'a> {
    text: &'a Text,
    /// Whether files that are missing beside the configuration are warnings: a start goes on without them.
    is_lenient: bool,
    /// The byte of the text at which what is checked begins.
    begin: usize,
    problems: Vec<Problem>,
}

/// What services depend on, and what cannot change while the process runs.
struct Machine {
    dataplane: Dataplane,
    admin: Admin,
    ports: Vec<PortSpec>,
    routes: Vec<RouteSpec>,
    neighbors: BTreeMap<NextHop, Mac>,
    timeouts: Timeouts,
}

impl<'a> Checker<'a> {
    fn of(text: &'a Text) -> Self {
        Self { text, is_lenient: false, begin: 0, problems: Vec::new() }
    }

    /// All of the file that stands before the services.
    fn machine(&mut self, file: &raw::File) -> Machine {
        let dataplane = self.dataplane(&file.dataplane);
        let admin = self.admin(&file.admin);
        let ports = self.ports(&file.port);
        let routes = self.routes(&file.route, &ports);
        let neighbors = self.neighbors(&file.neighbor, &ports);
        let timeouts = self.timeouts(&file.timeouts, Timeouts::default(), "timeouts");
        Machine { dataplane, admin, ports, routes, neighbors, timeouts }
    }

    /// The rest of the file, and the whole with its warnings, if there is nothing worse.
    fn finish_with(
        mut self,
        file: &raw::File,
        machine: Machine,
        services: Vec<Arc<ServiceSpec>>,
    ) -> Result<(Config, Vec<Problem>), LoadError> {
        let acls = self.acls(&file.acl, &services);
        let hooks = self.hooks(&file.hook);
        let location = self.location(file);
        let names = self.names(file.names.as_ref());
        let metrics = self.metrics(file.metrics.as_ref());
        let web = self.web(file.web.as_ref());
        let log = self.log(&file.log);
        self.odd_file(file, &machine, &services, &location, names.as_ref());
        let warnings = self.finish()?;
        let Machine { dataplane, admin, ports, routes, neighbors, timeouts } = machine;
        Ok((
            Config {
                dataplane,
                admin,
                ports,
                routes,
                neighbors,
                acls,
                hooks,
                services,
                location,
                names,
                metrics,
                web,
                log,
                timeouts,
            },
            warnings,
        ))
    }

    /// The warnings, if there is nothing worse.
    fn finish(self) -> Result<Vec<Problem>, LoadError> {
        let (errors, warnings): (Vec<_>, Vec<_>) =
            self.problems.into_iter().partition(|problem| problem.severity == Severity::Error);
        if errors.is_empty() { Ok(warnings) } else { Err(LoadError::Wrong(errors)) }
    }

    fn report(&mut self, severity: Severity, place: Option<Range<usize>>, key: &str, message: String) {
        let place = place.map(|span| self.text.place(self.begin + span.start));
        self.problems.push(Problem {
            file: place.map_or(self.text.path(), |(path, _)| path).to_owned(),
            line: place.map(|(_, line)| line),
            key: key.to_owned(),
            message,
            severity,
        });
    }

    fn error(&mut self, place: Range<usize>, key: &str, message: impl Into<String>) {
        self.report(Severity::Error, Some(place), key, message.into());
    }

    /// Something beside the configuration is not as it should be: a file that it names.
    fn elsewhere(&mut self, place: Range<usize>, key: &str, message: impl Into<String>) {
        let severity = if self.is_lenient { Severity::Warning } else { Severity::Error };
        self.report(severity, Some(place), key, message.into());
    }

    fn warn(&mut self, place: Range<usize>, key: &str, message: impl Into<String>) {
        self.report(Severity::Warning, Some(place), key, message.into());
    }

    fn dataplane(&mut self, raw: &raw::Dataplane) -> Dataplane {
        let mut workers = Vec::new();
        match &raw.workers {
            None => workers.push(1),
            Some(list) => {
                for (at, core) in list.get_ref().iter().enumerate() {
                    let key = format!("dataplane.workers[{at}]");
                    let remedy = "name CPU cores as `lscpu -e` numbers them";
                    let Some(number) =
                        self.number(core, &key, const { raw::Dataplane::TABLE.whole("workers") }, remedy)
                    else {
                        continue;
                    };
                    if workers.contains(&(number as usize)) {
                        let message = format!(
                            "core {number} is named twice; its workers share it, which is for tests only"
                        );
                        self.warn(core.span(), &key, message);
                    }
                    workers.push(number as usize);
                }
                if list.get_ref().is_empty() {
                    self.error(
                        list.span(),
                        "dataplane.workers",
                        "no worker is named; write [1] for one on core 1",
                    );
                }
                if workers.len() > MAX_WORKERS {
                    let message = format!("there are more than {MAX_WORKERS} workers; name fewer cores");
                    self.error(list.span(), "dataplane.workers", message);
                }
            }
        }
        let session_capacity = match &raw.session_capacity {
            None => DEFAULT_SESSIONS,
            Some(value) => self
                .number(
                    value,
                    "dataplane.session_capacity",
                    const { raw::Dataplane::TABLE.whole("session_capacity") },
                    "it counts sessions per worker",
                )
                .map_or(DEFAULT_SESSIONS, |number| number as usize),
        };
        let hugepages = match &raw.hugepages {
            None => Hugepages::Auto,
            Some(value) => match value.get_ref().as_str() {
                "auto" => Hugepages::Auto,
                "require" => Hugepages::Require,
                "off" => Hugepages::Off,
                other => {
                    let message = unknown(other, &raw::Dataplane::TABLE, "hugepages");
                    self.error(value.span(), "dataplane.hugepages", message);
                    Hugepages::Auto
                }
            },
        };
        let session_capacity_ipv6 = raw.session_capacity_ipv6.as_ref().and_then(|value| {
            let remedy = "it counts sessions with an IPv6 address per worker";
            let range = const { raw::Dataplane::TABLE.whole("session_capacity_ipv6") };
            self.number(value, "dataplane.session_capacity_ipv6", range, remedy)
        });
        Dataplane {
            workers,
            session_capacity,
            session_capacity_ipv6: session_capacity_ipv6.map(|number| number as usize),
            hugepages,
        }
    }

    /// Where the director is.
    fn location(&mut self, file: &raw::File) -> Location {
        let Some(raw) = &file.location else { return Location::default() };
        let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.get_ref().clone());
        Location { zone: text(&raw.zone), region: text(&raw.region) }
    }

    fn admin(&mut self, raw: &raw::Admin) -> Admin {
        let socket = self.socket(raw);
        let mut group = None;
        if let Some(text) = &raw.group {
            match users::group(text.get_ref()) {
                Ok(number) => group = Some(number),
                Err(error) => self.error(text.span(), "admin.group", error),
            }
        }
        let mut operators = Vec::new();
        for (at, name) in raw.operators.iter().enumerate() {
            match users::Operator::parse(name.get_ref()) {
                Ok(operator) => operators.push(operator),
                Err(error) => self.error(name.span(), &format!("admin.operators[{at}]"), error),
            }
        }
        Admin {
            socket,
            group: raw.group.as_ref().map(|group| group.get_ref().clone()),
            operators: raw.operators.iter().map(|name| name.get_ref().clone()).collect(),
            access: Access::new(operators, group),
        }
    }

    fn socket(&mut self, raw: &raw::Admin) -> PathBuf {
        let Some(value) = &raw.socket else { return PathBuf::from(DEFAULT_SOCKET) };
        let path = PathBuf::from(value.get_ref());
        if !path.is_absolute() {
            self.error(
                value.span(),
                "admin.socket",
                format!("`{}` is not an absolute path; write {DEFAULT_SOCKET}", path.display()),
            );
        } else if value.get_ref().len() > 107 {
            self.error(
                value.span(),
                "admin.socket",
                "a socket's path has at most 107 bytes; choose a shorter one",
            );
        }
        path
    }

    fn ports(&mut self, list: &[Spanned<raw::Port>]) -> Vec<PortSpec> {
        if list.is_empty() {
            self.report(
                Severity::Error,
                None,
                "port",
                "there is no port; add a [[port]] with name, device and addresses".into(),
            );
        }
        let mut ports = Vec::new();
        let (mut names, mut devices, mut addresses_seen) = (HashSet::new(), HashSet::new(), HashMap::new());
        // Sub-interfaces behind the ports whose links they share.
        let mut entries: Vec<_> = list.iter().enumerate().collect();
        entries.sort_by_key(|(_, entry)| entry.get_ref().parent.is_some());
        for (at, entry) in entries {
            let raw = entry.get_ref();
            let key = |field: &str| format!("port[{at}].{field}");
            if at >= MAX_PORTS {
                self.error(
                    entry.span(),
                    &format!("port[{at}]"),
                    format!("there are more than {MAX_PORTS} ports; DPDK has no room for them"),
                );
                break;
            }
            let name = raw.name.get_ref().clone();
            self.check_name(&raw.name, &key("name"));
            if !names.insert(name.clone()) {
                self.error(
                    raw.name.span(),
                    &key("name"),
                    format!("`{name}` names another port already; choose another name"),
                );
            }
            let is_parent = list
                .iter()
                .any(|other| other.get_ref().parent.as_ref().is_some_and(|parent| *parent.get_ref() == name));
            let found = self.link(entry, &key, &ports, &mut devices);
            // The rest is checked all the same.
            let (device, vlan, rss) =
                found.unwrap_or_else(|| (Device::Vdev(format!("net_null{at}")), None, None));
            let mut addresses = Vec::new();
            for (n, text) in raw.addresses.iter().enumerate() {
                let key = format!("port[{at}].addresses[{n}]");
                let Some(network) = self.network(text, &key) else { continue };
                if network.is_broadcast(network.address) || !is_unicast(network.address) {
                    self.error(
                        text.span(),
                        &key,
                        format!("`{network}` is not a host's address; use an address inside the network"),
                    );
                } else if let Some(other) = addresses_seen.insert(network.address, name.clone()) {
                    self.error(
                        text.span(),
                        &key,
                        format!("{} is on port `{other}` already; remove one of the two", network.address),
                    );
                }
                if let Some(other) = ports.iter().find(|other: &&PortSpec| overlaps(other, network)) {
                    self.error(text.span(), &key, format!("network {network} overlaps with one of port `{}`; the way to its hosts would be unclear", other.name));
                }
                addresses.push(network);
            }
            if raw.addresses.is_empty() && !is_parent {
                self.error(entry.span(), &key("addresses"), "a port needs an address of its own to ask for its neighbours; add addresses = [\"192.0.2.2/24\"]");
            }
            let mtu = raw.mtu.as_ref().and_then(|value| self.mtu(value, &key("mtu"), &device, vlan, &ports));
            let accept_ra = raw.accept_ra.as_ref().filter(|value| *value.get_ref());
            if let Some(value) = accept_ra.filter(|_| addresses.iter().all(|own| own.address.is_ipv4())) {
                let message = "routers are asked from an IPv6 address of the port; add one to addresses";
                self.error(value.span(), &key("accept_ra"), message);
            }
            let accept_ra = accept_ra.is_some();
            let kernel = raw.kernel.unwrap_or(true);
            let source_check = self.source_check(raw.source_check.as_ref(), &key("source_check"));
            ports.push(PortSpec { name, device, vlan, mtu, accept_ra, addresses, rss, kernel, source_check });
        }
        ports
    }

    /// How a port's sources are checked.
    fn source_check(&mut self, value: Option<&Spanned<String>>, key: &str) -> SourceCheck {
        let Some(value) = value else { return SourceCheck::default() };
        let word = value.get_ref().as_str();
        SourceCheck::ALL.into_iter().find(|check| check.name() == word).unwrap_or_else(|| {
            self.error(value.span(), key, unknown(word, &raw::Port::TABLE, "source_check"));
            SourceCheck::default()
        })
    }

    /// The largest packet of a port's link.
    fn mtu(
        &mut self,
        value: &Spanned<i64>,
        key: &str,
        device: &Device,
        vlan: Option<SubInterface>,
        ports: &[PortSpec],
    ) -> Option<u16> {
        let remedy = "every link carries 1280 (IPv6), most 1500, jumbo frames have up to 9000";
        let mtu = self.number(value, key, const { raw::Port::TABLE.whole("mtu") }, remedy)? as u16;
        if let Some(parent) = vlan.and_then(|sub| ports.get(usize::from(sub.parent.0))) {
            let most = parent.mtu.unwrap_or(1_500);
            if mtu > most {
                let message =
                    format!("{mtu} is above the {most} of port `{}`; raise that first", parent.name);
                self.error(value.span(), key, message);
            }
        } else if device.name().starts_with("net_af_packet") {
            let frame: u32 = device.argument("framesz").and_then(|text| text.parse().ok()).unwrap_or(2_048);
            // The kernel puts its own header before the frame.
            if u32::from(mtu) + 128 > frame {
                let message = format!(
                    "af_packet's frames have {frame} bytes, too few for {mtu}; add framesz=10240,blocksz=40960,framecnt=1024 to the device"
                );
                self.error(value.span(), key, message);
            }
        }
        Some(mtu)
    }

    /// A port's device, or what it has from the port whose link it shares.
    fn link(
        &mut self,
        entry: &Spanned<raw::Port>,
        key: &impl Fn(&str) -> String,
        ports: &[PortSpec],
        devices: &mut HashSet<String>,
    ) -> Option<(Device, Option<SubInterface>, Option<RssSpec>)> {
        let raw = entry.get_ref();
        match (&raw.device, &raw.parent, &raw.vlan) {
            (Some(text), None, None) => {
                let device = self.device(text, &key("device"));
                if !devices.insert(device.name().to_owned()) {
                    let message = format!(
                        "`{}` is used by another port; each port needs its own device, or parent and vlan",
                        device.name()
                    );
                    self.error(text.span(), &key("device"), message);
                }
                let rss = raw.rss.as_ref().and_then(|rss| self.rss(rss, &key("rss")));
                Some((device, None, rss))
            }
            (None, Some(parent), Some(vlan)) => {
                if let Some(rss) = &raw.rss {
                    let message = "a sub-interface has its parent's; move it there";
                    self.error(rss.fields.span(), &key("rss"), message);
                }
                let found =
                    ports.iter().position(|port| port.name == *parent.get_ref() && port.vlan.is_none());
                let Some(at) = found else {
                    let with_devices: Vec<_> = ports
                        .iter()
                        .filter(|port| port.vlan.is_none())
                        .map(|port| port.name.as_str())
                        .collect();
                    let message = format!(
                        "`{}` is not a port with a device; {}",
                        parent.get_ref(),
                        suggestion(parent.get_ref(), &with_devices)
                    );
                    self.error(parent.span(), &key("parent"), message);
                    return None;
                };
                let range = const { raw::Port::TABLE.whole("vlan") };
                let id = self.number(vlan, &key("vlan"), range, "it is the VLAN's number")? as u16;
                let sub = SubInterface { parent: PortId(at as u16), vlan: id };
                if let Some(other) = ports.iter().find(|port| port.vlan == Some(sub)) {
                    let message = format!("port `{}` is VLAN {id} of it already; remove one", other.name);
                    self.error(vlan.span(), &key("vlan"), message);
                }
                Some((ports[at].device.clone(), Some(sub), ports[at].rss.clone()))
            }
            (Some(_), _, _) => {
                let message = "a port has a device, or parent and vlan; remove one of the two";
                self.error(entry.span(), &key("device"), message);
                None
            }
            (None, Some(_), None) => {
                self.error(entry.span(), &key("vlan"), "the key `vlan` is missing; add the VLAN's number");
                None
            }
            (None, None, _) => {
                let message = "the key `device` is missing; add it, or parent and vlan for a sub-interface";
                self.error(entry.span(), &key("device"), message);
                None
            }
        }
    }

    /// What the operator says of a device that does not say it itself.
    fn rss(&mut self, raw: &raw::Rss, key: &str) -> Option<RssSpec> {
        let fields = match raw.fields.get_ref().as_str() {
            "ports" => Fields::Ports,
            "addresses" => Fields::Addresses,
            "nothing" => return Some(RssSpec::Nothing),
            other => {
                let known = suggestion(other, &raw::Rss::TABLE.words("fields"));
                let message = format!("`{other}` is unknown; {known}");
                self.error(raw.fields.span(), &format!("{key}.fields"), message);
                return None;
            }
        };
        let Some(text) = &raw.key else {
            let message = "name the device's key, 40 bytes or more in hexadecimal: key = \"6d5a...\"";
            self.error(raw.fields.span(), &format!("{key}.key"), message);
            return None;
        };
        let digits: Vec<_> = text.get_ref().chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect();
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| match pair {
                [Some(high), Some(low)] => Some((high << 4 | low) as u8),
                _ => None,
            })
            .collect();
        let Some(bytes) = bytes.filter(|bytes| bytes.len() >= KEY_LEN_MIN) else {
            let message =
                format!("write at least {KEY_LEN_MIN} bytes in hexadecimal, with or without colons");
            self.error(text.span(), &format!("{key}.key"), message);
            return None;
        };
        let entries = match &raw.table {
            None => DEFAULT_TABLE,
            Some(value) => {
                let remedy = "it counts the entries of the indirection table";
                let range = const { raw::Rss::TABLE.whole("table") };
                let entries = self.number(value, &format!("{key}.table"), range, remedy)? as usize;
                if !entries.is_power_of_two() {
                    let message = format!("{entries} is not a power of two; no device has such a table");
                    self.error(value.span(), &format!("{key}.table"), message);
                    return None;
                }
                entries
            }
        };
        Some(RssSpec::Toeplitz { fields, key: bytes, entries })
    }

    fn device(&mut self, value: &Spanned<String>, key: &str) -> Device {
        let text = value.get_ref().trim();
        if is_pci_address(text) {
            return Device::Pci(text.to_ascii_lowercase());
        }
        let name = text.split(',').next().unwrap_or_default();
        let looks_like_vdev =
            name.starts_with("net_") || name.starts_with("eth_") || name.starts_with("virtio_user");
        if !looks_like_vdev {
            let message = format!(
                "`{text}` is neither a PCI address (0000:3b:00.0) nor a DPDK vdev (net_af_packet0,iface=eth1)"
            );
            self.error(value.span(), key, message);
        }
        Device::Vdev(text.to_owned())
    }

    fn routes(&mut self, list: &[Spanned<raw::Route>], ports: &[PortSpec]) -> Vec<RouteSpec> {
        let mut routes: Vec<RouteSpec> = Vec::new();
        for (at, entry) in list.iter().enumerate() {
            let raw = entry.get_ref();
            let (to_key, via_key) = (format!("route[{at}].to"), format!("route[{at}].via"));
            let to = self.network(&raw.to, &to_key);
            if let Some(to) = to
                && to.address != to.base()
            {
                let clean = Network { address: to.base(), ..to };
                self.error(
                    raw.to.span(),
                    &to_key,
                    format!("{to} has bits set behind its prefix; write {clean}"),
                );
            }
            let Some(to) = to else { continue };
            let is_connected = |own: &Network| own.base() == to.base() && own.prefix_len == to.prefix_len;
            if let Some(port) = ports.iter().find(|port| port.addresses.iter().any(is_connected)) {
                let message = format!(
                    "{to} is the network of port {}, whose stations are reached without a route; remove it",
                    port.name
                );
                self.warn(raw.to.span(), &to_key, message);
            }
            let mut hops = Vec::new();
            for text in raw.via.get_ref().iter() {
                let text = Spanned::new(raw.via.span(), text.clone());
                hops.extend(self.gateway(&text, &via_key, raw.port.as_ref(), to, ports));
            }
            if raw.via.get_ref().iter().next().is_none() {
                self.error(raw.via.span(), &via_key, "there is no gateway; name one");
            }
            if routes.iter().any(|other| other.to == to) {
                let message = format!(
                    "there is another route to {to}; write one route with via = [\"GATEWAY\", \"GATEWAY\"]"
                );
                self.error(raw.to.span(), &to_key, message);
            }
            routes.push(RouteSpec { to, hops });
        }
        routes
    }

    /// The port that is named, if one is.
    ///
    /// # Errors
    /// When there is no such port; that is told.
    fn named_port(
        &mut self,
        name: Option<&Spanned<String>>,
        key: &str,
        ports: &[PortSpec],
    ) -> Result<Option<usize>, ()> {
        let Some(name) = name else { return Ok(None) };
        let at = ports.iter().position(|port| port.name == *name.get_ref());
        if at.is_none() {
            let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
            let message =
                format!("`{}` is not a port; {}", name.get_ref(), suggestion(name.get_ref(), &names));
            self.error(name.span(), key, message);
        }
        at.map(Some).ok_or(())
    }

    /// A gateway of a route to `to`: on the network of a port, or link-local on the one that is named.
    fn gateway(
        &mut self,
        text: &Spanned<String>,
        key: &str,
        port: Option<&Spanned<String>>,
        to: Network,
        ports: &[PortSpec],
    ) -> Option<NextHop> {
        let via = self.address(text, key)?;
        if via.is_ipv4() != to.address.is_ipv4() {
            let message =
                format!("gateway {via} and destination {to} are of two families; name one of {to}'s");
            self.error(text.span(), key, message);
            return None;
        }
        let named = self.named_port(port, key, ports).ok()?;
        let found = if is_link_local(via) { named } else { connected_port(ports, via) };
        let Some(at) = found else {
            let message = if is_link_local(via) {
                format!("gateway {via} is link-local; say on which port it is: port = \"NAME\"")
            } else {
                format!("gateway {via} is on no port's network; it must be a neighbour ({})", networks(ports))
            };
            self.error(text.span(), key, message);
            return None;
        };
        if is_own(ports, via) {
            self.error(text.span(), key, format!("gateway {via} is the appliance itself; name the router"));
        } else if is_broadcast(ports, via) || is_network(ports, via) {
            let message = format!("{via} is a network's own or broadcast address; name the router");
            self.error(text.span(), key, message);
        }
        if let Some(named) = named.filter(|named| *named != at) {
            let message = format!(
                "gateway {via} is on the network of port {}, not of {}; name that port, or none",
                ports[at].name, ports[named].name
            );
            self.error(text.span(), key, message);
        }
        Some(NextHop { port: PortId(at as u16), address: via })
    }

    /// `usual`, but for what is said under `key`.
    fn timeouts(&mut self, raw: &raw::Timeouts, usual: Timeouts, key: &str) -> Timeouts {
        let mut timeouts = usual;
        let entries = [
            ("established", &raw.established, State::Established),
            ("syn_sent", &raw.syn_sent, State::SynSent),
            ("syn_recv", &raw.syn_recv, State::SynRecv),
            ("fin_wait", &raw.fin_wait, State::FinWait),
            ("time_wait", &raw.time_wait, State::TimeWait),
            ("close", &raw.close, State::Close),
            ("close_wait", &raw.close_wait, State::CloseWait),
            ("last_ack", &raw.last_ack, State::LastAck),
            ("udp_one_way", &raw.udp_one_way, State::UdpOneWay),
            ("udp", &raw.udp, State::UdpTwoWay),
        ];
        for (name, value, state) in entries {
            let Some(value) = value else { continue };
            let range = raw::Timeouts::TABLE.time(name);
            if let Some(duration) = self.duration(value, &format!("{key}.{name}"), range) {
                timeouts.set(state, duration.as_millis() as u32);
            }
        }
        timeouts
    }
}
