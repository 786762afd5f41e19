//! What two configurations differ in, in lines that a person reads.

use crate::config::{Config, ServerSpec, ServiceSpec};
use std::collections::BTreeMap;

/// The changes from `old` to `new`; none when they are the same.
pub fn lines(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let parts = [
        ("[dataplane]", old.dataplane != new.dataplane),
        ("[admin]", old.admin != new.admin),
        ("[location]", old.location != new.location),
        ("[names]", old.names != new.names),
        ("[timeouts]", old.timeouts != new.timeouts),
        ("[[port]]", old.ports != new.ports),
        ("[[route]]", old.routes != new.routes),
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
        ("protocol", old.protocol.name().into(), new.protocol.name().into()),
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
