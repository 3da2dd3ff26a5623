//! What became of objects that went while nobody watched.
//!
//! A list after a gap shows only what is there. But the API server also lists the past: at an exact
//! resource version, until its store is compacted (by default five minutes back). The last version
//! at which an object was there is found by bisection, and with it how the object ended. Resource
//! versions are ordered as integers since Kubernetes 1.35 says so (KEP-5504), and have always been
//! with etcd. Before that, a watch from the version that was seen last repeats what happened since,
//! where the server still remembers: only that shows what came and went meanwhile.

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

/// So long windows may wait for what became of objects. What is not found by then ends when it was
/// last seen.
const LONGEST: Duration = Duration::from_secs(5);
/// Bisecting 2^40 versions; a server that answers otherwise is not bisected for ever.
const MOST_STEPS: u32 = 40;
/// So many objects are searched for at once.
const AT_ONCE: usize = 8;

/// Something that happened while nobody watched.
pub(crate) enum MissedEvent {
    /// An object was made or changed.
    Is(Object),
    /// An object went; this is how it was then.
    Gone(Object),
}

/// Has the API server repeat what happened between two versions: an object that came and went meanwhile
/// shows in no list. A server remembers a minute or more, but nothing from before its own start; then
/// what it does remember is found by bisection. What it does not repeat a list makes up for, as well as
/// a list can. Gives back how much there was.
pub(crate) async fn missed(
    api: &Api<Object>,
    label_selector: Option<&str>,
    (version, now): (u64, u64),
    mut apply: impl FnMut(MissedEvent),
) -> usize {
    let deadline = Instant::now() + LONGEST;
    if now <= version {
        return 0;
    }
    let (mut forgotten, mut from) = (version, now);
    let mut events = repeated(api, label_selector, version, now).await;
    for _ in 0..MOST_STEPS {
        if events.is_some() || from <= forgotten.saturating_add(1) || Instant::now() > deadline {
            break;
        }
        let middle = forgotten + (from - forgotten) / 2;
        // Asked for little: only whether it remembers.
        match repeated(api, label_selector, middle, middle).await {
            Some(_) => from = middle,
            None => forgotten = middle,
        }
    }
    if events.is_none() {
        events = repeated(api, label_selector, from, now).await;
    }
    let events = events.unwrap_or_default();
    let count = events.len();
    events.into_iter().for_each(&mut apply);
    count
}

/// The version that the server is at.
pub(crate) async fn version_now(api: &Api<Object>) -> Option<u64> {
    let params = ListParams::default().limit(1);
    let list = timeout(LONGEST, api.list_metadata(&params)).await;
    list.ok()?.ok()?.metadata.resource_version?.parse().ok()
}

/// What happened between two versions; `None` if the server does not remember the first.
async fn repeated(
    api: &Api<Object>,
    label_selector: Option<&str>,
    from: u64,
    until: u64,
) -> Option<Vec<MissedEvent>> {
    // The end of so short a watch says that there is nothing more, unless it was cut off while it told.
    let mut params = WatchParams::default().timeout(1);
    params.label_selector = label_selector.map(str::to_owned);
    let (mut missed, mut told) = (Vec::new(), from);
    // What was told before something went wrong is kept.
    let so_far = |missed: Vec<MissedEvent>| (!missed.is_empty()).then_some(missed);
    loop {
        let begun = told;
        let asked = timeout(LONGEST, api.watch(&params, &begun.to_string())).await;
        let Ok(Ok(events)) = asked else {
            return so_far(missed);
        };
        let mut events = pin!(events);
        while let Ok(Some(Ok(event))) = timeout(LONGEST, events.next()).await {
            let event = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => MissedEvent::Is(object),
                WatchEvent::Deleted(object) => MissedEvent::Gone(object),
                WatchEvent::Bookmark(bookmark) => {
                    let version = bookmark.metadata.resource_version.parse();
                    told = told.max(version.unwrap_or(0));
                    continue;
                }
                WatchEvent::Error(_) => return so_far(missed),
            };
            let (MissedEvent::Is(object) | MissedEvent::Gone(object)) = &event;
            told = told.max(object.known().version);
            missed.push(event);
            if told >= until {
                break;
            }
        }
        if told >= until || told == begun {
            return Some(missed);
        }
    }
}

/// How it was at one version.
enum StateAt {
    There(Box<Object>),
    Absent,
    /// The server does not know any more.
    Compacted,
}

/// Where to search.
pub(crate) struct History<'a> {
    pub(crate) client: &'a Client,
    pub(crate) resource: &'a ApiResource,
    pub(crate) label_selector: Option<&'a str>,
}

impl History<'_> {
    /// The last states of objects, those that could be found. `api` is what they were listed by.
    pub(crate) async fn last_states(&self, api: &Api<Object>, vanished: &[Known]) -> Vec<Object> {
        let mut found = Vec::new();
        if vanished.is_empty() {
            return found;
        }
        let search = async {
            // Whatever this shows is later than the deletions.
            let now = api.list_metadata(&ListParams::default().limit(1)).await?;
            let now = now.metadata.resource_version.and_then(|it| it.parse().ok());
            let Some(now) = now else { return Ok(()) };
            let mut searches = stream::iter(vanished.to_vec())
                .map(|gone| self.last_state(gone, now))
                .buffer_unordered(AT_ONCE);
            while let Some(object) = searches.try_next().await? {
                found.extend(object);
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(LONGEST, search).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the API server does not say what became of objects"),
            Err(_) => debug!("what became of objects was not found in time"),
        }
        found
    }

    async fn last_state(&self, gone: Known, now: u64) -> Result<Option<Object>, kube::Error> {
        // By namespace and name the server looks up one key and does not go through them all.
        let api = match &gone.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, self.resource),
            None => Api::all_with(self.client.clone(), self.resource),
        };
        // It was there at `present` and is not at `absent`.
        let (mut present, mut absent) = (gone.version, now);
        let mut last = None;
        for _ in 0..MOST_STEPS {
            if absent <= present.saturating_add(1) {
                break;
            }
            let middle = present + (absent - present) / 2;
            match self.at(&api, &gone, middle).await? {
                StateAt::There(object) => {
                    last = Some(*object);
                    present = middle;
                }
                StateAt::Absent => absent = middle,
                // The store keeps minutes, and the gap is younger: it was there then.
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
                    .map_or(StateAt::Absent, |object| StateAt::There(Box::new(object))))
            }
            Err(kube::Error::Api(status)) if status.code == 410 => Ok(StateAt::Compacted),
            Err(error) => Err(error),
        }
    }
}
