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
    /// Persistent volumes, from creation to deletion, or while they are in one phase.
    PersistentVolume,
    /// Persistent volume claims, from when they are bound to their removal.
    PersistentVolumeClaim,
    /// Services that are load balancers, from creation to removal, once they have an address.
    Service,
    /// Volume snapshots, from when they were taken to their removal, once they can be used.
    VolumeSnapshot,
    /// Claims of devices (dynamic resource allocation), while devices are allocated to them.
    ResourceClaim,
    /// Namespaces, whose metadata belongs to what is billed; they cannot be billed themselves.
    #[serde(skip)]
    Namespace,
    /// Slices, in which drivers describe their devices: they belong to the claims that have the devices.
    #[serde(skip)]
    ResourceSlice,
}

impl ResourceType {
    /// How the API server names it.
    pub(super) fn api_resource(self) -> ApiResource {
        let (kind, plural) = match self {
            Self::Pod => ("Pod", "pods"),
            Self::Node => ("Node", "nodes"),
            Self::PersistentVolume => ("PersistentVolume", "persistentvolumes"),
            Self::PersistentVolumeClaim => ("PersistentVolumeClaim", "persistentvolumeclaims"),
            Self::Service => ("Service", "services"),
            Self::VolumeSnapshot => ("VolumeSnapshot", "volumesnapshots"),
            Self::ResourceClaim => ("ResourceClaim", "resourceclaims"),
            Self::Namespace => ("Namespace", "namespaces"),
            Self::ResourceSlice => ("ResourceSlice", "resourceslices"),
        };
        let group = self.group();
        ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version: match group {
                "" => "v1".to_owned(),
                group => format!("{group}/v1"),
            },
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// The API group; empty for the core group.
    fn group(self) -> &'static str {
        match self {
            Self::VolumeSnapshot => "snapshot.storage.k8s.io",
            Self::ResourceClaim | Self::ResourceSlice => "resource.k8s.io",
            _ => "",
        }
    }

    /// Whether it is of no core group, so that a cluster may not have it.
    pub(super) fn is_custom(self) -> bool {
        !self.group().is_empty()
    }

    /// Whether such objects live in namespaces.
    pub(super) fn is_namespaced(self) -> bool {
        match self {
            Self::Pod
            | Self::PersistentVolumeClaim
            | Self::Service
            | Self::VolumeSnapshot
            | Self::ResourceClaim => true,
            Self::Node | Self::PersistentVolume | Self::Namespace | Self::ResourceSlice => false,
        }
    }

    /// The word for one of them in messages and in events' identities.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::PersistentVolume => "persistentvolume",
            Self::PersistentVolumeClaim => "persistentvolumeclaim",
            Self::Service => "service",
            Self::VolumeSnapshot => "volumesnapshot",
            Self::ResourceClaim => "resourceclaim",
            Self::Namespace => "namespace",
            Self::ResourceSlice => "resourceslice",
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
            (ResourceType::Service, "services", true),
            (ResourceType::VolumeSnapshot, "volumesnapshots", true),
            (ResourceType::ResourceClaim, "resourceclaims", true),
        ] {
            let word = serde_json::json!(resource_type.word());
            assert_eq!(
                serde_json::from_value::<ResourceType>(word).unwrap(),
                resource_type
            );
            let resource = resource_type.api_resource();
            assert_eq!(resource.kind.to_lowercase(), resource_type.word());
            assert_eq!(resource.plural, plural);
            assert_eq!(resource_type.is_custom(), resource.api_version != "v1");
            assert_eq!(resource_type.is_namespaced(), is_namespaced);
        }
    }
}
