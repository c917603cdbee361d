use std::sync::Arc;
use std::time::Instant;

use gristmill_engine::InputSpec;
use gristmill_telemetry::{KeyValue, Link};

use crate::message::{RoutedJob, Seal, Served, Tails};
use crate::telemetry::{CloseReason, Trace};
use crate::ticket::Backlog;

/// Closes a batch: writes on each job where it ended up, and measures what is known now. `most`: rows that the batch could
/// have had. `backlog`: what stays behind, by lane. `length`: of its longest job.
pub(super) fn seal(
    jobs: &mut [RoutedJob],
    model: &Served,
    (tails, length): (&Tails, usize),
    (most, backlog): (usize, [Backlog; 2]),
    (at, reason): (Instant, CloseReason),
) -> Arc<Seal> {
    let rows = jobs.iter().map(|job| job.part.rows).sum();
    let links: Vec<Link> = jobs.iter().enumerate().filter_map(|(index, job)| link(job, index)).collect();
    let trace = (!links.is_empty()).then(Trace::root);
    let first_queued = jobs.iter().filter_map(|job| job.envelope.marks.queued).min().unwrap_or(at);
    let seal = Arc::new(Seal { at, first_queued, reason, jobs: jobs.len(), rows, trace, links });
    let meters = &model.meters;
    for (index, job) in jobs.iter_mut().enumerate() {
        let lane = job.envelope.origin.consumer.lane as usize;
        job.envelope.ticket.leave(backlog[lane]);
        let marks = &mut job.envelope.marks;
        let waited = marks.queued.map_or_else(Default::default, |queued| at.saturating_duration_since(queued));
        meters.queue[lane].record(waited.as_secs_f64());
        marks.sealed = Some((Arc::clone(&seal), index));
    }
    meters.closed(reason);
    meters.size.record(jobs.len() as f64);
    meters.fill.record(rows as f64 / most.max(1) as f64);
    let all = elements(model, tails, length).saturating_mul(rows);
    let of_job = |job: &RoutedJob| elements(model, tails, job.part.length).saturating_mul(job.part.rows);
    let real = if model.signature.is_padded() { jobs.iter().map(of_job).sum() } else { all };
    meters.real.add(real as u64);
    meters.padding.add(all.saturating_sub(real) as u64);
    seal
}

/// Elements of a row of this length, all inputs together. Route has bounded each input's.
fn elements(model: &Served, tails: &Tails, length: usize) -> usize {
    let of_input = |(tail, spec): (&Vec<usize>, &InputSpec)| {
        let size =
            |(dim, size): (usize, &usize)| if spec.pad.is_some_and(|pad| pad.dim == dim) { length } else { *size };
        tail.iter().enumerate().map(size).fold(1usize, usize::saturating_mul)
    };
    tails.iter().zip(&model.signature.inputs).map(of_input).fold(0, usize::saturating_add)
}

/// The way from the batch to a recorded job.
fn link(job: &RoutedJob, index: usize) -> Option<Link> {
    let envelope = &job.envelope;
    envelope.trace.is_recorded.then(|| Link {
        context: envelope.trace.context,
        attributes: vec![KeyValue::new("gristmill.batch.index", i64::try_from(index).unwrap_or(i64::MAX))],
    })
}
