//! The task of one watch: it sends requests to the API server, passes events to the view ([`super::view`]), and applies the
//! changes that the view returns to the ledger.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Fuse, FusedFuture, ready},
};
use kube::{
    Api, Client,
    api::ListParams,
    core::ApiResource,
    runtime::watcher::{self, Event},
};
use meterline_core::Backoff;
use tokio::{
    task::coop::unconstrained,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    client::{ANSWER_TIMEOUT, Clients},
    errors::{explain, is_forbidden, is_not_served, refuses_streaming_list},
    history::{self, History, Listed, MissedEvent, Unanswered},
    limits::{LARGEST_PAGE, TooMuch},
    liveness::WatchLiveness,
    namespace::NamespaceCheck,
    objects::{Restored, Rules},
    proofs::Answer,
    view::{Check, WatchState},
    warnings::{Absence, whole_seconds},
    watched::Watched,
};
use crate::kubernetes_resources::{
    clock::Moment,
    object::{Object, keeping},
    resource_type::ResourceType,
};

/// How long a watch lasts before it is requested again. Over HTTP/1.1 this, together with the watcher's margin,
/// is the longest time for which a lost connection can go unnoticed.
const WATCH_SECONDS: u32 = 50;
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// After this many failures in a row the kubeconfig or the service account is read again: a token or a
/// certificate authority may have been replaced.
const FAILURES_BEFORE_NEW_CLIENT: u32 = 3;

/// The time between two attempts to watch a custom resource that the cluster does not have.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// One watched collection.
pub(crate) struct Watch {
    /// The name of this watch in the ledger.
    pub(crate) name: Arc<str>,
    /// The namespace, or none for all of them.
    pub(crate) namespace: Option<String>,
    pub(crate) watched: Arc<Watched>,
    /// The collection in a restored ledger.
    pub(crate) restored: Option<Restored>,
}

/// The state of the attempts to list and watch.
struct Attempts {
    /// How many requests failed in a row.
    failures: u32,
    /// How many objects a page of a list may have.
    page: u32,
    /// Whether the server refused a streaming list.
    refused_streaming: bool,
    /// When the last attempt began.
    began: Moment,
    /// The lists of the past since the last complete list.
    listed: Listed,
}

/// What a watch wakes up for.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
enum Woken {
    Event(Option<Result<Event<Object>, watcher::Error>>),
    /// Everything that arrived is read.
    Drained,
    ConnectionChanged,
    Answered(Option<Answer>),
    CheckDue,
}

/// The watch has to begin again with new clients.
struct Broken;

impl Watch {
    /// Follows the collection until it is aborted.
    pub(crate) async fn run(mut self) {
        let restored = self.restored.take();
        let options = &self.watched.options;
        let projection = Arc::clone(&options.projection);
        // The watch of the objects that are billed checks the namespace.
        let namespace = self.namespace.clone();
        let namespace = namespace.filter(|_| self.watched.relation.is_none());
        let check = namespace.map(|namespace| NamespaceCheck {
            namespace,
            cluster: options.cluster.clone(),
            warnings: Arc::clone(&self.watched.warnings),
        });
        let check = async {
            match check {
                Some(check) => check.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = keeping(projection, self.follow_for_ever(restored)) => {}
            never = check => match never {},
        }
    }

    async fn follow_for_ever(&self, restored: Option<Restored>) {
        let options = &self.watched.options;
        self.watched.ledger.is_open().await;
        let mut state = WatchState::new(
            Rules {
                resource_type: options.resource_type,
                from: options.from,
                has_selector: options.label_selector.is_some(),
            },
            options.settle,
            restored,
            options.clock.moment(),
        );
        let mut attempts = Attempts {
            failures: 0,
            page: LARGEST_PAGE,
            refused_streaming: false,
            began: options.clock.moment(),
            listed: Listed::new(),
        };
        loop {
            let liveness = WatchLiveness::new(options.clock.clone());
            let wanted = self.watched.wanted();
            match Clients::connect(&options.cluster, liveness.clone(), wanted).await {
                Ok(mut clients) => {
                    clients.has_streaming_lists &= !attempts.refused_streaming;
                    self.follow(clients, &liveness, &mut state, &mut attempts)
                        .await;
                }
                Err(error) => self.failed(&mut state, &mut attempts, &error.to_string()),
            }
            tokio::time::sleep(RETRY.pause(attempts.failures).max(liveness.pause())).await;
        }
    }

    /// Follows the collection until it has to begin again with new clients.
    async fn follow(
        &self,
        clients: Clients,
        liveness: &WatchLiveness,
        state: &mut WatchState,
        attempts: &mut Attempts,
    ) {
        let options = &self.watched.options;
        let resource = options.resource_type.api_resource();
        let api = self.api(clients.client, &resource);
        let past = self.past(&clients.history, &resource);
        let config = self.config(clients.has_streaming_lists, attempts.page);
        let mut events = std::pin::pin!(watcher::watcher(api.clone(), config));
        let mut probe: Fuse<BoxFuture<'_, _>> = Fuse::terminated();
        attempts.began = options.clock.moment();
        state.connected(attempts.began);
        loop {
            let woken = tokio::select! {
                // Events first: a liveness signal counts only once everything before it is applied. Without the
                // runtime's budget, which would hide events that wait to be read.
                biased;
                event = unconstrained(events.next()) => Woken::Event(event),
                () = ready(()), if state.has_sign() => Woken::Drained,
                () = liveness.changed() => Woken::ConnectionChanged,
                answer = &mut probe => Woken::Answered(answer),
                () = tokio::time::sleep_until(state.check_at()) => Woken::CheckDue,
            };
            let now = options.clock.moment();
            state.woke(now);
            match woken {
                Woken::Event(Some(Ok(event))) => {
                    // That a list begins does not show that the server answers.
                    if !matches!(event, Event::Init) {
                        attempts.failures = 0;
                    }
                    let happened = self.happened(event, (liveness, now), &past, state, attempts);
                    if let Err(unanswered) = happened.await {
                        let reason = match unanswered {
                            Unanswered::Error(error) => {
                                let error = watcher::Error::InitialListFailed(error);
                                explain(&error, &self.describe())
                            }
                            Unanswered::Late => "the API server does not answer".to_owned(),
                        };
                        self.failed(state, attempts, &reason);
                        return;
                    }
                    state.signed();
                }
                Woken::Event(Some(Err(error))) => {
                    let streaming = clients.has_streaming_lists;
                    let Ok(pause) = self.broken(&error, streaming, state, attempts) else {
                        return;
                    };
                    tokio::time::sleep(pause.max(liveness.pause())).await;
                    attempts.began = options.clock.moment();
                }
                Woken::Event(None) => return,
                Woken::Drained => state.drained(liveness.connection(), now),
                Woken::ConnectionChanged => state.signed(),
                Woken::Answered(answer) => state.answered(answer),
                Woken::CheckDue => {
                    if self.needs_probe(state, liveness) && probe.is_terminated() {
                        probe = self.probe(api.clone()).boxed().fuse();
                    }
                }
            }
            self.apply_changes(state);
        }
    }

    fn config(&self, has_streaming_lists: bool, page: u32) -> watcher::Config {
        let mut config = watcher::Config::default()
            .timeout(WATCH_SECONDS)
            .page_size(page);
        if let Some(selector) = &self.watched.options.label_selector {
            config = config.labels(selector);
        }
        if has_streaming_lists {
            config = config.streaming_lists();
        }
        config
    }

    fn api(&self, client: Client, resource: &ApiResource) -> Api<Object> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        }
    }

    fn past<'a>(&'a self, client: &'a Client, resource: &'a ApiResource) -> Past<'a> {
        Past {
            api: self.api(client.clone(), resource),
            history: History {
                client,
                resource,
                label_selector: self.watched.options.label_selector.as_deref(),
            },
        }
    }

    /// The watcher failed. Returns how long to wait before the next attempt.
    ///
    /// # Errors
    /// When the watch has to begin again with new clients.
    fn broken(
        &self,
        error: &watcher::Error,
        is_streaming: bool,
        state: &mut WatchState,
        attempts: &mut Attempts,
    ) -> Result<Duration, Broken> {
        let resource_type = self.watched.options.resource_type;
        let is_served = !is_not_served(error);
        // Without slices the claims are billed all the same.
        let is_refused = resource_type == ResourceType::ResourceSlice && is_forbidden(error);
        if resource_type.is_custom() && (!is_served || is_refused) {
            self.is_absent(state, attempts, Absence::of(resource_type, is_served));
            return Ok(BETWEEN_LOOKS);
        }
        if is_streaming && refuses_streaming_list(error) {
            debug!(watch = %self.name, "the API server has no streaming lists; listing in pages");
            attempts.refused_streaming = true;
            return Err(Broken);
        }
        if TooMuch::of(error) == Some(TooMuch::Page) && attempts.page > 1 {
            attempts.page /= 2;
            info!(
                watch = %self.describe(),
                page = attempts.page,
                "a page of the list is larger than 16 MiB; asking for fewer objects at once"
            );
            return Err(Broken);
        }
        self.failed(state, attempts, &explain(error, &self.describe()));
        if attempts.failures.is_multiple_of(FAILURES_BEFORE_NEW_CLIENT) {
            return Err(Broken);
        }
        Ok(RETRY.pause(attempts.failures))
    }

    /// The cluster does not have the custom resource, so it has no objects of it, or its objects may not be read and are
    /// not needed: that answer is a complete list.
    fn is_absent(&self, state: &mut WatchState, attempts: &mut Attempts, absence: Absence) {
        attempts.failures = 0;
        state.list_requested();
        state.list_began(None, attempts.began);
        let missing = state.missing_in_list();
        state.list_completed(missing, &[], self.watched.options.clock.moment());
        self.apply_changes(state);
        self.set_absent(Some(absence));
    }

    fn set_absent(&self, absence: Option<Absence>) {
        let resource_type = self.watched.options.resource_type;
        if !resource_type.is_custom() {
            return;
        }
        let plural = resource_type.api_resource().plural;
        let has_changed = self.watched.warnings.set_absent(&plural, absence);
        if let Some(absence) = absence.filter(|_| has_changed) {
            let said = absence.describe(&plural);
            warn!("{said}; looking again from time to time");
        }
    }

    fn failed(&self, state: &mut WatchState, attempts: &mut Attempts, reason: &str) {
        attempts.failures = attempts.failures.saturating_add(1);
        state.failed();
        let Watched {
            ledger,
            report,
            options,
            ..
        } = &*self.watched;
        ledger.synced(&self.name, false);
        report.watch_failed(&self.name, reason);
        report.update(ledger, options.clock.seconds());
        // The failures 1, 2, 4, 8 and so on are logged: a dozen lines in an hour's outage.
        if attempts.failures.is_power_of_two() {
            warn!(
                watch = %self.describe(),
                failures = attempts.failures,
                "{reason}; trying again, windows wait until the view is current"
            );
        }
    }

    /// Passes one event to the view.
    ///
    /// # Errors
    /// When the server does not say at which version a list begins. A list alone would not show what was created and
    /// deleted before it.
    async fn happened(
        &self,
        event: Event<Object>,
        (liveness, now): (&WatchLiveness, Moment),
        past: &Past<'_>,
        state: &mut WatchState,
        attempts: &mut Attempts,
    ) -> Result<(), Unanswered> {
        let clock = &self.watched.options.clock;
        match event {
            Event::Init => {
                state.list_requested();
                self.apply_changes(state);
                // A list that begins after this shows at least what exists at this version.
                let version = history::version_now(&past.api).await?;
                attempts
                    .listed
                    .extend(self.replay(past, version, state).await);
                state.list_began(version, clock.moment());
            }
            Event::InitApply(object) => state.listed(object, now),
            Event::Apply(object) => {
                let lag = state.changed(object, liveness.connection(), now);
                self.warn_of_lag(lag);
            }
            Event::Delete(object) => {
                let lag = state.deleted(&object, liveness.connection(), now);
                self.warn_of_lag(lag);
            }
            Event::InitDone => {
                let missing = state.missing_in_list();
                let listed = std::mem::take(&mut attempts.listed);
                let last_states = past.history.last_states(&past.api, &missing, &listed);
                let last_states = last_states.await;
                state.list_completed(missing, &last_states, clock.moment());
                self.set_absent(None);
                // The next list may be of smaller objects.
                attempts.page = attempts.page.saturating_mul(2).min(LARGEST_PAGE);
                info!(watch = %self.describe(), objects = state.objects(), "watching");
            }
        }
        Ok(())
    }

    /// Applies what happened between the version that was seen last and `now`, as far as the server still knows it. Returns
    /// the lists that it made of the past.
    async fn replay(&self, past: &Past<'_>, now: Option<u64>, state: &mut WatchState) -> Listed {
        let (Some(seen), Some(now)) = (state.version(), now) else {
            return Listed::new();
        };
        let selector = past.history.label_selector;
        let missed = history::missed(&past.api, selector, (seen, now)).await;
        let count = missed.events.len();
        for event in missed.events {
            let now = self.watched.options.clock.moment();
            match event {
                MissedEvent::Changed(object) => state.changed_meanwhile(object, now),
                MissedEvent::Deleted(object) => state.deleted_meanwhile(&object, now),
            }
            self.apply_changes(state);
        }
        if count > 0 {
            info!(
                watch = %self.describe(),
                events = count,
                "the API server repeated what happened while nothing was watched"
            );
        }
        missed.listed
    }

    /// Applies the changes of the view to the ledger.
    fn apply_changes(&self, state: &mut WatchState) {
        for change in state.changes() {
            self.watched.apply(&self.name, change);
        }
    }

    fn warn_of_lag(&self, lag: Option<Duration>) {
        let Some(lag) = lag else { return };
        self.watched.warnings.set_lag(&self.describe(), lag);
        warn!(
            watch = %self.describe(),
            seconds = whole_seconds(lag),
            "an event came this late at most, although the API server answered a list meanwhile as if \
             there were none; what was billed beyond an end is counted, and from now on windows wait \
             for as long. Look for a proxy that delays watches, or for an overloaded API server"
        );
    }

    /// Updates the metrics. Returns whether the server has to be probed.
    fn needs_probe(&self, state: &mut WatchState, liveness: &WatchLiveness) -> bool {
        let Watched {
            ledger,
            report,
            options,
            ..
        } = &*self.watched;
        let now = options.clock.moment();
        report.update(ledger, now.seconds());
        let (due, pause) = (ledger.next_due(), liveness.pause());
        state.check(due, pause, liveness.connection(), now) == Check::Probe
    }

    /// Probes the server. Returns the answer, if one arrives.
    async fn probe(&self, api: Api<Object>) -> Option<Answer> {
        let requested_at = Instant::now();
        let params = ListParams::default().limit(1);
        match timeout(ANSWER_TIMEOUT, api.list_metadata(&params)).await {
            Ok(Ok(list)) => {
                let version = list.metadata.resource_version;
                return Some(Answer {
                    requested_at,
                    came: Instant::now(),
                    version: version.and_then(|it| it.parse().ok()).unwrap_or(0),
                });
            }
            Ok(Err(error)) => {
                debug!(watch = %self.name, %error, "the API server answered a probe with an error")
            }
            Err(_) => debug!(watch = %self.name, "the API server did not answer a probe in time"),
        }
        None
    }

    fn describe(&self) -> String {
        let resource_type = self.watched.options.resource_type;
        let plural = resource_type.api_resource().plural;
        match &self.namespace {
            Some(namespace) => format!("{plural} in namespace {namespace}"),
            None if resource_type.is_namespaced() => format!("{plural} in all namespaces"),
            None => plural,
        }
    }
}

/// The past of the collection.
struct Past<'a> {
    api: Api<Object>,
    history: History<'a>,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use meterline_kubesim::{Kind, Kubesim, Options as Server};
    use serde_json::json;
    use tokio::task::JoinSet;

    use super::*;
    use crate::kubernetes_resources::{
        options::Options,
        testing::{Api as MockApi, Parts, WATCH, at, error, options, pod, until},
    };

    struct Scene {
        sim: Kubesim,
        parts: Parts,
        /// Ends the watch when it is dropped.
        task: JoinSet<()>,
    }

    impl Scene {
        /// A server with one pod. The watch does not run yet.
        async fn new(server: Server) -> Self {
            let sim = Kubesim::start(server).await.unwrap();
            sim.change(|store| store.put(Kind::Pod, pod("a", 1)));
            let parts = Parts::new(options(at(sim.url())), 0);
            let task = JoinSet::new();
            Self { sim, parts, task }
        }

        fn run(&mut self) {
            let watch = Watch {
                name: WATCH.into(),
                namespace: None,
                watched: self.parts.watched(),
                restored: None,
            };
            self.task.spawn(watch.run());
        }

        async fn exist(&self, names: &[&str]) {
            until(|| self.parts.existing() == names).await;
        }

        /// Waits until the view is known to be current as of now.
        async fn is_current(&self) {
            let now = self.parts.options.clock.seconds();
            let is_current = || self.parts.ledger.complete_until() >= Some(now);
            until(is_current).await;
        }
    }

    #[tokio::test]
    async fn what_a_watch_sees_reaches_the_ledger() {
        let mut scene = Scene::new(Server::default()).await;
        scene.run();
        scene.exist(&["a"]).await;
        scene.sim.change(|store| store.put(Kind::Pod, pod("b", 2)));
        scene.exist(&["a", "b"]).await;
        scene
            .sim
            .change(|store| store.delete(Kind::Pod, pod("a", 1)));
        scene.exist(&["b"]).await;
        scene.is_current().await;
        assert!(scene.parts.ready("input x").0);
    }

    #[tokio::test]
    async fn a_server_without_streaming_lists_is_listed_in_pages() {
        let server = Server {
            minor: 30,
            ..Server::default()
        };
        let mut scene = Scene::new(server).await;
        let many: Vec<_> = (0..1_200).map(|number| format!("p-{number:04}")).collect();
        scene.sim.change(|store| {
            for name in &many {
                store.put(Kind::Pod, pod(name, 1));
            }
        });
        scene.run();
        until(|| scene.parts.existing().len() == 1_201).await;
        scene.is_current().await;
    }

    #[tokio::test]
    async fn a_watch_that_is_cut_is_resumed_and_misses_nothing() {
        let mut scene = Scene::new(Server::default()).await;
        scene.run();
        scene.is_current().await;
        for name in ["b", "c", "d"] {
            scene.sim.cut_watches();
            scene.sim.change(|store| store.put(Kind::Pod, pod(name, 2)));
            until(|| scene.parts.existing().contains(&name.to_owned())).await;
        }
        scene.is_current().await;
    }

    #[tokio::test]
    async fn a_watch_that_was_interrupted_for_too_long_lists_again_and_ends_deleted_objects() {
        let mut scene = Scene::new(Server::default()).await;
        scene.run();
        scene.exist(&["a"]).await;
        scene.sim.refuse(500, 3);
        scene.sim.change(|store| {
            store.put(Kind::Pod, pod("b", 2));
            store.delete(Kind::Pod, pod("a", 1));
            store.compact();
        });
        scene.sim.cut_watches();
        scene.exist(&["b"]).await;
        scene.is_current().await;
    }

    /// A server without a custom resource, with streaming lists and without, until it has one.
    #[tokio::test]
    async fn a_custom_resource_that_the_cluster_does_not_have_holds_nothing_up() {
        for minor in ["30", "35"] {
            let has_it = Arc::new(AtomicBool::new(false));
            let served = Arc::clone(&has_it);
            let api = MockApi::start(move |request| match request.path.as_str() {
                "/version" => (200, json!({"major": "1", "minor": minor})),
                _ if !served.load(Ordering::SeqCst) => error(404, "not found"),
                _ if request.query.contains_key("watch") => error(422, "no streaming lists"),
                _ => {
                    let mut snapshot = pod("a", 1);
                    snapshot["metadata"]["resourceVersion"] = "5".into();
                    snapshot["status"] = json!({"readyToUse": true});
                    let list = json!({"apiVersion": "snapshot.storage.k8s.io/v1",
                        "kind": "VolumeSnapshotList", "metadata": {"resourceVersion": "5"},
                        "items": [snapshot]});
                    (200, list)
                }
            });
            let api = api.await;
            let options = Options {
                resource_type: ResourceType::VolumeSnapshot,
                ..options(api.cluster())
            };
            let parts = Parts::new(options, 0);
            let began = parts.options.clock.seconds();
            let watch = Watch {
                name: WATCH.into(),
                namespace: None,
                watched: parts.watched(),
                restored: None,
            };
            let mut task = JoinSet::new();
            task.spawn(watch.run());
            until(|| parts.ledger.complete_until() >= Some(began)).await;
            assert!(parts.ready("input x").0);
            let (is_ready, said) = parts.ready("watches x");
            assert!(
                is_ready && said.contains("custom resource volumesnapshots"),
                "{said}"
            );
            assert_eq!(parts.metric("kubernetes_watch_errors"), 0.0);
            has_it.store(true, Ordering::SeqCst);
            until(|| parts.existing() == ["a"]).await;
            until(|| parts.ready("watches x").1.is_empty()).await;
        }
    }

    #[tokio::test]
    async fn slices_that_cannot_be_read_hold_nothing_up_and_are_reported_with_the_remedy() {
        for (code, remedy) in [(404, "Kubernetes 1.34"), (403, "grant the verbs get, list")] {
            let api = MockApi::start(move |request| match request.path.as_str() {
                "/version" => (200, json!({"major": "1", "minor": "35"})),
                _ => error(code, "no slices"),
            });
            let api = api.await;
            let parts = Parts::new(options(api.cluster()), 0);
            let began = parts.options.clock.seconds();
            let reads = meterline_script::SliceReads::default();
            let watch = Watch {
                name: WATCH.into(),
                namespace: None,
                watched: Arc::new(parts.watched().of_slices(&reads)),
                restored: None,
            };
            let mut task = JoinSet::new();
            task.spawn(watch.run());
            until(|| parts.ledger.complete_until() >= Some(began)).await;
            assert!(parts.ready("input x").0);
            let (is_ready, said) = parts.ready("watches x");
            assert!(is_ready && said.contains(remedy), "{said}");
            assert!(said.contains("resourceslices"), "{said}");
            assert_eq!(parts.metric("kubernetes_watch_errors"), 0.0);
        }
    }

    #[tokio::test]
    async fn a_refused_watch_is_reported_with_the_reason_and_retried() {
        let mut scene = Scene::new(Server::default()).await;
        scene.sim.refuse(403, u64::MAX);
        scene.run();
        until(|| scene.parts.metric("kubernetes_watch_errors") >= 1.0).await;
        let (is_ready, detail) = scene.parts.ready("input x");
        assert!(!is_ready && detail.contains("grant the verbs"), "{detail}");
        assert_eq!(scene.parts.ledger.complete_until(), None);
        scene.sim.refuse(403, 0);
        scene.exist(&["a"]).await;
        scene.is_current().await;
        assert!(scene.parts.ready("input x").0);
    }
}
