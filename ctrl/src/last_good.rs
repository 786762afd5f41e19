//! The last good state on disk: what is used when the file is bad at start.

use crate::config::{self, Loaded, Text};
use crate::files;
use rustix::fs::OFlags;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Where a daemon with this configuration keeps its state, if nobody says so: a system's in /var/lib, and any other
/// beside the file.
pub fn usual_folder(config: &Path) -> PathBuf {
    let folder = config.parent().unwrap_or(Path::new("."));
    if folder.starts_with("/etc") { PathBuf::from("/var/lib/sluice") } else { folder.join("state") }
}

/// The name of the state of the configuration at `config`: each has its own, so that one never runs instead of another.
fn name_of(config: &Path) -> String {
    /// Bytes of a path that stand in the name; the hash tells longer ones apart.
    const SHOWN: usize = 160;
    let mut name = String::new();
    // FNV-1a: the same in every build, which the standard library's hashes do not promise.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in config.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let c = char::from(*byte);
        name.push(if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '-' });
    }
    let shown = &name[name.len().saturating_sub(SHOWN)..];
    format!("last-good-{hash:016x}{shown}")
}

/// Keeps what it is given, the latest only, on a thread of its own: disks may be slow.
#[derive(Debug)]
pub struct Keeper {
    texts: Option<Sender<Arc<Text>>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// One that writes the state of the configuration at `config` into this folder.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(folder: &Path, config: &Path) -> io::Result<Self> {
        let (texts, given) = channel::<Arc<Text>>();
        let path = folder.join(name_of(config));
        let keep = move || {
            while let Ok(text) = given.recv() {
                let latest = given.try_iter().last().unwrap_or(text);
                if let Err(error) = save(&path, &latest) {
                    let path = path.display();
                    log::warn!(target: "config", "{path}: the last good state is not kept: {error}");
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

/// Keeps a text. Nobody else reads it: it may have been read from a file that nobody else reads.
fn save(path: &Path, text: &Text) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let is_private = |file: &Metadata| file.is_file() && file.mode() & 0o077 == 0;
    let is_kept = path.symlink_metadata().is_ok_and(|file| is_private(&file))
        && std::fs::read(path).is_ok_and(|old| old == text.whole().as_bytes());
    if is_kept { Ok(()) } else { put(path, text.whole(), None) }
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
    if let Some(like) = like {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
        file.set_permissions(like.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    // The folder's entry, too.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// What was kept of the configuration at `config`, if it is still good; and where it stands.
pub fn load(folder: &Path, config: &Path) -> Option<(Loaded, PathBuf)> {
    let path = folder.join(name_of(config));
    let text = files::read_text(&path).ok()?;
    Some((config::parse(&text, &path).ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_file_has_a_state_of_its_own_that_nobody_else_reads() {
        let folder = std::env::temp_dir().join(format!("sluice-last-good-{}", std::process::id()));
        let text = |words: &str| Text::of(Path::new("x"), words);
        let path = |config: &str| folder.join(name_of(Path::new(config)));
        assert_eq!(
            name_of(Path::new("/etc/sluice/sluice.toml")),
            "last-good-4124c8684d48ed22-etc-sluice-sluice.toml"
        );
        assert_ne!(path("/a-b"), path("/a/b"));
        assert!(name_of(Path::new(&"/x".repeat(2_000))).len() < 255);
        let one = path("/etc/one.toml");
        save(&one, &text("one")).unwrap();
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&one)), (0o700, 0o600));
        // Links that somebody put there are not written through.
        let victim = folder.join("victim");
        std::fs::write(&victim, "mine").unwrap();
        let mut fresh = one.clone().into_os_string();
        fresh.push(".new");
        symlink(&victim, fresh).unwrap();
        save(&one, &text("two")).unwrap();
        std::fs::remove_file(&one).unwrap();
        symlink(&victim, &one).unwrap();
        save(&one, &text("three")).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!((std::fs::read_to_string(&one).unwrap().as_str(), mode(&one)), ("three", 0o600));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
