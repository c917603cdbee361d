//! Publish: stores results, dead letters and error results, and settles a job only when JetStream has confirmed them.

#![allow(clippy::vec_box, reason = "letters are large and go on by pointer")]

mod bundle;
mod desk;
mod encode;
mod end;
mod heads;
mod held;
mod letter;
mod lines;
mod spans;
mod task;
mod window;
mod word;

pub use encode::Names;
pub use task::Publisher;
