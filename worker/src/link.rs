//! The connection to NATS as it is now. A client can die (the crate's task panics on a header with a lone CR): the keeper
//! in [`crate::connect`] makes another, and every stage goes on with that one.

use async_nats::Client;
use async_nats::jetstream::Context;
use tokio::sync::watch;

/// A client and its JetStream.
#[derive(Debug, Clone)]
pub struct Nats {
    /// Core messages: pulls, acknowledgements.
    pub client: Client,
    /// Publishes with acknowledgement. Lets more of them be outstanding than the publish stage has in its window.
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
