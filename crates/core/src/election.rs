//! Which of several replicas bills.

use std::time::Duration;

/// How replicas elect the one that bills: with a Lease of the API group `coordination.k8s.io/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderElection {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// The identity of this replica, which is unique.
    pub identity: String,
    /// How long other replicas wait after the last renewal before they take over.
    pub lease_duration: Duration,
    /// How long a leader that cannot renew the Lease keeps leading; shorter than `duration`.
    pub renew_deadline: Duration,
    /// How often the Lease is renewed; shorter still.
    pub retry_period: Duration,
}

impl LeaderElection {
    /// Checks that the three durations fit together, as client-go requires.
    ///
    /// # Errors
    /// A message that names the variable that does not fit.
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
