//! Readiness: every part that can be unready reports under its own name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The health of all parts. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<Arc<str>, State>>>);

#[derive(Debug, Clone)]
struct State {
    ready: bool,
    detail: Arc<str>,
}

/// The state of all parts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether every part is ready.
    pub ready: bool,
    /// Name, whether it is ready, and a detail of each part.
    pub parts: Vec<(Arc<str>, bool, Arc<str>)>,
}

/// The handle by which one part reports its health.
#[derive(Debug, Clone)]
pub struct HealthHandle {
    health: Health,
    part: Arc<str>,
}

impl Health {
    /// Adds a part, which is not ready until it reports so.
    #[must_use]
    pub fn register(&self, part: impl Into<Arc<str>>) -> HealthHandle {
        let handle = HealthHandle {
            health: self.clone(),
            part: part.into(),
        };
        handle.not_ready("starting");
        handle
    }

    /// The state of all parts now.
    #[must_use]
    pub fn report(&self) -> HealthReport {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        HealthReport {
            ready: states.values().all(|state| state.ready),
            parts: states
                .iter()
                .map(|(part, state)| (Arc::clone(part), state.ready, Arc::clone(&state.detail)))
                .collect(),
        }
    }
}

impl HealthHandle {
    /// Reports that the part works. `detail` may be empty.
    pub fn ready(&self, detail: impl Into<Arc<str>>) {
        self.set(true, detail.into());
    }

    /// Reports that the part does not work, with a reason that an operator can act on.
    pub fn not_ready(&self, reason: impl Into<Arc<str>>) {
        self.set(false, reason.into());
    }

    fn set(&self, ready: bool, detail: Arc<str>) {
        self.health
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(Arc::clone(&self.part), State { ready, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_ready_only_when_each_part_is() {
        let health = Health::default();
        assert!(health.report().ready);
        let input = health.register("input");
        let output = health.register("output");
        input.ready("");
        assert!(!health.report().ready);
        output.ready("");
        assert!(health.report().ready);
        output.not_ready("401 from https://example.com");
        let report = health.report();
        assert!(!report.ready);
        assert_eq!(report.parts[1].2.as_ref(), "401 from https://example.com");
    }
}
