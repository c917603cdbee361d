//! Outcomes on their way to publish. Pure.

use std::time::{Duration, Instant};

use crate::message::Outcome;

/// So many are worth a way of their own: for each, publish, client and server wake up, write and read once.
const ENOUGH: usize = 64;

/// No outcome waits longer than that for company.
const LONGEST: Duration = Duration::from_millis(2);

/// Outcomes of short runs of few jobs, which go on together while the engine has a next batch at hand.
#[derive(Debug, Default)]
pub(super) struct Held {
    outcomes: Vec<Outcome>,
    /// When the first of them came.
    since: Option<Instant>,
}

impl Held {
    /// Takes more in.
    pub(super) fn add(&mut self, more: Vec<Outcome>, now: Instant) {
        self.since.get_or_insert(now);
        if self.outcomes.is_empty() {
            self.outcomes = more;
        } else {
            self.outcomes.extend(more);
        }
    }

    /// What has to go now. `next`: how long a run at hand is expected to take; there is none to wait for otherwise.
    pub(super) fn due(&mut self, now: Instant, next: Option<Duration>) -> Vec<Outcome> {
        let waits = |since| next.is_some_and(|next| now.saturating_duration_since(since) + next <= LONGEST);
        if self.outcomes.len() < ENOUGH && self.since.is_some_and(waits) {
            return Vec::new();
        }
        self.since = None;
        std::mem::take(&mut self.outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::testing::envelope;
    use gristmill_schemas::ErrorCode;

    fn outcomes(count: usize) -> Vec<Outcome> {
        (0..count).map(|_| Outcome::refused(envelope("a"), None, ErrorCode::Internal, "no")).collect()
    }

    /// How many go of so many, that long after the first came.
    fn go(count: usize, after: Duration, next: Option<Duration>) -> usize {
        let (mut held, now) = (Held::default(), Instant::now());
        held.add(outcomes(count - 1), now);
        held.add(outcomes(1), now + after);
        held.due(now + after, next).len()
    }

    #[test]
    fn a_few_wait_for_a_short_run_that_is_next() {
        let short = Some(LONGEST / 4);
        assert_eq!(go(4, Duration::ZERO, short), 0);
        assert_eq!(go(4, Duration::ZERO, None), 4, "no company will come");
        assert_eq!(go(4, Duration::ZERO, Some(LONGEST * 2)), 4, "company is far");
        assert_eq!(go(4, LONGEST * 7 / 8, short), 4, "they have waited");
        assert_eq!(go(ENOUGH, Duration::ZERO, short), ENOUGH, "they are many");
    }

    #[test]
    fn what_comes_after_they_have_gone_waits_anew() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.add(outcomes(1), now);
        assert_eq!(held.due(now, None).len(), 1);
        assert!(held.due(now, None).is_empty());
        let later = now + LONGEST * 3;
        held.add(outcomes(1), later);
        assert!(held.due(later, Some(Duration::ZERO)).is_empty());
    }
}
