//! Results that are sent together and confirmed together, by JetStream's fast-ingest batch publishing (nats-server 2.14, ADR-50 of the
//! NATS architecture). Each stays a message of its own, stored and deduplicated like any other. What is saved is the server's answer to
//! each: making it, sending it, and reading it here. A batch of JetStream's is called a bundle here, where batches are what models run.
//!
//! What makes one confirmation as good as many (read in nats-server 2.14 and 2.15): the server takes the messages of a bundle in order and
//! stops at the first one that is missing (`fail`), which its last answer shows by how many it has taken. One that it cannot store it
//! reports before that answer; and after a failed write its store takes no other until it is opened anew, so the last message
//! is not answered either. Whatever is not the one expected answer has each sent by itself. The exception: a store that cannot read back
//! its own last block, on a damaged disk say, loses the message in silence and goes on. Sent by itself it would have no answer; within a
//! bundle it is confirmed with the others, as those were that the damaged block held.

use std::time::{Duration, Instant};

use async_nats::Message;

use super::letter::Letter;
use super::word::Word;

/// Fewer are sent one by one. A bundle is answered at its first message and at its last, and where others are open on the stream, at
/// every second, fourth, eighth one in between, and so on.
pub(super) const LEAST: usize = 16;

/// More make another bundle.
pub(super) const MOST: usize = 256;

/// Most messages between two answers, more than a bundle has. The server's own limit.
const FLOW: &str = "500";

/// Letters under one number, in the order in which they are sent.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Tells it from all others of the stream, whoever sends them.
    name: String,
    pub(super) letters: Vec<Box<Letter>>,
}

impl Bundle {
    pub(super) fn new(name: String, letters: Vec<Box<Letter>>) -> Self {
        Self { name, letters }
    }

    /// Where the server answers to the letter at this place. It reads there what to do with the message: begin a bundle, go on with
    /// it, or end it.
    pub(super) fn reply(&self, prefix: &str, number: &str, place: usize) -> String {
        let operation = match place + 1 {
            place if place == self.letters.len() => "2",
            1 => "0",
            _ => "1",
        };
        let mut sequence = itoa::Buffer::new();
        let sequence = sequence.format(place + 1);
        [prefix, ".", number, ".", &self.name, ".", FLOW, ".fail.", sequence, ".", operation, ".$FI"].concat()
    }

    /// What an answer of the server says of its letters; `None` if it will say more.
    pub(super) fn read(&self, message: &Message, stream: &str) -> Option<Word> {
        Word::read_together(message, stream, &self.name, self.letters.len())
    }
}

/// Whether results are sent together, and under which names.
#[derive(Debug)]
pub(super) struct Together {
    /// Tells our bundles from those of other workers.
    prefix: String,
    /// Results go one by one until then; `None` for ever: they are not confirmed together here.
    from: Option<Instant>,
    /// How long they do if the next bundle fails, too.
    pause: Duration,
}

/// After a bundle was not confirmed, results go one by one for this long: where it failed for a moment, that is over then. It doubles up to
/// the second, so that where none is ever confirmed, trying costs next to nothing.
const PAUSE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(640)];

impl Together {
    pub(super) fn new(is_allowed: bool) -> Self {
        let prefix = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
        Self { prefix, from: is_allowed.then(Instant::now), pause: PAUSE[0] }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.from.is_some_and(|from| from <= now)
    }

    /// Of a bundle with a number that no other has.
    pub(super) fn name(&self, number: &str) -> String {
        [&self.prefix, number].concat()
    }

    /// A bundle was confirmed.
    pub(super) fn succeeded(&mut self) {
        self.pause = PAUSE[0];
    }

    /// A bundle was not confirmed. Of others that were sent before it fell apart, nothing more is said.
    pub(super) fn failed(&mut self, why: &str, now: Instant) {
        if self.is_due(now) {
            let seconds = self.pause.as_secs();
            tracing::warn!(why, seconds, "results sent together were not confirmed together, they are sent one by one");
            self.from = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::letter::testing::refused;

    #[test]
    fn the_first_message_begins_a_bundle_and_the_last_ends_it() {
        let bundle = Bundle::new("w7".into(), ["a", "b", "c"].map(refused).into());
        let replies = [0, 1, 2].map(|place| bundle.reply("_INBOX.i", "7", place));
        let wanted = ["1.0", "2.1", "3.2"].map(|place| format!("_INBOX.i.7.w7.500.fail.{place}.$FI"));
        assert_eq!(replies, wanted);
    }

    #[test]
    fn results_go_one_by_one_ever_longer_until_a_bundle_is_confirmed() {
        let (mut together, mut now) = (Together::new(true), Instant::now());
        assert!(together.is_due(now));
        let mut fails_for = |together: &mut Together| {
            together.failed("a gap", now);
            together.failed("of one that was sent before", now);
            let pauses = (0..).find(|seconds| together.is_due(now + Duration::from_secs(*seconds)));
            now += Duration::from_secs(pauses.unwrap());
            pauses.unwrap()
        };
        assert_eq!([(); 3].map(|()| fails_for(&mut together)), [10, 20, 40]);
        assert_eq!((0..9).map(|_| fails_for(&mut together)).last(), Some(640));
        together.succeeded();
        assert_eq!(fails_for(&mut together), 10);
    }

    #[test]
    fn where_it_is_not_allowed_results_always_go_one_by_one() {
        let (mut together, now) = (Together::new(false), Instant::now());
        together.failed("it was not tried", now);
        assert!(!together.is_due(now + PAUSE[1] * 2));
    }
}
