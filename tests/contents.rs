//! What a tenant can write into a pod that a real API server accepts.

use meterline_testkit::{
    pods::{self, PodSpec, pod},
    scene::{Scene, pod_of},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE};

/// A number in three digits of base 36.
fn in_base_36(number: u32) -> String {
    let digit = |power: u32| char::from_digit(number / 36_u32.pow(power) % 36, 36).unwrap();
    [2, 1, 0].map(digit).iter().collect()
}

/// Pods `exa`, `resources`, `annotated`, `control` and `long`, with what a tenant may write into them to
/// be billed for nothing or to stop the billing of others.
pub(crate) fn hostile_contents() -> Vec<PodSpec> {
    let container =
        |limits: Value| json!([{"name": "main", "image": "x", "resources": {"limits": limits}}]);
    let resources: Value = (0..20_000)
        .map(|index| (format!("a.b/{}", in_base_36(index)), json!("0")))
        .chain([("nvidia.com/gpu".to_owned(), json!("8"))])
        .collect::<serde_json::Map<_, _>>()
        .into();
    let annotated = |prefix: &str, count: u32| {
        (0..count).fold(pod("annotated"), |pod, index| {
            pod.annotation(&format!("{prefix}{index:05}"), "x")
        })
    };
    vec![
        pod("exa").containers(container(json!({"memory": "8Ei", "cpu": "2"}))),
        pod("resources").containers(container(resources)),
        annotated("data.openmeter.io/k", 10_001).annotation("openmeter.io/subject", "   "),
        pod("control")
            .annotation("openmeter.io/subject", "\u{200b}\t\u{1}")
            .annotation("data.openmeter.io/text", "\u{1}\u{202e}<&>\"\\"),
        pod("long")
            .annotation("openmeter.io/subject", &"s".repeat(100_000))
            .annotation("data.openmeter.io/gpu_type", &"é".repeat(50_000)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn no_content_of_a_pod_keeps_its_time_from_being_billed() {
    let scene = Scene::with(BINARY, 0).await;
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "2s").start_ready();
    let meterline = meterline.await.unwrap();

    let mut specs = hostile_contents();
    specs.push(pod("honest").annotation("openmeter.io/subject", " customer "));
    let names = ["exa", "resources", "annotated", "control", "long", "honest"];
    let start = pods::now();
    for spec in &specs {
        scene.pods.create_running(spec, start).await.unwrap();
    }
    let is_whole = |event: &Value| event["data"]["duration_seconds"] == 2;
    scene
        .ingest
        .wait_until(MINUTE, |state| {
            let mut names = names.iter();
            names.all(|name| {
                let mut events = state.events.iter().map(|it| &it.event);
                events.any(|it| is_whole(it) && pod_of(it) == *name)
            })
        })
        .await
        .unwrap();
    // The process is suspended while the ends are written: it cannot close a window that it does not
    // know the end in, regardless of how long a busy machine takes to store pods this large.
    meterline.pause().unwrap();
    scene.end_all().await;
    meterline.resume().unwrap();
    scene.assert_exact(&meterline).await;

    let whole = |name: &str| scene.events_of(name).into_iter().find(is_whole).unwrap();
    let exa = whole("exa");
    assert_eq!(exa["data"]["memory_limit_bytes"], i64::MAX);
    let product = 2 * u64::try_from(i64::MAX).unwrap();
    assert_eq!(exa["data"]["memory_limit_bytes_per_second"], product);
    assert_eq!(
        whole("resources")["data"]["gpu_request_count_per_second"],
        16
    );
    let annotated = whole("annotated");
    assert_eq!(annotated["subject"], "annotated");
    let fields = annotated["data"].as_object().unwrap();
    let of_tenant: Vec<_> = fields.keys().filter(|it| it.starts_with("k0")).collect();
    assert_eq!(of_tenant.len(), 64);
    assert!(fields.contains_key("k00000") && fields.contains_key("k00063"));
    let control = whole("control");
    assert_eq!(control["subject"], "control");
    assert_eq!(control["data"]["text"], "\u{1}\u{202e}<&>\"\\");
    let long = whole("long");
    assert_eq!(long["subject"].as_str().unwrap().len(), 4 << 10);
    assert_eq!(long["data"]["gpu_type"].as_str().unwrap().len(), 4 << 10);
    assert_eq!(whole("honest")["subject"], "customer");

    let log = meterline.log();
    let warnings = |name: &str| {
        let about = format!("pod default/{name} ");
        log.iter()
            .filter(|it| it.contains("level=warn") && it.contains(&about))
            .count()
    };
    let warnings = names.map(warnings);
    assert_eq!(warnings, [0, 0, 1, 0, 1, 0], "{}", meterline.tail());
    meterline.assert_metric("output_rejected", 0.0).await;
    assert!(meterline.metric("mapping_left_out").await.unwrap() > Some(0.0));
    meterline.stop().await;
}
