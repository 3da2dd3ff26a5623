//! Variables from the process environment, and from a file of `NAME=VALUE` lines as a fallback.

use std::{collections::HashMap, ffi::OsString, path::Path};

use anyhow::{Context, Result, anyhow};

/// The source of the `${VAR}` in a configuration.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    file: HashMap<String, String>,
}

impl Environment {
    /// Reads the fallback variables from `file`.
    ///
    /// # Errors
    /// When the file cannot be read or has a line that is not `NAME=VALUE`.
    pub(crate) fn new(file: Option<&Path>) -> Result<Self> {
        let Some(path) = file else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the variables in {}", path.display()))?;
        let mut file = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            match variable(line) {
                Line::Blank => {}
                Line::Variable(name, value) => {
                    file.insert(name.to_owned(), value.to_owned());
                }
                // The line may hold a secret, so the error does not quote it.
                Line::Invalid => {
                    let number = index.saturating_add(1);
                    return Err(anyhow!(
                        "{}:{number}: expected NAME=VALUE, a comment (#) or an empty line; \
                         a value cannot span lines",
                        path.display()
                    ));
                }
            }
        }
        Ok(Self { file })
    }

    /// Returns the value of a variable; the process environment takes precedence over the file.
    #[expect(clippy::disallowed_methods, reason = "this is the environment")]
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        std::env::var(name)
            .ok()
            .or_else(|| self.file.get(name).cloned())
    }
}

/// Returns a variable that configures the command itself, from the process environment only; `None`
/// when it is empty.
#[expect(clippy::disallowed_methods, reason = "this is the environment")]
pub(crate) fn own(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// An empty line or a comment.
    Blank,
    /// A name and its value.
    Variable(&'a str, &'a str),
    /// Anything else.
    Invalid,
}

fn variable(line: &str) -> Line<'_> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Line::Blank;
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let Some((name, value)) = line.split_once('=') else {
        return Line::Invalid;
    };
    let name = name.trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Line::Invalid;
    }
    let value = value.trim();
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Line::Variable(name, unquoted.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_variables_or_blank_or_invalid() {
        for (line, expected) in [
            ("A=b", Line::Variable("A", "b")),
            ("export A = \"b c\"", Line::Variable("A", "b c")),
            ("A='b=c'", Line::Variable("A", "b=c")),
            ("A=", Line::Variable("A", "")),
            ("  # A=b", Line::Blank),
            ("", Line::Blank),
            ("A", Line::Invalid),
            ("=b", Line::Invalid),
            ("a b=c", Line::Invalid),
        ] {
            assert_eq!(variable(line), expected, "{line}");
        }
    }
}
