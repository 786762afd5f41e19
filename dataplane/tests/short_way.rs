//! The short way of plain packets, in bursts, against the long way of all, one by one, in every mode and family: the
//! same frames, sessions, counters and reasons. Packets from a kernel always go the long way, so a twin that believes to
//! be connected to one is the slow, obvious one.

#[path = "support/mod.rs"]
mod support;

use dataplane::drop::DropReason;
use dataplane::flow::Direction;
use dataplane::frame::BURST_SIZE;
use dataplane::ids::ServerId;
use dataplane::session::ForwardMode;
use pktgen_tests::frames::{ETHERNET, Route, fill_checksums, tcp, tcp_frame, udp_frame};
use proptest::prelude::*;
use std::net::IpAddr;
use support::{A, B, Fate, LOCAL, LOCAL6, Lab, Plan, answer_to, inbound, inbound6};

/// One packet of a story.
#[derive(Clone, Debug)]
struct Step {
    six: bool,
    tcp: bool,
    client_port: u16,
    /// Whom a client asks.
    asked: Asked,
    /// The server's, an answer to what it got last.
    is_answer: bool,
    flags: u8,
    /// Sequence number and acknowledgement number.
    numbers: (u32, u32),
    ttl: u8,
    class: u8,
    len: usize,
    padding: usize,
    no_checksum: bool,
}

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Service,
    /// The VIP, where no service listens.
    OtherPort,
    /// An address of somebody else.
    Foreign,
    /// The address that sessions have towards servers, at a port without session.
    Local,
    /// A port's own address.
    Own,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    const FLAGS: [u8; 6] =
        [tcp::SYN, tcp::SYN | tcp::ACK, tcp::ACK, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST | tcp::ACK];
    const NUMBERS: [u32; 4] = [0, 1_000, 0x4000_1000, 0x4001_1000];
    let step = (
        (
            prop::bool::weighted(0.3),
            any::<bool>(),
            4000u16..4004,
            prop::bool::weighted(0.3),
            prop::sample::select(
                &[
                    Asked::Service,
                    Asked::Service,
                    Asked::Service,
                    Asked::Service,
                    Asked::OtherPort,
                    Asked::Foreign,
                    Asked::Local,
                    Asked::Own,
                ][..],
            ),
        ),
        (
            prop::sample::select(&FLAGS[..]),
            (prop::sample::select(&NUMBERS[..]), prop::sample::select(&NUMBERS[..])),
            prop::sample::select(&[0u8, 1, 2, 64, 255][..]),
            any::<u8>(),
        ),
        (
            prop::sample::select(&[0usize, 1, 33, 1320, 1340, 1341, 1352, 1353, 1372, 1373, 1440][..]),
            0usize..10,
            any::<bool>(),
        ),
    )
        .prop_map(
            |(
                (six, tcp, client_port, is_answer, asked),
                (flags, numbers, ttl, class),
                (len, padding, no_checksum),
            )| {
                Step {
                    six,
                    tcp,
                    client_port,
                    asked,
                    is_answer,
                    flags,
                    numbers,
                    ttl,
                    class,
                    len,
                    padding,
                    no_checksum,
                }
            },
        );
    prop::collection::vec(step, 1..120)
}

fn frame(step: &Step, route: &Route) -> Vec<u8> {
    let payload = vec![0x5a; step.len];
    let mut frame =
        if step.tcp { tcp_frame(route, step.flags, &payload) } else { udp_frame(route, &payload) };
    if step.tcp {
        let l4 = ETHERNET + if step.six { 40 } else { 20 };
        frame[l4 + 4..l4 + 8].copy_from_slice(&step.numbers.0.to_be_bytes());
        frame[l4 + 8..l4 + 12].copy_from_slice(&step.numbers.1.to_be_bytes());
    }
    if step.six {
        frame[ETHERNET] = 0x60 | step.class >> 4;
        frame[ETHERNET + 1] = step.class << 4;
        frame[ETHERNET + 7] = step.ttl;
    } else {
        frame[ETHERNET + 1] = step.class;
        frame[ETHERNET + 6] ^= step.class & 0x40;
        frame[ETHERNET + 8] = step.ttl;
    }
    fill_checksums(&mut frame);
    if step.no_checksum && !step.tcp && !step.six {
        frame[ETHERNET + 26..ETHERNET + 28].fill(0);
    }
    frame.extend(vec![0; step.padding]);
    frame
}

fn agree(mode: ForwardMode, steps: &[Step]) -> Result<(), TestCaseError> {
    let lab = |kernel_peer| {
        Lab::new(&Plan { mode, kernel_peer, server_mtu: 1400, weights: vec![1, 1], ..Plan::default() })
    };
    let (mut short, mut long) = (lab(false), lab(true));
    let mut last_seen: Option<Vec<u8>> = None;
    let mut steps = steps.iter().peekable();
    while let Some(first) = steps.next() {
        // So many of one side and family come in one burst.
        let like = |step: &Step| (step.is_answer, step.six) == (first.is_answer, first.six);
        let mut burst = vec![first];
        while let Some(step) = steps.next_if(|step| like(step)) {
            burst.push(step);
        }
        let answered = last_seen.as_ref().filter(|_| first.is_answer);
        let port = if answered.is_some() { B } else { A };
        let frames: Vec<_> = burst
            .iter()
            .map(|step| match answered {
                Some(seen) => {
                    let route: Route = answer_to(seen);
                    // No longer than the server's link lets through.
                    let is_six = route.source.0.is_ipv6();
                    let len = step.len.min(1320);
                    frame(&Step { six: is_six, len, ..(*step).clone() }, &route)
                }
                None => frame(step, &route(step)),
            })
            .take(BURST_SIZE)
            .collect();
        let (together, apart) = (
            short.burst(port, &frames),
            frames.iter().map(|frame| long.send(port, frame)).collect::<Vec<_>>(),
        );
        prop_assert_eq!(together.len(), apart.len());
        for ((one, other), step) in together.iter().zip(&apart).zip(&burst) {
            prop_assert_eq!(one, other, "{:?}", step);
        }
        let sent = |fate| if let Fate::Sent(_, sent) = fate { Some(sent) } else { None };
        if port == A
            && let Some(sent) = together.into_iter().rev().find_map(sent)
        {
            last_seen = Some(sent);
        }
        prop_assert_eq!(short.states(), long.states());
        let doubtful = |lab: &Lab| lab.stats.segments_out_of_window.value();
        prop_assert_eq!(doubtful(&short), doubtful(&long));
        for reason in DropReason::ALL {
            let drops = |lab: &Lab| lab.stats.drops(*reason).value();
            prop_assert_eq!(drops(&short), drops(&long), "{:?}", reason);
        }
        for at in 0..2 {
            let traffic = |lab: &Lab| {
                let server = lab.stats.server(ServerId(at));
                [Direction::Inbound, Direction::Outbound].map(|direction| {
                    let (packets, bytes) = server.traffic(direction);
                    (packets.value(), bytes.value())
                })
            };
            prop_assert_eq!(traffic(&short), traffic(&long));
        }
    }
    Ok(())
}

/// From a client to what a step asks for.
fn route(step: &Step) -> Route {
    let mut route = if step.six { inbound6(step.client_port) } else { inbound(step.client_port) };
    let address = |narrow: &str, wide: &str| -> IpAddr {
        if step.six { wide.parse().unwrap() } else { narrow.parse().unwrap() }
    };
    match step.asked {
        Asked::Service => {}
        Asked::OtherPort => route.destination.1 += 1000,
        Asked::Foreign => route.destination.0 = address("203.0.113.9", "2001:db8:f::9"),
        Asked::Local => route.destination = (if step.six { LOCAL6 } else { LOCAL }, 5001),
        Asked::Own => route.destination.0 = address("10.0.0.1", "2001:db8:a::1"),
    }
    route
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn both_ways_agree(
        mode in prop::sample::select(
            &[ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRoute, ForwardMode::Tunnel][..]
        ),
        steps in steps(),
    ) {
        agree(mode, &steps)?;
    }
}
