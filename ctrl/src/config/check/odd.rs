//! What is allowed and hardly meant: told with what to do, and nothing is refused for it.

use super::topology::connected_port;
use super::{Checker, Machine, raw};
use crate::config::{Location, NamesSpec, PortSpec, ServiceSpec};
use dataplane::flow::Protocol;
use dataplane::scheduler::Scheduler;
use dataplane::session::ForwardMode;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use toml::Spanned;

impl Checker<'_> {
    /// What is odd about one service.
    pub(super) fn odd_service(
        &mut self,
        entry: &Spanned<raw::Service>,
        at: usize,
        spec: &ServiceSpec,
        ports: &[PortSpec],
    ) {
        self.odd_check(entry, at, spec, ports);
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].{field}");
        let place = |value: Option<&Spanned<String>>| value.map_or(entry.span(), Spanned::span);
        let own: Vec<_> = spec.servers.iter().filter(|server| !server.is_sorry).collect();
        let has_check = spec.health.is_some() || spec.passive.is_some();
        if !spec.slow_start.is_zero() && !has_check {
            let message =
                "without a check no server is seen to come up, so none starts slowly; add [service.health]";
            self.warn(place(raw.slow_start.as_ref()), &key("slow_start"), message);
        }
        if let Some(value) = raw
            .protect_threshold
            .as_ref()
            .filter(|value| value.get_ref().0.is_some() && !has_check && spec.discover.is_none())
        {
            let message =
                "without a check no server is ever down, so nothing is protected; add [service.health]";
            self.warn(value.span(), &key("protect_threshold"), message);
        }
        let ignores_weights = matches!(spec.scheduler, Scheduler::RoundRobin | Scheduler::LeastConnection);
        let distinct: HashSet<_> =
            own.iter().map(|server| server.weight).filter(|weight| weight.value() > 0.0).collect();
        if ignores_weights && distinct.len() > 1 && spec.forward != ForwardMode::Snat {
            let name = spec.scheduler.name();
            let message = format!("{name} gives every server the same, whatever its weight; use w{name}");
            self.warn(place(raw.scheduler.as_ref()), &key("scheduler"), message);
        }
        let load = raw.health.as_ref().and_then(|health| {
            let health = health.get_ref();
            Some(("health.load_header", health.load_header.as_ref().or(health.load_field.as_ref())?))
        });
        let weighing =
            [("slow_start", raw.slow_start.as_ref()), ("connect_limit", raw.connect_limit.as_ref())];
        let weighing = weighing.into_iter().filter_map(|(field, value)| Some((field, value?))).chain(load);
        for (field, value) in weighing.filter(|_| ignores_weights) {
            let name = spec.scheduler.name();
            let message = format!("{name} gives every server the same, so this changes nothing; use w{name}");
            self.warn(value.span(), &key(field), message);
        }
        if let Some(value) = raw.hash_seed.as_ref().filter(|_| !spec.scheduler.has_table()) {
            let message = format!("{} hashes nothing; remove this, or use mh", spec.scheduler.name());
            self.warn(value.span(), &key("hash_seed"), message);
        }
        if let Some(value) = &raw.spill_below
            && own.iter().all(|server| server.location == Location::default())
            && spec.discover.is_none()
        {
            let message =
                "no server says where it is, so there is one tier and nothing spills; add zone to servers";
            self.warn(value.span(), &key("spill_below"), message);
        }
        let sorry = spec.servers.iter().find(|server| server.is_sorry);
        if let (Some(value), Some(sorry)) = (&raw.sorry_server, sorry) {
            if !has_check && spec.discover.is_none() {
                let message = "without a check no server is ever down, so the sorry server gets nobody; add [service.health]";
                self.warn(value.span(), &key("sorry_server"), message);
            }
            if own.iter().any(|server| server.endpoint == sorry.endpoint) {
                let message =
                    "it is one of the service's own servers, and is down when they are; name another";
                self.warn(value.span(), &key("sorry_server"), message);
            }
        }
        let of_udp =
            raw.timeouts.as_ref().and_then(|times| times.udp.as_ref().or(times.udp_one_way.as_ref()));
        if let Some(value) = of_udp.filter(|_| !spec.protocols.has(Protocol::Udp)) {
            let message =
                format!("the service is {}, so times of udp change nothing; remove them", spec.protocols);
            self.warn(value.span(), &key("timeouts"), message);
        }
        let of_tcp = raw.timeouts.as_ref().and_then(|times| {
            let all =
                [&times.established, &times.syn_recv, &times.syn_sent, &times.fin_wait, &times.time_wait];
            let more = [&times.close, &times.close_wait, &times.last_ack];
            all.into_iter().chain(more).find_map(Option::as_ref)
        });
        let has_states = spec.protocols.has(Protocol::Tcp) || spec.protocols.has(Protocol::Sctp);
        if let Some(value) = of_tcp.filter(|_| !has_states) {
            let message = format!(
                "the service is {}, so times of connections change nothing; use udp and udp_one_way",
                spec.protocols
            );
            self.warn(value.span(), &key("timeouts"), message);
        }
        if let Some(health) = &raw.health {
            let health = health.get_ref();
            let is_head = health.method.as_ref().is_some_and(|method| method.get_ref() == "HEAD");
            if let Some(value) = health.expect_body.as_ref().filter(|_| is_head) {
                let message = "the answer to HEAD has no body, so every server is down; use GET";
                self.warn(value.span(), &key("health.expect_body"), message);
            }
        }
    }

    /// What is odd about the machine and all services together.
    pub(super) fn odd_file(
        &mut self,
        file: &raw::File,
        machine: &Machine,
        services: &[Arc<ServiceSpec>],
        location: &Location,
        names: Option<&NamesSpec>,
    ) {
        self.odd_cores(file);
        self.odd_ports(file, machine);
        if let Some(user) = file.admin.operators.first().filter(|_| file.admin.group.is_none()) {
            let message = "without group nobody but root reaches the socket; add group";
            self.warn(user.span(), "admin.operators[0]", message);
        }
        if names.is_some() {
            self.odd_names(file, services);
        }
        for (at, entry) in file.route.iter().enumerate() {
            let raw = entry.get_ref();
            let mut seen = HashSet::new();
            if let Some(twice) = raw.via.get_ref().iter().find(|via| !seen.insert(via.as_str())) {
                let message = format!("{twice} is named twice, and gets twice as many flows; name each once");
                self.warn(raw.via.span(), &format!("route[{at}].via"), message);
            }
        }
        self.odd_places(file, services, location, names);
        let of_names = file.names.iter().flat_map(|names| {
            let dns = names.listen.iter().enumerate().map(|(at, text)| (format!("names.listen[{at}]"), text));
            dns.chain(names.http.iter().enumerate().map(|(at, text)| (format!("names.http[{at}]"), text)))
        });
        let listens = [
            ("metrics", file.metrics.as_ref().map(|metrics| &metrics.listen)),
            ("web", file.web.as_ref().map(|web| &web.listen)),
        ];
        let of_sites = listens.into_iter().flat_map(|(table, listen)| {
            let all = listen.into_iter().flatten().enumerate();
            all.map(move |(at, text)| (format!("{table}.listen[{at}]"), text))
        });
        let mut places: HashMap<std::net::SocketAddr, String> = HashMap::new();
        for (key, text) in of_names.chain(of_sites) {
            let Ok(socket) = text.get_ref().parse::<std::net::SocketAddr>() else { continue };
            let address = socket.ip();
            let is_local = address.is_loopback() || address.is_unspecified();
            let is_own =
                machine.ports.iter().any(|port| port.addresses.iter().any(|own| own.address == address));
            if !is_local && !is_own {
                let near = connected_port(&machine.ports, address).map(|port| &machine.ports[port].name);
                let where_to = near.map_or(String::new(), |name| format!(" (port {name} has that network)"));
                let message = format!(
                    "{address} is not a port's own address{where_to}, so nobody may reach it; add it to a port's addresses"
                );
                self.warn(text.span(), &key, message);
            }
            let has_kernel = |own: &PortSpec| own.kernel;
            let of_address = |port: &&PortSpec| port.addresses.iter().any(|own| own.address == address);
            if let Some(port) = machine.ports.iter().find(of_address).filter(|port| !has_kernel(port)) {
                let message = format!(
                    "port {} has kernel = false, so {address} is no address of the host's, and nobody may reach this; remove kernel = false",
                    port.name
                );
                self.warn(text.span(), &key, message);
            }
            if let Some(other) = places.insert(socket, key.clone()) {
                let message = format!("{other} has {socket} already; use another port");
                self.warn(text.span(), &key, message);
            }
        }
    }

    /// A check that the host cannot ask, because it has no interface on a server's link.
    fn odd_check(
        &mut self,
        entry: &Spanned<raw::Service>,
        at: usize,
        spec: &ServiceSpec,
        ports: &[PortSpec],
    ) {
        let Some(health) = entry.get_ref().health.as_ref().filter(|_| spec.health.is_some()) else { return };
        let blind = spec.servers.iter().find_map(|server| {
            let port = &ports[connected_port(ports, server.endpoint.address)?];
            (!port.kernel).then_some((server, port))
        });
        if let Some((server, port)) = blind.filter(|_| health.get_ref().command.is_none()) {
            let message = format!(
                "port {} has kernel = false, so the host cannot ask {} there, and no check is ever answered; remove kernel = false",
                port.name, server.endpoint.address
            );
            self.warn(health.span(), &format!("service[{at}].health"), message);
        }
    }

    /// Services that have one name in the zone, or none that a label can be, and clients that are nowhere. They are told
    /// where the zone is, because a service that stands as it stood is not read again.
    fn odd_names(&mut self, file: &raw::File, services: &[Arc<ServiceSpec>]) {
        let Some(place) = file.names.as_ref().map(|names| names.zone.span()) else { return };
        let mut known: HashMap<String, &str> = HashMap::new();
        for spec in services {
            if spec.name.contains('.') {
                let message = format!(
                    "service {} has a dot in its name, which is no label of the zone, so DNS does not answer for it; choose a name without",
                    spec.name
                );
                self.warn(place.clone(), "names.zone", message);
            }
            if let Some(other) = known.insert(spec.name.to_ascii_lowercase(), &spec.name) {
                let message = format!(
                    "DNS does not tell services {other} and {} apart, so one of both is answered for the two; choose another name",
                    spec.name
                );
                self.warn(place.clone(), "names.zone", message);
            }
        }
        let mut seen: HashSet<&str> = HashSet::new();
        for (at, client) in file.names.iter().flat_map(|names| &names.client).enumerate() {
            if let Some(network) =
                client.networks.first().filter(|_| client.zone.is_none() && client.region.is_none())
            {
                let message =
                    "it says no zone and no region, so these clients are nowhere; add zone or region";
                self.warn(network.span(), &format!("names.client[{at}]"), message);
            }
            for network in &client.networks {
                if !seen.insert(network.get_ref()) {
                    let message = format!(
                        "{} is named twice, and one of both counts; remove the other",
                        network.get_ref()
                    );
                    self.warn(network.span(), &format!("names.client[{at}].networks"), message);
                }
            }
        }
    }

    /// Cores that this machine does not have.
    fn odd_cores(&mut self, file: &raw::File) {
        let Ok(text) = crate::files::read_text(std::path::Path::new("/sys/devices/system/cpu/present"))
        else {
            return;
        };
        // As `0-7`, or `0`.
        let Some(last) = text.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<i64>().ok())
        else {
            return;
        };
        for (at, core) in file.dataplane.workers.iter().flat_map(|list| list.get_ref()).enumerate() {
            let number = *core.get_ref();
            if number > last {
                let message = format!(
                    "this machine has no core {number}, its last is {last}; the start would fail here"
                );
                self.warn(core.span(), &format!("dataplane.workers[{at}]"), message);
            }
        }
    }

    /// Two ports that read one interface.
    fn odd_ports(&mut self, file: &raw::File, machine: &Machine) {
        let mut readers: HashMap<&str, &str> = HashMap::new();
        for port in machine.ports.iter().filter(|port| port.vlan.is_none()) {
            let Some(interface) = port.device.interface() else { continue };
            self.odd_queues(file, machine, port);
            let Some(other) = readers.insert(interface, &port.name) else { continue };
            let found =
                file.port.iter().enumerate().find(|(_, entry)| *entry.get_ref().name.get_ref() == port.name);
            if let Some((at, entry)) = found {
                let message = format!(
                    "port {other} reads interface {interface} too, so each frame comes twice; use parent and vlan for a second network on it"
                );
                self.warn(entry.span(), &format!("port[{at}].device"), message);
            }
        }
    }

    /// Workers without a queue of their own.
    fn odd_queues(&mut self, file: &raw::File, machine: &Machine, port: &PortSpec) {
        let workers = machine.dataplane.workers.len();
        let queues = port.device.argument("qpairs").map_or(Ok(1), str::parse::<usize>);
        let is_short =
            port.device.name().starts_with("net_af_packet") && queues.is_ok_and(|queues| queues < workers);
        let found =
            file.port.iter().enumerate().find(|(_, entry)| *entry.get_ref().name.get_ref() == port.name);
        if let (Some((at, entry)), true) = (found, is_short) {
            let message = format!(
                "{workers} workers need as many queues, so the start would fail; add qpairs={workers} to the device"
            );
            self.warn(entry.span(), &format!("port[{at}].device"), message);
        }
    }

    /// Zones and regions that no server has.
    fn odd_places(
        &mut self,
        file: &raw::File,
        services: &[Arc<ServiceSpec>],
        location: &Location,
        names: Option<&NamesSpec>,
    ) {
        // What sources name is not known yet.
        if services.iter().any(|spec| spec.discover.is_some()) || services.is_empty() {
            return;
        }
        let servers = || services.iter().flat_map(|spec| &spec.servers);
        let has = |zone: &str| servers().any(|server| server.location.zone.as_deref() == Some(zone));
        let says_any = servers().any(|server| server.location.zone.is_some());
        let raw = file.location.as_ref();
        if let (Some(zone), Some(place)) = (&location.zone, raw.and_then(|raw| raw.zone.as_ref()))
            && !has(zone)
        {
            let message = match says_any {
                true => format!("no server is in zone {zone}, so none is near; look at the spelling"),
                false => "no server says where it is, so all are equally far; add zone to servers".to_owned(),
            };
            self.warn(place.span(), "location.zone", message);
        }
        let clients = file.names.iter().flat_map(|names| &names.client).enumerate();
        for (at, client) in clients.filter(|_| names.is_some()) {
            if let Some(zone) = client.zone.as_ref().filter(|zone| !has(zone.get_ref())) {
                let message =
                    format!("no server is in zone {}, so these clients have none near", zone.get_ref());
                self.warn(zone.span(), &format!("names.client[{at}].zone"), message);
            }
        }
    }
}
