//! What a run gives to each of its jobs.

use std::sync::Arc;
use std::time::Instant;

use gristmill_engine::{HostTensor, Share, split};
use gristmill_schemas::Parameters;

use crate::message::{Answer, Batch, Outcome, RoutedJob};

/// Takes each job's rows out of a batch's outputs.
pub(super) fn answers(batch: Batch, outputs: Vec<HostTensor>, started: Instant) -> impl Iterator<Item = Outcome> {
    let signature = &batch.model.signature;
    let padded = signature.is_padded().then_some(batch.length);
    let slices = split(&signature.outputs, outputs, padded, batch.jobs.iter().map(share));
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let parameters = Parameters {
        batch_rows: batch.rows() as u64,
        batch_jobs: batch.jobs.len() as u64,
        infer_us: micros(started.elapsed()),
        ..Parameters::default()
    };
    let Batch { model, jobs, seal, .. } = batch;
    jobs.into_iter().zip(slices).map(move |(RoutedJob { envelope, .. }, outputs)| {
        let parameters = Parameters {
            stream_us: micros(envelope.in_stream),
            queue_us: micros(seal.at.saturating_duration_since(envelope.origin.received)),
            ..parameters
        };
        Outcome { envelope, answer: Answer::Ok { model: Arc::clone(&model), outputs, parameters } }
    })
}

fn share(job: &RoutedJob) -> Share<'_> {
    Share { rows: job.part.rows, length: job.part.length, wanted: job.wanted.as_deref() }
}
