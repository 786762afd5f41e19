//! The daemon's log: lines on standard error, for the journal.
//!
//! Code logs through the `log` crate. A line goes into a bounded queue, and a thread of its own writes the queue out,
//! so that a reader that stopped reading holds that thread and no other. What does not fit is counted, and the count is
//! written when the reader reads again.
//!
//! A line is one line, whatever stands in it: control characters are escaped, and it is cut at 1 KiB. The log's target
//! is the line's kind; each kind (and each user of the admin socket) has a budget, and lines beyond it are counted and
//! told by their number.
//!
//! Every line is an [`Event`] too: [`events`] has the last ten thousand, and a file outlives the process.

mod edge;
mod events;
mod format;

pub use edge::Edge;
pub use events::{Asked, Event};
pub use format::Format;

use events::Ring;
use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Lines that wait for the writer; with the longest lines 1 MiB.
const QUEUE: usize = 1_024;
/// Bytes of a field's value.
const FIELD_MAX: usize = 256;
/// Bytes of a line's message.
const LINE_MAX: usize = 1_024;
/// Lines of a kind that may come at once.
const BURST: u32 = 200;
/// Lines of a kind in a second after that.
const RATE: u32 = 20;
/// Kinds that have a budget of their own; the others share one.
const BUDGETS: usize = 256;
/// How often the number of lines over budget is told.
const FOLD_PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for lines to be written.
const FLUSH: Duration = Duration::from_millis(500);

/// The kinds of lines. Those of calls that change something are `calls of USER` besides.
pub const KINDS: [&str; 16] = [
    "acls",
    "admin",
    "attacks",
    "capacity",
    "config",
    "discovery",
    "health",
    "hooks",
    "kernel",
    "links",
    "metrics",
    "names",
    "servers",
    "services",
    "start",
    "workers",
];

/// How the kind of a user's calls begins.
pub const CALLS: &str = "calls of ";

static JOURNAL: OnceLock<Journal> = OnceLock::new();

/// Sends the lines of this workspace's code to standard error from now on.
///
/// # Errors
/// When the system gives no thread.
pub fn start() -> std::io::Result<()> {
    // systemd sets it where standard error is its journal, which then reads a priority (sd-daemon(3)).
    let with_priority = std::env::var_os("JOURNAL_STREAM").is_some();
    let journal = Journal::start(std::io::stderr(), with_priority)?;
    if log::set_logger(JOURNAL.get_or_init(|| journal)).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    Ok(())
}

/// Writes lines in this format from now on, and those of this level and above.
pub fn set(format: Format, level: log::LevelFilter) {
    if let Some(journal) = JOURNAL.get() {
        *journal.shared.format.lock().unwrap_or_else(PoisonError::into_inner) = format;
    }
    log::set_max_level(level);
}

/// Keeps events in the file at `path` from now on, and takes in those that it has from before.
///
/// # Errors
/// When the system gives no thread.
pub fn remember(path: &Path) -> std::io::Result<()> {
    JOURNAL.get().map_or(Ok(()), |journal| journal.shared.events.remember(path))
}

/// The events that are asked for, at most so many, and the number of the last event of all.
pub fn events(asked: &Asked, limit: usize) -> (Vec<Arc<Event>>, u64) {
    let Some(journal) = JOURNAL.get() else { return (Vec::new(), 0) };
    journal.shared.events.list(asked, limit)
}

/// Waits until all lines are written, but not for a reader that does not read.
pub fn flush() {
    let Some(journal) = JOURNAL.get() else { return };
    let deadline = Instant::now() + FLUSH;
    while journal.shared.waiting.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The logger.
struct Journal {
    lines: SyncSender<String>,
    shared: Arc<Shared>,
    with_priority: bool,
}

#[derive(Default)]
struct Shared {
    /// Lines in the queue and in the writer's hand.
    waiting: AtomicUsize,
    /// Lines that found the queue full since the writer last told.
    lost: AtomicU64,
    budgets: Mutex<Budgets>,
    format: Mutex<Format>,
    events: Arc<Ring>,
}

/// The fields of a line, each one line too.
#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl<'kvs> log::kv::VisitSource<'kvs> for Fields {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        let text = format::printable(format_args!("{value}"), FIELD_MAX);
        // A change of no service has a field of none.
        if !text.is_empty() {
            self.0.push((key.to_string(), text));
        }
        Ok(())
    }
}

impl Journal {
    fn start(out: impl Write + Send + 'static, with_priority: bool) -> std::io::Result<Self> {
        let (lines, queued) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::Builder::new().name("log".into()).spawn(move || write_out(out, &queued, &writer))?;
        Ok(Self { lines, shared, with_priority })
    }

    fn say(&self, kind: &str, level: log::Level, message: fmt::Arguments<'_>, fields: Fields, now: Instant) {
        let mut budgets = self.shared.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if !budgets.admit(kind, now) {
            return;
        }
        drop(budgets);
        let event = Event {
            number: 0,
            millis: events::now_millis(),
            kind: kind.to_owned(),
            level: level.as_str().to_ascii_lowercase(),
            text: format::printable(message, LINE_MAX),
            fields: fields.0,
        };
        let event = self.shared.events.keep(event);
        let format = *self.shared.format.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format.line(&event, self.with_priority) + "\n";
        self.shared.waiting.fetch_add(1, Ordering::AcqRel);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(line) {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl log::Log for Journal {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        // What libraries have to say is for their own users.
        let is_ours = record.module_path().is_some_and(|path| {
            ["ctrl", "sluiced", "dataplane"].contains(&path.split("::").next().unwrap_or(path))
        });
        if is_ours && self.enabled(record.metadata()) {
            let mut fields = Fields::default();
            // It takes every field.
            let _ = record.key_values().visit(&mut fields);
            self.say(record.target(), record.level(), *record.args(), fields, Instant::now());
        }
    }

    fn flush(&self) {
        flush();
    }
}

/// Writes lines, and what became of those that are not there.
fn write_out(mut out: impl Write, queued: &Receiver<String>, shared: &Shared) {
    // A reader that went away changes nothing: packets matter more than words about them.
    let mut put = |text: &str| drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    let mut next_fold = Instant::now() + FOLD_PAUSE;
    loop {
        match queued.recv_timeout(FOLD_PAUSE) {
            Ok(line) => {
                put(&line);
                shared.waiting.fetch_sub(1, Ordering::AcqRel);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            put(&format!("sluiced: {lost} lines were lost, because nobody read this log\n"));
        }
        let now = Instant::now();
        if now >= next_fold {
            next_fold = now + FOLD_PAUSE;
            let folded = shared.budgets.lock().unwrap_or_else(PoisonError::into_inner).take_folded();
            for (kind, count) in folded {
                put(&format!("sluiced: {kind}: {count} more lines in the last second\n"));
            }
        }
    }
}

/// Whether a character does something else than to show itself: control characters, line separators, and marks that turn
/// the direction of writing around.
pub(crate) fn misleads(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes one printable line of anything, and cuts it.
struct Printable<'a> {
    line: &'a mut String,
    room: usize,
    cut: usize,
}

impl Printable<'_> {
    fn push(&mut self, text: &str) {
        if self.cut > 0 || text.len() > self.room {
            self.cut += text.len();
        } else {
            self.room -= text.len();
            self.line.push_str(text);
        }
    }
}

impl fmt::Write for Printable<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut > 0 {
            self.cut += text.len();
            return Ok(());
        }
        let mut buffer = [0; 4];
        for c in text.chars() {
            if misleads(c) {
                let mut escaped = String::new();
                escaped.extend(c.escape_default());
                self.push(&escaped);
            } else {
                self.push(c.encode_utf8(&mut buffer));
            }
        }
        Ok(())
    }
}

/// How many lines of each kind may still be written.
#[derive(Default)]
struct Budgets {
    kinds: HashMap<String, Budget>,
}

struct Budget {
    /// Lines, in billionths: so many as are earned in a nanosecond.
    left: u64,
    since: Instant,
    folded: u64,
}

impl Budgets {
    fn admit(&mut self, kind: &str, now: Instant) -> bool {
        const OTHERS: &str = "others";
        let kind = if self.kinds.contains_key(kind) || self.kinds.len() < BUDGETS { kind } else { OTHERS };
        const LINE: u64 = 1_000_000_000;
        let whole = u64::from(BURST) * LINE;
        let fresh = || Budget { left: whole, since: now, folded: 0 };
        let budget = match self.kinds.get_mut(kind) {
            Some(budget) => budget,
            None => self.kinds.entry(kind.to_owned()).or_insert_with(fresh),
        };
        let rest = now.saturating_duration_since(budget.since).as_nanos() as u64;
        budget.left = budget.left.saturating_add(rest.saturating_mul(RATE.into())).min(whole);
        budget.since = now;
        if budget.left < LINE {
            budget.folded += 1;
            return false;
        }
        budget.left -= LINE;
        true
    }

    /// How many lines of which kind were left out since the last time.
    fn take_folded(&mut self) -> Vec<(String, u64)> {
        let folded = self.kinds.iter_mut().filter(|(_, budget)| budget.folded > 0);
        let mut all: Vec<_> =
            folded.map(|(kind, budget)| (kind.clone(), std::mem::take(&mut budget.folded))).collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Where lines go in a test; it waits at each until it may go on.
    struct Slow(Sender<String>, Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.1.recv();
            self.0.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Journal, Receiver<String>, Sender<()>) {
        let (sender, lines) = channel();
        let (go, gate) = channel();
        (Journal::start(Slow(sender, gate), false).unwrap(), lines, go)
    }

    /// The words behind `mark` in this crate's files.
    fn named(folder: &Path, mark: &str, found: &mut std::collections::BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                named(&entry.path(), mark, found);
            } else {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let words = text.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(words.filter(|word| word.chars().all(char::is_lowercase)).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_kind_is_in_the_list() {
        let mut found = std::collections::BTreeSet::new();
        for folder in ["src", "daemon"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            for mark in ["target: \"", ".tell(\""] {
                named(&folder, mark, &mut found);
            }
        }
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), KINDS);
    }

    #[test]
    fn a_line_is_one_printable_line_and_not_long() {
        let (journal, lines, go) = slow();
        drop(go);
        let say = |text: &str| {
            journal.say("x", log::Level::Info, format_args!("{text}"), Fields::default(), Instant::now());
            lines.recv_timeout(Duration::from_secs(10)).unwrap()
        };
        assert_eq!(say("a server ä"), "sluiced: a server ä\n");
        let forged = say("x\nsluiced: reloaded as generation 99\x1b[31m\u{202e}\u{85}");
        assert_eq!(forged, "sluiced: x\\nsluiced: reloaded as generation 99\\u{1b}[31m\\u{202e}\\u{85}\n");
        let long = say(&"ä".repeat(5_000));
        assert!(long.len() < LINE_MAX + 64 && long.ends_with(" [8976 more bytes]\n"), "{long}");
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_and_what_is_lost_is_told() {
        let (journal, lines, go) = slow();
        let count = QUEUE as u64 + 500;
        for n in 0..count {
            // Kinds of their own, so that no budget matters.
            let kind = format!("k{}", n % 50);
            journal.say(&kind, log::Level::Info, format_args!("line {n}"), Fields::default(), Instant::now());
        }
        drop(go);
        let mut told = 0;
        let mut written = 0;
        while told + written < count {
            let line = lines.recv_timeout(Duration::from_secs(10)).unwrap();
            match line.strip_suffix(" lines were lost, because nobody read this log\n") {
                Some(rest) => told += rest.strip_prefix("sluiced: ").unwrap().parse::<u64>().unwrap(),
                None => written += 1,
            }
        }
        assert!(told > 0 && written <= QUEUE as u64 + 1, "{told} lost, {written} written");
    }

    #[test]
    fn each_kind_has_a_budget_and_its_rest_is_counted() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        let admitted = |budgets: &mut Budgets, kind: &str, count: u32, now: Instant| {
            (0..count).filter(|_| budgets.admit(kind, now)).count() as u32
        };
        assert_eq!(admitted(&mut budgets, "health", 1_500, now), BURST);
        assert_eq!(admitted(&mut budgets, "config", 10, now), 10, "another kind is not disturbed");
        assert_eq!(budgets.take_folded(), [("health".to_owned(), u64::from(1_500 - BURST))]);
        assert_eq!(budgets.take_folded(), []);
        let later = now + Duration::from_secs(2);
        assert_eq!(admitted(&mut budgets, "health", 1_500, later), 2 * RATE);
        // A flood of a line each 100 us does not keep its kind from what it earns.
        let flood = (1..=20_000).map(|n| later + Duration::from_micros(100 * n));
        assert_eq!(flood.filter(|now| budgets.admit("health", *now)).count() as u32, 2 * RATE);
        // However many kinds somebody makes up, memory is bounded.
        for n in 0..10_000 {
            budgets.admit(&format!("user {n}"), now);
        }
        assert!(budgets.kinds.len() <= BUDGETS + 1);
    }
}
