//! What lists say of attacks.

use crate::attacks::{Kind, Ongoing};
use dataplane::clock::Instant;
use serde::Serialize;
use std::time::SystemTime;

/// `attack list`.
#[derive(Clone, Debug, Serialize)]
pub struct AttackView {
    /// `syn_flood`, `source_rate` or `service_rate`.
    #[serde(serialize_with = "name")]
    pub kind: Kind,
    /// What it is on.
    pub service: String,
    /// Since when, as RFC 3339 has it.
    pub since: String,
    /// Until when; `null` while it goes on.
    pub ended: Option<String>,
    /// How long it went on.
    pub seconds: u64,
    /// How much of it there is in a second, now; 0 when it is over.
    pub rate: u64,
    /// The most in any second.
    pub peak: u64,
    /// From how many on it is one.
    pub threshold: u64,
    /// What is done, or was.
    pub action: &'static str,
}

fn name<S: serde::Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

impl AttackView {
    pub(crate) fn of(
        (kind, service): (Kind, &str),
        attack: &Ongoing,
        action: &'static str,
        ended: Option<Instant>,
        now: Instant,
    ) -> Self {
        let time = |then: Instant| {
            humantime::format_rfc3339_seconds(SystemTime::now() - now.since(then)).to_string()
        };
        Self {
            kind,
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
