//! Listeners that others than the operator reach: addresses, TLS and users.

use crate::tls::ServerTls;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where something is served over HTTP, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The listeners.
    pub listen: Vec<ListenAt>,
    /// TLS, if it is spoken.
    pub tls: Option<ServerTls>,
    /// The users that may ask, each with the bcrypt hash of a password; none: everybody may.
    pub users: Vec<(String, String)>,
}

/// A listener's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAt {
    /// An address and a TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Metrics for Prometheus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSpec {
    /// Where they are asked for.
    pub exposed: Exposed,
    /// Which servers have series, unless a scrape says it.
    pub servers: SeriesOfServers,
}

/// Which servers have series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeriesOfServers {
    /// Every one.
    #[default]
    All,
    /// None.
    None,
    /// Those that are not up.
    Unhealthy,
}

impl SeriesOfServers {
    /// The words in the configuration and in queries.
    pub const WORDS: [&str; 3] = ["true", "false", "unhealthy"];

    /// By its word.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "true" => Some(Self::All),
            "false" => Some(Self::None),
            "unhealthy" => Some(Self::Unhealthy),
            _ => None,
        }
    }
}
