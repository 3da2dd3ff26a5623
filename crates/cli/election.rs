//! Leader election from the command line and the environment, under the names that deployments use.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use meterline_core::duration;
use meterline_input::LeaderElection;

use crate::{args::ElectionArgs, environment::Environment};

/// The election that was asked for, if one was.
///
/// # Errors
/// When something that it needs is missing or wrong.
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
    let wanted = args.leader_election
        || match get(&["LEADER_ELECTION"]).as_deref().map(str::trim) {
            None | Some("false" | "0" | "no" | "off") => false,
            Some("true" | "1" | "yes" | "on") => true,
            Some(other) => bail!("LEADER_ELECTION is `{other}`; set it to true or false"),
        };
    if !wanted {
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
            anyhow!("{name} is `{text}`, which is not a duration; write for example `15s`")
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

    fn asked(variables: &str) -> Result<Option<LeaderElection>> {
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
    fn the_names_and_defaults_are_those_that_deployments_use() {
        assert_eq!(asked("").unwrap(), None);
        assert_eq!(asked("LEADER_ELECTION=false").unwrap(), None);
        let election = asked(NAMES).unwrap().unwrap();
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
        let election = asked(&own).unwrap().unwrap();
        assert_eq!(
            (election.name.as_str(), election.lease_duration.as_secs()),
            ("own", 60)
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let missing = asked("LEADER_ELECTION=1\nK8S_NAMESPACE=n")
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
            let error = asked(&format!("{NAMES}{wrong}\n")).unwrap_err().to_string();
            assert!(error.contains(wrong.split('=').next().unwrap()), "{error}");
        }
    }
}
