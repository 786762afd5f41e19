//! The last hour, second by second.

use dataplane::drop::DropReason;
use dataplane::ids::PortId;
use dataplane::stats::WorkerStats;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Seconds that are kept.
const KEPT: usize = 3_600;

/// What all workers counted so far.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    packets: u64,
    bytes: u64,
    sessions: u64,
    drops: u64,
    live: u64,
}

impl Totals {
    fn read(stats: &[Arc<WorkerStats>], ports: usize) -> Self {
        let mut totals = Self::default();
        for worker in stats {
            for port in 0..ports {
                let port = worker.port(PortId(port as u16));
                totals.packets += port.rx_packets.value();
                totals.bytes += port.rx_bytes.value();
            }
            totals.sessions += worker.sessions_created.value();
            totals.live += worker.sessions_live.value();
            totals.drops += DropReason::ALL.iter().map(|reason| worker.drops(*reason).value()).sum::<u64>();
        }
        totals
    }
}

/// One second: what came in it, a second, and what was there at its end.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Point {
    /// Its end, in milliseconds since the epoch.
    pub(super) at: u64,
    /// Packets received.
    packets: f64,
    /// Bits received, Ethernet headers included.
    bits: f64,
    /// Sessions made.
    sessions: f64,
    /// Packets dropped.
    drops: f64,
    /// Live sessions.
    live: u64,
}

/// The last hour.
#[derive(Debug, Default)]
pub(super) struct History {
    points: VecDeque<Point>,
    last: Option<(Instant, Totals)>,
}

impl History {
    /// Notes what happened since it was noted last.
    pub(super) fn note(&mut self, stats: &[Arc<WorkerStats>], ports: usize, now: Instant, millis: u64) {
        let totals = Totals::read(stats, ports);
        if let Some((before, old)) = self.last {
            let seconds = now.duration_since(before).as_secs_f64().max(1e-3);
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
            if self.points.len() == KEPT {
                self.points.pop_front();
            }
            self.points.push_back(Point {
                at: millis,
                packets: rate(totals.packets, old.packets),
                bits: rate(totals.bytes, old.bytes) * 8.0,
                sessions: rate(totals.sessions, old.sessions),
                drops: rate(totals.drops, old.drops),
                live: totals.live,
            });
        }
        self.last = Some((now, totals));
    }

    /// The newest second.
    pub(super) fn newest(&self) -> Option<Point> {
        self.points.back().copied()
    }

    /// All of them, the oldest first: of each kind a list, and whole numbers, which a browser reads fast.
    /// Those behind `since`, in milliseconds since the epoch.
    pub(super) fn columns(&self, since: u64) -> serde_json::Value {
        let points = || self.points.iter().filter(|point| point.at > since);
        let column = |value: fn(&Point) -> f64| -> Vec<u64> {
            points().map(|point| value(point).round() as u64).collect()
        };
        serde_json::json!({
            "at": points().map(|point| point.at).collect::<Vec<_>>(),
            "packets": column(|point| point.packets),
            "bits": column(|point| point.bits),
            "sessions": column(|point| point.sessions),
            "drops": column(|point| point.drops),
            "live": column(|point| point.live as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_hour_is_kept_as_rates_and_no_more() {
        let stats = [Arc::new(WorkerStats::with_slots(1, 1, 1, 1))];
        let (mut history, start) = (History::default(), Instant::now());
        history.note(&stats, 1, start, 0);
        assert!(history.newest().is_none(), "nothing is known of the time before");
        for second in 1..=KEPT as u64 + 10 {
            stats[0].port(PortId(0)).rx_packets.add(20);
            stats[0].port(PortId(0)).rx_bytes.add(1_000);
            stats[0].sessions_live.add(1);
            history.note(&stats, 1, start + Duration::from_secs(2 * second), 2_000 * second);
        }
        let newest = history.newest().unwrap();
        assert_eq!((newest.packets, newest.bits, newest.live), (10.0, 4_000.0, KEPT as u64 + 10));
        let columns = history.columns(0);
        assert_eq!(columns["at"].as_array().unwrap().len(), KEPT);
        assert_eq!(columns["at"][0], 2_000 * 11);
        let few = history.columns(newest.at - 4_000);
        assert_eq!(few["live"], serde_json::json!([KEPT + 9, KEPT + 10]));
    }
}
