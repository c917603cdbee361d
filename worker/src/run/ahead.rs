//! The batch to run next, and what can be done for it while another runs.

use std::sync::mpsc::Receiver;

use gristmill_engine::{Engine, Staged};

use super::attempt::stack;
use super::laps::{Lap, Phase};
use crate::message::Batch;

/// Batches on their way to an instance. One of them may be staged already.
pub(super) struct Ahead {
    inbox: Receiver<Batch>,
    next: Option<Incoming>,
}

/// A batch to run.
pub(super) struct Incoming {
    pub(super) batch: Batch,
    /// Its inputs, if they were staged while the batch before it ran.
    pub(super) stacked: Option<Stacked>,
}

/// The inputs of a batch, behind each other in the engine's memory.
pub(super) struct Stacked {
    pub(super) staged: Box<dyn Staged>,
    pub(super) lap: Lap,
}

impl Ahead {
    pub(super) fn new(inbox: Receiver<Batch>) -> Self {
        Self { inbox, next: None }
    }

    /// Waits for a batch; none comes any more once the other end is gone.
    pub(super) fn recv(&mut self) -> Option<Incoming> {
        self.next.take().or_else(|| self.inbox.recv().ok().map(Incoming::from))
    }

    /// Stages the next batch, if it is there. Where that fails the batch has it done in its own turn: what is wrong with it shows
    /// again then, and is not taken for a fault of the batch that runs now.
    pub(super) fn stage(&mut self, engine: &mut dyn Engine) {
        if self.next.is_none() {
            self.next = self.inbox.try_recv().ok().map(Incoming::from);
        }
        if let Some(next) = self.next.as_mut().filter(|next| next.stacked.is_none()) {
            let (lap, staged) = stack(engine, &next.batch, Phase::PadAhead);
            next.stacked = staged.ok().map(|staged| Stacked { staged, lap });
        }
    }

    /// Lets go of what was staged: the engine is to be replaced, or needs the memory for the batch that runs.
    pub(super) fn forget(&mut self) {
        self.next.iter_mut().for_each(|next| next.stacked = None);
    }
}

impl From<Batch> for Incoming {
    fn from(batch: Batch) -> Self {
        Self { batch, stacked: None }
    }
}
