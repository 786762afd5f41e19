//! How servers are told where clients are.

use super::{Checker, Keyed, raw, takes, unknown};
use crate::config::ServerSpec;
use dataplane::flow::{Protocol, Protocols};
use dataplane::snapshot::ClientAddress;
use dataplane::wire::{Proxy, ProxyVersion, TOA_KIND, Uoa};
use toml::Spanned;

impl Checker<'_> {
    pub(super) fn client_address(
        &mut self,
        value: &Spanned<raw::ClientAddress>,
        key: &str,
        protocols: Option<Protocols>,
    ) -> Option<ClientAddress> {
        let raw = value.get_ref();
        let kind = raw.kind.get_ref().as_str();
        if !raw::CLIENT_ADDRESSES.contains(&kind) {
            let message = unknown(kind, &raw::ClientAddress::TABLE, "type");
            self.error(raw.kind.span(), &format!("{key}.type"), message);
            return None;
        }
        self.refuse_keys("client_address", kind, raw, &|option| format!("{key}.{option}"));
        // Pings are for snat, where this was refused already.
        if takes(protocols, Protocol::Sctp) {
            let message = "servers cannot be told over sctp; remove this, or use nat, dr or tunnel, which show the client";
            self.error(value.span(), key, message);
            return None;
        }
        match kind {
            "toa" => {
                if takes(protocols, Protocol::Udp) {
                    self.error(value.span(), key, "toa is for tcp; use proxy or uoa for datagrams");
                }
                self.toa(raw, key)
            }
            "proxy" => self.proxy(raw, key, protocols),
            _ => {
                if takes(protocols, Protocol::Tcp) {
                    self.error(value.span(), key, "uoa is for udp; use toa or proxy for tcp");
                }
                self.uoa(raw, key)
            }
        }
    }

    fn toa(&mut self, raw: &raw::ClientAddress, key: &str) -> Option<ClientAddress> {
        let Some(option) = &raw.option else { return Some(ClientAddress::Toa(TOA_KIND)) };
        // 2 to 34 have meanings that stacks act on.
        let remedy = "it is the option's kind; servers' modules know 254, some 252, 253 or 200";
        self.number(option, &format!("{key}.kind"), const { raw::ClientAddress::TABLE.whole("kind") }, remedy)
            .map(|kind| ClientAddress::Toa(kind as u8))
    }

    fn proxy(
        &mut self,
        raw: &raw::ClientAddress,
        key: &str,
        protocols: Option<Protocols>,
    ) -> Option<ClientAddress> {
        let version = match &raw.version {
            None => ProxyVersion::Two,
            Some(value) => {
                let remedy = "1 is a line of text, 2 (the usual) is binary";
                match self.number(
                    value,
                    &format!("{key}.version"),
                    const { raw::ClientAddress::TABLE.whole("version") },
                    remedy,
                )? {
                    1 => ProxyVersion::One,
                    _ => ProxyVersion::Two,
                }
            }
        };
        let is_set = |value: &Option<Spanned<bool>>| value.as_ref().is_some_and(|value| *value.get_ref());
        if let (ProxyVersion::One, Some(value)) = (version, &raw.version) {
            if takes(protocols, Protocol::Udp) {
                self.error(value.span(), &format!("{key}.version"), "1 is for tcp; use 2 for datagrams");
            }
            for (name, option) in [("unique_id", &raw.unique_id), ("vip", &raw.vip)] {
                if let Some(option) = option.as_ref().filter(|option| *option.get_ref()) {
                    let message = "version 1 has no place for it; remove it, or use version 2";
                    self.error(option.span(), &format!("{key}.{name}"), message);
                }
            }
        }
        let (unique_id, vip) = (is_set(&raw.unique_id), is_set(&raw.vip));
        Some(ClientAddress::Proxy(Proxy { version, unique_id, vip }))
    }

    fn uoa(&mut self, raw: &raw::ClientAddress, key: &str) -> Option<ClientAddress> {
        match raw.encoding.as_ref().map(|value| (value, value.get_ref().as_str())) {
            None | Some((_, "header")) => Some(ClientAddress::Uoa(Uoa::Header)),
            Some((_, "option")) => Some(ClientAddress::Uoa(Uoa::Option)),
            Some((value, other)) => {
                let message = unknown(other, &raw::ClientAddress::TABLE, "encoding");
                self.error(value.span(), &format!("{key}.encoding"), message);
                None
            }
        }
    }

    /// Servers that have no place for what is said to them.
    pub(super) fn check_client_address(
        &mut self,
        value: &Spanned<raw::ClientAddress>,
        key: &str,
        how: Option<ClientAddress>,
        servers: &[ServerSpec],
    ) {
        let is_v6 = |server: &&ServerSpec| server.endpoint.address.is_ipv6();
        if let (Some(ClientAddress::Uoa(Uoa::Option)), Some(server)) = (how, servers.iter().find(is_v6)) {
            let message = format!(
                "IPv6 has no such options, and {} is a server; write encoding = \"header\"",
                server.endpoint
            );
            self.error(value.span(), &format!("{key}.encoding"), message);
        }
    }
}
