//! Passive health checks: looks at what servers counted, once a second.

use super::{Control, Devices};
use crate::log;
use crate::passive::Record;
use dataplane::clock::Instant;
use dataplane::ids::ServerId;
use std::collections::HashMap;

impl<D: Devices> Control<D> {
    /// Keeps out servers whose traffic shows that they do not answer.
    pub(super) fn look_at_traffic(&mut self, now: Instant) {
        let mut records: HashMap<ServerId, Record> = HashMap::new();
        let mut inhibited = Vec::new();
        for (at, spec) in self.config.services.iter().enumerate() {
            let Some(rules) = &spec.passive else { continue };
            for server in spec.servers.iter().filter(|server| !server.is_sorry) {
                let Some(id) = self.registry.server_id(&spec.name, spec.protocol, server.endpoint) else {
                    continue;
                };
                let sum = |value: fn(&dataplane::stats::ServerCounters) -> u64| -> u64 {
                    self.stats.iter().map(|stats| value(stats.server(id))).sum()
                };
                let failures = sum(|server| server.failures.value());
                let answers = sum(|server| server.packets_out.value());
                let known = self.records.get(&id).copied();
                let mut record = known.unwrap_or_else(|| Record::new(failures, answers, rules, now));
                if let Some(until) = record.sample(failures, answers, rules, now) {
                    inhibited.push((at, server.endpoint, until));
                }
                records.insert(id, record);
            }
        }
        self.records = records;
        for (at, endpoint, until) in inhibited {
            log::say(format_args!(
                "service {}: server {endpoint} does not answer sessions; it gets none for {} s",
                self.config.services[at].name,
                until.since(now).as_secs()
            ));
            self.standings.inhibit(at, endpoint, until);
        }
    }
}
