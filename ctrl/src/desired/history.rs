//! What runs, what ran before, and what is to happen.

use super::Desired;
use crate::config::{Config, Text};
use dataplane::clock::Instant;
use dataplane::flow::Endpoint;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::SystemTime;

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

/// Something that ran before.
#[derive(Debug)]
pub(crate) struct Before {
    /// What ran.
    pub(crate) config: Config,
    /// As text.
    pub(crate) desired: Desired,
    /// Until when.
    until: SystemTime,
    /// The change that ended it, and its author; empty until it is known.
    ended_by: String,
}

/// What runs, what ran before, and what is to happen.
#[derive(Debug)]
pub(crate) struct History {
    /// What the files said, and the changes since.
    pub(crate) desired: Desired,
    /// What the files said when they were last read, or written by command.
    pub(crate) on_disk: Arc<Text>,
    /// What ran before, the last one at the end.
    pub(crate) before: Vec<Before>,
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
        let (until, ended_by) = (SystemTime::now(), String::new());
        self.before.push(Before { config, desired, until, ended_by });
        if self.before.len() > HISTORY_MAX {
            self.before.remove(0);
        }
    }

    /// Says which change ended what ran before, if that is not said yet.
    pub(crate) fn ended_by(&mut self, what: &str) {
        if let Some(last) = self.before.last_mut().filter(|last| last.ended_by.is_empty()) {
            what.clone_into(&mut last.ended_by);
        }
    }

    /// What ran before, the newest first: until when, which change ended it, and how many services it had.
    pub(crate) fn list(&self) -> Vec<Value> {
        let entry = |before: &Before| {
            json!({
                "until": humantime::format_rfc3339_seconds(before.until).to_string(),
                "ended_by": before.ended_by,
                "services": before.config.services.len(),
            })
        };
        self.before.iter().rev().map(entry).collect()
    }
}
