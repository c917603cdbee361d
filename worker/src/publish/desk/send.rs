//! The half of the desk that sends: letters one by one, and results in bundles.

use std::cmp::Ordering;
use std::time::Instant;

use async_nats::{Client, PublishError};

use super::Desk;
use crate::publish::bundle::Bundle;
use crate::publish::encode::Message;
use crate::publish::letter::{Letter, Next, Step};
use crate::publish::window::Parcel;
use crate::publish::word::Word;
use crate::telemetry::Count;

impl Desk {
    /// Sends the letter's message. Returns it, with the reason, where the client does not take it.
    pub(super) async fn send(&mut self, mut letter: Box<Letter>, now: Instant) -> Option<(Box<Letter>, Word)> {
        if letter.trail.attempts > 0 {
            self.teller.vitals.counters.inc(Count::PublishRetries);
        }
        let number = self.window.next();
        let message = self.encode(&mut letter, now);
        let reply = [&self.inbox.prefix, ".", itoa::Buffer::new().format(number)].concat();
        match publish(&self.inbox.client, message, reply).await {
            Ok(()) => {
                self.window.put(Parcel::Letter(letter));
                None
            }
            Err(error) => Some((letter, Word::of_client(&error))),
        }
    }

    /// Sends results under one number.
    pub(super) async fn send_together(&mut self, letters: Vec<Box<Letter>>, now: Instant) {
        let number = self.window.next();
        let mut text = itoa::Buffer::new();
        let number = text.format(number);
        let mut bundle = Bundle::new(self.together.name(number), letters);
        for place in 0..bundle.letters.len() {
            let message = self.encode(&mut bundle.letters[place], now);
            let reply = bundle.reply(&self.inbox.prefix, number, place);
            if let Err(error) = publish(&self.inbox.client, message, reply).await {
                return self.leave_off(bundle, place, &error, now).await;
            }
        }
        self.window.put(Parcel::Bundle(bundle));
    }

    /// The client did not take the letter at this place of a bundle, which the server will not confirm for that.
    async fn leave_off(&mut self, bundle: Bundle, place: usize, error: &PublishError, now: Instant) {
        // What the server says of the letters before has no meaning any more.
        self.window.skip();
        self.together.failed("the client did not take all of them", now);
        for (index, letter) in bundle.letters.into_iter().enumerate() {
            match index.cmp(&place) {
                Ordering::Less => self.judge(letter, Word::Apart(error.to_string()), now).await,
                Ordering::Equal => self.judge(letter, Word::of_client(error), now).await,
                Ordering::Greater => self.follow(letter, Next::Send, now).await,
            }
        }
    }

    /// Makes the message of a letter's present step.
    fn encode(&mut self, letter: &mut Letter, now: Instant) -> Message {
        let timed = letter.model().filter(|model| letter.step == Step::Result && model.meters.encode.is_due()).cloned();
        let began = timed.as_ref().map(|_| Instant::now());
        let message = letter.message(&self.teller.names, &mut self.heads, now);
        if let (Some(model), Some(began)) = (timed, began) {
            model.meters.encode.record(began.elapsed());
        }
        message
    }
}

async fn publish(client: &Client, message: Message, reply: String) -> Result<(), PublishError> {
    let Message { subject, headers, payload } = message;
    client.publish_with_reply_and_headers(subject, reply, headers, payload).await
}
