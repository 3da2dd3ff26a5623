//! `meterline meters`: the meters that the events of the presets need, and those of a server.

mod catalogue;
mod compare;
mod definition;
mod report;
mod server;

use std::{collections::BTreeSet, io::Write};

use anyhow::{Context, Result, bail, ensure};
use meterline_components::{Api, ApiSettings, ApiVersion};

use self::{
    compare::{Compared, State, compare},
    definition::{Definition, config, is_slug},
    report::Report,
    server::{Created, create, list},
};
use crate::{
    args::{
        MeterSelection, MetersCommand, MetersDiffArgs, MetersPrintArgs, MetersServerArgs,
        PrintedApi, ServerApi,
    },
    environment::Environment,
    exit::Exit,
    logging,
    run::runtime,
    streams,
};

/// Where the presets send events when no variable says otherwise.
const DEFAULT_URL: &str = "https://openmeter.cloud";

/// Runs a subcommand.
pub(crate) fn meters(command: &MetersCommand) -> Result<Exit> {
    match command {
        MetersCommand::Print(args) => print(args),
        MetersCommand::Diff(args) => diff(args),
        MetersCommand::Apply(args) => Ok(apply(args).unwrap_or_else(|error| Exit::invalid(&error))),
    }
}

/// `meterline meters print`: prints the definitions.
fn print(args: &MetersPrintArgs) -> Result<Exit> {
    let meters = match selected(&args.selection) {
        Ok(meters) => meters,
        Err(error) => return Ok(Exit::usage(&error)),
    };
    let mut stdout = streams::stdout();
    let version = match args.api {
        PrintedApi::V1 => ApiVersion::V1,
        PrintedApi::V3 => ApiVersion::V3,
        PrintedApi::Config => {
            stdout.write_all(config(&meters)?.as_bytes())?;
            return Ok(Exit::Success);
        }
    };
    for meter in &meters {
        writeln!(stdout, "{}", meter.body(version)?)?;
    }
    Ok(Exit::Success)
}

/// `meterline meters diff`: compares the catalogue with the server's meters.
fn diff(args: &MetersDiffArgs) -> Result<Exit> {
    let (meters, api) = match prepared(&args.server) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(Exit::usage(&error)),
    };
    let found = runtime(1)?.block_on(list(&api))?;
    let compared = compare(&meters, &found);
    let report = report(&api, &compared, &found, true);
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report.json())?)
    } else {
        report.table()
    };
    streams::stdout().write_all(text.as_bytes())?;
    let is_equal = compared.iter().all(|it| it.state == State::Equal);
    Ok(if is_equal {
        Exit::Success
    } else {
        Exit::Invalid
    })
}

/// `meterline meters apply`: creates the meters that the server does not have.
fn apply(args: &MetersServerArgs) -> Result<Exit> {
    let (meters, api) = match prepared(args) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(Exit::usage(&error)),
    };
    let (compared, found) = runtime(1)?.block_on(create_missing(&api, &meters))?;
    let table = report(&api, &compared, &found, false).table();
    streams::stdout().write_all(table.as_bytes())?;
    let is_usable = |state: &State| matches!(state, State::Equal | State::Differs);
    Ok(if compared.iter().all(|it| is_usable(&it.state)) {
        Exit::Success
    } else {
        Exit::Invalid
    })
}

/// Creates what is missing; returns what the server has afterwards.
async fn create_missing(
    api: &Api,
    meters: &[Definition],
) -> Result<(Vec<Compared>, Vec<Definition>)> {
    let found = list(api).await?;
    let compared = compare(meters, &found);
    let missing: BTreeSet<_> = compared
        .iter()
        .filter(|it| it.state == State::Missing)
        .map(|it| it.slug.as_str())
        .collect();
    if missing.is_empty() {
        return Ok((compared, found));
    }
    for meter in meters
        .iter()
        .filter(|it| missing.contains(it.slug.as_str()))
    {
        let slug = &meter.slug;
        let created = create(api, meter).await.with_context(|| {
            format!("{slug} may not have been created (`meterline meters apply` can be repeated)")
        })?;
        let done = match created {
            Created::Yes => format!("created {slug}"),
            Created::Exists => {
                format!(
                    "{slug} exists: it was created in the meantime, or the server did not list it"
                )
            }
            Created::Refused(reason) => format!("{slug} was refused: {reason}"),
        };
        writeln!(streams::stdout(), "{done}")?;
    }
    writeln!(streams::stdout())?;
    let found = list(api).await.context("cannot check what was created")?;
    Ok((compare(meters, &found), found))
}

/// What is reported of a comparison with the meters that were found.
fn report<'a>(
    api: &'a Api,
    compared: &'a [Compared],
    found: &[Definition],
    advises_apply: bool,
) -> Report<'a> {
    let ours: BTreeSet<_> = compared.iter().map(|it| it.slug.as_str()).collect();
    let is_other = |it: &&Definition| !ours.contains(it.slug.as_str());
    Report {
        url: api.shown(),
        compared,
        others: found.iter().filter(is_other).count(),
        advises_apply,
    }
}

/// The meters that the command line selects, under the names that it gives them.
///
/// # Errors
/// When the command line is wrong.
fn selected(args: &MeterSelection) -> Result<Vec<Definition>> {
    let mut meters = catalogue::definitions(args.preset.as_deref());
    if let (Some(preset), true) = (&args.preset, meters.is_empty()) {
        bail!(
            "there are no meters of a preset `{preset}`; the presets with meters are: {}",
            catalogue::presets()
        );
    }
    for (slug, name) in &args.rename {
        ensure!(
            is_slug(name),
            "--rename {slug}={name}: a name has at most 64 lower-case letters and digits, with one \
             `_` between words"
        );
        let meter = meters.iter_mut().find(|it| it.slug == *slug);
        let meter =
            meter.with_context(|| format!("--rename {slug}={name}: there is no meter `{slug}`"))?;
        meter.slug.clone_from(name);
    }
    let slugs: BTreeSet<_> = meters.iter().map(|it| it.slug.as_str()).collect();
    ensure!(
        slugs.len() == meters.len(),
        "--rename gives two meters the same name"
    );
    Ok(meters)
}

/// The meters that the command line selects, and the server.
///
/// # Errors
/// When the command line or a variable is wrong.
fn prepared(args: &MetersServerArgs) -> Result<(Vec<Definition>, Api)> {
    let meters = selected(&args.selection)?;
    let environment = Environment::new(args.env_file.as_deref())?;
    let either = |argument: &Option<String>, variable: &str| {
        let text = argument.clone().or_else(|| environment.get(variable));
        text.filter(|it| !it.trim().is_empty())
    };
    let url = either(&args.url, "OPENMETER_URL");
    let token = either(&args.token, "OPENMETER_TOKEN");
    let api = Api::new(ApiSettings {
        url: url.as_deref().unwrap_or(DEFAULT_URL),
        version: args.api.map(|api| match api {
            ServerApi::V1 => ApiVersion::V1,
            ServerApi::V3 => ApiVersion::V3,
        }),
        resource: "meters",
        token: token.as_deref().unwrap_or_default(),
        root_cas_file: args.root_cas_file.clone(),
        timeout: args.timeout,
    })?;
    if let Some(warning) = api.warning() {
        writeln!(logging::Stderr::default(), "meterline: warning: {warning}")?;
    }
    Ok((meters, api))
}
