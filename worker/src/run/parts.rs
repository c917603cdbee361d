//! A batch taken apart, and what its parts told. Pure.

use std::sync::Arc;

use gristmill_schemas::ErrorCode;

use crate::message::{Batch, Ceiling, Outcome, RoutedJob, Tails};

/// What one batch and its parts told of the device's memory.
#[derive(Default)]
pub(super) struct Memory {
    /// Rows of the largest part that ran.
    pub(super) fitted: usize,
    /// The shape, if a part did not fit.
    pub(super) lacked: Option<Tails>,
    /// A job did not fit alone: it was that job, not the size of the batch.
    pub(super) has_glutton: bool,
}

impl Memory {
    pub(super) fn ceiling(self) -> Option<Ceiling> {
        let tails = self.lacked.filter(|_| !self.has_glutton && self.fitted > 0)?;
        Some(Ceiling { tails, rows: self.fitted })
    }
}

impl Batch {
    /// Its jobs begin to run.
    pub(super) fn mark(&mut self, run: u64) {
        let together = self.jobs.len() > 1;
        self.jobs.iter_mut().for_each(|job| job.envelope.ticket.run(run, together));
    }

    /// One like it, of these jobs.
    fn with(&self, jobs: Vec<RoutedJob>) -> Self {
        let (model, seal) = (Arc::clone(&self.model), Arc::clone(&self.seal));
        Self { model, tails: self.tails.clone(), length: self.length, jobs, seal }
    }

    /// All of it, leaving an empty one.
    pub(super) fn take(&mut self) -> Self {
        let jobs = std::mem::take(&mut self.jobs);
        self.with(jobs)
    }
}

pub(super) fn halves(mut batch: Batch) -> [Batch; 2] {
    let jobs = batch.jobs.split_off(batch.jobs.len() / 2);
    let second = batch.with(jobs);
    // The last is taken first: outcomes keep the order of the jobs.
    [second, batch]
}

pub(super) fn singles(mut batch: Batch) -> impl Iterator<Item = Batch> {
    let jobs = std::mem::take(&mut batch.jobs);
    jobs.into_iter().rev().map(move |job| batch.with(vec![job]))
}

/// The end of a job that fails alone.
pub(super) fn refusal(batch: Batch, code: ErrorCode, why: String) -> Outcome {
    let Batch { model, mut jobs, .. } = batch;
    let job = jobs.pop().expect("a batch has at least one job");
    Outcome::refused(job.envelope, Some(model), code, why)
}
