//! The function that returns whether a node is ready.

use meterline_core::Scalar;
use rhai::{Dynamic, Engine, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity};
use crate::context;

/// The key of whether a node is ready in the content of a message. An input of nodes adds it for mappings that read it:
/// the conditions themselves change with each report of a node.
pub const NODE_READY: &str = "node_ready()";

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "node_ready",
    signature: "node_ready() -> bool | ()",
    summary: "Returns whether the condition `Ready` of a node is `True`, for an input with `resource_type: node`; () for \
              other objects. A change starts a new event at the `lastTransitionTime` of the condition, but not before the \
              node was created, not after the change was seen, and not in a window that was sent already. Other changes \
              of the conditions, such as heartbeats, start none.",
    group: Group::Kubernetes,
    purity: Purity::Content(&[NODE_READY]),
    examples: &[Example {
        script: "node_ready()",
        input: r#"{"node_ready()":true}"#,
        output: "true",
    }],
}];

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "node_ready",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            let is_ready = context.document()?.root().get(NODE_READY);
            Ok(match is_ready.and_then(|it| it.scalar()) {
                Some(Scalar::Bool(is_ready)) => is_ready.into(),
                _ => Dynamic::UNIT,
            })
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_call() {
        let [function] = DOCS else { panic!() };
        assert_eq!(NODE_READY, format!("{}()", function.name));
    }
}
