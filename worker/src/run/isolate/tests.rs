use super::*;
use crate::message::testing::{envelope, meters, refusal, seal};
use crate::message::{Answer, RoutedJob, Served};
use gristmill_engine::{Dtype, InputSpec, OutputSpec, Part, Signature};
use std::cell::Cell;

/// Faults that no TorchScript model can be made to have: what tch itself would do wrong. Everything else about
/// running is tested with real models, in `integration/`.
struct Faulty;

impl Engine for Faulty {
    fn run(&mut self, inputs: &dyn Inputs) -> Result<Vec<HostTensor>, RunError> {
        let mut output = HostTensor::of(inputs, 0);
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
}

fn run(values: impl Iterator<Item = u8>) -> Ran {
    let jobs: Vec<RoutedJob> = values.map(job).collect();
    let seal = seal(jobs.len());
    let batch = Batch { model: model(), tails: vec![vec![]], length: 1, jobs, seal };
    let loads = Cell::new(0);
    let load = || {
        loads.set(loads.get() + 1);
        Ok(Box::new(Faulty) as Box<dyn Engine>)
    };
    let (clock, counters) = (RunClock::new(0), Counters::default());
    let (mut outcomes, mut learned) = (Vec::new(), Vec::new());
    let mut isolator = Isolator::new(Box::new(Faulty), &load, &clock, &counters);
    let unfit = isolator.run(batch, &mut learned, &mut |burst| outcomes.extend(burst)).err();
    let learned = learned.into_iter().map(|ceiling| ceiling.rows).collect();
    Ran { outcomes, learned, loads: loads.get(), unfit: unfit.map(|unfit| unfit.stop.reason) }
}

fn assert_ok(outcome: &Outcome) {
    let Answer::Ok { outputs, .. } = &outcome.answer else { panic!("{}: {outcome:?}", outcome.envelope.id) };
    assert_eq!(outputs[0].data[0].to_string(), outcome.envelope.id);
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
