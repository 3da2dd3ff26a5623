//! Whether a namespace that is watched is there.
//!
//! The pods of a namespace that does not exist can be listed: there are none. So a name that is mistyped
//! looks like a namespace in which nothing runs. Whoever may read namespaces is told; whoever may only
//! read pods cannot know, and no right is asked for.

use std::{convert::Infallible, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    client::client,
    liveness::WatchLiveness,
    task::{PROBE_TIMEOUT, Watch},
};

/// Between two looks; one that is missing may be made any time.
const WHILE_IT_IS_THERE: Duration = Duration::from_secs(60);
const WHILE_IT_IS_MISSING: Duration = Duration::from_secs(10);

impl Watch {
    /// Looks now and then, for ever.
    pub(crate) async fn look_for_namespace(&self) -> Infallible {
        let Some(namespace) = &self.namespace else {
            return std::future::pending().await;
        };
        loop {
            let is_there = timeout(PROBE_TIMEOUT, self.is_there(namespace)).await;
            let pause = match is_there {
                Ok(Ok(is_there)) => {
                    self.found(namespace, is_there);
                    if is_there {
                        WHILE_IT_IS_THERE
                    } else {
                        WHILE_IT_IS_MISSING
                    }
                }
                Ok(Err(error)) => {
                    debug!(
                        namespace,
                        error, "whether the namespace exists is not known"
                    );
                    WHILE_IT_IS_THERE
                }
                Err(_) => WHILE_IT_IS_MISSING,
            };
            sleep(pause).await;
        }
    }

    /// Whether it is there, or is not known not to be.
    async fn is_there(&self, namespace: &str) -> Result<bool, String> {
        let config = self.shared.cluster().await?;
        let client = client(config, WatchLiveness::default()).map_err(|error| error.to_string())?;
        let api: Api<Namespace> = Api::all(client);
        match api.get_metadata_opt(namespace).await {
            Ok(found) => Ok(found.is_some()),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    fn found(&self, namespace: &str, is_there: bool) {
        if !self.remarks.is_missing(namespace, !is_there) {
            return;
        }
        if is_there {
            info!(namespace, "the namespace exists now");
        } else {
            warn!(
                namespace,
                "the namespace does not exist, so nothing in it is billed; check `namespaces`, or make \
                 it. It is looked for again every {} seconds",
                WHILE_IT_IS_MISSING.as_secs()
            );
        }
    }
}
