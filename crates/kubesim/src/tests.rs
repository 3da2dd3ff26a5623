//! The server as `kube`'s own watcher sees it, and the truth of the world.

use std::{collections::BTreeSet, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher::{self, Config, Event, watcher},
};
use serde_json::json;

use super::*;

async fn client(sim: &Kubesim) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&sim.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

fn pod(name: &str, label: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"l": label}},
        "spec": {"containers": []}})
}

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<Pod>>> + Send>>;

async fn watch(sim: &Kubesim, config: Config) -> Events {
    Box::pin(watcher(Api::<Pod>::all(client(sim).await), config))
}

/// Returns a short text for the next event; "error" for an error.
async fn next(events: &mut Events) -> String {
    let event = tokio::time::timeout(Duration::from_secs(20), events.next())
        .await
        .expect("an event in time");
    match event.expect("the watch continues") {
        Ok(Event::Init) => "init".to_owned(),
        Ok(Event::InitApply(pod)) => format!("listed {}", pod.name_any()),
        Ok(Event::InitDone) => "done".to_owned(),
        Ok(Event::Apply(pod)) => format!("applied {}", pod.name_any()),
        Ok(Event::Delete(pod)) => format!("deleted {}", pod.name_any()),
        Err(_) => "error".to_owned(),
    }
}

async fn all(events: &mut Events, count: usize) -> Vec<String> {
    let mut words = Vec::new();
    for _ in 0..count {
        words.push(next(events).await);
    }
    words
}

#[tokio::test]
async fn pages_then_watches() {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    sim.change(|store| {
        (0..5).for_each(|index| store.put(Kind::Pod, pod(&format!("p{index}"), "a")))
    });
    let mut events = watch(&sim, Config::default().page_size(2)).await;
    assert_eq!(
        all(&mut events, 7).await,
        [
            "init",
            "listed p0",
            "listed p1",
            "listed p2",
            "listed p3",
            "listed p4",
            "done"
        ]
    );
    sim.change(|store| {
        store.put(Kind::Pod, pod("p1", "b"));
        store.delete(Kind::Pod, pod("p2", "a"));
    });
    assert_eq!(all(&mut events, 2).await, ["applied p1", "deleted p2"]);
}

#[tokio::test]
async fn streams_the_list_and_continues() {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    sim.change(|store| store.put(Kind::Pod, pod("a", "a")));
    let mut events = watch(&sim, Config::default().streaming_lists()).await;
    assert_eq!(all(&mut events, 3).await, ["init", "listed a", "done"]);
    sim.change(|store| store.put(Kind::Pod, pod("b", "a")));
    assert_eq!(next(&mut events).await, "applied b");
}

#[tokio::test]
async fn an_object_that_leaves_the_selection_is_deleted_for_the_watch() {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    sim.change(|store| {
        store.put(Kind::Pod, pod("in", "yes"));
        store.put(Kind::Pod, pod("out", "no"));
    });
    let mut events = watch(&sim, Config::default().labels("l=yes")).await;
    assert_eq!(all(&mut events, 3).await, ["init", "listed in", "done"]);
    sim.change(|store| {
        store.put(Kind::Pod, pod("out", "yes"));
        store.put(Kind::Pod, pod("in", "no"));
    });
    assert_eq!(all(&mut events, 2).await, ["applied out", "deleted in"]);
}

#[tokio::test]
async fn a_cut_watch_is_resumed_without_a_gap() {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    let mut events = watch(&sim, Config::default()).await;
    assert_eq!(all(&mut events, 2).await, ["init", "done"]);
    sim.change(|store| store.put(Kind::Pod, pod("a", "a")));
    assert_eq!(next(&mut events).await, "applied a");
    sim.cut_watches();
    sim.change(|store| store.put(Kind::Pod, pod("b", "a")));
    assert_eq!(next(&mut events).await, "applied b");
}

#[tokio::test]
async fn a_version_that_is_too_old_means_to_list_again() {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    sim.change(|store| store.put(Kind::Pod, pod("a", "a")));
    let mut events = watch(&sim, Config::default()).await;
    assert_eq!(all(&mut events, 3).await, ["init", "listed a", "done"]);
    sim.change(|store| {
        store.delete(Kind::Pod, pod("a", "a"));
        store.put(Kind::Pod, pod("b", "a"));
        store.compact();
    });
    sim.cut_watches();
    let mut words = BTreeSet::new();
    while !words.contains("done") {
        words.insert(next(&mut events).await);
    }
    assert!(
        words.contains("error") && words.contains("listed b"),
        "{words:?}"
    );
    assert!(!words.contains("listed a"));
}

#[tokio::test]
async fn refusals_end_after_their_count() {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    sim.refuse(503, 1);
    let api = Api::<Pod>::all(client(&sim).await);
    let version = reqwest_free_get(&sim, "/api/v1/pods?labelSelector=a%20b").await;
    assert!(version.contains("503"), "{version}");
    let bad = reqwest_free_get(&sim, "/api/v1/pods?labelSelector=a%20b").await;
    assert!(
        bad.contains("400") && bad.contains("unable to parse"),
        "{bad}"
    );
    assert_eq!(
        api.list(&kube::api::ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
}

/// The whole answer to a plain request.
async fn reqwest_free_get(sim: &Kubesim, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = sim.url().strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn the_truth_of_an_unchanging_population_is_its_sum() {
    let mut store = Store::new(10);
    let mut world = World::new(7, 0, Size::Realistic);
    world.populate(10, 100, &mut store);
    let bills = world.truth(160);
    let seconds: i128 = bills.values().map(|bill| bill.pod_seconds).sum();
    assert_eq!(seconds, 600);
}

#[test]
fn a_world_is_the_same_for_the_same_seed_and_its_usage_never_decreases() {
    let run = |until: i64| {
        let mut store = Store::new(10_000);
        let mut world = World::new(3, 30, Size::Small);
        for now in 1_000..until {
            world.step(now, &mut store);
        }
        world.truth(until)
    };
    let (early, late) = (run(1_030), run(1_060));
    assert_eq!(run(1_060), late);
    for (customer, bill) in early {
        assert!(
            late[&customer].pod_seconds >= bill.pod_seconds,
            "{customer}"
        );
    }
}

#[test]
fn a_realistic_pod_has_about_seven_kilobytes() {
    let mut world = World::new(1, 0, Size::Realistic);
    let mut store = Store::new(10);
    world.populate(1, 100, &mut store);
    let page = store.list(Kind::Pod, &Default::default(), None, 1);
    let pod: serde_json::Value = serde_json::from_slice(&page.items[0]).unwrap();
    let mut kept = pod.clone();
    kept["metadata"]["managedFields"].take();
    kept["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].take();
    let size = kept.to_string().len();
    assert!(
        (6_000..8_000).contains(&size),
        "{size} bytes are kept of {}",
        page.items[0].len()
    );
}
