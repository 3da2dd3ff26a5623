//! The function that lists the devices of a pod.

use std::collections::BTreeMap;

use rhai::{Dynamic, Engine, Identifier, Map, NativeCallContext};

use super::{
    Example, FunctionDoc, Group, NativeResult, Purity, known_devices::added, kubernetes::plain,
};
use crate::{
    accelerators::Unit,
    context::{self, Context},
    exact,
    notes::Loss,
    pod::{self, Added, Device},
    prefix,
    relation::Relation,
};

/// Two slices of a card, and a resource that is not in the table.
const SLICES: &str = r#"{"spec":{
    "nodeSelector":{"nvidia.com/gpu.product":"NVIDIA-A100-SXM4-40GB"},
    "containers":[{"resources":{"limits":{"nvidia.com/mig-1g.5gb":"2","example.com/npu":"1"}}}]}}"#;

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "devices",
    signature: "devices() -> array, devices(object) -> array",
    summary: "Returns the devices that the pod requests: one object for each resource that counts devices \
              and of which `pod_request` is not 0. `resource` is its name, `vendor` is in lower case, \
              `count` is how many, and `unit` is what one of them is: `card`, `chip`, `core`, `slice` (a \
              part of a card that is a device of its own, which `partition` names, such as `1g.5gb`), \
              `slot` (a place on a shared device) or `share` (a card of which the pod asks for a part of \
              the memory or of the cores, by `nvidia.com/gpumem` and the like, which are no devices \
              themselves). `sharing` is `none`, `time-slicing`, `mps`, or `unknown` if it is shared in a \
              way that is not known. Where they are known, `gpu_type` is the product, by the labels that \
              `pod_gpu_type` lists (but no annotation), `gpu_memory_bytes` is the memory of one device, \
              and `fraction` is how much of a physical device one of them is: 1 for a card or chip, one \
              nth if n pods share it, and the larger one of the shares of memory and cores for a slice or \
              a share. Memory, sharing and most products are labels of the node: the input has them with \
              `node_labels: true`, and a change of one of them starts a new event. `is_known` is false \
              for an extended resource that is not in the table; its `vendor` and `unit` are empty, \
              because nothing says whether it is a device, and `ledger_unbilled_device_seconds` counts \
              it. The argument adds resources to the table, or replaces them: \
              `devices(#{ \"example.com/npu\": #{ vendor: \"example\", unit: \"card\", product: \
              \"example.com/npu.product\" } })`, where `product` is the label that names the product, \
              and what has the unit `share` is no device. It is written in the call, without variables. \
              At most 200 devices are listed, known ones first; what is omitted is logged and counted by \
              `mapping_left_out`.",
    group: Group::Kubernetes,
    purity: Purity::Content(pod::DEVICES),
    examples: &[
        Example {
            script: "devices()",
            input: SLICES,
            output: r#"[{"count":2,"fraction":0.14285714285714285,"gpu_type":"NVIDIA-A100-SXM4-40GB","is_known":true,"partition":"1g.5gb","resource":"nvidia.com/mig-1g.5gb","sharing":"none","unit":"slice","vendor":"nvidia"},{"count":1,"is_known":false,"partition":"","resource":"example.com/npu","sharing":"unknown","unit":"","vendor":""}]"#,
        },
        Example {
            script: "devices()[0].fraction",
            input: r#"{"spec":{"containers":[{"resources":{"limits":{"nvidia.com/gpu.shared":"1"}}}]},
    "node()":{"labels":{"nvidia.com/gpu.replicas":"4"}}}"#,
            output: "0.25",
        },
        Example {
            script: r#"devices(#{ "example.com/npu": #{ vendor: "example", unit: "card" } })[0]"#,
            input: SLICES,
            output: r#"{"count":1,"fraction":1,"is_known":true,"partition":"","resource":"example.com/npu","sharing":"none","unit":"card","vendor":"example"}"#,
        },
    ],
}];

/// The most devices in `devices()`. A tenant could exceed the limits of scripts otherwise.
const MOST_DEVICES: usize = 200;

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "devices",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            devices(&context, &Added::new())
        },
    );
    engine.register_fn(
        "devices",
        |call: NativeCallContext, table: Map| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            devices(&context, &added(&table)?)
        },
    );
}

fn devices(context: &Context, added: &Added) -> NativeResult<Dynamic> {
    let document = context.document()?;
    let mut all = Vec::new();
    let root = document.root();
    for device in pod::devices(root, Relation::Node.labels(root), added) {
        match device {
            Ok(device) => all.push(device),
            Err(reason) => context.note(Loss::Metric, reason),
        }
    }
    // Stable, so that each half remains sorted by name.
    all.sort_by_key(|device| !device.is_known());
    let omitted = all.len().saturating_sub(MOST_DEVICES);
    if omitted > 0 {
        let note = format!("devices() omits {omitted} devices beyond {MOST_DEVICES}");
        context.note(Loss::Metric, note);
    }
    let list = all.iter().take(MOST_DEVICES);
    let list = list.filter_map(|device| match object(device) {
        Ok(object) => Some(object),
        Err(reason) => {
            context.note(Loss::Metric, format!("{}: {reason}", device.resource));
            None
        }
    });
    Ok(Dynamic::from_array(list.collect()))
}

fn object(device: &Device<'_>) -> Result<Dynamic, String> {
    let text = |text: &str| Dynamic::from(prefix::start(text, prefix::VALUE).to_owned());
    let mut fields: BTreeMap<Identifier, Dynamic> = [
        ("resource", text(device.resource)),
        ("vendor", text(device.vendor)),
        ("count", plain(&device.count)?.into()),
        ("unit", device.unit.map_or("", Unit::word).into()),
        ("partition", text(device.partition)),
        ("sharing", device.sharing.into()),
        ("is_known", device.is_known().into()),
    ]
    .map(|(key, value)| (key.into(), value))
    .into();
    if let Some(product) = device.product {
        fields.insert("gpu_type".into(), text(product));
    }
    if let Some(memory) = device.memory {
        fields.insert("gpu_memory_bytes".into(), memory.into());
    }
    if let Some(fraction) = device.fraction {
        let fraction = exact::ratio(&fraction.numerator.into(), &fraction.denominator.into())?;
        fields.insert("fraction".into(), fraction.into());
    }
    Ok(Dynamic::from_map(fields))
}

#[cfg(test)]
mod tests;
