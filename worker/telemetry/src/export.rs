//! The exporters of the three signals, each counting what the collector takes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::LogBatch;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::SpanData;
use tokio::runtime::Handle;

use crate::settings::Export;
use crate::signal::Exports;
use crate::tls;

/// An exporter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A TLS file.
    #[error(transparent)]
    File(#[from] tls::FileError),
    /// Anything else, such as an endpoint that is no URL.
    #[error("OTLP exporter: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// An exporter that counts.
#[derive(Debug)]
pub struct Counted<E> {
    inner: E,
    exports: Arc<Exports>,
}

/// One exporter: the builders of the three have no trait in common that builds.
macro_rules! build {
    ($exporter:ident, $export:expr, $runtime:expr, $exports:expr) => {{
        let builder = $exporter::builder();
        let inner = if $export.is_grpc {
            let _entered = $runtime.enter();
            tonic(builder.with_tonic(), $export)?.build()?
        } else {
            http(builder.with_http(), $export)?.build()?
        };
        Ok(Counted { inner, exports: $exports })
    }};
}

/// gRPC's channel lives on `runtime`.
pub fn spans(export: &Export, runtime: &Handle, exports: Arc<Exports>) -> Result<Counted<SpanExporter>, BuildError> {
    build!(SpanExporter, export, runtime, exports)
}

/// Likewise.
pub fn metrics(
    export: &Export,
    runtime: &Handle,
    exports: Arc<Exports>,
) -> Result<Counted<MetricExporter>, BuildError> {
    build!(MetricExporter, export, runtime, exports)
}

/// Likewise.
pub fn logs(export: &Export, runtime: &Handle, exports: Arc<Exports>) -> Result<Counted<LogExporter>, BuildError> {
    build!(LogExporter, export, runtime, exports)
}

/// The endpoint itself is read from the environment by the exporter, which knows the paths of the signals.
fn tonic<B: WithTonicConfig + WithExportConfig>(builder: B, export: &Export) -> Result<B, BuildError> {
    let builder = builder.with_protocol(opentelemetry_otlp::Protocol::Grpc);
    Ok(match tls::tonic(export)? {
        Some(config) => builder.with_tls_config(config),
        None => builder,
    })
}

fn http<B: WithHttpConfig + WithExportConfig>(builder: B, export: &Export) -> Result<B, BuildError> {
    let builder = builder.with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
    Ok(builder.with_http_client(tls::http(export)?))
}

impl opentelemetry_sdk::trace::SpanExporter for Counted<SpanExporter> {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let items = batch.len() as u64;
        async move {
            let result = self.inner.export(batch).await;
            self.exports.count(items, &result);
            result
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl opentelemetry_sdk::logs::LogExporter for Counted<LogExporter> {
    fn export(&self, batch: LogBatch<'_>) -> impl Future<Output = OTelSdkResult> + Send {
        let items = batch.iter().count() as u64;
        async move {
            let result = self.inner.export(batch).await;
            self.exports.count(items, &result);
            result
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl PushMetricExporter for Counted<MetricExporter> {
    fn export(&self, metrics: &ResourceMetrics) -> impl Future<Output = OTelSdkResult> + Send {
        let items = metrics.scope_metrics().flat_map(|scope| scope.metrics()).map(|metric| points(metric.data())).sum();
        async move {
            let result = self.inner.export(metrics).await;
            self.exports.count(items, &result);
            result
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

fn points(data: &AggregatedMetrics) -> u64 {
    fn of<T>(data: &MetricData<T>) -> u64 {
        let count = match data {
            MetricData::Gauge(gauge) => gauge.data_points().count(),
            MetricData::Sum(sum) => sum.data_points().count(),
            MetricData::Histogram(histogram) => histogram.data_points().count(),
            MetricData::ExponentialHistogram(histogram) => histogram.data_points().count(),
        };
        count as u64
    }
    match data {
        AggregatedMetrics::F64(data) => of(data),
        AggregatedMetrics::I64(data) => of(data),
        AggregatedMetrics::U64(data) => of(data),
    }
}
