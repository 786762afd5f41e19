//! Where servers are looked up.

use super::{Checker, raw, suggestion};
use crate::config::{DiscoverSpec, Source};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

const TYPES: [&str; 4] = ["file", "dns", "nacos", "etcd"];

impl Checker<'_> {
    pub(super) fn discover(&mut self, entry: &Spanned<raw::Discover>, at: usize) -> Option<DiscoverSpec> {
        let raw = entry.get_ref();
        let key = |field: &str| format!("service[{at}].discover.{field}");
        let kind = raw.kind.get_ref().as_str();
        let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.get_ref().clone());
        let interval = self.time(raw.interval.as_ref(), &key("interval"), Duration::from_secs(5));
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
                endpoint: need(&raw.endpoint, "endpoint", "10.0.0.5:8848")?,
                service: need(&raw.service, "service", "web")?,
                group: text(&raw.group).unwrap_or_else(|| "DEFAULT_GROUP".into()),
                namespace: text(&raw.namespace).unwrap_or_default(),
            },
            "etcd" => Source::Etcd {
                endpoint: need(&raw.endpoint, "endpoint", "10.0.0.5:2379")?,
                prefix: need(&raw.prefix, "prefix", "/services/web/")?,
            },
            "dns" => {
                let name = need(&raw.name, "name", "web.example.com")?;
                let l4_port = match &raw.port {
                    None => None,
                    Some(value) => Some(self.number(value, &key("port"), 1..65_536, "it is a port")? as u16),
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
                Source::Dns { name, resolver, l4_port }
            }
            other => {
                let message = format!("`{other}` is unknown; {}", suggestion(other, &TYPES));
                self.error(raw.kind.span(), &key("type"), message);
                return None;
            }
        };
        Some(DiscoverSpec { source, interval })
    }
}

/// The first server of resolv.conf(5).
fn system_resolver() -> Option<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    let mut servers =
        text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.next().map(|address| SocketAddr::new(address, 53))
}
