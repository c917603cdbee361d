//! What a model is to Gristmill: a signature, and something that runs batches of host tensors.
//!
//! This crate knows no libtorch and no wire format. A runtime (`gristmill-torch`) implements [`Load`] and [`Engine`];
//! the worker stacks jobs into a batch with [`stack`], runs it, checks it with [`Signature::check_outputs`] and takes
//! each job's rows out with [`split`].

mod dtype;
mod engine;
mod pad;
mod rows;
mod signature;
mod tensor;

pub use dtype::Dtype;
pub use engine::{Engine, Load, LoadError, ModelFile, ModelFormat, RunError};
pub use rows::{Part, Share, split, stack};
pub use signature::{InputSpec, Mismatch, OutputSpec, Pad, Signature};
pub use tensor::{HostTensor, RowSlice};
