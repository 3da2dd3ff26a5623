//! `meterline demo`: meters a simulated cluster and compares the bill with the truth.
//!
//! It starts a simulated API server with a changing population of pods, an ingest endpoint, and between
//! them this program with its preset, as a child process that uses real HTTP.

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

use self::{bill::Billing, ingest::Ingest, report::Report};
use crate::{args::DemoArgs, exit::Exit, run::runtime};

/// The length of the windows, in seconds.
const WINDOW: i64 = 2;
/// The longest time that the last windows may take to be delivered.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The most pods at once.
const PODS: usize = 25;
/// The moment within a second at which the population changes: late enough that the API server never
/// sees a status before the second that it names.
const WITHIN_SECOND: Duration = Duration::from_millis(150);

/// Runs the demo and prints the bill.
pub(crate) fn demo(args: &DemoArgs) -> Result<Exit> {
    let length = duration::parse(&args.duration).with_context(|| {
        format!(
            "--for {}: expected a Go duration such as 20s",
            args.duration
        )
    })?;
    let seconds = length / 1_000_000_000;
    // An error means that another provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ensure!(
        (4..=3600).contains(&seconds),
        "--for {}: expected 4s to 1h",
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
    metrics_url: String,
    world: World,
    billing: Billing,
    from: i64,
    until: i64,
    cuts: u64,
    // Holds the kubeconfig for as long as the collector runs.
    _folder: tempfile::TempDir,
}

impl Demo {
    async fn start(args: &DemoArgs, seconds: i64) -> Result<Self> {
        let sim = Kubesim::start(Options::default())
            .await
            .context("cannot start the simulated API server")?;
        let (ingest, events) = Ingest::start().await?;
        let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
        let kubeconfig = folder.path().join("kubeconfig");
        sim.write_kubeconfig(&kubeconfig)
            .context("cannot write the kubeconfig")?;
        let address = free_address()?;
        let collector = collector(&kubeconfig, &ingest.url, &address)?;
        let from = now()? + 1;
        let until = (from + seconds).div_euclid(WINDOW) * WINDOW;
        if !args.json {
            print(&format!(
                "Simulated API server: {}\nIngest endpoint:      {}\n\
                 Collector:            meterline --preset kubernetes-pod-exec-time, windows of {WINDOW} s, for {seconds} s\n",
                sim.url(),
                ingest.url,
            ))?;
        }
        Ok(Self {
            sim,
            ingest,
            events,
            collector,
            metrics_url: format!("http://{address}/metrics"),
            world: World::new(args.seed, PODS, Size::Realistic),
            billing: Billing::new(rfc3339(until))?,
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
            self.inject_faults(second);
        }
        self.watch_until(self.until, args).await?;
        self.drain(args).await?;
        let (refused, lost) = self.ingest.faults();
        let report = Report {
            customers: self.billing.customers(&self.world.truth(self.until)),
            seconds: self.until - self.from,
            seed: args.seed,
            events: self.billing.events,
            duplicates: self.billing.duplicates,
            refused,
            lost,
            cuts: self.cuts,
        };
        if args.json {
            print(&serde_json::to_string_pretty(&report.json()?)?)?;
        } else {
            print(&format!("\n{}", report.table().trim_end()))?;
        }
        Ok(if report.is_exact() {
            Exit::Success
        } else {
            Exit::Failed
        })
    }

    /// Injects a fault at each quarter of the time.
    fn inject_faults(&mut self, second: i64) {
        let (passed, quarter) = (second - self.from, (self.until - self.from) / 4);
        if passed == quarter {
            self.ingest.refuse(3);
        } else if passed == 2 * quarter {
            self.sim.cut_watches();
            self.cuts += 1;
        } else if passed == 3 * quarter {
            self.ingest.lose_responses(1);
        }
    }

    /// Receives events until that second has begun.
    #[expect(
        clippy::disallowed_methods,
        reason = "the demo waits for a time of day"
    )]
    async fn watch_until(&mut self, second: i64, args: &DemoArgs) -> Result<()> {
        let started = UNIX_EPOCH + Duration::from_secs(second.unsigned_abs()) + WITHIN_SECOND;
        let wait = started
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let started = tokio::time::sleep(wait);
        tokio::pin!(started);
        loop {
            tokio::select! {
                biased;
                ended = self.collector.wait() => bail!("the collector ended: {}", ended?),
                Some(event) = self.events.recv() => self.take(&event, args)?,
                () = &mut started => return Ok(()),
            }
        }
    }

    /// Waits until all usage before the end is delivered, then stops the collector.
    async fn drain(&mut self, args: &DemoArgs) -> Result<()> {
        let deadline = tokio::time::Instant::now() + DRAIN_TIMEOUT;
        let mut second = self.until;
        while watermark(&self.metrics_url).await.unwrap_or(0) < self.until {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the last windows were not delivered within {} s",
                DRAIN_TIMEOUT.as_secs()
            );
            second += 1;
            self.watch_until(second, args).await?;
        }
        let id = self.collector.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(rustix::process::Pid::from_raw);
        let id = id.context("the collector has no process id")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let ended = tokio::time::timeout(DRAIN_TIMEOUT, self.collector.wait())
            .await
            .context("the collector did not stop")??;
        ensure!(ended.success(), "the collector ended: {ended}");
        while let Ok(event) = self.events.try_recv() {
            self.take(&event, args)?;
        }
        Ok(())
    }

    fn take(&mut self, event: &Value, args: &DemoArgs) -> Result<()> {
        if self.billing.add(event)? && !args.json {
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let field = |pointer| event.pointer(pointer).map_or_else(String::new, text);
            print(&format!(
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

/// Starts this program as a collector.
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
        // The user's environment must not change the result.
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

/// Returns an address on the loopback interface that was free a moment ago.
fn free_address() -> Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.to_string())
}

/// Returns the watermark of the collector in Unix seconds; `None` while `/metrics` cannot be read.
async fn watermark(metrics_url: &str) -> Option<i64> {
    let client = reqwest::Client::builder().no_proxy().build().ok()?;
    let request = client
        .get(metrics_url)
        .timeout(Duration::from_secs(1))
        .send();
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
        .context("the system clock is before 1970")?;
    Ok(i64::try_from(since.as_secs())?)
}

/// Prints a line to standard output.
fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
