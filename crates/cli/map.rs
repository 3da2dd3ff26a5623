//! `meterline map`: tries a mapping on documents from standard input.

use std::io::{Read, Write};

use anyhow::{Context, Result};
use meterline_core::Message;
use meterline_script::{Engine, Limits, Mapped};
use serde_json::Value;

use crate::{args::MapArgs, exit::Exit, logging, streams};

/// Maps every JSON document of standard input and prints each result on a line.
pub(crate) fn map(args: &MapArgs) -> Result<Exit> {
    let mapping = match Engine::new(Limits::default()).compile_mapping(&args.script) {
        Ok(mapping) => mapping,
        Err(errors) => {
            let mut stderr = logging::Stderr::default();
            for error in errors {
                writeln!(stderr, "{}", error.diagnostic("SCRIPT"))?;
            }
            return Ok(Exit::Invalid);
        }
    };
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .context("cannot read standard input")?;
    let mut stdout = streams::stdout();
    let mut exit = Exit::Success;
    for (index, document) in serde_json::Deserializer::from_slice(&input)
        .into_iter::<Value>()
        .enumerate()
    {
        let number = index.saturating_add(1);
        let document = match document {
            Ok(document) => document,
            Err(error) => {
                let what = format!("document {number} of standard input is not JSON");
                return Ok(Exit::invalid(&anyhow::Error::new(error).context(what)));
            }
        };
        let mut message = Message::value(&document);
        for (key, value) in &args.meta {
            message.metadata.set(key.clone(), value.as_str());
        }
        match mapping.run(&mut message) {
            Ok(Mapped::Kept) => {
                stdout.write_all(&message.bytes()?)?;
                writeln!(stdout)?;
            }
            Ok(Mapped::Dropped) => {
                writeln!(logging::Stderr::default(), "document {number} was dropped")?
            }
            Err(error) => {
                writeln!(logging::Stderr::default(), "document {number}: {error}")?;
                exit = Exit::Invalid;
            }
        }
    }
    Ok(exit)
}
