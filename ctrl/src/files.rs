//! Files: reading what others may hold, and writing what nobody else may read.
//!
//! What is read are files, folders and the system's lists of users, on disks and servers that may be gone.
//!
//! A read of a file on a dead server never ends, and nothing can end it. So each happens on a thread of its own, and the
//! caller waits for a limited time. A place whose last read has not ended is not read again until it has; so no more
//! threads wait than there are such places.

use rustix::fs::OFlags;
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread waits for a read, if it did not say otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest file that is read.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// By what is read: where the read is that has not ended yet, and when it began.
static HELD: LazyLock<Mutex<HashMap<PathBuf, (Place, Instant)>>> = LazyLock::new(Mutex::default);
/// A read ended.
static ENDED: Condvar = Condvar::new();

thread_local! {
    static LIMIT: Cell<Duration> = const { Cell::new(PATIENCE) };
}

/// From now on this thread waits no longer than that for a read.
pub fn set_patience(limit: Duration) {
    LIMIT.set(limit);
}

/// The file or folder at which a read is now.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<Mutex<PathBuf>>);

impl Place {
    /// Says where the read is.
    pub fn set(&self, path: &Path) {
        path.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn name(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).display().to_string()
    }
}

/// Does `read`, which reads `what`, on a thread of its own, and waits for it for a limited time.
///
/// # Errors
/// When it does not end in time, of kind `TimedOut`, with the place where it waits; and its own.
pub fn beside<T: Send + 'static>(
    what: &Path,
    read: impl FnOnce(&Place) -> T + Send + 'static,
) -> io::Result<T> {
    let place = Place::default();
    place.set(what);
    let limit = LIMIT.get();
    hold(what, &place, limit)?;
    let (sender, done) = channel();
    let (key, here) = (what.to_owned(), place.clone());
    let spawned = std::thread::Builder::new().name("read".into()).spawn(move || {
        let result = read(&here);
        release(&key);
        // A caller that gave up wants nothing any more.
        let _ = sender.send(result);
    });
    if let Err(error) = spawned {
        release(what);
        return Err(error);
    }
    done.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            let (place, limit) = (place.name(), limit.as_millis());
            let message = format!("reading {place} takes longer than {limit} ms; look at its disk or server");
            io::Error::new(io::ErrorKind::TimedOut, message)
        }
        RecvTimeoutError::Disconnected => io::Error::other("the read failed"),
    })
}

/// Notes a read, when no other of the same is under way any more.
fn hold(what: &Path, place: &Place, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let mut held = held();
    while let Some((place, since)) = held.get(what) {
        let now = Instant::now();
        // Another that reads the same is soon done, unless it is none that ends.
        let end = deadline.min(*since + limit);
        if now >= end {
            let message = format!(
                "reading {} has not ended since it was last tried; look at its disk or server",
                place.name()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        held = ENDED.wait_timeout(held, end - now).unwrap_or_else(PoisonError::into_inner).0;
    }
    held.insert(what.to_owned(), (place.clone(), Instant::now()));
    Ok(())
}

fn release(what: &Path) {
    held().remove(what);
    ENDED.notify_all();
}

fn held() -> MutexGuard<'static, HashMap<PathBuf, (Place, Instant)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands in a file.
///
/// # Errors
/// When it cannot be read in time, is no ordinary file, or is longer than 64 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = path.to_owned();
    beside(path, move |_| bytes(&file))?
}

/// [`read`] of a text.
///
/// # Errors
/// As [`read`]; and when it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    text(read(path)?)
}

/// What stands in a file, on this thread. Never waits for the other end of a pipe.
///
/// # Errors
/// When it cannot be read, is no ordinary file, or is longer than 64 MiB.
pub(crate) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 64 MiB"));
    }
    Ok(bytes)
}

/// Bytes as text.
pub(crate) fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

/// Keeps a text of the daemon's own, in a folder that is made if there is none. Nobody else reads it.
///
/// # Errors
/// When it cannot be written.
pub fn keep(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let is_private = |file: &Metadata| file.is_file() && file.mode() & 0o077 == 0;
    let is_kept = path.symlink_metadata().is_ok_and(|file| is_private(&file))
        && std::fs::read(path).is_ok_and(|old| old == text.as_bytes());
    if is_kept { Ok(()) } else { put(path, text, None) }
}

/// Writes a file so that one who reads it sees the old or the new, whole, also after a loss of power. It stays its
/// owner's, and where it is a link the file behind it is written.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = std::fs::metadata(&path).ok();
    put(&path, text, old.as_ref())
}

/// Puts a file in the place of what is there: the owner's and the mode of `like`, else the process's alone.
fn put(path: &Path, text: &str, like: Option<&Metadata>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    // What an earlier process left there, or somebody else: it is not written through.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let no_links = OFlags::NOFOLLOW.bits() as i32;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(no_links).open(&fresh)?;
    let written = fill(&mut file, text, like).and_then(|()| std::fs::rename(&fresh, path));
    if let Err(error) = written {
        // Nothing half done stays; that it stays is the lesser trouble.
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    // The folder's entry, too.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn fill(file: &mut File, text: &str, like: Option<&Metadata>) -> io::Result<()> {
    if let Some(like) = like {
        // In this order: who may give a file away (CAP_CHOWN) may not change the mode of another's (CAP_FOWNER).
        file.set_permissions(like.permissions())?;
        fchown(&*file, Some(like.uid()), Some(like.gid()))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_read_that_does_not_end_is_given_up_and_not_begun_again() {
        set_patience(Duration::from_millis(50));
        let (end, waits) = channel::<()>();
        let what = Path::new("/somewhere/dead");
        let error = beside(what, move |place| {
            place.set(Path::new("/somewhere/dead/10-web.toml"));
            let _ = waits.recv();
        })
        .unwrap_err();
        assert!(error.to_string().contains("/somewhere/dead/10-web.toml"), "{error}");
        let error = beside(what, |_| ()).unwrap_err();
        assert!(error.to_string().contains("has not ended"), "{error}");
        set_patience(Duration::from_secs(10));
        assert!(beside(Path::new("/somewhere/else"), |_| ()).is_ok());
        set_patience(Duration::from_millis(50));
        drop(end);
        let deadline = Instant::now() + Duration::from_secs(10);
        while beside(what, |_| ()).is_err() {
            assert!(Instant::now() < deadline);
        }
    }

    #[test]
    fn pipes_and_folders_are_no_files() {
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("not an ordinary file"));
        assert!(read(Path::new("/")).is_err());
        assert!(read_text(Path::new("/proc/self/stat")).is_ok());
    }
}
