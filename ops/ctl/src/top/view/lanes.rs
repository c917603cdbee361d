use std::collections::BTreeSet;

use gristmill_schemas::Lane;
use gristmill_schemas::metric::{self, Histogram, Metric, attribute as a};

use super::Width::{Name, Number, Text};
use super::work::{Work, answered};
use super::{Column, Row, Table, Tone, column, or_none};
use crate::top::format;
use crate::top::snapshot::{Queue, Snapshot};

const COLUMNS: &[Column] = &[
    column("", "MODEL", Name),
    column("", "LANE", Text(6)),
    column("", "RES/S", Number(5)),
    column("", "ERR/S", Number(5)),
    column("", "WAIT", Number(5)),
    column("", "UNACK", Number(5)),
    column("request duration", "P50", Number(5)),
    column("", "P99", Number(5)),
    column("", "P99.9", Number(5)),
    column("queue duration", "P50", Number(5)),
    column("", "P99", Number(5)),
    column("", "P99.9", Number(5)),
];

/// Each model and lane that has a consumer or is served.
pub(super) fn table(snapshot: &Snapshot, work: &Work) -> Table {
    let of_queues = snapshot.queues.iter().map(|queue| (queue.model.clone(), queue.lane));
    let points = work.total.iter().flat_map(|series| series.with(metric::REQUEST_DURATION, &[]));
    let of_work =
        points.filter_map(|point| Some((point.attribute(a::MODEL).to_owned(), lane(point.attribute(a::LANE))?)));
    let lanes: BTreeSet<(String, Lane)> = of_queues.chain(of_work).collect();
    let rows = lanes.into_iter().map(|(model, lane)| {
        let queue = snapshot.queues.iter().find(|queue| queue.model == model && queue.lane == lane);
        row(&model, lane, queue, work)
    });
    Table { columns: COLUMNS, rows: rows.collect(), empty: "no model has a consumer yet" }
}

fn lane(text: &str) -> Option<Lane> {
    text.parse().ok()
}

fn row(model: &str, lane: Lane, queue: Option<&Queue>, work: &Work) -> Row {
    let of = [(a::MODEL, model), (a::LANE, lane.as_str())];
    let all = work.total.as_ref().map(|series| answered(series, &of));
    let fine = work.total.as_ref().map(|series| answered(series, &[&of[..], &[(a::ERROR, "")]].concat()));
    let errors = all.zip(fine).map(|(all, fine)| all - fine);
    let rate = |count: Option<f64>| or_none(count.and_then(|count| work.rate(count)), format::rate);
    let mut cells = vec![model.to_owned(), lane.to_string(), rate(all), rate(errors)];
    cells.push(or_none(queue.map(|queue| queue.pending as f64), format::count));
    cells.push(or_none(queue.map(|queue| queue.ack_pending as f64), format::count));
    let durations = |metric: Metric| work.total.as_ref().and_then(|series| series.histogram(metric, &of));
    cells.extend(percentiles(durations(metric::REQUEST_DURATION)));
    cells.extend(percentiles(durations(metric::QUEUE_DURATION)));
    let tone = match queue {
        Some(queue) if queue.is_deserted() => Tone::Bad,
        _ if errors.is_some_and(|errors| errors > 0.0) => Tone::Warn,
        _ => Tone::Plain,
    };
    Row { cells, tone }
}

fn percentiles(histogram: Option<Histogram>) -> [String; 3] {
    let of = |q| or_none(histogram.as_ref().and_then(|histogram| histogram.quantile(q)), format::duration);
    [of(0.5), of(0.99), of(0.999)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::{busy, read, snapshot};

    #[test]
    fn a_lane_shows_its_rates_its_queue_and_its_percentiles_over_all_workers() {
        let earlier = snapshot(100, vec![read(busy("w1", 100)), read(busy("w2", 10))]);
        let later = snapshot(102, vec![read(busy("w1", 102)), read(busy("w2", 12))]);
        let table = table(&later, &Work::between(Some(&earlier), &later));
        let cells: Vec<String> = table.rows.iter().map(|row| row.cells.join(" ")).collect();
        assert_eq!(
            cells,
            [
                "mlp online 200 2.00 0 20 2.0ms 7.8ms 125ms 977us 2.0ms 2.0ms",
                "mlp bulk 800 0 12.3k 20 31ms 62ms 62ms 3.9ms 7.8ms 7.8ms",
            ]
        );
        assert_eq!([table.rows[0].tone, table.rows[1].tone], [Tone::Warn, Tone::Plain]);
    }

    #[test]
    fn a_lane_without_workers_or_without_a_consumer_is_shown_too() {
        let mut later = snapshot(102, vec![]);
        later.queues.retain(|queue| queue.lane == Lane::Bulk);
        (later.queues[0].open_pulls, later.queues[0].ack_pending) = (0, 0);
        let deserted = table(&later, &Work::between(Some(&snapshot(100, vec![])), &later));
        assert_eq!(deserted.rows[0].cells.join(" "), "mlp bulk - - 12.3k 0 - - - - - -");
        assert_eq!(deserted.rows[0].tone, Tone::Bad);
        let mut later = snapshot(102, vec![read(busy("w1", 2))]);
        later.queues.clear();
        let served = table(&later, &Work::between(Some(&snapshot(100, vec![])), &later));
        assert!(served.rows[0].cells.join(" ").starts_with("mlp online 100 1.00 - - 2.0ms"));
    }
}
