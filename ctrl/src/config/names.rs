//! The names that Sluice answers for, as the operator wants them.

use super::Location;
use dataplane::snapshot::Network;
use std::net::SocketAddr;
use std::time::Duration;

/// The zone, where it is asked, and where clients are.
#[derive(Clone, Debug, PartialEq)]
pub struct NamesSpec {
    /// The zone's name.
    pub zone: String,
    /// Where DNS is answered, over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Where HTTP is answered.
    pub http: Vec<SocketAddr>,
    /// How long answers may be kept; whole seconds.
    pub ttl: Duration,
    /// Where clients are, by their networks.
    pub clients: Vec<(Network, Location)>,
}

/// What a service's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameAnswers {
    /// Its VIPs, as long as it serves.
    Vips,
    /// Its healthy servers, for clients that call them directly.
    Servers,
}
