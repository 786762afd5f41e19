//! What the list of keys says to people and to editors: the page docs/reference/configuration.md and a JSON Schema.

use super::keys::{Holds, Key, Keyed, Shape, Table};
use super::raw;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// The file's form as a JSON Schema (draft 7), by which editors complete and check it.
pub fn schema() -> Value {
    let mut schema = of_table(&raw::File::TABLE);
    schema.insert("$schema".into(), json!("http://json-schema.org/draft-07/schema#"));
    schema.insert("title".into(), json!("Sluice's configuration"));
    Value::Object(schema)
}

fn of_table(table: &Table) -> Map<String, Value> {
    let properties: Map<_, _> =
        table.keys.iter().map(|key| (key.name.to_owned(), Value::Object(of_key(key)))).collect();
    let needed: Vec<_> = table.keys.iter().filter(|key| key.is_needed).map(|key| key.name).collect();
    let mut schema = Map::new();
    schema.insert("type".into(), json!("object"));
    schema.insert("description".into(), json!(sentences(table.about)));
    schema.insert("properties".into(), Value::Object(properties));
    schema.insert("additionalProperties".into(), json!(false));
    if !needed.is_empty() {
        schema.insert("required".into(), json!(needed));
    }
    schema
}

fn of_key(key: &Key) -> Map<String, Value> {
    let mut schema = of_shape(&key.shape, &key.holds);
    schema.insert("description".into(), json!(help(key)));
    if let Some(default) = key.default.and_then(value) {
        schema.insert("default".into(), default);
    }
    schema
}

fn of_shape(shape: &Shape, holds: &Holds) -> Map<String, Value> {
    let schema = match shape {
        Shape::Table(table) => return of_table(table),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Whole => match holds {
            Holds::Whole(first, last) => json!({ "type": "integer", "minimum": first, "maximum": last }),
            _ => json!({ "type": "integer" }),
        },
        Shape::Number => match holds {
            Holds::Number(first, last) => {
                json!({ "anyOf": [{ "type": "number", "minimum": first, "maximum": last }, { "const": "off" }] })
            }
            _ => json!({ "anyOf": [{ "type": "number" }, { "const": "off" }] }),
        },
        Shape::Text => match holds {
            Holds::Words(words) => json!({ "type": "string", "enum": words() }),
            Holds::Time(..) => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }),
            _ => json!({ "type": "string" }),
        },
        Shape::FlagOrText => match holds {
            Holds::Words(words) => {
                json!({ "enum": words().into_iter().map(flag_or_word).collect::<Vec<_>>() })
            }
            _ => json!({ "anyOf": [{ "type": "boolean" }, { "type": "string" }] }),
        },
        Shape::Map => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Shape::Texts => {
            let one = of_shape(&Shape::Text, holds);
            json!({ "anyOf": [one, { "type": "array", "items": one }] })
        }
        Shape::List(inner) => json!({ "type": "array", "items": of_shape(inner, holds) }),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// `true` and `false` as TOML has them, other words as texts.
fn flag_or_word(word: &str) -> Value {
    word.parse().map_or_else(|_| json!(word), Value::Bool)
}

/// A default as a value; `None` if the list has something that is not TOML, which a test refuses.
fn value(default: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {default}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// The reference of all keys, in Markdown.
pub fn page() -> String {
    let mut page = String::from(
        "# Configuration: all keys\n\n\
         This page is made from the list that the daemon reads the file by (`SLUICE_WRITE=1 cargo test -p ctrl reference`\n\
         writes it). `sluiced --schema` prints the same list as a JSON Schema, so that an editor completes and checks the\n\
         file. Examples of every mode and every kind of check are in [config/](../../config).\n\n\
         A *duration* is a number with `ms`, `s`, `m` or `h`, as `\"2s\"`. A key in **bold** must be there. Keys that only\n\
         some types have name these types.\n",
    );
    section(&mut page, "", "The file", &raw::File::TABLE);
    page
}

fn section(page: &mut String, path: &str, title: &str, table: &Table) {
    let _ = writeln!(page, "\n## {title}\n\n{}\n", sentences(table.about));
    page.push_str("| key | value | default | |\n|---|---|---|---|\n");
    for key in table.keys {
        let name = if key.is_needed { format!("**`{}`**", key.name) } else { format!("`{}`", key.name) };
        let default = key.default.map_or(String::new(), |default| format!("`{default}`"));
        let _ = writeln!(page, "| {name} | {} | {default} | {} |", kind(key, path), help(key));
    }
    for key in table.keys {
        let Some(inner) = key.shape.table() else { continue };
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        section(page, &path, &format!("`{}`", title_of(&path, &key.shape)), inner);
    }
}

/// `[path]`, or `[[path]]` for a list of tables.
fn title_of(path: &str, shape: &Shape) -> String {
    match shape {
        Shape::List(_) => format!("[[{path}]]"),
        _ => format!("[{path}]"),
    }
}

/// The values of a key, in few words.
fn kind(key: &Key, path: &str) -> String {
    let whole = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
    let one = |shape: &Shape| match (shape, &key.holds) {
        (Shape::Table(_), _) => {
            let title = title_of(&whole, &key.shape);
            let anchor: String = title.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            format!("[table{}](#{anchor})", if matches!(key.shape, Shape::List(_)) { "s" } else { "" })
        }
        (Shape::Flag, _) => "`true`, `false`".to_owned(),
        (Shape::FlagOrText, Holds::Words(words)) => {
            words().iter().map(|word| format!("`{}`", flag_or_word(word))).collect::<Vec<_>>().join(", ")
        }
        (_, Holds::Words(words)) => {
            words().iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        (_, Holds::Time(first, last)) => format!("duration, {} to {}", in_words(*first), in_words(*last)),
        (_, Holds::Whole(first, last)) if *last >= i64::MAX - 1 => format!("{first} or more"),
        (_, Holds::Whole(first, last)) => format!("{first} to {last}"),
        (_, Holds::Number(first, last)) => format!("number, {first} to {last}"),
        (_, Holds::Form(form)) => (*form).to_owned(),
        (Shape::Whole, Holds::Any) => "whole number".to_owned(),
        (Shape::Map, _) => "table of texts".to_owned(),
        (Shape::Number, Holds::Any) => "number".to_owned(),
        (_, Holds::Any) => "text".to_owned(),
    };
    match &key.shape {
        Shape::List(Shape::Table(table)) => one(&Shape::Table(table)),
        Shape::List(inner) => format!("list: {}", one(inner)),
        Shape::Texts => format!("one or a list: {}", one(&Shape::Text)),
        shape => one(shape),
    }
}

fn help(key: &Key) -> String {
    let mut help = sentences(key.help);
    if !key.only.is_empty() {
        let _ = write!(help, " Type {}.", key.only.join(", "));
    }
    if key.is_owners {
        help.push_str(" Commands of root and the daemon's user alone set it.");
    }
    help
}

fn sentences(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A duration as the file would have it.
fn in_words(time: Duration) -> String {
    match time.as_millis() {
        0 => "0s".to_owned(),
        millis if millis % 3_600_000 == 0 => format!("{}h", millis / 3_600_000),
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use std::path::{Path, PathBuf};

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn the_page_is_that_of_the_list() {
        let path = repository().join("docs/reference/configuration.md");
        if std::env::var_os("SLUICE_WRITE").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == page(),
            "docs/reference/configuration.md is stale; write it: SLUICE_WRITE=1 cargo test -p ctrl reference"
        );
    }

    /// Every table with its path.
    fn tables(path: String, table: &'static Table, all: &mut Vec<(String, &'static Table)>) {
        for key in table.keys {
            if let Some(inner) = key.shape.table() {
                let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
                tables(path, inner, all);
            }
        }
        all.push((path, table));
    }

    #[test]
    fn every_key_has_a_sentence_and_only_types_that_there_are() {
        static FILE: Table = raw::File::TABLE;
        let mut all = Vec::new();
        tables(String::new(), &FILE, &mut all);
        for (path, table) in all {
            for key in table.keys {
                let help = sentences(key.help);
                assert!(help.ends_with('.') && help.len() > 8, "{path}.{}: {help}", key.name);
                assert!(key.default.is_none_or(|default| value(default).is_some()), "{path}.{}", key.name);
                for kind in key.only {
                    assert!(table.words("type").contains(kind), "{path}.{}: {kind}", key.name);
                }
            }
        }
    }

    const PORTS: &str = "[[port]]\nname = \"p\"\ndevice = \"net_memif0\"\naddresses = [\"10.0.0.2/24\", \"2001:db8::2/64\"]\n";

    /// Lines without those that set `key`.
    fn without(lines: &str, key: &str) -> String {
        lines
            .lines()
            .filter(|line| line.split(' ').next() != Some(key))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    const VLAN: &str = "[[port]]\nname = \"v\"\nparent = \"p\"\naddresses = [\"10.0.1.2/24\"]\n";

    /// A file in which `key` can stand in the table at `path`, and `line` stands there.
    fn sample(path: &str, kind: &str, key: &str, line: &str) -> String {
        let at = |table: &str| if table == path { line } else { "" };
        let mode = if path == "service.tunnel" { "tunnel" } else { "fullnat" };
        let inner = match path {
            "service.health" => {
                let own = match kind {
                    "udp" => "send = \"x\"\n",
                    "dns" => "query = \"a.example\"\n",
                    "script" => "command = [\"/bin/true\"]\n",
                    _ => "",
                };
                let port = if kind == "script" { "" } else { "port = 81\n" };
                let load = if key == "load_limit" { "load_header = \"x\"\n" } else { "" };
                without(&format!("type = \"{kind}\"\n{own}{port}{load}"), key)
            }
            "service.discover" => {
                let own = match kind {
                    "file" => "path = \"/x\"\n",
                    "dns" => "name = \"a.example\"\nresolver = \"10.0.0.53\"\nport = 80\n",
                    "nacos" => "endpoint = \"https://10.0.0.5:1\"\nservice = \"s\"\n",
                    _ => "endpoint = \"https://10.0.0.5:1\"\nprefix = \"s\"\n",
                };
                without(&format!("type = \"{kind}\"\n{own}"), key)
            }
            "service.limits" => {
                let source = if key == "new_per_source" { "" } else { "new_per_source = 5\n" };
                source.to_owned()
            }
            "service.client_address" | "service.tunnel" => format!("type = \"{kind}\"\n"),
            _ => String::new(),
        };
        let table = match path.strip_prefix("service.") {
            Some("server") | None => String::new(),
            Some(name) => format!("[service.{name}]\n{inner}{line}\n"),
        };
        let rss = without(&format!("fields = \"ports\"\nkey = \"{}\"\n", "6d".repeat(40)), key);
        let rss = if path == "port.rss" { format!("[port.rss]\n{rss}{line}\n") } else { String::new() };
        let head = match path {
            "dataplane" | "admin" | "timeouts" | "log" => format!("[{path}]\n{line}\n"),
            "hook" => format!("[[hook]]\n{}\n{line}\n", without("command = [\"/bin/true\"]", key)),
            "acl" => format!("[[acl]]\nname = \"a\"\nprefixes = [\"10.0.0.0/8\"]\n{line}\n"),
            "names" => format!("[names]\nzone = \"a.example\"\nlisten = [\"10.0.0.2:53\"]\n{line}\n"),
            _ => String::new(),
        };
        let service = format!(
            "name = \"s\"\nlisten = \"10.0.0.10:80\"\nforward = \"{mode}\"\n{}{}",
            if mode == "fullnat" { "local_addresses = [\"10.0.0.20\"]\n" } else { "" },
            match (kind, key) {
                ("uoa", _) => "protocol = \"udp\"\n",
                (_, "ban") => "syn_proxy = \"always\"\n",
                _ => "",
            },
        );
        let service = if path == "service" { without(&service, key) } else { service };
        format!(
            "{head}{PORTS}{}{}\n{rss}[[service]]\n{service}{}\n{table}[[service.server]]\naddress = \"10.0.0.11\"\n{}\n",
            if key == "vlan" { VLAN } else { "" },
            at("port"),
            at("service"),
            at("service.server"),
        )
    }

    /// Every key, with its table's path and a type of that in which it can stand.
    fn every_key(mut look: impl FnMut(&str, &str, &'static Key)) {
        static FILE: Table = raw::File::TABLE;
        let mut all = Vec::new();
        tables(String::new(), &FILE, &mut all);
        for (path, table) in all {
            for key in table.keys {
                let kinds = table.has("type").then(|| table.words("type")).unwrap_or(vec![""]);
                let kind = if key.only.is_empty() { kinds[0] } else { key.only[0] };
                look(&path, kind, key);
            }
        }
    }

    #[test]
    fn a_default_is_what_holds_without_the_key() {
        let mut seen = 0;
        every_key(|path, kind, key| {
            let Some(default) = key.default else { return };
            let read = |line: &str| {
                let text = sample(path, kind, key.name, line);
                let loaded = parse(&text, Path::new("x.toml"));
                loaded
                    .map_err(|error| format!("{path}.{}: {:?}\n{text}", key.name, error.problems()))
                    .unwrap()
                    .config
            };
            assert_eq!(read(&format!("{} = {default}", key.name)), read(""), "{path}.{}", key.name);
            seen += 1;
        });
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn a_range_is_that_of_the_checks() {
        let mut seen = 0;
        every_key(|path, kind, key| {
            let (inside, outside) = match key.holds {
                Holds::Whole(first, last) => (
                    vec![first.to_string(), last.to_string()],
                    vec![(first - 1).to_string(), last.saturating_add(1).to_string()],
                ),
                Holds::Time(first, last) => {
                    let text = |millis: u128| format!("\"{millis}ms\"");
                    let below = first.as_millis().checked_sub(1).map(text);
                    (
                        vec![text(first.as_millis()), text(last.as_millis())],
                        below.into_iter().chain([text(last.as_millis() + 1)]).collect(),
                    )
                }
                Holds::Words(_) if matches!(key.shape, Shape::FlagOrText) => return,
                Holds::Words(words) => (
                    words().iter().map(|word| format!("\"{word}\"")).collect(),
                    vec!["\"nonsense\"".to_owned()],
                ),
                _ => return,
            };
            if key.name == "type" || path.is_empty() {
                return;
            }
            let told = |value: &str| {
                let value =
                    if matches!(key.shape, Shape::List(_)) { format!("[{value}]") } else { value.to_owned() };
                let text = sample(path, kind, key.name, &format!("{} = {value}", key.name));
                let problems = match parse(&text, Path::new("x.toml")) {
                    Ok(_) => Vec::new(),
                    Err(error) => error.problems().to_vec(),
                };
                let is_of_range = |message: &str| {
                    [" is below ", " is above ", "is out of range", "is unknown"]
                        .iter()
                        .any(|words| message.contains(words))
                };
                problems.iter().any(|problem| problem.key.contains(key.name) && is_of_range(&problem.message))
            };
            for value in &inside {
                assert!(!told(value), "{path}.{} = {value} is refused", key.name);
            }
            for value in &outside {
                assert!(told(value), "{path}.{} = {value} is taken", key.name);
            }
            seen += 1;
        });
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn the_examples_are_right_by_the_schema() {
        let schema = schema();
        for entry in repository().join("config").read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let value: toml::Table = text.parse().unwrap();
                hold(&serde_json::to_value(value).unwrap(), &schema, &path.display().to_string());
            }
        }
    }

    /// As much of JSON Schema as the list makes.
    fn hold(value: &Value, schema: &Value, place: &str) {
        if let Some(any) = schema["anyOf"].as_array() {
            let is_right = |schema: &Value| std::panic::catch_unwind(|| hold(value, schema, place)).is_ok();
            assert!(any.iter().any(is_right), "{place}: {value}");
            return;
        }
        if let Some(constant) = schema.get("const") {
            assert_eq!(value, constant, "{place}");
            return;
        }
        if let (None, Some(words)) = (schema.get("type"), schema["enum"].as_array()) {
            assert!(words.contains(value), "{place}: {value}");
            return;
        }
        match schema["type"].as_str().unwrap() {
            "object" if schema["properties"].is_null() => assert!(value.is_object(), "{place}"),
            "object" => {
                for (name, inner) in value.as_object().unwrap_or_else(|| panic!("{place}: {value}")) {
                    let of = &schema["properties"][name];
                    assert!(!of.is_null(), "{place}.{name} is not in the schema");
                    hold(inner, of, &format!("{place}.{name}"));
                }
                for name in schema["required"].as_array().into_iter().flatten() {
                    assert!(value.get(name.as_str().unwrap()).is_some(), "{place}: {name} is missing");
                }
            }
            "array" => {
                for item in value.as_array().unwrap_or_else(|| panic!("{place}: {value}")) {
                    hold(item, &schema["items"], place);
                }
            }
            "integer" => {
                let number = value.as_i64().unwrap_or_else(|| panic!("{place}: {value}"));
                assert!(schema["minimum"].as_i64().is_none_or(|least| number >= least), "{place}");
                assert!(schema["maximum"].as_i64().is_none_or(|most| number <= most), "{place}");
            }
            "number" => assert!(value.is_number(), "{place}"),
            "boolean" => assert!(value.is_boolean(), "{place}"),
            "string" => {
                let text = value.as_str().unwrap_or_else(|| panic!("{place}: {value}"));
                if let Some(words) = schema["enum"].as_array() {
                    assert!(words.iter().any(|word| word == text), "{place}: {text}");
                }
            }
            other => panic!("{other}"),
        }
    }
}
