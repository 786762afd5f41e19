//! The last good state on disk: what is used when the file is bad at start.

use crate::config::{self, Loaded, Text};
use crate::log;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

const NAME: &str = "last-good.toml";

/// Where a daemon with this configuration keeps its state, if nobody says so: a system's in /var/lib, and any other
/// beside the file.
pub fn usual_folder(config: &Path) -> PathBuf {
    let folder = config.parent().unwrap_or(Path::new("."));
    if folder.starts_with("/etc") { PathBuf::from("/var/lib/sluice") } else { folder.join("state") }
}

/// Keeps what it is given, the latest only, on a thread of its own: disks may be slow.
#[derive(Debug)]
pub struct Keeper {
    texts: Option<Sender<Arc<Text>>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// One that writes into this folder.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(folder: PathBuf) -> io::Result<Self> {
        let (texts, given) = channel::<Arc<Text>>();
        let keep = move || {
            while let Ok(text) = given.recv() {
                let latest = given.try_iter().last().unwrap_or(text);
                if let Err(error) = save(&folder, &latest) {
                    let folder = folder.display();
                    log::say(format_args!("{folder}: the last good state is not kept: {error}"));
                }
            }
        };
        let thread = std::thread::Builder::new().name("last-good".into()).spawn(keep)?;
        Ok(Self { texts: Some(texts), thread: Some(thread) })
    }

    /// Keeps a text.
    pub fn keep(&self, text: Arc<Text>) {
        // The thread ends after this does.
        self.texts.as_ref().map(|texts| texts.send(text));
    }
}

/// What was given is on the disk before this is gone.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.texts = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Keeps a text.
fn save(folder: &Path, text: &Text) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(NAME);
    if std::fs::read(&path).is_ok_and(|old| old == text.whole().as_bytes()) {
        return Ok(());
    }
    replace(&path, text.whole())
}

/// Writes a file so that one who reads it sees the old or the new, whole, also after a loss of power. It stays its
/// owner's, and where it is a link the file behind it is written.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = File::create(&fresh)?;
    if let Ok(old) = std::fs::metadata(&path) {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(fresh, path)
}

/// What was kept, if it is still good; and where it stands.
pub fn load(folder: &Path) -> Option<(Loaded, PathBuf)> {
    let path = folder.join(NAME);
    let text = std::fs::read_to_string(&path).ok()?;
    Some((config::parse(&text, &path).ok()?, path))
}
