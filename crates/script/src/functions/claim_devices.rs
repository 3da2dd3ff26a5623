//! The function that lists the devices of a claim.

use std::collections::BTreeMap;

use rhai::{Dynamic, Engine, Identifier, Map, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity, known_devices::added};
use crate::{
    accelerators::Unit,
    claim::{self, ClaimDevice},
    context::{self, Context},
    exact,
    notes::Loss,
    pod::Added,
    prefix,
};

/// A claim with a MIG slice, a share of a card, and a card for administration.
const CLAIM: &str = r#"{"status":{"allocation":{"devices":{"results":[
    {"request":"slice","driver":"gpu.nvidia.com","pool":"node-1","device":"gpu-0-mig-1"},
    {"request":"share","driver":"gpu.nvidia.com","pool":"node-1","device":"gpu-1","shareID":"a1","consumedCapacity":{"memory":"20Gi"}},
    {"request":"look","driver":"gpu.nvidia.com","pool":"node-1","device":"gpu-2","adminAccess":true}]}}},
  "claim_devices()":[
    {"driver":"gpu.nvidia.com","pool":"node-1","device":"gpu-0-mig-1","attributes":{"type":"mig","productName":"NVIDIA A100-SXM4-40GB","profile":"1g.5gb"},"capacity":{"memory":"4864Mi"}},
    {"driver":"gpu.nvidia.com","pool":"node-1","device":"gpu-1","attributes":{"type":"gpu","productName":"NVIDIA A100-SXM4-40GB"},"capacity":{"memory":"40Gi"}}]}"#;

/// A claim with a device of a driver that is not in the table.
const OTHER: &str = r#"{"status":{"allocation":{"devices":{"results":[
    {"request":"npu","driver":"npu.example.com","pool":"node-1","device":"npu-0"}]}}},
  "claim_devices()":[
    {"driver":"npu.example.com","pool":"node-1","device":"npu-0","attributes":{"model":"N1"},"capacity":{"memory":"16Gi"}}]}"#;

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "claim_devices",
    signature: "claim_devices() -> array, claim_devices(object) -> array",
    summary: "Returns the devices that are allocated to a claim (`resource_type: resourceclaim`), one object for \
              each device or share of a device. Access for administration is not listed. `resource` and `driver` \
              are the name of the driver, `pool` and `device` name the device, `request` is the request of the \
              claim, and `share_id` is which share of the device it is, if the device is shared. The other \
              fields are those of `devices`: `vendor`, `count` (1), `unit` (`card`, `chip`, `slice`, `share`, or \
              empty if it is not known whether the device is a part of a card), `partition` (the MIG profile or \
              the like), `sharing` (`none`, or `consumable` for a share) and, where they are known, `gpu_type` (the \
              product), `gpu_memory_bytes` (of the whole device, also for a share) and `fraction`: 1 for a card or \
              chip, for a MIG slice as in `devices`, and for a share the largest part that it consumes of a \
              capacity of the device. What a device is, its driver says in a ResourceSlice: the input watches \
              them if a mapping calls this function, and keeps what they say with the claim, so that it remains \
              known when the slice is gone. The collector needs the right to read resourceslices, else these \
              fields are missing. Only these drivers are listed: `gpu.nvidia.com`, `gpu.amd.com`, \
              `gpu.intel.com`, `gaudi.intel.com` and `neuron.aws.com`; devices of any other are counted by \
              `ledger_unbilled_device_seconds`. The argument adds drivers, or replaces them: \
              `claim_devices(#{ \"npu.example.com\": #{ vendor: \"example\", unit: \"card\", product: \"model\" } })`, \
              where `product` is the attribute that names the product, and what has the unit `share` is no \
              device. It is written in the call, without variables.",
    group: Group::Kubernetes,
    purity: Purity::Content(claim::CLAIM_DEVICES),
    examples: &[
        Example {
            script: "claim_devices()",
            input: CLAIM,
            output: r#"[{"count":1,"device":"gpu-0-mig-1","driver":"gpu.nvidia.com","fraction":0.14285714285714285,"gpu_memory_bytes":5100273664,"gpu_type":"NVIDIA A100-SXM4-40GB","partition":"1g.5gb","pool":"node-1","request":"slice","resource":"gpu.nvidia.com","sharing":"none","unit":"slice","vendor":"nvidia"},{"count":1,"device":"gpu-1","driver":"gpu.nvidia.com","fraction":0.5,"gpu_memory_bytes":42949672960,"gpu_type":"NVIDIA A100-SXM4-40GB","partition":"","pool":"node-1","request":"share","resource":"gpu.nvidia.com","share_id":"a1","sharing":"consumable","unit":"share","vendor":"nvidia"}]"#,
        },
        Example {
            script: r#"claim_devices(#{ "npu.example.com": #{ vendor: "example", unit: "card", product: "model" } })[0].gpu_type"#,
            input: OTHER,
            output: r#""N1""#,
        },
        Example {
            script: "claim_devices()",
            input: OTHER,
            output: "[]",
        },
    ],
}];

/// The most devices in `claim_devices()`. The API admits 32 in a claim.
const MOST_DEVICES: usize = 200;

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "claim_devices",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            claim_devices(&context, &Added::new())
        },
    );
    engine.register_fn(
        "claim_devices",
        |call: NativeCallContext, table: Map| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            claim_devices(&context, &added(&table)?)
        },
    );
}

fn claim_devices(context: &Context, added: &Added) -> NativeResult<Dynamic> {
    let document = context.document()?;
    let all = claim::claim_devices(document.root(), added);
    let omitted = all.len().saturating_sub(MOST_DEVICES);
    if omitted > 0 {
        let note = format!("claim_devices() omits {omitted} devices beyond {MOST_DEVICES}");
        context.note(Loss::Metric, note);
    }
    let list = all.iter().take(MOST_DEVICES);
    let list = list.filter_map(|device| match object(device) {
        Ok(object) => Some(object),
        Err(reason) => {
            context.note(Loss::Metric, format!("{}: {reason}", device.device));
            None
        }
    });
    Ok(Dynamic::from_array(list.collect()))
}

fn object(device: &ClaimDevice<'_>) -> Result<Dynamic, String> {
    let text = |text: &str| Dynamic::from(prefix::start(text, prefix::VALUE).to_owned());
    let sharing = if device.is_shared {
        "consumable"
    } else {
        "none"
    };
    let mut fields: BTreeMap<Identifier, Dynamic> = [
        ("resource", text(device.driver)),
        ("driver", text(device.driver)),
        ("pool", text(device.pool)),
        ("device", text(device.device)),
        ("request", text(device.request)),
        ("vendor", text(device.vendor)),
        ("count", 1_i64.into()),
        ("unit", device.unit.map_or("", Unit::word).into()),
        ("partition", text(device.partition)),
        ("sharing", sharing.into()),
    ]
    .map(|(key, value)| (key.into(), value))
    .into();
    if let Some(share) = device.share_id {
        fields.insert("share_id".into(), text(share));
    }
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
mod tests {
    use meterline_core::Message;

    use crate::{Engine, Limits, SliceReads};

    #[test]
    fn what_is_listed_is_bounded_and_the_rest_is_noted() {
        let results: Vec<_> = (0..300)
            .map(|number| {
                serde_json::json!({"driver": "gpu.nvidia.com", "pool": "n",
                    "device": format!("gpu-{number}")})
            })
            .collect();
        let claim =
            serde_json::json!({"status": {"allocation": {"devices": {"results": results}}}});
        let message = Message::raw(claim.to_string().into_bytes());
        let engine = Engine::new(Limits::default());
        let count = engine.compile_expression("claim_devices().len()").unwrap();
        let count = count.evaluate(&message).unwrap();
        assert_eq!(count.root().as_i64(), Some(200));
    }

    #[test]
    fn the_argument_decides_what_is_read_of_slices() {
        let engine = Engine::new(Limits::default());
        let reads = |script: &str| {
            let expression = engine.compile_expression(script).unwrap();
            SliceReads::of(expression.reads())
        };
        assert_eq!(reads("devices()"), None);
        let plain = reads("claim_devices()").unwrap().attributes;
        assert!(plain["gpu.nvidia.com"].contains("productName"));
        let table = r#"claim_devices(#{ "npu.example.com": #{ vendor: "e", unit: "card", product: "model" } })"#;
        let more = reads(table).unwrap().attributes;
        assert_eq!(more.len(), plain.len() + 1);
        assert!(more["npu.example.com"].contains("model"));
        let wrong = r#"claim_devices(#{ "npu.example.com": #{ unit: "box" } })"#;
        assert!(engine.compile_expression(wrong).is_err());
    }
}
