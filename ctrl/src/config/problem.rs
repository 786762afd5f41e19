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
