use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gristmill_schemas::ErrorCode;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::encode::{Message, Names};
use crate::message::{Answer, Outcome};
use crate::telemetry::{Count, Counters};
use crate::ticket::Verdict;

/// First and longest pause between two attempts to store the same message.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The publish task.
pub struct Publisher {
    /// Outcomes; closed when intake, batch and every engine are gone.
    pub inbox: mpsc::Receiver<Outcome>,
    /// Where to store. Its own limit on outstanding acknowledgements is above `window`.
    pub context: Context,
    /// What stands on every message.
    pub names: Names,
    /// Most outcomes being stored at once.
    pub window: usize,
    /// Written: results.
    pub counters: Arc<Counters>,
}

/// A message that the server would refuse in every attempt.
struct TooLarge(String);

impl Publisher {
    /// Runs until the inbox is closed and every outcome is stored.
    pub async fn run(mut self) {
        let store = Store { context: self.context, names: self.names, counters: self.counters };
        let mut window = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !window.is_empty() {
            tokio::select! {
                outcome = self.inbox.recv(), if is_open && window.len() < self.window => match outcome {
                    Some(outcome) => window.push(store.finish(outcome)),
                    None => is_open = false,
                },
                Some(()) = window.next() => {}
            }
        }
    }
}

struct Store {
    context: Context,
    names: Names,
    counters: Arc<Counters>,
}

impl Store {
    /// Stores what an outcome calls for and settles its ticket. Dropped before that, the job is given back.
    async fn finish(&self, outcome: Outcome) {
        let Outcome { envelope, model, answer } = outcome;
        let (code, message) = match answer {
            Answer::Ok { outputs, parameters } => {
                let model = model.as_deref().expect("only a model makes an answer");
                match self.store(|| self.names.result(&envelope, model, &outputs, parameters)).await {
                    Ok(()) => return envelope.ticket.settle(Verdict::Done),
                    Err(TooLarge(reason)) => (ErrorCode::TooLarge, format!("the result is too large: {reason}")),
                }
            }
            Answer::Refused { code, message } => (code, message),
        };
        self.counters.inc(Count::Refused);
        let (consumer, sequence) = (&envelope.origin.consumer.name, envelope.ticket.sequence());
        tracing::info!(%code, message, consumer, sequence, id = envelope.id, "job refused");
        if code.keeps_dead_letter() {
            let letter = |with_payload| self.names.dead_letter(&envelope, code, &message, with_payload);
            if let Err(TooLarge(reason)) = self.store(|| letter(true)).await {
                tracing::warn!(reason, sequence, "the dead letter is kept without the job's bytes");
                drop(self.store(|| letter(false)).await);
            }
            self.counters.inc(Count::DeadLetters);
        }
        if let Err(TooLarge(reason)) =
            self.store(|| self.names.error(&envelope, model.as_deref(), code, &message)).await
        {
            tracing::error!(reason, sequence, "the error result does not fit the server's max_payload");
        }
        let verdict = if code.keeps_dead_letter() { Verdict::Refused(code) } else { Verdict::Done };
        envelope.ticket.settle(verdict);
    }

    /// Publishes until JetStream has confirmed it; the dedup id makes that harmless. Keep-alives run meanwhile.
    async fn store(&self, make: impl Fn() -> Message) -> Result<(), TooLarge> {
        let mut pause = BACKOFF.0;
        loop {
            match self.publish(make()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    return Err(TooLarge(error.to_string()));
                }
                Err(error) => {
                    self.counters.inc(Count::PublishRetries);
                    tracing::warn!(%error, retry_ms = pause.as_millis() as u64, "publish not confirmed, trying again");
                    // Jittered, so that a fleet does not come back in step.
                    sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        let Message { subject, headers, payload } = message;
        let ack = self.context.publish_with_headers(subject, headers, payload).await?.await?;
        self.counters.inc(if ack.duplicate { Count::DuplicateResults } else { Count::Results });
        Ok(())
    }
}
