//! Which of several replicas bills.

use std::time::Duration;

/// How replicas elect the one that bills: by a Lease of the API group `coordination.k8s.io/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderElection {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who this replica is; no other has the same.
    pub identity: String,
    /// How long a leader that is not heard of is taken for one.
    pub lease_duration: Duration,
    /// How long a leader that cannot renew the Lease takes itself for one; shorter.
    pub renew_deadline: Duration,
    /// How often the Lease is renewed; shorter still.
    pub retry_period: Duration,
}

impl LeaderElection {
    /// Whether the three times fit together, as client-go requires it.
    ///
    /// # Errors
    /// Says which does not.
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
