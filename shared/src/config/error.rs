//! A refused configuration: where, why, and what would be accepted.
//!
//! Nothing here repeats what the file says in a place where a stream key could stand: strings
//! are named by their kind, and an unknown key is named only when it resembles a known one.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}:{column}: {message}", file.display())]
    Refused { file: PathBuf, line: usize, column: usize, message: String },
}

/// A fault in the text, by its bytes.
#[derive(Debug)]
pub(super) struct Fault {
    at: Range<usize>,
    message: String,
}

impl Fault {
    pub(super) fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    pub(super) fn from_toml(error: &toml::de::Error) -> Self {
        Self::new(error.span().unwrap_or(0..0), explain(error.message()))
    }

    pub(super) fn locate(self, file: &Path, text: &str) -> ConfigError {
        let (line, column) = position(text, self.at.start);
        ConfigError::Refused { file: file.to_owned(), line, column, message: self.message }
    }
}

/// The candidate most like `text`, if one is like it at all.
pub(super) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

/// Line and column, both from 1, the column in characters.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    // Bytes that do not continue a UTF-8 sequence begin a character.
    let column = before[line_start..].iter().filter(|b| **b & 0xC0 != 0x80).count() + 1;
    (line, column)
}

/// Serde's sentence, made one that says what to do and quotes nothing secret.
fn explain(message: &str) -> String {
    if let Some((found, known)) = split(message, "unknown field `", "`, expected ") {
        return unknown("key", found, &quoted(known));
    }
    if let Some((found, known)) = split(message, "unknown variant `", "`, expected ") {
        return unknown("value", found, &quoted(known));
    }
    for prefix in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) = split(message, prefix, ", expected ") {
            let kind = found.split(['"', '`']).next().unwrap_or_default().trim();
            let kind = match kind {
                "map" => "table",
                "sequence" => "list",
                "floating point" => "fraction",
                other => other,
            };
            return format!("expected {expected}, found a {kind}")
                .replace("a integer", "an integer");
        }
    }
    match message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        Some(field) => format!("'{field}' is missing here"),
        None => message.lines().collect::<Vec<_>>().join(" "),
    }
}

fn split<'a>(message: &'a str, prefix: &str, middle: &str) -> Option<(&'a str, &'a str)> {
    let rest = message.strip_prefix(prefix)?;
    // From the right: what was found may itself contain the words in the middle.
    let at = rest.rfind(middle)?;
    Some((&rest[..at], &rest[at + middle.len()..]))
}

/// The words in backticks.
fn quoted(list: &str) -> Vec<&str> {
    list.split('`').skip(1).step_by(2).collect()
}

fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    let list = known.join(", ");
    match nearest(found, known.iter().copied()) {
        Some(near) => {
            format!("unknown {what} '{found}': did you mean '{near}'? (known here: {list})")
        }
        None => format!("unknown {what} (known here: {list})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        assert_eq!(position("ab\ncd", 0), (1, 1));
        assert_eq!(position("ab\ncd", 4), (2, 2));
        assert_eq!(position("äb", 2), (1, 2), "ä is two bytes and one column");
        assert_eq!(position("ab", 99), (1, 3), "past the end is the end");
    }

    #[test]
    fn a_wrong_type_is_explained_without_repeating_the_text() {
        let said = explain(r#"invalid type: string "hunter2, expected x", expected a table"#);
        assert_eq!(said, "expected a table, found a string");
    }

    #[test]
    fn an_unknown_key_is_named_only_if_it_resembles_a_known_one() {
        let near = explain("unknown field `lisen`, expected `listen` or `mode`");
        assert!(near.contains("did you mean 'listen'"), "{near}");
        let far = explain("unknown field `hunter2`, expected `listen` or `mode`");
        assert_eq!(far, "unknown key (known here: listen, mode)");
    }
}
