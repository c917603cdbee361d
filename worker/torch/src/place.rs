//! Where a module computes, and how tensors get there and back.

use tch::{Device, Kind, TchError, Tensor};

use crate::streams::Streams;

/// The memory a module reads and writes.
pub(crate) enum Place {
    /// The host's own. What runs there has run when the call returns.
    Host,
    /// A device's, which does its work in the order of streams while the host goes on.
    Device(Device, Streams),
}

impl Place {
    /// Call it on the thread that is to run the module: what that thread has a device do goes to streams of its own from then on.
    pub(crate) fn try_new(device: Device) -> Result<Self, TchError> {
        match device {
            Device::Cuda(index) => Ok(Self::Device(device, Streams::try_new(index)?)),
            _ => Ok(Self::Host),
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Host => Device::Cpu,
            Self::Device(device, _) => *device,
        }
    }

    /// Host memory for an input.
    pub(crate) fn host_memory(&self, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
        match self {
            Self::Host => Tensor::f_empty(shape, (kind, Device::Cpu)),
            Self::Device(_, streams) => streams.host_memory(shape, kind),
        }
    }

    /// Begins to copy an input to where it is needed.
    pub(crate) fn upload(&self, input: Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Host => Ok(input),
            Self::Device(_, streams) => streams.upload(&input),
        }
    }

    /// Waits for outputs, which come contiguous and in host memory. `meanwhile` is called while there is something to wait for.
    pub(crate) fn download(&self, outputs: Vec<Tensor>, meanwhile: &mut dyn FnMut()) -> Result<Vec<Tensor>, TchError> {
        let Self::Device(_, streams) = self else {
            return outputs.into_iter().map(|output| output.f_contiguous()).collect();
        };
        let outputs: Vec<Tensor> = outputs.iter().map(|output| streams.download(output)).collect::<Result<_, _>>()?;
        meanwhile();
        streams.wait()?;
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests;
