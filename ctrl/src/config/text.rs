//! The text of a configuration: the file, and the fragments in the folder `conf.d` beside it, as one.

use super::{LoadError, Problem};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder with fragments.
const FRAGMENTS: &str = "conf.d";

/// The text of all files, one behind the other, and where each begins.
#[derive(Clone, Debug)]
pub struct Text {
    whole: String,
    pieces: Vec<(usize, PathBuf)>,
    /// Where each line begins; made when a place is first asked for.
    lines: OnceLock<Vec<usize>>,
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        (&self.whole, &self.pieces) == (&other.whole, &other.pieces)
    }
}

impl Text {
    /// The text of one file.
    pub fn of(path: &Path, text: &str) -> Self {
        Self { whole: text.to_owned(), pieces: vec![(0, path.to_owned())], lines: OnceLock::new() }
    }

    /// Reads the file at `path` and the fragments `conf.d/*.toml` beside it, in the order of their names.
    ///
    /// # Errors
    /// When one of them cannot be read, or a fragment has anything but services.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| {
                LoadError::Unreadable(Problem::of_file(path, format!("cannot be read: {error}")))
            })
        };
        let mut text = Self::of(path, &read(path)?);
        for path in fragments(path) {
            let piece = read(&path)?;
            check_fragment(&piece, &path)?;
            text.whole.push('\n');
            text.pieces.push((text.whole.len(), path));
            text.whole.push_str(&piece);
        }
        Ok(text)
    }

    /// The text of pieces, the first of which is the file itself.
    pub fn join(pieces: Vec<(PathBuf, String)>) -> Self {
        let mut text = Self { whole: String::new(), pieces: Vec::new(), lines: OnceLock::new() };
        for (path, piece) in pieces {
            if !text.pieces.is_empty() {
                text.whole.push('\n');
            }
            text.pieces.push((text.whole.len(), path));
            text.whole.push_str(&piece);
        }
        text
    }

    /// All of it.
    pub fn whole(&self) -> &str {
        &self.whole
    }

    /// Each file with its text.
    pub fn pieces(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.pieces.iter().enumerate().map(|(at, (start, path))| {
            // A line feed stands between two.
            let end = self.pieces.get(at + 1).map_or(self.whole.len(), |(next, _)| next - 1);
            (path.as_path(), &self.whole[*start..end])
        })
    }

    /// The file, and its line from 1, on which byte `offset` stands.
    pub(super) fn place(&self, offset: usize) -> (&Path, usize) {
        let at = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let (start, path) = &self.pieces[at];
        let line_of = |offset: usize| self.lines().partition_point(|begin| *begin <= offset);
        (path, line_of(offset.max(*start)) - line_of(*start) + 1)
    }

    fn lines(&self) -> &[usize] {
        self.lines.get_or_init(|| {
            let feeds = self.whole.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            std::iter::once(0).chain(feeds.map(|(at, _)| at + 1)).collect()
        })
    }

    /// The file itself.
    pub(super) fn path(&self) -> &Path {
        &self.pieces[0].1
    }
}

/// The fragments beside the file at `path`, in the order of their names.
fn fragments(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(".")).join(FRAGMENTS);
    let entries = folder.read_dir().into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mut all: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    all.sort();
    all
}

/// A fragment has services alone: what stands in it must not continue a table of another file.
fn check_fragment(text: &str, path: &Path) -> Result<(), LoadError> {
    let is_service = |line: &str| {
        ["[[service]]", "[[service.", "[service."]
            .iter()
            .any(|start| line.replace(' ', "").starts_with(start))
    };
    let mut begun = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || begun && !line.starts_with('[') {
            continue;
        }
        // A value of several lines may begin with a bracket too, but not with a key in it.
        let is_header = line.starts_with('[')
            && line.trim_start_matches('[').starts_with(|c: char| c.is_ascii_alphabetic());
        if begun && !is_header {
            continue;
        }
        if !is_service(line) {
            let message = "a fragment in conf.d has [[service]] tables alone; move this to the main file";
            return Err(LoadError::Wrong(vec![Problem {
                line: Some(at + 1),
                ..Problem::of_file(path, message.to_owned())
            }]));
        }
        begun = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_files() {
        let text = Text::join(vec![("a".into(), "1\n2\n3".into()), ("b".into(), "4\n5".into())]);
        assert_eq!(text.whole(), "1\n2\n3\n4\n5");
        let lines: Vec<_> = (0..9).step_by(2).map(|at| text.place(at)).collect();
        let (a, b) = (Path::new("a"), Path::new("b"));
        assert_eq!(lines, [(a, 1), (a, 2), (a, 3), (b, 1), (b, 2)]);
        assert_eq!(text.pieces().collect::<Vec<_>>(), [(a, "1\n2\n3"), (b, "4\n5")]);
    }

    #[test]
    fn fragments_have_services_alone() {
        let check = |text: &str| check_fragment(text, Path::new("x.toml"));
        assert!(check("# mine\n\n[[service]]\nname = \"a\"\nlisten = [\n  \"x\",\n]\n[service.health]\n[[service.server]]\n").is_ok());
        for bad in ["workers = [1]\n[[service]]", "[[service]]\n[[port]]", "[admin]"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
