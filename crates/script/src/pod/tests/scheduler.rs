//! Pods and what the scheduler counts for them. Most cases carry over numbers of the tests of
//! `k8s.io/component-helpers/resource` (Apache-2.0), which define these rules.
//!
//! A pod is written as items, separated by semicolons: `c` a container, `i` an init container, `s` a
//! sidecar, `p` the pod as a whole, `o` its overhead. `+` before `allocated` or `actual` is the status of
//! the item before it. An amount is `name=request`, `name=:limit` or `name=request:limit`.

use serde_json::{Map, Value, json};

use super::*;

/// Parses amounts to `[requests, limits]`.
fn amounts(text: &str) -> [Map<String, Value>; 2] {
    let mut sections = [Map::new(), Map::new()];
    for amount in text.split_whitespace() {
        let (name, values) = amount.split_once('=').unwrap();
        for (section, value) in sections.iter_mut().zip(values.split(':')) {
            if !value.is_empty() {
                section.insert(name.into(), value.into());
            }
        }
    }
    sections
}

/// Returns the `resources` of these amounts, without sections that are empty.
fn resources([requests, limits]: [Map<String, Value>; 2]) -> Value {
    let mut resources = Map::new();
    for (key, section) in [("requests", requests), ("limits", limits)] {
        if !section.is_empty() {
            resources.insert(key.into(), section.into());
        }
    }
    resources.into()
}

/// Parses a pod.
pub(super) fn parse(text: &str) -> Value {
    let mut pod = json!({"spec": {"containers": [], "initContainers": []},
        "status": {"containerStatuses": [], "initContainerStatuses": []}});
    // The path of the last item's status.
    let mut last = String::new();
    for (index, item) in text.split(';').map(str::trim).enumerate() {
        let (kind, rest) = item.split_once(' ').unwrap_or((item, ""));
        match kind {
            "c" | "i" | "s" => {
                let list = if kind == "c" {
                    "containers"
                } else {
                    "initContainers"
                };
                let statuses = format!("{}Statuses", list.strip_suffix('s').unwrap());
                let name = format!("n{index}");
                let mut container = json!({"name": name, "resources": resources(amounts(rest))});
                if kind == "s" {
                    container["restartPolicy"] = "Always".into();
                }
                pod["spec"][list].as_array_mut().unwrap().push(container);
                let statuses_of = pod["status"][&statuses].as_array_mut().unwrap();
                // The kubelet does not keep the order of the spec.
                statuses_of.insert(0, json!({"name": name}));
                last = format!("/status/{statuses}/0");
            }
            "p" => {
                pod["spec"]["resources"] = resources(amounts(rest));
                last = "/status".into();
            }
            "o" => pod["spec"]["overhead"] = amounts(rest)[0].clone().into(),
            "+allocated" => {
                let status = pod.pointer_mut(&last).unwrap();
                status["allocatedResources"] = amounts(rest)[0].clone().into();
            }
            "+actual" => {
                let status = pod.pointer_mut(&last).unwrap();
                status["resources"] = resources(amounts(rest));
            }
            other => panic!("{other}"),
        }
    }
    pod
}

/// Checks each pod: `text`, then its totals. CPU and memory that are not named are 0.
pub(super) fn check(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (text, expected) in cases {
        let pod = Document::from(&parse(text));
        let reserved = Reserved::of(pod.root());
        let [requests, limits] = amounts(expected);
        for (section, expected) in [(Section::Requests, requests), (Section::Limits, limits)] {
            let mut names: Vec<&str> = expected.keys().map(String::as_str).collect();
            names.extend(["cpu", "memory", "nvidia.com/gpu"]);
            for name in names {
                let value = expected.get(name).and_then(Value::as_str).unwrap_or("0");
                let value = Quantity::parse(value);
                let total = reserved.total(section, name);
                if total.as_ref().ok() != value.as_ref().ok() {
                    wrong += &format!("{text}\n  {section:?} {name}: {total:?} is not {value:?}\n");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn sums_peaks_and_overhead_are_those_of_the_scheduler() {
    check(&[
        // Overhead: always on requests, and on limits that are there.
        ("c cpu=:9; i cpu=:9", "cpu=:9"),
        ("c; i; o cpu=5 memory=5", "cpu=5 memory=5"),
        (
            "c cpu=1 memory=10; i cpu=1 memory=10; o cpu=5 memory=5",
            "cpu=6 memory=15",
        ),
        (
            "c cpu=1:2 memory=10:12; i cpu=1:2 memory=10:12; o cpu=5 memory=5",
            "cpu=6:7 memory=15:17",
        ),
        (
            "c cpu=1:2 memory=10; i cpu=1:2 memory=10; o cpu=5 memory=5",
            "cpu=6:7 memory=15",
        ),
        ("c cpu=1:0; o cpu=5", "cpu=6:0"),
        ("c cpu=1; o cpu=0", "cpu=1"),
        ("c; o example.com/x=2", "example.com/x=2"),
        // The sum of the containers.
        (
            "c cpu=1:2 memory=5:10; c cpu=4:8 memory=12:24",
            "cpu=5:10 memory=17:34",
        ),
        (
            "o cpu=3 memory=8; c cpu=1:2 memory=5:10; c cpu=4:8 memory=12:24",
            "cpu=8:13 memory=25:42",
        ),
        (
            "c cpu=1:2 memory=5:10; c cpu=4:8 memory=12:24; i cpu=1:1 memory=5:5; i cpu=40:80 memory=120:240",
            "cpu=40:80 memory=120:240",
        ),
        (
            "o cpu=3 memory=8; c cpu=1:2 memory=5:10; c cpu=4:8 memory=12:24; i cpu=1:1 memory=5:5; i cpu=40:80 memory=120:240",
            "cpu=43:83 memory=128:248",
        ),
        ("i cpu=4; c cpu=1", "cpu=4"),
        ("i cpu=2; c cpu=2; c cpu=3", "cpu=5"),
        (
            "o cpu=1 memory=1Gi; i cpu=2:2; c cpu=2; c cpu=3",
            "cpu=6:3 memory=1Gi",
        ),
        ("c cpu=:9", "cpu=:9"),
        ("c cpu=:9; c cpu=:9", "cpu=:18"),
        ("c cpu=9", "cpu=9"),
        ("c cpu=9; c cpu=9", "cpu=18"),
        ("c cpu=9; i cpu=9", "cpu=9"),
        ("c cpu=9; s cpu=8; i cpu=6", "cpu=17"),
        ("c cpu=:9; i cpu=:9", "cpu=:9"),
        ("c cpu=:9; s cpu=:8; i cpu=:6", "cpu=:17"),
        // Sidecars and init containers, in their order.
        ("s cpu=1; c cpu=1", "cpu=2"),
        ("i cpu=5; s cpu=1; s cpu=2; s cpu=3; c cpu=1", "cpu=7"),
        (
            "i cpu=5; s cpu=1; s cpu=2; i cpu=5; s cpu=3; c cpu=1",
            "cpu=8",
        ),
        ("s cpu=10; i cpu=200; c cpu=100", "cpu=210"),
        (
            "c memory=3Mi cpu=2m; i memory=5Mi cpu=4m",
            "memory=5Mi cpu=4m",
        ),
        (
            "c memory=3Mi cpu=2m; s memory=5Mi cpu=4m",
            "memory=8Mi cpu=6m",
        ),
        (
            "c memory=3Mi cpu=2m; s memory=5Mi cpu=4m; i memory=6Mi cpu=8m",
            "memory=11Mi cpu=12m",
        ),
        ("c memory=3Mi cpu=2m", "memory=3Mi cpu=2m"),
        ("c", ""),
        ("c; c; i; s", ""),
        // The same for limits.
        ("i cpu=:4; c cpu=:1", "cpu=:4"),
        ("i cpu=:2; c cpu=:2; c cpu=:3", "cpu=:5"),
        (
            "o cpu=1 memory=1Gi; i cpu=:2; c cpu=:2; c cpu=:3",
            "cpu=1:6 memory=1Gi",
        ),
        ("c cpu=:2 memory=:2Gi; c", "cpu=:2 memory=:2Gi"),
        (
            "i cpu=:2 memory=:2Gi; i; c cpu=:1 memory=:1Gi",
            "cpu=:2 memory=:2Gi",
        ),
        ("s cpu=:1; c cpu=:1", "cpu=:2"),
        ("i cpu=:5; s cpu=:1; s cpu=:2; s cpu=:3; c cpu=:1", "cpu=:7"),
        (
            "i cpu=:5; s cpu=:1; s cpu=:2; i cpu=:5; s cpu=:3; c cpu=:1",
            "cpu=:8",
        ),
        ("s cpu=:10; i cpu=:200; c cpu=:100", "cpu=:210"),
        // Every resource on its own.
        ("c cpu=1; i cpu=2", "cpu=2"),
        ("s cpu=.5; i cpu=1; c cpu=.2", "cpu=1.5"),
        ("i cpu=1; s cpu=.5; c cpu=.2", "cpu=1"),
        ("s cpu=.5; i cpu=1; c cpu=2", "cpu=2.5"),
        ("c cpu=1 memory=1; i cpu=.1 memory=8", "cpu=1 memory=8"),
        ("c cpu=1; i nvidia.com/gpu=1:1", "cpu=1 nvidia.com/gpu=1:1"),
        (
            "c nvidia.com/gpu=:2; i nvidia.com/gpu=:1",
            "nvidia.com/gpu=2:2",
        ),
        (
            "s nvidia.com/gpu=1:1; i nvidia.com/gpu=1:1",
            "nvidia.com/gpu=2:2",
        ),
        (
            "c ephemeral-storage=1Gi:2Gi; s ephemeral-storage=1Gi; i ephemeral-storage=3Gi",
            "ephemeral-storage=4Gi:2Gi",
        ),
        (
            "c hugepages-2Mi=4Mi:4Mi; i hugepages-2Mi=2Mi:2Mi",
            "hugepages-2Mi=4Mi:4Mi",
        ),
        (
            "c attachable-volumes-x=1 example.com/fpga=2:2; c example.com/fpga=1:1",
            "attachable-volumes-x=1 example.com/fpga=3:3",
        ),
    ]);
}

#[test]
fn resources_of_the_whole_pod_are_those_of_the_scheduler() {
    check(&[
        ("p memory=2Mi", "memory=2Mi"),
        ("p memory=2Mi; c cpu=2m", "memory=2Mi cpu=2m"),
        ("p storage=2Mi; c storage=3Mi", "storage=3Mi"),
        ("p storage=2Mi; c memory=3Mi", "memory=3Mi storage=0"),
        (
            "p memory=6Mi cpu=8m; c memory=3Mi cpu=2m",
            "memory=6Mi cpu=8m",
        ),
        (
            "p memory=15Mi cpu=18m; c memory=3Mi cpu=2m; s memory=5Mi cpu=4m; i memory=6Mi cpu=8m",
            "memory=15Mi cpu=18m",
        ),
        // An empty `resources`, and one of which nothing can be set for a whole pod.
        ("p; c cpu=1:2", "cpu=1:2"),
        (
            "p ephemeral-storage=1Mi:1Mi; c cpu=1",
            "cpu=1 ephemeral-storage=0",
        ),
        (
            "p ephemeral-storage=1Mi cpu=1m; c ephemeral-storage=2Mi cpu=5m",
            "ephemeral-storage=2Mi cpu=1m",
        ),
        (
            "p ephemeral-storage=:1Mi cpu=:1m; c ephemeral-storage=:2Mi cpu=:5m",
            "ephemeral-storage=:2Mi cpu=:1m",
        ),
        ("p cpu=3; c cpu=.2 memory=1", "cpu=3 memory=1"),
        (
            "p nvidia.com/gpu=8:8; c nvidia.com/gpu=1:1",
            "nvidia.com/gpu=1:1",
        ),
        ("p nvidia.com/gpu=8:8; c cpu=1", "cpu=1"),
        ("p example.com/x=8; c example.com/x=1", "example.com/x=1"),
        ("p hugepages-1Gi=2Gi:2Gi; c", "hugepages-1Gi=2Gi:2Gi"),
        (
            "p hugepages-2Mi=8Mi:8Mi; c hugepages-2Mi=2Mi:2Mi hugepages-1Gi=1Gi:1Gi",
            "hugepages-2Mi=8Mi:8Mi hugepages-1Gi=1Gi:1Gi",
        ),
        // A value of 0 is set, too, and a smaller one replaces the sum.
        ("p cpu=0:0; c cpu=1:1", "cpu=0:0"),
        ("p cpu=:3; c cpu=:2; c cpu=:2", "cpu=:3"),
        ("p cpu=3; c cpu=:2", "cpu=3:2"),
        // Overhead is added to it.
        ("p cpu=3; c cpu=1; o cpu=.25", "cpu=3.25"),
        (
            "p cpu=3:4; c cpu=1:1; o cpu=.25 memory=1",
            "cpu=3.25:4.25 memory=1",
        ),
        ("p cpu=3:0; o cpu=.25", "cpu=3.25:0"),
        // A peak of init containers does not exceed it.
        ("p cpu=3; i cpu=2; s cpu=1; i cpu=2; c cpu=1", "cpu=3"),
    ]);
}
