//! The function that returns the product of a pod's GPUs.

use meterline_core::{Reads, Step};
use rhai::{Dynamic, Engine, Map, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity, known_devices::added, labelled};
use crate::{
    blank, context,
    notes::Loss,
    pod::{self, Added},
    prefix,
    relation::Relation,
};

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "pod_gpu_type",
    signature: "pod_gpu_type() -> text | (), pod_gpu_type(owner) -> text | (), pod_gpu_type(owner, object) -> text | ()",
    summary: "Returns the product name of the pod's GPUs: the value of the first of these labels of its \
              node, if the input has them (`node_labels` of `kubernetes_resources`): \
              `nvidia.com/gpu.product`, `amd.com/gpu.product-name`, \
              `beta.amd.com/gpu.product-name`, `gpu.intel.com/product`, \
              `cloud.google.com/gke-accelerator`, `cloud.google.com/gke-tpu-accelerator`, \
              `eks.amazonaws.com/instance-gpu-name`, `karpenter.k8s.aws/instance-gpu-name`, \
              `karpenter.k8s.aws/instance-accelerator-name`, `k8s.amazonaws.com/accelerator` \
              (except `true`). Otherwise it is the value that the pod's node selector or required node \
              affinity demands of the first of them; affinity counts if all of its alternatives demand \
              the same value. If the pod demands none, it is the annotation `data.openmeter.io/gpu_type` \
              of the pod (`pods`, the default), of its namespace (`namespaces`) or of neither (`none`), as \
              in `data_annotations`; else (). The object adds resources, as that of `devices` does; the labels that it names come first.",
    group: Group::Kubernetes,
    purity: Purity::Content(pod::GPU_TYPE),
    examples: &[
        Example {
            script: r#"[pod_gpu_type(), pod_gpu_type("none", #{ "example.com/npu": #{ product: "example.com/npu.product" } })]"#,
            input: r#"{"spec":{"nodeSelector":{"nvidia.com/gpu.product":"A100"}},"node()":{"labels":{"nvidia.com/gpu.product":"NVIDIA-A100-SXM4-40GB","example.com/npu.product":"N1"}}}"#,
            output: r#"["NVIDIA-A100-SXM4-40GB","N1"]"#,
        },
        Example {
            script: r#"["pods", "namespaces", "none"].map_each(|it| pod_gpu_type(it))"#,
            input: r#"{"metadata":{"annotations":{"data.openmeter.io/gpu_type":"T4"}},"namespace()":{"annotations":{"data.openmeter.io/gpu_type":"L4"}}}"#,
            output: r#"["T4","L4",null]"#,
        },
    ],
}];

/// The owner of the annotation unless one is named.
const PODS: &str = "pods";
/// The annotation that names the product of GPUs.
const ANNOTATION: &str = "data.openmeter.io/gpu_type";

/// Returns what the function reads if its first argument is this text, or if it is not known.
pub(crate) fn gpu_type_reads(owner: Option<&str>) -> Reads {
    let mut reads = super::reads("pod_gpu_type");
    let owners = match &owner {
        Some(owner) => std::slice::from_ref(owner),
        None => &[PODS, "namespaces"],
    };
    for owner in owners {
        if let Ok(path) = labelled::path(owner)
            && !path.is_empty()
        {
            let path = path.iter().copied().chain([ANNOTATION]);
            reads.add(&path.map(Step::Key).collect::<Vec<_>>());
        }
    }
    reads
}

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("pod_gpu_type", |call: NativeCallContext| {
        gpu_type(&call, PODS, &Added::new())
    });
    engine.register_fn("pod_gpu_type", |call: NativeCallContext, owner: &str| {
        gpu_type(&call, owner, &Added::new())
    });
    engine.register_fn(
        "pod_gpu_type",
        |call: NativeCallContext, owner: &str, table: Map| gpu_type(&call, owner, &added(&table)?),
    );
}

fn gpu_type(call: &NativeCallContext<'_>, owner: &str, added: &Added) -> NativeResult<Dynamic> {
    let path = labelled::path(owner)?;
    let context = context::of(call)?;
    let document = context.document()?;
    let root = document.root();
    let annotation = || {
        let annotations = root.path(path).filter(|_| !path.is_empty());
        blank::trimmed(annotations?.get(ANNOTATION)?.as_str()?)
    };
    let measured = pod::gpu_type(root, Relation::Node.labels(root), added);
    let Some(gpu_type) = measured.or_else(annotation) else {
        return Ok(Dynamic::UNIT);
    };
    let start = prefix::start(gpu_type, prefix::VALUE);
    if start.len() < gpu_type.len() {
        let limit = prefix::VALUE >> 10;
        let note = format!("the GPU type is truncated to {limit} KiB");
        context.note(Loss::Text, note);
    }
    Ok(start.into())
}

#[cfg(test)]
mod tests {
    use meterline_core::Message;
    use serde_json::{Value, json};

    use crate::{Engine, Limits};

    fn of(call: &str, content: &Value) -> Value {
        let engine = Engine::new(Limits::default());
        let expression = engine.compile_expression(call).unwrap();
        expression
            .evaluate(&Message::value(content))
            .unwrap()
            .root()
            .to_value()
    }

    #[test]
    fn an_annotation_counts_only_where_nothing_measured_is_known_and_if_its_owner_may_name_it() {
        let mut content = json!({
            "metadata": {"annotations": {"data.openmeter.io/gpu_type": " annotated "}},
            "spec": {"nodeSelector": {}},
        });
        assert_eq!(of("pod_gpu_type()", &content), "annotated");
        assert_eq!(of("pod_gpu_type(\"pods\")", &content), "annotated");
        for owner in ["none", "namespaces"] {
            let call = format!("pod_gpu_type(\"{owner}\")");
            assert_eq!(of(&call, &content), Value::Null, "{call}");
        }
        content["spec"]["nodeSelector"] = json!({"nvidia.com/gpu.product": "demanded"});
        assert_eq!(of("pod_gpu_type()", &content), "demanded");
        content["node()"] = json!({"labels": {"nvidia.com/gpu.product": "labelled"}});
        assert_eq!(of("pod_gpu_type()", &content), "labelled");
        for annotations in [json!(null), json!({"data.openmeter.io/gpu_type": " \t"})] {
            let content = json!({"metadata": {"annotations": annotations}});
            assert_eq!(of("pod_gpu_type()", &content), Value::Null);
        }
    }

    #[test]
    fn only_the_annotation_of_the_owner_is_read() {
        let engine = Engine::new(Limits::default());
        for (call, expected) in [
            ("pod_gpu_type()", vec!["metadata.annotations."]),
            ("pod_gpu_type(\"pods\")", vec!["metadata.annotations."]),
            ("pod_gpu_type(\"none\")", vec![]),
            (
                "pod_gpu_type(\"namespaces\")",
                vec!["namespace().annotations."],
            ),
            (
                "pod_gpu_type(this.owner)",
                vec!["metadata.annotations.", "namespace().annotations."],
            ),
        ] {
            let expression = engine.compile_expression(call).unwrap();
            let paths = expression.reads().paths();
            let found: Vec<_> = paths
                .iter()
                .filter_map(|it| it.strip_suffix("data~1openmeter~1io/gpu_type"))
                .collect();
            assert_eq!(found, expected, "{call}");
        }
        let wrong = engine
            .compile_expression("pod_gpu_type(\"nodes\")")
            .unwrap_err();
        assert!(
            wrong[0].message.contains("use pods, namespaces or none"),
            "{wrong:?}"
        );
    }
}
