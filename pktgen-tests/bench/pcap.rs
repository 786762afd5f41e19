//! The packets that Sluice and testpmd are both given: a pcap file of one frame per flow, and the
//! check of what Sluice made of them.
//!
//! Each frame carries the number of its flow in its last four bytes, so that what comes out can be
//! compared with what went in.

use crate::rig::ACK;
use crate::world::{PEER_MAC, SERVICE_PORT, VIP, VIP6, Way};
use dataplane::wire::Mac;
use pktgen_tests::frames::{self, ETHERNET, Route, ones_sum, pseudo_sum};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The frame of flow `flow`: 60 bytes, 80 over IPv6, valid checksums.
pub(crate) fn frame(way: Way, protocol: &str, flow: u32, flags: u8, to: Mac) -> Vec<u8> {
    let (source, destination) = ends(way, flow);
    let route = Route { source_mac: PEER_MAC, destination_mac: to, source, destination };
    let mut payload = vec![0x5a; if protocol == "tcp" { 2 } else { 14 }];
    payload.extend_from_slice(&flow.to_be_bytes());
    match protocol {
        "tcp" => frames::tcp_frame(&route, flags, &payload),
        _ => frames::udp_frame(&route, &payload),
    }
}

/// A flow's client, and what it asks for.
fn ends(way: Way, flow: u32) -> (End, End) {
    // 50,000 ports of each client address.
    let (host, l4_port) = (flow / 50_000, 10_000 + (flow % 50_000) as u16);
    let client: IpAddr = if way.six {
        Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, host as u16 + 1).into()
    } else {
        Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + host).into()
    };
    let vip: IpAddr = if way.six { VIP6.into() } else { VIP.into() };
    let asked = match way {
        Way::NOT_FOR_US => (Ipv4Addr::new(203, 0, 113, 9).into(), SERVICE_PORT),
        Way::NO_SERVICE => (vip, SERVICE_PORT + 1),
        _ => (vip, SERVICE_PORT),
    };
    ((client, l4_port), asked)
}

type End = (IpAddr, u16);

/// Writes a frame of each of `flows` flows, in their order or shuffled; TCP frames are bare ACKs
/// of established connections.
pub(crate) fn write(
    path: &Path,
    way: Way,
    protocol: &str,
    flows: u32,
    shuffled: bool,
    to: Mac,
) -> std::io::Result<()> {
    let mut order: Vec<u32> = (0..flows).collect();
    if shuffled {
        crate::source::shuffle(&mut order);
    }
    write_frames(path, order.into_iter().map(|flow| frame(way, protocol, flow, ACK, to)))
}

/// Writes these frames.
pub(crate) fn write_frames(path: &Path, frames: impl Iterator<Item = Vec<u8>>) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    // pcap: magic, version 2.4, zone, accuracy, snapshot length, Ethernet.
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.write_all(&word.to_ne_bytes())?;
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(&frame)?;
    }
    file.flush()
}

/// Holds frames that come out to what their mode promises.
pub(crate) struct Judge {
    way: Way,
    own: Mac,
    /// The endpoints that each flow was seen with.
    seen: Vec<Option<(End, End)>>,
    pub(crate) checked: u64,
    pub(crate) wrong: u64,
}

impl Judge {
    pub(crate) fn new(flows: u32, way: Way, own: Mac) -> Self {
        Self { way, own, seen: vec![None; flows as usize], checked: 0, wrong: 0 }
    }

    /// Looks at one frame that was sent towards a server.
    pub(crate) fn look(&mut self, frame: &[u8]) {
        self.checked += 1;
        if !self.is_right(frame) {
            self.wrong += 1;
        }
    }

    fn is_right(&mut self, frame: &[u8]) -> bool {
        let ethernet = frame[..6] == PEER_MAC && frame[6..12] == self.own;
        let unpacked;
        let frame = if self.way.mode == "tunnel" {
            let outer = &frame[ETHERNET..];
            if outer[9] != 4
                || outer[12..20] != [10, 0, 0, 2, 10, 0, 1, outer[19]]
                || ones_sum(&outer[..20], 0) != 0xffff
            {
                return false;
            }
            unpacked = [&frame[..ETHERNET], &outer[20..]].concat();
            &unpacked
        } else {
            frame
        };
        let Some((source, destination)) = frames::endpoints(frame) else { return false };
        let ip = &frame[ETHERNET..];
        let Some((header, _)) = frames::upper_layer(ip) else { return false };
        let Some(flow) = frame.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return false;
        };
        let Some(seen) = self.seen.get_mut(flow as usize) else { return false };
        let (client, vip) = ends(self.way, flow);
        let is_in = |address: IpAddr, network: &str| {
            network.parse().is_ok_and(|network: dataplane::snapshot::Network| network.contains(address))
        };
        let is_server = is_in(destination.0, "10.0.1.0/24") && destination.1 >= 8080
            || is_in(destination.0, "2001:db8:b::1:0/112") && destination.1 == SERVICE_PORT;
        let is_local = is_in(source.0, "10.0.4.0/24") || is_in(source.0, "2001:db8:b::4:0/112");
        let addresses = match self.way.mode {
            "fullnat" => is_local && source.1 >= 1024 && is_server,
            "nat" => source == client && is_server,
            "snat" => is_local && destination == vip,
            _ => (source, destination) == (client, vip),
        };
        // The same flow goes to the same server by the same local endpoint, always.
        let same = *seen.get_or_insert((source, destination)) == (source, destination);
        ethernet
            && addresses
            && same
            && (self.way.six || ones_sum(&ip[..20], 0) == 0xffff)
            && (no_checksum(ip) || ones_sum(&ip[header..], pseudo_sum(ip)) == 0xffff)
    }
}

/// RFC 768: a UDP checksum of zero says that there is none, and must stay so.
fn no_checksum(ip: &[u8]) -> bool {
    ip[0] >> 4 == 4 && ip[9] == 17 && ip[26..28] == [0, 0]
}
