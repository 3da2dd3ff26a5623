//! Functions for the current message.

use meterline_core::Node;
use rhai::{Dynamic, Engine, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity};
use crate::{context, convert::Deleted, decimal::Decimal, materialise};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "meta",
        signature: "meta(key) -> text | ()",
        summary: "Returns the metadata of the message under `key`, as it was before the script. \
                  `meta[key] = value` sets it, and setting () removes it.",
        group: Group::Message,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"meta("absent") ?? "none""#,
            input: "{}",
            output: r#""none""#,
        }],
    },
    FunctionDoc {
        name: "deleted",
        signature: "deleted()",
        summary: "As `root` it drops the message; as a field or an item it omits that.",
        group: Group::Message,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"#{ a: 1, b: deleted(), c: [1, deleted(), 3] }"#,
            input: "{}",
            output: r#"{"a":1,"c":[1,3]}"#,
        }],
    },
    FunctionDoc {
        name: "error",
        signature: "error() -> text | ()",
        summary: "Returns why the message is flagged as failed, or () if it is not.",
        group: Group::Message,
        purity: Purity::Pure,
        examples: &[Example {
            script: "error()",
            input: "{}",
            output: "null",
        }],
    },
    FunctionDoc {
        name: "content",
        signature: "content() -> text",
        summary: "Returns the content of the message as text, whether it is JSON or not.",
        group: Group::Message,
        purity: Purity::Content(&[""]),
        examples: &[Example {
            script: "content()",
            input: r#"{"a":1}"#,
            output: r#""{\"a\":1}""#,
        }],
    },
    FunctionDoc {
        name: "json",
        signature: "json(), json(path)",
        summary: "Returns the content of the message, like `this`, but also inside a function value; or \
                  the value at a path, such as `spec.containers.0.name`, and () if there is none. \
                  A number is a position in an array and `*` means all of its items; `~1` is a dot \
                  in a name and `~0` a `~`.",
        group: Group::Message,
        purity: Purity::Content(&[""]),
        examples: &[
            Example {
                script: "[1, 2].map_each(|n| n + json().a)",
                input: r#"{"a":10}"#,
                output: "[11,12]",
            },
            Example {
                script: r#"[json("metadata.labels.app~1kubernetes~1io/name"), json("list.1"), json("list.9.x")]"#,
                input: r#"{"metadata":{"labels":{"app.kubernetes.io/name":"web"}},"list":["a","b"]}"#,
                output: r#"["web","b",null]"#,
            },
        ],
    },
];

pub(super) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Deleted>("deleted");
    engine.register_type_with_name::<Decimal>("decimal");
    engine.register_fn("deleted", || Dynamic::from(Deleted));
    engine.register_fn(
        "meta",
        |call: NativeCallContext, key: &str| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            let value = context.metadata().get(key);
            Ok(value.map_or(Dynamic::UNIT, |value| value.as_ref().into()))
        },
    );
    engine.register_fn(
        "error",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            let failure = context.failure();
            Ok(failure.map_or(Dynamic::UNIT, |failure| failure.reason.as_ref().into()))
        },
    );
    engine.register_fn("json", |call: NativeCallContext| -> NativeResult<Dynamic> {
        Ok(context::of(&call)?.this()?)
    });
    engine.register_fn(
        "json",
        |call: NativeCallContext, path: &str| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            Ok(at(context.document()?.root(), path).unwrap_or(Dynamic::UNIT))
        },
    );
    engine.register_fn(
        "content",
        |call: NativeCallContext| -> NativeResult<String> {
            let bytes = context::of(&call)?.bytes()?;
            String::from_utf8(bytes).map_err(|_| "the content is not valid UTF-8".into())
        },
    );
}

/// Returns the value at a path in the syntax of Benthos: names and positions separated by dots, with
/// `~1` for a dot and `~0` for a `~` in a name. `*` returns an array of what the rest of the path leads
/// to in each item. Only the values on the path are read.
fn at(mut node: Node<'_>, path: &str) -> Option<Dynamic> {
    let mut rest = Some(path).filter(|path| !path.is_empty());
    while let Some(path) = rest {
        let (step, after) = match path.split_once('.') {
            Some((step, after)) => (step, Some(after)),
            None => (path, None),
        };
        rest = after;
        node = if !node.is_array() {
            node.get(&step.replace("~1", ".").replace("~0", "~"))?
        } else if step == "*" {
            let all = node.items().filter_map(|item| match rest {
                Some(rest) => at(item, rest),
                None => Some(materialise::whole(item)),
            });
            let all: rhai::Array = all.collect();
            return (!all.is_empty()).then(|| Dynamic::from_array(all));
        } else {
            node.items().nth(step.parse().ok()?)?
        };
    }
    Some(materialise::whole(node))
}
