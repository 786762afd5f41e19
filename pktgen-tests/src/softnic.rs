//! How a NIC with several queues spreads frames over them, in software: so that every way of steering
//! can be tested without one.
//!
//! The hash is written from Microsoft's RSS specification bit by bit, slow and on its own: what it
//! judges must not have written it.

use crate::frames::{endpoints, upper_layer};
use std::net::IpAddr;

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
    pub address: IpAddr,
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

    /// The queue that a frame comes to. What is no IP comes to queue 0.
    pub fn queue(&self, frame: &[u8]) -> u16 {
        let Some(ip) = frame.get(14..) else { return 0 };
        let (addresses, unfragmented) = match frame[12..14] {
            [0x08, 0x00] if ip.len() >= 20 => (12..20, u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0),
            [0x86, 0xdd] if ip.len() >= 40 => (8..40, true),
            _ => return 0,
        };
        let has_ports = upper_layer(ip).is_some_and(|(_, protocol)| matches!(protocol, 6 | 17));
        let ends = endpoints(frame).filter(|_| unfragmented && has_ports);
        if let Some((_, (address, l4_port))) = ends {
            let fits = |rule: &&Rule| rule.address == address && l4_port & rule.mask == rule.bits;
            if let Some(rule) = self.rules.iter().find(fits) {
                return rule.queue;
            }
        }
        let mut tuple = ip[addresses].to_vec();
        match (self.hashing, ends) {
            (Hashing::Nothing, _) => return 0,
            (Hashing::Ports, Some(((_, source), (_, destination)))) => {
                tuple.extend(source.to_be_bytes());
                tuple.extend(destination.to_be_bytes());
            }
            (Hashing::Ports | Hashing::Addresses, _) => {}
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
