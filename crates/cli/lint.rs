//! Reads, checks and prints the configuration that the command line names.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use meterline_components::{PRESETS, registry};
use meterline_config::{Diagnostic, Loaded, Severity, Source, load};

use crate::{
    args::{ConfigArgs, LintArgs},
    environment::Environment,
    exit::Exit,
    logging, streams,
};

/// Reads the configuration that the command line names.
///
/// # Errors
/// When it names none, or the file cannot be read.
fn source(args: &ConfigArgs) -> Result<Source> {
    match (args.file(), &args.preset) {
        (Some(path), _) => read(&path),
        (None, Some(name)) => preset(name),
        (None, None) => bail!(
            "no configuration given; use `--config FILE` or `--preset NAME` \
             (presets: {}), or try `meterline demo`",
            names()
        ),
    }
}

/// Reads the configuration that the command line names, and the file of variables.
///
/// # Errors
/// When it names no configuration, or one of the files cannot be read.
pub(crate) fn named(args: &ConfigArgs) -> Result<(Source, Environment)> {
    let environment = Environment::new(args.env_file.as_deref())?;
    Ok((source(args)?, environment))
}

/// Returns a built-in configuration.
///
/// # Errors
/// When there is no preset of this name.
pub(crate) fn preset(name: &str) -> Result<Source> {
    let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
        bail!("there is no preset `{name}`; the presets are: {}", names());
    };
    Ok(Source {
        name: format!("presets/{name}.yaml"),
        text: preset.text.to_owned(),
        dir: None,
    })
}

fn names() -> String {
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    names.join(", ")
}

fn read(path: &Path) -> Result<Source> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let text = String::from_utf8(bytes)
        .with_context(|| format!("the configuration {} is not UTF-8 text", path.display()))?;
    let dir = path
        .parent()
        .map(|dir| {
            if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            }
        })
        .map(PathBuf::from);
    Ok(Source {
        name: path.display().to_string(),
        text,
        dir,
    })
}

/// Checks a configuration. Prints errors and warnings to standard error; returns `None` when there
/// are errors.
pub(crate) fn checked(
    source: &Source,
    overrides: &[(String, String)],
    environment: &Environment,
) -> Result<Option<Loaded>> {
    let env = |name: &str| environment.get(name);
    match load(source, overrides, &env, &registry()?) {
        Ok((loaded, warnings)) => {
            print(&mut logging::Stderr::default(), &warnings)?;
            Ok(Some(loaded))
        }
        Err(found) => {
            let mut stderr = logging::Stderr::default();
            print(&mut stderr, &found)?;
            writeln!(stderr, "{}", summary(count_errors(&found)))?;
            Ok(None)
        }
    }
}

/// `meterline lint`: prints every error and warning of every file.
pub(crate) fn lint(args: &LintArgs) -> Result<Exit> {
    let environment = match Environment::new(args.env_file.as_deref()) {
        Ok(environment) => environment,
        Err(error) => return Ok(Exit::invalid(&error)),
    };
    let env = |name: &str| environment.get(name);
    let registry = registry()?;
    let mut stdout = streams::stdout();
    let mut errors = 0_usize;
    for path in &args.files {
        let source = match read(path) {
            Ok(source) => source,
            Err(error) => {
                errors = errors.saturating_add(1);
                writeln!(stdout, "{error:#}")?;
                continue;
            }
        };
        match load(&source, &[], &env, &registry) {
            Ok((_, warnings)) => print(&mut stdout, &warnings)?,
            Err(found) => {
                errors = errors.saturating_add(count_errors(&found));
                print(&mut stdout, &found)?;
            }
        }
    }
    if errors == 0 {
        return Ok(Exit::Success);
    }
    writeln!(stdout, "{}", summary(errors))?;
    Ok(Exit::Invalid)
}

/// `meterline echo`: checks the configuration and prints it.
pub(crate) fn echo(args: &ConfigArgs) -> Result<Exit> {
    let (source, environment) = match named(args) {
        Ok(named) => named,
        Err(error) => return Ok(Exit::invalid(&error)),
    };
    if checked(&source, &args.set, &environment)?.is_none() {
        return Ok(Exit::Invalid);
    }
    let env = |name: &str| environment.get(name);
    match meterline_config::echo(&source, &args.set, &env, &registry()?) {
        Ok(yaml) => {
            streams::stdout().write_all(yaml.as_bytes())?;
            Ok(Exit::Success)
        }
        Err(errors) => {
            print(&mut logging::Stderr::default(), &errors)?;
            Ok(Exit::Invalid)
        }
    }
}

fn print(out: &mut impl Write, diagnostics: &[Diagnostic]) -> Result<()> {
    for diagnostic in diagnostics {
        writeln!(out, "{diagnostic}")?;
    }
    Ok(())
}

/// Counts the errors, without the warnings.
fn count_errors(found: &[Diagnostic]) -> usize {
    let errors = found.iter().filter(|it| it.severity == Severity::Error);
    errors.count()
}

fn summary(errors: usize) -> String {
    match errors {
        1 => "1 error".to_owned(),
        many => format!("{many} errors"),
    }
}
