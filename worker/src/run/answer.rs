//! What a run gives to each of its jobs.

use std::sync::Arc;
use std::time::Instant;

use gristmill_engine::{HostTensor, Rows, Share, Split};
use gristmill_schemas::Parameters;

use crate::message::{Answer, Batch, Outcome, RoutedJob};

/// Gives each job its rows of a batch's outputs.
pub(super) fn answers(mut batch: Batch, outputs: Vec<HostTensor>, started: Instant) -> Vec<Outcome> {
    let rows = split(&mut batch, outputs);
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let parameters = Parameters {
        batch_rows: batch.rows() as u64,
        batch_jobs: batch.jobs.len() as u64,
        infer_us: micros(started.elapsed()),
        ..Parameters::default()
    };
    let Batch { model, jobs, seal, .. } = batch;
    let answer = |(RoutedJob { envelope, .. }, outputs): (RoutedJob, Rows)| {
        let parameters = Parameters {
            stream_us: micros(envelope.in_stream),
            queue_us: micros(seal.at.saturating_duration_since(envelope.origin.received)),
            ..parameters
        };
        Outcome { envelope, answer: Answer::Ok { model: Arc::clone(&model), outputs, parameters } }
    };
    jobs.into_iter().zip(rows).map(answer).collect()
}

fn split(batch: &mut Batch, outputs: Vec<HostTensor>) -> Vec<Rows> {
    let signature = &batch.model.signature;
    let padded = signature.is_padded().then_some(batch.length);
    let share = |job: &mut RoutedJob| Share { rows: job.part.rows, length: job.part.length, wanted: job.wanted.take() };
    let shares: Vec<Share> = batch.jobs.iter_mut().map(share).collect();
    let is_wanted = |output| shares.iter().any(|share| share.wants(output));
    let mut split = Split::new(&signature.outputs, outputs, padded, is_wanted);
    shares.into_iter().map(|share| split.next(share)).collect()
}
