//! How a NIC with several queues spreads frames over them, in software: so that every way of steering
//! can be tested without one.
//!
//! The hash is written from Microsoft's RSS specification bit by bit, slow and on its own: what it
//! judges must not have written it.

use std::net::Ipv4Addr;

/// What of a packet is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// Addresses, and ports of TCP and UDP.
    Ports,
    /// The addresses alone.
    Addresses,
    /// Nothing: all frames come to queue 0.
    Nothing,
}

/// A flow rule: packets to an address whose destination port has these bits come to a queue.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The packets' destination.
    pub address: Ipv4Addr,
    /// Which bits of the port are compared.
    pub mask: u16,
    /// What they must be.
    pub bits: u16,
    /// Where such packets come to.
    pub queue: u16,
}

/// The receive side of a NIC.
#[derive(Clone, Debug)]
pub struct SoftNic {
    /// The hash's key, 40 bytes or more.
    pub key: Vec<u8>,
    /// The indirection table; its length is a power of two.
    pub table: Vec<u16>,
    /// What is hashed.
    pub hashing: Hashing,
    /// Rules, of which the first that fits decides before any hash.
    pub rules: Vec<Rule>,
}

/// A symmetric key: both directions of a flow come to one queue.
pub fn symmetric_key() -> Vec<u8> {
    [0x6d, 0x5a].into_iter().cycle().take(40).collect()
}

impl SoftNic {
    /// A NIC whose table of `entries` names `queues` queues in turn.
    pub fn new(key: Vec<u8>, entries: usize, queues: u16, hashing: Hashing) -> Self {
        let table = (0..entries).map(|entry| (entry % usize::from(queues)) as u16).collect();
        Self { key, table, hashing, rules: Vec::new() }
    }

    /// The queue that a frame comes to. What is no IPv4 comes to queue 0.
    pub fn queue(&self, frame: &[u8]) -> u16 {
        let Some(ip) = frame.get(14..).filter(|_| frame[12..14] == [8, 0]) else { return 0 };
        let Some(tuple) = ip.get(12..20) else { return 0 };
        let header = usize::from(ip[0] & 0x0f) * 4;
        let first_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0;
        let ports = ip.get(header..header + 4).filter(|_| first_fragment && matches!(ip[9], 6 | 17));
        if let Some(ports) = ports {
            let destination = u16::from_be_bytes([ports[2], ports[3]]);
            let fits =
                |rule: &&Rule| rule.address.octets() == ip[16..20] && destination & rule.mask == rule.bits;
            if let Some(rule) = self.rules.iter().find(fits) {
                return rule.queue;
            }
        }
        let mut tuple = tuple.to_vec();
        match self.hashing {
            Hashing::Nothing => return 0,
            Hashing::Addresses => {}
            Hashing::Ports => tuple.extend(ports.unwrap_or_default()),
        }
        self.table[toeplitz(&self.key, &tuple) as usize % self.table.len()]
    }
}

/// The Toeplitz hash, bit by bit.
///
/// # Panics
/// When the key is shorter than the tuple and four bytes.
pub fn toeplitz(key: &[u8], tuple: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let window = |at: usize| (0..32).fold(0, |word, next| word << 1 | u32::from(bit(key, at + next)));
    (0..tuple.len() * 8).filter(|at| bit(tuple, *at)).fold(0, |hash, at| hash ^ window(at))
}
