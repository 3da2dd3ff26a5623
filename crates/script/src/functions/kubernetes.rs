//! Functions for what a pod reserves.

use rhai::{Dynamic, Engine, INT, Identifier, Map, NativeCallContext};

use super::{
    Example, FunctionDoc, Group, NativeResult, Purity, known_devices::added, quantities::nonzero,
    values,
};
use crate::{
    context::{self, Context},
    convert::Deleted,
    decimal::Decimal,
    exact::{self, Number},
    notes::Loss,
    pod::{self, Added, Reserved, Section},
    quantity::Quantity,
};

const TWO_CONTAINERS: &str = r#"{"spec":{
    "containers":[
        {"resources":{"requests":{"cpu":"100m","memory":"1Gi"},"limits":{"nvidia.com/gpu":"1"}}},
        {"resources":{"requests":{"cpu":"200m"},"limits":{"cpu":"1"}}}],
    "nodeSelector":{"nvidia.com/gpu.product":"A100"}}}"#;

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "pod_request",
        signature: "pod_request(resource) -> number",
        summary: "Returns how much of a resource the pod requests, as the scheduler counts it. It is \
                  the sum over the containers and sidecars (init containers that restart always), or \
                  the most that an init container needs together with the sidecars before it, if \
                  that is more. A request in `spec.resources` for the whole pod replaces this for \
                  `cpu`, `memory` and `hugepages-*`. `spec.overhead` is added. If a container or the \
                  pod is resized, the larger of the allocated and the applied amount in the status \
                  counts, and the spec only where the status has neither. `cpu` is in cores, \
                  `memory` in bytes; the default is 0. If the value is malformed, negative or beyond \
                  1.8e308, the result is `deleted()`: the event omits that metric, \
                  `mapping_left_out` counts it, and it is logged once.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::REQUESTS),
        examples: &[Example {
            script: r#"[pod_request("cpu"), pod_request("memory"), pod_request("ephemeral-storage")]"#,
            input: TWO_CONTAINERS,
            output: "[0.3,1073741824,0]",
        }],
    },
    FunctionDoc {
        name: "pod_limit",
        signature: "pod_limit(resource) -> number",
        summary: "As `pod_request`, for the limits. A container without a limit counts as 0. \
                  Overhead is added only to a limit that is not 0. If a container or the pod is \
                  resized, the applied limit in the status counts, and the spec only where the \
                  status has no `resources`.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::LIMITS),
        examples: &[Example {
            script: r#"pod_limit("cpu")"#,
            input: TWO_CONTAINERS,
            output: "1",
        }],
    },
    FunctionDoc {
        name: "pod_request_seconds",
        signature: "pod_request_seconds(resource, seconds) -> number, pod_request_seconds(resource, seconds, divisor) -> number",
        summary: "Returns `pod_request` × seconds ÷ divisor, computed exactly: an integer if the result \
                  is whole. A non-terminating decimal becomes the nearest 64-bit float, and from 2^53 \
                  it is rounded to a billionth.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::REQUESTS),
        examples: &[Example {
            script: r#"[pod_request_seconds("cpu", 3), pod_request_seconds("memory", 10), pod_request_seconds("cpu", 15, 60)]"#,
            input: TWO_CONTAINERS,
            output: "[0.9,10737418240,0.075]",
        }],
    },
    FunctionDoc {
        name: "pod_limit_seconds",
        signature: "pod_limit_seconds(resource, seconds) -> number, pod_limit_seconds(resource, seconds, divisor) -> number",
        summary: "Returns `pod_limit` × seconds ÷ divisor, computed exactly.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::LIMITS),
        examples: &[Example {
            script: r#"pod_limit_seconds("cpu", 15)"#,
            input: TWO_CONTAINERS,
            output: "15",
        }],
    },
    FunctionDoc {
        name: "pod_gpu_request",
        signature: "pod_gpu_request() -> number, pod_gpu_request(object) -> number",
        summary: "Returns how many accelerators the pod requests: cards, chips, slices and the slots \
                  of shared devices, each summed like `pod_request`. These resources count: \
                  `nvidia.com/gpu`, `nvidia.com/mig-*`, both also with `.shared`, `amd.com/gpu`, \
                  `gpu.intel.com/i915`, `gpu.intel.com/xe`, `habana.ai/gaudi`, `google.com/tpu`, \
                  `huawei.com/Ascend*`, `k8s.amazonaws.com/vgpu`, and the largest of \
                  `aws.amazon.com/neuron`, `neurondevice` and `neuroncore`, which count the same \
                  chips. What measures a share of a device, such as `nvidia.com/gpumem`, does not \
                  count. For a container with only a limit the limit counts, as in the API server. The \
                  argument adds resources to these, or replaces them, as that of `devices` does.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::GPU_REQUESTS),
        examples: &[Example {
            script: r#"[pod_gpu_request(), pod_gpu_request(#{ "example.com/npu": #{ unit: "chip" } })]"#,
            input: r#"{"spec":{"containers":[{"resources":{"limits":{"nvidia.com/gpu":"1","example.com/npu":"2"}}}]}}"#,
            output: "[1,3]",
        }],
    },
    FunctionDoc {
        name: "pod_gpu_limit",
        signature: "pod_gpu_limit() -> number, pod_gpu_limit(object) -> number",
        summary: "As `pod_gpu_request`, for the limits.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::GPU_LIMITS),
        examples: &[Example {
            script: "pod_gpu_limit()",
            input: TWO_CONTAINERS,
            output: "1",
        }],
    },
    FunctionDoc {
        name: "pod_gpu_request_seconds",
        signature: "pod_gpu_request_seconds(seconds) -> number, pod_gpu_request_seconds(seconds, divisor) -> number, pod_gpu_request_seconds(seconds, divisor, object) -> number",
        summary: "Returns `pod_gpu_request` × seconds ÷ divisor, computed exactly. The third argument is \
                  that of `pod_gpu_request`.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::GPU_REQUESTS),
        examples: &[Example {
            script: "[pod_gpu_request_seconds(15), pod_gpu_request_seconds(15, 60)]",
            input: TWO_CONTAINERS,
            output: "[15,0.25]",
        }],
    },
    FunctionDoc {
        name: "pod_gpu_limit_seconds",
        signature: "pod_gpu_limit_seconds(seconds) -> number, pod_gpu_limit_seconds(seconds, divisor) -> number, pod_gpu_limit_seconds(seconds, divisor, object) -> number",
        summary: "Returns `pod_gpu_limit` × seconds ÷ divisor, computed exactly. The third argument is \
                  that of `pod_gpu_request`.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::GPU_LIMITS),
        examples: &[Example {
            script: "pod_gpu_limit_seconds(15)",
            input: TWO_CONTAINERS,
            output: "15",
        }],
    },
    FunctionDoc {
        name: "pod_metrics",
        signature: "pod_metrics(seconds) -> object, pod_metrics(seconds, unit) -> object, pod_metrics(seconds, unit, object) -> object",
        summary: "Returns the metrics of the pod: `cpu_request_millicores` (in cores; the name \
                  is historical), `memory_request_bytes`, `ephemeral_storage_request_bytes` and \
                  `gpu_request_count`, the same with `limit`, and each of the eight × seconds with the \
                  suffix `_per_second`. The unit `minute` or `hour` divides by 60 or 3600 and changes \
                  the suffix. `memory_request_gib_hours`, `ephemeral_storage_request_gib_hours` and \
                  the same with `limit` are bytes × seconds ÷ (2³⁰ × 3600) with any unit. Invalid \
                  metrics are omitted, as in `pod_request`. The third argument is that of \
                  `pod_gpu_request`.",
        group: Group::Kubernetes,
        purity: Purity::Content(pod::GPU_REQUESTS),
        examples: &[Example {
            script: r#"pod_metrics(15, "minute")"#,
            input: TWO_CONTAINERS,
            output: r#"{"cpu_limit_millicores":1,"cpu_limit_millicores_per_minute":0.25,"cpu_request_millicores":0.3,"cpu_request_millicores_per_minute":0.075,"ephemeral_storage_limit_bytes":0,"ephemeral_storage_limit_bytes_per_minute":0,"ephemeral_storage_limit_gib_hours":0,"ephemeral_storage_request_bytes":0,"ephemeral_storage_request_bytes_per_minute":0,"ephemeral_storage_request_gib_hours":0,"gpu_limit_count":1,"gpu_limit_count_per_minute":0.25,"gpu_request_count":1,"gpu_request_count_per_minute":0.25,"memory_limit_bytes":0,"memory_limit_bytes_per_minute":0,"memory_limit_gib_hours":0,"memory_request_bytes":1073741824,"memory_request_bytes_per_minute":268435456,"memory_request_gib_hours":0.004166666666666667}"#,
        }],
    },
];

const ONE: i64 = 1;

pub(super) fn register(engine: &mut Engine) {
    // The form with whole seconds first, as below.
    engine.register_fn(
        "pod_metrics",
        |call: NativeCallContext, seconds: INT, unit: &str| {
            pod_metrics(&call, &seconds.into(), unit, &Added::new())
        },
    );
    engine.register_fn(
        "pod_metrics",
        |call: NativeCallContext, seconds: Dynamic| {
            pod_metrics(&call, &seconds, "second", &Added::new())
        },
    );
    engine.register_fn(
        "pod_metrics",
        |call: NativeCallContext, seconds: Dynamic, unit: &str| {
            pod_metrics(&call, &seconds, unit, &Added::new())
        },
    );
    engine.register_fn(
        "pod_metrics",
        |call: NativeCallContext, seconds: Dynamic, unit: &str, table: Map| {
            pod_metrics(&call, &seconds, unit, &added(&table)?)
        },
    );
    for (section, name, product, gpu_name, gpu_product) in [
        (
            Section::Requests,
            "pod_request",
            "pod_request_seconds",
            "pod_gpu_request",
            "pod_gpu_request_seconds",
        ),
        (
            Section::Limits,
            "pod_limit",
            "pod_limit_seconds",
            "pod_gpu_limit",
            "pod_gpu_limit_seconds",
        ),
    ] {
        register_resource(engine, section, name, product);
        register_gpu(engine, section, gpu_name, gpu_product);
    }
}

fn register_resource(
    engine: &mut Engine,
    section: Section,
    name: &'static str,
    product: &'static str,
) {
    engine.register_fn(name, move |call: NativeCallContext, resource: &str| {
        Amount::of(&call, section, resource)?.plain()
    });
    // The most common types first: a call is resolved by the types of its arguments, and finding a form
    // with `Dynamic` takes longer.
    engine.register_fn(
        product,
        move |call: NativeCallContext, resource: &str, seconds: INT, divisor: INT| {
            Amount::of(&call, section, resource)?.times(&seconds.into(), &divisor.into())
        },
    );
    engine.register_fn(
        product,
        move |call: NativeCallContext, resource: &str, seconds: INT| {
            Amount::of(&call, section, resource)?.times(&seconds.into(), &ONE.into())
        },
    );
    engine.register_fn(
        product,
        move |call: NativeCallContext, resource: &str, seconds: Dynamic| {
            Amount::of(&call, section, resource)?.times(&seconds, &ONE.into())
        },
    );
    engine.register_fn(
        product,
        move |call: NativeCallContext, resource: &str, seconds: Dynamic, divisor: Dynamic| {
            Amount::of(&call, section, resource)?.times(&seconds, &divisor)
        },
    );
}

fn register_gpu(engine: &mut Engine, section: Section, name: &'static str, product: &'static str) {
    engine.register_fn(name, move |call: NativeCallContext| {
        Amount::gpus(&call, section, &Added::new())?.plain()
    });
    engine.register_fn(name, move |call: NativeCallContext, table: Map| {
        Amount::gpus(&call, section, &added(&table)?)?.plain()
    });
    engine.register_fn(
        product,
        move |call: NativeCallContext, seconds: INT, divisor: INT| {
            Amount::gpus(&call, section, &Added::new())?.times(&seconds.into(), &divisor.into())
        },
    );
    engine.register_fn(product, move |call: NativeCallContext, seconds: INT| {
        Amount::gpus(&call, section, &Added::new())?.times(&seconds.into(), &ONE.into())
    });
    engine.register_fn(product, move |call: NativeCallContext, seconds: Dynamic| {
        Amount::gpus(&call, section, &Added::new())?.times(&seconds, &ONE.into())
    });
    engine.register_fn(
        product,
        move |call: NativeCallContext, seconds: Dynamic, divisor: Dynamic| {
            Amount::gpus(&call, section, &Added::new())?.times(&seconds, &divisor)
        },
    );
    engine.register_fn(
        product,
        move |call: NativeCallContext, seconds: Dynamic, divisor: Dynamic, table: Map| {
            Amount::gpus(&call, section, &added(&table)?)?.times(&seconds, &divisor)
        },
    );
}

/// The amount of a resource that a pod reserves, or why it is invalid.
struct Amount {
    context: Context,
    quantity: Result<Quantity, String>,
}

impl Amount {
    fn of(call: &NativeCallContext<'_>, section: Section, resource: &str) -> NativeResult<Self> {
        let context = context::of(call)?;
        let reserved = Reserved::of(context.document()?.root());
        let quantity = reserved.total(section, resource);
        Ok(Self { context, quantity })
    }

    /// Returns the number of GPUs. `added` are resources that the table does not have.
    fn gpus(call: &NativeCallContext<'_>, section: Section, added: &Added) -> NativeResult<Self> {
        let context = context::of(call)?;
        let reserved = Reserved::of(context.document()?.root());
        let quantity = reserved.gpus(section, added);
        Ok(Self { context, quantity })
    }

    fn plain(self) -> NativeResult<Dynamic> {
        let number = self.quantity.and_then(|quantity| plain(&quantity));
        Ok(or_omitted(&self.context, number))
    }

    fn times(self, seconds: &Dynamic, divisor: &Dynamic) -> NativeResult<Dynamic> {
        let (seconds, divisor) = (values::decimal(seconds)?, nonzero(divisor)?);
        let number = self
            .quantity
            .and_then(|quantity| times(&quantity, &seconds, &divisor));
        Ok(or_omitted(&self.context, number))
    }
}

pub(super) fn plain(quantity: &Quantity) -> Result<Number, String> {
    exact::number(quantity).map_err(str::to_owned)
}

pub(super) fn times(
    quantity: &Quantity,
    factor: &Decimal,
    divisor: &Decimal,
) -> Result<Number, String> {
    exact::product(quantity, factor, divisor)
        .map_err(|reason| format!("{factor} times as much {reason}"))
}

/// Returns the number, or notes the error and omits the metric: the pod's other metrics and its seconds
/// are still billed.
pub(super) fn or_omitted(context: &Context, number: Result<Number, String>) -> Dynamic {
    match number {
        Ok(number) => number.into(),
        Err(reason) => {
            context.note(Loss::Metric, reason);
            Dynamic::from(Deleted)
        }
    }
}

/// The names of the metrics of a resource.
pub(crate) struct Names {
    amount: &'static str,
    /// The amount × seconds.
    derived: &'static str,
    /// The amount of bytes × seconds in GiB-hours, the unit that memory and storage are sold in.
    gib_hours: Option<&'static str>,
}

/// The names of the metrics of CPU, ephemeral storage, GPUs and memory of both sections.
pub(crate) type Metrics = [(Section, [Names; 4]); 2];

/// A GiB-hour in byte-seconds.
pub(super) const GIB_HOUR: i64 = (1 << 30) * 3600;

macro_rules! names {
    ($suffix:literal) => {
        [
            (Section::Limits, names!("limit", $suffix)),
            (Section::Requests, names!("request", $suffix)),
        ]
    };
    ($section:literal, $suffix:literal) => {
        [
            names!("cpu_", $section, "_millicores", $suffix, None),
            names!(
                "ephemeral_storage_",
                $section,
                "_bytes",
                $suffix,
                Some(concat!("ephemeral_storage_", $section, "_gib_hours"))
            ),
            names!("gpu_", $section, "_count", $suffix, None),
            names!(
                "memory_",
                $section,
                "_bytes",
                $suffix,
                Some(concat!("memory_", $section, "_gib_hours"))
            ),
        ]
    };
    ($resource:literal, $section:literal, $unit:literal, $suffix:literal, $gib_hours:expr) => {
        Names {
            amount: concat!($resource, $section, $unit),
            derived: concat!($resource, $section, $unit, $suffix),
            gib_hours: $gib_hours,
        }
    };
}

/// Returns the names of the metrics for a unit of time, and its length in seconds.
pub(crate) fn unit(unit: &str) -> Result<(&'static Metrics, i64), String> {
    static SECOND: Metrics = names!("_per_second");
    static MINUTE: Metrics = names!("_per_minute");
    static HOUR: Metrics = names!("_per_hour");
    match unit {
        "second" => Ok((&SECOND, ONE)),
        "minute" => Ok((&MINUTE, 60)),
        "hour" => Ok((&HOUR, 3600)),
        other => Err(format!(
            "`{other}` is not a unit; use second, minute or hour"
        )),
    }
}

fn pod_metrics(
    call: &NativeCallContext<'_>,
    seconds: &Dynamic,
    unit: &str,
    added: &Added,
) -> NativeResult<Dynamic> {
    let (names, divisor) = self::unit(unit)?;
    let context = context::of(call)?;
    let reserved = Reserved::of(context.document()?.root());
    let (factor, divisor) = (values::decimal(seconds)?, divisor.into());
    let gib_hour = GIB_HOUR.into();
    let mut metrics = Vec::with_capacity(20);
    for (section, names) in names {
        let quantities = [
            reserved.total(*section, "cpu"),
            reserved.total(*section, "ephemeral-storage"),
            reserved.gpus(*section, added),
            reserved.total(*section, "memory"),
        ];
        for (names, quantity) in names.iter().zip(quantities) {
            let mut add = |name: &'static str, number| {
                metrics.push((Identifier::from(name), or_omitted(&context, number)));
            };
            let product = |divisor| {
                let quantity = quantity.as_ref().map_err(Clone::clone);
                quantity.and_then(|quantity| times(quantity, &factor, divisor))
            };
            add(
                names.amount,
                quantity.as_ref().map_err(Clone::clone).and_then(plain),
            );
            add(names.derived, product(&divisor));
            if let Some(name) = names.gib_hours {
                add(name, product(&gib_hour));
            }
        }
    }
    Ok(Dynamic::from_map(metrics.into_iter().collect()))
}
