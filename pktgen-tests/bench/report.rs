//! What was measured: printed as it comes, then as JSON, then held to the goals.

use crate::machine::{self, median, spread_pct};
use crate::peer::Run;
use crate::run::{Frames, Runs};
use serde_json::{Value, json};
use std::path::Path;

/// The report while it grows.
pub(crate) struct Report {
    json: Value,
    checked: u64,
}

/// What the project promises about one figure.
struct Goal {
    what: &'static str,
    value: Option<f64>,
    must: f64,
    aim: f64,
    /// Whether more is better.
    more: bool,
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        let machine = machine::describe();
        println!(
            "{} at {:.2} GHz, {} cores",
            machine["cpu"],
            machine["core_ghz"].as_f64().unwrap_or(0.0),
            machine["cores"]
        );
        println!(
            "\n{:<8} {:<4} {:>9} {:<10} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>8}",
            "case",
            "",
            "sessions",
            "packets",
            "io ns",
            "5tswap ns",
            "null ns",
            "ns",
            "added",
            "wall ns",
            "spread %"
        );
        Self {
            json: json!({ "quick": quick, "machine": machine, "rows": [], "memory": {}, "connections": {}, "steering": {}, "control": {}, "loaded": {}, "services": [], "defence": {}, "latency": {}, "start": {} }),
            checked: 0,
        }
    }

    pub(crate) fn json(&self) -> &Value {
        &self.json
    }

    pub(crate) fn machine(&mut self, key: &str, value: Value) {
        self.json["machine"][key] = value;
    }

    /// The four arms on one pcap file.
    pub(crate) fn on_pcap(&mut self, frames: &Frames, io: &Runs, swap: &Runs, null: &Runs, sluice: &Runs) {
        let Frames { way, protocol, flows, shuffled } = *frames;
        let cpu = |runs: &Runs| runs.iter().map(Run::cpu_ns_per_packet).collect::<Vec<_>>();
        let (io_ns, swap_ns) = (median(&cpu(io)), median(&cpu(swap)));
        let order = if shuffled { "shuffled" } else { "in order" };
        for (case, runs) in [("null", null), (way.mode, sluice)] {
            let ns = median(&cpu(runs));
            let wall = median(&runs.iter().map(Run::wall_ns_per_packet).collect::<Vec<_>>());
            let added: Vec<_> = cpu(runs).iter().zip(cpu(io)).map(|(ns, io)| ns - io).collect();
            self.push(json!({
                "case": case, "family": way.family(), "protocol": protocol, "sessions": flows, "transport": "pcap",
                "order": order, "directions": 1,
                "ns_per_packet": ns, "wall_ns_per_packet": wall, "mpps": 1_000.0 / ns,
                "io_ns_per_packet": io_ns, "swap_ns_per_packet": swap_ns, "null_ns_per_packet": median(&cpu(null)),
                "added_ns": median(&added), "ratio_io": io_ns / ns, "ratio_5tswap": swap_ns / ns,
                "spread_pct": spread_pct(&cpu(runs)), "io_spread_pct": spread_pct(&cpu(io)),
            }));
        }
        self.checked += sluice.iter().map(|run| run.frames_checked).sum::<u64>();
    }

    /// A case of the in-process source.
    pub(crate) fn in_process(&mut self, case: &Value) {
        let source_ns = number(case, "null_ns");
        for (name, key) in [("null", "null"), ("fullnat", "fullnat")] {
            let ns = number(case, &format!("{key}_ns"));
            self.push(json!({
                "case": name, "family": "ipv4", "protocol": case["protocol"], "sessions": case["sessions"],
                "transport": "in-process", "order": "shuffled", "directions": 2,
                "ns_per_packet": ns, "mpps": 1_000.0 / ns, "null_ns_per_packet": source_ns, "added_ns": ns - source_ns,
                "spread_pct": case[format!("{key}_spread_pct")],
            }));
        }
        self.checked += number(case, "frames_checked") as u64;
        // A small table drowns in what else a process has. The largest comes last.
        if case["protocol"] == "udp" && number(case, "sessions") >= 1e6 {
            self.json["memory"]["bytes_per_session_v4"] = case["bytes_per_session"].clone();
            println!(
                "bytes per session at {} sessions: {:.0}",
                case["sessions"],
                number(case, "bytes_per_session")
            );
        }
    }

    fn push(&mut self, row: Value) {
        let show = |key: &str| row[key].as_f64().map_or("-".to_owned(), |ns| format!("{ns:.1}"));
        println!(
            "{:<8} {:<4} {:>9} {:<10} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>8}",
            format!("{}{}", text(&row, "case"), if row["family"] == "ipv6" { "6" } else { "" }),
            text(&row, "protocol"),
            row["sessions"],
            format!(
                "{} {}",
                text(&row, "transport").chars().take(4).collect::<String>(),
                if row["order"] == "shuffled" { "shuf" } else { "ord" }
            ),
            show("io_ns_per_packet"),
            show("swap_ns_per_packet"),
            show("null_ns_per_packet"),
            show("ns_per_packet"),
            show("added_ns"),
            show("wall_ns_per_packet"),
            show("spread_pct")
        );
        if let Some(rows) = self.json["rows"].as_array_mut() {
            rows.push(row);
        }
    }

    pub(crate) fn connections(&mut self, key: &str, case: Value) {
        println!("connections, {key}: {case}");
        self.checked += case["frames_checked"].as_u64().unwrap_or(0);
        self.json["connections"][key] = case;
    }

    pub(crate) fn services(&mut self, case: Value) {
        println!("services: {case}");
        if let Some(list) = self.json["services"].as_array_mut() {
            list.push(case);
        }
    }

    pub(crate) fn steering(&mut self, key: &str, case: Value) {
        println!("several workers, {key}: {case}");
        self.json["steering"][key] = case;
    }

    pub(crate) fn defence(&mut self, figures: Value) {
        println!("sending somebody away: {figures}");
        self.json["defence"] = figures;
    }

    pub(crate) fn locals(&mut self, few: &Value, many: &Value) {
        let bytes =
            (number(many, "bytes") - number(few, "bytes")) / (number(many, "locals") - number(few, "locals"));
        println!("bytes per extra local address, with ten servers: {bytes:.0}");
        self.json["memory"]["bytes_per_local_address"] = json!(bytes);
    }

    pub(crate) fn start(&mut self, sessions: usize, seconds: f64) {
        println!("start to ready with a table of {sessions}: {seconds:.2} s");
        self.json["start"][sessions.to_string()] = json!(seconds);
    }

    pub(crate) fn control(&mut self, figures: Value) {
        println!("control: {figures}");
        self.json["control"] = figures;
    }

    pub(crate) fn loaded(&mut self, figures: Value) {
        println!("the running daemon with one service, and with many and checks: {figures}");
        self.json["loaded"] = figures;
    }

    pub(crate) fn latency(&mut self, rate: f64, testpmd: Value, sluice: Value) {
        println!("round trip at {:.1} Mpps: testpmd io {testpmd}, sluice {sluice}", rate / 1e6);
        let added = |key: &str| number(&sluice, key) - number(&testpmd, key);
        self.json["latency"] = json!({
            "transport": "vhost", "rate_mpps": rate / 1e6, "added_p50_us": added("p50_us"), "added_p99_us": added("p99_us"),
            "testpmd_io": testpmd, "fullnat": sluice,
        });
    }

    pub(crate) fn instructions(&mut self, counts: Value) {
        println!("instructions per packet, in-process, source and sink taken off: {counts}");
        self.json["instructions_per_packet"] = counts;
    }

    /// Holds what was measured to the goals.
    pub(crate) fn finish(&mut self) {
        self.json["frames_checked"] = json!(self.checked);
        println!(
            "\nframes checked: {}, wrong: 0\n\n{:<66} {:>10} {:>10} {:>10}",
            self.checked, "goal", "measured", "must", "aim"
        );
        let mut list = Vec::new();
        for goal in self.goals() {
            let Some(value) = goal.value else { continue };
            let reached = |bound: f64| if goal.more { value >= bound } else { value <= bound };
            let word = match (reached(goal.must), reached(goal.aim)) {
                (_, true) => "aim reached",
                (true, false) => "holds",
                (false, false) => "MISSED",
            };
            println!(
                "{:<66} {:>10} {:>10} {:>10}  {word}",
                goal.what,
                short(value),
                short(goal.must),
                short(goal.aim)
            );
            list.push(json!({ "what": goal.what, "value": value, "must": goal.must, "aim": goal.aim, "result": word }));
        }
        self.json["goals"] = list.into();
    }

    fn goals(&self) -> Vec<Goal> {
        let row_of = |family: &str, case: &str, protocol: &str, transport: &str, sessions: u64| {
            self.json["rows"].as_array()?.iter().find(|row| {
                row["case"] == case
                    && row["family"] == family
                    && row["protocol"] == protocol
                    && row["transport"] == transport
                    && row["sessions"] == sessions
                    && row["order"] == "shuffled"
            })
        };
        let row = |case: &str, protocol: &str, transport: &str, sessions: u64| {
            row_of("ipv4", case, protocol, transport, sessions)
        };
        let added = |protocol, transport, sessions| {
            row("fullnat", protocol, transport, sessions)?["added_ns"].as_f64()
        };
        let of_mode = |mode, over_fullnat: bool| {
            let added = row(mode, "udp", "pcap", 1_000)?["added_ns"].as_f64()?;
            let fullnat = row("fullnat", "udp", "pcap", 1_000)?["added_ns"].as_f64()?;
            Some(if over_fullnat { added / fullnat } else { added })
        };
        let drop_over_forwarded = |case, sessions| {
            let whole = |case| row(case, "udp", "pcap", sessions)?["ns_per_packet"].as_f64();
            Some(whole(case)? / whole("fullnat")?)
        };
        let connections = |key: &str, what: &str| self.json["connections"][key][what].as_f64();
        let large = connections("many_live", "live").is_some_and(|live| live >= 10e6);
        let services = |count: u64, shared: bool| {
            let list = self.json["services"].as_array()?;
            let found =
                list.iter().find(|case| case["services"] == count && case["shared_servers"] == shared);
            found?["ns_per_new_session"].as_f64()
        };
        let less = |what, must, aim, value| Goal { what, value, must, aim, more: false };
        let more = |what, must, aim, value| Goal { what, value, must, aim, more: true };
        let difference = |a: Option<f64>, b: Option<f64>| Some(a? - b?);
        let quotient = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
        vec![
            more(
                "null / testpmd io, rate",
                0.90,
                0.97,
                row("null", "udp", "pcap", 1_000).and_then(|row| row["ratio_io"].as_f64()),
            ),
            less(
                "FullNAT UDP, 1 k flows, pcap: ns added over testpmd io",
                18.0,
                14.0,
                added("udp", "pcap", 1_000),
            ),
            less(
                "FullNAT UDP, 1 M flows, pcap: ns added over testpmd io",
                30.0,
                25.0,
                added("udp", "pcap", 1_000_000),
            ),
            less(
                "FullNAT UDP, 10 M sessions, both directions: ns added",
                38.0,
                32.0,
                added("udp", "in-process", 10_000_000),
            ),
            less(
                "FullNAT TCP established, 1 k flows, pcap: ns added over io",
                20.0,
                16.0,
                added("tcp", "pcap", 1_000),
            ),
            less(
                "FullNAT IPv6 UDP, 1 k flows, pcap: ns added over testpmd io",
                23.5,
                19.5,
                row_of("ipv6", "fullnat", "udp", "pcap", 1_000).and_then(|row| row["added_ns"].as_f64()),
            ),
            less("NAT added / FullNAT added, 1 k flows", 1.0, 0.9, of_mode("nat", true)),
            less("DR added / FullNAT added, 1 k flows", 1.0, 0.7, of_mode("dr", true)),
            less("DR UDP, 1 k flows, pcap: ns added over testpmd io", 15.5, 12.0, of_mode("dr", false)),
            less(
                "tunnel UDP, 1 k flows, pcap: ns added over testpmd io",
                23.0,
                18.0,
                of_mode("tunnel", false),
            ),
            less(
                "not-for-us dropped / forwarded, 1 k flows",
                1.0,
                0.6,
                drop_over_forwarded("not-for-us", 1_000),
            ),
            less(
                "not-for-us dropped / forwarded, 1 M flows",
                1.0,
                0.6,
                drop_over_forwarded("not-for-us", 1_000_000),
            ),
            less(
                "no-service dropped / forwarded, 1 k flows",
                1.0,
                0.6,
                drop_over_forwarded("no-service", 1_000),
            ),
            less(
                "growth of added ns, 1 k to 10 M sessions",
                35.0,
                20.0,
                difference(added("udp", "in-process", 10_000_000), added("udp", "in-process", 1_000)),
            ),
            more(
                "new UDP sessions per second, sustained with expiry",
                2.8e6,
                4e6,
                connections("sustained", "new_per_s"),
            ),
            more(
                "TCP connections of 12 packets per second",
                1.09e6,
                1.3e6,
                connections("tcp", "connections_per_s"),
            ),
            more(
                "new sessions per second at 10 M live / at 1 k live",
                0.5,
                0.7,
                quotient(
                    connections("many_live", "new_per_s").filter(|_| large),
                    connections("few_live", "new_per_s"),
                ),
            ),
            less(
                "bytes per IPv4 FullNAT session, everything counted",
                128.0,
                96.0,
                self.json["memory"]["bytes_per_session_v4"].as_f64(),
            ),
            less(
                "bytes per extra local address",
                524_288.0,
                131_072.0,
                self.json["memory"]["bytes_per_local_address"].as_f64(),
            ),
            less(
                "cost of a new session with 10 k services on 200 servers / with 1",
                1.5,
                1.1,
                quotient(services(10_000, true), services(1, true)),
            ),
            less(
                "cost of a new session with 10 k services on 20,000 servers / with 1",
                1.5,
                1.1,
                quotient(services(10_000, false), services(1, false)),
            ),
            more(
                "throughput of each of two workers / of one alone",
                0.9,
                0.97,
                self.json["steering"]["two_workers"]["throughput_per_worker"].as_f64(),
            ),
            less(
                "instructions per packet, eight workers / one",
                1.02,
                1.01,
                quotient(
                    self.json["instructions_per_packet"]["udp_8_workers"].as_f64(),
                    self.json["instructions_per_packet"]["udp"].as_f64(),
                ),
            ),
            less(
                "handing a packet over, ns",
                40.0,
                30.0,
                self.json["steering"]["hand_over"]["ns_per_packet"].as_f64(),
            ),
            less(
                "choosing a local port, ns per new session",
                30.0,
                20.0,
                self.json["steering"]["port_choice"]["ns_per_choice"].as_f64(),
            ),
            less(
                "a SYN answered by a cookie, ns more than a forwarded packet",
                30.0,
                20.0,
                self.json["defence"]["syn_answered_ns"]
                    .as_f64()
                    .map(|answered| answered - number(&self.json["defence"], "forwarded_ns")),
            ),
            less(
                "a look into a list of a million addresses, ns",
                25.0,
                10.0,
                self.json["defence"]["lists"][0]["lookup_ns"].as_f64(),
            ),
            less(
                "seconds from start to ready with a table of 10 M",
                4.0,
                2.0,
                self.json["start"]["10000000"].as_f64(),
            ),
            less(
                "ms to load 10,000 services with 100,000 servers",
                3_000.0,
                1_000.0,
                self.json["control"]["cold_load_ms"].as_f64(),
            ),
            less(
                "ms for a reload that changes one in a hundred of them",
                500.0,
                100.0,
                self.json["control"]["reload_1_percent_ms"].as_f64(),
            ),
            less("ms for one more server", 5.0, 1.0, self.json["control"]["server_add_ms"].as_f64()),
            less(
                "ms to list all services",
                3_000.0,
                1_000.0,
                self.json["control"]["service_list_ms"].as_f64(),
            ),
            less(
                "ns of a packet with 10,000 services and 10,000 checks / with one",
                1.05,
                1.02,
                self.json["loaded"]["ratio"].as_f64(),
            ),
            less(
                "p99 of the round trip added over testpmd io at half load, us",
                50.0,
                10.0,
                self.json["latency"]["added_p99_us"].as_f64(),
            ),
        ]
    }

    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, format!("{:#}\n", self.json))
    }
}

fn number(value: &Value, key: &str) -> f64 {
    value.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn short(value: f64) -> String {
    match value {
        value if value.abs() >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value.abs() >= 1e4 => format!("{:.0} k", value / 1e3),
        value => format!("{value:.2}"),
    }
}
