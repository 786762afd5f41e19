//! Files with prefixes: read, and read again when they change, on a thread of their own.
//!
//! A file that is broken or empty changes nothing, nor does one that somebody writes at the moment: it is read when it was
//! the same at two looks.

mod read;

pub use read::{network, read};

use crate::files;
use dataplane::prefixes::{Builder, Prefixes};
use dataplane::snapshot::Network;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The name of the list that commands fill.
pub const BANS: &str = "bans";
/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a file is read again that could not be.
const PAUSE: Duration = Duration::from_secs(10);
/// Prefixes of a file.
const PREFIXES_MAX: usize = 4_000_000;

/// What a list is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Prefixes that are said.
    pub prefixes: Vec<Network>,
    /// Files with more of them.
    pub files: Vec<PathBuf>,
}

/// What became of a list.
#[derive(Debug)]
pub struct News {
    /// Its name.
    pub name: String,
    /// What it was made of.
    pub list: List,
    /// Its prefixes: those that are said, and of each file what it said when it could be read last.
    pub prefixes: Arc<Prefixes>,
    /// Why files are not followed.
    pub problem: Option<String>,
}

/// The lists that are to be followed, by name.
type Wanted = Vec<(String, List)>;

/// The thread that follows files. It ends when this is dropped.
#[derive(Debug)]
pub struct Lists(Sender<Wanted>);

impl Lists {
    /// Starts the thread; `tell` gets what it finds, on that thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(tell: impl Fn(News) + Send + 'static) -> io::Result<Self> {
        let (sender, wanted) = channel();
        std::thread::Builder::new().name("lists".into()).spawn(move || follow(&wanted, tell))?;
        Ok(Self(sender))
    }

    /// Follows these lists from now on, and no others.
    pub fn follow(&self, wanted: Wanted) {
        // The thread ends after this does.
        let _ = self.0.send(wanted);
    }
}

/// By what it is seen that a file is another.
type Mark = Result<(u64, u64, [i64; 4]), io::ErrorKind>;

/// A file that is followed.
#[derive(Debug)]
struct Followed {
    /// What was seen last, and what was tried to read.
    seen: Option<Mark>,
    tried: Option<Mark>,
    /// When it is tried again whatever is seen, because it could not be read.
    again: Option<Instant>,
    /// What it said when it could be read last.
    prefixes: Arc<Builder>,
    problem: Option<String>,
}

impl Followed {
    fn new() -> Self {
        Self { seen: None, tried: None, again: None, prefixes: Arc::default(), problem: None }
    }

    /// Reads the file if it is another; returns whether it did.
    fn look(&mut self, path: &Path) -> bool {
        let mark = mark(path);
        // At first there is nothing that a file could be half of.
        let is_settled = self.tried.is_none() || self.seen.as_ref() == Some(&mark);
        let is_due = self.again.is_some_and(|again| again <= Instant::now());
        let reads = is_settled && self.tried.as_ref() != Some(&mark) || is_due;
        if reads {
            let read = read_file(path);
            self.again = read.is_err().then(|| Instant::now() + PAUSE);
            match read {
                Ok(prefixes) => (self.prefixes, self.problem) = (Arc::new(prefixes), None),
                Err(problem) => self.problem = Some(problem),
            }
            self.tried = Some(mark);
        }
        self.seen = Some(mark);
        reads
    }
}

fn follow(wanted: &Receiver<Wanted>, tell: impl Fn(News)) {
    let mut lists: Wanted = Vec::new();
    let mut files: HashMap<PathBuf, Followed> = HashMap::new();
    loop {
        // Lists that are new, or made of something else: told of even if no file was read.
        let mut stale: HashSet<String> = HashSet::new();
        match wanted.recv_timeout(LOOK) {
            Ok(wanted) => {
                let is_new = |(name, list): &&(String, List)| {
                    !lists.iter().any(|(other, known)| other == name && known == list)
                };
                stale.extend(wanted.iter().filter(is_new).map(|(name, _)| name.clone()));
                lists = wanted;
                files.retain(|path, _| lists.iter().any(|(_, list)| list.files.contains(path)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let mut read: HashSet<&Path> = HashSet::new();
        let mut seen: HashSet<&Path> = HashSet::new();
        for path in lists.iter().flat_map(|(_, list)| &list.files) {
            if seen.insert(path) && files.entry(path.clone()).or_insert_with(Followed::new).look(path) {
                read.insert(path);
            }
        }
        for (name, list) in &lists {
            if stale.contains(name) || list.files.iter().any(|path| read.contains(path.as_path())) {
                tell(news(name, list, &files));
            }
        }
    }
}

/// What is known of a list.
fn news(name: &str, list: &List, files: &HashMap<PathBuf, Followed>) -> News {
    let of_list = || list.files.iter().filter_map(|path| files.get(path));
    let mut builder = Builder::default();
    list.prefixes.iter().for_each(|network| builder.add(*network));
    of_list().for_each(|file| builder.add_all(&file.prefixes));
    let problems: Vec<_> = of_list().filter_map(|file| file.problem.clone()).collect();
    let problem = (!problems.is_empty()).then(|| problems.join("; "));
    News { name: name.to_owned(), list: list.clone(), prefixes: Arc::new(builder.build()), problem }
}

fn mark(path: &Path) -> Mark {
    let asked = path.to_owned();
    let metadata = files::beside(path, move |_| std::fs::metadata(asked)).and_then(|metadata| metadata);
    metadata
        .map(|one| (one.ino(), one.len(), [one.mtime(), one.mtime_nsec(), one.ctime(), one.ctime_nsec()]))
        .map_err(|error| error.kind())
}

fn read_file(path: &Path) -> Result<Builder, String> {
    let text = files::read_text(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut builder = Builder::default();
    read(&text, &mut builder).map_err(|(line, problem)| format!("{}:{line}: {problem}", path.display()))?;
    match builder.count() {
        0 => Err(format!("{}: there is no prefix in it", path.display())),
        count if count > PREFIXES_MAX => {
            Err(format!("{}: there are more than {PREFIXES_MAX} prefixes", path.display()))
        }
        _ => Ok(builder),
    }
}
