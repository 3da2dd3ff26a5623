//! The function that returns a value of a table.

use meterline_core::Node;
use rhai::{Dynamic, Engine, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity};
use crate::{blank, context, lookups, materialise};

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "lookup",
    signature: "lookup(name, value) -> value | ()",
    summary: "Returns the value that a table of the section `tables` has for a key, as it was when the object ran: a \
              text, or an object if the table has more columns. A key of the table may contain `*`. The file is read \
              again when it changes, and a change of the value starts a new event for the objects that it concerns. \
              `name` is a text, and the key a field of the object or of `namespace()` or `node()`, a text, or a \
              choice of them with `??`; spaces around it do not count. () if the table has no such key, or if the \
              key is missing.",
    group: Group::Kubernetes,
    // What it reads follows from its arguments; see `crate::lookups`.
    purity: Purity::Content(&[]),
    examples: &[Example {
        script: r#"lookup("customers", this.metadata.namespace) ?? "nobody""#,
        input: r#"{"metadata":{"namespace":"shop"},"lookup()":{"customers":{"metadata.namespace":"acme"}}}"#,
        output: r#""acme""#,
    }],
}];

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "lookup",
        |call: NativeCallContext, table: &str, key: &str| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            let value = value(context.document()?.root(), table, key)?;
            Ok(value.map_or(Dynamic::UNIT, materialise::whole))
        },
    );
    // A field that is missing.
    engine.register_fn("lookup", |_: &str, (): ()| Dynamic::UNIT);
}

/// Returns the value of a key in the content of a message.
///
/// # Errors
/// If the input does not add values of tables to its messages.
pub(super) fn value<'a>(
    root: Node<'a>,
    table: &str,
    key: &str,
) -> Result<Option<Node<'a>>, String> {
    let values = root.get(lookups::LOOKUP).ok_or_else(|| {
        "the message has no values of tables; only the input `kubernetes_resources` adds them"
            .to_owned()
    })?;
    let (Some(places), Some(key)) = (values.get(table), blank::trimmed(key)) else {
        return Ok(None);
    };
    let mut values = places.entries();
    let found = values.find(|(place, _)| {
        let known = lookups::key_at(root, place);
        known.and_then(blank::trimmed) == Some(key)
    });
    Ok(found.map(|(_, value)| value).filter(|it| !it.is_null()))
}

#[cfg(test)]
mod tests {
    use meterline_core::Document;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_of_another_input_is_an_error_and_not_a_missing_value() {
        let document = Document::from(&json!({"a": "x"}));
        let error = value(document.root(), "t", "x").unwrap_err();
        assert!(error.contains("kubernetes_resources"), "{error}");
        let document = Document::from(&json!({"a": " x ", "lookup()": {"t": {"a": 1, "b": 2}}}));
        let of = |table, key| {
            value(document.root(), table, key)
                .unwrap()
                .and_then(Node::as_i64)
        };
        assert_eq!(
            [of("t", "x "), of("t", "y"), of("u", "x"), of("t", " ")],
            [Some(1), None, None, None]
        );
    }
}
