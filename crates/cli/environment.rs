//! Variables: those of the process, and of a file of `NAME=VALUE` lines behind them.

use std::{collections::HashMap, ffi::OsString, path::Path};

use anyhow::{Context, Result, anyhow};

/// Where a configuration's `${VAR}` come from.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    file: HashMap<String, String>,
}

impl Environment {
    /// The environment, with the variables of `file` behind it.
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
                // The line itself may be a part of a secret, so it is not shown.
                Line::Other => {
                    let number = index.saturating_add(1);
                    return Err(anyhow!(
                        "{}:{number}: expected NAME=VALUE, a comment (#) or nothing; \
                         a value is on one line",
                        path.display()
                    ));
                }
            }
        }
        Ok(Self { file })
    }

    /// The value of a variable; the process's own wins.
    #[expect(clippy::disallowed_methods, reason = "this is the environment")]
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        std::env::var(name)
            .ok()
            .or_else(|| self.file.get(name).cloned())
    }
}

/// A variable of the process alone that says how the command itself behaves; `None` when it is
/// empty.
#[expect(clippy::disallowed_methods, reason = "this is the environment")]
pub(crate) fn own(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// Nothing, or a comment.
    Blank,
    /// A name and its value.
    Variable(&'a str, &'a str),
    /// Neither.
    Other,
}

fn variable(line: &str) -> Line<'_> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Line::Blank;
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let Some((name, value)) = line.split_once('=') else {
        return Line::Other;
    };
    let name = name.trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Line::Other;
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
    fn lines_set_variables() {
        for (line, expected) in [
            ("A=b", Line::Variable("A", "b")),
            ("export A = \"b c\"", Line::Variable("A", "b c")),
            ("A='b=c'", Line::Variable("A", "b=c")),
            ("A=", Line::Variable("A", "")),
            ("  # A=b", Line::Blank),
            ("", Line::Blank),
            ("A", Line::Other),
            ("=b", Line::Other),
            ("a b=c", Line::Other),
        ] {
            assert_eq!(variable(line), expected, "{line}");
        }
    }
}
