//! Run: one OS thread for each engine instance. It owns every tensor, waits for a batch, runs it, sends the outcomes
//! on and asks for the next one. Nothing here knows tokio's reactor or NATS.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use gristmill_engine::{Engine, HostTensor, InputSpec, Load, LoadError, ModelFile, RowSlice, RunError, split, stack};
use gristmill_schemas::{ErrorCode, Parameters, Token};
use tokio::sync::{mpsc, oneshot};

use crate::message::{Answer, Batch, Idle, Instance, Outcome, Output, RoutedJob, Served};
use crate::telemetry::{Count, Counters};

/// What every instance is given.
#[derive(Clone)]
pub struct Instances {
    /// Makes the engines.
    pub loader: Arc<dyn Load>,
    /// Where instances report that they have no work.
    pub idle: mpsc::Sender<Idle>,
    /// Where outcomes go.
    pub outcomes: mpsc::Sender<Outcome>,
    /// Written: errors of models.
    pub counters: Arc<Counters>,
    /// Hears of an instance whose thread panicked. Room for one: the first ends the process.
    pub deaths: mpsc::Sender<Token>,
}

/// Tells of its thread's panic. Jobs of that thread are given back as their tickets unwind.
struct Guard<'a> {
    model: &'a Served,
    deaths: &'a mpsc::Sender<Token>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Full means that another death is already being told.
            drop(self.deaths.try_send(self.model.name.clone()));
        }
    }
}

impl Instances {
    /// Starts the thread of one instance.
    pub fn spawn(&self, model: Arc<Served>, file: ModelFile) -> std::io::Result<Instance> {
        let (ready, warm) = oneshot::channel();
        let instances = self.clone();
        let name = format!("engine-{}", model.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let loaded = instances.loader.load(&file).and_then(|mut engine| {
                warm_up(&mut *engine, &model)?;
                Ok(engine)
            });
            match loaded {
                Ok(mut engine) => {
                    drop(ready.send(Ok(())));
                    instances.serve(&mut *engine, &model);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        Ok(Instance { thread, warm })
    }

    fn serve(&self, engine: &mut dyn Engine, model: &Arc<Served>) {
        let _guard = Guard { model, deaths: &self.deaths };
        loop {
            let (slot, inbox) = sync_channel(1);
            let idle = Idle { model: Arc::clone(model), slot };
            // Either end closed means that the batch task is gone: the drain has come to us.
            if self.idle.blocking_send(idle).is_err() {
                return;
            }
            let Ok(batch) = inbox.recv() else { return };
            for outcome in run(engine, batch, &self.counters) {
                if self.outcomes.blocking_send(outcome).is_err() {
                    return;
                }
            }
        }
    }
}

/// Runs one row and a full batch, and checks what comes out. The TorchScript executor specialises in its first runs.
fn warm_up(engine: &mut dyn Engine, model: &Served) -> Result<(), LoadError> {
    let signature = &model.signature;
    let largest = signature.inputs.iter().map(|input| input.example.iter().product::<usize>().max(1)).max();
    let most = model.max_rows.min(model.max_elements / largest.unwrap_or(1)).max(1);
    for rows in [1, 2, most, most] {
        let rows = rows.min(most);
        let inputs: Vec<HostTensor> = signature.inputs.iter().map(|input: &InputSpec| input.example(rows)).collect();
        let failed = |reason: String| LoadError(format!("warm-up with {rows} rows: {reason}"));
        let outputs = engine.run(&inputs).map_err(|error| failed(error.0))?;
        signature.check_outputs(&outputs, rows).map_err(|mismatch| failed(format!("output {mismatch}")))?;
    }
    Ok(())
}

/// Runs a batch. Where it fails, halves it until only the jobs that fail alone are left: they are refused, their mates
/// have results.
fn run(engine: &mut dyn Engine, batch: Batch, counters: &Counters) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(batch.jobs.len());
    let mut todo = vec![batch];
    while let Some(mut batch) = todo.pop() {
        let started = Instant::now();
        match forward(engine, &batch) {
            Ok(outputs) => outcomes.extend(answers(batch, outputs, started)),
            Err(error) => {
                counters.inc(Count::RunErrors);
                if batch.jobs.len() > 1 {
                    let jobs = batch.jobs.split_off(batch.jobs.len() / 2);
                    todo.push(Batch { model: Arc::clone(&batch.model), tails: batch.tails.clone(), jobs, ..batch });
                    todo.push(batch);
                } else {
                    outcomes.extend(batch.jobs.into_iter().map(|job| refusal(job, &batch.model, &error)));
                }
            }
        }
    }
    outcomes
}

fn forward(engine: &mut dyn Engine, batch: &Batch) -> Result<Vec<HostTensor>, RunError> {
    let signature = &batch.model.signature;
    // A panic below is a bug of ours or of a binding; the thread and its module are fit for the next batch.
    catch_unwind(AssertUnwindSafe(|| {
        let inputs = stack(signature, &batch.tails, batch.jobs.iter().map(|job| &job.part));
        let outputs = engine.run(&inputs)?;
        let checked = signature.check_outputs(&outputs, batch.rows());
        checked.map_err(|mismatch| RunError(format!("the model's output {mismatch}")))?;
        Ok(outputs)
    }))
    .unwrap_or_else(|_| Err(RunError("the engine panicked, see the worker's log".into())))
}

fn answers(batch: Batch, outputs: Vec<HostTensor>, started: Instant) -> impl Iterator<Item = Outcome> {
    let rows: Vec<usize> = batch.jobs.iter().map(|job| job.part.rows).collect();
    let slices = split(outputs, rows.iter().copied());
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let parameters = Parameters {
        batch_rows: rows.iter().sum::<usize>() as u64,
        batch_jobs: rows.len() as u64,
        infer_us: micros(started.elapsed()),
        ..Parameters::default()
    };
    let Batch { model, jobs, sealed, .. } = batch;
    jobs.into_iter().zip(slices).map(move |(job, slices)| {
        let RoutedJob { envelope, wanted, .. } = job;
        let parameters = Parameters {
            stream_us: micros(envelope.in_stream),
            queue_us: micros(sealed.saturating_duration_since(envelope.origin.received)),
            ..parameters
        };
        Outcome { envelope, answer: ok(&model, slices, &wanted, parameters) }
    })
}

fn ok(model: &Arc<Served>, slices: Vec<RowSlice>, wanted: &[usize], parameters: Parameters) -> Answer {
    let outputs = wanted.iter().map(|&index| Output { index, rows: slices[index].clone() }).collect();
    Answer::Ok { model: Arc::clone(model), outputs, parameters }
}

fn refusal(job: RoutedJob, model: &Arc<Served>, error: &RunError) -> Outcome {
    Outcome::refused(job.envelope, Some(Arc::clone(model)), ErrorCode::ModelError, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::testing::{envelope, refusal};
    use gristmill_engine::{Dtype, OutputSpec, Part, Signature};
    use std::time::Duration;

    /// Faults that no TorchScript model can be made to have: what tch itself would do wrong. Everything else about
    /// running is tested with real models, in `integration/`.
    struct Faulty;

    impl Engine for Faulty {
        fn run(&mut self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, RunError> {
            assert!(!inputs[0].data.contains(&9), "a row of 9 makes the engine panic");
            let mut output = inputs[0].clone();
            if output.data.contains(&8) {
                output.shape[0] += 1;
            }
            Ok(vec![output])
        }
    }

    fn model() -> Arc<Served> {
        let input = InputSpec { name: "x".into(), dtype: Dtype::U8, dims: vec![], range: None, example: vec![] };
        let output = OutputSpec { name: "y".into(), dtype: Dtype::U8, dims: vec![] };
        Arc::new(Served {
            name: "m".parse().unwrap(),
            version: "1".parse().unwrap(),
            digest: String::new(),
            device: "cpu".into(),
            signature: Arc::new(Signature { inputs: vec![input], outputs: vec![output] }),
            max_rows: 64,
            max_elements: usize::MAX,
            max_delay: Duration::ZERO,
        })
    }

    fn job(value: u8) -> RoutedJob {
        let envelope = envelope(&value.to_string());
        let part = Part { rows: 1, inputs: vec![vec![value].into()] };
        RoutedJob { envelope, deadline: None, part, wanted: vec![0] }
    }

    #[test]
    fn an_engine_that_panics_or_gives_too_many_rows_fails_only_the_job_it_fails_on() {
        let jobs = (0..20).map(job).collect();
        let batch = Batch { model: model(), tails: vec![vec![]], jobs, sealed: Instant::now() };
        let counters = Counters::default();
        let outcomes = run(&mut Faulty, batch, &counters);
        assert_eq!(outcomes.len(), 20);
        for (value, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.envelope.id, value.to_string(), "outcomes keep the order of the jobs");
            match (value, &outcome.answer) {
                (8, _) => assert!(refusal(outcome).1.contains("2 rows") || refusal(outcome).1.contains("shape [2]")),
                (9, _) => assert!(refusal(outcome).1.contains("the engine panicked")),
                (_, Answer::Ok { outputs, parameters, .. }) => {
                    assert_eq!(*outputs[0].rows.data, [value as u8]);
                    assert!(parameters.batch_jobs >= 1);
                }
                (_, Answer::Refused { message, .. }) => panic!("job {value}: {message}"),
            }
        }
        assert!(counters.get(Count::RunErrors) > 2);
    }
}
