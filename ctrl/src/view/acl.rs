//! What lists say of lists of addresses.

use serde::Serialize;

/// `acl list`.
#[derive(Clone, Debug, Serialize)]
pub struct AclView {
    /// The operator's name for it; `bans` is what commands filled.
    pub name: String,
    /// `allow` or `deny`.
    pub action: &'static str,
    /// The services that it is for; `null`: all.
    pub services: Option<Vec<String>>,
    /// Prefixes of IPv4.
    pub ipv4: usize,
    /// Prefixes of IPv6.
    pub ipv6: usize,
    /// The memory that they take.
    pub bytes: usize,
    /// Packets without session that it decided about.
    pub hits: u64,
    /// The files that it comes from.
    pub files: Vec<String>,
    /// When they were read, as RFC 3339 has it.
    pub read: Option<String>,
    /// Why they are not followed.
    pub problem: Option<String>,
}

/// A list that has an address, in `acl get`.
#[derive(Clone, Debug, Serialize)]
pub struct ListedView {
    /// The list.
    pub name: String,
    /// `allow` or `deny`.
    pub action: &'static str,
    /// The services that it is for; `null`: all.
    pub services: Option<Vec<String>>,
}

/// `ban list`.
#[derive(Clone, Debug, Serialize)]
pub struct BanView {
    /// Whose addresses.
    pub prefix: String,
    /// For how long still; `null`: until it is removed, or the daemon ends.
    pub seconds: Option<u64>,
    /// Why, as it was said.
    pub reason: String,
}

/// `top sources`.
#[derive(Clone, Debug, Serialize)]
pub struct SourceView {
    /// The source's network.
    pub source: String,
    /// The service whose rate it broke.
    pub service: String,
    /// New sessions that it was refused of late: what is a second old counts for half, and so on.
    pub refused: u64,
    /// Whether it is banned now.
    pub banned: bool,
}
