use super::*;
use crate::audit::Life;
use crate::kwok::{self, Kwok};
use crate::pods::{Phase, Pods, now, pod};
use crate::truth::Truth;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

const SOON: Duration = Duration::from_secs(60);

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

async fn list(client: Client, namespace: &str) -> kube::Result<usize> {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    Ok(pods.list(&ListParams::default()).await?.items.len())
}

#[tokio::test]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn tokens_roles_and_restarts_work_as_on_a_real_cluster() {
    let plane = ControlPlane::start().await.unwrap();
    let admin = plane.admin_client().await.unwrap();
    let version = admin.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.as_str()),
        ("1", "35")
    );

    plane.create_namespace("shop").await.unwrap();
    let reader = plane.client("reader").await.unwrap();
    assert_eq!(code(list(reader.clone(), "shop").await.unwrap_err()), 403);
    plane.grant_pods("reader", "shop").await.unwrap();
    assert_eq!(list(reader.clone(), "shop").await.unwrap(), 0);
    assert_eq!(
        code(list(reader.clone(), "default").await.unwrap_err()),
        403
    );
    plane.revoke_pods("reader", "shop").await.unwrap();
    assert_eq!(code(list(reader.clone(), "shop").await.unwrap_err()), 403);
    plane.grant_cluster("reader", "", "nodes").await.unwrap();

    let unknown_user = plane.dir.path().join("stranger.kubeconfig");
    plane
        .write_kubeconfig(&unknown_user, "no such token")
        .unwrap();
    let options = KubeConfigOptions::default();
    let unknown_user = Kubeconfig::read_from(unknown_user).unwrap();
    let unknown_user = kube::Config::from_custom_kubeconfig(unknown_user, &options);
    let unknown_user = Client::try_from(unknown_user.await.unwrap()).unwrap();
    assert_eq!(code(list(unknown_user, "shop").await.unwrap_err()), 401);

    let pods = Pods::new(admin.clone(), "shop");
    pods.create(&pod("kept")).await.unwrap();
    plane.stop_apiserver();
    assert!(list(admin.clone(), "shop").await.is_err());
    plane.start_apiserver().await.unwrap();
    assert_eq!(list(admin.clone(), "shop").await.unwrap(), 1);
    plane.restart_apiserver().await.unwrap();
    assert_eq!(list(admin, "shop").await.unwrap(), 1);
}

#[tokio::test]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_pods_status_is_what_the_test_writes_and_the_truth_follows() {
    let plane = ControlPlane::start().await.unwrap();
    let client = plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let pods = Pods::new(client, "default");
    let first = pod("job").annotation("openmeter.io/subject", "acme");
    let uid = pods.create(&first).await.unwrap().metadata.uid.unwrap();
    // No pod starts before its creation.
    let start = now();
    let later = |seconds| start + Duration::from_secs(seconds);
    pods.set_running("job", start).await.unwrap();
    pods.annotate("job", "data.openmeter.io/tier", Some("gold"))
        .await
        .unwrap();
    let resized = pods.resize_cpu("job", "750m").await.unwrap();
    let resized = serde_json::to_value(resized).unwrap();
    let cpu = resized.pointer("/spec/containers/0/resources/requests/cpu");
    assert_eq!(cpu, Some(&json!("750m")));
    pods.set_restarted("job", start, later(10), later(12))
        .await
        .unwrap();
    pods.set_ended("job", Phase::Failed, later(12), later(30))
        .await
        .unwrap();
    let life = Life {
        uid,
        namespace: "default".into(),
        name: "job".into(),
        start,
        end: Some(later(30)),
    };
    let is_reported = |lives: &[Life]| *lives == [life.clone()];
    truth.wait_until(SOON, is_reported).await.unwrap();
    assert_eq!(truth.unreported(), []);

    pods.create(&pod("pending")).await.unwrap();
    pods.create_running(&pod("web"), start).await.unwrap();
    pods.delete("web").await.unwrap();
    pods.delete("pending").await.unwrap();
    let both_ended = |lives: &[Life]| lives.len() == 2 && lives.iter().all(|it| it.end.is_some());
    truth.wait_until(SOON, both_ended).await.unwrap();
    assert_eq!(truth.unreported().len(), 1);
}

#[tokio::test]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn kwok_runs_ends_and_deletes_pods() {
    let plane = ControlPlane::start().await.unwrap();
    let _kwok = Kwok::start(&plane).await.unwrap();
    let client = plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let pods = Pods::new(client, "default");
    let begin = now();
    let sidecar = json!([{"name": "proxy", "image": "registry.test/proxy:1", "restartPolicy": "Always"},
        {"name": "setup", "image": "registry.test/setup:1"}]);
    let short = pod("short")
        .node(kwok::NODE)
        .field("initContainers", sidecar)
        .annotation(kwok::RUN_FOR, "2s");
    pods.create(&short).await.unwrap();
    pods.create(&pod("long").node(kwok::NODE)).await.unwrap();
    let late = pod("late").node(kwok::NODE);
    let late = late.annotation(kwok::START_AFTER, "1s");
    pods.create(&late).await.unwrap();

    let ran = |lives: &[Life]| {
        lives.len() == 3
            && lives
                .iter()
                .any(|it| it.name == "short" && it.end.is_some())
    };
    truth.wait_until(SOON, ran).await.unwrap();
    pods.resize_cpu("long", "600m").await.unwrap();
    pods.delete_gracefully("long").await.unwrap();
    let gone = |lives: &[Life]| lives.iter().filter(|it| it.end.is_some()).count() == 2;
    truth.wait_until(SOON, gone).await.unwrap();
    assert_eq!(truth.unreported(), []);
    for life in truth.lives() {
        assert!(life.start >= begin, "{life:?}");
        if life.name == "short" {
            // Both start and end are rounded down, so at least two seconds are left of two.
            let ran = life.end.unwrap() - life.start;
            assert!(ran.num_seconds() >= 2, "{life:?}");
        }
    }
    let missing = |pod: Option<&Pod>| pod.is_none();
    let deleted = kube::runtime::wait::await_condition(pods.api().clone(), "long", missing);
    tokio::time::timeout(SOON, deleted).await.unwrap().unwrap();
}

#[test]
fn missing_binaries_are_named_with_the_remedy() {
    // Not through the environment, which other tests read at the same time.
    if std::env::var_os(ASSETS).is_some_and(|folder| !folder.is_empty()) {
        let error = binary("kube-nothing").unwrap_err();
        assert!(
            error.contains("kube-nothing") && error.contains("build.sh"),
            "{error}"
        );
    } else {
        let error = binary("etcd").unwrap_err();
        assert!(
            error.contains(ASSETS) && error.contains("build.sh"),
            "{error}"
        );
    }
}
