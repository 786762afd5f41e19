//! Attacks: when one begins and ends, and what there is to tell of it.
//!
//! A flood of SYNs is known by connections that begin and are not finished by their clients. It begins when, over a second,
//! they are as many as the service says and at least half of all that begin. It ends when they were fewer than half of
//! that for a minute. What breaks a limit is an attack from the first one on, and over when for a minute there was none.

use dataplane::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Over so long unfinished connections are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// So long there must be quiet until an attack is over.
const QUIET: Duration = Duration::from_secs(60);
/// Where half-open connections have half of their places, the rate from which on there is a flood is a tenth.
const PRESSED: u64 = 10;
/// Readings of a window, and one that is older.
const READINGS: usize = 8;
/// Attacks that are over and are told still.
const KEPT: usize = 100;
/// Edges that wait to be told, one a second.
const WAITING: usize = 16;

/// What is done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Connections begin that clients do not finish.
    SynFlood,
    /// Sources begin more sessions than the service lets them.
    SourceRate,
    /// More sessions begin than the service takes.
    ServiceRate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SynFlood, Self::SourceRate, Self::ServiceRate];

    /// Its name in lists and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynFlood => "syn_flood",
            Self::SourceRate => "source_rate",
            Self::ServiceRate => "service_rate",
        }
    }

    /// What it is, and what is counted of it.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::SynFlood => ("a flood of SYNs", "connections/s that clients do not finish"),
            Self::SourceRate => ("sources that come too often", "new sessions/s that they are refused"),
            Self::ServiceRate => ("more clients than it takes", "new sessions/s that are refused"),
        }
    }
}

/// What a service's connections have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Connections that began, or were asked for proof.
    pub begun: u64,
    /// Those that the server answered; as many as began where that is not seen.
    pub answered: u64,
    /// Those that their clients finished.
    pub finished: u64,
}

/// Looks for one kind of attack on a service.
#[derive(Debug, Default)]
pub struct Watch {
    readings: VecDeque<(Instant, Reading)>,
    attack: Option<Ongoing>,
}

/// An attack that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ongoing {
    /// Since when.
    pub since: Instant,
    /// How much of it there is in a second, now.
    pub rate: u64,
    /// The most in any second.
    pub peak: u64,
    /// From which rate on it was one.
    pub threshold: u64,
    /// Since when it is quiet.
    quiet_since: Option<Instant>,
}

/// An edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// An attack began.
    Began(Ongoing),
    /// It is over.
    Ended(Ongoing),
}

impl Reading {
    /// So many that were refused, which is one thing all the time.
    pub fn refused(count: u64) -> Self {
        Self { begun: count, answered: count, finished: 0 }
    }
}

impl Watch {
    /// Takes note of what was counted. `rate` is the number of unfinished connections a second from which on there is a
    /// flood; `is_pressed` says that half-open ones have half of their places.
    pub fn note(&mut self, reading: Reading, rate: u64, is_pressed: bool, now: Instant) -> Option<Turn> {
        let (count, begun) = self.unfinished(reading, is_pressed, now)?;
        match &mut self.attack {
            None => {
                let threshold = if is_pressed { (rate / PRESSED).max(1) } else { rate };
                if count < threshold || 2 * count < begun {
                    return None;
                }
                let attack = Ongoing { since: now, rate: count, peak: count, threshold, quiet_since: None };
                self.attack = Some(attack);
                Some(Turn::Began(attack))
            }
            Some(attack) => {
                attack.rate = count;
                attack.peak = attack.peak.max(count);
                if 2 * count >= attack.threshold {
                    attack.quiet_since = None;
                    return None;
                }
                let since = *attack.quiet_since.get_or_insert(now);
                (now.since(since) >= QUIET).then(|| self.attack.take()).flatten().map(Turn::Ended)
            }
        }
    }

    /// Connections that began in the last second and were not finished, and all that began; `None` while that is not known.
    fn unfinished(&mut self, reading: Reading, is_pressed: bool, now: Instant) -> Option<(u64, u64)> {
        let goes_on = self.readings.back().is_none_or(|(_, last)| {
            reading.begun >= last.begun
                && reading.answered >= last.answered
                && reading.finished >= last.finished
        });
        if !goes_on {
            self.readings.clear();
        }
        self.readings.push_back((now, reading));
        while self.readings.len() > 2 && now.since(self.readings[1].0) >= WINDOW
            || self.readings.len() > READINGS
        {
            self.readings.pop_front();
        }
        let (then, before) = self.readings.front()?;
        let millis = now.since(*then).as_millis() as u64;
        if millis < WINDOW.as_millis() as u64 {
            return None;
        }
        let begun = reading.begun - before.begun;
        // What no server answers is no flood, as long as there is room for it.
        let open = if is_pressed { begun } else { begun.min(reading.answered - before.answered) };
        let count = open.saturating_sub(reading.finished - before.finished);
        Some((count * 1_000 / millis, begun * 1_000 / millis))
    }

    /// Forgets what was counted: by others than before.
    pub fn begin_anew(&mut self) {
        self.readings.clear();
    }

    /// The attack that goes on.
    pub fn attack(&self) -> Option<&Ongoing> {
        self.attack.as_ref()
    }

    /// Ends the attack, because nobody looks any more.
    pub fn give_up(&mut self) -> Option<Ongoing> {
        self.attack.take()
    }
}

/// An attack that is over.
#[derive(Clone, Debug)]
pub struct Past {
    /// What it was.
    pub kind: Kind,
    /// What it was on.
    pub service: String,
    /// What was known of it at its end.
    pub attack: Ongoing,
    /// When it was over.
    pub ended: Instant,
    /// What was done.
    pub done: &'static str,
}

/// Attacks that are over, the oldest in front.
#[derive(Debug, Default)]
pub struct Chronicle(VecDeque<Past>);

impl Chronicle {
    /// Takes note of one; of many the oldest are forgotten.
    pub fn keep(&mut self, past: Past) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(past);
    }

    /// The newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Past> {
        self.0.iter().rev()
    }
}

/// Lets one thing be told in a second; more wait, and of many the last ones are told by their number alone.
#[derive(Debug)]
pub struct Pace<T> {
    waiting: VecDeque<T>,
    untold: u64,
    next: Instant,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), untold: 0, next: Instant::default() }
    }
}

impl<T> Pace<T> {
    /// Something is to be told.
    pub fn say(&mut self, what: T) {
        if self.waiting.len() == WAITING {
            self.untold += 1;
        } else {
            self.waiting.push_back(what);
        }
    }

    /// What is told now, and how many others are not, which are forgotten.
    pub fn next(&mut self, now: Instant) -> Option<(T, u64)> {
        if now < self.next {
            return None;
        }
        let what = self.waiting.pop_front()?;
        self.next = now + Duration::from_secs(1);
        let untold = if self.waiting.is_empty() { std::mem::take(&mut self.untold) } else { 0 };
        Some((what, untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks four times a second at connections of which so many begin, are answered and are finished each second.
    fn look(
        watch: &mut Watch,
        (total, now): (&mut Reading, &mut Instant),
        (begun, answered, finished): (u64, u64, u64),
        seconds: u64,
        is_pressed: bool,
    ) -> Vec<(u64, Turn)> {
        let mut turns = Vec::new();
        for quarter in 1..=4 * seconds {
            *now = *now + Duration::from_millis(250);
            total.begun += begun / 4;
            total.answered += answered / 4;
            total.finished += finished / 4;
            turns.extend(watch.note(*total, 500, is_pressed, *now).map(|turn| (quarter, turn)));
        }
        turns
    }

    #[test]
    fn a_flood_is_one_after_a_second_and_over_after_a_minute_of_quiet() {
        let mut watch = Watch::default();
        let (mut total, mut now) = (Reading::default(), Instant::from_millis(10_000));
        let mut look = |rates, seconds| look(&mut watch, (&mut total, &mut now), rates, seconds, false);
        assert_eq!(look((4_000, 4_000, 4_000), 5), [], "a busy service");
        assert_eq!(look((400, 400, 0), 20), [], "few clients that go away again");
        let began = look((10_000, 10_000, 400), 3);
        assert!(matches!(began[..], [(1..=2, Turn::Began(Ongoing { threshold: 500, .. }))]), "{began:?}");
        assert_eq!(look((400, 400, 400), 55), [], "not yet over");
        assert_eq!(look((1_000, 1_000, 100), 2), [], "it goes on");
        let ended = look((400, 400, 400), 62);
        assert!(matches!(ended[..], [(240..=248, Turn::Ended(Ongoing { peak: 9_600, .. }))]), "{ended:?}");
    }

    #[test]
    fn servers_that_are_silent_are_no_flood_until_they_take_the_room() {
        let mut watch = Watch::default();
        let (mut total, mut now) = (Reading::default(), Instant::from_millis(10_000));
        assert_eq!(look(&mut watch, (&mut total, &mut now), (4_000, 0, 0), 20, false), []);
        let began = look(&mut watch, (&mut total, &mut now), (80, 0, 0), 2, true);
        assert!(matches!(began[..], [(1, Turn::Began(Ongoing { threshold: 50, .. }))]), "{began:?}");
    }

    #[test]
    fn counters_that_begin_anew_are_no_flood() {
        let mut watch = Watch::default();
        let mut now = Instant::from_millis(10_000);
        for begun in [1_000_000, 1_000_200, 100, 200, 300, 400, 500] {
            now = now + Duration::from_millis(250);
            let reading = Reading { begun, answered: begun, finished: 0 };
            assert_eq!(watch.note(reading, 500, false, now), None);
        }
    }

    #[test]
    fn one_thing_is_told_in_a_second_and_many_by_their_number() {
        let mut pace = Pace::default();
        let start = Instant::from_millis(10_000);
        (0..50).for_each(|n| pace.say(n));
        let told: Vec<_> =
            (0..400).filter_map(|tenth| pace.next(start + Duration::from_millis(100 * tenth))).collect();
        let expected: Vec<_> = (0..16).map(|n| (n, if n == 15 { 34 } else { 0 })).collect();
        assert_eq!(told, expected);
    }
}
