//! Runs Gristmill models on libtorch. The only crate that names tch.
//!
//! Every tch value is made, used and dropped on the thread of the engine that owns it.

mod accelerator;
mod code;
mod cuda;
mod device;
mod failure;
mod heap;
mod lane;
mod module;
mod place;
mod said;
mod streams;
mod text;
mod value;

pub use device::{DeviceError, DeviceSetting, InvalidDevice};
pub use heap::keep_heap;
pub use module::TorchLoader;
