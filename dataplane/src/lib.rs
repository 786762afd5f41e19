//! What happens to packets.
//!
//! From bottom to top; a module uses only what stands above it in this list:
//!
//! ```text
//! ids flow hash network frame clock drop hugepages prefetch prefixes simd   names, keys, bytes, time, reasons
//! wire  stats  port  steering      what is in a packet, what was counted, where it comes from, whose it is
//! session  scheduler               state per flow, choice of a real server
//! snapshot                         the immutable world that control publishes
//! director                         the pure decision on a burst of packets
//! worker                           the loop around it
//! dpdk                             the only module that touches DPDK (feature `dpdk`)
//! ```
//!
//! The director is pure: no DPDK, no clock, no I/O. Everything below `dpdk`
//! builds and is tested on a machine where DPDK is not installed.

pub mod clock;
pub mod cookie;
pub mod drop;
pub mod flow;
pub mod frame;
pub mod hash;
mod hugepages;
pub mod ids;
mod network;
mod prefetch;
pub mod prefixes;
mod simd;

pub mod port;
pub mod stats;
pub mod steering;
pub mod wire;

pub mod scheduler;
pub mod session;

pub mod snapshot;

pub mod director;

pub mod worker;

#[cfg(feature = "dpdk")]
pub mod dpdk;
