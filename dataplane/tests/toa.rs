//! Where clients are, told to servers in a TCP option.

mod support;

use dataplane::drop::DropReason;
use dataplane::snapshot::{ClientAddress, ServiceOptions};
use pktgen_tests::frames::{ETHERNET, Route, endpoints, tcp};
use std::sync::Arc;
use support::segments::{parts, segment};
use support::{A, B, Fate, Lab, Plan, answer_to, inbound, inbound6, octets};

const KIND: u8 = 254;

fn lab(plan: Plan) -> Lab {
    let options = Arc::new(ServiceOptions {
        client_address: Some(ClientAddress::Toa(KIND)),
        ..ServiceOptions::default()
    });
    Lab::new(&Plan { options, ..plan })
}

/// The option that a client's server is to see.
fn expected(route: &Route) -> Vec<u8> {
    let address = octets(route.source.0);
    [&[KIND, 4 + address.len() as u8][..], &route.source.1.to_be_bytes(), &address].concat()
}

/// SYN and SYN+ACK; the server's sequence number is 1000.
fn open(lab: &mut Lab, route: &Route) -> (Vec<u8>, Vec<u8>) {
    let seen = lab.send(A, &segment(route, tcp::SYN, 0, &[2, 4, 5, 180], &[])).frame().to_vec();
    assert_eq!(parts(&seen).0, [2, 4, 5, 180], "not in the SYN");
    let answer = segment(&answer_to(&seen), tcp::SYN | tcp::ACK, 1001, &[2, 4, 5, 180], &[]);
    let heard = lab.send(B, &answer).frame().to_vec();
    (seen, heard)
}

#[test]
fn the_server_is_told_until_it_is_acknowledged() {
    // Both families, and a client of one with a server of the other.
    for across in [false, true] {
        for route in [inbound(4000), inbound6(4000)] {
            let mut lab = lab(Plan { across, ..Plan::default() });
            let (_, heard) = open(&mut lab, &route);
            let room = 1460 - expected(&route).len() as u16;
            assert_eq!(parts(&heard).0, [&[2, 4][..], &room.to_be_bytes()].concat(), "room for the option");

            let ack = segment(&route, tcp::ACK, 1001, &[], &[]);
            assert_eq!(parts(lab.send(A, &ack).frame()), (expected(&route), vec![]));
            // The first request, and again, because it was lost.
            let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
            let request = segment(&route, tcp::ACK | tcp::PSH, 1001, &timestamps, b"GET /");
            for _ in 0..2 {
                let told = parts(lab.send(A, &request).frame());
                assert_eq!(told, ([&expected(&route)[..], &timestamps].concat(), b"GET /".to_vec()));
            }
            let later = segment(&route, tcp::ACK, 2001, &[], b"more");
            assert_eq!(parts(lab.send(A, &later).frame()), (vec![], b"more".to_vec()));
            // Once is for ever: an old segment does not tell again.
            assert_eq!(parts(lab.send(A, &request).frame()).0, timestamps);
            assert_eq!(lab.stats.address_sent.value(), 3);
        }
    }
}

#[test]
fn what_clients_say_of_themselves_is_blanked_always() {
    for route in [inbound(4000), inbound6(4000)] {
        let mut lab = lab(Plan::default());
        let forged = [KIND, 8, 0, 80, 203, 0, 113, 9];
        let syn = lab.send(A, &segment(&route, tcp::SYN, 0, &forged, &[])).frame().to_vec();
        assert_eq!(parts(&syn).0, [1; 8]);
        lab.send(B, &segment(&answer_to(&syn), tcp::SYN | tcp::ACK, 1001, &[], &[])).frame();
        let first = lab.send(A, &segment(&route, tcp::ACK, 1001, &forged, &[])).frame().to_vec();
        assert_eq!(parts(&first).0, [&expected(&route)[..], &[1; 8]].concat());
        for number in 0..1_000 {
            let later = segment(&route, tcp::ACK, 5_000 + number, &forged, b"x");
            assert_eq!(parts(lab.send(A, &later).frame()).0, [1; 8]);
        }
        assert_eq!(lab.stats.address_stripped.value(), 1_002);
    }
}

#[test]
fn without_room_a_segment_goes_as_it_is_and_is_counted() {
    let route = inbound(4000);
    let mut lab = lab(Plan::default());
    open(&mut lab, &route);
    let full = [1; 40];
    assert_eq!(parts(lab.send(A, &segment(&route, tcp::ACK, 1001, &full, b"x")).frame()).0, full);
    assert_eq!(lab.stats.address_no_room.value(), 1);
    // A client that does not keep to the lowered size.
    let large = vec![7; 1_460];
    assert_eq!(parts(lab.send(A, &segment(&route, tcp::ACK, 1001, &[], &large)).frame()), (vec![], large));
    assert_eq!(lab.stats.address_exceeds_mtu.value(), 1);
}

#[test]
fn a_segment_in_pieces_goes_without() {
    for route in [inbound(4000), inbound6(4000)] {
        let mut lab = lab(Plan::default());
        open(&mut lab, &route);
        let whole = segment(&route, tcp::ACK, 1001, &[], &[7; 100]);
        let mut cut = support::pieces::cut(&whole, 7, 40);
        if !route.source.0.is_ipv4() {
            cut.iter_mut().for_each(|piece| piece[ETHERNET + 40] = 6);
        }
        for piece in &cut {
            assert_eq!(lab.send(A, piece).frame().len(), piece.len());
        }
        assert_eq!(lab.stats.address_sent.value(), 0);
    }
}

#[test]
fn a_service_that_does_not_tell_lets_options_pass() {
    let mut lab = Lab::new(&Plan::default());
    let own = [KIND, 8, 0, 80, 203, 0, 113, 9];
    let seen = lab.send(A, &segment(&inbound(4000), tcp::SYN, 0, &own, &[])).frame().to_vec();
    assert_eq!(parts(&seen).0, own);
    let (from, to) = endpoints(&seen).unwrap();
    let stray = Route { source: to, destination: (from.0, from.1 ^ 1), ..answer_to(&seen) };
    let fate = lab.send(B, &segment(&stray, tcp::ACK, 1, &[], &[]));
    assert_eq!(fate, Fate::Dropped(DropReason::LocalNoSession));
}
