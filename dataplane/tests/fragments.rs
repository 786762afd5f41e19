//! Datagrams in pieces: through every mode and family, in any order, and what is refused.

#[path = "support/mod.rs"]
mod support;

use dataplane::drop::DropReason;
use dataplane::session::ForwardMode;
use pktgen_tests::frames::{ETHERNET, Route, be16, endpoints, ones_sum, pseudo_sum, udp_frame};
use proptest::prelude::*;
use std::time::Duration;
use support::pieces::{cut, mend};
use support::{A, B, Fate, Lab, Plan, answer_to, inbound, inbound6};

/// What the receiver puts together again.
fn assemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let six = pieces[0][ETHERNET] >> 4 == 6;
    let header = if six { 40 } else { 20 };
    let offset = |piece: &Vec<u8>| {
        if six {
            usize::from(be16(piece, ETHERNET + 42) & 0xfff8)
        } else {
            usize::from(be16(piece, ETHERNET + 6) & 0x1fff) * 8
        }
    };
    let mut sorted = pieces.to_vec();
    sorted.sort_by_key(offset);
    let mut body = Vec::new();
    for piece in &sorted {
        if !six {
            assert_eq!(ones_sum(&piece[ETHERNET..ETHERNET + 20], 0), 0xffff);
        }
        assert_eq!(offset(piece), body.len(), "a hole");
        let more = if six { piece[ETHERNET + 43] & 1 } else { piece[ETHERNET + 6] >> 5 & 1 };
        assert_eq!(more == 0, std::ptr::eq(piece, &sorted[sorted.len() - 1]), "only the last is the last");
        body.extend_from_slice(&piece[ETHERNET + header + if six { 8 } else { 0 }..]);
    }
    let mut whole = sorted[0][..ETHERNET + header].to_vec();
    let len = body.len() as u16;
    if six {
        whole[ETHERNET + 6] = 17;
        whole[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
    } else {
        whole[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&(20 + len).to_be_bytes());
        whole[ETHERNET + 6..ETHERNET + 8].fill(0);
        mend(&mut whole);
    }
    whole.extend(body);
    assert_eq!(ones_sum(&whole[ETHERNET + header..], pseudo_sum(&whole[ETHERNET..])), 0xffff, "the checksum");
    whole
}

/// Sends pieces in an order; what came out by `to`, in the end.
fn send(lab: &mut Lab, from: dataplane::ids::PortId, pieces: &[Vec<u8>], order: &[usize]) -> Vec<Vec<u8>> {
    let mut fates: Vec<_> = order.iter().map(|at| lab.send(from, &pieces[*at])).collect();
    fates.append(&mut lab.released);
    let sent = |fate| match fate {
        Fate::Sent(_, frame) => Some(frame),
        Fate::Held => None,
        other => panic!("{other:?}"),
    };
    fates.into_iter().filter_map(sent).collect()
}

const ROUTES: [fn(u16) -> Route; 2] = [inbound, inbound6];

/// IPv4 and IPv6 have different places for what a piece is, and IPv6's takes 28 bytes more.
#[test]
fn pieces_change_their_family() {
    for route in ROUTES {
        for (size, order) in [(1_400, [0, 1, 2, 3]), (1_480, [0, 1, 2, 3]), (1_480, [2, 0, 3, 1])] {
            let mut lab = Lab::new(&Plan { across: true, ..Plan::default() });
            let whole = udp_frame(&route(4000), &vec![0x5a; 5_000]);
            // Pieces as long as their link carries; IPv6's header is longer.
            let size = if whole[ETHERNET] >> 4 == 6 { size - 32 } else { size };
            let out = send(&mut lab, A, &cut(&whole, 7, size), &order);
            assert!(out.iter().all(|frame| frame.len() <= ETHERNET + 1_500));
            let seen = assemble(&out);
            assert_ne!(seen[ETHERNET] >> 4, whole[ETHERNET] >> 4);
            assert_eq!(seen[seen.len() - 5_000..], whole[whole.len() - 5_000..]);

            let answer = udp_frame(&answer_to(&seen), &vec![0xa5; 5_000]);
            let sent = send(&mut lab, B, &cut(&answer, 9, size - size % 8), &order);
            let heard = assemble(&sent);
            let (from, to) = endpoints(&whole).unwrap();
            assert_eq!(endpoints(&heard), Some((to, from)));
            assert_eq!((lab.drops(DropReason::Fragment), lab.drops(DropReason::ExceedsMtu)), (0, 0));
        }
    }
}

/// A tunnel's header takes room; an IPv4 packet that may be cut is cut before it goes in.
#[test]
fn what_does_not_fit_into_a_tunnel_is_cut_before_it_goes_in() {
    let inner = |frames: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        let unpack = |frame: Vec<u8>| {
            assert!(frame.len() <= ETHERNET + 1_500 && frame[ETHERNET + 9] == 4, "IPIP of {}", frame.len());
            [&frame[..ETHERNET], &frame[ETHERNET + 20..]].concat()
        };
        frames.into_iter().map(unpack).collect()
    };
    let mut lab = Lab::new(&Plan { mode: ForwardMode::Tunnel, ..Plan::default() });
    let whole = udp_frame(&inbound(4000), &vec![0x5a; 5_000]);
    for order in [[0, 1, 2, 3], [2, 0, 3, 1]] {
        let out = inner(send(&mut lab, A, &cut(&whole, 7, 1_480), &order));
        assert_eq!(out.len(), 7, "three of four are cut");
        assert_eq!(assemble(&out)[ETHERNET + 20..], whole[ETHERNET + 20..]);
    }

    let mut long = udp_frame(&inbound(4000), &vec![0x5a; 1_472]);
    long[ETHERNET + 6] = 0;
    mend(&mut long);
    let out = inner(send(&mut lab, A, &[long.clone()], &[0]));
    assert_eq!((out.len(), &assemble(&out)[ETHERNET + 20..]), (2, &long[ETHERNET + 20..]));
    // Options cannot be repeated blindly.
    long[ETHERNET] = 0x46;
    long.truncate(long.len() - 4);
    long.splice(ETHERNET + 20..ETHERNET + 20, [1; 4]);
    let sum = !ones_sum(
        &[&long[ETHERNET..ETHERNET + 10], &[0, 0], &long[ETHERNET + 12..ETHERNET + 24]].concat(),
        0,
    );
    long[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    long[ETHERNET + 28..ETHERNET + 30].copy_from_slice(&1_476u16.to_be_bytes());
    assert_eq!(lab.send(A, &long), Fate::Dropped(DropReason::ExceedsMtu));
}

#[test]
fn pieces_go_through_tunnels_of_the_other_family_as_they_are() {
    for (route, outer_header, inner_protocol) in [(inbound as fn(u16) -> Route, 40, 4), (inbound6, 20, 41)] {
        let mut lab = Lab::new(&Plan { mode: ForwardMode::Tunnel, across: true, ..Plan::default() });
        let whole = udp_frame(&route(4000), &vec![0x5a; 5_000]);
        let pieces = cut(&whole, 7, 1_400);
        let out = send(&mut lab, A, &pieces, &[2, 0, 3, 1]);
        let unpack = |frame: &Vec<u8>| {
            let next = if outer_header == 40 { frame[ETHERNET + 6] } else { frame[ETHERNET + 9] };
            assert_eq!(next, inner_protocol);
            [&frame[..ETHERNET], &frame[ETHERNET + outer_header..]].concat()
        };
        let inner: Vec<_> = out.iter().map(unpack).collect();
        assert_eq!(inner.len(), pieces.len());
        assert_eq!(endpoints(&assemble(&inner)), endpoints(&whole));
    }
}

/// Options behind the fragment header belong to the piece; without them all offsets would be wrong.
#[test]
fn a_first_piece_with_options_does_not_change_its_family() {
    let mut lab = Lab::new(&Plan { across: true, ..Plan::default() });
    let mut piece = cut(&udp_frame(&inbound6(4000), &[1; 400]), 7, 200).remove(0);
    let udp = ETHERNET + 48;
    piece.splice(udp..udp, [17, 0, 1, 4, 0, 0, 0, 0]);
    piece[ETHERNET + 40] = 60;
    piece[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&216u16.to_be_bytes());
    assert_eq!(lab.send(A, &piece), Fate::Dropped(DropReason::Fragment));
}

#[test]
fn a_datagram_that_becomes_too_long_by_its_new_family_is_cut_in_two() {
    let mut lab = Lab::new(&Plan { across: true, ..Plan::default() });
    let mut whole = udp_frame(&inbound(4000), &vec![0x5a; 1_472]);
    // It may be cut.
    whole[ETHERNET + 6] = 0;
    mend(&mut whole);
    let out = send(&mut lab, A, &[whole.clone()], &[0]);
    assert_eq!(out.len(), 2);
    assert_eq!(assemble(&out)[62..], whole[42..]);

    // It must not: its sender hears of it.
    whole[ETHERNET + 6] = 0x40;
    mend(&mut whole);
    let Fate::Sent(A, told) = lab.send(A, &whole) else { panic!() };
    assert_eq!((told[ETHERNET + 20], told[ETHERNET + 21], be16(&told, ETHERNET + 26)), (3, 4, 1_480));

    // Without a checksum its pieces cannot get one.
    whole[ETHERNET + 6] = 0;
    whole[ETHERNET + 26..ETHERNET + 28].fill(0);
    mend(&mut whole);
    assert_eq!(lab.send(A, &whole), Fate::Dropped(DropReason::Fragment));
}

#[test]
fn datagrams_in_pieces_pass_every_mode_in_both_directions() {
    for mode in [ForwardMode::FullNat, ForwardMode::Nat, ForwardMode::DirectRoute] {
        let mut lab = Lab::new(&Plan { mode, ..Plan::default() });
        for route in ROUTES {
            let whole = udp_frame(&route(4000), &vec![0x5a; 4_000]);
            let seen = assemble(&send(&mut lab, A, &cut(&whole, 7, 1_400), &[0, 1, 2]));
            let payload = seen.len() - 4_000;
            assert_eq!(seen[payload..], whole[whole.len() - 4_000..]);
            if mode == ForwardMode::DirectRoute {
                assert_eq!(endpoints(&seen), endpoints(&whole));
                continue;
            }
            let answer = udp_frame(&answer_to(&seen), &vec![0xa5; 3_000]);
            let heard = assemble(&send(&mut lab, B, &cut(&answer, 9, 1_000), &[3, 0, 2, 1]));
            let (from, to) = endpoints(&whole).unwrap();
            assert_eq!(endpoints(&heard), Some((to, from)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// In whatever order the pieces come, all go on, once the first is there, and nothing stays behind.
    #[test]
    fn pieces_may_come_in_any_order(
        six in any::<bool>(),
        size in 1usize..180,
        len in 100usize..1400,
        seed in any::<u64>(),
    ) {
        let mut lab = Lab::new(&Plan::default());
        let whole = udp_frame(&ROUTES[usize::from(six)](4000), &vec![7; len]);
        let pieces = cut(&whole, 3, size.max(len / 60 / 8 + 2) * 8);
        prop_assume!(pieces.len() > 1);
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|at| (*at as u64 + 1).wrapping_mul(seed | 1).rotate_left(23));
        let out = send(&mut lab, A, &pieces, &order);
        prop_assert_eq!(out.len(), pieces.len());
        prop_assert_eq!(assemble(&out).len(), whole.len());
        // The same identification can be used again at once.
        let again = send(&mut lab, A, &pieces, &order);
        prop_assert_eq!(again.len(), pieces.len());
    }
}

#[test]
fn what_overlaps_poisons_its_datagram() {
    for route in ROUTES {
        let mut lab = Lab::new(&Plan::default());
        let whole = udp_frame(&route(4000), &[1; 100]);
        let pieces = cut(&whole, 5, 40);
        let other = cut(&whole, 5, 56);
        assert!(matches!(lab.send(A, &pieces[0]), Fate::Sent(..)));
        assert_eq!(lab.send(A, &pieces[0]), Fate::Dropped(DropReason::FragmentOverlap), "doubled");
        assert!(matches!(lab.send(A, &pieces[1]), Fate::Sent(..)), "the doubled one did no harm");
        assert_eq!(lab.send(A, &other[1]), Fate::Dropped(DropReason::FragmentOverlap));
        assert_eq!(lab.send(A, &pieces[2]), Fate::Dropped(DropReason::FragmentOverlap), "poisoned");
    }
}

#[test]
fn pieces_that_cannot_be_are_dropped_for_their_own_reason() {
    for (route, six) in ROUTES.into_iter().zip([false, true]) {
        let mut lab = Lab::new(&Plan::default());
        let pieces = cut(&udp_frame(&route(4000), &[1; 100]), 5, 40);
        let at_offset = |piece: &[u8], offset: u16| {
            let mut changed = piece.to_vec();
            let at = ETHERNET + if six { 42 } else { 6 };
            let flags = be16(&changed, at) & if six { 7 } else { 0xe000 };
            let field = flags | if six { offset } else { offset / 8 };
            changed[at..at + 2].copy_from_slice(&field.to_be_bytes());
            mend(&mut changed);
            changed
        };
        assert_eq!(lab.send(A, &at_offset(&pieces[2], 65_528)), Fate::Dropped(DropReason::FragmentTooLong));
        let odd = cut(&udp_frame(&route(4000), &[1; 100]), 6, 41);
        assert_eq!(lab.send(A, &odd[0]), Fate::Dropped(DropReason::FragmentMalformed));
        // TCP's header in two pieces.
        let segment = pktgen_tests::frames::tcp_frame(&route(4000), 2, &[1; 40]);
        let mut tiny = cut(&segment, 8, 16);
        if six {
            tiny.iter_mut().for_each(|piece| piece[ETHERNET + 40] = 6);
        }
        assert_eq!(lab.send(A, &tiny[0]), Fate::Dropped(DropReason::FragmentTiny));
        assert_eq!(lab.send(A, &tiny[1]), Fate::Dropped(DropReason::FragmentTiny), "and so its others");
    }
}

#[test]
fn pieces_without_a_first_are_forgotten_and_counted() {
    for route in ROUTES {
        let mut lab = Lab::new(&Plan::default());
        let pieces = cut(&udp_frame(&route(4000), &[1; 100]), 5, 40);
        assert_eq!(lab.send(A, &pieces[1]), Fate::Held);
        assert_eq!(lab.send(A, &pieces[2]), Fate::Held);
        lab.wait(Duration::from_secs(4));
        assert_eq!(
            lab.released,
            [Fate::Dropped(DropReason::FragmentTimeout), Fate::Dropped(DropReason::FragmentTimeout)]
        );
        lab.released.clear();
        // A late first begins anew.
        assert!(matches!(lab.send(A, &pieces[0]), Fate::Sent(..)));
    }
}

#[test]
fn a_flood_of_pieces_without_a_first_is_bounded_and_the_oldest_leave() {
    let mut lab = Lab::new(&Plan::default());
    for number in 0..5_000u16 {
        let pieces = cut(&udp_frame(&inbound(4000), &[1; 100]), number, 40);
        assert_eq!(lab.send(A, &pieces[1]), Fate::Held);
    }
    assert_eq!(lab.released, vec![Fate::Dropped(DropReason::FragmentTableFull); 5_000 - 256]);
    lab.released.clear();
    // The last ones still wait.
    let last = cut(&udp_frame(&inbound(4000), &[1; 100]), 4_999, 40);
    assert_eq!(send(&mut lab, A, &last, &[0, 2]).len(), 3);
    lab.wait(Duration::from_secs(4));
    assert_eq!(lab.released, vec![Fate::Dropped(DropReason::FragmentTimeout); 255]);
}

/// First pieces whose others never come, from many networks and from one: datagrams of others pass all the same, though
/// a thousand pieces of the flood come between theirs.
#[test]
fn a_flood_of_first_pieces_keeps_nobody_s_datagrams_away() {
    for from_one in [false, true] {
        let mut lab = Lab::new(&Plan { sessions: 100_000, ..Plan::default() });
        let mut number = 0_u32;
        let mut flood = |lab: &mut Lab| {
            for _ in 0..1_000 {
                number += 1;
                let [a, b, c, _] = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
                let source = if from_one { [198, 51, 100, c] } else { [a % 90 + 11, b, c, 7] };
                // Pieces of a session's datagrams, so that the table of sessions is no matter.
                let route = Route { source: (source.into(), 4000), ..inbound(0) };
                let pieces = cut(&udp_frame(&route, &[1; 100]), number as u16, 40);
                lab.send(A, &pieces[0]);
            }
        };
        for _ in 0..12 {
            flood(&mut lab);
        }
        let mut sent = 0;
        for good in 0..20_u16 {
            let pieces = cut(&udp_frame(&inbound(6_000 + good), &[7; 3_000]), good, 1_480);
            for piece in &pieces {
                sent += usize::from(matches!(lab.send(A, piece), Fate::Sent(..)));
                flood(&mut lab);
            }
        }
        assert_eq!(sent, 20 * 3, "from one network: {from_one}");
    }
}
