//! The share of recent messages that failed. A single message that fails is rejected. If most messages
//! fail, the configuration is wrong and not the messages.

/// The number of messages after which older counts are halved. One batch halves them at most once:
/// neither one message among small batches nor one part of a large batch decides.
const HALF_LIFE: f64 = 16.0;

#[derive(Default)]
pub(crate) struct FailureRate {
    seen: f64,
    failed: f64,
}

impl FailureRate {
    /// Notes `seen` messages, of which `failed` failed.
    pub(crate) fn note(&mut self, seen: usize, failed: usize) {
        let (seen, failed) = (seen as f64, failed as f64);
        let kept = 0.5_f64.powf((seen / HALF_LIFE).min(1.0));
        self.seen = self.seen * kept + seen;
        self.failed = self.failed * kept + failed;
    }

    pub(crate) fn most_failed(&self) -> bool {
        self.failed * 2.0 > self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_failed_needs_more_than_one_failure_among_many() {
        let mut rate = FailureRate::default();
        assert!(!rate.most_failed());
        for _ in 0..20 {
            rate.note(1, 0);
        }
        rate.note(1, 1);
        assert!(!rate.most_failed());
        for _ in 0..20 {
            rate.note(1, 1);
        }
        assert!(rate.most_failed());
        rate.note(500, 1);
        assert!(!rate.most_failed());
        rate.note(512, 512);
        assert!(rate.most_failed());
    }
}
