//! Asking each kind of source once.

use super::http::{Body, Question};
use super::names::{self, Asked};
use super::{Found, List, http};
use crate::config::{DiscoverSpec, Site, Source};
use crate::files;
use hyper::Method;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// How long a source may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Files are looked at so often.
const FILE_PAUSE: Duration = Duration::from_millis(500);

type Answer = Result<(List, Duration), String>;

/// What is kept of a source from one question to the next.
#[derive(Default)]
pub(super) struct Memory {
    /// What the last login gave.
    token: Option<String>,
    names: names::Memory,
    /// By etcd's key, the server that its value was.
    keys: HashMap<Vec<u8>, String>,
}

/// The servers that a source names now, and when to ask again.
pub(super) async fn ask(spec: &DiscoverSpec, memory: &mut Memory) -> Answer {
    // Each of its questions has a limit of its own.
    if let Source::Dns { name, resolver, l4_port, families } = &spec.source {
        let asked = Asked { name, resolver: *resolver, l4_port: *l4_port, families };
        return names::ask(&asked, &mut memory.names).await;
    }
    let answer = async {
        match &spec.source {
            Source::File { path } => file(&text_of(path).await?, path).map(|list| (list, FILE_PAUSE)),
            Source::Dns { .. } => Ok((List::default(), spec.interval)),
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
                Ok((etcd(&answer, &mut memory.keys)?, spec.interval))
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
            let text = text_of(&who.password_file).await?;
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

/// What stands in a file, which is read beside this thread.
async fn text_of(path: &Path) -> Result<String, String> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || files::read_text(&owned)).await;
    read.map_err(std::io::Error::other)
        .and_then(|read| read)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// `[[server]]` tables with the keys of `[[service.server]]`.
fn file(text: &str, path: &Path) -> Result<List, String> {
    let says = |error: &dyn std::fmt::Display| format!("{}: {}", path.display(), error.to_string().trim());
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| says(&error.message()))?;
    let list = table.remove("server").unwrap_or(toml::Value::Array(Vec::new()));
    let odd = numbers_that_are_none(&list);
    let list = serde_json::to_value(list).map_err(|error| says(&error))?;
    if let Some(other) = table.keys().next() {
        return Err(says(&format!("`{other}` is unknown; such a file has [[server]] tables alone")));
    }
    let list = list.as_array().ok_or_else(|| says(&"servers are [[server]] tables"))?;
    let servers = list.iter().enumerate();
    Ok(collect(servers.map(|(at, server)| {
        let mut server = found(server).ok_or_else(|| format!("server[{at}] has no address as a text"))?;
        if let Some((_, key)) = odd.iter().find(|(place, _)| *place == at) {
            server.wrong = Some(format!("its {key} is not a number"));
        }
        Ok(server)
    })))
}

/// The places of tables in which TOML's `nan` or `inf` stands, and the keys: JSON has no such numbers.
fn numbers_that_are_none(list: &toml::Value) -> Vec<(usize, String)> {
    let tables = list.as_array().into_iter().flatten().enumerate();
    let keys = tables.flat_map(|(at, table)| {
        table.as_table().into_iter().flatten().map(move |(key, value)| (at, key, value))
    });
    let odd = keys.filter(|(_, _, value)| value.as_float().is_some_and(|number| !number.is_finite()));
    odd.map(|(at, key, _)| (at, key.clone())).collect()
}

/// What can be read of a list, and why the rest cannot.
fn collect(servers: impl Iterator<Item = Result<Found, String>>) -> List {
    let mut list = List::default();
    for server in servers {
        match server {
            Ok(server) => list.servers.push(server),
            Err(note) => list.notes.push(note),
        }
    }
    list
}

/// A server from an object with `address` and other keys.
fn found(object: &Value) -> Option<Found> {
    let mut keys = object.as_object()?.clone();
    let address = keys.remove("address")?.as_str()?.to_owned();
    Some(Found { address, keys, wrong: None })
}

/// The instances that are enabled; whether they are healthy is for our own checks to say, unless Nacos knows better
/// than that they are. When it takes nobody for healthy it is not believed.
fn nacos(answer: &Value) -> Result<List, String> {
    let hosts = answer["hosts"].as_array().ok_or("the answer has no `hosts`; is it a Nacos?")?;
    // A record of which nothing can be read is named with those that are enabled.
    let enabled = || hosts.iter().filter(|host| !host.is_object() || host["enabled"] != false);
    let is_sick = |host: &Value| host["healthy"] == false;
    let is_believed = !enabled().all(is_sick);
    Ok(collect(enabled().map(|host| {
        if !host.is_object() {
            return Err(format!("{} is not an instance", shown(host)));
        }
        let address: IpAddr = host["ip"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("an instance's ip is {}, which is not an address", shown(&host["ip"])))?;
        let l4_port = host["port"].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or_else(|| {
            format!("the port of instance {address} is {}, which is not a port", shown(&host["port"]))
        })?;
        let mut wrong = None;
        let weight = match &host["weight"] {
            Value::Null => 1.0,
            Value::Number(number) => number.as_f64().unwrap_or(1.0),
            other => {
                wrong = Some(format!("its weight is {}, which is not a number", shown(other)));
                1.0
            }
        };
        for key in ["enabled", "healthy"] {
            if !matches!(host[key], Value::Null | Value::Bool(_)) {
                wrong = Some(format!("its key {key} is {}, which is not true or false", shown(&host[key])));
            }
        }
        let mut keys = Map::new();
        keys.insert("weight".into(), json!(if is_sick(host) && is_believed { 0.0 } else { weight }));
        for key in ["zone", "region"] {
            if let Some(place) = host["metadata"][key].as_str() {
                keys.insert(key.into(), json!(place));
            }
        }
        Ok(Found { address: SocketAddr::new(address, l4_port).to_string(), keys, wrong })
    })))
}

/// A key for each server; its value is `ADDRESS:PORT`, or an object with `address` and the keys of the file. A value that
/// cannot be read stands for the server that the key was before.
fn etcd(answer: &Value, known: &mut HashMap<Vec<u8>, String>) -> Result<List, String> {
    let nothing = Vec::new();
    let pairs = match &answer["kvs"] {
        // What the gateway says of a range in which there is nothing.
        Value::Null if answer["header"].is_object() || answer["count"].is_string() => &nothing,
        Value::Array(pairs) => pairs,
        _ => return Err("the answer has no `kvs`; is it an etcd?".to_owned()),
    };
    if answer["more"] == true {
        return Err("the answer has a part of the keys alone".to_owned());
    }
    let before = std::mem::take(known);
    Ok(collect(pairs.iter().map(|pair| {
        let key = pair["key"].as_str().and_then(unbase64).unwrap_or_default();
        let value = pair["value"].as_str().and_then(unbase64).unwrap_or_default();
        let text = String::from_utf8_lossy(&value).trim().to_owned();
        let object = serde_json::from_str(&text).ok().and_then(|object| found(&object));
        let plain = || {
            Some(Found {
                address: text.parse::<SocketAddr>().ok()?.to_string(),
                keys: Map::new(),
                wrong: None,
            })
        };
        let name = json!(String::from_utf8_lossy(&key));
        let wrong = || format!("the value of {} is not a server: {}", shown(&name), shown(&json!(text)));
        let server = object.or_else(plain).or_else(|| {
            let address = before.get(&key)?.clone();
            Some(Found { address, keys: Map::new(), wrong: Some(wrong()) })
        });
        let server = server.ok_or_else(wrong)?;
        known.insert(key, server.address.clone());
        Ok(server)
    })))
}

/// A value as a source wrote it, as far as it fits into a message.
fn shown(value: &Value) -> String {
    const SHOWN: usize = 80;
    let text = value.as_str().map_or_else(|| value.to_string(), |text| format!("`{text}`"));
    if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN).chain("…".chars()).collect() }
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
        let servers = nacos(&answer).unwrap().servers;
        assert_eq!(servers.len(), 2);
        assert_eq!(
            (servers[0].address.as_str(), &servers[0].keys["weight"], &servers[0].keys["zone"]),
            ("10.0.0.11:80", &json!(2.5), &json!("a"))
        );
        assert_eq!((servers[1].address.as_str(), &servers[1].keys["weight"]), ("10.0.0.13:81", &json!(0.0)));
        assert!(nacos(&json!({})).is_err());
        let sick = nacos(&json!({ "hosts": [{ "ip": "10.0.0.11", "port": 80, "healthy": false }] })).unwrap();
        assert_eq!(sick.servers[0].keys["weight"], 1.0, "not all at once");

        let pair = |value: &str| json!({ "key": base64(b"/s/1"), "value": base64(value.as_bytes()) });
        let answer =
            json!({ "kvs": [pair("10.0.0.11:80"), pair(r#"{"address":"10.0.0.12:80","weight":3}"#)] });
        let mut known = HashMap::new();
        let servers = etcd(&answer, &mut known).unwrap().servers;
        assert_eq!(servers[1].keys["weight"], 3);
        assert_eq!(servers[0].address, "10.0.0.11:80");
        assert!(etcd(&json!({}), &mut known).is_err(), "not an etcd");
        assert_eq!(etcd(&json!({ "header": {} }), &mut known).unwrap(), List::default());
        assert!(etcd(&json!({ "more": true, "kvs": [pair("10.0.0.11:80")] }), &mut known).is_err());
        assert_eq!(after(b"/s/"), b"/s0");
        assert_eq!(after(&[1, 0xff]), [2]);
        assert_eq!(escape("a@@b c"), "a%40%40b%20c");
    }

    #[test]
    fn a_record_that_is_none_is_named_and_leaves_the_others() {
        let host = |ip: Value, port: Value| json!({ "ip": ip, "port": port, "weight": 1.0 });
        let answer = json!({ "hosts": [
            host(json!("web.example.com"), json!(80)),
            host(json!("[2001:db8:b::11]"), json!(80)),
            host(json!("fe80::1%eth0"), json!(80)),
            host(json!("10.0.0.12"), json!("80")),
            host(json!("10.0.0.13"), json!(70_000)),
            { "ip": "10.0.0.14", "port": 80, "weight": "3" },
            { "ip": "10.0.0.15", "port": 80, "enabled": "false" },
            { "ip": "10.0.0.16", "port": 80, "healthy": 0 },
            "what no number holds: 1e999",
            host(json!("10.0.0.11"), json!(80)),
        ]});
        let list = nacos(&answer).unwrap();
        let whole: Vec<_> = list.servers.iter().filter(|server| server.wrong.is_none()).collect();
        assert_eq!(whole.len(), 1, "{list:?}");
        assert_eq!(whole[0].address, "10.0.0.11:80");
        assert_eq!(list.notes.len(), 6);
        // Of these it is known which they are.
        let wrong: Vec<_> = list.servers.iter().filter_map(|server| server.wrong.as_deref()).collect();
        assert_eq!(
            wrong,
            [
                "its weight is `3`, which is not a number",
                "its key enabled is `false`, which is not true or false",
                "its key healthy is 0, which is not true or false"
            ]
        );
        assert!(list.notes[0].contains("`web.example.com`") && list.notes[3].contains("10.0.0.12 is `80`"));

        let pair = |key: &str, value: &str| json!({ "key": base64(key.as_bytes()), "value": base64(value.as_bytes()) });
        let answer = json!({ "kvs": [
            pair("/s/lock", "held by x"), pair("/s/1", "10.0.0.11:80"), pair("/s/2", "{\"address\":"),
            pair("/s/3\nsluiced: x", "web.example.com:80"),
        ]});
        let mut known = HashMap::from([(b"/s/9".to_vec(), "10.0.0.9:80".to_owned())]);
        let list = etcd(&answer, &mut known).unwrap();
        assert_eq!(list.servers.len(), 1);
        assert!(list.notes.len() == 3 && list.notes[1].contains("/s/2"), "{:?}", list.notes);

        // A key whose value can no longer be read is the server that it was.
        let broken =
            json!({ "kvs": [pair("/s/1", "{\"address\": \"10.0.0.11:8"), pair("/s/4", "10.0.0.14:80")] });
        let list = etcd(&broken, &mut known).unwrap();
        assert_eq!((list.servers[0].address.as_str(), list.servers.len()), ("10.0.0.11:80", 2));
        assert!(list.servers[0].wrong.as_ref().unwrap().contains("the value of `/s/1` is not a server"));
        let list = etcd(&broken, &mut known).unwrap();
        assert_eq!(list.servers[0].address, "10.0.0.11:80", "for as long as it is so");

        let text = "[[server]]\naddress = \"10.0.0.11:80\"\n[[server]]\nweight = 3\n";
        let list = file(text, Path::new("x.toml")).unwrap();
        assert_eq!(
            (list.servers.len(), list.notes),
            (1, vec!["server[1] has no address as a text".to_owned()])
        );
        let list =
            file("[[server]]\naddress = \"10.0.0.11:80\"\nweight = nan\n", Path::new("x.toml")).unwrap();
        assert_eq!(list.servers[0].wrong.as_deref(), Some("its weight is not a number"));
    }
}
