//! How a line of the log looks.

use super::{Event, Printable};
use std::fmt::Write as _;

/// A format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A sentence, after the program's name where nothing else says it.
    #[default]
    Text,
    /// `ts=… level=… kind=… msg="…"`, and fields.
    Logfmt,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Text, Self::Logfmt, Self::Json];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Logfmt => "logfmt",
            Self::Json => "json",
        }
    }

    /// By its word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == word)
    }

    /// A line, without its end; `to_journal` where the system's journal names the program and reads a priority before it.
    pub(super) fn line(self, event: &Event, to_journal: bool) -> String {
        let mut line = String::new();
        if to_journal {
            let _ = write!(line, "<{}>", event.priority());
        }
        match self {
            Self::Text => {
                line.push_str(if to_journal { "" } else { "sluiced: " });
                line.push_str(&event.text);
            }
            Self::Logfmt => {
                let _ = write!(
                    line,
                    "ts={} level={} kind={} msg=",
                    event.time_text(),
                    event.level,
                    logfmt(&event.kind)
                );
                line.push_str(&logfmt(&event.text));
                for (name, value) in &event.fields {
                    let _ = write!(line, " {name}={}", logfmt(value));
                }
            }
            // The names of the fields are ours, and its values are texts.
            Self::Json => line.push_str(&serde_json::to_string(event).unwrap_or_default()),
        }
        line
    }
}

/// A value as it stands in logfmt: in quotes where it is more than a word.
fn logfmt(value: &str) -> String {
    let is_word = |c: char| c.is_ascii_graphic() && c != '"' && c != '=' && c != '\\';
    if !value.is_empty() && value.chars().all(is_word) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A text on one line, cut.
pub(super) fn printable(message: std::fmt::Arguments<'_>, room: usize) -> String {
    let mut line = String::new();
    let mut printable = Printable { line: &mut line, room, cut: 0 };
    // Printable takes everything.
    let _ = printable.write_fmt(message);
    let cut = printable.cut;
    if cut > 0 {
        let _ = write!(line, " [{cut} more bytes]");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_has_what_happened_and_when() {
        let event = Event {
            number: 7,
            millis: 1_764_338_400_123,
            kind: "services".into(),
            level: "warn".into(),
            text: "service a b is \"down\"".into(),
            fields: vec![("service".into(), "a b".into()), ("to".into(), "down".into())],
        };
        assert_eq!(Format::Text.line(&event, false), "sluiced: service a b is \"down\"");
        assert_eq!(Format::Text.line(&event, true), "<4>service a b is \"down\"");
        assert_eq!(
            Format::Logfmt.line(&event, false),
            "ts=2025-11-28T14:00:00.123Z level=warn kind=services msg=\"service a b is \\\"down\\\"\" service=\"a b\" to=down"
        );
        let json: serde_json::Value = serde_json::from_str(&Format::Json.line(&event, false)).unwrap();
        assert_eq!((&json["time"], &json["service"]), (&"2025-11-28T14:00:00.123Z".into(), &"a b".into()));
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
