//! Renews the Lease, or takes it, for all ledgers of one process.

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

use super::{
    claim::{self, Annotations, Claim, Signer},
    election::LeaderElection,
};
use crate::kubernetes_resources::{
    clock::Clock,
    ledger::SharedLedger,
    ledger_name::LedgerName,
    messages,
    options::Options,
    watch::{Cluster, ConnectError, WatchLiveness, client},
};

/// Why the Lease could not be renewed or taken.
#[derive(Debug, Error)]
pub(super) enum LeaseError {
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

/// A ledger, and where its watermark is in the Lease.
pub(super) struct Member {
    name: LedgerName,
    annotations: Annotations,
    ledger: Arc<SharedLedger>,
}

impl Member {
    pub(super) fn new(name: LedgerName, ledger: Arc<SharedLedger>) -> Self {
        Self {
            annotations: Annotations::of(&name),
            name,
            ledger,
        }
    }

    /// What the Lease claims of the ledger. A Lease that a process with other ledgers wrote has the watermark of all
    /// of these only.
    fn claim(&self, lease: &Lease, latest: i64) -> Claim {
        let own = claim::read(lease, &self.annotations, latest);
        if own.is_signed {
            return own;
        }
        claim::read(lease, &Annotations::of_all(), latest)
    }
}

/// Takes part in the election for one replica.
pub(super) struct LeaderElector {
    election: Arc<LeaderElection>,
    /// At least one.
    members: Vec<Member>,
    cluster: Cluster,
    clock: Clock,
    health: HealthHandle,
    is_leader: IntGauge,
    refused: IntCounter,
}

/// The state of one replica between two attempts.
#[derive(Default)]
pub(super) struct ElectionState {
    client: Option<Client>,
    other: Option<ObservedLease>,
    /// The watermarks that this replica wrote last, of each ledger, while it leads.
    written: Vec<Option<i64>>,
    /// The annotations of watermarks that were refused.
    refused: Vec<String>,
    /// The text about that for `/ready`.
    remark: String,
    /// Object-seconds before a watermark in the Lease that were counted as unproved.
    pub(super) unproved: i64,
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
            members: Vec::new(),
            cluster: options.cluster.clone(),
            clock: options.clock.clone(),
            health,
            is_leader,
            refused,
        }
    }

    /// Adds a ledger. Returns whether there was none of its name.
    pub(super) fn add(&mut self, member: Member) -> bool {
        let is_new = !self.members.iter().any(|it| it.name == member.name);
        if is_new {
            self.members.push(member);
        }
        is_new
    }

    /// Whether this replica bills.
    fn is_leader(&self) -> bool {
        self.members.iter().all(|it| it.ledger.is_leader())
    }

    fn lead_until(&self, until: Instant) {
        for member in &self.members {
            member.ledger.lead_until(until);
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
            let is_leader = self.is_leader();
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
        if !self.is_leader() && since.elapsed() > self.election.renew_deadline {
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
    pub(super) async fn attempt(&self, state: &mut ElectionState) -> Result<(), LeaseError> {
        let api = self.api(self.client(state).await?);
        if !self.is_leader() {
            state.written.clear();
        }
        // What an answer proves is true from the moment of the request.
        let requested_at = Instant::now();
        let Some(lease) = api.get_opt(&self.election.name).await? else {
            for member in &self.members {
                member.ledger.learn(None, Signer::Unknown);
            }
            let mine = self.mine(None, &[]);
            let created = api.create(&PostParams::default(), &mine).await;
            return self.written(created, requested_at, state);
        };
        let delivered = self.delivered(&lease, state);
        if let Some(holder) = self.valid_holder(&lease, requested_at, state) {
            for member in &self.members {
                member.ledger.is_led_by(holder);
            }
            let remark = &state.remark;
            self.health
                .ready(format!("standby; `{holder}` leads{remark}"));
            return Ok(());
        }
        let mine = self.mine(Some(&lease), &delivered);
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

    /// Returns for each ledger the second up to which windows were delivered according to the Lease, unless that is
    /// refused.
    fn delivered(&self, lease: &Lease, state: &mut ElectionState) -> Vec<Option<i64>> {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|it| it.holder_identity.as_ref());
        let holds = holder == Some(&self.election.identity);
        let mut refused = Vec::new();
        let mut all = Vec::with_capacity(self.members.len());
        for (index, member) in self.members.iter().enumerate() {
            let mut claim = member.claim(lease, self.clock.latest());
            let written = state.written.get(index).copied().flatten();
            let written = written.filter(|_| holds);
            if let Some(written) = written {
                self.check_own(member, &mut claim, written);
            }
            self.log_refused(&claim, &mut refused, state);
            self.learn(member, &claim, state);
            // If an unsigned watermark was followed, it shows in the ledger now.
            let is_known = claim.is_signed || written.is_some();
            all.push(claim.watermark.filter(|_| is_known));
        }
        state.refused = refused;
        all
    }

    /// This replica leads, so its own ledger has the watermark. The response to its last write may be missing.
    fn check_own(&self, member: &Member, claim: &mut Claim, written: i64) {
        let is_its_own = claim.signer(&self.election.identity) == Signer::ThisReplica;
        let most = written.max(member.ledger.safe_watermark());
        let own = claim.watermark.filter(|it| is_its_own && *it <= most);
        if claim.refused.is_none() && own.is_none() {
            let value = claim.watermark.map_or("(none)".into(), messages::rfc3339);
            let why = "this replica leads and did not write it";
            claim.refused = Some((value.to_string(), why));
        }
        claim.watermark = Some(written).max(own);
    }

    /// The name of a ledger, if there are several.
    fn of(&self, member: &Member) -> String {
        match self.members.len() {
            0 | 1 => String::new(),
            _ => format!(" of `{}`", member.name),
        }
    }

    /// Passes the watermark to the ledger.
    fn learn(&self, member: &Member, claim: &Claim, state: &mut ElectionState) {
        let signer = claim.signer(&self.election.identity);
        let lost = member.ledger.learn(claim.watermark, signer);
        if lost == 0 {
            return;
        }
        state.unproved = state.unproved.saturating_add(lost);
        let until = messages::rfc3339(claim.watermark.unwrap_or_default());
        let of = self.of(member);
        error!(
            object_seconds = lost,
            "according to the Lease everything{of} up to {until} was delivered, but this replica does not have \
             that: its state is older than the Lease, or the Lease is wrong. These object-seconds \
             are not billed and are counted in `lost_time`"
        );
        state.remark = format!(
            "; {} object-seconds before {until} are not billed: according to the Lease they were delivered, \
             but nothing proves it",
            state.unproved
        );
    }

    /// Logs once that a watermark is not followed, also if it counts for several ledgers. Those that are logged are
    /// added to `now`.
    fn log_refused(&self, claim: &Claim, now: &mut Vec<String>, state: &mut ElectionState) {
        let Some((value, why)) = &claim.refused else {
            return;
        };
        let is_known = now.contains(value) || state.refused.contains(value);
        if !now.contains(value) {
            now.push(value.clone());
        }
        if is_known {
            return;
        }
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

    /// Returns the Lease held by this replica, in place of what it was. It contains for each ledger the second up to
    /// which windows were delivered, by this replica or, if that is later, by another.
    fn mine(&self, before: Option<&Lease>, delivered: &[Option<i64>]) -> Lease {
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

    /// Writes the watermarks. The watermark of all ledgers is the earliest, for a process that does not know each.
    fn annotate(&self, lease: &mut Lease, delivered: &[Option<i64>]) {
        let by = &self.election.identity;
        let watermarks = self.members.iter().enumerate().map(|(index, member)| {
            let delivered = delivered.get(index).copied().flatten();
            let own = member.ledger.safe_watermark();
            (member, delivered.map_or(own, |it| it.max(own)))
        });
        let watermarks: Vec<_> = watermarks.collect();
        claim::clear(lease);
        let earliest = watermarks.iter().map(|(_, watermark)| *watermark).min();
        claim::write(
            lease,
            &Annotations::of_all(),
            earliest.unwrap_or_default(),
            by,
        );
        if watermarks.len() > 1 {
            for (member, watermark) in watermarks {
                claim::write(lease, &member.annotations, watermark, by);
            }
        }
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
                let latest = self.clock.latest();
                let claims = self.members.iter().map(|it| it.claim(&lease, latest));
                state.written = claims.map(|it| it.watermark).collect();
                if !self.is_leader() {
                    info!(
                        identity = self.election.identity,
                        "this replica leads now and bills"
                    );
                }
                self.lead_until(requested_at + self.election.renew_deadline);
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
        let (true, Some(client)) = (self.is_leader(), state.client.take()) else {
            return;
        };
        self.lead_until(Instant::now());
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
            self.annotate(&mut lease, &delivered);
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
