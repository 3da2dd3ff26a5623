//! The Lease by which replicas elect the one that bills.
//!
//! As client-go does it: whoever holds the Lease renews it; whoever does not takes it once it was not
//! renewed for its duration, by the taker's own monotonic clock, or was released. Every write names
//! the version that it replaces, so of two that take it at once one fails. An annotation carries the
//! watermark: a new leader goes on where the old one was acknowledged.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use meterline_core::{HealthHandle, IntGauge, LeaderElection, Metrics};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{emit, shared::Shared};

/// Up to where all was acknowledged, RFC 3339.
const WATERMARK: &str = "meterline.io/watermark";
/// By so many seconds the clocks of two machines may differ.
const CLOCKS_DIFFER: i64 = 60;

/// One replica's part in the election.
pub(super) struct Candidate {
    pub(super) election: Arc<LeaderElection>,
    pub(super) shared: Arc<Shared>,
    pub(super) health: HealthHandle,
    pub(super) is_leader: IntGauge,
}

/// What was last seen of the Lease in somebody else's hands.
struct Other {
    version: Option<String>,
    /// Since when it has been the same, by our clock.
    since: Instant,
}

impl Candidate {
    pub(super) fn new(
        election: Arc<LeaderElection>,
        shared: Arc<Shared>,
        health: HealthHandle,
        metrics: &Metrics,
    ) -> Self {
        let help = "1 while this replica holds the Lease and bills, 0 while it stands by.";
        let labels = [("name", election.name.as_str())];
        let is_leader = metrics.gauge("leader_election_leader", help, &labels);
        health.not_ready(format!(
            "the Lease {}/{} was not read yet",
            election.namespace, election.name
        ));
        Self {
            election,
            shared,
            health,
            is_leader,
        }
    }

    /// Takes part until `end`, and then gives the Lease back if it is ours.
    pub(super) async fn run(self, end: Arc<Notify>) {
        let mut other = None;
        let mut client = None;
        let mut failures = 0_u32;
        let mut since = Instant::now();
        loop {
            let limit = self.election.renew_deadline / 2;
            let tried = timeout(limit, self.attempt(&mut client, &mut other)).await;
            match tried.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
                Ok(()) => {
                    failures = 0;
                    since = Instant::now();
                }
                Err(reason) => {
                    failures = failures.saturating_add(1);
                    // Credentials may have been replaced.
                    client = None;
                    self.failed(&reason, failures, since);
                }
            }
            let is_leader = self.shared.is_leader();
            self.is_leader.set(i64::from(is_leader));
            // A released Lease is taken within a second or so, and a full one costs a small read.
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
        self.release(client).await;
    }

    fn failed(&self, reason: &str, failures: u32, since: Instant) {
        let place = format!("{}/{}", self.election.namespace, self.election.name);
        if failures.is_power_of_two() {
            warn!(
                failures,
                "the Lease {place} cannot be renewed or taken: {reason}; trying again"
            );
        }
        if !self.shared.is_leader() && since.elapsed() > self.election.renew_deadline {
            self.health
                .not_ready(format!("the Lease {place}: {reason}"));
        }
    }

    fn api(&self, client: &Client) -> Api<Lease> {
        Api::namespaced(client.clone(), &self.election.namespace)
    }

    /// Renews the Lease, takes it, or learns from whoever holds it.
    async fn attempt(
        &self,
        client: &mut Option<Client>,
        other: &mut Option<Other>,
    ) -> Result<(), String> {
        let client = match client {
            Some(client) => client,
            none => {
                let config = self.shared.cluster().await?;
                none.insert(Client::try_from(config).map_err(|error| error.to_string())?)
            }
        };
        let api = self.api(client);
        // What is proved by an answer holds from when it was asked.
        let asked = Instant::now();
        let Some(lease) = api.get_opt(&self.election.name).await.map_err(told)? else {
            self.shared.open(None);
            let created = api.create(&PostParams::default(), &self.mine(None)).await;
            return self.won(created, asked);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        self.shared.open(self.watermark(&lease));
        if holder != self.election.identity && !holder.is_empty() {
            let version = lease.metadata.resource_version.clone();
            let seen = match other {
                Some(seen) if seen.version == version => seen,
                seen => seen.insert(Other {
                    version,
                    since: asked,
                }),
            };
            let duration = spec
                .lease_duration_seconds
                .and_then(|it| u64::try_from(it).ok());
            let duration = duration.map_or(self.election.lease_duration, Duration::from_secs);
            if seen.since.elapsed() < duration {
                self.health.ready(format!("standby; `{holder}` leads"));
                self.shared.follow(self.watermark(&lease));
                return Ok(());
            }
        }
        let replaced = api
            .replace(
                &self.election.name,
                &PostParams::default(),
                &self.mine(Some(&lease)),
            )
            .await;
        self.won(replaced, asked)
    }

    /// The Lease in our hands, in place of what it was.
    fn mine(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
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
        self.annotate(&mut lease);
        lease
    }

    fn watermark(&self, lease: &Lease) -> Option<i64> {
        watermark(lease, self.shared.clock.seconds())
    }

    /// Leaves our watermark, unless a later one is there.
    fn annotate(&self, lease: &mut Lease) {
        let ours = self.shared.safe_watermark();
        if self.watermark(lease).is_none_or(|theirs| theirs < ours) {
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert(WATERMARK.to_owned(), emit::rfc3339(ours).to_string());
        }
    }

    fn won(&self, written: Result<Lease, kube::Error>, asked: Instant) -> Result<(), String> {
        match written {
            Ok(lease) => {
                if !self.shared.is_leader() {
                    self.shared.follow(self.watermark(&lease));
                    info!(
                        identity = self.election.identity,
                        "this replica leads now and bills"
                    );
                }
                self.shared.lead_until(asked + self.election.renew_deadline);
                self.health.ready("leading");
                Ok(())
            }
            // Somebody else was first; the next look shows who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(told(error)),
        }
    }

    /// Gives the Lease back, with the watermark, so that another replica need not wait.
    async fn release(&self, client: Option<Client>) {
        let (true, Some(client)) = (self.shared.is_leader(), client) else {
            return;
        };
        self.shared.lead_until(Instant::now());
        let api = self.api(&client);
        let release = async {
            let mut lease = api.get(&self.election.name).await?;
            let Some(spec) = &mut lease.spec else {
                return Ok(());
            };
            if spec.holder_identity.as_ref() != Some(&self.election.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.annotate(&mut lease);
            api.replace(&self.election.name, &PostParams::default(), &lease)
                .await
                .map(drop)
        };
        match timeout(self.election.renew_deadline / 2, release).await {
            Ok(Ok(())) => info!("the Lease is given back"),
            Ok(Err(error)) => {
                warn!(%error, "the Lease could not be given back; it runs out by itself")
            }
            Err(_) => warn!("the Lease could not be given back in time; it runs out by itself"),
        }
    }
}

fn told(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "{}; grant the verbs get, create and update on leases of coordination.k8s.io",
            status.message
        ),
        error => error.to_string(),
    }
}

/// Up to where another replica delivered, as it left it in the Lease. What lies in the future cannot be
/// true: whoever followed it would bill nothing until then, and it is written over.
fn watermark(lease: &Lease, now: i64) -> Option<i64> {
    let text = lease.metadata.annotations.as_ref()?.get(WATERMARK)?;
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp();
    if time > now.saturating_add(CLOCKS_DIFFER) {
        warn!("the watermark {text} in the Lease lies in the future and is not followed");
        return None;
    }
    Some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_is_a_time_that_was() {
        let with = |text: &str| {
            let mut lease = Lease::default();
            let annotations = [(WATERMARK.to_owned(), text.to_owned())];
            lease.metadata.annotations = Some(annotations.into());
            watermark(&lease, 1_000_000)
        };
        assert_eq!(with("1970-01-12T13:46:30Z"), Some(999_990));
        // The clocks of two machines may differ a little.
        assert_eq!(with("1970-01-12T13:47:00Z"), Some(1_000_020));
        assert_eq!(with("1970-01-12T14:46:40Z"), None);
        assert_eq!(with("2099-01-01T00:00:00Z"), None);
        assert_eq!(with("soon"), None);
        assert_eq!(watermark(&Lease::default(), 0), None);
    }
}
