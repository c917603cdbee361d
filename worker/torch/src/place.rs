//! Where a module computes, and how tensors get there and back.

use std::path::Path;
use std::rc::Rc;

use gristmill_engine::{DeviceMemory, HostTensor, Inputs, RunError};
use tch::{Device, TchError, Tensor};

use crate::accelerator::{empty_cache, memory};
use crate::code::forks;
use crate::failure::run_error;
use crate::lane::{Cargo, Lane};
use crate::streams::Streams;
use crate::value::{dtype_of, host_tensor, kind, shape_of, write};

/// The memory a module reads and writes.
pub(crate) enum Place {
    /// The host's own. What runs there has run when the call returns.
    Host,
    /// A device's, which does its work in the order of streams while the host goes on.
    Device(Rc<Lane>),
}

/// A batch's inputs where a module reads them, or on their way there.
pub(crate) enum Ready {
    Host(Vec<Tensor>),
    Device(Cargo),
}

impl Place {
    /// For the module in a file. Call it on the thread that is to run it: what that thread has a device do goes to streams of its
    /// own from then on. A module that forks has other threads do a part of its work, which know of no streams but the one
    /// that all share: it runs there as a whole.
    pub(crate) fn try_new(device: Device, path: &Path) -> Result<Self, TchError> {
        match device {
            Device::Cuda(index) => Ok(Self::Device(Lane::new(device, Streams::try_new(index, !forks(path))?))),
            _ => Ok(Self::Host),
        }
    }

    /// Has a batch's inputs written to where they are read, or to where a device fetches them.
    pub(crate) fn load(&self, inputs: &dyn Inputs) -> Result<Ready, TchError> {
        match self {
            Self::Host => (0..inputs.count()).map(|at| written(inputs, at)).collect::<Result<_, _>>().map(Ready::Host),
            Self::Device(lane) => lane.load(inputs).map(Ready::Device),
        }
    }

    /// What an error of libtorch's is to be taken for.
    pub(crate) fn error(&self, error: &TchError) -> RunError {
        run_error(error, self.device())
    }

    /// What this process has of the device's memory.
    pub(crate) fn memory(&self) -> Option<DeviceMemory> {
        match self.device() {
            Device::Cuda(index) => memory(index),
            _ => None,
        }
    }

    /// Gives back what is kept for later.
    pub(crate) fn reclaim(&self) {
        if let Self::Device(lane) = self {
            lane.reclaim();
        }
        empty_cache(self.device());
    }

    fn device(&self) -> Device {
        match self {
            Self::Host => Device::Cpu,
            Self::Device(lane) => lane.device,
        }
    }
}

impl Ready {
    /// A run of it begins.
    pub(crate) fn begin(&self) -> Result<(), TchError> {
        match self {
            Self::Host(_) => Ok(()),
            Self::Device(cargo) => cargo.begin(),
        }
    }

    pub(crate) fn inputs(&self) -> &[Tensor] {
        match self {
            Self::Host(inputs) => inputs,
            Self::Device(cargo) => &cargo.inputs,
        }
    }

    /// Waits for the outputs of its run. `meanwhile` is called where there is something to wait for.
    pub(crate) fn fetch(self, outputs: Vec<Tensor>, meanwhile: &mut dyn FnMut()) -> Result<Vec<HostTensor>, RunError> {
        match self {
            Self::Host(_) => outputs.iter().map(copied).collect(),
            Self::Device(cargo) => cargo.fetch(outputs, meanwhile),
        }
    }
}

/// An input in a tensor of libtorch's own, a new one for each run: a module may keep it, or write into it.
fn written(inputs: &dyn Inputs, index: usize) -> Result<Tensor, TchError> {
    let layout = inputs.layout(index);
    let tensor = Tensor::f_empty(shape_of(&layout), (kind(layout.dtype), Device::Cpu))?;
    write(inputs, index, &tensor)?;
    Ok(tensor)
}

fn copied(output: &Tensor) -> Result<HostTensor, RunError> {
    let dtype = dtype_of(output)?;
    let copy = || {
        let output = output.f_contiguous()?;
        host_tensor(&output, dtype, &output)
    };
    copy().map_err(|error| run_error(&error, Device::Cpu))
}

#[cfg(test)]
mod tests;
