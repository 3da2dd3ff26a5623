//! `meterline run`: a pipeline from its configuration to its end.

use std::{io::Write, sync::Arc};

use anyhow::{Context, Result};
use meterline_config::{Loaded, LogFormat};
use meterline_core::{
    BuildContext, BuildError, Health, HealthHandle, LeaderElection, Metrics, Processor,
    ProcessorPlan,
};
use meterline_runtime::{Ended, Pipeline};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    args::RunArgs,
    election,
    environment::Environment,
    exit::Exit,
    http, load,
    logging::{self, Format},
};

/// Checks the configuration and runs it until it ends or a signal says so.
pub(crate) fn run(args: &RunArgs) -> Result<Exit> {
    let environment = Environment::new(args.config.env_file.as_deref())?;
    let source = match load::source(&args.config) {
        Ok(source) => source,
        Err(error) => {
            writeln!(std::io::stderr(), "meterline: {error:#}")?;
            return Ok(Exit::Faults);
        }
    };
    let Some(loaded) = load::checked(&source, &args.config.set, &environment)? else {
        return Ok(Exit::Faults);
    };
    let election = match election::election(&args.election, &environment) {
        Ok(election) => election.map(Arc::new),
        Err(error) => {
            writeln!(std::io::stderr(), "meterline: {error:#}")?;
            return Ok(Exit::Faults);
        }
    };
    let level = args.log_level.as_deref().unwrap_or(&loaded.logger.level);
    logging::start(
        level,
        match loaded.logger.format {
            LogFormat::Logfmt => Format::Logfmt,
            LogFormat::Json => Format::Json,
        },
    );
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = source.name,
        "meterline starts"
    );
    runtime(loaded.threads)?.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        serve(loaded, election, stop).await
    })
}

/// The asynchronous runtime: few threads, for the work is in the mappings and they have their own.
pub(crate) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.clamp(1, 4))
        .thread_stack_size(meterline_script::STACK_SIZE)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// Builds the pipeline and its pages and runs them until `stop`.
pub(crate) async fn serve(
    loaded: Loaded,
    leader_election: Option<Arc<LeaderElection>>,
    stop: CancellationToken,
) -> Result<Exit> {
    let health = Health::default();
    let metrics = Metrics::default();
    // Not ready before its parts can say how they are.
    let running = health.register("pipeline");
    let pages_stop = CancellationToken::new();
    let pages = if loaded.http.enabled {
        let listener = http::bind(&loaded.http.address).await?;
        info!(
            address = loaded.http.address,
            "serving /ping, /ready, /version, /metrics and /stats"
        );
        Some(tokio::spawn(http::serve(
            listener,
            health.clone(),
            metrics.clone(),
            pages_stop.clone(),
        )))
    } else {
        None
    };
    let cx = BuildContext {
        label: "".into(),
        metrics,
        health,
        leader_election,
    };
    let exit = pipeline(loaded, cx, &running, stop).await;
    pages_stop.cancel();
    if let Some(pages) = pages {
        pages.await.context("the HTTP server panicked")??;
    }
    exit
}

async fn pipeline(
    loaded: Loaded,
    cx: BuildContext,
    running: &HealthHandle,
    stop: CancellationToken,
) -> Result<Exit> {
    let chains = (0..loaded.threads)
        .map(|_| chain(&loaded.processors, &cx))
        .collect::<Result<_, _>>()?;
    let output = loaded.output.build(&cx).await?;
    let mut input = loaded.input.build(&cx).await?;
    if let Some((label, buffer)) = loaded.buffer {
        input = buffer.build(input, &cx.labelled(label)).await?;
    }
    running.ready("");
    let pipeline = Pipeline {
        input,
        chains,
        output,
        metrics: cx.metrics,
        health: cx.health,
        shutdown_timeout: loaded.shutdown_timeout,
    };
    let report = pipeline.run(stop).await;
    Ok(match report.ended {
        Ended::Failed(reason) => {
            error!("{reason}");
            Exit::Failed
        }
        _ if report.unsettled > 0 => Exit::Undelivered,
        _ => {
            info!("meterline ends; everything that was read is delivered");
            Exit::Success
        }
    })
}

fn chain(
    plans: &[Box<dyn ProcessorPlan>],
    cx: &BuildContext,
) -> Result<Vec<Box<dyn Processor>>, BuildError> {
    plans.iter().map(|plan| plan.build(cx)).collect()
}

/// The first SIGINT or SIGTERM asks for an orderly stop, the second ends the process at once.
fn stop_on_signal(stop: CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first {
                info!("stopping: what was read is being delivered; a second signal ends at once");
                stop.cancel();
            }
        }
        std::process::exit(Exit::Interrupted as i32);
    });
    Ok(())
}
