//! A browser's stream: the part of each picture that it shows, as server-sent events (HTML Living Standard §9.2).

use super::Shared;
use super::picture::{Line, Picture};
use crate::http::site::Pieces;
use crate::journal::{self, Asked, Event};
use crate::metrics::SERVICE_STATES;
use crate::remedies::remedy;
use dataplane::drop::DropReason;
use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;

/// The path of streams.
pub(super) const PATH: &str = "/live";
/// Services that are sent at a time.
const WINDOW_MAX: usize = 500;
/// Events that a browser gets at first, and at a time.
const EVENTS: usize = 500;

/// What services are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    File,
    Name,
    State,
    Up,
    Sessions,
    New,
    Packets,
    BitsIn,
    BitsOut,
}

impl Sort {
    const ALL: [(&str, Self); 9] = [
        ("file", Self::File),
        ("name", Self::Name),
        ("state", Self::State),
        ("up", Self::Up),
        ("sessions", Self::Sessions),
        ("new", Self::New),
        ("packets", Self::Packets),
        ("bits_in", Self::BitsIn),
        ("bits_out", Self::BitsOut),
    ];

    /// Which of two services comes first: the worse, and the larger.
    fn compare(self, one: &Line, other: &Line) -> Ordering {
        let state = |line: &Line| SERVICE_STATES.iter().position(|known| *known == line.row.state);
        let (name, other_name) = (&one.row.name, &other.row.name);
        let states = state(other).cmp(&state(one));
        let (one, other) = (&one.numbers, &other.numbers);
        let share = |up: usize, all: usize| up as f64 / all.max(1) as f64;
        match self {
            Self::File => Ordering::Equal,
            Self::Name => name.cmp(other_name),
            Self::State => states,
            Self::Up => share(one.up, one.servers).total_cmp(&share(other.up, other.servers)),
            Self::Sessions => other.sessions.cmp(&one.sessions),
            Self::New => other.new.total_cmp(&one.new),
            Self::Packets => other.packets.total_cmp(&one.packets),
            Self::BitsIn => other.bits_in.total_cmp(&one.bits_in),
            Self::BitsOut => other.bits_out.total_cmp(&one.bits_out),
        }
    }
}

/// What a browser shows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    /// In small letters; services that have it in their names, addresses, states or servers.
    filter: String,
    sort: Sort,
    is_reversed: bool,
    from: usize,
    count: usize,
    /// The service whose servers are shown.
    service: Option<String>,
    /// The last event that it has.
    after: Option<u64>,
    /// The last second that it has, in milliseconds since the epoch.
    since: u64,
}

impl View {
    /// The view of a request's query.
    ///
    /// # Errors
    /// When a parameter is unknown or has an unknown value.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut view = Self {
            filter: String::new(),
            sort: Sort::File,
            is_reversed: false,
            from: 0,
            count: 100,
            service: None,
            after: None,
            since: 0,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, coded) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(coded).ok_or_else(|| format!("{name} is no UTF-8\n"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{name} is a number\n"));
            match name {
                "filter" => view.filter = value.to_lowercase(),
                "sort" => {
                    let sort = Sort::ALL.iter().find(|(word, _)| *word == value);
                    let words = Sort::ALL.map(|(word, _)| word).join(", ");
                    view.sort = sort.ok_or_else(|| format!("sort is one of {words}\n"))?.1;
                }
                "reverse" => view.is_reversed = value == "true",
                "from" => view.from = number()? as usize,
                "count" => view.count = (number()? as usize).min(WINDOW_MAX),
                "service" => view.service = Some(value).filter(|name| !name.is_empty()),
                "after" => view.after = Some(number()?),
                "since" => view.since = number()?,
                _ => {
                    return Err(
                        "the parameters are filter, sort, reverse, from, count, service, after and since\n"
                            .to_owned(),
                    );
                }
            }
        }
        Ok(view)
    }

    fn wants(&self, line: &Line) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.filter);
        let row = &line.row;
        self.filter.is_empty()
            || has(&row.name)
            || row.labels.iter().any(|label| has(label))
            || has(row.state)
            || row.servers.iter().any(|server| has(&server.address))
    }

    /// The services that are shown, of all that are wanted, with how many those are, and how many are in which state.
    fn window<'p>(&self, picture: &'p Picture) -> (Vec<&'p Line>, usize) {
        let mut lines: Vec<_> = picture.services.iter().filter(|line| self.wants(line)).collect();
        // Equal ones stay in the file's order.
        lines.sort_by(|one, other| self.sort.compare(one, other));
        if self.is_reversed {
            lines.reverse();
        }
        let count = lines.len();
        (lines.into_iter().skip(self.from).take(self.count).collect(), count)
    }
}

/// By reason: what it means that a packet was dropped for it, and what to do.
fn meanings() -> Value {
    let all = DropReason::ALL.iter();
    all.map(|reason| (reason.name().to_owned(), json!([reason.explanation(), remedy(*reason)]))).collect()
}

/// A query's value: `+` and `%XX` are what forms make of others.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A browser's stream.
pub(super) struct Stream {
    shared: Arc<Shared>,
    view: View,
    /// The number of the picture that it has.
    number: u64,
    waiting: Waiting,
}

type Waiting = Pin<Box<dyn Future<Output = Option<watch::Receiver<Arc<Picture>>>>>>;

fn next(mut pictures: watch::Receiver<Arc<Picture>>) -> Waiting {
    Box::pin(async move { pictures.changed().await.ok().map(|()| pictures) })
}

impl Stream {
    pub(super) fn new(shared: &Arc<Shared>, view: View) -> Self {
        let mut pictures = shared.pictures.subscribe();
        let is_fresh = pictures.borrow().number > 0;
        if is_fresh {
            pictures.mark_changed();
        }
        if let Some(name) = &view.service {
            Shared::lock(&shared.shown).push(name.clone());
        }
        // What it shows is asked for at once.
        shared.ring();
        Self { shared: Arc::clone(shared), view, number: 0, waiting: next(pictures) }
    }

    /// What a browser gets of a picture.
    fn event(&mut self, picture: &Picture) -> Bytes {
        let mut now = Map::new();
        let is_first = self.number == 0;
        now.insert("number".into(), picture.number.into());
        now.insert("time".into(), picture.millis.into());
        let history = Shared::lock(&self.shared.history);
        if is_first {
            now.insert("history".into(), history.columns(self.view.since));
            now.insert("meanings".into(), meanings());
        }
        now.insert("point".into(), json!(history.newest()));
        drop(history);
        let (window, count) = self.view.window(picture);
        let states = SERVICE_STATES.map(|state| {
            let those = picture.services.iter().filter(|line| line.row.state == state);
            (state, those.count())
        });
        now.insert(
            "services".into(),
            json!({
                "all": picture.services.len(),
                "found": count,
                "from": self.view.from,
                "states": states,
                "items": window.iter().map(|line| line.shown()).collect::<Vec<_>>(),
            }),
        );
        now.insert("events".into(), self.events());
        let mut text = String::from("event: now\ndata: ");
        let written = serde_json::to_string(&now).unwrap_or_default();
        // Control's answers go in as they are.
        text.push_str(written.strip_suffix('}').unwrap_or("{"));
        for (name, answer) in &picture.answers {
            let _ = write!(text, ",\"{name}\":{}", answer.get());
        }
        if let Some(detail) = self.view.service.as_ref().and_then(|name| picture.details.get(name)) {
            let _ = write!(text, ",\"service\":{}", detail.as_ref().map_or("null", |answer| answer.get()));
        }
        text.push_str("}\n\n");
        self.number = picture.number;
        Bytes::from(text)
    }

    /// The events that it does not have.
    fn events(&mut self) -> Value {
        let asked = Asked { after: self.view.after, ..Asked::default() };
        let (items, last) = journal::events(&asked, EVENTS);
        // A full list may have more behind it.
        let next = items.last().filter(|_| items.len() == EVENTS).map_or(last, |event| event.number);
        self.view.after = Some(next);
        json!(items.iter().map(Arc::as_ref).collect::<Vec<&Event>>())
    }
}

impl Pieces for Stream {
    fn piece(&mut self, waiting: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let Poll::Ready(pictures) = self.waiting.as_mut().poll(waiting) else { return Poll::Pending };
            let Some(mut pictures) = pictures else { return Poll::Ready(None) };
            let picture = Arc::clone(&pictures.borrow_and_update());
            self.waiting = next(pictures);
            if picture.number > self.number {
                return Poll::Ready(Some(self.event(&picture)));
            }
        }
    }

    fn is_endless(&self) -> bool {
        true
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(name) = &self.view.service {
            let mut shown = Shared::lock(&self.shared.shown);
            if let Some(at) = shown.iter().position(|one| one == name) {
                shown.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_what_the_query_says() {
        let view = View::parse(
            "filter=W%C3%A4B+1&sort=bits_in&reverse=true&from=50&count=9000&service=a%26b&after=7",
        )
        .unwrap();
        assert_eq!((view.filter.as_str(), view.sort, view.is_reversed), ("wäb 1", Sort::BitsIn, true));
        assert_eq!((view.from, view.count, view.after), (50, WINDOW_MAX, Some(7)));
        assert_eq!(view.service.as_deref(), Some("a&b"));
        for wrong in ["sort=x", "from=-1", "filter=%ff", "filter=%4", "other=1"] {
            assert!(View::parse(wrong).is_err(), "{wrong}");
        }
    }
}
