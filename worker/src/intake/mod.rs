//! Intake: asks each consumer for as many jobs as there are permits, and turns deliveries into jobs.

mod credit;
mod status;
mod task;

pub use task::Intake;
