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
pub trait Engine {
    /// Runs one batch.
    ///
    /// Outputs come in the order of the signature. After any error but [`RunError::DeviceLost`] the engine must be able to run the
    /// next batch.
    fn run(&mut self, inputs: &dyn Inputs) -> Result<Vec<HostTensor>, RunError>;

    /// Gives memory that is kept for later back to the device. Called before a job that did not fit alone is tried a last
    /// time; slow, so never in the ordinary course.
    fn reclaim(&mut self) {}
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
