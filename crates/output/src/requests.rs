//! What outputs that send requests share: their bodies, how many at once, and for how long.

use std::time::Duration;

use meterline_config::{GoDuration, Located, PlanContext};
use meterline_core::{ContentError, Message, WriteError};

/// Returns the messages as the text of a JSON array.
pub(crate) fn array(batch: &[Message]) -> Result<Vec<u8>, ContentError> {
    joined(batch, [b"[", b",", b"]"])
}

/// Returns the messages between `start` and `end`, with `between` after each but the last.
pub(crate) fn joined(
    batch: &[Message],
    [start, between, end]: [&[u8]; 3],
) -> Result<Vec<u8>, ContentError> {
    let around = start.len() + end.len() + between.len() * batch.len();
    let size: usize = batch.iter().map(Message::size).sum();
    let mut body = Vec::with_capacity(size + around);
    body.extend_from_slice(start);
    for (index, message) in batch.iter().enumerate() {
        if index > 0 {
            body.extend_from_slice(between);
        }
        message.append_to(&mut body)?;
    }
    body.extend_from_slice(end);
    Ok(body)
}

/// The error for messages that cannot be written as JSON.
pub(crate) fn unsendable(error: ContentError) -> WriteError {
    WriteError::Unsendable {
        reason: error.to_string(),
    }
}

/// Returns the most requests in flight at once. Reports an error for 0, which would deliver
/// nothing.
pub(crate) fn in_flight(most: &Located<usize>, cx: &mut PlanContext<'_>) -> usize {
    if most.value == 0 {
        cx.error_at(
            most,
            "with 0 nothing would ever be sent; write 1 to send one request after the other",
        );
    }
    most.value.max(1)
}

/// Returns the time within which a request must be answered.
pub(crate) fn time_limit(timeout: &Located<GoDuration>, cx: &mut PlanContext<'_>) -> Duration {
    if timeout.value.0.is_zero() {
        cx.error_at(
            timeout,
            "the timeout must be longer than 0; write for example `30s`",
        );
    }
    timeout.value.0
}

#[cfg(test)]
mod tests {
    use meterline_config::{Registry, Severity, Source, load};

    /// The errors in an output's configuration. The environment has a token that ends in a line
    /// break.
    fn errors(output: &str) -> Vec<String> {
        let registry = Registry {
            inputs: &[],
            buffers: &[],
            processors: &[],
            outputs: crate::SPECS,
            default_input: "stdin: {}",
            default_output: "drop: {}",
        };
        let source = Source {
            name: "c.yaml".to_owned(),
            text: format!("output:\n  {output}\n"),
            dir: None,
        };
        let env = |name: &str| (name == "TOKEN").then(|| " tok\n".to_owned());
        let found = load(&source, &[], &env, &registry).err();
        let found = found.unwrap_or_default().into_iter();
        found
            .filter(|it| it.severity == Severity::Error && it.path.starts_with("output"))
            .map(|it| it.message)
            .collect()
    }

    #[test]
    fn limits_of_zero_are_errors_with_a_remedy() {
        for (fields, remedy) in [
            ("timeout: 0s", "`30s`"),
            ("max_in_flight: 0", "write 1"),
            ("timeout: 1s, max_in_flight: 1", ""),
        ] {
            for output in ["openmeter", "http_client"] {
                let found = errors(&format!("{output}: {{url: 'http://x', {fields}}}"));
                assert_eq!(found.len(), usize::from(!remedy.is_empty()), "{found:?}");
                assert!(found.iter().all(|it| it.contains(remedy)), "{found:?}");
            }
        }
    }

    #[test]
    fn a_header_is_checked_before_anything_is_sent() {
        let found = |value: &str| {
            errors(&format!(
                "http_client: {{url: 'http://x', headers: {{a: {value}}}}}"
            ))
        };
        for good in [
            r#""Bearer ${TOKEN}""#,
            r#""x ${! this.a }""#,
            "''",
            "Müller",
        ] {
            assert!(found(good).is_empty(), "{good}: {:?}", found(good));
        }
        for bad in [r#""${TOKEN}Bearer""#, r#""a\nb""#] {
            assert_eq!(found(bad).len(), 1, "{bad}: {:?}", found(bad));
            assert!(!found(bad)[0].contains("tok"), "{bad}");
        }
    }

    #[test]
    fn credentials_in_the_url_and_a_token_are_an_error() {
        let found = |fields: &str| errors(&format!("openmeter: {{{fields}}}"));
        assert!(found("url: 'http://me:pass@x'").is_empty());
        assert!(found("url: 'http://me:pass@x', token: ' '").is_empty());
        let both = found("url: 'http://me:pass@x', token: t");
        assert!(both.len() == 1 && both[0].contains("leave out"), "{both:?}");
        let bad = found(r#"url: 'http://x', token: "a\nb""#);
        assert!(bad.len() == 1 && !bad[0].contains("a\nb"), "{bad:?}");
    }
}
