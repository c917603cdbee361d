use super::*;
use crate::message::testing::{envelope, meters, refusal, seal};
use crate::message::{Answer, RoutedJob, Served};
use gristmill_engine::{Dtype, InputSpec, OutputSpec, Part, Signature};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::sync_channel;

/// Faults that no TorchScript model can be made to have: what tch itself would do wrong. Everything else about
/// running is tested with real models, in `integration/`.
struct Faulty(Log);

/// What engines were asked for: `+1 2` is a batch of a 1 and a 2 staged, `1 2` its run.
type Log = Rc<RefCell<Vec<String>>>;

fn text(data: &[u8]) -> String {
    data.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
}

impl Engine for Faulty {
    fn stage(&mut self, inputs: &dyn Inputs) -> Result<Box<dyn Staged>, RunError> {
        let input = HostTensor::of(inputs, 0);
        self.0.borrow_mut().push(format!("+{}", text(&input.data)));
        assert!(!input.data.contains(&4), "a row of 4 cannot be staged");
        if input.data == [3] && self.0.borrow().iter().filter(|entry| *entry == "+3").count() == 1 {
            return Err(RunError::OutOfMemory("a 3 for the first time".into()));
        }
        Ok(Box::new(Fed { input, log: Rc::clone(&self.0) }))
    }
}

struct Fed {
    /// And output.
    input: HostTensor,
    log: Log,
}

impl Staged for Fed {
    fn run(self: Box<Self>, meanwhile: &mut dyn FnMut()) -> Result<Vec<HostTensor>, RunError> {
        let mut output = self.input;
        self.log.borrow_mut().push(text(&output.data));
        meanwhile();
        let data = &output.data;
        assert!(!data.contains(&9), "a row of 9 makes the engine panic");
        if data.len() > 4 && data.contains(&7) || data.contains(&6) {
            return Err(RunError::OutOfMemory("more than four rows beside a 7, or a 6".into()));
        }
        if data.contains(&5) {
            return Err(RunError::DeviceLost("a 5".into()));
        }
        if output.data.contains(&8) {
            output.shape[0] += 1;
        }
        Ok(vec![output])
    }
}

fn model() -> Arc<Served> {
    let input = InputSpec { name: "x".into(), dtype: Dtype::U8, dims: vec![], range: None, example: vec![], pad: None };
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
        to_knee: false,
        target: None,
        buckets: Vec::new(),
        meters: meters(),
    })
}

fn job(value: u8) -> RoutedJob {
    let envelope = envelope(&value.to_string());
    let part = Part { rows: 1, length: 1, inputs: vec![Some(vec![value].into())] };
    RoutedJob { envelope, deadline: None, part, wanted: None, is_suspect: false }
}

struct Ran {
    outcomes: Vec<Outcome>,
    learned: Vec<usize>,
    loads: usize,
    unfit: Option<String>,
    log: Vec<String>,
}

fn run(values: impl Iterator<Item = u8>) -> Ran {
    run_all(&[&values.collect::<Vec<u8>>()])
}

/// Runs batches that are all there from the beginning.
fn run_all(batches: &[&[u8]]) -> Ran {
    let (sender, inbox) = sync_channel(batches.len());
    for values in batches {
        let jobs: Vec<RoutedJob> = values.iter().copied().map(job).collect();
        let seal = seal(jobs.len());
        sender.send(Batch { model: model(), tails: vec![vec![]], length: 1, jobs, seal }).unwrap();
    }
    drop(sender);
    let (loads, log) = (Cell::new(0), Log::default());
    let engine = || Box::new(Faulty(Rc::clone(&log))) as Box<dyn Engine>;
    let load = || {
        loads.set(loads.get() + 1);
        Ok(engine())
    };
    let (clock, counters) = (RunClock::new(0), Counters::default());
    let (mut outcomes, mut learned, mut unfit) = (Vec::new(), Vec::new(), None);
    let guarded = Guarded { engine: engine(), clock: &clock };
    let mut isolator = Isolator::new(guarded, &load, &counters, Ahead::new(inbox));
    while let Some(incoming) = isolator.recv().filter(|_| unfit.is_none()) {
        unfit = isolator.run(incoming, &mut learned, &mut |burst| outcomes.extend(burst)).err();
    }
    let learned = learned.into_iter().map(|ceiling| ceiling.rows).collect();
    let unfit = unfit.map(|unfit| unfit.stop.reason);
    Ran { outcomes, learned, loads: loads.get(), unfit, log: log.take() }
}

fn assert_ok(outcome: &Outcome) {
    let Answer::Ok { outputs, .. } = &outcome.answer else { panic!("{}: {outcome:?}", outcome.envelope.id) };
    assert_eq!(outputs.slices().next().unwrap().data[0].to_string(), outcome.envelope.id);
}

#[test]
fn only_the_jobs_that_fail_alone_are_refused_and_the_order_is_kept() {
    let ran = run((10..40).chain([8, 9]).chain(40..50));
    assert_eq!((ran.outcomes.len(), ran.loads), (42, 2), "one rebuild for the batch, one for the job");
    for (outcome, value) in ran.outcomes.iter().zip((10..40).chain([8, 9]).chain(40..50)) {
        assert_eq!(outcome.envelope.id, value.to_string());
        match value {
            8 => assert!(refusal(outcome).1.contains("shape [2]"), "{outcome:?}"),
            9 => {
                let panicked = (ErrorCode::Internal, "the engine panicked, see the worker's log");
                assert_eq!(refusal(outcome), panicked);
            }
            _ => assert_ok(outcome),
        }
    }
}

#[test]
fn a_batch_that_does_not_fit_is_halved_and_what_fits_is_remembered() {
    let ran = run([7].into_iter().chain(10..25));
    assert_eq!((ran.learned, ran.loads), (vec![8], 0), "the other eight fitted together");
    assert_eq!(ran.outcomes.len(), 16);
    ran.outcomes.iter().for_each(assert_ok);
}

#[test]
fn a_job_that_does_not_fit_alone_exhausts_the_resource() {
    let ran = run([6, 10].into_iter());
    assert_eq!((refusal(&ran.outcomes[0]).0, ran.learned.len()), (ErrorCode::ResourceExhausted, 0));
    assert_ok(&ran.outcomes[1]);
}

#[test]
fn a_lost_device_ends_the_instance_with_its_jobs_unanswered() {
    let ran = run([10, 5].into_iter());
    assert!(ran.outcomes.is_empty());
    assert_eq!(ran.unfit.as_deref(), Some("its device is lost: a 5"));
}

#[test]
fn an_instance_that_fails_too_often_is_given_up() {
    let ran = run([9; 12].into_iter());
    assert_eq!(ran.loads, MAX_REBUILDS);
    assert!(ran.unfit.unwrap().contains("failed again after 8 rebuilds"));
}

#[test]
fn the_next_batch_is_staged_while_one_runs_and_once() {
    let ran = run_all(&[&[10], &[11, 12], &[13]]);
    assert_eq!(ran.log, ["+10", "10", "+11 12", "11 12", "+13", "13"]);
    assert_eq!(ran.outcomes.len(), 4);
    ran.outcomes.iter().for_each(assert_ok);
}

#[test]
fn a_batch_that_is_halved_leaves_the_next_one_staged() {
    let ran = run_all(&[&[8, 10], &[11]]);
    assert_eq!(ran.log.iter().filter(|entry| *entry == "+11").count(), 1, "{:?}", ran.log);
    assert!(refusal(&ran.outcomes[0]).1.contains("shape [2]"));
    ran.outcomes[1..].iter().for_each(assert_ok);
}

#[test]
fn a_batch_that_does_not_fit_gets_the_memory_of_what_was_staged() {
    let ran = run_all(&[&[7, 10, 11, 12, 13, 14], &[15]]);
    assert_eq!(ran.log[ran.log.len() - 2..], ["+15", "15"], "{:?}", ran.log);
    assert_eq!(ran.log.iter().filter(|entry| *entry == "+15").count(), 2, "dropped, and not staged beside a half");
    assert_eq!(ran.learned, [3]);
    ran.outcomes.iter().for_each(assert_ok);
}

#[test]
fn a_lack_of_memory_beside_another_batch_is_nobodys_fault() {
    let ran = run_all(&[&[10], &[3]]);
    assert_eq!(ran.log, ["+10", "10", "+3", "+3", "3"]);
    assert!(ran.learned.is_empty());
    ran.outcomes.iter().for_each(assert_ok);
}

#[test]
fn a_batch_that_was_staged_when_the_device_was_lost_is_neither_run_nor_answered() {
    let ran = run_all(&[&[5], &[10]]);
    assert_eq!((ran.log, ran.outcomes.len()), (["+5", "5", "+10"].map(str::to_owned).to_vec(), 0));
    assert_eq!(ran.unfit.as_deref(), Some("its device is lost: a 5"));
}

#[test]
fn what_cannot_be_staged_harms_no_other_batch() {
    let ran = run_all(&[&[10], &[4, 11], &[12]]);
    assert_eq!(&ran.log[..3], ["+10", "10", "+4 11"]);
    assert_ok(&ran.outcomes[0]);
    assert_eq!(refusal(&ran.outcomes[1]).0, ErrorCode::Internal);
    ran.outcomes[2..].iter().for_each(assert_ok);
    assert_eq!(ran.outcomes.len(), 4);
}

#[test]
fn a_new_instance_is_not_given_what_the_old_one_holds() {
    let ran = run_all(&[&[9], &[10]]);
    assert_eq!((&ran.log[..], ran.loads), (&["+9", "9", "+10", "+10", "10"].map(str::to_owned)[..], 1));
    assert_ok(&ran.outcomes[1]);
}
