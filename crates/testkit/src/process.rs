//! The real binary, as a user runs it.
//!
//! ```no_run
//! # use meterline_testkit::process::Meterline;
//! # use std::time::Duration;
//! # async fn run(kubeconfig: &std::path::Path) -> anyhow::Result<()> {
//! let meterline = Meterline::command("target/debug/meterline")
//!     .args(["--preset", "kubernetes-pod-exec-time"])
//!     .kubeconfig(kubeconfig)
//!     .env("SCRAPE_INTERVAL", "5s")
//!     .start()?;
//! meterline.wait_ready(Duration::from_secs(30)).await?;
//! meterline.terminate()?;
//! let status = meterline.wait_exit(Duration::from_secs(30)).await?;
//! assert_eq!(status.code(), Some(0));
//! # Ok(())
//! # }
//! ```

use std::ffi::OsStr;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::child::{Child, Pipes, Stream};
use crate::ports::free_port;

mod pages;

/// How long `/stats` may take before a process that may be starting or hanging is killed.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long an orderly end may take.
const END: Duration = Duration::from_secs(25);
/// How long a process may take to become ready on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// How to start a [`Meterline`]. Of the environment of the test it passes on only `PATH`, so that a
/// run depends on nothing else.
#[derive(Debug)]
pub struct MeterlineCommand {
    command: Command,
    config: Option<String>,
    work_dir: Option<PathBuf>,
    pipes: Pipes,
    admin_port: Option<u16>,
}

/// A running `meterline`. It is killed when this is dropped.
#[derive(Debug)]
pub struct Meterline {
    // Declared before the folder: fields are dropped in this order.
    child: Child,
    dir: TempDir,
    port: u16,
    admin_port: u16,
}

impl Meterline {
    /// The command `meterline` at `binary`, in a new empty folder.
    #[must_use]
    pub fn command(binary: impl AsRef<OsStr>) -> MeterlineCommand {
        let mut command = Command::new(binary);
        command.env_clear().env("RUST_BACKTRACE", "1");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        MeterlineCommand {
            command,
            config: None,
            work_dir: None,
            pipes: Pipes::default(),
            admin_port: None,
        }
    }

    /// Its own folder, which holds its configuration.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The URL of an endpoint of its HTTP server, such as `/metrics`.
    #[must_use]
    pub fn url(&self, page: &str) -> String {
        format!("http://127.0.0.1:{}{page}", self.port)
    }

    /// The URL of an endpoint of its admin server, such as `/rejected`.
    #[must_use]
    pub fn admin_url(&self, page: &str) -> String {
        format!("http://127.0.0.1:{}{page}", self.admin_port)
    }

    /// Waits for the first line of the log, also among those already written, with `text` in it.
    ///
    /// # Errors
    /// When it did not come within `limit`, or the process ended without it; the error shows the
    /// end of the log.
    pub async fn wait_for_log(&self, text: &str, limit: Duration) -> anyhow::Result<String> {
        self.child
            .wait_for_line(Stream::Stderr, limit, |line| line.contains(text))
            .await
            .with_context(|| format!("waiting for {text:?}"))
    }

    /// Requests an orderly end, as Kubernetes does, and [audits the fates](Meterline::audit_fates)
    /// before.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.audit_fates();
        self.child.terminate()
    }

    /// Ends the process as Kubernetes does, and [audits the fates](Meterline::audit_fates) before.
    ///
    /// # Panics
    /// When `/stats` does not answer, the fates do not add up, or the process does not end in time
    /// with the exit code 0.
    pub async fn stop(&self) {
        let stats = self.stats().await.map_err(|error| format!("{error:#}"));
        let judged = stats.and_then(|stats| fates_add_up(&stats));
        assert!(judged.is_ok(), "{judged:?}{}", self.tail());
        let ended = self.terminate();
        assert!(ended.is_ok(), "{ended:?}");
        let status = self.wait_exit(END).await;
        let is_success = status.as_ref().is_ok_and(ExitStatus::success);
        assert!(is_success, "{status:?}{}", self.tail());
    }

    /// Kills the process, and [audits the fates](Meterline::audit_fates) before.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.audit_fates();
        self.child.kill()
    }

    /// Asserts that `/stats` gives each second that the process knows of exactly one fate. Every way
    /// to end a process calls it, dropping the handle included. A process that does not answer within
    /// a second, because it is still starting or hangs, is not checked; [`Meterline::stop`] checks
    /// every process.
    ///
    /// # Panics
    /// When the fates do not add up.
    pub fn audit_fates(&self) {
        if let Some(stats) = self.stats_at_once()
            && let Err(reason) = fates_add_up(&stats)
        {
            panic!("{reason}{}", self.tail());
        }
    }

    /// `/stats`, without a runtime.
    fn stats_at_once(&self) -> Option<Value> {
        if self.exited().is_some() {
            return None;
        }
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let mut stream = TcpStream::connect_timeout(&address, AT_ONCE).ok()?;
        stream.set_read_timeout(Some(AT_ONCE)).ok()?;
        stream.write_all(b"GET /stats HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.lines(Stream::Stderr)
    }
}

impl Drop for Meterline {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.audit_fates();
        }
    }
}

/// Checks that the seconds in `/stats` add up: each that ran has one fate.
///
/// # Errors
/// When they do not add up; the error contains them.
fn fates_add_up(stats: &Value) -> Result<(), String> {
    let Some(seconds) = stats.get("seconds") else {
        return Ok(());
    };
    let of = |fate: &str| seconds[fate].as_i64().unwrap_or(i64::MIN / 8);
    let fates = ["delivered", "rejected", "dropped", "waiting", "unproved"];
    let sum: i64 = fates.iter().map(|fate| of(fate)).sum();
    let is_sane = fates.iter().all(|fate| of(fate) >= 0);
    if of("ran") == sum && is_sane {
        Ok(())
    } else {
        Err(format!("a second has no fate or several: {seconds}"))
    }
}

/// The process itself: its output, signals and exit.
impl Deref for Meterline {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl MeterlineCommand {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets `KUBECONFIG`.
    #[must_use]
    pub fn kubeconfig(self, path: &Path) -> Self {
        self.env("KUBECONFIG", path)
    }

    /// Writes `yaml` to a file and passes it with `--config`.
    #[must_use]
    pub fn config(mut self, yaml: &str) -> Self {
        self.config = Some(yaml.to_owned());
        self
    }

    /// Runs in `folder` instead of an empty one.
    #[must_use]
    pub fn work_dir(mut self, folder: &Path) -> Self {
        self.work_dir = Some(folder.to_owned());
        self
    }

    /// Reads standard input from a pipe of the caller's instead of an empty one.
    #[must_use]
    pub fn stdin(mut self, pipe: PipeReader) -> Self {
        self.pipes.stdin = Some(pipe);
        self
    }

    /// Sends standard output into a pipe of the caller's instead of capturing it.
    #[must_use]
    pub fn stdout(mut self, pipe: PipeWriter) -> Self {
        self.pipes.stdout = Some(pipe);
        self
    }

    /// Sends standard error, the log, into a pipe of the caller's instead of capturing it.
    #[must_use]
    pub fn stderr(mut self, pipe: PipeWriter) -> Self {
        self.pipes.stderr = Some(pipe);
        self
    }

    /// Puts the admin server on this port instead of a free one.
    #[must_use]
    pub fn admin_port(mut self, port: u16) -> Self {
        self.admin_port = Some(port);
        self
    }

    /// Starts it from a shell that first runs `first`, such as `ulimit -n 256`, and applies
    /// `redirections`, such as `2>&-`.
    #[must_use]
    pub fn by_shell(mut self, first: &str, redirections: &str) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("set -e\n{first}\nexec \"$0\" \"$@\" {redirections}");
        shell.env_clear().arg("-c").arg(script);
        shell.arg(self.command.get_program());
        shell.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        self.command = shell;
        self
    }

    /// [`MeterlineCommand::start`], and waits until the process is ready.
    ///
    /// # Errors
    /// When it cannot be started, or is not ready within a minute.
    pub async fn start_ready(self) -> anyhow::Result<Meterline> {
        let meterline = self.start()?;
        meterline.wait_ready(READY).await?;
        Ok(meterline)
    }

    /// Starts the process, with its HTTP servers on free loopback ports.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn start(mut self) -> anyhow::Result<Meterline> {
        let dir = tempfile::Builder::new().prefix("meterline-").tempdir()?;
        let home = dir.path().join("home");
        std::fs::create_dir(&home)?;
        self.command.env("HOME", &home);
        let work_dir = self.work_dir.as_deref().unwrap_or(dir.path());
        self.command.current_dir(work_dir);
        if let Some(yaml) = self.config {
            let path = dir.path().join("config.yaml");
            std::fs::write(&path, yaml)?;
            self.command.arg("--config").arg(path);
        }
        let port = free_port()?;
        let admin_port = self.admin_port.map_or_else(free_port, Ok)?;
        for (section, port) in [("http", port), ("admin", admin_port)] {
            let address = format!("{section}.address=127.0.0.1:{port}");
            self.command.arg("--set").arg(address);
        }
        let child = Child::spawn_to("meterline", self.command, self.pipes)?;
        Ok(Meterline {
            child,
            dir,
            port,
            admin_port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn stand_in(script: &str) -> MeterlineCommand {
        Meterline::command("sh").args(["-c", script, "sh"])
    }

    #[tokio::test]
    async fn arguments_environment_config_and_folder_reach_the_process() {
        let meterline = stand_in("echo \"$WHO $KUBECONFIG $1 $3\" >&2; cat \"$2\" >&2; pwd >&2")
            .env("WHO", "me")
            .kubeconfig(Path::new("/some/kubeconfig"))
            .config("input: {}")
            .start()
            .unwrap();
        meterline
            .wait_for_log("me /some/kubeconfig --config --set", SOON)
            .await
            .unwrap();
        meterline.wait_for_log("input: {}", SOON).await.unwrap();
        let here = meterline.dir().display().to_string();
        meterline.wait_for_log(&here, SOON).await.unwrap();
        let status = meterline.wait_exit(SOON).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }

    #[tokio::test]
    async fn nothing_of_the_tests_environment_leaks_in() {
        let meterline = stand_in("env >&2").start().unwrap();
        meterline.wait_exit(SOON).await.unwrap();
        let log = meterline.log();
        let mut names: Vec<_> = log
            .iter()
            .filter_map(|line| line.split('=').next())
            .filter(|name| !["_", "SHLVL", "OLDPWD"].contains(name))
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "PATH", "PWD", "RUST_BACKTRACE"]);
    }

    #[tokio::test]
    async fn a_shell_before_it_changes_only_what_it_is_given() {
        let meterline = stand_in("ulimit -n >&2; echo \"$WHO $1\" >&2; echo gone")
            .env("WHO", "me")
            .by_shell("ulimit -n 99", ">&-")
            .start()
            .unwrap();
        meterline.wait_exit(SOON).await.unwrap();
        assert_eq!(meterline.log()[..2], ["99", "me --set"]);
        assert!(meterline.lines(Stream::Stdout).is_empty());
    }

    #[tokio::test]
    async fn waiting_for_a_page_ends_when_the_process_does() {
        let meterline = stand_in("echo broken >&2; exit 1").start().unwrap();
        let error = meterline.wait_ready(SOON).await.unwrap_err().to_string();
        assert!(error.contains("broken"), "{error}");
    }

    #[test]
    fn fates_that_do_not_add_up_are_found() {
        let seconds = |ran: i64, waiting: i64| {
            serde_json::json!({"seconds": {"ran": ran, "delivered": 3, "rejected": 1, "dropped": 2,
                "waiting": waiting, "unproved": 0}})
        };
        assert_eq!(fates_add_up(&seconds(10, 4)), Ok(()));
        assert!(fates_add_up(&seconds(11, 4)).is_err());
        assert!(fates_add_up(&seconds(5, -1)).is_err());
        assert!(fates_add_up(&serde_json::json!({"seconds": {}})).is_err());
    }
}
