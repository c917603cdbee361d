//! One message, published until JetStream has confirmed it.

use std::error::Error;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::encode::Message;
use crate::link::Current;
use crate::telemetry::{Count, Vitals};

/// First and longest pause between two attempts to store the same message.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A message that the server would refuse in every attempt.
pub(super) struct TooLarge(pub(super) String);

/// Why a message is not known to be stored.
enum Unstored {
    /// The server, or the client, says no.
    Refused(PublishError),
    /// The connection was lost: nobody will ever say.
    Lost,
}

/// When a message was stored: the dedup id makes an earlier attempt, ours or another worker's, count.
#[derive(Clone, Copy)]
pub(super) enum Stored {
    Now,
    /// In this place of the stream.
    Before(u64),
}

/// What is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Result,
    DeadLetter,
}

/// How it went.
pub(super) struct Trail {
    /// From the first attempt to the last word.
    pub(super) interval: [Instant; 2],
    /// At least one.
    pub(super) attempts: usize,
    /// Why it was not stored, if it was not.
    pub(super) error: Option<String>,
}

/// Stores messages.
pub(super) struct Store {
    pub(super) nats: Current,
    vitals: Vitals,
    /// Told when the connection was lost.
    lost: Notify,
}

impl Store {
    pub(super) fn new(nats: Current, vitals: Vitals) -> Self {
        Self { nats, vitals, lost: Notify::new() }
    }

    /// The connection was lost: what was being published is published again.
    pub(super) fn connection_lost(&self) {
        self.lost.notify_waiters();
    }

    /// Publishes until JetStream has confirmed it; the dedup id makes that harmless. Keep-alives run meanwhile.
    pub(super) async fn keep(&self, kind: Kind, make: impl Fn() -> Message) -> (Result<Stored, TooLarge>, Trail) {
        let (began, mut pause, mut attempts) = (Instant::now(), BACKOFF.0, 0);
        let trail = |attempts, error| Trail { interval: [began, Instant::now()], attempts, error };
        loop {
            attempts += 1;
            let tried = Instant::now();
            let attempted = self.attempt(make()).await;
            self.measure(kind, &attempted, tried);
            match attempted {
                Ok(stored) => {
                    self.resume();
                    return (Ok(stored), trail(attempts, None));
                }
                Err(Unstored::Refused(error)) if is_too_large(&error) => {
                    // An answer of a stream that works.
                    self.resume();
                    let error = error.to_string();
                    return (Err(TooLarge(error.clone())), trail(attempts, Some(error)));
                }
                Err(Unstored::Refused(error)) if self.vitals.health.link.borrow().is_up => {
                    self.stall(&error);
                    // Jittered, so that a fleet does not come back in step.
                    sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Err(Unstored::Refused(_) | Unstored::Lost) => self.reconnected().await,
            }
            self.vitals.counters.inc(Count::PublishRetries);
        }
    }

    fn measure(&self, kind: Kind, attempted: &Result<Stored, Unstored>, tried: Instant) {
        let meters = match kind {
            Kind::Result => self.vitals.meters.results(),
            Kind::DeadLetter => self.vitals.meters.dead_letters(),
        };
        let seconds = tried.elapsed().as_secs_f64();
        match attempted {
            Ok(_) => {
                meters.ok.0.add(1);
                meters.ok.1.record(seconds);
            }
            Err(Unstored::Refused(error)) if is_too_large(error) => meters.failed("too_large", seconds),
            Err(Unstored::Refused(_)) => meters.failed("refused", seconds),
            Err(Unstored::Lost) => meters.failed("connection_lost", seconds),
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
        drop(self.vitals.health.link.subscribe().wait_for(|link| link.is_up).await);
    }

    /// The stream is missing, full, or has no leader: no more jobs are asked for until something is stored again. What is
    /// here is held, and tried again.
    fn stall(&self, error: &PublishError) {
        let why = error.to_string();
        self.vitals.health.stalled.send_if_modified(|stalled| {
            let is_new = stalled.is_none();
            if is_new {
                tracing::warn!(why, "results cannot be stored, no more jobs are asked for");
            }
            *stalled = Some(why);
            is_new
        });
    }

    fn resume(&self) {
        if self.vitals.health.stalled.borrow().is_some() {
            tracing::info!("results can be stored again");
            self.vitals.health.stalled.send_replace(None);
        }
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
