//! What is measured, logged and traced of a job's end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_schemas::{ErrorCode, TraceContext};
use gristmill_telemetry::within;

use super::encode::Names;
use super::letter::{Letter, Step, Trail};
use super::spans::{self, Sent};
use super::word::{Stored, Word};
use crate::message::Envelope;
use crate::telemetry::{Count, Server, SlowLog, Vitals};

/// Tells of jobs that end.
pub(super) struct Teller {
    pub(super) names: Names,
    pub(super) vitals: Vitals,
    slow: SlowLog,
    server: Arc<Server>,
}

impl Teller {
    pub(super) fn new(names: Names, vitals: Vitals, slow: SlowLog) -> Self {
        let server = Arc::clone(&vitals.tracing.server);
        Self { names, vitals, slow, server }
    }

    /// Measures an attempt.
    pub(super) fn attempted(&self, letter: &Letter, word: &Word, now: Instant) {
        let meters = match letter.step {
            Step::Bury(_) => self.vitals.meters.dead_letters(),
            _ => self.vitals.meters.results(),
        };
        let seconds = now.saturating_duration_since(letter.tried).as_secs_f64();
        if let Some(fault) = word.fault() {
            return meters.failed(fault, seconds);
        }
        meters.ok.0.add(1);
        meters.ok.1.record(seconds);
        match (letter.step, word) {
            (Step::Result, Word::Stored(Stored::Now)) => self.vitals.counters.inc(Count::Results),
            (Step::Result, _) => self.vitals.counters.inc(Count::DuplicateResults),
            (Step::Bury(_), _) => {
                self.vitals.counters.inc(Count::DeadLetters);
                if let Some((code, _)) = letter.refusal() {
                    self.vitals.meters.dead_lettered(&letter.envelope.origin.consumer.model, code);
                }
            }
            _ => {}
        }
    }

    /// Logs what does not fit.
    pub(super) fn too_large(&self, letter: &Letter, reason: &str) {
        let sequence = letter.envelope.origin.sequence;
        match letter.step {
            Step::Bury(keep) if keep.less().is_some() => {
                tracing::warn!(reason, sequence, ?keep, "the dead letter does not fit");
            }
            Step::Bury(_) => tracing::error!(sequence, "no dead letter was kept: not even its own headers fit"),
            Step::Result | Step::Error if letter.passes_on => {
                tracing::warn!(reason, sequence, "the answer does not fit, sent again without baggage and tracestate");
            }
            Step::Error => tracing::error!(reason, sequence, "the error result does not fit the server's max_payload"),
            Step::Result | Step::Check => {}
        }
    }

    /// Logs a refusal.
    pub(super) fn refused(&self, letter: &Letter) {
        let Some((code, message)) = letter.refusal() else { return };
        let envelope = &letter.envelope;
        self.vitals.counters.inc(Count::Refused);
        if code == ErrorCode::DeadlineExceeded {
            self.vitals.counters.inc(Count::Expired);
        }
        let (consumer, sequence) = (&*envelope.origin.consumer.name, envelope.ticket.sequence());
        within(envelope.trace.context, || {
            tracing::info!(
                name: "messaging.process.exception",
                %code, reason = message, consumer, sequence, id = envelope.id, "job refused"
            );
        });
    }

    /// Measures a job that is answered, and makes its spans.
    pub(super) fn answered(&self, letter: &mut Letter, now: Instant) {
        let envelope = &letter.envelope;
        let (consumer, took) = (&envelope.origin.consumer, now.saturating_duration_since(envelope.origin.received));
        let [process, request] = [took, envelope.in_stream + took].map(|time| time.as_secs_f64());
        match (letter.refusal(), letter.model()) {
            (None, Some(model)) => {
                model.meters.process[consumer.lane as usize].record(process);
                model.meters.request[consumer.lane as usize].record(request);
            }
            (Some((code, _)), model) => {
                let version = model.map_or("", |model| model.version.as_str());
                let whose = (&*consumer.name, &consumer.model, consumer.lane);
                self.vitals.meters.rejected(whose, version, code, [process, request]);
            }
            (None, None) => {}
        }
        self.log_if_slow(letter, took, now);
        self.trace(letter);
    }

    fn log_if_slow(&self, letter: &Letter, took: Duration, now: Instant) {
        let Some(skipped) = self.slow.admit(took, now) else { return };
        let (envelope, trail) = (&letter.envelope, &letter.trail);
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
                consumer = &*envelope.origin.consumer.name,
                version = letter.model().map_or("", |model| model.version.as_str()),
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
    fn trace(&self, letter: &mut Letter) {
        let Some(anchor) = letter.envelope.ticket.span().map(|span| span.received) else { return };
        let (envelope, model) = (&letter.envelope, letter.model());
        let refusal = letter.refusal();
        let past = spans::past(envelope, model.map(AsRef::as_ref), refusal.is_some(), anchor);
        past.into_iter().for_each(|span| self.vitals.spans.emit(span));
        let templates = &self.vitals.tracing.templates;
        let message = (&templates.results, self.names.result_id(envelope));
        self.sent(envelope, message, (letter.context, &letter.trail), None, anchor);
        if let (Some(trail), Some((code, _))) = (&letter.buried, refusal) {
            // An error result that is stored is a message well sent; a dead letter says what it is for.
            let message = (&templates.dlq, self.names.dead_letter_id(envelope));
            self.sent(envelope, message, (envelope.trace.child(), trail), Some(code.as_str()), anchor);
        }
        let marks = envelope.marks.sealed.as_ref().map(|(seal, index)| spans::batch(seal, *index));
        let version = model.map(|model| model.attributes()[1].clone());
        let refusal = refusal.map(|(code, message)| (code, message.to_owned()));
        let Some(span) = letter.envelope.ticket.span() else { return };
        span.attributes.extend(version);
        span.attributes.extend(marks.into_iter().flatten());
        if let Some((code, message)) = refusal {
            span.fail(code, &message);
        }
    }

    /// Makes the span of a message.
    fn sent(
        &self,
        envelope: &Envelope,
        (template, id): (&Arc<str>, String),
        (context, trail): (TraceContext, &Trail),
        code: Option<&'static str>,
        anchor: spans::Anchor,
    ) {
        let (interval, attempts) = (trail.interval, trail.attempts);
        let sent = Sent { context, template, id, interval, attempts, error: trail.error.as_deref(), code };
        self.vitals.spans.emit(spans::publish(envelope, &self.server, sent, anchor));
    }
}
