//! The command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::environment;

const AFTER_HELP: &str = "\
Exit codes:
  0    success
  1    a configuration has errors or is missing, or a mapping under test failed
  2    the command line is wrong
  70   the pipeline stopped because of an error that no retry can fix
  75   a signal stopped the pipeline, but not everything was delivered in time
  130  a second signal stopped the process at once

Try it without a cluster: meterline demo";

/// Meters what runs in Kubernetes, to the second, and delivers it to OpenMeter.
#[derive(Debug, Parser)]
#[command(
    name = "meterline",
    version,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline (the default: `meterline --config FILE`)
    Run(RunArgs),
    /// Check configurations and report all errors at once
    Lint(LintArgs),
    /// Print a configuration with variables and defaults filled in and secrets masked
    Echo(ConfigArgs),
    /// Try a mapping on JSON documents from standard input
    Map(MapArgs),
    /// Meter a simulated cluster and compare the bill with the truth, without a real cluster
    Demo(DemoArgs),
    /// Print the version
    Version,
}

/// The choice of a configuration and the changes to it.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file [env: METERLINE_CONFIG]
    // Not with clap's `env`, because `--preset` must take precedence over the variable.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A built-in configuration, such as kubernetes-pod-exec-time
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// Change a field of the configuration, such as http.address=127.0.0.1:4195
    #[arg(long, value_name = "PATH=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Read variables from a file of NAME=VALUE lines; the environment takes precedence
    #[arg(short, long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print messages of this level and above: TRACE, DEBUG, INFO, WARN, ERROR or OFF
    #[arg(long, value_name = "LEVEL", value_parser = meterline_config::log_level)]
    pub(crate) log_level: Option<&'static str>,
    #[command(flatten)]
    pub(crate) election: ElectionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ElectionArgs {
    /// Bill only while this replica holds a Lease (or LEADER_ELECTION=true). LEASE_LOCK_NAME,
    /// LEASE_LOCK_NAMESPACE and LEASE_LOCK_IDENTITY name the Lease and this replica, by default
    /// K8S_APP_INSTANCE, K8S_NAMESPACE and K8S_POD_NAME; LEASE_DURATION (15s),
    /// LEASE_RENEW_DEADLINE (10s) and LEASE_RETRY_PERIOD (2s) set its times
    #[arg(long)]
    pub(crate) leader_election: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// The configuration files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Read variables from a file of NAME=VALUE lines; the environment takes precedence
    #[arg(short, long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// The mapping, in Rhai: `this` is the document, `root` the result
    pub(crate) script: String,
    /// Set this metadata on every document
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) meta: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How long to run, as a Go duration
    #[arg(long = "for", value_name = "DURATION", default_value = "20s")]
    pub(crate) duration: String,
    /// The seed of the simulated cluster
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl Cli {
    /// Parses the command line; exits when it is wrong. Prints the help when neither the command line
    /// nor the environment names a configuration.
    pub(crate) fn read() -> Self {
        let matches = Self::command()
            .arg_required_else_help(config_variable().is_none())
            .get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

impl ConfigArgs {
    /// The configuration file of the command line, else, unless a preset is named, that of the
    /// environment.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match (&self.config, &self.preset) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(_)) => None,
            (None, None) => config_variable(),
        }
    }
}

fn config_variable() -> Option<PathBuf> {
    environment::own("METERLINE_CONFIG").map(PathBuf::from)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_command() {
        let cli = Cli::parse_from(["meterline", "--config", "a.yaml", "--set", "a.b=c=d"]);
        assert!(cli.command.is_none());
        assert_eq!(cli.run.config.set, [("a.b".to_owned(), "c=d".to_owned())]);
    }

    #[test]
    fn a_setting_without_a_value_is_a_usage_error() {
        let error = Cli::try_parse_from(["meterline", "--config", "a", "--set", "a.b"]);
        assert!(error.unwrap_err().to_string().contains("KEY=VALUE"));
    }
}
