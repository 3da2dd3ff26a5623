//! Honest tenants run beside a hostile one. Its contents, its names, its poison events and its large pods
//! whose labels change each second affect no other tenant, and none of its own seconds is missing.

use std::{fs, path::PathBuf};

use futures::future::join_all;
use kube::api::{Patch, PatchParams};
use meterline_testkit::{
    audit,
    pods::{self, PodSpec, Pods, pod},
    process::Meterline,
    scene::{Scene, namespace_of, pod_of},
};
use serde_json::{Value, json};

use crate::{
    contents::hostile_contents,
    support::{BINARY, MINUTE, seconds, until},
};

/// How many seconds it takes.
const LENGTH: i64 = 120;
/// When the sink is unavailable.
const AWAY: std::ops::Range<i64> = 40..100;
const HONEST: i64 = 20;
/// What the process may take before the kernel ends it.
const MEMORY: u64 = 512 << 20;
/// How many large pods run; as many are pending.
const LARGE: usize = 20;

/// The most memory that it may have resident, which docs/performance.md promises.
const MOST_RESIDENT: u64 = 150_000_000;

/// The program; `METERLINE` names another build of it.
fn binary() -> String {
    std::env::var("METERLINE").unwrap_or_else(|_| BINARY.to_owned())
}

/// Puts the process into a control group that bounds its memory, where the machine permits that; else
/// bounds its address space, of which a process takes several times as much.
fn memory_limit() -> String {
    format!(
        r#"
limited=
for root in /sys/fs/cgroup/memory /sys/fs/cgroup; do
  group=$root/meterline-$$
  [ -z "$limited" ] && mkdir "$group" 2>/dev/null || continue
  for file in memory.limit_in_bytes memory.max; do
    if [ -e "$group/$file" ] && echo {MEMORY} > "$group/$file" && echo $$ > "$group/cgroup.procs"; then
      limited=1
    fi
  done
done
[ -n "$limited" ] || ulimit -v {}"#,
        4 * MEMORY / 1024
    )
}

/// The control group of the process, if it has one.
fn group(meterline: &Meterline) -> Option<PathBuf> {
    let name = format!("meterline-{}", meterline.id());
    ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .map(|root| PathBuf::from(root).join(&name))
        .into_iter()
        .find(|it| it.exists())
}

/// A pod of about 250 KB, of which the mapping reads an annotation of 20 KB.
fn large(name: &str) -> PodSpec {
    let text = |length: usize| "x".repeat(length << 10);
    pod(name)
        .annotation("data.openmeter.io/text", &text(20))
        .annotation("noise", &text(110))
        .containers(json!([{
            "name": "main", "image": "registry.test/main:1",
            "env": [{"name": "NOISE", "value": text(110)}],
            "resources": {"requests": {"cpu": "1m"}},
        }]))
}

/// Changes labels and annotations of each large pod that runs, some that the mapping reads and some that
/// it does not.
async fn churn(hostile: &Pods, second: i64) {
    let value = second.to_string();
    let patch = Patch::Merge(json!({"metadata": {
        "labels": {"churn": value},
        "annotations": {"churn": value, "data.openmeter.io/plan": value},
    }}));
    let each = (0..LARGE).map(|number| {
        let (name, patch) = (format!("large-{number}"), patch.clone());
        async move {
            let parameters = PatchParams::default();
            let patched = hostile.api().patch(&name, &parameters, &patch);
            patched.await.unwrap();
        }
    });
    join_all(each).await;
}

/// The pods of the hostile tenant.
fn hostile_pods() -> Vec<PodSpec> {
    let text = "<".repeat(150 << 10);
    let mut all = hostile_contents();
    all.extend([
        // The sink fails whenever it is sent an event of these.
        pod("poison-1").annotation("data.openmeter.io/text", &text),
        pod("poison-2"),
        // The sink refuses these.
        pod("refused"),
        // Its annotations set another tenant's subject, and the measured values.
        pod("forger")
            .annotation("openmeter.io/subject", "customer-1")
            .annotation("data.openmeter.io/duration_seconds", "0")
            .annotation("data.openmeter.io/pod_name", "honest-1")
            .annotation("data.openmeter.io/pod_namespace", "honest"),
        // More than is kept of one pod.
        pod("huge")
            .annotation("data.openmeter.io/most", &"x".repeat(150 << 10))
            .annotation("data.openmeter.io/more", &"x".repeat(60 << 10)),
    ]);
    all.extend((0..LARGE).map(|number| large(&format!("large-{number}"))));
    all
}

/// Every interval that the process lists as rejected, as an event of the tenant.
async fn rejected(meterline: &Meterline) -> Vec<Value> {
    let listed = meterline.rejected(1000).await.unwrap();
    let event = |item: &Value| {
        let name = item["about"].as_str().unwrap().rsplit('/').next().unwrap();
        json!({"time": item["start"], "data": {
            "pod_name": name,
            "pod_namespace": item["namespace"],
            "duration_seconds": item["seconds"],
        }})
    };
    listed.iter().map(event).collect()
}

/// The sink fails whenever it gets an event of the tenant's poison pods, and refuses one other pod.
async fn scene(binary: &str) -> Scene {
    let scene = Scene::bare(binary).await;
    for namespace in ["honest", "hostile"] {
        scene.namespace(namespace).await;
    }
    scene
        .ingest
        .poison_when(|event| pod_of(event).starts_with("poison"));
    scene.ingest.refuse_when(|event| pod_of(event) == "refused");
    for number in 0..LARGE {
        let pending = large(&format!("pending-{number}"));
        scene.pods_in("hostile").create(&pending).await.unwrap();
    }
    scene
}

/// Pods start, the labels change and the sink is unavailable. Honest pods end all the time, also during the outage.
async fn run(scene: &Scene) {
    let from = pods::now();
    let (honest, hostile) = (scene.pods_in("honest"), scene.pods_in("hostile"));
    for number in 0..HONEST {
        let spec = pod(&format!("honest-{number}"))
            .annotation("openmeter.io/subject", &format!("customer-{number}"));
        honest.create_running(&spec, pods::now()).await.unwrap();
    }
    for spec in hostile_pods() {
        hostile.create_running(&spec, pods::now()).await.unwrap();
    }
    let mut is_away = false;
    for second in 0..LENGTH {
        until(from + seconds(second)).await;
        churn(&hostile, second).await;
        if AWAY.contains(&second) != is_away {
            is_away = !is_away;
            if is_away {
                scene.ingest.go_away().await;
            } else {
                scene.ingest.come_back().await.unwrap();
            }
        }
        if second % 6 == 0 && second / 6 < HONEST {
            scene.end("honest", &format!("honest-{}", second / 6)).await;
        }
    }
    let all = hostile_pods().len() + usize::try_from(HONEST).unwrap();
    scene.end_all().await;
    scene.truth.wait_for_ends(all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_hostile_tenant_costs_no_other_tenant_a_second_and_is_itself_fully_accounted() {
    let scene = scene(&binary()).await;
    let meterline = scene
        .preset()
        .env("SCRAPE_NAMESPACE", "honest,hostile")
        .env("SCRAPE_INTERVAL", "2s")
        .env("BATCH_SIZE", "20")
        .env("BATCH_PERIOD", "1s")
        .env("STATE_PATH", scene.file("state.sqlite"))
        .by_shell(&memory_limit(), "")
        .start_ready()
        .await
        .unwrap();
    run(&scene).await;
    let report = scene.settled(|namespace, _| namespace == "honest").await;
    assert!(report.is_exact(), "{report}{}", meterline.tail());

    // What is left out of the tenant's contents is counted.
    let cut = meterline.metric("kubernetes_object_cut").await.unwrap();
    assert!(cut.is_some_and(|it| it > 0.0), "{cut:?}");

    // Every second of the tenant is delivered or listed as rejected.
    meterline
        .wait_for_seconds(6 * MINUTE, |seconds| seconds["waiting"] == 0)
        .await
        .unwrap();
    let listed = rejected(&meterline).await;
    let mut events = scene.ingest.events();
    events.retain(|event| namespace_of(event) == "hostile");
    assert!(!events.is_empty());
    events.extend(listed.iter().cloned());
    let mut lives = scene.lives();
    lives.retain(|life| life.namespace == "hostile");
    let range = scene.start - seconds(60)..pods::now() + seconds(60);
    let report = audit::audit(&lives, &events, range);
    assert!(report.is_exact(), "{report}{}", meterline.tail());
    let is_listed = |name: &str| listed.iter().any(|it| pod_of(it) == name);
    for name in ["poison-1", "poison-2", "refused"] {
        assert!(is_listed(name), "{name}");
    }
    assert!(!is_listed("exa"));
    meterline
        .wait_for_log("the last minute", MINUTE)
        .await
        .unwrap();

    // When the sink accepts all of it, no second is left.
    scene.ingest.poison_when(|_| false);
    scene.ingest.refuse_nothing();
    meterline.retry_rejected().await.unwrap();
    meterline
        .wait_for_seconds(6 * MINUTE, |seconds| {
            seconds["rejected"] == 0 && seconds["waiting"] == 0
        })
        .await
        .unwrap();
    scene.assert_exact(&meterline).await;
    let peak = peak(&meterline);
    eprintln!("peak of the resident memory: {peak} bytes");
    assert!(peak <= MOST_RESIDENT, "{peak}");
    let group = group(&meterline);
    if let Some(peak) = group
        .as_ref()
        .and_then(|it| fs::read_to_string(it.join("memory.max_usage_in_bytes")).ok())
    {
        eprintln!("peak of the control group: {} bytes", peak.trim());
    }
    meterline.stop().await;
    drop(meterline);
    if let Some(group) = group {
        // It is empty now.
        let _ = fs::remove_dir(group);
    }
}

/// The most memory that the process had resident, in bytes.
fn peak(meterline: &Meterline) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", meterline.id())).unwrap();
    let peak = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse::<u64>().unwrap() * 1024
}
