//! What `sluice top` shows: the daemon's answers, what they are more than a second ago, and the tables made of both.

use crate::admin::{CallError, Client};
use crate::cli::print::printable;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Events that are kept in sight.
const EVENTS: u64 = 100;
/// Sessions that are looked at for their clients: more would hold the view up.
const SESSIONS: usize = 10_000;

/// What is shown in the lower part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// All services.
    Services,
    /// The servers of one.
    Servers(String),
    /// Sessions by client; of one service if it is named, by its VIPs.
    Clients(Option<String>),
    /// Dropped packets by reason.
    Drops,
    /// What happened.
    Events,
}

/// The daemon's answers at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    pub(super) status: Value,
    pub(super) workers: Vec<Value>,
    pub(super) ports: Vec<Value>,
    services: Vec<Value>,
    drops: BTreeMap<String, u64>,
    events: Vec<Value>,
    /// By client, sessions; and how many were looked at.
    clients: (BTreeMap<String, u64>, usize),
}

fn items(client: &mut Client, method: &str, params: Value, most: usize) -> Result<Vec<Value>, CallError> {
    let mut all = Vec::new();
    client.pages(method, params, |page| {
        all.extend(page);
        Ok(all.len() < most)
    })?;
    all.truncate(most);
    Ok(all)
}

impl Sample {
    /// Asks for what a view needs.
    pub(super) fn take(client: &mut Client, view: &View) -> Result<Self, CallError> {
        let every = usize::MAX;
        let services = items(client, "service.list", json!({}), every)?;
        let events = match view {
            View::Events => {
                let page = client.call("event.list", json!({ "limit": EVENTS }))?;
                page["items"].as_array().cloned().unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let mut clients = (BTreeMap::new(), 0);
        if let View::Clients(of) = view {
            let sessions = match of {
                None => items(client, "session.list", json!({}), SESSIONS)?,
                Some(name) => match services.iter().find(|one| one["name"] == **name) {
                    None => Vec::new(),
                    Some(service) => sessions_of(client, service)?,
                },
            };
            clients.1 = sessions.len();
            for session in &sessions {
                let text = session["client"].as_str().unwrap_or_default();
                let address = text.rsplit_once(':').map_or(text, |(address, _)| address);
                *clients.0.entry(address.trim_matches(['[', ']']).to_owned()).or_insert(0) += 1;
            }
        }
        let drops = client.call("stats.drops", Value::Null)?;
        let drops = drops.as_object().into_iter().flatten();
        let drops = drops.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect();
        Ok(Self {
            at: Instant::now(),
            status: client.call("status", Value::Null)?,
            workers: items(client, "worker.list", json!({}), every)?,
            ports: items(client, "port.list", json!({}), every)?,
            services,
            drops,
            events,
            clients,
        })
    }
}

/// The sessions of a service: they are to what it listens on, and have one of its servers. Another service may listen
/// on the same address.
fn sessions_of(client: &mut Client, service: &Value) -> Result<Vec<Value>, CallError> {
    let listens = service["listen"].as_str().unwrap_or_default().split(',').map(str::trim);
    let servers = service["servers"].as_array().into_iter().flatten();
    let servers: HashSet<&str> = servers.filter_map(|server| server["address"].as_str()).collect();
    let is_of_servers = |session: &Value| {
        let real = session["real"].as_str().unwrap_or_default();
        // A server that takes every port has none of its own.
        servers.contains(real) || servers.contains(bare(real))
    };
    let mut all = Vec::new();
    for listen in listens {
        // Ranges of ports are no condition of the list.
        let vip = if listen.parse::<SocketAddr>().is_ok() { listen } else { bare(listen) };
        all.extend(items(client, "session.list", json!({ "vip": vip }), SESSIONS - all.len())?);
    }
    all.retain(is_of_servers);
    Ok(all)
}

/// The address of an endpoint.
fn bare(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').map_or(endpoint, |(address, _)| address).trim_matches(['[', ']'])
}

/// One cell: what is shown, and what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    number: Option<f64>,
}

impl Cell {
    fn text(value: &Value) -> Self {
        let text = value
            .as_str()
            .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned);
        Self { text: printable(&text), number: None }
    }

    fn plain(text: impl Into<String>) -> Self {
        Self { text: printable(&text.into()), number: None }
    }

    fn count(number: f64) -> Self {
        Self { text: scaled(number, ""), number: Some(number) }
    }

    fn bits(number: f64) -> Self {
        Self { text: scaled(number, "b"), number: Some(number) }
    }

    /// Whether it stands on the right.
    pub(super) fn is_number(&self) -> bool {
        self.number.is_some()
    }

    fn cmp(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(one), Some(two)) => one.total_cmp(&two),
            _ => self.text.cmp(&other.text),
        }
    }
}

/// A number as people say it: 1234567 is 1.23M.
pub(super) fn scaled(number: f64, unit: &str) -> String {
    let units = ["", "k", "M", "G", "T", "P"];
    let (mut number, mut at) = (number.max(0.0), 0);
    while number >= 1_000.0 && at + 1 < units.len() {
        (number, at) = (number / 1_000.0, at + 1);
    }
    let digits = if at == 0 || number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.digits$}{}{unit}", units[at])
}

/// A table of the lower part.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) titles: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
    /// The column that it is sorted by unless somebody says another, and whether the largest comes first.
    usual: (usize, bool),
    /// What stands above it.
    pub(super) heading: String,
}

/// How a table is arranged.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// The column, if it is not the usual one.
    pub(super) column: Option<usize>,
    pub(super) is_reversed: bool,
    /// Rows have this text.
    pub(super) filter: String,
}

impl Table {
    /// The table as it is to be seen, and the column that it is sorted by.
    pub(super) fn arranged(mut self, order: &Order) -> (Self, usize) {
        let filter = order.filter.to_lowercase();
        self.rows.retain(|row| {
            filter.is_empty() || row.iter().any(|cell| cell.text.to_lowercase().contains(&filter))
        });
        let column = order.column.unwrap_or(self.usual.0).min(self.titles.len().saturating_sub(1));
        // Numbers begin with the largest, words with the first; events as they came.
        let is_number = self.rows.iter().any(|row| row.get(column).is_some_and(Cell::is_number));
        let falls = if order.column.is_none() { self.usual.1 } else { is_number };
        if !(order.column.is_none() && self.titles.first() == Some(&"TIME")) {
            self.rows.sort_by(|one, two| {
                let order = one[column].cmp(&two[column]);
                if falls { order.reverse() } else { order }
            });
        }
        if order.is_reversed {
            self.rows.reverse();
        }
        (self, column)
    }
}

/// Two samples, and what happened between them.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) now: Sample,
    before: Option<Sample>,
}

impl Picture {
    pub(super) fn new(now: Sample) -> Self {
        Self { now, before: None }
    }

    pub(super) fn renew(&mut self, now: Sample) {
        self.before = Some(std::mem::replace(&mut self.now, now));
    }

    /// Another look within the same second: rates go on from the sample before.
    pub(super) fn look_again(&mut self, now: Sample) {
        self.now = now;
    }

    fn seconds(&self) -> f64 {
        let before = self.before.as_ref().map_or(Duration::ZERO, |before| self.now.at - before.at);
        before.as_secs_f64().max(0.001)
    }

    /// How much a counter of an entry grows in a second; entries are told apart by `key`.
    fn rate(&self, list: impl Fn(&Sample) -> &Vec<Value>, key: &str, entry: &Value, counter: &str) -> f64 {
        let Some(before) = &self.before else { return 0.0 };
        let old = list(before).iter().find(|old| old[key] == entry[key]);
        let grown = |old: &Value| entry[counter].as_u64()?.checked_sub(old[counter].as_u64()?);
        old.and_then(grown).map_or(0.0, |grown| grown as f64 / self.seconds())
    }

    /// Packets in, packets out, bits in, bits out of the devices, a second.
    pub(super) fn traffic(&self) -> [f64; 4] {
        let own = || self.now.ports.iter().filter(|port| port["parent"].is_null());
        let sum = |counter: &str| {
            own().map(|port| self.rate(|sample| &sample.ports, "name", port, counter)).sum::<f64>()
        };
        [sum("rx_packets"), sum("tx_packets"), 8.0 * sum("rx_bytes"), 8.0 * sum("tx_bytes")]
    }

    /// Packets that are dropped in a second.
    pub(super) fn dropped(&self) -> f64 {
        let sum = |sample: &Sample| sample.drops.values().sum::<u64>();
        let before = self.before.as_ref().map_or_else(|| sum(&self.now), sum);
        sum(&self.now).saturating_sub(before) as f64 / self.seconds()
    }

    /// The ports with their rates.
    pub(super) fn ports(&self) -> Table {
        let rate = |port: &Value, counter: &str| self.rate(|sample| &sample.ports, "name", port, counter);
        let row = |port: &Value| {
            vec![
                Cell::text(&port["name"]),
                Cell::text(&port["link"]),
                Cell::count(rate(port, "rx_packets")),
                Cell::bits(8.0 * rate(port, "rx_bytes")),
                Cell::count(rate(port, "tx_packets")),
                Cell::bits(8.0 * rate(port, "tx_bytes")),
                Cell::count(rate(port, "rx_missed")),
            ]
        };
        Table {
            titles: vec!["PORT", "LINK", "RX/s", "RX-BITS", "TX/s", "TX-BITS", "MISSED/s"],
            rows: self.now.ports.iter().map(row).collect(),
            usual: (0, false),
            heading: String::new(),
        }
    }

    /// The table of a view.
    pub(super) fn table(&self, view: &View) -> Table {
        match view {
            View::Services => self.services(),
            View::Servers(name) => self.servers(name),
            View::Clients(of) => self.clients(of.as_deref()),
            View::Drops => self.drops(),
            View::Events => self.events(),
        }
    }

    fn services(&self) -> Table {
        let before: HashMap<&str, &Value> = self
            .before
            .iter()
            .flat_map(|before| &before.services)
            .filter_map(|one| Some((one["name"].as_str()?, one)))
            .collect();
        let seconds = self.seconds();
        let row = |service: &Value| {
            let old = service["name"].as_str().and_then(|name| before.get(name));
            let rate = |counter: &str| {
                let grown =
                    old.and_then(|old| service[counter].as_u64()?.checked_sub(old[counter].as_u64()?));
                grown.map_or(0.0, |grown| grown as f64 / seconds)
            };
            let servers = service["servers"].as_array().map_or(&[][..], Vec::as_slice);
            let up = servers.iter().filter(|server| server["state"] == "up").count();
            vec![
                Cell::text(&service["name"]),
                Cell::text(&service["state"]),
                Cell { text: format!("{up}/{}", servers.len()), number: Some(up as f64) },
                Cell::count(rate("packets_in") + rate("packets_out")),
                Cell::bits(8.0 * rate("bytes_in")),
                Cell::bits(8.0 * rate("bytes_out")),
                Cell::count(rate("sessions_created")),
                Cell::count(service["sessions"].as_u64().unwrap_or(0) as f64),
                Cell::text(&service["listen"]),
            ]
        };
        Table {
            titles: vec!["SERVICE", "STATE", "UP", "PKTS/s", "IN", "OUT", "NEW/s", "SESSIONS", "LISTEN"],
            rows: self.now.services.iter().map(row).collect(),
            usual: (3, true),
            heading: format!("{} services", self.now.services.len()),
        }
    }

    fn servers(&self, name: &str) -> Table {
        let of = |sample: &Sample| -> Vec<Value> {
            let service = sample.services.iter().find(|service| service["name"] == name);
            service.and_then(|service| service["servers"].as_array().cloned()).unwrap_or_default()
        };
        let (now, before) = (of(&self.now), self.before.as_ref().map(of).unwrap_or_default());
        let seconds = self.seconds();
        let row = |server: &Value| {
            let old = before.iter().find(|old| old["address"] == server["address"]);
            let rate = |counter: &str| {
                let grown = old.and_then(|old| server[counter].as_u64()?.checked_sub(old[counter].as_u64()?));
                grown.map_or(0.0, |grown| grown as f64 / seconds)
            };
            let sessions =
                ["sessions_active", "sessions_inactive"].map(|key| server[key].as_u64().unwrap_or(0));
            vec![
                Cell::text(&server["address"]),
                Cell::text(&server["state"]),
                Cell::count(server["effective_weight"].as_f64().unwrap_or(0.0)),
                Cell::count(rate("packets_in") + rate("packets_out")),
                Cell::bits(8.0 * rate("bytes_in")),
                Cell::bits(8.0 * rate("bytes_out")),
                Cell::count(rate("sessions_created")),
                Cell::count(sessions.iter().sum::<u64>() as f64),
                Cell::text(&server["check"]["error"]),
            ]
        };
        Table {
            titles: vec!["SERVER", "STATE", "WEIGHT", "PKTS/s", "IN", "OUT", "NEW/s", "SESSIONS", "CHECK"],
            rows: now.iter().map(row).collect(),
            usual: (3, true),
            heading: format!("service {name}: {} servers", now.len()),
        }
    }

    fn clients(&self, of: Option<&str>) -> Table {
        let (clients, looked_at) = &self.now.clients;
        let row =
            |(client, count): (&String, &u64)| vec![Cell::plain(client.as_str()), Cell::count(*count as f64)];
        let what = of.map_or(String::new(), |name| format!(" of service {name}"));
        let bound = if *looked_at == SESSIONS { ", the first" } else { "" };
        Table {
            titles: vec!["CLIENT", "SESSIONS"],
            rows: clients.iter().map(row).collect(),
            usual: (1, true),
            heading: format!("clients{what}: {} of {looked_at} sessions{bound}", clients.len()),
        }
    }

    fn drops(&self) -> Table {
        let before = |name: &str| self.before.as_ref().and_then(|before| before.drops.get(name)).copied();
        let meaning = |name: &str| {
            let all = dataplane::drop::DropReason::ALL;
            let reason = all.iter().find(|reason| reason.name() == name);
            reason.map_or(String::new(), |reason| {
                format!("{} -> {}", reason.explanation(), crate::remedies::remedy(*reason))
            })
        };
        let row = |(name, count): (&String, &u64)| {
            let grown = before(name).map_or(0, |before| count.saturating_sub(before));
            vec![
                Cell::plain(name.as_str()),
                Cell::count(grown as f64 / self.seconds()),
                Cell::count(*count as f64),
                Cell::plain(meaning(name)),
            ]
        };
        Table {
            titles: vec!["REASON", "PER-SECOND", "ALL", "MEANING -> REMEDY"],
            rows: self.now.drops.iter().filter(|(_, count)| **count > 0).map(row).collect(),
            usual: (1, true),
            heading: "dropped packets by reason".into(),
        }
    }

    fn events(&self) -> Table {
        let row = |event: &Value| {
            let time = event["time"].as_str().unwrap_or_default().replace('T', " ");
            vec![
                Cell::plain(time.chars().take(19).collect::<String>()),
                Cell::text(&event["level"]),
                Cell::text(&event["kind"]),
                Cell::text(&event["text"]),
            ]
        };
        Table {
            titles: vec!["TIME", "LEVEL", "KIND", "WHAT"],
            rows: self.now.events.iter().rev().map(row).collect(),
            usual: (0, true),
            heading: "what happened, the newest first".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |name: &str, number: f64| vec![Cell::plain(name), Cell::count(number)];
        Table {
            titles: vec!["NAME", "COUNT"],
            rows: vec![row("b", 9.0), row("a", 10.0), row("c", 1_500.0)],
            usual: (1, true),
            heading: String::new(),
        }
    }

    fn names(order: &Order) -> String {
        table().arranged(order).0.rows.iter().map(|row| row[0].text.clone()).collect()
    }

    #[test]
    fn tables_are_sorted_as_numbers_turned_round_and_filtered() {
        assert_eq!(names(&Order::default()), "cab");
        assert_eq!(names(&Order { is_reversed: true, ..Order::default() }), "bac");
        assert_eq!(names(&Order { column: Some(0), ..Order::default() }), "abc");
        assert_eq!(names(&Order { column: Some(1), ..Order::default() }), "cab");
        assert_eq!(names(&Order { filter: "C".into(), ..Order::default() }), "c");
        assert_eq!(names(&Order { filter: "1.50k".into(), ..Order::default() }), "c");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1_234.0, "1.23k"),
            (12_345.0, "12.3k"),
            (1e6, "1.00M"),
            (2.5e9, "2.50G"),
        ] {
            assert_eq!(scaled(number, ""), text);
        }
        assert_eq!(scaled(1_000.0, "b"), "1.00kb");
    }
}
