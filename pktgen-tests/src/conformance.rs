//! Holding a forwarder against what the Linux kernel answers to the same packets.
//!
//! `conformance/fullnat.json` is a list of probes, sent in order to one fresh director:
//! frames, the side they come in by, and what the kernel put out, normalised. This module
//! replays them through anything that forwards (the pure director, the running daemon) and
//! compares. What differs on purpose stands in [`DELIBERATE`], what comes later in [`LATER`].

use crate::frames::{ETHERNET, be16, be32, checksum_field, fill_checksums, ones_sum, pseudo_sum};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// Station of the director on side A, where clients are.
pub const DIRECTOR_A: [u8; 6] = [2, 0, 0, 0, 0x0d, 0x0a];
/// Station of the client.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0x0a, 0x50];
/// Station of the director on side B, where the server is.
pub const DIRECTOR_B: [u8; 6] = [2, 0, 0, 0, 0x0d, 0x0b];
/// Station of the server.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0x0b, 0x50];
/// The director's address towards the server.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 100);

/// Where Sluice differs from the kernel on purpose: probe and reason. docs/TESTING.md has them too.
pub const DELIBERATE: &[(&str, &str)] = &[
    (
        "ack_no_conn",
        "a segment without a session is dropped and counted, not answered: nothing a spoofer sends makes traffic",
    ),
    ("tcp_null_flags", "as above: the kernel answers RST"),
    ("synack_to_vip", "as above: a SYN+ACK opens nothing"),
    ("rs_data_no_conn", "as above, towards the server"),
    (
        "bad_tcp_csum",
        "forwarded, still bad, as IPVS does; checking every payload would cost what FullNAT costs",
    ),
    ("bad_tcp_csum_syn", "as above"),
];

/// What a later issue brings: fragments.
pub const LATER: &[(&str, &str)] = &[("udp_frags_reversed", "fragments are dropped under their own reason")];

/// One side of the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Side {
    /// The client's.
    A,
    /// The server's.
    B,
}

#[derive(Debug, Deserialize)]
struct File {
    probes: Vec<Probe>,
}

/// Frames to send and what is to come out.
#[derive(Debug, Deserialize)]
pub struct Probe {
    /// Its name.
    pub probe: String,
    /// The side by which the frames come in.
    #[serde(rename = "in")]
    pub side: Side,
    frames: Vec<String>,
    expect: Option<Vec<Value>>,
}

/// The probes of FullNAT.
///
/// # Panics
/// When the file that is compiled in is not what it should be.
pub fn fullnat() -> Vec<Probe> {
    let file: File =
        serde_json::from_str(include_str!("../conformance/fullnat.json")).expect("the file is well formed");
    file.probes
}

/// Replays probes and remembers which local port stands for which client port.
#[derive(Debug, Default)]
pub struct Replay {
    /// The kernel kept the client's port; Sluice chooses one.
    local_ports: HashMap<u16, u16>,
}

/// A frame that came out, and the side it came out by.
pub type Emitted = (Side, Vec<u8>);

/// What came of one probe.
#[derive(Debug)]
pub struct Outcome {
    /// The probe's name.
    pub probe: String,
    /// Whether the kernel's answer is known.
    pub has_answer: bool,
    /// What differs; empty when nothing does.
    pub differences: Vec<String>,
    /// What came out, normalised.
    pub came_out: Vec<Value>,
}

impl Replay {
    /// Sends one probe by `send`, which takes frames in and gives what came out.
    pub fn run(&mut self, probe: &Probe, send: impl FnOnce(Side, &[Vec<u8>]) -> Vec<Emitted>) -> Outcome {
        let frames: Vec<_> =
            probe.frames.iter().map(|hex| self.translate(probe.side, from_hex(hex))).collect();
        let out = send(probe.side, &frames);
        if probe.side == Side::A
            && let (Some(first), Some((Side::B, answer))) = (frames.first(), out.first())
        {
            self.learn(first, answer);
        }
        let came_out: Vec<_> = out.iter().map(|(side, frame)| normalise(*side, frame)).collect();
        let differences = match &probe.expect {
            None => Vec::new(),
            Some(expected) => compare(expected, &came_out),
        };
        Outcome { probe: probe.probe.clone(), has_answer: probe.expect.is_some(), differences, came_out }
    }

    fn learn(&mut self, sent: &[u8], came: &[u8]) {
        if let (Some(sent), Some(came)) = (crate::frames::endpoints(sent), crate::frames::endpoints(came)) {
            self.local_ports.insert(sent.0.1, came.0.1);
        }
    }

    /// A server's frame names the client's port, which the kernel had kept: put in ours.
    fn translate(&self, side: Side, mut frame: Vec<u8>) -> Vec<u8> {
        if side == Side::A || frame.len() < ETHERNET + 24 {
            return frame;
        }
        let l4 = ETHERNET + usize::from(frame[ETHERNET] & 15) * 4;
        // In an ICMP error the local port is the source of the packet inside.
        let at = if frame[ETHERNET + 9] == 1 { l4 + 8 + 20 } else { l4 + 2 };
        if frame.len() < at + 2 {
            return frame;
        }
        if let Some(local) = self.local_ports.get(&be16(&frame, at)) {
            frame[at..at + 2].copy_from_slice(&local.to_be_bytes());
            if frame[ETHERNET + 9] == 1 {
                // The quoted packet is whole in these probes; what stands before it passes for a station's
                // header.
                fill_checksums(&mut frame[l4 + 8 - ETHERNET..]);
            }
            fill_checksums(&mut frame);
        }
        frame
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("frames are hex");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// A frame in the words of the conformance files.
pub fn normalise(side: Side, frame: &[u8]) -> Value {
    let station = match frame.get(..6) {
        Some(mac) if *mac == CLIENT_MAC => "CLIENT".to_owned(),
        Some(mac) if *mac == SERVER_MAC => "RS".to_owned(),
        other => format!("{other:02x?}"),
    };
    let ip = frame.get(ETHERNET..).unwrap_or_default();
    json!({ "side": if side == Side::A { "A" } else { "B" }, "dmac": station, "len": ip.len(), "ip": normalise_ip(ip, false) })
}

/// `is_inner`: a packet quoted in an ICMP error, of which the tail may be missing.
fn normalise_ip(ip: &[u8], is_inner: bool) -> Value {
    if ip.len() < 20 {
        return json!({ "cut": ip.len() });
    }
    let header = usize::from(ip[0] & 15) * 4;
    let flags_and_offset = be16(ip, 6);
    let flags = match flags_and_offset >> 13 {
        0 => "",
        1 => "MF",
        2 => "DF",
        _ => "?",
    };
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("src", json!(Ipv4Addr::from_bits(be32(ip, 12)).to_string()));
    put("dst", json!(Ipv4Addr::from_bits(be32(ip, 16)).to_string()));
    put("ttl", json!(ip[8]));
    put("tos", json!(ip[1]));
    put("proto", json!(ip[9]));
    put("flags", json!(flags));
    put("frag", json!(flags_and_offset & 0x1fff));
    put("opts", json!(header - 20));
    put("ipck", json!(if ones_sum(&ip[..header], 0) == 0xffff { "ok" } else { "BAD" }));
    let l4 = &ip[header..];
    let l4ck = |field: usize| {
        if field == 6 && be16(l4, 6) == 0 {
            "zero"
        } else if ones_sum(l4, pseudo_sum(ip)) == 0xffff {
            "ok"
        } else {
            "BAD"
        }
    };
    match ip[9] {
        6 if l4.len() >= 20 => {
            put("sport", json!(be16(l4, 0)));
            put("dport", json!(be16(l4, 2)));
            put("seq", json!(be32(l4, 4)));
            put("ack", json!(be32(l4, 8)));
            let letters = "FSRPAUEC".chars().enumerate().filter(|(bit, _)| l4[13] >> bit & 1 == 1);
            put("tf", json!(letters.map(|(_, letter)| letter).collect::<String>()));
            put("win", json!(be16(l4, 14)));
            put("l4ck", json!(l4ck(16)));
        }
        17 if l4.len() >= 8 => {
            put("sport", json!(be16(l4, 0)));
            put("dport", json!(be16(l4, 2)));
            put("ulen", json!(be16(l4, 4)));
            put("l4ck", json!(l4ck(6)));
        }
        1 if l4.len() >= 8 && !is_inner => {
            let rest = if l4[0] == 3 && l4[1] == 4 { be16(l4, 6) } else { 0 };
            put("icmp", json!([l4[0], l4[1], rest]));
            put("icmp_ok", json!(checksum_field(1).is_some() && ones_sum(l4, 0) == 0xffff));
            if matches!(l4[0], 3 | 11 | 12) {
                put("inner", normalise_ip(&l4[8..], true));
            }
        }
        _ => {}
    }
    Value::Object(map)
}

/// What differs between the kernel's answers and ours. Local ports are ours to choose, and
/// option lists are not compared.
fn compare(expected: &[Value], came: &[Value]) -> Vec<String> {
    if expected.len() != came.len() {
        return vec![format!("{} packets came out, {} were to", came.len(), expected.len())];
    }
    let mut differences = Vec::new();
    for (expected, came) in expected.iter().zip(came) {
        for key in ["side", "dmac", "len"] {
            if expected[key] != came[key] {
                differences.push(format!("{key} is {}, was to be {}", came[key], expected[key]));
            }
        }
        compare_ip("", &expected["ip"], &came["ip"], &mut differences);
        if came["ip"]["icmp_ok"] == json!(false) {
            differences.push("the ICMP checksum is wrong".into());
        }
    }
    differences
}

fn compare_ip(prefix: &str, expected: &Value, came: &Value, differences: &mut Vec<String>) {
    let is_local = |end: &str| expected[end] == json!(LOCAL.to_string());
    for (key, value) in expected.as_object().into_iter().flatten() {
        let ours_to_choose = key == "sport" && is_local("src") || key == "dport" && is_local("dst");
        if key == "inner" {
            compare_ip("inner ", value, &came["inner"], differences);
        } else if !ours_to_choose && !["topt", "payload"].contains(&key.as_str()) && *value != came[key] {
            differences.push(format!("{prefix}{key} is {}, was to be {value}", came[key]));
        }
    }
}

/// Judges a whole replay: every difference is listed, and every listed probe differs.
///
/// # Errors
/// With one line for each probe that is not as it should be.
pub fn judge(outcomes: &[Outcome]) -> Result<usize, String> {
    let mut complaints = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.has_answer) {
        let listed = DELIBERATE.iter().chain(LATER).any(|(name, _)| *name == outcome.probe);
        if !listed && !outcome.differences.is_empty() {
            complaints.push(format!(
                "{}: {} (came out: {})",
                outcome.probe,
                outcome.differences.join("; "),
                json!(outcome.came_out)
            ));
        }
        if listed && outcome.differences.is_empty() {
            complaints
                .push(format!("{}: agrees with the kernel now, but is listed as different", outcome.probe));
        }
    }
    if complaints.is_empty() {
        Ok(outcomes.iter().filter(|outcome| outcome.has_answer && outcome.differences.is_empty()).count())
    } else {
        Err(complaints.join("\n"))
    }
}
