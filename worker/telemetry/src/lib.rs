//! Telemetry: what the worker and the command line tell of themselves. Traces, metrics and logs go to an OTLP collector where
//! the standard `OTEL_*` variables name one; metrics can be read in the process at any time, and logs go to standard output.
//!
//! Nothing here waits for a collector: spans, logs and measurements go into bounded queues, and what does not fit, or is not
//! taken, is dropped and counted. Knows nothing of NATS and models.

mod export;
mod gpu;
mod instruments;
mod log;
mod process;
mod prometheus;
mod sampling;
mod settings;
mod signal;
mod snapshot;
mod span;
mod telemetry;
mod tls;

pub use gpu::watch as watch_gpus;
pub use instruments::{Instruments, Observed};
pub use log::{Format, within};
pub use opentelemetry::KeyValue;
pub use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram};
pub use process::observe as observe_process;
pub use prometheus::text as prometheus_text;
pub use sampling::Sampling;
pub use settings::{Propagation, Settings};
pub use snapshot::Snapshots;
pub use span::{Kind, Link, Span, Spans};
pub use telemetry::{Buckets, Identity, LogSettings, StartError, Telemetry};
