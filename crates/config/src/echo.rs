//! Prints a configuration with variables and defaults filled in and secrets masked.

use serde::{Serialize, Serializer, ser::Error as _};

use crate::{
    context::{Registry, Text},
    diagnostic::Diagnostic,
    interpolate::is_secret,
    load::{Reading, Source},
    node::{Kind, Node},
};

/// Replaces a hidden value.
const MASK: &str = "***";
/// Headers whose values are shown. Any other may hold credentials, such as `cookie` or `x-api-…`.
const HARMLESS_HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-type",
    "user-agent",
];

/// Returns the YAML of a configuration with `overrides` and the defaults applied.
///
/// Variables that are likely secrets stay variables. Values under keys that are likely secrets, values
/// of headers, and the user-info and query of URLs become `***`.
///
/// # Errors
/// Why the configuration cannot be parsed. This does not check it: see [`load`](crate::load).
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
        headers: false,
    };
    serde_saphyr::to_string(&shown).map_err(|error| {
        reading.error(&source.name, format!("cannot be printed as YAML: {error}"));
        reading.found
    })
}

struct Shown<'a> {
    node: &'a Node,
    texts: &'a [Text],
    /// Whether the node is below a key that is likely a secret.
    secret: bool,
    /// Whether the keys of the node are header names.
    headers: bool,
}

impl Shown<'_> {
    /// Replaces the values of secret variables in a text by the names of the variables.
    fn masked(&self, text: &str) -> String {
        self.texts
            .iter()
            .fold(text.to_owned(), |text, it| it.interpolated.masked(text))
    }

    /// Returns the text as it is shown at this place.
    fn text(&self, text: &str) -> String {
        let masked = self.masked(text);
        let is_variable = masked != text && masked.starts_with("${") && masked.ends_with('}');
        if self.secret && !text.is_empty() && !is_variable && !text.starts_with("file://") {
            return MASK.to_owned();
        }
        urls(&masked)
    }

    /// Serializes a scalar other than text, or the mask instead of it.
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
        let below = |node, secret, headers| Shown {
            node,
            texts: self.texts,
            secret: self.secret || secret,
            headers,
        };
        match &self.node.kind {
            Kind::Null => serializer.serialize_unit(),
            Kind::Bool(value) => value.serialize(serializer),
            Kind::Integer(value) => self.scalar(serializer, *value),
            Kind::Unsigned(value) => self.scalar(serializer, *value),
            Kind::Float(value) if value.is_finite() => self.scalar(serializer, *value),
            Kind::Float(value) => Err(S::Error::custom(format!("{value} is not a number"))),
            Kind::Text(text) => serializer.serialize_str(&self.text(text)),
            Kind::List(items) => {
                serializer.collect_seq(items.iter().map(|item| below(item, false, false)))
            }
            Kind::Map(entries) => serializer.collect_map(entries.iter().map(|entry| {
                let key = entry.key.to_ascii_lowercase();
                let secret = (is_secret(&key) && !key.ends_with("_file"))
                    || (self.headers && !HARMLESS_HEADERS.contains(&key.as_str()));
                let value = below(&entry.value, secret, key == "headers");
                (self.masked(&entry.key), value)
            })),
        }
    }
}

/// Masks the user-info and the query of the URLs in a text. A text that starts with a URL is a URL to
/// its end, including any blanks; in any other text a URL ends at the first blank or quote.
fn urls(text: &str) -> String {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let is_whole = text.trim_start_matches(is_scheme).starts_with("://");
    let ends = |c: char| !is_whole && (c.is_whitespace() || "\"'`<>".contains(c));
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, url)) = rest.split_once("://") {
        shown += before;
        shown += "://";
        let (authority, path) = url.split_at(first(url, |c| "/?#".contains(c) || ends(c)));
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                shown += MASK;
                shown += "@";
                shown += host;
            }
            None => shown += authority,
        }
        // Another URL may be part of the path, or follow it.
        let stop = first(path, |c| c == '?' || ends(c));
        let stop = path.find("://").map_or(stop, |next| next.min(stop));
        let (path, behind) = path.split_at(stop);
        shown += path;
        rest = behind;
        if let Some(query) = behind.strip_prefix('?') {
            shown += "?";
            shown += MASK;
            rest = query.split_at(first(query, ends)).1;
        }
    }
    shown + rest
}

/// Returns the offset of the first such character, or of the end of the text. Skips `${…}`, because an
/// expression may hold quotes, blanks and `?.`.
fn first(text: &str, is_such: impl Fn(char) -> bool) -> usize {
    let mut at = 0;
    while let Some(rest) = text.get(at..)
        && let Some(character) = rest.chars().next()
    {
        if rest.starts_with("${")
            && let Some(end) = rest.find('}')
        {
            at += end + 1;
            continue;
        }
        if is_such(character) {
            break;
        }
        at += character.len_utf8();
    }
    at
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
    fn variables_and_defaults_are_filled_in_and_secrets_masked() {
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
              "x-${API_TOKEN}": "***"
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
    fn urls_are_shown_without_credentials() {
        for (text, shown) in [
            (
                "https://user:pa55word@example.com/${! meta(\"kind\") }?sig=53cret",
                "https://***@example.com/${! meta(\"kind\") }?***",
            ),
            (
                "https://example.com/${! this.a?.b }/c?sig=53 cret",
                "https://example.com/${! this.a?.b }/c?***",
            ),
            ("https://u:p@h", "https://***@h"),
            ("https://h?x", "https://h?***"),
            ("https://h/a/b#c", "https://h/a/b#c"),
            (
                "root.a = \"https://u:p@h/a?b=c\"; let d = 1 ?? 2; // see http://h/i?j k?",
                "root.a = \"https://***@h/a?***\"; let d = 1 ?? 2; // see http://h/i?*** k?",
            ),
            (
                "http://a/b or http://u:p@c/d?e",
                "http://a/b or http://***@c/d?***",
            ),
            ("a :// b@c?d", "a :// b@c?d"),
            ("no url? none@all", "no url? none@all"),
        ] {
            assert_eq!(urls(text), shown, "{text}");
        }
    }

    #[test]
    fn only_harmless_headers_are_shown() {
        let yaml = "output: {http_client: {headers: {Cookie: a=b, X-Api: c, x-file: 'file:///d', Content-Type: text/plain, User-Agent: e}, verb: POST}}\n";
        insta::assert_snapshot!(shown(yaml, &[]), @r#"
        output:
          http_client:
            headers:
              Cookie: "***"
              X-Api: "***"
              x-file: file:///d
              Content-Type: text/plain
              User-Agent: e
            verb: POST
        input:
          stdin: {}
        "#);
    }

    #[test]
    fn the_printed_yaml_reads_as_the_same_configuration() {
        let yaml = "input: {stdin: {}}\npipeline: {processors: [{mapping: \"root = \\\"a: b\\\"\\n\"}, {log: {message: 'yes'}}]}\noutput: {drop: {a: -1, b: 0.5, c: 'null', d: ~, e: '- x', f: ' y '}}\n";
        let once = shown(yaml, &[]);
        assert_eq!(shown(&once, &[]), once);
    }
}
