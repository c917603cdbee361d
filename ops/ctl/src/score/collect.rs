//! Results of a run, in the order the broker stored them, for ever and whatever becomes of the broker.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use bytes::Bytes;
use futures_util::StreamExt;
use gristmill_schemas::header;
use tokio::sync::{Notify, mpsc};

use crate::error;

/// Pause after an error.
const RETRY: Duration = Duration::from_millis(500);

/// Longest wait for a result that is known to be stored.
const OVERDUE: Duration = Duration::from_secs(2);

/// What the collector has to say.
pub(super) enum News {
    /// A result.
    Result(Box<Answer>),
    /// All results are told that were stored when the reader was made.
    CaughtUp,
    /// They cannot be read at present, and why.
    Trouble(String),
}

/// A stored result.
pub(super) struct Answer {
    pub(super) sequence: u64,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Answer {
    /// A header, empty if there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }

    /// The job's id.
    pub(super) fn id(&self) -> &str {
        self.header(header::JOB_ID)
    }
}

/// Reads a run's results.
pub(super) struct Collector {
    pub(super) context: Context,
    /// The results stream.
    pub(super) stream: String,
    /// The run's results in it.
    pub(super) subject: String,
    pub(super) news: mpsc::Sender<News>,
    /// Asks for a new reader.
    pub(super) renew: Arc<Notify>,
}

impl Collector {
    /// Reads until nobody listens any more. A reader that ends, or that someone doubts, is made anew behind what it has told.
    pub(super) async fn run(self) {
        let mut next = 1;
        while !self.news.is_closed() {
            if let Err(error) = self.read(&mut next).await {
                // Nobody listens: that is the end.
                drop(self.news.send(News::Trouble(error::chain(&error))).await);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn read(&self, next: &mut u64) -> anyhow::Result<()> {
        let stream = self.context.get_stream_no_info(&self.stream).await?;
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: *next };
        let filter_subject = self.subject.clone();
        let config = OrderedConfig { filter_subject, deliver_policy, ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await?;
        let mut is_behind = consumer.cached_info().num_pending > 0;
        let mut messages = consumer.messages().await?;
        if !is_behind && self.news.send(News::CaughtUp).await.is_err() {
            return Ok(());
        }
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = self.renew.notified() => return Ok(()),
                () = self.news.closed() => return Ok(()),
                // What was to come may have been removed meanwhile: a new reader is told how much there is now.
                () = tokio::time::sleep(OVERDUE), if is_behind => return Ok(()),
            };
            let Some(message) = message else { return Ok(()) };
            let message = message?;
            let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
            let (sequence, pending) = (info.stream_sequence, info.pending);
            let (headers, payload) = (message.headers.clone().unwrap_or_default(), message.payload.clone());
            *next = sequence + 1;
            if self.news.send(News::Result(Box::new(Answer { sequence, headers, payload }))).await.is_err() {
                return Ok(());
            }
            if is_behind && pending == 0 {
                is_behind = false;
                if self.news.send(News::CaughtUp).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
