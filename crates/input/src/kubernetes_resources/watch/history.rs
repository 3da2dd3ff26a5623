//! What happened to objects while nothing was watched.
//!
//! A list after a gap shows only what exists. But the API server also lists the past: at an exact resource
//! version, until its store is compacted (by default five minutes back). Bisection finds the last version at
//! which an object existed, and so its last state. Resource versions are ordered as integers: Kubernetes 1.35
//! promises it (KEP-5504), and with etcd they always have been. Before that search, a watch from the version
//! that was seen last repeats the events since then, if the server still has them: only that shows objects
//! that were created and deleted in the gap.

use std::{pin::pin, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
    core::ApiResource,
};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::kubernetes_resources::object::{Known, Object};

/// How long windows may wait for this. An object that is not found by then ends when it was last seen.
const LONGEST: Duration = Duration::from_secs(5);
/// Enough for 2^40 versions. Invalid answers of a server do not prolong the search.
const MOST_STEPS: u32 = 40;
/// How many objects are searched for at the same time.
const AT_ONCE: usize = 8;

/// Something that happened while nothing was watched.
#[derive(Debug)]
pub(crate) enum MissedEvent {
    /// An object was created or changed.
    Changed(Object),
    /// An object was deleted; this is its last state.
    Deleted(Object),
}

/// Requests the events between two resource versions again: an object that was created and deleted in between
/// is in no list. A server keeps events for a minute or more, but none from before its own start; then bisection
/// finds the oldest version that it has. The list shows what it can of the rest.
pub(crate) async fn missed(
    api: &Api<Object>,
    label_selector: Option<&str>,
    (version, now): (u64, u64),
) -> Vec<MissedEvent> {
    let deadline = Instant::now() + LONGEST;
    if now <= version {
        return Vec::new();
    }
    let (mut unavailable, mut from) = (version, now);
    let mut events = repeated(api, label_selector, version, now).await;
    for _ in 0..MOST_STEPS {
        if events.is_some() || from <= unavailable.saturating_add(1) || Instant::now() > deadline {
            break;
        }
        let middle = unavailable + (from - unavailable) / 2;
        // A small request, which only shows whether the server has the version.
        match repeated(api, label_selector, middle, middle).await {
            Some(_) => from = middle,
            None => unavailable = middle,
        }
    }
    if events.is_none() {
        events = repeated(api, label_selector, from, now).await;
    }
    events.unwrap_or_default()
}

/// Returns the resource version that the server is at.
pub(crate) async fn version_now(api: &Api<Object>) -> Option<u64> {
    let params = ListParams::default().limit(1);
    let list = timeout(LONGEST, api.list_metadata(&params)).await;
    list.ok()?.ok()?.metadata.resource_version?.parse().ok()
}

/// Returns the events between two versions; `None` if the server does not have the first.
async fn repeated(
    api: &Api<Object>,
    label_selector: Option<&str>,
    from: u64,
    until: u64,
) -> Option<Vec<MissedEvent>> {
    // A watch of one second ends when there is nothing more, unless it was cut off before.
    let mut params = WatchParams::default().timeout(1);
    params.label_selector = label_selector.map(str::to_owned);
    let (mut missed, mut reached) = (Vec::new(), from);
    // What arrived before an error is kept.
    let so_far = |missed: Vec<MissedEvent>| (!missed.is_empty()).then_some(missed);
    loop {
        let from_here = reached;
        let request = timeout(LONGEST, api.watch(&params, &from_here.to_string())).await;
        let Ok(Ok(events)) = request else {
            return so_far(missed);
        };
        let mut events = pin!(events);
        while let Ok(Some(Ok(event))) = timeout(LONGEST, events.next()).await {
            let event = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    MissedEvent::Changed(object)
                }
                WatchEvent::Deleted(object) => MissedEvent::Deleted(object),
                WatchEvent::Bookmark(bookmark) => {
                    let version = bookmark.metadata.resource_version.parse();
                    reached = reached.max(version.unwrap_or(0));
                    continue;
                }
                WatchEvent::Error(_) => return so_far(missed),
            };
            let (MissedEvent::Changed(object) | MissedEvent::Deleted(object)) = &event;
            reached = reached.max(object.known().version);
            missed.push(event);
            if reached >= until {
                break;
            }
        }
        if reached >= until || reached == from_here {
            return Some(missed);
        }
    }
}

/// An object at one resource version.
enum StateAt {
    Present(Box<Object>),
    Absent,
    /// The server no longer has this version.
    Compacted,
}

/// The past of a collection.
pub(crate) struct History<'a> {
    pub(crate) client: &'a Client,
    pub(crate) resource: &'a ApiResource,
    pub(crate) label_selector: Option<&'a str>,
}

impl History<'_> {
    /// Returns the last states of objects that no longer exist, as far as the server knows them. `api` is what
    /// listed the collection.
    pub(crate) async fn last_states(&self, api: &Api<Object>, missing: &[Known]) -> Vec<Object> {
        let mut found = Vec::new();
        if missing.is_empty() {
            return found;
        }
        let search = async {
            // This version is later than the deletions.
            let now = api.list_metadata(&ListParams::default().limit(1)).await?;
            let now = now.metadata.resource_version.and_then(|it| it.parse().ok());
            let Some(now) = now else { return Ok(()) };
            let mut searches = stream::iter(missing.to_vec())
                .map(|gone| self.last_state(gone, now))
                .buffer_unordered(AT_ONCE);
            while let Some(object) = searches.try_next().await? {
                found.extend(object);
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(LONGEST, search).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(%error, "the API server does not show the last states of deleted objects; they end when they were last seen")
            }
            Err(_) => debug!(
                "the last states of deleted objects were not found in time; the rest end when they were last seen"
            ),
        }
        found
    }

    async fn last_state(&self, gone: Known, now: u64) -> Result<Option<Object>, kube::Error> {
        // With namespace and name the server looks up one key instead of going through all of them.
        let api = match &gone.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, self.resource),
            None => Api::all_with(self.client.clone(), self.resource),
        };
        // It existed at `present` and does not at `absent`.
        let (mut present, mut absent) = (gone.version, now);
        let mut last = None;
        for _ in 0..MOST_STEPS {
            if absent <= present.saturating_add(1) {
                break;
            }
            let middle = present + (absent - present) / 2;
            match self.at(&api, &gone, middle).await? {
                StateAt::Present(object) => {
                    last = Some(*object);
                    present = middle;
                }
                StateAt::Absent => absent = middle,
                // The store keeps minutes and the gap is shorter, so the object existed then.
                StateAt::Compacted => present = middle,
            }
        }
        Ok(last)
    }

    async fn at(
        &self,
        api: &Api<Object>,
        gone: &Known,
        version: u64,
    ) -> Result<StateAt, kube::Error> {
        let mut params = ListParams::default()
            .fields(&format!("metadata.name={}", gone.name))
            .at(&version.to_string())
            .matching(VersionMatch::Exact);
        params.label_selector = self.label_selector.map(str::to_owned);
        match api.list(&params).await {
            Ok(list) => {
                let mut items = list.items.into_iter();
                Ok(items
                    .find(|object| object.uid() == gone.uid)
                    .map_or(StateAt::Absent, |object| StateAt::Present(Box::new(object))))
            }
            Err(kube::Error::Api(status)) if status.code == 410 => Ok(StateAt::Compacted),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::Config;
    use meterline_kubesim::{Kind, Kubesim, Options, Store};
    use serde_json::json;

    use super::*;
    use crate::kubernetes_resources::{
        resource_type::ResourceType,
        testing::{Api as Server, Request, at, error, object, pod},
        watch::Cluster,
    };

    async fn client(cluster: &Cluster) -> Client {
        let config: Config = cluster.config().await.unwrap();
        Client::try_from(config).unwrap()
    }

    fn name(event: &MissedEvent) -> String {
        match event {
            MissedEvent::Changed(object) => format!("+{}", object.uid()),
            MissedEvent::Deleted(object) => format!("-{}", object.uid()),
        }
    }

    /// Returns what the server repeats after the store was changed while nothing was watched.
    async fn repeated_after(change: impl FnOnce(&mut Store)) -> Vec<String> {
        let sim = Kubesim::start(Options::default()).await.unwrap();
        sim.change(|store| store.put(Kind::Pod, pod("a", 1)));
        let client = client(&at(sim.url())).await;
        let api = Api::all_with(client, &ResourceType::Pod.api_resource());
        let seen = version_now(&api).await.unwrap();
        sim.change(change);
        let now = version_now(&api).await.unwrap();
        let events = missed(&api, None, (seen, now)).await;
        events.iter().map(name).collect()
    }

    #[tokio::test]
    async fn the_server_repeats_a_pod_that_was_created_and_deleted_meanwhile() {
        let repeated = repeated_after(|store| {
            store.put(Kind::Pod, pod("b", 2));
            store.delete(Kind::Pod, pod("b", 2));
            store.put(Kind::Pod, pod("a", 1));
        });
        assert_eq!(repeated.await, ["+b", "-b", "+a"]);
    }

    #[tokio::test]
    async fn the_server_repeats_the_events_that_it_still_has() {
        let repeated = repeated_after(|store| {
            store.put(Kind::Pod, pod("compacted", 2));
            store.put(Kind::Pod, pod("b", 2));
            store.compact();
            for name in ["c", "d", "e", "f"] {
                store.put(Kind::Pod, pod(name, 2));
            }
        });
        assert_eq!(repeated.await, ["+c", "+d", "+e", "+f"]);
    }

    #[tokio::test]
    async fn nothing_is_requested_if_nothing_happened() {
        assert_eq!(repeated_after(|_| ()).await, [""; 0]);
    }

    /// A server that is at version 100 and has the history from 20 on, where a pod existed in versions 10 to 60.
    fn answer(request: &Request) -> (u16, serde_json::Value) {
        let list = |version: u64, items: Vec<serde_json::Value>| {
            let metadata = json!({"resourceVersion": version.to_string()});
            (200, json!({"metadata": metadata, "items": items}))
        };
        let Some(version) = request.query.get("resourceVersion") else {
            return list(100, Vec::new());
        };
        assert_eq!(request.path, "/api/v1/namespaces/n/pods");
        assert_eq!(request.query["resourceVersionMatch"], "Exact");
        assert_eq!(request.query["fieldSelector"], "metadata.name=a");
        match version.parse().unwrap() {
            ..20 => error(410, "compacted"),
            version @ 20..=60 => {
                let mut pod = pod("a", 1);
                pod["metadata"]["resourceVersion"] = (version / 10 * 10).to_string().into();
                list(version, vec![pod])
            }
            version => list(version, Vec::new()),
        }
    }

    async fn last_states(missing: Known) -> Vec<u64> {
        let server = Server::start(answer).await;
        let client = client(&server.cluster()).await;
        let resource = ResourceType::Pod.api_resource();
        let api = Api::all_with(client.clone(), &resource);
        let history = History {
            client: &client,
            resource: &resource,
            label_selector: None,
        };
        let found = history.last_states(&api, &[missing]).await;
        found.iter().map(|it| it.known().version).collect()
    }

    #[tokio::test]
    async fn bisection_finds_the_last_state_of_a_pod() {
        assert_eq!(last_states(object(pod("a", 1), 10).known()).await, [60]);
        // The watch has seen the last state already, so there is none to find.
        assert_eq!(last_states(object(pod("a", 1), 60).known()).await, [0; 0]);
    }

    #[tokio::test]
    async fn another_pod_of_the_same_name_is_not_taken_for_it() {
        let mut other = pod("a", 1);
        other["metadata"]["uid"] = "other".into();
        assert_eq!(last_states(object(other, 10).known()).await, [0; 0]);
    }
}
