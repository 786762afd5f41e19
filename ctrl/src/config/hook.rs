//! Programs that are told of attacks, as the operator wants them.

use crate::attacks::Kind;
use std::sync::Arc;

/// A program that is told of attacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSpec {
    /// The program and its arguments.
    pub command: Arc<[String]>,
    /// The kinds of attacks.
    pub kinds: Vec<Kind>,
}
