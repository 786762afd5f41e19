//! What the next start must find: the key of sequence numbers, and the kernel's settings as they were.

use crate::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const SEQUENCE_KEY: &str = "sequence-key";
const SETTINGS: &str = "kernel-settings.json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The key by which connections get their sequence numbers (RFC 6528): the same at each start, so that a server that
/// still knows an earlier connection finds the next one's number later. `fresh` becomes it where there is none.
///
/// # Errors
/// When a new one cannot be written; it is good for this start alone then.
pub fn sequence_key(folder: &Path, fresh: [u64; 4]) -> ([u64; 4], io::Result<()>) {
    let path = folder.join(SEQUENCE_KEY);
    let known = files::read_text(&path).ok().and_then(|text| parse_key(&text));
    match known {
        Some(key) => (key, Ok(())),
        None => {
            let words: Vec<_> = fresh.iter().map(|word| format!("{word:016x}")).collect();
            (fresh, files::keep(&path, &(words.join(" ") + "\n")))
        }
    }
}

fn parse_key(text: &str) -> Option<[u64; 4]> {
    let words: Option<Vec<_>> =
        text.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok()).collect();
    words?.try_into().ok()
}

/// The kernel's settings that were changed, with what they were, on the disk as long as they are changed: a daemon that
/// was killed leaves them to the next one.
#[derive(Debug)]
pub struct Settings {
    path: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// They are gone with the boot.
    boot_id: String,
    before: BTreeMap<PathBuf, String>,
}

impl Settings {
    /// What an earlier daemon left changed.
    pub fn of(folder: &Path) -> Self {
        let path = folder.join(SETTINGS);
        let kept = files::read_text(&path).ok().and_then(|text| serde_json::from_str::<Kept>(&text).ok());
        let kept = kept.filter(|kept| Some(&kept.boot_id) == boot_id().as_ref());
        Self { path, before: kept.map(|kept| kept.before).unwrap_or_default() }
    }

    /// Notes that a setting will be changed from `value`, unless it is known from before what it was. It is on the disk
    /// when this returns.
    pub fn note(&mut self, setting: &Path, value: &str) {
        if self.before.contains_key(setting) {
            return;
        }
        self.before.insert(setting.to_owned(), value.to_owned());
        let kept = Kept { boot_id: boot_id().unwrap_or_default(), before: self.before.clone() };
        let text = serde_json::to_string(&kept).map_err(io::Error::other);
        if let Err(error) = text.and_then(|text| files::keep(&self.path, &text)) {
            log::warn!(target: "kernel",
                "{}: {error}; after a crash {} stays changed, it was {value}", self.path.display(), setting.display());
        }
    }

    /// Every setting that is changed, with what it was; forgets them.
    pub fn take(&mut self) -> BTreeMap<PathBuf, String> {
        if !self.before.is_empty() {
            // One that stays says what is true already.
            let _ = std::fs::remove_file(&self.path);
        }
        std::mem::take(&mut self.before)
    }
}

fn boot_id() -> Option<String> {
    Some(files::read_text(Path::new(BOOT_ID)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_start_finds_what_this_one_kept() {
        let folder = std::env::temp_dir().join(format!("sluice-state-{}", std::process::id()));
        let (key, kept) = sequence_key(&folder, [1, 2, 3, u64::MAX]);
        kept.unwrap();
        assert_eq!(key, [1, 2, 3, u64::MAX]);
        assert_eq!(sequence_key(&folder, [5, 6, 7, 8]).0, key);
        std::fs::write(folder.join(SEQUENCE_KEY), "damaged").unwrap();
        assert_eq!(sequence_key(&folder, [5, 6, 7, 8]).0, [5, 6, 7, 8]);

        let setting = Path::new("/proc/sys/net/x");
        let mut first = Settings::of(&folder);
        first.note(setting, "0");
        drop(first);
        // Killed: the next one sees a changed value, and knows better.
        let mut second = Settings::of(&folder);
        second.note(setting, "1");
        assert_eq!(second.take(), [(setting.to_owned(), "0".to_owned())].into());
        assert!(Settings::of(&folder).take().is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
