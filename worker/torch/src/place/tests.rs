//! The order of copies and runs, on an accelerator that makes its copies late.

use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gristmill_engine::{Dtype, Engine, HostTensor, Inputs, OutputSpec, RunError};
use gristmill_simulated::{Held, Lost, pending, pinned_cached};
use tch::CModule;

use super::*;
use crate::module::{Loaded, Module};
use crate::value::{host_tensor, written};

/// As libtorch's only accelerator, it answers to any name.
const DEVICE: Device = Device::Cuda(0);

/// Its streams, for one test at a time: copies that are pending are its own.
fn streams() -> (MutexGuard<'static, ()>, Streams) {
    static ALONE: Mutex<()> = Mutex::new(());
    gristmill_simulated::register();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (alone, Streams::try_new(0).unwrap())
}

fn floats(values: [f32; 3]) -> HostTensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    HostTensor { dtype: Dtype::F32, shape: vec![3, 1], data }
}

#[test]
fn what_is_copied_to_a_device_is_there_when_it_is_used() {
    let (_alone, streams) = streams();
    let place = Place::Device(DEVICE, streams);
    let input = place.upload(written(&vec![floats([1.0, 2.0, 3.0])], 0, &place).unwrap()).unwrap();
    assert_eq!(pending(), 1, "the host goes on: the memory it was copied from is page-locked");
    let sum = input.f_add(&input).unwrap();
    let mut is_under_way = false;
    let outputs = place.download(vec![sum], &mut || is_under_way = pending() > 0).unwrap();
    assert!(is_under_way, "the host goes on while there is something to wait for");
    assert_eq!(host_tensor(&outputs[0]).unwrap(), floats([2.0, 4.0, 6.0]));
}

#[test]
fn copies_to_a_device_do_not_stand_behind_what_runs() {
    let (_alone, streams) = streams();
    let place = Place::Device(DEVICE, streams);
    let runs = Held::new();
    let input = place.upload(written(&vec![floats([1.0, 2.0, 3.0])], 0, &place).unwrap()).unwrap();
    let began = Instant::now();
    while pending() > 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "it waits for what runs");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(runs);
    let outputs = place.download(vec![input], &mut || ()).unwrap();
    assert_eq!(host_tensor(&outputs[0]).unwrap(), floats([1.0, 2.0, 3.0]));
}

#[test]
fn memory_of_the_copies_is_kept_for_what_runs() {
    let (_alone, streams) = streams();
    let mut host = streams.host_memory(&[3, 1], Kind::Float).unwrap();
    host.copy_(&Tensor::from_slice(&[1.0f32, 2.0, 3.0]).reshape([3, 1]));
    let input = streams.upload(&host).unwrap();
    drop(host);
    let output = streams.download(&input).unwrap();
    drop(input);
    streams.wait().unwrap();
    assert_eq!(host_tensor(&output).unwrap(), floats([1.0, 2.0, 3.0]));
}

/// An engine that doubles its input on the accelerator.
fn engine(streams: Streams) -> Loaded {
    let example = [Tensor::from_slice(&[1.0f32]).reshape([1, 1])];
    let twice = &mut |inputs: &[Tensor]| vec![&inputs[0] + &inputs[0]];
    let code = CModule::create_by_tracing("Twice", "forward", &example, twice).unwrap();
    let outputs = vec![OutputSpec { name: "y".into(), dtype: Dtype::F32, dims: vec![Some(1)] }];
    Loaded(Rc::new(Module { code, place: Place::Device(DEVICE, streams), outputs }))
}

#[test]
fn the_next_batch_travels_to_the_device_while_one_runs() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams);
    let (first, second) = (vec![floats([1.0, 2.0, 3.0])], vec![floats([5.0, 6.0, 7.0])]);
    let staged = engine.stage(&first as &dyn Inputs).unwrap();
    let (mut next, mut copies) = (None, 0);
    let ran = staged.run(&mut || {
        next = Some(engine.stage(&second as &dyn Inputs).unwrap());
        copies = pending();
    });
    assert_eq!(copies, 2, "the outputs of one batch and the inputs of the next");
    assert_eq!(ran.unwrap(), [floats([2.0, 4.0, 6.0])]);
    assert_eq!(next.unwrap().run(&mut || ()).unwrap(), [floats([10.0, 12.0, 14.0])]);
}

#[test]
fn what_a_device_did_in_the_end_tells_that_it_is_lost() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams);
    let inputs = vec![floats([1.0, 2.0, 3.0])];
    let staged = engine.stage(&inputs as &dyn Inputs).unwrap();
    let lost = Lost::new();
    let error = staged.run(&mut || ()).unwrap_err();
    assert!(matches!(&error, RunError::DeviceLost(why) if why.contains("illegal memory access")), "{error:?}");
    drop(lost);
    assert_eq!(engine.run(&inputs).unwrap(), [floats([2.0, 4.0, 6.0])]);
}

#[test]
fn memory_is_accounted_for_and_given_back() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams);
    let before = engine.memory().unwrap();
    let inputs = vec![floats([1.0, 2.0, 3.0])];
    let staged = engine.stage(&inputs as &dyn Inputs).unwrap();
    assert_eq!(engine.memory().unwrap().used - before.used, 12);
    drop(staged.run(&mut || ()).unwrap());
    let after = engine.memory().unwrap();
    assert_eq!(after.used, before.used);
    assert!(after.cached > 0 && pinned_cached() > 0);
    engine.reclaim();
    assert_eq!((engine.memory().unwrap().cached, pinned_cached()), (0, 0));
}

#[test]
fn an_error_of_a_device_is_told_in_its_words() {
    gristmill_simulated::register();
    let error = Streams::try_new(usize::MAX).map(drop).unwrap_err().to_string();
    assert!(error.contains("device 18446744073709551615: no such device"), "{error}");
    let (_alone, streams) = streams();
    let error = streams.host_memory(&[-1], Kind::Float).map(drop).unwrap_err().to_string();
    assert!(error.contains("negative dimension"), "{error}");
}
