//! Limits of new sessions, by service and by source.

mod support;

use dataplane::drop::DropReason;
use dataplane::ids::ServiceId;
use dataplane::session::{ForwardMode, State, Timeouts};
use dataplane::snapshot::{NewSessions, ServiceOptions};
use pktgen_tests::frames::{Route, tcp, udp_frame};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use support::segments::segment;
use support::{A, Fate, Lab, Plan, inbound, inbound6};

const SECOND: u64 = 1_000_000_000;

fn lab(each: u64, each_of_source: u64) -> Lab {
    let limit = NewSessions {
        each,
        each_of_source,
        burst: SECOND,
        burst_of_source: SECOND,
        prefix4: 32,
        prefix6: 64,
        bans: true,
    };
    let options = ServiceOptions { new_sessions: Some(limit), ..ServiceOptions::default() };
    let mut timeouts = Timeouts::default();
    timeouts.set(State::UdpOneWay, 1_000);
    Lab::new(&Plan {
        mode: ForwardMode::DirectRoute,
        options: Arc::new(options),
        sessions: 100_000,
        sessions6: 100_000,
        timeouts,
        ..Plan::default()
    })
}

fn from(six: bool, source: u32, port: u16) -> Route {
    match six {
        false => Route { source: (Ipv4Addr::from_bits(0x0a00_1000 + source).into(), port), ..inbound(1) },
        true => {
            // Of each /64 another address each time.
            let bits = 0x2001_0db8_000a_0000_u128 << 64 | u128::from(source) << 64 | u128::from(port);
            Route { source: (Ipv6Addr::from_bits(bits).into(), port), ..inbound6(1) }
        }
    }
}

#[test]
fn sources_that_break_their_rate_are_held_to_it_and_the_others_lose_nothing() {
    for six in [false, true] {
        // Twenty a second; a hundred of a thousand sources want a hundred, the others eighteen.
        let mut lab = lab(0, SECOND / 20);
        let (mut admitted, mut refused) = (HashMap::new(), HashMap::new());
        let mut ports: HashMap<u32, u16> = HashMap::new();
        let seconds = 20;
        for tick in 0..100 * seconds {
            for source in 0..1_000_u32 {
                let wanted = if source < 100 { 100 } else { 18 };
                if (tick * wanted) / 100 == ((tick + 1) * wanted) / 100 {
                    continue;
                }
                let port = ports.entry(source).or_insert(1_024);
                *port = if *port == u16::MAX { 1_024 } else { *port + 1 };
                match lab.send(A, &udp_frame(&from(six, source, *port), b"x")) {
                    Fate::Sent(..) => *admitted.entry(source).or_insert(0_u64) += 1,
                    Fate::Dropped(DropReason::SourceRate) => *refused.entry(source).or_insert(0_u64) += 1,
                    other => panic!("{other:?}"),
                }
            }
            lab.wait(Duration::from_millis(10));
        }
        // After silence a second's sessions may come at once.
        let most = 20 * seconds + 20;
        for source in 0..1_000 {
            let (got, lost) = (admitted[&source], refused.get(&source).copied().unwrap_or(0));
            if source < 100 {
                assert!(got * 100 >= most * 95 && got * 100 <= most * 105, "{source}: {got} of {most}");
            } else {
                assert_eq!((got, lost), (18 * seconds, 0), "{source}");
            }
        }
        let all: u64 = refused.values().sum();
        let counted: u64 = (0..4).map(|id| lab.stats.service(ServiceId(id)).source_rate.value()).sum();
        assert_eq!(counted, all);
        // The worst are known, and none that kept its rate.
        let talkers: Vec<_> = lab.director.take_talkers().collect();
        assert_eq!(talkers.len(), 100);
        for talker in talkers {
            assert_eq!(talker.source.prefix_len, if six { 64 } else { 32 });
            let of_talker = |source: &u32| talker.source.contains(from(six, *source, 1_024).source.0);
            let source = (0..100).find(of_talker).unwrap();
            assert!(talker.refused >= refused[&source], "{talker:?}");
        }
        assert!(lab.director.next_offender().is_some());
        // Those who stop are forgotten.
        let left = (0..40).map(|_| lab.director.take_talkers().count()).last();
        assert_eq!(left, Some(0));
    }
}

#[test]
fn a_service_takes_so_many_in_a_second_from_all() {
    let mut lab = lab(SECOND / 100, 0);
    let mut got = 0;
    for tick in 0..1_000_u32 {
        let fate = lab.send(A, &segment(&from(false, tick, 4_000), tcp::SYN, 0, &[], &[]));
        got += u32::from(matches!(fate, Fate::Sent(..)));
        assert!(matches!(fate, Fate::Sent(..) | Fate::Dropped(DropReason::ServiceRate)), "{fate:?}");
        // What has a session goes on.
        let first = segment(&from(false, 0, 4_000), tcp::ACK, 1, &[], &[]);
        lab.send(A, &first).frame();
        lab.wait(Duration::from_millis(5));
    }
    // Five seconds of a hundred, and one at once.
    assert!((595..=605).contains(&got), "{got}");
    let explained = lab.director.explain(
        A,
        &segment(&from(false, 7_777, 4_000), tcp::SYN, 0, &[], &[]),
        &lab.world,
        lab.now,
    );
    let fate = lab.send(A, &segment(&from(false, 7_777, 4_000), tcp::SYN, 0, &[], &[]));
    match fate {
        Fate::Dropped(reason) => {
            assert_eq!(explained.verdict, dataplane::director::Verdict::Drop(reason));
        }
        _ => assert!(matches!(explained.verdict, dataplane::director::Verdict::Transmit(_))),
    }
}

#[test]
fn a_slow_rate_lets_one_pass() {
    // One in ten seconds, on one of several workers.
    let mut lab = lab(0, 10 * SECOND);
    let mut got = Vec::new();
    for second in 0..40_u16 {
        let fate = lab.send(A, &udp_frame(&from(false, 1, 2_000 + second), b"x"));
        if let Fate::Sent(..) = fate {
            got.push(second);
        }
        lab.wait(Duration::from_secs(1));
    }
    assert_eq!(got, [0, 10, 20, 30]);
}
