//! Holding a forwarder against what the Linux kernel answers to the same packets.
//!
//! Each file of `conformance/` is a list of probes of one forwarding mode, sent in order to one fresh
//! director: frames, the side they come in by, and what the kernel put out, normalised. This module
//! replays them through anything that forwards (the pure director, the running daemon) and
//! compares. What differs on purpose stands in [`DELIBERATE`].

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

/// The forwarding modes for which there are probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Held against nftables' dnat and snat.
    FullNat,
    /// Held against kernel IPVS.
    Nat,
    /// Held against kernel IPVS.
    DirectRoute,
    /// Held against kernel IPVS.
    Tunnel,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::FullNat, Self::Nat, Self::DirectRoute, Self::Tunnel];

    /// The name in Sluice's configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FullNat => "fullnat",
            Self::Nat => "nat",
            Self::DirectRoute => "dr",
            Self::Tunnel => "tunnel",
        }
    }
}

/// One way in which Sluice differs from the kernel on purpose. docs/TESTING.md has them too.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// In which modes.
    pub modes: &'static [Mode],
    /// In which probes.
    pub probes: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

const ALL: &[Mode] = &Mode::ALL;
const OF_IPVS: &[Mode] = &[Mode::Nat, Mode::DirectRoute, Mode::Tunnel];

/// Where Sluice differs from the kernel on purpose.
pub const DELIBERATE: &[Difference] = &[
    Difference {
        modes: ALL,
        probes: &[
            "ack_no_conn",
            "fin_no_conn",
            "tcp_null_flags",
            "synack_to_vip",
            "rs_data_no_conn",
            "wrong_port",
            "wrong_port_udp",
            "dport_0",
            "proto_253",
        ],
        reason: "what belongs to no session or service is dropped and counted, not answered: nothing a spoofer sends makes traffic",
    },
    Difference {
        modes: &[Mode::FullNat],
        probes: &["bad_tcp_csum", "bad_tcp_csum_syn"],
        reason: "forwarded, still bad, as IPVS does; checking every payload would cost what FullNAT costs",
    },
    Difference {
        modes: OF_IPVS,
        probes: &["tcp_doff_0", "tcp_doff_15_short", "udp_len_gt"],
        reason: "a malformed TCP or UDP header is dropped in every mode",
    },
    Difference { modes: OF_IPVS, probes: &["syn_fin"], reason: "SYN and FIN together open nothing" },
    Difference {
        modes: &[Mode::Nat],
        probes: &["udp_csum0"],
        reason: "a datagram without checksum stays without; IPVS computes one",
    },
    Difference {
        modes: &[Mode::Nat],
        probes: &["icmp_fragneeded_full", "icmp_from_rs_portunreach"],
        reason: "the checksum of the packet quoted in an error is kept right; IPVS leaves it wrong",
    },
    Difference {
        modes: &[Mode::DirectRoute, Mode::Tunnel],
        probes: &["icmp_bad_csum"],
        reason: "an ICMP error with a wrong checksum is dropped in every mode",
    },
    Difference {
        modes: OF_IPVS,
        probes: &["udp_first_frag_only", "frag_overlap"],
        reason: "fragments are followed by their first, not put together: the first goes on before the others come, and bad ones are dropped",
    },
    Difference {
        modes: OF_IPVS,
        probes: &["tcp_tiny_frag"],
        reason: "a first fragment without its whole TCP or UDP header is dropped (RFC 1858)",
    },
    Difference {
        modes: &[Mode::Tunnel],
        probes: &["udp_frags_in_order", "udp_frags_reversed"],
        reason: "each fragment is put in a tunnel's packet of its own; IPVS puts them together and fragments the outer packet",
    },
];

fn listed(list: &[Difference], mode: Mode, probe: &str) -> bool {
    list.iter().any(|difference| difference.modes.contains(&mode) && difference.probes.contains(&probe))
}

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

/// The probes of a mode.
///
/// # Panics
/// When the file that is compiled in is not what it should be.
pub fn probes(mode: Mode) -> Vec<Probe> {
    let text = match mode {
        Mode::FullNat => include_str!("../conformance/fullnat.json"),
        Mode::Nat => include_str!("../conformance/nat.json"),
        Mode::DirectRoute => include_str!("../conformance/dr.json"),
        Mode::Tunnel => include_str!("../conformance/tunnel.json"),
    };
    let file: File = serde_json::from_str(text).expect("the file is well formed");
    file.probes
}

/// Replays probes and remembers which local port stands for which client port.
#[derive(Debug)]
pub struct Replay {
    mode: Mode,
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
    /// A replay of a mode's probes, from the first on.
    pub fn new(mode: Mode) -> Self {
        Self { mode, local_ports: HashMap::new() }
    }

    /// Sends one probe by `send`, which takes frames in and gives what came out.
    pub fn run(&mut self, probe: &Probe, send: impl FnOnce(Side, &[Vec<u8>]) -> Vec<Emitted>) -> Outcome {
        let frames: Vec<_> =
            probe.frames.iter().map(|hex| self.translate(probe.side, from_hex(hex))).collect();
        let out = send(probe.side, &frames);
        if self.mode == Mode::FullNat
            && probe.side == Side::A
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
    if flags_and_offset & 0x1fff != 0 {
        return Value::Object(map);
    }
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
        4 => {
            put("inner", normalise_ip(l4, false));
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
    // Fragments may come in any order.
    let in_order = |values: &[Value]| {
        let mut sorted = values.to_vec();
        sorted.sort_by_key(|value| value["ip"]["frag"].as_u64());
        sorted
    };
    let mut differences = Vec::new();
    for (expected, came) in in_order(expected).iter().zip(&in_order(came)) {
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
    // Of a quoted TCP header that ends after eight bytes the files have what their reader made up.
    let is_cut = !prefix.is_empty() && came["sport"].is_null();
    let made_up = ["sport", "dport", "seq", "ack", "tf", "win", "l4ck"];
    let is_local = |end: &str| expected[end] == json!(LOCAL.to_string());
    for (key, value) in expected.as_object().into_iter().flatten() {
        let ours_to_choose = key == "sport" && is_local("src") || key == "dport" && is_local("dst");
        if is_cut && made_up.contains(&key.as_str()) {
            continue;
        }
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
pub fn judge(mode: Mode, outcomes: &[Outcome]) -> Result<usize, String> {
    let mut complaints = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.has_answer) {
        let listed = listed(DELIBERATE, mode, &outcome.probe);
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
