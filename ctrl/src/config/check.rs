//! From what the file says to what can be done: every rule about values, in the order
//! of the file.
//!
//! "Configured, and nothing is forwarded, and nothing says why" is what operators
//! suffer most from; so what cannot forward is refused here, with the reason.

use super::problem::line_of;
use super::raw::{self, suggestion};
use super::{
    Config, Dataplane, Device, ForwardMode, HealthSpec, Hugepages, LoadError, Loaded, PortSpec, Problem,
    RouteSpec, ServerSpec, ServiceSpec, Severity,
};
use dataplane::flow::{Endpoint, Protocol};
use dataplane::ids::{MAX_LOCALS, MAX_SERVERS, MAX_SERVICES};
use dataplane::scheduler::Scheduler;
use dataplane::session::{State, Timeouts};
use dataplane::snapshot::Network;
use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";
const DEFAULT_SESSIONS: usize = 1_000_000;
const MAX_SESSIONS: i64 = 1 << 30;
/// ipvsadm's range.
const MAX_WEIGHT: i64 = 65_535;
const MAX_PORTS: usize = 32;
/// A timeout must stay far below the 49 days after which stamps repeat.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);

pub(super) fn check(file: &raw::File, text: &str, path: &Path) -> Result<Loaded, LoadError> {
    let mut checker = Checker { text, path, problems: Vec::new() };
    let dataplane = checker.dataplane(&file.dataplane);
    let admin_socket = checker.socket(&file.admin);
    let ports = checker.ports(&file.port);
    let routes = checker.routes(&file.route, &ports);
    let services = checker.services(&file.service, &ports, &routes);
    let timeouts = checker.timeouts(&file.timeouts);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        checker.problems.into_iter().partition(|problem| problem.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(LoadError::Wrong(errors));
    }
    Ok(Loaded { config: Config { dataplane, admin_socket, ports, routes, services, timeouts }, warnings })
}

struct Checker<'a> {
    text: &'a str,
    path: &'a Path,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn report(&mut self, severity: Severity, place: Option<Range<usize>>, key: &str, message: String) {
        self.problems.push(Problem {
            file: self.path.to_owned(),
            line: place.map(|span| line_of(self.text, span.start)),
            key: key.to_owned(),
            message,
            severity,
        });
    }

    fn error(&mut self, place: Range<usize>, key: &str, message: impl Into<String>) {
        self.report(Severity::Error, Some(place), key, message.into());
    }

    fn warn(&mut self, place: Range<usize>, key: &str, message: impl Into<String>) {
        self.report(Severity::Warning, Some(place), key, message.into());
    }

    /// A whole number in `range`, or `None` and an error with `remedy`.
    fn number(&mut self, value: &Spanned<i64>, key: &str, range: Range<i64>, remedy: &str) -> Option<i64> {
        let number = *value.get_ref();
        if number < range.start {
            self.error(value.span(), key, format!("{number} is below {}; {remedy}", range.start));
            return None;
        }
        if number >= range.end {
            self.error(value.span(), key, format!("{number} is above {}; {remedy}", range.end - 1));
            return None;
        }
        Some(number)
    }

    fn dataplane(&mut self, raw: &raw::Dataplane) -> Dataplane {
        let mut workers = Vec::new();
        match &raw.workers {
            None => workers.push(1),
            Some(list) => {
                for (at, core) in list.get_ref().iter().enumerate() {
                    let key = format!("dataplane.workers[{at}]");
                    let remedy = "name CPU cores as `lscpu -e` numbers them";
                    let Some(number) = self.number(core, &key, 0..1024, remedy) else { continue };
                    if workers.contains(&(number as usize)) {
                        self.error(
                            core.span(),
                            &key,
                            format!("core {number} is named twice; each worker needs its own"),
                        );
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
                if workers.len() > 1 {
                    let message = "this version runs one worker; name one core (several workers need reply steering, which a later version brings)";
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
                    1..MAX_SESSIONS + 1,
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
                    let message =
                        format!("`{other}` is unknown; {}", suggestion(other, &["auto", "require", "off"]));
                    self.error(value.span(), "dataplane.hugepages", message);
                    Hugepages::Auto
                }
            },
        };
        Dataplane { workers, session_capacity, hugepages }
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
        for (at, entry) in list.iter().enumerate() {
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
            let device = self.device(&raw.device, &key("device"));
            if !devices.insert(device.name().to_owned()) {
                self.error(
                    raw.device.span(),
                    &key("device"),
                    format!("`{}` is used by another port; each port needs its own device", device.name()),
                );
            }
            let mut addresses = Vec::new();
            for (n, text) in raw.addresses.iter().enumerate() {
                let key = format!("port[{at}].addresses[{n}]");
                let Some(network) = self.network(text, &key) else { continue };
                if network.is_broadcast(network.address) || !is_unicast(network.address) {
                    self.error(
                        text.span(),
                        &key,
                        format!("`{network}` is no host's address; use an address inside the network"),
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
            if raw.addresses.is_empty() {
                self.error(entry.span(), &key("addresses"), "a port needs an address of its own to ask for its neighbours; add addresses = [\"192.0.2.2/24\"]");
            }
            ports.push(PortSpec { name, device, addresses });
        }
        ports
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
            let via = self.address(&raw.via, &via_key);
            if let Some(to) = to
                && to.address.to_bits() & !to.mask() != 0
            {
                let clean = Network { address: Ipv4Addr::from_bits(to.address.to_bits() & to.mask()), ..to };
                self.error(
                    raw.to.span(),
                    &to_key,
                    format!("{to} has bits set behind its prefix; write {clean}"),
                );
            }
            let (Some(to), Some(via)) = (to, via) else { continue };
            let Some(port) = connected_port(ports, via) else {
                self.error(
                    raw.via.span(),
                    &via_key,
                    format!(
                        "gateway {via} is on no port's network; it must be a neighbour ({})",
                        networks(ports)
                    ),
                );
                continue;
            };
            if is_own(ports, via) {
                self.error(
                    raw.via.span(),
                    &via_key,
                    format!("gateway {via} is the appliance itself; name the router"),
                );
            }
            if routes.iter().any(|other| other.to == to) {
                self.error(
                    raw.to.span(),
                    &to_key,
                    format!("there is another route to {to}; several next hops come with a later version"),
                );
            }
            routes.push(RouteSpec { to, via, port });
        }
        routes
    }

    fn services(
        &mut self,
        list: &[Spanned<raw::Service>],
        ports: &[PortSpec],
        routes: &[RouteSpec],
    ) -> Vec<ServiceSpec> {
        let mut services: Vec<ServiceSpec> = Vec::new();
        if list.len() > MAX_SERVICES {
            self.report(
                Severity::Error,
                None,
                "service",
                format!("{} services are more than the {MAX_SERVICES} that fit", list.len()),
            );
        }
        let mut names = HashSet::new();
        let mut listens = HashMap::new();
        for (at, entry) in list.iter().enumerate() {
            let raw = entry.get_ref();
            let Some(service) = self.service(at, entry, ports, routes) else { continue };
            if !names.insert(service.name.clone()) {
                let message =
                    format!("`{}` names another service already; choose another name", service.name);
                self.error(raw.name.span(), &format!("service[{at}].name"), message);
            }
            if let Some(other) = listens.insert((service.protocol, service.listen), service.name.clone()) {
                let message = format!(
                    "{} {} is service `{other}`'s already; use another address or port",
                    service.protocol.name(),
                    service.listen
                );
                self.error(raw.listen.span(), &format!("service[{at}].listen"), message);
            }
            services.push(service);
        }
        self.check_roles(list, &services);
        let servers: usize = services.iter().map(|service| service.servers.len()).sum();
        if servers > MAX_SERVERS {
            self.report(
                Severity::Error,
                None,
                "service",
                format!("{servers} servers are more than the {MAX_SERVERS} that fit"),
            );
        }
        services
    }

    /// An address serves one purpose: VIPs are not local addresses, and neither is a server.
    fn check_roles(&mut self, list: &[Spanned<raw::Service>], services: &[ServiceSpec]) {
        let vips: HashSet<_> = services.iter().map(|service| service.listen.address).collect();
        let locals: HashSet<_> =
            services.iter().flat_map(|service| service.local_addresses.iter().copied()).collect();
        if locals.len() > MAX_LOCALS {
            self.report(
                Severity::Error,
                None,
                "service",
                format!("{} local addresses are more than the {MAX_LOCALS} that fit", locals.len()),
            );
        }
        for (at, entry) in list.iter().enumerate() {
            let raw = entry.get_ref();
            for (n, text) in raw.local_addresses.iter().enumerate() {
                if text.get_ref().parse().is_ok_and(|address: Ipv4Addr| vips.contains(&address)) {
                    let message = format!(
                        "{} is a VIP; a local address must be another, because servers answer to it",
                        text.get_ref()
                    );
                    self.error(text.span(), &format!("service[{at}].local_addresses[{n}]"), message);
                }
            }
            for (n, server) in raw.server.iter().enumerate() {
                let text = &server.get_ref().address;
                let host = text.get_ref().split(':').next().unwrap_or_default();
                let Ok(address) = host.parse::<Ipv4Addr>() else { continue };
                if vips.contains(&address) || locals.contains(&address) {
                    let message = format!(
                        "{address} is one of the appliance's VIPs or local addresses; a server must be another host"
                    );
                    self.error(text.span(), &format!("service[{at}].server[{n}].address"), message);
                }
            }
        }
    }

    fn service(
        &mut self,
        at: usize,
        entry: &Spanned<raw::Service>,
        ports: &[PortSpec],
        routes: &[RouteSpec],
    ) -> Option<ServiceSpec> {
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].{field}");
        self.check_name(&raw.name, &key("name"));
        let protocol = self.protocol(raw.protocol.as_ref(), &key("protocol"));
        self.forward(raw.forward.as_ref(), &key("forward"));
        let scheduler = self.scheduler(raw.scheduler.as_ref(), &key("scheduler"));
        let listen = self.endpoint(&raw.listen, &key("listen"), None);
        if let Some(Endpoint { address, .. }) = listen
            && (!is_unicast(address) || is_broadcast(ports, address))
        {
            self.error(
                raw.listen.span(),
                &key("listen"),
                format!("{address} is no host's address; choose a VIP"),
            );
        }

        let mut local_addresses = Vec::new();
        for (n, text) in raw.local_addresses.iter().enumerate() {
            let key = format!("service[{at}].local_addresses[{n}]");
            let Some(address) = self.address(text, &key) else { continue };
            if is_own(ports, address) {
                let message = format!(
                    "{address} is a port's own address; use another of the same network, so that its ports belong to sessions alone"
                );
                self.error(text.span(), &key, message);
            } else if connected_port(ports, address).is_none() {
                let message = format!(
                    "{address} belongs to no port's network ({}); servers' answers would never arrive",
                    networks(ports)
                );
                self.error(text.span(), &key, message);
            } else if is_broadcast(ports, address) {
                self.error(
                    text.span(),
                    &key,
                    format!("{address} is a network's broadcast address; use a host's"),
                );
            } else if local_addresses.contains(&address) {
                self.error(text.span(), &key, format!("{address} is listed twice"));
            }
            local_addresses.push(address);
        }
        if raw.local_addresses.is_empty() {
            let message = "a fullnat service without local addresses cannot forward; add local_addresses = [\"ADDRESS\"] from the network of the port towards the servers";
            self.error(entry.span(), &key("local_addresses"), message);
        }

        let mut servers: Vec<ServerSpec> = Vec::new();
        for (n, server) in raw.server.iter().enumerate() {
            let prefix = format!("service[{at}].server[{n}]");
            let default_port = listen.map(|listen| listen.l4_port);
            if let Some(server) =
                self.server(server.get_ref(), &prefix, default_port, ports, routes, &local_addresses)
            {
                if servers.iter().any(|other| other.endpoint == server.endpoint) {
                    let place = raw.server[n].get_ref().address.span();
                    self.error(
                        place,
                        &format!("{prefix}.address"),
                        format!(
                            "{} is listed twice; give one of them the sum of the weights",
                            server.endpoint
                        ),
                    );
                }
                servers.push(server);
            }
        }
        if raw.server.is_empty() {
            self.warn(
                entry.span(),
                &key("server"),
                "the service has no server and refuses every session until one is added",
            );
        } else if servers.iter().all(|server| server.weight == 0) && !servers.is_empty() {
            self.warn(
                entry.span(),
                &key("server"),
                "every server has weight 0; the service refuses new sessions",
            );
        }
        let health = raw.health.as_ref().and_then(|health| self.health(health, at));
        Some(ServiceSpec {
            name: raw.name.get_ref().clone(),
            listen: listen?,
            protocol: protocol?,
            forward: ForwardMode::FullNat,
            scheduler: scheduler?,
            local_addresses,
            servers,
            health,
        })
    }

    fn server(
        &mut self,
        raw: &raw::Server,
        prefix: &str,
        default_port: Option<u16>,
        ports: &[PortSpec],
        routes: &[RouteSpec],
        locals: &[Ipv4Addr],
    ) -> Option<ServerSpec> {
        let key = format!("{prefix}.address");
        let endpoint = self.endpoint(&raw.address, &key, default_port);
        if let Some(Endpoint { address, .. }) = endpoint {
            if !is_unicast(address) {
                self.error(raw.address.span(), &key, format!("{address} is no host's address"));
            } else if is_own(ports, address) {
                self.error(
                    raw.address.span(),
                    &key,
                    format!("{address} is the appliance itself; a server must be another host"),
                );
            } else {
                match port_towards(ports, routes, address) {
                    None => {
                        let message = format!(
                            "no route leads to {address}; it is on no port's network ({}), so add a [[route]] to it",
                            networks(ports)
                        );
                        self.error(raw.address.span(), &key, message);
                    }
                    Some(port)
                        if !locals.is_empty()
                            && locals.iter().all(|local| connected_port(ports, *local) != Some(port)) =>
                    {
                        let message = format!(
                            "{address} is reached by port `{}`, but none of the service's local addresses is on its network; its answers arrive only if the servers have a route to them",
                            ports[port].name
                        );
                        self.warn(raw.address.span(), &key, message);
                    }
                    Some(_) => {}
                }
            }
        }
        let weight = match &raw.weight {
            None => Some(1),
            Some(weight) => self.number(
                weight,
                &format!("{prefix}.weight"),
                0..MAX_WEIGHT + 1,
                "use 0 to take no new sessions",
            ),
        };
        Some(ServerSpec { endpoint: endpoint?, weight: weight? as u32 })
    }

    fn protocol(&mut self, value: Option<&Spanned<String>>, key: &str) -> Option<Protocol> {
        let Some(value) = value else { return Some(Protocol::Tcp) };
        match value.get_ref().as_str() {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "sctp" => {
                self.error(value.span(), key, "sctp comes with a later version; use tcp or udp");
                None
            }
            other => {
                self.error(
                    value.span(),
                    key,
                    format!("`{other}` is unknown; {}", suggestion(other, &["tcp", "udp"])),
                );
                None
            }
        }
    }

    fn forward(&mut self, value: Option<&Spanned<String>>, key: &str) {
        let Some(value) = value else { return };
        match value.get_ref().as_str() {
            "fullnat" => {}
            later @ ("nat" | "dr" | "tunnel" | "snat") => {
                self.error(value.span(), key, format!("`{later}` comes with a later version; use fullnat"));
            }
            other => {
                let message = format!("`{other}` is unknown; {}", suggestion(other, &["fullnat"]));
                self.error(value.span(), key, message);
            }
        }
    }

    fn scheduler(&mut self, value: Option<&Spanned<String>>, key: &str) -> Option<Scheduler> {
        // ipvsadm's default.
        let Some(value) = value else { return Some(Scheduler::WeightedLeastConnection) };
        let name = value.get_ref().as_str();
        let known = Scheduler::ALL.map(Scheduler::name);
        if let Some(scheduler) = Scheduler::ALL.into_iter().find(|scheduler| scheduler.name() == name) {
            return Some(scheduler);
        }
        let message = if ["lc", "sh", "dh", "sed", "nq", "conhash", "fo", "ovf", "twos"].contains(&name) {
            format!("`{name}` comes with a later version; use one of {}", known.join(", "))
        } else {
            format!("`{name}` is unknown; {}", suggestion(name, &known))
        };
        self.error(value.span(), key, message);
        None
    }

    fn health(&mut self, entry: &Spanned<raw::Health>, at: usize) -> Option<HealthSpec> {
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].health.{field}");
        let kind = raw.kind.get_ref().clone();
        let known = ["tcp", "http", "https", "udp", "dns", "icmp", "script"];
        if !known.contains(&kind.as_str()) {
            self.error(
                raw.kind.span(),
                &key("type"),
                format!("`{kind}` is unknown; {}", suggestion(&kind, &known)),
            );
        }
        let path = raw.path.as_ref().map(|path| path.get_ref().clone());
        if let Some(path) = raw.path.as_ref().filter(|path| !path.get_ref().starts_with('/')) {
            self.error(
                path.span(),
                &key("path"),
                format!("`{}` does not begin with /; write /{}", path.get_ref(), path.get_ref()),
            );
        }
        let interval = raw.interval.as_ref().map_or(Some(Duration::from_secs(2)), |value| {
            self.duration(value, &key("interval"), Duration::from_millis(100)..Duration::from_secs(86_400))
        });
        let count = |this: &mut Self, value: Option<&Spanned<i64>>, field: &str, default: i64| match value {
            None => Some(default),
            Some(value) => this.number(value, &key(field), 1..1001, "it counts answers in a row"),
        };
        let rise = count(self, raw.rise.as_ref(), "rise", 2);
        let fall = count(self, raw.fall.as_ref(), "fall", 3);
        let message =
            "health checks do not run in this version: every server counts as up, and its weight decides";
        self.warn(entry.span(), &format!("service[{at}].health"), message);
        Some(HealthSpec { kind, path, interval: interval?, rise: rise? as u32, fall: fall? as u32 })
    }

    fn timeouts(&mut self, raw: &raw::Timeouts) -> Timeouts {
        let mut timeouts = Timeouts::default();
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
            if let Some(duration) =
                self.duration(value, &format!("timeouts.{name}"), Duration::from_secs(1)..MAX_TIMEOUT)
            {
                timeouts.set(state, duration.as_millis() as u32);
            }
        }
        timeouts
    }

    fn check_name(&mut self, value: &Spanned<String>, key: &str) {
        let name = value.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) {
            self.error(
                value.span(),
                key,
                format!("`{name}` is no name; use 1 to 63 letters, digits, `-`, `_` and `.`"),
            );
        }
    }

    fn duration(&mut self, value: &Spanned<String>, key: &str, range: Range<Duration>) -> Option<Duration> {
        let text = value.get_ref();
        let Some(duration) = parse_duration(text) else {
            self.error(
                value.span(),
                key,
                format!("`{text}` is no duration; write a number and ms, s, m or h, as \"2s\""),
            );
            return None;
        };
        if duration < range.start || duration > range.end {
            let message = format!(
                "{text} is out of range; use {} ms to {} s",
                range.start.as_millis(),
                range.end.as_secs()
            );
            self.error(value.span(), key, message);
            return None;
        }
        Some(duration)
    }

    fn network(&mut self, value: &Spanned<String>, key: &str) -> Option<Network> {
        let text = value.get_ref();
        if text.split('/').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
            self.error(
                value.span(),
                key,
                format!("`{text}` is IPv6, which comes with a later version; use IPv4"),
            );
            return None;
        }
        text.parse().map_err(|message: String| self.error(value.span(), key, message)).ok()
    }

    fn address(&mut self, value: &Spanned<String>, key: &str) -> Option<Ipv4Addr> {
        let text = value.get_ref();
        let address = text.parse().ok();
        if address.is_none() {
            let message = if text.parse::<Ipv6Addr>().is_ok() {
                format!("`{text}` is IPv6, which comes with a later version; use IPv4")
            } else {
                format!("`{text}` is no IPv4 address; write it as 10.0.0.200, without a prefix")
            };
            self.error(value.span(), key, message);
        }
        address
    }

    fn endpoint(
        &mut self,
        value: &Spanned<String>,
        key: &str,
        default_port: Option<u16>,
    ) -> Option<Endpoint> {
        let text = value.get_ref();
        if text.starts_with('[') || text.parse::<Ipv6Addr>().is_ok() {
            self.error(
                value.span(),
                key,
                format!("`{text}` is IPv6, which comes with a later version; use IPv4"),
            );
            return None;
        }
        let (address, l4_port) = match (text.split_once(':'), default_port) {
            (Some((address, l4_port)), _) => (address.parse().ok(), l4_port.parse::<u16>().ok()),
            (None, Some(default_port)) => (text.parse().ok(), Some(default_port)),
            (None, None) => (None, None),
        };
        match (address, l4_port) {
            (Some(_), Some(0)) => {
                self.error(value.span(), key, format!("`{text}` has port 0; name a port from 1 to 65535"));
                None
            }
            (Some(address), Some(l4_port)) => Some(Endpoint { address, l4_port }),
            (None, _) | (_, None) => {
                self.error(
                    value.span(),
                    key,
                    format!("`{text}` is not ADDRESS:PORT; write it as 192.0.2.10:80"),
                );
                None
            }
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}

fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, len: usize| part.len() == len && part.chars().all(|c| c.is_ascii_hexdigit());
    let (domain, rest) = match text.split(':').count() {
        3 => text.split_once(':').unwrap_or(("", text)),
        _ => ("0000", text),
    };
    let Some((bus, rest)) = rest.split_once(':') else { return false };
    let Some((device, function)) = rest.split_once('.') else { return false };
    hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.octets()[0] == 0 || address.is_loopback() || address.octets()[0] >= 224)
}

fn overlaps(port: &PortSpec, network: Network) -> bool {
    port.addresses.iter().any(|other| other.contains(network.address) || network.contains(other.address))
}

fn is_broadcast(ports: &[PortSpec], address: Ipv4Addr) -> bool {
    ports.iter().flat_map(|port| &port.addresses).any(|network| network.is_broadcast(address))
}

fn is_own(ports: &[PortSpec], address: Ipv4Addr) -> bool {
    ports.iter().any(|port| port.addresses.iter().any(|own| own.address == address))
}

/// The index of the port on whose network `address` is.
fn connected_port(ports: &[PortSpec], address: Ipv4Addr) -> Option<usize> {
    ports.iter().position(|port| port.addresses.iter().any(|network| network.contains(address)))
}

/// The index of the port by which `address` is reached.
fn port_towards(ports: &[PortSpec], routes: &[RouteSpec], address: Ipv4Addr) -> Option<usize> {
    connected_port(ports, address).or_else(|| {
        let matching = routes.iter().filter(|route| route.to.contains(address));
        matching.max_by_key(|route| route.to.prefix_len).map(|route| route.port)
    })
}

fn networks(ports: &[PortSpec]) -> String {
    let list: Vec<_> = ports
        .iter()
        .flat_map(|port| port.addresses.iter().map(move |network| format!("{} has {network}", port.name)))
        .collect();
    list.join(", ")
}
