//! What a batch went through on its engine, as spans. Pure.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use gristmill_schemas::metric::attribute;
use gristmill_telemetry::{KeyValue, Span};

use crate::message::{Seal, Served};
use crate::telemetry::{Trace, wall_time};

/// A part of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Stacking the inputs.
    Pad,
    /// The same, while the device was at work on the batch before.
    PadAhead,
    /// Forward, with the copies from the device, and to it where they were not made ahead.
    Device,
    /// Taking each job's rows out of the outputs.
    Split,
}

/// One part of the way. A batch that is halved goes through each several times.
#[derive(Debug)]
pub(super) struct Lap {
    phase: Phase,
    interval: [Instant; 2],
    /// Why the run failed, if it did.
    pub(super) error: Option<String>,
}

impl Lap {
    pub(super) fn new(phase: Phase, began: Instant, ended: Instant) -> Self {
        Self { phase, interval: [began, ended], error: None }
    }

    pub(super) fn seconds(&self) -> f64 {
        let [began, ended] = self.interval;
        ended.saturating_duration_since(began).as_secs_f64()
    }

    fn name(&self, model: &Served) -> Cow<'static, str> {
        match self.phase {
            Phase::Pad | Phase::PadAhead => "batch.pad".into(),
            Phase::Device => format!("device.run {}", model.name).into(),
            Phase::Split => "batch.split".into(),
        }
    }
}

/// How long it kept the engine from other batches, from stacking to splitting, if there was one run and it did not fail.
pub(super) fn whole_run(laps: &[Lap]) -> Option<Duration> {
    let mut runs = laps.iter().enumerate().filter(|(_, lap)| lap.phase == Phase::Device);
    let (run, _) = runs.next().filter(|(_, run)| run.error.is_none())?;
    // Stacking stands before it, unless it was done in the time of another. What stands before that, an attempt that did not
    // get so far, is not the run's.
    let stacking = &laps[run.checked_sub(1)?];
    let first = if stacking.phase == Phase::PadAhead { &laps[run] } else { stacking };
    let [began, _] = first.interval;
    let [_, ended] = laps.last()?.interval;
    runs.next().is_none().then(|| ended.saturating_duration_since(began))
}

/// The spans of a batch: its root, and below it how it was formed and what it went through. None where no job of it is
/// recorded.
pub(super) fn spans(model: &Served, seal: &Seal, laps: Vec<Lap>) -> Vec<Span> {
    let Some(context) = seal.trace else { return Vec::new() };
    let anchor = (SystemTime::now(), Instant::now());
    let wall = |at| wall_time(anchor, at);
    let trace = Trace { context, parent: None, is_recorded: true };
    let child = |name: Cow<'static, str>, [from, to]: [Instant; 2]| {
        Span::new(name, trace.child(), [wall(from), wall(to)]).below(context.span_id)
    };
    let ended = laps.iter().map(|lap| lap.interval[1]).max().unwrap_or(seal.at);
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let own = [
        KeyValue::new("gristmill.batch.size", count(seal.jobs)),
        KeyValue::new("gristmill.batch.rows", count(seal.rows)),
        KeyValue::new(attribute::CLOSE_REASON, seal.reason.as_str()),
        KeyValue::new(attribute::DEVICE, Arc::clone(&model.device)),
    ];
    let mut root = Span::new(format!("batch {}", model.name), context, [wall(seal.first_queued), wall(ended)])
        .with(model.attributes().into_iter().chain(own));
    root.links.clone_from(&seal.links);
    root.error = laps.iter().find_map(|lap| lap.error.clone());
    root.attributes.extend(root.error.iter().map(|_| KeyValue::new(attribute::ERROR, "run_error")));
    let form = child("batch.form".into(), [seal.first_queued, seal.at]);
    let form = form.with([KeyValue::new(attribute::CLOSE_REASON, seal.reason.as_str())]);
    let below = laps.into_iter().map(|lap| {
        let failed = lap.error.iter().map(|_| KeyValue::new(attribute::ERROR, "run_error")).collect::<Vec<_>>();
        let span = child(lap.name(model), lap.interval).with(failed);
        Span { error: lap.error, ..span }
    });
    [root, form].into_iter().chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laps(laps: &[(Phase, [u64; 2])]) -> Vec<Lap> {
        let zero = Instant::now();
        let at = |millis: u64| zero + Duration::from_millis(millis);
        laps.iter().map(|&(phase, [from, to])| Lap::new(phase, at(from), at(to))).collect()
    }

    #[test]
    fn a_run_lasts_from_stacking_to_splitting() {
        let whole = [(Phase::Pad, [0, 2]), (Phase::Device, [2, 7]), (Phase::Split, [7, 8])];
        assert_eq!(whole_run(&laps(&whole)), Some(Duration::from_millis(8)));
    }

    #[test]
    fn stacking_in_the_time_of_another_run_costs_it_nothing() {
        let ahead = [(Phase::PadAhead, [0, 2]), (Phase::Device, [5, 7]), (Phase::Split, [7, 8])];
        assert_eq!(whole_run(&laps(&ahead)), Some(Duration::from_millis(3)));
    }

    #[test]
    fn what_failed_or_was_halved_tells_nothing_of_the_cost() {
        let mut failed = laps(&[(Phase::Pad, [0, 2]), (Phase::Device, [2, 7])]);
        failed[1].error = Some("it threw".into());
        assert_eq!(whole_run(&failed), None);
        let halves = [(Phase::Pad, [0, 2]), (Phase::Device, [2, 7]), (Phase::Pad, [7, 8]), (Phase::Device, [8, 9])];
        assert_eq!(whole_run(&laps(&halves)), None);
        assert_eq!(whole_run(&laps(&[(Phase::Pad, [0, 2])])), None);
    }
}
