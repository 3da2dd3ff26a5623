//! Rejected usage for the admin server: an input that keeps it implements [`RejectedStore`], and the admin
//! server reads it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use thiserror::Error;

/// One rejected piece of usage. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedItem {
    /// Of the object.
    pub uid: Arc<str>,
    /// The readable name of the object, such as `pod default/web-0`.
    pub about: Arc<str>,
    /// Its namespace; `None` if it has none.
    pub namespace: Option<Arc<str>>,
    /// When the piece begins.
    pub start: i64,
    /// Its length in seconds.
    pub seconds: i64,
    /// Why it was rejected, and what to do about it.
    pub reason: Arc<str>,
    /// The kind of the reason.
    pub cause: Arc<str>,
    /// The place in the configuration that rejected it.
    pub component: Arc<str>,
    /// The subject of the event, if it has one.
    pub subject: Option<Arc<str>>,
    /// When it was first tried.
    pub first_try: i64,
    /// When it was last tried.
    pub last_try: i64,
    /// How many times it was tried.
    pub tries: u32,
    /// When it is tried again; `None`: at the next start, or on request.
    pub next_try: Option<i64>,
}

/// A page of what a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectedPage {
    /// In the order of the store.
    pub items: Vec<RejectedItem>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
    /// How many pieces the store holds.
    pub total: usize,
    /// The length of all of them, in seconds.
    pub total_seconds: i64,
    /// How many rejected pieces the store could not keep.
    pub not_kept: u64,
}

/// Why a store does not list or retry what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RejectedError {
    /// The position is not one that this store returned.
    #[error("`{0}` is not the `next` of a page; leave `after` out to begin at the start")]
    UnknownCursor(String),
    /// The input that keeps the usage has ended.
    #[error("the input has ended")]
    Ended,
    /// Another replica leads.
    #[error(
        "this replica is not the leader and sends no events; send the request to the leader, `{leader}`. Usage \
         that was rejected while this replica led is retried when it leads again"
    )]
    NotLeader {
        /// The name of the replica that leads.
        leader: Arc<str>,
    },
}

/// Keeps rejected pieces, lists them and retries them. With several replicas, each keeps what was rejected
/// while it led, and retries it while it leads.
pub trait RejectedStore: Send + Sync {
    /// Returns at most `limit` pieces after the position from [`RejectedPage::next`], or the first ones. A
    /// limit of 0 returns the totals only. It may read a file, so it is called where blocking is allowed.
    ///
    /// # Errors
    /// `after` is not such a position, or the input has ended.
    fn page(&self, after: Option<&str>, limit: usize) -> Result<RejectedPage, RejectedError>;

    /// Schedules all of them to be retried soon. Returns how many there are.
    ///
    /// # Errors
    /// Another replica leads, because only the leader retries; or the input has ended.
    fn retry(&self) -> Result<usize, RejectedError>;
}

/// All stores of the process, by the label of their input. Cloning shares it.
#[derive(Clone, Default)]
pub struct Rejected(Arc<Mutex<Stores>>);

type Stores = BTreeMap<Arc<str>, Arc<dyn RejectedStore>>;

impl Rejected {
    /// Adds the store of an input; it replaces one with the same label.
    pub fn register(&self, label: impl Into<Arc<str>>, store: Arc<dyn RejectedStore>) {
        self.lock().insert(label.into(), store);
    }

    /// All of them, sorted by label.
    #[must_use]
    pub fn stores(&self) -> Vec<(Arc<str>, Arc<dyn RejectedStore>)> {
        let stores = self.lock();
        let pair = |(label, store): (&Arc<str>, &Arc<_>)| (Arc::clone(label), Arc::clone(store));
        stores.iter().map(pair).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stores> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Empty;

    impl RejectedStore for Empty {
        fn page(&self, _: Option<&str>, _: usize) -> Result<RejectedPage, RejectedError> {
            Ok(RejectedPage::default())
        }

        fn retry(&self) -> Result<usize, RejectedError> {
            Ok(0)
        }
    }

    #[test]
    fn a_clone_sees_the_stores_sorted_by_label() {
        let rejected = Rejected::default();
        let other = rejected.clone();
        rejected.register("b", Arc::new(Empty));
        rejected.register("a", Arc::new(Empty));
        let labels: Vec<_> = other.stores().into_iter().map(|(label, _)| label).collect();
        assert_eq!(labels, ["a".into(), "b".into()]);
    }
}
