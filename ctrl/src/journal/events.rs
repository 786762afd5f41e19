//! The last ten thousand lines of the log as events: what happened, when, to what, from which state to which, and by whom.
//!
//! They are kept in memory, and in a file, so that a restart does not forget what happened before it. A disk that is slow
//! or full loses events of the file, and holds nobody.

use crate::files;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Events that are kept.
const KEPT: usize = 10_000;
/// Events that wait for the disk.
const QUEUE: usize = 1_024;
/// Lines of the file from which on it is written anew.
const LINES_MAX: usize = 2 * KEPT;
/// So much of an old file is read.
const READ_MAX: u64 = 32 * 1024 * 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Map<String, Value>")]
pub struct Event {
    /// Its number; it grows by one from event to event, also over restarts.
    pub number: u64,
    /// When, in milliseconds since the epoch.
    pub millis: u64,
    /// What kind of thing happened: the log's target.
    pub kind: String,
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// The line of the log.
    pub text: String,
    /// `service`, `server`, `port`, `from`, `to`, `why`, `who`, as far as they are known.
    pub fields: Vec<(String, String)>,
}

impl Event {
    /// The time as RFC 3339 has it, in UTC.
    pub fn time_text(&self) -> String {
        let time = UNIX_EPOCH + Duration::from_millis(self.millis);
        humantime::format_rfc3339_millis(time).to_string()
    }

    /// The priority of its level (syslog(3)).
    pub(super) fn priority(&self) -> u8 {
        match self.level.as_str() {
            "error" => 3,
            "warn" => 4,
            "debug" => 7,
            _ => 6,
        }
    }

    /// Whether it is about a service; an event of a server may be about several.
    fn concerns(&self, service: &str) -> bool {
        let mut named = self.fields.iter().filter(|(field, _)| field == "service");
        named.any(|(_, names)| names.split(',').any(|name| name == service))
    }
}

impl Serialize for Event {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own = [
            ("time", self.time_text()),
            ("level", self.level.clone()),
            ("kind", self.kind.clone()),
            ("text", self.text.clone()),
        ];
        let fields = self.fields.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let numbers = std::iter::once(("number", Value::from(self.number)));
        let texts = own.into_iter().chain(fields).map(|(name, text)| (name, Value::from(text)));
        serializer.collect_map(numbers.chain(texts))
    }
}

impl From<Map<String, Value>> for Event {
    fn from(mut map: Map<String, Value>) -> Self {
        let mut text = |name: &str| match map.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (time, level, kind, line) = (text("time"), text("level"), text("kind"), text("text"));
        let since =
            humantime::parse_rfc3339(&time).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let number = map.remove("number").and_then(|number| number.as_u64()).unwrap_or(0);
        let fields = map.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
        Self {
            number,
            millis: since.map_or(0, |since| since.as_millis() as u64),
            kind,
            level,
            text: line,
            fields: fields.collect(),
        }
    }
}

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Those behind this number.
    pub after: Option<u64>,
    /// Those since this time, in milliseconds since the epoch.
    pub since: Option<u64>,
    /// Those of this service.
    pub service: Option<String>,
    /// Those of this kind.
    pub kind: Option<String>,
}

impl Asked {
    fn wants(&self, event: &Event) -> bool {
        self.after.is_none_or(|after| event.number > after)
            && self.since.is_none_or(|since| event.millis >= since)
            && self.kind.as_ref().is_none_or(|kind| event.kind == *kind)
            && self.service.as_ref().is_none_or(|service| event.concerns(service))
    }
}

/// The events of this process, and of those before it.
#[derive(Debug, Default)]
pub(super) struct Ring {
    list: Mutex<Kept>,
    file: OnceLock<SyncSender<Arc<Event>>>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    last: u64,
}

impl Ring {
    /// Keeps an event, and gives it its number.
    pub(super) fn keep(&self, mut event: Event) -> Arc<Event> {
        let mut kept = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        event.number = kept.last;
        let event = Arc::new(event);
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(Arc::clone(&event));
        drop(kept);
        if let Some(file) = self.file.get() {
            // What the disk is too slow for is in memory.
            let _ = file.try_send(Arc::clone(&event));
        }
        event
    }

    /// The first events that are asked for, in their order, or the last ones where nothing says which come first; and the
    /// number of the last event of all, as it was then.
    pub(super) fn list(&self, asked: &Asked, limit: usize) -> (Vec<Arc<Event>>, u64) {
        let kept = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.after.is_none() {
            let mut last: Vec<_> =
                kept.events.iter().rev().filter(|event| asked.wants(event)).take(limit).cloned().collect();
            last.reverse();
            return (last, kept.last);
        }
        // Numbers grow, so those before are not looked at.
        let first = asked.after.map_or(0, |after| kept.events.partition_point(|event| event.number <= after));
        let behind = kept.events.iter().skip(first);
        (behind.filter(|event| asked.wants(event)).take(limit).cloned().collect(), kept.last)
    }

    /// Takes in what a file has from before, and writes further events into it.
    pub(super) fn remember(self: &Arc<Self>, path: &Path) -> std::io::Result<()> {
        let own = path.to_owned();
        let old = files::beside(path, move |_| read(&own)).unwrap_or_default();
        {
            let mut kept = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            // What this process logged already comes behind.
            let first = old.last().map_or(0, |event| event.number);
            let own: Vec<_> = kept.events.drain(..).collect();
            let own = own
                .into_iter()
                .map(|event| Arc::new(Event { number: first + event.number, ..Arc::unwrap_or_clone(event) }));
            let mut all: VecDeque<_> = old.into_iter().map(Arc::new).chain(own).collect();
            let surplus = all.len().saturating_sub(KEPT);
            all.drain(..surplus);
            kept.last += first;
            kept.events = all;
        }
        let (sender, events) = sync_channel(QUEUE);
        let (ring, path) = (Arc::clone(self), path.to_owned());
        std::thread::Builder::new().name("events".into()).spawn(move || write_down(&ring, &path, &events))?;
        let _ = self.file.set(sender);
        Ok(())
    }
}

/// The events of a file; what cannot be read is left out.
fn read(path: &Path) -> Vec<Event> {
    let Ok(mut file) = File::open(path) else { return Vec::new() };
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    if len > READ_MAX && file.seek(SeekFrom::Start(len - READ_MAX)).is_err() {
        return Vec::new();
    }
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    let mut events: Vec<Event> = lines.filter_map(|line| serde_json::from_slice(&line).ok()).collect();
    events.drain(..events.len().saturating_sub(KEPT));
    // Whoever edited the file must not make numbers fall.
    events.sort_by_key(|event| event.number);
    events
}

/// Writes events as they come; the file anew at the start, and when it has grown too long.
fn write_down(ring: &Ring, path: &Path, events: &Receiver<Arc<Event>>) {
    let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(path).ok();
    // What is in the file: so many lines, and events up to this number.
    let (mut lines, mut last) = write_anew(ring, path).unwrap_or((0, 0));
    let mut file = open();
    for event in events {
        if lines >= LINES_MAX
            && let Ok(written) = write_anew(ring, path)
        {
            (lines, last) = written;
            file = open();
        }
        if event.number <= last {
            continue;
        }
        let Ok(line) = serde_json::to_string(&*event) else { continue };
        match file.as_mut().map(|file| file.write_all(format!("{line}\n").as_bytes())) {
            Some(Ok(())) => lines += 1,
            // The folder may come back.
            _ => file = open(),
        }
    }
}

/// Writes all that is kept; returns how many lines that is, and the last number.
fn write_anew(ring: &Ring, path: &Path) -> std::io::Result<(usize, u64)> {
    let (events, last) = ring.list(&Asked::default(), KEPT);
    let mut text = String::new();
    for event in &events {
        text.push_str(&serde_json::to_string(&**event).unwrap_or_default());
        text.push('\n');
    }
    files::keep(path, &text)?;
    Ok((events.len(), last))
}

/// Now, as events have it.
pub(super) fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str, service: &str, millis: u64) -> Event {
        Event {
            number: 0,
            millis,
            kind: "services".into(),
            level: "info".into(),
            text: text.into(),
            fields: vec![("service".into(), service.into())],
        }
    }

    fn texts(events: &[Arc<Event>]) -> Vec<&str> {
        events.iter().map(|event| event.text.as_str()).collect()
    }

    #[test]
    fn the_last_ones_are_kept_and_the_ones_behind_a_number_are_found() {
        let ring = Ring::default();
        for n in 0..KEPT as u64 + 5 {
            ring.keep(event(&n.to_string(), if n % 2 == 0 { "a" } else { "b,c" }, n));
        }
        let all = Asked::default();
        assert_eq!(ring.list(&all, KEPT + 9).0.len(), KEPT);
        assert_eq!(texts(&ring.list(&all, 2).0), ["10003", "10004"]);
        let of = |service: &str| Asked { service: Some(service.into()), ..all.clone() };
        assert_eq!(texts(&ring.list(&of("c"), 1).0), ["10003"]);
        assert!(ring.list(&of("b,c"), 9).0.is_empty());
        let behind = Asked { after: Some(ring.list(&all, 0).1 - 3), ..all.clone() };
        assert_eq!(texts(&ring.list(&behind, 2).0), ["10002", "10003"]);
        let since = Asked { after: Some(0), since: Some(10_004), ..all.clone() };
        assert_eq!(texts(&ring.list(&since, 9).0), ["10004"]);
        assert!(ring.list(&Asked { kind: Some("links".into()), ..all }, 9).0.is_empty());
    }

    #[test]
    fn a_restart_finds_what_happened_before_it_whatever_the_file_has_in_it() {
        let folder = std::env::temp_dir().join(format!("sluice-events-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("events.jsonl");
        let written = |wanted: usize| {
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while read(&path).len() < wanted {
                assert!(std::time::Instant::now() < deadline, "{:?}", read(&path));
                std::thread::yield_now();
            }
        };
        let first = Arc::new(Ring::default());
        first.keep(event("before the file", "a", 1));
        first.remember(&path).unwrap();
        first.keep(event("after it", "a", 2));
        written(2);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"damaged\n{\"number\":7,\"text\":\"by hand\"}\n\xff\n").unwrap();

        let second = Arc::new(Ring::default());
        second.keep(event("a new start", "a", 3));
        second.remember(&path).unwrap();
        let (all, _) = second.list(&Asked::default(), 99);
        assert_eq!(texts(&all), ["before the file", "after it", "by hand", "a new start"]);
        assert_eq!(all.iter().map(|event| event.number).collect::<Vec<_>>(), [1, 2, 7, 8]);
        written(4);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
