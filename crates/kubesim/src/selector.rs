//! Label and field selectors, as the API takes them in `labelSelector` and `fieldSelector`.
//!
//! Source: the Kubernetes documentation, "Labels and Selectors".

use std::collections::BTreeMap;

/// All of these must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Missing(String),
    In(String, Vec<String>),
    /// Also true if there is no such label.
    NotIn(String, Vec<String>),
}

impl Selector {
    /// Reads a selector such as `app=web,tier in (a, b),!legacy`.
    ///
    /// # Errors
    /// Names the part that is not a requirement.
    pub fn parse(text: &str) -> Result<Self, String> {
        split(text)
            .into_iter()
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .map(|part| requirement(&part))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether an object with these labels (or fields) is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Missing(key) => !labels.contains_key(key),
            Requirement::In(key, values) => labels.get(key).is_some_and(|it| values.contains(it)),
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|it| !values.contains(it))
            }
        })
    }
}

/// Splits at commas that are not in parentheses.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(character);
        }
    }
    parts
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let wrong = || format!("unable to parse requirement: `{part}`");
    let key = |text: &str| -> Result<String, String> {
        let text = text.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if text.is_empty() || !text.chars().all(plain) {
            return Err(wrong());
        }
        Ok(text.to_owned())
    };
    let list = |text: &str| -> Result<Vec<String>, String> {
        let inner = text
            .trim()
            .strip_prefix('(')
            .and_then(|text| text.strip_suffix(')'))
            .ok_or_else(wrong)?;
        Ok(inner.split(',').map(|it| it.trim().to_owned()).collect())
    };
    let one = |text: &str| vec![text.trim().to_owned()];
    if let Some((name, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(key(name)?, one(value)));
    }
    if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(key(name)?, one(value)));
    }
    if let Some((name, values)) = part.split_once(" notin ") {
        return Ok(Requirement::NotIn(key(name)?, list(values)?));
    }
    if let Some((name, values)) = part.split_once(" in ") {
        return Ok(Requirement::In(key(name)?, list(values)?));
    }
    match part.strip_prefix('!') {
        Some(name) => Ok(Requirement::Missing(key(name)?)),
        None => Ok(Requirement::Exists(key(part)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Selector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn each_form_selects() {
        let web = [("app", "web"), ("tier", "a")];
        for selector in [
            "",
            "app=web",
            "app==web,tier=a",
            "app!=db",
            "none!=x",
            "tier in (a, b)",
            "tier notin (c)",
            "app",
            "!db",
        ] {
            assert!(matches(selector, &web), "{selector}");
        }
        for selector in [
            "app=db",
            "tier in (c)",
            "tier notin (a,b)",
            "db",
            "!app",
            "app!=web",
        ] {
            assert!(!matches(selector, &web), "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["a b", "tier in a", "=x", "!"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
