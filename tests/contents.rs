//! What a tenant can write into a pod that a real API server accepts.

use meterline_testkit::{
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    pods::{self, Phase, PodSpec, Pods, pod},
    truth::Truth,
};
use serde_json::{Value, json};

use crate::{
    pod_lifecycle::events_of,
    support::{MINUTE, preset, seconds, settled, stop, until},
};

/// A number in three digits.
fn in_base_36(number: u32) -> String {
    let digit = |power: u32| char::from_digit(number / 36_u32.pow(power) % 36, 36).unwrap();
    [2, 1, 0].map(digit).iter().collect()
}

/// Pods `exa`, `resources`, `annotated`, `control` and `long`, whose contents are as a tenant may write
/// them to be billed for nothing or to stop the billing of others.
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
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("SCRAPE_INTERVAL", "2s")
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();

    let mut specs = hostile_contents();
    specs.push(pod("honest").annotation("openmeter.io/subject", " customer "));
    let names = ["exa", "resources", "annotated", "control", "long", "honest"];
    let start = pods::now();
    let pods = Pods::new(client, "default");
    for spec in &specs {
        pods.create_running(spec, start).await.unwrap();
    }
    until(start + seconds(5)).await;
    for name in names {
        // Now, and not a moment ago: what is learned too late cannot be taken back.
        pods.set_ended(name, Phase::Succeeded, start, pods::now())
            .await
            .unwrap();
    }
    truth
        .wait_until(MINUTE, |lives| {
            lives.len() == names.len() && lives.iter().all(|life| life.end.is_some())
        })
        .await
        .unwrap();
    settled(
        &ingest,
        &truth.lives(),
        &(start..start + seconds(120)),
        MINUTE,
    )
    .await
    .assert_exact();

    let whole = |name: &str| -> Value {
        let mut events = events_of(&ingest, name).into_iter();
        events
            .find(|it| it["data"]["duration_seconds"] == 2)
            .unwrap()
    };
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

    let told = meterline.log();
    let told = |name: &str| {
        let about = format!("pod default/{name} ");
        told.iter()
            .filter(|it| it.contains("level=warn") && it.contains(&about))
            .count()
    };
    assert_eq!(names.map(told), [0, 0, 1, 0, 1, 0], "{}", meterline.tail());
    assert_eq!(
        meterline.metric("output_rejected").await.unwrap(),
        Some(0.0)
    );
    assert!(meterline.metric("mapping_left_out").await.unwrap() > Some(0.0));
    ingest.assert_clean();
    stop(&meterline).await;
}
