use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use gristmill_schemas::metric::{Buckets, Histogram, Point, Value};
use opentelemetry::KeyValue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, MetricData, ResourceMetrics,
};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, PeriodicReader, Pipeline, Temporality};

/// Reads all metrics of the process, at any time: for `/metrics`, and for whoever asks for the worker's status.
#[derive(Clone, Default)]
pub struct Snapshots(Option<Arc<dyn MetricReader>>);

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshots")
    }
}

/// The SDK takes a reader for itself; this is our second hand on it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<ManualReader>);

impl Snapshots {
    /// With a reader of its own: every measurement is then aggregated once more.
    pub(crate) fn new() -> (Self, Shared) {
        let reader = Shared(Arc::new(ManualReader::builder().build()));
        (Self(Some(Arc::new(reader.clone()))), reader)
    }

    /// Through the reader that exports: as long as it counts from the start, reading it takes nothing away.
    pub(crate) fn of<E: PushMetricExporter>(reader: &PeriodicReader<E>) -> Option<Self> {
        let is_total = reader.temporality(InstrumentKind::Histogram) == Temporality::Cumulative;
        is_total.then(|| Self(Some(Arc::new(reader.clone()))))
    }

    /// Every series; none where metrics are disabled.
    pub fn take(&self) -> Vec<Point> {
        let mut read = ResourceMetrics::default();
        let taken = self.0.as_ref().is_some_and(|reader| reader.collect(&mut read).is_ok());
        let metrics = read.scope_metrics().filter(|_| taken).flat_map(|scope| scope.metrics());
        metrics.flat_map(points).collect()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl MetricReader for Shared {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, into: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(into)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

fn points(metric: &Metric) -> Vec<Point> {
    match metric.data() {
        AggregatedMetrics::F64(data) => of(metric.name(), data, |value| value),
        AggregatedMetrics::I64(data) => of(metric.name(), data, |value| value as f64),
        AggregatedMetrics::U64(data) => of(metric.name(), data, |value| value as f64),
    }
}

fn of<T: Copy>(name: &str, data: &MetricData<T>, number: impl Fn(T) -> f64) -> Vec<Point> {
    match data {
        MetricData::Gauge(gauge) => gauge
            .data_points()
            .map(|point| self::point(name, point.attributes(), Value::Value(number(point.value()))))
            .collect(),
        MetricData::Sum(sum) => sum
            .data_points()
            .map(|point| self::point(name, point.attributes(), Value::Value(number(point.value()))))
            .collect(),
        MetricData::Histogram(histogram) => histogram
            .data_points()
            .map(|point| self::point(name, point.attributes(), Value::Histogram(explicit(point, &number))))
            .collect(),
        MetricData::ExponentialHistogram(histogram) => histogram
            .data_points()
            .map(|point| self::point(name, point.attributes(), Value::Histogram(exponential(point, &number))))
            .collect(),
    }
}

fn point<'a>(name: &str, attributes: impl Iterator<Item = &'a KeyValue>, value: Value) -> Point {
    let text = |pair: &KeyValue| (pair.key.to_string(), pair.value.to_string());
    Point { name: name.to_owned(), attributes: attributes.map(text).collect(), value }
}

fn explicit<T: Copy>(point: &HistogramDataPoint<T>, number: impl Fn(T) -> f64) -> Histogram {
    let buckets = Buckets::Explicit { bounds: point.bounds().collect(), counts: point.bucket_counts().collect() };
    Histogram { count: point.count(), sum: number(point.sum()), buckets }
}

fn exponential<T: Copy>(point: &ExponentialHistogramDataPoint<T>, number: impl Fn(T) -> f64) -> Histogram {
    let positive = point.positive_bucket();
    let buckets = Buckets::Exponential {
        scale: point.scale().into(),
        offset: positive.offset(),
        zero: point.zero_count(),
        counts: positive.counts().collect(),
    };
    Histogram { count: point.count() as u64, sum: number(point.sum()), buckets }
}
