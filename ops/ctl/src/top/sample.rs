//! Snapshots for tests.

use gristmill_schemas::Lane;
use gristmill_schemas::metric::{self, Buckets, Histogram, Metric, Point, Value, attribute as a};

use super::snapshot::{Answer, Model, Permits, Queue, Snapshot, Stream, Worker};

/// A ready worker of 100 s that serves version 3 of `mlp` and did nothing.
pub(super) fn answer(worker: &str) -> Answer {
    Answer {
        worker: worker.into(),
        version: "0.1.0".into(),
        uptime_s: 100.0,
        ready: true,
        missing: vec![],
        models: vec![Model { name: "mlp".into(), version: "3".into(), instances: 2, refused: None }],
        permits: Permits { limit: 2048, in_flight: 17 },
        metrics: vec![],
    }
}

/// A counter or gauge.
pub(super) fn number(metric: Metric, attributes: &[(&str, &str)], value: f64) -> Point {
    let attributes = attributes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Point { name: metric.name.into(), attributes, value: Value::Value(value) }
}

/// A distribution in explicit buckets.
pub(super) fn explicit(metric: Metric, of: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) -> Point {
    let buckets = Buckets::Explicit { bounds: bounds.to_vec(), counts: counts.to_vec() };
    let value = Value::Histogram(Histogram { count: counts.iter().sum(), sum, buckets });
    Point { value, ..number(metric, of, 0.0) }
}

/// A distribution of durations: so many in the buckets that end with 1/1024, 1/512 ... 1/2 s.
pub(super) fn durations(metric: Metric, of: &[(&str, &str)], counts: [u64; 10]) -> Point {
    let buckets = Buckets::Exponential { scale: 0, offset: -11, zero: 0, counts: counts.to_vec() };
    let value = Value::Histogram(Histogram { count: counts.iter().sum(), sum: 0.0, buckets });
    Point { value, ..number(metric, of, 0.0) }
}

/// A worker that has run for `seconds` at 100 jobs a second online, 1 of them refused, and 400 in bulk.
pub(super) fn busy(worker: &str, seconds: u64) -> Answer {
    let lane = |lane| [(a::MODEL, "mlp"), (a::VERSION, "3"), (a::LANE, lane)];
    let failed = [&lane("online")[..], &[(a::ERROR, "invalid_input")]].concat();
    let mlp = [(a::MODEL, "mlp"), (a::VERSION, "3")];
    let with = |key, value| [&mlp[..], &[(key, value)]].concat();
    let n = seconds;
    let metrics = vec![
        durations(metric::REQUEST_DURATION, &lane("online"), [0, 60 * n, 37 * n, n, 0, 0, 0, n, 0, 0]),
        durations(metric::REQUEST_DURATION, &failed, [n, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        durations(metric::REQUEST_DURATION, &lane("bulk"), [0, 0, 0, 0, 100 * n, 200 * n, 100 * n, 0, 0, 0]),
        durations(metric::QUEUE_DURATION, &lane("online"), [90 * n, 9 * n, 0, 0, 0, 0, 0, 0, 0, 0]),
        durations(metric::QUEUE_DURATION, &lane("bulk"), [0, 0, 200 * n, 200 * n, 0, 0, 0, 0, 0, 0]),
        number(metric::BATCHES, &with(a::CLOSE_REASON, "full"), 10.0 * n as f64),
        number(metric::BATCHES, &with(a::CLOSE_REASON, "idle"), 30.0 * n as f64),
        explicit(metric::BATCH_SIZE, &mlp, &[8.0, 16.0], &[30 * n, 10 * n, 0], 499.0 * n as f64),
        explicit(metric::BATCH_FILL, &mlp, &[0.5, 1.0], &[30 * n, 10 * n], 20.0 * n as f64),
        number(metric::BATCH_ELEMENTS, &with(a::ELEMENT_KIND, "real"), 900.0 * n as f64),
        number(metric::BATCH_ELEMENTS, &with(a::ELEMENT_KIND, "padding"), 100.0 * n as f64),
        number(metric::ENGINE_BUSY_TIME, &mlp, 1.5 * n as f64),
        number(metric::ENGINE_INSTANCES, &mlp, 2.0),
        number(metric::CONSUMED_MESSAGES, &[(a::CONSUMER, "mlp-bulk")], 501.0 * n as f64),
        number(metric::REDELIVERIES, &[(a::CONSUMER, "mlp-bulk")], n as f64),
    ];
    Answer { uptime_s: seconds as f64, metrics, ..answer(worker) }
}

/// Streams and queues of `mlp` after so many seconds, served by these workers.
pub(super) fn snapshot(seconds: u64, workers: Vec<Worker>) -> Snapshot {
    let stream = |messages, last_sequence| Some(Stream { messages, bytes: messages * 1024, last_sequence });
    let queue = |lane, pending| Queue { model: "mlp".into(), lane, pending, ack_pending: 20, open_pulls: 1 };
    Snapshot {
        at: seconds as f64,
        streams: [stream(12_345, 600 * seconds), stream(50_000, 500 * seconds), stream(40, 40 + seconds)],
        queues: vec![queue(Lane::Bulk, 12_305), queue(Lane::Online, 0)],
        workers,
        ..Default::default()
    }
}

/// An answer that was read.
pub(super) fn read(answer: Answer) -> Worker {
    Worker::Read(Box::new(answer))
}
