//! A health check, as the operator wants it. Two servers' checks that are equal are one check.

use crate::tls::Tls;
use dataplane::wire::ProxyVersion;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How and how often servers are asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthSpec {
    /// What is asked.
    pub probe: Probe,
    /// Whether the VIP is asked, by the way of the service's traffic, and not the server's own address.
    pub at_vip: bool,
    /// The port that is asked, if it is not the server's own.
    pub l4_port: Option<u16>,
    /// Time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row until a server is up.
    pub rise: u32,
    /// Bad answers in a row until a server is down.
    pub fall: u32,
    /// By how much of the interval each pause may differ, in thousandths.
    pub jitter: u32,
    /// Whether a server counts as up before the first answers.
    pub initially_up: bool,
    /// How a server tells its load, if it does.
    pub load: Option<LoadSpec>,
    /// The PROXY header that stands before each question, which tells of no client, where servers want one.
    pub proxy: Option<ProxyVersion>,
}

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// A TCP connection; then perhaps a few bytes there and back.
    Tcp {
        /// What is sent; nothing if empty.
        send: Vec<u8>,
        /// What the answer must have in it; none is awaited if empty.
        expect: Vec<u8>,
    },
    /// A request over HTTP/1.1, perhaps over TLS.
    Http(Box<Http>),
    /// A datagram. Without an answer that is expected, silence is good and an ICMP error bad.
    Udp {
        /// What is sent.
        send: Vec<u8>,
        /// What the answer must have in it; none is awaited if empty.
        expect: Vec<u8>,
    },
    /// A question for a name, over UDP.
    Dns {
        /// The name.
        query: String,
        /// Whether its IPv6 address is asked for.
        wants_ipv6: bool,
        /// The address that must be among the answers.
        expect: Option<IpAddr>,
    },
    /// A ping.
    Icmp,
    /// A program that ends with status 0 when the server is well. It finds SLUICE_ADDRESS, SLUICE_PORT and
    /// SLUICE_SOURCE in its environment.
    Script {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

impl Probe {
    /// The name of its type in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Http(http) if http.tls.is_some() => "https",
            Self::Http(_) => "http",
            Self::Udp { .. } => "udp",
            Self::Dns { .. } => "dns",
            Self::Icmp => "icmp",
            Self::Script { .. } => "script",
        }
    }
}

/// An HTTP request and the answer that is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// GET, HEAD and so on.
    pub method: String,
    /// What is asked for.
    pub path: String,
    /// The Host header; the server's address if it is not said.
    pub host: Option<String>,
    /// The status codes that are good.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body must have in it, within its first 64 KiB.
    pub body: Option<String>,
    /// TLS, for HTTPS.
    pub tls: Option<Tls>,
}

/// Overload protection by what servers say of their load.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoadSpec {
    /// Where the check's answer has the load, a number.
    pub place: LoadPlace,
    /// The load up to which a server keeps its whole weight, in thousandths.
    pub limit: u32,
}

/// Where an answer has a server's load.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoadPlace {
    /// In this header.
    Header(String),
    /// In its body, which is JSON, under these names, one inside the other; numbers are places in lists.
    Field(Vec<String>),
}

/// What a check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckKind {
    Tcp,
    Http,
    Https,
    Udp,
    Dns,
    Icmp,
    Script,
}

impl CheckKind {
    pub(super) const ALL: [Self; 7] =
        [Self::Tcp, Self::Http, Self::Https, Self::Udp, Self::Dns, Self::Icmp, Self::Script];

    /// The word in the file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Udp => "udp",
            Self::Dns => "dns",
            Self::Icmp => "icmp",
            Self::Script => "script",
        }
    }

    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == word)
    }

    /// Whether it asks by a connection, by datagrams to a port, or without a port.
    pub(super) const fn way(self) -> Way {
        match self {
            Self::Tcp | Self::Http | Self::Https => Way::Stream,
            Self::Udp | Self::Dns => Way::Datagram,
            Self::Icmp | Self::Script => Way::NoPort,
        }
    }
}

/// How a check reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Stream,
    Datagram,
    NoPort,
}
