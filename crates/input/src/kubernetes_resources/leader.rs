//! The election of the replica that bills, by a Lease.
//!
//! As in client-go: the holder renews the Lease. Another replica takes it once it was not renewed for its
//! duration, by that replica's own monotonic clock, or was released. Each write names the version that it
//! replaces, so of two replicas that take the Lease at once one fails. An annotation carries the watermark: a
//! new leader continues where the old one was acknowledged. Only what the holder wrote counts: a watermark from
//! another writer is logged, and the next renewal overwrites it. Object-seconds before the watermark that this
//! replica did not send, and that no other replica confirms as delivered, are counted as unproved.

pub(super) mod claim;
mod election;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client, api::PostParams};
use meterline_core::{Health, HealthHandle, IntCounter, IntGauge, Metrics};
use thiserror::Error;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

use self::claim::{Claim, Signer};
pub use self::election::LeaderElection;
use super::{
    clock::Clock,
    ledger::SharedLedger,
    messages,
    options::Options,
    watch::{Cluster, ConnectError, WatchLiveness, client},
};

/// Why the Lease could not be renewed or taken.
#[derive(Debug, Error)]
enum LeaseError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}; grant the verbs get, create and update on leases of coordination.k8s.io")]
    Forbidden(String),
    #[error(transparent)]
    Request(Box<kube::Error>),
    #[error("the API server does not answer")]
    NoAnswer,
}

impl From<kube::Error> for LeaseError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden(status.message),
            error => Self::Request(Box::new(error)),
        }
    }
}

/// Takes part in the election for one replica.
pub(super) struct LeaderElector {
    election: Arc<LeaderElection>,
    ledger: Arc<SharedLedger>,
    cluster: Cluster,
    clock: Clock,
    health: HealthHandle,
    is_leader: IntGauge,
    refused: IntCounter,
}

/// The state of one replica between two attempts.
#[derive(Default)]
struct ElectionState {
    client: Option<Client>,
    other: Option<ObservedLease>,
    /// The watermark that this replica wrote last, while it leads.
    written: Option<i64>,
    /// The annotation of a watermark that was refused.
    refused: Option<String>,
    /// The text about that for `/ready`.
    remark: String,
    /// Object-seconds before a watermark in the Lease that were counted as unproved.
    unproved: i64,
}

/// The Lease as it was last seen while another replica held it.
struct ObservedLease {
    version: Option<String>,
    /// Since when it has been the same, by this replica's clock.
    since: Instant,
}

impl LeaderElector {
    pub(super) fn new(
        election: Arc<LeaderElection>,
        ledger: Arc<SharedLedger>,
        options: &Options,
        health: &Health,
        metrics: &Metrics,
    ) -> Self {
        let health = health.register(format!("lease {}/{}", election.namespace, election.name));
        let help = "1 while this replica holds the Lease and bills, 0 while it stands by.";
        let labels = [("name", election.name.as_str())];
        let is_leader = metrics.gauge("leader_election_leader", help, &labels);
        let refused = metrics.counter(
            "leader_election_watermarks_refused",
            "Watermarks in the Lease that were not followed, because its holder did not write them or they \
             were in the future.",
            &labels,
        );
        health.not_ready(format!(
            "the Lease {}/{} was not read yet",
            election.namespace, election.name
        ));
        Self {
            election,
            ledger,
            cluster: options.cluster.clone(),
            clock: options.clock.clone(),
            health,
            is_leader,
            refused,
        }
    }

    /// Takes part until `end`, and then releases the Lease if this replica holds it.
    pub(super) async fn run(self, end: Arc<Notify>) {
        let mut state = ElectionState::default();
        let mut failures = 0_u32;
        let mut since = Instant::now();
        loop {
            let limit = self.election.renew_deadline / 2;
            let tried = timeout(limit, self.attempt(&mut state)).await;
            match tried.unwrap_or(Err(LeaseError::NoAnswer)) {
                Ok(()) => {
                    failures = 0;
                    since = Instant::now();
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // Credentials may have been replaced.
                    state.client = None;
                    self.failed(&error, failures, since);
                }
            }
            let is_leader = self.ledger.is_leader();
            self.is_leader.set(i64::from(is_leader));
            // A standby reads more often, and a read costs little: it takes a Lease that was released within a
            // second or so.
            let pause = if is_leader {
                self.election.retry_period
            } else {
                self.election.retry_period / 2
            };
            tokio::select! {
                () = end.notified() => break,
                () = sleep(pause) => {}
            }
        }
        self.release(state).await;
    }

    fn failed(&self, error: &LeaseError, failures: u32, since: Instant) {
        let place = format!("{}/{}", self.election.namespace, self.election.name);
        if failures.is_power_of_two() {
            warn!(
                failures,
                "the Lease {place} cannot be renewed or taken: {error}; trying again"
            );
        }
        if !self.ledger.is_leader() && since.elapsed() > self.election.renew_deadline {
            self.health.not_ready(format!("the Lease {place}: {error}"));
        }
    }

    fn api(&self, client: &Client) -> Api<Lease> {
        Api::namespaced(client.clone(), &self.election.namespace)
    }

    /// The client; an error replaces it.
    async fn client<'a>(&self, state: &'a mut ElectionState) -> Result<&'a Client, ConnectError> {
        let client = match state.client.take() {
            Some(client) => client,
            None => {
                let config = self.cluster.config().await?;
                // The API server's clock shows which watermarks lie in the past.
                client(config, WatchLiveness::new(self.clock.clone()))?
            }
        };
        Ok(state.client.insert(client))
    }

    /// Renews the Lease, takes it, or reads what its holder wrote.
    async fn attempt(&self, state: &mut ElectionState) -> Result<(), LeaseError> {
        let api = self.api(self.client(state).await?);
        if !self.ledger.is_leader() {
            state.written = None;
        }
        // What an answer proves is true from the moment of the request.
        let requested_at = Instant::now();
        let Some(lease) = api.get_opt(&self.election.name).await? else {
            self.ledger.learn(None, Signer::Unknown);
            let mine = self.mine(None, None);
            let created = api.create(&PostParams::default(), &mine).await;
            return self.written(created, requested_at, state);
        };
        let delivered = self.delivered(&lease, state);
        if let Some(holder) = self.valid_holder(&lease, requested_at, state) {
            self.ledger.is_led_by(holder);
            let remark = &state.remark;
            self.health
                .ready(format!("standby; `{holder}` leads{remark}"));
            return Ok(());
        }
        let mine = self.mine(Some(&lease), delivered);
        let replaced = api
            .replace(&self.election.name, &PostParams::default(), &mine)
            .await;
        self.written(replaced, requested_at, state)
    }

    /// The other replica that holds the Lease, if it still does.
    fn valid_holder<'a>(
        &self,
        lease: &'a Lease,
        requested_at: Instant,
        state: &mut ElectionState,
    ) -> Option<&'a str> {
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder == self.election.identity || holder.is_empty() {
            return None;
        }
        let version = lease.metadata.resource_version.clone();
        let seen = match &mut state.other {
            Some(seen) if seen.version == version => seen,
            seen => seen.insert(ObservedLease {
                version,
                since: requested_at,
            }),
        };
        let duration = spec
            .lease_duration_seconds
            .and_then(|it| u64::try_from(it).ok());
        let duration = duration.map_or(self.election.lease_duration, Duration::from_secs);
        (seen.since.elapsed() < duration).then_some(holder)
    }

    /// Returns the second up to which windows were delivered according to the Lease, unless that is refused.
    fn delivered(&self, lease: &Lease, state: &mut ElectionState) -> Option<i64> {
        let mut claim = claim::read(lease, self.clock.latest());
        let holder = lease
            .spec
            .as_ref()
            .and_then(|it| it.holder_identity.as_ref());
        let holds = holder == Some(&self.election.identity);
        let written = state.written.filter(|_| holds);
        if let Some(written) = written {
            // This replica leads, so its own ledger has the watermark. The response to its last write may be missing.
            let is_its_own = claim.signer(&self.election.identity) == Signer::ThisReplica;
            let most = written.max(self.ledger.safe_watermark());
            let own = claim.watermark.filter(|it| is_its_own && *it <= most);
            if claim.refused.is_none() && own.is_none() {
                let value = claim.watermark.map_or("(none)".into(), messages::rfc3339);
                claim.refused =
                    Some((value.to_string(), "this replica leads and did not write it"));
            }
            claim.watermark = Some(written).max(own);
        }
        self.log_refused(&claim, state);
        self.learn(&claim, state);
        // If an unsigned watermark was followed, it shows in the ledger now.
        claim
            .watermark
            .filter(|_| claim.is_signed || written.is_some())
    }

    /// Passes the watermark to the ledger.
    fn learn(&self, claim: &Claim, state: &mut ElectionState) {
        let signer = claim.signer(&self.election.identity);
        let lost = self.ledger.learn(claim.watermark, signer);
        if lost == 0 {
            return;
        }
        state.unproved = state.unproved.saturating_add(lost);
        let until = messages::rfc3339(claim.watermark.unwrap_or_default());
        error!(
            object_seconds = lost,
            "according to the Lease everything up to {until} was delivered, but this replica does not have \
             that: its state is older than the Lease, or the Lease is wrong. These object-seconds \
             are not billed and are counted in `lost_time`"
        );
        state.remark = format!(
            "; {} object-seconds before {until} are not billed: according to the Lease they were delivered, \
             but nothing proves it",
            state.unproved
        );
    }

    /// Logs once that a watermark is not followed.
    fn log_refused(&self, claim: &Claim, state: &mut ElectionState) {
        let Some((value, why)) = &claim.refused else {
            state.refused = None;
            return;
        };
        if state.refused.as_ref() == Some(value) {
            return;
        }
        state.refused = Some(value.clone());
        self.refused.inc();
        let instead = claim.watermark.map_or_else(
            || "and no other is known".to_owned(),
            |watermark| format!("and {} counts", messages::rfc3339(watermark)),
        );
        let (namespace, name) = (&self.election.namespace, &self.election.name);
        error!(
            "the watermark {value} in the Lease {namespace}/{name} is not followed: {why}, \
             {instead}. The leader overwrites it; find out what else writes to the Lease"
        );
        let at = messages::rfc3339(self.clock.seconds());
        state.remark =
            format!("; at {at} the watermark {value} in the Lease was not followed: {why}");
    }

    /// Returns the Lease held by this replica, in place of what it was. It contains the second up to which windows
    /// were delivered, by this replica or, if that is later, by another.
    fn mine(&self, before: Option<&Lease>, delivered: Option<i64>) -> Lease {
        let now = claim::now();
        let mut lease = before.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.election.name.clone());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_ref() != Some(&self.election.identity) {
            spec.holder_identity = Some(self.election.identity.clone());
            spec.acquire_time = Some(now.clone());
            let transitions = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(transitions.saturating_add(i32::from(before.is_some())));
        }
        let seconds = self.election.lease_duration.as_secs().max(1);
        spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
        spec.renew_time = Some(now);
        self.annotate(&mut lease, delivered);
        lease
    }

    fn annotate(&self, lease: &mut Lease, delivered: Option<i64>) {
        let watermark = delivered.max(Some(self.ledger.safe_watermark()));
        claim::write(
            lease,
            watermark.unwrap_or_default(),
            &self.election.identity,
        );
    }

    /// The Lease was written, or was not.
    fn written(
        &self,
        result: Result<Lease, kube::Error>,
        requested_at: Instant,
        state: &mut ElectionState,
    ) -> Result<(), LeaseError> {
        match result {
            Ok(lease) => {
                let watermark = claim::read(&lease, self.clock.latest()).watermark;
                if !self.ledger.is_leader() {
                    info!(
                        identity = self.election.identity,
                        "this replica leads now and bills"
                    );
                }
                state.written = watermark;
                self.ledger
                    .lead_until(requested_at + self.election.renew_deadline);
                self.health.ready(format!("leading{}", state.remark));
                Ok(())
            }
            // Another replica was first; the next attempt shows which.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Releases the Lease, with the watermark, so that another replica need not wait.
    async fn release(&self, mut state: ElectionState) {
        let (true, Some(client)) = (self.ledger.is_leader(), state.client.take()) else {
            return;
        };
        self.ledger.lead_until(Instant::now());
        let api = self.api(&client);
        let release = async {
            let mut lease = api.get(&self.election.name).await?;
            if lease
                .spec
                .as_ref()
                .and_then(|it| it.holder_identity.as_ref())
                != Some(&self.election.identity)
            {
                return Ok(());
            }
            let delivered = self.delivered(&lease, &mut state);
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(claim::now());
            self.annotate(&mut lease, delivered);
            api.replace(&self.election.name, &PostParams::default(), &lease)
                .await
                .map(drop)
        };
        match timeout(self.election.renew_deadline / 2, release).await {
            Ok(Ok(())) => info!("the Lease is released"),
            Ok(Err(error)) => {
                warn!(%error, "the Lease could not be released; it expires by itself")
            }
            Err(_) => warn!("the Lease could not be released in time; it expires by itself"),
        }
    }
}

#[cfg(test)]
mod tests;
