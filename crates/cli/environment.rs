//! Variables: those of the process, and of a file of `NAME=VALUE` lines behind them.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, bail};

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
            if let Some((name, value)) = variable(line)
                .with_context(|| format!("{}:{}", path.display(), index.saturating_add(1)))?
            {
                file.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(Self { file })
    }

    /// The value of a variable; the process's own wins.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        std::env::var(name)
            .ok()
            .or_else(|| self.file.get(name).cloned())
    }
}

/// The variable that a line sets; `None` for a blank line or a comment.
fn variable(line: &str) -> Result<Option<(&str, &str)>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let Some((name, value)) = line.split_once('=') else {
        bail!("`{line}` is not of the form NAME=VALUE");
    };
    let value = value.trim();
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Ok(Some((name.trim(), unquoted.unwrap_or(value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_set_variables() {
        assert_eq!(variable("A=b").unwrap(), Some(("A", "b")));
        assert_eq!(variable("export A = \"b c\"").unwrap(), Some(("A", "b c")));
        assert_eq!(variable("A='b=c'").unwrap(), Some(("A", "b=c")));
        assert_eq!(variable("A=").unwrap(), Some(("A", "")));
        assert_eq!(variable("  # A=b").unwrap(), None);
        assert!(variable("A").is_err());
    }
}
