//! What lists say of attacks.

use crate::attacks::Ongoing;
use dataplane::clock::Instant;
use serde::Serialize;
use std::time::SystemTime;

/// `attack list`.
#[derive(Clone, Debug, Serialize)]
pub struct AttackView {
    /// `syn_flood`.
    pub kind: &'static str,
    /// What it is on.
    pub service: String,
    /// Since when, as RFC 3339 has it.
    pub since: String,
    /// Until when; `null` while it goes on.
    pub ended: Option<String>,
    /// How long it went on.
    pub seconds: u64,
    /// Connections a second that clients do not finish, now; 0 when it is over.
    pub rate: u64,
    /// The most of them.
    pub peak: u64,
    /// From how many on it is one.
    pub threshold: u64,
    /// What is done, or was.
    pub action: &'static str,
}

impl AttackView {
    pub(crate) fn of(
        service: &str,
        attack: &Ongoing,
        action: &'static str,
        ended: Option<Instant>,
        now: Instant,
    ) -> Self {
        let time = |then: Instant| {
            humantime::format_rfc3339_seconds(SystemTime::now() - now.since(then)).to_string()
        };
        Self {
            kind: "syn_flood",
            service: service.to_owned(),
            since: time(attack.since),
            ended: ended.map(time),
            seconds: ended.unwrap_or(now).since(attack.since).as_secs(),
            rate: if ended.is_some() { 0 } else { attack.rate },
            peak: attack.peak,
            threshold: attack.threshold,
            action,
        }
    }
}
