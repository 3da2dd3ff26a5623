//! What was refused and is not billed, as people see it: who keeps it shows it here, and whoever
//! serves a page reads it here.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// One rejected piece of usage. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedItem {
    /// Of the object.
    pub uid: Arc<str>,
    /// The object as people name it, such as `pod default/web-0`.
    pub about: Arc<str>,
    /// Its namespace; `None` where it has none.
    pub namespace: Option<Arc<str>>,
    /// When the piece begins.
    pub start: i64,
    /// How long it is, in seconds.
    pub seconds: i64,
    /// Why it was rejected, and what to do about it.
    pub reason: Arc<str>,
    /// The kind of the reason, in a word.
    pub cause: Arc<str>,
    /// The place in the configuration that decided it.
    pub component: Arc<str>,
    /// The subject of the event, where it has one.
    pub subject: Option<Arc<str>>,
    /// When it was first tried.
    pub first_try: i64,
    /// When it was last tried.
    pub last_try: i64,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried again; `None`: at the next start, or when somebody asks for it.
    pub next_try: Option<i64>,
}

/// A part of what a store has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectedPage {
    /// In the order of the store.
    pub items: Vec<RejectedItem>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
    /// How many pieces the store has.
    pub total: usize,
    /// The length of all of them, in seconds.
    pub total_seconds: i64,
    /// How many pieces were rejected beyond what the store can keep.
    pub not_kept: u64,
}

/// Keeps rejected pieces, lists them and has them tried again. Where several replicas take turns each
/// keeps what was rejected while it led, and tries it again while it leads.
pub trait RejectedStore: Send + Sync {
    /// At most `limit` pieces after the place that [`RejectedPage::next`] named; from the first
    /// without one. A limit of 0 asks for the totals only. May read a file: it is called where that
    /// holds up nobody.
    ///
    /// # Errors
    /// `after` is no such place; the message says so.
    fn page(&self, after: Option<&str>, limit: usize) -> Result<RejectedPage, String>;

    /// Has all of them tried again soon. Returns how many.
    ///
    /// # Errors
    /// Nothing is tried now, for another replica leads; the message says which.
    fn retry(&self) -> Result<usize, String>;
}

/// All stores of the process, by the label of their input. Cloning shares it.
#[derive(Clone, Default)]
pub struct Rejected(Arc<Mutex<Stores>>);

type Stores = BTreeMap<Arc<str>, Arc<dyn RejectedStore>>;

impl Rejected {
    /// Adds the store of an input; the last one of a label counts.
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
        fn page(&self, _: Option<&str>, _: usize) -> Result<RejectedPage, String> {
            Ok(RejectedPage::default())
        }

        fn retry(&self) -> Result<usize, String> {
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
