//! Where servers are looked up.

use super::servers::Wanted;
use super::{Checker, Keyed, raw, unknown};
use crate::config::{DiscoverSpec, Login, Site, Source};
use crate::files;
use crate::tls::Tls;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// The most servers that are taken from a source that does not say how many.
const MAX_SERVERS_USUAL: i64 = 4_096;

impl Checker<'_> {
    pub(super) fn discover(
        &mut self,
        entry: &Spanned<raw::Discover>,
        at: usize,
        wanted: &Wanted<'_>,
    ) -> Option<DiscoverSpec> {
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].discover.{field}");
        let kind = raw.kind.get_ref().as_str();
        let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.get_ref().clone());
        let interval = self.time(raw.interval.as_ref(), &key("interval"), Duration::from_secs(5));
        let max_servers = match &raw.max_servers {
            None => Some(MAX_SERVERS_USUAL),
            Some(value) => {
                let range = const { raw::Discover::TABLE.whole("max_servers") };
                self.number(value, &key("max_servers"), range, "it counts servers")
            }
        };
        // A type that is unknown is told as that.
        if raw::SOURCES.contains(&kind) {
            self.refuse_keys("source", kind, raw, &key);
        }
        let site = match kind {
            "nacos" | "etcd" => Some(self.site(entry, &key)?),
            _ => None,
        };
        let mut need = |value: &Option<Spanned<String>>, field: &str, example: &str| {
            if value.is_none() {
                let message = format!("the key `{field}` is missing; add it, as {field} = \"{example}\"");
                self.error(entry.span(), &key(field), message);
            }
            text(value)
        };
        let source = match kind {
            "file" => {
                Source::File { path: PathBuf::from(need(&raw.path, "path", "/etc/sluice/servers/web.toml")?) }
            }
            "nacos" => Source::Nacos {
                site: site?,
                service: need(&raw.service, "service", "web")?,
                group: text(&raw.group).unwrap_or_else(|| "DEFAULT_GROUP".into()),
                namespace: text(&raw.namespace).unwrap_or_default(),
            },
            "etcd" => Source::Etcd { site: site?, prefix: need(&raw.prefix, "prefix", "/services/web/")? },
            "dns" => {
                let name = need(&raw.name, "name", "web.example.com")?;
                if let Some(value) = &raw.name {
                    self.check_dns_name(value, &key("name"));
                }
                let l4_port = match &raw.port {
                    None => None,
                    Some(value) => {
                        let range = const { raw::Discover::TABLE.whole("port") };
                        Some(self.number(value, &key("port"), range, "it is a port")? as u16)
                    }
                };
                let resolver = match &raw.resolver {
                    None => system_resolver(),
                    Some(value) => {
                        let (address, port) = self.endpoint(value, &key("resolver"))?;
                        Some(SocketAddr::new(address, port.unwrap_or(53)))
                    }
                };
                let Some(resolver) = resolver else {
                    let message =
                        "/etc/resolv.conf names no server; say who is asked: resolver = \"10.0.0.53\"";
                    self.error(entry.span(), &key("resolver"), message);
                    return None;
                };
                Source::Dns { name, resolver, l4_port, families: wanted.kinds() }
            }
            other => {
                let message = unknown(other, &raw::Discover::TABLE, "type");
                self.error(raw.kind.span(), &key("type"), message);
                return None;
            }
        };
        Some(DiscoverSpec { source, interval, max_servers: max_servers? as usize })
    }

    /// Where a source is, and how it is asked.
    fn site(&mut self, entry: &Spanned<raw::Discover>, key: &impl Fn(&str) -> String) -> Option<Site> {
        let raw = entry.get_ref();
        let Some(list) = &raw.endpoint else {
            let message = "the key `endpoint` is missing; add it, as endpoint = \"10.0.0.5:2379\", or a list";
            self.error(entry.span(), &key("endpoint"), message);
            return None;
        };
        let (mut endpoints, mut schemes) = (Vec::new(), HashSet::new());
        for text in list.get_ref().iter() {
            let (scheme, host) = text.split_once("://").unwrap_or(("http", text));
            let host = host.trim_end_matches('/');
            let has_port = host
                .rsplit_once(':')
                .is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
            if !has_port || !["http", "https"].contains(&scheme) {
                let message = format!("`{text}` is not HOST:PORT, http://HOST:PORT or https://HOST:PORT");
                self.error(list.span(), &key("endpoint"), message);
            }
            schemes.insert(scheme);
            endpoints.push(host.to_owned());
        }
        if endpoints.is_empty() {
            self.error(list.span(), &key("endpoint"), "there is nobody to ask; write HOST:PORT");
        }
        let with_tls = schemes.contains("https");
        if schemes.len() > 1 {
            self.error(
                list.span(),
                &key("endpoint"),
                "some are asked by http and some by https; write one of them",
            );
        }
        let of_tls = [
            ("ca_file", raw.ca_file.as_ref().map(Spanned::span)),
            ("verify", raw.verify.as_ref().map(Spanned::span)),
        ];
        for (field, place) in of_tls {
            if let Some(place) = place.filter(|_| !with_tls) {
                self.error(
                    place,
                    &key(field),
                    "without https nobody shows a certificate; write https://HOST:PORT",
                );
            }
        }
        self.check_authorities(raw.ca_file.as_ref(), &key("ca_file"));
        let tls = with_tls.then(|| Tls {
            server_name: None,
            verify: raw.verify.as_ref().is_none_or(|value| *value.get_ref()),
            ca_file: raw.ca_file.as_ref().map(|file| PathBuf::from(file.get_ref())),
        });
        let login = match (&raw.username, &raw.password_file) {
            (Some(user), Some(file)) => {
                let password_file = PathBuf::from(file.get_ref());
                if let Err(error) = files::read_text(&password_file) {
                    let message = format!("{} cannot be read: {error}", password_file.display());
                    self.elsewhere(file.span(), &key("password_file"), message);
                }
                Some(Login { user: user.get_ref().clone(), password_file })
            }
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                let message = "username and password_file belong together; add the other";
                self.error(one.span(), &key("username"), message);
                None
            }
        };
        Some(Site { endpoints, tls, login })
    }
}

/// The first server of resolv.conf(5).
fn system_resolver() -> Option<SocketAddr> {
    let text = files::read_text(Path::new("/etc/resolv.conf")).ok()?;
    let mut servers =
        text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.next().map(|address| SocketAddr::new(address, 53))
}
