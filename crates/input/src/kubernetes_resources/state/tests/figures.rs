//! The size of the file and the cost of a change. Run it with `--nocapture` to see the figures.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, Config, api::ListParams, core::ApiResource};
use meterline_kubesim::{Kubesim, Options, Size, World};
use serde_json::Value;

use super::{super::super::object::keeping, *};

const PODS: usize = 10_000;
/// The fields of a pod that the preset reads.
const READS: [&str; 8] = [
    "metadata.annotations.openmeter~1io/subject",
    "metadata.annotations.data~1openmeter~1io/*",
    "spec.resources",
    "spec.containers.*.resources",
    "spec.initContainers.*.resources",
    "spec.initContainers.*.restartPolicy",
    "spec.nodeSelector.nvidia~1com/gpu~1product",
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
];

/// Realistic pods as they come from an API server and are kept for the preset.
async fn pods() -> Vec<Object> {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    sim.change(|store| World::new(1, PODS, Size::Realistic).populate(PODS, 1, store));
    let client = Client::try_from(Config::new(sim.url().parse().unwrap())).unwrap();
    let api: Api<Object> = Api::all_with(client, &ApiResource::erase::<Pod>(&()));
    let reads = Projection::of(&Reads::of(&READS), ResourceType::Pod);
    let all = ListParams::default();
    let list = keeping(Arc::new(reads), api.list(&all)).await.unwrap();
    assert_eq!(list.items.len(), PODS);
    list.items
}

/// Bytes that this thread wrote: to files, and in pages to the disk.
fn written_bytes() -> [u64; 2] {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    ["wchar: ", "write_bytes: "].map(|name| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse().unwrap()
    })
}

/// The CPU time of this thread in nanoseconds.
fn cpu() -> u64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse().unwrap()
}

/// The pod with another value of an annotation that is read.
fn changed(pod: &Object, value: usize) -> BilledObject {
    let mut object = pod.content.document.root().to_value();
    let plan = Value::String(format!("plan-{value}"));
    object["metadata"]["annotations"]["data.openmeter.io/plan"] = plan;
    object["metadata"]["resourceVersion"] = Value::String(format!("{}", 100_000 + value));
    let object: Object = serde_json::from_value(object).unwrap();
    object.content
}

fn observe(ledger: &mut Ledger<BilledObject>, pod: &Object, content: BilledObject, at: i64) {
    ledger.apply(Observation {
        uid: pod.uid(),
        start: Some(1),
        end: None,
        content,
        content_since: Some(at),
        observed_at: at,
        in_scope_since: None,
        times: meterline_ledger::Times::default(),
    });
}

#[tokio::test]
async fn ten_thousand_pods_are_small_and_so_is_a_change() {
    let pods = pods().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = ledger_of(0);
    for pod in &pods {
        observe(&mut ledger, pod, pod.content.clone(), 1);
    }
    file.write(&ledger.take_everything(), &seen(1)).unwrap();
    let size = || std::fs::metadata(&path).unwrap().len();
    let contents: usize = pods
        .iter()
        .map(|it| bytes(&it.content).unwrap().len())
        .sum();
    println!(
        "{PODS} pods: contents {contents} bytes, file {} bytes",
        size()
    );
    assert!(size() < 20 << 20);
    let mut number = 0;
    // Each change by itself, and as many together as arrive between two writes at a thousand a second.
    for (changes, together) in [(10_000, 1), (10_000, 20)] {
        let before = written_bytes();
        let mut spent = 0;
        for _ in 0..changes / together {
            for _ in 0..together {
                let pod = &pods[number * 7_919 % PODS];
                number += 1;
                let at = 2 + i64::try_from(number / 20).unwrap();
                observe(&mut ledger, pod, changed(pod, number), at);
            }
            let at = i64::try_from(number).unwrap();
            let begun = cpu();
            file.write(&ledger.take_changes(), &seen(at)).unwrap();
            spent += cpu() - begun;
        }
        let after = written_bytes();
        let each = [0, 1].map(|it| (after[it] - before[it]) / changes as u64);
        println!(
            "{changes} changes, {together} a write: {} bytes written for each, {} of pages; file {} \
             bytes; {} ms of CPU",
            each[0],
            each[1],
            size(),
            spent / 1_000_000
        );
        assert!(each[1] < 8 << 10, "{each:?}");
    }
    drop(file);
    println!("{number} segments more: file {} bytes", size());
    assert!(size() < 20 << 20);
    let (_, saved, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert_eq!(damage, None);
    let (is, expected) = (restored(saved.unwrap()), at_once(ledger));
    assert!(everything(is) == everything(expected), "not all is in it");
}

/// A tenant can cause a write of its own content, and of nothing else of its object, however often it changes.
#[test]
fn a_change_of_a_large_object_costs_as_much_after_many_changes_as_after_few() {
    const LARGE: usize = 250_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = ledger_of(0);
    file.write(&ledger.take_everything(), &seen(0)).unwrap();
    let annotation = "x".repeat(LARGE);
    let mut most = 0;
    for at in 1..=100 {
        let before = written_bytes()[0];
        let object = json!({"metadata": {
            "name": "pod", "uid": "pod", "annotations": {"large": annotation, "at": format!("{at}")},
        }});
        let object: Object = serde_json::from_value(object).unwrap();
        observe(&mut ledger, &object, object.content.clone(), at);
        file.write(&ledger.take_changes(), &seen(at)).unwrap();
        let written = written_bytes()[0] - before;
        // SQLite writes the log to the file now and then.
        let log = u64::from(PAGE_SIZE) * u64::try_from(LOG_PAGES).unwrap();
        if written < log {
            most = most.max(written);
        }
    }
    println!("the hundredth change of {LARGE} bytes: {most} bytes written");
    assert!(most < 300_000, "{most}");
}
