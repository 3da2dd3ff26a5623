//! A configuration as it is read: variables and defaults put in, secrets left out.

use serde::{Serialize, Serializer, ser::Error as _};

use crate::{
    diagnostic::Diagnostic,
    interpolate::is_secret,
    load::{Reading, Source},
    node::{Kind, Node},
    plan::{Registry, Text},
};

/// Stands for what is not shown.
const MASK: &str = "***";

/// The YAML that a configuration amounts to, with `overrides` and the defaults in it.
///
/// Variables that are likely secrets stay variables; a value under a key that is likely a secret, the
/// user-info of a URL and its query become `***`.
///
/// # Errors
/// Why it cannot be read. That it can be says nothing of whether it is right: see [`load`](crate::load).
pub fn echo(
    source: &Source,
    overrides: &[(String, String)],
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<String, Vec<Diagnostic>> {
    let mut reading = Reading::default();
    let root = reading.root(source, overrides, env, registry);
    let (Some(root), true) = (&root, reading.found.is_empty()) else {
        return Err(reading.found);
    };
    let shown = Shown {
        node: root,
        texts: &reading.texts,
        secret: false,
    };
    serde_saphyr::to_string(&shown).map_err(|error| {
        reading.fault(&source.name, format!("cannot be printed as YAML: {error}"));
        reading.found
    })
}

struct Shown<'a> {
    node: &'a Node,
    texts: &'a [Text],
    /// Whether it stands under a key that is likely a secret.
    secret: bool,
}

impl Shown<'_> {
    /// A text without the values of secret variables.
    fn masked(&self, text: &str) -> String {
        self.texts
            .iter()
            .fold(text.to_owned(), |text, it| it.interpolated.masked(text))
    }

    /// A text as it is shown where it stands.
    fn text(&self, text: &str) -> String {
        let masked = self.masked(text);
        let is_variable = masked != text && masked.starts_with("${") && masked.ends_with('}');
        if self.secret && !text.is_empty() && !is_variable && !text.starts_with("file://") {
            return MASK.to_owned();
        }
        url(&masked).unwrap_or(masked)
    }

    /// A scalar that is no text, or the text that stands for it.
    fn scalar<S: Serializer, T: Serialize + ToString>(
        &self,
        serializer: S,
        value: T,
    ) -> Result<S::Ok, S::Error> {
        let text = value.to_string();
        if self.secret || self.masked(&text) != text {
            return serializer.serialize_str(&self.text(&text));
        }
        value.serialize(serializer)
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let below = |node, secret| Shown {
            node,
            texts: self.texts,
            secret: self.secret || secret,
        };
        match &self.node.kind {
            Kind::Null => serializer.serialize_unit(),
            Kind::Bool(value) => value.serialize(serializer),
            Kind::Integer(value) => self.scalar(serializer, *value),
            Kind::Unsigned(value) => self.scalar(serializer, *value),
            Kind::Float(value) if value.is_finite() => self.scalar(serializer, *value),
            Kind::Float(value) => Err(S::Error::custom(format!("{value} is no number"))),
            Kind::Text(text) => serializer.serialize_str(&self.text(text)),
            Kind::List(items) => {
                serializer.collect_seq(items.iter().map(|item| below(item, false)))
            }
            Kind::Map(entries) => serializer.collect_map(entries.iter().map(|entry| {
                let secret = is_secret(&entry.key) && !entry.key.ends_with("_file");
                (self.masked(&entry.key), below(&entry.value, secret))
            })),
        }
    }
}

/// A URL without its user-info and query; `None` for what is no URL or has neither.
fn url(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    if text.contains(char::is_whitespace) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let path = rest.strip_prefix(authority)?;
    let host = authority.rsplit_once('@').map(|(_, host)| host);
    let query = path.split_once('?').map(|(path, _)| path);
    if host.is_none() && query.is_none() {
        return None;
    }
    let mut shown = format!("{scheme}://");
    if let Some(host) = host {
        shown += MASK;
        shown += "@";
        shown += host;
    } else {
        shown += authority;
    }
    match query {
        Some(path) => {
            shown += path;
            shown += "?";
            shown += MASK;
        }
        None => shown += path,
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(yaml: &str, overrides: &[(&str, &str)]) -> String {
        let source = Source {
            name: "config.yaml".to_owned(),
            text: yaml.to_owned(),
            dir: None,
        };
        let overrides: Vec<_> = overrides
            .iter()
            .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
            .collect();
        let env = |name: &str| match name {
            "API_TOKEN" => Some("s3cret".to_owned()),
            "PIN_KEY" => Some("4711".to_owned()),
            "NAME" => Some("blue".to_owned()),
            _ => None,
        };
        let registry = Registry {
            inputs: &[],
            buffers: &[],
            processors: &[],
            outputs: &[],
            default_input: "stdin: {}",
            default_output: "stdout: {}",
        };
        echo(&source, &overrides, &env, &registry).unwrap()
    }

    #[test]
    fn variables_and_defaults_are_put_in_and_secrets_left_out() {
        let yaml = r#"
input:
pipeline:
  processors:
    - mapping: |
        root = this;
        root.name = "${NAME}";
        root.token = "${API_TOKEN}";
output:
  openmeter:
    url: https://user:word@example.com/path?key=1#part
    token: ${API_TOKEN}
    password: literal
    pin_key: ${PIN_KEY}
    port: ${PIN_KEY}
    token_file: /etc/token
    headers: {authorization: "Bearer ${API_TOKEN}", x-${API_TOKEN}: 1}
    secrets: [a, 1, true, "", "file:///etc/secret"]
"#;
        insta::assert_snapshot!(shown(yaml, &[("http.address", "'127.0.0.1:1'")]), @r#"
        input:
          stdin: {}
        pipeline:
          processors:
          - mapping: |
              root = this;
              root.name = "blue";
              root.token = "${API_TOKEN}";
        output:
          openmeter:
            url: https://***@example.com/path?***
            token: ${API_TOKEN}
            password: "***"
            pin_key: ${PIN_KEY}
            port: ${PIN_KEY}
            token_file: /etc/token
            headers:
              authorization: "***"
              "x-${API_TOKEN}": 1
            secrets:
            - "***"
            - "***"
            - true
            - ""
            - file:///etc/secret
        http:
          address: 127.0.0.1:1
        "#);
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let yaml = "input: {stdin: {}}\npipeline: {processors: [{mapping: \"root = \\\"a: b\\\"\\n\"}, {log: {message: 'yes'}}]}\noutput: {drop: {a: -1, b: 0.5, c: 'null', d: ~, e: '- x', f: ' y '}}\n";
        let once = shown(yaml, &[]);
        assert_eq!(shown(&once, &[]), once);
    }
}
