//! Resizes in each state. The notation is that of the scheduler's cases.

use serde_json::json;

use super::{
    scheduler::{check, parse},
    *,
};

#[test]
fn a_resize_counts_as_far_as_it_was_granted() {
    check(&[
        // Settled: spec, allocated and actual are equal.
        ("c cpu=2:4; +allocated cpu=2; +actual cpu=2:4", "cpu=2:4"),
        // Not granted: infeasible or deferred.
        ("c cpu=64:64; +allocated cpu=1; +actual cpu=1:1", "cpu=1:1"),
        ("c cpu=4; +actual cpu=2", "cpu=2"),
        ("c cpu=4; +allocated cpu=2", "cpu=2"),
        ("c memory=:2Gi; +actual memory=:1Gi", "memory=:1Gi"),
        // A reduction that was not granted.
        ("c cpu=1:1; +allocated cpu=4; +actual cpu=4:4", "cpu=4:4"),
        // Granted and not yet applied: growth counts from the grant, except for limits.
        ("c cpu=4:4; +allocated cpu=4; +actual cpu=2:2", "cpu=4:2"),
        // A reduction counts when it is applied.
        ("c cpu=1:1; +allocated cpu=1; +actual cpu=4:4", "cpu=4:4"),
        ("c memory=:1Gi; +actual memory=:2Gi", "memory=:2Gi"),
        // A reduction while another change is applied.
        ("c cpu=1; +allocated cpu=2; +actual cpu=3", "cpu=3"),
        ("c cpu=3; +allocated cpu=2; +actual cpu=1", "cpu=2"),
        // Each resource on its own.
        (
            "c cpu=64 memory=1Gi; +allocated cpu=1 memory=1Gi; +actual cpu=1 memory=4Gi",
            "cpu=1 memory=4Gi",
        ),
        // Quantities are compared as amounts.
        ("c cpu=1; +allocated cpu=1000m; +actual cpu=0.5", "cpu=1"),
        (
            "c memory=1; +allocated memory=1Gi; +actual memory=1G",
            "memory=1Gi",
        ),
        // The status of one container says nothing of another.
        ("c cpu=4; +allocated cpu=2; +actual cpu=2; c cpu=3", "cpu=5"),
        (
            "c cpu=1:1; +actual cpu=2:2; c cpu=2:2; +actual cpu=1:1",
            "cpu=3:3",
        ),
        // 0 is an amount.
        ("c cpu=4:4; +allocated cpu=0; +actual cpu=0:0", "cpu=0:0"),
    ]);
}

#[test]
fn a_resize_of_sidecars_and_init_containers_counts_in_sums_and_peaks() {
    check(&[
        ("s cpu=8; +allocated cpu=1; +actual cpu=1; c cpu=1", "cpu=2"),
        (
            "s cpu=8; +allocated cpu=1; +actual cpu=1; i cpu=5; c cpu=1",
            "cpu=6",
        ),
        (
            "s cpu=1; +allocated cpu=1; +actual cpu=3; i cpu=5; c cpu=1",
            "cpu=8",
        ),
        ("i cpu=2; +allocated cpu=2; +actual cpu=2; c cpu=1", "cpu=2"),
        // An init container that is done counts on.
        (
            "i cpu=2:3; c cpu=1:1; +allocated cpu=1; +actual cpu=1:1",
            "cpu=2:3",
        ),
        ("s cpu=:8; +actual cpu=:1; c cpu=:1", "cpu=:2"),
    ]);
}

#[test]
fn a_status_that_does_not_list_a_resource_does_not_grant_it() {
    check(&[
        // A resize may add what the container did not have.
        (
            "c cpu=1:1 memory=9Gi:9Gi; +allocated cpu=1; +actual cpu=1:1",
            "cpu=1:1",
        ),
        ("c cpu=1:1; +allocated cpu=1; +actual cpu=1", "cpu=1"),
        // A container without resources that has none yet.
        ("c cpu=64:64; +actual", ""),
        ("c cpu=64; +allocated memory=1", "memory=1"),
        // A status that lists more than the spec: the runtime still has it.
        (
            "c cpu=1; +allocated cpu=1; +actual cpu=1:2 memory=1Gi:1Gi",
            "cpu=1:2 memory=1Gi:1Gi",
        ),
        // All other resources cannot be resized, so the spec says what they are. Old kubelets list
        // only CPU and memory.
        (
            "c cpu=1:1 nvidia.com/gpu=8:8 ephemeral-storage=1Gi:2Gi hugepages-2Mi=2Mi:2Mi; +allocated cpu=1; +actual cpu=1:1",
            "cpu=1:1 nvidia.com/gpu=8:8 ephemeral-storage=1Gi:2Gi hugepages-2Mi=2Mi:2Mi",
        ),
        (
            "c nvidia.com/gpu=:8; +allocated cpu=1; +actual cpu=1",
            "cpu=1 nvidia.com/gpu=8:8",
        ),
        (
            "c nvidia.com/gpu=1:1; +allocated nvidia.com/gpu=2; +actual nvidia.com/gpu=3:3",
            "nvidia.com/gpu=3:3",
        ),
        // Limits without requests are no statement of requests, because whoever has a limit has a
        // request.
        ("c cpu=2:2; +actual cpu=:1", "cpu=2:1"),
    ]);
}

#[test]
fn a_resize_of_the_whole_pod_counts_as_far_as_it_was_granted() {
    check(&[
        (
            "p cpu=9:9; +allocated cpu=3; +actual cpu=3:3; c cpu=1:1",
            "cpu=3:3",
        ),
        (
            "p cpu=2:2; +allocated cpu=2; +actual cpu=4:4; c cpu=1:1",
            "cpu=4:4",
        ),
        (
            "p cpu=4:4; +allocated cpu=4; +actual cpu=2:2; c cpu=1:1",
            "cpu=4:2",
        ),
        (
            "p cpu=9:9; +allocated cpu=3; +actual cpu=3:3; o cpu=.5",
            "cpu=3.5:3.5",
        ),
        (
            "p memory=1Gi; +allocated memory=4Gi; c memory=1Mi",
            "memory=4Gi",
        ),
        ("p cpu=3; c cpu=1", "cpu=3"),
        // Without pod-level resources in the spec, the status of the pod states the sums of its
        // containers, which are computed here.
        ("p; +allocated cpu=7; +actual cpu=7:7; c cpu=1:1", "cpu=1:1"),
        (
            "p memory=1Gi; +allocated cpu=7 memory=1Gi; +actual cpu=7 memory=1Gi; c cpu=1",
            "cpu=1 memory=1Gi",
        ),
        // A resize that sets it for the first time.
        (
            "p cpu=9:9; +allocated cpu=1; +actual memory=1Gi; c cpu=1:2",
            "cpu=1:2",
        ),
        (
            "p cpu=9 memory=9Gi; +allocated memory=1Gi; +actual memory=1Gi; c cpu=1",
            "cpu=1 memory=1Gi",
        ),
        // Huge pages cannot be resized.
        (
            "p cpu=1 hugepages-2Mi=4Mi:4Mi; +allocated cpu=1; +actual cpu=1; c",
            "cpu=1 hugepages-2Mi=4Mi:4Mi",
        ),
        (
            "p nvidia.com/gpu=8; +allocated nvidia.com/gpu=8; c nvidia.com/gpu=1:1",
            "nvidia.com/gpu=1:1",
        ),
        // Containers are resized within it.
        (
            "p cpu=9; +allocated cpu=4; +actual cpu=4; c cpu=8; +allocated cpu=1; +actual cpu=1",
            "cpu=4",
        ),
    ]);
}

#[test]
fn a_status_belongs_to_the_container_of_its_name_in_its_list() {
    let granted = |name: &str| json!({"name": name, "allocatedResources": {"cpu": "1"}});
    let container = |name: &str| json!({"name": name, "resources": {"requests": {"cpu": "8"}}});
    let spec = json!({"containers": [container("a")], "initContainers": [container("b")]});
    for (status, expected) in [
        (
            json!({"containerStatuses": [granted("a")], "initContainerStatuses": [granted("b")]}),
            "1",
        ),
        // In the wrong lists.
        (
            json!({"containerStatuses": [granted("b")], "initContainerStatuses": [granted("a")]}),
            "8",
        ),
        (
            json!({"containerStatuses": [{"allocatedResources": {"cpu": "1"}}, granted("x")]}),
            "8",
        ),
        (
            json!({"containerStatuses": null, "initContainerStatuses": null}),
            "8",
        ),
        (json!(null), "8"),
        // The last one of the same name.
        (
            json!({
                "containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "5"}}, granted("a")],
                "initContainerStatuses": [granted("b")],
            }),
            "1",
        ),
    ] {
        let pod = Document::from(&json!({"spec": spec, "status": status}));
        let total = Reserved::of(pod.root()).total(Section::Requests, "cpu");
        assert_eq!(total.unwrap().to_string(), expected, "{status}");
    }
    let nameless = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "8"}}}]},
        "status": {"containerStatuses": [{"allocatedResources": {"cpu": "1"}}]}});
    let nameless = Document::from(&nameless);
    let total = Reserved::of(nameless.root()).total(Section::Requests, "cpu");
    assert_eq!(total.unwrap().to_string(), "8");
}

#[test]
fn the_limit_or_else_the_request_counts() {
    for (pod, expected) in [
        ("c cpu=1:2", "2"),
        ("c cpu=1", "1"),
        ("c cpu=1:2; c cpu=4", "6"),
        ("c cpu=:2; s cpu=1; i cpu=4", "5"),
        ("s cpu=1:3; i cpu=1:4; c cpu=2", "7"),
        ("c cpu=1:0", "0"),
        ("c cpu=1; o cpu=.5", "1.5"),
        ("c cpu=1:2; o cpu=.5", "2.5"),
        ("c; o cpu=.5", "0.5"),
        ("p cpu=3:4; c cpu=1:9", "4"),
        ("p cpu=3; c cpu=1:2", "3"),
        ("p memory=3; c cpu=1:2", "2"),
        ("c cpu=8:8; +allocated cpu=1; +actual cpu=1:2", "2"),
        ("c cpu=8:8; +allocated cpu=1; +actual cpu=1", "1"),
        ("p cpu=9:9; +allocated cpu=3; +actual cpu=3:4; c cpu=1", "4"),
    ] {
        let document = Document::from(&parse(pod));
        let total = Reserved::of(document.root()).limit_or_request("cpu");
        assert_eq!(total.unwrap().to_string(), expected, "{pod}");
    }
}

#[test]
fn a_malformed_wish_does_not_hide_what_is_granted() {
    let mut pod = parse("c cpu=1; +allocated cpu=1; +actual cpu=1:1");
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "x".into();
    let document = Document::from(&pod);
    let total = Reserved::of(document.root()).total(Section::Requests, "cpu");
    assert_eq!(total.unwrap().to_string(), "1");
}
