//! What a service wants of its sessions, and of its tunnels.

use super::{Checker, Keyed, raw, unknown};
use crate::config::PortSpec;
use dataplane::flow::{Protocol, Protocols};
use dataplane::session::{ForwardMode, Persistence, Timeouts};
use dataplane::snapshot::{Network, NewSessions, ServiceOptions, SynProxy, Tunnel};
use dataplane::wire::{Encapsulation, GUE_PORT};
use std::time::Duration;
use toml::Spanned;

impl Checker<'_> {
    /// What a service wants of its sessions.
    pub(super) fn options(
        &mut self,
        at: usize,
        raw: &raw::Service,
        mode: ForwardMode,
        protocols: Option<Protocols>,
        timeouts: &Timeouts,
    ) -> ServiceOptions {
        let key = |field: &str| format!("service[{at}].{field}");
        let persistence = raw.persistence.as_ref().and_then(|value| {
            let raw = value.get_ref();
            let timeout = match &raw.timeout {
                None => Some(Duration::from_secs(300)),
                Some(value) => {
                    let range = const { raw::Persistence::TABLE.time("timeout") };
                    self.duration(value, &key("persistence.timeout"), range)
                }
            };
            let mut mask = |value: Option<&Spanned<i64>>, field: &str, most: i64| match value {
                None => Some(most),
                Some(value) => {
                    let key = key(&format!("persistence.{field}"));
                    let range = raw::Persistence::TABLE.whole(field);
                    self.number(value, &key, range, "it counts the bits of a client's address that matter")
                }
            };
            let prefix4 = mask(raw.netmask.as_ref(), "netmask", 32)?;
            let prefix6 = mask(raw.netmask_ipv6.as_ref(), "netmask_ipv6", 128)?;
            let timeout = timeout?.as_millis() as u32;
            Some(Persistence { timeout, prefix4: prefix4 as u8, prefix6: prefix6 as u8 })
        });
        let one_packet = raw.one_packet.as_ref().is_some_and(|value| *value.get_ref());
        if let Some(value) = raw.one_packet.as_ref().filter(|value| *value.get_ref()) {
            let message = match mode {
                _ if protocols.is_some_and(Protocols::have_connections) => {
                    Some("one_packet is for udp: a connection has many packets")
                }
                ForwardMode::DirectRoute | ForwardMode::Tunnel => None,
                _ => Some(
                    "answers that pass the appliance need a session; use dr or tunnel, or a short timeout",
                ),
            };
            if let Some(message) = message {
                self.error(value.span(), &key("one_packet"), message);
            }
            if let Some(persistence) = &raw.persistence {
                let message =
                    "one_packet schedules each datagram anew, and persistence does not; remove one of them";
                self.error(persistence.span(), &key("persistence"), message);
            }
        }
        if let Some(value) = raw
            .sloppy
            .as_ref()
            .filter(|value| *value.get_ref())
            .filter(|_| protocols.is_some_and(|protocols| !protocols.have_connections()))
        {
            self.error(value.span(), &key("sloppy"), "sloppy is for tcp: every datagram opens a session");
        }
        let reset_on_expiry = raw.reset_on_expiry.as_ref().filter(|value| *value.get_ref());
        if let Some(value) = reset_on_expiry {
            let message = match protocols {
                Some(protocols) if !protocols.has(Protocol::Tcp) => {
                    Some(format!("reset_on_expiry is for tcp, and the service is {protocols}; remove it"))
                }
                _ if !mode.sees_answers() => Some(format!(
                    "a {} service does not see servers' answers, so it cannot know what a reset must say; remove it",
                    mode.name()
                )),
                _ => None,
            };
            if let Some(message) = message {
                self.error(value.span(), &key("reset_on_expiry"), message);
            }
        }
        let session_histograms = raw.session_histograms.as_ref().filter(|value| *value.get_ref());
        if let Some(value) = session_histograms.filter(|_| !mode.sees_answers()) {
            let message = format!(
                "a {} service does not see servers' answers, so it cannot count a session's bytes; remove it",
                mode.name()
            );
            self.error(value.span(), &key("session_histograms"), message);
        }
        let syn_proxy = self.syn_proxy(raw, mode, protocols, &key("syn_proxy"));
        let new_sessions = raw.limits.as_ref().and_then(|limits| self.limits(limits, at));
        let session_limit = raw.session_limit.as_ref().and_then(|value| {
            let range = const { raw::Service::TABLE.whole("session_limit") };
            self.number(value, &key("session_limit"), range, "it counts sessions of the service")
        });
        let client_address = raw.client_address.as_ref().and_then(|value| {
            let key = key("client_address");
            if mode != ForwardMode::FullNat {
                let message = format!(
                    "servers of a {} service see their clients' addresses; remove this, or use fullnat",
                    mode.name()
                );
                self.error(value.span(), &key, message);
            }
            self.client_address(value, &key, protocols)
        });
        ServiceOptions {
            client_address,
            timeouts: raw.timeouts.as_ref().map(|raw| self.timeouts(raw, *timeouts, &key("timeouts"))),
            persistence,
            one_packet,
            sloppy: raw.sloppy.as_ref().is_some_and(|value| *value.get_ref()),
            expire_quiescent: raw.expire_quiescent.unwrap_or(false),
            reset_on_expiry: reset_on_expiry.is_some(),
            session_histograms: session_histograms.is_some(),
            syn_proxy,
            new_sessions,
            session_limit: session_limit.unwrap_or(0) as u64,
            ..ServiceOptions::default()
        }
    }

    /// How many new sessions it takes.
    fn limits(&mut self, value: &Spanned<raw::Limits>, at: usize) -> Option<NewSessions> {
        let raw = value.get_ref();
        let key = |field: &str| format!("service[{at}].limits.{field}");
        if raw.new_per_second.is_none() && raw.new_per_source.is_none() {
            let message = "nothing is limited; write new_per_second or new_per_source";
            self.error(value.span(), &format!("service[{at}].limits"), message);
        }
        let mut number = |value: Option<&Spanned<i64>>, field: &str, remedy: &str| {
            value.map(|value| self.number(value, &key(field), raw::Limits::TABLE.whole(field), remedy))
        };
        let sessions = "it counts new sessions a second";
        let bits = "it counts the bits of an address that are a source";
        let each = number(raw.new_per_second.as_ref(), "new_per_second", sessions);
        let each_of_source = number(raw.new_per_source.as_ref(), "new_per_source", sessions);
        let prefix4 = number(raw.ipv4_prefix.as_ref(), "ipv4_prefix", bits).unwrap_or(Some(32))?;
        let prefix6 = number(raw.ipv6_prefix.as_ref(), "ipv6_prefix", bits).unwrap_or(Some(64))?;
        let apart = |rate: Option<Option<i64>>| rate.flatten().map_or(0, |rate| 1_000_000_000 / rate as u64);
        Some(NewSessions {
            each: apart(each),
            each_of_source: apart(each_of_source),
            burst: 1_000_000_000,
            burst_of_source: 1_000_000_000,
            prefix4: prefix4 as u8,
            prefix6: prefix6 as u8,
            bans: raw.ban.is_some(),
        })
    }

    /// How long sources are banned that come too often.
    pub(super) fn ban(
        &mut self,
        value: &Spanned<raw::Limits>,
        service: &raw::Service,
        protocols: Option<Protocols>,
        at: usize,
    ) -> Option<Duration> {
        let ban = value.get_ref().ban.as_ref()?;
        let key = format!("service[{at}].limits.ban");
        let always = |mode: &Spanned<String>| mode.get_ref() == SynProxy::Always.name();
        let is_tcp = protocols.is_some_and(|protocols| protocols == Protocols::from(Protocol::Tcp));
        if !is_tcp || !service.syn_proxy.as_ref().is_some_and(always) {
            let message = "anybody could have another banned, by packets in its name; write syn_proxy = \"always\" for a service of tcp alone (fullnat or nat), or remove this";
            self.error(ban.span(), &key, message);
        } else if value.get_ref().new_per_source.is_none() {
            self.error(ban.span(), &key, "no source can come too often; write new_per_source");
        }
        self.duration(ban, &key, const { raw::Limits::TABLE.time("ban") })
    }

    /// When clients have to prove themselves.
    fn syn_proxy(
        &mut self,
        raw: &raw::Service,
        mode: ForwardMode,
        protocols: Option<Protocols>,
        key: &str,
    ) -> SynProxy {
        let Some(value) = &raw.syn_proxy else { return SynProxy::default() };
        let word = value.get_ref().as_str();
        let Some(wanted) = SynProxy::ALL.into_iter().find(|one| one.name() == word) else {
            self.error(value.span(), key, unknown(word, &raw::Service::TABLE, "syn_proxy"));
            return SynProxy::default();
        };
        if matches!(wanted, SynProxy::Off | SynProxy::Monitor) {
            return wanted;
        }
        let sloppy = raw.sloppy.as_ref().is_some_and(|value| *value.get_ref());
        let message = match (mode, protocols) {
            (ForwardMode::DirectRoute | ForwardMode::Tunnel, _) => format!(
                "a {} service does not see servers' answers, so nobody can move their sequence numbers; remove it, or use fullnat or nat",
                mode.name()
            ),
            (ForwardMode::Snat, _) => {
                "hosts behind a snat service are the appliance's own side; remove it".to_owned()
            }
            (_, Some(protocols)) if !protocols.has(Protocol::Tcp) => {
                format!("syn_proxy is for tcp, and the service is {protocols}; remove it")
            }
            _ if sloppy => {
                "syn_proxy asks each connection for its handshake, and sloppy adopts those without; remove one of them"
                    .to_owned()
            }
            _ => return wanted,
        };
        self.error(value.span(), key, message);
        SynProxy::default()
    }

    /// How packets of a tunnelled service are packed.
    pub(super) fn tunnel(
        &mut self,
        value: Option<&Spanned<raw::Tunnel>>,
        mode: ForwardMode,
        key: &str,
        ports: &[PortSpec],
    ) -> Tunnel {
        let default = ServiceOptions::default().tunnel;
        let Some(value) = value else { return default };
        if mode != ForwardMode::Tunnel {
            let message = format!(
                "a {} service has no tunnel; remove this, or write forward = \"tunnel\"",
                mode.name()
            );
            self.error(value.span(), key, message);
        }
        let raw = value.get_ref();
        let l4_port = match &raw.port {
            None => Some(i64::from(GUE_PORT)),
            // Small numbers stand for the other kinds.
            Some(port) => {
                let range = const { raw::Tunnel::TABLE.whole("port") };
                self.number(port, &format!("{key}.port"), range, "it is where servers take GUE")
            }
        };
        let encapsulation = match raw.kind.get_ref().as_str() {
            "ipip" => Encapsulation::Ipip,
            "gre" => Encapsulation::Gre,
            "gue" => Encapsulation::Gue(l4_port.unwrap_or_default() as u16),
            other => {
                let message = unknown(other, &raw::Tunnel::TABLE, "type");
                self.error(raw.kind.span(), &format!("{key}.type"), message);
                return default;
            }
        };
        if let (Some(port), Encapsulation::Ipip | Encapsulation::Gre) = (&raw.port, encapsulation) {
            let message = format!("{} has no port; remove it, or use gue", encapsulation.name());
            self.error(port.span(), &format!("{key}.port"), message);
        }
        let mut sources: Vec<Network> = Vec::new();
        for (n, text) in raw.sources.iter().enumerate() {
            let key = format!("{key}.sources[{n}]");
            let Some(network) = self.network(text, &key) else { continue };
            if network.address != network.base() {
                let clean = Network { address: network.base(), ..network };
                self.error(
                    text.span(),
                    &key,
                    format!("{network} has bits set behind its prefix; write {clean}"),
                );
            } else if sources.iter().any(|other| other.address.is_ipv4() == network.address.is_ipv4()) {
                self.error(text.span(), &key, "one network of each family is enough; write a larger one");
            } else if ports.iter().any(|port| port.addresses.iter().any(|own| network.contains(own.address)))
            {
                let message =
                    format!("{network} has a port's own address in it; use a network that nobody has");
                self.error(text.span(), &key, message);
            }
            sources.push(network);
        }
        Tunnel { encapsulation, sources }
    }
}
