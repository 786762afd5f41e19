//! The file as it is written: one structure per table, every value with its place.

use super::{LoadError, Problem, Severity, Text};
use serde::Deserialize;
use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) dataplane: Dataplane,
    #[serde(default)]
    pub(super) admin: Admin,
    #[serde(default)]
    pub(super) port: Vec<Spanned<Port>>,
    #[serde(default)]
    pub(super) route: Vec<Spanned<Route>>,
    #[serde(default)]
    pub(super) service: Vec<Spanned<Service>>,
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    pub(super) location: Option<Location>,
    pub(super) names: Option<Names>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Names {
    pub(super) zone: Spanned<String>,
    #[serde(default)]
    pub(super) listen: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) http: Vec<Spanned<String>>,
    pub(super) ttl: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) client: Vec<NamesClient>,
}

/// Clients of some networks, and where they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamesClient {
    pub(super) networks: Vec<Spanned<String>>,
    pub(super) zone: Option<Spanned<String>>,
    pub(super) region: Option<Spanned<String>>,
}

/// Where the director, or a server, is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Location {
    pub(super) zone: Option<Spanned<String>>,
    pub(super) region: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dataplane {
    pub(super) workers: Option<Spanned<Vec<Spanned<i64>>>>,
    pub(super) session_capacity: Option<Spanned<i64>>,
    pub(super) session_capacity_ipv6: Option<Spanned<i64>>,
    pub(super) hugepages: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) socket: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) operators: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) name: Spanned<String>,
    pub(super) device: Option<Spanned<String>>,
    /// The port whose link a sub-interface shares.
    pub(super) parent: Option<Spanned<String>>,
    pub(super) vlan: Option<Spanned<i64>>,
    pub(super) mtu: Option<Spanned<i64>>,
    pub(super) accept_ra: Option<Spanned<bool>>,
    pub(super) kernel: Option<bool>,
    #[serde(default)]
    pub(super) addresses: Vec<Spanned<String>>,
    pub(super) rss: Option<Rss>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rss {
    pub(super) fields: Spanned<String>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) table: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) to: Spanned<String>,
    pub(super) via: Spanned<OneOrMany>,
    pub(super) port: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: Spanned<String>,
    pub(super) listen: Option<Spanned<OneOrMany>>,
    #[serde(default)]
    pub(super) sources: Vec<Spanned<String>>,
    pub(super) protocol: Option<Spanned<OneOrMany>>,
    pub(super) forward: Option<Spanned<String>>,
    pub(super) scheduler: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) scheduler_flags: Vec<Spanned<String>>,
    pub(super) hash_seed: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) local_addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) server: Vec<Spanned<Server>>,
    pub(super) health: Option<Spanned<Health>>,
    pub(super) passive: Option<Spanned<Passive>>,
    pub(super) discover: Option<Spanned<Discover>>,
    pub(super) tunnel: Option<Spanned<Tunnel>>,
    pub(super) persistence: Option<Spanned<Persistence>>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) one_packet: Option<Spanned<bool>>,
    pub(super) sloppy: Option<Spanned<bool>>,
    pub(super) expire_quiescent: Option<bool>,
    pub(super) reset_on_expiry: Option<Spanned<bool>>,
    pub(super) session_limit: Option<Spanned<i64>>,
    pub(super) client_address: Option<Spanned<ClientAddress>>,
    pub(super) locality: Option<bool>,
    pub(super) names: Option<Spanned<String>>,
    pub(super) spill_below: Option<Spanned<Number>>,
    pub(super) protect_threshold: Option<Spanned<Number>>,
    pub(super) protect_hysteresis: Option<Spanned<Number>>,
    pub(super) slow_start: Option<Spanned<String>>,
    pub(super) connect_limit: Option<Spanned<String>>,
    pub(super) sorry_server: Option<Spanned<String>>,
    pub(super) drain: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientAddress {
    #[serde(rename = "type")]
    pub(super) kind: Spanned<String>,
    /// TOA's option kind.
    #[serde(rename = "kind")]
    pub(super) option: Option<Spanned<i64>>,
    /// PROXY's version.
    pub(super) version: Option<Spanned<i64>>,
    /// Whether PROXY tells a number of the session.
    pub(super) unique_id: Option<Spanned<bool>>,
    /// Whether PROXY tells the VIP apart from the destination.
    pub(super) vip: Option<Spanned<bool>>,
    /// Where UOA's record stands.
    pub(super) encoding: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Persistence {
    pub(super) timeout: Option<Spanned<String>>,
    pub(super) netmask: Option<Spanned<i64>>,
    pub(super) netmask_ipv6: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tunnel {
    #[serde(rename = "type")]
    pub(super) kind: Spanned<String>,
    pub(super) port: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) sources: Vec<Spanned<String>>,
}

/// A number, whole or not; or `off`, which is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(pub(super) Option<f64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl serde::de::Visitor<'_> for One {
            type Value = Number;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(Some(number as f64)))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(Some(number)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                if text == "off" {
                    return Ok(Number(None));
                }
                Err(E::invalid_type(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(One)
    }
}

/// One text, or a list of them.
#[derive(Debug)]
pub(super) struct OneOrMany(Vec<String>);

impl OneOrMany {
    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> serde::de::Visitor<'de> for Texts {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// The keys of a server beside its address.
pub(crate) const SERVER_KEYS: [&str; 5] = ["weight", "zone", "region", "max_sessions", "min_sessions"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub(super) address: Spanned<String>,
    pub(super) weight: Option<Spanned<Number>>,
    pub(super) zone: Option<Spanned<String>>,
    pub(super) region: Option<Spanned<String>>,
    pub(super) max_sessions: Option<Spanned<i64>>,
    pub(super) min_sessions: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Discover {
    #[serde(rename = "type")]
    pub(super) kind: Spanned<String>,
    pub(super) interval: Option<Spanned<String>>,
    pub(super) max_servers: Option<Spanned<i64>>,
    pub(super) path: Option<Spanned<String>>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) resolver: Option<Spanned<String>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) endpoint: Option<Spanned<OneOrMany>>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) verify: Option<Spanned<bool>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) service: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
    pub(super) namespace: Option<Spanned<String>>,
    pub(super) prefix: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Passive {
    pub(super) failures: Option<Spanned<i64>>,
    pub(super) window: Option<Spanned<String>>,
    pub(super) inhibit: Option<Spanned<String>>,
    pub(super) inhibit_max: Option<Spanned<String>>,
}

impl Server {
    /// A server of which nothing but its address is said.
    pub(super) fn at(address: Spanned<String>) -> Self {
        Self { address, weight: None, zone: None, region: None, max_sessions: None, min_sessions: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    #[serde(rename = "type")]
    pub(super) kind: Spanned<String>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) aim: Option<Spanned<String>>,
    pub(super) interval: Option<Spanned<String>>,
    pub(super) timeout: Option<Spanned<String>>,
    pub(super) rise: Option<Spanned<i64>>,
    pub(super) fall: Option<Spanned<i64>>,
    pub(super) jitter: Option<Spanned<Number>>,
    pub(super) initial: Option<Spanned<String>>,
    pub(super) proxy: Option<Spanned<bool>>,
    // HTTP and HTTPS.
    pub(super) path: Option<Spanned<String>>,
    pub(super) method: Option<Spanned<String>>,
    pub(super) host: Option<Spanned<String>>,
    pub(super) expect_status: Option<Spanned<OneOrMany>>,
    pub(super) expect_body: Option<Spanned<String>>,
    pub(super) load_header: Option<Spanned<String>>,
    pub(super) load_field: Option<Spanned<String>>,
    pub(super) load_limit: Option<Spanned<Number>>,
    pub(super) server_name: Option<Spanned<String>>,
    pub(super) verify: Option<Spanned<bool>>,
    pub(super) ca_file: Option<Spanned<String>>,
    // TCP and UDP.
    pub(super) send: Option<Spanned<String>>,
    pub(super) expect: Option<Spanned<String>>,
    // DNS.
    pub(super) query: Option<Spanned<String>>,
    pub(super) query_type: Option<Spanned<String>>,
    // Scripts.
    pub(super) command: Option<Spanned<OneOrMany>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    pub(super) established: Option<Spanned<String>>,
    pub(super) syn_sent: Option<Spanned<String>>,
    pub(super) syn_recv: Option<Spanned<String>>,
    pub(super) fin_wait: Option<Spanned<String>>,
    pub(super) time_wait: Option<Spanned<String>>,
    pub(super) close: Option<Spanned<String>>,
    pub(super) close_wait: Option<Spanned<String>>,
    pub(super) last_ack: Option<Spanned<String>>,
    pub(super) udp_one_way: Option<Spanned<String>>,
    pub(super) udp: Option<Spanned<String>>,
}

/// Parses `text`.
pub(super) fn read(text: &Text) -> Result<File, LoadError> {
    let problem = |error: &toml::de::Error, key: String, message: String| {
        let place = error.span().map(|span| text.place(span.start));
        Problem {
            file: place.map_or(text.path(), |(path, _)| path).to_owned(),
            line: place.map(|(_, line)| line),
            key,
            message,
            severity: Severity::Error,
        }
    };
    let unreadable = |error: toml::de::Error| {
        let message = format!("not valid TOML: {}", one_line(error.message()));
        LoadError::Unreadable(problem(&error, String::new(), message))
    };
    // Keeping track of the keys costs a third, so that is done for files that are wrong alone.
    let whole = toml::de::Deserializer::parse(text.whole()).map_err(unreadable)?;
    if let Ok(file) = File::deserialize(whole) {
        return Ok(file);
    }
    // What is wrong is taken out, and the rest read again: all is told at once.
    let mut table = DeTable::parse(text.whole()).map_err(unreadable)?;
    let mut problems = Vec::new();
    loop {
        let whole = toml::de::Deserializer::from(table.clone());
        let error = match serde_path_to_error::deserialize::<_, File>(whole) {
            // What is missing now may be what an unknown key was meant to be.
            Ok(_) => break,
            Err(error) if !problems.is_empty() && error.inner().message().starts_with("missing field") => {
                break;
            }
            Err(error) => error,
        };
        let path: Vec<_> = error.path().iter().filter(|segment| !is_of_spanned(segment)).cloned().collect();
        let key = key_of(error.path());
        let inner = error.into_inner();
        problems.push(problem(&inner, key, explain(inner.message())));
        if problems.len() >= PROBLEMS_MAX || !take_out(table.get_mut(), &path) {
            break;
        }
    }
    problems.sort_by_key(|problem| problem.line);
    Err(LoadError::Wrong(problems))
}

/// Problems that are told at once.
const PROBLEMS_MAX: usize = 32;

/// Takes the key at the end of `path` out of a table; false when there is none.
fn take_out(table: &mut DeTable<'_>, path: &[Segment]) -> bool {
    let Some((Segment::Map { key }, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        return table.remove(key.as_str()).is_some();
    }
    table.get_mut(key.as_str()).is_some_and(|value| take_out_of(value.get_mut(), rest))
}

fn take_out_of(value: &mut DeValue<'_>, path: &[Segment]) -> bool {
    match (value, path) {
        (DeValue::Table(table), path) => take_out(table, path),
        (DeValue::Array(list), [Segment::Seq { index }, rest @ ..]) => {
            list.get_mut(*index).is_some_and(|value| take_out_of(value.get_mut(), rest))
        }
        _ => false,
    }
}

/// Parses a part of a text; `None` when something is wrong with it.
pub(super) fn read_part(part: &str) -> Option<File> {
    File::deserialize(toml::de::Deserializer::parse(part).ok()?).ok()
}

/// Whether `Spanned` put this between a key and its value.
fn is_of_spanned(segment: &Segment) -> bool {
    matches!(segment, Segment::Map { key } if key.starts_with("$__"))
}

/// The path to a value without what `Spanned` adds to it.
fn key_of(path: &serde_path_to_error::Path) -> String {
    let mut key = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => key.push_str(&format!("[{index}]")),
            Segment::Map { key: name } if !is_of_spanned(segment) => {
                if !key.is_empty() {
                    key.push('.');
                }
                key.push_str(name);
            }
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    key
}

/// serde's message, and for an unknown key the one that was probably meant.
fn explain(message: &str) -> String {
    let message = one_line(message);
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("the key `{name}` is missing; add it");
    }
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return in_words_of_toml(&message);
    };
    let mut names = rest.split('`');
    let unknown = names.next().unwrap_or_default().to_owned();
    // Every second piece is a name between backticks.
    let known: Vec<_> = names.skip(1).step_by(2).collect();
    format!("unknown key `{unknown}`; {}", suggestion(&unknown, &known))
}

/// serde's words for types, as a person who writes the file knows them.
fn in_words_of_toml(message: &str) -> String {
    let message = message.replace("expected i64", "expected a whole number").replace(" as i128", "");
    let Some((what, wanted)) = message.split_once(", expected ") else { return message };
    let found = what.strip_prefix("invalid type: ").unwrap_or(what);
    let value = found.split('`').nth(1).unwrap_or_default();
    match wanted {
        "a sequence" if found == "map" => {
            "it is a list of tables; write [[ ]] around its name, as [[service]]".into()
        }
        "a sequence" => format!("{found} stands where a list belongs; write [ ] around it"),
        "a string" if found.starts_with("integer") || found.starts_with("floating") => {
            format!("{value} is a number and a text belongs here; write it in quotes, a time as \"{value}s\"")
        }
        "a string" if found == "map" || found == "sequence" => {
            "a text belongs here, and this is a table or a list; a table with one pair of brackets is written once, [[ ]] for each of several".into()
        }
        "a whole number" if found.starts_with("integer") => {
            format!("{value} is larger than any number can be; write a smaller one")
        }
        "a string" | "a text or a list of texts" => {
            format!("{found} stands where a text belongs; write it in quotes")
        }
        wanted if wanted.starts_with("struct ") || wanted == "a map" => {
            format!("{found} stands where a table belongs; write {{ KEY = VALUE }}")
        }
        "a boolean" => format!("{found} stands where true or false belongs"),
        wanted => format!("{found} stands where {wanted} belongs"),
    }
}

/// `did you mean ...?`, or what there is to choose from.
pub(super) fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!("did you mean `{name}`?"),
        _ => format!("use one of {}", known.join(", ")),
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_keys_are_listed() {
        let error = toml::from_str::<Server>("address = \"x\"\nno_such_key = 1").unwrap_err().to_string();
        let known: Vec<_> = error.split('`').skip(3).step_by(2).filter(|key| *key != "address").collect();
        assert_eq!(known, SERVER_KEYS, "{error}");
    }
}
