//! TCP segments as tests make and read them.

use pktgen_tests::frames::{
    ETHERNET, Route, be16, fill_checksums, ones_sum, pseudo_sum, tcp_frame, upper_layer,
};

/// A segment with these options, acknowledgement number and payload; sequence number 1000.
pub fn segment(route: &Route, flags: u8, acknowledged: u32, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = tcp_frame(route, flags, &[options, payload].concat());
    let (header, _) = upper_layer(&frame[ETHERNET..]).unwrap();
    let l4 = ETHERNET + header;
    frame[l4 + 8..l4 + 12].copy_from_slice(&acknowledged.to_be_bytes());
    frame[l4 + 12] = ((20 + options.len()) / 4) as u8 * 16;
    fill_checksums(&mut frame);
    frame
}

/// The options and the payload of a segment whose checksums and lengths are right.
pub fn parts(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let ip = &frame[ETHERNET..];
    let (header, _) = upper_layer(ip).unwrap();
    if header == 20 {
        assert_eq!(ones_sum(&ip[..20], 0), 0xffff);
        assert_eq!(usize::from(be16(ip, 2)), ip.len());
    } else {
        assert_eq!(usize::from(be16(ip, 4)) + 40, ip.len());
    }
    assert_eq!(ones_sum(&ip[header..], pseudo_sum(ip)), 0xffff, "the checksum");
    let tcp = &ip[header..];
    let end = usize::from(tcp[12] >> 4) * 4;
    (tcp[20..end].to_vec(), tcp[end..].to_vec())
}

/// Sets the sequence number of a segment without extension headers.
pub fn set_sequence(frame: &mut [u8], number: u32) {
    let l4 = ETHERNET + upper_layer(&frame[ETHERNET..]).unwrap().0;
    frame[l4 + 4..l4 + 8].copy_from_slice(&number.to_be_bytes());
    fill_checksums(frame);
}

/// The sequence and the acknowledgement number.
pub fn numbers(frame: &[u8]) -> (u32, u32) {
    let l4 = ETHERNET + upper_layer(&frame[ETHERNET..]).unwrap().0;
    let number = |at: usize| u32::from_be_bytes(frame[l4 + at..l4 + at + 4].try_into().unwrap());
    (number(4), number(8))
}
