use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gristmill_schemas::metric::{self, Kind, attribute};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, PeriodicReader, SdkMeterProvider, Stream};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor};
use tokio::runtime::Runtime;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::export::{self, BuildError};
use crate::instruments::{Instruments, Observed};
use crate::log::{Format, Json};
use crate::settings::Settings;
use crate::signal::{Exports, Signal};
use crate::snapshot::Snapshots;
use crate::span::Spans;

/// Spans waiting for export, and in one export. 2,000 jobs a second, the most that are recorded by default, make five spans each,
/// and the queue is emptied every second. It is memory from the start, and walked round and round; an export of this size stays below
/// the 4 MiB that collectors take by default.
const SPAN_QUEUE: (usize, usize) = (16_384, 2048);

/// Of the threads that export. A thread of 10 has about a ninth of the claim of an ordinary one (sched_prio_to_weight of the Linux scheduler).
const NICENESS: i32 = 10;

/// Log lines waiting for standard output.
const LINES: usize = 16_384;

/// Longest wait for standard output at the end.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Events of these crates come from exporting: sent to the collector, each would cause the next.
const OWN_TARGETS: [&str; 6] = ["opentelemetry", "hyper", "h2", "tonic", "tower", "reqwest"];

/// Who is speaking.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `service.name`, unless the environment gives one.
    pub service: &'static str,
    /// `service.version`
    pub version: &'static str,
    /// `service.instance.id`, unless the environment gives one.
    pub instance: String,
    /// Of durations.
    pub buckets: Buckets,
    /// Called first on each thread of our own; those of the SDK's queues are not.
    pub on_thread_start: fn(),
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Of standard output.
    pub format: Format,
    /// As in `RUST_LOG`; checked before.
    pub filter: String,
}

/// In which buckets durations are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buckets {
    /// Base-2 exponential, at most 160: as fine as the range allows.
    #[default]
    Exponential,
    /// Fixed, for backends that do not take exponential ones.
    Explicit,
}

impl FromStr for Buckets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exponential" => Ok(Self::Exponential),
            "explicit" => Ok(Self::Explicit),
            other => Err(format!("{other:?} is neither exponential nor explicit")),
        }
    }
}

/// Upper bounds of explicit buckets, in seconds.
const BOUNDS: [f64; 26] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5,
    2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];

/// Telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An exporter cannot be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No thread or reactor.
    #[error("telemetry: {0}")]
    Io(#[from] std::io::Error),
}

/// Everything that has to be flushed in the end. Owned by the main thread.
pub struct Telemetry {
    spans: Spans,
    meters: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
    snapshots: Snapshots,
    instruments: Instruments,
    /// Writes what is left of the log when dropped.
    writer: Option<WorkerGuard>,
    /// gRPC's connections live here, apart from the worker's own work.
    runtime: Option<Runtime>,
}

impl Telemetry {
    /// Starts everything that the settings ask for, logging included; call once. Must not be called from async code.
    pub fn start(settings: &Settings, identity: &Identity, log: Option<&LogSettings>) -> Result<Self, StartError> {
        // Two crates bring two TLS providers into one process; without a choice rustls panics. An error means that the
        // choice was made.
        drop(rustls::crypto::ring::default_provider().install_default());
        // The SDK's threads have the priority of the one that makes them.
        let built = std::thread::scope(|scope| scope.spawn(|| Self::exporting(settings, identity)).join());
        let mut telemetry = built.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        telemetry.writer = log.map(|log| subscribe(log, identity, telemetry.logs.as_ref(), &telemetry.instruments));
        Ok(telemetry)
    }

    /// All but the log, on threads of the lowest claim: on a machine that is busy with jobs they wait for each other, not the jobs
    /// for them.
    fn exporting(settings: &Settings, identity: &Identity) -> Result<Self, StartError> {
        // An error leaves the priority as it is.
        let _ = rustix::process::nice(NICENESS);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            .on_thread_start(identity.on_thread_start)
            .enable_all()
            .build()?;
        let resource = resource(settings, identity);
        let exports = Signal::ALL.map(Exports::new);
        let (meters, snapshots) = meters(settings, identity.buckets, &runtime, &resource, &exports)?;
        let instruments =
            meters.as_ref().map_or_else(Instruments::off, |meters| Instruments::new(meters.meter("gristmill")));
        observe_exports(&instruments, &exports);
        let spans = spans(settings, identity, &runtime, &resource, &exports[Signal::Traces as usize])?;
        let logs = logs(settings, &runtime, resource, &exports[Signal::Logs as usize])?;
        Ok(Self { spans, meters, logs, snapshots, instruments, writer: None, runtime: Some(runtime) })
    }

    /// Where spans go.
    pub fn spans(&self) -> Spans {
        self.spans.clone()
    }

    /// Makes instruments.
    pub fn instruments(&self) -> Instruments {
        self.instruments.clone()
    }

    /// Reads the metrics.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Sends what is left, for no longer than `limit`: a collector that does not answer does not hold the process.
    pub fn shutdown(self, limit: Duration) {
        let Self { spans, meters, logs, writer, runtime, .. } = self;
        let (done, waiting) = mpsc::channel::<()>();
        let flush = move || {
            let until = Instant::now() + limit;
            let left = || until.saturating_duration_since(Instant::now());
            // In this order: the last metrics tell of the last spans, the log of both. Errors were counted and logged.
            if let Some(processor) = spans.processor() {
                drop(processor.shutdown_with_timeout(left()));
            }
            if let Some(meters) = meters {
                drop(meters.shutdown_with_timeout(left()));
            }
            if let Some(logs) = logs {
                drop(logs.shutdown_with_timeout(left()));
            }
            drop(done);
        };
        if std::thread::Builder::new().name("telemetry-flush".into()).spawn(flush).is_ok() {
            // Disconnected means done.
            let _ = waiting.recv_timeout(limit);
        }
        // Writes what is left of the log; waits for ever where nobody reads standard output any more.
        let (done, waiting) = mpsc::channel::<()>();
        let write = move || {
            drop(writer);
            drop(done);
        };
        if std::thread::Builder::new().name("log-flush".into()).spawn(write).is_ok() {
            let _ = waiting.recv_timeout(LAST_LINES);
        }
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

fn resource(settings: &Settings, identity: &Identity) -> Resource {
    // The builder reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    let mut builder = Resource::builder();
    if !settings.has_service_name {
        builder = builder.with_service_name(identity.service);
    }
    if !settings.has_instance_id {
        builder = builder.with_attribute(KeyValue::new("service.instance.id", identity.instance.clone()));
    }
    if !settings.has_version {
        builder = builder.with_attribute(KeyValue::new("service.version", identity.version));
    }
    builder.build()
}

fn scope(identity: &Identity) -> InstrumentationScope {
    InstrumentationScope::builder("gristmill").with_version(identity.version).build()
}

fn meters(
    settings: &Settings,
    buckets: Buckets,
    runtime: &Runtime,
    resource: &Resource,
    exports: &[Arc<Exports>; 3],
) -> Result<(Option<SdkMeterProvider>, Snapshots), BuildError> {
    if settings.is_disabled {
        return Ok((None, Snapshots::default()));
    }
    let mut builder = SdkMeterProvider::builder().with_resource(resource.clone());
    builder = builder.with_view(move |instrument| view(instrument, buckets));
    let mut snapshots = None;
    if let Some(export) = &settings.exports[Signal::Metrics as usize] {
        let exports = Arc::clone(&exports[Signal::Metrics as usize]);
        let reader = PeriodicReader::builder(export::metrics(export, runtime.handle(), exports)?).build();
        snapshots = Snapshots::of(&reader);
        builder = builder.with_reader(reader);
    }
    let (builder, snapshots) = match snapshots {
        Some(snapshots) => (builder, snapshots),
        None => {
            let (snapshots, reader) = Snapshots::new();
            (builder.with_reader(reader), snapshots)
        }
    };
    let meters = builder.build();
    // The queues of spans and logs count what they drop with the global meter of the time they are made.
    opentelemetry::global::set_meter_provider(meters.clone());
    Ok((Some(meters), snapshots))
}

/// The buckets of durations.
fn view(instrument: &Instrument, buckets: Buckets) -> Option<Stream> {
    let metric = metric::ALL.iter().find(|metric| metric.name == instrument.name())?;
    let aggregation = match buckets {
        Buckets::Exponential => {
            Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true }
        }
        Buckets::Explicit => Aggregation::ExplicitBucketHistogram { boundaries: BOUNDS.to_vec(), record_min_max: true },
    };
    let is_duration = metric.kind == Kind::Duration;
    is_duration.then(|| Stream::builder().with_aggregation(aggregation).build().ok()).flatten()
}

fn spans(
    settings: &Settings,
    identity: &Identity,
    runtime: &Runtime,
    resource: &Resource,
    exports: &Arc<Exports>,
) -> Result<Spans, BuildError> {
    let Some(export) = &settings.exports[Signal::Traces as usize] else { return Ok(Spans::off()) };
    let exporter = export::spans(export, runtime.handle(), Arc::clone(exports))?;
    let mut config = BatchConfigBuilder::default();
    // What is set here would win over the environment.
    let [has_queue, has_batch, has_delay] = settings.has_span_queue;
    if !has_queue {
        config = config.with_max_queue_size(SPAN_QUEUE.0);
    }
    if !has_batch && !has_queue {
        config = config.with_max_export_batch_size(SPAN_QUEUE.1);
    }
    if !has_delay {
        config = config.with_scheduled_delay(Duration::from_secs(1));
    }
    let mut processor = BatchSpanProcessor::new(exporter, config.build());
    processor.set_resource(resource);
    Ok(Spans::new(processor, scope(identity), settings.max_links))
}

fn logs(
    settings: &Settings,
    runtime: &Runtime,
    resource: Resource,
    exports: &Arc<Exports>,
) -> Result<Option<SdkLoggerProvider>, BuildError> {
    let Some(export) = &settings.exports[Signal::Logs as usize] else { return Ok(None) };
    let exporter = export::logs(export, runtime.handle(), Arc::clone(exports))?;
    Ok(Some(SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build()))
}

/// What the collector took and did not take, by signal.
fn observe_exports(instruments: &Instruments, exports: &[Arc<Exports>; 3]) {
    let metrics = [&metric::SPANS_EXPORTED, &metric::METRICS_EXPORTED, &metric::LOGS_EXPORTED];
    for (metric, exports) in metrics.into_iter().zip(exports) {
        let exports = Arc::clone(exports);
        instruments.observe(metric, move || -> Observed {
            let component = KeyValue::new(attribute::COMPONENT, "otlp_exporter");
            let [taken, lost] = exports.totals().map(|total| total as f64);
            let failed = vec![component.clone(), KeyValue::new(attribute::ERROR, "export_failed")];
            vec![(taken, vec![component]), (lost, failed)]
        });
    }
}

/// Starts logging. Lines go to standard output through a queue: a reader that stops reading stops nothing here.
fn subscribe(
    log: &LogSettings,
    identity: &Identity,
    logs: Option<&SdkLoggerProvider>,
    instruments: &Instruments,
) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES).finish(std::io::stdout());
    observe_lines(instruments, writer.error_counter());
    let filter = || EnvFilter::try_new(&log.filter).unwrap_or_default();
    let is_foreign =
        |metadata: &tracing::Metadata<'_>| !OWN_TARGETS.iter().any(|own| metadata.target().starts_with(own));
    let bridge =
        logs.map(|logs| OpenTelemetryTracingBridge::new(logs).with_filter(filter().and(filter_fn(is_foreign))));
    let registry = tracing_subscriber::registry().with(bridge);
    let is_terminal = std::io::stdout().is_terminal();
    if log.format == Format::Json || log.format == Format::Auto && !is_terminal {
        registry.with(json(writer, identity).with_filter(filter())).init();
    } else {
        let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(is_terminal).with_writer(writer);
        registry.with(layer.with_filter(filter())).init();
    }
    guard
}

fn json<S>(writer: NonBlocking, identity: &Identity) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let json = Json { service: identity.service.to_owned(), instance: identity.instance.clone() };
    tracing_subscriber::fmt::layer().event_format(json).with_writer(writer)
}

fn observe_lines(instruments: &Instruments, dropped: ErrorCounter) {
    instruments.observe(&metric::LOG_LINES_DROPPED, move || vec![(dropped.dropped_lines() as f64, Vec::new())]);
}
