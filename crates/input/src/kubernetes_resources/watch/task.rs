//! Follows one collection of objects and keeps the ledger true to it.
//!
//! The only file that talks to the API server. One task a watched namespace: it applies what the
//! watch says, tells the ledger how current the view is, and asks the server for a sign of life
//! when a window waits for one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture, ready},
};
use kube::{
    Api, Client,
    api::ListParams,
    core::ApiResource,
    runtime::watcher::{self, Event},
};
use meterline_ledger::Observation;
use tokio::{
    task::coop::unconstrained,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    client::client,
    errors::{explain, refuses_streaming_list},
    history::{self, History, MissedEvent},
    limits::{LARGEST_PAGE, TooMuch},
    liveness::WatchLiveness,
    proofs::Answer,
    view::{LONGEST_LOOK, Restored, SHORTEST_LOOK, View},
    warnings::{WatchWarnings, whole},
};
use crate::kubernetes_resources::{
    ledger::SharedLedger,
    lifetime::{Deletion, deleted_at, life},
    object::{Known, Object, keeping},
};

/// How long a watch lives before it is begun anew. Over HTTP/1.1 this, together with the watcher's
/// margin, is the longest time for which a connection whose other end is gone can go unnoticed.
const WATCH_SECONDS: u32 = 50;
/// A server that does not answer so small a question in this time is away.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so many failures in a row the kubeconfig or the service account is read again: a token or
/// a certificate authority may have been replaced.
const FAILURES_BEFORE_NEW_CLIENT: u32 = 3;
/// Streaming lists are on by default from this minor version of Kubernetes 1.
const STREAMING_LIST_MINOR: u32 = 34;

/// One watched collection.
pub(crate) struct Watch {
    /// The name under which the ledger knows this watch; the namespace, or `*` for all.
    pub(crate) name: Arc<str>,
    /// The namespace, or none for all of them.
    pub(crate) namespace: Option<String>,
    /// What to watch and where what is seen goes.
    pub(crate) shared: Arc<SharedLedger>,
    /// What people should know of it.
    pub(crate) remarks: Arc<WatchWarnings>,
    /// What a restored ledger knows of it.
    pub(crate) restored: Option<Restored>,
}

/// What talks to the API server.
struct Clients {
    /// Follows what happens, and is listened to.
    client: Client,
    /// Asks for what happened. Not heard on the line: a watch of the past is none of the present,
    /// which waits, with its list begun, until the past is known.
    past: Client,
    /// Whether the server has streaming lists.
    streaming_list: bool,
}

/// What a watch wakes up for.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
enum Woken {
    Event(Option<Result<Event<Object>, watcher::Error>>),
    /// All that was heard is read.
    Drained,
    WatchLiveness,
    Answer(Option<Answer>),
    Look,
}

impl Watch {
    /// Follows the collection for ever. Ends only by being aborted.
    pub(crate) async fn run(mut self) {
        let restored = self.restored.take();
        let projection = Arc::clone(&self.shared.projection);
        tokio::select! {
            () = keeping(projection, self.follow_for_ever(restored)) => {}
            never = self.look_for_namespace() => match never {},
        }
    }

    async fn follow_for_ever(&self, restored: Option<Restored>) {
        self.shared.is_open().await;
        let now = self.shared.clock.seconds();
        let mut view = View::new(restored, now);
        let mut streaming = true;
        loop {
            let line = WatchLiveness::with(self.shared.clock.clone());
            match self.connect(line.clone()).await {
                Ok(mut clients) => {
                    clients.streaming_list &= streaming;
                    let end = self.follow(clients, &line, &mut view).await;
                    streaming &= end != End::NoStreamingList;
                }
                Err(reason) => self.failed(&mut view, &reason),
            }
            tokio::time::sleep(pause(view.failures).max(line.pause())).await;
        }
    }

    /// Clients with the credentials as they are now.
    async fn connect(&self, line: WatchLiveness) -> Result<Clients, String> {
        let config = self.shared.cluster().await?;
        let make = |line| client(config.clone(), line).map_err(|error| error.to_string());
        let (client, past) = (make(line)?, make(WatchLiveness::default())?);
        let version = timeout(PROBE_TIMEOUT, client.apiserver_version())
            .await
            .map_err(|_| "the API server does not answer".to_owned())?;
        // Whoever may not read the version may still watch pods; the paged list works everywhere.
        let minor = version.ok().and_then(|version| {
            let digits: String = version
                .minor
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse::<u32>().ok()
        });
        Ok(Clients {
            client,
            past,
            streaming_list: minor.is_some_and(|minor| minor >= STREAMING_LIST_MINOR),
        })
    }

    async fn follow(&self, clients: Clients, line: &WatchLiveness, view: &mut View) -> End {
        let resource = self.shared.resource_type.api_resource();
        let api = self.api(clients.client, &resource);
        let past_api = self.api(clients.past.clone(), &resource);
        let past = History {
            client: &clients.past,
            resource: &resource,
            label_selector: self.shared.label_selector.as_deref(),
        };
        let config = self.config(clients.streaming_list, view.page);
        let mut events = std::pin::pin!(watcher::watcher(api.clone(), config));
        let mut probe = std::pin::pin!(Fuse::terminated());
        // So often it is looked, and so late may a look be, that what is settled is read by then.
        let look = (self.shared.settle / 3).clamp(SHORTEST_LOOK, LONGEST_LOOK);
        let mut look_at = Instant::now();
        loop {
            let woken = tokio::select! {
                // Events first: a sign of life counts only when everything before it is applied. No
                // budget of the runtime's, for it would make what waits look as if there were nothing.
                biased;
                event = unconstrained(events.next()) => Woken::Event(event),
                () = ready(()), if view.unnoted => Woken::Drained,
                () = line.changed() => Woken::WatchLiveness,
                answered = &mut probe => Woken::Answer(answered),
                () = tokio::time::sleep_until(look_at) => Woken::Look,
            };
            if look_at.elapsed() > look {
                view.stall();
                look_at = Instant::now();
            }
            match woken {
                Woken::Event(Some(Ok(event))) => {
                    // That a list begins says nothing of whether the server answers.
                    if !matches!(event, Event::Init) {
                        view.failures = 0;
                    }
                    let now = match &event {
                        Event::Apply(it) | Event::Delete(it) => self.happened_by(it, line, view),
                        _ => self.now(),
                    };
                    self.apply(event, now, &past, &past_api, view).await;
                    view.unnoted = true;
                }
                Woken::Event(Some(Err(error))) => {
                    if let Some(end) = self.broken(&error, clients.streaming_list, view) {
                        return end;
                    }
                    tokio::time::sleep(pause(view.failures).max(line.pause())).await;
                }
                Woken::Event(None) => return End::Broken,
                Woken::Drained => {
                    view.unnoted = false;
                    view.note_life(&self.name, &self.shared, line);
                }
                Woken::WatchLiveness => view.unnoted = true,
                Woken::Answer(answered) => {
                    view.answer = answered.or(view.answer);
                    view.unnoted = true;
                }
                Woken::Look => {
                    view.unnoted = true;
                    self.shared.update_gauges(self.shared.clock.seconds());
                    let pause = view.look_for(look, &self.shared, line);
                    if pause.is_none() && probe.is_terminated() {
                        probe.set(self.probe(api.clone()).boxed().fuse());
                    }
                    look_at = Instant::now() + pause.unwrap_or(look).max(line.pause());
                }
            }
        }
    }

    fn config(&self, streaming_list: bool, page: u32) -> watcher::Config {
        let mut config = watcher::Config::default()
            .timeout(WATCH_SECONDS)
            .page_size(page);
        if let Some(selector) = &self.shared.label_selector {
            config = config.labels(selector);
        }
        if streaming_list {
            config = config.streaming_lists();
        }
        config
    }

    /// Notes that the watch failed. Gives back how it ends, if it is not to be tried again as it is.
    fn broken(&self, error: &watcher::Error, streaming_list: bool, view: &mut View) -> Option<End> {
        if streaming_list && refuses_streaming_list(error) {
            debug!(watch = %self.name, "the API server has no streaming lists; listing in pages");
            return Some(End::NoStreamingList);
        }
        if TooMuch::of(error) == Some(TooMuch::Page) && view.page > 1 {
            view.page /= 2;
            info!(
                watch = %self.describe(),
                page = view.page,
                "a page of the list is larger than 16 MiB; asking for fewer objects at once"
            );
            return Some(End::Broken);
        }
        self.failed(view, &explain(error, &self.describe()));
        let is_many = view.failures.is_multiple_of(FAILURES_BEFORE_NEW_CLIENT);
        is_many.then_some(End::Broken)
    }

    fn api(&self, client: Client, resource: &ApiResource) -> Api<Object> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        }
    }

    /// Applies one event to the ledger, which tells of what had happened by `now`.
    async fn apply(
        &self,
        event: Event<Object>,
        now: i64,
        past: &History<'_>,
        api: &Api<Object>,
        view: &mut View,
    ) {
        match event {
            Event::Init => {
                view.behind = true;
                self.shared.synced(&self.name, false);
                self.replay(api, view).await;
                view.list_began = self.now();
                view.listed = Some(HashSet::new());
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut view.listed {
                    listed.insert(object.uid());
                }
                self.observe(object, view, now);
            }
            Event::Apply(object) => self.observe(object, view, now),
            Event::Delete(object) => self.deleted(&object, view, now),
            Event::InitDone => self.listed(past, api, view).await,
        }
    }

    /// A list is complete: what it did not show is gone.
    async fn listed(&self, past: &History<'_>, api: &Api<Object>, view: &mut View) {
        let listed = view.listed.take().unwrap_or_default();
        let vanished: Vec<_> = view
            .known
            .values()
            .filter(|known| !listed.contains(&known.uid))
            .cloned()
            .collect();
        let states = past.last_states(api, &vanished).await;
        let now = self.now();
        for object in &states {
            self.deleted(object, view, now);
        }
        for Known { uid, .. } in &vanished {
            if view.known.remove(uid).is_some() {
                // Nobody can say when it went; it was there when the view was last current.
                self.shared.vanished(uid, view.current_at.min(now), now);
            }
        }
        // A list is the state of a moment: nothing is owed from before it. What happened since comes
        // with the watch.
        view.behind = false;
        view.has_seen = true;
        view.added_at = None;
        view.proofs.clear();
        // The next one may be of smaller objects.
        view.page = view.page.saturating_mul(2).min(LARGEST_PAGE);
        view.current_at = view.list_began;
        view.version = view.version.max(view.listed_from);
        self.seen_version(view);
        self.shared.synced(&self.name, true);
        self.shared.alive(&self.name, view.list_began);
        info!(
            watch = %self.describe(),
            objects = view.known.len(),
            "watching"
        );
    }

    fn observe(&self, object: Object, view: &mut View, now: i64) {
        let uid = object.uid();
        let document = object.seen.root();
        let life = life(
            document,
            self.shared.resource_type,
            self.shared.include_pending,
            now,
        );
        let known = object.known();
        view.version = view.version.max(Some(known.version));
        let in_scope_since = (!view.known.contains_key(&uid))
            .then(|| view.in_scope_since(&object, &self.shared, now))
            .flatten();
        view.known.insert(Arc::clone(&uid), known);
        self.shared.observe(Observation {
            uid,
            in_scope_since,
            start: life.start,
            end: life.end,
            content_since: object.written,
            content: object.content,
            observed_at: now,
        });
        self.seen_version(view);
    }

    /// What is under way of a list comes in no order, so only after it a version says something.
    fn seen_version(&self, view: &View) {
        if let (Some(version), None) = (view.version, &view.listed) {
            self.shared.seen_version(&self.name, version);
        }
    }

    /// Applies what happened since the version that was seen last, as far as the server remembers.
    async fn replay(&self, api: &Api<Object>, view: &mut View) {
        // A list that begins now shows at least what is there at this version.
        view.listed_from = history::version_now(api).await;
        let (Some(version), Some(now)) = (view.version, view.listed_from) else {
            return;
        };
        let selector = self.shared.label_selector.as_deref();
        let count = history::missed(api, selector, (version, now), |event| {
            let now = self.now();
            match event {
                MissedEvent::Is(object) => self.observe(object, view, now),
                MissedEvent::Gone(object) => self.deleted(&object, view, now),
            }
        })
        .await;
        if count > 0 {
            info!(watch = %self.describe(), events = count, "what happened meanwhile was repeated");
        }
    }

    fn deleted(&self, object: &Object, view: &mut View, now: i64) {
        let uid = object.uid();
        let document = object.seen.root();
        let resource_type = self.shared.resource_type;
        let life = life(document, resource_type, self.shared.include_pending, now);
        let since = view.behind.then_some(view.current_at);
        let seen = match since.or(view.late_since) {
            Some(since) => Deletion::InGap { since, now },
            None => Deletion::Observed(now),
        };
        let end = deleted_at(document, life, seen);
        view.known.remove(&uid);
        view.version = view.version.max(Some(object.known().version));
        if life.start.is_some() {
            // The last state may be news, too: a pod may start and go between two looks.
            self.shared.observe(Observation {
                uid: Arc::clone(&uid),
                in_scope_since: None,
                start: life.start,
                end: Some(end),
                content_since: object.written,
                content: object.content.clone(),
                observed_at: now,
            });
        }
        self.shared.deleted(&uid, end);
        self.seen_version(view);
    }

    /// The second in which something is learned.
    fn now(&self) -> i64 {
        self.shared.clock.cluster_seconds_at(Instant::now())
    }

    /// The second in which what an event tells of had happened at the latest.
    fn happened_by(&self, object: &Object, line: &WatchLiveness, view: &mut View) -> i64 {
        let (at, lag) = view.happened_by(object, &self.shared, line);
        if let Some(lag) = lag {
            self.remarks.lags(&self.describe(), lag);
            warn!(
                watch = %self.describe(),
                seconds = whole(lag),
                "an event came this late at most, although the API server answered a list meanwhile as if \
                 there were none; what was billed beyond an end is counted, and from now on windows wait \
                 for as long. Look for a proxy that holds back watches, or for an API server that is busy"
            );
        }
        at
    }

    /// Asks the server for a sign of life. Returns the answer, if one came.
    async fn probe(&self, api: Api<Object>) -> Option<Answer> {
        let asked = Instant::now();
        let params = ListParams::default().limit(1);
        match timeout(PROBE_TIMEOUT, api.list_metadata(&params)).await {
            Ok(Ok(list)) => {
                let version = list.metadata.resource_version;
                return Some(Answer {
                    asked,
                    came: Instant::now(),
                    version: version.and_then(|it| it.parse().ok()).unwrap_or(0),
                });
            }
            Ok(Err(error)) => debug!(watch = %self.name, %error, "no sign of life"),
            Err(_) => debug!(watch = %self.name, "no sign of life in time"),
        }
        None
    }
    fn failed(&self, view: &mut View, reason: &str) {
        view.failures = view.failures.saturating_add(1);
        view.behind = true;
        self.shared.unsynced(&self.name, reason);
        self.shared.update_gauges(self.shared.clock.seconds());
        // The first failure and then ever fewer, so that an hour's outage is a dozen lines.
        if view.failures.is_power_of_two() {
            warn!(
                watch = %self.describe(),
                failures = view.failures,
                "{reason}; trying again, windows wait until the view is current"
            );
        }
    }

    pub(crate) fn describe(&self) -> String {
        let plural = self.shared.resource_type.api_resource().plural;
        match &self.namespace {
            Some(namespace) => format!("{plural} in namespace {namespace}"),
            None if self.shared.resource_type.is_namespaced() => {
                format!("{plural} in all namespaces")
            }
            None => plural,
        }
    }
}

/// Why following ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Begin again with a new client.
    Broken,
    /// The server refuses streaming lists; begin again with pages.
    NoStreamingList,
}

/// Exponential back-off with jitter.
#[expect(clippy::disallowed_methods, reason = "chance, not time")]
fn pause(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let longest = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
        .min(LONGEST_PAUSE);
    // Half of it is certain and half of it chance, from the clock's nanoseconds: many collectors
    // that lost the same server shall not come back in the same instant.
    let chance = chrono::Utc::now().timestamp_subsec_nanos() % 1_000;
    longest / 2 + longest.saturating_mul(chance) / 2_000
}
