//! Publish: stores results, dead letters and error results, and settles a job only when JetStream has confirmed them.

mod encode;
mod spans;
mod store;
mod task;

pub use encode::Names;
pub use task::Publisher;
