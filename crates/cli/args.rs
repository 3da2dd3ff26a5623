//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use meterline_core::duration;

use crate::environment;

const AFTER_HELP: &str = "\
Exit codes:
  0    success
  1    a configuration has errors or is missing, a mapping under test failed, or the meters of a
       server are not those of the presets
  2    the command line is wrong
  70   the pipeline stopped because of an error that no retry can fix, or `meters diff` cannot read
       the server's meters
  75   a signal stopped the pipeline, but not everything was delivered in time
  130  a second signal stopped the process at once

Try it without a cluster: meterline demo";

const METERS_HELP: &str = "\
Examples:
  meterline meters print                       what to create, for POST /api/v1/meters
  meterline meters print --api config          the same for config.yaml of a self-hosted OpenMeter
  meterline meters diff                        what the server of OPENMETER_URL lacks
  meterline meters apply                       create it";

const PRINT_HELP: &str = "\
Examples:
  meterline meters print --preset kubernetes-pod-exec-time
  meterline meters print --api v3
  meterline meters print --api config > meters.yaml

Exit codes:
  0    success
  2    the command line is wrong";

const DIFF_HELP: &str = "\
A meter is missing, is equal, differs in a field that can be changed (name, group-by), or conflicts
in one that is final (event type, aggregation, value property) and needs another name.

Examples:
  export OPENMETER_URL=https://openmeter.cloud OPENMETER_TOKEN=file:///run/secrets/token
  meterline meters diff
  meterline meters diff --url https://eu.api.konghq.com/v3/openmeter --json

Exit codes:
  0    the server has every meter as it is here; group-bys that only the server has are allowed
  1    a meter is missing, differs or conflicts
  2    the command line is wrong
  70   the server's meters cannot be read";

const APPLY_HELP: &str = "\
Meters that exist are neither changed nor deleted, so this can be repeated.

Examples:
  meterline meters apply --preset kubernetes-pod-exec-time
  meterline meters apply --url http://127.0.0.1:8888 --rename meterline_events=meterline_events_v2

Exit codes:
  0    the server has every meter, with the final fields as here
  1    a meter is missing or conflicts, or the server cannot be reached or refuses
  2    the command line is wrong";

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
    /// Print the meters that the events need, and compare them with or create them at a server
    Meters(MetersArgs),
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

#[derive(Debug, Args)]
#[command(
    after_help = METERS_HELP,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct MetersArgs {
    #[command(subcommand)]
    pub(crate) command: MetersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MetersCommand {
    /// Print the definitions of the meters
    #[command(after_help = PRINT_HELP)]
    Print(MetersPrintArgs),
    /// Compare the meters with those of a server
    #[command(after_help = DIFF_HELP)]
    Diff(MetersDiffArgs),
    /// Create the meters that a server does not have
    #[command(after_help = APPLY_HELP)]
    Apply(MetersServerArgs),
}

/// The choice of meters.
#[derive(Debug, Args)]
pub(crate) struct MeterSelection {
    /// Only the meters of this preset [default: all presets]
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Give a meter another name, such as meterline_events=meterline_events_v2
    #[arg(long, value_name = "SLUG=NAME", value_parser = key_value)]
    pub(crate) rename: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct MetersPrintArgs {
    #[command(flatten)]
    pub(crate) selection: MeterSelection,
    /// The form of the definitions
    #[arg(long, value_enum, default_value_t = PrintedApi::V1)]
    pub(crate) api: PrintedApi,
}

/// The form in which definitions are printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PrintedApi {
    /// A body for each POST /api/v1/meters of OpenMeter, on a line each
    V1,
    /// A body for each POST /v3/openmeter/meters of Konnect, on a line each
    V3,
    /// The section `meters` of the config.yaml of a self-hosted OpenMeter
    Config,
}

/// The form of a server's API.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ServerApi {
    /// /api/v1/meters
    V1,
    /// /v3/openmeter/meters of Konnect, /api/v3/openmeter/meters of OpenMeter
    V3,
}

#[derive(Debug, Args)]
pub(crate) struct MetersDiffArgs {
    #[command(flatten)]
    pub(crate) server: MetersServerArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// The choice of meters, and a server.
#[derive(Debug, Args)]
pub(crate) struct MetersServerArgs {
    #[command(flatten)]
    pub(crate) selection: MeterSelection,
    /// The server's base URL
    #[arg(
        long,
        value_name = "URL",
        help = "The server's base URL [env: OPENMETER_URL] [default: https://openmeter.cloud]"
    )]
    pub(crate) url: Option<String>,
    /// The API token, or file:// and the path of a file with it; other users of the machine can see
    /// a command line, so prefer the variable [env: OPENMETER_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// The form of the API [default: v3 for a URL that ends in /v3/openmeter, otherwise v1]
    #[arg(long, value_enum)]
    pub(crate) api: Option<ServerApi>,
    /// A PEM file with the certificate authorities to trust instead of those of the system, as
    /// tls.root_cas_file of an output
    #[arg(long, value_name = "FILE")]
    pub(crate) root_cas_file: Option<String>,
    /// The time within which a request must be answered, as a Go duration
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = time_limit)]
    pub(crate) timeout: Duration,
    /// Read variables from a file of NAME=VALUE lines; the environment takes precedence
    #[arg(short, long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
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

fn time_limit(text: &str) -> Result<Duration, String> {
    let nanos = duration::parse(text).map_err(|error| error.to_string())?;
    u64::try_from(nanos)
        .ok()
        .filter(|nanos| *nanos > 0)
        .map(Duration::from_nanos)
        .ok_or_else(|| "it must be longer than 0".to_owned())
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
