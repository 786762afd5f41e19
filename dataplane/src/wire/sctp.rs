//! SCTP (RFC 9260): common header, first chunk, and the checksum over it all.
//!
//! Chunks that begin and end an association are read as the TCP flags that mean the same, so that one
//! state machine follows both.

use super::packet::{Payload, TcpFlags};
use super::transport::Transport;
use super::{be16, be32, put32};
use crate::drop::DropReason;
use crate::flow::Protocol;
use crc32c::crc32c;

/// Ports, verification tag and checksum.
const HEADER: usize = 12;
const CHUNK_HEADER: usize = 4;
/// Where the checksum stands, the only field of the protocol in little-endian order (RFC 9260 appendix A).
pub(super) const CHECKSUM_AT: usize = 8;

/// Types of RFC 9260 §3.2.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const SHUTDOWN_COMPLETE: u8 = 14;
/// What stands in INIT and INIT ACK before their parameters, the chunk's header included.
const INIT_FIXED: usize = 20;
/// Types of parameters: further addresses of a sender (§3.3.2.1), and filling (RFC 4820).
const ADDRESS4: u16 = 5;
const ADDRESS6: u16 = 6;
const PADDING: u16 = 0x8005;

/// Reads the common header and the first chunk, which decides what the packet is.
pub(super) fn sctp(body: &[u8]) -> Result<Transport, DropReason> {
    let Some(chunk) = body.get(HEADER..HEADER + CHUNK_HEADER) else {
        return Err(DropReason::SctpShort);
    };
    let len = usize::from(be16(chunk, 2));
    if len < CHUNK_HEADER || HEADER + len > body.len() {
        return Err(DropReason::SctpChunk);
    }
    let flags = match chunk[0] {
        // §8.5.1: without a tag, because there is none yet; §6.10: alone.
        INIT if len < INIT_FIXED || be32(body, 4) != 0 || body.len() - HEADER - len >= CHUNK_HEADER => {
            return Err(DropReason::SctpChunk);
        }
        INIT => TcpFlags::SYN_ONLY,
        INIT_ACK => TcpFlags::SYN_ACK,
        ABORT | SHUTDOWN_COMPLETE => TcpFlags::RST_ONLY,
        SHUTDOWN | SHUTDOWN_ACK => TcpFlags::FIN_ACK,
        _ => TcpFlags::ACK_ONLY,
    };
    Ok((Payload::Transport(Protocol::Sctp), flags, be32(body, 0)))
}

/// Gives a packet new ports, and hides further addresses of its sender.
///
/// The checksum follows by difference: what was wrong stays wrong. A translator knows one address of each
/// end; an end that learnt of another would send past it, so their parameters become filling.
pub(super) fn translate(segment: &mut [u8], ports: u32) {
    let before = crc32c(segment);
    put32(segment, 0, ports);
    if matches!(segment[HEADER], INIT | INIT_ACK) {
        hide_addresses(&mut segment[HEADER..]);
    }
    adjust(segment, before ^ crc32c(segment));
}

fn hide_addresses(chunk: &mut [u8]) {
    let end = usize::from(be16(chunk, 2)).min(chunk.len());
    let mut at = INIT_FIXED;
    while at + 4 <= end {
        let (kind, len) = (be16(chunk, at), usize::from(be16(chunk, at + 2)));
        if len < 4 || at + len > end {
            return;
        }
        if matches!(kind, ADDRESS4 | ADDRESS6) {
            chunk[at..at + 2].copy_from_slice(&PADDING.to_be_bytes());
            chunk[at + 4..at + len].fill(0);
        }
        at += len.next_multiple_of(4);
    }
}

/// The checksum is linear over exclusive or: what the sum of all bytes changes by, it changes by.
fn adjust(segment: &mut [u8], difference: u32) {
    if let Some(field) = segment[CHECKSUM_AT..].first_chunk_mut() {
        *field = (u32::from_le_bytes(*field) ^ difference).to_le_bytes();
    }
}

/// Writes the checksum that a kernel left to its device, which shows by a field of zero. Returns whether
/// it was one.
pub(super) fn finish_checksum(segment: &mut [u8]) -> bool {
    if be32(segment, CHECKSUM_AT) != 0 {
        return false;
    }
    let sum = crc32c(segment);
    adjust(segment, sum);
    sum != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use pktgen_tests::frames::crc32c_bit_by_bit;
    use proptest::prelude::*;

    fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 4 + body.len() as u8], body].concat()
    }

    fn packet(tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = [&[0x0f, 0xa0, 0, 80][..], &tag.to_be_bytes(), &[0; 4], &chunks.concat()].concat();
        let sum = crc32c_bit_by_bit(&packet);
        packet[CHECKSUM_AT..HEADER].copy_from_slice(&sum.to_le_bytes());
        packet
    }

    fn is_right(packet: &[u8]) -> bool {
        let mut bare = packet.to_vec();
        bare[CHECKSUM_AT..HEADER].fill(0);
        crc32c_bit_by_bit(&bare).to_le_bytes() == packet[CHECKSUM_AT..HEADER]
    }

    #[test]
    fn the_first_chunk_says_what_a_packet_is() {
        let init = chunk(INIT, &[1; 16]);
        let cases = [
            (0, vec![init.clone()], Ok(TcpFlags::SYN_ONLY)),
            (7, vec![init.clone()], Err(DropReason::SctpChunk)),
            (0, vec![init.clone(), chunk(0, &[1; 12])], Err(DropReason::SctpChunk)),
            (0, vec![chunk(INIT, &[1; 12])], Err(DropReason::SctpChunk)),
            (7, vec![chunk(INIT_ACK, &[1; 16])], Ok(TcpFlags::SYN_ACK)),
            (7, vec![chunk(10, &[1; 40]), chunk(0, &[1; 12])], Ok(TcpFlags::ACK_ONLY)),
            (7, vec![chunk(ABORT, &[])], Ok(TcpFlags::RST_ONLY)),
            (7, vec![chunk(SHUTDOWN, &[1; 4])], Ok(TcpFlags::FIN_ACK)),
            (7, vec![], Err(DropReason::SctpShort)),
            (7, vec![vec![0, 0, 0, 3]], Err(DropReason::SctpChunk)),
            (7, vec![vec![0, 0, 0, 9, 1]], Err(DropReason::SctpChunk)),
        ];
        for (tag, chunks, expected) in cases {
            let found = sctp(&packet(tag, &chunks));
            let expected = expected.map(|flags| (Payload::Transport(Protocol::Sctp), flags, 0x0fa0_0050));
            assert_eq!(found, expected, "{chunks:?}");
        }
    }

    #[test]
    fn further_addresses_of_an_end_become_filling() {
        let parameters = [
            &[0, 5, 0, 8, 10, 0, 0, 1][..], // an IPv4 address
            &[0, 12, 0, 6, 0, 5, 0, 0],     // the types it supports, filled to four bytes
            &[0, 6, 0, 20, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], // an IPv6 address
            &[0, 7, 0, 8, 1, 2, 3, 4],      // a cookie
        ];
        let mut one = packet(0, &[chunk(INIT, &[&[1; 16][..], &parameters.concat()].concat())]);

        translate(&mut one, 0x1234_0050);

        assert!(is_right(&one));
        let seen = &one[HEADER + INIT_FIXED..];
        assert_eq!(seen[..8], [0x80, 5, 0, 8, 0, 0, 0, 0]);
        assert_eq!(seen[8..16], parameters[1][..]);
        assert_eq!(seen[16..20], [0x80, 5, 0, 20]);
        assert_eq!(seen[20..36], [0; 16]);
        assert_eq!(seen[36..], parameters[3][..]);
    }

    #[test]
    fn a_checksum_that_a_kernel_left_out_is_written() {
        let right = packet(7, &[chunk(0, &[5; 30])]);
        let mut bare = right.clone();
        bare[CHECKSUM_AT..HEADER].fill(0);

        assert!(finish_checksum(&mut bare));
        assert_eq!(bare, right);
        assert!(!finish_checksum(&mut bare));
    }

    proptest! {
        #[test]
        fn a_right_checksum_stays_right_and_a_wrong_one_wrong(
            body in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0u8..16,
            ports in any::<u32>(),
            damage in any::<bool>(),
        ) {
            let mut one = packet(7, &[chunk(kind, &body)]);
            if damage {
                one[CHECKSUM_AT] ^= 0x10;
            }

            translate(&mut one, ports);

            prop_assert_eq!(&one[..4], &ports.to_be_bytes());
            prop_assert_eq!(is_right(&one), !damage);
        }

        #[test]
        fn nothing_is_too_strange(mut body in prop::collection::vec(any::<u8>(), 0..80), ports in any::<u32>()) {
            if sctp(&body).is_ok() {
                translate(&mut body, ports);
            }
        }
    }
}
