//! `meterline run`: a pipeline from its configuration to its end.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use meterline_config::{Loaded, LogFormat};
use meterline_core::{
    BuildContext, BuildError, Health, HealthHandle, LeaderElection, Metrics, Processing, Processor,
    ProcessorPlan, Rejected,
};
use meterline_runtime::{Ended, Pipeline};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    admin,
    args::RunArgs,
    descriptors, election,
    exit::Exit,
    http, lint,
    logging::{self, Format},
    minute, server,
};

/// What goes on beside the pipeline may go on for so long when that has ended.
const LINGER: Duration = Duration::from_secs(1);
/// How long an end at once waits for the log.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Checks the configuration and runs it until it ends or a signal says so.
pub(crate) fn run(args: &RunArgs) -> Result<Exit> {
    let descriptors = descriptors::raise();
    let metrics = Metrics::default();
    logging::never_wait(&metrics)?;
    let (source, environment) = match lint::named(&args.config) {
        Ok(named) => named,
        Err(error) => return Ok(Exit::by_fault(&error)),
    };
    let Some(loaded) = lint::checked(&source, &args.config.set, &environment)? else {
        return Ok(Exit::Faults);
    };
    let election = match election::election(&args.election, &environment) {
        Ok(election) => election.map(Arc::new),
        Err(error) => return Ok(Exit::by_fault(&error)),
    };
    let level = args.log_level.unwrap_or(&loaded.logger.level);
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
    descriptors::warn_if_few(descriptors);
    let runtime = runtime(loaded.threads)?;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let ended = runtime.block_on(async {
        #[expect(
            clippy::disallowed_methods,
            reason = "it waits for a signal, and ends with the runtime"
        )]
        tokio::spawn(tell_of_stop(stop.clone()));
        serve(loaded, election, metrics, descriptors, stop).await
    });
    // All is settled or given up. What still blocks a thread, such as a read of standard input that
    // nobody writes to, would be waited for for ever.
    runtime.shutdown_timeout(LINGER);
    ended
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
async fn serve(
    loaded: Loaded,
    leader_election: Option<Arc<LeaderElection>>,
    metrics: Metrics,
    descriptors: u64,
    stop: CancellationToken,
) -> Result<Exit> {
    let health = Health::default();
    // Not ready before its parts can say how they are.
    let running = health.register("pipeline");
    let rejected = Rejected::default();
    let pages_stop = CancellationToken::new();
    let mut pages = JoinSet::new();
    let closed = |listener| {
        let help = "Connections to the pages that were closed to make room for others.";
        let labels = [("listener", listener)];
        metrics.counter("http_connections_closed", help, &labels)
    };
    if loaded.http.enabled {
        let listener = http::bind(&loaded.http.address, "http").await?;
        info!(
            address = loaded.http.address,
            "serving /ping, /ready, /version, /metrics and /stats"
        );
        pages.spawn(server::serve(
            listener,
            http::pages(health.clone(), metrics.clone()),
            descriptors::for_pages(descriptors, http::CONNECTIONS),
            closed("http"),
            pages_stop.clone(),
        ));
    }
    if loaded.admin.enabled
        && let Some(listener) = admin::bind(&loaded.admin.address).await
    {
        pages.spawn(server::serve(
            listener,
            admin::pages(&loaded.admin.address, rejected.clone()),
            descriptors::for_pages(descriptors, admin::CONNECTIONS),
            closed("admin"),
            pages_stop.clone(),
        ));
    }
    let cx = BuildContext {
        label: "".into(),
        metrics,
        health,
        leader_election,
        rejected,
        processing: Some(Processing {
            threads: loaded.threads,
            behind: meterline_runtime::processed,
        }),
    };
    let exit = pipeline(loaded, cx, &running, stop).await;
    pages_stop.cancel();
    // A request that never gets finished must not keep the process.
    let ended = async { while pages.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LINGER, ended).await;
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
    #[expect(
        clippy::disallowed_methods,
        reason = "it is aborted below, when the pipeline has ended"
    )]
    let line = tokio::spawn(minute::tell(cx.metrics.clone(), cx.health.clone()));
    let pipeline = Pipeline {
        input,
        chains,
        output,
        metrics: cx.metrics,
        health: cx.health,
        shutdown_timeout: loaded.shutdown_timeout,
    };
    let report = pipeline.run(stop).await;
    line.abort();
    Ok(match report.ended {
        Ended::Failed(reason) => {
            error!("{reason}");
            Exit::Failed
        }
        _ if report.unsettled > 0 => Exit::Undelivered,
        _ if report.persisted > 0 => {
            info!("meterline ends; what is not delivered is kept");
            Exit::Success
        }
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

/// The first SIGINT or SIGTERM asks for an orderly stop, the second ends the process at once: by a
/// thread of its own, which waits for nothing else, and hardly for the log.
fn stop_on_signal(stop: CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot listen for signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        )
    };
    let listen = move || {
        runtime.block_on(async {
            for first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if first {
                    stop.cancel();
                }
            }
        });
        logging::flush(LAST_WORDS);
        std::process::exit(Exit::Interrupted as i32);
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .context("cannot listen for signals")?;
    Ok(())
}

async fn tell_of_stop(stop: CancellationToken) {
    stop.cancelled().await;
    info!("stopping: what was read is being delivered; a second signal ends at once");
}
