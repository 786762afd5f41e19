//! The hash by which NICs spread packets over their queues (Microsoft's RSS specification).
//!
//! The hash of a tuple is the exclusive or of windows into the key, one for each bit of the tuple
//! that is set: linear over exclusive or. That is no hash to keep flows apart by (see
//! [`FlowHasher`](crate::flow::FlowHasher)), but it lets a port be chosen by its share of the hash.

use super::TABLE_MAX;

/// Bytes of the longest tuple: two IPv6 addresses and two ports.
const TUPLE_MAX: usize = 36;
/// Bytes of a key that every tuple can be hashed with.
pub const KEY_LEN_MIN: usize = TUPLE_MAX + 4;

/// The hash with one key, as a table for each byte of a tuple.
#[derive(Clone, Debug)]
pub struct Toeplitz {
    // Of known length, so that hashing a tuple of known length has neither loop nor check.
    tables: Box<[[u32; 256]; TUPLE_MAX]>,
}

impl Toeplitz {
    /// The hash with `key`. `None` when the key is shorter than [`KEY_LEN_MIN`].
    pub fn new(key: &[u8]) -> Option<Self> {
        if key.len() < KEY_LEN_MIN {
            return None;
        }
        // The 32 bits of the key that a set bit of the tuple adds.
        let window = |bit: usize| -> u32 {
            let bytes = &key[bit / 8..];
            let wide =
                (0..5).fold(0u64, |wide, at| wide << 8 | u64::from(bytes.get(at).copied().unwrap_or(0)));
            (wide >> (8 - bit % 8)) as u32
        };
        let table = |at: usize| -> [u32; 256] {
            std::array::from_fn(|byte| {
                (0..8)
                    .filter(|bit| byte >> (7 - bit) & 1 == 1)
                    .fold(0, |hash, bit| hash ^ window(at * 8 + bit))
            })
        };
        Some(Self { tables: Box::new(std::array::from_fn(table)) })
    }

    /// Whether every bit of a local port tells in the low bits of the hash, so that each worker gets
    /// its even share of ports under every table. A random key does so nearly always.
    pub fn spreads_ports(&self) -> bool {
        [12, TUPLE_MAX].iter().all(|len| {
            let shares: Vec<_> =
                (0..16).map(|bit| self.port_share(*len, 1 << bit) & (TABLE_MAX as u32 - 1)).collect();
            rank(shares) == TABLE_MAX.trailing_zeros()
        })
    }

    /// The hash of a tuple's bytes in network order, at most 36.
    #[inline]
    pub fn hash(&self, tuple: &[u8]) -> u32 {
        self.tables.iter().zip(tuple).fold(0, |hash, (table, byte)| hash ^ table[usize::from(*byte)])
    }

    /// What the last two bytes of a tuple of `len` bytes add: the destination port.
    #[inline]
    pub fn port_share(&self, len: usize, l4_port: u16) -> u32 {
        let [high, low] = l4_port.to_be_bytes();
        self.tables[len - 2][usize::from(high)] ^ self.tables[len - 1][usize::from(low)]
    }
}

/// How many of these words are independent under exclusive or.
fn rank(mut words: Vec<u32>) -> u32 {
    let mut rank = 0;
    while let Some(word) = words.pop() {
        if word != 0 {
            rank += 1;
            let lowest = word & word.wrapping_neg();
            words.iter_mut().filter(|other| **other & lowest != 0).for_each(|other| *other ^= word);
        }
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Endpoint, FlowKey, FlowKey6, Key, Protocol};
    use std::net::SocketAddr;

    /// The key of Microsoft's specification, and its tuples.
    const MICROSOFT: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn hashes_are_those_of_the_specification() {
        let hash = Toeplitz::new(&MICROSOFT).unwrap();
        let endpoint = |text: &str| {
            let socket: SocketAddr = text.parse().unwrap();
            Endpoint::new(socket.ip(), socket.port())
        };
        // (source, destination, addresses and ports, addresses only)
        let cases = [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178, 0x323e_8fc2),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea, 0xd718_262a),
            ("24.19.198.95:12898", "12.22.207.184:38024", 0x5c2b_394a, 0xd2d0_a5de),
            ("38.27.205.30:48228", "209.142.163.6:2217", 0xafc7_327f, 0x8298_9176),
            ("153.39.163.191:44251", "202.188.127.2:1303", 0x10e8_28a2, 0x5d18_09c5),
        ];
        for (source, destination, with_ports, without) in cases {
            let tuple = FlowKey::new(Protocol::Tcp, endpoint(source), endpoint(destination)).tuple();
            assert_eq!(hash.hash(&tuple), with_ports);
            assert_eq!(hash.hash(&tuple[..8]), without);
        }
        let (source, destination) = ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766");
        let tuple = FlowKey6::new(Protocol::Tcp, endpoint(source), endpoint(destination)).tuple();
        assert_eq!(hash.hash(&tuple), 0x4020_7d3d);
        assert_eq!(hash.hash(&tuple[..32]), 0x2cc1_8cd5);
    }

    #[test]
    fn a_short_key_is_refused() {
        assert!(Toeplitz::new(&MICROSOFT[..39]).is_none());
    }
}
