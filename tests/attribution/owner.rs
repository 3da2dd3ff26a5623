//! The controllers of pods: kind and name, and labels as they were at the time.

use chrono::{DateTime, Utc};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use meterline_testkit::{
    pods::{self, Phase, Pods, pod},
    process::{Meterline, MeterlineCommand},
    scene::Scene,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{newest_write, stretches};
use crate::support::{BINARY, MINUTE, seconds, stretches_of, until};

/// What the chart grants beside pods, in the namespaces of the pods.
const CONTROLLERS: [(&str, &str); 5] = [
    ("apps", "deployments"),
    ("apps", "statefulsets"),
    ("apps", "daemonsets"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
];

/// A scene whose program may read the pods of the namespace `shop`.
async fn scene() -> (Scene, Pods) {
    let scene = Scene::bare(BINARY).await;
    let shop = scene.namespace("shop").await;
    (scene, shop)
}

async fn grant(scene: &Scene, controllers: &[(&str, &str)]) {
    for (group, resource) in controllers {
        let granted = scene.control_plane.grant("reader", "shop", group, resource);
        granted.await.unwrap();
    }
}

/// The preset, whose events have the owner as well.
fn command(scene: &Scene) -> MeterlineCommand {
    let change = |preset: String| {
        let before = "pod_namespace: this.metadata.namespace,";
        let owner = r#"kind: owner()?.kind ?? "Pod", owner: owner()?.name ?? this.metadata.name,
              team: owner()?.labels?["example.com/team"] ?? "nobody","#;
        assert!(preset.contains(before));
        preset.replace(before, &format!("{before}\n              {owner}"))
    };
    let variant = scene.variant(change, &format!("url: '{}'", scene.ingest.url()));
    variant
        .env("SCRAPE_NAMESPACE", "shop")
        .env("SCRAPE_INTERVAL", "5s")
        .env("STATE_PATH", scene.file("state.sqlite"))
}

/// Creates an object in the shop that has a team. Returns its UID.
async fn create<K>(scene: &Scene, name: &str, team: &str, spec: Value) -> String
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(scene.client.clone(), "shop");
    let object = json!({"metadata": {"name": name, "labels": {"example.com/team": team}},
        "spec": spec});
    let object = serde_json::from_value(object).unwrap();
    let made = api.create(&PostParams::default(), &object).await.unwrap();
    made.uid().unwrap()
}

/// Sets the team of a Deployment. Returns the second that the API server recorded.
async fn set_team(scene: &Scene, name: &str, team: &str) -> DateTime<Utc> {
    let api: Api<Deployment> = Api::namespaced(scene.client.clone(), "shop");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"example.com/team": team}}}));
    let set = api.patch(name, &PatchParams::default(), &patch).await;
    newest_write(set.unwrap().meta())
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}})
}

/// The spec of what runs pods for ever.
fn running() -> Value {
    json!({"selector": {"matchLabels": {"app": "x"}}, "template": template(), "serviceName": "x"})
}

/// The spec of a Job.
fn once() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"template": template, "suspend": true})
}

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true})
}

/// What is billed of a pod: start, seconds, and the owner with its team.
fn billed(scene: &Scene, pod: &str) -> Vec<(DateTime<Utc>, i64, String)> {
    stretches_of(&scene.events_of(pod), |event| {
        let field = |key: &str| event["data"][key].as_str().unwrap();
        format!("{} {} {}", field("kind"), field("owner"), field("team"))
    })
}

/// Ends these pods, and checks their seconds. Returns when they ended.
async fn end(
    (scene, shop): (&Scene, &Pods),
    pods: &[&str],
    begin: DateTime<Utc>,
    meterline: &Meterline,
) -> DateTime<Utc> {
    let end = pods::now();
    for name in pods {
        let ended = shop.set_ended(name, Phase::Succeeded, begin, end).await;
        ended.unwrap();
    }
    scene.truth.wait_for_ends(pods.len()).await.unwrap();
    scene.assert_exact(meterline).await;
    end
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_are_divided_when_a_label_of_their_deployment_changes_also_across_a_restart() {
    let (scene, shop) = scene().await;
    grant(&scene, &CONTROLLERS).await;
    let meterline = command(&scene).start_ready().await.unwrap();
    create::<Deployment>(&scene, "web", "red", running()).await;
    let set = create::<ReplicaSet>(&scene, "web-5d9", "unread", running()).await;
    let made = pod("web").label("pod-template-hash", "5d9");
    let made = made.owner(owner("apps/v1", "ReplicaSet", "web-5d9", &set));
    shop.create(&made).await.unwrap();
    shop.create(&pod("bare")).await.unwrap();
    let begin = pods::now();
    for name in ["web", "bare"] {
        shop.set_running(name, begin).await.unwrap();
    }
    until(begin + seconds(4)).await;
    let first = set_team(&scene, "web", "blue").await;
    let is_blue = |it: &Value| it["data"]["team"] == "blue";
    let delivered = scene
        .ingest
        .wait_until(MINUTE, |it| it.events.iter().any(|it| is_blue(&it.event)));
    delivered.await.unwrap();
    meterline.kill().unwrap();
    let second = set_team(&scene, "web", "green").await;
    let meterline = command(&scene).start_ready().await.unwrap();
    until(second + seconds(4)).await;
    // The pod outlives the Deployment, and keeps its team.
    let api: Api<Deployment> = Api::namespaced(scene.client.clone(), "shop");
    api.delete("web", &DeleteParams::default()).await.unwrap();
    until(pods::now() + seconds(7)).await;
    let end = end((&scene, &shop), &["web", "bare"], begin, &meterline).await;
    let teams = [
        (begin, "Deployment web red"),
        (first, "Deployment web blue"),
        (second, "Deployment web green"),
    ];
    assert_eq!(billed(&scene, "web"), stretches(&teams, end));
    let whole = stretches(&[(begin, "Pod bare nobody")], end);
    assert_eq!(billed(&scene, "bare"), whole);
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_job_is_of_its_cron_job_and_a_pod_that_names_another_uid_has_no_labels() {
    let (scene, shop) = scene().await;
    grant(&scene, &CONTROLLERS).await;
    let cron = json!({"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": once()}});
    create::<CronJob>(&scene, "tidy", "ops", cron).await;
    let train = create::<Job>(&scene, "train-20261201", "science", once()).await;
    let db = create::<StatefulSet>(&scene, "db", "data", running()).await;
    let due = format!("tidy-{}", pods::now().timestamp() / 60);
    let pods = [
        ("tidy", owner("batch/v1", "Job", &due, "j")),
        ("train", owner("batch/v1", "Job", "train-20261201", &train)),
        ("db", owner("apps/v1", "StatefulSet", "db", &db)),
        ("false", owner("apps/v1", "StatefulSet", "db", "another")),
        ("custom", owner("example.com/v1", "StatefulSet", "db", &db)),
    ];
    let meterline = command(&scene).start_ready().await.unwrap();
    for (name, owner) in &pods {
        shop.create(&pod(name).owner(owner.clone())).await.unwrap();
    }
    let begin = pods::now();
    let names = pods.map(|(name, _)| name);
    for name in names {
        shop.set_running(name, begin).await.unwrap();
    }
    until(begin + seconds(6)).await;
    let end = end((&scene, &shop), &names, begin, &meterline).await;
    for (name, expected) in [
        ("tidy", "CronJob tidy ops"),
        ("train", "Job train-20261201 science"),
        ("db", "StatefulSet db data"),
        ("false", "StatefulSet db nobody"),
        ("custom", "StatefulSet db nobody"),
    ] {
        let whole = stretches(&[(begin, expected)], end);
        assert_eq!(billed(&scene, name), whole);
    }
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn windows_wait_while_controllers_may_not_be_read_and_ready_names_them() {
    let (scene, shop) = scene().await;
    let (last, others) = CONTROLLERS.split_last().unwrap();
    grant(&scene, others).await;
    shop.create(&pod("web")).await.unwrap();
    shop.set_running("web", pods::now()).await.unwrap();
    let meterline = command(&scene).start().unwrap();
    let waits = meterline.wait_unready("list and watch cronjobs in namespace shop");
    waits.await.unwrap();
    assert!(scene.ingest.events().is_empty());
    grant(&scene, &[*last]).await;
    meterline.wait_ready(MINUTE).await.unwrap();
    scene.wait_for_event_of("web").await;
    scene.finish(&meterline).await;
    let (_, _, owner) = billed(&scene, "web").remove(0);
    assert_eq!(owner, "Pod web nobody");
}
