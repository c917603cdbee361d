//! The sender's span of a job that is submitted by hand, sent to a collector where the `OTEL_*` variables name one.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use gristmill_schemas::TraceContext;
use gristmill_schemas::metric::attribute;
use gristmill_telemetry::{Buckets, Identity, KeyValue, Kind, Sampling, Settings, Span, Telemetry};

/// Longest wait for the collector at the end.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// Makes one span.
pub struct Tracer {
    telemetry: Telemetry,
    /// The span's ids, which go with the job.
    pub context: TraceContext,
    parent: Option<TraceContext>,
    /// A span is made.
    is_recorded: bool,
}

impl Tracer {
    /// Reads the environment. `TRACEPARENT` is the span around the command, as CI systems and shells pass it on. A command
    /// is typed for its own sake: where nothing else is asked for, it is recorded.
    pub async fn start() -> anyhow::Result<Self> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        // Not worth a job: what is set for other programs may be nothing for us.
        let mut settings = Settings::read(&environment).unwrap_or_else(|faults| {
            warn(&faults);
            Settings::disabled()
        });
        if !["OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"].iter().any(|name| environment.contains_key(*name)) {
            settings.sampling = Sampling { follows_parent: true, ratio: 1.0 };
        }
        let parent = environment.get("TRACEPARENT").and_then(|text| TraceContext::parse(text));
        let parent = parent.filter(|_| settings.propagation.trace_context);
        let trace_id = parent.map_or_else(|| fastrand::u128(1..).to_be_bytes(), |parent| parent.trace_id);
        let is_recorded = settings.recorded().takes(parent.as_ref(), trace_id);
        // Bit 1 says that the trace id is random.
        let flags = parent.map_or(2, |parent| parent.flags & !1) | u8::from(is_recorded);
        let own = TraceContext { trace_id, span_id: fastrand::u64(1..).to_be_bytes(), flags };
        // What is not recorded here belongs to the span around the command.
        let context = parent.filter(|_| !is_recorded).unwrap_or(own);
        // Exporters must not be made on a thread of the runtime.
        let start = move || Telemetry::start(&settings, &identity(), None);
        let telemetry = tokio::task::spawn_blocking(start).await.context("telemetry")??;
        Ok(Self { telemetry, context, parent, is_recorded })
    }

    /// The job was published, or not.
    pub fn published(&self, namespace: &str, attributes: Vec<KeyValue>, start: SystemTime, error: Option<String>) {
        if !self.is_recorded {
            return;
        }
        let template = format!("{namespace}.jobs");
        let span =
            Span::new(format!("publish {template}"), self.context, [start, SystemTime::now()]).kind(Kind::Producer);
        let span = span.with(attributes).with([
            KeyValue::new(attribute::SYSTEM, "nats"),
            KeyValue::new(attribute::OPERATION, "publish"),
            KeyValue::new(attribute::OPERATION_TYPE, "send"),
            KeyValue::new(attribute::TEMPLATE, template),
        ]);
        let span = span.with(error.iter().map(|_| KeyValue::new(attribute::ERROR, "not_stored")));
        let parent = self.parent.map(|parent| parent.span_id);
        self.telemetry.spans().emit(Span { parent, has_remote_parent: parent.is_some(), error, ..span });
    }

    /// Sends what there is.
    pub async fn end(self) {
        // An error means that the runtime is gone.
        drop(tokio::task::spawn_blocking(move || self.telemetry.shutdown(LAST_EXPORT)).await);
    }
}

#[expect(clippy::print_stderr, reason = "warnings of a command line tool go to standard error")]
fn warn(faults: &[String]) {
    eprintln!("gristmill: no telemetry: {}", faults.join("; "));
}

fn identity() -> Identity {
    let instance = format!("gristmill-{}", std::process::id());
    Identity {
        service: "gristmill",
        version: env!("CARGO_PKG_VERSION"),
        instance,
        buckets: Buckets::default(),
        on_thread_start: || (),
    }
}
