//! A blind attacker, who knows a connection's addresses and ports and sees nothing of it (RFC 5961, RFC 5927): what it
//! sends changes no session, from whichever side.

mod support;

use dataplane::drop::DropReason;
use dataplane::ids::{PortId, ServerId};
use dataplane::session::{ForwardMode, State};
use dataplane::snapshot::{ClientAddress, ServiceOptions};
use dataplane::wire::{Proxy, ProxyVersion};
use pktgen_tests::frames::{Route, tcp};
use std::sync::Arc;
use std::time::Duration;
use support::segments::{segment, set_sequence};
use support::{A, B, Fate, Lab, Plan, answer_to, error_about, inbound, inbound6};

const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
const FIN_ACK: u8 = tcp::FIN | tcp::ACK;

/// One end of a connection: how to send as it does.
struct End {
    port: PortId,
    route: Route,
    /// Its next sequence number.
    next: u32,
}

impl End {
    fn say(&self, lab: &mut Lab, flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Fate {
        let mut frame = segment(&self.route, flags, acknowledged, &[], payload);
        set_sequence(&mut frame, sequence);
        lab.send(self.port, &frame)
    }
}

/// A connection: its ends as a client and a server are, and the state that it has.
struct Talk {
    client: End,
    server: End,
    /// What the director adds to the client's numbers.
    shift: u32,
}

impl Talk {
    fn open(lab: &mut Lab, route: &Route, first: u32) -> Self {
        let mut client = End { port: A, route: *route, next: first };
        let seen = client.say(lab, tcp::SYN, first, 0, &[]).frame().to_vec();
        client.next = first.wrapping_add(1);
        let shift = support::segments::numbers(&seen).0.wrapping_sub(first);
        let server = End { port: B, route: answer_to(&seen), next: 0x9080_7061 };
        let mut talk = Self { client, server, shift };
        talk.server_says(lab, SYN_ACK, 0x9080_7060, &[]);
        talk.client_says(lab, tcp::ACK, &[]);
        // With a PROXY header in front the server is further than the client.
        let told = talk.client_says(lab, tcp::ACK, &[7; 70]).frame().to_vec();
        let (_, payload) = support::segments::parts(&told);
        talk.client.next = talk.client.next.wrapping_add(70);
        talk.shift = talk.shift.wrapping_add(payload.len() as u32 - 70);
        talk.server_says(lab, tcp::ACK, 0x9080_7061, &[1; 500]);
        talk.server.next = 0x9080_7061 + 500;
        talk.client_says(lab, tcp::ACK, &[]);
        talk
    }

    fn client_says(&self, lab: &mut Lab, flags: u8, payload: &[u8]) -> Fate {
        self.client.say(lab, flags, self.client.next, self.server.next, payload)
    }

    fn server_says(&self, lab: &mut Lab, flags: u8, sequence: u32, payload: &[u8]) -> Fate {
        self.server.say(lab, flags, sequence, self.client.next.wrapping_add(self.shift), payload)
    }
}

fn states(lab: &Lab) -> Vec<State> {
    let wide = lab.director.sessions6();
    let wide = (0..wide.capacity()).filter_map(|line| wide.line(line)).map(|(_, session)| session.state());
    lab.states().into_iter().chain(wide).collect()
}

/// Numbers without order.
fn numbers(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| (n ^ 0x5bd1).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b))
}

/// Labs of each mode that sees answers, each with a connection of each family.
fn labs() -> Vec<(Lab, Vec<Talk>)> {
    let proxy = Proxy { version: ProxyVersion::Two, unique_id: false, vip: false };
    let cases = [
        (ForwardMode::FullNat, false, None, 0),
        (ForwardMode::FullNat, false, None, 70),
        (ForwardMode::FullNat, false, Some(ClientAddress::Proxy(proxy)), 70),
        (ForwardMode::FullNat, true, None, 0),
        (ForwardMode::Nat, false, None, 0),
    ];
    let lab = |(mode, across, client_address, earlier): (_, _, _, u16)| {
        let options = ServiceOptions { client_address, ..ServiceOptions::default() };
        let mut lab = Lab::new(&Plan { mode, across, options: Arc::new(options), ..Plan::default() });
        let mut talks = Vec::new();
        for route in [inbound(4000), inbound6(4000)] {
            for port in 0..earlier {
                let route = Route { source: (route.source.0, 5000 + port), ..route };
                let talk = Talk::open(&mut lab, &route, 77_777);
                talk.client_says(&mut lab, tcp::RST | tcp::ACK, &[]);
            }
            lab.wait(Duration::from_secs(12));
            talks.push(Talk::open(&mut lab, &route, 0x1020_3040));
        }
        assert_eq!(states(&lab), [State::Established; 2], "{mode:?}");
        (lab, talks)
    };
    cases.map(lab).into()
}

#[test]
fn blind_segments_change_no_session_and_are_passed_on() {
    for (mut lab, talks) in labs() {
        let sweeps: [&[u8]; 7] = [
            &[tcp::RST],
            &[tcp::RST | tcp::ACK],
            &[FIN_ACK],
            &[tcp::SYN],
            &[SYN_ACK],
            &[tcp::RST, tcp::SYN],
            &[FIN_ACK, tcp::RST],
        ];
        for talk in &talks {
            for (end, flags) in
                [&talk.client, &talk.server].into_iter().flat_map(|end| sweeps.map(|flags| (end, flags)))
            {
                for sequence in numbers(200) {
                    for flags in flags {
                        let fate = end.say(&mut lab, *flags, sequence, sequence ^ 0x5555_5555, &[]);
                        assert!(matches!(fate, Fate::Sent(..)), "the other end decides: {fate:?}");
                    }
                }
            }
        }
        assert_eq!(states(&lab), [State::Established; 2]);
        assert!(lab.stats.segments_out_of_window.value() > 3_000);
        // Both are silent for long, and go on as if nothing had been.
        lab.wait(Duration::from_secs(800));
        for talk in &talks {
            talk.client_says(&mut lab, tcp::ACK, b"still").frame();
            talk.server_says(&mut lab, tcp::ACK, talk.server.next, b"here").frame();
        }
        assert_eq!(states(&lab), [State::Established; 2]);
    }
}

#[test]
fn segments_that_may_be_the_senders_end_a_connection() {
    // How far ahead of what is acknowledged, and whether it is believed.
    for (flags, ahead, is_believed) in [
        (tcp::RST, 0, true),
        (tcp::RST | tcp::ACK, 200_000, true),
        (tcp::RST, 400_000, false),
        (FIN_ACK, 0, true),
        (FIN_ACK, 1_000_000, true),
        (FIN_ACK, 1_200_000, false),
        (tcp::RST, 1_u32.wrapping_neg(), true),
        (tcp::RST, 200_000_u32.wrapping_neg(), false),
    ] {
        for from_client in [true, false] {
            for (mut lab, talks) in labs() {
                for talk in &talks {
                    let end = if from_client { &talk.client } else { &talk.server };
                    let other = if from_client { &talk.server } else { &talk.client };
                    let shift = if from_client { 0 } else { talk.shift };
                    let acknowledged = other.next.wrapping_add(shift);
                    end.say(&mut lab, flags, end.next.wrapping_add(ahead), acknowledged, &[]);
                }
                let expected = match (flags == FIN_ACK, from_client) {
                    _ if !is_believed => State::Established,
                    (false, _) => State::Close,
                    (true, true) => State::CloseWait,
                    (true, false) => State::FinWait,
                };
                assert_eq!(states(&lab), [expected; 2], "{flags:#x} {ahead} from client: {from_client}");
            }
        }
    }
}

#[test]
fn a_session_that_both_sides_go_on_with_was_not_closed() {
    for (mut lab, talks) in labs() {
        for talk in &talks {
            // Guessed, or true and on the way while the other side still sends.
            talk.client.say(&mut lab, tcp::RST, talk.client.next, 0, &[]);
            talk.server_says(&mut lab, tcp::ACK, talk.server.next, &[1; 99]);
            talk.server_says(&mut lab, tcp::ACK, talk.server.next + 99, &[1; 99]);
        }
        assert_eq!(states(&lab), [State::Close; 2], "one side alone may not know yet");
        talks.iter().for_each(|talk| drop(talk.client_says(&mut lab, tcp::ACK, &[])));
        assert_eq!(states(&lab), [State::Established; 2]);

        // Two FINs, acknowledged by both, are an end.
        for talk in &talks {
            talk.client_says(&mut lab, FIN_ACK, &[]);
            talk.server_says(&mut lab, FIN_ACK, talk.server.next, &[]);
            talk.client.say(&mut lab, tcp::ACK, talk.client.next + 1, talk.server.next + 1, &[]);
            talk.server_says(&mut lab, tcp::ACK, talk.server.next + 1, &[]);
        }
        assert_eq!(states(&lab), [State::TimeWait; 2]);
        // What was lost comes once more from one side, and is acknowledged by the other.
        for talk in &talks {
            talk.server_says(&mut lab, tcp::ACK, talk.server.next - 99, &[1; 99]);
            talk.client_says(&mut lab, tcp::ACK, &[]);
        }
        assert_eq!(states(&lab), [State::TimeWait; 2]);
        // Data of both is no end, though perhaps no more than what was lost.
        talks.iter().for_each(|talk| drop(talk.client_says(&mut lab, tcp::ACK, b"more")));
        assert_eq!(states(&lab), [State::FinWait; 2]);
    }
}

#[test]
fn what_the_server_says_to_a_syn_decides() {
    for (mut lab, talks) in labs() {
        for talk in &talks {
            talk.server_says(&mut lab, FIN_ACK, talk.server.next, &[]);
            talk.client.say(&mut lab, tcp::SYN, 4, 0, &[]);
        }
        assert_eq!(states(&lab), [State::FinWait; 2]);
        for talk in &talks {
            // It had forgotten the connection.
            talk.server.say(&mut lab, SYN_ACK, 70, 5_u32.wrapping_add(talk.shift), &[]);
        }
        assert_eq!(states(&lab), [State::Established; 2]);
    }
}

#[test]
fn errors_about_what_was_not_sent_are_refused() {
    for (mut lab, talks) in labs() {
        for talk in talks
            .iter()
            .filter(|talk| talk.client.route.source.0.is_ipv4() == talk.server.route.source.0.is_ipv4())
        {
            for (end, shift) in [(&talk.server, talk.shift), (&talk.client, 0)] {
                let about = if shift == talk.shift && end.port == B { &talk.client } else { &talk.server };
                let before = lab.drops(DropReason::IcmpOutOfWindow);
                let back =
                    Route { source: end.route.destination, destination: end.route.source, ..end.route };
                let is_four = end.route.source.0.is_ipv4();
                let (kind, code, smallest) = if is_four { (3, 4, 576) } else { (2, 0, 1_280) };
                let error = |lab: &mut Lab, sequence: u32, mtu: u32| {
                    let mut quoted = segment(&back, tcp::ACK, 0, &[], &[0; 40]);
                    set_sequence(&mut quoted, sequence);
                    lab.send(end.port, &error_about(&quoted, &end.route, kind, code, mtu))
                };
                let numbers: Vec<_> = numbers(200).collect();
                let refused = |fate: &Fate| *fate == Fate::Dropped(DropReason::IcmpOutOfWindow);
                assert!(
                    numbers.iter().filter(|number| refused(&error(&mut lab, **number, 1_400))).count() >= 198
                );
                assert!(lab.drops(DropReason::IcmpOutOfWindow) >= before + 198);
                let is_mine = about.next.wrapping_add(shift);
                error(&mut lab, is_mine.wrapping_add(3_000_000), 1_400).frame();
                error(&mut lab, is_mine, 1_400).frame();
                error(&mut lab, is_mine, smallest).frame();
                assert_eq!(error(&mut lab, is_mine, smallest - 1), Fate::Dropped(DropReason::IcmpMtu));
            }
        }
    }
}

#[test]
fn where_answers_go_past_the_clients_own_numbers_count() {
    for mode in [ForwardMode::DirectRoute, ForwardMode::Tunnel] {
        for route in [inbound(4000), inbound6(4000)] {
            let mut lab = Lab::new(&Plan { mode, ..Plan::default() });
            let client = End { port: A, route, next: 0x1020_3041 };
            client.say(&mut lab, tcp::SYN, client.next - 1, 0, &[]);
            client.say(&mut lab, tcp::ACK, client.next, 700, b"hello");
            for sequence in numbers(200) {
                // Saying first where one stands does not help.
                for flags in [tcp::ACK, tcp::RST, FIN_ACK, tcp::SYN, tcp::RST] {
                    client.say(&mut lab, flags, sequence, 9, &[]);
                }
            }
            assert_eq!(states(&lab), [State::Established], "{mode:?}");
            // A client that sends much takes the number along.
            let mut next = client.next + 5;
            for _ in 0..500 {
                client.say(&mut lab, tcp::ACK, next, 700, &[7; 1_400]);
                next = next.wrapping_add(60_000);
            }
            client.say(&mut lab, FIN_ACK, client.next + 5, 700, &[]);
            assert_eq!(states(&lab), [State::Established], "{mode:?}: that is long ago");
            client.say(&mut lab, FIN_ACK, next, 700, &[]);
            assert_eq!(states(&lab), [State::FinWait], "{mode:?}");
            client.say(&mut lab, tcp::RST, next + 1, 700, &[]);
            assert_eq!(states(&lab), [State::Close], "{mode:?}");
        }
    }
}

#[test]
fn an_acknowledgement_of_what_no_server_said_proves_nothing() {
    for route in [inbound(4_000), inbound6(4_000)] {
        for mode in [ForwardMode::FullNat, ForwardMode::Nat] {
            let mut lab = Lab::new(&Plan { mode, ..Plan::default() });
            let finished = |lab: &Lab| -> u64 {
                (0..64).map(|id| lab.stats.connects(ServerId(id)).finished.value()).sum()
            };
            let half_open =
                |lab: &Lab| lab.stats.sessions_half_open.value() + lab.stats.sessions_half_open_ipv6.value();
            let seen = lab.send(A, &segment(&route, tcp::SYN, 0x7777_0001, &[], &[])).frame().to_vec();
            // Before the server answered, and with any number but its own afterwards.
            lab.send(A, &segment(&route, tcp::ACK, 0x7777_0001, &[], &[])).frame();
            let mut answer = segment(&answer_to(&seen), tcp::SYN | tcp::ACK, 1, &[], &[]);
            set_sequence(&mut answer, 0x5555_fff0);
            lab.send(B, &answer).frame();
            for number in [0, 0x7777_0001, 0x5553_ffff, 0x5557_0000] {
                lab.send(A, &segment(&route, tcp::ACK, number, &[], b"x")).frame();
                lab.send(A, &segment(&route, tcp::FIN | tcp::ACK, number, &[], &[])).frame();
            }
            assert_eq!((finished(&lab), half_open(&lab)), (0, 1), "{mode:?}");
            // Nor does a SYN that says what the next one will acknowledge, nor what a server says to a SYN that it does not take.
            lab.send(A, &segment(&route, tcp::SYN, 0x1234_0000, &[], &[])).frame();
            lab.send(A, &segment(&route, SYN_ACK, 0x1234_0000, &[], &[])).frame();
            lab.send(A, &segment(&route, tcp::ACK, 0x1234_0000, &[], &[])).frame();
            lab.send(B, &segment(&answer_to(&seen), tcp::ACK, 1_001, &[], &[])).frame();
            lab.send(A, &segment(&route, tcp::SYN, 0, &[], &[])).frame();
            assert_eq!((finished(&lab), half_open(&lab)), (0, 1), "{mode:?}");
            // Also behind the first data of a server that speaks first.
            lab.send(A, &segment(&route, tcp::ACK, 0x5556_2000, &[], &[])).frame();
            assert_eq!((finished(&lab), half_open(&lab)), (1, 0), "{mode:?}");
        }
    }
}
