//! How lists are printed: sorted by a column, with the columns that somebody wants, or as rates of a second.

use super::print::Column;
use super::table::is_wide;
use dataplane::stats::{Kind, PortCounters, ServerCounters, WorkerCounters};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::io;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    /// The title of a column.
    pub(super) sort: Option<String>,
    /// The titles of columns, in their order; all without.
    pub(super) columns: Vec<String>,
    /// Whether counters are shown as what they grow in a second.
    pub(super) rate: bool,
}

thread_local! {
    static SHAPE: RefCell<Shape> = RefCell::default();
}

/// From now on lists are printed so.
pub(super) fn set(shape: Shape) {
    SHAPE.set(shape);
}

/// Whether a list must be known to its end before anything of it is printed.
pub(super) fn needs_all() -> bool {
    SHAPE.with_borrow(|shape| shape.sort.is_some() || shape.rate)
}

/// Whether counters are shown as rates.
pub(super) fn is_rate() -> bool {
    SHAPE.with_borrow(|shape| shape.rate)
}

fn named<'a>(title: &str, all: &'a [Column]) -> io::Result<&'a Column> {
    all.iter().find(|(name, ..)| name.eq_ignore_ascii_case(title)).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, ..)| *name).collect();
        io::Error::other(format!("there is no column {title}; use one of {}", names.join(", ")))
    })
}

/// The columns that are printed, of all that a list has.
pub(super) fn columns(all: &[Column]) -> io::Result<Vec<&Column>> {
    SHAPE.with_borrow(|shape| match shape.columns.is_empty() {
        true => Ok(all.iter().filter(|(.., wide)| is_wide() || !wide).collect()),
        false => shape.columns.iter().map(|title| named(title, all)).collect(),
    })
}

/// A list in the order that somebody wants: numbers begin with the largest, words with the first.
pub(super) fn sorted<'a>(items: &'a [Value], all: &[Column]) -> io::Result<Vec<&'a Value>> {
    let mut list: Vec<_> = items.iter().collect();
    if let Some(title) = SHAPE.with_borrow(|shape| shape.sort.clone()) {
        let (_, field, ..) = named(&title, all)?;
        list.sort_by(|one, two| compare(&one[*field], &two[*field]));
    }
    Ok(list)
}

fn compare(one: &Value, two: &Value) -> Ordering {
    match (one.as_f64(), two.as_f64()) {
        (Some(one), Some(two)) => two.total_cmp(&one),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.to_string().cmp(&two.to_string()),
    }
}

/// Whether a number of an object only grows.
fn is_counter(key: &str) -> bool {
    const OF_DEVICES: [&str; 5] = ["rx_missed", "rx_errors", "tx_errors", "rx_no_buffer", "dropped"];
    let counters = |name: &str, kind: Kind| kind == Kind::Counter && name == key;
    OF_DEVICES.contains(&key)
        || ServerCounters::ALL.iter().any(|count| counters(count.name, count.kind))
        || PortCounters::ALL.iter().any(|count| counters(count.name, count.kind))
        || WorkerCounters::ALL.iter().any(|count| counters(count.name, count.kind))
}

/// What tells an entry of a list from the others.
fn identity(item: &Value) -> String {
    ["service", "name", "address", "id"].iter().map(|key| format!("{}\n", item[key])).collect()
}

/// Puts what counters grew in a second in their place; `before` is the same list, so many seconds ago.
pub(super) fn rates(before: &[Value], now: &mut [Value], seconds: f64) {
    let known: HashMap<String, &Value> = before.iter().map(|item| (identity(item), item)).collect();
    for item in now {
        let old = known.get(&identity(item)).copied().unwrap_or(&Value::Null);
        let Some(object) = item.as_object_mut() else { continue };
        for (key, value) in object {
            match value {
                Value::Number(number) if is_counter(key) => {
                    let grown =
                        number.as_u64().unwrap_or(0).saturating_sub(old[key].as_u64().unwrap_or(u64::MAX));
                    *value = json!((grown as f64 / seconds.max(0.001)).round() as u64);
                }
                Value::Array(list) if key == "servers" => {
                    rates(old[key].as_array().map_or(&[], Vec::as_slice), list, seconds);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::Align::{Left, Right};

    const COLUMNS: [Column; 3] = [
        ("NAME", "name", Left, Value::to_string, false),
        ("PKTS", "packets_in", Right, Value::to_string, false),
        ("BYTES", "bytes_in", Right, Value::to_string, true),
    ];

    #[test]
    fn a_list_is_sorted_and_has_the_columns_that_are_asked_for() {
        let items = [json!({ "name": "b", "packets_in": 9 }), json!({ "name": "a", "packets_in": 10 })];
        let by = |sort: Option<&str>, columns: &[&str]| {
            let columns = columns.iter().map(|title| (*title).to_owned()).collect();
            set(Shape { sort: sort.map(str::to_owned), columns, rate: false });
            let names = sorted(&items, &COLUMNS)
                .map(|list| list.iter().map(|item| item["name"].as_str().unwrap()).collect::<String>());
            let titles = super::columns(&COLUMNS)
                .map(|list| list.iter().map(|(title, ..)| *title).collect::<Vec<_>>());
            (names, titles)
        };
        let (names, titles) = by(None, &[]);
        assert_eq!((names.unwrap().as_str(), titles.unwrap()), ("ba", vec!["NAME", "PKTS"]));
        let (names, titles) = by(Some("pkts"), &["bytes", "name"]);
        assert_eq!((names.unwrap().as_str(), titles.unwrap()), ("ab", vec!["BYTES", "NAME"]));
        assert_eq!(by(Some("NAME"), &[]).0.unwrap(), "ab");
        let (names, titles) = by(Some("x"), &["y"]);
        assert_eq!(names.unwrap_err().to_string(), "there is no column x; use one of NAME, PKTS, BYTES");
        assert!(titles.unwrap_err().to_string().contains("no column y"));
        set(Shape::default());
    }

    #[test]
    fn counters_become_rates_and_gauges_stay() {
        let service = |packets: u64, sessions: u64, server: u64| {
            json!({
                "name": "web", "packets_in": packets, "sessions_active": sessions,
                "servers": [{ "address": "10.0.0.11:80", "packets_in": server, "weight": 7 }],
            })
        };
        let mut now = [service(1_200, 5, 700), json!({ "name": "new", "packets_in": 3 })];
        rates(&[service(1_000, 9, 600)], &mut now, 2.0);
        assert_eq!(now[0], service(100, 5, 50));
        assert_eq!(now[1]["packets_in"], 0, "of what was not there before nothing is known");
    }
}
