//! From text to the structures of [`raw`](super::raw), or to what is not right about it.

use super::raw::File;
use super::{LoadError, Problem, Severity, Text};
use serde::Deserialize;
use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue};

/// Parses `text`.
pub(super) fn read(text: &Text) -> Result<File, LoadError> {
    let problem = |error: &toml::de::Error, key: String, message: String| {
        let place = error.span().map(|span| text.place(span.start));
        Problem {
            file: place.map_or(text.path(), |(path, _)| path).to_owned(),
            line: place.map(|(_, line)| line),
            key,
            message,
            severity: Severity::Error,
        }
    };
    let unreadable = |error: toml::de::Error| {
        let message = format!("not valid TOML: {}", one_line(error.message()));
        LoadError::Unreadable(problem(&error, String::new(), message))
    };
    // Keeping track of the keys costs a third, so that is done for files that are wrong alone.
    let whole = toml::de::Deserializer::parse(text.whole()).map_err(unreadable)?;
    if let Ok(file) = File::deserialize(whole) {
        return Ok(file);
    }
    // What is wrong is taken out, and the rest read again: all is told at once.
    let mut table = DeTable::parse(text.whole()).map_err(unreadable)?;
    let mut problems = Vec::new();
    loop {
        let whole = toml::de::Deserializer::from(table.clone());
        let error = match serde_path_to_error::deserialize::<_, File>(whole) {
            // What is missing now may be what an unknown key was meant to be.
            Ok(_) => break,
            Err(error) if !problems.is_empty() && error.inner().message().starts_with("missing field") => {
                break;
            }
            Err(error) => error,
        };
        let path: Vec<_> = error.path().iter().filter(|segment| !is_of_spanned(segment)).cloned().collect();
        let key = key_of(error.path());
        let inner = error.into_inner();
        problems.push(problem(&inner, key, explain(inner.message())));
        if problems.len() >= PROBLEMS_MAX || !take_out(table.get_mut(), &path) {
            break;
        }
    }
    problems.sort_by_key(|problem| problem.line);
    Err(LoadError::Wrong(problems))
}

/// Problems that are told at once.
const PROBLEMS_MAX: usize = 32;

/// Takes the key at the end of `path` out of a table; false when there is none.
fn take_out(table: &mut DeTable<'_>, path: &[Segment]) -> bool {
    let Some((Segment::Map { key }, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        return table.remove(key.as_str()).is_some();
    }
    table.get_mut(key.as_str()).is_some_and(|value| take_out_of(value.get_mut(), rest))
}

fn take_out_of(value: &mut DeValue<'_>, path: &[Segment]) -> bool {
    match (value, path) {
        (DeValue::Table(table), path) => take_out(table, path),
        (DeValue::Array(list), [Segment::Seq { index }, rest @ ..]) => {
            list.get_mut(*index).is_some_and(|value| take_out_of(value.get_mut(), rest))
        }
        _ => false,
    }
}

/// Parses a part of a text; `None` when something is wrong with it.
pub(super) fn read_part(part: &str) -> Option<File> {
    File::deserialize(toml::de::Deserializer::parse(part).ok()?).ok()
}

/// Whether `Spanned` put this between a key and its value.
fn is_of_spanned(segment: &Segment) -> bool {
    matches!(segment, Segment::Map { key } if key.starts_with("$__"))
}

/// The path to a value without what `Spanned` adds to it.
fn key_of(path: &serde_path_to_error::Path) -> String {
    let mut key = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => key.push_str(&format!("[{index}]")),
            Segment::Map { key: name } if !is_of_spanned(segment) => {
                if !key.is_empty() {
                    key.push('.');
                }
                key.push_str(name);
            }
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    key
}

/// serde's message, and for an unknown key the one that was probably meant.
fn explain(message: &str) -> String {
    let message = one_line(message);
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("the key `{name}` is missing; add it");
    }
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return in_words_of_toml(&message);
    };
    let mut names = rest.split('`');
    let unknown = names.next().unwrap_or_default().to_owned();
    // Every second piece is a name between backticks.
    let known: Vec<_> = names.skip(1).step_by(2).collect();
    format!("unknown key `{unknown}`; {}", suggestion(&unknown, &known))
}

/// serde's words for types, as a person who writes the file knows them.
fn in_words_of_toml(message: &str) -> String {
    let message = message.replace("expected i64", "expected a whole number").replace(" as i128", "");
    let Some((what, wanted)) = message.split_once(", expected ") else { return message };
    let found = what.strip_prefix("invalid type: ").unwrap_or(what);
    let value = found.split('`').nth(1).unwrap_or_default();
    match wanted {
        "a sequence" if found == "map" => {
            "it is a list of tables; write [[ ]] around its name, as [[service]]".into()
        }
        "a sequence" => format!("{found} stands where a list belongs; write [ ] around it"),
        "a string" if found.starts_with("integer") || found.starts_with("floating") => {
            format!("{value} is a number and a text belongs here; write it in quotes, a time as \"{value}s\"")
        }
        "a string" if found == "map" || found == "sequence" => {
            "a text belongs here, and this is a table or a list; a table with one pair of brackets is written once, [[ ]] for each of several".into()
        }
        "a whole number" if found.starts_with("integer") => {
            format!("{value} is larger than any number can be; write a smaller one")
        }
        "a string" | "a text or a list of texts" => {
            format!("{found} stands where a text belongs; write it in quotes")
        }
        wanted if wanted.starts_with("struct ") || wanted == "a map" => {
            format!("{found} stands where a table belongs; write {{ KEY = VALUE }}")
        }
        "a boolean" => format!("{found} stands where true or false belongs"),
        wanted => format!("{found} stands where {wanted} belongs"),
    }
}

/// `did you mean ...?`, or what there is to choose from.
pub(super) fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + name.len().saturating_sub(1) / 5 => {
            format!("did you mean `{name}`?")
        }
        _ => format!("use one of {}", known.join(", ")),
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
