//! The objects of which an event fails while those of others are taken: what comes of them next goes by
//! itself, so that it holds up no others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Duration, Instant};

use crate::sink::Delivery;

/// So many are remembered, each for so long after the last event that failed.
const MOST: usize = 4_096;
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Objects by UID.
#[derive(Default)]
pub(crate) struct Suspects(Mutex<HashMap<Arc<str>, Suspect>>);

struct Suspect {
    /// One of its events was set aside.
    convicted: bool,
    /// When one of its events failed last.
    at: Instant,
}

impl Suspects {
    /// An event of this object failed while others were taken, and was set aside if `convicted`.
    pub(crate) fn add(&self, object: &Arc<str>, convicted: bool) {
        let at = Instant::now();
        let mut known = self.known();
        if let Some(suspect) = known.get_mut(object) {
            suspect.convicted |= convicted;
            suspect.at = at;
            return;
        }
        if known.len() >= MOST {
            known.retain(|_, suspect| at.duration_since(suspect.at) < REMEMBERED);
        }
        // One more than can be remembered costs its neighbours a bisection, and nothing else.
        if known.len() < MOST {
            known.insert(Arc::clone(object), Suspect { convicted, at });
        }
    }

    /// An event of this object was taken.
    pub(crate) fn clear(&self, object: &Arc<str>) {
        self.known().remove(object);
    }

    /// Whether an event of this object was set aside, and none was taken since.
    pub(crate) fn is_convicted(&self, object: &Arc<str>) -> bool {
        self.known().get(object).is_some_and(|it| it.convicted)
    }

    /// Takes out the events of suspects; the others stay in order.
    pub(crate) fn take_from(&self, deliveries: &mut Vec<Delivery>) -> Vec<Delivery> {
        let known = self.known();
        if known.is_empty() {
            return Vec::new();
        }
        let is_known = |delivery: &mut Delivery| {
            let object = delivery.message.identity();
            object.is_some_and(|object| known.contains_key(&object.uid))
        };
        deliveries.extract_if(.., is_known).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Suspect>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_frees_itself() {
        let suspects = Suspects::default();
        for object in 0..MOST + 10 {
            suspects.add(&object.to_string().into(), true);
        }
        assert!(!suspects.is_convicted(&MOST.to_string().into()));
        tokio::time::advance(REMEMBERED).await;
        suspects.add(&"new".into(), false);
        assert!(!suspects.is_convicted(&"new".into()));
        suspects.add(&"new".into(), true);
        assert_eq!(suspects.known().len(), 1);
        suspects.clear(&"new".into());
        assert!(!suspects.is_convicted(&"new".into()));
    }
}
