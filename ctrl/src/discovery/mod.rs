//! Discovery: servers from files, names, Nacos and etcd.
//!
//! One thread asks all sources, each in its own time; what a source says goes to control only when it is
//! something else than before. What follows from it is decided there ([`judge`]): a source that falls silent, or says
//! that there is nobody, changes nothing.

mod dns;
mod http;
mod names;
mod sources;

use crate::config::DiscoverSpec;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A server as a source names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// ADDRESS:PORT.
    pub address: String,
    /// Its other keys, as in the file.
    pub keys: Map<String, Value>,
    /// What of it cannot be read, if anything cannot: then it stands for the server that it was before.
    pub wrong: Option<String>,
}

/// What a source named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    /// The servers.
    pub servers: Vec<Found>,
    /// What in it is no server, and what is odd.
    pub notes: Vec<String>,
}

/// What a source said.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// The service.
    pub service: String,
    /// Its servers, or why they are not known.
    pub servers: Result<List, String>,
}

#[derive(Debug)]
enum Order {
    Start(String, Box<DiscoverSpec>),
    Stop(String),
}

/// The thread with all sources. It ends when this is dropped.
#[derive(Debug)]
pub struct Discovery {
    orders: mpsc::UnboundedSender<Order>,
    running: HashMap<String, DiscoverSpec>,
}

impl Discovery {
    /// Starts the thread; `tell` gets what sources say, on that thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(tell: impl Fn(News) + 'static + Send) -> Result<Self, String> {
        let says = |error: std::io::Error| format!("discovery cannot run: {error}");
        let (orders, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(says)?;
        std::thread::Builder::new()
            .name("discovery".into())
            .spawn(move || {
                tokio::task::LocalSet::new().block_on(&runtime, serve(received, std::rc::Rc::new(tell)))
            })
            .map_err(says)?;
        Ok(Self { orders, running: HashMap::new() })
    }

    /// Asks these sources, and no others; those that were asked before go on.
    pub fn follow<'a>(&mut self, wanted: impl Iterator<Item = (&'a str, &'a DiscoverSpec)>) {
        let wanted: HashMap<&str, &DiscoverSpec> = wanted.collect();
        let over: Vec<_> = self
            .running
            .iter()
            .filter(|(name, spec)| wanted.get(name.as_str()) != Some(spec))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            self.running.remove(&name);
            let _ = self.orders.send(Order::Stop(name));
        }
        for (name, spec) in wanted {
            if !self.running.contains_key(name) {
                self.running.insert(name.to_owned(), spec.clone());
                let _ = self.orders.send(Order::Start(name.to_owned(), Box::new(spec.clone())));
            }
        }
    }
}

async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, tell: std::rc::Rc<dyn Fn(News)>) {
    let mut tasks: HashMap<String, JoinHandle<()>> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Start(name, spec) => {
                let job = watch(name.clone(), *spec, std::rc::Rc::clone(&tell));
                tasks.insert(name, tokio::task::spawn_local(job));
            }
            Order::Stop(name) => {
                if let Some(task) = tasks.remove(&name) {
                    task.abort();
                }
            }
        }
    }
}

/// Asks one source for ever.
async fn watch(service: String, spec: DiscoverSpec, tell: std::rc::Rc<dyn Fn(News)>) {
    let mut last = None;
    let mut memory = sources::Memory::default();
    loop {
        let (servers, again) = match sources::ask(&spec, &mut memory).await {
            Ok((list, again)) => (in_order(list, spec.max_servers), again),
            Err(error) => (Err(error), spec.interval),
        };
        let news = News { service: service.clone(), servers };
        if last.as_ref() != Some(&news) {
            tell(news.clone());
            last = Some(news);
        }
        tokio::time::sleep(again.min(spec.interval)).await;
    }
}

/// The list by address, each once; no longer than it may be.
fn in_order(mut list: List, most: usize) -> Result<List, String> {
    let named = list.servers.len();
    if named > most {
        return Err(format!(
            "it names {named} servers, more than the {most} that are taken from it; raise max_servers if that is right"
        ));
    }
    // The sort is stable: of several with one address the first that was named counts.
    list.servers.sort_by(|one, other| one.address.cmp(&other.address));
    let notes = &mut list.notes;
    list.servers.dedup_by(|later, first| {
        let is_same = later.address == first.address;
        if is_same && later.keys != first.keys {
            notes.push(format!("{} is named twice, with other words; the first counts", first.address));
        }
        is_same
    });
    Ok(list)
}

/// As many notes as are told.
const NOTES_SHOWN: usize = 5;

/// Notes as a sentence; none without any.
pub fn notes_text(notes: &[String]) -> Option<String> {
    let shown: Vec<_> = notes.iter().take(NOTES_SHOWN).map(String::as_str).collect();
    let rest = notes.len().saturating_sub(NOTES_SHOWN);
    match (notes.len(), rest) {
        (0, _) => None,
        (_, 0) => Some(shown.join("; ")),
        _ => Some(format!("{}; and {rest} more", shown.join("; "))),
    }
}

/// A list that is not to be followed yet is held back for so long.
pub const HOLD: Duration = Duration::from_secs(60);

/// Whether a new list may be followed: not when nobody is left, and not at once when what is left of the old one is at
/// most `threshold` of it.
pub fn judge(old: usize, kept: usize, new: usize, threshold: Option<f64>) -> Verdict {
    if new == 0 && old > 0 {
        return Verdict::Keep;
    }
    let shrinks = new < old && (kept as f64) <= threshold.unwrap_or(0.0) * old as f64;
    if shrinks { Verdict::Hold } else { Verdict::Follow }
}

/// What is to be done with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Use it.
    Follow,
    /// Use it when it is still so after [`HOLD`].
    Hold,
    /// Stay with the last one.
    Keep,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_each_server_once_and_not_too_many() {
        let found = |address: &str, weight: u64| {
            let keys = Map::from_iter([("weight".to_owned(), Value::from(weight))]);
            Found { address: address.to_owned(), keys, wrong: None }
        };
        let servers = vec![found("b", 1), found("a", 2), found("b", 9), found("a", 2)];
        let list = in_order(List { servers, notes: Vec::new() }, 4).unwrap();
        assert_eq!(list.servers, [found("a", 2), found("b", 1)]);
        assert_eq!(list.notes, ["b is named twice, with other words; the first counts"]);
        assert!(in_order(list, 1).unwrap_err().contains("raise max_servers"));
        let many: Vec<_> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(notes_text(&many).unwrap(), "0; 1; 2; 3; 4; and 7 more");
        assert_eq!(notes_text(&[]), None);
    }

    #[test]
    fn nobody_acts_on_an_empty_list_and_sudden_shrinkage_waits() {
        assert_eq!(judge(10, 0, 0, Some(0.5)), Verdict::Keep);
        assert_eq!(judge(10, 0, 0, None), Verdict::Keep);
        assert_eq!(judge(10, 4, 4, Some(0.4)), Verdict::Hold);
        assert_eq!(judge(10, 5, 5, Some(0.4)), Verdict::Follow);
        assert_eq!(judge(10, 0, 10, Some(0.4)), Verdict::Follow, "as many others are a move");
        assert_eq!(judge(10, 1, 1, Some(0.0)), Verdict::Follow);
        assert_eq!(judge(0, 0, 3, Some(0.4)), Verdict::Follow);
    }
}
