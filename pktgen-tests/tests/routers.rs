//! IPv6 routers that advertise themselves, as default gateways.

use pktgen_tests::conformance::{CLIENT_MAC, DIRECTOR_A, DIRECTOR_B, SERVER_MAC};
use pktgen_tests::frames::{ETHERNET, Route, endpoints, ip_frame, udp_frame};
use pktgen_tests::process::wait_until;
use pktgen_tests::raw_lab::{RawLab, Uplink};
use std::net::Ipv6Addr;
use std::time::Duration;

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x50);
const QUIET: Duration = Duration::from_millis(100);

/// A router's advertisement with a prefix and a name server, as real ones have: longer than what control
/// sees of it.
fn advertisement(lifetime: u16) -> Vec<u8> {
    let route = Route {
        source_mac: CLIENT_MAC,
        destination_mac: [0x33, 0x33, 0, 0, 0, 1],
        source: (ROUTER.into(), 0),
        destination: ("ff02::1".parse().unwrap(), 0),
    };
    let [high, low] = lifetime.to_be_bytes();
    let fixed = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    let station = [&[1, 1][..], &CLIENT_MAC].concat();
    let prefix = [&[3, 4, 64, 0xc0][..], &[0; 12], &[0x20, 1, 0x0d, 0xb8], &[0; 12]].concat();
    let names = [&[25, 3, 0, 0, 0, 0, 1, 0][..], &[0; 16]].concat();
    ip_frame(&route, 58, 255, &[&fixed[..], &station, &prefix, &names].concat())
}

#[test]
fn the_way_to_far_clients_comes_and_goes_with_the_router() {
    let service = "[[service]]\nname = \"udp\"\nprotocol = \"udp\"\nforward = \"fullnat\"\nlisten = \"[2001:db8:f::110]:8080\"\nlocal_addresses = [\"2001:db8:b::100\"]\n[[service.server]]\naddress = \"[2001:db8:b::50]:8080\"\n";
    let mut lab = RawLab::new("ra").unwrap();
    lab.a.add_ipv6(ROUTER);
    lab.start_sluiced(service, Uplink::Advertised).unwrap();
    // It asks for routers by itself.
    let asks = || {
        std::iter::from_fn(|| lab.a.receive(QUIET))
            .any(|frame| frame.starts_with(&[0x33, 0x33, 0, 0, 0, 2]) && frame[ETHERNET + 40] == 133)
    };
    assert!(wait_until(Duration::from_secs(6), asks));
    let far = Route {
        source_mac: CLIENT_MAC,
        destination_mac: DIRECTOR_A,
        source: ("2001:db8:c::7".parse().unwrap(), 4_000),
        destination: ("2001:db8:f::110".parse().unwrap(), 8_080),
    };
    // The wires answer questions about neighbours while they are read.
    let asked = || {
        lab.a.send(&udp_frame(&far, b"question")).unwrap();
        lab.a.receive_ip(QUIET);
        lab.b.receive_ip(QUIET).pop()
    };
    let mut seen = None;
    assert!(wait_until(Duration::from_secs(6), || {
        seen = asked();
        seen.is_some()
    }));
    let (from, to) = endpoints(&seen.unwrap()).unwrap();
    let back = Route { source_mac: SERVER_MAC, destination_mac: DIRECTOR_B, source: to, destination: from };
    let answered = || {
        lab.b.send(&udp_frame(&back, b"answer")).unwrap();
        lab.b.receive_ip(QUIET);
        let heard = lab.a.receive_ip(QUIET);
        heard.iter().any(|frame| frame[..6] == CLIENT_MAC && frame.ends_with(b"answer"))
    };
    assert!(!answered(), "nobody told the way");
    lab.a.send(&advertisement(1_800)).unwrap();
    assert!(wait_until(Duration::from_secs(6), answered));
    // It leaves.
    lab.a.send(&advertisement(0)).unwrap();
    assert!(wait_until(Duration::from_secs(6), || !answered()));
    let drops = lab.sluice(&["stats", "drops"]).unwrap();
    assert!(drops["no_route"].as_u64() > Some(0), "{drops}");
    // A short life that is not renewed ends.
    lab.a.send(&advertisement(2)).unwrap();
    assert!(wait_until(Duration::from_secs(6), answered));
    assert!(wait_until(Duration::from_secs(8), || !answered()));
}
