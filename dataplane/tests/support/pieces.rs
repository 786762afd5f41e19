//! Datagrams cut into pieces.

use pktgen_tests::frames::{ETHERNET, ones_sum};

/// A frame cut into pieces of `size` bytes of payload, a multiple of eight.
pub fn cut(frame: &[u8], identification: u16, size: usize) -> Vec<Vec<u8>> {
    let ip = &frame[ETHERNET..];
    let (header, six) = if ip[0] >> 4 == 4 { (20, false) } else { (40, true) };
    let body = &ip[header..];
    let count = body.len().div_ceil(size);
    let piece = |(at, bytes): (usize, &[u8])| {
        let more = at + 1 < count;
        let mut out = frame[..ETHERNET + header].to_vec();
        if six {
            out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(8 + bytes.len() as u16).to_be_bytes());
            out[ETHERNET + 6] = 44;
            let field = (at * size) as u16 | u16::from(more);
            out.extend([17, 0]);
            out.extend(field.to_be_bytes());
            out.extend(u32::from(identification).to_be_bytes());
        } else {
            out[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
            out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&identification.to_be_bytes());
            let field = (at * size / 8) as u16 | if more { 0x2000 } else { 0 };
            out[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(bytes);
        mend(&mut out);
        out
    };
    body.chunks(size).enumerate().map(piece).collect()
}

/// Gives an IPv4 header its checksum.
pub fn mend(frame: &mut [u8]) {
    if frame[ETHERNET] >> 4 == 4 {
        frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        let sum = !ones_sum(&frame[ETHERNET..ETHERNET + 20], 0);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    }
}
