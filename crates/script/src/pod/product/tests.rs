use meterline_core::{Document, Reads, Step};
use serde_json::{Value, json};

use super::*;
use crate::device_reads::NODE_LABELS;

const GFD: &str = "nvidia.com/gpu.product";
const GKE: &str = "cloud.google.com/gke-accelerator";

fn affinity(terms: &Value) -> Value {
    json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
    }})
}

fn term(key: &str, operator: &str, values: &Value) -> Value {
    json!({"matchExpressions": [
        {"key": "zone", "operator": "In", "values": ["a"]},
        {"key": key, "operator": operator, "values": values},
    ]})
}

fn is_in(key: &str, value: &str) -> Value {
    term(key, "In", &json!([value]))
}

fn of(selector: &Value, affinity: &Value, labels: Option<&Value>) -> Option<String> {
    let pod = json!({"spec": {"nodeSelector": selector, "affinity": affinity}});
    let (pod, labels) = (Document::from(&pod), labels.map(Document::from));
    let added = Added::new();
    let found = gpu_type(pod.root(), labels.as_ref().map(Document::root), &added);
    // What the function declares to read is enough for it.
    let reads = Reads::of(GPU_TYPE);
    let kept = pod.project(&reads);
    let labels = labels
        .as_ref()
        .map(|it| it.project(reads.field(NODE_LABELS).unwrap()));
    assert_eq!(
        gpu_type(kept.root(), labels.as_ref().map(Document::root), &added),
        found
    );
    found.map(str::to_owned)
}

fn of_affinity(terms: &Value) -> Option<String> {
    of(&json!({}), &affinity(terms), None)
}

#[test]
fn the_node_is_trusted_most_then_selector_and_affinity() {
    let none = json!({});
    let selector = json!({GFD: "selected"});
    let demanded = affinity(&json!([is_in(GFD, "demanded")]));
    let labels = json!({GFD: "labelled"});
    let found = |selector, affinity, labels| of(selector, affinity, labels);
    assert_eq!(
        found(&selector, &demanded, Some(&labels)).unwrap(),
        "labelled"
    );
    assert_eq!(
        found(&selector, &demanded, Some(&none)).unwrap(),
        "selected"
    );
    assert_eq!(found(&selector, &demanded, None).unwrap(), "selected");
    assert_eq!(found(&none, &demanded, None).unwrap(), "demanded");
    assert_eq!(found(&none, &none, None), None);
    let null = json!(null);
    assert_eq!(found(&null, &null, None), None);
}

#[test]
fn a_more_trusted_key_counts_wherever_the_pod_demands_it() {
    let none = json!({});
    for (at, key) in PRODUCTS.iter().enumerate() {
        let all = |keys: &[&str]| -> Value {
            let fields = keys.iter().map(|key| ((*key).to_owned(), json!(key)));
            Value::Object(fields.collect())
        };
        let less = PRODUCTS.get(at..).unwrap();
        assert_eq!(of(&all(less), &none, None).unwrap(), *key);
        assert_eq!(of(&none, &none, Some(&all(less))).unwrap(), *key);
        let required = affinity(&json!([is_in(key, key)]));
        let behind = PRODUCTS.get(at + 1..).unwrap();
        assert_eq!(of(&all(behind), &required, None).unwrap(), *key);
    }
}

#[test]
fn affinity_counts_if_all_alternatives_demand_one_product() {
    let a100 = is_in(GFD, "A100");
    assert_eq!(of_affinity(&json!([a100])).unwrap(), "A100");
    assert_eq!(of_affinity(&json!([a100, a100])).unwrap(), "A100");
    for terms in [
        json!([term(GFD, "In", &json!(["A100", "H100"]))]),
        json!([term(GFD, "In", &json!([]))]),
        json!([term(GFD, "NotIn", &json!(["A100"]))]),
        json!([term(GFD, "Exists", &json!([]))]),
        json!([a100, is_in(GFD, "H100")]),
        // An alternative with another demand, and one without any.
        json!([a100, is_in(GKE, "nvidia-a100")]),
        json!([a100, {}]),
        json!([]),
    ] {
        assert_eq!(of_affinity(&terms), None, "{terms}");
    }
    // A less trusted key on which all agree.
    let both = json!({"matchExpressions": [
        {"key": GFD, "operator": "In", "values": ["A100"]},
        {"key": GKE, "operator": "In", "values": ["nvidia-a100"]},
    ]});
    let found = of_affinity(&json!([both, is_in(GKE, "nvidia-a100")]));
    assert_eq!(found.unwrap(), "nvidia-a100");
}

#[test]
fn blank_values_and_a_label_that_only_says_true_name_nothing() {
    let none = json!({});
    let group = "k8s.amazonaws.com/accelerator";
    for selector in [
        json!({GFD: " "}),
        json!({GFD: ""}),
        json!({GFD: 1}),
        json!({group: "true"}),
    ] {
        assert_eq!(of(&selector, &none, None), None, "{selector}");
        assert_eq!(of(&none, &none, Some(&selector)), None, "{selector}");
    }
    assert_eq!(of_affinity(&json!([is_in(group, "true")])), None);
    let named = json!({group: "nvidia-tesla-v100"});
    assert_eq!(of(&named, &none, None).unwrap(), "nvidia-tesla-v100");
}

/// A key of the table that is not declared would be missing in what is kept of a pod.
#[test]
fn every_key_that_is_read_is_declared() {
    let mut reads = Reads::default();
    for key in PRODUCTS {
        reads.add(&["spec", "nodeSelector", key].map(Step::Key));
        reads.add(&[NODE_LABELS, key].map(Step::Key));
    }
    let affinity = "requiredDuringSchedulingIgnoredDuringExecution";
    reads.add(&["spec", "affinity", "nodeAffinity", affinity].map(Step::Key));
    assert_eq!(Reads::of(GPU_TYPE), reads);
}
