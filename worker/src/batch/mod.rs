//! Batch: owns the jobs that wait for an engine, decides which run together and when, and hands them to idle engines.

mod ceilings;
mod cost;
mod fill;
mod former;
mod knee;
mod pace;
mod queue;
mod seal;
mod task;

pub use task::Batcher;
