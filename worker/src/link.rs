//! The connection to NATS as it is now. A client can die (the crate's task panics on a header with a lone CR): the keeper
//! in [`crate::connect`] makes another, and every stage goes on with that one.

use async_nats::jetstream::Context;
use async_nats::{Client, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;

/// A client and its JetStream.
#[derive(Debug, Clone)]
pub struct Nats {
    /// Messages: pulls, results, acknowledgements.
    pub client: Client,
    /// Requests to JetStream.
    pub context: Context,
}

/// The present [`Nats`]. Written by the keeper, read by every stage that speaks to the server.
#[derive(Debug, Clone)]
pub struct Current(watch::Receiver<Nats>);

impl Current {
    /// The one that `sender` changes.
    pub fn new(sender: &watch::Sender<Nats>) -> Self {
        Self(sender.subscribe())
    }

    /// The client to use now.
    pub fn client(&self) -> Client {
        self.0.borrow().client.clone()
    }

    /// The JetStream context to use now.
    pub fn context(&self) -> Context {
        self.0.borrow().context.clone()
    }

    /// Waits for another client than at the last call. Never returns when none will come.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Where the server's answers to a stage come in. A client that dies takes its subscription along; with the next one there is a
/// new one.
pub struct Inbox {
    nats: Current,
    /// The client of this subscription: what is asked on it is answered here.
    pub client: Client,
    /// Answers come to subjects below this one.
    pub prefix: String,
    /// `None` from the death of a client to the next one.
    messages: Option<Subscriber>,
    /// There is another client.
    is_stale: bool,
}

impl Inbox {
    /// Subscribes with the present client.
    pub async fn open(nats: Current) -> Self {
        let client = nats.client();
        let mut inbox = Self { nats, client, prefix: String::new(), messages: None, is_stale: false };
        inbox.subscribe().await;
        inbox
    }

    async fn subscribe(&mut self) {
        self.client = self.nats.client();
        self.prefix = self.client.new_inbox();
        let subscribed = self.client.subscribe(format!("{}.>", self.prefix)).await;
        // An error means that this client has died as well; another follows.
        self.messages = subscribed.inspect_err(|error| tracing::warn!(%error, "cannot subscribe")).ok();
    }

    /// The next message. Loses nothing if it is dropped while it waits.
    pub async fn next(&mut self) -> Message {
        loop {
            if self.is_stale {
                self.subscribe().await;
                self.is_stale = false;
            }
            let Some(messages) = &mut self.messages else {
                self.nats.changed().await;
                self.is_stale = true;
                continue;
            };
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => return message,
                    // The client died; the keeper makes another.
                    None => self.messages = None,
                },
                () = self.nats.changed() => self.is_stale = true,
            }
        }
    }

    /// A message that is there already.
    pub fn ready(&mut self) -> Option<Message> {
        self.messages.as_mut()?.next().now_or_never()?
    }
}
