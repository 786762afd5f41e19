//! The last good state on disk: what is used when the file is bad at start.

use crate::config::{self, Loaded, Text};
use std::io;
use std::path::{Path, PathBuf};

const NAME: &str = "last-good.toml";

/// Where a daemon with this configuration keeps its state, if nobody says so: a system's in /var/lib, and any other
/// beside the file.
pub fn usual_folder(config: &Path) -> PathBuf {
    let folder = config.parent().unwrap_or(Path::new("."));
    if folder.starts_with("/etc") { PathBuf::from("/var/lib/sluice") } else { folder.join("state") }
}

/// Keeps a text, so that one who reads it sees the old or the new.
///
/// # Errors
/// When it cannot be written.
pub fn save(folder: &Path, text: &Text) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(NAME);
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text.whole()) {
        return Ok(());
    }
    let fresh = folder.join(format!("{NAME}.new"));
    std::fs::write(&fresh, text.whole())?;
    std::fs::rename(fresh, path)
}

/// What was kept, if it is still good; and where it stands.
pub fn load(folder: &Path) -> Option<(Loaded, PathBuf)> {
    let path = folder.join(NAME);
    let text = std::fs::read_to_string(&path).ok()?;
    Some((config::parse(&text, &path).ok()?, path))
}
