//! From single answers to what a server is: so many good ones in a row, so many bad ones, and its load, damped.

use crate::balance::Health;
use crate::config::HealthSpec;

/// The least that overload leaves a server of its weight.
const RELIEF_MIN: f64 = 0.1;
/// The most by which one answer changes a server's relief: a spike moves little, a lasting load all.
const RELIEF_STEP: f64 = 0.2;
/// Smaller changes are not told, so that the schedulers' tables rest.
const RELIEF_GRAIN: f64 = 0.05;

/// One check's results so far.
#[derive(Clone, Debug)]
pub struct Tally {
    rise: u32,
    fall: u32,
    limit: Option<f64>,
    health: Health,
    /// Answers in a row that speak against `health`, or, while it is not known, good or bad ones.
    streak: i64,
    /// What the load leaves, step by step.
    smooth: f64,
    /// The same, as it was told.
    relief: f64,
}

impl Tally {
    /// A tally before the first answer.
    pub fn new(spec: &HealthSpec) -> Self {
        Self {
            rise: spec.rise,
            fall: spec.fall,
            limit: spec.load.as_ref().map(|load| f64::from(load.limit) / 1_000.0),
            health: if spec.initially_up { Health::Up } else { Health::Checking },
            streak: 0,
            smooth: 1.0,
            relief: 1.0,
        }
    }

    /// What the server is now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// How much of its weight the server's load leaves it.
    pub fn relief(&self) -> f64 {
        self.relief
    }

    /// Whether the state may change soon, so that the next answer is awaited sooner.
    pub fn is_undecided(&self) -> bool {
        self.health == Health::Checking
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
        let changed = next != self.health;
        self.health = next;
        self.note_load(load) || changed
    }

    fn note_load(&mut self, load: Option<f64>) -> bool {
        let (Some(limit), Some(load)) = (self.limit, load.filter(|load| load.is_finite() && *load >= 0.0))
        else {
            return false;
        };
        let wanted = if load > limit { (limit / load).max(RELIEF_MIN) } else { 1.0 };
        self.smooth += (wanted - self.smooth).clamp(-RELIEF_STEP, RELIEF_STEP);
        let told = (self.smooth / RELIEF_GRAIN).round() * RELIEF_GRAIN;
        let changed = (told - self.relief).abs() >= RELIEF_GRAIN / 2.0;
        if changed {
            self.relief = told;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadSpec, Probe};
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
        let mut tally = Tally::new(&spec(2, 3));
        assert_eq!(states(&mut tally, "+-+-++"), "?????U");
        assert_eq!(states(&mut tally, "--+--+---"), "UUUUUUUUD");
        assert_eq!(states(&mut tally, "+-+-++"), "DDDDDU");
    }

    #[test]
    fn nacos_takes_three_of_either_and_keepalived_one_good_after_retries() {
        // Nacos: three consecutive results either way.
        assert_eq!(states(&mut Tally::new(&spec(3, 3)), "+++--+---+++"), "??UUUUUUDDDU");
        // keepalived with retry 2: the first try and two more must fail, one good answer is enough.
        assert_eq!(states(&mut Tally::new(&spec(1, 3)), "+---+"), "UUUDU");
        // And with alpha: down until the first good answer; without: up.
        let mut up = Tally::new(&HealthSpec { initially_up: true, ..spec(1, 3) });
        assert_eq!(up.health(), Health::Up);
        assert_eq!(states(&mut up, "--"), "UU");
    }

    #[test]
    fn load_takes_weight_away_slowly_and_never_all() {
        let load = Some(LoadSpec { header: "x-load".into(), limit: 800 });
        let mut tally = Tally::new(&HealthSpec { load, ..spec(1, 1) });
        let reliefs: Vec<_> = [0.5, 1.6, 1.6, 1.6, 1.6, 80.0, 80.0, 80.0, 0.8, 0.8]
            .into_iter()
            .map(|load| {
                tally.note(true, Some(load));
                (tally.relief() * 100.0).round()
            })
            .collect();
        assert_eq!(reliefs, [100.0, 80.0, 60.0, 50.0, 50.0, 30.0, 10.0, 10.0, 30.0, 50.0]);
        assert!(!tally.note(true, Some(f64::NAN)), "nonsense changes nothing");
        assert!(!tally.note(true, None));
    }
}
