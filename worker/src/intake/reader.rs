use std::sync::Arc;

use async_nats::jetstream::{self, Context};
use async_nats::{Message, Subject};
use bytes::Bytes;
use time::OffsetDateTime;

use crate::message::Consumer;

/// What the ack subject of a delivery tells.
pub(super) struct Place {
    /// Of the consumer, among those pulled from.
    pub(super) index: usize,
    /// Sequence in the jobs stream.
    pub(super) sequence: u64,
    /// When the server stored it.
    pub(super) published: OffsetDateTime,
    /// How often it was delivered, this time included.
    pub(super) deliveries: i64,
    /// Jobs waiting behind it in its consumer.
    pub(super) pending: u64,
}

/// Reads ack subjects with the client's parser. That one wants a message with a context, though it needs no connection: the same
/// one each time, since a context is dear to clone.
pub(super) struct Reader(jetstream::Message);

impl Reader {
    pub(super) fn new(context: Context) -> Self {
        Self(jetstream::Message { message: nothing(), context })
    }

    /// Returns the message, and where it comes from.
    pub(super) fn read(&mut self, message: Message, consumers: &[Arc<Consumer>]) -> (Message, Result<Place, String>) {
        self.0.message = message;
        let place = self.place(consumers);
        (std::mem::replace(&mut self.0.message, nothing()), place)
    }

    fn place(&self, consumers: &[Arc<Consumer>]) -> Result<Place, String> {
        let info = self.0.info().map_err(|error| format!("not a JetStream delivery: {error}"))?;
        let index = consumers.iter().position(|consumer| *consumer.name == *info.consumer);
        Ok(Place {
            index: index.ok_or_else(|| format!("no job is asked for from consumer {:?}", info.consumer))?,
            sequence: info.stream_sequence,
            published: info.published,
            deliveries: info.delivered,
            pending: info.pending,
        })
    }
}

fn nothing() -> Message {
    Message {
        subject: Subject::from_static(""),
        reply: None,
        payload: Bytes::new(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    }
}
