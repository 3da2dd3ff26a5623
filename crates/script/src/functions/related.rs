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
    FunctionDoc {
        name: "owner",
        signature: "owner() -> object | ()",
        summary: "Returns the controller that the object belongs to: `kind`, `name` and `api_version`, and of a \
                  pod's controller its `labels` and `annotations`, like `namespace`. It is the Deployment of a \
                  pod of a ReplicaSet that a Deployment made, the CronJob of a pod of a Job that a CronJob \
                  scheduled, and the StatefulSet, DaemonSet, Job or whatever else controls the object otherwise. \
                  Kind, name and API version are in the object and need no right. For labels and annotations the \
                  collector needs the right to read deployments, statefulsets, daemonsets, jobs and cronjobs in \
                  the namespaces of the pods; those of other kinds are not known, and those of a ReplicaSet \
                  without a Deployment neither. () if nothing controls the object. Whoever may create a pod in a \
                  namespace can write which of the controllers of that namespace owns it, and what labels these \
                  have: the owner is a dimension of usage, and must not decide who pays.",
        group: Group::Kubernetes,
        purity: PURITY,
        examples: &[Example {
            script: r#"[owner()?.kind ?? "Pod", owner()?.name ?? this.metadata.name, owner()?.labels?["example.com/team"]]"#,
            input: r#"{"metadata":{"name":"web-5d9-x2"},"owner()":{"api_version":"apps/v1","kind":"Deployment","name":"web","labels":{"example.com/team":"search"}}}"#,
            output: r#"["Deployment","web","search"]"#,
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
