use std::collections::BTreeMap;

use gristmill_schemas::metric::{self, Histogram, Kind, Metric, Point, Value};

use super::snapshot::{Answer, Snapshot, Worker};

/// The metrics that are shown. Everything else in an answer is left where it is.
const USED: [Metric; 10] = [
    metric::REQUEST_DURATION,
    metric::QUEUE_DURATION,
    metric::CONSUMED_MESSAGES,
    metric::REDELIVERIES,
    metric::BATCH_SIZE,
    metric::BATCH_FILL,
    metric::BATCH_ELEMENTS,
    metric::BATCHES,
    metric::ENGINE_BUSY_TIME,
    metric::ENGINE_INSTANCES,
];

/// How far a worker's clock and ours may drift apart between two polls, and answers be late, in seconds.
const SLACK: f64 = 2.0;

/// What workers did between two snapshots: their series, each as the difference of the two but for those that grow and
/// fall, by the name of the metric. Several workers, or versions, have several series under the same attributes.
#[derive(Debug, Default)]
pub(super) struct Series {
    points: BTreeMap<String, Vec<Point>>,
}

impl Series {
    /// What one worker did; `None` where there is nothing to compare with, so that nobody can say.
    pub(super) fn of(answer: &Answer, earlier: &Snapshot, seconds: f64) -> Option<Self> {
        let before = match baseline(answer, earlier, seconds) {
            Some(before) => before.metrics.as_slice(),
            // It started in between: all it did, it did since.
            None if answer.uptime_s <= seconds => &[],
            None => return None,
        };
        let before: BTreeMap<_, _> = before.iter().map(|point| ((&point.name, &point.attributes), point)).collect();
        let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
        for point in &answer.metrics {
            let Some(metric) = USED.iter().find(|metric| metric.name == point.name) else { continue };
            let earlier = before.get(&(&point.name, &point.attributes)).filter(|_| metric.kind != Kind::UpDown);
            let since = earlier.map_or_else(|| point.clone(), |earlier| since(point, earlier));
            points.entry(point.name.clone()).or_default().push(since);
        }
        Some(Self { points })
    }

    /// Those of two workers together.
    pub(super) fn and(mut self, other: Self) -> Self {
        for (name, points) in other.points {
            self.points.entry(name).or_default().extend(points);
        }
        self
    }

    /// The sum of the series with these attributes.
    pub(super) fn sum(&self, metric: Metric, attributes: &[(&str, &str)]) -> f64 {
        self.with(metric, attributes).filter_map(Point::number).sum()
    }

    /// All series with these attributes as one.
    pub(super) fn histogram(&self, metric: Metric, attributes: &[(&str, &str)]) -> Option<Histogram> {
        let histograms = self.with(metric, attributes).filter_map(Point::histogram);
        histograms.fold(None, |sum: Option<Histogram>, next| Some(sum.map_or_else(|| next.clone(), |s| s.merged(next))))
    }

    /// The series with these attributes.
    pub(super) fn with<'a>(
        &'a self,
        metric: Metric,
        attributes: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Point> + 'a {
        let points = self.points.get(metric.name).map_or(&[][..], Vec::as_slice);
        points.iter().filter(|point| attributes.iter().all(|(key, value)| point.attribute(key) == *value))
    }
}

/// The earlier answer of the same process. Several workers may bear one name: then the one of the same age.
fn baseline<'a>(answer: &Answer, earlier: &'a Snapshot, seconds: f64) -> Option<&'a Answer> {
    let off = |before: &Answer| (answer.uptime_s - before.uptime_s - seconds).abs();
    let answers = earlier.workers.iter().filter_map(|worker| match worker {
        Worker::Read(before) => Some(&**before),
        Worker::Unreadable { .. } => None,
    });
    let same = answers.filter(|before| before.worker == answer.worker && before.uptime_s <= answer.uptime_s);
    same.filter(|before| off(before) <= SLACK).min_by(|a, b| off(a).total_cmp(&off(b)))
}

fn since(point: &Point, earlier: &Point) -> Point {
    let value = match (&point.value, &earlier.value) {
        // A counter that fell began anew.
        (Value::Value(now), Value::Value(before)) if now >= before => Value::Value(now - before),
        (Value::Histogram(now), Value::Histogram(before)) => Value::Histogram(now.since(before)),
        (now, _) => now.clone(),
    };
    Point { value, ..point.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, explicit, number};
    use super::*;
    use gristmill_schemas::metric::attribute as a;

    const MLP: &[(&str, &str)] = &[(a::MODEL, "mlp")];

    fn earlier(answers: Vec<Answer>) -> Snapshot {
        Snapshot {
            workers: answers.into_iter().map(|answer| Worker::Read(Box::new(answer))).collect(),
            ..Default::default()
        }
    }

    fn worker(uptime_s: f64, batches: f64) -> Answer {
        let metrics = vec![number(metric::BATCHES, &[(a::MODEL, "mlp"), (a::CLOSE_REASON, "idle")], batches)];
        Answer { uptime_s, metrics, ..sample::answer("w1") }
    }

    #[test]
    fn counters_are_subtracted_and_states_are_not() {
        let at = |uptime_s, batches, instances| {
            let mut answer = worker(uptime_s, batches);
            answer.metrics.push(number(metric::ENGINE_INSTANCES, MLP, instances));
            answer
        };
        let series = Series::of(&at(102.0, 75.0, 3.0), &earlier(vec![at(100.0, 50.0, 2.0)]), 2.0).unwrap();
        assert_eq!(series.sum(metric::BATCHES, MLP), 25.0);
        assert_eq!(series.sum(metric::ENGINE_INSTANCES, MLP), 3.0);
        assert_eq!(series.sum(metric::BATCHES, &[(a::MODEL, "other")]), 0.0);
    }

    #[test]
    fn a_restarted_worker_begins_anew_and_a_stranger_tells_nothing_yet() {
        let before = earlier(vec![worker(100.0, 50.0)]);
        let batches = |answer: &Answer, seconds| {
            Series::of(answer, &before, seconds).map(|series| series.sum(metric::BATCHES, MLP))
        };
        assert_eq!(batches(&worker(1.0, 60.0), 2.0), Some(60.0));
        // Restarted in a long silence, and older by now than its predecessor was.
        assert_eq!(batches(&worker(150.0, 60.0), 200.0), Some(60.0));
        let stranger = Answer { worker: "w2".into(), ..worker(102.0, 60.0) };
        assert_eq!(batches(&stranger, 2.0), None);
        // A counter that falls without a restart is a fault of the worker, and still no negative rate.
        assert_eq!(batches(&worker(102.0, 10.0), 2.0), Some(10.0));
    }

    #[test]
    fn workers_of_one_name_are_told_apart_by_their_age() {
        let before = earlier(vec![worker(100.0, 50.0), worker(500.0, 900.0)]);
        let series = Series::of(&worker(502.1, 910.0), &before, 2.0).unwrap();
        assert_eq!(series.sum(metric::BATCHES, MLP), 10.0);
    }

    #[test]
    fn distributions_of_workers_and_versions_become_one() {
        let at = |uptime_s, version, counts: [u64; 3]| {
            let of = [(a::MODEL, "mlp"), (a::VERSION, version)];
            let metrics = vec![explicit(metric::BATCH_SIZE, &of, &[1.0, 2.0], &counts, 0.0)];
            Answer { uptime_s, metrics, ..sample::answer("w1") }
        };
        let first = Series::of(&at(12.0, "1", [4, 4, 0]), &earlier(vec![at(10.0, "1", [3, 0, 0])]), 2.0).unwrap();
        let second = Series::of(&at(1.0, "2", [0, 0, 2]), &Snapshot::default(), 2.0).unwrap();
        let both = first.and(second).histogram(metric::BATCH_SIZE, MLP).unwrap();
        assert_eq!((both.count, both.at_most(1.0), both.at_most(2.0)), (7, 1, 5));
    }
}
