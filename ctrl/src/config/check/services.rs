//! Services, each by itself: what clients and servers see of it.

use super::servers::Wanted;
use super::together::{Share, clashes};
use super::topology::{
    connected_port, gateway_in, is_broadcast, is_link_local, is_network, is_own, is_unicast, networks,
};
use super::{Checker, Keyed, raw, takes, unknown};
use crate::config::{Config, Location, PortSpec, RouteSpec, ServerSpec, ServiceSpec, Severity, Weight};
use dataplane::flow::{Endpoint, Protocol, Protocols};
use dataplane::scheduler::{Flags, Scheduler};
use dataplane::session::{ForwardMode, Timeouts};
use dataplane::snapshot::{Listen, Network, ServiceOptions};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;

impl Checker<'_> {
    pub(super) fn services(
        &mut self,
        list: &[Spanned<raw::Service>],
        ports: &[PortSpec],
        routes: &[RouteSpec],
        timeouts: &Timeouts,
    ) -> Vec<ServiceSpec> {
        let (mut places, mut services) = (Vec::new(), Vec::new());
        for (at, entry) in list.iter().enumerate() {
            if let Some(service) = self.service(at, entry, ports, routes, timeouts) {
                places.push(at);
                services.push(service);
            }
        }
        for clash in clashes(services.iter()) {
            let Some((nth, share)) = clash.of else {
                self.report(Severity::Error, None, "service", clash.message);
                continue;
            };
            let at = places[nth];
            let (place, field) = place_of(&list[at], &share);
            self.error(place, &format!("service[{at}].{field}"), clash.message);
        }
        services
    }

    /// What a service cannot have together with those of `config` that have other names.
    pub(super) fn conflicts(&mut self, service: &ServiceSpec, config: &Config) {
        let others = config.services.iter().map(Arc::as_ref).filter(|other| other.name != service.name);
        let all = || others.clone().chain([service]);
        for clash in clashes(all()) {
            let of = clash.of.and_then(|(at, _)| all().nth(at)).filter(|of| of.name != service.name);
            let message = match of {
                Some(other) => format!("of service `{}`: {}", other.name, clash.message),
                None => clash.message,
            };
            self.report(Severity::Error, None, "service", message);
        }
    }

    /// The service in place `at` of the file, if it is right by itself.
    pub(super) fn service(
        &mut self,
        at: usize,
        entry: &Spanned<raw::Service>,
        ports: &[PortSpec],
        routes: &[RouteSpec],
        timeouts: &Timeouts,
    ) -> Option<ServiceSpec> {
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].{field}");
        self.check_name(&raw.name, &key("name"));
        let protocols = self.protocols(raw.protocol.as_ref(), &key("protocol"));
        let mode = self.forward(raw.forward.as_ref(), &key("forward"))?;
        let scheduler = self.scheduler(raw.scheduler.as_ref(), &key("scheduler"));
        let scheduler_flags = self.scheduler_flags(&raw.scheduler_flags, scheduler, &key("scheduler_flags"));
        let hash_seed = raw.hash_seed.as_ref().map_or(0, |value| *value.get_ref() as u64);
        let listens = match (&raw.listen, mode) {
            (Some(listen), ForwardMode::Snat) => self.destinations(listen, &key("listen"))?,
            (None, ForwardMode::Snat) => {
                let all = ["0.0.0.0/0:*", "[::/0]:*"];
                all.iter().filter_map(|text| text.parse().ok()).collect()
            }
            (Some(listen), _) => self.listens(listen, &key("listen"), ports, routes)?,
            (None, _) => {
                self.error(entry.span(), &key("listen"), "the key `listen` is missing; add it");
                return None;
            }
        };
        if let (true, Some(value)) = (takes(protocols, Protocol::Icmp), &raw.protocol) {
            if mode != ForwardMode::Snat {
                let message = "icmp is for snat: the appliance itself answers pings of its VIPs; remove it";
                self.error(value.span(), &key("protocol"), message);
            }
            let names_port = |listen: &Listen| listen.l4_ports != (1..=u16::MAX);
            if let (Some(value), true) = (&raw.listen, listens.iter().any(names_port)) {
                self.error(value.span(), &key("listen"), "pings have no ports; write ADDRESS:*");
            }
        }
        let sources = self.sources(&raw.sources, mode, entry, &key("sources"));
        let tunnel = self.tunnel(raw.tunnel.as_ref(), mode, &key("tunnel"), ports);

        let options = self.options(at, raw, mode, protocols, timeouts);

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
            } else if is_network(ports, address) {
                self.error(text.span(), &key, format!("{address} is a network's own address; use a host's"));
            } else if let Some((_, to)) = gateway_in(routes, |gateway| gateway == address) {
                let message = format!(
                    "{address} is the gateway of the route to {to}: Sluice would answer for the router; choose another"
                );
                self.error(text.span(), &key, message);
            } else if local_addresses.contains(&address) {
                self.error(text.span(), &key, format!("{address} is listed twice"));
            }
            local_addresses.push(address);
        }
        let has_locals = matches!(mode, ForwardMode::FullNat | ForwardMode::Snat);
        if raw.local_addresses.is_empty() && has_locals {
            let message = format!(
                "a {} service without local addresses cannot forward; add local_addresses = [\"ADDRESS\"] from the network of the port towards the servers",
                mode.name()
            );
            self.error(entry.span(), &key("local_addresses"), message);
        } else if let (Some(first), false) = (raw.local_addresses.first(), has_locals) {
            let message = format!(
                "a {} service has no local addresses, because its servers see the client's; remove them, or use fullnat",
                mode.name()
            );
            self.error(first.span(), &key("local_addresses"), message);
        }

        let mut servers: Vec<ServerSpec> = Vec::new();
        for (n, server) in raw.server.iter().enumerate() {
            let prefix = format!("service[{at}].server[{n}]");
            let wanted = Wanted { mode, listens: &listens, locals: &local_addresses };
            if let Some(server) = self.server(server.get_ref(), &prefix, &wanted, ports, routes) {
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
        if mode == ForwardMode::Snat {
            let others = [
                ("health", raw.health.as_ref().map(Spanned::span)),
                ("passive", raw.passive.as_ref().map(Spanned::span)),
                ("discover", raw.discover.as_ref().map(Spanned::span)),
                ("sorry_server", raw.sorry_server.as_ref().map(Spanned::span)),
                ("drain", raw.drain.as_ref().map(Spanned::span)),
            ];
            for (field, place) in others.into_iter().filter_map(|(field, place)| Some((field, place?))) {
                let message = format!("a snat service has no servers, so it has no {field}; remove this");
                self.error(place, &key(field), message);
            }
            if let Some(first) = raw.server.first() {
                let message = "a snat service has no servers: hosts go where they like; remove this";
                self.error(first.span(), &key("server"), message);
            }
            // What is counted for each address that hosts hide behind.
            servers = local_addresses
                .iter()
                .map(|address| ServerSpec {
                    endpoint: Endpoint { address: *address, l4_port: 0 },
                    weight: Weight::ONE,
                    location: Location::default(),
                    is_sorry: false,
                    is_found: false,
                    thresholds: (0, 0),
                })
                .collect();
        } else if raw.server.is_empty() && raw.discover.is_none() {
            self.warn(
                entry.span(),
                &key("server"),
                "the service has no server and refuses every session until one is added",
            );
        } else if servers.iter().all(|server| server.weight == Weight::ZERO) && !servers.is_empty() {
            self.warn(
                entry.span(),
                &key("server"),
                "every server has weight 0; the service refuses new sessions",
            );
        }
        if let Some(value) = &raw.client_address {
            self.check_client_address(value, &key("client_address"), options.client_address, &servers);
        }
        if let (Some(text), true) = (&raw.sorry_server, mode != ForwardMode::Snat) {
            let sorry = raw::Server::at(text.clone());
            let wanted = Wanted { mode, listens: &listens, locals: &local_addresses };
            let found = self.server(&sorry, &key("sorry_server"), &wanted, ports, routes);
            servers.extend(found.map(|server| ServerSpec { is_sorry: true, ..server }));
        }
        let wanted = Wanted { mode, listens: &listens, locals: &local_addresses };
        let discover = raw.discover.as_ref().and_then(|discover| self.discover(discover, at, &wanted));
        let policy = self.policy(raw, &key);
        let names = self.name_answers(raw.names.as_ref(), &key("names"));
        let slow_start = raw.slow_start.as_ref().map_or(Some(Duration::ZERO), |value| {
            self.duration(value, &key("slow_start"), const { raw::Service::TABLE.time("slow_start") })
        });
        let connect_limit = raw
            .connect_limit
            .as_ref()
            .and_then(|value| self.connect_limit(value, &key("connect_limit"), mode, protocols));
        let syn_flood_rate = raw.syn_flood_rate.as_ref().map_or(Some(500), |value| {
            let range = const { raw::Service::TABLE.whole("syn_flood_rate") };
            self.number(value, &key("syn_flood_rate"), range, "it counts connections a second")
        });
        let ban = raw.limits.as_ref().and_then(|limits| self.ban(limits, raw, protocols, at));
        let passive = raw.passive.as_ref().and_then(|passive| self.passive(passive, mode, at));
        let health = raw.health.as_ref().and_then(|health| {
            self.health(health, at, &servers, &wanted, (protocols, options.client_address), ports)
        });
        let spec = ServiceSpec {
            name: raw.name.get_ref().clone(),
            listens,
            protocols: protocols?,
            forward: mode,
            scheduler: scheduler?,
            scheduler_flags,
            hash_seed,
            local_addresses,
            options: ServiceOptions { tunnel, sources, ..options },
            servers,
            health: health.map(Arc::new),
            passive,
            discover,
            names,
            locality: raw.locality.unwrap_or(true),
            policy,
            slow_start: slow_start?,
            connect_limit,
            syn_flood_rate: syn_flood_rate? as u64,
            ban,
            drain: raw.drain.as_ref().is_some_and(|value| *value.get_ref()),
        };
        self.odd_service(entry, at, &spec, ports);
        Some(spec)
    }

    /// What clients connect to: addresses and ports, and no more than a machine can tell apart.
    fn listens(
        &mut self,
        value: &Spanned<raw::OneOrMany>,
        key: &str,
        ports: &[PortSpec],
        routes: &[RouteSpec],
    ) -> Option<Vec<Listen>> {
        let mut listens = Vec::new();
        for text in value.get_ref().iter() {
            let listen: Listen = match text.parse() {
                Ok(listen) => listen,
                Err(message) => {
                    self.error(value.span(), key, message);
                    continue;
                }
            };
            let address = listen.network.address;
            if !is_unicast(address)
                || is_link_local(address)
                || (is_broadcast(ports, address) || is_network(ports, address)) && listen.network.is_host()
            {
                self.error(value.span(), key, format!("{address} is not a host's address; choose a VIP"));
            }
            let mut own = ports.iter().flat_map(|port| &port.addresses).map(|own| own.address);
            match own.find(|own| listen.network.contains(*own)) {
                None => {}
                Some(own) if listen.network.is_host() => {
                    let message = format!(
                        "{own} is a port's own address, which belongs to the appliance itself; choose another VIP"
                    );
                    self.error(value.span(), key, message);
                }
                Some(own) => {
                    let message = format!(
                        "{} has {own} in it, a port's own address; choose another prefix",
                        listen.network
                    );
                    self.error(value.span(), key, message);
                }
            }
            if let Some((gateway, to)) = gateway_in(routes, |gateway| listen.network.contains(gateway)) {
                let message = format!(
                    "{gateway} is the gateway of the route to {to}: Sluice would answer for the router; choose another VIP"
                );
                self.error(value.span(), key, message);
            }
            if listens.contains(&listen) {
                self.error(value.span(), key, format!("{listen} is listed twice"));
            }
            listens.push(listen);
        }
        if value.get_ref().iter().next().is_none() {
            self.error(value.span(), key, "there is nothing to listen on; write ADDRESS:PORT");
        }
        (!listens.is_empty()).then_some(listens)
    }

    /// Where hidden hosts may go.
    fn destinations(&mut self, value: &Spanned<raw::OneOrMany>, key: &str) -> Option<Vec<Listen>> {
        let parsed: Result<Vec<Listen>, String> = value.get_ref().iter().map(|text| text.parse()).collect();
        parsed.map_err(|message| self.error(value.span(), key, message)).ok()
    }

    /// Whose packets a snat service takes.
    fn sources(
        &mut self,
        list: &[Spanned<String>],
        mode: ForwardMode,
        entry: &Spanned<raw::Service>,
        key: &str,
    ) -> Vec<Network> {
        if mode != ForwardMode::Snat {
            if let Some(first) = list.first() {
                let message = format!(
                    "a {} service takes packets by where they go; remove this, or use snat",
                    mode.name()
                );
                self.error(first.span(), key, message);
            }
            return Vec::new();
        }
        if list.is_empty() {
            let message = "a snat service needs the networks of the hosts that it hides; add sources = [\"10.0.0.0/8\"]";
            self.error(entry.span(), key, message);
        }
        let mut sources = Vec::new();
        for (n, text) in list.iter().enumerate() {
            let key = format!("{key}[{n}]");
            let Some(network) = self.network(text, &key) else { continue };
            if network.address != network.base() {
                let clean = Network { address: network.base(), ..network };
                self.error(
                    text.span(),
                    &key,
                    format!("{network} has bits set behind its prefix; write {clean}"),
                );
            }
            sources.push(network);
        }
        sources
    }

    fn protocols(&mut self, value: Option<&Spanned<raw::OneOrMany>>, key: &str) -> Option<Protocols> {
        let Some(value) = value else { return Some(Protocol::Tcp.into()) };
        let mut found: Option<Protocols> = None;
        let mut is_known = true;
        for name in value.get_ref().iter() {
            let Some(protocol) = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name) else {
                self.error(value.span(), key, unknown(name, &raw::Service::TABLE, "protocol"));
                is_known = false;
                continue;
            };
            if takes(found, protocol) {
                self.error(value.span(), key, format!("`{name}` stands here twice; remove one"));
            }
            found = Some(found.map_or(protocol.into(), |found| found.with(protocol)));
        }
        if is_known && found.is_none() {
            self.error(value.span(), key, "the list is empty; name a protocol, or remove the key for tcp");
        }
        found.filter(|_| is_known)
    }

    fn forward(&mut self, value: Option<&Spanned<String>>, key: &str) -> Option<ForwardMode> {
        let Some(value) = value else { return Some(ForwardMode::FullNat) };
        let name = value.get_ref().as_str();
        match ForwardMode::ALL.into_iter().find(|mode| mode.name() == name) {
            Some(mode) => Some(mode),
            None => {
                self.error(value.span(), key, unknown(name, &raw::Service::TABLE, "forward"));
                None
            }
        }
    }

    fn scheduler(&mut self, value: Option<&Spanned<String>>, key: &str) -> Option<Scheduler> {
        // ipvsadm's default.
        let Some(value) = value else { return Some(Scheduler::WeightedLeastConnection) };
        let name = value.get_ref().as_str();
        if let Some(scheduler) = Scheduler::ALL.into_iter().find(|scheduler| scheduler.name() == name) {
            return Some(scheduler);
        }
        self.error(value.span(), key, unknown(name, &raw::Service::TABLE, "scheduler"));
        None
    }

    fn scheduler_flags(
        &mut self,
        list: &[Spanned<String>],
        scheduler: Option<Scheduler>,
        key: &str,
    ) -> Flags {
        let mut flags = Flags::default();
        for (n, text) in list.iter().enumerate() {
            let key = format!("{key}[{n}]");
            match text.get_ref().as_str() {
                "port" => flags.port = true,
                "fallback" => flags.fallback = true,
                other => {
                    let message = unknown(other, &raw::Service::TABLE, "scheduler_flags");
                    self.error(text.span(), &key, message);
                }
            }
            if let Some(scheduler) = scheduler.filter(|scheduler| !scheduler.has_table()) {
                let message =
                    format!("{} does not hash; remove this, or use mh, sh or conhash", scheduler.name());
                self.error(text.span(), &key, message);
            }
        }
        flags
    }
}

/// Where something stands that a service cannot have, and its key.
fn place_of(entry: &Spanned<raw::Service>, share: &Share) -> (Range<usize>, String) {
    let raw = entry.get_ref();
    match share {
        Share::Name => (raw.name.span(), "name".to_owned()),
        Share::Listen => {
            (raw.listen.as_ref().map_or(entry.span(), |listen| listen.span()), "listen".to_owned())
        }
        Share::Local(address) => {
            let is_it = |text: &Spanned<String>| text.get_ref().parse() == Ok(*address);
            match raw.local_addresses.iter().position(is_it) {
                Some(n) => (raw.local_addresses[n].span(), format!("local_addresses[{n}]")),
                None => (entry.span(), "local_addresses".to_owned()),
            }
        }
        Share::Server(endpoint) => {
            let is_it = |text: &Spanned<String>| match text.get_ref().parse::<SocketAddr>() {
                Ok(socket) => (socket.ip(), socket.port()) == (endpoint.address, endpoint.l4_port),
                Err(_) => {
                    let bare = text.get_ref().trim_start_matches('[').trim_end_matches(']');
                    bare.parse() == Ok(endpoint.address)
                }
            };
            let server = raw.server.iter().position(|server| is_it(&server.get_ref().address));
            match (server, &raw.sorry_server) {
                (Some(n), _) => (raw.server[n].get_ref().address.span(), format!("server[{n}].address")),
                (None, Some(text)) => (text.span(), "sorry_server".to_owned()),
                (None, None) => (entry.span(), "server".to_owned()),
            }
        }
    }
}
