use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::map::Map;
use crate::mark::{FREE, Mark, State};

/// One job's place in the ledger. Moves with the job, and whoever holds it says what the job is doing; there is no other
/// handle to the same place. Dropped without [`Slot::clear`], the record stays for the next worker to find.
pub struct Slot {
    map: Arc<Map>,
    index: usize,
    mark: Mark,
}

impl Slot {
    pub(crate) fn new(map: Arc<Map>, index: usize, mark: Mark) -> Self {
        let slot = Self { map, index, mark };
        slot.store(mark.word());
        slot
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The job begins to run, `together` with others or not. Runs are numbered from 1, below 2^48.
    pub fn run(&mut self, run: u64, together: bool) {
        self.mark.state = if together { State::Together { run } } else { State::Alone { run } };
        self.store(self.mark.word());
    }

    /// The job has run, and the process lives: nothing is held against it any more.
    pub fn ran(&mut self) {
        self.mark = Mark::FRESH;
        self.store(self.mark.word());
    }

    /// Something is held against the job: it is not for others to run beside their own.
    pub fn is_held(&self) -> bool {
        self.mark.is_suspect || matches!(self.mark.state, State::Condemned { .. })
    }

    /// The job's end is answered: the next worker has nothing to do for it.
    pub fn clear(&mut self) {
        self.store(FREE);
    }

    fn store(&self, word: u64) {
        // Release: what was written of the slot before stands before its state does.
        self.map.state(self.index).store(word, Ordering::Release);
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("index", &self.index).field("mark", &self.mark).finish_non_exhaustive()
    }
}
