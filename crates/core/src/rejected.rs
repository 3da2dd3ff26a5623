//! Rejected usage that an input keeps, as people see it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// One rejected piece of usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedItem {
    /// The object's UID.
    pub uid: Arc<str>,
    /// The object, for people: `pod default/web-0`.
    pub about: Arc<str>,
    /// The object's namespace, if it belongs to one.
    pub namespace: Option<Arc<str>>,
    /// The first second, Unix seconds.
    pub start: i64,
    /// How long it is.
    pub seconds: i64,
    /// What happened, for people.
    pub reason: Arc<str>,
    /// The kind of reason, in a word.
    pub cause: Arc<str>,
    /// What decided it: a label, or a place in the configuration.
    pub component: Arc<str>,
    /// The customer, where that is known.
    pub subject: Option<Arc<str>>,
    /// When it was tried first, Unix seconds.
    pub first_try: i64,
    /// When it was tried last, Unix seconds.
    pub last_try: i64,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried again by itself, Unix seconds; `None`: when somebody asks for it.
    pub next_try: Option<i64>,
}

/// A part of a long list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedPage {
    /// In the order of their starts.
    pub items: Vec<RejectedItem>,
    /// What to ask for to get those behind; `None` when there are none.
    pub next: Option<String>,
    /// How many there are on all pages.
    pub total: usize,
    /// How long they are together.
    pub total_seconds: i64,
    /// How many were rejected and are no longer kept, for there were too many or they were too old.
    pub not_kept: u64,
}

/// An input that keeps rejected usage.
pub trait RejectedStore: Send + Sync {
    /// At most `limit` pieces behind what `after` names, which is the `next` of another page.
    ///
    /// # Errors
    /// When `after` names nothing.
    fn page(&self, after: Option<&str>, limit: usize) -> Result<RejectedPage, String>;

    /// Has all of it made again. Returns how many pieces.
    fn retry(&self) -> usize;
}

/// All stores of the process by the label of their input. Cloning shares them.
#[derive(Clone, Default)]
pub struct Rejected(Arc<Mutex<Stores>>);

/// Stores by the label of their input.
type Stores = BTreeMap<Arc<str>, Arc<dyn RejectedStore>>;

impl Rejected {
    /// Adds the store of the input with this label.
    pub fn register(&self, label: Arc<str>, store: Arc<dyn RejectedStore>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(label, store);
    }

    /// All of them, in the order of their labels.
    #[must_use]
    pub fn stores(&self) -> Vec<(Arc<str>, Arc<dyn RejectedStore>)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(label, store)| (Arc::clone(label), Arc::clone(store)))
            .collect()
    }
}

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rejected").finish_non_exhaustive()
    }
}
