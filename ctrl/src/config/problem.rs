//! What is wrong with a configuration, said so that it can be mended.

use std::fmt;
use std::path::{Path, PathBuf};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used, and the operator is told.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; `None` when it concerns the whole file.
    pub line: Option<usize>,
    /// The key, as `service[0].server[1].weight`; empty when there is none.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// Whether the file is refused for it.
    pub severity: Severity,
}

impl Problem {
    /// A problem that concerns the whole file.
    pub fn of_file(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), line: None, key: String::new(), message, severity: Severity::Error }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if self.severity == Severity::Warning {
            write!(f, ": warning")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// As many problems as anybody reads at a time.
const SHOWN: usize = 20;

/// The first of these in lines, and how many more there are.
pub fn shown(problems: &[Problem]) -> Vec<String> {
    let mut lines: Vec<_> = problems.iter().take(SHOWN).map(ToString::to_string).collect();
    if problems.len() > SHOWN {
        lines.push(format!("and {} more; `sluice config check FILE` lists all", problems.len() - SHOWN));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_problems_are_shown_by_their_first_and_their_number() {
        let problem = |n: usize| Problem::of_file(Path::new("a.toml"), format!("problem {n}"));
        let all: Vec<_> = (0..100).map(problem).collect();
        assert_eq!(shown(&all[..SHOWN]).len(), SHOWN);
        let lines = shown(&all);
        assert_eq!((lines.len(), lines[19].as_str()), (SHOWN + 1, "a.toml: problem 19"));
        assert!(lines[SHOWN].starts_with("and 80 more;"), "{}", lines[SHOWN]);
        assert!(shown(&[]).is_empty());
    }
}
