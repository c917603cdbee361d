//! Run: one OS thread for each engine instance. It owns every tensor, waits for a batch, runs it, sends the outcomes
//! on and asks for the next one. Nothing here knows tokio's reactor or NATS.

mod ahead;
mod answer;
mod attempt;
mod isolate;
mod laps;
mod parts;
mod warm_up;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use gristmill_engine::{DeviceMemory, Engine, Load, LoadError, ModelFile};
use gristmill_ledger::{Cause, Death, Witness};
use tokio::sync::{mpsc, oneshot};

use self::ahead::Ahead;
use self::attempt::Guarded;
use self::isolate::{Isolator, Stop, Unfit};
use self::warm_up::warm_up;
use crate::cores::Cores;
use crate::message::{Batch, Broken, EngineEvent, Instance, MOST_AHEAD, Outcome, Ran, Report, Served};
use crate::telemetry::{Counters, Health, RunClock, Spans};

/// What every instance is given.
#[derive(Clone)]
pub struct Instances {
    /// Makes the engines.
    pub loader: Arc<dyn Load>,
    /// Processors of their threads, those of libtorch included; `None` for all.
    pub cores: Option<Cores>,
    /// Where instances tell that they are ready, and what they have done.
    pub reports: mpsc::Sender<Report>,
    /// Where outcomes go.
    pub outcomes: mpsc::Sender<Vec<Outcome>>,
    /// Written: errors of models.
    pub counters: Arc<Counters>,
    /// Written: memory of the device.
    pub health: Arc<Health>,
    /// Where the spans of batches go.
    pub spans: Spans,
    /// Hears of an instance that is broken for good. Room for one: the first ends the process.
    pub broken: mpsc::Sender<Broken>,
    /// Takes down what the process dies of; empty while no ledger is kept.
    pub witness: Arc<OnceLock<Witness>>,
    /// Numbers the instances of the process.
    pub next: Arc<AtomicU64>,
}

/// Tells of its thread's panic outside of a run, a bug. Jobs of that thread are given back as their tickets unwind.
struct Guard<'a> {
    model: &'a Served,
    broken: &'a mpsc::Sender<Broken>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell(self.broken, self.model, "its thread panicked");
        }
    }
}

fn tell(broken: &mpsc::Sender<Broken>, model: &Served, reason: &str) {
    // Full means that another end is already being told.
    drop(broken.try_send(Broken { model: model.name.clone(), reason: reason.to_owned() }));
}

impl Instances {
    /// Starts the thread of one instance.
    pub fn spawn(&self, model: Arc<Served>, file: ModelFile) -> std::io::Result<Instance> {
        let (ready, warm) = oneshot::channel();
        let instances = self.clone();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(RunClock::new(number));
        model.meters.add_instance(Arc::clone(&clock));
        let kept = Arc::clone(&clock);
        let name = format!("engine-{}", model.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            gristmill_ledger::enter_ours();
            instances.cores.iter().for_each(Cores::pin);
            let load = || load(&*instances.loader, &file, &model);
            match load() {
                Ok(engine) => {
                    drop(ready.send(Ok(())));
                    let (batches, inbox) = sync_channel(MOST_AHEAD);
                    let guarded = Guarded { engine, clock: &clock };
                    let isolator = Isolator::new(guarded, &load, &instances.counters, Ahead::new(inbox));
                    instances.serve(isolator, batches, &model, number);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        Ok(Instance { thread, warm, clock: kept })
    }

    fn serve(&self, mut isolator: Isolator<'_>, batches: SyncSender<Batch>, model: &Arc<Served>, instance: u64) {
        let _guard = Guard { model, broken: &self.broken };
        let clock = isolator.clock();
        let report = |event| self.reports.blocking_send(Report { model: Arc::clone(model), instance, event });
        // Either end closed means that the batch task is gone: the drain has come to us.
        let mut is_wanted = report(EngineEvent::Ready(batches)).is_ok();
        while is_wanted {
            let Some(incoming) = isolator.recv() else { return };
            clock.begin();
            let (seal, elements, mut learned) =
                (Arc::clone(&incoming.batch.seal), incoming.batch.elements(), Vec::new());
            let mut emit = |outcomes| drop(self.outcomes.blocking_send(outcomes));
            let done = isolator.run(incoming, &mut learned, &mut emit);
            clock.end();
            self.note(isolator.memory());
            let laps = isolator.take_laps();
            let ran = laps::whole_run(&laps).map(|took| Ran { elements, took });
            laps::spans(model, &seal, laps).into_iter().for_each(|span| self.spans.emit(span));
            if let Err(unfit) = done {
                self.end(unfit, model);
            }
            is_wanted = report(EngineEvent::Done { learned, ran }).is_ok();
        }
    }

    fn note(&self, memory: Option<DeviceMemory>) {
        let Some(DeviceMemory { used, cached }) = memory else { return };
        self.health.device_memory.iter().zip([used, cached]).for_each(|(kept, now)| kept.store(now, Ordering::Relaxed));
    }

    /// Has the process end, and keeps the jobs until it has. Given back, they would join other workers' batches at once;
    /// kept, those that ran are the suspects that the next process runs alone.
    fn end(&self, mut unfit: Unfit, model: &Served) -> ! {
        unfit.hold();
        let Stop { reason, is_device, run } = &unfit.stop;
        if let Some(witness) = self.witness.get().filter(|_| *is_device) {
            witness.record(Death { cause: Cause::DeviceLost, run: Some(*run) });
        }
        tell(&self.broken, model, reason);
        loop {
            std::thread::park();
        }
    }
}

fn load(loader: &dyn Load, file: &ModelFile, model: &Served) -> Result<Box<dyn Engine>, LoadError> {
    let mut engine = loader.load(file)?;
    warm_up(&mut *engine, model)?;
    Ok(engine)
}
