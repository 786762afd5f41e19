//! Where a service's servers are looked up, as the operator wants it.

use crate::tls::Tls;
use hickory_proto::rr::RecordType;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A source of servers, and how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverSpec {
    /// Who knows.
    pub source: Source,
    /// Time between two questions; names are asked again sooner when they say so.
    pub interval: Duration,
    /// The most servers that are taken from it.
    pub max_servers: usize,
}

/// Who knows a service's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A TOML file with `[[server]]` tables; looked at again as soon as it changes.
    File {
        /// The file.
        path: PathBuf,
    },
    /// A name: its addresses, or the servers of its SRV records.
    Dns {
        /// The name.
        name: String,
        /// Who is asked.
        resolver: SocketAddr,
        /// The servers' port; without one SRV records are asked for.
        l4_port: Option<u16>,
        /// The kinds of addresses that the service can use.
        families: Vec<RecordType>,
    },
    /// Nacos's open HTTP API.
    Nacos {
        /// Where it is.
        site: Site,
        /// The service there.
        service: String,
        /// Its group.
        group: String,
        /// Its namespace; empty for the public one.
        namespace: String,
    },
    /// etcd's JSON gateway (v3): a key for each server.
    Etcd {
        /// Where it is.
        site: Site,
        /// What the keys begin with.
        prefix: String,
    },
}

impl Source {
    /// The name of its type in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Dns { .. } => "dns",
            Self::Nacos { .. } => "nacos",
            Self::Etcd { .. } => "etcd",
        }
    }
}

/// Servers that are asked over HTTP and know the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// HOST:PORT of each; the next one is asked when one does not answer.
    pub endpoints: Vec<String>,
    /// TLS, for HTTPS.
    pub tls: Option<Tls>,
    /// Who asks, where that must be said.
    pub login: Option<Login>,
}

/// A user, and the file whose first line is the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The file; read at each login.
    pub password_file: PathBuf,
}
