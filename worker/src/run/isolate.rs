//! Runs batches and keeps faults from spreading: to batch-mates, to the next batch, to the process. What each fault leads
//! to stands in one place, [`Isolator::run`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_engine::{DeviceMemory, Engine, HostTensor, Inputs, LoadError, RunError, Staged};
use gristmill_schemas::ErrorCode;

use super::ahead::{Ahead, Incoming, Stacked};
use super::answer::answers;
use super::attempt::{Fault, Guarded, forward};
use super::laps::{Lap, Phase};
use super::parts::{Memory, halves, refusal, singles};
use super::warm_up::control;
use crate::message::{Batch, Ceiling, Outcome};
use crate::telemetry::{Count, Counters, RunClock};

/// An instance that had to be rebuilt more often than this within [`REBUILD_WINDOW`] is not worth another try: the fault is
/// the process's.
const MAX_REBUILDS: usize = 8;

/// See [`MAX_REBUILDS`].
const REBUILD_WINDOW: Duration = Duration::from_secs(60);

/// One engine, and what it takes to have another.
pub(super) struct Isolator<'a> {
    guarded: Guarded<'a>,
    load: &'a dyn Fn() -> Result<Box<dyn Engine>, LoadError>,
    counters: &'a Counters,
    ahead: Ahead,
    rebuilt: Vec<Instant>,
    /// What the present batch went through.
    laps: Vec<Lap>,
}

/// The instance cannot go on. Its jobs are in here, neither answered nor given back.
pub(super) struct Unfit {
    pub(super) stop: Stop,
    /// What was left to run of the present batch; last, what it ran.
    jobs: Vec<Batch>,
}

impl Unfit {
    /// Has the ledger say that the batch that showed it is running: the next process is to run its jobs alone.
    pub(super) fn hold(&mut self) {
        let run = self.stop.run.max(1);
        self.jobs.last_mut().into_iter().for_each(|batch| batch.mark(run));
    }
}

/// Why not.
pub(super) struct Stop {
    pub(super) reason: String,
    /// The device is lost.
    pub(super) is_device: bool,
    /// The run that showed it.
    pub(super) run: u64,
}

impl<'a> Isolator<'a> {
    pub(super) fn new(
        guarded: Guarded<'a>,
        load: &'a dyn Fn() -> Result<Box<dyn Engine>, LoadError>,
        counters: &'a Counters,
        ahead: Ahead,
    ) -> Self {
        Self { guarded, load, counters, ahead, rebuilt: Vec::new(), laps: Vec::new() }
    }

    /// How long its runs take.
    pub(super) fn clock(&self) -> &'a RunClock {
        self.guarded.clock
    }

    /// What is in the device's memory.
    pub(super) fn memory(&self) -> Option<DeviceMemory> {
        self.guarded.engine.memory()
    }

    /// Waits for a batch; none comes any more once the other end is gone.
    pub(super) fn recv(&mut self) -> Option<Incoming> {
        self.ahead.recv()
    }

    /// What the last batch went through.
    pub(super) fn take_laps(&mut self) -> Vec<Lap> {
        std::mem::take(&mut self.laps)
    }

    /// Runs a batch. Where it fails, halves it until only the jobs that fail alone are left: they are refused, their
    /// mates have results.
    pub(super) fn run(
        &mut self,
        Incoming { batch, mut stacked }: Incoming,
        learned: &mut Vec<Ceiling>,
        emit: &mut dyn FnMut(Vec<Outcome>),
    ) -> Result<(), Unfit> {
        let mut memory = Memory::default();
        let mut todo = vec![batch];
        while let Some(mut batch) = todo.pop() {
            let started = Instant::now();
            // Not beside what is left of a batch that failed: what it is found to need of the memory is its own.
            let goes_ahead = todo.is_empty() && memory.lacked.is_none();
            let (run, fault) = match self.attempt(&mut batch, stacked.take(), goes_ahead) {
                (_, Ok(outputs)) => {
                    memory.fitted = memory.fitted.max(batch.rows());
                    self.answer(batch, outputs, started, emit);
                    continue;
                }
                (run, Err(fault)) => (run, fault),
            };
            self.counters.inc(Count::RunErrors);
            let next = match (fault, batch.jobs.len()) {
                (Fault::Model(RunError::DeviceLost(why)), _) => Err(Stop::lost(run, &why)),
                (Fault::Model(RunError::OutOfMemory(_)), 2..) => {
                    self.counters.inc(Count::OutOfMemory);
                    memory.lacked = Some(batch.tails.clone());
                    self.ahead.forget();
                    Ok(Next::Halve)
                }
                (Fault::Model(RunError::OutOfMemory(_)), _) => {
                    self.counters.inc(Count::OutOfMemory);
                    self.ahead.forget();
                    self.guarded.engine.reclaim();
                    Ok(Next::TryLast(ErrorCode::ResourceExhausted))
                }
                (Fault::Model(RunError::Failed(_)), 2..) => Ok(Next::Halve),
                (Fault::Model(RunError::Failed(why)), _) => self.find_fault(&mut batch, why),
                (Fault::Panic, 2..) => self.rebuild(&mut batch).map(|()| Next::RunEach),
                (Fault::Panic, _) => self.rebuild(&mut batch).map(|()| {
                    Next::Refuse(ErrorCode::Internal, "the engine panicked, see the worker's log".to_owned())
                }),
            };
            let stop = match next {
                Ok(Next::Halve) => {
                    todo.extend(halves(batch));
                    continue;
                }
                Ok(Next::RunEach) => {
                    todo.extend(singles(batch));
                    continue;
                }
                Ok(Next::Refuse(code, why)) => {
                    emit(vec![refusal(batch, code, why)]);
                    continue;
                }
                Ok(Next::TryLast(code)) => match self.try_last(&mut batch, code, started, emit) {
                    Ok(is_glutton) => {
                        memory.has_glutton |= is_glutton;
                        continue;
                    }
                    Err(stop) => stop,
                },
                Err(stop) => stop,
            };
            todo.push(batch);
            return Err(Unfit { stop, jobs: todo });
        }
        learned.extend(memory.ceiling());
        Ok(())
    }

    /// A job failed alone: a control sample tells whether that is its own fault or the instance's. If it is the
    /// instance's, the job has another try on a new one.
    fn find_fault(&mut self, batch: &mut Batch, why: String) -> Result<Next, Stop> {
        let (run, sample) = self.guarded.enter(batch, |engine, batch| control(engine, &batch.model));
        match sample {
            Ok(()) => Ok(Next::Refuse(ErrorCode::ModelError, why)),
            Err(RunError::DeviceLost(why)) => Err(Stop::lost(run, &why)),
            Err(_) => self.rebuild(batch).map(|()| Next::TryLast(ErrorCode::ModelError)),
        }
    }

    /// Runs a job that failed alone once more. Returns whether it did not fit the memory.
    fn try_last(
        &mut self,
        batch: &mut Batch,
        code: ErrorCode,
        started: Instant,
        emit: &mut dyn FnMut(Vec<Outcome>),
    ) -> Result<bool, Stop> {
        let (run, outputs) = self.attempt(batch, None, false);
        let why = match outputs {
            Ok(outputs) => {
                self.answer(batch.take(), outputs, started, emit);
                return Ok(false);
            }
            Err(Fault::Model(RunError::DeviceLost(why))) => return Err(Stop::lost(run, &why)),
            Err(Fault::Model(error)) => error.to_string(),
            Err(Fault::Panic) => "the engine panicked, see the worker's log".to_owned(),
        };
        emit(vec![refusal(batch.take(), code, why)]);
        Ok(code == ErrorCode::ResourceExhausted)
    }

    /// Splits the outputs, and sends each job its own.
    fn answer(&mut self, batch: Batch, outputs: Vec<HostTensor>, started: Instant, emit: &mut dyn FnMut(Vec<Outcome>)) {
        let (model, began) = (Arc::clone(&batch.model), Instant::now());
        let answers = answers(batch, outputs, started);
        let lap = Lap::new(Phase::Split, began, Instant::now());
        model.meters.split.record(lap.seconds());
        self.laps.push(lap);
        emit(answers);
    }

    /// One run. Returns its number. The next batch `goes_ahead` as far as it can meanwhile.
    fn attempt(
        &mut self,
        batch: &mut Batch,
        stacked: Option<Stacked>,
        goes_ahead: bool,
    ) -> (u64, Result<Vec<HostTensor>, Fault>) {
        let began = Instant::now();
        let Self { guarded, ahead, laps, .. } = self;
        let mut meanwhile = |engine: &mut dyn Engine| {
            if goes_ahead {
                ahead.stage(engine);
            }
        };
        let (run, outputs) =
            guarded.enter(batch, |engine, batch| forward(engine, batch, stacked, &mut meanwhile, laps));
        let ended = Instant::now();
        batch.jobs.iter_mut().for_each(|job| job.envelope.marks.ran = Some([began, ended]));
        if matches!(outputs, Err(Fault::Panic)) {
            self.counters.inc(Count::Panics);
        }
        (run, outputs)
    }

    /// Replaces the engine by a new one. Fails where that happens too often, or cannot be done.
    fn rebuild(&mut self, batch: &mut Batch) -> Result<(), Stop> {
        let now = Instant::now();
        self.rebuilt.retain(|then| now.duration_since(*then) < REBUILD_WINDOW);
        let stop = |run, reason: String| Stop { reason, is_device: false, run };
        if self.rebuilt.len() >= MAX_REBUILDS {
            let text = format!("its instance failed again after {MAX_REBUILDS} rebuilds in {REBUILD_WINDOW:?}");
            return Err(stop(0, text));
        }
        self.rebuilt.push(now);
        self.counters.inc(Count::Rebuilds);
        tracing::error!("an engine instance failed and is loaded again");
        // First the old one goes: there may be no room for two.
        self.ahead.forget();
        self.guarded.engine = Box::new(Gone);
        let load = self.load;
        // Caught as well: whatever made the old instance panic may still be there.
        let (run, loaded) = self.guarded.enter(batch, |_, _| catch_unwind(AssertUnwindSafe(load)));
        let loaded = loaded.map_err(|_| stop(run, "its instance cannot be loaded again".to_owned()))?;
        self.guarded.engine =
            loaded.map_err(|error| stop(run, format!("its instance cannot be loaded again: {error}")))?;
        Ok(())
    }
}

/// What becomes of a batch that failed.
enum Next {
    Halve,
    /// Each alone at once: halving would cost a rebuild at every step.
    RunEach,
    Refuse(ErrorCode, String),
    TryLast(ErrorCode),
}

/// In place of an engine that is being replaced.
struct Gone;

impl Engine for Gone {
    fn stage(&mut self, _: &dyn Inputs) -> Result<Box<dyn Staged>, RunError> {
        Err(RunError::Failed("the instance is gone".into()))
    }
}

impl Stop {
    fn lost(run: u64, why: &str) -> Self {
        Self { reason: format!("its device is lost: {why}"), is_device: true, run }
    }
}

#[cfg(test)]
mod tests;
