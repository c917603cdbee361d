//! What a run gives to each of its jobs.

use std::sync::Arc;
use std::time::Instant;

use gristmill_engine::{HostTensor, RowSlice, split};
use gristmill_schemas::Parameters;

use crate::message::{Answer, Batch, Outcome, Output, RoutedJob, Served};

/// Takes each job's rows out of a batch's outputs.
pub(super) fn answers(batch: Batch, outputs: Vec<HostTensor>, started: Instant) -> impl Iterator<Item = Outcome> {
    let rows: Vec<usize> = batch.jobs.iter().map(|job| job.part.rows).collect();
    let slices = split(outputs, rows.iter().copied());
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let parameters = Parameters {
        batch_rows: rows.iter().sum::<usize>() as u64,
        batch_jobs: rows.len() as u64,
        infer_us: micros(started.elapsed()),
        ..Parameters::default()
    };
    let Batch { model, jobs, seal, .. } = batch;
    jobs.into_iter().zip(slices).map(move |(job, slices)| {
        let RoutedJob { envelope, wanted, .. } = job;
        let parameters = Parameters {
            stream_us: micros(envelope.in_stream),
            queue_us: micros(seal.at.saturating_duration_since(envelope.origin.received)),
            ..parameters
        };
        Outcome { envelope, answer: ok(&model, slices, &wanted, parameters) }
    })
}

fn ok(model: &Arc<Served>, slices: Vec<RowSlice>, wanted: &[usize], parameters: Parameters) -> Answer {
    let outputs = wanted.iter().map(|&index| Output { index, rows: slices[index].clone() }).collect();
    Answer::Ok { model: Arc::clone(model), outputs, parameters }
}
