//! From single answers to what a server is: so many good ones in a row, so many bad ones, and its load, damped.

use crate::config::HealthSpec;
use crate::health::Health;
use crate::health::Relief;

/// One check's results so far.
#[derive(Clone, Debug)]
pub struct Tally {
    rise: u32,
    fall: u32,
    limit: Option<f64>,
    health: Health,
    /// Whether there were too few answers yet to say what the server is.
    is_fresh: bool,
    /// Answers in a row that speak against `health`, or, while it is not known, good or bad ones.
    streak: i64,
    relief: Relief,
}

impl Tally {
    /// A tally before the first answer, of a server that counts as `health` so far.
    pub fn new(spec: &HealthSpec, health: Health) -> Self {
        Self {
            rise: spec.rise,
            fall: spec.fall,
            limit: spec.load.as_ref().map(|load| f64::from(load.limit) / 1_000.0),
            health,
            is_fresh: true,
            streak: 0,
            relief: Relief::default(),
        }
    }

    /// What the server is now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// How much of its weight the server's load leaves it.
    pub fn relief(&self) -> f64 {
        self.relief.share()
    }

    /// Whether the state may change soon, so that the next answer is awaited sooner.
    pub fn is_undecided(&self) -> bool {
        self.is_fresh
    }

    /// Takes one answer in, with the load that it told. Returns whether anything changed.
    pub fn note(&mut self, good: bool, load: Option<f64>) -> bool {
        // A change of sides begins to count anew.
        self.streak = match good {
            true => self.streak.max(0) + 1,
            false => self.streak.min(0) - 1,
        };
        let next = match self.health {
            Health::Up | Health::Checking if self.streak <= -i64::from(self.fall) => Health::Down,
            Health::Down | Health::Checking if self.streak >= i64::from(self.rise) => Health::Up,
            same => same,
        };
        self.is_fresh &= -i64::from(self.fall) < self.streak && self.streak < i64::from(self.rise);
        let changed = next != self.health;
        self.health = next;
        let relieved = match (load, self.limit) {
            (Some(load), Some(limit)) => self.relief.note(load, limit),
            _ => false,
        };
        relieved || changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Probe;
    use std::time::Duration;

    fn spec(rise: u32, fall: u32) -> HealthSpec {
        HealthSpec {
            probe: Probe::Icmp,
            l4_port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise,
            fall,
            jitter: 100,
            at_vip: false,
            proxy: None,
            initially_up: false,
            load: None,
        }
    }

    /// The states after each answer: `+` good, `-` bad; `U`p, `D`own, `?`.
    fn states(tally: &mut Tally, answers: &str) -> String {
        let state = |tally: &Tally| match tally.health() {
            Health::Up => 'U',
            Health::Down => 'D',
            Health::Checking => '?',
        };
        answers
            .chars()
            .map(|answer| {
                tally.note(answer == '+', None);
                state(tally)
            })
            .collect()
    }

    #[test]
    fn only_answers_in_a_row_change_the_state() {
        let mut tally = Tally::new(&spec(2, 3), Health::Checking);
        assert_eq!(states(&mut tally, "+-+-++"), "?????U");
        assert_eq!(states(&mut tally, "--+--+---"), "UUUUUUUUD");
        assert_eq!(states(&mut tally, "+-+-++"), "DDDDDU");
    }

    #[test]
    fn nacos_takes_three_of_either_and_keepalived_one_good_after_retries() {
        // Nacos: three consecutive results either way.
        assert_eq!(states(&mut Tally::new(&spec(3, 3), Health::Checking), "+++--+---+++"), "??UUUUUUDDDU");
        // keepalived with retry 2: the first try and two more must fail, one good answer is enough.
        assert_eq!(states(&mut Tally::new(&spec(1, 3), Health::Checking), "+---+"), "UUUDU");
        // And with alpha: down until the first good answer; without: up.
        let mut up = Tally::new(&spec(1, 3), Health::Up);
        assert_eq!(up.health(), Health::Up);
        assert_eq!(states(&mut up, "--"), "UU");
        assert!(up.is_undecided(), "so it is asked again soon");
        assert_eq!(states(&mut up, "-"), "D");
        assert!(!up.is_undecided());
    }
}
