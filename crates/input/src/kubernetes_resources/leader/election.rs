//! The election as it is configured.

use std::time::Duration;

/// How replicas elect the one that bills: by a Lease of the API group `coordination.k8s.io/v1`. The input
/// `kubernetes_resources` finds it in the extensions of its build context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderElection {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who this replica is; no other has the same.
    pub identity: String,
    /// How long a replica that does not renew the Lease still counts as the leader.
    pub lease_duration: Duration,
    /// How long a leader that cannot renew the Lease continues to lead; shorter.
    pub renew_deadline: Duration,
    /// The time between two renewals; shorter still.
    pub retry_period: Duration,
}

impl LeaderElection {
    /// Checks that the three times fit together, as client-go requires it.
    ///
    /// # Errors
    /// The error names the time that does not fit.
    pub fn check(&self) -> Result<(), String> {
        if self.lease_duration <= self.renew_deadline {
            return Err("LEASE_DURATION must be longer than LEASE_RENEW_DEADLINE".to_owned());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(1.2) {
            return Err(
                "LEASE_RENEW_DEADLINE must be longer than 1.2 times LEASE_RETRY_PERIOD".to_owned(),
            );
        }
        if self.retry_period < Duration::from_millis(100) {
            return Err("LEASE_RETRY_PERIOD must be at least 100ms".to_owned());
        }
        if self.lease_duration.as_secs() < 1 {
            return Err("LEASE_DURATION must be at least 1s".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lease_duration: u64, renew_deadline: u64, retry_period: u64) -> Result<(), String> {
        LeaderElection {
            namespace: "n".to_owned(),
            name: "lease".to_owned(),
            identity: "a".to_owned(),
            lease_duration: Duration::from_millis(lease_duration),
            renew_deadline: Duration::from_millis(renew_deadline),
            retry_period: Duration::from_millis(retry_period),
        }
        .check()
    }

    #[test]
    fn each_time_must_be_longer_than_the_next() {
        assert_eq!(check(15_000, 10_000, 2_000), Ok(()));
        for (times, wrong) in [
            ((10_000, 10_000, 2_000), "LEASE_DURATION must be longer"),
            (
                (15_000, 10_000, 8_500),
                "LEASE_RENEW_DEADLINE must be longer",
            ),
            ((15_000, 10_000, 99), "at least 100ms"),
            ((900, 800, 100), "at least 1s"),
        ] {
            let (lease, deadline, retry) = times;
            let error = check(lease, deadline, retry).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
