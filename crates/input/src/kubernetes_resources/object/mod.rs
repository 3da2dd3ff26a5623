//! An object of the Kubernetes API: what is parsed of it when it arrives, and what the ledger keeps of it.
//!
//! An object has tens of kilobytes, of which a pipeline reads a few hundred bytes. What the pipeline reads is
//! known before the first object arrives ([`Projection`]), so the parser skips the rest, which never costs
//! memory: environment variables, the status, and other fields that nothing reads. The fields that determine
//! the lifetime of an object are parsed and not kept.
//!
//! Some fields are never kept: managed fields (the parser takes the newest time of a write to a billed field
//! from them), the `last-applied-configuration` annotation, and `kind` and `apiVersion`, which a watch carries
//! and a list does not.

mod billed_object;
mod metadata;
mod owner;
mod projection;
mod readiness;
mod writes;

use std::{borrow::Cow, fmt, sync::Arc};

use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope, ObjectMeta},
};
use meterline_core::{Builder, Document, Node, Reads};
use meterline_ledger::Existing;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};

#[cfg(test)]
use self::billed_object::is_pod;
pub(super) use self::{
    billed_object::BilledObject,
    metadata::metadata,
    owner::key as controller_key,
    projection::{Projection, WantedTable, keeping},
};
use self::{
    projection::PROJECTION,
    writes::{ManagedFields, last_writes},
};
use crate::kubernetes_resources::lifetime::{self, Writes};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object as it came from the API server.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// Name, namespace and resource version; the rest of the metadata is in the documents.
    meta: ObjectMeta,
    uid: Arc<str>,
    /// The newest write to a billed field that the server recorded, Unix seconds: to metadata or spec and,
    /// except for pods, to the status.
    pub(super) written: Option<i64>,
    /// When its parts were last written, as far as the server recorded it.
    pub(super) writes: Writes,
    /// Everything that is parsed of it, with the fields that determine its lifetime.
    pub(super) seen: Document,
    /// What the ledger keeps of it.
    pub(super) content: BilledObject,
}

/// The identity of an object that was seen.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) uid: Arc<str>,
    pub(super) namespace: Option<Box<str>>,
    pub(super) name: Box<str>,
    /// The resource version at which it was last seen.
    pub(super) version: u64,
    /// Whether its node had not granted a resize by then.
    pub(super) is_pending: bool,
    /// What was concluded of its life.
    pub(super) life: KnownLife,
}

/// What was concluded of the life of an object when it was last seen, in Unix seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KnownLife {
    /// When it ended, if it has.
    pub(super) end: Option<i64>,
    /// Since when it runs again, if it had ended before.
    pub(super) again: Option<i64>,
    /// By how many seconds the clock of its node is ahead at least.
    pub(super) ahead: i64,
    /// Whether it was billed.
    pub(super) has_begun: bool,
}

impl KnownLife {
    /// From what a ledger keeps of an object.
    pub(super) fn of<C>(existing: &Existing<'_, C>) -> Self {
        Self {
            end: existing.end,
            again: existing.in_scope_since,
            ahead: existing.ahead,
            has_begun: true,
        }
    }
}

impl Known {
    /// From what a ledger keeps of an object.
    pub(super) fn of(uid: &Arc<str>, content: &BilledObject, life: KnownLife) -> Self {
        let metadata = content.document.root().get("metadata");
        let field = |key| metadata.and_then(|it| it.get(key)).and_then(Node::as_str);
        Self {
            uid: Arc::clone(uid),
            namespace: field("namespace").map(Into::into),
            name: field("name").unwrap_or_default().into(),
            version: field("resourceVersion")
                .and_then(|it| it.parse().ok())
                .unwrap_or(0),
            is_pending: false,
            life,
        }
    }
}

impl Object {
    /// The UID, which identifies the object in the ledger.
    pub(super) fn uid(&self) -> Arc<str> {
        Arc::clone(&self.uid)
    }

    /// Returns its identity.
    pub(super) fn known(&self) -> Known {
        let version = self.meta.resource_version.as_deref();
        Known {
            uid: self.uid(),
            namespace: self.meta.namespace.as_deref().map(Into::into),
            name: self.meta.name.as_deref().unwrap_or_default().into(),
            version: version.and_then(|it| it.parse().ok()).unwrap_or(0),
            is_pending: lifetime::is_resize_pending(self.seen.root()),
            life: KnownLife::default(),
        }
    }
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let projection = PROJECTION.try_with(Arc::clone);
        let projection = projection.unwrap_or_else(|_| Arc::new(Projection::everything()));
        let mut builder = Builder::default();
        let mut writes = Writes::default();
        let open = builder.begin_object();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match (key.as_ref(), projection.seen.field(&key)) {
                ("kind" | "apiVersion", _) | (_, None) => {
                    map.next_value::<IgnoredAny>()?;
                }
                ("metadata", Some(reads)) => {
                    builder.key("metadata");
                    let builder = &mut builder;
                    writes = map.next_value_seed(Metadata { builder, reads })?;
                }
                (_, Some(reads)) => {
                    builder.key(&key);
                    map.next_value_seed(builder.parts(reads))?;
                }
            }
        }
        builder.end(open);
        let seen = builder.finish();
        let metadata = seen.root().get("metadata");
        let field = |key: &str| metadata.and_then(|it| it.get(key)).and_then(Node::as_str);
        let meta = ObjectMeta {
            name: field("name").map(ToOwned::to_owned),
            namespace: field("namespace").map(ToOwned::to_owned),
            resource_version: field("resourceVersion").map(ToOwned::to_owned),
            ..ObjectMeta::default()
        };
        let uid = field("uid").unwrap_or_default().into();
        let status = writes.status.filter(|_| projection.has_billed_status);
        Ok(Object {
            meta,
            uid,
            written: writes.content.max(status),
            writes,
            content: BilledObject::of(&seen, &projection),
            seen,
        })
    }
}

/// Writes what is parsed of `metadata`, without managed fields. Returns the newest recorded writes.
struct Metadata<'a> {
    builder: &'a mut Builder,
    reads: &'a Reads,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = Writes;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Writes, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = Writes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("object metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Writes, A::Error> {
        let Self { builder, reads } = self;
        let mut writes = Writes::default();
        let open = builder.begin_object();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match (key.as_ref(), reads.field(&key)) {
                ("managedFields", _) => {
                    let entries = map.next_value::<Option<Vec<ManagedFields>>>()?;
                    writes = last_writes(&entries.unwrap_or_default());
                }
                (_, None) => {
                    map.next_value::<IgnoredAny>()?;
                }
                ("annotations", Some(reads)) => {
                    builder.key("annotations");
                    map.next_value_seed(Annotations { builder, reads })?;
                }
                (_, Some(reads)) => {
                    builder.key(&key);
                    map.next_value_seed(builder.parts(reads))?;
                }
            }
        }
        builder.end(open);
        Ok(writes)
    }
}

/// Writes what is parsed of `annotations`, without the copy of the object that `kubectl apply` keeps there.
struct Annotations<'a> {
    builder: &'a mut Builder,
    reads: &'a Reads,
}

impl<'de> DeserializeSeed<'de> for Annotations<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Annotations<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.builder.push(&serde_json::Value::Null);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { builder, reads } = self;
        let open = builder.begin_object();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match reads.field(&key).filter(|_| key != LAST_APPLIED) {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(reads) => {
                    builder.key(&key);
                    map.next_value_seed(builder.parts(reads))?;
                }
            }
        }
        builder.end(open);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
