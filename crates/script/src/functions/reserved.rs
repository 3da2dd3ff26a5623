//! Functions for the parts of what a pod reserves, and for other totals of them.

use std::collections::BTreeMap;

use rhai::{Dynamic, Engine, Identifier, Map, NativeCallContext};

use super::{
    Example, FunctionDoc, Group, NativeResult, Purity,
    kubernetes::{or_omitted, plain},
};
use crate::{
    context::{self, Context},
    notes::Loss,
    pod::{self, Container, Reserved, Section},
    quantity::Quantity,
};

/// The main container is being resized from 2 cores to 64, which the node has not granted.
const RESIZED: &str = r#"{
    "spec":{
        "initContainers":[
            {"name":"load","resources":{"requests":{"cpu":"1"}}},
            {"name":"proxy","restartPolicy":"Always","resources":{"requests":{"cpu":"100m"}}}],
        "containers":[{"name":"main","resources":{"requests":{"cpu":"64"},"limits":{"cpu":"64"}}}],
        "overhead":{"cpu":"250m"}},
    "status":{"containerStatuses":[{"name":"main",
        "allocatedResources":{"cpu":"2"},
        "resources":{"requests":{"cpu":"2"},"limits":{"cpu":"4"}}}]}}"#;

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "pod_limit_or_request",
        signature: "pod_limit_or_request(resource) -> number",
        summary: "As `pod_request`, with the limit of each container, or its request if it has no \
                  limit. If `spec.resources` sets a limit or else a request for the whole pod, that \
                  replaces the sum.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::REQUESTS),
        examples: &[Example {
            script: r#"[pod_limit_or_request("cpu"), pod_request("cpu"), pod_limit("cpu")]"#,
            input: RESIZED,
            output: "[4.35,2.35,4.25]",
        }],
    },
    FunctionDoc {
        name: "container_request",
        signature: "container_request(name, resource) -> number",
        summary: "Returns how much of a resource one container, sidecar or init container requests, \
                  resized as in `pod_request`. It is 0 if the pod has no such container.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::REQUESTS),
        examples: &[Example {
            script: r#"[container_request("main", "cpu"), container_request("load", "cpu"), container_request("none", "cpu")]"#,
            input: RESIZED,
            output: "[2,1,0]",
        }],
    },
    FunctionDoc {
        name: "container_limit",
        signature: "container_limit(name, resource) -> number",
        summary: "As `container_request`, for the limits.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::LIMITS),
        examples: &[Example {
            script: r#"container_limit("main", "cpu")"#,
            input: RESIZED,
            output: "4",
        }],
    },
    FunctionDoc {
        name: "containers",
        signature: "containers() -> array",
        summary: "Returns the containers of the pod and then its init containers, each in the order of \
                  the spec: `name`, `kind` (`container`, `sidecar` or `init`), and `requests` and \
                  `limits` by resource, resized as in `pod_request`. At most 500 containers are \
                  listed, and 2000 amounts of other resources than `cpu`, `memory` and \
                  `ephemeral-storage`; what is omitted is logged and counted by `mapping_left_out`.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::REQUESTS),
        examples: &[Example {
            script: "containers()",
            input: RESIZED,
            output: r#"[{"kind":"container","limits":{"cpu":4},"name":"main","requests":{"cpu":2}},{"kind":"init","limits":{},"name":"load","requests":{"cpu":1}},{"kind":"sidecar","limits":{},"name":"proxy","requests":{"cpu":0.1}}]"#,
        }],
    },
];

/// The most containers in `containers()`. With the amounts below they are within the limits of scripts,
/// which a tenant could exceed otherwise.
const MOST_CONTAINERS: usize = 500;
/// The most amounts in `containers()`, besides those of [`ALWAYS`].
const MOST_AMOUNTS: usize = 2000;
/// The resources whose amounts `containers()` never omits.
const ALWAYS: &[&str] = &["cpu", "memory", "ephemeral-storage"];

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "pod_limit_or_request",
        |call: NativeCallContext, resource: &str| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            let reserved = Reserved::of(context.document()?.root());
            Ok(number(&context, reserved.limit_or_request(resource)))
        },
    );
    for (name, section) in [
        ("container_request", Section::Requests),
        ("container_limit", Section::Limits),
    ] {
        engine.register_fn(
            name,
            move |call: NativeCallContext,
                  container: &str,
                  resource: &str|
                  -> NativeResult<Dynamic> {
                let context = context::of(&call)?;
                let reserved = Reserved::of(context.document()?.root());
                let amount = match reserved.container(container) {
                    Some(container) => container.amount(section, resource),
                    None => Ok(None),
                };
                let amount = amount.map(|it| it.unwrap_or(Quantity::ZERO));
                Ok(number(&context, amount))
            },
        );
    }
    engine.register_fn(
        "containers",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            let reserved = Reserved::of(context.document()?.root());
            Ok(containers(&context, &reserved))
        },
    );
}

/// Converts an amount, or omits it as `pod_request` does.
fn number(context: &Context, amount: Result<Quantity, String>) -> Dynamic {
    or_omitted(context, amount.and_then(|amount| plain(&amount)))
}

fn containers(context: &Context, reserved: &Reserved<'_>) -> Dynamic {
    let all = reserved.containers();
    let mut left = MOST_AMOUNTS;
    let mut omitted = 0;
    let mut amounts = |container: &Container<'_>, section| {
        let mut map = Map::new();
        for (name, amount) in container.amounts(section) {
            if !ALWAYS.contains(&name) {
                if left == 0 {
                    omitted += 1;
                    continue;
                }
                left -= 1;
            }
            map.insert(name.into(), number(context, amount));
        }
        Dynamic::from_map(map)
    };
    let list = all.iter().take(MOST_CONTAINERS).map(|container| {
        let fields: BTreeMap<Identifier, Dynamic> = [
            ("name", container.name.unwrap_or_default().into()),
            ("kind", container.kind().into()),
            ("requests", amounts(container, Section::Requests)),
            ("limits", amounts(container, Section::Limits)),
        ]
        .map(|(key, value)| (key.into(), value))
        .into();
        Dynamic::from_map(fields)
    });
    let list = Dynamic::from_array(list.collect());
    let count = all.len().saturating_sub(MOST_CONTAINERS);
    if count > 0 {
        let note = format!("containers() omits {count} containers beyond {MOST_CONTAINERS}");
        context.note(Loss::Metric, note);
    }
    if omitted > 0 {
        let note = format!("containers() omits {omitted} amounts beyond {MOST_AMOUNTS}");
        context.note(Loss::Metric, note);
    }
    list
}

#[cfg(test)]
mod tests {
    use meterline_core::Message;
    use serde_json::{Value, json};

    use crate::{Engine, Limits, notes::Note};

    /// Runs a mapping and returns its result and its notes.
    fn map(source: &str, pod: &Value) -> (Value, Vec<Note>) {
        let engine = Engine::new(Limits::default());
        let mapping = engine.compile_mapping(source).unwrap();
        let mut message = Message::value(pod);
        let mut notes = Vec::new();
        mapping.run_noting(&mut message, &mut notes).unwrap();
        (message.tree().unwrap(), notes)
    }

    fn names(count: usize) -> Value {
        let mut names: serde_json::Map<_, _> = (0..count)
            .map(|index| (format!("a.example.com/{index}"), json!("1")))
            .collect();
        names.insert("cpu".into(), json!("2"));
        names.into()
    }

    #[test]
    fn a_malformed_amount_omits_only_itself() {
        let source = "root = #{ all: containers(), cpu: container_request(\"a\", \"cpu\"),
            memory: container_request(\"a\", \"memory\"), both: pod_limit_or_request(\"cpu\") }";
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "x", "memory": "1Ki"}}},
        ]}});
        let (event, notes) = map(source, &pod);
        assert_eq!(
            event,
            json!({"memory": 1024, "all": [
                {"name": "a", "kind": "container", "requests": {"memory": 1024}, "limits": {}},
            ]})
        );
        let [note] = notes.as_slice() else {
            panic!("{notes:?}");
        };
        assert!(
            note.text
                .starts_with("spec.containers[0].resources.requests.cpu: `x`"),
            "{note:?}"
        );
    }

    #[test]
    fn a_tenant_cannot_exceed_the_limits_of_scripts_by_resource_names_or_containers() {
        let source = "let all = containers();
            root = #{ count: all.len(), cpu: all.map_each(|it| it.requests.cpu).sum(),
                names: all.map_each(|it| it.requests.len()).sum() }";
        let many = json!({"name": "a", "resources": {"requests": names(20_000)}});
        let other = json!({"name": "b", "resources": {"requests": names(1)}});
        let (event, notes) = map(source, &json!({"spec": {"containers": [many, other]}}));
        assert_eq!(event, json!({"count": 2, "cpu": 4, "names": 2002}));
        let texts: Vec<_> = notes.iter().map(|it| it.text.as_str()).collect();
        assert_eq!(texts, ["containers() omits 18001 amounts beyond 2000"]);

        let one =
            json!({"name": "x", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}});
        let pod = json!({"spec": {"containers": vec![one; 700]}});
        let (event, notes) = map(source, &pod);
        assert_eq!(event, json!({"count": 500, "cpu": 500, "names": 500}));
        let texts: Vec<_> = notes.iter().map(|it| it.text.as_str()).collect();
        assert_eq!(texts, ["containers() omits 200 containers beyond 500"]);
    }

    #[test]
    fn a_container_that_is_not_there_reserves_nothing() {
        let source = "root = [container_request(\"b\", \"cpu\"), container_limit(\"\", \"cpu\"), containers()]";
        for pod in [json!({}), json!({"spec": {"containers": [{"name": "a"}]}})] {
            let (event, notes) = map(source, &pod);
            assert_eq!(event[0], 0);
            assert_eq!(event[1], 0);
            assert!(notes.is_empty(), "{notes:?}");
        }
    }

    /// Nothing of a status is read but names, and what is allocated and applied.
    #[test]
    fn only_names_and_amounts_of_a_status_are_read() {
        let engine = Engine::new(Limits::default());
        for call in [
            "pod_request(\"cpu\")",
            "pod_limit(\"cpu\")",
            "pod_request_seconds(\"cpu\", 1)",
            "pod_gpu_request()",
            "pod_gpu_limit_seconds(1)",
            "pod_metrics(1)",
            "pod_limit_or_request(\"cpu\")",
            "container_request(\"a\", \"cpu\")",
            "container_limit(\"a\", \"cpu\")",
            "containers()",
        ] {
            let expression = engine.compile_expression(call).unwrap();
            let of_status = |it: &String| it.starts_with("status.");
            let mut paths: Vec<_> = expression.reads().paths();
            paths.retain(of_status);
            for path in &paths {
                let fields: Vec<_> = path.split('.').collect();
                let is_known = matches!(
                    fields.as_slice(),
                    ["status", "resources" | "allocatedResources"]
                        | [
                            "status",
                            "containerStatuses" | "initContainerStatuses",
                            "*",
                            "name" | "resources" | "allocatedResources",
                        ]
                );
                assert!(is_known, "{call} reads {path}");
            }
            let is_limit = call.contains("_limit(") || call.contains("_limit_seconds(");
            assert_eq!(
                paths.len(),
                if is_limit { 5 } else { 8 },
                "{call}: {paths:?}"
            );
        }
    }
}
