//! Health checks: whether servers answer.
//!
//! [`engine`] runs all checks on one thread, [`probe`] asks once, [`tally`] makes of single answers what a server is.
//! What follows for services is not decided here: the control thread gets what changed.

mod dns;
mod engine;
mod http;
mod icmp;
mod probe;
mod socket;
mod tally;

pub use engine::{Engine, Finding, Last, Order};
pub use probe::Answer;
pub use tally::Tally;

use crate::config::HealthSpec;
use crate::kernel::VipWay;
use std::net::SocketAddr;
use std::sync::Arc;

/// A check's number; it is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckId(pub u64);

/// Who is asked what: services that agree in both share the check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckKey {
    /// Who is asked.
    pub target: SocketAddr,
    /// What, and how often.
    pub spec: Arc<HealthSpec>,
    /// The VIP on it, if that is asked, and not the server's own address.
    pub vip: Option<VipWay>,
}
