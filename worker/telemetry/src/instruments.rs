use std::sync::Arc;

use gristmill_schemas::metric::{Kind, Metric};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider, NoopMeterProvider};

/// Makes instruments out of the table of metrics. Bind them to their attributes where they are used for every job: a bound
/// one costs a few nanoseconds.
#[derive(Debug, Clone)]
pub struct Instruments {
    meter: Meter,
    is_on: bool,
}

/// What a callback reports: number and attributes of each series.
pub type Observed = Vec<(f64, Vec<KeyValue>)>;

impl Instruments {
    pub(crate) fn new(meter: Meter) -> Self {
        Self { meter, is_on: true }
    }

    /// Instruments that measure nothing.
    pub fn off() -> Self {
        Self { meter: NoopMeterProvider::new().meter("off"), is_on: false }
    }

    /// Whether anything is measured.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A counter.
    pub fn counter(&self, metric: &Metric) -> Counter<u64> {
        self.meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
    }

    /// A histogram: of seconds in exponential buckets, or in those of the table.
    pub fn histogram(&self, metric: &Metric) -> Histogram<f64> {
        let builder = self.meter.f64_histogram(metric.name).with_unit(metric.unit).with_description(metric.help);
        match metric.kind {
            Kind::Histogram(bounds) => builder.with_boundaries(bounds.to_vec()).build(),
            _ => builder.build(),
        }
    }

    /// A metric that is read when metrics are collected. `read` must neither wait nor panic: both would hold up all others.
    pub fn observe(&self, metric: &'static Metric, read: impl Fn() -> Observed + Send + Sync + 'static) {
        let read = Arc::new(read);
        macro_rules! build {
            ($builder:expr) => {
                drop(
                    $builder
                        .with_unit(metric.unit)
                        .with_description(metric.help)
                        .with_callback(move |observer| {
                            read().iter().for_each(|(value, attributes)| observer.observe(*value, attributes));
                        })
                        .build(),
                )
            };
        }
        match metric.kind {
            Kind::Counter => build!(self.meter.f64_observable_counter(metric.name)),
            Kind::UpDown => build!(self.meter.f64_observable_up_down_counter(metric.name)),
            _ => build!(self.meter.f64_observable_gauge(metric.name)),
        }
    }
}
