//! What each answer looks like to a person.

use super::table::Align::{Left, Right};
use super::table::Table;
use serde_json::Value;
use std::io::{self, Write};

type Out<'a> = &'a mut dyn Write;

/// A value as one word.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
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
        "sluiced {}, {}, pid {}, up {} s",
        get("version"),
        get("dpdk"),
        get("pid"),
        get("uptime_s")
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

pub(super) fn services(out: Out<'_>, (items, is_first): (&[Value], bool)) -> io::Result<()> {
    let mut table = Table::new(&[
        ("SERVICE", Left),
        ("LISTEN", Left),
        ("SCHED", Left),
        ("FORWARD", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("NOW", Right),
        ("ACTIVE", Right),
        ("INACT", Right),
        ("CREATED", Right),
        ("PKTS-IN", Right),
        ("PKTS-OUT", Right),
        ("BYTES-IN", Right),
        ("BYTES-OUT", Right),
    ]);
    for service in items {
        let servers = array(&service["servers"]);
        let sum =
            |name: &str| servers.iter().filter_map(|server| server[name].as_u64()).sum::<u64>().to_string();
        let mut row = fields(service, &["name"]);
        row.push(format!("{}/{}", word(&service["listen"]), word(&service["protocol"])));
        row.extend(fields(service, &["scheduler", "forward", "state"]));
        row.extend([String::new(), String::new()]);
        row.extend([sum("sessions_active"), sum("sessions_inactive")]);
        row.extend(fields(
            service,
            &["sessions_created", "packets_in", "packets_out", "bytes_in", "bytes_out"],
        ));
        table.row(row);
        for server in servers {
            let mut row = vec!["  ->".into()];
            row.extend(fields(server, &["address"]));
            row.extend([String::new(), String::new()]);
            let names = [
                "state",
                "weight",
                "effective_weight",
                "sessions_active",
                "sessions_inactive",
                "sessions_created",
                "packets_in",
                "packets_out",
                "bytes_in",
                "bytes_out",
            ];
            row.extend(fields(server, &names));
            table.row(row);
        }
    }
    table.print(out, is_first)
}

pub(super) fn service(out: Out<'_>, service: &Value) -> io::Result<()> {
    services(out, (std::slice::from_ref(service), true))?;
    writeln!(out, "local addresses  {}", word(&service["local_addresses"]).replace(',', ", "))?;
    if let Some(reason) = service["reason"].as_str() {
        writeln!(out, "{:<16} {reason}", word(&service["state"]))?;
    }
    if service["protected"] == true {
        writeln!(out, "protected        too few servers are healthy: checks are not believed, all are used")?;
    }
    if let Some(to) = service["switch"]["to"].as_str() {
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
        if let Some(error) = server["check"]["error"].as_str() {
            writeln!(out, "check            {}: {error}", word(&server["address"]))?;
        }
        if let Some(error) = server["check"]["load_error"].as_str() {
            writeln!(out, "load             {}: not known: {error}", word(&server["address"]))?;
        }
    }
    for (reason, count) in service["refused"].as_object().into_iter().flatten() {
        if count.as_u64() != Some(0) {
            writeln!(out, "refused          {count} {reason}")?;
        }
    }
    Ok(())
}

fn plain(
    out: Out<'_>,
    (items, is_first): (&[Value], bool),
    columns: &[(&'static str, &str, super::table::Align)],
) -> io::Result<()> {
    let mut table = Table::new(&columns.iter().map(|(title, _, align)| (*title, *align)).collect::<Vec<_>>());
    let names: Vec<_> = columns.iter().map(|(_, name, _)| *name).collect();
    items.iter().for_each(|item| table.row(fields(item, &names)));
    table.print(out, is_first)
}

pub(super) fn servers(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            ("SERVICE", "service", Left),
            ("SERVER", "address", Left),
            ("STATE", "state", Left),
            ("WEIGHT", "weight", Right),
            ("NOW", "effective_weight", Right),
            ("TIER", "tier", Left),
            ("ACTIVE", "sessions_active", Right),
            ("INACT", "sessions_inactive", Right),
            ("CREATED", "sessions_created", Right),
            ("PKTS-IN", "packets_in", Right),
            ("PKTS-OUT", "packets_out", Right),
            ("BYTES-IN", "bytes_in", Right),
            ("BYTES-OUT", "bytes_out", Right),
        ],
    )
}

pub(super) fn sessions(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            ("PROTO", "protocol", Left),
            ("CLIENT", "client", Left),
            ("VIP", "vip", Left),
            ("LOCAL", "local", Left),
            ("REAL", "real", Left),
            ("STATE", "state", Left),
            ("WORKER", "worker", Right),
            ("IDLE-MS", "idle_ms", Right),
        ],
    )
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
            ("PORT", "name", Left),
            ("DRIVER", "driver", Left),
            ("MAC", "mac", Left),
            ("MTU", "mtu", Right),
            ("LINK", "link", Left),
            ("MBPS", "speed_mbps", Right),
            ("ADDRESSES", "addresses", Left),
            ("KERNEL", "interface", Left),
            ("RX-PKTS", "rx_packets", Right),
            ("TX-PKTS", "tx_packets", Right),
            ("MISSED", "rx_missed", Right),
            ("REFUSED", "tx_refused", Right),
            ("STEERING", "steering", Left),
            ("HANDED-OVER", "handed_over", Right),
            ("DEVICE", "device", Left),
        ],
    )
}

pub(super) fn neighbors(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            ("NEIGHBOR", "address", Left),
            ("PORT", "port", Left),
            ("MAC", "mac", Left),
            ("STATE", "state", Left),
            ("CONFIRMED-MS", "confirmed_ms", Right),
        ],
    )
}

pub(super) fn workers(out: Out<'_>, page: (&[Value], bool)) -> io::Result<()> {
    plain(
        out,
        page,
        &[
            ("WORKER", "id", Right),
            ("CORE", "core", Right),
            ("BUSY", "busy_ratio", Right),
            ("GENERATION", "generation", Right),
            ("SESSIONS", "sessions", Right),
            ("CAPACITY", "session_capacity", Right),
            ("RX-PKTS", "rx_packets", Right),
            ("TX-PKTS", "tx_packets", Right),
            ("DROPPED", "dropped", Right),
            ("PARKED", "parked", Right),
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
    for reason in dataplane::drop::DropReason::ALL {
        let count = counts[reason.name()].as_u64().unwrap_or(0);
        if count > 0 {
            table.row([count.to_string(), reason.name().into(), reason.explanation().into()]);
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
