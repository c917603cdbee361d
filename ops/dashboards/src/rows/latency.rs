use gristmill_schemas::metric::{self, Metric, attribute as a};

use crate::panel::{Panel, Row, Shape, Unit};
use crate::query::{Series, legend};

pub(super) fn row() -> Row {
    Row { title: "Latency", panels: vec![quantiles(), spread(), jitter(), stages(), means(), in_worker()] }
}

/// Stages that have a metric of their own. Decode, pad, split and encode are series of one more.
const STAGES: [(&str, Metric); 4] = [
    ("1 stream", metric::BROKER_DURATION),
    ("3 queue", metric::QUEUE_DURATION),
    ("4 device", metric::DEVICE_DURATION),
    ("6 store", metric::OPERATION_DURATION),
];

fn quantiles() -> Panel {
    let by = [a::MODEL, a::LANE];
    let answers = Series::of(metric::REQUEST_DURATION).rate().sum(&by);
    let panel = Panel::lines(
        "Answer time",
        Unit::Seconds,
        "Stored job to stored answer: what a sender waits for. Bulk may be slow when there is much of it; online may not: \
         see the stages beside.",
    );
    [(0.5, "P50"), (0.99, "P99"), (0.999, "P99.9")]
        .into_iter()
        .fold(panel, |panel, (part, name)| panel.query(answers.quantile(part), format!("{name} {}", legend(&by))))
}

fn spread() -> Panel {
    Panel::new(
        "Answer time, distribution",
        Shape::Heatmap,
        Unit::Seconds,
        "One band is healthy. A second band above it is a stage that some jobs wait for: bulk lane, large batches, \
         a rebuilt instance, one slow worker.",
    )
    .query(Series::of(metric::REQUEST_DURATION).rate().sum(&[]), "answers")
}

fn jitter() -> Panel {
    let answers = Series::of(metric::REQUEST_DURATION).rate().sum(&[a::MODEL, a::LANE]);
    Panel::lines(
        "Jitter: P99.9 over P50",
        Unit::Count,
        "Online above 8 for a quarter of an hour makes a ticket. Look at Runtime lag (no processor left for the runtime), \
         at Device time (the model's own spread) and at the stream.",
    )
    .limit(8.0)
    .query(format!("{} / {}", answers.quantile(0.999), answers.quantile(0.5)), legend(&[a::MODEL, a::LANE]))
}

fn stages() -> Panel {
    let panel = Panel::lines(
        "Stages, P99",
        Unit::Seconds,
        "The slowest stage is the one to mend. Stream: more workers or instances. Queue: the package's batching delay. \
         Device: the model, its threads, its max_rows. Store: JetStream's disk and replicas.",
    )
    .width(12);
    let panel = STAGES
        .into_iter()
        .fold(panel, |panel, (name, metric)| panel.query(Series::of(metric).rate().sum(&[]).quantile(0.99), name));
    panel.query(
        Series::of(metric::STAGE_DURATION).rate().sum(&[a::STAGE]).quantile(0.99),
        format!("2, 5 {}", legend(&[a::STAGE])),
    )
}

fn means() -> Panel {
    let panel = Panel::stacked(
        "Stages, mean",
        Unit::Seconds,
        "Means add up, unlike quantiles: the height is about the mean answer time, since each job waits for the whole of \
         its batch. A stage that grows while the others do not is the bottleneck.",
    )
    .width(6);
    let panel = STAGES
        .into_iter()
        .fold(panel, |panel, (name, metric)| panel.query(Series::of(metric).rate().sum(&[]).mean(), name));
    panel.query(
        Series::of(metric::STAGE_DURATION).rate().sum(&[a::STAGE]).mean(),
        format!("2, 5 {}", legend(&[a::STAGE])),
    )
}

fn in_worker() -> Panel {
    Panel::lines(
        "Time in the worker, P99",
        Unit::Seconds,
        "Received to settled. Near ack_wait (30 s unless set) jobs live by keep-alives alone: shorten the runs or raise \
         ack_wait.",
    )
    .width(6)
    .query(Series::of(metric::PROCESS_DURATION).rate().sum(&[a::MODEL]).quantile(0.99), legend(&[a::MODEL]))
}
