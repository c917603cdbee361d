//! Outcomes that are not being stored yet: the window has no room for them, or more are about to come. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::message::Outcome;

/// So many are worth a way of their own: for each, client and server wake up, write and read once.
const ENOUGH: usize = 64;

/// About so long they wait for company; a timer's tick is a millisecond.
const LONGEST: Duration = Duration::from_millis(2);

/// Outcomes of a small batch wait while full ones follow. Nothing is listened for meanwhile, so that the next ones wake nobody.
#[derive(Debug, Default)]
pub(super) struct Held {
    outcomes: VecDeque<Outcome>,
    /// Until when they wait for company; without, they are to go.
    until: Option<Instant>,
}

impl Held {
    /// Takes in what a stage has done in one go.
    pub(super) fn add(&mut self, burst: Vec<Outcome>, now: Instant) {
        let is_followed = burst.iter().all(|outcome| outcome.envelope.ticket.is_followed());
        self.outcomes.extend(burst);
        self.until = (is_followed && self.outcomes.len() < ENOUGH).then(|| now + LONGEST);
    }

    /// They have waited, and this has come meanwhile.
    pub(super) fn release(&mut self, bursts: impl Iterator<Item = Vec<Outcome>>) {
        self.outcomes.extend(bursts.flatten());
        self.until = None;
    }

    /// Until when they wait for company.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// What is to go now, as far as there is room.
    pub(super) fn due(&mut self, room: usize) -> impl Iterator<Item = Outcome> {
        let count = if self.until.is_some() { 0 } else { room.min(self.outcomes.len()) };
        self.outcomes.drain(..count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::testing::envelope;
    use crate::ticket::Backlog;
    use gristmill_schemas::ErrorCode;

    const ROOM: usize = 1000;

    /// Of a batch that left so many full ones behind.
    fn burst(count: usize, behind: f32) -> Vec<Outcome> {
        let outcome = |_| {
            let mut envelope = envelope("a");
            envelope.ticket.leave(Backlog { fill: behind, enough: 9 });
            Outcome::refused(envelope, None, ErrorCode::Internal, "no")
        };
        (0..count).map(outcome).collect()
    }

    #[test]
    fn a_few_wait_while_full_batches_follow() {
        let now = Instant::now();
        let due = |burst| {
            let mut held = Held::default();
            held.add(burst, now);
            (held.due(ROOM).count(), held.until())
        };
        assert_eq!(due(burst(4, 0.1)), (0, Some(now + LONGEST)));
        assert_eq!(due(burst(4, 0.0)), (4, None), "nothing follows");
        assert_eq!(due(burst(ENOUGH, 0.1)), (ENOUGH, None), "they are many");
        let mixed = [burst(1, 0.0), burst(1, 0.1)].into_iter().flatten().collect();
        assert_eq!(due(mixed), (2, None), "no online job waits because bulk jobs follow");
        let refused = vec![Outcome::refused(envelope("a"), None, ErrorCode::InvalidInput, "no")];
        assert_eq!(due(refused), (1, None), "it got no further than intake");
    }

    #[test]
    fn they_go_with_what_came_meanwhile_as_far_as_there_is_room() {
        let mut held = Held::default();
        held.add(burst(4, 0.1), Instant::now());
        held.release([burst(4, 0.1), burst(1, 0.1)].into_iter());
        assert_eq!((held.due(6).count(), held.until(), held.is_empty()), (6, None, false));
        assert_eq!((held.due(ROOM).count(), held.is_empty()), (3, true));
    }
}
