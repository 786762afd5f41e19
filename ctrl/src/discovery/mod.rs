//! Discovery: servers from files, names, Nacos and etcd.
//!
//! One thread asks all sources, each in its own time; what a source says goes to control only when it is
//! something else than before. What follows from it is decided there ([`judge`]): a source that falls silent, or says
//! that there is nobody, changes nothing.

mod dns;
mod http;
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
}

impl Found {
    /// Whether it is to get sessions.
    pub fn serves(&self) -> bool {
        self.keys.get("weight").and_then(Value::as_f64) != Some(0.0)
    }
}

/// What a source said.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// The service.
    pub service: String,
    /// Its servers, or why they are not known.
    pub servers: Result<Vec<Found>, String>,
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
            Ok((mut servers, again)) => {
                servers.sort_by(|one, other| one.address.cmp(&other.address));
                servers.dedup_by(|one, other| one.address == other.address);
                (Ok(servers), again)
            }
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
