//! Listeners that others than the operator reach.

use super::{Checker, Keyed, raw, unknown};
use crate::config::{Exposed, ListenAt, MetricsSpec, SeriesOfServers};
use crate::tls::{self, ServerTls};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use toml::Spanned;

/// The largest cost of a password's hash.
const COST_MAX: u32 = 14;

impl Checker<'_> {
    pub(super) fn metrics(&mut self, raw: Option<&raw::Metrics>) -> Option<MetricsSpec> {
        let raw = raw?;
        let servers = match &raw.servers {
            None => Some(SeriesOfServers::All),
            Some(value) => {
                let word = value.get_ref().word();
                let servers = SeriesOfServers::named(word);
                if servers.is_none() {
                    let message = unknown(word, &raw::Metrics::TABLE, "servers");
                    self.error(value.span(), "metrics.servers", message);
                }
                servers
            }
        };
        let tls = raw.tls_server_config.as_ref();
        let is_insecure = raw.insecure.unwrap_or(false);
        let exposed = self.exposed("metrics", &raw.listen, tls, &raw.basic_auth_users, is_insecure);
        Some(MetricsSpec { exposed, servers: servers? })
    }

    pub(super) fn web(&mut self, raw: Option<&raw::Web>) -> Option<Exposed> {
        let raw = raw?;
        let tls = raw.tls_server_config.as_ref();
        Some(self.exposed("web", &raw.listen, tls, &raw.basic_auth_users, raw.insecure.unwrap_or(false)))
    }

    /// Listeners, of which those on every address are not for everybody.
    fn exposed(
        &mut self,
        table: &str,
        listen: &[Spanned<String>],
        tls: Option<&Spanned<raw::ServerTls>>,
        users: &BTreeMap<String, Spanned<String>>,
        is_insecure: bool,
    ) -> Exposed {
        let tls = tls.and_then(|tls| self.server_tls(tls, &format!("{table}.tls_server_config")));
        for (name, hash) in users {
            let message = match hash.get_ref().parse::<bcrypt::HashParts>() {
                Err(_) => "it is not a bcrypt hash; `htpasswd -nB USER` makes one",
                // A second or so of a core; each step is twice as long.
                Ok(parts) if parts.get_cost() > COST_MAX => {
                    "its cost is above 14, so each try would take seconds; `htpasswd -nB -C 10 USER` makes another"
                }
                Ok(_) => continue,
            };
            self.error(hash.span(), &format!("{table}.basic_auth_users.{name}"), message);
        }
        let is_open = users.is_empty() && tls.as_ref().is_none_or(|tls| tls.client_ca_file.is_none());
        let mut places = Vec::new();
        for (at, text) in listen.iter().enumerate() {
            let key = format!("{table}.listen[{at}]");
            let place = match text.get_ref().strip_prefix("unix:") {
                Some(path) if path.starts_with('/') && path.len() <= 107 => {
                    Some(ListenAt::Unix(PathBuf::from(path)))
                }
                Some(_) => None,
                None => {
                    let address = text.get_ref().parse::<SocketAddr>().ok();
                    address.filter(|address| address.port() != 0).map(ListenAt::Tcp)
                }
            };
            let Some(place) = place else {
                let message = format!(
                    "`{}` is not ADDRESS:PORT or unix:PATH; write it as 127.0.0.1:{} or unix:/run/sluice/{table}.sock",
                    text.get_ref(),
                    if table == "web" { 9798 } else { 9797 },
                );
                self.error(text.span(), &key, message);
                continue;
            };
            if matches!(&place, ListenAt::Tcp(address) if address.ip().to_canonical().is_unspecified())
                && is_open
                && !is_insecure
            {
                let message = "everybody who reaches this host could ask; name one address, add basic_auth_users or client_ca_file, or write insecure = true";
                self.error(text.span(), &key, message);
            }
            if let ListenAt::Unix(path) = &place
                && path.symlink_metadata().is_ok_and(|found| !found.file_type().is_socket())
            {
                let message = format!("{} is there and is not a socket; name another path", path.display());
                self.elsewhere(text.span(), &key, message);
            }
            if places.contains(&place) {
                self.error(text.span(), &key, format!("{place} is listed twice"));
            }
            places.push(place);
        }
        let users = users.iter().map(|(name, hash)| (name.clone(), hash.get_ref().clone())).collect();
        Exposed { listen: places, tls, users }
    }

    fn server_tls(&mut self, value: &Spanned<raw::ServerTls>, key: &str) -> Option<ServerTls> {
        let raw = value.get_ref();
        let path = |value: &Spanned<String>| PathBuf::from(value.get_ref());
        let tls = ServerTls {
            cert_file: path(&raw.cert_file),
            key_file: path(&raw.key_file),
            client_ca_file: raw.client_ca_file.as_ref().map(path),
        };
        if let Err(error) = tls::acceptor(&tls) {
            self.elsewhere(value.span(), key, error);
        }
        Some(tls)
    }
}
