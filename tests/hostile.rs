//! Honest tenants beside one that does all it can: its contents, its names, its poison, its large pods
//! and the labels of these that change all the time cost nobody else a second, and of its own seconds
//! none is missing.

use std::{fs, path::PathBuf, time::Duration};

use futures::future::join_all;
use kube::api::{Patch, PatchParams};
use meterline_testkit::{
    audit::{self, Life},
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    pods::{self, Phase, PodSpec, Pods, pod},
    process::Meterline,
    truth::Truth,
};
use serde_json::{Value, json};

use crate::{
    contents::hostile_contents,
    support::{MINUTE, preset, seconds, stop, until},
};

/// How long it goes on, in seconds.
const LENGTH: i64 = 120;
/// When the sink goes away and when it comes back.
const AWAY: std::ops::Range<i64> = 45..65;
const HONEST: i64 = 20;
const MEMORY: u64 = 512 << 20;
/// So many large pods run, and as many are pending.
const LARGE: usize = 20;

/// Joins a control group of its own with so much memory, where the machine lets one; else bounds the
/// address space, of which a process takes several times as much.
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

/// The group of a process that has joined one.
fn group(meterline: &Meterline) -> Option<PathBuf> {
    let name = format!("meterline-{}", meterline.id());
    ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .map(|root| PathBuf::from(root).join(&name))
        .into_iter()
        .find(|it| it.exists())
}

/// A pod of about 250 KB, of which the mapping reads a label of 20 KB.
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

/// Changes what is read of each large pod that runs and what is not.
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

/// What the tenant runs beside pods with hostile contents.
fn hostile_pods() -> Vec<PodSpec> {
    let text = "<".repeat(150 << 10);
    let mut all = hostile_contents();
    all.extend([
        // The sink fails whenever it is sent an event of these.
        pod("poison-1").annotation("data.openmeter.io/text", &text),
        pod("poison-2"),
        // The sink refuses these.
        pod("refused"),
        // It names another's customer, and what was measured.
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

/// Everything that the process lists as rejected, as events of the tenant.
async fn rejected(meterline: &Meterline) -> Vec<Value> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut query = "?limit=1000".to_owned();
    let mut events = Vec::new();
    loop {
        let url = meterline.admin_url(&format!("/rejected{query}"));
        let page = client.get(url).send().await.unwrap().bytes().await.unwrap();
        let page: Value = serde_json::from_slice(&page).unwrap();
        for item in page["rejected"].as_array().unwrap() {
            let name = item["about"].as_str().unwrap().rsplit('/').next().unwrap();
            events.push(json!({"time": item["start"], "data": {
                "pod_name": name,
                "pod_namespace": item["namespace"],
                "duration_seconds": item["seconds"],
            }}));
        }
        match page["next"].as_str() {
            Some(next) => query = format!("?limit=1000&after={next}"),
            None => return events,
        }
    }
}

fn of(lives: &[Life], namespace: &str) -> Vec<Life> {
    let mine = lives.iter().filter(|it| it.namespace == namespace);
    mine.cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_hostile_tenant_costs_nobody_else_a_second_and_none_of_its_own_is_missing() {
    let control_plane = ControlPlane::start().await.unwrap();
    for namespace in ["honest", "hostile"] {
        control_plane.create_namespace(namespace).await.unwrap();
        control_plane.grant_pods("reader", namespace).await.unwrap();
    }
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let name = |event: &Value| event["data"]["pod_name"].as_str().unwrap().to_owned();
    ingest.poison_when(move |event| name(event).starts_with("poison"));
    ingest.refuse_when(|event| event["data"]["pod_name"] == "refused");
    let folder = tempfile::tempdir().unwrap();
    let hostile = Pods::new(client.clone(), "hostile");
    for number in 0..LARGE {
        let pending = large(&format!("pending-{number}"));
        hostile.create(&pending).await.unwrap();
    }
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("SCRAPE_NAMESPACE", "honest,hostile")
        .env("SCRAPE_INTERVAL", "2s")
        .env("STATE_PATH", folder.path().join("state.sqlite"))
        .by_shell(&memory_limit(), "")
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();

    let from = pods::now();
    let honest = Pods::new(client, "honest");
    for number in 0..HONEST {
        let spec = pod(&format!("honest-{number}"))
            .annotation("openmeter.io/subject", &format!("customer-{number}"));
        honest.create_running(&spec, pods::now()).await.unwrap();
    }
    let specs = hostile_pods();
    for spec in &specs {
        hostile.create_running(spec, pods::now()).await.unwrap();
    }
    // Honest pods end all along, also while the sink is away.
    let mut away = false;
    for second in 0..LENGTH {
        until(from + seconds(second)).await;
        churn(&hostile, second).await;
        if AWAY.contains(&second) != away {
            away = !away;
            if away {
                ingest.go_away().await;
            } else {
                ingest.come_back().await.unwrap();
            }
        }
        if second % 6 == 0 && second / 6 < HONEST {
            end(&honest, &truth, "honest", &format!("honest-{}", second / 6)).await;
        }
    }
    let names: Vec<_> = truth
        .lives()
        .into_iter()
        .filter(|it| it.end.is_none())
        .collect();
    for life in names {
        let pods = if life.namespace == "honest" {
            &honest
        } else {
            &hostile
        };
        end(pods, &truth, &life.namespace, &life.name).await;
    }
    let all = specs.len() + usize::try_from(HONEST).unwrap();
    truth
        .wait_until(MINUTE, |lives| {
            lives.len() == all && lives.iter().all(|it| it.end.is_some())
        })
        .await
        .unwrap();
    let lives = truth.lives();
    let range = from - seconds(60)..pods::now() + seconds(60);
    let is_of_tenant = |event: &Value| event["data"]["pod_namespace"] == "hostile";
    let honest_lives = of(&lives, "honest");
    let _ = ingest
        .wait_until(6 * MINUTE, |state| {
            let events = state.events.iter().map(|received| &received.event);
            let events = events.filter(|it| !is_of_tenant(it));
            audit::audit(&honest_lives, events, range.clone()).is_exact()
        })
        .await;
    let events = ingest.events();
    let events = events.iter().filter(|it| !is_of_tenant(it));
    let report = audit::audit(&honest_lives, events, range.clone());
    assert!(report.is_exact(), "{report}{}", meterline.tail());

    // What of the tenant is not shown as it was is counted.
    let cut = meterline.metric("kubernetes_object_cut").await.unwrap();
    assert!(cut.is_some_and(|it| it > 0.0), "{cut:?}");

    // What of the tenant was not delivered is listed.
    meterline
        .wait_for_page("/stats", 6 * MINUTE, |_, page| {
            let page: Value = serde_json::from_str(page).unwrap();
            page["seconds"]["waiting"] == 0
        })
        .await
        .unwrap();
    let listed = rejected(&meterline).await;
    let mut events: Vec<_> = ingest.events().into_iter().filter(is_of_tenant).collect();
    let delivered = events.len();
    events.extend(listed.iter().cloned());
    let report = audit::audit(&of(&lives, "hostile"), &events, range.clone());
    assert!(report.is_exact(), "{report}{}", meterline.tail());
    let is_listed = |name: &str| listed.iter().any(|it| it["data"]["pod_name"] == name);
    for name in ["poison-1", "poison-2", "refused"] {
        assert!(is_listed(name), "{name}");
    }
    assert!(!is_listed("exa") && delivered > 0);
    meterline
        .wait_for_log("the last minute", MINUTE)
        .await
        .unwrap();

    // And once the sink is mended, nothing of it stays behind.
    ingest.poison_when(|_| false);
    ingest.refuse_nothing();
    let retry = meterline.admin_url("/rejected/retry");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.post(retry).send().await.unwrap();
    meterline
        .wait_for_page("/stats", 6 * MINUTE, |_, page| {
            let page: Value = serde_json::from_str(page).unwrap();
            page["seconds"]["rejected"] == 0 && page["seconds"]["waiting"] == 0
        })
        .await
        .unwrap();
    let events = ingest.events();
    let mine = events.iter().filter(|it| is_of_tenant(it));
    let report = audit::audit(&of(&lives, "hostile"), mine, range);
    assert!(report.is_exact(), "{report}{}", meterline.tail());
    ingest.assert_clean();
    let peak = peak(&meterline);
    eprintln!("peak of the resident memory: {peak} KiB");
    assert!(peak < MEMORY / 1024, "{peak}");
    let group = group(&meterline);
    if let Some(peak) = group
        .as_ref()
        .and_then(|it| fs::read_to_string(it.join("memory.max_usage_in_bytes")).ok())
    {
        eprintln!("peak of the memory: {} bytes", peak.trim());
    }
    stop(&meterline).await;
    drop(meterline);
    if let Some(group) = group {
        // It is empty now.
        let _ = fs::remove_dir(group);
    }
}

/// The most memory that the process had resident, in KiB.
fn peak(meterline: &Meterline) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", meterline.id())).unwrap();
    let peak = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse().unwrap()
}

/// Ends a pod now.
async fn end(pods: &Pods, truth: &Truth, namespace: &str, name: &str) {
    truth
        .wait_until(Duration::from_secs(20), |lives| {
            lives
                .iter()
                .any(|it| it.namespace == namespace && it.name == name)
        })
        .await
        .unwrap();
    let lives = truth.lives();
    let life = lives
        .iter()
        .find(|it| it.namespace == namespace && it.name == name);
    let start = life.unwrap().start;
    let end = pods::now().max(start + seconds(1));
    pods.set_ended(name, Phase::Succeeded, start, end)
        .await
        .unwrap();
}
