//! Which controllers exist, which pods each of them has, and which that are gone may still be needed.
//!
//! Tenants create and delete controllers, so those that are gone are forgotten: once everything up to that moment is
//! delivered, because then every pod that they made is known and has their metadata, and the oldest ones of a
//! namespace before that, if there are too many.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use meterline_ledger::{Uid, UnixSeconds};

/// How many bytes of metadata of controllers that are gone are kept of one namespace.
const MOST_BYTES: usize = 16 << 20;
/// What a controller takes besides its metadata.
const OVERHEAD: usize = 512;
/// The number of pods from which on those that are gone are looked for.
const FIRST_SWEEP: usize = 1_024;

/// The controllers of a namespace that are gone, in order.
#[derive(Debug, Default)]
struct GoneOnes {
    list: VecDeque<Gone>,
    bytes: usize,
}

impl GoneOnes {
    /// Takes out the first one if this is true of it.
    fn pop_if(&mut self, is_over: impl FnOnce(&Gone) -> bool) -> Option<Gone> {
        let oldest = self.list.pop_front_if(|it| is_over(it))?;
        self.bytes = self.bytes.saturating_sub(oldest.bytes);
        Some(oldest)
    }
}

/// A controller that exists.
#[derive(Debug, Clone, Copy)]
pub(in crate::kubernetes_resources) struct Controller<'a> {
    pub(in crate::kubernetes_resources) uid: &'a Uid,
    /// What its pods find it by.
    pub(in crate::kubernetes_resources) key: &'a str,
    pub(in crate::kubernetes_resources) created: UnixSeconds,
}

/// A controller that is gone.
#[derive(Debug)]
struct Gone {
    at: UnixSeconds,
    key: Box<str>,
    bytes: usize,
}

/// See the module documentation. Controllers are named by their keys, which start with their namespace.
#[derive(Debug)]
pub(super) struct Controllers {
    /// The key of each controller that exists, by UID.
    keys: HashMap<Uid, Box<str>>,
    /// The UID of each controller that exists, and when it was created, by key: another one may get the name of one
    /// that is gone.
    uids: HashMap<Box<str>, (Uid, UnixSeconds)>,
    /// Those that are gone, with when.
    gone_at: HashMap<Box<str>, UnixSeconds>,
    /// The same by namespace, in order. A controller that exists again is still in it.
    gone: HashMap<Box<str>, GoneOnes>,
    /// The pods of each controller.
    pods: HashMap<Box<str>, Vec<Uid>>,
    /// How many pods these are, and at how many those that are gone are removed.
    count: usize,
    sweep_at: usize,
}

/// The namespace of a controller.
pub(super) fn namespace(key: &str) -> &str {
    key.split('/').next().unwrap_or_default()
}

impl Default for Controllers {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            uids: HashMap::new(),
            gone_at: HashMap::new(),
            gone: HashMap::new(),
            pods: HashMap::new(),
            count: 0,
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl Controllers {
    /// A controller exists. Returns whether this is news of the one that has the name now: after a gap a list shows what
    /// exists, and then comes the last state of what does not.
    pub(super) fn exists(&mut self, controller: Controller<'_>) -> bool {
        let Controller { uid, key, created } = controller;
        match self.uids.get(key) {
            Some((known, _)) if known == uid => return true,
            Some((_, known)) if *known > created => return false,
            _ => {}
        }
        self.keys.insert(Arc::clone(uid), key.into());
        let before = self.uids.insert(key.into(), (Arc::clone(uid), created));
        if let Some((before, _)) = before {
            self.keys.remove(&before);
        }
        self.gone_at.remove(key);
        true
    }

    /// Whether a controller exists, or is gone and not to be forgotten yet.
    pub(super) fn is_known(&self, key: &str) -> bool {
        self.uids.contains_key(key) || self.gone_at.contains_key(key)
    }

    /// A controller is gone since `at`. Returns its key, unless another one has its name already.
    pub(super) fn gone(&mut self, uid: &str, at: UnixSeconds) -> Option<Box<str>> {
        let key = self.keys.remove(uid)?;
        self.uids.remove(&key);
        self.gone_at.insert(key.clone(), at);
        Some(key)
    }

    /// Keeps a controller that is gone since `at` while its `bytes` may be needed. Returns those that are to be
    /// forgotten for it.
    pub(super) fn keep(&mut self, key: &str, at: UnixSeconds, bytes: usize) -> Vec<Box<str>> {
        let gone = self.gone.entry(namespace(key).into()).or_default();
        let bytes = bytes.saturating_add(OVERHEAD);
        let key = key.into();
        gone.list.push_back(Gone { at, key, bytes });
        gone.bytes = gone.bytes.saturating_add(bytes);
        let mut forgotten = Vec::new();
        while gone.bytes > MOST_BYTES
            && let Some(oldest) = gone.pop_if(|_| true)
        {
            forgotten.push(oldest);
        }
        self.forgotten(forgotten)
    }

    /// Everything up to `watermark` is delivered. Returns those that are to be forgotten.
    pub(super) fn forget(&mut self, watermark: UnixSeconds) -> Vec<Box<str>> {
        let mut forgotten = Vec::new();
        self.gone.retain(|_, gone| {
            while let Some(oldest) = gone.pop_if(|it| it.at <= watermark) {
                forgotten.push(oldest);
            }
            !gone.list.is_empty()
        });
        self.forgotten(forgotten)
    }

    /// Those of these that do not exist again, and have not gone again.
    fn forgotten(&mut self, gone: Vec<Gone>) -> Vec<Box<str>> {
        let gone = gone.into_iter();
        let is_gone = |it: &Gone| self.gone_at.get(&it.key) == Some(&it.at);
        let keys: Vec<_> = gone.filter(is_gone).map(|it| it.key).collect();
        for key in &keys {
            self.gone_at.remove(key);
        }
        keys
    }

    /// A controller has this pod. `exists` tells which pods are still known.
    pub(super) fn has(&mut self, key: &str, pod: &Uid, exists: impl Fn(&str) -> bool) {
        if self.count >= self.sweep_at {
            self.pods.retain(|_, pods| {
                pods.retain(|it| exists(it));
                pods.shrink_to_fit();
                !pods.is_empty()
            });
            self.count = self.pods.values().map(Vec::len).sum();
            self.sweep_at = self.count.saturating_mul(2).max(FIRST_SWEEP);
        }
        self.count = self.count.saturating_add(1);
        let pods = self.pods.entry(key.into()).or_default();
        pods.push(Arc::clone(pod));
    }

    /// The pods that a controller has or had.
    pub(super) fn pods(&self, key: &str) -> Vec<Uid> {
        self.pods.get(key).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "n/Deployment/web";

    fn exists(controllers: &mut Controllers, uid: &str, key: &str, created: i64) -> bool {
        let uid = &uid.into();
        controllers.exists(Controller { uid, key, created })
    }

    fn gone(controllers: &mut Controllers, uid: &str, at: i64) -> Vec<String> {
        let key = controllers.gone(uid, at).unwrap();
        let forgotten = controllers.keep(&key, at, 10).into_iter();
        forgotten.map(String::from).collect()
    }

    #[test]
    fn a_controller_that_is_gone_is_forgotten_once_everything_before_is_delivered() {
        let mut controllers = Controllers::default();
        exists(&mut controllers, "u", KEY, 117);
        assert!(controllers.is_known(KEY) && controllers.forget(99).is_empty());
        assert_eq!(gone(&mut controllers, "u", 20), [""; 0]);
        assert!(controllers.forget(19).is_empty() && controllers.is_known(KEY));
        assert_eq!(controllers.forget(20), [KEY.into()]);
        assert!(!controllers.is_known(KEY) && controllers.gone.is_empty());
        assert_eq!(controllers.gone("u", 21), None);
    }

    #[test]
    fn a_controller_that_gets_the_name_of_one_that_is_gone_is_kept() {
        let mut controllers = Controllers::default();
        exists(&mut controllers, "a", KEY, 97);
        gone(&mut controllers, "a", 20);
        exists(&mut controllers, "b", KEY, 98);
        assert!(controllers.forget(30).is_empty() && controllers.is_known(KEY));
        // A list shows the new one first, and then misses the one before.
        exists(&mut controllers, "c", KEY, 99);
        assert!(!exists(&mut controllers, "b", KEY, 98), "its last state");
        assert_eq!(controllers.gone("b", 40), None);
        assert_eq!(controllers.forget(50).len(), 0);
        gone(&mut controllers, "c", 60);
        exists(&mut controllers, "d", KEY, 100);
        gone(&mut controllers, "d", 70);
        assert!(controllers.forget(60).is_empty(), "it went again later");
        assert_eq!(controllers.forget(70), [KEY.into()]);
    }

    #[test]
    fn one_namespace_takes_nothing_from_another() {
        let mut controllers = Controllers::default();
        exists(&mut controllers, "other", "other/Job/j/other", 111);
        gone(&mut controllers, "other", 1);
        let mut forgotten = Vec::new();
        for number in 0..40_000 {
            let uid: Uid = number.to_string().into();
            exists(&mut controllers, &uid, &format!("n/Job/j/{uid}"), 1);
            forgotten.extend(gone(&mut controllers, &uid, 5));
        }
        let most = MOST_BYTES / (OVERHEAD + 10);
        assert_eq!(forgotten.len(), 40_000 - most);
        assert_eq!(forgotten[0], "n/Job/j/0");
        assert!(controllers.is_known("other/Job/j/other"));
        assert_eq!(controllers.forget(5).len(), most + 1);
        assert!(controllers.gone_at.is_empty() && controllers.keys.is_empty());
    }

    #[test]
    fn pods_that_are_gone_are_removed_in_time() {
        let mut controllers = Controllers::default();
        for number in 0..10_000_u32 {
            let exists = |pod: &str| pod.parse::<u32>().unwrap() + 100 > number;
            let key = format!("n/Job/j/{}", number / 2);
            controllers.has(&key, &number.to_string().into(), exists);
            assert!(controllers.count <= FIRST_SWEEP + 1 && controllers.pods.len() <= 600);
        }
        let pods: Vec<Uid> = ["9998", "9999"].map(Into::into).into();
        assert_eq!(controllers.pods("n/Job/j/4999"), pods);
        assert!(controllers.pods("n/Job/j/0").is_empty());
    }
}
