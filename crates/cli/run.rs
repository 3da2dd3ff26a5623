//! `meterline run`: runs a pipeline.

use std::time::Duration;

use anyhow::{Context, Result};
use meterline_config::{Loaded, LogFormat};
use meterline_core::{
    BuildContext, BuildError, Extensions, Health, HealthHandle, Metrics, Processing, Processor,
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

/// How long the HTTP servers and blocked threads may continue after the pipeline has ended.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// How long an immediate exit waits for the log to be written.
const FINAL_FLUSH: Duration = Duration::from_millis(100);

/// Checks the configuration and runs it until it ends or a signal stops it.
pub(crate) fn run(args: &RunArgs) -> Result<Exit> {
    let descriptors = descriptors::raise();
    let metrics = Metrics::default();
    logging::start_writer(&metrics)?;
    let (source, environment) = match lint::named(&args.config) {
        Ok(named) => named,
        Err(error) => return Ok(Exit::invalid(&error)),
    };
    let Some(loaded) = lint::checked(&source, &args.config.set, &environment)? else {
        return Ok(Exit::Invalid);
    };
    let extensions = match election::election(&args.election, &environment) {
        Ok(Some(election)) => Extensions::default().with(election),
        Ok(None) => Extensions::default(),
        Err(error) => return Ok(Exit::invalid(&error)),
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
            reason = "it waits for the stop, and ends with the runtime"
        )]
        tokio::spawn(log_stop(stop.clone()));
        serve(loaded, extensions, metrics, descriptors, stop).await
    });
    // Everything is settled or given up. Without the timeout a blocked thread, such as a read of an
    // idle standard input, would keep the process forever.
    runtime.shutdown_timeout(SHUTDOWN_GRACE);
    ended
}

/// Starts the asynchronous runtime. It has few threads, because the mappings do most of the work and
/// run on threads of their own.
pub(crate) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.clamp(1, 4))
        .thread_stack_size(meterline_script::STACK_SIZE)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// Builds the pipeline and its HTTP servers and runs them until `stop`.
async fn serve(
    loaded: Loaded,
    extensions: Extensions,
    metrics: Metrics,
    descriptors: u64,
    stop: CancellationToken,
) -> Result<Exit> {
    let health = Health::default();
    // Not ready until all parts are built and report their own health.
    let running = health.register("pipeline");
    let rejected = Rejected::default();
    let servers_stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    let closed = |listener| {
        let help = "HTTP connections that were closed to admit others.";
        let labels = [("listener", listener)];
        metrics.counter("http_connections_closed", help, &labels)
    };
    if loaded.http.enabled {
        let listener = http::bind(&loaded.http.address, "http").await?;
        info!(
            address = loaded.http.address,
            "serving /ping, /ready, /version, /metrics and /stats"
        );
        servers.spawn(server::serve(
            listener,
            http::router(health.clone(), metrics.clone()),
            descriptors::for_server(descriptors, http::CONNECTIONS),
            closed("http"),
            servers_stop.clone(),
        ));
    }
    if loaded.admin.enabled
        && let Some(listener) = admin::bind(&loaded.admin.address).await
    {
        servers.spawn(server::serve(
            listener,
            admin::router(&loaded.admin.address, rejected.clone()),
            descriptors::for_server(descriptors, admin::CONNECTIONS),
            closed("admin"),
            servers_stop.clone(),
        ));
    }
    let cx = BuildContext {
        label: "".into(),
        metrics,
        health,
        extensions,
        rejected,
        processing: Some(Processing {
            threads: loaded.threads,
            behind: meterline_runtime::processed,
        }),
    };
    let exit = pipeline(loaded, cx, &running, stop).await;
    servers_stop.cancel();
    // A request that never finishes must not keep the process.
    let ended = async { while servers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, ended).await;
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
    let summary = tokio::spawn(minute::log(cx.metrics.clone(), cx.health.clone()));
    let pipeline = Pipeline {
        input,
        chains,
        output,
        metrics: cx.metrics,
        health: cx.health,
        shutdown_timeout: loaded.shutdown_timeout,
    };
    let report = pipeline.run(stop).await;
    summary.abort();
    Ok(match report.ended {
        Ended::Failed(reason) => {
            error!("{reason}");
            Exit::Failed
        }
        _ if report.unsettled > 0 => Exit::Undelivered,
        _ if report.persisted > 0 => {
            info!("meterline ends; undelivered messages are stored");
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

/// The first SIGINT or SIGTERM starts an orderly stop, the second ends the process at once. A
/// dedicated thread handles them, so that nothing else can delay the exit.
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
        logging::flush(FINAL_FLUSH);
        std::process::exit(Exit::Interrupted as i32);
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .context("cannot listen for signals")?;
    Ok(())
}

async fn log_stop(stop: CancellationToken) {
    stop.cancelled().await;
    info!("stopping: what was read is being delivered; a second signal ends at once");
}
