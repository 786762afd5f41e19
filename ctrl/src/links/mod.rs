//! What is on the links: who has which address, and what is said to them.

pub mod arp;
pub mod nd;
pub mod neighbors;
pub mod sent;
