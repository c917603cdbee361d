//! The metrics that workers export, as one table: names, units, meanings and attributes. The worker makes its instruments
//! from it; dashboards, rules and `gristmill top` take their names from here, so that none can drift from the other.
//!
//! Names follow the OpenTelemetry semantic conventions 1.44 where those have one, and begin with `gristmill.` elsewhere.

mod point;
mod table;

pub use point::{Buckets, Histogram, Point, Value};
pub use table::*;

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// In the notation of UCUM; `{x}` is an annotation.
    pub unit: &'static str,
    /// What one value says.
    pub help: &'static str,
    /// Keys of its attributes. Every value comes from a closed set: configuration, models, consumers, codes.
    pub attributes: &'static [&'static str],
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A sum that grows and falls.
    UpDown,
    /// A value of its own, not to be added up over workers without thought.
    Gauge,
    /// A distribution in base-2 exponential buckets: 160 of them, so at most 4.3 % wide from 1 ms to 10 s.
    Duration,
    /// A distribution in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl Metric {
    /// The name that Prometheus gives to it, as its OTLP receiver and the worker's `/metrics` translate: dots become
    /// underscores, units and `total` are appended, annotations are not.
    pub fn prometheus(&self) -> String {
        let unit = match (self.unit, self.kind) {
            ("s", _) => "_seconds",
            ("By", _) => "_bytes",
            ("1", Kind::Gauge) => "_ratio",
            _ => "",
        };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", label(self.name))
    }
}

/// The name that Prometheus gives to an attribute.
pub fn label(attribute: &str) -> String {
    attribute.replace(['.', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_translated_as_prometheus_does() {
        assert_eq!(REQUEST_DURATION.prometheus(), "gristmill_request_duration_seconds");
        assert_eq!(CONSUMED_MESSAGES.prometheus(), "messaging_client_consumed_messages_total");
        assert_eq!(PROCESS_CPU_TIME.prometheus(), "process_cpu_time_seconds_total");
        assert_eq!(GPU_UTILIZATION.prometheus(), "hw_gpu_utilization_ratio");
        assert_eq!(BATCH_FILL.prometheus(), "gristmill_batch_fill");
        assert_eq!(MODEL_INFO.prometheus(), "gristmill_model_info");
        assert_eq!(label("gristmill.model.name"), "gristmill_model_name");
    }

    #[test]
    fn every_metric_has_its_own_name_and_says_what_it_is() {
        let names: HashSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(!metric.help.is_empty() && !metric.unit.is_empty(), "{}", metric.name);
            let is_seconds = metric.unit == "s";
            assert_eq!(
                matches!(metric.kind, Kind::Duration),
                is_seconds && metric.name.ends_with(".duration") || metric.name == RUNTIME_LAG.name,
                "{}",
                metric.name
            );
        }
    }
}
