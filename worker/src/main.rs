//! `gristmill-worker`: config, build, spawn, wait, drain with a limit.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use gristmill_ledger::end_now;
use gristmill_telemetry::{Identity, LogSettings, Settings, Telemetry};
use gristmill_worker::settings::Sources;
use gristmill_worker::telemetry::{Limiter, Meters, Templates, Tracing, Vitals};
use gristmill_worker::{Admin, App, Config, Cores, Signals, Status, follow_supervisor, supervise};
use tokio::runtime::{Builder, Runtime};

/// A job is some dozens of small values that are made on one thread and dropped on another. Chosen by `--bench compare`,
/// against mimalloc and the C library's. How it was configured: `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Pulls inference jobs from NATS JetStream, batches them onto libtorch models, stores one result per job, and
/// acknowledges only then.
#[derive(Parser)]
#[command(
    version,
    after_help = "Settings: defaults < --config FILE < environment < flags. A key such as nats.url is \
    GRISTMILL__NATS__URL in the environment and `--set nats.url=...` as a flag. Keys:\n\n\
    namespace, worker, device (auto|cpu|cuda|cuda:N)\n\
    nats.url, nats.connect_timeout_ms, nats.credentials_file, nats.nkey_seed_file, nats.user, nats.password_file,\n  \
    nats.token_file, nats.tls_required, nats.tls_first, nats.tls_ca_file, nats.tls_cert_file, nats.tls_key_file\n\
    models.dir, models.versions (latest|all), models.instances, models.threads, models.cores (all|LIST|node:N)\n\
    limits.in_flight, limits.job_bytes, limits.publish_window, limits.max_hold_ms\n\
    ledger.dir (a directory, or off)\n\
    streams.replicas, streams.ack_wait_ms, streams.max_deliver, streams.max_ack_pending, streams.duplicate_window_s,\n  \
    streams.results_max_age_s, streams.dlq_max_age_s, streams.jobs_max_bytes\n\
    admin.listen, admin.metrics (true|false), runtime.threads, runtime.cores, shutdown.grace_ms, log.format (auto|json|text), log.filter\n\
    telemetry.histograms (exponential|explicit), telemetry.max_traces_per_s (0: no limit), telemetry.slow_job_ms (0: none)\n\n\
    Traces, metrics and logs go to an OTLP collector where OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_{TRACES,METRICS,LOGS}_EXPORTER \
    names one; the standard OTEL_* variables apply.\n\n\
    Exit codes: 0 drained after SIGTERM or SIGINT; 1 failed; 2 wrong flags or settings; 128+N ended by a second signal. \
    With --supervise, the last worker's."
)]
struct Args {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Set one key; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,

    /// Check the settings and end
    #[arg(long)]
    check: bool,

    /// Run the worker as a child, and start it again when it dies
    #[arg(long)]
    supervise: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[expect(clippy::print_stderr, reason = "before logging is set up, standard error is all there is")]
fn main() -> ExitCode {
    let args = Args::parse();
    let (check, is_supervisor) = (args.check, args.supervise);
    let config = match load(args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("gristmill-worker: {}", chain(&error));
            return ExitCode::from(2);
        }
    };
    if check {
        eprintln!("gristmill-worker: the settings are valid");
        return ExitCode::SUCCESS;
    }
    if !is_supervisor {
        gristmill_torch::keep_heap();
    }
    // A supervisor has nothing to tell but its log.
    let otel = if is_supervisor { Settings::disabled() } else { config.otel.clone() };
    let telemetry = match Telemetry::start(&otel, &identity(&config), Some(&log(&config))) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("gristmill-worker: {error}");
            return ExitCode::from(2);
        }
    };
    let done = if is_supervisor { supervise(own_args()).map(End::Clean) } else { run(&config, &telemetry) };
    let end = done.unwrap_or_else(|error| {
        tracing::error!(error = chain(&error), "worker failed");
        End::Now(1)
    });
    finish(telemetry, end)
}

/// How the process ends.
enum End {
    /// After a drain.
    Clean(ExitCode),
    /// With engines inside libtorch: without what C++ would do at the end.
    Now(u8),
    /// Likewise, and without waiting for anything.
    AtOnce(u8),
}

/// Longest wait for a collector after a drain, and after a failure: then engines may still be at work, and a restart waits.
const LAST_EXPORT: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1)];

fn finish(telemetry: Telemetry, end: End) -> ExitCode {
    telemetry.shutdown(match end {
        End::Clean(_) => LAST_EXPORT[0],
        End::Now(_) => LAST_EXPORT[1],
        End::AtOnce(_) => Duration::ZERO,
    });
    match end {
        End::Clean(code) => code,
        End::Now(code) | End::AtOnce(code) => end_now(code),
    }
}

fn identity(config: &Config) -> Identity {
    let (service, version) = ("gristmill-worker", env!("CARGO_PKG_VERSION"));
    let (instance, on_thread_start) = (config.worker.clone(), gristmill_ledger::enter_ours);
    Identity { service, version, instance, buckets: config.histograms, on_thread_start }
}

fn log(config: &Config) -> LogSettings {
    LogSettings { format: config.log_format, filter: config.log_filter.clone() }
}

/// The arguments for the child.
fn own_args() -> Vec<String> {
    std::env::args().skip(1).filter(|arg| arg != "--supervise").collect()
}

/// An error and its causes in one line, without those that the text before them already holds.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        _ if text.is_empty() => cause,
        true => text,
        false => format!("{text}: {cause}"),
    })
}

fn load(args: Args) -> anyhow::Result<Config> {
    let read = |path: PathBuf| {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(|| format!("settings file {name}"))?;
        anyhow::Ok((name, text))
    };
    let file = args.config.map(read).transpose()?;
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Config::try_new(Sources { file, environment, flags: args.set })?)
}

fn run(config: &Config, telemetry: &Telemetry) -> anyhow::Result<End> {
    gristmill_ledger::enter_ours();
    let is_supervised = follow_supervisor();
    let runtime = runtime(config)?;
    let vitals = vitals(config, telemetry);
    vitals.observe(config.limits.in_flight);
    let (worker, permits) = (config.worker.clone(), config.limits.in_flight);
    let status = Status { worker, permits, vitals: vitals.clone() };
    let listen = Admin { status, has_metrics: config.has_metrics }.spawn(config.admin)?;
    tracing::info!(worker = config.worker, admin = %listen, namespace = %config.namespace, "starting");
    let serve = || runtime.block_on(serve(config, vitals, is_supervised));
    // A runtime of several threads has its own.
    let done = if config.runtime_threads == 1 { on_thread(config, serve) } else { serve() };
    // Threads that block in libtorch are not waited for: their jobs were given back or will be delivered again.
    runtime.shutdown_background();
    done
}

fn runtime(config: &Config) -> std::io::Result<Runtime> {
    let mut runtime = match config.runtime_threads {
        // The one that waits for the end of the worker carries it all: no other takes or is handed anything, which shows in the
        // processor time of small jobs.
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let cores = config.runtime_cores.clone();
    runtime.worker_threads(config.runtime_threads).thread_name(RUNTIME).on_thread_start(move || enter(cores.as_ref()));
    runtime.enable_all().build()
}

/// Name of the threads that carry jobs between NATS and engines.
const RUNTIME: &str = "runtime";

/// What every one of them begins with.
fn enter(cores: Option<&Cores>) {
    gristmill_ledger::enter_ours();
    cores.iter().for_each(|cores| cores.pin());
}

/// Has the runtime use a thread like those of one with several. Returns when it has ended.
fn on_thread<T: Send>(config: &Config, run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let run = || {
            enter(config.runtime_cores.as_ref());
            run()
        };
        let thread = std::thread::Builder::new().name(RUNTIME.into()).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn vitals(config: &Config, telemetry: &Telemetry) -> Vitals {
    let server = Arc::new(config.nats.server());
    let templates = Templates::new(&config.namespace.to_string());
    Vitals {
        health: Arc::default(),
        counters: Arc::default(),
        meters: Arc::new(Meters::new(telemetry.instruments(), Arc::clone(&server), templates.clone())),
        spans: telemetry.spans(),
        snapshots: telemetry.snapshots(),
        heartbeat: Arc::default(),
        tracing: Tracing {
            sampling: config.otel.recorded(),
            limiter: Limiter::new(config.max_traces).into(),
            propagation: config.otel.propagation,
            server,
            templates,
        },
        started: Instant::now(),
    }
}

/// A service manager that signals the whole group reaches a supervised worker twice: by itself, and by its supervisor.
const ECHO: Duration = Duration::from_secs(1);

async fn serve(config: &Config, vitals: Vitals, is_supervised: bool) -> anyhow::Result<End> {
    let mut signals = Signals::try_new()?;
    let (heartbeat, lag) = (Arc::clone(&vitals.heartbeat), vitals.meters.lag.clone());
    tokio::spawn(async move { heartbeat.run(lag).await });
    let mut start = Box::pin(App::start(config, &vitals));
    let mut app = tokio::select! {
        app = &mut start => app?,
        _ = signals.recv() => {
            // Engines may be inside libtorch, and the ledger stays ours until the process is gone.
            std::mem::forget(start);
            return Ok(End::Now(0));
        }
    };
    drop(start);
    tracing::info!("serving");
    let name = tokio::select! {
        name = signals.recv() => name,
        ended = app.failed() => {
            app.abandon().await;
            return Err(ended.into());
        }
    };
    tracing::info!(signal = name.0, grace_ms = config.grace.as_millis() as u64, "draining");
    let again = async {
        let began = Instant::now();
        let mut name = signals.recv().await;
        while is_supervised && began.elapsed() < ECHO {
            name = signals.recv().await;
        }
        name
    };
    let mut drain = Box::pin(app.drain(config.grace));
    tokio::select! {
        drained = &mut drain => drained?,
        name = again => {
            tracing::warn!(signal = name.0, "second signal, ending at once");
            std::mem::forget(drain);
            return Ok(End::AtOnce(128 + name.1));
        }
    }
    tracing::info!("drained");
    Ok(End::Clean(ExitCode::SUCCESS))
}
