//! `${VAR}` in the text of a configuration, before it is read as YAML.
//!
//! | written | becomes |
//! | --- | --- |
//! | `${VAR}` | the variable; a fault when it is not set |
//! | `${VAR:default}` | the variable, or the default when it is unset or empty (as in Benthos) |
//! | `${VAR-default}` | the variable, or the default when it is unset (as in the shell) |
//! | `${{VAR}}` | `${VAR}`, literally |
//! | `${! … }` | untouched: it is evaluated for each message |
//!
//! The text is replaced, whatever it means in YAML. Inside a quoted scalar, and inside a string of a
//! script, the quotes and backslashes of a value are escaped, so that a secret with odd characters
//! stays what it is.

use crate::{
    diagnostic::Place,
    quotes::{Quote, Quotes, protected},
};

/// Shorter values are not hidden in messages: they are no secrets, and what they are found in by chance
/// could not be read any more.
const SHORTEST_SECRET: usize = 4;

/// A text with its variables replaced, and where each part of it came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interpolated {
    pub(crate) text: String,
    /// What was written, for places.
    original: String,
    /// Runs of the text that were copied (offsets in the new text and in the original), in order.
    /// What lies between two runs was put in for a variable, and its place is that of the variable.
    runs: Vec<Run>,
    /// Variables that are not set, with the place where they are asked for.
    pub(crate) missing: Vec<(String, Place)>,
    /// Values of variables that are likely secrets, with the variables' names; the longest first, for
    /// one may begin with another.
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
        if let Some((literal, length)) = escaped(rest) {
            result.put(&literal);
            at += length;
            quotes.skip();
            continue;
        }
        if let Some(reference) = Reference::parse(rest) {
            match reference.value(env) {
                Some(value) => {
                    let put_in = protected(&value, quotes.now());
                    result.put(&put_in);
                    if is_secret(reference.name) {
                        result.keep_secret(reference.name, value);
                        result.keep_secret(reference.name, put_in);
                    }
                }
                // A comment may speak of variables that nobody sets.
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

/// `${{VAR}}`, as what it stands for, and its length.
fn escaped(rest: &str) -> Option<(String, usize)> {
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
    /// For a variable that is unset or empty.
    UnsetOrEmpty(&'a str),
    /// For a variable that is unset.
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

/// Whether a variable of this name is likely to hold what must not be printed.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["TOKEN", "SECRET", "PASS", "KEY", "AUTH", "CREDENTIAL"]
        .iter()
        .any(|part| name.contains(part))
}

impl Interpolated {
    /// Notes a value that must not be printed.
    fn keep_secret(&mut self, name: &str, value: String) {
        if value.len() < SHORTEST_SECRET || self.secrets.iter().any(|(_, it)| *it == value) {
            return;
        }
        let longer = |(_, it): &(String, String)| it.len() >= value.len();
        let at = self.secrets.partition_point(longer);
        self.secrets.insert(at, (name.to_owned(), value));
    }

    /// A message with the values of secrets replaced by the names of their variables.
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

    /// A text without variables.
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

    /// The place in the original of a place in the new text.
    pub(crate) fn place(&self, at: Place) -> Place {
        place(&self.original, self.original_offset(offset(&self.text, at)))
    }

    fn original_offset(&self, new: usize) -> usize {
        let index = self.runs.partition_point(|run| run.new <= new);
        match index.checked_sub(1).and_then(|index| self.runs.get(index)) {
            // What was put in for a variable begins right behind the run before it.
            Some(run) => run.original + (new - run.new).min(run.length),
            None => 0,
        }
    }
}

/// The offset of a place, as near as the text has it.
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

/// The place of an offset.
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
    fn variables_and_their_defaults() {
        assert_eq!(text("a: ${SET}"), "a: value");
        assert_eq!(text("a: ${SET:x} ${EMPTY:x} ${UNSET:x}"), "a: value x x");
        assert_eq!(text("a: ${SET-x} ${EMPTY-x} ${UNSET-x}"), "a: value  x");
        assert_eq!(text("a: ${UNSET:http://h:1/p}"), "a: http://h:1/p");
        assert_eq!(text("a: ${UNSET:}"), "a: ");
    }

    #[test]
    fn escapes_and_run_time_interpolation_are_left() {
        assert_eq!(
            text("a: ${{SET}} ${! meta(\"x\") }"),
            "a: ${SET} ${! meta(\"x\") }"
        );
    }

    #[test]
    fn a_missing_variable_is_told_with_its_place_but_not_in_a_comment() {
        let result = interpolate("a: ${SET}\nb:  ${NOPE} # ${NEVER}\n", &env);
        assert_eq!(
            result.missing,
            [("NOPE".to_owned(), Place { line: 2, column: 5 })]
        );
    }

    #[test]
    fn values_cannot_end_the_quotes_they_stand_in() {
        assert_eq!(text("a: \"${ODD}\""), "a: \"a\\\"b'c\\\\d\"");
        assert_eq!(text("a: '${ODD}'"), "a: 'a\"b''c\\d'");
        assert_eq!(text("a: ${ODD}"), "a: a\"b'c\\d");
    }

    #[test]
    fn an_object_in_a_script_is_no_comment() {
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
    fn a_secret_that_begins_with_another_is_hidden_whole() {
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
        // As it is, and as it stands in quotes.
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
        fn any_text_is_survived(text in ".*") {
            let result = interpolate(&text, &env);
            let _ = result.place(Place { line: 3, column: 7 });
        }
    }
}
