//! Files with prefixes: read, and read again when they change, on a thread of their own.
//!
//! A file that is broken or empty changes nothing, nor does one that somebody writes at the moment: it is read when it was
//! the same at two looks.

mod read;

pub use read::{network, read};

use crate::files;
use dataplane::prefixes::{Builder, Prefixes};
use dataplane::snapshot::Network;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The name of the list that commands fill.
pub const BANS: &str = "bans";
/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Prefixes of a list.
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
    /// Its prefixes; or why they are not known, or not known anew.
    pub result: Result<Arc<Prefixes>, String>,
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
type Mark = Vec<Result<(u64, u64, i64, i64), io::ErrorKind>>;

/// A list that is followed.
#[derive(Debug, Default)]
struct Followed {
    list: List,
    /// What was seen last, and what was read.
    seen: Option<Mark>,
    read: Option<Mark>,
}

fn follow(wanted: &Receiver<Wanted>, tell: impl Fn(News)) {
    let mut lists: HashMap<String, Followed> = HashMap::new();
    loop {
        match wanted.recv_timeout(LOOK) {
            Ok(wanted) => {
                let mut known = std::mem::take(&mut lists);
                for (name, list) in wanted {
                    let same = known.remove(&name).filter(|followed| followed.list == list);
                    lists.insert(name, same.unwrap_or(Followed { list, seen: None, read: None }));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for (name, followed) in &mut lists {
            let mark = mark(&followed.list.files);
            // At first there is nothing that a file could be half of.
            let is_settled = followed.read.is_none() || followed.seen.as_ref() == Some(&mark);
            if is_settled && followed.read.as_ref() != Some(&mark) {
                let (name, list) = (name.clone(), followed.list.clone());
                tell(News { name, result: read_all(&list), list });
                followed.read = Some(mark.clone());
            }
            followed.seen = Some(mark);
        }
    }
}

fn mark(files: &[PathBuf]) -> Mark {
    let of = |path: &PathBuf| {
        let asked = path.clone();
        let metadata = files::beside(path, move |_| std::fs::metadata(asked)).and_then(|metadata| metadata);
        metadata
            .map(|metadata| (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
            .map_err(|error| error.kind())
    };
    files.iter().map(of).collect()
}

/// The prefixes of a list and of all its files together.
fn read_all(list: &List) -> Result<Arc<Prefixes>, String> {
    let mut builder = Builder::default();
    list.prefixes.iter().for_each(|network| builder.add(*network));
    for path in &list.files {
        read_file(path, &mut builder)?;
    }
    Ok(Arc::new(builder.build()))
}

fn read_file(path: &Path, builder: &mut Builder) -> Result<(), String> {
    let text = files::read_text(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let before = builder.count();
    read(&text, builder).map_err(|(line, problem)| format!("{}:{line}: {problem}", path.display()))?;
    if builder.count() == before {
        return Err(format!("{}: there is no prefix in it", path.display()));
    }
    if builder.count() > PREFIXES_MAX {
        return Err(format!("{}: there are more than {PREFIXES_MAX} prefixes", path.display()));
    }
    Ok(())
}
