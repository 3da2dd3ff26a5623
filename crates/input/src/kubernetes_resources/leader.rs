//! The Lease by which replicas elect the one that bills.
//!
//! As client-go does it: whoever holds the Lease renews it; whoever does not takes it once it was not
//! renewed for its duration, by the taker's own monotonic clock, or was released. Every write names
//! the version that it replaces, so of two that take it at once one fails. An annotation carries the
//! watermark: a new leader goes on where the old one was acknowledged. Only the holder's word counts: what
//! somebody else wrote there is told and written over by the next renewal. What lies beyond what this
//! replica handed out, and what no other replica says that it delivered, is counted as unproved.

pub(super) mod claim;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client, api::PostParams};
use meterline_core::{HealthHandle, IntCounter, IntGauge, LeaderElection, Metrics};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

use self::claim::Signer;
use super::{
    ledger::SharedLedger,
    messages,
    watch::{WatchLiveness, client},
};

/// One replica's part in the election.
pub(super) struct LeaderElector {
    pub(super) election: Arc<LeaderElection>,
    pub(super) shared: Arc<SharedLedger>,
    pub(super) health: HealthHandle,
    pub(super) is_leader: IntGauge,
    refused: IntCounter,
}

/// What one replica remembers between two looks at the Lease.
#[derive(Default)]
struct Observations {
    client: Option<Client>,
    other: Option<ObservedLease>,
    /// The watermark that this replica wrote last, since it leads.
    left: Option<i64>,
    /// A watermark that was refused, as it was written.
    refused: Option<String>,
    /// What `/ready` says of that.
    remark: String,
    /// Object-seconds that the Lease said were delivered and that were counted as unproved.
    lost: i64,
}

/// What was last seen of the Lease in somebody else's hands.
struct ObservedLease {
    version: Option<String>,
    /// Since when it has been the same, by our clock.
    since: Instant,
}

impl LeaderElector {
    pub(super) fn new(
        election: Arc<LeaderElection>,
        shared: Arc<SharedLedger>,
        health: HealthHandle,
        metrics: &Metrics,
    ) -> Self {
        let help = "1 while this replica holds the Lease and bills, 0 while it stands by.";
        let labels = [("name", election.name.as_str())];
        let is_leader = metrics.gauge("leader_election_leader", help, &labels);
        let refused = metrics.counter(
            "leader_election_watermarks_refused",
            "Watermarks in the Lease that whoever held it did not write or that lay in the future, and \
             that were not followed.",
            &labels,
        );
        health.not_ready(format!(
            "the Lease {}/{} was not read yet",
            election.namespace, election.name
        ));
        Self {
            election,
            shared,
            health,
            is_leader,
            refused,
        }
    }

    /// Takes part until `end`, and then gives the Lease back if it is ours.
    pub(super) async fn run(self, end: Arc<Notify>) {
        let mut memory = Observations::default();
        let mut failures = 0_u32;
        let mut since = Instant::now();
        loop {
            let limit = self.election.renew_deadline / 2;
            let tried = timeout(limit, self.attempt(&mut memory)).await;
            match tried.unwrap_or_else(|_| Err("the API server does not answer".to_owned())) {
                Ok(()) => {
                    failures = 0;
                    since = Instant::now();
                }
                Err(reason) => {
                    failures = failures.saturating_add(1);
                    // Credentials may have been replaced.
                    memory.client = None;
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
        self.release(memory).await;
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
    async fn attempt(&self, memory: &mut Observations) -> Result<(), String> {
        if memory.client.is_none() {
            let config = self.shared.cluster().await?;
            // What the API server's clock shows says which watermark can be.
            let line = WatchLiveness::with(self.shared.clock.clone());
            memory.client = Some(client(config, line).map_err(|error| error.to_string())?);
        }
        let Some(api) = memory.client.as_ref().map(|client| self.api(client)) else {
            return Ok(());
        };
        if !self.shared.is_leader() {
            memory.left = None;
        }
        // What is proved by an answer holds from when it was asked.
        let asked = Instant::now();
        let Some(lease) = api.get_opt(&self.election.name).await.map_err(told)? else {
            self.shared.learn(None, Signer::Unsigned);
            let mine = self.mine(None, None);
            let created = api.create(&PostParams::default(), &mine).await;
            return self.won(created, asked, memory);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let delivered = self.delivered(&lease, memory);
        if holder != self.election.identity && !holder.is_empty() {
            let version = lease.metadata.resource_version.clone();
            let seen = match &mut memory.other {
                Some(seen) if seen.version == version => seen,
                seen => seen.insert(ObservedLease {
                    version,
                    since: asked,
                }),
            };
            let duration = spec
                .lease_duration_seconds
                .and_then(|it| u64::try_from(it).ok());
            let duration = duration.map_or(self.election.lease_duration, Duration::from_secs);
            if seen.since.elapsed() < duration {
                self.shared.is_led_by(holder);
                let remark = &memory.remark;
                self.health
                    .ready(format!("standby; `{holder}` leads{remark}"));
                return Ok(());
            }
        }
        let mine = self.mine(Some(&lease), delivered);
        let replaced = api
            .replace(&self.election.name, &PostParams::default(), &mine)
            .await;
        self.won(replaced, asked, memory)
    }

    /// Up to where windows were delivered, as the Lease says and as far as that can be believed.
    fn delivered(&self, lease: &Lease, memory: &mut Observations) -> Option<i64> {
        let mut claim = claim::read(lease, self.shared.clock.latest());
        let holder = lease
            .spec
            .as_ref()
            .and_then(|it| it.holder_identity.as_ref());
        let holds = holder == Some(&self.election.identity);
        let left = memory.left.filter(|_| holds);
        if let Some(left) = left {
            // This replica leads and so knows; of a write that was not answered it may not know.
            let is_its_own = claim.signer(&self.election.identity) == Signer::ThisReplica;
            let most = left.max(self.shared.safe_watermark());
            let own = claim.watermark.filter(|it| is_its_own && *it <= most);
            if claim.refused.is_none() && own.is_none() {
                let said = claim.watermark.map_or("nothing".into(), messages::rfc3339);
                claim.refused = Some((said.to_string(), "this replica leads and did not write it"));
            }
            claim.watermark = Some(left).max(own);
        }
        self.tell(&claim, memory);
        self.learn(&claim, memory);
        // As far as an unsigned one was followed, the ledger says so now.
        claim
            .watermark
            .filter(|_| claim.is_signed || left.is_some())
    }

    /// Learns what was delivered.
    fn learn(&self, claim: &claim::Claim, memory: &mut Observations) {
        let word = claim.signer(&self.election.identity);
        let lost = self.shared.learn(claim.watermark, word);
        if lost == 0 {
            return;
        }
        memory.lost = memory.lost.saturating_add(lost);
        let until = messages::rfc3339(claim.watermark.unwrap_or_default());
        error!(
            object_seconds = lost,
            "the Lease says that all up to {until} was delivered, which is more than this replica knows \
             of: its state is older than the Lease, or the Lease is wrong. These object-seconds are not \
             billed and counted in `lost_time`"
        );
        memory.remark = format!(
            "; {} object-seconds before {until} are not billed: the Lease says that they were delivered, \
             and nothing proves it",
            memory.lost
        );
    }

    /// Tells once of a watermark that is not followed.
    fn tell(&self, claim: &claim::Claim, memory: &mut Observations) {
        let Some((said, why)) = &claim.refused else {
            memory.refused = None;
            return;
        };
        if memory.refused.as_ref() == Some(said) {
            return;
        }
        memory.refused = Some(said.clone());
        self.refused.inc();
        let instead = claim.watermark.map_or_else(
            || "and no other is known".to_owned(),
            |watermark| format!("and {} counts", messages::rfc3339(watermark)),
        );
        let (namespace, name) = (&self.election.namespace, &self.election.name);
        error!(
            "the watermark in the Lease {namespace}/{name} says {said} and is not followed: {why}, \
             {instead}. Whoever leads writes it over; find out who else writes to the Lease"
        );
        let at = messages::rfc3339(self.shared.clock.seconds());
        memory.remark =
            format!("; at {at} the watermark in the Lease said {said} and was not followed: {why}");
    }

    /// The Lease in our hands, in place of what it was. It says up to where windows were delivered, by
    /// this replica or, if that is later, by another.
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
        let watermark = delivered.max(Some(self.shared.safe_watermark()));
        claim::write(
            lease,
            watermark.unwrap_or_default(),
            &self.election.identity,
        );
    }

    fn won(
        &self,
        written: Result<Lease, kube::Error>,
        asked: Instant,
        memory: &mut Observations,
    ) -> Result<(), String> {
        match written {
            Ok(lease) => {
                let watermark = claim::read(&lease, self.shared.clock.latest()).watermark;
                if !self.shared.is_leader() {
                    info!(
                        identity = self.election.identity,
                        "this replica leads now and bills"
                    );
                }
                memory.left = watermark;
                self.shared.lead_until(asked + self.election.renew_deadline);
                self.health.ready(format!("leading{}", memory.remark));
                Ok(())
            }
            // Somebody else was first; the next look shows who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(told(error)),
        }
    }

    /// Gives the Lease back, with the watermark, so that another replica need not wait.
    async fn release(&self, mut memory: Observations) {
        let (true, Some(client)) = (self.shared.is_leader(), memory.client.take()) else {
            return;
        };
        self.shared.lead_until(Instant::now());
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
            let delivered = self.delivered(&lease, &mut memory);
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
