//! How far a run is: written by the task that feeds it, read by whoever shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency told apart, in microseconds.
const DAY: u64 = 86_400_000_000;

/// A run as it is now.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Progress {
    pub(super) run: String,
    pub(super) model: String,
    pub(super) output: String,
    /// `scoring`, `joining`, `finished`, or what is waited for.
    pub(super) state: String,
    /// Rows of the input, where it says.
    pub(super) rows: Option<u64>,
    /// Rows that are on disk.
    pub(super) done: u64,
    /// Rows that have an answer, those on disk among them.
    pub(super) answered: u64,
    /// Rows that failed.
    pub(super) errors: u64,
    /// Failed rows on disk, by code.
    pub(super) codes: BTreeMap<String, u64>,
    /// Rows answered a second, over the last seconds.
    pub(super) rows_per_second: f64,
    /// Seconds left at that rate.
    pub(super) eta_s: Option<f64>,
    /// Jobs without an answer.
    pub(super) outstanding: usize,
    /// Workers that answered in the last seconds.
    pub(super) workers: usize,
    /// Rows of their batches, as a share of the model's limit.
    pub(super) batch_fill: Option<f64>,
    pub(super) seconds: f64,
}

/// What is counted on the way.
pub(super) struct Board {
    pub(super) started: Instant,
    /// From publishing a job to its answer, in microseconds.
    pub(super) latencies: Histogram<u64>,
    /// Of the time since the last look.
    workers: BTreeSet<String>,
    batches: (u64, u64),
    /// When rows were counted, and how many: the oldest of the last seconds first.
    looks: Vec<(Instant, u64)>,
}

impl Board {
    pub(super) fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, DAY, 3).expect("the bounds and digits are allowed");
        Self { started: Instant::now(), latencies, workers: BTreeSet::new(), batches: (0, 0), looks: Vec::new() }
    }

    /// An answer came.
    pub(super) fn heard(&mut self, heard: gristmill_score::Heard, worker: &str) {
        let Some(latency) = heard.latency else { return };
        self.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(DAY));
        if heard.batch_rows > 0 {
            self.batches = (self.batches.0 + heard.batch_rows, self.batches.1 + 1);
        }
        if !self.workers.contains(worker) {
            self.workers.insert(worker.to_owned());
        }
    }

    /// Fills in what is known over time.
    pub(super) fn look(&mut self, progress: &mut Progress, max_rows: usize) {
        let now = Instant::now();
        self.looks.push((now, progress.answered));
        self.looks.retain(|(at, _)| now.duration_since(*at).as_secs_f64() < 5.0);
        let (since, had) = self.looks[0];
        let seconds = now.duration_since(since).as_secs_f64();
        let rows = progress.answered.saturating_sub(had) as f64;
        progress.rows_per_second = if seconds > 0.0 { rows / seconds } else { 0.0 };
        let left = progress.rows.map(|all| all.saturating_sub(progress.answered) as f64);
        progress.eta_s = left.filter(|_| progress.rows_per_second > 0.0).map(|left| left / progress.rows_per_second);
        let (rows, answers) = std::mem::take(&mut self.batches);
        progress.batch_fill = (answers > 0).then(|| rows as f64 / answers as f64 / max_rows as f64);
        progress.workers = std::mem::take(&mut self.workers).len();
        progress.seconds = self.started.elapsed().as_secs_f64();
    }
}
