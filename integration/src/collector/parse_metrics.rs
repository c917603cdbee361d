use std::sync::Arc;

use super::lines::{DEEP_INDENT, INDENT, Lines, Stop};
use super::metrics::{Bar, Data, Exponential, Histogram, Metric, MetricKind, Point, Temporality};
use super::parse::Origin;

/// Reads what a point holds.
type Read = fn(&mut Lines<'_>) -> Result<Data, Stop>;

/// A metric of one export.
pub(super) fn metric(lines: &mut Lines<'_>, origin: &Origin) -> Result<Metric, Stop> {
    lines.expect("Descriptor:")?;
    let name = lines.text_until("     -> Name: ", "     -> Description: ")?;
    let description = lines.text_until("     -> Description: ", "     -> Unit: ")?;
    let unit = lines.expect("     -> Unit: ")?.to_owned();
    let (kind, points_name, data): (_, _, Read) = match lines.expect("     -> DataType: ")? {
        "Gauge" => (MetricKind::Gauge, "NumberDataPoints", number),
        "Sum" => {
            let is_monotonic = lines.parsed("     -> IsMonotonic: ")?;
            (MetricKind::Sum { is_monotonic, temporality: temporality(lines)? }, "NumberDataPoints", number)
        }
        "Histogram" => (MetricKind::Histogram(temporality(lines)?), "HistogramDataPoints", histogram),
        "ExponentialHistogram" => {
            (MetricKind::Exponential(temporality(lines)?), "ExponentialHistogramDataPoints", exponential)
        }
        _ => return Err(lines.odd("a gauge, a sum or a histogram")),
    };
    let mut points = Vec::new();
    while lines.numbered(points_name) {
        let attributes = lines.attributes("Data point attributes:", INDENT)?;
        let start = lines.parsed("StartTimestamp: ")?;
        let time = lines.parsed("Timestamp: ")?;
        points.push(Point { attributes, start, time, data: data(lines)? });
        exemplars(lines)?;
    }
    let (resource, scope) = (Arc::clone(&origin.resource), Arc::clone(&origin.scope));
    Ok(Metric { resource, scope, name, description, unit, kind, points })
}

fn temporality(lines: &mut Lines<'_>) -> Result<Temporality, Stop> {
    match lines.expect("     -> AggregationTemporality: AGGREGATION_TEMPORALITY_")? {
        "DELTA" => Ok(Temporality::Delta),
        "CUMULATIVE" => Ok(Temporality::Cumulative),
        _ => Err(lines.odd("a temporality")),
    }
}

fn number(lines: &mut Lines<'_>) -> Result<Data, Stop> {
    lines.parsed("Value: ").map(Data::Number)
}

fn histogram(lines: &mut Lines<'_>) -> Result<Data, Stop> {
    Ok(Data::Histogram(Histogram {
        count: lines.parsed("Count: ")?,
        sum: lines.maybe_parsed("Sum: ")?,
        min: lines.maybe_parsed("Min: ")?,
        max: lines.maybe_parsed("Max: ")?,
        bounds: series(lines, "ExplicitBounds #", ": ")?,
        counts: series(lines, "Buckets #", ", Count: ")?,
    }))
}

/// Lines like `Buckets #0, Count: 3`.
fn series<T: std::str::FromStr>(lines: &mut Lines<'_>, prefix: &str, separator: &str) -> Result<Vec<T>, Stop> {
    let mut values = Vec::new();
    while let Some(rest) = lines.optional(prefix) {
        let value = rest.split_once(separator).and_then(|(_, value)| value.parse().ok());
        values.push(value.ok_or_else(|| lines.odd(prefix))?);
    }
    Ok(values)
}

fn exponential(lines: &mut Lines<'_>) -> Result<Data, Stop> {
    Ok(Data::Exponential(Exponential {
        count: lines.parsed("Count: ")?,
        sum: lines.maybe_parsed("Sum: ")?,
        min: lines.maybe_parsed("Min: ")?,
        max: lines.maybe_parsed("Max: ")?,
        negative: bars(lines, "Bucket [-", "), Count: ")?
            .into_iter()
            .map(|bar| Bar { lower: -bar.lower, ..bar })
            .collect(),
        zero: lines.maybe_parsed("Bucket [0, 0], Count: ")?.unwrap_or(0),
        positive: bars(lines, "Bucket (", "], Count: ")?,
    }))
}

/// Lines like `Bucket (0.25, 0.5], Count: 3`.
fn bars(lines: &mut Lines<'_>, prefix: &str, separator: &str) -> Result<Vec<Bar>, Stop> {
    let mut bars = Vec::new();
    while let Some(rest) = lines.optional(prefix) {
        let parts = rest.split_once(", ").and_then(|(lower, rest)| Some((lower, rest.split_once(separator)?)));
        let bar = parts.and_then(|(lower, (upper, count))| {
            Some(Bar { lower: lower.parse().ok()?, upper: upper.parse().ok()?, count: count.parse().ok()? })
        });
        bars.push(bar.ok_or_else(|| lines.odd(prefix))?);
    }
    Ok(bars)
}

/// Passes over them.
fn exemplars(lines: &mut Lines<'_>) -> Result<(), Stop> {
    if lines.optional("Exemplars:").is_some() {
        while lines.numbered("Exemplar") {
            for prefix in ["     -> Trace ID: ", "     -> Span ID: ", "     -> Timestamp: ", "     -> Value: "] {
                lines.expect(prefix)?;
            }
            lines.attributes("     -> FilteredAttributes:", DEEP_INDENT)?;
        }
    }
    Ok(())
}
