//! A child process whose output can be waited for and which never outlives its handle.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::time::timeout;

/// One of the two streams a child writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

#[derive(Debug, Default)]
struct Output {
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// How many of the two streams have ended.
    ended: u8,
}

impl Output {
    fn lines(&self, stream: Stream) -> &Vec<String> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    fn lines_mut(&mut self, stream: Stream) -> &mut Vec<String> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Pipes in place of the empty input and the captured outputs of a child.
#[derive(Debug, Default)]
pub struct Pipes {
    /// In place of the empty standard input.
    pub stdin: Option<PipeReader>,
    /// In place of the captured standard output.
    pub stdout: Option<PipeWriter>,
    /// In place of the captured standard error.
    pub stderr: Option<PipeWriter>,
}

/// A running child. Dropping it kills the process and waits until it has ended.
///
/// Threads, not tasks, read its output and wait for its end. It therefore works in any runtime, and ends
/// even after the runtime has ended.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: Pid,
    output: watch::Receiver<Output>,
    exit: watch::Receiver<Option<ExitStatus>>,
    reaper: Option<JoinHandle<()>>,
}

impl Child {
    /// Starts `command` with both outputs captured and an empty standard input.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(name: &str, command: Command) -> anyhow::Result<Self> {
        Self::spawn_to(name, command, Pipes::default())
    }

    /// Like [`Child::spawn`], with the caller's pipes in place of some streams.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_to(name: &str, mut command: Command, pipes: Pipes) -> anyhow::Result<Self> {
        let captured = |pipe: Option<PipeWriter>| pipe.map_or_else(Stdio::piped, Stdio::from);
        command
            .stdin(pipes.stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(captured(pipes.stdout))
            .stderr(captured(pipes.stderr));
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        let pid = Pid::from_child(&child);
        let (sender, output) = watch::channel(Output::default());
        match child.stdout.take() {
            Some(stdout) => read(stdout, Stream::Stdout, sender.clone()),
            None => sender.send_modify(|output| output.ended += 1),
        }
        match child.stderr.take() {
            Some(stderr) => read(stderr, Stream::Stderr, sender),
            None => sender.send_modify(|output| output.ended += 1),
        }
        let (exited, exit) = watch::channel(None);
        let reaper = std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                exited.send_replace(Some(status));
            }
        });
        Ok(Self {
            name: name.to_owned(),
            pid,
            output,
            exit,
            reaper: Some(reaper),
        })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Every line written to `stream` so far.
    #[must_use]
    pub fn lines(&self, stream: Stream) -> Vec<String> {
        self.output.borrow().lines(stream).clone()
    }

    /// The last lines of both streams, for error messages.
    #[must_use]
    pub fn tail(&self) -> String {
        const LINES: usize = 30;
        let output = self.output.borrow();
        let mut text = String::new();
        for lines in [&output.stdout, &output.stderr] {
            for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
                text.push_str("\n    | ");
                text.push_str(line);
            }
        }
        text
    }

    /// Waits for the first line of `stream`, also among those already written, that `wanted`
    /// accepts.
    ///
    /// # Errors
    /// When it did not come within `limit`, or the process closed its output without it. The error
    /// shows the end of what was written.
    pub async fn wait_for_line(
        &self,
        stream: Stream,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> anyhow::Result<String> {
        let mut output = self.output.clone();
        let mut seen = 0;
        let search = async {
            loop {
                {
                    let now = output.borrow_and_update();
                    let lines = now.lines(stream);
                    if let Some(line) = lines.iter().skip(seen).find(|line| wanted(line)) {
                        return Some(line.clone());
                    }
                    seen = lines.len();
                    if now.ended == 2 {
                        return None;
                    }
                }
                output.changed().await.ok()?;
            }
        };
        match timeout(limit, search).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => bail!("{} ended without the line:{}", self.name, self.tail()),
            Err(_) => bail!(
                "{} did not write the line within {limit:?}:{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// The exit status, when the process has ended.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until the process has ended and everything that it wrote has been read.
    ///
    /// # Errors
    /// When it still runs after `limit`; the error shows the end of its output.
    pub async fn wait_exit(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        /// Limits the wait for the output, which a process that this one started may keep open indefinitely.
        const LAST_LINES: Duration = Duration::from_secs(2);
        let mut exit = self.exit.clone();
        let exited = timeout(limit, exit.wait_for(Option::is_some)).await;
        if exited.is_err() {
            bail!("{} still runs after {limit:?}:{}", self.name, self.tail());
        }
        let mut output = self.output.clone();
        let _ = timeout(LAST_LINES, output.wait_for(|output| output.ended == 2)).await;
        self.exited()
            .ok_or_else(|| anyhow!("{} could not be waited for", self.name))
    }

    /// Requests the process to end (SIGTERM).
    ///
    /// # Errors
    /// When it has already ended.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends the process at once (SIGKILL).
    ///
    /// # Errors
    /// When it has already ended.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Stops the process where it is (SIGSTOP); [`Child::resume`] lets it continue.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused process continue (SIGCONT).
    ///
    /// # Errors
    /// When it has already ended.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // Once the process is reaped, its id may belong to another process.
        if let Some(status) = self.exited() {
            bail!("{} has ended already ({status}):{}", self.name, self.tail());
        }
        kill_process(self.pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exited().is_none() {
            // An error only means that it has already ended.
            let _ = self.kill();
        }
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}

fn read(from: impl Read + Send + 'static, stream: Stream, to: watch::Sender<Output>) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            to.send_modify(|output| output.lines_mut(stream).push(text));
            line.clear();
        }
        to.send_modify(|output| output.ended += 1);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Child::spawn("sh", command).unwrap()
    }

    #[tokio::test]
    async fn lines_of_both_streams_are_found_and_the_exit_code_is_known() {
        let child = shell("echo one; echo two >&2; exit 3");
        let two = child
            .wait_for_line(Stream::Stderr, SOON, |line| line.contains('w'))
            .await
            .unwrap();
        assert_eq!(two, "two");
        let status = child.wait_exit(SOON).await.unwrap();
        assert_eq!(status.code(), Some(3));
        child
            .wait_for_line(Stream::Stdout, SOON, |line| line == "one")
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_line_that_never_comes_is_an_error_that_shows_the_output() {
        let child = shell("echo something else >&2");
        let error = child
            .wait_for_line(Stream::Stderr, SOON, |line| line == "x")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
    }

    #[tokio::test]
    async fn a_paused_process_continues_after_resume() {
        let child = shell("read _ ; trap 'echo bye; exit 0' TERM; echo up; while :; do :; done");
        child
            .wait_for_line(Stream::Stdout, SOON, |line| line == "up")
            .await
            .unwrap();
        child.pause().unwrap();
        child.terminate().unwrap();
        assert!(child.exited().is_none());
        child.resume().unwrap();
        child.wait_exit(SOON).await.unwrap();
        assert_eq!(child.lines(Stream::Stdout), ["up", "bye"]);
    }

    #[test]
    fn a_dropped_child_is_killed() {
        let child = shell("while :; do sleep 1; done");
        let exit = child.exit.clone();
        drop(child);
        assert!(exit.borrow().is_some());
    }

    #[test]
    fn a_missing_program_is_an_error_with_its_name() {
        let error = Child::spawn("thing", Command::new("/no/such/thing")).unwrap_err();
        assert!(error.to_string().contains("/no/such/thing"), "{error}");
    }
}
