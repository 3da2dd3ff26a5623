//! When a pod started.

use meterline_core::Node;

use super::{
    clock::NodeClock,
    kinds::VolumePhase,
    moments::{scheduled, stand_in},
    status::{all, containers, created, is_mirror, is_over, phase, runs, time},
};

/// How many seconds after its start a kubelet may show a static pod.
const MIRROR_DELAY: i64 = 120;

/// From when on an object is billed. What is no pod has rules of its own, except a volume that is billed in one phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::kubernetes_resources) enum BilledFrom {
    /// Its creation.
    Created,
    /// It was bound to a node.
    Scheduled,
    /// The start of its first container of any kind.
    #[default]
    Started,
    /// The start of its first regular container, once its phase is `Running`.
    Running,
    /// A persistent volume: each time it enters this phase, until it leaves it.
    InPhase(VolumePhase),
}

/// When a pod began to be billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) at: i64,
    /// Whether no container says when it started, so that another time stands for it.
    pub(super) is_assumed: bool,
}

/// Returns when a pod began to be billed; `None` while it has not.
pub(super) fn start(pod: Node<'_>, from: BilledFrom, clock: &NodeClock) -> Option<Start> {
    let known = |at| Start {
        at,
        is_assumed: false,
    };
    let start = match from {
        BilledFrom::Created => created(pod).map(known),
        BilledFrom::Scheduled => scheduled(pod, clock)
            .or_else(|| bound_at_creation(pod))
            .map(known)
            .or_else(|| first_of_all(pod, clock)),
        BilledFrom::Started => first_of_all(pod, clock),
        BilledFrom::Running => first_regular(pod, clock),
        BilledFrom::InPhase(_) => None,
    }?;
    let since = created(pod).filter(|_| is_mirror(pod));
    Some(Start {
        at: since.map_or(start.at, |since| mirrored_start(start.at, since)),
        ..start
    })
}

/// Returns when a static pod began to be billed that runs since `start` and that the API server shows since
/// `since`.
///
/// A user may delete the mirror of a static pod. Its kubelet then creates another one with a new UID for the
/// same containers: what ran before was billed with the first mirror. So a mirror bills only what ran shortly
/// before it, because a kubelet shows a new static pod some seconds late.
fn mirrored_start(start: i64, since: i64) -> i64 {
    if since.saturating_sub(start) > MIRROR_DELAY {
        since
    } else {
        start
    }
}

/// A pod that was created with the name of its node needs no scheduler, so nothing records when it was bound.
fn bound_at_creation(pod: Node<'_>) -> Option<i64> {
    let node = pod.path(&["spec", "nodeName"]).and_then(Node::as_str)?;
    created(pod).filter(|_| !node.is_empty())
}

/// The start of the first container of any kind.
fn first_of_all(pod: Node<'_>, clock: &NodeClock) -> Option<Start> {
    first_start(pod, all(pod), clock).or_else(|| accepted(pod, clock))
}

/// The start of the first regular container, for a pod that is or was in the phase `Running`. A pod that is over
/// was in it if one of them ran.
fn first_regular(pod: Node<'_>, clock: &NodeClock) -> Option<Start> {
    let phase = phase(pod);
    let was_running = phase == "Running" || phase == "Unknown" || is_over(phase);
    let start = first_start(pod, containers(pod), clock).filter(|_| was_running);
    start.or_else(|| accepted(pod, clock))
}

/// A pod that runs and has no container status yet: the kubelet has accepted it.
fn accepted(pod: Node<'_>, clock: &NodeClock) -> Option<Start> {
    let is_accepted = phase(pod) == "Running" && containers(pod).next().is_none();
    let accepted = time(pod.path(&["status", "startTime"])).map(|it| clock.at(it));
    let at = accepted.or_else(|| created(pod)).filter(|_| is_accepted)?;
    Some(Start {
        at,
        is_assumed: true,
    })
}

/// Returns the earliest start of a container that the status still contains, not before the pod was scheduled.
///
/// A status contains one run before the current one. From the second restart of its containers on, a pod seems to
/// have started later than it did. A ledger that knew the pod before keeps the first start. For another ledger
/// nothing else in the object records it: `startTime` and the conditions `Initialized` and
/// `PodReadyToStartContainers` lie before the first start by the time that the image pull took. If they were
/// used, every ledger would bill that time in addition, at the second restart.
///
/// A container of which no run has a start is another matter: it ran, and without a stand-in it would be free.
fn first_start<'a>(
    pod: Node<'a>,
    containers: impl Iterator<Item = Node<'a>>,
    clock: &NodeClock,
) -> Option<Start> {
    let mut first: Option<Start> = None;
    for container in containers {
        let Some(start) = container_start(pod, container, clock) else {
            continue;
        };
        if first.is_none_or(|first| start.at < first.at) {
            first = Some(start);
        }
    }
    first
}

fn container_start(pod: Node<'_>, container: Node<'_>, clock: &NodeClock) -> Option<Start> {
    let is_assumed = |is_assumed| move |at| Start { at, is_assumed };
    let known = runs(container).filter_map(|run| run.started).min();
    if let Some(known) = known {
        let at = clock.at(known);
        let scheduled = scheduled(pod, clock);
        return Some(is_assumed(false)(at.max(scheduled.unwrap_or(at))));
    }
    runs(container).next()?;
    stand_in(pod, clock).map(is_assumed(true))
}
