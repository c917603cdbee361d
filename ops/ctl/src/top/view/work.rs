use gristmill_schemas::metric::{self, Point};

use crate::top::series::Series;
use crate::top::snapshot::{Answer, Snapshot, Worker};

/// What all workers did between two snapshots.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Time between the two.
    pub(super) seconds: f64,
    /// Of all workers that can be compared; `None` where there is none, so that nothing is known.
    pub(super) total: Option<Series>,
    /// Answers stored by each worker of the later snapshot in that time, where it can be compared.
    pub(super) answered: Vec<Option<f64>>,
}

impl Work {
    pub(super) fn between(earlier: Option<&Snapshot>, later: &Snapshot) -> Self {
        let Some(earlier) = earlier else {
            return Self { answered: vec![None; later.workers.len()], ..Self::default() };
        };
        let seconds = later.at - earlier.at;
        let each: Vec<Option<Series>> = later
            .workers
            .iter()
            .map(|worker| match worker {
                Worker::Read(answer) => Series::of(answer, earlier, seconds),
                Worker::Unreadable { .. } => None,
            })
            .collect();
        let answered = each.iter().map(|series| series.as_ref().map(|series| answered(series, &[]))).collect();
        Self { seconds, total: each.into_iter().flatten().reduce(Series::and), answered }
    }

    /// So many a second.
    pub(super) fn rate(&self, count: f64) -> Option<f64> {
        (self.seconds > 0.0).then(|| count / self.seconds)
    }
}

/// How many jobs with these attributes were answered.
pub(super) fn answered(series: &Series, attributes: &[(&str, &str)]) -> f64 {
    let histograms = series.with(metric::REQUEST_DURATION, attributes).filter_map(Point::histogram);
    histograms.map(|histogram| histogram.count as f64).sum()
}

/// The workers that could be read.
pub(super) fn answers(snapshot: &Snapshot) -> impl Iterator<Item = &Answer> {
    snapshot.workers.iter().filter_map(|worker| match worker {
        Worker::Read(answer) => Some(&**answer),
        Worker::Unreadable { .. } => None,
    })
}
