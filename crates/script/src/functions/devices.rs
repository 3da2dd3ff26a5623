//! The function that lists the devices of a pod.

use std::collections::BTreeMap;

use rhai::{Dynamic, Engine, Identifier, Map, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity, kubernetes::plain};
use crate::{
    accelerators::Unit,
    context::{self, Context},
    exact,
    notes::Loss,
    pod::{self, Added, Configured, Device},
    prefix,
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
              and `fraction` is how much of a physical device one of them is: 1 for a card or chip, and \
              the larger one of the shares of memory and cores. `is_known` is false for an extended \
              resource that is not in the table; its `vendor` and `unit` are empty, because nothing says \
              whether it is a device. The argument adds resources to the table, or replaces them: \
              `devices(#{ \"example.com/npu\": #{ vendor: \"example\", unit: \"card\", product: \
              \"example.com/npu.product\" } })`, where `product` is the label that names the product, \
              and what has the unit `share` is no device. At most 200 devices are listed, known ones \
              first; what is omitted is logged and counted by `mapping_left_out`.",
    group: Group::Kubernetes,
    purity: Purity::Content(pod::DEVICES),
    examples: &[
        Example {
            script: "devices()",
            input: SLICES,
            output: r#"[{"count":2,"gpu_type":"NVIDIA-A100-SXM4-40GB","is_known":true,"partition":"1g.5gb","resource":"nvidia.com/mig-1g.5gb","sharing":"none","unit":"slice","vendor":"nvidia"},{"count":1,"is_known":false,"partition":"","resource":"example.com/npu","sharing":"unknown","unit":"","vendor":""}]"#,
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

/// Returns the error of a constant argument.
pub(crate) fn wrong_table(table: &Dynamic) -> Option<String> {
    table
        .as_map_ref()
        .ok()
        .and_then(|table| added(&table).err())
}

/// Reads the resources that a mapping adds to the table.
fn added(table: &Map) -> Result<Added, String> {
    let mut added = Added::new();
    for (name, entry) in table {
        let Ok(entry) = entry.as_map_ref() else {
            return Err(format!(
                "`{name}` needs an object, such as `#{{ vendor: \"example\", unit: \"card\" }}`"
            ));
        };
        let mut configured = Configured {
            vendor: String::new(),
            unit: Unit::Card,
            product: None,
        };
        for (key, value) in entry.iter() {
            let Ok(text) = value.as_immutable_string_ref() else {
                return Err(format!("`{key}` of `{name}` is not text"));
            };
            let text = text.as_str();
            match key.as_str() {
                "vendor" => configured.vendor = text.to_string(),
                "product" => configured.product = Some(text.to_string()),
                "unit" => {
                    configured.unit = Unit::of(text).ok_or_else(|| {
                        format!(
                            "`{text}` is not a unit of `{name}`; use card, slot, slice, chip, core or share"
                        )
                    })?;
                }
                _ => {
                    return Err(format!(
                        "`{key}` is not a field of `{name}`; use vendor, unit or product"
                    ));
                }
            }
        }
        added.insert(name.to_string(), configured);
    }
    Ok(added)
}

fn devices(context: &Context, added: &Added) -> NativeResult<Dynamic> {
    let document = context.document()?;
    let mut all = Vec::new();
    for device in pod::devices(document.root(), None, added) {
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
