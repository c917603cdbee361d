//! The spans of a job below its `process` span, made when the job is over. Pure.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use gristmill_schemas::TraceContext;
use gristmill_schemas::metric::attribute;
use gristmill_telemetry::{KeyValue, Kind, Link, Span};

use crate::message::{Envelope, Marks, Seal, Served};
use crate::telemetry::{Server, destination, job_attributes, wall_time};

/// Reading a job is worth a span if it took longer, or failed.
const LONG_DECODE: Duration = Duration::from_millis(1);

/// Tells times from the same two clocks.
pub(super) type Anchor = (SystemTime, Instant);

fn child(envelope: &Envelope, name: impl Into<Cow<'static, str>>, anchor: Anchor, [from, to]: [Instant; 2]) -> Span {
    let trace = &envelope.trace;
    let interval = [wall_time(anchor, from), wall_time(anchor, to)];
    Span::new(name, trace.child(), interval).below(trace.context.span_id)
}

/// What the job went through before it came here. `failed`: it could not be read.
pub(super) fn past(envelope: &Envelope, model: Option<&Served>, failed: bool, anchor: Anchor) -> Vec<Span> {
    let Marks { decoded, queued, sealed, ran } = &envelope.marks;
    let received = envelope.origin.received;
    let mut spans = Vec::new();
    if (failed && queued.is_none()) || decoded.saturating_duration_since(received) > LONG_DECODE {
        spans.push(child(envelope, "decode", anchor, [received, *decoded]));
    }
    let Some((seal, index)) = sealed else { return spans };
    if let Some(queued) = queued {
        let lane = KeyValue::new(attribute::LANE, envelope.origin.consumer.lane.as_str());
        spans.push(child(envelope, "queue", anchor, [*queued, seal.at]).with([lane]));
    }
    if let (Some([_, ended]), Some(model)) = (ran, model) {
        let span = child(envelope, format!("infer {}", model.name), anchor, [seal.at, *ended]);
        let links = seal.trace.map(|context| Link { context, attributes: Vec::new() });
        spans.push(Span {
            links: links.into_iter().collect(),
            ..span.with(batch(seal, *index).into_iter().chain(model.attributes()))
        });
    }
    spans
}

/// Which place in which batch, for attributes.
pub(super) fn batch(seal: &Seal, index: usize) -> [KeyValue; 2] {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    [KeyValue::new("gristmill.batch.size", count(seal.jobs)), KeyValue::new("gristmill.batch.index", count(index))]
}

/// A message that was sent for a job.
pub(super) struct Sent<'a> {
    /// Its span.
    pub(super) context: TraceContext,
    /// `<namespace>.results` or `<namespace>.dlq`.
    pub(super) template: &'a Arc<str>,
    /// Its dedup id.
    pub(super) id: String,
    /// From the first attempt to the confirmation.
    pub(super) interval: [Instant; 2],
    /// More than one if attempts failed; said only then.
    pub(super) attempts: usize,
    /// Why it was not stored, if it was not; and why it was sent, for a refused job.
    pub(super) error: Option<&'a str>,
    /// Code of the refusal.
    pub(super) code: Option<&'static str>,
}

/// The span of a message that was sent.
pub(super) fn publish(envelope: &Envelope, server: &Server, sent: Sent<'_>, anchor: Anchor) -> Span {
    let Sent { context, template, id, interval, attempts, error, code } = sent;
    let span = child(envelope, format!("publish {template}"), anchor, interval).kind(Kind::Producer);
    let repeated = (attempts > 1).then(|| i64::try_from(attempts).unwrap_or(i64::MAX));
    let own = [KeyValue::new("messaging.message.id", id)];
    let span = span.with(destination(server, template).into_iter().chain(job_attributes("publish", "send")).chain(own));
    let span = span.with(repeated.map(|attempts| KeyValue::new("gristmill.publish.attempts", attempts)));
    let span = span.with(code.map(|code| KeyValue::new(attribute::ERROR, code)));
    Span { context, error: error.map(str::to_owned), ..span }
}
