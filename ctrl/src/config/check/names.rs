//! The names that are answered for.

use super::{Checker, Keyed, raw, unknown};
use crate::config::{Location, NameAnswers, NamesSpec};
use std::net::SocketAddr;
use std::time::Duration;
use toml::Spanned;

impl Checker<'_> {
    pub(super) fn names(&mut self, raw: Option<&raw::Names>) -> Option<NamesSpec> {
        let raw = raw?;
        let is_name =
            hickory_proto::rr::Name::from_utf8(raw.zone.get_ref()).is_ok_and(|name| name.num_labels() > 0);
        if !is_name {
            let message = format!("`{}` is not a zone; write it as lb.example.com", raw.zone.get_ref());
            self.error(raw.zone.span(), "names.zone", message);
        }
        let listen = self.sockets(&raw.listen, "names.listen");
        let http = self.sockets(&raw.http, "names.http");
        if raw.listen.is_empty() && raw.http.is_empty() {
            let message = "nobody can ask; add listen = [\"ADDRESS:53\"] with an address of a port, or http = [\"ADDRESS:8053\"]";
            self.error(raw.zone.span(), "names.listen", message);
        }
        let usual = Duration::from_secs(5);
        let ttl = raw.ttl.as_ref().map_or(Some(usual), |value| {
            self.duration(value, "names.ttl", const { raw::Names::TABLE.time("ttl") })
        });
        let mut clients = Vec::new();
        for (at, client) in raw.client.iter().enumerate() {
            let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.get_ref().clone());
            let location = Location { zone: text(&client.zone), region: text(&client.region) };
            for (n, network) in client.networks.iter().enumerate() {
                let key = format!("names.client[{at}].networks[{n}]");
                clients.extend(self.network(network, &key).map(|network| (network, location.clone())));
            }
        }
        Some(NamesSpec { zone: raw.zone.get_ref().clone(), listen, http, ttl: ttl?, clients })
    }

    fn sockets(&mut self, list: &[Spanned<String>], key: &str) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for (at, text) in list.iter().enumerate() {
            match text.get_ref().parse() {
                Ok(address) => all.push(address),
                Err(_) => {
                    let message =
                        format!("`{}` is not ADDRESS:PORT; write it as 192.0.2.2:53", text.get_ref());
                    self.error(text.span(), &format!("{key}[{at}]"), message);
                }
            }
        }
        all
    }

    pub(super) fn name_answers(&mut self, value: Option<&Spanned<String>>, key: &str) -> NameAnswers {
        let Some(value) = value else { return NameAnswers::Vips };
        match value.get_ref().as_str() {
            "vip" => NameAnswers::Vips,
            "servers" => NameAnswers::Servers,
            other => {
                let message = unknown(other, &raw::Service::TABLE, "names");
                self.error(value.span(), key, message);
                NameAnswers::Vips
            }
        }
    }
}
