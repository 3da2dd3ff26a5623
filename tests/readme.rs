//! The commands of the README, run as written except for the URL of the sink and the port.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
};

use meterline_testkit::{process::Meterline, scene::Scene};

use crate::support::{BINARY, root};

/// The shell blocks of a page.
pub(crate) fn blocks(page: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join(page)).unwrap();
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (line, &mut block) {
            ("```sh", None) => block = Some(String::new()),
            ("```", Some(_)) => blocks.extend(block.take()),
            (line, Some(block)) => *block += &format!("{line}\n"),
            (_, None) => {}
        }
    }
    blocks
}

/// The block of the README with this text in it.
fn block(part: &str) -> String {
    let mut found: Vec<_> = blocks("README.md")
        .into_iter()
        .filter(|it| it.contains(part))
        .collect();
    assert_eq!(found.len(), 1, "{part}: {found:?}");
    found.remove(0)
}

/// The folder of a user: the program by its name, the files of the repository, a pod and a
/// configuration.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    for name in ["presets", "examples", "schemas"] {
        symlink(root().join(name), here(name)).unwrap();
    }
    std::fs::copy(root().join("examples/limits.yaml"), here("my-config.yaml")).unwrap();
    std::fs::create_dir(here("bin")).unwrap();
    symlink(BINARY, here("bin/meterline")).unwrap();
    std::fs::write(here("pod.json"), r#"{"metadata":{"name":"worker"}}"#).unwrap();
    folder
}

fn path(folder: &Path) -> String {
    let rest = std::env::var("PATH").unwrap_or_default();
    format!("{}:{rest}", folder.join("bin").display())
}

/// Runs commands that end by themselves.
fn shell(folder: &Path, lines: &str) -> Output {
    let output = Command::new("sh")
        .args(["-ec", lines])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path(folder))
        .env("OPENMETER_URL", "http://127.0.0.1:1")
        .env("OPENMETER_TOKEN", "om_planted")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{lines}: {error}");
    output
}

/// Runs commands of which the last starts the collector, until it has delivered an event of a pod.
async fn bills(lines: &str) {
    let scene = Scene::with(BINARY, 1).await;
    let folder = folder();
    // The free port that the test chose comes last, and the last one counts.
    let lines = lines
        .replace("https://openmeter.cloud", &scene.ingest.url())
        .replace("\nmeterline --config", "\nexec meterline --config");
    let lines = format!("{} \"$@\"", lines.trim_end());
    assert!(lines.contains("\nexec "), "{lines}");
    let meterline = Meterline::command("sh")
        .args(["-ec", &lines, "sh"])
        .kubeconfig(scene.kubeconfig())
        .env("PATH", path(folder.path()))
        .env("OPENMETER_URL", scene.ingest.url())
        .env("BATCH_PERIOD", "1s")
        .work_dir(folder.path())
        .start_ready()
        .await
        .unwrap();
    scene.ingest.wait_for_events(1).await.unwrap();
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn the_preset_runs_as_in_the_readme() {
    // The comment after the URL is for the reader.
    bills(&block("export OPENMETER_URL")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn your_own_configuration_runs_as_in_the_readme() {
    let block = block("meterline lint");
    let (before, run) = block
        .split_once("meterline --config my-config.yaml --set")
        .unwrap();
    let run = format!("true\nmeterline --config my-config.yaml --set{run}");
    let output = shell(folder().path(), before);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(r#"{"name":"worker"}"#), "{printed}");
    assert!(!printed.contains("om_planted"), "{printed}");
    bills(&run).await;
}

/// As in the README, but with the program that is built already.
#[test]
fn the_demo_runs_as_in_the_readme() {
    let command = block("demo").replace("cargo run --release -- demo", "meterline demo");
    assert_eq!(command, "meterline demo\n");
    let output = shell(folder().path(), &command);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("difference"), "{printed}");
}

#[test]
fn every_other_command_of_the_readme_is_run_elsewhere() {
    let guide = blocks("docs/install.md").concat();
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let here = [
        "cargo run --release -- demo",
        "export OPENMETER_URL",
        "meterline lint",
    ];
    let mut installs = 0;
    for block in blocks("README.md") {
        if block.contains("helm ") || block.contains("kubectl ") {
            installs += 1;
            assert!(guide.contains(&block), "not in docs/install.md: {block}");
        } else if block.contains("cargo test") {
            assert!(ci.contains(block.trim()), "not in .ci/run: {block}");
        } else {
            assert!(here.iter().any(|it| block.contains(it)), "untried: {block}");
        }
    }
    assert_eq!(installs, 2);
}
