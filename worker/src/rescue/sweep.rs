//! The last net. A job that was delivered `max_deliver` times without an answer stays in the stream for ever and is
//! never delivered again; the server tells so in an advisory. One of the workers reads the job by its number, as raw
//! bytes (its headers may be what kept it from being read), and gives it the end of every refused job: a dead letter, an
//! error result, and out of the stream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt;
use gristmill_schemas::{ErrorCode, Namespace};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::stored::{Error, read};
use crate::decode::Decoder;
use crate::link::Current;
use crate::message::{Delivery, Outcome};
use crate::shutdown::Stopped;
use crate::telemetry::{Count, Counters};
use crate::ticket::{Notice, Ticket};

/// How long one pull for advisories stays open.
const EXPIRES: Duration = Duration::from_secs(30);

/// Pause after an error of the server.
const RETRY: Duration = Duration::from_secs(5);

/// The sweep task.
pub struct Sweeper {
    /// To hear of advisories, and to read jobs by number.
    pub nats: Current,
    /// Name of the consumer of advisories.
    pub consumer: String,
    /// To read their subjects.
    pub namespace: Namespace,
    /// To address their error results.
    pub decoder: Decoder,
    /// Where refusals go.
    pub outcomes: mpsc::Sender<Vec<Outcome>>,
    /// Where their openings go.
    pub notices: mpsc::Sender<Vec<Notice>>,
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
        let stream = self.nats.context().get_stream_no_info(self.namespace.stream("ADVISORIES")).await?;
        let consumer = stream.get_consumer::<pull::Config>(&self.consumer).await?;
        let mut advisories = consumer.batch().max_messages(16).expires(EXPIRES).messages().await?;
        loop {
            tokio::select! {
                advisory = advisories.next() => match advisory {
                    Some(advisory) => self.sweep(advisory?).await?,
                    None => return Ok(()),
                },
                // The pull went with the client that sent it.
                () = self.nats.changed() => return Ok(()),
            }
        }
    }

    async fn sweep(&self, message: jetstream::Message) -> Result<(), Error> {
        let Ok(Advisory { stream_seq: sequence, deliveries }) = serde_json::from_slice(&message.payload) else {
            return message.ack().await;
        };
        let Some(ack) = message.reply.clone() else { return Ok(()) };
        let Some(stored) = read(&self.nats.context(), &self.namespace, sequence, deliveries).await? else {
            return message.ack().await;
        };
        self.notices.send(vec![Notice::Swept { sequence, ack }]).await?;
        let ticket = Ticket::new(sequence, None, self.notices.clone());
        self.counters.inc(Count::Swept);
        let (code, why) = match stored.fault {
            Some(fault) => (ErrorCode::InvalidMessage, fault),
            None => (ErrorCode::Quarantined, "no worker lived to answer it".to_owned()),
        };
        let text = format!("delivered {deliveries} times, the consumer's limit: {why}");
        let delivery = Delivery { ticket, origin: stored.origin };
        let refusal = self.decoder.refuse(delivery, OffsetDateTime::now_utc(), code, text);
        Ok(self.outcomes.send(vec![refusal]).await?)
    }
}
