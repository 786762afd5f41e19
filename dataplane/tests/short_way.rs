//! The short way of plain packets against the long way of all, in every mode and family: the same frames,
//! sessions and counters. Packets from a kernel always go the long way, so a twin that believes to be
//! connected to one is the slow, obvious one.

#[path = "support/mod.rs"]
mod support;

use dataplane::flow::Direction;
use dataplane::ids::ServerId;
use dataplane::session::ForwardMode;
use pktgen_tests::frames::{ETHERNET, Route, fill_checksums, tcp, tcp_frame, udp_frame};
use proptest::prelude::*;
use support::{A, B, Fate, Lab, Plan, answer_to, inbound, inbound6};

/// One packet of a story.
#[derive(Clone, Debug)]
struct Step {
    six: bool,
    tcp: bool,
    client_port: u16,
    /// The server's, an answer to what it got last.
    is_answer: bool,
    flags: u8,
    ttl: u8,
    class: u8,
    len: usize,
    padding: usize,
    no_checksum: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    const FLAGS: [u8; 6] =
        [tcp::SYN, tcp::SYN | tcp::ACK, tcp::ACK, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST | tcp::ACK];
    let step =
        (
            (any::<bool>(), any::<bool>(), 4000u16..4004, prop::bool::weighted(0.4)),
            (prop::sample::select(&FLAGS[..]), prop::sample::select(&[0u8, 1, 2, 64, 255][..]), any::<u8>()),
            (
                prop::sample::select(&[0usize, 1, 33, 1320, 1340, 1341, 1352, 1353, 1372, 1373, 1440][..]),
                0usize..10,
                any::<bool>(),
            ),
        )
            .prop_map(
                |((six, tcp, client_port, is_answer), (flags, ttl, class), (len, padding, no_checksum))| {
                    Step { six, tcp, client_port, is_answer, flags, ttl, class, len, padding, no_checksum }
                },
            );
    prop::collection::vec(step, 1..60)
}

fn frame(step: &Step, route: &Route) -> Vec<u8> {
    let payload = vec![0x5a; step.len];
    let mut frame =
        if step.tcp { tcp_frame(route, step.flags, &payload) } else { udp_frame(route, &payload) };
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
    for step in steps {
        let from_client = if step.six { inbound6(step.client_port) } else { inbound(step.client_port) };
        let (port, frame) = match &last_seen {
            Some(seen) if step.is_answer => {
                let route: Route = answer_to(seen);
                // No longer than the server's link lets through.
                let step = Step { six: route.source.0.is_ipv6(), len: step.len.min(1320), ..step.clone() };
                (B, frame(&step, &route))
            }
            _ => (A, frame(step, &from_client)),
        };
        let (one, other) = (short.send(port, &frame), long.send(port, &frame));
        prop_assert_eq!(&one, &other, "{:?}", step);
        if let (A, Fate::Sent(_, sent)) = (port, one) {
            last_seen = Some(sent);
        }
        prop_assert_eq!(short.states(), long.states());
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
