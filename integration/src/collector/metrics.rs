use std::sync::Arc;

use super::records::{Attributes, Scope};

/// One metric in one export.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub struct Metric {
    /// Attributes of the process that sent it.
    pub resource: Arc<Attributes>,
    /// The instrumentation that made it.
    pub scope: Arc<Scope>,
    pub name: String,
    pub description: String,
    pub unit: String,
    pub kind: MetricKind,
    /// One for each set of attributes.
    pub points: Vec<Point>,
}

/// What a metric's points mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub enum MetricKind {
    Gauge,
    Sum { is_monotonic: bool, temporality: Temporality },
    Histogram(Temporality),
    Exponential(Temporality),
}

/// What time a point covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// Since the last export.
    Delta,
    /// Since the start.
    Cumulative,
}

/// What was measured for one set of attributes. Exemplars are passed over.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What tells it from the metric's other points.
    pub attributes: Attributes,
    /// Nanoseconds since 1970; 0 in a gauge.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// What was measured.
    pub data: Data,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub enum Data {
    /// Of a sum or a gauge. Whether it was sent as an integer is not printed.
    Number(f64),
    Histogram(Histogram),
    Exponential(Exponential),
}

/// With bounds that were chosen.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub struct Histogram {
    pub count: u64,
    pub sum: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub bounds: Vec<f64>,
    /// One more than bounds.
    pub counts: Vec<u64>,
}

/// With bounds that grow by a factor.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "they are OTLP's own names")]
pub struct Exponential {
    pub count: u64,
    pub sum: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// Values that count as zero.
    pub zero: u64,
    /// From the least on, empty ones too.
    pub positive: Vec<Bar>,
    /// From the least on, empty ones too.
    pub negative: Vec<Bar>,
}

/// Values between two bounds. Bounds are computed from scale and index, so they are off by some parts in 10^15.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "three numbers that say themselves")]
pub struct Bar {
    pub lower: f64,
    pub upper: f64,
    pub count: u64,
}

impl Exponential {
    /// 3 means 2^3 bars for each factor of two. It is not printed, but follows from any bar's bounds; without bars, none.
    pub fn scale(&self) -> Option<i32> {
        let bar = self.positive.iter().chain(&self.negative).next()?;
        let ratio = (bar.upper / bar.lower).log2().abs();
        Some(-ratio.log2().round() as i32)
    }
}

impl Point {
    /// Whether it has all of these attributes.
    pub fn has(&self, wanted: &[(&str, &str)]) -> bool {
        wanted.iter().all(|(key, text)| self.attributes.get(*key).is_some_and(|value| value == text))
    }

    /// A number itself, and a histogram's count: what can be added up.
    pub fn total(&self) -> f64 {
        match &self.data {
            Data::Number(number) => *number,
            Data::Histogram(_) | Data::Exponential(_) => self.count() as f64,
        }
    }

    /// Values in it: how many a histogram counted.
    ///
    /// # Panics
    /// If it is a number.
    pub fn count(&self) -> u64 {
        match &self.data {
            Data::Histogram(histogram) => histogram.count,
            Data::Exponential(histogram) => histogram.count,
            Data::Number(number) => panic!("the number {number} is no histogram"),
        }
    }

    /// The number of a sum or a gauge.
    ///
    /// # Panics
    /// If it is a histogram.
    pub fn number(&self) -> f64 {
        match self.data {
            Data::Number(number) => number,
            _ => panic!("a histogram is not one number: {:?}", self.data),
        }
    }
}
