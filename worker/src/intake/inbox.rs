use std::time::{Duration, Instant};

use async_nats::{Client, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};

use crate::link::Current;
use crate::telemetry::{Count, Counters};

/// When pulls have gone unanswered for this long on a connection that claims to be up, it is given up for another: the
/// server ends each of them within a second, and the client's own pings take minutes to notice.
const SILENCE: Duration = Duration::from_secs(8);

/// Where answers to pulls come in. A client that dies takes its subscription along; with the next one there is a new one.
pub(super) struct Inbox {
    nats: Current,
    /// The client of this subscription.
    pub(super) client: Client,
    /// Pulls are answered below this subject.
    pub(super) prefix: String,
    /// `None` from the death of a client to the next one.
    messages: Option<Subscriber>,
    /// There is another client.
    is_stale: bool,
    /// Since when pulls have been lost, with nothing heard since.
    quiet_since: Option<Instant>,
}

impl Inbox {
    /// Subscribes with the present client.
    pub(super) async fn open(nats: Current) -> Self {
        let client = nats.client();
        let (prefix, messages, is_stale, quiet_since) = (String::new(), None, false, None);
        let mut inbox = Self { nats, client, prefix, messages, is_stale, quiet_since };
        inbox.subscribe().await;
        inbox
    }

    async fn subscribe(&mut self) {
        self.client = self.nats.client();
        self.prefix = self.client.new_inbox();
        let subscribed = self.client.subscribe(format!("{}.*.*", self.prefix)).await;
        // An error means that this client has died as well; another follows.
        self.messages = subscribed.inspect_err(|error| tracing::warn!(%error, "cannot subscribe")).ok();
        self.quiet_since = None;
    }

    /// The next message. Loses nothing if it is dropped while it waits.
    pub(super) async fn next(&mut self) -> Message {
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
                    Some(message) => {
                        self.quiet_since = None;
                        return message;
                    }
                    // The client died; the keeper makes another.
                    None => self.messages = None,
                },
                () = self.nats.changed() => self.is_stale = true,
            }
        }
    }

    /// A message that is there already.
    pub(super) fn ready(&mut self) -> Option<Message> {
        self.messages.as_mut()?.next().now_or_never()?
    }

    /// Pulls were lost: has the connection given up if that has gone on for too long.
    pub(super) async fn lost(&mut self, counters: &Counters, now: Instant) {
        let since = *self.quiet_since.get_or_insert(now);
        if now.duration_since(since) >= SILENCE {
            tracing::warn!("the server has not answered for {} s, connecting anew", SILENCE.as_secs());
            counters.inc(Count::ForcedReconnects);
            self.quiet_since = None;
            drop(self.client.force_reconnect().await);
        }
    }
}
