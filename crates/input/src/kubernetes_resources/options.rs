//! The configuration of one input, and its clock, for all of its parts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    clock::Clock, lifetime::BilledFrom, object::Projection, resource_type::ResourceType,
    watch::Cluster,
};

/// The configuration of one input, and its clock.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) resource_type: ResourceType,
    /// What is kept of objects.
    pub(super) projection: Arc<Projection>,
    /// If the pipeline counts the devices of pods or claims: the resources or drivers that it names beside the tables.
    pub(super) named_devices: Option<BTreeSet<String>>,
    pub(super) label_selector: Option<String>,
    /// From when on pods are billed.
    pub(super) from: BilledFrom,
    /// How long events may take to arrive.
    pub(super) settle: Duration,
    /// How old a window may get before it is given up, in seconds.
    pub(super) max_backlog: i64,
    /// Whether there is a state file.
    pub(super) has_state: bool,
    /// Whether there are other replicas, of which one bills.
    pub(super) is_elected: bool,
    /// The name of the cluster in the ids of events.
    pub(super) cluster_name: Option<Arc<str>>,
    pub(super) clock: Clock,
    /// Where the API server is.
    pub(super) cluster: Cluster,
}
