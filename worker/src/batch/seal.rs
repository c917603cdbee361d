use std::sync::Arc;
use std::time::Instant;

use gristmill_telemetry::{KeyValue, Link};

use crate::message::{RoutedJob, Seal, Served, Tails};
use crate::telemetry::{CloseReason, Trace};

/// Closes a batch: writes on each job where it ended up, and measures what is known now. `most`: rows that the batch could
/// have had.
pub(super) fn seal(
    jobs: &mut [RoutedJob],
    model: &Served,
    tails: &Tails,
    most: usize,
    (at, reason): (Instant, CloseReason),
) -> Arc<Seal> {
    let rows = jobs.iter().map(|job| job.part.rows).sum();
    let links: Vec<Link> = jobs.iter().enumerate().filter_map(|(index, job)| link(job, index)).collect();
    let trace = (!links.is_empty()).then(Trace::root);
    let first_queued = jobs.iter().filter_map(|job| job.envelope.marks.queued).min().unwrap_or(at);
    let seal = Arc::new(Seal { at, first_queued, reason, jobs: jobs.len(), rows, trace, links });
    let meters = &model.meters;
    for (index, job) in jobs.iter_mut().enumerate() {
        let marks = &mut job.envelope.marks;
        let waited = marks.queued.map_or_else(Default::default, |queued| at.saturating_duration_since(queued));
        meters.queue[job.envelope.origin.consumer.lane as usize].record(waited.as_secs_f64());
        marks.sealed = Some((Arc::clone(&seal), index));
    }
    meters.closed(reason);
    meters.size.record(jobs.len() as f64);
    meters.fill.record(rows as f64 / most.max(1) as f64);
    // Route has bounded each input's elements.
    let per_row = tails.iter().map(|tail| tail.iter().fold(1usize, |n, dim| n.saturating_mul(*dim)));
    meters.real.add(per_row.fold(0usize, usize::saturating_add).saturating_mul(rows) as u64);
    seal
}

/// The way from the batch to a recorded job.
fn link(job: &RoutedJob, index: usize) -> Option<Link> {
    let envelope = &job.envelope;
    envelope.trace.is_recorded.then(|| Link {
        context: envelope.trace.context,
        attributes: vec![
            KeyValue::new("messaging.message.conversation_id", envelope.id.clone()),
            KeyValue::new("gristmill.batch.index", i64::try_from(index).unwrap_or(i64::MAX)),
        ],
    })
}
