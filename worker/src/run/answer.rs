//! What a run gives to each of its jobs.

use std::sync::Arc;
use std::time::Instant;

use gristmill_engine::{HostTensor, Share, Split};
use gristmill_schemas::Parameters;

use crate::message::{Answer, Batch, Outcome, RoutedJob};

/// Gives each job its rows of a batch's outputs.
pub(super) fn answers(batch: Batch, outputs: Vec<HostTensor>, started: Instant) -> impl Iterator<Item = Outcome> {
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let parameters = Parameters {
        batch_rows: batch.rows() as u64,
        batch_jobs: batch.jobs.len() as u64,
        infer_us: micros(started.elapsed()),
        ..Parameters::default()
    };
    let Batch { model, jobs, seal, length, .. } = batch;
    let padded = model.signature.is_padded().then_some(length);
    let mut split = Split::new(&model.signature.outputs, outputs, padded);
    jobs.into_iter().map(move |RoutedJob { envelope, part, wanted, .. }| {
        let outputs = split.next(Share { rows: part.rows, length: part.length, wanted });
        let parameters = Parameters {
            stream_us: micros(envelope.in_stream),
            queue_us: micros(seal.at.saturating_duration_since(envelope.origin.received)),
            ..parameters
        };
        Outcome { envelope, answer: Answer::Ok { model: Arc::clone(&model), outputs, parameters } }
    })
}
