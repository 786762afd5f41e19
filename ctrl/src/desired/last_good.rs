//! The last good state on disk: what is used when the file is bad at start.

use crate::config::{self, Loaded, Text};
use crate::files;
use std::io;
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

/// What the names of a configuration's files have in them: each has its own, so that one never runs instead of another.
fn tag_of(config: &Path) -> String {
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
    format!("{hash:016x}{shown}")
}

/// The name of the last good state of the configuration at `config`.
fn name_of(config: &Path) -> String {
    format!("last-good-{}", tag_of(config))
}

/// The file in which the events of a daemon with this configuration are kept.
pub fn events_file(folder: &Path, config: &Path) -> PathBuf {
    folder.join(format!("events-{}.jsonl", tag_of(config)))
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
                if let Err(error) = files::keep(&path, latest.whole()) {
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

/// What was kept of the configuration at `config`, if it is still good; and where it stands.
pub fn load(folder: &Path, config: &Path) -> Option<(Loaded, PathBuf)> {
    let path = folder.join(name_of(config));
    let text = files::read_text(&path).ok()?;
    Some((config::parse_to_start(Text::of(&path, &text)).ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn each_file_has_a_state_of_its_own_that_nobody_else_reads() {
        let folder = std::env::temp_dir().join(format!("sluice-last-good-{}", std::process::id()));
        let path = |config: &str| folder.join(name_of(Path::new(config)));
        assert_eq!(
            name_of(Path::new("/etc/sluice/sluice.toml")),
            "last-good-4124c8684d48ed22-etc-sluice-sluice.toml"
        );
        assert_ne!(path("/a-b"), path("/a/b"));
        assert!(name_of(Path::new(&"/x".repeat(2_000))).len() < 255);
        let one = path("/etc/one.toml");
        files::keep(&one, "one").unwrap();
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&one)), (0o700, 0o600));
        // Links that somebody put there are not written through.
        let victim = folder.join("victim");
        std::fs::write(&victim, "mine").unwrap();
        let mut fresh = one.clone().into_os_string();
        fresh.push(".new");
        symlink(&victim, fresh).unwrap();
        files::keep(&one, "two").unwrap();
        std::fs::remove_file(&one).unwrap();
        symlink(&victim, &one).unwrap();
        files::keep(&one, "three").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!((std::fs::read_to_string(&one).unwrap().as_str(), mode(&one)), ("three", 0o600));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
