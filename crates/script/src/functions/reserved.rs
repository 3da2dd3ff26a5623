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
