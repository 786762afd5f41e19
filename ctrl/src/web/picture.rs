//! What is known at one moment, for all browsers.

use super::{Ask, Shared};
use crate::admin::Call;
use crate::metrics::{Roll, ServiceRow};
use crate::users::Peer;
use dataplane::stats::{ServerTotals, WorkerStats};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks of which one was asked for: browsers that come and go quickly cost no more.
const REST: Duration = Duration::from_millis(100);
/// How long control may take over one question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a list of names in `status` so many are shown: ten thousand services may be unready for one reason.
const NAMES: usize = 100;
/// What is asked for each time, under the names that the page knows.
const QUESTIONS: [(&str, &str); 4] =
    [("status", "status"), ("workers", "worker.list"), ("ports", "port.list"), ("drops", "stats.drops")];

/// What is known at one moment.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// Its number; one that was not made has 0.
    pub(super) number: u64,
    /// When, in milliseconds since the epoch.
    pub(super) millis: u64,
    /// Control's answers by the names of [`QUESTIONS`]; what it did not answer is not there.
    pub(super) answers: BTreeMap<&'static str, Box<RawValue>>,
    /// The services.
    pub(super) services: Vec<Line>,
    /// By service, its servers as `service.show` has them; `None` when there is no such service.
    pub(super) details: BTreeMap<String, Option<Box<RawValue>>>,
}

/// A service's line: its names and states, and numbers beside them.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its names and states.
    pub(super) row: Arc<ServiceRow>,
    /// What its servers counted.
    totals: ServerTotals,
    /// What the page sorts it by.
    pub(super) numbers: Numbers,
}

/// A service in numbers.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Numbers {
    /// Servers that are up.
    pub(super) up: usize,
    /// Servers that are configured.
    pub(super) servers: usize,
    /// Live sessions.
    pub(super) sessions: u64,
    /// New sessions a second.
    pub(super) new: f64,
    /// Packets of clients a second.
    pub(super) packets: f64,
    /// Bits of clients a second.
    pub(super) bits_in: f64,
    /// Bits to clients a second.
    pub(super) bits_out: f64,
}

impl Line {
    /// A service now, beside what it was `seconds` before.
    fn of(row: &Arc<ServiceRow>, stats: &[Arc<WorkerStats>], before: Option<&Self>, seconds: f64) -> Self {
        let mut totals = row.gone;
        for server in &row.servers {
            let sum: ServerTotals = stats.iter().map(|worker| worker.server(server.id).read()).sum();
            totals += sum.since(server.baseline);
        }
        let old = before.filter(|line| line.row.id == row.id).map_or(totals, |line| line.totals);
        let rate = |value: fn(&ServerTotals) -> u64| {
            let more = value(&totals).saturating_sub(value(&old));
            (more as f64 / seconds * 10.0).round() / 10.0
        };
        let numbers = Numbers {
            up: row.servers.iter().filter(|server| server.state == Some("up")).count(),
            servers: row.servers.iter().filter(|server| server.state.is_some()).count(),
            sessions: totals.sessions_active + totals.sessions_inactive,
            new: rate(|totals| totals.sessions_created),
            packets: rate(|totals| totals.packets_in),
            bits_in: rate(|totals| 8 * totals.bytes_in),
            bits_out: rate(|totals| 8 * totals.bytes_out),
        };
        Self { row: Arc::clone(row), totals, numbers }
    }

    /// What the page shows of it.
    pub(super) fn shown(&self) -> impl Serialize + '_ {
        #[derive(Serialize)]
        struct Shown<'a> {
            name: &'a str,
            listen: &'a str,
            protocol: &'a str,
            forward: &'a str,
            scheduler: &'a str,
            state: &'a str,
            reason: Option<&'a str>,
            #[serde(flatten)]
            numbers: Numbers,
        }
        let ServiceRow { name, labels: [listen, protocol, forward, scheduler], state, reason, .. } =
            &*self.row;
        let (reason, numbers) = (reason.as_deref(), self.numbers);
        Shown { name, listen, protocol, forward, scheduler, state, reason, numbers }
    }
}

/// The thread that looks.
pub(super) struct Looker {
    shared: Arc<Shared>,
    ask: Ask,
    peer: Peer,
    number: u64,
    /// Where the services whose servers are shown have their turn.
    turn: usize,
    /// When services were looked at last, and what was seen.
    last: Option<(Instant, Arc<Picture>)>,
}

impl Looker {
    pub(super) fn new(shared: Arc<Shared>, ask: Ask) -> Self {
        Self { shared, ask, peer: Peer::looking("web"), number: 0, turn: 0, last: None }
    }

    /// Looks until the page is over.
    pub(super) fn look(mut self) {
        let mut due = Instant::now();
        loop {
            let is_early = {
                let mut wanted = Shared::lock(&self.shared.wanted);
                while !*wanted && Instant::now() < due {
                    let rest = due.saturating_duration_since(Instant::now());
                    let woken = self.shared.bell.wait_timeout(wanted, rest);
                    wanted = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                }
                *wanted = false;
                Instant::now() < due
            };
            if self.shared.is_over.load(Ordering::Relaxed) {
                return;
            }
            if is_early {
                std::thread::sleep(REST);
            }
            let roll = Shared::lock(&self.shared.roll).clone();
            let Some(roll) = roll else {
                due = Instant::now() + PAUSE;
                continue;
            };
            let (now, millis) = (Instant::now(), millis());
            if !is_early {
                due = now + PAUSE;
                Shared::lock(&self.shared.history).note(&roll.stats, roll.ports.len(), now, millis);
            }
            // Nobody looks: nothing is asked for.
            if self.shared.pictures.receiver_count() == 0 {
                self.last = None;
                continue;
            }
            self.picture(&roll, now, millis, is_early);
        }
    }

    fn picture(&mut self, roll: &Roll, now: Instant, millis: u64, is_early: bool) {
        let (before, seconds) = match &self.last {
            Some((then, picture)) => (Some(Arc::clone(picture)), now.duration_since(*then).as_secs_f64()),
            None => (None, 1.0),
        };
        // Rates of a short time would jump about.
        let services = match &before {
            Some(picture) if is_early => picture.services.clone(),
            _ => lines(roll, before.as_deref(), seconds.max(0.1)),
        };
        let mut answers = BTreeMap::new();
        for (name, method) in QUESTIONS {
            if let Ok(answer) = self.answer(method, Value::Null) {
                answers.insert(name, if name == "status" { shortened(answer) } else { answer });
            }
        }
        let mut details = BTreeMap::new();
        let shown = self.shared.shown(self.turn);
        self.turn = self.turn.wrapping_add(shown.len());
        for name in shown {
            match self.answer("service.show", json!({ "name": name })) {
                Ok(answer) => drop(details.insert(name, Some(answer))),
                // It was removed; what control had no time for is asked again.
                Err(true) => drop(details.insert(name, None)),
                Err(false) => {}
            }
        }
        self.number += 1;
        let picture = Arc::new(Picture { number: self.number, millis, answers, services, details });
        if !is_early || self.last.is_none() {
            self.last = Some((now, Arc::clone(&picture)));
        }
        self.shared.pictures.send_replace(picture);
    }

    /// Control's answer; an error tells whether control refused, or had no time.
    fn answer(&self, method: &str, params: Value) -> Result<Box<RawValue>, bool> {
        let (reply, answer) = channel();
        let call = Call { method: method.to_owned(), params, peer: self.peer.clone(), reply };
        if !(self.ask.0)(call) {
            return Err(false);
        }
        answer.recv_timeout(PATIENCE).map_err(|_| false)?.map_err(|_| true)
    }
}

fn lines(roll: &Roll, before: Option<&Picture>, seconds: f64) -> Vec<Line> {
    let known: HashMap<&str, &Line> = before
        .into_iter()
        .flat_map(|picture| &picture.services)
        .map(|line| (line.row.name.as_str(), line))
        .collect();
    let line =
        |row: &Arc<ServiceRow>| Line::of(row, &roll.stats, known.get(row.name.as_str()).copied(), seconds);
    roll.services.iter().map(line).collect()
}

/// `status` without what the services' lines tell, and with long lists cut.
fn shortened(answer: Box<RawValue>) -> Box<RawValue> {
    let Ok(Value::Object(mut status)) = serde_json::from_str::<Value>(answer.get()) else { return answer };
    status.remove("not_ready");
    status.remove("unready");
    for list in status.values_mut().filter_map(Value::as_array_mut) {
        let more = list.len().saturating_sub(NAMES);
        list.truncate(NAMES);
        if more > 0 {
            list.push(format!("and {more} more").into());
        }
    }
    serde_json::value::to_raw_value(&status).unwrap_or(answer)
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_a_status_is_cut_and_says_so() {
        let names: Vec<_> = (0..150).map(|at| format!("s{at}")).collect();
        let status = json!({ "protected": names, "not_ready": { "a": "b" }, "pid": 7 });
        let short = shortened(serde_json::value::to_raw_value(&status).unwrap());
        let short: Value = serde_json::from_str(short.get()).unwrap();
        assert_eq!(short["pid"], 7);
        assert!(short.get("not_ready").is_none());
        assert_eq!(short["protected"].as_array().unwrap().len(), NAMES + 1);
        assert_eq!(short["protected"][NAMES], "and 50 more");
    }
}
