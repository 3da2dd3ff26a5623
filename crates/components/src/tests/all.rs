//! The preset `kubernetes-all` against those of one kind.

use crate::PRESETS;

fn text(name: &str) -> &'static str {
    PRESETS.iter().find(|it| it.name == name).unwrap().text
}

/// The processors of a preset before the check of the schema, without what indents them: those of each of its inputs and
/// those of all.
fn processors(name: &str) -> Vec<String> {
    let (inputs, pipeline) = text(name)
        .split_once("\npipeline:\n  processors:\n")
        .unwrap();
    let (processors, _) = pipeline.split_once("    - json_schema:").unwrap();
    let of_inputs = inputs.split("\n        processors:\n").skip(1);
    let of_inputs = of_inputs.map(|it| it.split("\n      - ").next().unwrap_or_default());
    of_inputs.chain([processors]).map(unindented).collect()
}

fn unindented(text: &str) -> String {
    let lines = text.lines().map(str::trim_start);
    lines.map(|it| format!("{it}\n")).collect()
}

#[test]
fn it_makes_the_events_of_the_presets_of_one_kind() {
    let all = unindented(text("kubernetes-all"));
    for name in [
        "kubernetes-pod-exec-time",
        "kubernetes-pod-device-time",
        "kubernetes-node-time",
        "kubernetes-loadbalancer-time",
        "kubernetes-volume-time",
    ] {
        for processors in processors(name) {
            let processors = match name {
                // Who pays for nodes is a variable of its own, because they are in no namespace.
                "kubernetes-node-time" => {
                    processors.replace("${SUBJECT_FROM:pod}", "${NODE_SUBJECT_FROM:pod}")
                }
                // What pods claim is billed, too.
                "kubernetes-pod-exec-time" => processors.replace(
                    "\"${NORMALIZE:second}\")",
                    "\"${NORMALIZE:second}\", #{ \"spec.resourceClaims\": #{ unit: \"share\" } })",
                ),
                _ => processors,
            };
            assert!(all.contains(&processors), "{name}:\n{processors}");
        }
    }
}

#[test]
fn every_variable_of_a_preset_is_described_in_it() {
    for preset in PRESETS {
        let (head, _) = preset.text.split_once("\ninput:\n").unwrap();
        for used in preset.text.split("${").skip(1) {
            let name: String = used
                .chars()
                .take_while(|it| it.is_ascii_uppercase() || *it == '_')
                .collect();
            let is_described = head.lines().any(|it| {
                let words = it.strip_prefix("#   ").unwrap_or_default();
                words.split(' ').next() == Some(&name)
            });
            assert!(is_described, "{}: {name}", preset.name);
        }
    }
}
