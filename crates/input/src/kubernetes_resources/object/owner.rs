//! The controller at the top of an object's owners, as far as the object itself shows it.
//!
//! A pod names its direct controller: a ReplicaSet or a Job, where a Deployment or a CronJob made these. Which one
//! that is follows from how their controllers name what they make, so nothing else has to be read. What the object
//! names is written by whoever creates it.

use meterline_core::{Builder, Document, Node, Reads, Scalar, Step};

use crate::kubernetes_resources::{lifetime, resource_type::ResourceType};

/// The key of the controller's key ([`Owner::key`]) in a content. No object has a field of this name.
pub(super) const KEY: &str = "owner_key()";

/// What is parsed of an object for it.
pub(super) const READS: &[&str] = &[
    "metadata.creationTimestamp",
    "metadata.labels.pod-template-hash",
    "metadata.ownerReferences",
];

/// The parts that are in the controller, and not in what it made.
const METADATA: [&str; 2] = ["annotations", "labels"];

/// The longest name that an object can have. (Kubernetes documentation, "Object Names and IDs".) References are not
/// checked against it.
const LONGEST: usize = 253;

/// How long before a pod its CronJob may have been due: a Job may be suspended, and its pods are replaced while it runs.
/// A Job that somebody named with a number ends in such a minute by rare accident only.
const LONGEST_JOB: i64 = 31 * 24 * 3_600;
/// How long after the creation of a pod its CronJob may have been due: two clocks.
const SKEW: i64 = 60;

/// A controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner<'a> {
    api_version: &'a str,
    kind: &'a str,
    name: &'a str,
    /// The UID; `None` if the controller follows from the name of what it made.
    uid: Option<&'a str>,
}

impl<'a> Owner<'a> {
    /// The top controller of an object.
    pub(super) fn of(object: Node<'a>) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let mut references = metadata.get("ownerReferences")?.items();
        let is_controller =
            |it: &Node<'_>| it.get("controller").and_then(Node::scalar) == Some(Scalar::Bool(true));
        let reference = references.find(is_controller)?;
        let field = |key: &str| {
            let text = reference.get(key)?.as_str()?;
            (1..=LONGEST).contains(&text.len()).then_some(text)
        };
        let direct = Self {
            api_version: field("apiVersion")?,
            kind: field("kind")?,
            name: field("name")?,
            uid: Some(field("uid")?),
        };
        let made_by = match (direct.group(), direct.kind) {
            ("apps", "ReplicaSet") => direct.deployment(metadata),
            ("batch", "Job") => direct.cron_job(object),
            _ => None,
        };
        Some(made_by.unwrap_or(direct))
    }

    fn group(&self) -> &'a str {
        let parts = self.api_version.split_once('/');
        parts.map_or("", |(group, _)| group)
    }

    /// The Deployment that made this ReplicaSet: it adds a hash of the pod template to its own name, and a label with
    /// the hash to the pods.
    fn deployment(&self, metadata: Node<'a>) -> Option<Self> {
        let hash = metadata.path(&["labels", "pod-template-hash"])?.as_str()?;
        let name = self.name.strip_suffix(hash)?.strip_suffix('-')?;
        (!hash.is_empty() && !name.is_empty()).then_some(Self {
            kind: ResourceType::Deployment.kind(),
            name,
            uid: None,
            ..*self
        })
    }

    /// The CronJob that made this Job: it adds the minute for which it was due, counted from 1970, to its own name.
    fn cron_job(&self, pod: Node<'_>) -> Option<Self> {
        let (name, minute) = self.name.rsplit_once('-')?;
        let is_number = minute.bytes().all(|it| it.is_ascii_digit()) && !minute.starts_with('0');
        let minute: i64 = is_number.then(|| minute.parse().ok()).flatten()?;
        let due = minute.checked_mul(60)?;
        let created = lifetime::created(pod)?;
        let is_plausible = (created - LONGEST_JOB..=created + SKEW).contains(&due);
        (is_plausible && !name.is_empty()).then_some(Self {
            kind: ResourceType::CronJob.kind(),
            name,
            uid: None,
            ..*self
        })
    }

    /// What of it is in the object that it made.
    pub(super) fn document(&self) -> Document {
        let mut builder = Builder::default();
        let open = builder.begin_object();
        for (key, value) in [
            ("api_version", self.api_version),
            ("kind", self.kind),
            ("name", self.name),
        ] {
            builder.key(key);
            builder.push(&value.into());
        }
        builder.end(open);
        builder.finish()
    }

    /// By which the metadata of the controller is found; `None` if metadata of its kind is not known.
    pub(super) fn key(&self, namespace: &str) -> Option<String> {
        let mut known = ResourceType::CONTROLLERS.into_iter();
        let found = known.find(|it| it.kind() == self.kind && it.group() == self.group())?;
        // A pod whose direct owner is a Deployment was not made by the Deployment.
        (is_known_by_name(found) == self.uid.is_none())
            .then(|| key(found, namespace, self.name, self.uid.unwrap_or_default()))
    }
}

/// Whether a controller is found by its name: what its pods name is not the controller, but what it made.
fn is_known_by_name(controller: ResourceType) -> bool {
    matches!(controller, ResourceType::Deployment | ResourceType::CronJob)
}

/// Returns by which the metadata of a controller is found.
pub(crate) fn key(controller: ResourceType, namespace: &str, name: &str, uid: &str) -> String {
    let kind = controller.kind();
    if is_known_by_name(controller) {
        format!("{namespace}/{kind}/{name}")
    } else {
        format!("{namespace}/{kind}/{name}/{uid}")
    }
}

/// Returns what is read of the metadata of a controller by what is read of `owner()`.
pub(super) fn metadata_reads(reads: &Reads) -> Reads {
    let mut metadata = Reads::default();
    for key in METADATA {
        if let Some(below) = reads.field(key) {
            metadata.add_all(&[Step::Key(key)], below);
        }
    }
    metadata
}

/// The metadata in a content's `owner()`, if it is known.
pub(super) fn metadata(owner: Node<'_>) -> Option<Document> {
    let known = METADATA
        .iter()
        .filter_map(|key| Some((*key, owner.get(key)?)));
    let mut known = known.peekable();
    known.peek().is_some().then(|| joined(known))
}

/// Returns a content's `owner()` with this metadata.
pub(super) fn with_metadata(owner: Option<Node<'_>>, metadata: Node<'_>) -> Document {
    let of_the_object = owner.into_iter().flat_map(Node::entries);
    let of_the_object = of_the_object.filter(|(key, _)| !METADATA.contains(key));
    joined(of_the_object.chain(metadata.entries()))
}

/// An object of these fields.
fn joined<'a>(fields: impl Iterator<Item = (&'a str, Node<'a>)>) -> Document {
    let mut builder = Builder::default();
    let open = builder.begin_object();
    for (key, value) in fields {
        builder.key(key);
        builder.push_raw(value);
    }
    builder.end(open);
    builder.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reference(api_version: &str, kind: &str, name: &str) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": "u", "controller": true})
    }

    /// A pod of 2026-12-01T12:00:00Z, which is in minute 29,935,440.
    fn pod(references: &[Value]) -> Value {
        json!({"metadata": {
            "namespace": "n", "creationTimestamp": "2026-12-01T12:00:00Z",
            "labels": {"pod-template-hash": "5d9"}, "ownerReferences": references,
        }})
    }

    /// Kind and name of the owner, and its key.
    fn owner(pod: &Value) -> (String, String) {
        let document = Document::from(pod);
        let Some(owner) = Owner::of(document.root()) else {
            return ("none".to_owned(), "none".to_owned());
        };
        let key = owner.key("n").unwrap_or_else(|| "none".to_owned());
        (format!("{} {}", owner.kind, owner.name), key)
    }

    #[test]
    fn the_top_controller_follows_from_the_name_of_what_it_made() {
        for (api_version, kind, name, expected, key) in [
            (
                "apps/v1",
                "ReplicaSet",
                "web-5d9",
                "Deployment web",
                "n/Deployment/web",
            ),
            (
                "apps/v1",
                "ReplicaSet",
                "a-b-5d9",
                "Deployment a-b",
                "n/Deployment/a-b",
            ),
            (
                "apps/v1",
                "ReplicaSet",
                "web-5d8",
                "ReplicaSet web-5d8",
                "none",
            ),
            ("apps/v1", "ReplicaSet", "-5d9", "ReplicaSet -5d9", "none"),
            ("apps/v1", "ReplicaSet", "5d9", "ReplicaSet 5d9", "none"),
            (
                "example.com/v1",
                "ReplicaSet",
                "web-5d9",
                "ReplicaSet web-5d9",
                "none",
            ),
            (
                "apps/v1",
                "StatefulSet",
                "db",
                "StatefulSet db",
                "n/StatefulSet/db/u",
            ),
            (
                "apps/v1",
                "DaemonSet",
                "log",
                "DaemonSet log",
                "n/DaemonSet/log/u",
            ),
            (
                "example.com/v1",
                "DaemonSet",
                "log",
                "DaemonSet log",
                "none",
            ),
            ("v1", "Node", "m", "Node m", "none"),
            // Nothing but ReplicaSets has a Deployment in between.
            ("apps/v1", "Deployment", "web", "Deployment web", "none"),
            ("batch/v1", "CronJob", "tidy", "CronJob tidy", "none"),
        ] {
            let pod = pod(&[reference(api_version, kind, name)]);
            assert_eq!(
                owner(&pod),
                (expected.to_owned(), key.to_owned()),
                "{kind} {name}"
            );
        }
    }

    #[test]
    fn a_job_that_ends_in_a_plausible_minute_is_of_a_cron_job() {
        let job = |name: &str| owner(&pod(&[reference("batch/v1", "Job", name)]));
        for minute in [29_935_440, 29_935_441, 29_935_439, 29_935_440 - 31 * 1_440] {
            let (found, key) = job(&format!("tidy-up-{minute}"));
            assert_eq!(
                (&*found, &*key),
                ("CronJob tidy-up", "n/CronJob/tidy-up"),
                "{minute}"
            );
        }
        for name in [
            "tidy-29935442",
            "tidy-29890799",
            "tidy-029935440",
            "tidy-+29935440",
            "tidy-20261201",
            "tidy-99999999999999999999",
            "tidy-9223372036854775807",
            "tidy-",
            "-29935440",
            "tidy",
        ] {
            let expected = (format!("Job {name}"), format!("n/Job/{name}/u"));
            assert_eq!(job(name), expected, "{name}");
        }
    }

    #[test]
    fn only_a_whole_reference_to_a_controller_counts() {
        let none = ("none".to_owned(), "none".to_owned());
        assert_eq!(owner(&json!({"metadata": {}})), none);
        assert_eq!(owner(&pod(&[])), none);
        let mut other = reference("v1", "ConfigMap", "c");
        other["controller"] = json!(false);
        assert_eq!(owner(&pod(&[other.clone()])), none);
        let set = reference("apps/v1", "StatefulSet", "db");
        let found = owner(&pod(&[other, set.clone()])).0;
        assert_eq!(found, "StatefulSet db");
        for (key, value) in [
            ("name", json!("x".repeat(254))),
            ("kind", json!("")),
            ("uid", json!(null)),
            ("apiVersion", json!(7)),
        ] {
            let mut wrong = set.clone();
            wrong[key] = value;
            assert_eq!(owner(&pod(&[wrong])), none, "{key}");
        }
    }

    #[test]
    fn metadata_is_added_to_what_the_object_has_and_taken_out_again() {
        let pod = Document::from(&pod(&[reference("apps/v1", "StatefulSet", "db")]));
        let owner = Owner::of(pod.root()).unwrap().document();
        assert_eq!(metadata(owner.root()), None);
        let labels = Document::from(&json!({"labels": {"team": "a"}}));
        let with = with_metadata(Some(owner.root()), labels.root());
        let expected = json!({"api_version": "apps/v1", "kind": "StatefulSet", "name": "db",
            "labels": {"team": "a"}});
        assert_eq!(with.root().to_value(), expected);
        assert_eq!(metadata(with.root()), Some(labels.clone()));
        let other = Document::from(&json!({"labels": {}}));
        let replaced = with_metadata(Some(with.root()), other.root());
        assert_eq!(metadata(replaced.root()), Some(other));
    }

    #[test]
    fn only_what_is_read_of_labels_and_annotations_is_read_of_the_controller() {
        for (reads, expected) in [
            (Reads::of(&["kind", "name"]), "nothing"),
            (Reads::of(&["kind", "labels.team"]), "labels.team"),
            (Reads::of(&["annotations.a^"]), "annotations.a^"),
            (Reads::All, "annotations, labels"),
        ] {
            assert_eq!(metadata_reads(&reads).to_string(), expected);
        }
    }
}
