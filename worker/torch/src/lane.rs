//! The way of batches to a device and back, for one thread.

use std::cell::RefCell;
use std::mem::{forget, take};
use std::rc::Rc;

use gristmill_engine::{Dtype, HostTensor, Inputs, RunError};
use tch::{Device, TchError, Tensor};

use crate::failure::run_error;
use crate::streams::{Event, Streams};
use crate::value::{dtype_of, host_tensor, kind, shape_of, write};

/// Least bytes of a buffer: a page.
const LEAST: usize = 4096;

/// A device's streams, and the host memory that it copies from and to.
pub(crate) struct Lane {
    pub(crate) device: Device,
    streams: Streams,
    /// Buffers that nothing is copied from or to at present: the most that were needed at once. Kept here, since libtorch asks the
    /// device when it frees such memory, and cannot be told that the device is lost.
    free: RefCell<Vec<Tensor>>,
}

/// A batch's inputs on the device, or on their way to it.
pub(crate) struct Cargo {
    /// First, as it is to be dropped: after that nothing is copied to the inputs any more.
    lent: Lent,
    arrived: Event,
    pub(crate) inputs: Vec<Tensor>,
}

/// Buffers in use.
struct Lent {
    lane: Rc<Lane>,
    buffers: Vec<Tensor>,
}

impl Lane {
    pub(crate) fn new(device: Device, streams: Streams) -> Rc<Self> {
        Rc::new(Self { device, streams, free: RefCell::default() })
    }

    /// Begins to copy a batch's inputs to the device.
    pub(crate) fn load(self: &Rc<Self>, inputs: &dyn Inputs) -> Result<Cargo, TchError> {
        let mut lent = Lent { lane: Rc::clone(self), buffers: Vec::new() };
        let mut load = |index| {
            let layout = inputs.layout(index);
            let buffer = lent.another(layout.bytes())?;
            write(inputs, index, buffer)?;
            self.streams.upload(buffer, &shape_of(&layout), kind(layout.dtype))
        };
        let inputs = (0..inputs.count()).map(&mut load).collect::<Result<_, TchError>>()?;
        Ok(Cargo { lent, arrived: self.streams.uploaded()?, inputs })
    }

    /// Lets go of buffers that are not in use.
    pub(crate) fn reclaim(&self) {
        self.free.borrow_mut().clear();
    }

    /// A buffer of so many bytes at least.
    fn buffer(&self, bytes: usize) -> Result<Tensor, TchError> {
        let mut free = self.free.borrow_mut();
        let fits = |(_, buffer): &(usize, &Tensor)| buffer.numel() >= bytes;
        let best = free.iter().enumerate().filter(fits).min_by_key(|(_, buffer)| buffer.numel()).map(|(at, _)| at);
        if let Some(best) = best {
            return Ok(free.swap_remove(best));
        }
        // It takes the place of one that turned out too small, so that there are no more of them than are used at once.
        free.pop();
        self.streams.buffer(bytes.next_power_of_two().max(LEAST))
    }
}

impl Cargo {
    /// Its run begins.
    pub(crate) fn begin(&self) -> Result<(), TchError> {
        self.lent.lane.streams.begin(&self.arrived)
    }

    /// Waits for the outputs of its run. `meanwhile` is called while there is something to wait for.
    pub(crate) fn fetch(self, outputs: Vec<Tensor>, meanwhile: &mut dyn FnMut()) -> Result<Vec<HostTensor>, RunError> {
        let Self { inputs, mut lent, .. } = self;
        let lane = Rc::clone(&lent.lane);
        let failed = |error: TchError| run_error(&error, lane.device);
        lane.streams.end().map_err(failed)?;
        let landing = outputs.iter().map(|output| lent.land(output)).collect::<Result<Vec<_>, _>>()?;
        let ran = lane.streams.ran().map_err(failed)?;
        meanwhile();
        ran.wait().map_err(failed)?;
        let landed = landing.iter().map(|Landing { output, dtype, buffer }| {
            let memory = buffer.map_or(output, |buffer| &lent.buffers[buffer]);
            host_tensor(output, *dtype, memory)
        });
        let landed = landed.collect::<Result<_, _>>().map_err(failed)?;
        lent.give_back();
        drop(landing);
        inputs.into_iter().try_for_each(|input| lane.streams.release(input)).map_err(failed)?;
        Ok(landed)
    }
}

/// An output on its way to the host.
struct Landing {
    output: Tensor,
    dtype: Dtype,
    /// The buffer it is copied to; `None` where it is in the host's memory, or empty.
    buffer: Option<usize>,
}

impl Lent {
    fn another(&mut self, bytes: usize) -> Result<&Tensor, TchError> {
        self.buffers.push(self.lane.buffer(bytes)?);
        Ok(&self.buffers[self.buffers.len() - 1])
    }

    /// Begins to copy an output to the host.
    fn land(&mut self, output: &Tensor) -> Result<Landing, RunError> {
        let lane = Rc::clone(&self.lane);
        let failed = |error: TchError| run_error(&error, lane.device);
        let dtype = dtype_of(output)?;
        let (output, bytes) = lane.streams.output(output).map_err(failed)?;
        let buffer = (bytes > 0).then_some(self.buffers.len());
        if buffer.is_some() {
            let buffer = self.another(bytes).map_err(failed)?;
            lane.streams.download(&output, buffer).map_err(failed)?;
        }
        Ok(Landing { output, dtype, buffer })
    }

    /// All copies from and to them are done.
    fn give_back(mut self) {
        self.lane.free.borrow_mut().append(&mut self.buffers);
    }
}

/// The run failed, or does not take place.
impl Drop for Lent {
    fn drop(&mut self) {
        let buffers = take(&mut self.buffers);
        if buffers.is_empty() {
            return;
        }
        match self.lane.streams.settle() {
            Ok(()) => self.lane.free.borrow_mut().extend(buffers),
            // Of a lost device: freeing them would end the process before it has said why.
            Err(_) => forget(buffers),
        }
    }
}
