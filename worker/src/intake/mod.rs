//! Intake: asks each consumer for as many jobs as there are permits, and turns deliveries into jobs.

mod burst;
mod consumer;
mod credit;
mod journal;
mod reader;
mod silence;
mod status;
mod task;
mod window;

pub use journal::Journal;
pub use task::Intake;
