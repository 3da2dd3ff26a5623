//! What happened to objects while nothing was watched.
//!
//! A list after a gap shows only what exists. But the API server also lists the past: at an exact resource
//! version, until its store is compacted (by default five minutes back). Bisection finds the last version at
//! which an object existed, and so its last state. Resource versions are ordered as integers: Kubernetes 1.35
//! promises it (KEP-5504), and with etcd they always have been. Before that search, a watch from the version
//! that was seen last repeats the events since then, as far as the server still has them. For the versions before
//! these, lists at some of them show objects that were created and deleted in the gap.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Client,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
    core::ApiResource,
};
use meterline_ledger::Uid;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use super::limits::TooMuch;
use crate::kubernetes_resources::object::{Known, Object};

/// How long windows may wait for the past. The store keeps five minutes of it.
const LONGEST: Duration = Duration::from_secs(180);
/// How long one answer may take, and how long a request is repeated that gets none.
const ANSWER: Duration = Duration::from_secs(10);
const LONGEST_REQUEST: Duration = Duration::from_secs(30);
/// The pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(100);
/// Enough for 2^40 versions. Invalid answers of a server do not prolong the search.
const MOST_STEPS: u32 = 40;
/// How many objects are searched for at the same time.
const AT_ONCE: usize = 8;
/// How long lists of the past may take, and how many objects all of them and each of them may have.
const LONGEST_SAMPLING: Duration = Duration::from_secs(45);
const MOST_SAMPLED: usize = 50_000;
const LARGEST_SAMPLE: u32 = 1_000;
/// Each level has twice as many versions as the one before.
const LEVELS: u32 = 8;

/// Something that happened while nothing was watched.
#[derive(Debug)]
pub(crate) enum MissedEvent {
    /// An object was created or changed.
    Changed(Object),
    /// An object was deleted; this is its last state.
    Deleted(Object),
}

/// What happened while nothing was watched.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    pub(crate) events: Vec<MissedEvent>,
    /// When objects were listed last.
    pub(crate) listed: Listed,
}

/// The version at which each object was last listed, and the next one that was listed, if there is one.
pub(crate) type Listed = HashMap<Uid, (u64, Option<u64>)>;

/// The server does not answer, or not for now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("{0}")]
    Error(kube::Error),
    #[error("a request takes longer than ten seconds")]
    Late,
}

/// Requests until the server answers: one that has just started, or has much to do, refuses some requests, and what
/// is not learned now is lost.
///
/// # Errors
/// The answer, if the same request would get the same one again.
async fn answered<T, F>(
    deadline: Instant,
    request: impl Fn() -> F,
) -> Result<Result<T, kube::Error>, Unanswered>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let deadline = deadline.min(Instant::now() + LONGEST_REQUEST);
    loop {
        match answered_once(deadline, request()).await {
            Err(_) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

/// The same with one request.
async fn answered_once<T>(
    deadline: Instant,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, Unanswered> {
    match timeout_at(deadline.min(Instant::now() + ANSWER), request).await {
        Ok(Err(error)) if may_pass(&error) => Err(Unanswered::Error(error)),
        Ok(answer) => Ok(answer),
        Err(_) => Err(Unanswered::Late),
    }
}

/// Requests the resource version that the server is at.
async fn version(api: &Api<Object>) -> Result<Option<u64>, kube::Error> {
    let list = api.list_metadata(&ListParams::default().limit(1)).await?;
    let version = list.metadata.resource_version;
    Ok(version.and_then(|it| it.parse().ok()))
}

/// What a list at exactly this version requests.
fn at_version(version: u64, label_selector: Option<&str>) -> ListParams {
    let mut params = ListParams::default()
        .at(&version.to_string())
        .matching(VersionMatch::Exact);
    params.label_selector = label_selector.map(str::to_owned);
    params
}

/// Whether the same request may be answered otherwise later.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        other => TooMuch::of(other).is_none(),
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

/// Requests the events between two resource versions again: an object that was created and deleted in between
/// is in no list. A server keeps events for a minute or more, but none from before its own start; then bisection
/// finds the oldest version that it has. Of the versions before that, some are listed.
pub(crate) async fn missed(
    api: &Api<Object>,
    label_selector: Option<&str>,
    (version, now): (u64, u64),
) -> Missed {
    if now <= version {
        return Missed::default();
    }
    let replay = Replay {
        api,
        label_selector,
        deadline: Instant::now() + LONGEST,
    };
    match replay.since_oldest(version, now).await {
        Ok(missed) => missed,
        Err(reason) => {
            warn!(
                "the API server does not repeat what happened while nothing was watched ({reason}); objects that were \
                 created and deleted meanwhile are not known"
            );
            Missed::default()
        }
    }
}

/// Returns the resource version that the server is at; `None` if it refuses to tell.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn version_now(api: &Api<Object>) -> Result<Option<u64>, Unanswered> {
    let answer = answered_once(Instant::now() + ANSWER, version(api)).await?;
    Ok(answer.ok().flatten())
}

/// The events that a server repeats.
struct Replay<'a> {
    api: &'a Api<Object>,
    label_selector: Option<&'a str>,
    deadline: Instant,
}

impl Replay<'_> {
    /// Returns the events between two versions, or those since the oldest version that the server has.
    async fn since_oldest(&self, version: u64, now: u64) -> Result<Missed, Unanswered> {
        if let Some(events) = self.between(version, now).await? {
            return Ok(Missed {
                events,
                ..Missed::default()
            });
        }
        let (mut unavailable, mut from) = (version, now);
        for _ in 0..MOST_STEPS {
            if from <= unavailable.saturating_add(1) {
                break;
            }
            let middle = unavailable + (from - unavailable) / 2;
            // A small request, which only shows whether the server has the version.
            match self.between(middle, middle).await? {
                Some(_) => from = middle,
                None => unavailable = middle,
            }
        }
        let mut missed = self.sampled(version, from).await;
        let repeated = self.between(from, now).await?;
        missed.events.extend(repeated.unwrap_or_default());
        Ok(missed)
    }

    /// Returns states of objects between two versions of which the server repeats no events: what lists at some
    /// versions show, the middle first, and then the middles of the parts. An object that existed at none of these
    /// versions remains unknown.
    async fn sampled(&self, after: u64, before: u64) -> Missed {
        let deadline = self.deadline.min(Instant::now() + LONGEST_SAMPLING);
        let mut states = BTreeMap::new();
        let (mut count, mut versions) = (0_usize, BTreeSet::new());
        let mut last_listed: HashMap<Uid, u64> = HashMap::new();
        for version in middles(after, before) {
            let params = at_version(version, self.label_selector).limit(LARGEST_SAMPLE);
            let list = match answered(deadline, || self.api.list(&params)).await {
                Ok(Ok(list)) => list,
                // The store no longer has this version, but may have later ones.
                Ok(Err(error)) if is_gone(&error) => continue,
                Ok(Err(_)) | Err(_) => break,
            };
            // A server without exact lists shows the present.
            if list.metadata.resource_version != Some(version.to_string()) {
                break;
            }
            if list.metadata.continue_.is_some_and(|it| !it.is_empty()) {
                break;
            }
            count = count.saturating_add(list.items.len());
            versions.insert(version);
            for object in list.items {
                let known = object.known();
                let last = last_listed.entry(Arc::clone(&known.uid)).or_default();
                *last = version.max(*last);
                if known.version > after {
                    states.insert((known.version, known.uid), object);
                }
            }
            if count > MOST_SAMPLED || Instant::now() >= deadline {
                break;
            }
        }
        let listed = last_listed.into_iter().map(|(uid, last)| {
            let next = versions.range(last.saturating_add(1)..).next();
            (uid, (last, next.copied()))
        });
        Missed {
            events: states.into_values().map(MissedEvent::Changed).collect(),
            listed: listed.collect(),
        }
    }

    /// Returns the events between two versions; `None` if the server does not have the first.
    async fn between(&self, from: u64, until: u64) -> Result<Option<Vec<MissedEvent>>, Unanswered> {
        // A watch of one second ends when there is nothing more, unless it was cut off before.
        let mut params = WatchParams::default().timeout(1);
        params.label_selector = self.label_selector.map(str::to_owned);
        let (mut missed, mut reached) = (Vec::new(), from);
        loop {
            let from_here = reached;
            let version = from_here.to_string();
            let request = answered(self.deadline, || self.api.watch(&params, &version)).await;
            let end = match request {
                Ok(Ok(events)) => read(pin!(events), until, &mut missed, &mut reached).await,
                Ok(Err(_)) => End::Refused,
                Err(unanswered) if missed.is_empty() => return Err(unanswered),
                Err(_) => End::Refused,
            };
            match end {
                // What arrived before an error is kept.
                End::Refused => return Ok((!missed.is_empty()).then_some(missed)),
                _ if reached >= until => return Ok(Some(missed)),
                End::Complete if reached == from_here => return Ok(Some(missed)),
                End::Broken if Instant::now() + PAUSE >= self.deadline => return Ok(Some(missed)),
                End::Broken => sleep(PAUSE).await,
                End::Complete => {}
            }
        }
    }
}

/// Versions between two others: the middle, then the middles of the halves, and so on.
fn middles(after: u64, before: u64) -> impl Iterator<Item = u64> {
    let span = before.saturating_sub(after);
    let level = move |level: u32| {
        let parts = 1_u64 << level;
        (1..parts)
            .step_by(2)
            .map(move |part| after.saturating_add(span.saturating_mul(part) / parts))
    };
    let mut known = BTreeSet::from([after, before]);
    (1..=LEVELS)
        .flat_map(level)
        .filter(move |version| known.insert(*version))
}

/// How a watch ended.
enum End {
    /// After the last event that there was.
    Complete,
    /// Before that; another one may show the rest.
    Broken,
    /// The server does not have these versions, or not for this client.
    Refused,
}

/// Reads the events of a watch up to a version.
async fn read(
    mut events: Pin<&mut impl Stream<Item = Result<WatchEvent<Object>, kube::Error>>>,
    until: u64,
    missed: &mut Vec<MissedEvent>,
    reached: &mut u64,
) -> End {
    while *reached < until || missed.is_empty() {
        let event = match timeout(ANSWER, events.next()).await {
            Ok(None) => return End::Complete,
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error))) if !may_pass(&error) => return End::Refused,
            Ok(Some(Err(_))) | Err(_) => return End::Broken,
        };
        let event = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                MissedEvent::Changed(object)
            }
            WatchEvent::Deleted(object) => MissedEvent::Deleted(object),
            WatchEvent::Bookmark(bookmark) => {
                let version = bookmark.metadata.resource_version.parse();
                *reached = (*reached).max(version.unwrap_or(0));
                continue;
            }
            WatchEvent::Error(status) if may_pass(&kube::Error::Api(status.clone())) => {
                return End::Broken;
            }
            WatchEvent::Error(_) => return End::Refused,
        };
        let (MissedEvent::Changed(object) | MissedEvent::Deleted(object)) = &event;
        *reached = (*reached).max(object.known().version);
        missed.push(event);
    }
    End::Complete
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
    /// listed the collection, and `listed` are lists of the past. A server that does not answer one search is asked for
    /// no more.
    pub(crate) async fn last_states(
        &self,
        api: &Api<Object>,
        missing: &[Known],
        listed: &Listed,
    ) -> Vec<Object> {
        let mut found = Vec::new();
        if missing.is_empty() {
            return found;
        }
        let deadline = Instant::now() + LONGEST;
        // This version is later than the deletions.
        let now = answered(deadline, || version(api)).await;
        let now = now.ok().and_then(Result::ok).flatten();
        let mut unanswered = missing.len();
        if let Some(now) = now {
            let mut searches = stream::iter(missing.to_vec())
                .map(|gone| {
                    let (present, absent) = listed.get(&gone.uid).copied().unwrap_or_default();
                    let present = present.max(gone.version);
                    self.last_state(gone, (present, absent.unwrap_or(now)), deadline)
                })
                .buffer_unordered(AT_ONCE);
            while let Some(Ok(object)) = searches.next().await {
                unanswered = unanswered.saturating_sub(1);
                found.extend(object);
            }
        }
        if unanswered > 0 {
            warn!(
                objects = unanswered,
                "the API server does not show the last states of deleted objects; these end when they were last seen"
            );
        }
        found
    }

    /// The last state of an object that existed at one version and not at another, as far as it is later than the first.
    async fn last_state(
        &self,
        gone: Known,
        (mut present, mut absent): (u64, u64),
        deadline: Instant,
    ) -> Result<Option<Object>, Unanswered> {
        // With namespace and name the server looks up one key instead of going through all of them.
        let api = match &gone.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, self.resource),
            None => Api::all_with(self.client.clone(), self.resource),
        };
        let mut last = None;
        for _ in 0..MOST_STEPS {
            if absent <= present.saturating_add(1) {
                break;
            }
            let middle = present + (absent - present) / 2;
            match self.at(&api, &gone, middle, deadline).await? {
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
        deadline: Instant,
    ) -> Result<StateAt, Unanswered> {
        let params = at_version(version, self.label_selector)
            .fields(&format!("metadata.name={}", gone.name));
        match answered(deadline, || api.list(&params)).await? {
            Ok(list) => {
                let mut items = list.items.into_iter();
                Ok(items
                    .find(|object| object.uid() == gone.uid)
                    .map_or(StateAt::Absent, |object| StateAt::Present(Box::new(object))))
            }
            Err(error) if is_gone(&error) => Ok(StateAt::Compacted),
            Err(error) => Err(Unanswered::Error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        let seen = version_now(&api).await.unwrap().unwrap();
        sim.change(change);
        let now = version_now(&api).await.unwrap().unwrap();
        let missed = missed(&api, None, (seen, now)).await;
        missed.events.iter().map(name).collect()
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

    #[test]
    fn the_middles_of_ever_smaller_parts_are_each_listed_once() {
        let all: Vec<_> = middles(0, 8).collect();
        assert_eq!(all, [4, 2, 6, 1, 3, 5, 7]);
        assert_eq!(middles(10, 12).collect::<Vec<_>>(), [11]);
        assert_eq!(middles(10, 11).count() + middles(10, 10).count(), 0);
        let many: Vec<_> = middles(0, u64::from(u32::MAX)).collect();
        assert_eq!(many.len(), 255);
        assert!(many.iter().all(|it| (1..u64::from(u32::MAX)).contains(it)));
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

    /// A server that has just started refuses every other request.
    fn often_busy(
        answer: impl Fn(&Request) -> (u16, serde_json::Value) + Send + Sync + 'static,
    ) -> impl Fn(&Request) -> (u16, serde_json::Value) + Send + Sync + 'static {
        let requests = AtomicUsize::new(0);
        move |request| match requests.fetch_add(1, Ordering::Relaxed) % 4 {
            0 => error(503, "storage is (re)initializing"),
            2 => error(429, "too many requests"),
            _ => answer(request),
        }
    }

    async fn last_states_after(missing: Known, listed: Listed) -> Vec<u64> {
        let server = Server::start(often_busy(answer)).await;
        let client = client(&server.cluster()).await;
        let resource = ResourceType::Pod.api_resource();
        let api = Api::all_with(client.clone(), &resource);
        let history = History {
            client: &client,
            resource: &resource,
            label_selector: None,
        };
        let found = history.last_states(&api, &[missing], &listed).await;
        found.iter().map(|it| it.known().version).collect()
    }

    async fn last_states(missing: Known) -> Vec<u64> {
        last_states_after(missing, Listed::new()).await
    }

    #[tokio::test]
    async fn bisection_begins_between_the_lists_that_were_made() {
        let missing = object(pod("a", 1), 10).known();
        let listed =
            |present, absent| Listed::from([(Arc::clone(&missing.uid), (present, absent))]);
        let found = last_states_after(missing.clone(), listed(58, Some(62)));
        assert_eq!(found.await, [60]);
        // The list has shown the last state.
        let found = last_states_after(missing.clone(), listed(60, Some(61)));
        assert_eq!(found.await, [0; 0]);
    }

    #[tokio::test]
    async fn bisection_finds_the_last_state_of_a_pod() {
        assert_eq!(last_states(object(pod("a", 1), 10).known()).await, [60]);
        // The watch has seen the last state already, so there is none to find.
        assert_eq!(last_states(object(pod("a", 1), 60).known()).await, [0; 0]);
    }

    /// What a server repeats between the versions 10 and 60, of which it has those from 20 on.
    async fn repeated_by(
        answer: impl Fn(u64) -> (u16, serde_json::Value) + Send + Sync + 'static,
    ) -> Vec<String> {
        let answer =
            move |request: &Request| answer(request.query["resourceVersion"].parse().unwrap());
        let server = Server::start(often_busy(answer)).await;
        let api = Api::all_with(
            client(&server.cluster()).await,
            &ResourceType::Pod.api_resource(),
        );
        let missed = missed(&api, None, (10, 60)).await;
        missed.events.iter().map(name).collect()
    }

    fn deleted(name: &str, version: u64) -> serde_json::Value {
        let mut pod = pod(name, 1);
        pod["metadata"]["resourceVersion"] = version.to_string().into();
        json!({"type": "DELETED", "object": pod})
    }

    #[tokio::test]
    async fn a_busy_server_is_not_taken_for_one_without_the_events() {
        let answer = |version| match version {
            ..20 => error(410, "too old"),
            20..30 => (200, deleted("a", 30)),
            _ => (200, deleted("b", 60)),
        };
        assert_eq!(repeated_by(answer).await, ["-a", "-b"]);
    }

    #[tokio::test]
    async fn events_after_one_that_the_server_could_not_send_are_requested_again() {
        let failures = AtomicUsize::new(0);
        let answer = move |version| match version {
            ..30 => (200, deleted("a", 30)),
            _ if failures.fetch_add(1, Ordering::Relaxed) == 0 => {
                let (_, status) = error(500, "etcd is slow");
                (200, json!({"type": "ERROR", "object": status}))
            }
            _ => (200, deleted("b", 60)),
        };
        assert_eq!(repeated_by(answer).await, ["-a", "-b"]);
    }

    #[tokio::test]
    async fn lists_of_the_past_show_what_came_and_went_before_the_oldest_event() {
        // The pod `early` existed in the versions 25 to 30, of which the store, but not the watch, still has those
        // from 20 on. Each list shows `known` as well, which was there before.
        let answer = |request: &Request| {
            let version: u64 = request.query["resourceVersion"].parse().unwrap();
            if request.query.contains_key("watch") {
                return match version {
                    ..40 => error(410, "too old"),
                    40..50 => (200, deleted("b", 50)),
                    _ => (200, deleted("c", 60)),
                };
            }
            assert_eq!(request.query["resourceVersionMatch"], "Exact");
            let pod = |name: &str, version: u64| deleted(name, version)["object"].clone();
            let mut items = vec![pod("known", 5)];
            match version {
                ..20 => return error(410, "compacted"),
                25..=30 => items.push(pod("early", version.min(27))),
                _ => {}
            }
            let metadata = json!({"resourceVersion": version.to_string()});
            (200, json!({"metadata": metadata, "items": items}))
        };
        let server = Server::start(often_busy(answer)).await;
        let client = client(&server.cluster()).await;
        let api = Api::all_with(client, &ResourceType::Pod.api_resource());
        let missed = missed(&api, None, (10, 60)).await;
        assert_eq!(missed.listed[&Uid::from("early")], (30, Some(31)));
        assert_eq!(missed.listed[&Uid::from("known")], (39, None));
        let versions = missed.events.iter().map(|event| match event {
            MissedEvent::Changed(object) => (name(event), object.known().version),
            MissedEvent::Deleted(_) => (name(event), 0),
        });
        let versions: Vec<_> = versions.collect();
        let early = |version| ("+early".to_owned(), version);
        let gone = |name: &str| (name.to_owned(), 0);
        assert_eq!(
            versions,
            [early(25), early(26), early(27), gone("-b"), gone("-c")]
        );
    }

    #[tokio::test]
    async fn a_server_that_is_busy_does_not_say_its_version_and_one_that_forbids_it_never_does() {
        let version = async |code| {
            let server = Server::start(move |_: &Request| error(code, "no")).await;
            let client = client(&server.cluster()).await;
            version_now(&Api::all_with(client, &ResourceType::Pod.api_resource())).await
        };
        assert!(version(500).await.is_err());
        assert_eq!(version(403).await.unwrap(), None);
    }

    #[tokio::test]
    async fn another_pod_of_the_same_name_is_not_taken_for_it() {
        let mut other = pod("a", 1);
        other["metadata"]["uid"] = "other".into();
        assert_eq!(last_states(object(other, 10).known()).await, [0; 0]);
    }
}
