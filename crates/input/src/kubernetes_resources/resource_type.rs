//! The kinds of object that can be metered.

use kube::core::ApiResource;
use serde::Deserialize;

/// What `kubernetes_resources` watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ResourceType {
    /// Pods, from their first container's start to their end.
    #[default]
    Pod,
    /// Nodes, from creation to deletion.
    Node,
    /// Persistent volumes, from creation to deletion.
    PersistentVolume,
    /// Persistent volume claims, from creation to deletion.
    PersistentVolumeClaim,
    /// Namespaces, whose metadata belongs to what is billed; they cannot be billed themselves.
    #[serde(skip)]
    Namespace,
}

impl ResourceType {
    /// How the API server names it.
    pub(super) fn api_resource(self) -> ApiResource {
        let (kind, plural) = match self {
            Self::Pod => ("Pod", "pods"),
            Self::Node => ("Node", "nodes"),
            Self::PersistentVolume => ("PersistentVolume", "persistentvolumes"),
            Self::PersistentVolumeClaim => ("PersistentVolumeClaim", "persistentvolumeclaims"),
            Self::Namespace => ("Namespace", "namespaces"),
        };
        ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// Whether such objects live in namespaces.
    pub(super) fn is_namespaced(self) -> bool {
        matches!(self, Self::Pod | Self::PersistentVolumeClaim)
    }

    /// The word for one of them in messages and in events' identities.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::PersistentVolume => "persistentvolume",
            Self::PersistentVolumeClaim => "persistentvolumeclaim",
            Self::Namespace => "namespace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_configured_by_its_word_and_listed_under_its_plural() {
        for (resource_type, plural, is_namespaced) in [
            (ResourceType::Pod, "pods", true),
            (ResourceType::Node, "nodes", false),
            (ResourceType::PersistentVolume, "persistentvolumes", false),
            (
                ResourceType::PersistentVolumeClaim,
                "persistentvolumeclaims",
                true,
            ),
        ] {
            let word = serde_json::json!(resource_type.word());
            assert_eq!(
                serde_json::from_value::<ResourceType>(word).unwrap(),
                resource_type
            );
            let resource = resource_type.api_resource();
            assert_eq!(resource.kind.to_lowercase(), resource_type.word());
            assert_eq!(resource.plural, plural);
            assert_eq!(resource_type.is_namespaced(), is_namespaced);
        }
    }
}
