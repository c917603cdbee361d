//! Results that are sent together and confirmed together, by JetStream's fast-ingest batch publishing (nats-server 2.14, ADR-50 of the
//! NATS architecture). Each stays a message of its own, stored and deduplicated like any other. What is saved is the server's answer to
//! each: making it, sending it, and reading it here. A batch of JetStream's is called a bundle here, where batches are what models run.
//!
//! What makes one confirmation as good as many: the server takes the messages of a bundle in order and stops at the first one that is
//! missing (`fail`); its last answer says how many it has stored, and only all of them count. A store that failed to write a message takes
//! no other until it is opened anew (nats-server 2.14), so none behind it can be confirmed. Any doubt has each sent by itself.

use async_nats::Message;

use super::letter::Letter;
use super::word::Word;

/// Fewer are sent one by one: a bundle is answered twice, at its first message and at its last.
pub(super) const LEAST: usize = 8;

/// More make another bundle.
pub(super) const MOST: usize = 256;

/// A bundle is answered in between after so many messages: never, since it has fewer. The server's own limit.
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
}
