//! Functions that return the metadata of other objects that the object of the message belongs to.

use rhai::{Dynamic, Engine, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity};
use crate::{context, materialise, relation::Relation};

/// What these functions read follows from what a script reads of their results; see [`crate::reads`].
const PURITY: Purity = Purity::Content(&[]);

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "namespace",
        signature: "namespace() -> object | ()",
        summary: "Returns the metadata of the object's namespace as it was when the object ran: `name`, \
                  `labels` and `annotations`. A tenant cannot write it, so it may decide who pays. A change \
                  of a label or annotation that a mapping reads starts a new event at the time of the change. \
                  () if the object is in no namespace, or if the namespace is not known. The collector needs \
                  the right to read namespaces.",
        group: Group::Kubernetes,
        purity: PURITY,
        examples: &[Example {
            script: r#"namespace()?.labels?["example.com/customer"] ?? this.metadata.namespace"#,
            input: r#"{"metadata":{"namespace":"shop"},"namespace()":{"name":"shop","labels":{"example.com/customer":"acme"}}}"#,
            output: r#""acme""#,
        }],
    },
    FunctionDoc {
        name: "node",
        signature: "node() -> object | ()",
        summary: "Returns the metadata of the node that the object runs on, like `namespace`. () if the object \
                  runs on no node, or if the node is not known. The collector needs the right to read nodes.",
        group: Group::Kubernetes,
        purity: PURITY,
        examples: &[Example {
            script: r#"node()?.labels?["node.kubernetes.io/instance-type"]"#,
            input: r#"{"node()":{"name":"node-1","labels":{"node.kubernetes.io/instance-type":"m5.large"}}}"#,
            output: r#""m5.large""#,
        }],
    },
];

pub(super) fn register(engine: &mut Engine) {
    for relation in Relation::ALL {
        engine.register_fn(
            relation.function(),
            move |call: NativeCallContext| -> NativeResult<Dynamic> {
                let context = context::of(&call)?;
                let metadata = context.document()?.root().get(relation.key());
                Ok(metadata.map_or(Dynamic::UNIT, materialise::whole))
            },
        );
    }
}
