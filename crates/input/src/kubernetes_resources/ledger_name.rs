//! The name of a ledger, by which it is found again in a state file and in a Lease.

use std::{fmt, sync::Arc};

/// What a ledger is of: a type of objects and, if a process has several ledgers of it, the label of the input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LedgerName {
    /// The word for one of the objects.
    pub(super) subject: Arc<str>,
    /// The label of the input, if it has one.
    pub(super) label: Option<Arc<str>>,
}

impl LedgerName {
    pub(super) fn new(subject: &str, label: Option<Arc<str>>) -> Self {
        Self {
            subject: subject.into(),
            label,
        }
    }
}

impl fmt::Display for LedgerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "{} {label}", self.subject),
            None => f.write_str(&self.subject),
        }
    }
}
