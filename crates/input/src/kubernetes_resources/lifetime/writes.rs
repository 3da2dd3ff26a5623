//! When parts of an object were last written.

/// When parts of an object were last written, as far as the API server recorded it in its managed fields, in Unix
/// seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::kubernetes_resources) struct Writes {
    /// Metadata or spec.
    pub(in crate::kubernetes_resources) content: Option<i64>,
    /// The spec.
    pub(in crate::kubernetes_resources) spec: Option<i64>,
    /// The status.
    pub(in crate::kubernetes_resources) status: Option<i64>,
    /// The phase, or the statuses of a pod's containers, by whoever wrote them last.
    pub(in crate::kubernetes_resources) phase: Option<i64>,
    /// The allocation of a claim of devices.
    pub(in crate::kubernetes_resources) allocation: Option<i64>,
    /// The oldest last write of somebody who wrote `spec.type`.
    pub(in crate::kubernetes_resources) typed: Option<i64>,
    /// The oldest last write of somebody who wrote the spec and not its type.
    pub(in crate::kubernetes_resources) untyped: Option<i64>,
}
