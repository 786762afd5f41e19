//! What the daemon says of its own accord, for the journal: lines on standard error.

use std::fmt::Display;
use std::io::Write;

/// Says one line. When nobody listens any more, nothing happens: packets matter more.
pub fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "sluiced: {message}");
}
