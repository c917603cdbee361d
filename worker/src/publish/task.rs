use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gristmill_schemas::{ErrorCode, TraceContext, header};
use gristmill_telemetry::within;
use tokio::sync::mpsc;

use super::encode::{From, Keep, Names};
use super::spans::{self, Sent};
use super::store::{Kind, Store, Stored, TooLarge, Trail};
use crate::link::Current;
use crate::message::{Answer, Envelope, Outcome, Served};
use crate::telemetry::{Count, Server, SlowLog, Vitals};
use crate::ticket::Verdict;

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
    /// Written: results, that nothing can be stored at present, spans of jobs.
    pub vitals: Vitals,
    /// Which slow jobs are logged.
    pub slow: SlowLog,
}

/// Ends jobs.
struct Finisher {
    store: Store,
    names: Names,
    vitals: Vitals,
    slow: SlowLog,
    server: Arc<Server>,
}

impl Publisher {
    /// Runs until the inbox is closed and every outcome is stored.
    pub async fn run(mut self) {
        let mut link = self.vitals.health.link.subscribe();
        let mut losses = link.borrow_and_update().losses;
        let (names, vitals, slow) = (self.names, self.vitals, self.slow);
        let (store, server) = (Store::new(self.nats, vitals.clone()), Arc::clone(&vitals.tracing.server));
        let finisher = Finisher { store, names, vitals, slow, server };
        let mut window = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !window.is_empty() {
            tokio::select! {
                outcome = self.inbox.recv(), if is_open && window.len() < self.window => match outcome {
                    Some(outcome) => window.push(finisher.finish(outcome)),
                    None => is_open = false,
                },
                Some(()) = window.next() => {}
                Ok(()) = link.changed() => {
                    let seen = std::mem::replace(&mut losses, link.borrow_and_update().losses);
                    if losses > seen {
                        finisher.store.connection_lost();
                    }
                }
            }
        }
    }
}

impl Finisher {
    /// Stores what an outcome calls for and settles its ticket. Dropped before that, the job is given back.
    async fn finish(&self, outcome: Outcome) {
        let Outcome { mut envelope, answer } = outcome;
        // The ids that the answer carries; its span has them, if there is one.
        let context = if envelope.trace.is_recorded { envelope.trace.child() } else { envelope.trace.context };
        let (model, code, message) = match answer {
            Answer::Ok { model, outputs, parameters } => {
                let make = || {
                    let began = Instant::now();
                    let from = From { envelope: &envelope, context };
                    let message = self.names.result(from, &model, &outputs, parameters);
                    model.meters.encode.record(began.elapsed().as_secs_f64());
                    message
                };
                let (stored, trail) = self.store.keep(Kind::Result, make).await;
                match stored {
                    Ok(stored) => {
                        self.count(stored);
                        self.answered(&mut envelope, &model, context, &trail);
                        return envelope.ticket.settle(Verdict::Done);
                    }
                    Err(TooLarge(reason)) => {
                        (Some(model), ErrorCode::TooLarge, format!("the result is too large: {reason}"))
                    }
                }
            }
            Answer::Refused { model, code, message } => (model, code, message),
        };
        self.refuse(envelope, context, model, (code, &message)).await;
    }

    async fn refuse(
        &self,
        mut envelope: Box<Envelope>,
        context: TraceContext,
        model: Option<Arc<Served>>,
        (code, message): (ErrorCode, &str),
    ) {
        let from = From { envelope: &envelope, context };
        if code == ErrorCode::Quarantined && self.was_answered(from, model.as_deref(), message).await {
            return envelope.ticket.settle(Verdict::Done);
        }
        self.log_refusal(&envelope, code, message);
        let dead_letter = if code.keeps_dead_letter() { self.bury(&envelope, code, message).await } else { None };
        let make = || self.names.error(From { envelope: &envelope, context }, model.as_deref(), code, message);
        let (stored, trail) = self.store.keep(Kind::Result, make).await;
        if let Err(TooLarge(reason)) = stored {
            let sequence = envelope.ticket.sequence();
            tracing::error!(reason, sequence, "the error result does not fit the server's max_payload");
        }
        self.rejected(&mut envelope, model.as_deref(), (code, message), (context, &trail), dead_letter);
        let verdict = if code.keeps_dead_letter() { Verdict::Refused(code) } else { Verdict::Done };
        envelope.ticket.settle(verdict);
    }

    fn log_refusal(&self, envelope: &Envelope, code: ErrorCode, message: &str) {
        self.vitals.counters.inc(Count::Refused);
        if code == ErrorCode::DeadlineExceeded {
            self.vitals.counters.inc(Count::Expired);
        }
        let (consumer, sequence) = (&envelope.origin.consumer.name, envelope.ticket.sequence());
        within(envelope.trace.context, || {
            tracing::info!(
                name: "messaging.process.exception",
                %code, reason = message, consumer, sequence, id = envelope.id, "job refused"
            );
        });
    }

    /// Measures a job that was answered with a result, and makes its spans.
    fn answered(&self, envelope: &mut Envelope, model: &Served, context: TraceContext, trail: &Trail) {
        let (lane, took) = (envelope.origin.consumer.lane as usize, envelope.origin.received.elapsed());
        model.meters.process[lane].record(took.as_secs_f64());
        model.meters.request[lane].record((envelope.in_stream + took).as_secs_f64());
        self.log_if_slow(envelope, Some(model), took, trail);
        self.trace(envelope, Some(model), None, [Some((Kind::Result, context, trail)), None]);
    }

    /// Likewise a job that was refused.
    fn rejected(
        &self,
        envelope: &mut Envelope,
        model: Option<&Served>,
        refusal: (ErrorCode, &str),
        (context, trail): (TraceContext, &Trail),
        dead_letter: Option<Trail>,
    ) {
        let took = envelope.origin.received.elapsed();
        let seconds = [took, envelope.in_stream + took].map(|time| time.as_secs_f64());
        let consumer = &envelope.origin.consumer;
        let version = model.map_or("", |model| model.version.as_str());
        let whose = (consumer.name.as_str(), &consumer.model, consumer.lane);
        self.vitals.meters.rejected(whose, version, refusal.0, seconds);
        self.log_if_slow(envelope, model, took, trail);
        let letter = dead_letter.as_ref().map(|trail| (Kind::DeadLetter, envelope.trace.child(), trail));
        self.trace(envelope, model, Some(refusal), [Some((Kind::Result, context, trail)), letter]);
    }

    fn log_if_slow(&self, envelope: &Envelope, model: Option<&Served>, took: Duration, trail: &Trail) {
        let Some(skipped) = self.slow.admit(took, Instant::now()) else { return };
        let marks = &envelope.marks;
        let sealed = marks.sealed.as_ref();
        let millis = |from: Option<Instant>, to: Option<Instant>| {
            let span = from.zip(to).map(|(from, to)| to.saturating_duration_since(from));
            span.unwrap_or_default().as_secs_f64() * 1e3
        };
        let [began, ended] = marks.ran.map_or([None; 2], |ran| ran.map(Some));
        let closed = sealed.map(|(seal, _)| seal.at);
        within(envelope.trace.context, || {
            tracing::warn!(
                name: "gristmill.request.slow",
                id = envelope.id,
                consumer = envelope.origin.consumer.name,
                version = model.map_or("", |model| model.version.as_str()),
                deliveries = envelope.origin.deliveries,
                worker_ms = took.as_secs_f64() * 1e3,
                stream_ms = envelope.in_stream.as_secs_f64() * 1e3,
                queue_ms = millis(marks.queued, closed),
                wait_ms = millis(closed, began),
                run_ms = millis(began, ended),
                publish_ms = millis(Some(trail.interval[0]), Some(trail.interval[1])),
                batch_jobs = sealed.map_or(0, |(seal, _)| seal.jobs),
                skipped,
                "a slow job"
            );
        });
    }

    /// Makes the spans of a recorded job, but for those of its settlement.
    fn trace(
        &self,
        envelope: &mut Envelope,
        model: Option<&Served>,
        refusal: Option<(ErrorCode, &str)>,
        sent: [Option<(Kind, TraceContext, &Trail)>; 2],
    ) {
        let Some(anchor) = envelope.ticket.span().map(|span| span.received) else { return };
        let past = spans::past(envelope, model, refusal.is_some(), anchor);
        past.into_iter().for_each(|span| self.vitals.spans.emit(span));
        let code = refusal.map(|(code, _)| code.as_str());
        for (kind, context, trail) in sent.into_iter().flatten() {
            let (template, id) = match kind {
                Kind::Result => ("results", self.names.result_id(envelope)),
                Kind::DeadLetter => ("dlq", self.names.dead_letter_id(envelope)),
            };
            let sent = Sent {
                context,
                template: format!("{}.{template}", self.names.namespace),
                id,
                interval: trail.interval,
                attempts: trail.attempts,
                // An error result that is stored is a message well sent; a dead letter says what it is for.
                error: trail.error.as_deref(),
                code: code.filter(|_| kind == Kind::DeadLetter),
            };
            self.vitals.spans.emit(spans::publish(envelope, &self.server, sent, anchor));
        }
        let marks = envelope.marks.sealed.as_ref().map(|(seal, index)| spans::batch(seal, *index));
        let Some(span) = envelope.ticket.span() else { return };
        span.attributes.extend(model.map(|model| model.attributes()[1].clone()));
        span.attributes.extend(marks.into_iter().flatten());
        if let Some((code, message)) = refusal {
            span.fail(code, message);
        }
    }

    /// Whether a job that nobody is known to have answered was: its worker died, or its connection was lost, before the
    /// acknowledgement. Such a job is no dead letter. Stores the error result where it was not, which is found by the dedup
    /// id if this is interrupted.
    async fn was_answered(&self, from: From<'_>, model: Option<&Served>, message: &str) -> bool {
        let error = || self.names.error(from, model, ErrorCode::Quarantined, message);
        let (Ok(Stored::Before(sequence)), _) = self.store.keep(Kind::Result, error).await else { return false };
        let results = self.store.nats.context().get_stream_no_info(&self.names.results).await;
        let Ok(results) = results else { return false };
        let found = results.get_raw_message(sequence).await;
        found.is_ok_and(|found| found.headers.get(header::STATUS).is_some_and(|status| status.as_str() == "ok"))
    }

    /// Stores a dead letter, with as much of the job as fits. Returns how that went; `None` where nothing fitted.
    async fn bury(&self, envelope: &Envelope, code: ErrorCode, message: &str) -> Option<Trail> {
        let sequence = envelope.origin.sequence;
        for keep in Keep::ORDER {
            let make = || self.names.dead_letter(envelope, code, message, keep);
            let (stored, trail) = self.store.keep(Kind::DeadLetter, make).await;
            match stored {
                Ok(_) => {
                    self.vitals.counters.inc(Count::DeadLetters);
                    self.vitals.meters.dead_lettered(&envelope.origin.consumer.model, code);
                    return Some(trail);
                }
                Err(TooLarge(reason)) => tracing::warn!(reason, sequence, ?keep, "the dead letter does not fit"),
            }
        }
        tracing::error!(sequence, "no dead letter was kept: not even its own headers fit");
        None
    }

    fn count(&self, stored: Stored) {
        self.vitals.counters.inc(match stored {
            Stored::Now => Count::Results,
            Stored::Before(_) => Count::DuplicateResults,
        });
    }
}
