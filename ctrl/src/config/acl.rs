//! Lists of addresses, as the operator wants them.

use dataplane::snapshot::{AclAction, Network};
use std::path::PathBuf;

/// A list of addresses, and what becomes of those who are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclSpec {
    /// The operator's name for it.
    pub name: String,
    /// What it does.
    pub action: AclAction,
    /// Prefixes that the configuration has.
    pub prefixes: Vec<Network>,
    /// Files with more of them.
    pub files: Vec<PathBuf>,
    /// The services that it is for, by name; without it all.
    pub services: Option<Vec<String>>,
}
