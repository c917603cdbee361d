//! Runs Gristmill models on libtorch. The only crate that names tch, and the only one with `unsafe`.
//!
//! Every tch value is made, used and dropped on the thread of the engine that owns it.

mod cuda;
mod device;
mod module;
mod text;
mod value;

pub use device::{DeviceError, DeviceSetting, InvalidDevice};
pub use module::TorchLoader;
