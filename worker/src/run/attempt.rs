//! One go of a batch through its engine, which may throw, panic, never return or take the process along.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use gristmill_engine::{Engine, HostTensor, RunError, Stack, Staged};

use super::ahead::Stacked;
use super::laps::{Lap, Phase};
use crate::message::Batch;
use crate::telemetry::RunClock;

/// Why a run has no outputs.
pub(super) enum Fault {
    Model(RunError),
    /// A bug, of ours or of a binding. What the engine is good for now nobody knows.
    Panic,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(error) => error.fmt(f),
            Self::Panic => f.write_str("the engine panicked"),
        }
    }
}

/// One engine.
pub(super) struct Guarded<'a> {
    pub(super) engine: Box<dyn Engine>,
    pub(super) clock: &'a RunClock,
}

impl Guarded<'_> {
    /// Goes into the model, which the ledger and the clock know of: it may not return, nor the process live. Returns the number
    /// of the run.
    pub(super) fn enter<T>(&mut self, batch: &mut Batch, work: impl FnOnce(&mut dyn Engine, &Batch) -> T) -> (u64, T) {
        let run = self.clock.start();
        batch.mark(run);
        gristmill_ledger::enter(run);
        let done = work(&mut *self.engine, batch);
        gristmill_ledger::enter_ours();
        batch.jobs.iter_mut().for_each(|job| job.envelope.ticket.ran());
        self.clock.stop();
        (run, done)
    }
}

/// Has the inputs of a batch written into the engine's memory.
pub(super) fn stack(engine: &mut dyn Engine, batch: &Batch, phase: Phase) -> (Lap, Result<Box<dyn Staged>, Fault>) {
    let began = Instant::now();
    let parts = batch.jobs.iter().map(|job| &job.part);
    let staged = caught(|| engine.stage(&Stack::new(&batch.model.signature, &batch.tails, parts)));
    let lap = Lap::new(phase, began, Instant::now());
    batch.model.meters.pad.record(lap.seconds());
    (lap, staged)
}

/// Runs a batch. `meanwhile` is called where the device works on its own. What the batch went through is added to `laps`.
pub(super) fn forward(
    engine: &mut dyn Engine,
    batch: &Batch,
    stacked: Option<Stacked>,
    meanwhile: &mut dyn FnMut(&mut dyn Engine),
    laps: &mut Vec<Lap>,
) -> Result<Vec<HostTensor>, Fault> {
    let (lap, staged) = match stacked {
        Some(Stacked { staged, lap }) => (lap, Ok(staged)),
        None => stack(engine, batch, Phase::Pad),
    };
    laps.push(lap);
    let staged = staged?;
    let began = Instant::now();
    let outputs = caught(|| {
        let outputs = staged.run(&mut || meanwhile(engine))?;
        let checked = batch.model.signature.check_outputs(&outputs, batch.rows());
        checked.map_err(|mismatch| RunError::Failed(format!("the model's output {mismatch}")))?;
        Ok(outputs)
    });
    let mut lap = Lap::new(Phase::Device, began, Instant::now());
    lap.error = outputs.as_ref().err().map(Fault::to_string);
    batch.model.meters.device.record(lap.seconds());
    laps.push(lap);
    outputs
}

fn caught<T>(work: impl FnOnce() -> Result<T, RunError>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).map_or(Err(Fault::Panic), |done| done.map_err(Fault::Model))
}
