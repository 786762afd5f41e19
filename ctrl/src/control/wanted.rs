//! What the operator wants, and where it stands written.

use super::Files;
use crate::config::{Config, Loaded, Problem};
use crate::desired::history::History;
use crate::desired::last_good::Keeper;
use dataplane::clock::Instant;
use std::sync::Arc;

/// What runs, what the files say, and what was before.
pub(super) struct Wanted {
    pub(super) config: Config,
    pub(super) history: History,
    pub(super) warnings: Vec<Problem>,
    pub(super) files: Option<Files>,
    /// Why the files that are there now are not followed.
    pub(super) failed_reload: Option<String>,
    keeper: Option<Keeper>,
    /// A reload that is undone unless it is confirmed.
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// Sessions with an IPv6 address that fit on each worker; fixed at the start.
    pub(super) capacity_ipv6: u64,
}

/// A reload that waits to be confirmed.
pub(super) struct Unconfirmed {
    pub(super) until: Instant,
    /// Its author.
    pub(super) by: String,
}

impl Unconfirmed {
    /// Why nothing else may change meanwhile.
    pub(super) fn refusal(&self, now: Instant) -> String {
        format!(
            "the reload by {} waits {} s more to be confirmed; `sluice config confirm` keeps it, `sluice config rollback` undoes it",
            self.by,
            self.until.since(now).as_secs()
        )
    }
}

impl Wanted {
    pub(super) fn new(loaded: Loaded, files: Option<Files>, keeper: Option<Keeper>) -> Self {
        Self {
            capacity_ipv6: loaded.config.session_capacity_ipv6() as u64,
            config: loaded.config,
            history: History::of(loaded.text),
            warnings: loaded.warnings,
            files,
            failed_reload: None,
            keeper,
            unconfirmed: None,
        }
    }

    /// Writes down what runs, for a start with files that are bad.
    pub(super) fn keep_last_good(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.keep(Arc::clone(self.history.desired.text()));
        }
    }
}
