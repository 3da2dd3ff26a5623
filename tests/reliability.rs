//! `docs/reliability.md`: which failures can happen, what the program does, which test shows it, and how
//! that test ended. The table is made from the lists in `reliability/contents.rs` and
//! `reliability/faults.rs` and from the output of a run of all tests, whose file `TEST_RESULTS` names, as
//! in `.ci/run`. Without it only the page is checked.

use std::{fmt::Write as _, path::PathBuf};

use crate::support::root;

mod contents;
mod faults;

use contents::CONTENTS;
use faults::{FAULTS, Row};

/// The output of a run of all tests; `None` when there is none.
fn results() -> Option<String> {
    let path = PathBuf::from(std::env::var_os("TEST_RESULTS")?);
    Some(std::fs::read_to_string(path).unwrap())
}

/// How a test ended, from what the test runner printed.
fn result(name: &str, results: Option<&str>) -> &'static str {
    let Some(results) = results else {
        return "passed";
    };
    let ended = results.lines().find_map(|line| {
        let (path, ended) = line.strip_prefix("test ")?.split_once(" ... ")?;
        (path.rsplit("::").next() == Some(name)).then_some(ended)
    });
    match ended {
        Some("ok") => "passed",
        Some(_) => "FAILED",
        None => "DID NOT RUN",
    }
}

fn page(results: Option<&str>) -> String {
    let mut page = String::from(
        "# Reliability\n\nWhat can fail, what the program does then, the test that causes it, and how that test \
         ended in `.ci/run`, which\nruns all of them, the end-to-end ones on a real kube-apiserver and etcd. The \
         promise is always the same: the\nintervals of the distinct events of a pod are disjoint and cover \
         its life, and every event is delivered\nor rejected with its reason.\n\n`tests/reliability.rs` makes \
         this page from the result of the whole suite; `.ci/run` fails when it\ndiffers.\n\n\
         | Failure | What happens | Shown by | Result |\n| --- | --- | --- | --- |\n",
    );
    for Row(fault, promise, shown) in CONTENTS.iter().chain(FAULTS) {
        let (shown, ended) = match shown {
            Ok(tests) => {
                let tests: Vec<_> = tests
                    .iter()
                    .filter_map(|test| test.split_once(' '))
                    .collect();
                let cells = |cell: &dyn Fn(&str, &str) -> String| {
                    let cells: Vec<_> = tests.iter().map(|(file, name)| cell(file, name)).collect();
                    cells.join("<br>")
                };
                (
                    cells(&|file, name| format!("[`{name}`](../{file})")),
                    cells(&|_, name| result(name, results).to_owned()),
                )
            }
            Err(reason) => (reason.to_string(), "not tested".to_owned()),
        };
        let _ = writeln!(page, "| {fault} | {promise} | {shown} | {ended} |");
    }
    page
}

#[test]
fn the_table_names_existing_tests_and_their_results() {
    for Row(fault, _, shown) in CONTENTS.iter().chain(FAULTS) {
        for test in shown.iter().copied().flatten() {
            let (file, name) = test.split_once(' ').unwrap();
            let text = std::fs::read_to_string(root().join(file)).unwrap();
            assert!(text.contains(&format!("fn {name}(")), "{fault}: {test}");
        }
    }
    let page = page(results().as_deref());
    let path = root().join("docs/reliability.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written
        .lines()
        .zip(page.lines())
        .find(|(was, is)| was != is);
    assert!(
        written == page,
        "docs/reliability.md is out of date, first in {differs:?}: UPDATE_DOCS=1 cargo test --test tests \
         reliability"
    );
}

#[test]
fn a_result_is_read_from_what_the_runner_prints() {
    let printed =
        "running 3 tests\ntest a::one ... ok\ntest two ... FAILED\ntest a::b::three ... ignored\n";
    for (name, ended) in [
        ("one", "passed"),
        ("two", "FAILED"),
        ("three", "FAILED"),
        ("four", "DID NOT RUN"),
        ("ne", "DID NOT RUN"),
    ] {
        assert_eq!(result(name, Some(printed)), ended, "{name}");
    }
}
