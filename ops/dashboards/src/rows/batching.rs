use gristmill_schemas::metric::{self, Metric, attribute as a};

use crate::panel::{Panel, Row, Unit};
use crate::query::{Series, legend};

pub(super) fn row() -> Row {
    Row { title: "Batching", panels: vec![size(), fill(), padding(), reasons(), limits(), knee(), forming(), cost()] }
}

fn mean(metric: Metric) -> String {
    let by = &[a::MODEL];
    format!("{} / {}", Series::sum_of(metric).rate().sum(by), Series::count_of(metric).rate().sum(by))
}

fn size() -> Panel {
    Panel::lines(
        "Jobs per batch, mean",
        Unit::Count,
        "Grows with load by itself. 1 under load means that jobs cannot share batches: their lengths differ, or suspects \
         run alone (Close reasons, solo).",
    )
    .query(mean(metric::BATCH_SIZE), legend(&[a::MODEL]))
}

fn fill() -> Panel {
    Panel::lines(
        "Fill, mean",
        Unit::Part,
        "Rows over the most rows that a batch may have at present. Low is right while nothing is pending. Below 30 % with a \
         backlog: raise the package's delay.",
    )
    .query(mean(metric::BATCH_FILL), legend(&[a::MODEL]))
}

fn padding() -> Panel {
    let elements = |series: Series| series.rate().sum(&[a::MODEL]);
    let padding = elements(Series::of(metric::BATCH_ELEMENTS).with(a::ELEMENT_KIND, r#"="padding""#));
    let all = elements(Series::of(metric::BATCH_ELEMENTS));
    Panel::lines(
        "Padding",
        Unit::Part,
        "Part of the device's input that is padding. Above 40 %: choose the package's length buckets closer to its jobs' lengths.",
    )
    .limit(0.4)
    .query(format!("{padding} / {all}"), legend(&[a::MODEL]))
}

fn reasons() -> Panel {
    let by = [a::MODEL, a::CLOSE_REASON];
    Panel::stacked(
        "Batches by close reason",
        Unit::PerSecond,
        "full: load is high. timeout: the delay decides. idle: the engine was free. deadline: jobs nearly expired, see \
         the stream's share of the latency. solo: jobs that were running when a worker died, see Rescues.",
    )
    .query(Series::of(metric::BATCHES).rate().sum(&by), legend(&by))
}

fn limits() -> Panel {
    Panel::lines(
        "Most rows of a batch",
        Unit::Count,
        "The package's max_rows, lower where a batch did not fit the device's memory; it grows again by an eighth every \
         10 s. Low for long: lower max_rows, or free the device's memory.",
    )
    .query(Series::of(metric::BATCH_LIMIT).now().min(&[a::MODEL]), legend(&[a::MODEL]))
}

fn knee() -> Panel {
    Panel::lines(
        "Elements that batches end at",
        Unit::Count,
        "Of the largest input, padding included: where a worker finds that larger batches yield no more rows a second, or \
         twice the largest that ran. It tries sizes beside that from time to time. Above the package's limits: raise those, \
         larger batches may yield more.",
    )
    .query(Series::of(metric::BATCH_KNEE).now().max(&[a::MODEL]), legend(&[a::MODEL]))
}

fn cost() -> Panel {
    let of = |metric| Series::of(metric).now().max(&[a::MODEL]);
    Panel::lines(
        "What a run costs",
        Unit::Seconds,
        "However small it is, and for each element of its largest input, from stacking to splitting: a line through the \
         latest runs. Where jobs of different lengths share batches, more is filled up where the first is high.",
    )
    .query(of(metric::BATCH_COST_RUN), format!("{} run", legend(&[a::MODEL])))
    .query(of(metric::BATCH_COST_ELEMENT), format!("{} element", legend(&[a::MODEL])))
}

fn forming() -> Panel {
    let by = [a::MODEL, a::LANE];
    Panel::lines(
        "Time in the batch former, P99",
        Unit::Seconds,
        "Queued to batch closed. Far above the package's delay means that engines are busy: more instances, or more \
         workers.",
    )
    .query(Series::of(metric::QUEUE_DURATION).rate().sum(&by).quantile(0.99), legend(&by))
}
