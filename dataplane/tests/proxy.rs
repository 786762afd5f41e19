//! Where clients are, told to servers by the PROXY protocol.

mod support;

use dataplane::drop::DropReason;
use dataplane::snapshot::{ClientAddress, ServiceOptions};
use dataplane::wire::{Proxy, ProxyVersion};
use pktgen_tests::frames::{
    ETHERNET, Route, be16, ip_frame, ones_sum, pseudo_sum, tcp, udp_frame, upper_layer,
};
use std::sync::Arc;
use support::segments::{numbers, parts, segment, set_sequence};
use support::{A, B, Fate, Lab, Plan, answer_to, inbound, inbound6, octets, pieces};

const ONE: Proxy = Proxy { version: ProxyVersion::One, unique_id: false, vip: false };
const TWO: Proxy = Proxy { version: ProxyVersion::Two, unique_id: false, vip: false };
const WITH_ALL: Proxy = Proxy { version: ProxyVersion::Two, unique_id: true, vip: true };

fn lab(proxy: Proxy, plan: Plan) -> Lab {
    let client_address = Some(ClientAddress::Proxy(proxy));
    let options = Arc::new(ServiceOptions { client_address, ..ServiceOptions::default() });
    Lab::new(&Plan { options, ..plan })
}

/// The header that a client's server is to read, without TLVs, by the specification's words.
fn expected(version: ProxyVersion, route: &Route, udp: bool) -> Vec<u8> {
    let ((client, client_port), (vip, vip_port)) = (route.source, route.destination);
    let is_v4 = client.is_ipv4();
    match version {
        ProxyVersion::One => {
            let family = if is_v4 { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {client} {vip} {client_port} {vip_port}\r\n").into_bytes()
        }
        ProxyVersion::Two => {
            let kind = if is_v4 { 0x11 } else { 0x21 } + u8::from(udp);
            let body = [octets(client), octets(vip), client_port.to_be_bytes().to_vec()].concat();
            let body = [body, vip_port.to_be_bytes().to_vec()].concat();
            let fixed = [&b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21"[..], &[kind, 0]].concat();
            [fixed, vec![body.len() as u8], body].concat()
        }
    }
}

fn client_says(route: &Route, flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = segment(route, flags, acknowledged, &[], payload);
    set_sequence(&mut frame, sequence);
    frame
}

/// A client's SYN with number 999 and its answer with number 4999; returns what the server saw.
fn open(lab: &mut Lab, route: &Route) -> Vec<u8> {
    let mut syn = segment(route, tcp::SYN, 0, &[2, 4, 5, 180], b"early");
    set_sequence(&mut syn, 999);
    let seen = lab.send(A, &syn).frame().to_vec();
    assert_eq!(parts(&seen), (vec![2, 4, 5, 180], vec![]), "data of the SYN would come before the header");
    let acknowledged = numbers(&seen).0.wrapping_add(1);
    let mut answer = segment(&answer_to(&seen), tcp::SYN | tcp::ACK, acknowledged, &[2, 4, 5, 180], &[]);
    set_sequence(&mut answer, 4999);
    let heard = lab.send(B, &answer).frame().to_vec();
    assert_eq!(numbers(&heard).1, 1000);
    let size = u16::from_be_bytes(parts(&heard).0[2..].try_into().unwrap());
    assert!((1460 - 107..=1460 - 28).contains(&size), "room for the header: {size}");
    seen
}

/// Both families, and a client of one with a server of the other.
fn for_every_way(mut test: impl FnMut(ProxyVersion, Plan, Route)) {
    for version in [ProxyVersion::One, ProxyVersion::Two] {
        for across in [false, true] {
            for route in [inbound(4000), inbound6(4000)] {
                test(version, Plan { across, ..Plan::default() }, route);
            }
        }
    }
}

#[test]
fn the_header_stands_before_the_first_byte_and_numbers_follow() {
    for_every_way(|version, plan, route| {
        let proxy = if version == ProxyVersion::One { ONE } else { TWO };
        let mut lab = lab(proxy, plan);
        let seen = open(&mut lab, &route);
        let header = expected(version, &route, false);
        let len = header.len() as u32;
        // The handshake's last segment has it already: the server may be the one who speaks first.
        let bare = client_says(&route, tcp::ACK, 1000, 5000, &[]);
        let at_server = lab.send(A, &bare).frame().to_vec();
        assert_eq!((numbers(&at_server), parts(&at_server).1), ((1000, 5000), header.clone()));
        // The first request, twice, because it was lost; the next one.
        let request = client_says(&route, tcp::ACK | tcp::PSH, 1000, 5000, b"GET /");
        for _ in 0..2 {
            let at_server = lab.send(A, &request).frame().to_vec();
            let whole = [&header[..], b"GET /"].concat();
            assert_eq!((numbers(&at_server), parts(&at_server).1), ((1000, 5000), whole));
        }
        let next = client_says(&route, tcp::ACK, 1005, 5000, b"more");
        assert_eq!(numbers(lab.send(A, &next).frame()).0, 1005 + len);

        // The server has a part of the header; then it has lost what follows; then it has all.
        let answer = |acknowledged, options: &[u8]| {
            let mut frame = segment(&answer_to(&seen), tcp::ACK, acknowledged, options, b"");
            set_sequence(&mut frame, 5000);
            frame
        };
        assert_eq!(numbers(lab.send(B, &answer(1000 + 9, &[])).frame()).1, 1000);
        let edges = [1005 + len, 1009 + len].map(u32::to_be_bytes).concat();
        let heard = lab.send(B, &answer(1000, &[&[1, 1, 5, 10][..], &edges].concat())).frame().to_vec();
        assert_eq!(numbers(&heard).1, 1000);
        assert_eq!(
            parts(&heard).0,
            [&[1, 1, 5, 10][..], &[1005_u32, 1009].map(u32::to_be_bytes).concat()].concat()
        );
        assert_eq!(numbers(lab.send(B, &answer(1000 + len, &[])).frame()).1, 1000);
        assert_eq!(numbers(lab.send(B, &answer(1009 + len, &[])).frame()).1, 1009);
        // From here on the header is never sent again.
        let again = lab.send(A, &request).frame().to_vec();
        assert_eq!((numbers(&again).0, parts(&again).1), (1000 + len, b"GET /".to_vec()));
        let last = client_says(&route, tcp::FIN | tcp::ACK, 1009, 5000, b"");
        assert_eq!(numbers(lab.send(A, &last).frame()).0, 1009 + len);
        assert_eq!(lab.stats.address_sent.value(), 3);
    });
}

#[test]
fn servers_read_the_header_and_the_stream_whatever_is_lost() {
    struct Random(u64);
    impl Random {
        fn below(&mut self, limit: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) % u64::from(limit)) as u32
        }
    }
    let mut random = Random(1);
    for_every_way(|version, plan, route| {
        for run in 0..60_u16 {
            let proxy = if version == ProxyVersion::One { ONE } else { TWO };
            let mut lab = lab(proxy, plan.clone());
            // After so many connections the client's numbers are shifted too.
            let earlier = if run % 2 == 0 { 0 } else { 70 };
            for port in 0..earlier {
                open(&mut lab, &Route { source: (route.source.0, 5000 + port), ..route });
            }
            let first = random.below(u32::MAX);
            let mut syn = segment(&route, tcp::SYN, 0, &[], &[]);
            set_sequence(&mut syn, first.wrapping_sub(1));
            let syn = lab.send(A, &syn).frame().to_vec();
            let origin = numbers(&syn).0.wrapping_add(1);
            let back = answer_to(&syn);
            let ack = |next: u32, options: &[u8]| segment(&back, tcp::ACK, next, options, &[]);
            lab.send(B, &segment(&back, tcp::SYN | tcp::ACK, origin, &[], &[])).frame();

            let data: Vec<u8> = (0..200 + random.below(2_000)).map(|_| random.below(256) as u8).collect();
            let whole = [expected(version, &route, false), data.clone()].concat();
            // What the server has, by place; what the client may let go, and has sent.
            let mut has: Vec<Option<u8>> = vec![None; whole.len()];
            let (mut let_go, mut sent) = (0_usize, 0_usize);
            let mut steps = 0;
            while let_go < data.len() {
                steps += 1;
                assert!(steps < 20_000, "the connection stands at {let_go} of {}", data.len());
                // Anything from what is not acknowledged, forwards or again, as far as the client likes.
                let from = let_go + random.below((sent - let_go + 1) as u32) as usize;
                let to = (from + random.below(90) as usize).min(data.len());
                sent = sent.max(to);
                let frame =
                    client_says(&route, tcp::ACK, first.wrapping_add(from as u32), 1001, &data[from..to]);
                let at_server = lab.send(A, &frame).frame().to_vec();
                if random.below(3) > 0 {
                    let place = numbers(&at_server).0.wrapping_sub(origin) as usize;
                    for (at, byte) in parts(&at_server).1.into_iter().enumerate() {
                        assert_eq!(byte, whole[place + at], "a byte out of its place");
                        has[place + at] = Some(byte);
                    }
                }
                let next = has.iter().position(Option::is_none).unwrap_or(has.len());
                let block = has[next..].iter().position(Option::is_some).map(|gap| {
                    let start = next + gap;
                    let len = has[start..].iter().position(Option::is_none).unwrap_or(has.len() - start);
                    (start, start + len)
                });
                let edge = |place: usize| origin.wrapping_add(place as u32).to_be_bytes();
                let options = block
                    .map_or(vec![], |(start, end)| [&[1, 1, 5, 10][..], &edge(start), &edge(end)].concat());
                let heard = lab.send(B, &ack(origin.wrapping_add(next as u32), &options)).frame().to_vec();
                if random.below(3) == 0 {
                    continue;
                }
                let header = whole.len() - data.len();
                let told = numbers(&heard).1.wrapping_sub(first) as usize;
                assert_eq!(told, next.saturating_sub(header), "what the client is told is what is there");
                let_go = let_go.max(told);
                if let (Some((start, end)), options) = (block, parts(&heard).0) {
                    let edge = |at: usize| {
                        u32::from_be_bytes(options[at..at + 4].try_into().unwrap()).wrapping_sub(first)
                            as usize
                    };
                    assert_eq!((edge(4) + header, edge(8) + header), (start, end));
                }
            }
            assert_eq!(has.into_iter().map(Option::unwrap).collect::<Vec<_>>(), whole);
        }
    });
}

#[test]
fn a_connections_number_is_its_own_and_stays() {
    let route = inbound(4000);
    let mut lab = lab(WITH_ALL, Plan::default());
    open(&mut lab, &route);
    let mut ask = |sequence| {
        let frame = client_says(&route, tcp::ACK, sequence, 5000, b"");
        parts(lab.send(A, &frame).frame()).1
    };
    let header = ask(1000);
    assert_eq!(header, ask(1000));
    let plain = expected(ProxyVersion::Two, &route, false);
    assert_eq!(header[16..28], plain[16..28]);
    assert_eq!((header[15], header[28..31].to_vec()), (12 + 11 + 9, vec![5, 0, 8]));
    assert_eq!(header[39..], [&[0xe0, 0, 6, 0x1f, 0x90][..], &octets(route.destination.0)].concat());
}

#[test]
fn a_reset_before_the_header_is_acknowledged_counts_as_the_client_does() {
    let route = inbound(4000);
    let mut lab = lab(ONE, Plan::default());
    open(&mut lab, &route);
    let reset = lab.send(A, &client_says(&route, tcp::RST, 1000, 0, b"")).frame().to_vec();
    assert_eq!((numbers(&reset).0, parts(&reset).1), (1000, vec![]));
}

#[test]
fn what_is_too_long_or_in_pieces_leaves_its_place_to_the_header() {
    let route = inbound(4000);
    let mut lab = lab(ONE, Plan::default());
    open(&mut lab, &route);
    let header = expected(ProxyVersion::One, &route, false);
    // A client that does not keep to the lowered size.
    let large = client_says(&route, tcp::ACK, 1000, 5000, &[7; 1_460]);
    let at_server = lab.send(A, &large).frame().to_vec();
    assert_eq!(numbers(&at_server).0, 1000 + header.len() as u32);
    assert_eq!(parts(&at_server).1, [7; 1_460]);
    assert_eq!(lab.stats.address_exceeds_mtu.value(), 1);
    let small = client_says(&route, tcp::ACK, 1000, 5000, &[7; 100]);
    for piece in pieces::cut(&small, 7, 40) {
        assert_eq!(lab.send(A, &piece).frame().len(), piece.len());
    }
    assert_eq!((lab.stats.address_no_room.value(), lab.stats.address_sent.value()), (1, 0));
}

#[test]
fn every_datagram_has_a_header() {
    for across in [false, true] {
        for route in [inbound(4000), inbound6(4000)] {
            let mut lab = lab(TWO, Plan { across, ..Plan::default() });
            let header = expected(ProxyVersion::Two, &route, true);
            for payload in [&b"odd"[..], b"even", b""] {
                let seen = lab.send(A, &udp_frame(&route, payload)).frame().to_vec();
                let ip = &seen[ETHERNET..];
                let (l4, _) = upper_layer(ip).unwrap();
                assert_eq!(ip[l4 + 8..], [&header[..], payload].concat());
                assert_eq!(usize::from(be16(ip, l4 + 4)), ip.len() - l4);
                assert_eq!(ones_sum(&ip[l4..], pseudo_sum(ip)), 0xffff);
                let answer = lab.send(B, &udp_frame(&answer_to(&seen), b"answer")).frame().to_vec();
                assert!(answer.ends_with(b"answer") && answer.len() < seen.len() + 40);
            }
        }
    }
}

#[test]
fn who_sends_too_large_datagrams_is_told_what_fits_without_the_header() {
    for across in [false, true] {
        for route in [inbound(4000), inbound6(4000)] {
            let mut lab = lab(TWO, Plan { across, ..Plan::default() });
            let seen = lab.send(A, &udp_frame(&route, b"question")).frame().to_vec();
            // A router behind, which sees the larger packet, has room for 1,400 bytes.
            let to_four = seen[ETHERNET] >> 4 == 4;
            let (kind, code) = if to_four { (3, 4) } else { (2, 0) };
            let message = [&[kind, code, 0, 0, 0, 0, 5, 120][..], &seen[ETHERNET..]].concat();
            let error = ip_frame(&answer_to(&seen), if to_four { 1 } else { 58 }, 64, &message);
            let heard = lab.send(B, &error).frame().to_vec();
            let four = route.source.0.is_ipv4();
            let told = be16(&heard, ETHERNET + if four { 20 } else { 40 } + 6);
            let header = expected(ProxyVersion::Two, &route, true).len() as u16;
            let other_family = match (to_four, four) {
                (true, false) => 20,
                (false, true) => -20,
                _ => 0,
            };
            assert_eq!(i32::from(told), 1_400 - i32::from(header) + other_family);
        }
    }
}

#[test]
fn no_datagram_passes_without_a_header() {
    let route = inbound(4000);
    let mut lab = lab(TWO, Plan::default());
    // A client's own header in a fragment would pass for ours.
    let forged = udp_frame(&route, &[&expected(ProxyVersion::Two, &inbound(1), true)[..], &[7; 60]].concat());
    let first = &pieces::cut(&forged, 7, 48)[0];
    assert_eq!(lab.send(A, first), Fate::Dropped(DropReason::AddressUntold));
    // Who sends more than fits is told how much fits.
    let mut large = udp_frame(&route, &[7; 1_460]);
    let error = lab.send(A, &large).frame().to_vec();
    assert_eq!((error[ETHERNET + 20], be16(&error, ETHERNET + 26)), (3, 1500 - 28));
    large[ETHERNET + 6] = 0;
    pieces::mend(&mut large);
    assert_eq!(lab.send(A, &large), Fate::Dropped(DropReason::ExceedsMtu));
}
