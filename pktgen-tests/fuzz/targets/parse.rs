//! Any bytes into the header parser: no panic, and what it accepts keeps its promises.

#![no_main]

use dataplane::flow::Protocol;
use dataplane::frame::Frame;
use dataplane::flow::{FlowKey, FlowKey6};
use dataplane::wire::{LinkTraits, Packet, Payload, Wire};
use libfuzzer_sys::fuzz_target;

const MAC: [u8; 6] = [2, 0, 0, 0, 0x0d, 0x0a];

fuzz_target!(|data: &[u8]| {
    let Some((control, bytes)) = data.split_first() else { return };
    let mut room = bytes.to_vec();
    // Without help no input would come past the station address and the checksum.
    if control & 1 != 0 && room.len() >= 14 {
        room[..6].copy_from_slice(&MAC);
        room[12..14].copy_from_slice(if control & 8 != 0 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    }
    if control & 2 != 0 && control & 8 == 0 && room.len() >= 34 {
        let header = (usize::from(room[14] & 15) * 4).clamp(20, room.len() - 14);
        room[24..26].fill(0);
        let sum = !pktgen_tests::frames::ones_sum(&room[14..14 + header], 0);
        room[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let link = LinkTraits { mac: MAC, mtu: 1500, kernel_peer: control & 4 != 0 };
    look::<FlowKey>(&mut room.clone(), &link);
    look::<FlowKey6>(&mut room, &link);
});

fn look<K: Wire>(room: &mut [u8], link: &LinkTraits) {
    let len = room.len();
    let mut frame = Frame::new(room, 0..len);
    let mut packet = Packet::<K>::NEIGHBOR;
    if K::parse(&mut frame, link, &mut packet).is_ok() && packet.payload != Payload::Neighbor {
        let frame = frame.bytes();
        assert_eq!(frame.len(), 14 + usize::from(packet.total_len));
        let least = match packet.payload {
            Payload::Transport(Protocol::Tcp) => 20,
            Payload::Transport(Protocol::Udp | Protocol::Icmp) | Payload::EchoRequest => 8,
            Payload::Transport(Protocol::Sctp) => 16,
            // Its own header, the quoted one, and eight bytes behind.
            Payload::Error(_) => 36,
            Payload::Fragment | Payload::Neighbor => 0,
        };
        assert!(frame.len() >= usize::from(packet.l4) + least);
        if packet.payload == Payload::Fragment {
            let _ = K::fragment(frame, &packet);
            let _ = K::first_fragment(frame, &packet);
        }
    }
}
