//! What runs, what ran before, and what is to happen.

use super::Desired;
use crate::config::{Config, Text};
use dataplane::clock::Instant;
use dataplane::flow::Endpoint;
use std::sync::Arc;

/// States that `config rollback` can go back to.
const HISTORY_MAX: usize = 16;

/// A server, or a service, that leaves at a time.
#[derive(Clone, Debug)]
pub struct Drain {
    /// When.
    pub until: Instant,
    /// The service.
    pub service: String,
    /// Its server, if not all of it leaves.
    pub endpoint: Option<Endpoint>,
}

/// What runs, what ran before, and what is to happen.
#[derive(Debug)]
pub(crate) struct History {
    /// What the files said, and the changes since.
    pub(crate) desired: Desired,
    /// What the files said when they were last read, or written by command.
    pub(crate) on_disk: Arc<Text>,
    /// What ran before, the last one at the end.
    pub(crate) before: Vec<(Config, Desired)>,
    /// Servers and services that leave at a time, if they still take no sessions then.
    pub(crate) drains: Vec<Drain>,
    /// Those that left so, and whose last sessions end.
    pub(crate) drained: Vec<(String, Endpoint)>,
}

impl History {
    pub(crate) fn of(text: Arc<Text>) -> Self {
        let on_disk = Arc::clone(&text);
        Self {
            desired: Desired::of(text),
            on_disk,
            before: Vec::new(),
            drains: Vec::new(),
            drained: Vec::new(),
        }
    }

    /// Keeps what is to be left.
    pub(crate) fn keep(&mut self, config: Config, desired: Desired) {
        self.before.push((config, desired));
        if self.before.len() > HISTORY_MAX {
            self.before.remove(0);
        }
    }
}
