//! The objects of a collection that exist, and what the ledger records of each. Pure, like the view.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use meterline_ledger::{Certainty, Observation, Times, Uid, UnixSeconds};

use crate::kubernetes_resources::{
    lifetime::{
        BilledFrom, Deletion, End, Lifetime, Seen, again, created, deleted_at, earlier_end,
        lifetime,
    },
    object::{BilledObject, Known, KnownLife, Object},
    resource_type::ResourceType,
};

/// An object that a complete view did not show within this many seconds of its creation was out of scope.
const OLD: i64 = 60;

/// The configuration of a watch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) resource_type: ResourceType,
    pub(crate) from: BilledFrom,
    /// Whether a label selector can take an object into and out of the collection.
    pub(crate) has_selector: bool,
}

/// A collection in a restored ledger.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The objects that existed.
    pub(crate) known: Vec<Known>,
    /// When the view was last complete.
    pub(crate) seen_at: UnixSeconds,
    /// The resource version up to which everything was seen.
    pub(crate) version: Option<u64>,
    /// What is known of objects that existed and that may belong to another collection.
    pub(crate) lives: Arc<HashMap<Uid, KnownLife>>,
}

/// The objects that exist.
#[derive(Debug)]
pub(crate) struct Objects {
    rules: Rules,
    /// Each with the version at which it was last seen.
    known: HashMap<Uid, Known>,
    /// The newest resource version that was seen.
    version: Option<u64>,
    /// Whether the collection was complete before, in this process or in the one that wrote the state: an object
    /// that is not known is new to it.
    was_complete: bool,
    /// Set until the first list is complete if the watch was added to a ledger that is not new: what ran
    /// before this second must not be billed.
    added_at: Option<UnixSeconds>,
    /// Whether every change of a known object is seen: from a complete list on until the next list.
    sees_each_change: bool,
    /// Until the first list is complete: what is known of the lives of objects that are not known otherwise.
    lives: Arc<HashMap<Uid, KnownLife>>,
}

impl Objects {
    pub(crate) fn new(rules: Rules, restored: Option<Restored>) -> Self {
        let seen_at = restored.as_ref().map(|it| it.seen_at);
        let (known, version, lives) =
            restored.map_or_else(Default::default, |it| (it.known, it.version, it.lives));
        let known = known.into_iter();
        Self {
            rules,
            known: known.map(|it| (Arc::clone(&it.uid), it)).collect(),
            version,
            was_complete: version.is_some(),
            added_at: seen_at.filter(|_| version.is_none()),
            sees_each_change: false,
            lives,
        }
    }

    /// How many objects exist.
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    /// The newest resource version that was seen.
    pub(crate) fn version(&self) -> Option<u64> {
        self.version
    }

    /// The objects that are not among these.
    pub(crate) fn except(&self, listed: &HashSet<Uid>) -> Vec<Known> {
        let known = self.known.values();
        known
            .filter(|it| !listed.contains(&it.uid))
            .cloned()
            .collect()
    }

    /// Removes an object. Returns whether it was there.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        self.known.remove(uid).is_some()
    }

    /// A list begins: it shows the last state of each object, and not the states before it.
    pub(crate) fn list_began(&mut self) {
        self.sees_each_change = false;
    }

    /// A list is complete that was requested when the server was at `version`.
    pub(crate) fn listed(&mut self, version: Option<u64>) {
        self.was_complete = true;
        self.added_at = None;
        self.sees_each_change = true;
        self.lives = Arc::default();
        self.version = self.version.max(version);
    }

    /// An object was seen that had got its present state by `now`. The view was last current at `current_at`. If the
    /// object had ended before, and that is news, two observations say so.
    pub(crate) fn observed(
        &mut self,
        mut object: Object,
        now: UnixSeconds,
        current_at: UnixSeconds,
    ) -> (Option<Observation<BilledObject>>, Observation<BilledObject>) {
        let uid = object.uid();
        let mut known = object.known();
        let before = self.known.get(&uid);
        object.content.was_pending = before.is_some_and(|it| it.is_pending);
        let is_new = before.is_none();
        self.version = self.version.max(Some(known.version));
        known.life = self.life(&uid);
        let scope = is_new.then(|| self.in_scope_since(&object, now, current_at));
        let seen = seen(&object, known.life, now);
        let lifetime = self.lifetime(&object, seen);
        let scope = scope.flatten().max(lifetime.since);
        let (ended, again) = self.stretches(&object, lifetime, known.life, seen);
        known.life = KnownLife {
            end: lifetime.end.map(|it| it.at),
            again: again.or(known.life.again),
            ahead: known.life.ahead.max(lifetime.ahead),
            has_begun: known.life.has_begun || lifetime.start.is_some(),
        };
        let again = known.life.again;
        self.known.insert(uid, known);
        let first = ended.map(|at| Lifetime {
            end: Some(End {
                at,
                certainty: Certainty::Exact,
            }),
            ..lifetime
        });
        let first = first.map(|first| observation(&object, scope, first, now));
        (first, observation(&object, scope.max(again), lifetime, now))
    }

    /// An object was deleted by `now` and, where that is known, after `since`. Returns its last state, if it ever
    /// ran, and when it stopped.
    pub(crate) fn deleted(
        &mut self,
        object: &Object,
        since: Option<UnixSeconds>,
        now: UnixSeconds,
    ) -> (Option<Observation<BilledObject>>, UnixSeconds) {
        let uid = object.uid();
        let life = self.life(&uid);
        self.version = self.version.max(Some(object.known().version));
        let seen = seen(object, life, now);
        let mut lifetime = self.lifetime(object, seen);
        let deletion = match since {
            Some(since) => Deletion::InGap { since, now },
            None => Deletion::Observed(now),
        };
        // The end that was assumed when the object was last seen is nearer to it.
        if let (Some(end), Some(known)) = (&mut lifetime.end, life.end)
            && end.certainty == Certainty::Assumed
        {
            end.at = known;
        }
        let end = deleted_at(object.seen.root(), lifetime, seen, deletion);
        lifetime.end = Some(end);
        let (_, again) = self.stretches(object, lifetime, life, seen);
        self.known.remove(&uid);
        // The last state may be new as well: a pod may start and end between two events.
        let since = again.max(life.again).max(lifetime.since);
        let last = lifetime
            .start
            .map(|_| observation(object, since, lifetime, now));
        (last, end.at)
    }

    /// What was concluded of the life of an object.
    fn life(&self, uid: &str) -> KnownLife {
        let known = self.known.get(uid).map(|it| it.life);
        known
            .or_else(|| self.lives.get(uid).copied())
            .unwrap_or_default()
    }

    /// Returns when an object had ended, if that is news, and since when it runs again, if it does.
    fn stretches(
        &self,
        object: &Object,
        lifetime: Lifetime,
        life: KnownLife,
        seen: Seen,
    ) -> (Option<UnixSeconds>, Option<UnixSeconds>) {
        let root = object.seen.root();
        if let Some(ended) = life.end {
            let resource_type = self.rules.resource_type;
            return (None, again(root, resource_type, ended, lifetime, seen));
        }
        if self.sees_each_change && self.known.contains_key(&object.uid()) {
            // It was never seen to be over. So its containers were restarted, whatever its policy is.
            return (None, None);
        }
        let earlier = earlier_end(root, lifetime, seen);
        let earlier = earlier.filter(|(_, again)| life.again.is_none_or(|known| *again > known));
        earlier.unzip()
    }

    fn lifetime(&self, object: &Object, seen: Seen) -> Lifetime {
        let Rules {
            resource_type,
            from,
            ..
        } = self.rules;
        lifetime(object.seen.root(), resource_type, from, seen)
    }

    /// Since when an object that was not known is to be billed, if it ran before: its namespace was added to
    /// what is watched, it was given the label that is selected by, or it became a load balancer.
    fn in_scope_since(
        &self,
        object: &Object,
        now: UnixSeconds,
        current_at: UnixSeconds,
    ) -> Option<UnixSeconds> {
        if let Some(added_at) = self.added_at {
            return Some(added_at);
        }
        let created = created(object.seen.root())?;
        let is_old = self.was_complete && created.saturating_add(OLD) < now.min(current_at);
        if is_old && self.rules.has_selector {
            let written = object.written.filter(|it| *it > created);
            return Some(written.map_or(now, |it| it.min(now)));
        }
        // Services that are no load balancers are not in the state.
        let is_service = self.rules.resource_type == ResourceType::Service;
        let retyped = object.writes.spec.filter(|it| is_service && *it > created);
        retyped.filter(|_| is_old).map(|it| it.min(now))
    }
}

/// What is known of the moment at which an object was seen.
fn seen(object: &Object, life: KnownLife, now: UnixSeconds) -> Seen {
    Seen {
        now,
        writes: object.writes,
        ahead: life.ahead,
        has_begun: life.has_begun,
        ended: life.end,
    }
}

fn observation(
    object: &Object,
    in_scope_since: Option<UnixSeconds>,
    lifetime: Lifetime,
    now: UnixSeconds,
) -> Observation<BilledObject> {
    let end = lifetime.end;
    let start = if lifetime.is_start_assumed {
        Certainty::Assumed
    } else {
        Certainty::Exact
    };
    Observation {
        uid: object.uid(),
        in_scope_since,
        start: lifetime.start,
        end: end.map(|it| it.at),
        content_since: object.written,
        content: object.content.clone(),
        observed_at: now,
        times: Times {
            start,
            end: end.map_or_else(Certainty::default, |it| it.certainty),
            ahead: lifetime.ahead,
        },
    }
}

#[cfg(test)]
mod tests {
    use meterline_ledger::Content;
    use serde_json::json;

    use super::*;
    use crate::kubernetes_resources::testing::{object, pod};

    fn objects(restored: Option<Restored>) -> Objects {
        let rules = Rules {
            resource_type: ResourceType::Pod,
            from: BilledFrom::Started,
            has_selector: true,
        };
        Objects::new(rules, restored)
    }

    #[test]
    fn a_deleted_pod_has_its_last_state_unless_it_never_ran() {
        let mut objects = objects(None);
        objects.observed(object(pod("a", 100), 1), 100, 100);
        let (last, end) = objects.deleted(&object(pod("a", 100), 2), None, 130);
        let last = last.unwrap();
        assert_eq!((last.start, last.end, end), (Some(100), Some(130), 130));
        assert_eq!((objects.count(), objects.version()), (0, Some(2)));

        let mut pending = pod("b", 100);
        pending["status"] = json!({"phase": "Pending"});
        let pending = object(pending, 3);
        assert_eq!(objects.observed(pending.clone(), 101, 100).1.start, None);
        let (last, end) = objects.deleted(&pending, Some(110), 130);
        assert!(last.is_none());
        assert_eq!(end, 110);
    }

    #[test]
    fn an_old_pod_that_was_not_known_is_billed_from_when_it_was_labelled() {
        let mut objects = objects(None);
        objects.listed(Some(1));
        let mut labelled = pod("a", 100);
        labelled["metadata"]["managedFields"] =
            json!([{"time": "1970-01-01T00:08:20Z", "fieldsV1": {"f:metadata": {}}}]);
        let (_, seen) = objects.observed(object(labelled, 2), 510, 505);
        assert_eq!(seen.in_scope_since, Some(500));
        // Without a recorded write it is when the watch saw it.
        let (_, seen) = objects.observed(object(pod("b", 100), 3), 510, 505);
        assert_eq!(seen.in_scope_since, Some(510));
        // A pod that is younger than the view is new.
        let (_, seen) = objects.observed(object(pod("c", 450), 4), 510, 505);
        assert_eq!(seen.in_scope_since, None);
        let (_, seen) = objects.observed(object(pod("b", 100), 5), 510, 505);
        assert_eq!(seen.in_scope_since, None);
    }

    #[test]
    fn an_old_service_that_was_not_known_is_billed_since_it_became_a_load_balancer() {
        let rules = Rules {
            resource_type: ResourceType::Service,
            from: BilledFrom::Started,
            has_selector: false,
        };
        let service = |name: &str, written: &str| {
            let mut service = pod(name, 100);
            service["metadata"]["managedFields"] =
                json!([{"time": written, "fieldsV1": {"f:spec": {"f:type": {}}}}]);
            service["spec"] = json!({"type": "LoadBalancer"});
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
            object(service, 2)
        };
        let mut objects = Objects::new(rules, None);
        objects.listed(Some(1));
        let (_, seen) = objects.observed(service("a", "1970-01-01T00:08:20Z"), 510, 505);
        assert_eq!((seen.start, seen.in_scope_since), (Some(100), Some(500)));
        let (_, seen) = objects.observed(service("b", "1970-01-01T00:01:40Z"), 510, 505);
        assert_eq!((seen.start, seen.in_scope_since), (Some(100), None));
        // The first list of a collector shows no more than the object does.
        let mut objects = Objects::new(rules, None);
        let (_, seen) = objects.observed(service("a", "1970-01-01T00:08:20Z"), 510, 505);
        assert_eq!((seen.start, seen.in_scope_since), (Some(100), None));
    }

    #[test]
    fn a_grant_counts_since_the_write_unless_the_node_refused_it_before() {
        let resized = |granted: &str, refused: bool| {
            let mut pod = pod("a", 100);
            pod["spec"]["containers"] =
                json!([{"name": "c", "resources": {"requests": {"cpu": "2"}}}]);
            let status = &mut pod["status"];
            status["containerStatuses"][0]["name"] = "c".into();
            status["containerStatuses"][0]["resources"] = json!({"requests": {"cpu": granted}});
            let of = if refused { "True" } else { "False" };
            status["conditions"] = json!([{"type": "PodResizePending", "status": of}]);
            pod
        };
        for refused in [false, true] {
            let mut objects = objects(None);
            let (_, before) = objects.observed(object(resized("1", refused), 1), 101, 100);
            let (_, after) = objects.observed(object(resized("2", false), 2), 102, 100);
            assert_ne!(after.content, before.content);
            assert_eq!(after.content.is_grant(&before.content), !refused);
            assert!(!before.content.is_grant(&after.content));
        }
    }

    #[test]
    fn a_pod_that_was_never_seen_to_be_over_continues_when_its_containers_are_restarted() {
        let run = |from: i64| json!({"startedAt": meterline_kubesim::rfc3339(from)});
        let restarted = || {
            let mut pod = pod("a", 100);
            pod["spec"] = json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
            let mut before = run(100);
            before["finishedAt"] = meterline_kubesim::rfc3339(120).into();
            before["exitCode"] = 1.into();
            pod["status"]["containerStatuses"] = json!([{"name": "c",
                "state": {"running": run(125)}, "lastState": {"terminated": before}}]);
            object(pod, 2)
        };
        let mut objects = objects(None);
        objects.observed(object(pod("a", 100), 1), 101, 100);
        objects.listed(Some(1));
        let (ended, seen) = objects.observed(restarted(), 126, 125);
        assert!(ended.is_none());
        assert_eq!((seen.start, seen.in_scope_since), (Some(100), None));
        // After a gap it may have been over meanwhile: a kubelet restarts nothing in such a pod.
        let mut objects = self::objects(None);
        objects.observed(object(pod("a", 100), 1), 101, 100);
        objects.listed(Some(1));
        objects.list_began();
        let (ended, seen) = objects.observed(restarted(), 126, 125);
        assert_eq!(ended.unwrap().end, Some(120));
        assert_eq!(seen.in_scope_since, Some(125));
    }

    #[test]
    fn a_list_names_what_it_does_not_show() {
        let known = ["a", "b", "c"].map(|name| object(pod(name, 1), 1).known());
        let objects = objects(Some(Restored {
            known: known.to_vec(),
            seen_at: 50,
            version: Some(4),
            lives: Arc::default(),
        }));
        let listed = HashSet::from(["a".into(), "c".into()]);
        let missing = objects.except(&listed);
        let names: Vec<_> = missing.iter().map(|it| &*it.name).collect();
        assert_eq!(
            (names.as_slice(), objects.version()),
            (["b"].as_slice(), Some(4))
        );
    }
}
