//! The Helm chart: what it renders, what it refuses, and how it works with a real API server and a real
//! Prometheus.

mod cluster;
mod dashboard;
mod docs;
mod monitoring;
mod release;
mod render;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::root;

/// The variable that names the folder with helm, kubectl, prometheus and promtool.
const TOOLS: &str = "METERLINE_TOOLS";

/// helm, kubectl, prometheus and promtool.
struct Tools(PathBuf);

impl Tools {
    /// The tools in the folder that the variable names.
    fn find() -> Self {
        let folder = std::env::var_os(TOOLS).unwrap_or_else(|| {
            panic!("{TOOLS} is not set; run export {TOOLS}=\"$(tests/chart/tools.sh)\"")
        });
        Self(folder.into())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A tool that uses this kubeconfig, and keeps its caches in the same folder.
    fn command(&self, name: &str, kubeconfig: Option<&Path>) -> Command {
        let mut command = Command::new(self.path(name));
        command.current_dir(root());
        if let Some(kubeconfig) = kubeconfig {
            command
                .env("KUBECONFIG", kubeconfig)
                .env("HOME", kubeconfig.parent().unwrap());
        }
        command
    }

    /// The output of a tool that has to succeed.
    fn run(&self, name: &str, kubeconfig: Option<&Path>, arguments: &[&str]) -> String {
        let output = self
            .command(name, kubeconfig)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{name} {}:\n{}",
            arguments.join(" "),
            text(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Everything that a tool printed.
fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|it| String::from_utf8_lossy(it))
        .concat()
}

/// The cases: a folder each, with values and what they render to.
fn cases() -> Vec<PathBuf> {
    let folder = root().join("charts/meterline/examples");
    let mut cases: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

/// Returns what a case renders to in the namespace `metering`.
fn rendered(tools: &Tools, case: &Path) -> String {
    let values = case.join("values.yaml");
    let arguments = [
        "template",
        "meterline",
        "charts/meterline",
        "--namespace=metering",
    ];
    let values = ["--values", values.to_str().unwrap()];
    tools.run("helm", None, &[arguments.as_slice(), &values].concat())
}
