//! When a pod stopped.
//!
//! The phase shows that a pod is over, but not since when. The containers have the time, if each of them does;
//! otherwise the conditions of the pod have it. All of it comes from the object alone, so that every replica and
//! every restart concludes the same. Only where nothing is recorded the moment counts at which the status was
//! reported or seen.
//!
//! Sources beside the API reference: the kubelet's `TerminatePod` and `convertToAPIContainerStatuses` (a
//! container that it lost track of is `terminated` without times; one that waits for a restart is `waiting`)
//! and the API server's `BeforeDelete` (a further request for the deletion moves `deletionTimestamp` and
//! `deletionGracePeriodSeconds` together).

use meterline_core::Node;
use meterline_ledger::Certainty;

use super::{
    clock::NodeClock,
    moments::{disrupted, last_sign, scheduled, stand_in},
    status::{
        all, before, condition, containers, created, current, grace, initializers, is_over, phase,
        requested, runs, sidecars,
    },
};

/// The grace period of a pod that names none.
const DEFAULT_GRACE: i64 = 30;
/// How long a kubelet may take to report what it stopped at the end of a grace period.
const REPORT_DELAY: i64 = 10;

/// When a pod stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kubernetes_resources) struct End {
    pub(in crate::kubernetes_resources) at: i64,
    pub(in crate::kubernetes_resources) certainty: Certainty,
}

impl End {
    pub(super) fn new(certainty: Certainty, at: i64) -> Self {
        Self { at, certainty }
    }
}

/// Returns when a pod stopped, if its content shows that it has.
pub(super) fn end(pod: Node<'_>, clock: &NodeClock) -> Option<End> {
    if is_over(phase(pod)) {
        return Some(over_since(pod, clock));
    }
    if is_done(pod) {
        let finish = all_finished(pod, false, clock);
        return Some(finish.map_or_else(
            || End::new(Certainty::Seen, clock.seen()),
            |at| End::new(Certainty::Exact, at),
        ));
    }
    // A kubelet starts nothing again in a pod that is being deleted. A finalizer may keep the pod, and not every
    // kubelet then sets a terminal phase.
    let stopped = requested(pod).and_then(|_| stopped(pod, clock));
    stopped.map(|at| End::new(Certainty::Exact, at))
}

/// Returns when a pod stopped whose phase is terminal.
fn over_since(pod: Node<'_>, clock: &NodeClock) -> End {
    let finish = stopped(pod, clock).or_else(|| all_finished(pod, true, clock));
    if let Some(at) = finish {
        return End::new(Certainty::Exact, at);
    }
    if let Some(at) = recorded(pod, clock) {
        return End::new(Certainty::Recorded, at);
    }
    if phase(pod) == "Failed" && all(pod).any(is_running) {
        // Kubelets before 1.25 report an eviction before the containers have stopped.
        return End::new(
            Certainty::Assumed,
            clock.seen().saturating_add(patience(pod)),
        );
    }
    let unready = unready(pod, clock).filter(|_| !clock.is_reported);
    unready.map_or_else(
        || End::new(Certainty::Seen, clock.seen()),
        |at| End::new(Certainty::Recorded, at),
    )
}

/// Returns how long containers may run on in a pod that is over. A kubelet stops them at the end of the grace
/// period.
fn patience(pod: Node<'_>) -> i64 {
    let grace = pod
        .path(&["spec", "terminationGracePeriodSeconds"])
        .and_then(Node::as_i64);
    let grace = grace.unwrap_or(DEFAULT_GRACE).max(0);
    grace.saturating_add(REPORT_DELAY)
}

fn is_running(container: Node<'_>) -> bool {
    current(container).is_some_and(|it| it.is_running)
}

/// Whether every container has terminated and none will be started again, whatever the phase says.
fn is_done(pod: Node<'_>) -> bool {
    let names = || {
        pod.path(&["spec", "containers"])
            .into_iter()
            .flat_map(Node::items)
    };
    let is_over = |container| current(container).is_some_and(|it| !it.is_running);
    let count = containers(pod).count();
    count > 0
        && names().count() <= count
        && containers(pod).chain(sidecars(pod)).all(is_over)
        && !initializers(pod).any(is_running)
        && containers(pod).all(|it| current_exit(it).is_some_and(|code| is_final(pod, it, code)))
}

/// Whether the kubelet does not restart a container that finished with this exit code.
pub(super) fn is_final(pod: Node<'_>, container: Node<'_>, code: i64) -> bool {
    let name = container.get("name").and_then(Node::as_str);
    let spec = pod
        .path(&["spec", "containers"])
        .into_iter()
        .flat_map(Node::items)
        .find(|it| name.is_some() && it.get("name").and_then(Node::as_str) == name);
    // Rules of its own may restart a container that the policy does not.
    if spec.is_some_and(|it| it.get("restartPolicyRules").is_some()) {
        return false;
    }
    let policy = spec.and_then(|it| it.get("restartPolicy"));
    let policy = policy.or_else(|| pod.path(&["spec", "restartPolicy"]));
    match policy.and_then(Node::as_str) {
        Some("Never") => true,
        Some("OnFailure") => code == 0,
        _ => false,
    }
}

fn current_exit(container: Node<'_>) -> Option<i64> {
    let terminated = container.path(&["state", "terminated"])?;
    Some(exit_code(terminated))
}

/// The exit code of a run that is over. Kubelets leave out nothing here, so a missing one is an unknown end.
pub(super) fn exit_code(terminated: Node<'_>) -> i64 {
    let code = terminated.get("exitCode").and_then(Node::as_i64);
    code.unwrap_or(-1)
}

/// Returns when the last container finished, if no container runs and none will be started again.
///
/// A pod whose containers are restarted keeps its reservation while it waits for the restart, up to five
/// minutes of back-off: it stopped when its deletion was requested, unless a container took longer.
pub(super) fn stopped(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let over = is_over(phase(pod));
    let finish = all_finished(pod, over, clock)?;
    if !is_restarted(pod) {
        return Some(finish);
    }
    // The API server sets a grace period of 0 for a pod that is over. So this pod was over before the request.
    let request = requested(pod).filter(|_| !over || grace(pod) > 0);
    disrupted(pod, clock)
        .max(request)
        .map(|request| request.max(finish))
}

/// Returns when the last container or sidecar finished, if that is recorded for each that ever ran.
///
/// For a container that waits, the run before counts only if the pod is `over`: otherwise the container may be
/// started again. An init container counts where no container ran after it.
fn all_finished(pod: Node<'_>, over: bool, clock: &NodeClock) -> Option<i64> {
    let mut last = None;
    for container in containers(pod).chain(sidecars(pod)) {
        let run = match current(container) {
            None if over => before(container),
            current => Some(current?),
        };
        if let Some(run) = run {
            last = last.max(Some(run.finished?));
        }
    }
    for run in initializers(pod).filter_map(|it| current(it).or_else(|| before(it))) {
        let is_last = last.is_none_or(|last| run.started.is_some_and(|started| started >= last));
        if is_last {
            last = last.max(Some(run.finished?));
        }
    }
    last.map(|last| clock.at(last))
}

/// Whether the kubelet restarts containers that finish as these did.
fn is_restarted(pod: Node<'_>) -> bool {
    match pod.path(&["spec", "restartPolicy"]).and_then(Node::as_str) {
        Some("Always") => true,
        Some("OnFailure") => containers(pod).any(|container| {
            container
                .path(&["state", "terminated", "exitCode"])
                .and_then(Node::as_i64)
                .is_some_and(|code| code != 0)
        }),
        _ => false,
    }
}

/// Returns the recorded end of a pod that lost its node or is being deleted, and of whose containers no finish is
/// recorded. A condition from before the last sign of a container does not count: a pod that never was ready
/// is not ready since its creation.
fn recorded(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let sign = last_sign(pod, clock);
    let request = requested(pod);
    let unready = not_ready(pod, clock).filter(|_| request.is_some());
    [disrupted(pod, clock), unready, request]
        .into_iter()
        .flatten()
        .find(|at| Some(*at) >= sign)
}

/// Returns since when a pod is not ready that was ready after its last container started.
fn unready(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    // The first status of a pod, which is written within a second, says that it is not ready.
    let began = stand_in(pod, clock)
        .max(scheduled(pod, clock))
        .max(created(pod));
    let began = began.map(|it| it.saturating_add(1));
    not_ready(pod, clock).filter(|at| Some(*at) > began && Some(*at) >= last_sign(pod, clock))
}

fn not_ready(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let unready = condition(pod, "Ready", "False").max(condition(pod, "ContainersReady", "False"));
    unready.map(|it| clock.at(it))
}

/// Returns how the last runs of all containers ended that are followed by another run, if the kubelet does not
/// restart any of them: the pod was over then, and ran again.
pub(super) fn over_before(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let mut last = None;
    for container in containers(pod) {
        current(container)?;
        let terminated = container.path(&["lastState", "terminated"])?;
        let finished = before(container)?.finished?;
        if !is_final(pod, container, exit_code(terminated)) {
            return None;
        }
        last = last.max(Some(clock.at(finished)));
    }
    last
}

/// Returns since when a pod runs again that had ended at `ended`; `None` if it ran through, or does not run again.
pub(super) fn again(pod: Node<'_>, ended: i64, end: Option<End>, clock: &NodeClock) -> Option<i64> {
    if end.is_some_and(|end| end.at <= ended) {
        return None;
    }
    let mut first: Option<i64> = None;
    let mut is_unknown = false;
    for run in all(pod).flat_map(runs) {
        let Some(started) = run.started.map(|it| clock.at(it)) else {
            is_unknown |= run.is_running;
            continue;
        };
        let goes_on = run.is_running || run.finished.is_some_and(|it| clock.at(it) > ended);
        if started <= ended && goes_on {
            return None;
        }
        if started > ended {
            first = Some(first.map_or(started, |first| first.min(started)));
        }
    }
    first.or_else(|| (is_unknown && end.is_none()).then(|| clock.seen()))
}
