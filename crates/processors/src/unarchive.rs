//! `unarchive`: makes several messages of one.
//!
//! The parts have the metadata and the identity of the message. The input learns one fate for all of them:
//! it is delivered when all parts are, and rejected if one is.

use std::sync::Arc;

use meterline_config::{Configure, Located, PlanContext, ProcessorSpec, Spec};
use meterline_core::{
    Batch, BuildContext, BuildError, Content, Drops, IntCounter, Message, Node, Processor,
    ProcessorPlan, foreseen::Kind,
};
use serde::Deserialize;

use crate::mapping::errors;

/// The most parts of one message, which is also the longest array of a mapping. Of a message with more, no
/// part is made: it is flagged, so that nothing of it is missing without notice.
const MOST_PARTS: usize = 10_000;

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "unarchive",
    "Makes several messages of one: one for each item of an array or for each line.",
    &[
        "unarchive:\n  format: json_array\n",
        "unarchive:\n  format: lines\n",
    ],
);

/// Configuration of `unarchive`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `json_array`: each item of an array becomes a message, and an empty array drops the message.
    /// `lines`: each line becomes a message, without its line feed.
    format: Located<String>,
}

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        let Some(format) = Format::of(&self.format.value) else {
            let message = format!(
                "`{}` is not a format of `unarchive`; use `json_array` or `lines`",
                self.format.value
            );
            cx.error_at(&self.format, message);
            return None;
        };
        let whole = &cx.foreseen().content.whole;
        if format == Format::JsonArray
            && let Some(what) = no_array(&whole.kind)
        {
            let message = format!(
                "each message is {what} here, but `json_array` needs an array; add a `mapping` before it \
                 that makes one: `root = [ … ]`"
            );
            cx.error_at(&self.format, message);
        }
        let mut after = cx.foreseen().clone().divided();
        // A single line is the whole message.
        after.is_original &= format == Format::Lines;
        cx.foresee(after);
        Some(Box::new(Plan {
            format,
            path: cx.path(),
        }))
    }
}

/// Returns what a value is, if it is certainly not an array.
fn no_array(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Array => None,
        Kind::Object => Some("an object"),
        kind => kind.no_object(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    JsonArray,
    Lines,
}

impl Format {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "json_array" => Self::JsonArray,
            "lines" => Self::Lines,
            _ => return None,
        })
    }

    /// Returns the contents of the parts of a message, or why it has none.
    fn contents(self, message: &Message) -> Result<Vec<Content>, String> {
        match self {
            Self::JsonArray => items(message),
            Self::Lines => lines(message),
        }
    }
}

fn items(message: &Message) -> Result<Vec<Content>, String> {
    let document = message.document().map_err(|error| error.to_string())?;
    let root = document.root();
    if !root.is_array() {
        return Err(format!(
            "the message is {}, not an array; `json_array` makes a message of each item of one",
            what(root)
        ));
    }
    bounded(root.items().count(), "items")?;
    let contents = root
        .items()
        .map(|item| Content::Document(item.to_document()));
    Ok(contents.collect())
}

fn lines(message: &Message) -> Result<Vec<Content>, String> {
    let bytes = message.bytes().map_err(|error| error.to_string())?;
    // The last line may end with a line feed or not.
    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let lines = lines.split(|byte| *byte == b'\n');
    bounded(lines.clone().count(), "lines")?;
    Ok(lines
        .map(|line| Content::Raw(bytes.slice_ref(line)))
        .collect())
}

fn bounded(count: usize, what: &str) -> Result<(), String> {
    if count > MOST_PARTS {
        return Err(format!(
            "the message has {count} {what}, and at most {MOST_PARTS} become messages"
        ));
    }
    Ok(())
}

/// Returns what a value is that is not an array.
fn what(node: Node<'_>) -> &'static str {
    if node.is_object() {
        "an object"
    } else if node.is_null() {
        "null"
    } else if node.as_str().is_some() {
        "text"
    } else {
        "a number or a boolean"
    }
}

struct Plan {
    format: Format,
    path: Arc<str>,
}

impl ProcessorPlan for Plan {
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(Unarchive {
            format: self.format,
            errors: errors(cx, &self.path),
            path: Arc::clone(&self.path),
        }))
    }
}

struct Unarchive {
    format: Format,
    errors: IntCounter,
    path: Arc<str>,
}

impl Processor for Unarchive {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        let mut parts = Batch::with_capacity(batch.len());
        for mut message in batch {
            match self.format.contents(&message) {
                Ok(contents) if contents.is_empty() => drops.note(&message, &self.path),
                Ok(contents) => parts.extend(message.divide(contents)),
                Err(reason) => {
                    self.errors.inc();
                    message.fail(Arc::clone(&self.path), reason);
                    parts.push(message);
                }
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Identity;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::cx;

    const PATH: &str = "pipeline.processors.0";

    fn unarchive(format: Format, batch: Batch) -> (Batch, Vec<String>) {
        let plan = Plan {
            format,
            path: PATH.into(),
        };
        let mut drops = Drops::default();
        let batch = plan.build(&cx()).unwrap().process(batch, &mut drops);
        let drops = drops.iter().map(|it| format!("{:?}", it.origin));
        (batch, drops.collect())
    }

    fn texts(batch: &Batch) -> Vec<String> {
        let text = |it: &Message| String::from_utf8(it.bytes().unwrap().to_vec()).unwrap();
        batch.iter().map(text).collect()
    }

    fn of_values(values: &[Value]) -> Batch {
        let numbered = values.iter().zip(0..);
        numbered
            .map(|(value, number)| Message::value(value).with_origin(number))
            .collect()
    }

    #[test]
    fn each_item_becomes_a_message_in_order_and_other_messages_stay_where_they_are() {
        let values = [json!([{"a": 1}, "b", 1.5, null]), json!([[1], [2, 3]])];
        let mut batch = of_values(&values);
        batch.push(Message::raw(" [1e2 , \"ä\"]").with_origin(2));
        let (parts, drops) = unarchive(Format::JsonArray, batch);
        let expected = [
            r#"{"a":1}"#,
            "\"b\"",
            "1.5",
            "null",
            "[1]",
            "[2,3]",
            "100.0",
            "\"ä\"",
        ];
        assert_eq!(texts(&parts), expected);
        let origins: Vec<_> = parts.iter().filter_map(Message::origin).collect();
        assert_eq!(origins, [0, 0, 0, 0, 1, 1, 2, 2]);
        assert!(drops.is_empty());
    }

    #[test]
    fn parts_have_the_identity_and_the_metadata_of_the_message() {
        let identity = Identity {
            about: "pod a/b".into(),
            uid: "u".into(),
            start: 5,
            end: 7,
            cluster: None,
        };
        let mut message = Message::value(&json!([1, 2])).with_identity(identity.clone());
        message.metadata.set("schedule_time", "t");
        let (parts, _) = unarchive(Format::JsonArray, vec![message]);
        for part in &parts {
            assert_eq!(part.identity(), Some(&identity));
            assert_eq!(&**part.metadata.get("schedule_time").unwrap(), "t");
            assert_eq!(part.metadata.iter().count(), 1);
        }
        assert_eq!(parts[1].about(), "pod a/b, part 2 of 2");
    }

    #[test]
    fn an_empty_array_drops_the_message_and_says_where() {
        let (parts, drops) = unarchive(Format::JsonArray, of_values(&[json!([]), json!([1])]));
        assert_eq!(texts(&parts), ["1"]);
        assert_eq!(drops, ["Some(0)"]);
    }

    #[test]
    fn what_is_no_array_is_flagged_and_unchanged() {
        let mut batch = of_values(&[json!({"a": 1}), json!("x"), json!(null), json!(true)]);
        batch.push(Message::raw("[1"));
        let before = texts(&batch);
        let (parts, drops) = unarchive(Format::JsonArray, batch);
        assert_eq!(texts(&parts), before);
        assert!(drops.is_empty());
        let failures: Vec<_> = parts.iter().map(|it| it.failure().unwrap()).collect();
        assert!(failures.iter().all(|it| &*it.component == PATH));
        let reasons: Vec<_> = failures.iter().map(|it| &*it.reason).collect();
        let no = |what: &str| {
            format!(
                "the message is {what}, not an array; `json_array` makes a message of each item of one"
            )
        };
        assert_eq!(reasons[0], no("an object"));
        assert_eq!(reasons[1], no("text"));
        assert_eq!(reasons[2], no("null"));
        assert_eq!(reasons[3], no("a number or a boolean"));
        assert!(reasons[4].starts_with("the message is not valid JSON: "));
    }

    #[test]
    fn too_many_parts_are_refused_as_a_whole() {
        let most = json!(vec![0; MOST_PARTS]);
        let (parts, _) = unarchive(Format::JsonArray, of_values(&[most]));
        assert_eq!(parts.len(), MOST_PARTS);
        let more = json!(vec![0; MOST_PARTS + 1]);
        let (parts, _) = unarchive(Format::JsonArray, of_values(&[more]));
        let reason = "the message has 10001 items, and at most 10000 become messages";
        assert_eq!(&*parts[0].failure().unwrap().reason, reason);
        let lines = "\n".repeat(MOST_PARTS + 1);
        let (parts, _) = unarchive(Format::Lines, vec![Message::raw(lines)]);
        assert!(parts[0].failure().is_some());
    }

    #[test]
    fn each_line_becomes_a_message() {
        for (content, lines) in [
            ("a\nb", &["a", "b"][..]),
            ("a\nb\n", &["a", "b"]),
            ("a\n\nb\n\n", &["a", "", "b", ""]),
            ("a\r\nb", &["a\r", "b"]),
            ("", &[""]),
            ("\n", &[""]),
        ] {
            let (parts, drops) = unarchive(Format::Lines, vec![Message::raw(content)]);
            assert_eq!(texts(&parts), lines, "{content:?}");
            assert!(drops.is_empty());
        }
        let (parts, _) = unarchive(Format::Lines, of_values(&[json!({"a": 1})]));
        assert_eq!(texts(&parts), [r#"{"a":1}"#]);
    }
}
