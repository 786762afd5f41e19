//! Health checks: whether servers answer.
//!
//! [`engine`] runs all checks on one thread, [`probe`] asks once, [`tally`] makes of single answers what a server is.
//! What follows for services is not decided here: the control thread gets what changed.

mod dns;
mod engine;
mod http;
mod icmp;
mod ports;
mod probe;
mod relief;
mod script;
mod socket;
mod tally;

pub use engine::{Engine, Finding, Last, Order, Recent};
pub use probe::Answer;
pub use relief::Relief;
pub use script::{Variables, adopt_orphans, end_orphans};
pub use tally::Tally;

use crate::config::HealthSpec;
use crate::kernel::VipWay;
use std::net::SocketAddr;
use std::sync::Arc;

/// What checks say of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers, or nobody asks.
    Up,
    /// It does not answer.
    Down,
    /// The first answers are awaited, and until then it takes no sessions.
    Checking,
}

impl Health {
    /// The word in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Checking => "checking",
        }
    }
}

/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server's: none, or a wrong one.
    Server(String),
    /// The appliance's: the server was not asked at all, which says nothing of it.
    Here(String),
}

/// The kernel here has no way to a server. A router that has none says it by the same number.
#[derive(Debug)]
pub(crate) struct NoRoute;

impl std::fmt::Display for NoRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the host's kernel has no route to it")
    }
}

impl std::error::Error for NoRoute {}

impl From<std::io::Error> for Fault {
    /// Errors that this host makes before anything is sent are its own.
    fn from(error: std::io::Error) -> Self {
        use rustix::io::Errno;
        let ours = [
            Errno::ADDRINUSE,
            Errno::ADDRNOTAVAIL,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ACCESS,
            Errno::PERM,
            Errno::NODEV,
            // A datagram that no packet holds.
            Errno::MSGSIZE,
            Errno::AFNOSUPPORT,
        ];
        if error.get_ref().is_some_and(|inner| inner.is::<NoRoute>()) {
            return Self::Here(error.to_string());
        }
        match Errno::from_io_error(&error) {
            Some(errno) if ours.contains(&errno) => Self::Here(error.to_string()),
            _ => Self::Server(error.to_string()),
        }
    }
}

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
