//! What counts as a failure of a server: silence and refusals, and not what clients leave undone.

mod support;

use dataplane::ids::ServerId;
use pktgen_tests::frames::{tcp, tcp_frame, udp_frame};
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
