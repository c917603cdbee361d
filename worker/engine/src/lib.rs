//! What a model is to Gristmill: a signature, and something that runs batches of host tensors.
//!
//! This crate knows no libtorch and no wire format. A runtime (`gristmill-torch`) implements [`Load`] and [`Engine`];
//! the worker has the rows of a batch's jobs written into the engine's memory by a [`Stack`], runs it, checks it with
//! [`Signature::check_outputs`] and gives each job its [`Rows`] by a [`Split`].

mod dtype;
mod engine;
mod pad;
mod rows;
mod signature;
mod tensor;

pub use dtype::Dtype;
pub use engine::{DeviceMemory, Engine, Inputs, Load, LoadError, ModelFile, ModelFormat, RunError, Staged};
pub use rows::{Part, Rows, Share, Split, Stack};
pub use signature::{InputSpec, Mismatch, OutputSpec, Pad, Signature};
pub use tensor::{HostTensor, Layout, RowSlice};
