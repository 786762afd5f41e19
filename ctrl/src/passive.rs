//! Passive health: what servers' traffic shows of them.
//!
//! A server that does not answer new sessions, or answers by resets, is kept out for a while, each time twice as long
//! as before, until sessions succeed again. It is a hint beside active checks: they decide what is up.

use dataplane::clock::Instant;
use std::time::Duration;

/// A service's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many failures within [`window`](Self::window) keep a server out.
    pub failures: u64,
    /// How long failures are counted together.
    pub window: Duration,
    /// How long a server is kept out the first time.
    pub inhibit: Duration,
    /// And at most.
    pub inhibit_max: Duration,
}

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
    fn failures_count_together_within_their_window() {
        let three = Rules { failures: 3, ..RULES };
        assert_eq!(kept_out(&three, "x.x.....x.x"), [0; 0]);
        assert_eq!(kept_out(&three, "xxx"), [5]);
    }
}
