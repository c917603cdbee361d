//! Sweep: the last net. A job that was delivered `max_deliver` times without an answer stays in the stream for ever and is
//! never delivered again; the server tells so in an advisory. One of the workers reads the job by its number, as raw
//! bytes (its headers may be what kept it from being read), and gives it the end of every refused job: a dead letter, an
//! error result, and out of the stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use gristmill_schemas::{Namespace, dead_letter_header};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;

use crate::decode::Decoder;
use crate::message::{Consumer, Delivery, Origin, Outcome};
use crate::shutdown::Stopped;
use crate::telemetry::{Count, Counters};
use crate::ticket::{Notice, Ticket};

/// How long one pull for advisories stays open.
const EXPIRES: Duration = Duration::from_secs(30);

/// Pause after an error of the server.
const RETRY: Duration = Duration::from_secs(5);

/// The sweep task.
pub struct Sweeper {
    /// The consumer of advisories.
    pub advisories: PullConsumer,
    /// To read jobs by number.
    pub context: Context,
    /// To read their subjects.
    pub namespace: Namespace,
    /// To address their error results.
    pub decoder: Decoder,
    /// Where refusals go.
    pub outcomes: mpsc::Sender<Outcome>,
    /// Where their openings go.
    pub notices: mpsc::Sender<Notice>,
    /// The end.
    pub stopped: Stopped,
    /// Written: jobs swept.
    pub counters: Arc<Counters>,
}

/// What the server says when it gives a job up.
#[derive(Deserialize)]
struct Advisory {
    stream_seq: u64,
    deliveries: i64,
}

/// The answer to STREAM.MSG.GET. The client's own reader fails on headers that are not UTF-8.
#[derive(Deserialize)]
struct Stored {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Sweeper {
    /// Runs until the stop is announced.
    pub async fn run(mut self) {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = stopped.wait() => {}
            () = async {
                loop {
                    if let Err(error) = self.round().await {
                        tracing::warn!(%error, "sweeping failed, trying again");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            } => {}
        }
    }

    async fn round(&mut self) -> Result<(), Error> {
        let mut advisories = self.advisories.batch().max_messages(16).expires(EXPIRES).messages().await?;
        while let Some(advisory) = advisories.next().await {
            self.sweep(advisory?).await?;
        }
        Ok(())
    }

    async fn sweep(&self, message: jetstream::Message) -> Result<(), Error> {
        let Ok(advisory) = serde_json::from_slice::<Advisory>(&message.payload) else {
            return message.ack().await;
        };
        let sequence = advisory.stream_seq;
        let request = serde_json::json!({ "seq": sequence });
        let subject = format!("STREAM.MSG.GET.{}", self.decoder.stream);
        let stored = match self.context.request(subject, &request).await? {
            Response::Ok(Stored { message }) => message,
            // Answered, deleted or expired meanwhile: nothing is left to do.
            Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return message.ack().await,
            // No leader, say: the advisory comes again.
            Response::Err { error } => return Err(error.into()),
        };
        let Some(ack) = message.reply.clone() else { return Ok(()) };
        let Some((model, lane)) = self.namespace.parse_job_subject(&stored.subject) else {
            return message.ack().await;
        };
        let (headers, fault) = read_headers(&STANDARD.decode(&stored.hdrs)?);
        let name = Namespace::consumer(&model, lane);
        let origin = Origin {
            subject: stored.subject.into(),
            headers: Some(headers),
            payload: STANDARD.decode(&stored.data)?.into(),
            consumer: Arc::new(Consumer { model, lane, name }),
            sequence,
            published: OffsetDateTime::parse(&stored.time, &Rfc3339)?,
            deliveries: advisory.deliveries,
            pending: 0,
            received: Instant::now(),
        };
        self.notices.send(Notice::Swept { sequence, ack }).await?;
        let ticket = Ticket::new(sequence, self.notices.clone());
        self.counters.inc(Count::Swept);
        let (code, why) = match fault {
            Some(fault) => (gristmill_schemas::ErrorCode::InvalidMessage, fault),
            None => (gristmill_schemas::ErrorCode::Quarantined, "no worker lived to answer it".to_owned()),
        };
        let text = format!("delivered {} times, the consumer's limit: {why}", advisory.deliveries);
        let delivery = Delivery { ticket, origin };
        Ok(self.outcomes.send(self.decoder.refuse(delivery, OffsetDateTime::now_utc(), code, text)).await?)
    }
}

/// Reads a header block as far as it can be read. What is not text is named, and the block kept as it is.
fn read_headers(block: &[u8]) -> (HeaderMap, Option<String>) {
    let mut headers = HeaderMap::new();
    let mut fault = None;
    let lines = block.split(|&byte| byte == b'\n').skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for line in lines.filter(|line| !line.is_empty()) {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
            let start: String = String::from_utf8_lossy(line).chars().take(60).collect();
            fault = Some(format!("header line {start:?} is not UTF-8 text with a colon"));
            continue;
        };
        match (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => fault = Some(format!("header {:?} has a name or value that NATS does not allow", name)),
        }
    }
    if fault.is_some() {
        headers.insert(dead_letter_header::RAW_HEADERS, STANDARD.encode(block).as_str());
    }
    (headers, fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_of_a_header_block_is_read_and_the_rest_named() {
        let (headers, fault) = read_headers(b"NATS/1.0\r\nA: 1\r\nB: \xff\xfe\r\nC:2\r\n\r\n");
        assert_eq!((headers.get("A").unwrap().as_str(), headers.get("C").unwrap().as_str()), ("1", "2"));
        assert!(fault.unwrap().contains("is not UTF-8"));
        assert!(headers.get(dead_letter_header::RAW_HEADERS).is_some());
        let (headers, fault) = read_headers(b"NATS/1.0\r\nA: x\ry\r\n\r\n");
        assert!(headers.get("A").is_none() && fault.unwrap().contains("\"A\""));
        assert!(read_headers(b"NATS/1.0\r\nA: 1\r\n\r\n").1.is_none());
    }
}
