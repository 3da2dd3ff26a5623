//! Checks that a watched namespace exists.
//!
//! The API server lists the pods of a namespace that does not exist: there are none. So a mistyped name looks
//! like a namespace in which nothing runs. A service account that may read namespaces can tell the difference;
//! one that may read only pods cannot, and Meterline does not require the right.

use std::{convert::Infallible, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    client::{ANSWER_TIMEOUT, Cluster, ConnectError, client},
    liveness::WatchLiveness,
    warnings::WatchWarnings,
};

/// The time between two checks. A namespace that is missing may be created at any moment.
const WHILE_PRESENT: Duration = Duration::from_secs(60);
const WHILE_MISSING: Duration = Duration::from_secs(10);

/// Why it is not known whether a namespace exists.
#[derive(Debug, Error)]
enum CheckError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Request(#[from] Box<kube::Error>),
}

/// Whether a namespace exists.
#[derive(Debug, PartialEq, Eq)]
enum Presence {
    Present,
    Missing,
    /// The service account may not read namespaces.
    Unknown,
}

/// The check of one namespace.
pub(crate) struct NamespaceCheck {
    pub(crate) namespace: String,
    pub(crate) cluster: Cluster,
    pub(crate) warnings: Arc<WatchWarnings>,
}

impl NamespaceCheck {
    /// Checks repeatedly until it is aborted.
    pub(crate) async fn run(self) -> Infallible {
        loop {
            let pause = match timeout(ANSWER_TIMEOUT, self.presence()).await {
                Ok(Ok(presence)) => self.found(&presence),
                Ok(Err(error)) => {
                    debug!(
                        namespace = self.namespace,
                        %error, "cannot check whether the namespace exists; checking again"
                    );
                    WHILE_PRESENT
                }
                Err(_) => WHILE_MISSING,
            };
            sleep(pause).await;
        }
    }

    async fn presence(&self) -> Result<Presence, CheckError> {
        let client = client(self.cluster.config().await?, WatchLiveness::default())?;
        let api: Api<Namespace> = Api::all(client);
        match api.get_metadata_opt(&self.namespace).await {
            Ok(Some(_)) => Ok(Presence::Present),
            Ok(None) => Ok(Presence::Missing),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Presence::Unknown),
            Err(error) => Err(Box::new(error).into()),
        }
    }

    /// Warns of what changed. Returns the time until the next check.
    fn found(&self, presence: &Presence) -> Duration {
        let namespace = &self.namespace;
        let is_missing = *presence == Presence::Missing;
        let has_changed = self.warnings.set_missing(namespace, is_missing);
        if has_changed && is_missing {
            warn!(
                namespace,
                "the namespace does not exist, so nothing in it is billed; check `namespaces`, or create \
                 it. Checking again every {} seconds",
                WHILE_MISSING.as_secs()
            );
        } else if has_changed {
            info!(namespace, "the namespace exists now");
        }
        if is_missing {
            WHILE_MISSING
        } else {
            WHILE_PRESENT
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::{Health, Metrics};
    use serde_json::json;

    use super::*;
    use crate::kubernetes_resources::testing::{Api, Request, error};

    async fn check(answer: u16) -> (NamespaceCheck, Health, Api) {
        let api = Api::start(
            move |request: &Request| match (request.path.as_str(), answer) {
                ("/api/v1/namespaces/a", 200) => (200, json!({"metadata": {"name": "a"}})),
                (_, answer) => error(answer, "no"),
            },
        );
        let api = api.await;
        let health = Health::default();
        let warnings = WatchWarnings::new(health.register("watches"), &Metrics::default(), "x");
        let check = NamespaceCheck {
            namespace: "a".to_owned(),
            cluster: api.cluster(),
            warnings: Arc::new(warnings),
        };
        (check, health, api)
    }

    #[tokio::test]
    async fn the_api_server_knows_whether_a_namespace_exists() {
        for (answer, expected) in [
            (200, Presence::Present),
            (404, Presence::Missing),
            (403, Presence::Unknown),
        ] {
            let (check, _, _api) = check(answer).await;
            assert_eq!(check.presence().await.unwrap(), expected, "{answer}");
        }
        let (check, _, _api) = check(500).await;
        assert!(matches!(
            check.presence().await,
            Err(CheckError::Request(_))
        ));
    }

    #[tokio::test]
    async fn a_missing_namespace_is_shown_until_it_exists_and_checked_more_often() {
        let (check, health, _api) = check(404).await;
        let shown = || health.report().parts[0].2.to_string();
        assert_eq!(check.found(&Presence::Unknown), WHILE_PRESENT);
        assert_eq!(shown(), "");
        assert_eq!(check.found(&Presence::Missing), WHILE_MISSING);
        assert!(shown().contains("`a` does not exist"), "{}", shown());
        assert_eq!(check.found(&Presence::Present), WHILE_PRESENT);
        assert_eq!(shown(), "");
    }
}
