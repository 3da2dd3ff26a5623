//! Answers of the API server that were taken as proof that a watch is current, and events that refute them.
//!
//! A server or a proxy that answers a list at once may delay a watch. The resource version shows it: an answer
//! contains everything up to its version, so an event that arrives after the answer with an older version came
//! late, and what it reports happened before the answer came. It also happened after the request of the answer
//! before that one, which bounds how late the event came.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How many proofs are kept: an hour of the usual windows, and a quarter of an hour of the shortest.
const MOST: usize = 1_000;

/// An answer of the API server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// When it was requested.
    pub(crate) requested_at: Instant,
    /// When it arrived.
    pub(crate) came: Instant,
    /// The resource version that the server was at.
    pub(crate) version: u64,
}

/// Answers with one version.
#[derive(Debug)]
struct Proof {
    version: u64,
    /// When the first of them arrived.
    came: Instant,
    /// When the last of them was requested.
    requested_at: Instant,
}

/// The known lag of a watch.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    /// Ordered by version.
    taken: VecDeque<Proof>,
    lag: Duration,
}

/// When an event happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dated {
    /// At the latest: when the event arrived or, if an answer is newer than the event, when that answer arrived.
    pub(crate) by: Instant,
    /// At the earliest, if events come late.
    pub(crate) late_since: Option<Instant>,
    /// Whether the known lag has grown by a second or more.
    pub(crate) is_news: bool,
}

/// The least growth of the lag that is reported.
const REPORTED_GROWTH: Duration = Duration::from_secs(1);

impl Proofs {
    /// A list is complete: versions from before it no longer count, because the server may have been restored from
    /// a backup.
    pub(crate) fn clear(&mut self) {
        self.taken.clear();
    }

    /// How late events come, as far as they have shown.
    pub(crate) fn lag(&self) -> Duration {
        self.lag
    }

    /// Takes an answer as proof.
    pub(crate) fn take(&mut self, answer: Answer) {
        match self.taken.back_mut() {
            Some(last) if last.version == answer.version => {
                last.requested_at = last.requested_at.max(answer.requested_at);
                return;
            }
            Some(last) if last.version > answer.version => self.taken.clear(),
            _ => {}
        }
        if self.taken.len() >= MOST {
            self.taken.pop_front();
        }
        self.taken.push_back(Proof {
            version: answer.version,
            came: answer.came,
            requested_at: answer.requested_at,
        });
    }

    /// An event of this version arrived at `now`, on a watch that was read without a break since `since`. An event
    /// may arrive after a newer answer by `tolerance`, because windows wait for as long.
    pub(crate) fn event(
        &mut self,
        version: u64,
        (since, now): (Instant, Instant),
        tolerance: Duration,
    ) -> Dated {
        let index = self.taken.partition_point(|it| it.version < version);
        let before = index.checked_sub(1).and_then(|it| self.taken.get(it));
        let since = before.map_or(since, |it| it.requested_at.max(since));
        let known = self.lag;
        let mut by = now;
        if let Some(after) = self.taken.get(index) {
            by = after.came.min(now);
            if now.saturating_duration_since(by) > tolerance {
                self.lag = known.max(now.saturating_duration_since(since));
            }
        }
        let earliest = now.checked_sub(self.lag).map_or(since, |it| it.max(since));
        Dated {
            by,
            late_since: (!self.lag.is_zero()).then(|| earliest.min(by)),
            is_news: self.lag > known && self.lag >= known + REPORTED_GROWTH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Duration = Duration::from_secs(1);

    struct Scene {
        begin: Instant,
        proofs: Proofs,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                begin: Instant::now(),
                proofs: Proofs::default(),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.begin + Duration::from_secs(seconds)
        }

        /// Requested in one second, and answered in the next.
        fn take(&mut self, version: u64, requested_at: u64) {
            self.proofs.take(Answer {
                requested_at: self.at(requested_at),
                came: self.at(requested_at + 1),
                version,
            });
        }

        /// Returns by when an event happened, and the known lag, in seconds.
        fn event(&mut self, version: u64, came: u64) -> (u64, u64) {
            let span = (self.begin, self.at(came));
            let dated = self.proofs.event(version, span, TOLERANCE);
            let by = dated.by.duration_since(self.begin).as_secs();
            (by, self.proofs.lag().as_secs())
        }
    }

    #[test]
    fn an_event_that_is_newer_than_every_answer_refutes_none() {
        let mut scene = Scene::new();
        assert_eq!(scene.event(5, 3), (3, 0));
        scene.take(5, 10);
        assert_eq!(scene.event(6, 100), (100, 0));
    }

    #[test]
    fn an_event_that_is_older_than_an_answer_happened_before_it_and_after_the_one_before() {
        let mut scene = Scene::new();
        scene.take(5, 10);
        scene.take(9, 20);
        scene.take(15, 30);
        // After 10, when the answer with 5 was requested, and before 21, when that with 9 arrived.
        assert_eq!(scene.event(7, 40), (21, 30));
        assert_eq!(scene.event(9, 40), (21, 30));
        assert_eq!(scene.event(12, 40), (31, 30));
        assert_eq!(scene.event(3, 35), (11, 35));
    }

    #[test]
    fn an_event_right_after_an_answer_is_not_late() {
        let mut scene = Scene::new();
        scene.take(5, 10);
        assert_eq!(scene.event(5, 12), (11, 0));
        assert_eq!(scene.event(5, 13), (11, 13));
    }

    #[test]
    fn answers_of_one_version_are_one_proof() {
        let mut scene = Scene::new();
        scene.take(5, 10);
        scene.take(5, 16);
        scene.take(9, 20);
        assert_eq!(scene.event(5, 30), (11, 30));
        let mut scene = Scene::new();
        scene.take(5, 10);
        scene.take(5, 16);
        scene.take(9, 20);
        assert_eq!(scene.event(6, 30), (21, 14));
    }

    #[test]
    fn events_of_a_server_that_was_restored_refute_nothing() {
        let mut scene = Scene::new();
        scene.take(50, 10);
        scene.take(5, 20);
        assert_eq!(scene.event(6, 30), (30, 0));
        scene.proofs.clear();
        assert_eq!(scene.event(5, 30), (30, 0));
    }

    #[test]
    fn a_late_event_happened_no_earlier_than_the_lag() {
        let mut scene = Scene::new();
        scene.take(5, 10);
        let dated = |scene: &mut Scene, version, came| {
            let span = (scene.begin, scene.at(came));
            let dated = scene.proofs.event(version, span, TOLERANCE);
            let seconds = |it: Instant| it.duration_since(scene.begin).as_secs();
            (
                dated.late_since.map(seconds),
                seconds(dated.by),
                dated.is_news,
            )
        };
        assert_eq!(dated(&mut scene, 6, 20), (None, 20, false));
        scene.take(9, 20);
        assert_eq!(dated(&mut scene, 8, 25), (Some(10), 21, true));
        // No answer is newer than these; the lag is 15 seconds.
        assert_eq!(dated(&mut scene, 10, 26), (Some(20), 26, false));
        assert_eq!(dated(&mut scene, 11, 60), (Some(45), 60, false));
    }

    #[test]
    fn the_number_of_proofs_is_bounded() {
        let mut scene = Scene::new();
        for version in 0..3_000 {
            scene.take(version, version);
        }
        assert_eq!(scene.proofs.taken.len(), MOST);
        assert_eq!(scene.event(0, 3_010).0, 2_001);
    }
}
