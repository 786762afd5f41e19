//! The desired state as text: what the files said when they were read, and the changes by command since.
//!
//! Commands change what runs at once; the files stay as they are until the operator has the changes written back
//! (`config export`), with comments and order kept.

pub mod diff;
pub mod history;
pub mod last_good;

use crate::config::{self, Text};
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table};

/// More changes than that are worked into the text, so that the list stays short.
pub const CHANGES_MAX: usize = 1_000;

/// One change by command.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new service with these keys.
    AddService {
        /// Its name.
        name: String,
        /// Its keys, as in the file.
        keys: Map<String, Value>,
    },
    /// Other values for these keys of a service; `null` takes one away.
    SetService {
        /// Its name.
        name: String,
        /// Keys and values.
        keys: Map<String, Value>,
    },
    /// A service goes.
    RemoveService {
        /// Its name.
        name: String,
    },
    /// A new server of a service, with these keys.
    AddServer {
        /// The service.
        service: String,
        /// The server's address, as it is written.
        address: String,
        /// Its other keys.
        keys: Map<String, Value>,
    },
    /// Other values for these keys of a server.
    SetServer {
        /// The service.
        service: String,
        /// ADDRESS:PORT of the server.
        address: String,
        /// Keys and values.
        keys: Map<String, Value>,
    },
    /// A server goes.
    RemoveServer {
        /// The service.
        service: String,
        /// ADDRESS:PORT of the server.
        address: String,
    },
}

impl Change {
    /// The service that it changes.
    fn service(&self) -> &str {
        match self {
            Self::AddService { name, .. } | Self::SetService { name, .. } | Self::RemoveService { name } => {
                name
            }
            Self::AddServer { service, .. }
            | Self::SetServer { service, .. }
            | Self::RemoveServer { service, .. } => service,
        }
    }
}

/// The files' text, and what was changed since.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    text: Arc<Text>,
    changes: Vec<Arc<Change>>,
}

impl Desired {
    /// The state that the files say.
    pub fn of(text: Arc<Text>) -> Self {
        Self { text, changes: Vec::new() }
    }

    /// A text, and changes beside it.
    pub fn with(text: Arc<Text>, changes: Vec<Arc<Change>>) -> Self {
        Self { text, changes }
    }

    /// The changes that came after `earlier`; `None` when this is not what came of that.
    pub fn since(&self, earlier: &Self) -> Option<Vec<Arc<Change>>> {
        let (old, new) = self.changes.split_at_checked(earlier.changes.len())?;
        let is_same = old.iter().zip(&earlier.changes).all(|(one, other)| Arc::ptr_eq(one, other));
        (is_same && Arc::ptr_eq(&self.text, &earlier.text)).then(|| new.to_vec())
    }

    /// What the files said.
    pub fn text(&self) -> &Arc<Text> {
        &self.text
    }

    /// The changes by command.
    pub fn changes(&self) -> &[Arc<Change>] {
        &self.changes
    }

    /// Notes a change that was made.
    pub fn push(&mut self, change: Change) {
        self.changes.push(Arc::new(change));
        if self.changes.len() > CHANGES_MAX
            && let Ok(text) = self.written()
        {
            *self = Self::of(text);
        }
    }

    /// The text with all changes in it.
    ///
    /// # Errors
    /// When a change has no place in it, which is a defect.
    pub fn written(&self) -> Result<Arc<Text>, String> {
        if self.changes.is_empty() {
            return Ok(Arc::clone(&self.text));
        }
        let mut documents = self.documents()?;
        for change in &self.changes {
            edit(&mut documents, change)?;
        }
        let pieces = documents.into_iter().map(|(path, document)| (path, document.to_string()));
        Ok(Arc::new(Text::join(pieces.collect())))
    }

    /// The lines of one service with all changes and this one in it.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn service_with(&self, change: &Change, name: &str) -> Result<String, String> {
        let changes = || self.changes.iter().map(|change| &**change).chain([change]);
        let edited = |mut documents: Vec<(PathBuf, DocumentMut)>| {
            changes()
                .filter(|change| change.service() == name)
                .try_for_each(|change| edit(&mut documents, change))?;
            let found = documents.iter_mut().find_map(|(_, document)| find_service(document, name).cloned());
            found.ok_or_else(|| format!("there is no service `{name}`"))
        };
        // The whole text of ten thousand services takes half a second.
        let part = self.part_about(name).map_or(Err(String::new()), edited);
        let mut table = part.or_else(|_| edited(self.documents()?))?;
        table.decor_mut().clear();
        let mut list = ArrayOfTables::new();
        list.push(table);
        let mut document = DocumentMut::new();
        document.insert("service", Item::ArrayOfTables(list));
        Ok(document.to_string())
    }

    /// The services whose lines have `name` in them, if services can be told apart by their lines.
    fn part_about(&self, name: &str) -> Option<Vec<(PathBuf, DocumentMut)>> {
        let text = self.text.whole();
        let blocks = config::blocks(text)?;
        let lines = blocks.into_iter().map(|block| &text[block]).filter(|block| block.contains(name));
        let part = lines.collect::<Vec<_>>().join("\n");
        Some(vec![(PathBuf::new(), part.parse().ok()?)])
    }

    fn documents(&self) -> Result<Vec<(PathBuf, DocumentMut)>, String> {
        let parse = |(path, text): (&Path, &str)| {
            let document = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
            Ok((path.to_owned(), document))
        };
        self.text.pieces().map(parse).collect()
    }
}

/// The lines of a server's table.
pub fn server_lines(address: &str, keys: &Map<String, Value>) -> Result<String, String> {
    let mut table = Table::new();
    table.insert("address", toml_edit::value(address));
    set_keys(&mut table, keys)?;
    let mut document = DocumentMut::new();
    *document.as_table_mut() = table;
    Ok(document.to_string())
}

/// The lines of a new service.
pub fn service_lines(name: &str, keys: &Map<String, Value>) -> Result<String, String> {
    let mut list = ArrayOfTables::new();
    list.push(new_service(name, keys)?);
    let mut document = DocumentMut::new();
    document.insert("service", Item::ArrayOfTables(list));
    Ok(document.to_string())
}

fn new_service(name: &str, keys: &Map<String, Value>) -> Result<Table, String> {
    let mut table = Table::new();
    table.insert("name", toml_edit::value(name));
    set_keys(&mut table, keys)?;
    Ok(table)
}

fn edit(documents: &mut [(PathBuf, DocumentMut)], change: &Change) -> Result<(), String> {
    let lost = |name: &str| format!("service `{name}` stands in no file");
    match change {
        Change::AddService { name, keys } => {
            let (_, document) = documents.first_mut().ok_or_else(|| lost(name))?;
            let list = document.entry("service").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
            let list = list.as_array_of_tables_mut().ok_or_else(|| lost(name))?;
            let mut table = new_service(name, keys)?;
            table.decor_mut().set_prefix("\n");
            // Behind the last table of the file, wherever that stands.
            table.set_position(None);
            list.push(table);
        }
        Change::SetService { name, keys } => {
            let table = service_in(documents, name).ok_or_else(|| lost(name))?;
            set_keys(table, keys)?;
        }
        Change::RemoveService { name } => {
            for list in documents.iter_mut().filter_map(|(_, document)| tables_at(document, "service")) {
                list.retain(|table| !is_named(table, name));
            }
        }
        Change::AddServer { service, address, keys } => {
            let table = service_in(documents, service).ok_or_else(|| lost(service))?;
            table.entry("server").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
            let list = tables_at(table, "server").ok_or_else(|| lost(service))?;
            let mut server = Table::new();
            server.decor_mut().set_prefix("\n");
            server.insert("address", toml_edit::value(address));
            set_keys(&mut server, keys)?;
            list.push(server);
        }
        Change::SetServer { service, address, keys } => {
            let table = service_in(documents, service).ok_or_else(|| lost(service))?;
            let list = tables_at(table, "server");
            let server = list.and_then(|list| {
                let place = place_of(list, address)?;
                list.get_mut(place)
            });
            set_keys(
                server.ok_or_else(|| format!("service `{service}`: no server {address} in its file"))?,
                keys,
            )?;
        }
        Change::RemoveServer { service, address } => {
            let table = service_in(documents, service).ok_or_else(|| lost(service))?;
            if let Some(list) = tables_at(table, "server")
                && let Some(place) = place_of(list, address)
            {
                list.remove(place);
            }
        }
    }
    Ok(())
}

fn is_named(table: &Table, name: &str) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name)
}

/// The place of the server at ADDRESS:PORT. Addresses are written in several ways, and without a port they have the
/// service's.
fn place_of(list: &ArrayOfTables, address: &str) -> Option<usize> {
    let wanted: SocketAddr = address.parse().ok()?;
    let text = |table: &Table| table.get("address").and_then(Item::as_str).unwrap_or_default().to_owned();
    let same = |table: &Table| text(table).parse() == Ok(wanted);
    let without_port =
        |table: &Table| text(table).trim_start_matches('[').trim_end_matches(']').parse() == Ok(wanted.ip());
    list.iter().position(same).or_else(|| list.iter().position(without_port))
}

/// A list of tables under a key. A list in one line becomes tables of their own.
fn tables_at<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut ArrayOfTables> {
    let item = table.get_mut(key)?;
    if !item.is_array_of_tables() {
        match std::mem::take(item).into_array_of_tables() {
            Ok(list) => *item = Item::ArrayOfTables(list),
            Err(other) => *item = other,
        }
    }
    item.as_array_of_tables_mut()
}

fn find_service<'a>(document: &'a mut DocumentMut, name: &str) -> Option<&'a mut Table> {
    tables_at(document, "service")?.iter_mut().find(|table| is_named(table, name))
}

fn service_in<'a>(documents: &'a mut [(PathBuf, DocumentMut)], name: &str) -> Option<&'a mut Table> {
    documents.iter_mut().find_map(|(_, document)| find_service(document, name))
}

/// Puts values into a table; `null` takes a key away, dots lead into tables inside.
fn set_keys(table: &mut Table, keys: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in keys {
        let mut at = &mut *table;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_some() {
                let inner = at.entry(part).or_insert(Item::Table(Table::new()));
                at = inner.as_table_mut().ok_or_else(|| format!("`{key}`: {part} is not a table"))?;
            } else if value.is_null() {
                at.remove(part);
            } else {
                let new =
                    to_toml(value).ok_or_else(|| format!("`{key}`: {value} cannot stand in the file"))?;
                match at.get_mut(part).and_then(Item::as_value_mut) {
                    // What stands around it stays.
                    Some(old) => {
                        let decor = old.decor().clone();
                        *old = new;
                        *old.decor_mut() = decor;
                    }
                    None if part == "server" && new.is_array() => {
                        at.insert(part, tables(value).ok_or("`server` is a list of tables")?);
                    }
                    None => {
                        at.insert(part, Item::Value(new));
                    }
                }
            }
        }
    }
    Ok(())
}

/// A list of objects as tables of their own.
fn tables(value: &Value) -> Option<Item> {
    let mut list = ArrayOfTables::new();
    for object in value.as_array()? {
        let mut table = Table::new();
        set_keys(&mut table, object.as_object()?).ok()?;
        list.push(table);
    }
    Some(Item::ArrayOfTables(list))
}

fn to_toml(value: &Value) -> Option<toml_edit::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(list) => toml_edit::Value::Array(list.iter().map(to_toml).collect::<Option<_>>()?),
        Value::Object(map) => {
            let mut table = InlineTable::new();
            for (key, value) in map {
                table.insert(key, to_toml(value)?);
            }
            table.into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FILE: &str = r#"# the site's file
[[port]]
name = "wan"    # towards the internet

# the web
[[service]]
name = "web"
listen = "192.0.2.10:80"   # do not change
[[service.server]]
address = "10.0.0.11:80"
weight = 10     # the big one

[[service]]
name = "dns"
listen = "192.0.2.10:53"

# the end
"#;

    fn keys(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn changes_are_written_back_with_comments_and_order() {
        let mut desired = Desired::of(Arc::new(Text::of(Path::new("a.toml"), FILE)));
        let server = |address: &str| (String::from("web"), address.to_owned());
        let (service, address) = server("10.0.0.11:80");
        desired.push(Change::SetServer {
            service,
            address,
            keys: keys(json!({ "weight": 0.5, "zone": "z" })),
        });
        let (service, address) = server("10.0.0.12:80");
        desired.push(Change::AddServer { service, address, keys: keys(json!({ "weight": 3 })) });
        desired.push(Change::SetService {
            name: "web".into(),
            keys: keys(json!({ "scheduler": "rr", "health.type": "tcp", "health.interval": "3s" })),
        });
        desired.push(Change::RemoveService { name: "dns".into() });
        let added = json!({ "listen": "192.0.2.11:80", "server": [{ "address": "10.0.0.13:80" }] });
        desired.push(Change::AddService { name: "new".into(), keys: keys(added) });

        let text = desired.written().unwrap();

        let text = text.whole();
        for kept in [
            "# the site's file",
            "# towards the internet",
            "# the web",
            "# do not change",
            "weight = 0.5     # the big one",
            "# the end",
        ] {
            assert!(text.contains(kept), "{kept}:\n{text}");
        }
        let document: toml::Table = text.parse().unwrap();
        let expected: toml::Table = r#"
            port = [{ name = "wan" }]
            [[service]]
            name = "web"
            listen = "192.0.2.10:80"
            scheduler = "rr"
            health = { type = "tcp", interval = "3s" }
            server = [
                { address = "10.0.0.11:80", weight = 0.5, zone = "z" },
                { address = "10.0.0.12:80", weight = 3 },
            ]
            [[service]]
            name = "new"
            listen = "192.0.2.11:80"
            server = [{ address = "10.0.0.13:80" }]
        "#
        .parse()
        .unwrap();
        assert_eq!(document, expected, "{text}");
    }

    #[test]
    fn servers_are_found_however_they_are_written() {
        const TEXT: &str = "service = [{ name = \"web\", listen = \"192.0.2.10:80\", server = [{ address = \"10.0.0.11\" }, { address = \"10.0.0.11:81\" }, { address = \"2001:db8::1\" }] }, { name = \"dns\" }]\n";
        let mut desired = Desired::of(Arc::new(Text::of(Path::new("a.toml"), TEXT)));
        let set = |address: &str, weight: u32| Change::SetServer {
            service: "web".into(),
            address: address.into(),
            keys: keys(json!({ "weight": weight })),
        };
        desired.push(set("10.0.0.11:80", 1));
        desired.push(set("10.0.0.11:81", 2));
        desired.push(Change::RemoveServer { service: "web".into(), address: "[2001:db8::1]:80".into() });
        desired.push(Change::RemoveService { name: "dns".into() });

        let table: toml::Table = desired.written().unwrap().whole().parse().unwrap();

        let expected: toml::Table = r#"
            [[service]]
            name = "web"
            listen = "192.0.2.10:80"
            server = [{ address = "10.0.0.11", weight = 1 }, { address = "10.0.0.11:81", weight = 2 }]
        "#
        .parse()
        .unwrap();
        assert_eq!(table, expected);
    }

    #[test]
    fn the_lines_of_one_service_stand_alone() {
        let mut desired = Desired::of(Arc::new(Text::of(Path::new("a.toml"), FILE)));
        desired.push(Change::AddServer {
            service: "web".into(),
            address: "10.0.0.12:80".into(),
            keys: Map::new(),
        });
        let change = Change::SetService { name: "web".into(), keys: keys(json!({ "scheduler": "sh" })) };
        let lines = desired.service_with(&change, "web").unwrap();
        let table: toml::Table = lines.parse().unwrap();
        assert_eq!(table.len(), 1);
        let service = &table["service"][0];
        assert_eq!(service["scheduler"].as_str(), Some("sh"));
        assert_eq!(service["server"].as_array().unwrap().len(), 2);
        assert!(desired.service_with(&change, "none").is_err());
    }

    #[test]
    fn many_changes_become_text() {
        let mut desired = Desired::of(Arc::new(Text::of(Path::new("a.toml"), FILE)));
        for n in 0..CHANGES_MAX + 10 {
            let address = format!("10.0.{}.{}:80", n / 250, n % 250 + 1);
            desired.push(Change::AddServer { service: "dns".into(), address, keys: Map::new() });
        }
        assert!(desired.changes().len() < 10);
        let table: toml::Table = desired.written().unwrap().whole().parse().unwrap();
        assert_eq!(table["service"][1]["server"].as_array().unwrap().len(), CHANGES_MAX + 10);
    }

    #[test]
    fn a_service_with_a_change_is_the_same_from_its_lines_and_from_the_whole() {
        const TEXT: &str = "[[service]]\nname = \"web2\"\nlisten = \"192.0.2.10:81\"\n\n# web\n[[service]]\nname = 'web' # web\nlisten = \"192.0.2.10:80\"\n[service.health]\ntype = \"tcp\"\n\n[[service]]\nname = \"\\u0064ns\"\nlisten = \"192.0.2.10:53\"\n";
        let mut desired = Desired::of(Arc::new(Text::of(Path::new("a.toml"), TEXT)));
        let named = |name: &str, keys_of: Value| (name.to_owned(), keys(keys_of));
        let (name, of_new) = named("new-web", json!({ "listen": "192.0.2.11:80" }));
        desired.push(Change::AddService { name, keys: of_new });
        let (service, of_server) = named("web", json!({ "weight": 3 }));
        desired.push(Change::AddServer { service, address: "10.0.0.12:80".into(), keys: of_server });
        for wanted in ["web", "web2", "dns", "new-web"] {
            let (name, keys) = named(wanted, json!({ "health.interval": "3s", "scheduler": "rr" }));
            let change = Change::SetService { name, keys };

            let alone: toml::Table = desired.service_with(&change, wanted).unwrap().parse().unwrap();

            let mut after = desired.clone();
            after.push(change);
            let whole: toml::Table = after.written().unwrap().whole().parse().unwrap();
            let all = whole["service"].as_array().unwrap();
            let same = all.iter().find(|table| table["name"].as_str() == Some(wanted)).unwrap();
            assert_eq!(alone["service"].as_array().unwrap(), std::slice::from_ref(same), "{wanted}");
        }
        let nobody = Change::SetService { name: "x".into(), keys: Map::new() };
        assert!(desired.service_with(&nobody, "x").is_err());
    }
}
