use std::path::PathBuf;
use std::sync::Arc;

use crate::signature::Signature;
use crate::tensor::{HostTensor, Layout};

/// The inputs of a batch, still where they came from: an engine has them written into memory of its own, so that their bytes are
/// copied once.
pub trait Inputs {
    /// How many there are: one for each input of the signature, in its order.
    fn count(&self) -> usize;

    /// What the input is to look like. All have the same number of rows, and each was checked against its spec.
    fn layout(&self, index: usize) -> Layout;

    /// Writes the input, as many bytes as its layout has.
    fn write(&self, index: usize, into: &mut [u8]);
}

/// One loaded instance of a model. Lives and dies on one thread: it need not be [`Send`].
///
/// A batch is staged, then run. While one runs the next may be staged: where the device works on its own, inputs travel to it
/// during the run before theirs.
pub trait Engine {
    /// Has the inputs of one batch written into memory of the engine's own, and a device begin to fetch them.
    ///
    /// After any error but [`RunError::DeviceLost`], here or in the run, the engine must be able to stage the next batch.
    fn stage(&mut self, inputs: &dyn Inputs) -> Result<Box<dyn Staged>, RunError>;

    /// Stages one batch and runs it.
    fn run(&mut self, inputs: &dyn Inputs) -> Result<Vec<HostTensor>, RunError> {
        self.stage(inputs)?.run(&mut || ())
    }

    /// Gives memory that is kept for later back to the device. Called before a job that did not fit alone is tried a last
    /// time; slow, so never in the ordinary course.
    fn reclaim(&mut self) {}

    /// What the device's memory is used for by this process; `None` where that is the host's.
    fn memory(&self) -> Option<DeviceMemory> {
        None
    }
}

/// Memory of a device that this process has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In tensors.
    pub used: u64,
    /// What the process has beyond that: freed and kept for the next tensor, or not free yet.
    pub cached: u64,
}

/// One batch whose inputs an engine holds. It keeps what it needs of the engine: both are of one thread.
pub trait Staged {
    /// Runs the batch. Outputs come in the order of the signature.
    ///
    /// `meanwhile` is for what can be done while the device works. It is called once at most, and not at all by engines that
    /// compute on this very thread.
    fn run(self: Box<Self>, meanwhile: &mut dyn FnMut()) -> Result<Vec<HostTensor>, RunError>;
}

/// Makes engines.
pub trait Load: Send + Sync {
    /// Loads one instance. Called on the thread the instance will live on.
    fn load(&self, model: &ModelFile) -> Result<Box<dyn Engine>, LoadError>;

    /// The device instances run on, for people: `cpu`, `cuda:0`.
    fn device(&self) -> String;
}

/// A model on disk whose bytes match its manifest.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// The file.
    pub path: PathBuf,
    /// How to run it.
    pub format: ModelFormat,
    /// What it takes and gives.
    pub signature: Arc<Signature>,
}

/// What kind of program the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelFormat {
    /// `torch.jit.save`.
    TorchScript,
    /// A `.pt2` package of AOTInductor.
    Aoti,
}

/// Why an instance could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// Why a batch has no outputs. The texts are for people: everything below a model says why in words only.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// The model threw, or gave something else than it promised.
    #[error("{0}")]
    Failed(String),
    /// The batch did not fit the device's memory; a smaller one may.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device can no longer be used by this process.
    #[error("{0}")]
    DeviceLost(String),
}
