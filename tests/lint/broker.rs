//! Several inputs, each with its mapping, before a common check and output.

use super::*;

/// A broker of these inputs.
fn broker(inputs: &[String]) -> String {
    let mut config = "input:\n  broker:\n    inputs:\n".to_owned();
    for input in inputs {
        config += input;
    }
    config
        + "pipeline:\n  processors:\n    - json_schema: {schema: '{\"type\": \"object\"}'}\noutput:\n  openmeter: {url: https://openmeter.cloud, token: om_a}\n"
}

/// A scheduled input with a mapping.
fn input(resource_type: &str, fields: &str, mapping: &str) -> String {
    format!(
        "      - schedule:\n          input:\n            kubernetes_resources: {{resource_type: {resource_type}{fields}}}\n        processors:\n          - mapping: |\n              {mapping}\n"
    )
}

/// An event of this type.
fn event(event_type: &str) -> String {
    format!(
        "root = #{{ id: event_id(\"{event_type}\"), type: \"{event_type}\", source: \"s\", specversion: \"1.0\" }};"
    )
}

#[test]
fn a_mapping_for_each_input_before_a_common_schema_is_right() {
    let types = ["pod", "node", "persistentvolume", "persistentvolumeclaim"];
    let inputs = types.map(|it| input(it, ", state: {path: s}", &event(it)));
    assert_eq!(lint(&broker(&inputs)), "exit 0");
}

#[test]
fn mistakes_of_one_input_are_reported_at_their_place() {
    let shared = [
        input("pod", "", &event("pod")),
        input("node", "", "root = #{ id: this.metadata.uid };"),
    ];
    assert_snapshot!(lint(&broker(&shared)), @r#"
    c.yaml:15:29: input.broker.inputs.1.processors.0.mapping: this `id` is the same for all usage of an object, so every event after the first is dropped as a duplicate and not billed; use `event_id("the-type")`, which differs for each usage interval and stays the same when an event is sent again
    1 error
    exit 1
    "#);
    // Without a mapping whole objects are events.
    let whole = [
        input("pod", "", &event("pod")),
        "      - kubernetes_resources: {resource_type: node}\n".to_owned(),
    ];
    assert_snapshot!(lint(&broker(&whole)), @r"
    c.yaml:13:20: warning: pipeline.processors.0.json_schema: this reads whole objects, so whole objects are kept in memory and in the state: about ten kilobytes per pod, including secrets in environment variables, and every change of an object starts another event; read only the fields that you need, as in `root = #{ name: this.metadata.name }`
    c.yaml:15:14: warning: output.openmeter: this output receives whole objects, including the values of environment variables, instead of events; add a `mapping` that turns objects into events
    c.yaml:15:14: warning: output.openmeter: this reads whole objects, so whole objects are kept in memory and in the state: about ten kilobytes per pod, including secrets in environment variables, and every change of an object starts another event; read only the fields that you need, as in `root = #{ name: this.metadata.name }`
    exit 0
    ");
    let wrong = [
        input("pod", ", form: started", &event("pod")),
        input("nodes", "", "root = null"),
    ];
    assert_snapshot!(lint(&broker(&wrong)), @r"
    c.yaml:6:56: input.broker.inputs.0.schedule.input.kubernetes_resources: unknown field `form`; did you mean `from`?
    c.yaml:12:51: input.broker.inputs.1.schedule.input.kubernetes_resources.resource_type: `nodes` is not one of pod, node, persistentvolume, persistentvolumeclaim, service, volumesnapshot, resourceclaim; did you mean `node`?
    c.yaml:15:22: input.broker.inputs.1.processors.0.mapping: 'null' is a reserved keyword; null and a missing value are both written `()`
    3 errors
    exit 1
    ");
}

#[test]
fn inputs_that_would_keep_one_ledger_need_labels() {
    let one = input("pod", ", state: {path: s}", &event("a"));
    let other = input("pod", ", state: {path: ./s}", &event("b"));
    let both = [one.clone(), other.clone()];
    assert_snapshot!(lint(&broker(&both)), @r"
    c.yaml:12:70: input.broker.inputs.1.schedule.input.kubernetes_resources.state.path: this input (`input.broker.inputs.1.schedule.input.kubernetes_resources`) and `input.broker.inputs.0.schedule.input.kubernetes_resources` would keep the same ledger in one file, because both are of the type `pod` and neither has a label; give one of them a `label`, beside `kubernetes_resources`, or another file
    1 error
    exit 1
    ");
    let label = |label: &str, input: &str| {
        let labelled = format!("            label: {label}\n            kubernetes_resources");
        input.replace("            kubernetes_resources", &labelled)
    };
    assert_eq!(lint(&broker(&[label("a", &one), other.clone()])), "exit 0");
    let labelled = [label("a", &one), label("b", &other)];
    assert_eq!(lint(&broker(&labelled)), "exit 0");
    let apart = [one, other.replace("./s", "./t")];
    assert_eq!(lint(&broker(&apart)), "exit 0");
}

#[test]
fn a_broker_needs_inputs_and_makes_no_copies() {
    assert_snapshot!(lint(&broker(&[]).replace("inputs:\n", "inputs: []\n")), @r"
    c.yaml:3:13: input.broker.inputs: at least one input is needed: list them, as in `inputs: [{kubernetes_resources: {}}]`
    1 error
    exit 1
    ");
    let pods = input("pod", "", &event("pod"));
    let copies = |count: &str| {
        let copies = format!("    copies: {count}\n    inputs:\n");
        broker(std::slice::from_ref(&pods)).replace("    inputs:\n", &copies)
    };
    assert_eq!(lint(&copies("1")), "exit 0");
    assert_snapshot!(lint(&copies("2")), @r"
    c.yaml:3:13: warning: input.broker.copies: `copies` has no effect: a copy of an input would yield the same messages again, and each would be counted twice; remove it
    exit 0
    ");
}
