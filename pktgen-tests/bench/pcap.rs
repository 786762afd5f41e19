//! The packets that Sluice and testpmd are both given: a pcap file of one frame per flow, and the
//! check of what Sluice made of them.
//!
//! Each frame carries the number of its flow in its last four bytes, so that what comes out can be
//! compared with what went in.

use crate::rig::ACK;
use crate::world::{PEER_MAC, SERVICE_PORT, VIP};
use dataplane::wire::Mac;
use pktgen_tests::frames::{self, ETHERNET, Route, ones_sum, pseudo_sum};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::Path;

/// The frame of flow `flow`: 60 bytes, valid checksums.
pub(crate) fn frame(protocol: &str, flow: u32, flags: u8, to: Mac) -> Vec<u8> {
    let route = Route {
        source_mac: PEER_MAC,
        destination_mac: to,
        // 50,000 ports of each client address.
        source: (
            Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + flow / 50_000).into(),
            10_000 + (flow % 50_000) as u16,
        ),
        destination: (VIP.into(), SERVICE_PORT),
    };
    let mut payload = vec![0x5a; if protocol == "tcp" { 2 } else { 14 }];
    payload.extend_from_slice(&flow.to_be_bytes());
    match protocol {
        "tcp" => frames::tcp_frame(&route, flags, &payload),
        _ => frames::udp_frame(&route, &payload),
    }
}

/// Writes a frame of each of `flows` flows, in their order or shuffled; TCP frames are bare ACKs
/// of established connections.
pub(crate) fn write(path: &Path, protocol: &str, flows: u32, shuffled: bool, to: Mac) -> std::io::Result<()> {
    let mut order: Vec<u32> = (0..flows).collect();
    if shuffled {
        crate::source::shuffle(&mut order);
    }
    let mut file = BufWriter::new(File::create(path)?);
    // pcap: magic, version 2.4, zone, accuracy, snapshot length, Ethernet.
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.write_all(&word.to_ne_bytes())?;
    }
    for flow in order {
        let frame = frame(protocol, flow, ACK, to);
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(&frame)?;
    }
    file.flush()
}

/// Holds frames that come out to what FullNAT promises.
pub(crate) struct Judge {
    own: Mac,
    /// The local and the server endpoint of each flow that was seen.
    seen: Vec<Option<[u8; 12]>>,
    pub(crate) checked: u64,
    pub(crate) wrong: u64,
}

impl Judge {
    pub(crate) fn new(flows: u32, own: Mac) -> Self {
        Self { own, seen: vec![None; flows as usize], checked: 0, wrong: 0 }
    }

    /// Looks at one frame that was sent towards a server.
    pub(crate) fn look(&mut self, frame: &[u8]) {
        self.checked += 1;
        if !self.is_right(frame) {
            self.wrong += 1;
        }
    }

    fn is_right(&mut self, frame: &[u8]) -> bool {
        let Some((source, destination)) = frames::endpoints(frame) else { return false };
        let ip = &frame[ETHERNET..];
        let local = ip[12..15] == [10, 0, 4] && source.1 >= 1024;
        let server = ip[16..19] == [10, 0, 1] && destination.1 >= 8080;
        let Some(flow) = frame.last_chunk::<4>() else { return false };
        let Some(seen) = self.seen.get_mut(u32::from_be_bytes(*flow) as usize) else { return false };
        let Some(endpoints) = frame[26..38].first_chunk::<12>() else { return false };
        // The same flow goes to the same server by the same local endpoint, always.
        let same = *seen.get_or_insert(*endpoints) == *endpoints;
        local
            && server
            && same
            && frame[..6] == PEER_MAC
            && frame[6..12] == self.own
            && ones_sum(&ip[..20], 0) == 0xffff
            && (no_checksum(ip) || ones_sum(&ip[20..], pseudo_sum(ip)) == 0xffff)
    }
}

/// RFC 768: a UDP checksum of zero says that there is none, and must stay so.
fn no_checksum(ip: &[u8]) -> bool {
    ip[9] == 17 && ip[26..28] == [0, 0]
}
