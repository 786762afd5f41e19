//! Lists of addresses, and programs that are told of attacks, as the operator wants them.

use crate::attacks::Kind;
use dataplane::snapshot::{AclAction, Network};
use std::path::PathBuf;
use std::sync::Arc;

/// A program that is told of attacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSpec {
    /// The program and its arguments.
    pub command: Arc<[String]>,
    /// The kinds of attacks.
    pub kinds: Vec<Kind>,
}

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
