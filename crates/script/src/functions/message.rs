//! The message at hand and what becomes of it.

use rhai::{Dynamic, Engine, NativeCallContext};

use super::{Answer, Example, FunctionDoc, Group, Purity};
use crate::{context, convert::Deleted, decimal::Decimal};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "meta",
        signature: "meta(key) -> text | ()",
        summary: "The metadata of the message under `key`, as it was before the script; `meta[key] \
                  = value` sets it, and setting () removes it.",
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
        summary: "As `root` it drops the message; as a field or an item it leaves it out.",
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
        summary: "Why the message is flagged as failed, or () when it is not.",
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
        summary: "The content of the message as the text it is sent as, JSON or not.",
        group: Group::Message,
        purity: Purity::Content,
        examples: &[Example {
            script: "content()",
            input: r#"{"a":1}"#,
            output: r#""{\"a\":1}""#,
        }],
    },
];

pub(super) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Deleted>("deleted");
    engine.register_type_with_name::<Decimal>("decimal");
    engine.register_fn("deleted", || Dynamic::from(Deleted));
    engine.register_fn(
        "meta",
        |call: NativeCallContext, key: &str| -> Answer<Dynamic> {
            let context = context::of(&call)?;
            let value = context.metadata().get(key);
            Ok(value.map_or(Dynamic::UNIT, |value| value.as_ref().into()))
        },
    );
    engine.register_fn("error", |call: NativeCallContext| -> Answer<Dynamic> {
        let context = context::of(&call)?;
        let failure = context.failure();
        Ok(failure.map_or(Dynamic::UNIT, |failure| failure.reason.as_ref().into()))
    });
    engine.register_fn("content", |call: NativeCallContext| -> Answer<String> {
        let bytes = context::of(&call)?.bytes()?;
        String::from_utf8(bytes).map_err(|_| "the content is not valid UTF-8".into())
    });
}
