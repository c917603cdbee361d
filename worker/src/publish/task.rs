use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gristmill_schemas::{ErrorCode, header};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::encode::{Keep, Message, Names};
use crate::link::Current;
use crate::message::{Answer, Envelope, Outcome, Served};
use crate::telemetry::{Count, Counters, Health};
use crate::ticket::Verdict;

/// First and longest pause between two attempts to store the same message.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The publish task.
pub struct Publisher {
    /// Outcomes; closed when intake, batch and every engine are gone.
    pub inbox: mpsc::Receiver<Outcome>,
    /// Where to store.
    pub nats: Current,
    /// What stands on every message.
    pub names: Names,
    /// Most outcomes being stored at once.
    pub window: usize,
    /// Written: results.
    pub counters: Arc<Counters>,
    /// Written: that nothing can be stored at present.
    pub health: Arc<Health>,
}

/// A message that the server would refuse in every attempt.
struct TooLarge(String);

impl Publisher {
    /// Runs until the inbox is closed and every outcome is stored.
    pub async fn run(mut self) {
        let mut link = self.health.link.subscribe();
        let mut losses = link.borrow_and_update().losses;
        let (nats, names, counters, health) = (self.nats, self.names, self.counters, self.health);
        let store = Store { nats, names, counters, health, lost: Notify::new() };
        let mut window = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !window.is_empty() {
            tokio::select! {
                outcome = self.inbox.recv(), if is_open && window.len() < self.window => match outcome {
                    Some(outcome) => window.push(store.finish(outcome)),
                    None => is_open = false,
                },
                Some(()) = window.next() => {}
                Ok(()) = link.changed() => {
                    let seen = std::mem::replace(&mut losses, link.borrow_and_update().losses);
                    if losses > seen {
                        store.lost.notify_waiters();
                    }
                }
            }
        }
    }
}

/// Why a message is not known to be stored.
enum Unstored {
    /// The server, or the client, says no.
    Refused(PublishError),
    /// The connection was lost: nobody will ever say.
    Lost,
}

/// When a message was stored: the dedup id makes an earlier attempt, ours or another worker's, count.
#[derive(Clone, Copy)]
enum Stored {
    Now,
    /// In this place of the stream.
    Before(u64),
}

struct Store {
    nats: Current,
    names: Names,
    counters: Arc<Counters>,
    health: Arc<Health>,
    /// Told when the connection was lost.
    lost: Notify,
}

impl Store {
    /// Stores what an outcome calls for and settles its ticket. Dropped before that, the job is given back.
    async fn finish(&self, outcome: Outcome) {
        let Outcome { envelope, answer } = outcome;
        let (model, code, message) = match answer {
            Answer::Ok { model, outputs, parameters } => {
                match self.store(|| self.names.result(&envelope, &model, &outputs, parameters)).await {
                    Ok(stored) => {
                        self.count(stored);
                        return envelope.ticket.settle(Verdict::Done);
                    }
                    Err(TooLarge(reason)) => {
                        (Some(model), ErrorCode::TooLarge, format!("the result is too large: {reason}"))
                    }
                }
            }
            Answer::Refused { model, code, message } => (model, code, message),
        };
        if code == ErrorCode::Quarantined && self.was_answered(&envelope, model.as_deref(), &message).await {
            return envelope.ticket.settle(Verdict::Done);
        }
        self.counters.inc(Count::Refused);
        let (consumer, sequence) = (&envelope.origin.consumer.name, envelope.ticket.sequence());
        tracing::info!(%code, reason = message, consumer, sequence, id = envelope.id, "job refused");
        if code == ErrorCode::DeadlineExceeded {
            self.counters.inc(Count::Expired);
        }
        if code.keeps_dead_letter() {
            self.keep(&envelope, code, &message).await;
        }
        if let Err(TooLarge(reason)) =
            self.store(|| self.names.error(&envelope, model.as_deref(), code, &message)).await
        {
            tracing::error!(reason, sequence, "the error result does not fit the server's max_payload");
        }
        let verdict = if code.keeps_dead_letter() { Verdict::Refused(code) } else { Verdict::Done };
        envelope.ticket.settle(verdict);
    }

    /// Whether a job that nobody is known to have answered was: its worker died, or its connection was lost, before the
    /// acknowledgement. Such a job is no dead letter. Stores the error result where it was not, which is found by the dedup
    /// id if this is interrupted.
    async fn was_answered(&self, envelope: &Envelope, model: Option<&Served>, message: &str) -> bool {
        let error = || self.names.error(envelope, model, ErrorCode::Quarantined, message);
        let Ok(Stored::Before(sequence)) = self.store(error).await else { return false };
        let Ok(results) = self.nats.context().get_stream_no_info(&self.names.results).await else { return false };
        let found = results.get_raw_message(sequence).await;
        found.is_ok_and(|found| found.headers.get(header::STATUS).is_some_and(|status| status.as_str() == "ok"))
    }

    /// Stores a dead letter, with as much of the job as fits.
    async fn keep(&self, envelope: &Envelope, code: ErrorCode, message: &str) {
        let sequence = envelope.origin.sequence;
        for keep in Keep::ORDER {
            match self.store(|| self.names.dead_letter(envelope, code, message, keep)).await {
                Ok(_) => return self.counters.inc(Count::DeadLetters),
                Err(TooLarge(reason)) => tracing::warn!(reason, sequence, ?keep, "the dead letter does not fit"),
            }
        }
        tracing::error!(sequence, "no dead letter was kept: not even its own headers fit");
    }

    /// Publishes until JetStream has confirmed it; the dedup id makes that harmless. Keep-alives run meanwhile.
    async fn store(&self, make: impl Fn() -> Message) -> Result<Stored, TooLarge> {
        let mut pause = BACKOFF.0;
        loop {
            match self.attempt(make()).await {
                Ok(stored) => {
                    self.resume();
                    return Ok(stored);
                }
                Err(Unstored::Refused(error)) if is_too_large(&error) => {
                    // An answer of a stream that works.
                    self.resume();
                    return Err(TooLarge(error.to_string()));
                }
                Err(Unstored::Refused(error)) if self.health.link.borrow().is_up => {
                    self.stall(&error);
                    // Jittered, so that a fleet does not come back in step.
                    sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Err(Unstored::Refused(_) | Unstored::Lost) => self.reconnected().await,
            }
            self.counters.inc(Count::PublishRetries);
        }
    }

    async fn attempt(&self, message: Message) -> Result<Stored, Unstored> {
        tokio::select! {
            biased;
            stored = self.publish(message) => stored.map_err(Unstored::Refused),
            // No answer will come on another connection; the client would wait for one until its timeout.
            () = self.lost.notified() => Err(Unstored::Lost),
        }
    }

    async fn publish(&self, message: Message) -> Result<Stored, PublishError> {
        let Message { subject, headers, payload } = message;
        let ack = self.nats.context().publish_with_headers(subject, headers, payload).await?.await?;
        Ok(if ack.duplicate { Stored::Before(ack.sequence) } else { Stored::Now })
    }

    async fn reconnected(&self) {
        // The sender lives in health, which outlives every stage.
        drop(self.health.link.subscribe().wait_for(|link| link.is_up).await);
    }

    /// The stream is missing, full, or has no leader: no more jobs are asked for until something is stored again. What is
    /// here is held, and tried again.
    fn stall(&self, error: &PublishError) {
        let why = error.to_string();
        self.health.stalled.send_if_modified(|stalled| {
            let is_new = stalled.is_none();
            if is_new {
                tracing::warn!(why, "results cannot be stored, no more jobs are asked for");
            }
            *stalled = Some(why);
            is_new
        });
    }

    fn resume(&self) {
        if self.health.stalled.borrow().is_some() {
            tracing::info!("results can be stored again");
            self.health.stalled.send_replace(None);
        }
    }

    fn count(&self, stored: Stored) {
        self.counters.inc(match stored {
            Stored::Now => Count::Results,
            Stored::Before(_) => Count::DuplicateResults,
        });
    }
}

/// Whether every further attempt would be refused as well: over the server's max_payload, its limit of 64 KiB for headers,
/// or the stream's own limit. The client tells the last two only by the server's code.
fn is_too_large(error: &PublishError) -> bool {
    let code =
        error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()).map(|error| error.error_code());
    error.kind() == PublishErrorKind::MaxPayloadExceeded
        || code == Some(jetstream::ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
        || code == Some(jetstream::ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)
}
