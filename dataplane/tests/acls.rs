//! Lists of addresses: who may have a session, and what becomes of sessions when a list changes.

mod support;

use dataplane::drop::DropReason;
use dataplane::ids::{AclId, ServiceId};
use dataplane::prefixes::Prefixes;
use dataplane::session::ForwardMode;
use dataplane::snapshot::{Acl, AclAction, Acls, Network, ServiceOptions, SynProxy};
use pktgen_tests::frames::{tcp, udp_frame};
use std::sync::Arc;
use support::segments::segment;
use support::{A, B, CLIENT, CLIENT6, Fate, Lab, Plan, answer_to, inbound, inbound6, world};

fn deny(lab: &mut Lab, networks: &[Network], services: &[u32]) {
    let prefixes: Prefixes = networks.iter().copied().collect();
    let services = (!services.is_empty()).then(|| services.iter().copied().map(ServiceId));
    let list = Acl::new(AclId(5), AclAction::Deny, Arc::new(prefixes), services);
    lab.world.acls = Arc::new(Acls::new([list]));
    lab.world.routing_epoch = lab.world.routing_epoch.wrapping_add(1);
}

const CLIENTS: [Network; 2] =
    [Network { address: CLIENT, prefix_len: 24 }, Network { address: CLIENT6, prefix_len: 48 }];

#[test]
fn whoever_is_denied_gets_no_session_and_loses_those_that_he_has() {
    use ForwardMode::{DirectRoute, FullNat, Nat, Tunnel};
    let denied = Fate::Dropped(DropReason::AclDenied);
    for (mode, across) in
        [(FullNat, false), (FullNat, true), (Nat, false), (DirectRoute, false), (Tunnel, false)]
    {
        for route in [inbound(4_000), inbound6(4_000)] {
            let mut lab = Lab::new(&Plan { mode, across, ..Plan::default() });
            let hits = |lab: &Lab| lab.stats.acl_hits(AclId(5)).value();
            let syn = segment(&route, tcp::SYN, 0, &[], &[]);
            let datagram = udp_frame(&route, b"x");
            for frame in [&syn, &datagram] {
                lab.send(A, frame).frame();
            }
            // Of others nothing is asked.
            deny(&mut lab, &["203.0.113.0/24".parse().unwrap()], &[]);
            for frame in [&syn, &datagram] {
                lab.send(A, frame).frame();
            }
            assert_eq!((lab.stats.sessions_live.value(), hits(&lab)), (2, 0), "{mode:?}");
            deny(&mut lab, &CLIENTS, &[]);
            for frame in [&syn, &datagram] {
                assert_eq!(lab.send(A, frame), denied, "{mode:?} {across}");
                assert_eq!(lab.send(A, frame), denied, "{mode:?} {across}");
            }
            assert_eq!(lab.stats.sessions_live.value(), 0, "{mode:?} {across}");
            // What is found by the other family's key begins nothing when it ends.
            let found_there = across && route.source.0.is_ipv4();
            assert_eq!(hits(&lab), if found_there { 2 } else { 4 }, "{mode:?} {across}");
        }
    }
}

#[test]
fn an_answer_for_a_client_that_is_denied_now_goes_nowhere() {
    let mut lab = Lab::new(&Plan::default());
    let seen = lab.send(A, &segment(&inbound(4_000), tcp::SYN, 0, &[], &[])).frame().to_vec();
    deny(&mut lab, &CLIENTS, &[]);
    let fate = lab.send(B, &segment(&answer_to(&seen), tcp::SYN | tcp::ACK, 1, &[], &[]));
    assert!(matches!(fate, Fate::Dropped(_)), "{fate:?}");
    assert_eq!(lab.stats.sessions_live.value(), 0);
}

#[test]
fn a_list_is_for_the_services_that_it_names() {
    let mut lab = Lab::new(&Plan::default());
    // TCP and UDP are two services there.
    deny(&mut lab, &CLIENTS, &[0]);
    let frames = [segment(&inbound(4_000), tcp::SYN, 0, &[], &[]), udp_frame(&inbound(4_000), b"x")];
    let fates = frames.map(|frame| matches!(lab.send(A, &frame), Fate::Dropped(DropReason::AclDenied)));
    assert_eq!(fates.iter().filter(|is_denied| **is_denied).count(), 1, "{fates:?}");
}

#[test]
fn whoever_is_denied_is_not_even_asked_for_proof() {
    let options = ServiceOptions { syn_proxy: SynProxy::Always, ..ServiceOptions::default() };
    let mut lab = Lab::new(&Plan { options: Arc::new(options), ..Plan::default() });
    deny(&mut lab, &CLIENTS, &[]);
    let fate = lab.send(A, &segment(&inbound(4_000), tcp::SYN, 0, &[], &[]));
    assert_eq!(fate, Fate::Dropped(DropReason::AclDenied));
    assert_eq!(lab.stats.syn_proxy(ServiceId(0)).cookies_sent.value(), 0);
}

#[test]
fn a_session_of_a_server_that_was_removed_ends_too() {
    for services in [&[][..], &[0, 1]] {
        let mut lab = Lab::new(&Plan { weights: vec![1, 1], ..Plan::default() });
        let seen = lab.send(A, &segment(&inbound(4_000), tcp::SYN, 0, &[], &[])).frame().to_vec();
        lab.send(B, &segment(&answer_to(&seen), tcp::SYN | tcp::ACK, 1, &[], &[])).frame();
        // It goes on without the server, until its client is denied.
        lab.world = world(&Plan { weights: vec![1], first_server: 1, ..Plan::default() });
        lab.world.routing_epoch += 1;
        let data = segment(&inbound(4_000), tcp::ACK, 1, &[], b"x");
        lab.send(A, &data).frame();
        deny(&mut lab, &CLIENTS, services);
        assert_eq!(lab.send(A, &data), Fate::Dropped(DropReason::AclDenied), "{services:?}");
        assert_eq!(lab.stats.sessions_live.value(), 0);
    }
}
