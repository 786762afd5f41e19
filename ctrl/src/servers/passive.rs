//! Passive health: what servers' traffic shows of them.
//!
//! A server that does not answer new sessions, or answers by resets, is kept out for a while, each time twice as long
//! as before, until sessions succeed again. One that takes long to answer connections gets less. It is a hint beside
//! active checks: they decide what is up.

use crate::config::Rules;
use crate::health::Relief;
use dataplane::clock::Instant;
use std::time::Duration;

/// What one server's traffic showed so far.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    seen: (u64, u64),
    window: (Instant, u64),
    /// How long it is kept out the next time.
    penalty: Duration,
    until: Instant,
}

impl Record {
    /// A record that begins with these counts of failures and of answered packets.
    pub fn new(failures: u64, answers: u64, rules: &Rules, now: Instant) -> Self {
        Self { seen: (failures, answers), window: (now, 0), penalty: rules.inhibit, until: now }
    }

    /// Looks at the counts again. Returns until when the server is to be kept out, if that begins now.
    pub fn sample(&mut self, failures: u64, answers: u64, rules: &Rules, now: Instant) -> Option<Instant> {
        let failed = failures.saturating_sub(self.seen.0);
        let answered = answers.saturating_sub(self.seen.1);
        self.seen = (failures, answers);
        if now < self.until {
            // Sessions from before it was kept out say nothing new.
            self.window = (now, 0);
            return None;
        }
        if now.since(self.window.0) > rules.window {
            self.window = (now, 0);
        }
        self.window.1 += failed;
        if self.window.1 >= rules.failures {
            self.until = now + self.penalty;
            self.penalty = (self.penalty * 2).min(rules.inhibit_max);
            self.window = (now, 0);
            return Some(self.until);
        }
        if failed == 0 && answered > 0 {
            self.penalty = (self.penalty / 2).max(rules.inhibit);
        }
        None
    }
}

/// How fast one server answers connections, and what that leaves it of its weight.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    seen: (u64, u64),
    connect_ms: Option<f64>,
    relief: Relief,
}

impl Pace {
    /// A pace that begins with these counts of answered connections and of milliseconds that they waited.
    pub fn new(answered: u64, waited_ms: u64) -> Self {
        Self { seen: (answered, waited_ms), connect_ms: None, relief: Relief::default() }
    }

    /// Looks at the counts again. While nobody connects, what was seen last counts on.
    pub fn sample(&mut self, answered: u64, waited_ms: u64, limit: Duration) {
        let count = answered.saturating_sub(self.seen.0);
        let waited = waited_ms.saturating_sub(self.seen.1);
        self.seen = (answered, waited_ms);
        if count > 0 {
            let mean = waited as f64 / count as f64;
            self.connect_ms = Some(mean);
            self.relief.note(mean, limit.as_secs_f64() * 1e3);
        }
    }

    /// What is left of the server's weight, up to 1.
    pub fn share(&self) -> f64 {
        self.relief.share()
    }

    /// The mean of the last second with connections, in milliseconds.
    pub fn connect_ms(&self) -> Option<f64> {
        self.connect_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        failures: 1,
        window: Duration::from_secs(3),
        inhibit: Duration::from_secs(5),
        inhibit_max: Duration::from_secs(60),
    };

    /// For how many seconds a server is kept out, second by second: `x` a failure, `+` an answer, `.` nothing.
    fn kept_out(rules: &Rules, story: &str) -> Vec<u64> {
        let start = Instant::from_millis(1_000);
        let mut record = Record::new(0, 0, rules, start);
        let (mut failures, mut answers) = (0, 0);
        let mut all = Vec::new();
        for (second, event) in story.chars().enumerate() {
            failures += u64::from(event == 'x');
            answers += u64::from(event == '+');
            let now = start + Duration::from_secs(second as u64 + 1);
            all.extend(record.sample(failures, answers, rules, now).map(|until| until.since(now).as_secs()));
        }
        all
    }

    #[test]
    fn each_time_is_twice_as_long_until_it_answers_again() {
        assert_eq!(kept_out(&RULES, "x....x"), [5, 10]);
        assert_eq!(kept_out(&RULES, &"x".repeat(300)), [5, 10, 20, 40, 60, 60, 60, 60]);
        assert_eq!(kept_out(&RULES, "x.....+....x"), [5, 5], "one success halves");
        assert_eq!(kept_out(&RULES, "+++......+++"), [0; 0]);
    }

    #[test]
    fn a_server_that_answers_slowly_gets_less_until_it_is_fast_again() {
        let mut pace = Pace::new(1_000, 5_000);
        let (mut answered, mut waited) = (1_000, 5_000);
        // Connections a second and how long each waits: fast, slow, none, fast.
        let shares: Vec<_> = [(10, 5), (10, 40), (100, 40), (1, 40), (0, 0), (10, 20), (10, 2)]
            .into_iter()
            .map(|(count, each)| {
                (answered, waited) = (answered + count, waited + count * each);
                pace.sample(answered, waited, Duration::from_millis(20));
                (pace.share() * 100.0).round()
            })
            .collect();
        assert_eq!(shares, [100.0, 80.0, 60.0, 50.0, 50.0, 70.0, 90.0]);
        assert_eq!(pace.connect_ms(), Some(2.0));
    }

    #[test]
    fn failures_count_together_within_their_window() {
        let three = Rules { failures: 3, ..RULES };
        assert_eq!(kept_out(&three, "x.x.....x.x"), [0; 0]);
        assert_eq!(kept_out(&three, "xxx"), [5]);
    }
}
