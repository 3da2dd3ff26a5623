//! `meterline demo`: the main job with nothing installed.
//!
//! A simulated API server with a living population of pods, an ingest endpoint, and between them
//! this very program with the very preset, as a process of its own over real HTTP.

mod bill;
mod ingest;
mod report;

use std::{
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use meterline_core::duration;
use meterline_kubesim::{Kubesim, Options, Size, World, rfc3339};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    sync::mpsc::UnboundedReceiver,
};

use self::{bill::Book, ingest::Ingest, report::Report};
use crate::{args::DemoArgs, exit::Exit, run::runtime};

/// The length of the windows, in seconds.
const WINDOW: i64 = 2;
/// How long the last windows may take to be delivered.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many pods there are at most.
const PODS: usize = 25;
/// How far into a second the population moves on: late enough that a status written in a second
/// is never older than it says.
const WITHIN_SECOND: Duration = Duration::from_millis(150);

/// Runs the demo and prints the bill.
pub(crate) fn demo(args: &DemoArgs) -> Result<Exit> {
    let length = duration::parse(&args.duration)
        .with_context(|| format!("--for {}: not a Go duration, such as 20s", args.duration))?;
    let seconds = length / 1_000_000_000;
    // Who installed one before us is as welcome.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ensure!(
        (4..=3600).contains(&seconds),
        "--for {}: from 4s to 1h",
        args.duration
    );
    runtime(2)?.block_on(async {
        tokio::select! {
            exit = Demo::start(args, seconds).await?.play(args) => exit,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot listen for SIGINT")?;
                Ok(Exit::Interrupted)
            }
        }
    })
}

struct Demo {
    sim: Kubesim,
    ingest: Ingest,
    events: UnboundedReceiver<Value>,
    collector: Child,
    page: String,
    world: World,
    book: Book,
    from: i64,
    until: i64,
    cuts: u64,
    // Held so that the kubeconfig is there as long as the collector is.
    _folder: tempfile::TempDir,
}

impl Demo {
    async fn start(args: &DemoArgs, seconds: i64) -> Result<Self> {
        let sim = Kubesim::start(Options::default())
            .await
            .context("no free port for the simulated API server")?;
        let (ingest, events) = Ingest::start().await?;
        let folder = tempfile::tempdir().context("no folder for temporary files")?;
        let kubeconfig = folder.path().join("kubeconfig");
        sim.write_kubeconfig(&kubeconfig)
            .context("cannot write the kubeconfig")?;
        let address = free_address()?;
        let collector = collector(&kubeconfig, &ingest.url, &address)?;
        let from = now()? + 1;
        let until = (from + seconds).div_euclid(WINDOW) * WINDOW;
        if !args.json {
            say(&format!(
                "A simulated API server at {}, an ingest endpoint at {}, and between them\n\
                 meterline --preset kubernetes-pod-exec-time, in windows of {WINDOW} s, for {seconds} s.\n",
                sim.url(),
                ingest.url,
            ))?;
        }
        Ok(Self {
            sim,
            ingest,
            events,
            collector,
            page: format!("http://{address}/metrics"),
            world: World::new(args.seed, PODS, Size::Realistic),
            book: Book::new(rfc3339(until))?,
            from,
            until,
            cuts: 0,
            _folder: folder,
        })
    }

    async fn play(mut self, args: &DemoArgs) -> Result<Exit> {
        for second in self.from..self.until {
            self.watch_until(second, args).await?;
            let world = &mut self.world;
            self.sim.change(|store| world.step(second, store));
            self.go_wrong(second);
        }
        self.watch_until(self.until, args).await?;
        self.drain(args).await?;
        let (refused, lost) = self.ingest.went_wrong();
        let report = Report {
            customers: self.book.customers(&self.world.truth(self.until)),
            seconds: self.until - self.from,
            seed: args.seed,
            events: self.book.events,
            duplicates: self.book.duplicates,
            refused,
            lost,
            cuts: self.cuts,
        };
        if args.json {
            say(&serde_json::to_string_pretty(&report.json()?)?)?;
        } else {
            say(&format!("\n{}", report.table().trim_end()))?;
        }
        Ok(if report.is_exact() {
            Exit::Success
        } else {
            Exit::Failed
        })
    }

    /// A bad moment at each quarter of the time.
    fn go_wrong(&mut self, second: i64) {
        let (passed, quarter) = (second - self.from, (self.until - self.from) / 4);
        if passed == quarter {
            self.ingest.refuse(3);
        } else if passed == 2 * quarter {
            self.sim.cut_watches();
            self.cuts += 1;
        } else if passed == 3 * quarter {
            self.ingest.lose_answers(1);
        }
    }

    /// Takes events until that second has begun.
    #[expect(
        clippy::disallowed_methods,
        reason = "the demo waits for a time of day"
    )]
    async fn watch_until(&mut self, second: i64, args: &DemoArgs) -> Result<()> {
        let begun = UNIX_EPOCH + Duration::from_secs(second.unsigned_abs()) + WITHIN_SECOND;
        let wait = begun.duration_since(SystemTime::now()).unwrap_or_default();
        let begun = tokio::time::sleep(wait);
        tokio::pin!(begun);
        loop {
            tokio::select! {
                biased;
                ended = self.collector.wait() => bail!("the collector ended: {}", ended?),
                Some(event) = self.events.recv() => self.take(&event, args)?,
                () = &mut begun => return Ok(()),
            }
        }
    }

    /// Waits until all time before the end is delivered, then stops the collector.
    async fn drain(&mut self, args: &DemoArgs) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut second = self.until;
        while watermark(&self.page).await.unwrap_or(0) < self.until {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the last windows were not delivered within {} s",
                PATIENCE.as_secs()
            );
            second += 1;
            self.watch_until(second, args).await?;
        }
        let id = self.collector.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(rustix::process::Pid::from_raw);
        let id = id.context("the collector has no process id")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let ended = tokio::time::timeout(PATIENCE, self.collector.wait())
            .await
            .context("the collector did not stop")??;
        ensure!(ended.success(), "the collector ended: {ended}");
        while let Ok(event) = self.events.try_recv() {
            self.take(&event, args)?;
        }
        Ok(())
    }

    fn take(&mut self, event: &Value, args: &DemoArgs) -> Result<()> {
        if self.book.take(event)? && !args.json {
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let field = |pointer| event.pointer(pointer).map_or_else(String::new, text);
            say(&format!(
                "{}  {:<10} {:<10} {:>2} s  {:>6} core-seconds",
                field("/time"),
                field("/subject"),
                field("/data/pod_name"),
                field("/data/duration_seconds"),
                field("/data/cpu_request_millicores_per_second"),
            ))?;
        }
        Ok(())
    }
}

/// This program, as anybody would start it.
fn collector(kubeconfig: &Path, ingest: &str, address: &str) -> Result<Child> {
    Command::new(std::env::current_exe().context("cannot find this program's own file")?)
        .args(["run", "--preset", "kubernetes-pod-exec-time"])
        .args(["--log-level", "ERROR"])
        .args(["--set", &format!("http.address={address}")])
        .args(["--set", "admin.enabled=false"])
        .args([
            "--set",
            "input.schedule.input.kubernetes_resources.settle=1s",
        ])
        // Only what the demo sets may change what it shows.
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .env("OPENMETER_URL", ingest)
        .env("SCRAPE_INTERVAL", format!("{WINDOW}s"))
        .env("BATCH_PERIOD", "1s")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the collector")
}

/// An address on the loopback interface that was free a moment ago.
fn free_address() -> Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.to_string())
}

/// How far the collector has delivered, in Unix seconds; none while its page cannot be read.
async fn watermark(page: &str) -> Option<i64> {
    let client = reqwest::Client::builder().no_proxy().build().ok()?;
    let request = client.get(page).timeout(Duration::from_secs(1)).send();
    let text = request.await.ok()?.text().await.ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("ledger_watermark_timestamp_seconds"))?;
    value.rsplit(' ').next()?.parse().ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the demo begins at a time of day"
)]
fn now() -> Result<i64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands before 1970")?;
    Ok(i64::try_from(since.as_secs())?)
}

/// A line to standard output; whoever closed it has seen enough.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
