//! The command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::environment;

const AFTER_HELP: &str = "\
Exit codes:
  0    all went well
  1    a configuration has faults or is not there, or a mapping that was tried failed
  2    the command line is wrong
  70   the pipeline stopped by an error that no retry can mend
  75   told to stop, but not everything was delivered in time
  130  told to stop a second time, and stopped at once

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
    /// Check configurations and report every fault at once
    Lint(LintArgs),
    /// Print a configuration as it is read: variables and defaults put in, secrets left out
    Echo(ConfigArgs),
    /// Try a mapping on JSON documents from standard input
    Map(MapArgs),
    /// See it at work: a simulated cluster, an ingest endpoint and the bill, in one process
    Demo(DemoArgs),
    /// Print the version
    Version,
}

/// Which configuration, and what is put into it.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file [env: METERLINE_CONFIG]
    // Not by clap's `env`: what the environment says must give way to `--preset`.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A configuration that comes with the program, such as kubernetes-pod-exec-time
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// Change a field of the configuration, such as http.address=127.0.0.1:4195
    #[arg(long, value_name = "PATH=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Read variables from a file of NAME=VALUE lines; the environment wins
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
    /// Of several replicas only the holder of a Lease bills (or LEADER_ELECTION=true). The Lease is
    /// LEASE_LOCK_NAME in LEASE_LOCK_NAMESPACE and this replica LEASE_LOCK_IDENTITY, else
    /// K8S_APP_INSTANCE, K8S_NAMESPACE and K8S_POD_NAME; its times are LEASE_DURATION (15s),
    /// LEASE_RENEW_DEADLINE (10s) and LEASE_RETRY_PERIOD (2s)
    #[arg(long)]
    pub(crate) leader_election: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// The configuration files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Read variables from a file of NAME=VALUE lines; the environment wins
    #[arg(short, long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// The mapping, in Rhai: `this` is the document, `root` what it becomes
    pub(crate) script: String,
    /// Give the documents this metadata
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
    /// What the command line says; ends the process when that is wrong. Help is shown when nothing is
    /// said at all, neither there nor in the environment.
    pub(crate) fn read() -> Self {
        let matches = Self::command()
            .arg_required_else_help(config_variable().is_none())
            .get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

impl ConfigArgs {
    /// The configuration file, if no preset is named: that of the command line, else that of the
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
    fn running_is_the_default() {
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
