//! Counts the instructions of the steps that each pod goes through: parsing, projection, the ledger, and
//! from the stored pod to the encoded event. Unlike seconds, the counts are the same on a busy machine, so
//! they are checked: a count that differs by more than 5 % from `counts.txt` is an error.
//!
//! `cargo bench --bench instructions` checks the counts; with `UPDATE_COUNTS=1` it rewrites the file. It
//! runs itself under `valgrind`, which must be installed, one step at a time.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "what a benchmark prints is its result, and no environment of the program's is read"
)]

#[path = "../preset/pod.rs"]
mod pod;
#[path = "../preset/processors.rs"]
mod processors;
mod steps;

use std::{collections::BTreeMap, env, fmt::Write, fs, process::Command};

use anyhow::{Context, Result, bail, ensure};

/// How far a count may be from the one that is kept, in percent.
const TOLERANCE: u64 = 5;
const COUNTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/benches/instructions/counts.txt"
);

/// Returns the instructions of this program when it runs a step this many times.
fn count(step: &str, times: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args([
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
        ])
        .arg(env::current_exe()?)
        .args(["--step", step, &times.to_string()])
        .output()
        .context("cannot run valgrind; install it, such as with `apt-get install valgrind`")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{step}: {text}");
    let line = text.lines().find(|line| line.contains(" refs:"));
    let number = line.and_then(|line| line.rsplit(':').next());
    let digits: String = number
        .with_context(|| format!("valgrind counted nothing: {text}"))?
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    digits
        .parse()
        .with_context(|| format!("valgrind counted `{digits}`"))
}

/// Returns the instructions of a step for one pod: the cost of additional rounds, without the preparation.
fn measure(step: &steps::Step) -> Result<u64> {
    let (few, many) = (1, 1 + step.rounds);
    let more = count(step.name, many)?.saturating_sub(count(step.name, few)?);
    Ok(more / (step.rounds * steps::PODS as u64))
}

fn kept() -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(COUNTS).with_context(|| format!("cannot read {COUNTS}"))?;
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let (count, name) = line.trim_start().split_once(' ').context("no name")?;
            Ok((name.trim().to_owned(), count.parse()?))
        })
        .collect::<Result<_>>()
        .with_context(|| format!("{COUNTS} has a line that is not `<count> <step>`"))
}

fn check() -> Result<()> {
    let is_update = env::var("UPDATE_COUNTS").is_ok_and(|it| it == "1");
    let kept = if is_update { BTreeMap::new() } else { kept()? };
    let mut text = "# Instructions for one pod; `UPDATE_COUNTS=1 cargo bench --bench instructions` writes this.\n".to_owned();
    let mut wrong = Vec::new();
    for step in steps::STEPS {
        let count = measure(step)?;
        writeln!(text, "{count:>8} {}", step.name)?;
        let before = kept.get(step.name).copied();
        println!(
            "{:<32} {count:>8}  kept {:>8}",
            step.name,
            before.unwrap_or(0)
        );
        let is_near =
            before.is_some_and(|before| count.abs_diff(before) * 100 <= before * TOLERANCE);
        if !is_near {
            wrong.push(step.name);
        }
    }
    if is_update {
        return Ok(fs::write(COUNTS, text)?);
    }
    if !wrong.is_empty() {
        bail!(
            "more than {TOLERANCE} % away from what {COUNTS} has: {}. If it is meant to be so, run \
             `UPDATE_COUNTS=1 cargo bench --bench instructions` and commit the file",
            wrong.join(", ")
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--step", name, times] => {
            let step = steps::STEPS.iter().find(|step| step.name == name);
            let times = times.parse()?;
            (step
                .with_context(|| format!("there is no step {name}"))?
                .run)(times);
            Ok(())
        }
        // `cargo test --benches` runs this as well; counts of a debug build say nothing.
        [.., "--test"] | ["--test", ..] => Ok(()),
        _ => check(),
    }
}
