//! What engine instances tell others: of their work, and of their start and end.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

use gristmill_engine::LoadError;
use gristmill_schemas::Token;
use tokio::sync::oneshot;

use super::{Batch, Served, Tails};
use crate::telemetry::RunClock;

/// What an engine instance tells the batch task.
#[derive(Debug)]
pub struct Report {
    /// Model the instance runs.
    pub model: Arc<Served>,
    /// Its number in the process.
    pub instance: u64,
    /// What happened.
    pub event: EngineEvent,
}

/// What happened to an engine instance.
#[derive(Debug)]
pub enum EngineEvent {
    /// It is ready for its first batch. Batches go here, [`MOST_AHEAD`] at most that are not done; dropping this ends the thread.
    Ready(SyncSender<Batch>),
    /// It has done a batch.
    Done {
        /// What did not fit the device's memory.
        learned: Vec<Ceiling>,
        /// What it cost, if it ran as a whole.
        ran: Option<Ran>,
    },
}

/// Batches that an instance may have: one that runs, and one for it to go on with.
pub const AHEAD: usize = 2;

/// As many where runs are so short that it would be done with two before the batch task gets a processor.
pub const MOST_AHEAD: usize = 8;

/// A run of a whole batch.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// Elements of the largest input, those filled in included.
    pub elements: usize,
    /// From the jobs' inputs to their outputs: stacking (unless it was done while another ran), the run, splitting.
    pub took: Duration,
}

/// Rows of one shape that a device's memory was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling {
    /// The shape.
    pub tails: Tails,
    /// At least 1.
    pub rows: usize,
}

/// An engine instance that can no longer run anything: the process has to end.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Its model.
    pub model: Token,
    /// Why.
    pub reason: String,
}

/// An engine instance whose thread has started.
#[derive(Debug)]
pub struct Instance {
    /// The thread; ends with the drain.
    pub thread: JoinHandle<()>,
    /// Tells once that the model is loaded and warm, or why it is not.
    pub warm: oneshot::Receiver<Result<(), LoadError>>,
    /// How long its present run takes.
    pub clock: Arc<RunClock>,
}
