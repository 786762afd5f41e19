//! Services, their servers, and that each address serves one purpose.

use super::topology::{connected_port, is_broadcast, is_own, is_unicast, networks, port_towards};
use super::{Checker, raw, suggestion};
use crate::config::{ForwardMode, HealthSpec, PortSpec, RouteSpec, ServerSpec, ServiceSpec, Severity};
use dataplane::flow::{Endpoint, Protocol};
use dataplane::ids::{MAX_LOCALS, MAX_SERVERS, MAX_SERVICES};
use dataplane::scheduler::Scheduler;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;
use toml::Spanned;

/// ipvsadm's range.
const MAX_WEIGHT: i64 = 65_535;

impl Checker<'_> {
    pub(super) fn services(
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
}
