//! Servers of a service, and whether packets reach them.

use super::topology::{
    connected_port, gateway_in, is_broadcast, is_link_local, is_network, is_own, is_unicast, networks,
    port_towards,
};
use super::{Checker, Keyed, raw};
use crate::config::{Config, Location, PortSpec, RouteSpec, ServerSpec, ServiceSpec};
use dataplane::flow::{Endpoint, Family};
use dataplane::session::ForwardMode;
use dataplane::snapshot::Listen;
use hickory_proto::rr::RecordType;
use std::net::IpAddr;
use toml::Spanned;

/// What a service asks of its servers.
pub(super) struct Wanted<'a> {
    pub(super) mode: ForwardMode,
    pub(super) listens: &'a [Listen],
    pub(super) locals: &'a [IpAddr],
}

impl Wanted<'_> {
    /// The port of the service, if it has only one.
    fn l4_port(&self) -> Option<u16> {
        let [listen] = self.listens else { return None };
        listen.single().map(|endpoint| endpoint.l4_port)
    }

    /// The kinds of addresses that its servers may have.
    pub(super) fn kinds(&self) -> Vec<RecordType> {
        let usable = |is_ipv4: bool| match self.mode {
            ForwardMode::FullNat => self.locals.iter().any(|local| local.is_ipv4() == is_ipv4),
            ForwardMode::Nat | ForwardMode::DirectRoute => {
                self.listens.iter().all(|listen| listen.network.address.is_ipv4() == is_ipv4)
            }
            ForwardMode::Tunnel | ForwardMode::Snat => true,
        };
        let all = [(RecordType::A, true), (RecordType::AAAA, false)];
        all.into_iter().filter(|(_, is_ipv4)| usable(*is_ipv4)).map(|(kind, _)| kind).collect()
    }

    /// Why packets cannot reach a server in this mode.
    fn problem(&self, server: Endpoint) -> Option<String> {
        let (name, family) = (self.mode.name(), Family::of(server.address));
        let other = self.listens.iter().find(|listen| Family::of(listen.network.address) != family);
        match self.mode {
            ForwardMode::FullNat
                if !self.locals.is_empty()
                    && self.locals.iter().all(|local| Family::of(*local) != family) =>
            {
                Some(format!(
                    "none of the local addresses is of {}'s family; add one that the server can answer",
                    server.address
                ))
            }
            ForwardMode::Nat | ForwardMode::DirectRoute if other.is_some() => Some(format!(
                "{name} does not change the family of packets; use a server of the VIP's family, or fullnat"
            )),
            ForwardMode::DirectRoute | ForwardMode::Tunnel
                if server.l4_port != 0 && self.l4_port() != Some(server.l4_port) =>
            {
                Some(format!(
                    "{name} cannot change ports, because the packet reaches the server as it is; leave the port away, or use nat or fullnat"
                ))
            }
            _ => None,
        }
    }
}

impl Checker<'_> {
    /// A server of a service that is there already.
    pub(super) fn server_of(
        &mut self,
        raw: &raw::Server,
        service: &ServiceSpec,
        config: &Config,
    ) -> Option<ServerSpec> {
        if service.forward == ForwardMode::Snat {
            let message = "a snat service has no servers: hosts go where they like";
            self.error(raw.address.span(), "server", message);
            return None;
        }
        let wanted =
            Wanted { mode: service.forward, listens: &service.listens, locals: &service.local_addresses };
        let server = self.server(raw, "server", &wanted, &config.ports, &config.routes)?;
        let address = server.endpoint.address;
        let has_role = config.services.iter().any(|other| {
            other.local_addresses.contains(&address)
                || other.forward != ForwardMode::Snat
                    && other.listens.iter().any(|listen| listen.network.contains(address))
        });
        if has_role {
            let message = format!(
                "{address} is one of the appliance's VIPs or local addresses; a server must be another host"
            );
            self.error(raw.address.span(), "server.address", message);
        }
        Some(server)
    }

    pub(super) fn server(
        &mut self,
        raw: &raw::Server,
        prefix: &str,
        wanted: &Wanted<'_>,
        ports: &[PortSpec],
        routes: &[RouteSpec],
    ) -> Option<ServerSpec> {
        let key = format!("{prefix}.address");
        let endpoint = self.endpoint(&raw.address, &key).map(|(address, l4_port)| Endpoint {
            address,
            l4_port: l4_port.unwrap_or(wanted.l4_port().unwrap_or(0)),
        });
        let locals = wanted.locals;
        if let Some(endpoint) = endpoint {
            let address = endpoint.address;
            let problem = wanted.problem(endpoint);
            if !is_unicast(address) {
                self.error(raw.address.span(), &key, format!("{address} is not a host's address"));
            } else if is_link_local(address) {
                let message = format!(
                    "{address} means something on one link only; use a global or unique local address"
                );
                self.error(raw.address.span(), &key, message);
            } else if is_own(ports, address) {
                self.error(
                    raw.address.span(),
                    &key,
                    format!("{address} is the appliance itself; a server must be another host"),
                );
            } else if is_network(ports, address) || is_broadcast(ports, address) {
                let message = format!("{address} is a network's own or broadcast address, and no host's");
                self.error(raw.address.span(), &key, message);
            } else if let Some((_, to)) = gateway_in(routes, |gateway| gateway == address) {
                let message =
                    format!("{address} is the gateway of the route to {to}; a server must be another host");
                self.error(raw.address.span(), &key, message);
            } else if let Some(message) = problem {
                self.error(raw.address.span(), &key, message);
            } else if wanted.mode == ForwardMode::DirectRoute && connected_port(ports, address).is_none() {
                let message = format!(
                    "{address} is on no port's network ({}); dr reaches servers on a link only, so use tunnel for this one",
                    networks(ports)
                );
                self.error(raw.address.span(), &key, message);
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
        let weight = self.weight(raw.weight.as_ref(), &format!("{prefix}.weight"));
        let location = Location {
            zone: raw.zone.as_ref().map(|zone| zone.get_ref().clone()),
            region: raw.region.as_ref().map(|region| region.get_ref().clone()),
        };
        let mut limit = |value: Option<&Spanned<i64>>, field: &str| match value {
            None => Some(0),
            Some(value) => {
                let key = format!("{prefix}.{field}");
                self.number(value, &key, raw::Server::TABLE.whole(field), "it counts sessions on this server")
            }
        };
        let upper = limit(raw.max_sessions.as_ref(), "max_sessions")? as u32;
        let lower = limit(raw.min_sessions.as_ref(), "min_sessions")? as u32;
        if let Some(min) = raw.min_sessions.as_ref().filter(|_| lower > upper) {
            let message = match raw.max_sessions.is_some() {
                true => format!(
                    "{lower} is above max_sessions; a server that is full takes sessions again below it"
                ),
                false => "without max_sessions a server is never full; add that, or remove this".to_owned(),
            };
            self.error(min.span(), &format!("{prefix}.min_sessions"), message);
        }
        // As in IPVS: three quarters, if it is not said.
        let lower = if lower == 0 { upper - upper / 4 } else { lower };
        Some(ServerSpec {
            endpoint: endpoint?,
            weight: weight?,
            location,
            is_sorry: false,
            is_found: false,
            thresholds: (upper, lower),
        })
    }
}
