use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::map::{MAX_ACK, Map};
use crate::mark::{FREE, REACHED};

/// How far the deliveries of a consumer have come: its furthest job that was entered, whatever became of that since.
/// Dropped without [`Bookmark::clear`], it stays for the next worker to find.
pub struct Bookmark {
    map: Arc<Map>,
    index: usize,
    sequence: u64,
}

impl Bookmark {
    pub(crate) fn new(map: Arc<Map>, index: usize, sequence: u64) -> Self {
        Self { map, index, sequence }
    }

    /// The furthest job's sequence in the jobs stream.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The deliveries have come further. An ack subject too long to be entered leaves the bookmark where it was.
    pub fn set(&mut self, sequence: u64, ack: &str) {
        if ack.len() > MAX_ACK {
            return;
        }
        let state = self.map.state(self.index);
        // Free while it is written: a process that dies here leaves no bookmark rather than half of one.
        state.store(FREE, Ordering::Release);
        self.map.write(self.index, sequence, ack.as_bytes());
        state.store(REACHED, Ordering::Release);
        self.sequence = sequence;
    }

    /// Nobody will ask for the consumer's deliveries any more. The place stays taken until the next process claims the
    /// ledger.
    pub fn clear(self) {
        self.map.state(self.index).store(FREE, Ordering::Release);
    }
}

impl std::fmt::Debug for Bookmark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bookmark").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}
