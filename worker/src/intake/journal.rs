use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use gristmill_ledger::{Bookmark, Ledger, Slot};

use crate::message::Consumer;

/// The crash ledger as intake keeps it.
pub struct Journal {
    ledger: Option<Ledger>,
    /// Jobs given back at start. They stay entered until they are delivered again, here, or must have been elsewhere:
    /// should this process be killed while they are on their way to it, the next one gives them back once more.
    returned: HashMap<u64, Slot>,
    /// How far the deliveries of each consumer have come, by its index: what is beyond, and on its way to this process
    /// when it is killed, the next one gives back.
    reached: Vec<Reached>,
    /// Given back jobs are nobody's business any more after this.
    forget_at: Instant,
}

impl Journal {
    /// For these consumers, in their order. `returned`: given back at start; `bookmarks`: left by dead workers. Without a ledger,
    /// nothing is entered.
    pub fn new(
        ledger: Option<Ledger>,
        returned: Vec<(u64, Slot)>,
        mut bookmarks: HashMap<String, Bookmark>,
        consumers: &[Arc<Consumer>],
        ack_wait: Duration,
    ) -> Self {
        let of = |consumer: &Arc<Consumer>| Reached {
            furthest: None,
            ack: String::new(),
            bookmark: bookmarks.remove(&*consumer.name),
        };
        let reached = consumers.iter().map(of).collect();
        // Of models that are not served here any more.
        bookmarks.into_values().for_each(Bookmark::clear);
        Self { ledger, returned: returned.into_iter().collect(), reached, forget_at: Instant::now() + ack_wait }
    }

    /// Enters a job of a consumer. The flag says that it was given back at start: its last delivery ended well.
    pub(super) fn open(&mut self, consumer: usize, sequence: u64, ack: &str) -> (Option<Slot>, bool) {
        self.reached[consumer].note(sequence, ack);
        match self.returned.remove(&sequence) {
            // Its older ack subject will do: the server goes by the sequence.
            Some(slot) => (Some(slot), true),
            None => (self.ledger.as_mut().and_then(|ledger| ledger.open(sequence, ack)), false),
        }
    }

    /// Enters how far the deliveries have come. To be called before any job of a burst is handed on: from then on its slot
    /// may be cleared.
    pub(super) fn turn_page(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            self.reached.iter_mut().for_each(|reached| reached.write(ledger));
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
        self.reached.into_iter().filter_map(|reached| reached.bookmark).for_each(Bookmark::clear);
    }

    fn forget(&mut self) {
        for (_, mut slot) in std::mem::take(&mut self.returned) {
            slot.clear();
            self.close(&slot);
        }
    }
}

/// How far the deliveries of one consumer have come.
struct Reached {
    /// Beyond the bookmark, in this burst.
    furthest: Option<u64>,
    /// Its ack subject. A copy in one place: to share the subject costs each job more, as the client made it.
    ack: String,
    bookmark: Option<Bookmark>,
}

impl Reached {
    fn note(&mut self, sequence: u64, ack: &str) {
        let bookmark = self.bookmark.as_ref().map(Bookmark::sequence);
        if Some(sequence) > self.furthest.max(bookmark) {
            self.furthest = Some(sequence);
            self.ack.clear();
            self.ack.push_str(ack);
        }
    }

    fn write(&mut self, ledger: &mut Ledger) {
        let Some(sequence) = self.furthest.take() else { return };
        match &mut self.bookmark {
            Some(bookmark) => bookmark.set(sequence, &self.ack),
            None => self.bookmark = ledger.bookmark(sequence, &self.ack),
        }
    }
}
