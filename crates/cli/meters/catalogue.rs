//! The meters of the events that the presets emit.
//!
//! A preset that emits another type of event gets an entry in [`CATALOGUE`], and a sample object in
//! the tests below, which check that the mapping of the preset emits every field that is named here.

use super::definition::Definition;

/// The meters of one type of event.
pub(super) struct EventMeters {
    pub(super) event_type: &'static str,
    /// The presets that emit such events.
    pub(super) presets: &'static [&'static str],
    pub(super) meters: &'static [Meter],
}

/// A meter. Fields are those of the event's `data`, without the `$.` of a path.
pub(super) struct Meter {
    pub(super) slug: &'static str,
    /// The name that people see, with the unit.
    pub(super) name: &'static str,
    pub(super) measure: Measure,
    /// The name of each group-by beside [`CLUSTER`], and its field. Each costs a scan of the events that are queried.
    pub(super) group_by: &'static [GroupBy],
}

/// The name of a group-by, and its field.
type GroupBy = (&'static str, &'static str);

/// The group-by that every meter has: the clusters that send to one server are told apart by it.
const CLUSTER: GroupBy = ("cluster", "cluster");

impl Meter {
    /// Every group-by.
    fn group_by(&self) -> impl Iterator<Item = GroupBy> {
        self.group_by.iter().copied().chain([CLUSTER])
    }
}

/// What a meter computes from the events of a period.
pub(super) enum Measure {
    /// The number of events.
    Count,
    /// The sum of a field.
    Sum(&'static str),
}

/// Every meter. A slug, a type of event and a measure are final once a server has them.
pub(super) const CATALOGUE: &[EventMeters] = &[
    POD_EXEC_TIME,
    POD_DEVICE_TIME,
    NODE_TIME,
    LOAD_BALANCER_TIME,
    VOLUME_TIME,
    SNAPSHOT_TIME,
];

const POD_EXEC_TIME: EventMeters = EventMeters {
    event_type: "kube-pod-exec-time",
    presets: &["kubernetes-pod-exec-time"],
    meters: &[
        Meter {
            slug: "pod_execution_time",
            name: "Pod execution time (s)",
            measure: Measure::Sum("duration_seconds"),
            group_by: &[("pod_name", "pod_name"), ("pod_namespace", "pod_namespace")],
        },
        Meter {
            slug: "k8s_cpu_request_core_seconds",
            name: "CPU reserved (core-s)",
            measure: Measure::Sum("cpu_request_millicores_per_second"),
            group_by: &[("namespace", "pod_namespace")],
        },
        Meter {
            slug: "k8s_cpu_limit_core_seconds",
            name: "CPU limit (core-s)",
            measure: Measure::Sum("cpu_limit_millicores_per_second"),
            group_by: &[("namespace", "pod_namespace")],
        },
        Meter {
            slug: "k8s_memory_request_gib_hours",
            name: "Memory reserved (GiB-h)",
            measure: Measure::Sum("memory_request_gib_hours"),
            group_by: &[("namespace", "pod_namespace")],
        },
        Meter {
            slug: "k8s_memory_limit_gib_hours",
            name: "Memory limit (GiB-h)",
            measure: Measure::Sum("memory_limit_gib_hours"),
            group_by: &[("namespace", "pod_namespace")],
        },
        Meter {
            slug: "k8s_ephemeral_storage_gib_hours",
            name: "Ephemeral storage reserved (GiB-h)",
            measure: Measure::Sum("ephemeral_storage_request_gib_hours"),
            group_by: &[("namespace", "pod_namespace")],
        },
        Meter {
            slug: "meterline_events",
            name: "Meterline: events (audit)",
            measure: Measure::Count,
            group_by: &[],
        },
        Meter {
            slug: "meterline_pod_seconds",
            name: "Meterline: billed pod-seconds (audit)",
            measure: Measure::Sum("duration_seconds"),
            group_by: &[],
        },
    ],
};

const POD_DEVICE_TIME: EventMeters = EventMeters {
    event_type: "kube-pod-device-time",
    presets: &["kubernetes-pod-device-time"],
    meters: &[
        Meter {
            slug: "k8s_gpu_hours",
            name: "GPU time (device-h)",
            measure: Measure::Sum("device_hours"),
            group_by: &[
                ("namespace", "pod_namespace"),
                ("gpu_type", "gpu_type"),
                ("partition", "partition"),
                ("sharing", "sharing"),
                ("resource", "resource"),
            ],
        },
        Meter {
            slug: "k8s_gpu_equivalent_hours",
            name: "GPU time in whole-GPU equivalents (h)",
            measure: Measure::Sum("gpu_equivalent_hours"),
            group_by: &[("namespace", "pod_namespace"), ("gpu_type", "gpu_type")],
        },
    ],
};

const NODE_TIME: EventMeters = EventMeters {
    event_type: "kube-node-time",
    presets: &["kubernetes-node-time"],
    meters: &[Meter {
        slug: "k8s_node_hours",
        name: "Node time (h)",
        measure: Measure::Sum("hours"),
        group_by: &[
            ("instance_type", "instance_type"),
            ("capacity_type", "capacity_type"),
            ("zone", "zone"),
            ("nodepool", "nodepool"),
            ("ready", "ready"),
        ],
    }],
};

const LOAD_BALANCER_TIME: EventMeters = EventMeters {
    event_type: "kube-loadbalancer-time",
    presets: &["kubernetes-loadbalancer-time"],
    meters: &[Meter {
        slug: "k8s_loadbalancer_hours",
        name: "Load balancer time (h)",
        measure: Measure::Sum("hours"),
        group_by: &[("namespace", "namespace"), ("class", "load_balancer_class")],
    }],
};

const VOLUME_TIME: EventMeters = EventMeters {
    event_type: "kube-volume-time",
    presets: &["kubernetes-volume-time"],
    meters: &[Meter {
        slug: "k8s_volume_gib_hours",
        name: "Persistent volume capacity (GiB-h)",
        measure: Measure::Sum("capacity_gib_hours"),
        group_by: &[
            ("namespace", "namespace"),
            ("storage_class", "storage_class"),
            ("attributes_class", "attributes_class"),
            ("phase", "phase"),
        ],
    }],
};

const SNAPSHOT_TIME: EventMeters = EventMeters {
    event_type: "kube-snapshot-time",
    presets: &["kubernetes-snapshot-time"],
    meters: &[Meter {
        slug: "k8s_snapshot_gib_hours",
        name: "Volume snapshots (GiB-h)",
        measure: Measure::Sum("restore_gib_hours"),
        group_by: &[
            ("namespace", "namespace"),
            ("snapshot_class", "snapshot_class"),
        ],
    }],
};

/// A preset that emits the events of other presets, and these.
const COMBINED: (&str, &[&str]) = (
    "kubernetes-all",
    &[
        "kubernetes-pod-exec-time",
        "kubernetes-pod-device-time",
        "kubernetes-node-time",
        "kubernetes-loadbalancer-time",
        "kubernetes-volume-time",
    ],
);

/// Whether a preset emits such events.
fn emits(preset: &str, events: &EventMeters) -> bool {
    let (combined, parts) = COMBINED;
    let is_part = |it: &&str| parts.contains(it);
    events.presets.contains(&preset) || (preset == combined && events.presets.iter().any(is_part))
}

/// The definitions of the meters of a preset; `None`: of all presets.
pub(super) fn definitions(preset: Option<&str>) -> Vec<Definition> {
    let of_preset = |events: &&EventMeters| preset.is_none_or(|it| emits(it, events));
    let of_events = |events: &'static EventMeters| {
        let meters = events.meters.iter();
        meters.map(|meter| definition(events.event_type, meter))
    };
    let events = CATALOGUE.iter().filter(of_preset);
    events.flat_map(of_events).collect()
}

fn definition(event_type: &str, meter: &Meter) -> Definition {
    let path = |field: &str| format!("$.{field}");
    let (aggregation, value) = match meter.measure {
        Measure::Count => ("COUNT", None),
        Measure::Sum(field) => ("SUM", Some(path(field))),
    };
    let group_by = meter.group_by();
    Definition {
        slug: meter.slug.to_owned(),
        name: meter.name.to_owned(),
        event_type: event_type.to_owned(),
        aggregation: aggregation.to_owned(),
        value_property: value,
        group_by: group_by
            .map(|(name, field)| (name.to_owned(), path(field)))
            .collect(),
    }
}

/// The presets that have meters, for people.
pub(super) fn presets() -> String {
    let mut names: Vec<_> = CATALOGUE
        .iter()
        .flat_map(|it| it.presets)
        .copied()
        .chain([COMBINED.0])
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests;
