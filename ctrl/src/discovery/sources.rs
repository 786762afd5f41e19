//! Asking each kind of source once.

use super::http::{Body, Question};
use super::{Found, dns, http};
use crate::config::{DiscoverSpec, Site, Source};
use hickory_proto::rr::{Name, RData, RecordType};
use hyper::Method;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// How long a source may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names are asked for no more often than that, whatever they say.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Files are looked at so often.
const FILE_PAUSE: Duration = Duration::from_millis(500);

type Answer = Result<(Vec<Found>, Duration), String>;

/// What is kept of a source from one question to the next.
#[derive(Default)]
pub(super) struct Memory {
    /// What the last login gave.
    token: Option<String>,
}

/// The servers that a source names now, and when to ask again.
pub(super) async fn ask(spec: &DiscoverSpec, memory: &mut Memory) -> Answer {
    let answer = async {
        match &spec.source {
            Source::File { path } => file(path).map(|servers| (servers, FILE_PAUSE)),
            Source::Dns { name, resolver, l4_port } => names(name, *resolver, *l4_port).await,
            Source::Nacos { site, service, group, namespace } => {
                let path = format!(
                    "/nacos/v1/ns/instance/list?serviceName={}&groupName={}&namespaceId={}",
                    escape(service),
                    escape(group),
                    escape(namespace)
                );
                let login = |user: &str, password: &str| Question {
                    method: Method::POST,
                    path: "/nacos/v1/auth/login".into(),
                    body: Body::Form(format!("username={}&password={}", escape(user), escape(password))),
                    token: None,
                };
                // Nacos wants to be told in the address.
                let list = |token: Option<String>| Question {
                    method: Method::GET,
                    path: token
                        .map_or(path.clone(), |token| format!("{path}&accessToken={}", escape(&token))),
                    body: Body::None,
                    token: None,
                };
                let answer = known(site, memory, login, "accessToken", list).await?;
                Ok((nacos(&answer)?, spec.interval))
            }
            Source::Etcd { site, prefix } => {
                let range = json!({ "key": base64(prefix.as_bytes()), "range_end": base64(&after(prefix.as_bytes())) });
                let login = |user: &str, password: &str| Question {
                    method: Method::POST,
                    path: "/v3/auth/authenticate".into(),
                    body: Body::Json(json!({ "name": user, "password": password })),
                    token: None,
                };
                let list = |token| Question {
                    method: Method::POST,
                    path: "/v3/kv/range".into(),
                    body: Body::Json(range.clone()),
                    token,
                };
                let answer = known(site, memory, login, "token", list).await?;
                Ok((etcd(&answer)?, spec.interval))
            }
        }
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Asks as somebody, if the site has a user: logs in first, and again when the last login is not believed any more.
async fn known(
    site: &Site,
    memory: &mut Memory,
    login: impl Fn(&str, &str) -> Question,
    token_key: &str,
    list: impl Fn(Option<String>) -> Question,
) -> Result<Value, String> {
    let mut was_renewed = false;
    loop {
        if let Some(who) = site.login.as_ref().filter(|_| memory.token.is_none()) {
            let file = who.password_file.display();
            let text =
                std::fs::read_to_string(&who.password_file).map_err(|error| format!("{file}: {error}"))?;
            let password = text.lines().next().unwrap_or_default();
            let answer = http::fetch(site, &login(&who.user, password)).await;
            let answer = answer.map_err(|failure| format!("login as {}: {}", who.user, failure.words))?;
            let token = answer[token_key].as_str().ok_or("the login gave no token")?;
            memory.token = Some(token.to_owned());
            was_renewed = true;
        }
        match http::fetch(site, &list(memory.token.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(failure) if failure.is_stranger && memory.token.is_some() && !was_renewed => {
                memory.token = None;
            }
            Err(failure) => return Err(failure.words),
        }
    }
}

/// `[[server]]` tables with the keys of `[[service.server]]`.
fn file(path: &Path) -> Result<Vec<Found>, String> {
    let says = |error: &dyn std::fmt::Display| format!("{}: {}", path.display(), error.to_string().trim());
    let text = std::fs::read_to_string(path).map_err(|error| says(&error))?;
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| says(&error))?;
    let list = table.remove("server").unwrap_or(toml::Value::Array(Vec::new()));
    let list = serde_json::to_value(list).map_err(|error| says(&error))?;
    if let Some(other) = table.keys().next() {
        return Err(says(&format!("`{other}` is unknown; such a file has [[server]] tables alone")));
    }
    let list = list.as_array().ok_or_else(|| says(&"servers are [[server]] tables"))?;
    list.iter().map(|server| found(server).ok_or_else(|| says(&"a server has no address"))).collect()
}

/// A server from an object with `address` and other keys.
fn found(object: &Value) -> Option<Found> {
    let mut keys = object.as_object()?.clone();
    let address = keys.remove("address")?.as_str()?.to_owned();
    Some(Found { address, keys })
}

fn server(address: IpAddr, l4_port: u16) -> Found {
    Found { address: SocketAddr::new(address, l4_port).to_string(), keys: Map::new() }
}

/// The addresses of a name, or the servers of its SRV records (RFC 2782) of the best priority.
async fn names(name: &str, resolver: SocketAddr, l4_port: Option<u16>) -> Answer {
    let mut name = Name::from_str(name).map_err(|error| format!("`{name}` is no name: {error}"))?;
    name.set_fqdn(true);
    let mut ttl = u32::MAX;
    let mut all = Vec::new();
    match l4_port {
        Some(l4_port) => {
            for address in addresses(&name, resolver, &mut ttl).await? {
                all.push(server(address, l4_port));
            }
        }
        None => {
            let answer = dns::ask(resolver, &name, RecordType::SRV).await?;
            let records: Vec<_> = answer
                .answers
                .iter()
                .filter_map(|record| match &record.data {
                    RData::SRV(srv) => Some((record.ttl, srv.clone())),
                    _ => None,
                })
                .collect();
            let best = records.iter().map(|(_, srv)| srv.priority).min();
            for (kept, srv) in records.into_iter().filter(|(_, srv)| Some(srv.priority) == best) {
                ttl = ttl.min(kept);
                for address in addresses(&srv.target, resolver, &mut ttl).await? {
                    let mut one = server(address, srv.port);
                    one.keys.insert("weight".into(), json!(srv.weight.max(1)));
                    all.push(one);
                }
            }
        }
    }
    Ok((all, Duration::from_secs(ttl.into()).max(TTL_MIN)))
}

async fn addresses(name: &Name, resolver: SocketAddr, ttl: &mut u32) -> Result<Vec<IpAddr>, String> {
    let mut all = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        for record in dns::ask(resolver, name, kind).await?.answers {
            if let Some(address) = crate::dns::address(&record) {
                *ttl = (*ttl).min(record.ttl);
                all.push(address);
            }
        }
    }
    Ok(all)
}

/// The instances that are enabled; whether they are healthy is for our own checks to say, unless Nacos knows better
/// than that they are. When it takes nobody for healthy it is not believed.
fn nacos(answer: &Value) -> Result<Vec<Found>, String> {
    let hosts = answer["hosts"].as_array().ok_or("the answer has no `hosts`; is it a Nacos?")?;
    let enabled = || hosts.iter().filter(|host| host["enabled"] != false);
    let is_sick = |host: &Value| host["healthy"] == false;
    let is_believed = !enabled().all(is_sick);
    enabled()
        .map(|host| {
            let address: IpAddr =
                host["ip"].as_str().and_then(|text| text.parse().ok()).ok_or("an instance has no address")?;
            let l4_port = host["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .ok_or("an instance has no port")?;
            let mut one = server(address, l4_port);
            let weight = host["weight"].as_f64().unwrap_or(1.0);
            one.keys.insert("weight".into(), json!(if is_sick(host) && is_believed { 0.0 } else { weight }));
            for key in ["zone", "region"] {
                if let Some(place) = host["metadata"][key].as_str() {
                    one.keys.insert(key.into(), json!(place));
                }
            }
            Ok(one)
        })
        .collect()
}

/// A key for each server; its value is `ADDRESS:PORT`, or an object with `address` and the keys of the file.
fn etcd(answer: &Value) -> Result<Vec<Found>, String> {
    let nothing = Vec::new();
    let pairs = answer["kvs"].as_array().unwrap_or(&nothing);
    pairs
        .iter()
        .map(|pair| {
            let key = pair["key"].as_str().and_then(unbase64).unwrap_or_default();
            let value = pair["value"].as_str().and_then(unbase64).unwrap_or_default();
            let text = String::from_utf8_lossy(&value).trim().to_owned();
            let object = serde_json::from_str(&text).ok().and_then(|object| found(&object));
            let plain =
                || Some(Found { address: text.parse::<SocketAddr>().ok()?.to_string(), keys: Map::new() });
            object
                .or_else(plain)
                .ok_or_else(|| format!("the value of {} is no server: {text}", String::from_utf8_lossy(&key)))
        })
        .collect()
}

/// The end of the range of keys that begin with `prefix`.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// RFC 3986 §2.1.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nacos_and_etcd_are_read() {
        let answer = json!({ "hosts": [
            { "ip": "10.0.0.11", "port": 80, "weight": 2.5, "enabled": true, "healthy": true, "metadata": { "zone": "a" } },
            { "ip": "10.0.0.12", "port": 80, "weight": 1.0, "enabled": false, "healthy": true },
            { "ip": "10.0.0.13", "port": 81, "weight": 1.0, "healthy": false },
        ]});
        let servers = nacos(&answer).unwrap();
        assert_eq!(servers.len(), 2);
        assert_eq!(
            (servers[0].address.as_str(), &servers[0].keys["weight"], &servers[0].keys["zone"]),
            ("10.0.0.11:80", &json!(2.5), &json!("a"))
        );
        assert_eq!((servers[1].address.as_str(), &servers[1].keys["weight"]), ("10.0.0.13:81", &json!(0.0)));
        assert!(nacos(&json!({})).is_err());
        let sick = nacos(&json!({ "hosts": [{ "ip": "10.0.0.11", "port": 80, "healthy": false }] })).unwrap();
        assert_eq!(sick[0].keys["weight"], 1.0, "not all at once");

        let pair = |value: &str| json!({ "key": base64(b"/s/1"), "value": base64(value.as_bytes()) });
        let answer =
            json!({ "kvs": [pair("10.0.0.11:80"), pair(r#"{"address":"10.0.0.12:80","weight":3}"#)] });
        let servers = etcd(&answer).unwrap();
        assert_eq!(servers[1].keys["weight"], 3);
        assert_eq!(servers[0].address, "10.0.0.11:80");
        assert!(etcd(&json!({ "kvs": [pair("x")] })).unwrap_err().contains("/s/1"));
        assert_eq!(etcd(&json!({})).unwrap(), []);
        assert_eq!(after(b"/s/"), b"/s0");
        assert_eq!(after(&[1, 0xff]), [2]);
        assert_eq!(escape("a@@b c"), "a%40%40b%20c");
    }
}
