//! Archives as the kernel unpacks them at its start: the format newc of cpio
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    count: u32,
    folders: BTreeSet<String>,
}

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;

impl Archive {
    /// A folder, and those that it lies in.
    pub fn folder(&mut self, path: &str) {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        self.parents(path);
        self.entry(path, FOLDER, &[]);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, LINK, target.as_bytes());
    }

    /// A file with its permissions.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>, permissions: u32) {
        self.parents(path);
        self.entry(path, FILE | permissions, &bytes);
    }

    /// The whole archive.
    pub fn bytes(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let name_len = path.len() as u32 + 1;
        // Number, mode, owner, group, links, time, size, four device numbers, the name's length, no checksum.
        let fields = [self.count, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_each_entry_behind_its_folders() {
        let mut archive = Archive::default();
        archive.file("a/b/c", b"hello".to_vec(), 0o644);
        archive.link("a/d", "b/c");
        let bytes = archive.bytes();
        let text = String::from_utf8_lossy(&bytes);
        let places =
            ["a\0", "a/b\0", "a/b/c\0", "hello", "a/d\0", "TRAILER!!!\0"].map(|part| text.find(part));
        assert!(places.is_sorted() && places[0].is_some(), "{places:?}");
        assert_eq!(text.matches("070701").count(), 5);
        assert_eq!(bytes.len() % 4, 0);
    }
}
