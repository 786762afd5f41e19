//! The daemon on pcap files: known frames in, known frames out, and no buffer missing.

use pktgen_tests::frames::{ETHERNET, Route, endpoints, ones_sum, pseudo_sum, tcp, tcp_frame, udp_frame};
use pktgen_tests::lab::program;
use pktgen_tests::process::{Daemon, Folder, run, wait_until};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A capture file in the classic format, Ethernet link type, as tcpdump writes it.
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(frame);
    }
    std::fs::write(path, bytes).unwrap();
}

fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut frames = Vec::new();
    let mut rest = bytes.get(24..).unwrap_or_default();
    while rest.len() >= 16 {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let Some(frame) = rest.get(16..16 + len) else { break };
        frames.push(frame.to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// An ARP reply, so that the server's station is known before packets come for it.
fn arp_reply(station: [u8; 6], address: Ipv4Addr, to: [u8; 6]) -> Vec<u8> {
    let arp = pktgen_tests::wire::Arp {
        operation: 2,
        sender: (station, address),
        target: (to, Ipv4Addr::new(10, 0, 0, 2)),
    };
    arp.frame(to)
}

#[test]
fn frames_from_a_capture_file_are_forwarded_into_another_and_no_buffer_is_missing() {
    let files = Folder::new("vdev").unwrap();
    let folder = files.path();
    let file = |name: &str| folder.join(name);
    // net_pcap gives its ports the station addresses 02:70:63:61:70:00, :01 and so on.
    let own = |n: u8| [0x02, 0x70, 0x63, 0x61, 0x70, n];
    let client = |n: u16| Route {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: own(0),
        source: (Ipv4Addr::new(198, 51, 100, (n % 200) as u8 + 1).into(), 10_000 + n),
        destination: (Ipv4Addr::new(192, 0, 2, 10).into(), 80),
    };
    // More frames than the wait for the server's station would hold; the server's answer to
    // ARP is in the other file, which is read at the same time.
    let count = 300;
    let mut frames: Vec<_> = (0..count).map(|n| tcp_frame(&client(n), tcp::SYN, b"")).collect();
    frames.extend((0..count).map(|n| {
        udp_frame(&Route { destination: (Ipv4Addr::new(192, 0, 2, 10).into(), 53), ..client(n) }, b"q")
    }));
    frames.push(vec![0; 9]);
    // The device gives these in chains of two and three buffers.
    let long = 20;
    frames.extend((0..long).map(|n| {
        let mut frame = tcp_frame(&client(count + n), tcp::SYN, b"");
        frame.resize(if n % 2 == 0 { 3_054 } else { 6_054 }, b'Z');
        frame
    }));
    let mut padded = tcp_frame(&client(count + long), tcp::SYN, b"");
    padded.resize(1_054, b'Z');
    frames.push(padded);
    write_pcap(&file("wan-in.pcap"), &frames);
    write_pcap(&file("lan-in.pcap"), &[arp_reply([2, 0, 0, 0, 0, 9], Ipv4Addr::new(10, 0, 0, 11), own(1))]);
    let service = |name: &str, protocol: &str, port: u16| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = \"192.0.2.10:{port}\"\nprotocol = \"{protocol}\"\nlocal_addresses = [\"10.0.0.200\"]\n[[service.server]]\naddress = \"10.0.0.11\"\n"
        )
    };
    let port = |n: usize, name: &str, addresses: &str| {
        format!(
            "[[port]]\nname = \"{name}\"\ndevice = \"net_pcap{n},rx_pcap={0}/{name}-in.pcap,tx_pcap={0}/{name}-out.pcap\"\naddresses = [\"{addresses}\"]\n",
            folder.display()
        )
    };
    let config = format!(
        "[dataplane]\nsession_capacity = 5000\n[admin]\nsocket = \"{}\"\n",
        file("sluice.sock").display()
    ) + &port(0, "wan", "192.0.2.2/24")
        + &port(1, "lan", "10.0.0.2/24")
        + &service("web", "tcp", 80)
        + &service("dns", "udp", 53);
    std::fs::write(file("sluice.toml"), config).unwrap();
    let mut command = Command::new(program("sluiced"));
    let mut sluiced = Daemon::start(command.arg("--config").arg(file("sluice.toml")), &file("log")).unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let mut command = Command::new(program("sluice"));
        let text = run(command.arg("-j").arg("--socket").arg(file("sluice.sock")).args(arguments));
        text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    };
    let rx = || json(&["port", "list"])[0]["rx_packets"].as_u64().unwrap_or(0);
    assert!(wait_until(Duration::from_secs(10), || rx() >= frames.len() as u64), "{}", sluiced.output());

    let drops = json(&["stats", "drops"]);
    let dropped = |reason: &str| drops[reason].as_u64().unwrap();
    let parked = || json(&["worker", "list"])[0]["parked"].as_u64();
    assert!(wait_until(Duration::from_secs(5), || parked() == Some(0)));
    let status = json(&["status"]);
    assert_eq!(status["buffers_in_use"], 0, "{status}");
    assert_eq!(status["sessions"], 601);
    assert_eq!(dropped("ethernet_short"), 1);
    assert_eq!(dropped("frame_too_long"), u64::from(long));
    assert_eq!(sluiced.stop().and_then(|status| status.code()), Some(0));

    let out = read_pcap(&file("lan-out.pcap"));
    let forwarded: Vec<_> = out.iter().filter(|frame| frame[12..14] == [0x08, 0x00]).collect();
    assert_eq!(forwarded.len() as u64 + dropped("neighbor_queue_full") + dropped("neighbor_unresolved"), 601);
    assert!(forwarded.len() >= 32);
    let mut sources = std::collections::HashSet::new();
    for frame in forwarded {
        let ip = &frame[ETHERNET..];
        let (source, destination) = endpoints(frame).unwrap();
        assert!(frame.len() < 100, "padding of {} bytes went on", frame.len());
        assert_eq!(source.0, Ipv4Addr::new(10, 0, 0, 200));
        assert_eq!(destination.0, Ipv4Addr::new(10, 0, 0, 11));
        assert_eq!(ones_sum(&ip[..20], 0), 0xffff);
        assert_eq!(ones_sum(&ip[20..], pseudo_sum(ip)), 0xffff);
        assert!(sources.insert((ip[9], source.1)), "a local port was used twice");
    }
}

/// As forwarders are measured: the pool has room for what the device keeps.
#[test]
fn a_large_file_is_played_for_ever() {
    const FLOWS: u16 = 20_000;
    let folder = Folder::new("replay").unwrap();
    let file = |name: &str| folder.path().join(name);
    let own = |device: u8| [2, 0x70, 0x63, 0x61, 0x70, device];
    let question = |n: u16| Route {
        source_mac: [2, 0, 0, 0, 0, 9],
        destination_mac: own(0),
        source: (Ipv4Addr::new(192, 0, 2, 100).into(), 10_000 + n),
        destination: (Ipv4Addr::new(192, 0, 2, 10).into(), 53),
    };
    let frames: Vec<_> = (0..FLOWS).map(|n| udp_frame(&question(n), b"q")).collect();
    write_pcap(&file("wan.pcap"), &frames);
    write_pcap(&file("lan.pcap"), &[arp_reply([2, 0, 0, 0, 0, 9], Ipv4Addr::new(10, 0, 0, 11), own(1))]);
    let port = |at: usize, name: &str, address: &str| {
        format!(
            "[[port]]\nname = \"{name}\"\ndevice = \"net_pcap{at},rx_pcap={},infinite_rx=1\"\naddresses = [\"{address}\"]\n",
            file(&format!("{name}.pcap")).display()
        )
    };
    let config = format!(
        "[dataplane]\nsession_capacity = 50000\n[admin]\nsocket = \"{}\"\n{}{}[[service]]\nname = \"dns\"\nlisten = \"192.0.2.10:53\"\nprotocol = \"udp\"\nlocal_addresses = [\"10.0.0.200\"]\n[[service.server]]\naddress = \"10.0.0.11\"\n",
        file("sluice.sock").display(),
        port(0, "wan", "192.0.2.2/24"),
        port(1, "lan", "10.0.0.2/24")
    );
    std::fs::write(file("sluice.toml"), config).unwrap();
    let mut command = Command::new(program("sluiced"));
    let sluiced = Daemon::start(command.arg("--config").arg(file("sluice.toml")), &file("log")).unwrap();
    let sent = || {
        let mut command = Command::new(program("sluice"));
        let text = run(command.arg("-j").arg("--socket").arg(file("sluice.sock")).args(["port", "list"]));
        let ports: serde_json::Value =
            text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        ports[1]["tx_packets"].as_u64().unwrap_or(0)
    };
    // Each flow many times over.
    let went = wait_until(Duration::from_secs(10), || sent() > 20 * u64::from(FLOWS));
    assert!(went, "{} sent: {}", sent(), sluiced.output());
}
