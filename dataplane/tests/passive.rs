//! What traffic shows of a server: silence and refusals are failures, and not what clients leave undone; and how fast it
//! answers connections.

mod support;

use dataplane::ids::ServerId;
use dataplane::snapshot::ServiceOptions;
use pktgen_tests::frames::{tcp, tcp_frame, udp_frame};
use std::sync::Arc;
use std::time::Duration;
use support::{A, B, Lab, Plan, answer_to, inbound};

fn failures(lab: &Lab) -> u64 {
    lab.stats.server(ServerId(0)).failures.value()
}

/// Lets so much time pass that every session ends.
fn end_all(lab: &mut Lab) {
    lab.wait(Duration::from_secs(400));
    assert_eq!(lab.sessions(), 0);
}

#[test]
fn a_connection_that_nobody_answers_is_a_failure() {
    let mut lab = Lab::new(&Plan::default());
    lab.send(A, &tcp_frame(&inbound(4_000), tcp::SYN, &[])).frame();
    end_all(&mut lab);
    assert_eq!(failures(&lab), 1);
}

#[test]
fn a_connection_that_the_client_leaves_half_open_is_none() {
    let mut lab = Lab::new(&Plan::default());
    let seen = lab.send(A, &tcp_frame(&inbound(4_000), tcp::SYN, &[])).frame().to_vec();
    lab.send(B, &tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, &[])).frame();
    end_all(&mut lab);
    assert_eq!(failures(&lab), 0);
}

#[test]
fn a_reset_is_a_failure_if_it_is_the_first_answer() {
    let mut lab = Lab::new(&Plan::default());
    let seen = lab.send(A, &tcp_frame(&inbound(4_000), tcp::SYN, &[])).frame().to_vec();
    lab.send(B, &tcp_frame(&answer_to(&seen), tcp::RST | tcp::ACK, &[])).frame();
    assert_eq!(failures(&lab), 1);
    let seen = lab.send(A, &tcp_frame(&inbound(4_001), tcp::SYN, &[])).frame().to_vec();
    lab.send(B, &tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, &[])).frame();
    lab.send(A, &tcp_frame(&inbound(4_001), tcp::ACK, &[])).frame();
    lab.send(B, &tcp_frame(&answer_to(&seen), tcp::RST | tcp::ACK, &[])).frame();
    end_all(&mut lab);
    assert_eq!(failures(&lab), 1);
}

#[test]
fn datagrams_without_an_answer_are_a_failure_and_answered_ones_are_none() {
    let mut lab = Lab::new(&Plan::default());
    lab.send(A, &udp_frame(&inbound(4_000), b"q")).frame();
    let seen = lab.send(A, &udp_frame(&inbound(4_001), b"q")).frame().to_vec();
    lab.send(B, &udp_frame(&answer_to(&seen), b"a")).frame();
    end_all(&mut lab);
    assert_eq!(failures(&lab), 1);
}

#[test]
fn the_time_until_a_server_answers_a_connection_is_counted_once() {
    // By the usual way, and by the longer one.
    let resets = Arc::new(ServiceOptions { reset_on_expiry: true, ..ServiceOptions::default() });
    for options in [Arc::default(), resets] {
        let mut lab = Lab::new(&Plan { options, ..Plan::default() });
        let connects = |lab: &Lab| {
            let counters = lab.stats.connects(ServerId(0));
            (counters.answered.value(), counters.waited_ms.value())
        };
        let seen = lab.send(A, &tcp_frame(&inbound(4_000), tcp::SYN, &[])).frame().to_vec();
        lab.wait(Duration::from_millis(30));
        // The client's patience ends first.
        lab.send(A, &tcp_frame(&inbound(4_000), tcp::SYN, &[])).frame();
        lab.wait(Duration::from_millis(12));
        lab.send(B, &tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, &[])).frame();
        assert_eq!(connects(&lab), (1, 12));
        lab.wait(Duration::from_millis(5));
        lab.send(B, &tcp_frame(&answer_to(&seen), tcp::SYN | tcp::ACK, &[])).frame();
        lab.send(A, &tcp_frame(&inbound(4_000), tcp::ACK, &[])).frame();
        lab.send(B, &tcp_frame(&answer_to(&seen), tcp::ACK, b"x")).frame();
        // A refusal and a datagram are none.
        let seen = lab.send(A, &tcp_frame(&inbound(4_001), tcp::SYN, &[])).frame().to_vec();
        lab.send(B, &tcp_frame(&answer_to(&seen), tcp::RST | tcp::ACK, &[])).frame();
        let seen = lab.send(A, &udp_frame(&inbound(4_002), b"q")).frame().to_vec();
        lab.send(B, &udp_frame(&answer_to(&seen), b"a")).frame();
        assert_eq!(connects(&lab), (1, 12));
    }
}
