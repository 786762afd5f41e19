//! Where clients are, told to servers beside UDP datagrams.

mod support;

use dataplane::snapshot::{ClientAddress, ServiceOptions};
use dataplane::wire::Uoa;
use pktgen_tests::frames::{ETHERNET, Route, be16, fill_checksums, ones_sum, pseudo_sum, udp_frame};
use std::sync::Arc;
use support::{A, B, Lab, Plan, answer_to, inbound, inbound6, octets, pieces};

fn lab(uoa: Uoa, plan: Plan) -> Lab {
    let client_address = Some(ClientAddress::Uoa(uoa));
    let options = Arc::new(ServiceOptions { client_address, ..ServiceOptions::default() });
    Lab::new(&Plan { options, ..plan })
}

/// The record of a client.
fn record(route: &Route) -> Vec<u8> {
    let address = octets(route.source.0);
    [&[31, 4 + address.len() as u8][..], &route.source.1.to_be_bytes(), &address].concat()
}

/// The IP header, its length by its own word and its protocol, if its lengths and checksum are right.
fn header(ip: &[u8]) -> (usize, u8) {
    if ip[0] >> 4 == 4 {
        let len = usize::from(ip[0] & 15) * 4;
        assert_eq!(ones_sum(&ip[..len], 0), 0xffff, "the header's checksum");
        assert_eq!(usize::from(be16(ip, 2)), ip.len());
        (len, ip[9])
    } else {
        assert_eq!(usize::from(be16(ip, 4)) + 40, ip.len());
        (40, ip[6])
    }
}

/// The datagram of a packet without what was put between, its checksum right.
fn datagram(ip: &[u8], between: usize) -> Vec<u8> {
    let (len, _) = header(ip);
    let mut plain = ip[..len].to_vec();
    plain.extend(&ip[len + between..]);
    if plain[0] >> 4 == 4 {
        plain[9] = 17;
        let total = plain.len() as u16;
        plain[2..4].copy_from_slice(&total.to_be_bytes());
    } else {
        plain[6] = 17;
        let payload = (plain.len() - 40) as u16;
        plain[4..6].copy_from_slice(&payload.to_be_bytes());
    }
    assert_eq!(ones_sum(&plain[len..], pseudo_sum(&plain)), 0xffff, "the datagram's checksum");
    plain[len + 8..].to_vec()
}

#[test]
fn the_first_three_datagrams_tell_in_a_header_of_their_own() {
    for across in [false, true] {
        for route in [inbound(4000), inbound6(4000)] {
            let mut lab = lab(Uoa::Header, Plan { across, ..Plan::default() });
            let record = record(&route);
            let version = if route.source.0.is_ipv4() { 0x10 } else { 0x20 };
            let between = [&[version, 17, 0, 4 + record.len() as u8][..], &record].concat();
            for _ in 0..3 {
                let seen = lab.send(A, &udp_frame(&route, b"query")).frame().to_vec();
                let ip = &seen[ETHERNET..];
                let (len, protocol) = header(ip);
                assert_eq!(protocol, 248);
                assert_eq!(ip[len..len + between.len()], between);
                assert_eq!(datagram(ip, between.len()), b"query");
            }
            let seen = lab.send(A, &udp_frame(&route, b"query")).frame().to_vec();
            assert_eq!(
                (header(&seen[ETHERNET..]).1, datagram(&seen[ETHERNET..], 0)),
                (17, b"query".to_vec())
            );
            lab.send(B, &udp_frame(&answer_to(&seen), b"answer")).frame();
            assert_eq!(lab.stats.address_sent.value(), 3);
        }
    }
}

#[test]
fn the_first_three_datagrams_tell_in_an_option() {
    // A client of either family with an IPv4 server.
    for (across, route) in [(false, inbound(4000)), (true, inbound6(4000))] {
        let mut lab = lab(Uoa::Option, Plan { across, ..Plan::default() });
        for _ in 0..3 {
            let seen = lab.send(A, &udp_frame(&route, b"query")).frame().to_vec();
            let ip = &seen[ETHERNET..];
            let (len, protocol) = header(ip);
            assert_eq!((&ip[20..len], protocol), (&record(&route)[..], 17));
            assert_eq!(datagram(ip, 0), b"query");
        }
        let seen = lab.send(A, &udp_frame(&route, b"query")).frame().to_vec();
        assert_eq!(header(&seen[ETHERNET..]).0, 20);
    }
    // IPv6 has no such options.
    let mut lab = lab(Uoa::Option, Plan::default());
    lab.send(A, &udp_frame(&inbound6(4000), b"query")).frame();
    assert_eq!((lab.stats.address_sent.value(), lab.stats.address_no_room.value()), (0, 1));
}

#[test]
fn records_that_clients_write_are_blanked_always() {
    let route = inbound(4000);
    let mut lab = lab(Uoa::Option, Plan::default());
    let mut forged = udp_frame(&route, b"query");
    let option = [31, 8, 0, 80, 203, 0, 113, 9];
    forged.splice(ETHERNET + 20..ETHERNET + 20, option);
    forged[ETHERNET] = 0x47;
    forged[ETHERNET + 3] += 8;
    fill_checksums(&mut forged);
    for number in 0..1_000 {
        let seen = lab.send(A, &forged).frame().to_vec();
        let ip = &seen[ETHERNET..];
        let (len, _) = header(ip);
        let told = if number < 3 { record(&route) } else { vec![] };
        assert_eq!(ip[20..len], [&told[..], &[1; 8]].concat());
    }
    assert_eq!(lab.stats.address_stripped.value(), 1_000);
}

#[test]
fn without_room_a_datagram_goes_as_it_is_and_is_counted() {
    let mut lab = lab(Uoa::Header, Plan::default());
    let large = udp_frame(&inbound(4000), &[7; 1_470]);
    let seen = lab.send(A, &large).frame().to_vec();
    assert_eq!(datagram(&seen[ETHERNET..], 0), [7; 1_470]);
    assert_eq!(lab.stats.address_exceeds_mtu.value(), 1);
    let small = udp_frame(&inbound(4000), &[7; 100]);
    for piece in pieces::cut(&small, 7, 40) {
        assert_eq!(lab.send(A, &piece).frame().len(), piece.len());
    }
    assert_eq!(lab.stats.address_no_room.value(), 1);
}
