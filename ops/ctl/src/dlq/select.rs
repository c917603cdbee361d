//! The chosen dead letters, one at a time: a million of them need no memory.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures_util::StreamExt;
use gristmill_schemas::Namespace;
use time::OffsetDateTime;

use super::choice::Filter;
use super::letter::{self, Letter};

/// Longest wait for the next dead letter before the server is asked whether there is one.
const PATIENCE: Duration = Duration::from_secs(5);

/// With this header the server tells the size of a body it does not send.
const SIZE: &str = "Nats-Msg-Size";

/// Dead letters as they were when it was opened, the oldest first. Those that a replay makes anew are not among them.
pub(super) struct Selection<'a> {
    stream: &'a Stream,
    filter: &'a Filter,
    /// Where dead letters of the model are; `None` for those of every model.
    subject: Option<String>,
    source: Source,
    /// How many were given out.
    pub(super) taken: usize,
    /// Numbers that were asked for and are not there.
    pub(super) missing: Vec<u64>,
}

enum Source {
    Numbers(std::collections::btree_set::IntoIter<u64>),
    Scan(Box<Scan>),
    Done,
}

/// All of one model, or of all models.
struct Scan {
    messages: Ordered,
    subject: String,
    /// The last one read.
    at: u64,
    /// The last one there was.
    last: u64,
}

impl<'a> Selection<'a> {
    /// Of `numbers`, or of all if there are none, those that `filter` takes.
    pub(super) async fn open(
        namespace: &Namespace,
        stream: &'a Stream,
        numbers: &[u64],
        filter: &'a Filter,
    ) -> anyhow::Result<Self> {
        let subject = filter.model.as_ref().map(|model| namespace.dlq_subject(model));
        let source = if numbers.is_empty() {
            scan(stream, subject.clone().unwrap_or_else(|| namespace.all_subjects("dlq"))).await?
        } else {
            Source::Numbers(BTreeSet::from_iter(numbers.iter().copied()).into_iter())
        };
        Ok(Self { stream, filter, subject, source, taken: 0, missing: Vec::new() })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Letter>> {
        if self.filter.limit.is_some_and(|limit| self.taken >= limit.get()) {
            return Ok(None);
        }
        while let Some(letter) = self.read().await? {
            let is_there = self.subject.as_ref().is_none_or(|subject| *subject == letter.subject);
            if is_there && self.filter.takes(&letter, OffsetDateTime::now_utc()) {
                self.taken += 1;
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> anyhow::Result<Option<Letter>> {
        match &mut self.source {
            Source::Done => Ok(None),
            Source::Scan(scan) => {
                let letter = scan.next(self.stream).await?;
                if letter.is_none() || scan.at >= scan.last {
                    self.source = Source::Done;
                }
                Ok(letter)
            }
            Source::Numbers(numbers) => {
                for sequence in numbers {
                    match letter::read(self.stream, sequence).await? {
                        Some(found) => return Ok(Some(found.into())),
                        None => self.missing.push(sequence),
                    }
                }
                Ok(None)
            }
        }
    }
}

async fn scan(stream: &Stream, subject: String) -> anyhow::Result<Source> {
    let last = stream.cached_info().state.last_sequence;
    let config = OrderedConfig { filter_subject: subject.clone(), headers_only: true, ..OrderedConfig::default() };
    let mut consumer = stream.create_consumer(config).await?;
    if consumer.info().await?.num_pending == 0 {
        return Ok(Source::Done);
    }
    let messages = consumer.messages().await?;
    Ok(Source::Scan(Box::new(Scan { messages, subject, at: 0, last })))
}

impl Scan {
    async fn next(&mut self, stream: &Stream) -> anyhow::Result<Option<Letter>> {
        let message = match tokio::time::timeout(PATIENCE, self.messages.next()).await {
            Ok(Some(message)) => message?,
            Ok(None) => return Ok(None),
            // The rest may have been deleted or have expired meanwhile.
            Err(_) if self.is_at_end(stream).await? => return Ok(None),
            Err(_) => bail!("the server sent no dead letter behind number {} for {PATIENCE:?}", self.at),
        };
        let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
        let (sequence, stored) = (info.stream_sequence, info.published);
        if sequence > self.last {
            return Ok(None);
        }
        self.at = if info.pending == 0 { self.last } else { sequence };
        let headers = message.headers.clone().unwrap_or_default();
        let bytes = headers.get(SIZE).and_then(|size| size.as_str().parse().ok()).unwrap_or(0);
        Ok(Some(Letter { sequence, subject: message.subject.to_string(), headers, bytes, stored }))
    }

    async fn is_at_end(&self, stream: &Stream) -> anyhow::Result<bool> {
        match stream.get_first_raw_message_by_subject(&self.subject, self.at + 1).await {
            Ok(next) => Ok(next.sequence > self.last),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}
