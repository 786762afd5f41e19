//! The text of a configuration: the file, and the fragments in the folder `conf.d` beside it, as one.

use super::{LoadError, Problem};
use crate::files::{self, Place};
use std::io;
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
        let main = path.to_owned();
        let pieces = files::beside(path, move |place| read_all(&main, place));
        let pieces = pieces.map_err(|error| unreadable(path, &error))??;
        for (path, piece) in &pieces[1..] {
            check_fragment(piece, path)?;
        }
        Ok(Self::join(pieces))
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

fn unreadable(path: &Path, error: &io::Error) -> LoadError {
    LoadError::Unreadable(Problem::of_file(path, format!("cannot be read: {error}")))
}

/// The file and its fragments.
fn read_all(main: &Path, place: &Place) -> Result<Vec<(PathBuf, String)>, LoadError> {
    let read = |path: PathBuf| {
        place.set(&path);
        let text = files::bytes(&path).and_then(files::text).map_err(|error| unreadable(&path, &error))?;
        // What some editors put before a text (RFC 3629 §6) is none of it, wherever it stands when all is one.
        let text = text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned);
        Ok((path, text))
    };
    let mut pieces = vec![read(main.to_owned())?];
    for path in fragments(main, place)? {
        pieces.push(read(path)?);
    }
    Ok(pieces)
}

/// The fragments beside the file at `path`, in the order of their names. No folder means none; one that cannot be read
/// is a problem, because its services would be gone otherwise.
fn fragments(path: &Path, place: &Place) -> Result<Vec<PathBuf>, LoadError> {
    let folder = path.parent().unwrap_or(Path::new(".")).join(FRAGMENTS);
    place.set(&folder);
    // The link itself, if it is one: one that leads nowhere is there.
    if folder.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(Vec::new());
    }
    let remedy = |error: io::Error| {
        let message =
            format!("cannot be read: {error}; it is the folder of fragments: mend it, or remove it");
        LoadError::Unreadable(Problem::of_file(&folder, message))
    };
    let mut all = Vec::new();
    for entry in folder.read_dir().map_err(remedy)? {
        let path = entry.map_err(remedy)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !is_hidden {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
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

    /// A folder with a configuration of no words, and beside it what `make` makes.
    fn read_beside(name: &str, make: impl FnOnce(&Path)) -> Result<String, String> {
        let folder = std::env::temp_dir().join(format!("sluice-text-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("sluice.toml"), "# main").unwrap();
        make(&folder);
        let read = Text::read(&folder.join("sluice.toml"));
        std::fs::remove_dir_all(&folder).unwrap();
        read.map(|text| text.whole().to_owned()).map_err(|error| error.problems()[0].to_string())
    }

    #[test]
    fn only_a_folder_that_is_not_there_has_no_fragments() {
        let link = |to: &'static str| {
            move |folder: &Path| std::os::unix::fs::symlink(to, folder.join("conf.d")).unwrap()
        };
        assert_eq!(read_beside("none", |_| ()).unwrap(), "# main");
        for (name, said) in [
            ("dangling", read_beside("dangling", link("nowhere"))),
            ("loop", read_beside("loop", link("conf.d"))),
            ("file", read_beside("file", |folder| std::fs::write(folder.join("conf.d"), "").unwrap())),
        ] {
            let said = said.unwrap_err();
            assert!(said.contains("conf.d: cannot be read") && said.contains("mend it"), "{name}: {said}");
        }
    }

    #[test]
    fn what_editors_leave_is_not_read_and_what_they_put_before_a_text_is_left_out() {
        let text = read_beside("leftovers", |folder| {
            let folder = folder.join("conf.d");
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("10-a.toml"), "\u{feff}[[service]]\nname = \"a\"\n").unwrap();
            std::fs::write(folder.join(".10-b.toml"), "x").unwrap();
            std::fs::write(folder.join("10-c.toml~"), "x").unwrap();
            std::os::unix::fs::symlink("user@host.1", folder.join(".#10-a.toml")).unwrap();
        });
        assert_eq!(text.unwrap(), "# main\n[[service]]\nname = \"a\"\n");
        let text = read_beside("dead", |folder| {
            std::fs::create_dir(folder.join("conf.d")).unwrap();
            // Nobody will ever write into it; reading it would wait for that.
            let fifo = folder.join("conf.d/10-web.toml");
            assert!(std::process::Command::new("mkfifo").arg(fifo).status().unwrap().success());
        });
        assert!(text.unwrap_err().contains("10-web.toml: cannot be read: it is not an ordinary file"));
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
