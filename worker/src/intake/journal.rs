use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use gristmill_ledger::{Ledger, Slot};

/// The crash ledger as intake keeps it.
pub struct Journal {
    ledger: Option<Ledger>,
    /// Jobs given back at start. They stay entered until they are delivered again, here, or must have been elsewhere:
    /// should this process be killed while they are on their way to it, the next one gives them back once more.
    returned: HashMap<u64, Slot>,
    /// Given back jobs are nobody's business any more after this.
    forget_at: Instant,
}

impl Journal {
    /// With what was given back at start; without a ledger, nothing is entered.
    pub fn new(ledger: Option<Ledger>, returned: Vec<(u64, Slot)>, ack_wait: Duration) -> Self {
        Self { ledger, returned: returned.into_iter().collect(), forget_at: Instant::now() + ack_wait }
    }

    /// Enters a job. The flag says that it was given back at start: its last delivery ended well.
    pub(super) fn open(&mut self, sequence: u64, ack: &str) -> (Option<Slot>, bool) {
        match self.returned.remove(&sequence) {
            // Its older ack subject will do: the server goes by the sequence.
            Some(slot) => (Some(slot), true),
            None => (self.ledger.as_mut().and_then(|ledger| ledger.open(sequence, ack)), false),
        }
    }

    /// Says how many jobs are asked for.
    pub(super) fn asked(&self, jobs: usize) {
        self.ledger.iter().for_each(|ledger| ledger.asked(jobs as u64));
    }

    /// Takes a cleared place back.
    pub(super) fn close(&mut self, slot: &Slot) {
        self.ledger.iter_mut().for_each(|ledger| ledger.close(slot));
    }

    /// Says that this process lives.
    pub(super) fn touch(&mut self, now: SystemTime) {
        self.ledger.iter().for_each(|ledger| ledger.touch(now));
        if Instant::now() >= self.forget_at {
            self.forget();
        }
    }

    /// Nothing more will come.
    pub(super) fn end(mut self) {
        self.forget();
    }

    fn forget(&mut self) {
        for (_, mut slot) in std::mem::take(&mut self.returned) {
            slot.clear();
            self.close(&slot);
        }
    }
}
