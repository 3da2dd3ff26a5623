//! Replaces `${VAR}` in the text of a configuration, before it is parsed as YAML.
//!
//! | written | becomes |
//! | --- | --- |
//! | `${VAR}` | the variable; an error when it is not set |
//! | `${VAR:default}` | the variable, or the default when it is unset or empty (as in Benthos) |
//! | `${VAR-default}` | the variable, or the default when it is unset (as in the shell) |
//! | `${{VAR}}` | `${VAR}`, literally |
//! | `${! … }` | unchanged: it is evaluated for each message |
//!
//! The replacement ignores the structure of the YAML. Inside a quoted scalar, and inside a string of a
//! script, the quotes and backslashes of a value are escaped, so that a secret with special characters
//! keeps its value.

use crate::{
    diagnostic::Place,
    quotes::{self, Quote, Quotes},
};

/// The shortest value to mask in messages, in bytes. Shorter values are hardly secrets, and masking
/// their accidental occurrences would make messages unreadable.
const MIN_SECRET: usize = 4;

/// A text with its variables replaced, and the origin of each part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interpolated {
    pub(crate) text: String,
    /// The text before the replacement, which places refer to.
    original: String,
    /// Copied runs of the text (offsets in the new text and in the original), in order. The text
    /// between two runs replaces a variable, and its place is that of the variable.
    runs: Vec<Run>,
    /// Variables that are not set, with the place of the reference.
    pub(crate) missing: Vec<(String, Place)>,
    /// Names and values of variables that are likely secrets; the longest value first, because one may
    /// start with another.
    secrets: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    new: usize,
    original: usize,
    length: usize,
}

/// Replaces the variables of `text`.
pub(crate) fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Interpolated {
    let mut result = Interpolated {
        original: text.to_owned(),
        ..Interpolated::default()
    };
    let mut quotes = Quotes::new(text);
    let mut at = 0;
    while let Some(rest) = text.get(at..)
        && let Some(character) = rest.chars().next()
    {
        if let Some((literal, length)) = literal(rest) {
            result.put(&literal);
            at += length;
            quotes.skip();
            continue;
        }
        if let Some(reference) = Reference::parse(rest) {
            match reference.value(env) {
                Some(value) => {
                    let escaped = quotes::escaped(&value, quotes.now());
                    result.put(&escaped);
                    if is_secret(reference.name) {
                        result.add_secret(reference.name, value);
                        result.add_secret(reference.name, escaped);
                    }
                }
                // A comment may mention variables that are not set.
                None if quotes.now() == Quote::Comment => {}
                None => result
                    .missing
                    .push((reference.name.to_owned(), place(text, at))),
            }
            at += reference.length;
            quotes.skip();
            continue;
        }
        quotes.pass(at, character);
        result.copy(at, character);
        at += character.len_utf8();
    }
    result
}

/// Returns the literal that `${{VAR}}` stands for, and the length of what was written.
fn literal(rest: &str) -> Option<(String, usize)> {
    let inner = rest.strip_prefix("${{")?;
    let end = inner.find("}}")?;
    let name = inner.get(..end)?;
    if name.contains(['\n', '{', '}']) {
        return None;
    }
    Some((format!("${{{name}}}"), "${{".len() + end + "}}".len()))
}

struct Reference<'a> {
    name: &'a str,
    default: Option<Default<'a>>,
    length: usize,
}

enum Default<'a> {
    /// Used when the variable is unset or empty.
    UnsetOrEmpty(&'a str),
    /// Used when the variable is unset.
    Unset(&'a str),
}

impl<'a> Reference<'a> {
    fn parse(rest: &'a str) -> Option<Self> {
        let inner = rest.strip_prefix("${")?;
        let end = inner.find('}')?;
        let body = inner.get(..end)?;
        let stop = body
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(body.len());
        let (name, default) = body.split_at(stop);
        if name.is_empty() {
            return None;
        }
        let default = match default.chars().next() {
            None => None,
            Some(':') => Some(Default::UnsetOrEmpty(default.get(1..)?)),
            Some('-') => Some(Default::Unset(default.get(1..)?)),
            Some(_) => return None,
        };
        Some(Self {
            name,
            default,
            length: 2 + end + 1,
        })
    }

    fn value(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let set = env(self.name);
        match self.default {
            None => set,
            Some(Default::Unset(default)) => set.or_else(|| Some(default.to_owned())),
            Some(Default::UnsetOrEmpty(default)) => set
                .filter(|value| !value.is_empty())
                .or_else(|| Some(default.to_owned())),
        }
    }
}

/// Whether a variable of this name is likely to hold a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["TOKEN", "SECRET", "PASS", "KEY", "AUTH", "CREDENTIAL"]
        .iter()
        .any(|part| name.contains(part))
}

impl Interpolated {
    /// Adds a value to mask.
    fn add_secret(&mut self, name: &str, value: String) {
        if value.len() < MIN_SECRET || self.secrets.iter().any(|(_, it)| *it == value) {
            return;
        }
        let longer = |(_, it): &(String, String)| it.len() >= value.len();
        let at = self.secrets.partition_point(longer);
        self.secrets.insert(at, (name.to_owned(), value));
    }

    /// Replaces the values of secrets in a message by the names of their variables.
    pub(crate) fn masked(&self, message: String) -> String {
        if !self.secrets.iter().any(|(_, it)| message.contains(it)) {
            return message;
        }
        let mut masked = String::with_capacity(message.len());
        let mut rest = message.as_str();
        while let Some(character) = rest.chars().next() {
            let secret = self
                .secrets
                .iter()
                .find_map(|(name, value)| Some((name, rest.strip_prefix(value.as_str())?)));
            match secret {
                Some((name, behind)) => {
                    masked += &format!("${{{name}}}");
                    rest = behind;
                }
                None => {
                    masked.push(character);
                    rest = rest.get(character.len_utf8()..).unwrap_or_default();
                }
            }
        }
        masked
    }

    /// Returns a text without variables.
    pub(crate) fn plain(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            original: text.to_owned(),
            ..Self::default()
        }
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn copy(&mut self, original: usize, character: char) {
        let new = self.text.len();
        let length = character.len_utf8();
        self.text.push(character);
        match self.runs.last_mut() {
            Some(run) if run.new + run.length == new && run.original + run.length == original => {
                run.length += length;
            }
            _ => self.runs.push(Run {
                new,
                original,
                length,
            }),
        }
    }

    /// Converts a place in the new text to a place in the original.
    pub(crate) fn place(&self, at: Place) -> Place {
        place(&self.original, self.original_offset(offset(&self.text, at)))
    }

    fn original_offset(&self, new: usize) -> usize {
        let index = self.runs.partition_point(|run| run.new <= new);
        match index.checked_sub(1).and_then(|index| self.runs.get(index)) {
            // The replacement of a variable starts right after the run before it.
            Some(run) => run.original + (new - run.new).min(run.length),
            None => 0,
        }
    }
}

/// Returns the offset of a place, or the nearest offset that exists.
fn offset(text: &str, at: Place) -> usize {
    let line_start: usize = text
        .split_inclusive('\n')
        .take(at.line.saturating_sub(1))
        .map(str::len)
        .sum();
    let line = text.get(line_start..).unwrap_or_default();
    let within = line
        .char_indices()
        .nth(at.column.saturating_sub(1))
        .map_or(line.len(), |(index, _)| index);
    line_start + within
}

/// Returns the place of an offset.
fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("a\"b'c\\d".to_owned()),
            _ => None,
        }
    }

    fn text(text: &str) -> String {
        interpolate(text, &env).text
    }

    #[test]
    fn variables_take_their_value_or_their_default() {
        assert_eq!(text("a: ${SET}"), "a: value");
        assert_eq!(text("a: ${SET:x} ${EMPTY:x} ${UNSET:x}"), "a: value x x");
        assert_eq!(text("a: ${SET-x} ${EMPTY-x} ${UNSET-x}"), "a: value  x");
        assert_eq!(text("a: ${UNSET:http://h:1/p}"), "a: http://h:1/p");
        assert_eq!(text("a: ${UNSET:}"), "a: ");
    }

    #[test]
    fn escapes_and_run_time_interpolation_stay() {
        assert_eq!(
            text("a: ${{SET}} ${! meta(\"x\") }"),
            "a: ${SET} ${! meta(\"x\") }"
        );
    }

    #[test]
    fn a_missing_variable_is_reported_with_its_place_but_not_in_a_comment() {
        let result = interpolate("a: ${SET}\nb:  ${NOPE} # ${NEVER}\n", &env);
        assert_eq!(
            result.missing,
            [("NOPE".to_owned(), Place { line: 2, column: 5 })]
        );
    }

    #[test]
    fn values_cannot_end_the_quotes_around_them() {
        assert_eq!(text("a: \"${ODD}\""), "a: \"a\\\"b'c\\\\d\"");
        assert_eq!(text("a: '${ODD}'"), "a: 'a\"b''c\\d'");
        assert_eq!(text("a: ${ODD}"), "a: a\"b'c\\d");
    }

    #[test]
    fn an_object_in_a_script_starts_no_comment() {
        let script = |line: &str| format!("- mapping: |\n    root = this;\n    {line}\n");
        let result = interpolate(&script("root = #{ subject: \"${NOPE}\" };"), &env);
        assert_eq!(
            result.missing,
            [(
                "NOPE".to_owned(),
                Place {
                    line: 3,
                    column: 25
                }
            )]
        );
        assert_eq!(
            text(&script("root = #{ subject: \"${ODD}\" };")),
            script("root = #{ subject: \"a\\\"b'c\\\\d\" };")
        );
    }

    #[test]
    fn a_secret_that_starts_with_another_is_masked_whole() {
        let env = |name: &str| match name {
            "X_KEY" => Some("abcd".to_owned()),
            "X_TOKEN" => Some("abcdSECRETREST".to_owned()),
            "ODD_TOKEN" => Some("a\"b\\".to_owned()),
            "SHORT_KEY" => Some("e".to_owned()),
            _ => None,
        };
        let text = "a: ${X_KEY} ${X_TOKEN} ${SHORT_KEY} \"${ODD_TOKEN}\"";
        let masked = |message: &str| interpolate(text, &env).masked(message.to_owned());
        assert_eq!(
            masked("é abcdSECRETREST, abcd: seen"),
            "é ${X_TOKEN}, ${X_KEY}: seen"
        );
        // The plain value, and the value as escaped in quotes.
        assert_eq!(
            masked(r#"a"b\ and a\"b\\"#),
            "${ODD_TOKEN} and ${ODD_TOKEN}"
        );
    }

    proptest! {
        #[test]
        fn every_copied_character_keeps_its_place(
            parts in prop::collection::vec(prop_oneof!["[a-z:\n\u{e9} ]{0,5}", Just("${SET}".to_owned()), Just("${UNSET:dflt}".to_owned())], 0..12)
        ) {
            let original = parts.concat();
            let result = interpolate(&original, &env);
            for run in &result.runs {
                for (index, character) in result.text[run.new..run.new + run.length].char_indices() {
                    let mapped = result.original_offset(run.new + index);
                    prop_assert_eq!(original[mapped..].chars().next(), Some(character));
                }
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let result = interpolate(&text, &env);
            let _ = result.place(Place { line: 3, column: 7 });
        }
    }
}
