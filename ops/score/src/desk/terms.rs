//! What the desk takes and gives.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use gristmill_schemas::TraceContext;

use crate::chunk::Piece;

/// What does not change during a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What traces are made of: the same for every beginning of the run.
    pub run: String,
    /// What jobs' ids begin with. Tells this beginning of the run, and this time of sending failed rows, from others.
    pub series: String,
    /// The largest body.
    pub max_bytes: usize,
    /// Share of jobs whose traces are recorded.
    pub trace_ratio: f64,
}

/// How much may be without an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Bytes of jobs; the last one may go beyond.
    pub bytes: usize,
    /// Jobs.
    pub jobs: usize,
    /// After an answer no job is sent for so many times what the answer took.
    pub rest: f64,
}

impl Room {
    /// As many jobs on average. Less than one is one, followed by a rest.
    pub fn of_jobs(self, jobs: f64) -> Self {
        let rest = if jobs < 1.0 { 1.0 / jobs - 1.0 } else { 0.0 };
        Self { jobs: (jobs.round() as usize).max(1), rest, ..self }
    }
}

/// Windows that are done: all before the first, and some.
#[derive(Debug, Clone, Default)]
pub struct Closed {
    /// The first that is not.
    pub next: u32,
    /// Those behind it that are.
    pub others: BTreeSet<u32>,
}

impl Closed {
    pub(super) fn has(&self, window: u32) -> bool {
        window < self.next || self.others.contains(&window)
    }

    pub(super) fn add(&mut self, window: u32) {
        self.others.insert(window);
        while self.others.remove(&self.next) {
            self.next += 1;
        }
    }
}

/// A job to be published.
#[derive(Debug)]
pub struct Job {
    /// What it is made of.
    pub piece: Piece,
    /// The job's id.
    pub id: String,
    /// The submission's id: differs from attempt to attempt.
    pub message_id: String,
    /// Its trace.
    pub trace: TraceContext,
    /// Its body.
    pub body: Bytes,
}

/// What an answer came to.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Heard {
    /// From publishing to here; none for answers to an earlier process, and for those that count nothing.
    pub latency: Option<Duration>,
    /// Rows of the batch they ran in.
    pub batch_rows: u64,
}

/// Why a run cannot go on.
#[derive(Debug)]
pub enum Stop {
    /// No worker has the model, or not that version.
    Model(String),
    /// An answer is none to its job.
    Unfit {
        /// The job's piece.
        piece: Piece,
        /// Why.
        why: String,
    },
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Model(why) => write!(f, "the model is gone: {why}"),
            Self::Unfit { piece, why } => write!(f, "the answer to job {piece} does not fit it: {why}"),
        }
    }
}

impl std::error::Error for Stop {}
