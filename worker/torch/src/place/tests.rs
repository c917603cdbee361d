//! The order of copies and runs, on an accelerator that does nothing before it has to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gristmill_engine::{Dtype, Engine};
use gristmill_simulated::{Count, Fault, Faulty, count, switch_stream};
use tch::{CModule, Kind};
use tempfile::NamedTempFile;

use super::*;
use crate::code::Code;
use crate::module::{Loaded, Module};

/// As libtorch's only accelerator, it answers to any name.
const DEVICE: Device = Device::Cuda(0);

/// Its streams, for one test at a time: what is counted is its own.
fn streams() -> (MutexGuard<'static, ()>, Streams) {
    static ALONE: Mutex<()> = Mutex::new(());
    gristmill_simulated::register();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (alone, Streams::try_new(0, true).unwrap())
}

fn floats(values: &[f32]) -> HostTensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    HostTensor { dtype: Dtype::F32, shape: vec![values.len(), 1], data }
}

/// A tensor on its way to the device.
fn uploaded(streams: &Streams, buffer: &Tensor, values: &[f32]) -> Tensor {
    write(&vec![floats(values)], 0, buffer).unwrap();
    streams.upload(buffer, &[values.len() as i64, 1], Kind::Float).unwrap()
}

/// The file of a module that runs this.
fn traced(code: impl Fn(&Tensor) -> Tensor) -> NamedTempFile {
    let example = [Tensor::from_slice(&[1.0f32]).reshape([1, 1])];
    let code = CModule::create_by_tracing("M", "forward", &example, &mut |inputs| vec![code(&inputs[0])]).unwrap();
    let file = tempfile::Builder::new().prefix("traced-").suffix(".pt").tempfile().unwrap();
    code.save(&file).unwrap();
    file
}

/// An engine that runs this.
fn engine_at(place: Place, code: impl Fn(&Tensor) -> Tensor) -> Loaded {
    let code = Code::load(traced(code).path(), Device::Cpu, ["y"].into_iter()).unwrap();
    Loaded(Rc::new(Module { code, place }))
}

fn engine(streams: Streams, code: impl Fn(&Tensor) -> Tensor) -> Loaded {
    engine_at(Place::Device(Lane::new(DEVICE, streams)), code)
}

fn twice(input: &Tensor) -> Tensor {
    input + input
}

#[test]
fn what_is_copied_to_a_device_is_there_when_it_is_used() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams, twice);
    let staged = engine.stage(&vec![floats(&[1.0, 2.0, 3.0])]).unwrap();
    assert_eq!(count(Count::Pending), 1, "the host goes on: the memory it was copied from is page-locked");
    let mut under_way = 0;
    let outputs = staged.run(&mut || under_way = count(Count::Pending)).unwrap();
    assert_eq!(under_way, 1, "the host goes on while there is something to wait for");
    assert_eq!(outputs, [floats(&[2.0, 4.0, 6.0])]);
}

#[test]
fn the_next_batch_travels_to_the_device_while_one_runs() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams, twice);
    let staged = engine.stage(&vec![floats(&[1.0, 2.0, 3.0])]).unwrap();
    let (mut next, mut under_way) = (None, 0);
    let ran = staged.run(&mut || {
        next = Some(engine.stage(&vec![floats(&[5.0, 6.0, 7.0])]).unwrap());
        under_way = count(Count::Pending);
    });
    assert_eq!(under_way, 2, "the outputs of one batch and the inputs of the next");
    assert_eq!(count(Count::Pending), 1, "one batch does not wait for the next");
    assert_eq!(ran.unwrap(), [floats(&[2.0, 4.0, 6.0])]);
    assert_eq!(next.unwrap().run(&mut || ()).unwrap(), [floats(&[10.0, 12.0, 14.0])]);
}

#[test]
fn copies_to_a_device_do_not_stand_behind_what_runs() {
    let (_alone, streams) = streams();
    let [one, two, into] = [(); 3].map(|()| streams.buffer(64).unwrap());
    let running = uploaded(&streams, &one, &[1.0]);
    streams.begin(&streams.uploaded().unwrap()).unwrap();
    streams.download(&running, &into).unwrap();
    let input = uploaded(&streams, &two, &[2.0]);
    streams.uploaded().unwrap().wait().unwrap();
    assert_eq!(count(Count::Pending), 1, "what runs is not waited for");
    streams.settle().unwrap();
    drop(input);
}

#[test]
fn memory_that_a_model_keeps_is_not_used_for_other_inputs() {
    let (_alone, streams) = streams();
    let [from, into] = [(); 2].map(|()| streams.buffer(64).unwrap());
    let input = uploaded(&streams, &from, &[1.0, 2.0]);
    let kept = input.shallow_clone();
    streams.begin(&streams.uploaded().unwrap()).unwrap();
    streams.release(input).unwrap();
    streams.download(&kept, &into).unwrap();
    let ran = streams.ran().unwrap();
    drop(kept);
    ran.wait().unwrap();
    let like = Tensor::empty([2, 1], (Kind::Float, Device::Cpu));
    assert_eq!(host_tensor(&like, Dtype::F32, &into).unwrap(), floats(&[1.0, 2.0]));
}

#[test]
fn a_model_that_changes_streams_is_waited_for() {
    let (_alone, streams) = streams();
    let [from, into] = [(); 2].map(|()| streams.buffer(64).unwrap());
    let input = uploaded(&streams, &from, &[1.0, 2.0]);
    let arrived = streams.uploaded().unwrap();
    arrived.wait().unwrap();
    streams.begin(&arrived).unwrap();
    let own = count(Count::Stream);
    switch_stream();
    let output = input.copy();
    streams.end().unwrap();
    assert_eq!(count(Count::Stream), own);
    streams.download(&output, &into).unwrap();
    streams.ran().unwrap().wait().unwrap();
    assert_eq!(host_tensor(&output, Dtype::F32, &into).unwrap(), floats(&[1.0, 2.0]));
}

#[test]
fn a_device_that_is_lost_is_told_of_and_nothing_of_it_freed() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams, twice);
    let inputs = vec![floats(&[1.0, 2.0, 3.0])];
    let is_told = |error: RunError| {
        assert!(matches!(&error, RunError::DeviceLost(why) if why.contains("illegal memory access")), "{error:?}");
    };
    let staged = engine.stage(&inputs).unwrap();
    let lost = Faulty::new(Fault::Lost);
    is_told(staged.run(&mut || ()).unwrap_err());
    is_told(engine.stage(&inputs).map(drop).unwrap_err());
    drop(lost);
    let (staged, mut lost, mut ahead) = (engine.stage(&inputs).unwrap(), None, None);
    let ran = staged.run(&mut || {
        lost = Some(Faulty::new(Fault::Lost));
        ahead = engine.stage(&inputs).map(drop).err();
    });
    is_told(ran.unwrap_err());
    is_told(ahead.unwrap());
    drop(lost);
    assert_eq!(engine.run(&inputs).unwrap(), [floats(&[2.0, 4.0, 6.0])]);
}

#[test]
fn buffers_are_used_again_and_given_back_when_memory_is_short() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams, twice);
    let (before, inputs) = (engine.memory().unwrap().used, vec![floats(&[1.0, 2.0, 3.0])]);
    let staged = engine.stage(&inputs).unwrap();
    assert_eq!(engine.memory().unwrap().used - before, 12);
    staged.run(&mut || ()).unwrap();
    let made = count(Count::PinnedMade);
    for _ in 0..5 {
        engine.run(&inputs).unwrap();
        drop(engine.stage(&inputs).unwrap());
    }
    assert_eq!(count(Count::PinnedMade), made);
    let memory = engine.memory().unwrap();
    assert!(memory.used == before && memory.cached > 0, "{memory:?}");
    engine.reclaim();
    assert_eq!((engine.memory().unwrap().cached, count(Count::PinnedCached)), (0, 0));
    engine.run(&inputs).unwrap();
    assert_eq!(count(Count::PinnedMade), made + 2, "none were kept");
}

#[test]
fn a_run_that_throws_keeps_no_memory() {
    let (_alone, streams) = streams();
    let weight = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0]).reshape([5, 1]);
    let mut engine = engine(streams, |input| input.f_add(&weight).unwrap());
    let before = engine.memory().unwrap().used;
    let error = engine.run(&vec![floats(&[1.0, 2.0])]).unwrap_err();
    assert!(matches!(&error, RunError::Failed(why) if why.contains("must match the size")), "{error:?}");
    assert_eq!(engine.memory().unwrap().used, before);
}

#[test]
fn a_run_that_throws_on_the_host_keeps_no_memory() {
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut engine = engine_at(Place::Host, |input| input + Tensor::from_slice(&[1.0f32; 3]));
    let input = vec![HostTensor { dtype: Dtype::F32, shape: vec![1, 1 << 20], data: vec![0; 4 << 20] }];
    let before = resident();
    (0..100).for_each(|_| assert!(engine.run(&input).is_err()));
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more after 100 runs of 4 MiB");
}

#[test]
fn without_page_locked_memory_it_is_slower_and_right() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams, twice);
    let _lacks = Faulty::new(Fault::LacksPinned);
    assert_eq!(engine.run(&vec![floats(&[1.0, 2.0])]).unwrap(), [floats(&[2.0, 4.0])]);
}

#[test]
fn outputs_may_be_empty_or_the_hosts() {
    let (_alone, streams) = streams();
    let mut engine = engine(streams, |input| input.f_narrow(0, 0, 0).unwrap());
    assert_eq!(engine.run(&vec![floats(&[1.0, 2.0])]).unwrap(), [floats(&[])]);
}

#[test]
fn a_model_that_forks_runs_on_the_stream_that_its_threads_share() {
    let forking = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/forks.pt");
    assert!(forks(&forking) && forks(Path::new("/nowhere.pt")));
    assert!(!forks(traced(twice).path()));

    let (alone, _streams) = streams();
    assert_ne!(count(Count::Stream), 0);
    drop(alone);
    let shared = std::thread::spawn(|| Streams::try_new(0, false).map(|_| count(Count::Stream)).unwrap());
    assert_eq!(shared.join().unwrap(), 0);
}

#[test]
fn a_device_that_is_not_there_is_named() {
    gristmill_simulated::register();
    let error = Streams::try_new(300, true).map(drop).unwrap_err().to_string();
    assert!(error.contains("device 300: there are 1"), "{error}");
}
