//! An API server, or a server in its place, whose answers do not end or are too large.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Query,
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::Utc;
use futures::StreamExt;
use meterline_kubesim::{Kind, Options, rfc3339};
use meterline_testkit::{
    process::{Meterline, MeterlineCommand},
    scene::{Scene, Simulated},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE};

const MIB: usize = 1024 * 1024;

/// The limit of the preset's memory. Most of it is what the allocators of the threads reserve and never
/// touch.
const MEMORY: &str = "ulimit -v 2000000";

/// A collector in front of the API server at this URL, in windows of two seconds.
async fn before(url: &str) -> (Scene<Simulated>, Meterline) {
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let meterline = bounded(scene.preset_before(url)).start().unwrap();
    (scene, meterline)
}

fn bounded(command: MeterlineCommand) -> MeterlineCommand {
    command.env("SCRAPE_INTERVAL", "2s").by_shell(MEMORY, "")
}

/// A server that claims to be Kubernetes 1.29, so that it is asked for lists in pages, and leaves every
/// other answer to `answer`, which learns whether the request is a watch.
async fn server<F>(answer: F) -> String
where
    F: Fn(bool) -> Response + Clone + Send + Sync + 'static,
{
    let router = Router::new()
        .route(
            "/version",
            get(|| async {
                json!({
                    "major": "1", "minor": "29", "gitVersion": "v1.29.0", "gitCommit": "",
                    "gitTreeState": "clean", "buildDate": "2025-01-01T00:00:00Z", "goVersion": "go1.25",
                    "compiler": "gc", "platform": "linux/amd64",
                })
                .to_string()
            }),
        )
        .fallback(
            move |Query(parameters): Query<HashMap<String, String>>| {
                let answer = answer.clone();
                async move { answer(parameters.contains_key("watch")) }
            },
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn list(items: &[Value], token: &str) -> Response {
    let metadata = json!({"resourceVersion": "7", "continue": token});
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items})
        .to_string()
        .into_response()
}

/// How many bytes of each endless line were read.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<usize>>>);

impl Taken {
    fn lines(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }

    /// An event whose line continues for as long as it is read.
    fn line(&self) -> Response {
        const CHUNK: usize = 65_536;
        let this = self.clone();
        let index = this.lines().len();
        this.0.lock().unwrap().push(0);
        let begin = Bytes::from_static(br#"{"type":"ADDED","object":{"kind":""#);
        let rest = futures::stream::repeat(Bytes::from(vec![b'x'; CHUNK]));
        let chunks = futures::stream::iter([begin])
            .chain(rest)
            .map(move |chunk| {
                this.0.lock().unwrap()[index] += chunk.len();
                Ok::<_, Infallible>(chunk)
            });
        Body::from_stream(chunks).into_response()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_line_without_end_is_cut_off_and_the_watch_restarts() {
    let taken = Taken::default();
    let line = taken.clone();
    let url = server(
        move |is_watch| {
            if is_watch { line.line() } else { list(&[], "") }
        },
    )
    .await;
    let (_scene, meterline) = before(&url).await;
    meterline
        .wait_unready("one line of the watch is longer than 16 MiB")
        .await
        .unwrap();
    meterline
        .wait_for_metric("kubernetes_watch_errors", MINUTE, |errors| errors >= 4.0)
        .await
        .unwrap();
    let lines = taken.lines();
    assert!(lines.len() >= 4, "{lines:?}");
    // What is in the buffers of the sockets was sent and never read.
    assert!(lines.iter().all(|it| *it < 32 * MIB), "{lines:?}");
    meterline.stop().await;
}

/// A running pod of about this many bytes.
fn large(name: &str, bytes: usize) -> Value {
    let start = rfc3339(Utc::now().timestamp());
    json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "creationTimestamp": start,
            "annotations": {"large": "x".repeat(bytes)},
        },
        "spec": {"nodeName": "node", "containers": [{"name": "main"}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "main", "state": {"running": {"startedAt": start}}}],
        },
    })
}

/// A server of lists in pages, with `count` pods of this many bytes.
async fn with_pods(count: usize, bytes: usize) -> Scene<Simulated> {
    let options = Options {
        minor: 29,
        ..Options::default()
    };
    let scene = Scene::simulated(BINARY, options).await;
    scene.sim.change(|store| {
        for index in 0..count {
            store.put(Kind::Pod, large(&format!("pod-{index}"), bytes));
        }
    });
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_too_large_are_requested_with_fewer_objects() {
    let scene = with_pods(30, 3 * MIB / 2).await;
    let meterline = bounded(scene.preset()).start().unwrap();
    meterline
        .wait_for_log("asking for fewer objects at once", MINUTE)
        .await
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    meterline
        .wait_for_metric("ledger_running_objects", MINUTE, |open| open == 30.0)
        .await
        .unwrap();
    let errors = meterline.metric("kubernetes_watch_errors").await.unwrap();
    assert_eq!(errors, Some(0.0));
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_too_large_alone_is_reported_and_not_requested_in_a_tight_loop() {
    let scene = with_pods(1, 17 * MIB).await;
    let meterline = bounded(scene.preset()).start().unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503
                && page.contains("one object alone is longer than 16 MiB")
                && page.contains("`label_selector`")
        })
        .await
        .unwrap();
    meterline
        .wait_for_metric("kubernetes_watch_errors", MINUTE, |errors| errors >= 5.0)
        .await
        .unwrap();
    let errors = meterline.metric("kubernetes_watch_errors").await.unwrap();
    // Each failure is a list and, with a new client, a request for the version; before the first one there
    // are nine lists that were halved.
    let most = errors.unwrap() * 4.0 + 40.0;
    assert!(
        (scene.sim.requests() as f64) < most,
        "{} {most}",
        scene.sim.requests()
    );
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_list_is_reported() {
    let url = server(|_| list(&[large("pod", 10)], "again")).await;
    let (_scene, meterline) = before(&url).await;
    meterline
        .wait_unready("the list does not end")
        .await
        .unwrap();
    meterline.stop().await;
}
