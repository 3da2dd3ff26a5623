//! The `meterline` command.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod admin;
mod args;
mod demo;
mod descriptors;
mod election;
mod environment;
mod exit;
mod http;
mod lint;
mod logging;
mod map;
mod meters;
mod minute;
mod run;
mod server;
mod streams;

use std::{io::Write, process::ExitCode};

use crate::{
    args::{Cli, Command},
    exit::Exit,
};

fn main() -> ExitCode {
    let _flush = logging::FlushAtEnd;
    let cli = Cli::read();
    let ended = match &cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Lint(args)) => lint::lint(args),
        Some(Command::Echo(args)) => lint::echo(args),
        Some(Command::Map(args)) => map::map(args),
        Some(Command::Demo(args)) => demo::demo(args),
        Some(Command::Meters(args)) => meters::meters(&args.command),
        Some(Command::Version) => version(),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            let _ = writeln!(logging::Stderr::default(), "meterline: {error:#}");
            Exit::Failed.into()
        }
    }
}

fn version() -> anyhow::Result<Exit> {
    writeln!(streams::stdout(), "meterline {}", env!("CARGO_PKG_VERSION"))?;
    Ok(Exit::Success)
}
