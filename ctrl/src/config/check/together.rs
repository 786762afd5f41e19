//! What services cannot have together: one name, one listener, one address for two purposes, more than fits.
//!
//! Told of services that are right each by itself, whether a file, a part of one or a command brought them.

use crate::config::ServiceSpec;
use dataplane::flow::Endpoint;
use dataplane::ids::{MAX_LOCALS, MAX_SERVERS, MAX_SERVICES};
use dataplane::session::ForwardMode;
use hashbrown::{HashMap, HashSet};
use std::net::IpAddr;

/// What a service has that it cannot have beside the others.
pub(super) enum Share {
    Name,
    Listen,
    Local(IpAddr),
    Server(Endpoint),
}

/// One thing that cannot be.
pub(super) struct Clash {
    /// The service in whose place it is told, and what of it; none when it is about all of them.
    pub(super) of: Option<(usize, Share)>,
    pub(super) message: String,
}

/// Everything that these services cannot have together, in their order.
pub(super) fn clashes<'a>(services: impl Iterator<Item = &'a ServiceSpec> + Clone) -> Vec<Clash> {
    let mut clashes = Vec::new();
    let mut say = |of, message| clashes.push(Clash { of, message });
    let hides = |service: &ServiceSpec| service.forward == ForwardMode::Snat;
    // Where hidden hosts go is nobody's VIP.
    let listening = || services.clone().filter(|service| !hides(service));

    let vips: HashSet<_> = listening().flat_map(vips_of).collect();
    let networks = listening().flat_map(|service| &service.listens).map(|listen| listen.network);
    let prefixes: Vec<_> = networks.filter(|network| !network.is_host()).collect();
    let is_vip =
        |address: IpAddr| vips.contains(&address) || prefixes.iter().any(|network| network.contains(address));
    let locals_of = |service: &'a ServiceSpec| service.local_addresses.iter().copied();
    let locals: HashSet<_> = services.clone().flat_map(locals_of).collect();
    let pools: HashSet<_> = services.clone().filter(|service| hides(service)).flat_map(locals_of).collect();

    let (mut names, mut listens) = (HashSet::new(), HashMap::new());
    let (mut count, mut servers) = (0, 0);
    for (at, service) in services.clone().enumerate() {
        (count, servers) = (count + 1, servers + service.servers.len());
        if !names.insert(&service.name) {
            let message = format!("`{}` names another service already; choose another name", service.name);
            say(Some((at, Share::Name)), message);
        }
        for local in locals_of(service) {
            if !hides(service) && pools.contains(&local) {
                let message = format!(
                    "{local} hides hosts of a snat service; use another, because each keeps its own account of ports"
                );
                say(Some((at, Share::Local(local))), message);
            }
            if is_vip(local) {
                let message = format!(
                    "{local} is a VIP; a local address must be another, because servers answer to it"
                );
                say(Some((at, Share::Local(local))), message);
            }
        }
        if hides(service) {
            continue;
        }
        for listen in &service.listens {
            for protocol in service.protocols.iter() {
                let Some(other) = listens.insert((protocol, listen), &service.name) else { continue };
                let message = format!(
                    "{} {listen} is service `{other}`'s already; use another address or port",
                    protocol.name()
                );
                say(Some((at, Share::Listen)), message);
            }
        }
        for server in &service.servers {
            let address = server.endpoint.address;
            if is_vip(address) || locals.contains(&address) {
                let message = format!(
                    "{address} is one of the appliance's VIPs or local addresses; a server must be another host"
                );
                say(Some((at, Share::Server(server.endpoint))), message);
            }
        }
    }
    let limits = [
        (count, "services", MAX_SERVICES),
        (servers, "servers", MAX_SERVERS),
        (locals.len(), "local addresses", MAX_LOCALS),
    ];
    for (number, what, most) in limits {
        if number > most {
            say(None, format!("{number} {what} are more than the {most} that fit"));
        }
    }
    clashes
}

/// The addresses that clients connect to; prefixes are not among them.
fn vips_of(service: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let networks = service.listens.iter().map(|listen| listen.network);
    networks.filter(|network| network.is_host()).map(|network| network.address)
}
