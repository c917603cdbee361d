//! PromQL for one metric. Attributes are checked against the table as the expression is built, so that a filter or a
//! grouping that the metric does not have fails the test of the dashboard instead of showing nothing.

use std::fmt;

use gristmill_schemas::metric::{Kind, Metric, attribute, label};

/// Labels that Prometheus adds: from `service.namespace` and `service.name`, and from `service.instance.id`.
pub(crate) const JOB: &str = "job";
pub(crate) const INSTANCE: &str = "instance";

/// The series of one metric that the dashboard's variables choose.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    metric: Metric,
    suffix: &'static str,
    matchers: Vec<String>,
}

/// A value for each set of labels.
#[derive(Debug, Clone)]
pub(crate) struct Vector {
    text: String,
    metric: Metric,
}

impl Series {
    pub(crate) fn of(metric: Metric) -> Self {
        let mut matchers = vec![format!(r#"{JOB}=~"$job""#)];
        for &key in metric.attributes {
            let values = match key {
                attribute::MODEL => "$model",
                attribute::LANE => "$lane",
                // A consumer's name is its model's and its lane's.
                attribute::CONSUMER => "($model)-($lane)",
                _ => continue,
            };
            matchers.push(format!(r#"{}=~"{values}""#, label(key)));
        }
        Self { metric, suffix: "", matchers }
    }

    /// The sum of a distribution in explicit buckets, which Prometheus keeps as a series of its own.
    pub(crate) fn sum_of(metric: Metric) -> Self {
        assert!(matches!(metric.kind, Kind::Histogram(_)), "{} has no series for its sum", metric.name);
        Self { suffix: "_sum", ..Self::of(metric) }
    }

    /// The count of a distribution in explicit buckets.
    pub(crate) fn count_of(metric: Metric) -> Self {
        Self { suffix: "_count", ..Self::sum_of(metric) }
    }

    /// Only series whose attribute is this: an operator and a value, as in `="x"`.
    pub(crate) fn with(mut self, key: &str, matcher: &str) -> Self {
        let label = known(&self.metric, key);
        // Instead of the variable's, if there is one.
        self.matchers.retain(|other| !other.starts_with(&format!("{label}=")));
        self.matchers.push(format!("{label}{matcher}"));
        self
    }

    pub(crate) fn now(self) -> Vector {
        Vector { text: self.to_string(), metric: self.metric }
    }

    /// Growth per second.
    pub(crate) fn rate(self) -> Vector {
        Vector { text: format!("rate({self}[$__rate_interval])"), metric: self.metric }
    }

    /// Growth over the time shown.
    pub(crate) fn growth(self) -> Vector {
        Vector { text: format!("increase({self}[$__range])"), metric: self.metric }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{{{}}}", self.metric.prometheus(), self.suffix, self.matchers.join(","))
    }
}

impl Vector {
    pub(crate) fn sum(self, by: &[&str]) -> Self {
        self.aggregate("sum", by)
    }

    /// For what every worker reports alike.
    pub(crate) fn max(self, by: &[&str]) -> Self {
        self.aggregate("max", by)
    }

    pub(crate) fn min(self, by: &[&str]) -> Self {
        self.aggregate("min", by)
    }

    fn aggregate(self, how: &str, by: &[&str]) -> Self {
        let labels: Vec<String> = by.iter().map(|key| known(&self.metric, key)).collect();
        let by = if labels.is_empty() { String::new() } else { format!(" by ({}) ", labels.join(", ")) };
        Self { text: format!("{how}{by}({})", self.text), metric: self.metric }
    }

    /// A quantile of a native histogram.
    pub(crate) fn quantile(&self, part: f64) -> String {
        format!("histogram_quantile({part}, {self})")
    }

    /// How many values went into a native histogram, each second if it is a rate.
    pub(crate) fn count(&self) -> String {
        format!("histogram_count({self})")
    }

    /// The mean of a native histogram.
    pub(crate) fn mean(&self) -> String {
        format!("histogram_sum({self}) / histogram_count({self})")
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The label of an attribute that the metric has.
fn known(metric: &Metric, key: &str) -> String {
    let is_known = key == JOB || key == INSTANCE || metric.attributes.contains(&key);
    assert!(is_known, "{} has no attribute {key}", metric.name);
    label(key)
}

/// What a legend shows: the values of these attributes.
pub(crate) fn legend(keys: &[&str]) -> String {
    let labels: Vec<String> = keys.iter().map(|key| format!("{{{{{}}}}}", label(key))).collect();
    labels.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gristmill_schemas::metric;

    #[test]
    fn an_expression_takes_the_variables_that_its_metric_has_attributes_for() {
        let p99 = Series::of(metric::QUEUE_DURATION).rate().sum(&[attribute::LANE]).quantile(0.99);
        let series =
            r#"gristmill_queue_duration_seconds{job=~"$job",gristmill_model_name=~"$model",gristmill_lane=~"$lane"}"#;
        assert_eq!(
            p99,
            format!("histogram_quantile(0.99, sum by (gristmill_lane) (rate({series}[$__rate_interval])))")
        );
        assert_eq!(Series::of(metric::PROCESS_UPTIME).to_string(), r#"process_uptime_seconds{job=~"$job"}"#);
    }

    #[test]
    #[should_panic(expected = "gristmill.queue.limit has no attribute gristmill.lane")]
    fn grouping_by_an_attribute_that_the_metric_lacks_is_a_mistake() {
        drop(Series::of(metric::QUEUE_LIMIT).now().sum(&[attribute::LANE]));
    }
}
