//! What two configurations differ in, in lines that a person reads.

use crate::config::{Config, ServerSpec, ServiceSpec};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// The changes from `old` to `new`; none when they are the same.
pub fn lines(old: &Config, new: &Config) -> Vec<String> {
    // Named one by one, so that a new part does not compile until it is compared.
    let Config {
        dataplane: _,
        admin: _,
        ports: _,
        routes: _,
        neighbors: _,
        acls: _,
        hooks: _,
        services: _,
        location: _,
        names: _,
        metrics: _,
        web: _,
        log: _,
        timeouts: _,
    } = new;
    let mut lines = Vec::new();
    let parts = [
        ("[dataplane]", old.dataplane != new.dataplane),
        ("[admin]", old.admin != new.admin),
        ("[location]", old.location != new.location),
        ("[names]", old.names != new.names),
        ("[log]", old.log != new.log),
        ("[metrics]", old.metrics != new.metrics),
        ("[web]", old.web != new.web),
        ("[timeouts]", old.timeouts != new.timeouts),
        ("[[port]]", old.ports != new.ports),
        ("[[route]]", old.routes != new.routes),
        ("[[neighbor]]", old.neighbors != new.neighbors),
        ("[[acl]]", old.acls != new.acls),
        ("[[hook]]", old.hooks != new.hooks),
    ];
    lines.extend(parts.iter().filter(|(_, differs)| *differs).map(|(name, _)| format!("~ {name}")));
    let by_name = |config: &Config| -> BTreeMap<String, ServiceSpec> {
        config.services.iter().map(|spec| (spec.name.clone(), without_found(spec))).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    lines.extend(
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("- service {name}")),
    );
    for (name, spec) in &after {
        match before.get(name) {
            None => lines.push(format!("+ service {name} {}", spec.listen_text())),
            Some(old) if old != spec => service(old, spec, &mut lines),
            Some(_) => {}
        }
    }
    lines
}

/// How many of a kind came, changed and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that came.
    pub added: usize,
    /// Those that are otherwise now.
    pub changed: usize,
    /// Those that went.
    pub removed: usize,
}

/// What a reload did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services; what changed of their servers alone does not count here.
    pub services: Count,
    /// Servers of the files.
    pub servers: Count,
}

impl Counts {
    /// The numbers as an object.
    pub fn json(self) -> serde_json::Value {
        let of = |count: Count| serde_json::json!({ "added": count.added, "changed": count.changed, "removed": count.removed });
        serde_json::json!({ "services": of(self.services), "servers": of(self.servers) })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |Count { added, changed, removed }| {
            format!("{added} added, {changed} changed, {removed} removed")
        };
        write!(f, "services {}; servers {}", text(self.services), text(self.servers))
    }
}

/// The changes from `old` to `new` in numbers.
pub fn counts(old: &Config, new: &Config) -> Counts {
    let mut counts = Counts::default();
    let own = |spec: &ServiceSpec| spec.servers.iter().filter(|server| !server.is_found).count();
    let mut before: HashMap<&str, &Arc<ServiceSpec>> =
        old.services.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for spec in &new.services {
        let Some(old) = before.remove(spec.name.as_str()) else {
            counts.services.added += 1;
            counts.servers.added += own(spec);
            continue;
        };
        if Arc::ptr_eq(old, spec) {
            continue;
        }
        let (old, new) = (without_found(old), without_found(spec));
        let known: HashMap<_, _> = old.servers.iter().map(|server| (server.endpoint, server)).collect();
        let kept: Vec<_> =
            new.servers.iter().filter_map(|server| Some((server, *known.get(&server.endpoint)?))).collect();
        counts.servers.changed += kept.iter().filter(|(new, old)| new != old).count();
        counts.servers.added += new.servers.len() - kept.len();
        counts.servers.removed += old.servers.len() - kept.len();
        let bare = |spec: ServiceSpec| ServiceSpec { servers: Vec::new(), ..spec };
        counts.services.changed += usize::from(bare(old) != bare(new));
    }
    counts.services.removed = before.len();
    counts.servers.removed += before.values().map(|spec| own(spec)).sum::<usize>();
    counts
}

/// A service as the operator wrote it.
fn without_found(spec: &ServiceSpec) -> ServiceSpec {
    let mut spec = spec.clone();
    spec.servers.retain(|server| !server.is_found);
    spec
}

fn service(old: &ServiceSpec, new: &ServiceSpec, lines: &mut Vec<String>) {
    let name = &new.name;
    let mut texts = vec![];
    let words = [
        ("listen", old.listen_text(), new.listen_text()),
        ("protocol", old.protocols.to_string(), new.protocols.to_string()),
        ("forward", old.forward.name().into(), new.forward.name().into()),
        ("scheduler", old.scheduler.name().into(), new.scheduler.name().into()),
        ("local_addresses", addresses(old), addresses(new)),
    ];
    texts.extend(
        words
            .iter()
            .filter(|(_, old, new)| old != new)
            .map(|(key, old, new)| format!("{key} {old} -> {new}")),
    );
    let others = [
        ("health", old.health != new.health),
        ("names", old.names != new.names),
        ("discover", old.discover != new.discover),
        ("passive", old.passive != new.passive),
        ("slow_start", old.slow_start != new.slow_start),
        ("drain", old.drain != new.drain),
        ("connect_limit", old.connect_limit != new.connect_limit),
        ("limits.ban", old.ban != new.ban),
        ("syn_flood_rate", old.syn_flood_rate != new.syn_flood_rate),
        ("protection or locality", old.policy != new.policy || old.locality != new.locality),
        (
            "scheduler_flags or hash_seed",
            (old.scheduler_flags, old.hash_seed) != (new.scheduler_flags, new.hash_seed),
        ),
        ("options", old.options != new.options),
    ];
    texts.extend(others.iter().filter(|(_, differs)| *differs).map(|(key, _)| (*key).to_owned()));
    if !texts.is_empty() {
        lines.push(format!("~ service {name}: {}", texts.join(", ")));
    }
    let find = |list: &[ServerSpec], one: &ServerSpec| {
        list.iter().find(|other| other.endpoint == one.endpoint).cloned()
    };
    for server in &old.servers {
        if find(&new.servers, server).is_none() {
            lines.push(format!("- service {name}: server {}", server.endpoint));
        }
    }
    for server in &new.servers {
        match find(&old.servers, server) {
            None => {
                lines.push(format!("+ service {name}: server {} weight {}", server.endpoint, server.weight))
            }
            Some(old) if old.weight != server.weight => {
                lines.push(format!(
                    "~ service {name}: server {} weight {} -> {}",
                    server.endpoint, old.weight, server.weight
                ));
            }
            Some(old) if old != *server => {
                lines.push(format!("~ service {name}: server {}", server.endpoint))
            }
            Some(_) => {}
        }
    }
}

fn addresses(spec: &ServiceSpec) -> String {
    spec.local_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
