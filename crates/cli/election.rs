//! The settings of leader election, from the command line and the environment. The variable names are
//! those that existing deployments set.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use meterline_components::LeaderElection;
use meterline_core::duration;

use crate::{args::ElectionArgs, environment::Environment};

/// Returns the settings when leader election is enabled, else `None`.
///
/// # Errors
/// When a setting that it needs is missing or wrong.
pub(crate) fn election(
    args: &ElectionArgs,
    environment: &Environment,
) -> Result<Option<LeaderElection>> {
    let get = |names: &[&str]| {
        names
            .iter()
            .filter_map(|name| environment.get(name))
            .find(|value| !value.trim().is_empty())
    };
    let enabled = args.leader_election
        || match get(&["LEADER_ELECTION"]).as_deref().map(str::trim) {
            None | Some("false" | "0" | "no" | "off") => false,
            Some("true" | "1" | "yes" | "on") => true,
            Some(other) => bail!("LEADER_ELECTION is `{other}`; set it to true or false"),
        };
    if !enabled {
        return Ok(None);
    }
    let needed = |names: [&str; 2], what: &str| {
        get(&names).with_context(|| {
            let [first, second] = names;
            format!("leader election needs {what}: set {first} or {second}")
        })
    };
    let time = |name: &str, default: u64| {
        let Some(text) = get(&[name]) else {
            return Ok(Duration::from_secs(default));
        };
        let nanos = duration::parse(text.trim())
            .ok()
            .and_then(|it| u64::try_from(it).ok());
        nanos.map(Duration::from_nanos).ok_or_else(|| {
            anyhow!("{name} is `{text}`, which is not a duration; use a value such as `15s`")
        })
    };
    let election = LeaderElection {
        namespace: needed(
            ["LEASE_LOCK_NAMESPACE", "K8S_NAMESPACE"],
            "the Lease's namespace",
        )?,
        name: needed(["LEASE_LOCK_NAME", "K8S_APP_INSTANCE"], "the Lease's name")?,
        identity: needed(
            ["LEASE_LOCK_IDENTITY", "K8S_POD_NAME"],
            "a name for this replica",
        )?,
        lease_duration: time("LEASE_DURATION", 15)?,
        renew_deadline: time("LEASE_RENEW_DEADLINE", 10)?,
        retry_period: time("LEASE_RETRY_PERIOD", 2)?,
    };
    election.check().map_err(anyhow::Error::msg)?;
    Ok(Some(election))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn from_variables(variables: &str) -> Result<Option<LeaderElection>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(variables.as_bytes()).unwrap();
        let environment = Environment::new(Some(file.path())).unwrap();
        election(
            &ElectionArgs {
                leader_election: false,
            },
            &environment,
        )
    }

    const NAMES: &str =
        "LEADER_ELECTION=true\nK8S_NAMESPACE=n\nK8S_APP_INSTANCE=a\nK8S_POD_NAME=p\n";

    #[test]
    fn existing_deployments_need_no_new_variables() {
        assert_eq!(from_variables("").unwrap(), None);
        assert_eq!(from_variables("LEADER_ELECTION=false").unwrap(), None);
        let election = from_variables(NAMES).unwrap().unwrap();
        assert_eq!(
            (election.namespace.as_str(), election.name.as_str()),
            ("n", "a")
        );
        assert_eq!(election.identity, "p");
        let times = [
            election.lease_duration,
            election.renew_deadline,
            election.retry_period,
        ];
        assert_eq!(times.map(|it| it.as_secs()), [15, 10, 2]);
        let own = format!("{NAMES}LEASE_LOCK_NAME=own\nLEASE_DURATION=1m\n");
        let election = from_variables(&own).unwrap().unwrap();
        assert_eq!(
            (election.name.as_str(), election.lease_duration.as_secs()),
            ("own", 60)
        );
    }

    #[test]
    fn errors_name_the_missing_or_wrong_variable() {
        let missing = from_variables("LEADER_ELECTION=1\nK8S_NAMESPACE=n")
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("LEASE_LOCK_NAME or K8S_APP_INSTANCE"),
            "{missing}"
        );
        for wrong in [
            "LEASE_DURATION=soon",
            "LEASE_DURATION=5s",
            "LEASE_RETRY_PERIOD=9s",
            "LEADER_ELECTION=perhaps",
        ] {
            let error = from_variables(&format!("{NAMES}{wrong}\n"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(wrong.split('=').next().unwrap()), "{error}");
        }
    }
}
