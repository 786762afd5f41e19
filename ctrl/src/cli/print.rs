//! What each answer looks like to a person.

use super::shape;
use super::table::Align::{Left, Right};
use super::table::{Table, is_wide};
use crate::journal::misleads;
use serde_json::Value;
use std::io::{self, Write};

type Out<'a> = &'a mut dyn Write;

/// A text on one line, with nothing in it that steers a terminal: sources, servers and peers wrote parts of it.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match misleads(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// A value as one word.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A count as people say it: 999999 as 1.00M.
fn count(value: &Value) -> String {
    scaled(value, 1_000.0, &["", "k", "M", "G", "T", "P"], 100_000)
}

/// Bytes as people say them.
fn bytes(value: &Value) -> String {
    scaled(value, 1_000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 10_000)
}

fn scaled(value: &Value, step: f64, units: &[&str], as_it_is: u64) -> String {
    let Some(number) = value.as_u64().filter(|_| !is_wide()) else { return word(value) };
    if number < as_it_is {
        return format!("{number}{}", units[0]);
    }
    let (mut scaled, mut unit) = (number as f64, 0);
    while scaled >= step && unit + 1 < units.len() {
        (scaled, unit) = (scaled / step, unit + 1);
    }
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$}{}", units[unit])
}

/// One event.
pub(super) fn event(out: Out<'_>, event: &Value) -> io::Result<()> {
    let time = event["time"].as_str().unwrap_or_default();
    // Milliseconds are for programs.
    let time = time.get(..19).unwrap_or(time).replace('T', " ");
    writeln!(
        out,
        "{time}  {:<5}  {:<9}  {}",
        word(&event["level"]),
        word(&event["kind"]),
        word(&event["text"])
    )
}

/// A share of one in percent.
fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| word(value), |share| format!("{:.0}%", share * 100.0))
}

/// Half of the values, 99 % and all of them at most so large.
fn quantiles(value: &Value) -> String {
    let of = |name: &str| value[name].as_f64().map(|number| format!("{number:.0}"));
    ["p50", "p99", "max"].map(|name| of(name).unwrap_or_else(|| "-".to_owned())).join("/")
}

/// Milliseconds as people say them.
fn time(value: &Value) -> String {
    match value.as_u64() {
        None => word(value),
        Some(ms) if ms < 1_000 => format!("{ms}ms"),
        Some(ms) if ms < 10_000 => format!("{:.1}s", ms as f64 / 1_000.0),
        Some(ms) => lasting(ms / 1_000),
    }
}

/// Seconds in the two largest units.
fn lasting(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

/// What of an object a column has.
pub(super) type Column = (&'static str, &'static str, super::table::Align, fn(&Value) -> String, bool);

/// A column that is always printed, and one that `-w` asks for.
const fn column(
    title: &'static str,
    field: &'static str,
    align: super::table::Align,
    show: fn(&Value) -> String,
) -> Column {
    (title, field, align, show, false)
}

const fn wide(
    title: &'static str,
    field: &'static str,
    align: super::table::Align,
    show: fn(&Value) -> String,
) -> Column {
    (title, field, align, show, true)
}

/// A row of the named fields.
fn fields(item: &Value, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| word(&item[*name])).collect()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn status(out: Out<'_>, status: &Value) -> io::Result<()> {
    let get = |name: &str| word(&status[name]);
    writeln!(
        out,
        "sluiced {}, {}, pid {}, up {}",
        get("version"),
        get("dpdk"),
        get("pid"),
        status["uptime_s"].as_u64().map_or_else(|| get("uptime_s"), lasting)
    )?;
    writeln!(
        out,
        "config    {} (generation {}, applied {})",
        get("config"),
        get("generation"),
        get("applied")
    )?;
    writeln!(
        out,
        "memory    {}; packet buffers {} of {} in use",
        get("memory"),
        get("buffers_in_use"),
        get("buffers")
    )?;
    let number = |name: &str| status[name].as_u64().unwrap_or(0);
    let four = |all: &str, six: &str| number(all).saturating_sub(number(six));
    writeln!(
        out,
        "sessions  {} of {} (IPv4), {} of {} (IPv6)",
        four("sessions", "sessions_ipv6"),
        four("session_capacity", "session_capacity_ipv6"),
        number("sessions_ipv6"),
        number("session_capacity_ipv6")
    )?;
    let ports = status["ports"].as_object().into_iter().flatten();
    let ports: Vec<_> = ports.map(|(name, link)| format!("{name} {}", word(link))).collect();
    writeln!(out, "ports     {}", ports.join(", "))?;
    for (port, sentence) in status["steering"].as_object().into_iter().flatten() {
        writeln!(out, "steering  {port}: {}", word(sentence))?;
    }
    let states = &status["service_states"];
    let others = states.as_object().into_iter().flatten().filter(|(state, _)| *state != "ready");
    let others: String = others.map(|(state, count)| format!(", {} {state}", word(count))).collect();
    let ready = states["ready"].as_u64().unwrap_or(0);
    writeln!(out, "services  {ready} of {} ready{others}", number("services"))?;
    let healths = status["servers"].as_object().into_iter().flatten();
    let healths: Vec<_> = healths.map(|(state, count)| format!("{} {state}", word(count))).collect();
    if !healths.is_empty() {
        writeln!(out, "servers   {}; {} checks", healths.join(", "), get("checks"))?;
    }
    for name in array(&status["protected"]) {
        writeln!(out, "  {} is protected: too few servers are healthy, all are used", word(name))?;
    }
    for switched in array(&status["switched"]) {
        writeln!(out, "  switched by the operator: {}", word(switched))?;
    }
    for (name, reason) in status["unready"].as_object().into_iter().flatten() {
        writeln!(out, "  {name} is {}: {}", word(&status["not_ready"][name]), word(reason))?;
    }
    for draining in array(&status["draining"]) {
        writeln!(out, "  removed, but still has sessions: {}", word(draining))?;
    }
    for warning in array(&status["warnings"]) {
        writeln!(out, "warning: {}", word(warning))?;
    }
    for hint in array(&status["hints"]) {
        writeln!(out, "hint: {}", word(hint))?;
    }
    Ok(())
}

/// The columns of a service and its servers, with the field of each.
const SERVICES: [Column; 14] = [
    column("SERVICE", "name", Left, word),
    column("LISTEN", "listen", Left, word),
    wide("SCHED", "scheduler", Left, word),
    wide("FORWARD", "forward", Left, word),
    column("STATE", "state", Left, word),
    column("WEIGHT", "weight", Right, word),
    wide("NOW", "effective_weight", Right, word),
    column("ACTIVE", "sessions_active", Right, count),
    column("INACT", "sessions_inactive", Right, count),
    wide("CREATED", "sessions_created", Right, count),
    column("PKTS-IN", "packets_in", Right, count),
    wide("PKTS-OUT", "packets_out", Right, count),
    wide("BYTES-IN", "bytes_in", Right, bytes),
    wide("BYTES-OUT", "bytes_out", Right, bytes),
];

pub(super) fn services(out: Out<'_>, (items, is_first): (&[Value], bool)) -> io::Result<()> {
    let columns = shape::columns(&SERVICES)?;
    let shown = || columns.iter().copied();
    let mut table = Table::new(&shown().map(|(title, _, align, ..)| (*title, *align)).collect::<Vec<_>>());
    for service in shape::sorted(items, &SERVICES)? {
        let servers = array(&service["servers"]);
        let sum = |name: &str| servers.iter().filter_map(|server| server[name].as_u64()).sum::<u64>();
        table.row(shown().map(|(_, field, _, show, _)| match *field {
            "listen" => format!("{}/{}", word(&service["listen"]), word(&service["protocol"])),
            "weight" | "effective_weight" => String::new(),
            "sessions_active" | "sessions_inactive" => show(&sum(field).into()),
            field => show(&service[field]),
        }));
        for server in servers {
            table.row(shown().map(|(_, field, _, show, _)| match *field {
                "name" => "  ->".to_owned(),
                "listen" => word(&server["address"]),
                "scheduler" | "forward" => String::new(),
                field => show(&server[field]),
            }));
        }
    }
    table.print(out, is_first)
}

pub(super) fn service(out: Out<'_>, service: &Value) -> io::Result<()> {
    services(out, (std::slice::from_ref(service), true))?;
    writeln!(out, "local addresses  {}", word(&service["local_addresses"]).replace(',', ", "))?;
    if service["reason"].is_string() {
        writeln!(out, "{:<16} {}", word(&service["state"]), word(&service["reason"]))?;
    }
    if service["protected"] == true {
        writeln!(out, "protected        too few servers are healthy: checks are not believed, all are used")?;
    }
    if service["switch"]["to"].is_string() {
        let to = word(&service["switch"]["to"]);
        writeln!(out, "switch           {to}, for {} s more", word(&service["switch"]["seconds"]))?;
    }
    for tier in array(&service["tiers"]) {
        let [name, servers, healthy] = ["name", "servers", "healthy"].map(|key| word(&tier[key]));
        let share = tier["share"].as_f64().unwrap_or(0.0) * 100.0;
        writeln!(out, "tier {name:<11} {healthy} of {servers} healthy, {share:.0} % of new sessions")?;
    }
    for server in array(&service["servers"]) {
        if let Some(seconds) = server["drain_s"].as_u64() {
            writeln!(out, "drains           {}, leaves in {seconds} s", word(&server["address"]))?;
        }
        let check = &server["check"];
        if check["error"].is_string() {
            writeln!(out, "check            {}: {}", word(&server["address"]), word(&check["error"]))?;
        }
        if let Some(since) = check["since"].as_str() {
            let since = since.get(..19).unwrap_or(since).replace('T', " ");
            let [address, state, flaps] = [&server["address"], &server["state"], &check["flaps"]].map(word);
            writeln!(out, "since            {address}: {state} since {since} UTC, {flaps} changes")?;
        }
        if !array(&check["recent"]).is_empty() && is_wide() {
            let good = |answer: &Value| if answer["error"].is_null() { "+" } else { "-" };
            let all: String = array(&check["recent"]).iter().map(good).collect();
            writeln!(out, "answers          {}: {all} (the newest last)", word(&server["address"]))?;
        }
        if check["load_error"].is_string() {
            let error = word(&check["load_error"]);
            writeln!(out, "load             {}: not known: {error}", word(&server["address"]))?;
        }
    }
    if service["syn_proxy"].is_object() {
        let asks = if service["asks_proof"] == true { "asks clients for proof" } else { "asks nobody now" };
        writeln!(out, "syn proxy        {asks}")?;
    }
    for (name, count) in service["syn_proxy"].as_object().into_iter().flatten() {
        writeln!(out, "syn proxy        {count} {name}")?;
    }
    for (reason, count) in service["refused"].as_object().into_iter().flatten() {
        if count.as_u64() != Some(0) {
            writeln!(out, "refused          {count} {reason}")?;
        }
    }
    Ok(())
}

fn plain(out: Out<'_>, (items, is_first): (&[Value], bool), columns: &[Column]) -> io::Result<()> {
    let printed = shape::columns(columns)?;
    let shown = || printed.iter().copied();
    let mut table = Table::new(&shown().map(|(title, _, align, ..)| (*title, *align)).collect::<Vec<_>>());
    for item in shape::sorted(items, columns)? {
        table.row(shown().map(|(_, field, _, show, _)| show(&item[*field])));
    }
    table.print(out, is_first)
}

pub(super) fn routes(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            column("TO", "to", Left, word),
            column("VIA", "via", Left, word),
            column("PORT", "ports", Left, word),
            column("ORIGIN", "origin", Left, word),
        ],
    )
}

pub(super) fn way(out: Out<'_>, way: &Value) -> io::Result<()> {
    if way["via"].is_null() {
        return writeln!(out, "no route leads to {}; add a [[route]]", word(&way["address"]));
    }
    for (title, key) in [
        ("address", "address"),
        ("next hop", "via"),
        ("port", "port"),
        ("link", "link"),
        ("neighbor", "neighbor"),
        ("mac", "mac"),
        ("role", "role"),
    ] {
        if !way[key].is_null() {
            writeln!(out, "{title:<9} {}", word(&way[key]))?;
        }
    }
    Ok(())
}

pub(super) fn explanation(out: Out<'_>, view: &Value) -> io::Result<()> {
    let lines = view["sentences"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.into_iter().try_for_each(|line| writeln!(out, "{line}"))
}

pub(super) fn health(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            column("TARGET", "target", Left, word),
            column("PROBE", "probe", Left, word),
            column("STATE", "state", Left, word),
            column("ASKED", "asked", Right, count),
            column("FAILED", "failed", Right, count),
            column("FLAPS", "flaps", Right, count),
            column("ERROR", "error", Left, word),
            wide("SINCE", "since", Left, word),
            wide("SERVICES", "services", Left, word),
        ],
    )
}

pub(super) fn history(out: Out<'_>, list: &Value) -> io::Result<()> {
    if array(list).is_empty() {
        return writeln!(out, "nothing was changed since sluiced started");
    }
    plain(
        out,
        (array(list), true),
        &[
            column("UNTIL", "until", Left, word),
            column("SERVICES", "services", Right, count),
            column("ENDED BY", "ended_by", Left, word),
        ],
    )
}

pub(super) fn servers(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            column("SERVICE", "service", Left, word),
            column("SERVER", "address", Left, word),
            column("STATE", "state", Left, word),
            column("WEIGHT", "weight", Right, word),
            wide("NOW", "effective_weight", Right, word),
            wide("TIER", "tier", Left, word),
            column("ACTIVE", "sessions_active", Right, count),
            column("INACT", "sessions_inactive", Right, count),
            wide("CREATED", "sessions_created", Right, count),
            column("PKTS-IN", "packets_in", Right, count),
            wide("PKTS-OUT", "packets_out", Right, count),
            wide("BYTES-IN", "bytes_in", Right, bytes),
            wide("BYTES-OUT", "bytes_out", Right, bytes),
        ],
    )
}

pub(super) fn sessions(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            column("PROTO", "protocol", Left, word),
            column("CLIENT", "client", Left, word),
            wide("VIP", "vip", Left, word),
            column("LOCAL", "local", Left, word),
            column("REAL", "real", Left, word),
            column("STATE", "state", Left, word),
            wide("WORKER", "worker", Right, word),
            wide("IDLE", "idle_ms", Right, time),
        ],
    )
}

pub(super) fn methods(out: Out<'_>, methods: &Value) -> io::Result<()> {
    let titles = [("METHOD", Left), ("PARAMETERS", Left), ("RIGHT", Left), ("MEANING", Left)];
    let mut table = Table::new(&titles);
    for method in array(methods) {
        let parameters: Vec<_> = array(&method["parameters"]).iter().map(word).collect();
        let [name, right, meaning] = ["method", "right", "explanation"].map(|key| word(&method[key]));
        table.row([name, parameters.join(", "), right, meaning]);
    }
    table.print(out, true)
}

pub(super) fn session_count(out: Out<'_>, count: &Value) -> io::Result<()> {
    let get = |name: &str| word(&count[name]);
    writeln!(
        out,
        "{} sessions of {} ({} active, {} inactive)",
        get("sessions"),
        get("capacity"),
        get("active"),
        get("inactive")
    )?;
    writeln!(out, "{} of {} with an IPv6 address", get("sessions_ipv6"), get("capacity_ipv6"))?;
    writeln!(out, "{} created, {} expired, {} recycled", get("created"), get("expired"), get("recycled"))
}

pub(super) fn locals(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    let (items, is_first) = page;
    let titles = [("LOCAL", Left), ("PORT", Left), ("USED", Right), ("CAPACITY", Right), ("SERVICES", Left)];
    let mut table = Table::new(&titles);
    for local in items {
        table.row(fields(local, &["address", "port", "used", "capacity", "services"]));
        let workers = array(&local["workers"]);
        for share in workers.iter().filter(|_| workers.len() > 1) {
            let mut row = vec![format!("  worker {}", word(&share["worker"])), String::new()];
            row.extend(fields(share, &["used", "capacity"]));
            row.push(String::new());
            table.row(row);
        }
    }
    table.print(out, is_first)
}

pub(super) fn ports(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            column("PORT", "name", Left, word),
            wide("DRIVER", "driver", Left, word),
            wide("MAC", "mac", Left, word),
            wide("MTU", "mtu", Right, word),
            column("LINK", "link", Left, word),
            wide("MBPS", "speed_mbps", Right, word),
            wide("ADDRESSES", "addresses", Left, word),
            wide("KERNEL", "interface", Left, word),
            column("RX-PKTS", "rx_packets", Right, count),
            column("TX-PKTS", "tx_packets", Right, count),
            column("MISSED", "rx_missed", Right, count),
            column("REFUSED", "tx_refused", Right, count),
            column("STEERING", "steering", Left, word),
            column("HANDED-OVER", "handed_over", Right, count),
            wide("DEVICE", "device", Left, word),
        ],
    )
}

const ACLS: [Column; 9] = [
    column("ACL", "name", Left, word),
    column("ACTION", "action", Left, word),
    column(
        "SERVICES",
        "services",
        Left,
        |services| if services.is_null() { "all".into() } else { word(services) },
    ),
    column("IPV4", "ipv4", Right, count),
    column("IPV6", "ipv6", Right, count),
    column("HITS", "hits", Right, count),
    wide("BYTES", "bytes", Right, bytes),
    wide("READ", "read", Left, word),
    column("PROBLEM", "problem", Left, word),
];

pub(super) fn acls(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(out, page, &ACLS)
}

/// The lists that have an address.
pub(super) fn listed(out: Out<'_>, answer: &Value) -> io::Result<()> {
    let address = word(&answer["address"]);
    let lists = array(&answer["lists"]);
    if lists.is_empty() {
        return writeln!(out, "{address} is in no list");
    }
    for list in lists {
        let services = word(&list["services"]);
        let of = if list["services"].is_null() { "all services".to_owned() } else { services };
        writeln!(out, "{address} is in {}: {} for {of}", word(&list["name"]), word(&list["action"]))?;
    }
    Ok(())
}

const BANS: [Column; 3] = [
    column("PREFIX", "prefix", Left, word),
    column("SECONDS", "seconds", Right, word),
    column("REASON", "reason", Left, word),
];

pub(super) fn bans(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(out, page, &BANS)
}

const SOURCES: [Column; 4] = [
    column("SOURCE", "source", Left, word),
    column("SERVICE", "service", Left, word),
    column("REFUSED", "refused", Right, count),
    column("BANNED", "banned", Left, word),
];

pub(super) fn sources(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(out, page, &SOURCES)
}

const ATTACKS: [Column; 8] = [
    column("KIND", "kind", Left, word),
    column("SERVICE", "service", Left, word),
    column("SINCE", "since", Left, word),
    column("ENDED", "ended", Left, word),
    column("SECONDS", "seconds", Right, word),
    column("RATE", "rate", Right, count),
    column("PEAK", "peak", Right, count),
    wide("ACTION", "action", Left, word),
];

pub(super) fn attacks(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(out, page, &ATTACKS)
}

pub(super) fn neighbors(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            column("NEIGHBOR", "address", Left, word),
            column("PORT", "port", Left, word),
            column("MAC", "mac", Left, word),
            column("STATE", "state", Left, word),
            column("CONFIRMED", "confirmed_ms", Right, time),
        ],
    )
}

pub(super) fn workers(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            column("WORKER", "id", Right, word),
            column("CORE", "core", Right, word),
            column("BUSY", "busy_ratio", Right, percent),
            wide("TURN-US", "turn_us", Right, quantiles),
            wide("BURST", "burst", Right, quantiles),
            wide("GENERATION", "generation", Right, word),
            column("SESSIONS", "sessions", Right, count),
            wide("CAPACITY", "session_capacity", Right, count),
            column("RX-PKTS", "rx_packets", Right, count),
            column("TX-PKTS", "tx_packets", Right, count),
            column("DROPPED", "dropped", Right, count),
            column("PARKED", "parked", Right, count),
        ],
    )
}

pub(super) fn stats(out: Out<'_>, stats: &Value) -> io::Result<()> {
    workers(out, (array(&stats["workers"]), true))?;
    writeln!(out)?;
    ports(out, (array(&stats["ports"]), true))?;
    writeln!(out)?;
    drops(out, &stats["drops"])
}

pub(super) fn drops(out: Out<'_>, counts: &Value) -> io::Result<()> {
    let mut table = Table::new(&[("DROPPED", Right), ("REASON", Left), ("MEANING", Left)]);
    let shown = count;
    for reason in dataplane::drop::DropReason::ALL {
        let count = counts[reason.name()].as_u64().unwrap_or(0);
        if count > 0 {
            table.row([shown(&count.into()), reason.name().into(), reason.explanation().into()]);
        }
    }
    if table.is_empty() {
        return writeln!(out, "no packet was dropped");
    }
    table.print(out, true)
}

pub(super) fn reloaded(out: Out<'_>, answer: &Value) -> io::Result<()> {
    writeln!(out, "reloaded: every worker follows generation {}", word(&answer["generation"]))?;
    for kind in ["services", "servers"] {
        let [added, changed, removed] = ["added", "changed", "removed"].map(|key| word(&answer[kind][key]));
        writeln!(out, "{kind:<9} {added} added, {changed} changed, {removed} removed")?;
    }
    Ok(())
}

pub(super) fn changed(out: Out<'_>, answer: &Value) -> io::Result<()> {
    array(&answer["changes"]).iter().try_for_each(|line| writeln!(out, "{}", word(line)))?;
    writeln!(out, "done, generation {}", word(&answer["generation"]))
}

pub(super) fn diff(out: Out<'_>, answer: &Value) -> io::Result<()> {
    let changes = array(&answer["changes"]);
    changes.iter().try_for_each(|line| writeln!(out, "{}", word(line)))?;
    if changes.is_empty() {
        writeln!(out, "the files say what runs")?;
    }
    for keys in array(&answer["restart"]) {
        writeln!(out, "needs a restart: {}", word(keys))?;
    }
    if answer["by_command"] != 0 {
        writeln!(
            out,
            "{} changes by command are not in the files; `sluice config export --write` puts them there",
            word(&answer["by_command"])
        )?;
    }
    Ok(())
}

pub(super) fn export(out: Out<'_>, answer: &Value) -> io::Result<()> {
    let written = array(&answer["written"]);
    if !written.is_empty() {
        return written.iter().try_for_each(|path| writeln!(out, "{}: written", word(path)));
    }
    let files = array(&answer["files"]);
    for file in files {
        if files.len() > 1 {
            writeln!(out, "# {}", word(&file["path"]))?;
        }
        write!(out, "{}", file["text"].as_str().unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_steer_no_terminal() {
        let warning = "x\nsluiced 9.9\u{1b}[31mservices 9 of 9 ready\u{7}\u{202e}";
        let mut out = Vec::new();
        status(&mut out, &serde_json::json!({ "warnings": [warning] })).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.ends_with("warning: x\\nsluiced 9.9\\u{1b}[31mservices 9 of 9 ready\\u{7}\\u{202e}\n"),
            "{text}"
        );
    }

    #[test]
    fn numbers_are_said_as_people_say_them() {
        let counts = [0, 99_999, 100_000, 1_234_567, 12_345_678_901].map(|number: u64| count(&number.into()));
        assert_eq!(counts, ["0", "99999", "100k", "1.23M", "12.3G"]);
        assert_eq!(
            [9_999_u64, 10_000, 5_000_000].map(|number| bytes(&number.into())),
            ["9999B", "10.0kB", "5.00MB"]
        );
        assert_eq!((percent(&0.374.into()), percent(&Value::Null)), ("37%".to_owned(), "-".to_owned()));
        assert_eq!(
            [5_u64, 1_500, 61_000, 3_700_000, 100_000_000].map(|ms| time(&ms.into())),
            ["5ms", "1.5s", "1m1s", "1h1m", "1d3h"]
        );
    }
}
