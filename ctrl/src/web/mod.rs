//! The page for browsers: what happens now and what happened in the last hour. Nobody changes anything by it.
//!
//! A thread of its own looks once a second: it reads workers' counters by the roll that metrics have too, asks control for
//! the rest as a client of the admin socket would, and makes one [`Picture`](picture::Picture) for all browsers. Each
//! browser has a stream of the part that it shows. However many there are, control is asked by one.

mod history;
mod live;
mod picture;
mod serve;

use crate::admin::Call;
use crate::config::Exposed;
use crate::exposure::Exposure;
use crate::http::site::{Answering, Crowd};
use crate::metrics::Roll;
use history::History;
use picture::{Looker, Picture};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Streams at a time, and those of one client.
const CROWD: Crowd =
    Crowd { path: live::PATH, most: 64, per_client: 8, refusal: "too many pages are open; close some\n" };
/// Services whose servers are shown at a time; others wait for a turn.
const SHOWN_MAX: usize = 16;

/// Gives a call to control; false when it is gone.
#[derive(Clone)]
pub struct Ask(Arc<dyn Fn(Call) -> bool + Send + Sync>);

impl Ask {
    /// By this function.
    pub fn by(ask: impl Fn(Call) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ask")
    }
}

/// What the threads share.
struct Shared {
    roll: Mutex<Option<Arc<Roll>>>,
    history: Mutex<History>,
    pictures: watch::Sender<Arc<Picture>>,
    /// The services whose servers somebody looks at, each as often as somebody does.
    shown: Mutex<Vec<String>>,
    /// Set when something is wanted before the second is over; and what tells of it.
    wanted: Mutex<bool>,
    bell: Condvar,
    is_over: AtomicBool,
    /// Whether names are taken as the host's: users or TLS prove them.
    takes_names: AtomicBool,
}

impl Shared {
    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread that looks.
    fn ring(&self) {
        *Self::lock(&self.wanted) = true;
        self.bell.notify_all();
    }

    /// The services whose servers are looked at, each once, from the one of number `from` on.
    fn shown(&self, from: usize) -> Vec<String> {
        let all: BTreeSet<_> = Self::lock(&self.shown).iter().cloned().collect();
        let all: Vec<_> = all.into_iter().collect();
        let count = all.len();
        (0..count.min(SHOWN_MAX)).map(|nth| all[(from + nth) % count].clone()).collect()
    }
}

/// The page, on threads of its own. They end when this is dropped.
pub struct Page {
    exposure: Exposure,
    shared: Arc<Shared>,
}

impl Page {
    /// Threads that answer nobody yet.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(ask: Ask) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            roll: Mutex::default(),
            history: Mutex::default(),
            pictures: watch::Sender::new(Arc::default()),
            shown: Mutex::default(),
            wanted: Mutex::default(),
            bell: Condvar::new(),
            is_over: AtomicBool::default(),
            takes_names: AtomicBool::default(),
        });
        let answers = Arc::clone(&shared);
        let answering: Answering = Arc::new(move |request| serve::answer(request, &answers));
        let exposure = Exposure::start("web", CROWD, answering)?;
        let looker = Looker::new(Arc::clone(&shared), ask);
        std::thread::Builder::new()
            .name("web-looks".into())
            .spawn(move || looker.look())
            .map_err(|error| format!("web: {error}"))?;
        Ok(Self { exposure, shared })
    }

    /// Answers at the addresses of `exposed` and no others. Returns what is wrong with those that cannot be used.
    /// With `is_new` certificates are read anew, and connections that were let in by other rules end.
    pub fn follow(&mut self, exposed: &Exposed, is_new: bool) -> Vec<String> {
        let proves = !exposed.users.is_empty() || exposed.tls.is_some();
        self.shared.takes_names.store(proves, Ordering::Relaxed);
        self.exposure.follow(exposed, is_new)
    }

    /// The page shows this from now on.
    pub fn publish(&self, roll: Arc<Roll>) {
        *Shared::lock(&self.shared.roll) = Some(roll);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.ring();
    }
}
