//! Metrics in the text format of Prometheus 0.0.4, for those who scrape.
//!
//! The SDK's own exporter leaves exponential histograms out, so they are turned into classic ones here: their bounds at a scale
//! of 1 or more include every whole and half power of two, so that no count is put into a wrong bucket.

use std::collections::BTreeMap;
use std::fmt::Write;

use gristmill_schemas::metric::{self, Buckets, Histogram, Kind, Metric, Point, Value, label};

/// Bounds of durations are `2^(k/2)` seconds for these k: 61 us to 512 s. Fixed, since Prometheus wants the same bounds at
/// every scrape.
const HALF_POWERS: std::ops::RangeInclusive<i32> = -28..=18;

/// The page. Metrics that are not in the table are left out.
pub fn text(points: &[Point]) -> String {
    let mut page = String::new();
    for metric in metric::ALL {
        let series: Vec<&Point> = points.iter().filter(|point| point.name == metric.name).collect();
        if !series.is_empty() {
            family(&mut page, metric, &series);
        }
    }
    page
}

fn family(page: &mut String, metric: &Metric, series: &[&Point]) {
    let name = metric.prometheus();
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::UpDown | Kind::Gauge => "gauge",
        Kind::Duration | Kind::Histogram(_) => "histogram",
    };
    let help = metric.help.replace('\\', "\\\\").replace('\n', "\\n");
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    for point in series {
        let labels = labels(&point.attributes);
        match &point.value {
            Value::Value(value) => line(page, format_args!("{name}{} {value}", braced(&labels))),
            Value::Histogram(histogram) => buckets(page, &name, &labels, histogram),
        }
    }
}

fn buckets(page: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let bounds: Vec<f64> = match &histogram.buckets {
        Buckets::Exponential { .. } => HALF_POWERS.map(|k| (f64::from(k) / 2.0).exp2()).collect(),
        Buckets::Explicit { bounds, .. } => bounds.clone(),
    };
    let separator = if labels.is_empty() { "" } else { "," };
    for bound in bounds {
        let count = histogram.at_most(bound);
        line(page, format_args!("{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {count}"));
    }
    let Histogram { count, sum, .. } = histogram;
    line(page, format_args!("{name}_bucket{{{labels}{separator}le=\"+Inf\"}} {count}"));
    let braced = braced(labels);
    line(page, format_args!("{name}_sum{braced} {sum}\n{name}_count{braced} {count}"));
}

fn labels(attributes: &BTreeMap<String, String>) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs = attributes.iter().map(|(key, value)| format!("{}=\"{}\"", label(key), escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(metric: &Metric, attributes: &[(&str, &str)], value: Value) -> Point {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Point { name: metric.name.into(), attributes, value }
    }

    #[test]
    fn numbers_have_help_type_and_escaped_labels() {
        let odd = [("error.type", "a\"b\\c\nd")];
        let page = text(&[
            point(&metric::REQUESTS_REJECTED, &odd, Value::Value(3.0)),
            point(&metric::REQUESTS_ACTIVE, &[], Value::Value(2.0)),
        ]);
        assert!(page.contains("# TYPE gristmill_requests_active gauge\ngristmill_requests_active 2\n"), "{page}");
        assert!(page.contains("# TYPE gristmill_requests_rejected_total counter\n"), "{page}");
        assert!(page.contains("gristmill_requests_rejected_total{error_type=\"a\\\"b\\\\c\\nd\"} 3\n"), "{page}");
    }

    #[test]
    fn an_exponential_histogram_becomes_a_classic_one_with_exact_counts() {
        // (1, 1.414], (1.414, 2], (2, 2.83]
        let buckets = Buckets::Exponential { scale: 1, offset: 0, zero: 4, counts: vec![1, 2, 3] };
        let histogram = Histogram { count: 10, sum: 12.5, buckets };
        let page =
            text(&[point(&metric::REQUEST_DURATION, &[("gristmill.lane", "online")], Value::Histogram(histogram))]);
        let name = "gristmill_request_duration_seconds";
        for (le, count) in [("0.5", 4), ("1", 4), ("1.4142135623730951", 5), ("2", 7), ("4", 10), ("+Inf", 10)] {
            let line = format!("{name}_bucket{{gristmill_lane=\"online\",le=\"{le}\"}} {count}\n");
            assert!(page.contains(&line), "{line} in {page}");
        }
        assert!(page.contains(&format!("{name}_sum{{gristmill_lane=\"online\"}} 12.5\n")), "{page}");
    }

    #[test]
    fn what_the_table_does_not_know_is_left_out() {
        let unknown = Point { name: "x".into(), attributes: BTreeMap::new(), value: Value::Value(1.0) };
        assert_eq!(text(&[unknown]), "");
    }
}
