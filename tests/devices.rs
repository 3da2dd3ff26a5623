//! The preset `kubernetes-pod-device-time`: each kind of device of a pod is billed to the second, and the
//! time of pods without devices has the fate `dropped`.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use meterline_kubesim::{Kind, Options};
use meterline_testkit::{
    audit::{self, Life},
    scene::{Scene, pod_of},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE};

const LIVED: i64 = 30;

/// A pod that ran for [`LIVED`] seconds.
fn life(scene: &Scene<meterline_testkit::scene::Simulated>, name: &str) -> Life {
    let start = scene.start - TimeDelta::seconds(50);
    Life {
        uid: format!("uid-{name}"),
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        start,
        end: Some(start + TimeDelta::seconds(LIVED)),
    }
}

fn object(life: &Life, limits: &Value, selector: &Value) -> Value {
    let rfc3339 = |time: chrono::DateTime<chrono::Utc>| {
        time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    let (start, end) = (rfc3339(life.start), life.end.map(rfc3339));
    json!({
        "metadata": {
            "name": life.name, "namespace": life.namespace, "uid": life.uid,
            "creationTimestamp": start,
            "annotations": {"openmeter.io/subject": "customer-1", "data.openmeter.io/plan": "gold"},
        },
        "spec": {
            "nodeName": "node", "restartPolicy": "Never", "nodeSelector": selector,
            "containers": [{"name": "main", "resources": {"limits": limits, "requests": limits}}],
        },
        "status": {"phase": "Succeeded", "startTime": start, "containerStatuses": [
            {"name": "main", "state": {"terminated":
                {"startedAt": start, "finishedAt": end, "exitCode": 0}}},
        ]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_billed_apart_and_pods_without_devices_are_dropped() {
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let mixed = json!({"nvidia.com/gpu": "2", "nvidia.com/mig-1g.5gb.shared": "3", "cpu": "1"});
    let unknown = json!({"cpu": "1", "example.com/npu": "1"});
    let selector = json!({"cloud.google.com/gke-accelerator": "nvidia-l4"});
    for (name, limits) in [("mixed", &mixed), ("plain", &unknown)] {
        let pod = object(&life(&scene, name), limits, &selector);
        scene.sim.change(|store| store.put(Kind::Pod, pod));
    }
    let meterline = scene
        .command()
        .args(["--preset", "kubernetes-pod-device-time"])
        .env("SCRAPE_NAMESPACE", "")
        .env("SCRAPE_INTERVAL", "7s")
        .env("BATCH_SIZE", "0")
        .start_ready()
        .await
        .unwrap();
    let all = meterline.wait_for_seconds(MINUTE, |seconds| {
        seconds["ran"] == 2 * LIVED && seconds["waiting"] == 0
    });
    all.await.unwrap();
    let seconds = &meterline.stats().await.unwrap()["seconds"];
    let expected = json!({"ran": 2 * LIVED, "delivered": LIVED, "dropped": LIVED, "rejected": 0,
        "waiting": 0, "unproved": 0});
    assert_eq!(*seconds, expected);
    meterline.stop().await;
    scene.ingest.assert_clean();

    let events = scene.ingest.events();
    assert!(events.iter().all(|event| pod_of(event) == "mixed"));
    let ids: BTreeSet<_> = events.iter().map(|it| it["id"].to_string()).collect();
    assert_eq!(ids.len(), events.len());
    let range = scene.start - TimeDelta::minutes(5)..scene.start + TimeDelta::minutes(60);
    for (resource, count, unit, partition, sharing, fraction) in [
        ("nvidia.com/gpu", 2, "card", "", "none", json!(1)),
        (
            "nvidia.com/mig-1g.5gb.shared",
            3,
            "slice",
            "1g.5gb",
            "unknown",
            Value::Null,
        ),
    ] {
        let of = |event: &&Value| event["data"]["resource"] == resource;
        let report = audit::audit(
            &[life(&scene, "mixed")],
            events.iter().filter(of),
            range.clone(),
        );
        assert!(report.is_exact(), "{resource}: {report}");
        assert_eq!(report.billed_seconds(), LIVED, "{resource}");
        let mut hours = 0.0;
        for event in events.iter().filter(of) {
            let data = &event["data"];
            assert_eq!(event["type"], "kube-pod-device-time");
            assert_eq!(event["subject"], "customer-1");
            for (field, value) in [
                ("plan", json!("gold")),
                ("vendor", json!("nvidia")),
                ("gpu_type", json!("nvidia-l4")),
                ("device_count", json!(count)),
                ("unit", json!(unit)),
                ("partition", json!(partition)),
                ("sharing", json!(sharing)),
                ("device_fraction", fraction.clone()),
            ] {
                assert_eq!(data[field], value, "{field} of {event}");
            }
            let equivalent = &data["gpu_equivalent_hours"];
            let is_whole = fraction == 1;
            assert_eq!(*equivalent == data["device_hours"], is_whole, "{event}");
            hours += data["device_hours"].as_f64().unwrap();
        }
        let expected = f64::from(count) * 30.0 / 3600.0;
        assert!((hours - expected).abs() < 1e-12, "{resource}: {hours}");
    }
}
