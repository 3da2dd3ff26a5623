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
    /// Controllers, whose metadata belongs to the pods that they make; they cannot be billed themselves.
    #[serde(skip)]
    Deployment,
    #[serde(skip)]
    StatefulSet,
    #[serde(skip)]
    DaemonSet,
    #[serde(skip)]
    Job,
    #[serde(skip)]
    CronJob,
    /// Slices, in which drivers describe their devices: they belong to the claims that have the devices.
    #[serde(skip)]
    ResourceSlice,
}

impl ResourceType {
    /// The controllers at the top of pods' owners whose metadata can be read.
    pub(super) const CONTROLLERS: [Self; 5] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::CronJob,
    ];

    /// Kind and plural.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Pod => ("Pod", "pods"),
            Self::Node => ("Node", "nodes"),
            Self::PersistentVolume => ("PersistentVolume", "persistentvolumes"),
            Self::PersistentVolumeClaim => ("PersistentVolumeClaim", "persistentvolumeclaims"),
            Self::Service => ("Service", "services"),
            Self::VolumeSnapshot => ("VolumeSnapshot", "volumesnapshots"),
            Self::ResourceClaim => ("ResourceClaim", "resourceclaims"),
            Self::Namespace => ("Namespace", "namespaces"),
            Self::Deployment => ("Deployment", "deployments"),
            Self::StatefulSet => ("StatefulSet", "statefulsets"),
            Self::DaemonSet => ("DaemonSet", "daemonsets"),
            Self::Job => ("Job", "jobs"),
            Self::CronJob => ("CronJob", "cronjobs"),
            Self::ResourceSlice => ("ResourceSlice", "resourceslices"),
        }
    }

    /// The kind, as references to objects name it.
    pub(super) fn kind(self) -> &'static str {
        self.names().0
    }

    /// How the API server names it.
    pub(super) fn api_resource(self) -> ApiResource {
        let (kind, plural) = self.names();
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
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Deployment | Self::StatefulSet | Self::DaemonSet => "apps",
            Self::Job | Self::CronJob => "batch",
            Self::VolumeSnapshot => "snapshot.storage.k8s.io",
            Self::ResourceClaim | Self::ResourceSlice => "resource.k8s.io",
            _ => "",
        }
    }

    /// Whether a cluster may not have it.
    pub(super) fn is_custom(self) -> bool {
        matches!(
            self,
            Self::VolumeSnapshot | Self::ResourceClaim | Self::ResourceSlice
        )
    }

    /// Whether it is a controller of pods.
    pub(super) fn is_controller(self) -> bool {
        Self::CONTROLLERS.contains(&self)
    }

    /// Whether such objects live in namespaces.
    pub(super) fn is_namespaced(self) -> bool {
        match self {
            Self::Pod
            | Self::PersistentVolumeClaim
            | Self::Service
            | Self::VolumeSnapshot
            | Self::ResourceClaim
            | Self::Deployment
            | Self::StatefulSet
            | Self::DaemonSet
            | Self::Job
            | Self::CronJob => true,
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
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
            Self::Job => "job",
            Self::CronJob => "cronjob",
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
            assert!(!resource_type.is_controller());
        }
    }

    #[test]
    fn controllers_are_in_namespaces_and_every_cluster_has_them() {
        let paths = ResourceType::CONTROLLERS.map(|it| {
            let resource = it.api_resource();
            assert_eq!(resource.kind.to_lowercase(), it.word());
            assert!(it.is_namespaced() && !it.is_custom() && it.is_controller());
            let word = serde_json::json!(it.word());
            assert!(serde_json::from_value::<ResourceType>(word).is_err());
            format!("{}/{}", resource.api_version, resource.plural)
        });
        assert_eq!(
            paths,
            [
                "apps/v1/deployments",
                "apps/v1/statefulsets",
                "apps/v1/daemonsets",
                "batch/v1/jobs",
                "batch/v1/cronjobs"
            ]
        );
    }
}
